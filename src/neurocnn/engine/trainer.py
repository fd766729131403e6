"""The training loop."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import pandas as pd
import torch
from torch import Tensor, nn

from neurocnn.engine.evaluation import (
    Computation,
    Network,
    network_batches,
    network_tables,
    part_rows,
    task_columns,
)
from neurocnn.engine.interruption import Interruption
from neurocnn.engine.loading import Batch, loader, watched
from neurocnn.engine.loggers import Progress
from neurocnn.engine.ranks import Ranks, find_ranks
from neurocnn.engine.records import Records
from neurocnn.engine.run import Row, Run
from neurocnn.engine.runtime import PRECISIONS, determinism, find_device
from neurocnn.engine.sampling import balancing_weights, epoch_order
from neurocnn.engine.task import Task
from neurocnn.errors import SettingError


@dataclass(frozen=True)
class Training:
    """What a training gave.

    Attributes
    ----------
    history
        A row an evaluation: ``epoch`` (from 0), ``iteration`` (updates since the beginning), ``time``
        (seconds since then), ``train_loss``, ``train_…``, ``validation_loss``, …
    best
        The state dict (on the CPU) of the best epoch by each selection: ``best["best_loss"]``.
    best_epochs
        Which epochs these were.
    stopped_at
        The last epoch.
    stopped_early
        Whether early stopping ended it.
    """

    history: pd.DataFrame
    best: Mapping[str, Mapping[str, Tensor]]
    best_epochs: Mapping[str, int]
    stopped_at: int
    stopped_early: bool


@dataclass(frozen=True)
class TrainingState:
    """What a callback gets after each evaluation.

    Attributes
    ----------
    epoch, iteration
        Where the training is: the epoch from 0, the updates since its beginning.
    metrics
        The new row of the history.
    history
        All rows.
    epoch_ended
        Whether the evaluation is that of an epoch's end.
    model, optimizer
        Those in training.
    part_id
        The network's part, where each part has its network.
    """

    epoch: int
    iteration: int
    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    epoch_ended: bool
    model: nn.Module
    optimizer: torch.optim.Optimizer
    part_id: int | None


Callback = Callable[[TrainingState], object]


@dataclass(frozen=True)
class Trainer:
    """How networks are trained.

    Parameters
    ----------
    epochs
        At most this many passes over the training set.
    batch_size
        Samples of one forward pass, over all ranks; where each part has its network, images.
    learning_rate, weight_decay
        Of Adam, the default optimizer.
    accumulation_steps
        Batches an update: its gradient is that of the mean loss over all their samples.
    evaluation_steps
        Updates between evaluations inside an epoch; 0: at its end only.
    patience, tolerance
        Stop when, during `patience` epochs, the loss at the end of an epoch never became smaller than
        best × (1 − tolerance); patience 0: never.
    sampler
        ``"random"``, or ``"weighted"``: drawn with replacement, all classes equally often.
    optimizer
        ``optimizer(parameters)`` makes another one than Adam.
    scheduler
        ``scheduler(optimizer)`` makes what changes the learning rate after each epoch.
    clip_gradient
        The greatest norm of an update's gradients.
    n_workers
        Processes that read; 0: this one does.
    device
        ``"auto"`` (a GPU where there is one) or a name of torch's.
    precision
        ``"float32"``, ``"bfloat16"`` or ``"float16"`` (mixed, the losses scaled).
    seed
        Of the order of samples, of augmentation and of dropout.
    deterministic
        Use only algorithms that give the same numbers each time; where there is none, an error names it.
    compile
        Let torch compile the network.
    checkpoint_seconds
        How often a state to go on from is written inside an epoch, where there is a folder.
    rank_seconds
        How long the ranks of a distributed training wait for one that does not answer.

    Raises
    ------
    SettingError
        A setting makes no sense.
    """

    epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    accumulation_steps: int = 1
    evaluation_steps: int = 0
    patience: int = 10
    tolerance: float = 0.0
    sampler: str = "random"
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    clip_gradient: float | None = None
    n_workers: int = 0
    device: str = "auto"
    precision: str = "float32"
    seed: int = 0
    deterministic: bool = False
    compile: bool = False
    checkpoint_seconds: float = 60
    rank_seconds: float = 1800

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingError(f"{name} is {value!r}; a whole number of at least {least} is expected")
        for name in ("learning_rate", "weight_decay", "checkpoint_seconds", "rank_seconds"):
            if not getattr(self, name) >= 0:
                raise SettingError(f"{name} is {getattr(self, name)!r}; a number of at least 0 is expected")
        if not 0 <= self.tolerance < 1:
            raise SettingError(f"tolerance is {self.tolerance!r}; a number from 0 to below 1 is expected")
        if self.clip_gradient is not None and not self.clip_gradient > 0:
            raise SettingError(
                f"clip_gradient is {self.clip_gradient!r}; a positive number or None is expected"
            )
        for name, known in {"sampler": ("random", "weighted"), "precision": tuple(PRECISIONS)}.items():
            if getattr(self, name) not in known:
                raise SettingError(
                    f"{name} is {getattr(self, name)!r}; one of {', '.join(known)} is expected"
                )

    @overload
    def fit(
        self,
        model: nn.Module,
        task: Task,
        train: Any,
        validation: Any = None,
        folder: Any = None,
        callbacks: Sequence[Callback] = (),
    ) -> Training: ...

    @overload
    def fit(
        self,
        model: Mapping[int, nn.Module],
        task: Task,
        train: Any,
        validation: Any = None,
        folder: Any = None,
        callbacks: Sequence[Callback] = (),
    ) -> dict[int, Training]: ...

    def fit(
        self,
        model: nn.Module | Mapping[int, nn.Module],
        task: Task,
        train: Any,
        validation: Any = None,
        folder: Any = None,
        callbacks: Sequence[Callback] = (),
    ) -> Any:
        """Train a network, or one network for each part in one pass over the images.

        Parameters
        ----------
        model
            The network, trained in place: afterwards it holds its last weights. A mapping from part_id to
            network trains each on the rows of its part, and each ends as it would alone.
        task
            What to train.
        train, validation
            Datasets whose items are dicts. Without `validation`, the training loss selects and stops.
        folder
            Gets ``training.tsv``, ``models/``, ``tensorboard_logs/`` and ``state/``. If a training was begun
            there, it goes on from its last state; if it was finished, its result is given again.
        callbacks
            Each is called with a `TrainingState` after each evaluation.

        Returns
        -------
        Training
            For a mapping, one by part_id.

        Raises
        ------
        TrainingError
            The loss became NaN, memory ran out, a worker or a rank died.
        SettingError
            What was begun in `folder` had other settings, networks or data.
        InUseError
            Another process trains in `folder`.

        Examples
        --------
        >>> from neurocnn.engine import classification
        >>> def item(i):
        ...     return {"image": torch.full((1, 4, 4), float(i % 2)), "label": ["CN", "AD"][i % 2],
        ...             "participant_id": f"sub-{i}", "session_id": "ses-M00", "part_id": 0}
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> trainer = Trainer(epochs=2, learning_rate=0.1, device="cpu")
        >>> training = trainer.fit(model, classification(), [item(i) for i in range(8)])
        >>> float(training.history.train_balanced_accuracy.iloc[-1])
        1.0
        """
        networks: dict[Network, nn.Module] = {**model} if isinstance(model, Mapping) else {None: model}
        loop = Loop(self, task, train, validation, folder, callbacks)
        trainings = loop.train(networks)
        return trainings if isinstance(model, Mapping) else trainings[None]


_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "accumulation_steps": 1,
    "evaluation_steps": 0,
    "patience": 0,
    "n_workers": 0,
    "seed": 0,
}


class Loop:
    """A training while it runs: networks side by side, each batch's rows given to the network of their
    part."""

    def __init__(
        self,
        trainer: Trainer,
        task: Task,
        train: Any,
        validation: Any,
        folder: Any,
        callbacks: Sequence[Callback],
    ) -> None:
        self.trainer, self.task, self.callbacks = trainer, task, callbacks
        self.train_set = train.with_seed(trainer.seed) if hasattr(train, "with_seed") else train
        self.sets = {"train": train} | ({} if validation is None else {"validation": validation})
        for name, dataset in self.sets.items():
            if len(dataset) == 0:
                raise SettingError(f"the {name} set is empty")
        self.ranks: Ranks = find_ranks(trainer.rank_seconds)
        self.device = find_device(trainer.device, self.ranks.local)
        self.folder = None if folder is None else Path(folder)
        self.interruption = Interruption()
        self.computation = Computation(
            trainer.batch_size, trainer.n_workers, self.device, trainer.precision, trainer.seed, self.ranks
        )

    def train(self, networks: Mapping[Network, nn.Module]) -> dict[Network, Training]:
        """Train networks until each has stopped."""
        trainer = self.trainer
        with ExitStack() as stack:
            stack.enter_context(determinism(trainer.deterministic))
            runs = [
                Run(model, trainer, self.task, part, self.device, self.ranks)
                for part, model in networks.items()
            ]
            self.records = Records(self.folder, self.ranks, runs, stack)
            stack.enter_context(self.interruption.watched())
            self.began = time.monotonic()
            while active := [run for run in runs if not run.finished()]:
                epoch = min(run.epoch for run in active)
                self.train_epoch(epoch, [run for run in active if run.epoch == epoch])
        return {run.part: self.result(run) for run in runs}

    def train_epoch(self, epoch: int, runs: list[Run]) -> None:
        """Train the networks that are in this epoch, from the update that each has come to."""
        size, steps = self.trainer.batch_size, self.trainer.accumulation_steps
        batches = network_batches(self.train_set, [run.part for run in runs], size)
        batches.order = self.order(len(batches.order), epoch)
        batches.epoch = epoch
        n_units, n_batches = len(batches.order), len(batches)
        n_updates = -(-n_batches // steps)
        start = min(run.updates for run in runs)
        batches.first = start * steps
        batches.rank, batches.world = self.ranks.rank, self.ranks.world
        source = iter(self.loaded(batches))
        for update in range(start, n_updates + 1):
            self.evaluate_if_due(runs, update, ended=update == n_updates)
            if update == n_updates:
                break
            ready = [run for run in runs if run.updates == update]
            numbers = range(update * steps, min((update + 1) * steps, n_batches))
            n_window = min((update + 1) * steps * size, n_units) - update * steps * size
            for number in numbers:
                batch = next(source)
                n_batch = min(size, n_units - number * size)
                for run in ready:
                    run.accumulate(
                        part_rows(batch, run.part),
                        n_window,
                        empty=self.ranks.rank >= n_batch,
                        last=number == numbers[-1],
                    )
            for run in ready:
                run.update()
            self.records.save_if_due(self.trainer.checkpoint_seconds)
            self.leave_if_asked()
        for run in runs:
            better = run.end_epoch()
            self.records.save_epoch(run, better)

    def loaded(self, batches: Any) -> Iterator[Batch]:
        """Give the batches of an epoch."""
        return watched(
            loader(
                self.train_set,
                batches,
                seed=self.trainer.seed,
                n_workers=self.trainer.n_workers,
                pinned=self.device.type == "cuda",
            )
        )

    def order(self, n_units: int, epoch: int) -> list[int]:
        """Give the order of samples, or images, in an epoch."""
        weights = None
        if self.trainer.sampler == "weighted":
            weights = balancing_weights(self.unit_classes(n_units))
        return epoch_order(n_units, self.trainer.seed, epoch, weights)

    def unit_classes(self, n_units: int) -> list[int]:
        """Give the class of each unit."""
        raise SettingError("not yet")

    def evaluate_if_due(self, runs: list[Run], update: int, ended: bool) -> None:
        """Evaluate the networks that have come to this update, where it is time and has not been done."""
        every = self.trainer.evaluation_steps
        due = ended or (every > 0 and update > 0 and update % every == 0)
        these = [
            run
            for run in runs
            if run.updates == update and not (run.history and run.history[-1]["iteration"] == run.iteration)
        ]
        if not due or not these:
            return
        rows: dict[Network, Row] = {
            run.part: {"epoch": run.epoch, "iteration": run.iteration, "time": 0.0} for run in these
        }
        models = {run.part: run.model for run in these}
        for name, dataset in self.sets.items():
            tables = network_tables(
                models, dataset, self.computation, task_columns(self.task, self.computation)
            )
            for part, table in tables.items():
                metrics = self.task.metrics(table)
                rows[part] |= {f"{name}_{metric}": value for metric, value in metrics.items()}
        for run in these:
            rows[run.part]["time"] = run.seconds + time.monotonic() - self.began
            run.history.append(rows[run.part])
            for callback in self.callbacks:
                callback(
                    TrainingState(
                        run.epoch,
                        run.iteration,
                        rows[run.part],
                        run.history,
                        ended,
                        run.model,
                        run.optimizer,
                        run.part,
                    )
                )

    def leave_if_asked(self) -> None:
        """End the training where a signal asked for it, with a state to go on from."""
        if self.interruption.signal:
            self.records.save()
            self.interruption.leave()

    def result(self, run: Run) -> Training:
        """Give what a network's training gave."""
        return Training(
            history=pd.DataFrame(run.history),
            best=self.records.best(run),
            best_epochs=dict(run.best_epochs),
            stopped_at=run.epoch - 1,
            stopped_early=run.stopped,
        )

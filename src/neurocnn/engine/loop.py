"""The training loop.

Networks are trained side by side; each batch's rows go to the network of their part. A single network is
the case of one. The states from which a killed training goes on are written between two updates, never
inside: `train_epoch` begins at any update, and an evaluation that was due there and has not been done comes
first.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from neurocnn.engine.batch import Batch, Network, part_rows
from neurocnn.engine.evaluation import task_measure
from neurocnn.engine.faults import translate_errors
from neurocnn.engine.inference import Computation, network_batches, network_tables
from neurocnn.engine.inputs import check_classes, check_sets, fingerprint, unit_classes
from neurocnn.engine.interruption import Interruption
from neurocnn.engine.loggers import Progress
from neurocnn.engine.ranks import find_ranks
from neurocnn.engine.records import NetworkFiles
from neurocnn.engine.run import Row, Run
from neurocnn.engine.runtime import determinism, find_device
from neurocnn.engine.sampling import Plan, balancing_weights, epoch_order
from neurocnn.engine.task import Task
from neurocnn.engine.workers import catch_worker_death, loader
from neurocnn.errors import CheckpointError, SettingError, TableError, TrainingError


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

    def __repr__(self) -> str:
        best = ", ".join(f"{name} in epoch {epoch}" for name, epoch in self.best_epochs.items())
        early = ", stopped early" if self.stopped_early else ""
        return f"<training of {self.stopped_at + 1} epochs{early}: {best or 'no best'}>"


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


class Loop:
    """A training while it runs.

    Parameters
    ----------
    trainer
        The settings.
    task, train, validation, folder, callbacks
        As for `Trainer.fit`.
    """

    def __init__(
        self,
        trainer: Any,
        task: Task,
        train: Any,
        validation: Any,
        folder: Any,
        callbacks: Sequence[Callback],
    ) -> None:
        self.trainer, self.task, self.callbacks = trainer, task, callbacks
        self.folder = None if folder is None else Path(folder)
        self.sets = {"train": train} | ({} if validation is None else {"validation": validation})
        check_sets(task, self.sets, trainer.sampler)
        self.ranks = find_ranks(trainer.rank_seconds)
        self.device = find_device(trainer.device, self.ranks.local)
        self.computation = Computation(
            trainer.batch_size, trainer.n_workers, self.device, trainer.precision, trainer.seed, self.ranks
        )
        self.interruption = Interruption()
        self.unit_weights: list[float] | None = None

    def train(self, networks: Mapping[Network, nn.Module]) -> dict[Network, Training]:
        """Train networks until each has stopped."""
        trainer = self.trainer
        runs = [
            Run(model, trainer, self.task, part, self.device, self.ranks) for part, model in networks.items()
        ]
        with ExitStack() as stack:
            for run in runs:
                stack.callback(run.release)
            self.records = self.open_records(runs, stack)
            self.open_loader([run.part for run in runs])
            stack.enter_context(determinism(trainer.deterministic))
            stack.enter_context(translate_errors(self.device, trainer.batch_size, trainer.accumulation_steps))
            stack.enter_context(self.interruption.catch_signals())
            self.progress = stack.enter_context(Progress(trainer.epochs, self.ranks.rank == 0))
            while active := [run for run in runs if not run.finished()]:
                epoch = min(run.epoch for run in active)
                self.train_epoch(epoch, [run for run in active if run.epoch == epoch])
        # The best states are read from files that rank 0 may still be writing.
        self.ranks.barrier("at the end of the training")
        [self.interruption.signal] = self.ranks.all_reduce_max(self.interruption.signal)
        if self.interruption.signal:
            # It came after the last batch. All is saved, but what comes after this training must not begin.
            self.interruption.leave()
        return {run.part: self.result(run) for run in runs}

    def train_epoch(self, epoch: int, runs: list[Run]) -> None:
        """Train the networks that are in this epoch, each from the update that it has come to."""
        self.active = runs
        plan = self.begin_epoch(epoch, min(run.updates for run in runs))
        with catch_worker_death(self.source) as source:
            for update in range(plan.start, plan.n_updates + 1):
                ready = [run for run in runs if run.updates == update]
                ended = update == plan.n_updates
                if ended or self.is_due(update):
                    self.evaluate([run for run in ready if not run.is_evaluated()], ended)
                if not ended:
                    self.update(ready, plan.window(update), source)
                    self.save_if_due()
        better = {run.part: run.end_epoch() for run in runs}
        self.save()
        for run in runs:
            self.records[run.part].save_best(better[run.part])
        self.progress.ended(epoch, {run.part: run.history[-1] for run in runs})

    def update(self, runs: list[Run], sizes: list[int], source: Iterator[Batch]) -> None:
        """Go through the batches of a window, of these sizes, and update each network once."""
        for number, size in enumerate(sizes):
            batch = next(source)
            self.ranks.barrier("for a batch")
            for run in runs:
                run.accumulate(
                    part_rows(batch, run.part),
                    n_window=sum(sizes),
                    empty=self.ranks.rank >= size,
                    last=number == len(sizes) - 1,
                )
        losses = [run.update() for run in runs]
        self.progress.stepped(sum(losses) / max(1, len(losses)))

    def is_due(self, update: int) -> bool:
        """Whether an evaluation is to be made after this many updates of an epoch."""
        every: int = self.trainer.evaluation_steps
        return every > 0 and update > 0 and update % every == 0

    def evaluate(self, runs: list[Run], ended: bool) -> None:
        """Add a row to the history of these networks: all samples of both sets, each once."""
        if not runs:
            return
        try:
            metrics = self.scores(runs)
            for run in runs:
                run.check_selection(metrics[run.part])
        except (SettingError, TableError):
            for run in runs:
                self.records[run.part].discard_checkpoint()
            raise
        if not self.has_saved:
            # A table without a state could not be gone on with. Before it there is nothing worth keeping: a
            # training that fails at once can be begun again there with other settings.
            self.save()
        for run in runs:
            where: Row = {"epoch": run.epoch, "iteration": run.iteration, "time": run.seconds()}
            run.history.append(where | metrics[run.part])
            self.records[run.part].write_evaluation()
            self.call(run, ended)

    def scores(self, runs: list[Run]) -> dict[Network, dict[str, float]]:
        """Measure these networks on both sets."""
        for run in runs:
            run.share_buffers()
        models = {run.part: run.model for run in runs}
        measure = task_measure(self.task, self.computation)
        metrics: dict[Network, dict[str, float]] = {run.part: {} for run in runs}
        for name, dataset in self.sets.items():
            tables = network_tables(
                models, dataset, self.computation, measure, self.exit_if_signalled, seed=self.trainer.seed
            )
            for run in runs:
                table = tables[run.part]
                if name == "train" and not run.history and self.task.classes:
                    check_classes(self.task, table["true_label"])
                scores = self.task.metrics(table)
                metrics[run.part] |= {f"{name}_{metric}": float(score) for metric, score in scores.items()}
        return metrics

    def call(self, run: Run, ended: bool) -> None:
        """Tell the callbacks of an evaluation."""
        state = TrainingState(
            run.epoch, run.iteration, run.history[-1], run.history, ended, run.model, run.optimizer, run.part
        )
        for callback in self.callbacks:
            callback(state)

    def open_loader(self, parts: list[Network]) -> None:
        """Make the loader of the training set; `begin_epoch` gives its batches their order."""
        train = self.sets["train"]
        dataset = train.with_seed(self.trainer.seed) if hasattr(train, "with_seed") else train
        self.batches = network_batches(dataset, parts, self.trainer.batch_size)
        self.batches.rank, self.batches.world = self.ranks.rank, self.ranks.world
        self.source = loader(
            dataset,
            self.batches,
            seed=self.trainer.seed,
            n_workers=self.trainer.n_workers,
            pinned=self.device.type == "cuda",
            persistent=True,
        )

    def begin_epoch(self, epoch: int, start: int) -> Plan:
        """Put the samples, or images, of an epoch in order."""
        trainer, batches = self.trainer, self.batches
        n_units = len(batches.order)
        if trainer.sampler == "weighted" and self.unit_weights is None:
            self.unit_weights = balancing_weights(unit_classes(self.task, self.sets["train"], n_units))
        plan = Plan(n_units, trainer.batch_size, trainer.accumulation_steps, start)
        batches.order = epoch_order(n_units, trainer.seed, epoch, self.unit_weights)
        batches.epoch, batches.first = epoch, start * trainer.accumulation_steps
        parts = [run.part for run in self.active]
        batches.positions = network_batches(self.sets["train"], parts, trainer.batch_size).positions
        self.progress.at(epoch, start, plan.n_updates)
        return plan

    def open_records(self, runs: list[Run], stack: ExitStack) -> dict[Network, NetworkFiles]:
        """Take up the states that a training before this one has left."""
        records = {}
        for run in runs:
            settings = fingerprint(self.trainer, self.task, run.model, self.sets, run.part)
            record = records[run.part] = NetworkFiles(self.folder, run, settings, writes=self.ranks.rank == 0)
            stack.enter_context(record.held())
            stack.callback(record.close)
            record.read()
        positions = self.ranks.gather([(run.epoch, run.updates) for run in runs], "to go on together")
        if any(position != positions[0] for position in positions):
            raise CheckpointError(
                f"{self.folder}: the ranks found different states there ({positions}, as epoch and update of each "
                "network); all ranks must see the same folder"
            )
        for record in records.values():
            record.begin()
        self.saved, self.has_saved = time.monotonic(), False
        return records

    def gather_randoms(self, runs: list[Run]) -> dict[Network, list[dict[str, Any]]]:
        """Give the random states of all ranks, for each network."""
        ranks = self.ranks.gather([run.random.state() for run in runs], "to write a state")
        return {run.part: [states[k] for states in ranks] for k, run in enumerate(runs)}

    def save(self) -> None:
        """Write the states of the networks in training."""
        if self.folder is not None:
            randoms = self.gather_randoms(self.active)
            for run in self.active:
                run.share_buffers()
                self.records[run.part].save(randoms[run.part])
        self.saved, self.has_saved = time.monotonic(), True

    def save_if_due(self) -> None:
        """Write states where the last are old, or where this process is asked to end."""
        due = time.monotonic() - self.saved >= self.trainer.checkpoint_seconds
        due_anywhere, self.interruption.signal = self.ranks.all_reduce_max(due, self.interruption.signal)
        if self.interruption.signal:
            self.save()
            self.interruption.leave()
        elif due_anywhere:
            self.save()

    def exit_if_signalled(self) -> None:
        """End the training inside an evaluation; ranks do so together, after their next update."""
        if self.interruption.signal and self.ranks.world == 1:
            self.save()
            self.interruption.leave()

    def result(self, run: Run) -> Training:
        """Give what a network's training gave.

        Raises
        ------
        TrainingError
            By one of the selections no epoch was the best.
        """
        absent = [name for name in self.task.selection if f"best_{name}" not in run.best_epochs]
        if absent:
            raise TrainingError(
                f"no epoch is the best by {', '.join(absent)}: it was NaN or infinite at the end of each; look at "
                "the images and labels of the validation set, or lower learning_rate"
            )
        return Training(
            history=pd.DataFrame(run.history),
            best=self.records[run.part].best(),
            best_epochs=dict(run.best_epochs),
            stopped_at=run.epoch - 1,
            stopped_early=run.stopped,
        )

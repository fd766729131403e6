"""How networks are trained: the settings, and `fit`. The loop itself is in `loop.py`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from neurocnn.engine.batch import Network
from neurocnn.engine.loop import Callback, Loop, Training
from neurocnn.engine.runtime import PRECISIONS
from neurocnn.engine.task import Task
from neurocnn.errors import SettingError
from neurocnn.storage.tensors import plain


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
        for name, value in list(vars(self).items()):
            # Numbers of numpy and torch are none that a state can keep.
            single = isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0
            object.__setattr__(self, name, value.item() if single else plain(value))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not (_is_number(value) and isinstance(value, int) and value >= least):
                raise SettingError(f"{name} is {value!r}; a whole number of at least {least} is expected")
        for name in ("learning_rate", "weight_decay", "checkpoint_seconds", "rank_seconds"):
            if not (_is_number(getattr(self, name)) and getattr(self, name) >= 0):
                raise SettingError(f"{name} is {getattr(self, name)!r}; a number of at least 0 is expected")
        if not (_is_number(self.tolerance) and 0 <= self.tolerance < 1):
            raise SettingError(f"tolerance is {self.tolerance!r}; a number from 0 to below 1 is expected")
        clip = self.clip_gradient
        if clip is not None and not (_is_number(clip) and clip > 0):
            raise SettingError(f"clip_gradient is {clip!r}; a positive number or None is expected")
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
        LeakError
            A participant is in both sets.
        TableError
            Labels are missing or unknown, or the training set has a single class.

        Examples
        --------
        >>> from neurocnn.engine import classification
        >>> def item(i):
        ...     return {"image": torch.full((1, 4, 4), float(i % 2)), "label": ["CN", "AD"][i % 2],
        ...             "participant_id": f"sub-{i}", "session_id": "ses-M00", "part_id": 0}
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> trainer = Trainer(epochs=20, learning_rate=0.1, device="cpu")
        >>> training = trainer.fit(model, classification(), [item(i) for i in range(8)])
        >>> float(training.history.train_balanced_accuracy.iloc[-1])
        1.0
        """
        networks: dict[Network, nn.Module] = (
            dict(model.items()) if isinstance(model, Mapping) else {None: model}
        )
        loop = Loop(self, task, train, validation, folder, callbacks)
        trainings = loop.train(networks)
        return trainings if isinstance(model, Mapping) else trainings[None]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "accumulation_steps": 1,
    "evaluation_steps": 0,
    "patience": 0,
    "n_workers": 0,
    "seed": 0,
}

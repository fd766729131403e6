"""Settings of `Trainer`, with checks of their values."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from neurocnn.engine.loading import check_workers
from neurocnn.engine.runtime import PRECISIONS
from neurocnn.engine.transfers import check_resident
from neurocnn.errors.arguments import (
    argument_error,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_text,
)
from neurocnn.storage.tensors import plain

#: Scheduler whose ``step()`` is called after each epoch (for `ReduceLROnPlateau` with the loss) or update.
Scheduler = torch.optim.lr_scheduler.LRScheduler

_FREE: dict[str, str | int] = {"resume": "free"}
_MINIMA = {
    "epochs": 1,
    "batch_size": 1,
    "accumulation_steps": 1,
    "evaluation_steps": 0,
    "patience": 0,
    "seed": 0,
}
_OPTIMIZER = "a function of the parameters that returns an optimizer, such as torch.optim.SGD"
_SCHEDULER = "a function of the optimizer that returns a scheduler, such as torch.optim.lr_scheduler.StepLR"


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Fields of `Trainer`, which documents them. For the metadata ``resume``, see `settings_fingerprint`."""

    epochs: int = field(default=20, metadata={"resume": "grow"})
    batch_size: int = 8
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    accumulation_steps: int = 1
    evaluation_steps: int = 0
    evaluate_train: str = "epoch"
    patience: int = 10
    tolerance: float = 0.0
    stopping_metric: str = "loss"
    sampler: str = "random"
    optimizer: Callable[..., torch.optim.Optimizer] | None = None
    scheduler: Callable[[torch.optim.Optimizer], Scheduler] | None = None
    scheduler_step: str = "epoch"
    clip_gradient: float | None = None
    n_workers: int | str = field(default="auto", metadata=_FREE | {"before": 0})
    device: str = field(default="auto", metadata=_FREE)
    precision: str = "float32"
    seed: int = 0
    deterministic: bool = False
    compile: bool = False
    resident: bool | str = field(default=False, metadata=_FREE)
    checkpoint_seconds: float = field(default=60, metadata=_FREE)
    rank_seconds: float = field(default=1800, metadata=_FREE)

    def __post_init__(self) -> None:
        where = "Trainer"
        for name, value in list(vars(self).items()):
            # Checkpoints need plain numbers, not array scalars.
            single = isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0
            object.__setattr__(self, name, value.item() if single else plain(value))
        for name, minimum in _MINIMA.items():
            check_integer(name, getattr(self, name), minimum=minimum, where=where)
        object.__setattr__(self, "n_workers", check_workers("n_workers", self.n_workers, where=where))
        for name in ("learning_rate", "weight_decay", "checkpoint_seconds", "rank_seconds"):
            check_number(name, getattr(self, name), minimum=0, where=where)
        check_number("tolerance", self.tolerance, minimum=0, below=1, where=where)
        if self.clip_gradient is not None:
            check_number("clip_gradient", self.clip_gradient, above=0, where=where)
        check_choice("sampler", self.sampler, ("random", "weighted"), where=where)
        check_choice("evaluate_train", self.evaluate_train, ("epoch", "end"), where=where)
        check_choice("precision", self.precision, tuple(PRECISIONS), where=where)
        check_choice("scheduler_step", self.scheduler_step, ("epoch", "update"), where=where)
        check_resident(self.resident, where=where)
        check_text("stopping_metric", self.stopping_metric, expected="a metric such as 'loss'", where=where)
        check_text("device", self.device, expected="'auto' or a device name such as 'cuda:1'", where=where)
        for name in ("deterministic", "compile"):
            check_flag(name, getattr(self, name), where=where)
        for name, expected in (("optimizer", _OPTIMIZER), ("scheduler", _SCHEDULER)):
            value = getattr(self, name)
            if value is not None and (not callable(value) or isinstance(value, nn.Module)):
                raise argument_error(name, value, expected, where=where)


def scored_sets(settings: TrainingSettings) -> tuple[str, ...]:
    """Return the names of the sets that each evaluation includes. The validation set may be missing."""
    return ("validation",) if settings.evaluate_train == "end" else ("train", "validation")

"""Result of a training, and argument of its callbacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from neurocnn.engine.batch import Network


@dataclass(frozen=True)
class Training:
    """Result of a training.

    Attributes
    ----------
    history
        Table with one row per evaluation: ``epoch`` (from 0), ``iteration`` (number of updates), ``time`` (seconds
        since the start), ``train_loss``, ``train_…``, ``validation_loss``, …
    best
        State dict (on the CPU) of the best epoch of each selection: ``best["best_loss"]``.
    best_epochs
        Best epoch by each selection metric.
    stopped_at
        Last epoch of the training.
    stopped_early
        Whether early stopping ended the training.
    predictions
        Tables of the best epochs as `evaluate` returns them, by selection and set, read from the folder of the
        training. They are missing without a folder, or if an earlier version wrote it.
    """

    history: pd.DataFrame
    best: Mapping[str, Mapping[str, Tensor]]
    best_epochs: Mapping[str, int]
    stopped_at: int
    stopped_early: bool
    predictions: Mapping[str, Mapping[str, pd.DataFrame]]

    def __repr__(self) -> str:
        best = ", ".join(f"{name} in epoch {epoch}" for name, epoch in self.best_epochs.items())
        early = ", stopped early" if self.stopped_early else ""
        return f"<training of {self.stopped_at + 1} epochs{early}: {best or 'no best'}>"


@dataclass(frozen=True)
class TrainingState:
    """Argument of a callback: the training after an evaluation.

    Attributes
    ----------
    epoch, iteration
        Epoch from 0, and number of updates.
    metrics
        New row of the history.
    history
        Rows of the history so far.
    epoch_ended
        Whether the evaluation is at the end of an epoch.
    model, optimizer
        Network and optimizer in training.
    part_id
        Part of the network, if each part has its own network; else None.
    """

    epoch: int
    iteration: int
    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    epoch_ended: bool
    model: nn.Module
    optimizer: torch.optim.Optimizer
    part_id: Network


#: Callable that receives a `TrainingState` after each evaluation. Its return value is ignored.
Callback = Callable[[TrainingState], object]

"""Result of `Trainer.fit`, and argument of its callbacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from neurocnn.engine.batch import Network


@dataclass(frozen=True)
class Training:
    """Result of `Trainer.fit`.

    Attributes
    ----------
    history
        Table with one row per evaluation: ``epoch`` (from 0), ``iteration`` (number of updates), ``time`` (seconds
        since the start), ``train_loss``, ``train_…``, ``validation_loss``, …
    best
        State dict (on the CPU) of the best epoch of each selection: ``best["best_loss"]``.
    best_epochs
        Best epoch of each selection: ``best_epochs["best_loss"]``.
    stopped_at
        Last epoch that was trained.
    stopped_early
        Whether early stopping ended the training.
    predictions
        Tables of the best epochs, as `evaluate` returns them, by selection and set. They are read from the folder that
        was passed to `fit`. The mapping is empty without a folder, or if an earlier version of neurocnn wrote the
        folder.

    Examples
    --------
    >>> import neurocnn as nc
    >>> items = [{"image": torch.full((1, 4, 4), i / 4), "label": i, "participant_id": f"sub-{i}",
    ...           "session_id": "ses-M00", "part_id": 0} for i in range(4)]
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    >>> training = nc.Trainer(epochs=2, device="cpu").fit(model, nc.regression("age"), items)
    >>> training
    <training of 2 epochs: best_loss in epoch 1>
    >>> training.history.columns.tolist()
    ['epoch', 'iteration', 'time', 'train_loss', 'train_mae', 'train_rmse', 'train_r2']
    >>> model.load_state_dict(training.best["best_loss"])
    <All keys matched successfully>
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
    """Argument of a callback: the state of training after an evaluation.

    Attributes
    ----------
    epoch, iteration
        Epoch from 0, and number of updates.
    metrics
        Row that the evaluation added to the history.
    history
        Rows of the history so far.
    epoch_ended
        Whether the evaluation is at the end of an epoch.
    model, optimizer
        Network and optimizer in training.
    part_id
        Part of the network, if each part has its own network; else None.
    folder
        Folder that was passed to `fit` (``fold-<split>`` in an experiment); None if no files are written.
    split
        Index of the split in an experiment, otherwise None.

    Examples
    --------
    >>> import neurocnn as nc
    >>> items = [{"image": torch.full((1, 4, 4), i / 4), "label": i, "participant_id": f"sub-{i}",
    ...           "session_id": "ses-M00", "part_id": 0} for i in range(4)]
    >>> def print_epoch(state):
    ...     print(state.epoch, state.iteration, sorted(state.metrics)[:2])
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    >>> trainer = nc.Trainer(epochs=2, batch_size=2, device="cpu")
    >>> _ = trainer.fit(model, nc.regression("age"), items, callbacks=[print_epoch])
    0 2 ['epoch', 'iteration']
    1 4 ['epoch', 'iteration']
    """

    epoch: int
    iteration: int
    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    epoch_ended: bool
    model: nn.Module
    optimizer: torch.optim.Optimizer
    part_id: Network
    folder: Path | None = None
    split: int | None = None


#: Callable that receives a `TrainingState` after each evaluation. Its return value is ignored.
Callback = Callable[[TrainingState], object]

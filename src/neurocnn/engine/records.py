"""What a training leaves in its folder."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from neurocnn.engine.checkpoint import BestStates, StateFiles
from neurocnn.engine.loggers import write_history
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.run import Run
from neurocnn.files import save_tensors


class Records:
    """The files of all networks of a training; without a folder, the best states in memory."""

    def __init__(self, folder: Path | None, ranks: Ranks, runs: list[Run], stack: ExitStack) -> None:
        self.folder, self.ranks, self.runs = folder, ranks, runs
        self.states: dict[Any, StateFiles] = {}
        self.saved = time.monotonic()

    def save_if_due(self, seconds: float) -> None:
        """Write a state if the last is old."""

    def save(self) -> None:
        """Write states."""

    def save_epoch(self, run: Run, better: list[str]) -> None:
        """Write the state of an epoch's end, then the best states."""
        if self.folder is None:
            for selection in better:
                run.best_weights[selection] = run.weights()
            return
        below = "" if run.part is None else f"cnn-{run.part}"
        for selection in better:
            content = {
                "model": run.weights(),
                "epoch": run.best_epochs[selection],
                "name": type(run.model).__name__,
            }
            save_tensors(content, self.folder / "models" / below / selection / "model_best.pth.tar")
        models = self.folder if run.part is None else self.folder / "models" / below
        write_history(run.history, models / "training.tsv")

    def best(self, run: Run) -> Mapping[str, Mapping[str, Tensor]]:
        """Give the best states."""
        if self.folder is None:
            return run.best_weights
        below = "" if run.part is None else f"cnn-{run.part}"
        models = self.folder / "models" / below
        return BestStates({name: models / name / "model_best.pth.tar" for name in run.best_epochs})

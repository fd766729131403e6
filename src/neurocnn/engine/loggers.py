"""Progress and history of a training: a table, tensorboard's events, a progress bar or log lines."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neurocnn.errors import StorageError
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.files import write_whole

Row = dict[str, Any]
SETS = ("train", "validation")


def write_history(history: Sequence[Row], path: Path) -> None:
    """Write the table of a training's evaluations."""
    with write_whole(path, "w") as file:
        pd.DataFrame(history).to_csv(file, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


class Events:
    """Tensorboard's logs of one network: a folder per set, a value per evaluation and metric.

    On resume they are rewritten from the history, so that nothing is logged twice.

    Parameters
    ----------
    folder
        Parent of the folders ``train`` and ``validation``.
    history
        Evaluations before the resume.
    started
        Start of the training in seconds since 1970; events are dated by their ``time`` after it.

    Raises
    ------
    StorageError
        If the disk is full or the folder read-only; the error contains the path.
    """

    def __init__(self, folder: Path, history: Sequence[Row], started: float) -> None:
        self.folder, self.started = folder, started
        self.writers: dict[str, Any] = {}
        earlier = [path for name in SETS for path in (folder / name).glob("events.out.tfevents.*")]
        for row in history:
            self.add(row)
        for path in earlier:
            path.unlink()

    def add(self, row: Row) -> None:
        """Log an evaluation."""
        for name in SETS:
            prefix = f"{name}_"
            metrics = {
                key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)
            }
            if metrics:
                self._write(name, metrics, int(row["iteration"]), self.started + float(row["time"]))

    def _write(self, name: str, metrics: Mapping[str, float], step: int, when: float) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            if name not in self.writers:
                self.writers[name] = SummaryWriter(str(self.folder / name))
            for tag, value in metrics.items():
                self.writers[name].add_scalar(tag, value, step, walltime=when)
            # The writer has a thread of its own, whose errors are raised here.
            self.writers[name].flush()
        except OSError as error:
            path = str(self.folder / name)
            raise StorageError(error.errno, f"cannot write: {error.strerror}", path) from error

    def close(self) -> None:
        """Close the files. Every row was flushed before, so that an error here loses nothing."""
        for writer in self.writers.values():
            try:
                writer.close()
            except OSError as error:
                LOGGER.warning("%s: closing the tensorboard logs failed: %s", self.folder, error)


class Progress:
    """Progress of a training: a bar over all updates in a terminal, elsewhere a log line per epoch.

    Parameters
    ----------
    epochs
        Largest number of epochs.
    shown
        Whether this rank shows progress.
    """

    def __init__(self, epochs: int, shown: bool = True) -> None:
        self.epochs, self.shown = epochs, shown
        self.bar: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def set_position(self, epoch: int, update: int, n_updates: int) -> None:
        """Show the epoch; the bar begins at the position of a resume."""
        if self.bar is None and self.shown and sys.stderr.isatty():
            from tqdm import tqdm

            done = epoch * n_updates + update
            self.bar = tqdm(
                total=self.epochs * n_updates, initial=done, unit="update", dynamic_ncols=True, leave=True
            )
        if self.bar is not None:
            self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}")

    def add_update(self, loss: float) -> None:
        """Count an update."""
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            self.bar.update()

    def end_epoch(self, epoch: int, rows: Mapping[int | None, Row]) -> None:
        """Log the losses at the end of an epoch."""
        if not self.shown or self.bar is not None:
            return
        for part, row in rows.items():
            network = "" if part is None else f", network {part}"
            losses = ", ".join(f"{name} {row[f'{name}_loss']:.6g}" for name in SETS if f"{name}_loss" in row)
            LOGGER.info(
                "epoch %d/%d%s: loss %s (%.1f s)", epoch + 1, self.epochs, network, losses, row["time"]
            )

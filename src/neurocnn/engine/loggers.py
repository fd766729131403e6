"""Progress and history of a training: a table, tensorboard's events, a progress bar or log lines."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from time import monotonic
from typing import Any

import pandas as pd

from neurocnn.errors import StorageError
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.files import write_whole

Row = dict[str, Any]


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
        Parent of a folder per set.
    sets
        Names of the sets that are evaluated.
    history
        Evaluations before the resume.
    started
        Start of the training in seconds since 1970; events are dated by their ``time`` after it.

    Raises
    ------
    StorageError
        If the disk is full or the folder read-only; the error contains the path.
    """

    def __init__(self, folder: Path, sets: Sequence[str], history: Sequence[Row], started: float) -> None:
        self.folder, self.sets, self.started = folder, sets, started
        self.writers: dict[str, Any] = {}
        earlier = [path for name in sets for path in (folder / name).glob("events.out.tfevents.*")]
        for row in history:
            self.add(row)
        for path in earlier:
            path.unlink()

    def add(self, row: Row) -> None:
        """Log an evaluation."""
        for name in self.sets:
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


#: What `show_progress` has set: whether progress is shown, and the text in front of it. None: lines are only logged.
_SHOWN: ContextVar[tuple[bool, str] | None] = ContextVar("_SHOWN", default=None)


@contextmanager
def show_progress(shown: bool, prefix: str = "") -> Iterator[None]:
    """Show the progress of the trainings in this block on the standard error, after a prefix, or be silent."""
    token = _SHOWN.set((shown, prefix))
    try:
        yield
    finally:
        _SHOWN.reset(token)


def shows_bars() -> bool:
    """Return whether progress is a bar: in a terminal and in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return sys.stderr.isatty() or "IPKernelApp" in getattr(shell, "config", ())


class Progress:
    """Progress of a training: a bar over all updates in a terminal or notebook, elsewhere a line per epoch.

    Parameters
    ----------
    epochs
        Largest number of epochs.
    sets
        Names of the sets that are evaluated.
    shown
        Whether this rank shows progress.
    """

    def __init__(self, epochs: int, sets: Sequence[str], shown: bool = True) -> None:
        # Without `show_progress`, lines are logged and not written.
        wanted, self.prefix = _SHOWN.get() or (None, "")
        self.epochs, self.sets = epochs, sets
        self.shown, self.writes = shown and wanted is not False, wanted is True
        self.bar: Any = None
        self.first: tuple[float, float] | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def set_position(self, epoch: int, update: int, n_updates: int) -> None:
        """Show the epoch; the bar begins at the position of a resume."""
        if self.first is None:
            self.first = monotonic(), epoch + update / max(1, n_updates)
        if self.bar is None and self.shown and shows_bars():
            from tqdm.auto import tqdm

            done, total = epoch * n_updates + update, self.epochs * n_updates
            self.bar = tqdm(
                total=total, initial=done, unit="update", dynamic_ncols=True, leave=True, file=sys.stderr
            )
        if self.bar is not None:
            self.bar.set_description(f"{self.prefix}epoch {epoch + 1}/{self.epochs}")

    def add_update(self, loss: float) -> None:
        """Count an update."""
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            self.bar.update()

    def end_epoch(self, epoch: int, rows: Mapping[int | None, Row], spent: str) -> None:
        """Log losses and what an epoch's time was spent on; write a line of losses if that is wanted."""
        if not self.shown or self.bar is not None:
            return
        # With several networks the time is that of all of them: it has a line of its own.
        alone = f"; {spent}" if len(rows) == 1 else ""
        for part, row in rows.items():
            network = "" if part is None else f", network {part}"
            LOGGER.info(
                "epoch %d/%d%s: loss %s (%.1f s%s)",
                epoch + 1,
                self.epochs,
                network,
                _losses([row], self.sets),
                row["time"],
                alone,
            )
        if not alone:
            LOGGER.info("epoch %d/%d: %s", epoch + 1, self.epochs, spent)
        # A logger that shows these lines must not be doubled.
        if self.writes and not LOGGER.isEnabledFor(logging.INFO):
            networks = f", {len(rows)} networks" if len(rows) > 1 else ""
            losses = _losses(list(rows.values()), self.sets)
            sys.stderr.write(
                f"{self.prefix}epoch {epoch + 1}/{self.epochs}{networks}: loss {losses}{self._time_left(epoch)}\n"
            )
            sys.stderr.flush()

    def _time_left(self, epoch: int) -> str:
        """Return the time until the last epoch, at most: a training may stop early."""
        started, first = self.first or (monotonic(), epoch)
        left = (self.epochs - epoch - 1) * (monotonic() - started) / max(epoch + 1 - first, 1e-9)
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        return f", at most {hours}:{minutes:02}:{seconds:02} left" if left else ""


def _losses(rows: Sequence[Row], sets: Sequence[str]) -> str:
    """Return the mean losses of some networks as text."""
    means = {
        name: sum(float(row[f"{name}_loss"]) for row in rows) / len(rows)
        for name in sets
        if all(f"{name}_loss" in row for row in rows)
    }
    return ", ".join(f"{name} {mean:.6g}" for name, mean in means.items())

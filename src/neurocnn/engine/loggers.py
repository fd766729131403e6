"""Output of progress and history during training: a table, tensorboard logs, a progress bar or lines of text."""

import logging
import os
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
from neurocnn.storage.files import write_atomically

Row = dict[str, Any]


def write_history(history: Sequence[Row], path: Path) -> None:
    """Write the history of one network as a table with one row per evaluation."""
    with write_atomically(path, "w") as file:
        pd.DataFrame(history).to_csv(file, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


class Events:
    """Tensorboard logs of one network: one folder per data set, one value per evaluation and metric.

    When training resumes, the logs are rewritten from the history, so that no value is logged twice.

    Parameters
    ----------
    folder
        Folder that contains one folder per data set.
    sets
        Names of the data sets that are evaluated.
    history
        Evaluations made before training was resumed; empty for a new run.
    started
        Time at which training started, in seconds since 1970. The time of a logged value is the sum of `started` and
        the row's ``time``.

    Raises
    ------
    StorageError
        If the disk is full or the folder read-only. The message contains the path.
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
        """Log a row of the history."""
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
            # The writer uses its own thread, whose errors `flush` raises.
            self.writers[name].flush()
        except OSError as error:
            path = str(self.folder / name)
            raise StorageError(error.errno, f"cannot write: {error.strerror}", path) from error

    def close(self) -> None:
        """Close the files. An error is only logged, because all rows are already written."""
        for writer in self.writers.values():
            try:
                writer.close()
            except OSError as error:
                LOGGER.warning("%s: closing the tensorboard logs failed: %s", self.folder, error)


#: Arguments of the current `show_progress` block; None outside such a block, where progress is only logged.
_SHOWN: ContextVar[tuple[bool, str, int] | None] = ContextVar("_SHOWN", default=None)


@contextmanager
def show_progress(shown: bool, prefix: str = "", n_trainings: int = 1) -> Iterator[None]:
    """Show the progress of training within the block on standard error, after `prefix`; hide it if `shown` is False.

    `n_trainings` is the number of training runs that remain, including the current one. Their total time is estimated.
    """
    token = _SHOWN.set((shown, prefix, n_trainings))
    try:
        yield
    finally:
        _SHOWN.reset(token)


def _logs_to_terminal() -> bool:
    """Return whether the standard output or error shows the lines of the logger."""
    shown = [stream for stream in (sys.stderr, sys.stdout) if stream is not None]
    logger: logging.Logger | None = LOGGER
    while logger is not None and LOGGER.isEnabledFor(logging.INFO):
        handlers = [handler for handler in logger.handlers if handler.level <= logging.INFO]
        if any(getattr(handler, "stream", None) in shown for handler in handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def shows_bars() -> bool:
    """Return whether progress is shown as a bar, which requires a terminal or a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return sys.stderr.isatty() or "IPKernelApp" in getattr(shell, "config", ())


def bar_width() -> dict[str, Any]:
    """Return tqdm's settings of the width of a bar. In a pseudo-terminal of size 0, tqdm would show nothing."""
    try:
        has_size = all(os.get_terminal_size(sys.stderr.fileno()))
    except (AttributeError, OSError, ValueError):  # a stream without a file, such as in a notebook
        has_size = True
    return {"dynamic_ncols": True} if has_size else {"ncols": 80, "nrows": 24}


class Progress:
    """Display of progress: a bar over all updates in a terminal or notebook, otherwise one line per epoch.

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
        # Outside `show_progress`, lines are logged and not written to standard error.
        wanted, self.prefix, self.n_trainings = _SHOWN.get() or (None, "", 1)
        self.epochs, self.sets = epochs, sets
        self.shown, self.writes = shown and wanted is not False, wanted is True
        self.bar: Any = None
        self.first: tuple[float, float] | None = None
        self.estimated = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def set_position(self, epoch: int, update: int, n_updates: int) -> None:
        """Show the current epoch. When training was resumed, the bar starts at the position of the checkpoint."""
        if self.first is None:
            self.first = monotonic(), epoch + update / max(1, n_updates)
        if self.bar is None and self.shown and shows_bars():
            from tqdm.auto import tqdm

            done, total = epoch * n_updates + update, self.epochs * n_updates
            self.bar = tqdm(
                total=total, initial=done, unit="update", leave=True, file=sys.stderr, **bar_width()
            )
        if self.bar is not None:
            self.bar.set_description(f"{self.prefix}epoch {epoch + 1}/{self.epochs}")

    def add_update(self, loss: float) -> None:
        """Advance the bar by one update, and show its loss."""
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            self.bar.update()

    def end_epoch(self, epoch: int, rows: Mapping[int | None, Row], times_text: str) -> None:
        """Log the losses and times of an epoch.

        Inside a `show_progress` block, also write the losses to standard error, unless a bar or the logger already
        shows them.
        """
        self._log_estimate(epoch)
        if not self.shown or self.bar is not None:
            return
        # The times are measured for all networks together. For several networks, they are logged in a separate line.
        remaining = self._remaining_time(epoch)
        single = f"; {times_text}" if len(rows) == 1 else ""
        for part, row in rows.items():
            network = "" if part is None else f", network {part}"
            LOGGER.info(
                "epoch %d/%d%s: loss %s%s (%.1f s%s)",
                epoch + 1,
                self.epochs,
                network,
                _losses_text([row], self.sets),
                remaining,
                row["time"],
                single,
            )
        if not single:
            LOGGER.info("epoch %d/%d: %s", epoch + 1, self.epochs, times_text)
        # Lines that the logger already shows are not written again.
        if self.writes and not _logs_to_terminal():
            networks = f", {len(rows)} networks" if len(rows) > 1 else ""
            losses = _losses_text(list(rows.values()), self.sets)
            sys.stderr.write(
                f"{self.prefix}epoch {epoch + 1}/{self.epochs}{networks}: loss {losses}{remaining}\n"
            )
            sys.stderr.flush()

    def _log_estimate(self, epoch: int) -> None:
        """After the first epoch, log its time and the estimated time of this and of all remaining training runs."""
        seconds = self._seconds_per_epoch(epoch)
        if seconds is None:
            return
        if self.shown and not self.estimated:
            all_trainings = (
                f", {_duration_text(self.n_trainings * self.epochs * seconds)} for all {self.n_trainings}"
            )
            LOGGER.info(
                "an epoch takes %s: at most %s for one training run%s",
                _duration_text(seconds),
                _duration_text(self.epochs * seconds),
                all_trainings if self.n_trainings > 1 else "",
            )
        self.estimated = True

    def _seconds_per_epoch(self, epoch: int) -> float | None:
        """Return the mean time of an epoch; None if the training was resumed after the last update of this epoch."""
        started, first = self.first or (monotonic(), epoch)
        return (monotonic() - started) / (epoch + 1 - first) if epoch + 1 > first else None

    def _remaining_time(self, epoch: int) -> str:
        """Return the remaining time as text. It is an upper limit, because training may stop early."""
        remaining = (self.epochs - epoch - 1) * (self._seconds_per_epoch(epoch) or 0)
        return f", at most {_duration_text(remaining)} remaining" if remaining else ""


def _duration_text(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    >>> _duration_text(3725.2)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _losses_text(rows: Sequence[Row], sets: Sequence[str]) -> str:
    """Return the losses, averaged over networks, as text."""
    means = {
        name: sum(float(row[f"{name}_loss"]) for row in rows) / len(rows)
        for name in sets
        if all(f"{name}_loss" in row for row in rows)
    }
    return ", ".join(f"{name} {mean:.6g}" for name, mean in means.items())

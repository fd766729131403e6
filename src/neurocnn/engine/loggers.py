"""What a training writes for people to follow it: a table, tensorboard's events, a bar or lines."""

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neurocnn.storage.files import write_whole

Row = dict[str, Any]
_log = logging.getLogger("neurocnn")
SETS = ("train", "validation")


def write_history(history: Sequence[Row], path: Path) -> None:
    """Write the table of a training's evaluations, whole or not at all."""
    with write_whole(path, "w") as file:
        pd.DataFrame(history).to_csv(file, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


class Events:
    """Tensorboard's logs of one network: a folder for each set, a value an update for each metric.

    They are written anew from the history when a training goes on, so that nothing is logged twice.

    Parameters
    ----------
    folder
        Gets the folders ``train`` and ``validation``.
    history
        What was logged before.
    started
        When the training began (seconds since 1970): events are dated by their ``time`` after it.
    """

    def __init__(self, folder: Path, history: Sequence[Row], started: float) -> None:
        self.folder, self.started = folder, started
        self.files: dict[str, Any] = {}
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
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()]
        event = Event(wall_time=when, step=step, summary=Summary(value=values))
        try:
            if name not in self.files:
                self.files[name] = self._open(name)
            self.files[name].write(event.SerializeToString())
            self.files[name].flush()
        except OSError as error:
            raise OSError(error.errno, f"cannot write: {error.strerror}", str(self.folder / name)) from error

    def _open(self, name: str) -> Any:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        unique = f"{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        # Unbuffered: a row that could not be written is reported now, not when the file is closed.
        writer = RecordWriter(open(folder / f"events.out.tfevents.{unique}", "wb", buffering=0))  # noqa: SIM115
        writer.write(Event(wall_time=self.started, file_version="brain.Event:2").SerializeToString())
        return writer

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()


class Progress:
    """A bar over all updates on a terminal; elsewhere a logged line an epoch.

    Parameters
    ----------
    epochs
        How many there will be at most.
    shown
        False for the ranks that stay silent.
    """

    def __init__(self, epochs: int, shown: bool = True) -> None:
        self.epochs, self.shown = epochs, shown
        self.bar: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def at(self, epoch: int, update: int, n_updates: int) -> None:
        """Say where the training is; the bar begins where it was taken up."""
        if self.bar is None and self.shown and sys.stderr.isatty():
            from tqdm import tqdm

            done = epoch * n_updates + update
            self.bar = tqdm(
                total=self.epochs * n_updates, initial=done, unit="update", dynamic_ncols=True, leave=True
            )
        if self.bar is not None:
            self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}")

    def stepped(self, loss: float) -> None:
        """Count an update."""
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            self.bar.update()

    def ended(self, epoch: int, rows: Mapping[int | None, Row]) -> None:
        """Report the end of an epoch."""
        if not self.shown or self.bar is not None:
            return
        for part, row in rows.items():
            network = "" if part is None else f", network {part}"
            losses = ", ".join(f"{name} {row[f'{name}_loss']:.6g}" for name in SETS if f"{name}_loss" in row)
            _log.info("epoch %d/%d%s: loss %s (%.1f s)", epoch + 1, self.epochs, network, losses, row["time"])

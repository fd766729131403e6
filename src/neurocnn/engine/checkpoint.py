"""The files of a training: states for a resume, best weights.

A state has two files that are written in turn, each with checksums: whenever a process is killed, and whichever bit
flips, one of them can be read. A best model is written after the state of the same epoch, so that a kill between the
two is recognised and repaired from the weights in the state.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from neurocnn.errors import CheckpointError, NotFoundError
from neurocnn.storage.tensors import load_tensors, save_tensors

State = dict[str, Any]


class StateFiles:
    """The two files of a network's training state.

    Examples
    --------
    >>> states = StateFiles(tmp)
    >>> states.write({"epoch": 1}); states.write({"epoch": 2})
    >>> StateFiles(tmp).read()["epoch"]
    2
    """

    def __init__(self, folder: Path) -> None:
        self.paths = (folder / "state-0.pt", folder / "state-1.pt")
        self.serial = -1

    def read(self) -> State | None:
        """Return the newest intact state, or None if there is no file.

        Raises
        ------
        CheckpointError
            If there are files and none of them can be read.
        """
        damaged: list[CheckpointError] = []
        newest: State | None = None
        for path in self.paths:
            try:
                state = load_tensors(path)
                if newest is None or state["serial"] > newest["serial"]:
                    newest = state
            except NotFoundError:
                continue
            except CheckpointError as error:
                damaged.append(error)
            except (KeyError, TypeError) as error:
                damaged.append(CheckpointError(f"{path}: not a training state ({error!r})"))
        if newest is None:
            if damaged:
                raise CheckpointError(
                    f"no training state can be read ({'; '.join(map(str, damaged))}); restore one from a copy, or "
                    "train in another folder"
                )
            return None
        self.serial = int(newest["serial"])
        if damaged:
            used = self.paths[self.serial % 2]
            warnings.warn(f"{damaged[0]}; resuming from the other state, {used}", stacklevel=2)
        return newest

    def write(self, state: State) -> None:
        """Write a state, replacing the older of the two."""
        serial = self.serial + 1
        save_tensors(state | {"serial": serial}, self.paths[serial % 2])
        self.serial = serial

    def remove(self) -> None:
        """Remove both files."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        self.serial = -1


class BestStates(Mapping[str, dict[str, Tensor]]):
    """State dicts of the best epochs by selection (``"best_loss"``), read from their files on access."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)

    def __getitem__(self, selection: str) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = load_tensors(self._paths[selection])["model"]
        return weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def read_best_epoch(path: Path) -> int | None:
    """Return the epoch of a best model's file, or None if the file is missing or damaged."""
    try:
        return int(load_tensors(path)["epoch"])
    except (NotFoundError, CheckpointError, KeyError, TypeError):
        return None

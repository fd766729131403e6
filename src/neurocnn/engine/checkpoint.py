"""The states that a stopped training goes on from, and the best states that it keeps.

Two generations of a state lie beside each other, each with the CRC-32 of its records: whatever moment a
process is killed at, and whichever bit flips, one of them can be read. A best state is written after the
state of the same epoch end, so that a kill between the two can be told and made good from the state's own
weights.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from neurocnn.errors import CheckpointError, NotFoundError, SettingError
from neurocnn.storage.tensors import load_tensors, save_tensors

State = dict[str, Any]


class StateFiles:
    """The two generations of a network's training state.

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
        """Give the newest state that is whole; None where there is no file.

        Raises
        ------
        CheckpointError
            There are files and none can be read.
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
                damaged.append(CheckpointError(f"{path}: is no training state ({error!r})"))
        if newest is None:
            if damaged:
                raise CheckpointError(
                    f"no training state can be read ({'; '.join(map(str, damaged))}); "
                    "restore one from a copy, or train in another folder"
                )
            return None
        if damaged:
            warnings.warn(f"{damaged[0]}; going on from the other state, {self._name(newest)}", stacklevel=2)
        self.serial = int(newest["serial"])
        return newest

    def _name(self, state: State) -> str:
        return str(self.paths[state["serial"] % 2])

    def write(self, state: State) -> None:
        """Write a state in place of the older of the two."""
        serial = self.serial + 1
        save_tensors(state | {"serial": serial}, self.paths[serial % 2])
        self.serial = serial

    def remove(self) -> None:
        """Remove both generations."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        self.serial = -1


class BestStates(Mapping[str, dict[str, Tensor]]):
    """The state dicts of a training's best epochs, by selection ("best_loss"), read when they are asked
    for.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)

    def __getitem__(self, selection: str) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = load_tensors(self._paths[selection])["model"]
        return weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def best_epoch_of(path: Path) -> int | None:
    """Give the epoch of a best state's file; None where there is none that can be read."""
    try:
        return int(load_tensors(path)["epoch"])
    except (NotFoundError, CheckpointError, KeyError, TypeError):
        return None


#: Settings that may change when a training goes on.
FREE = ("n_workers", "device", "checkpoint_seconds", "rank_seconds")


def check_settings(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """Compare the settings of a state with those of now; more epochs, other workers or device are fine.

    Raises
    ------
    SettingError
        Others differ; the message names each with both values.

    Examples
    --------
    >>> check_settings({"epochs": 5, "n_workers": 0}, {"epochs": 9, "n_workers": 2}, tmp)
    """
    differing = []
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        more = name == "epochs" and before is not None and now is not None and now >= before
        if before != now and name not in FREE and not more:
            differing.append(f"{name}: {before!r} then, {now!r} now")
    if differing:
        raise SettingError(
            f"{folder}: the training that was begun there had other settings ({'; '.join(differing)}); "
            "take those, or another folder"
        )

"""Checkpoint files: the states from which training resumes, and the best weights.

The training state of a network is written alternately to two files with checksums. If a process is killed while it
writes one file, or one file is damaged, the other file can be read. A best model is written after the state of the same
epoch. If a process is killed between these two writes, the best model is restored from the weights in the state.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from neurocnn.errors import CheckpointError, NotFoundError
from neurocnn.storage.tensors import check_finite_weights, load_tensors, save_tensors

State = dict[str, Any]
_NUMBER = (int, float)
#: Upper limit of the numbers in a state. Larger integers are not exact as floats, and training never reaches them.
_LARGEST = 2**53
#: Required entries of a state, and the type of each. Later versions may add entries.
_ENTRIES: dict[str, type | tuple[type, ...]] = {
    "serial": int,
    "epoch": int,
    "updates": int,
    "iteration": int,
    "started": _NUMBER,
    "seconds": _NUMBER,
    "stopped": bool,
    "history": list,
    "best": dict,
    "best_epochs": dict,
    "stopper": dict,
    "random": list,
    "settings": dict,
    "model": dict,
    "optimizer": dict,
    "scaler": dict,
}


class StateFiles:
    """The two files of a network's training state.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from neurocnn.engine import Trainer, classification
    >>> item = {"image": torch.zeros(1, 2), "participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0}
    >>> items = [item | {"label": label} for label in ("CN", "AD")]
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    >>> training = Trainer(epochs=2, device="cpu").fit(model, classification(), items, folder=tmp)
    >>> StateFiles(tmp / "state").read()["epoch"]
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
            If files exist, but none of them can be read.
        """
        damaged: list[CheckpointError] = []
        newest: State | None = None
        for path in self.paths:
            try:
                state = check_state(load_tensors(path), path)
            except NotFoundError:
                continue
            except CheckpointError as error:
                damaged.append(error)
            else:
                if newest is None or state["serial"] > newest["serial"]:
                    newest = state
        if newest is None:
            if damaged:
                raise CheckpointError(
                    f"no training state can be read ({'; '.join(map(str, damaged))}); restore a file from a copy, or "
                    "train in another folder"
                )
            return None
        self.serial = int(newest["serial"])
        if damaged:
            used = self.paths[self.serial % 2]
            warnings.warn(f"{damaged[0]}; resuming from the other state, {used}", stacklevel=2)
        return newest

    def write(self, state: State) -> None:
        """Write a state to the file that contains the older state."""
        serial = self.serial + 1
        save_tensors(state | {"serial": serial}, self.paths[serial % 2])
        self.serial = serial

    def remove(self) -> None:
        """Remove both files."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        self.serial = -1


def check_state(content: Any, path: Path) -> State:
    """Return the content of a file, after a check that it is a training state.

    Raises
    ------
    CheckpointError
        If an entry is missing or has a wrong type, or a number is negative or not finite.

    Examples
    --------
    >>> check_state({"serial": 0, "epoch": "three"}, Path("state-0.pt"))
    Traceback (most recent call last):
    neurocnn.errors.CheckpointError: state-0.pt: epoch='three'; expected int; the file is not a training state
    """
    if not isinstance(content, dict):
        raise _content_error(path, "content", content, "dict")
    for name, kind in _ENTRIES.items():
        value = content.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            expected = kind.__name__ if isinstance(kind, type) else "a number"
            raise _content_error(path, name, value, expected)
        if isinstance(value, int | float) and not 0 <= value < _LARGEST:
            raise _content_error(path, name, value, "a finite number ≥ 0")
    if not isinstance(content.get("join_last", False), bool):
        raise _content_error(path, "join_last", content["join_last"], "bool")
    _check_plain_dict(path, "settings", content["settings"], (str, bool, int, float, type(None)))
    _check_plain_dict(path, "best", content["best"], _NUMBER)
    _check_plain_dict(path, "best_epochs", content["best_epochs"], (int,))
    for row in content["history"]:
        _check_plain_dict(path, "history", row, _NUMBER)
        if not {"epoch", "iteration", "time"} <= row.keys():
            raise _content_error(path, "history", row, "rows with epoch, iteration and time")
    last = content["history"][-1] if content["history"] else {"epoch": -1, "iteration": 0}
    # Each epoch ends with an evaluation, so the epoch of the state is that of the last row or the next one.
    if not last["epoch"] <= content["epoch"] <= last["epoch"] + 1:
        raise _content_error(
            path, "epoch", content["epoch"], f"the epoch of the last row, {last['epoch']}, or the next epoch"
        )
    if not max(last["iteration"], content["updates"]) <= content["iteration"]:
        raise _content_error(
            path,
            "iteration",
            content["iteration"],
            "at least the iteration of the last row and the updates of the epoch",
        )
    _check_plain_dict(path, "stopper", content["stopper"], _NUMBER)
    check_tensors(path, "model", content["model"])
    return content


def check_tensors(path: Path, name: str, content: Any) -> dict[str, Tensor]:
    """Return the entry `name` of a file, `content`, if it is a dict of tensors, else raise a CheckpointError."""
    if not isinstance(content, dict):
        raise _content_error(path, name, content, "a state dict")
    for key, value in content.items():
        if not isinstance(value, Tensor) and not str(key).endswith("_extra_state"):
            raise _content_error(path, f"{name}[{key!r}]", value, "a tensor")
    return content


def _check_plain_dict(path: Path, name: str, content: Any, kinds: tuple[type, ...]) -> None:
    if not isinstance(content, dict):
        raise _content_error(path, name, content, "dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, kinds):
            raise _content_error(path, f"{name}[{key!r}]", value, "a plain value")


def _content_error(path: Path, name: str, value: Any, expected: str) -> CheckpointError:
    shown = repr(value) if isinstance(value, str | int | float | tuple) else f"a {type(value).__name__}"
    return CheckpointError(
        f"{path}: {name}={shown:.80}; expected {expected}; the file is not a training state"
    )


class BestStates(Mapping[str, dict[str, Tensor]]):
    """State dicts of the best epochs by selection (``"best_loss"``), read from their files on access.

    Parameters
    ----------
    paths
        File of each selection.
    parameters
        Names of the network's parameters, whose values must be finite; other tensors (buffers) may be infinite.

    Raises
    ------
    CheckpointError
        On access, if a file is damaged, is not a best model, or has a weight that is NaN or infinite.
    """

    def __init__(self, paths: Mapping[str, Path], parameters: Collection[str]) -> None:
        self._paths, self._parameters = dict(paths), set(parameters)

    def __getitem__(self, selection: str) -> dict[str, Tensor]:
        return read_best_weights(self._paths[selection], self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def read_best_weights(path: Path, parameters: Collection[str] | None = None) -> dict[str, Tensor]:
    """Return the state dict in the file of a best model.

    Parameters
    ----------
    path
        Path of ``model_best.pth.tar``.
    parameters
        Names of the weights that must be finite; None for all.

    Raises
    ------
    NotFoundError
        If the file does not exist.
    CheckpointError
        If the file is damaged, is not a best model, or has a weight that is NaN or infinite.
    """
    content = load_tensors(path)
    weights = check_tensors(path, "model", content.get("model") if isinstance(content, dict) else content)
    check_finite_weights({k: v for k, v in weights.items() if parameters is None or k in parameters}, path)
    return weights


def read_best_epoch(path: Path) -> int | None:
    """Return the epoch in the file of a best model, or None if the file is missing, damaged or not a best model."""
    try:
        content = load_tensors(path)
        check_tensors(path, "model", content["model"])
        return int(content["epoch"])
    except (NotFoundError, CheckpointError, KeyError, TypeError, ValueError, OverflowError):
        return None

"""Where the weights of a transfer come from.

A source is a result folder of neurocnn, what users already have (a result folder of ClinicaDL 0.2.1, a MAPS folder
of ClinicaDL 1.x, a bare checkpoint), or a module in memory. Split k takes the weights of the source's split k.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn as torch_nn

from neurocnn import nn, storage
from neurocnn.errors import NotFoundError, SettingError
from neurocnn.results import leakage as seen
from neurocnn.results.paths import COMMANDLINE, Fold
from neurocnn.results.settings import read_settings

#: How ClinicaDL 1.x abbreviates the metrics in its folders' names.
_ABBREVIATIONS = {
    "best_balanced_accuracy": ("best-balanced_accuracy", "best-BA"),
    "best_loss": ("best-loss",),
}


def as_source(value: Any) -> Path | torch_nn.Module | None:
    """Give `transfer_from` as a path or a module.

    Raises
    ------
    NotFoundError
        The path does not exist.
    SettingError
        It is something else.
    """
    if value is None or isinstance(value, torch_nn.Module):
        return value
    value = getattr(value, "folder", value)  # a Results
    if not isinstance(value, str | Path):
        raise SettingError(f"transfer_from={value!r}: expected a result folder, a checkpoint or a module")
    path = Path(value)
    if not path.exists():
        raise NotFoundError(f"transfer_from={str(path)!r}: there is no such file or folder")
    return path


def weights(
    source: Path | torch_nn.Module,
    split: int,
    network: int | None,
    selection: str,
    classes: Sequence[str] | None = None,
) -> Mapping[str, torch.Tensor]:
    """Give the source's weights for one split and network, by our names.

    Parameters
    ----------
    source
        What `as_source` gives.
    split
        The index of the split.
    network
        The part_id of the target's network, None where one network serves all parts. A source with one
        network serves every network.
    selection
        Which best model of a CNN; an autoencoder has ``best_loss`` only.
    classes
        Those of the target, if it has any.

    Raises
    ------
    NotFoundError
        There is no such model; the message says what was looked for.
    """
    if isinstance(source, torch_nn.Module):
        return source.state_dict()
    with warnings.catch_warnings():
        if classes is not None and list(classes) == sorted(classes):
            # so does ClinicaDL 1.x, whose outputs are then right as they are
            warnings.filterwarnings("ignore", message=".*sorts its labels")
        return nn.read_weights(checkpoint(source, split, network, selection))


def checkpoint(source: Path, split: int, network: int | None, selection: str) -> Path:
    """Give the path of the checkpoint that `weights` reads."""
    if source.is_file():
        return source
    for folder in (source / f"split-{split}", source / f"fold-{split}"):
        if any(folder.glob("best-*")):
            return _in_maps(folder, network, selection)
    fold = Fold(source, split, "")
    if not fold.path.is_dir():
        raise NotFoundError(
            f"{source}: neither fold-{split} (neurocnn, ClinicaDL 0.2.1) nor split-{split} (ClinicaDL 1.x) is "
            "there; a transfer takes split k from the source's split k"
        )
    if _is_ours(source) and fold.state.exists():
        raise SettingError(f"{fold.path}: this training has not ended; run it to its end before a transfer")
    several = any((fold.path / "models").glob("cnn-*"))
    if several and network is None:
        raise SettingError(f"{source} has one network for each part, which cannot start one network for all")
    network = network if several else None
    return _selected(fold.model(selection, network), fold.model("best_loss", network), "best_*")


def _in_maps(folder: Path, network: int | None, selection: str) -> Path:
    several = any(folder.glob("best-*/network-*_model.pth.tar"))
    if several and network is None:
        raise SettingError(f"{folder} has one network for each part, which cannot start one network for all")
    name = f"network-{network}_model.pth.tar" if several else "model.pth.tar"
    names = _ABBREVIATIONS.get(selection, (selection.replace("best_", "best-", 1),))
    wanted = [folder / candidate / name for candidate in names]
    chosen = next((path for path in wanted if path.is_file()), wanted[0])
    return _selected(chosen, folder / "best-loss" / name, "best-*")


def _selected(wanted: Path, by_loss: Path, pattern: str) -> Path:
    """Give the checkpoint of a selection; autoencoders and regressions are selected by loss alone."""
    if wanted.is_file():
        return wanted
    folder = wanted.parents[1]
    there = sorted(path.name for path in folder.glob(pattern) if (path / wanted.name).is_file())
    if there == [by_loss.parent.name]:
        return by_loss
    raise NotFoundError(
        f"no model to transfer from: there is no {wanted}; in {folder} there are: {', '.join(there) or 'none'}"
    )


def whom(source: Path | torch_nn.Module, split: int) -> pd.DataFrame:
    """Give whom the source of one split has seen, as `seen.record` takes it.

    A source that does not say is recorded as unknown, with a warning.
    """
    if isinstance(source, Path) and _is_ours(source):
        if not Fold(source, split, "").seen.is_file():
            raise NotFoundError(
                f"{source}: its split {split} has not been run; a transfer takes split k from the source's split k. "
                "Run that first, with the same splits"
            )
        return storage.read_table(Fold(source, split, "").seen, required=("participant_id", "role"))
    what = type(source).__name__ if isinstance(source, torch_nn.Module) else str(source)
    warnings.warn(
        f"transfer from {what}: it does not say which participants it has seen. Make sure yourself that none "
        "of them is in a validation or test set",
        stacklevel=2,
    )
    return seen.unknown()


def _is_ours(folder: Path) -> bool:
    path = folder / COMMANDLINE
    return path.is_file() and "neurocnn" in read_settings(path)

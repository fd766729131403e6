"""Source of a transfer: the initial weights, and the participants on whom they were trained.

A source is a result folder of neurocnn, a result folder of ClinicaDL 0.2.1, a MAPS folder of ClinicaDL 1.x, a single
checkpoint, or a module in memory. Split k uses the weights of the source's split k.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import nn as torch_nn

from neurocnn import data, nn
from neurocnn.engine.fingerprint import differences
from neurocnn.errors import NotFoundError, SettingError
from neurocnn.errors.arguments import argument_error
from neurocnn.results import leakage
from neurocnn.results.paths import COMMANDLINE, Fold
from neurocnn.results.setting_json import to_json
from neurocnn.results.settings import read_settings
from neurocnn.storage.files import find, is_file, is_folder

#: Folder names of ClinicaDL 1.x, by name of the selection.
_ABBREVIATIONS = {
    "best_balanced_accuracy": ("best-balanced_accuracy", "best-BA"),
    "best_loss": ("best-loss",),
}
#: Files of ClinicaDL with one network per part: in a MAPS folder, and in a result folder of 0.2.1.
_NETWORKS = ("*/best-*/network-*_model.pth.tar", "fold-*/models/cnn-*")


#: Path of a result folder or checkpoint, or a module.
Source = Path | torch_nn.Module


def as_source(value: object) -> Source | None:
    """Return the value of `transfer_from` as a path, a module, or None.

    Raises
    ------
    NotFoundError
        If the path does not exist.
    SettingError
        If `value` is of another type.
    """
    if value is None or isinstance(value, torch_nn.Module):
        return value
    # A `Results` object has the attribute `folder`.
    value = getattr(value, "folder", value)
    if not isinstance(value, str | Path):
        raise argument_error("transfer_from", value, "a result folder, a checkpoint or a module")
    path = Path(value)
    if not (is_file(path) or is_folder(path)):
        raise NotFoundError(f"transfer_from={str(path)!r}; expected an existing file or folder")
    return path


def weights(
    source: Source,
    split: int,
    network: int | None,
    selection: str,
) -> Mapping[str, torch.Tensor]:
    """Return the source's weights for one split and network, with neurocnn's parameter names.

    Parameters
    ----------
    source
        See `as_source`.
    split
        Index of the split.
    network
        part_id of the target's network; None if the target has a single network for all parts. If the source has a
        single network, every network of the target gets its weights.
    selection
        Selection whose best model is used. ``best_loss`` is used if the source has no other selection (autoencoders).

    Raises
    ------
    NotFoundError
        If the model does not exist. The message contains its path.
    """
    if isinstance(source, torch_nn.Module):
        return source.state_dict()
    with warnings.catch_warnings():
        # `warn_of_output_order` has shown this warning for all splits and networks.
        warnings.filterwarnings("ignore", message=".*output_order=None")
        return nn.read_weights(checkpoint(source, split, network, selection))


def checkpoint(source: Path, split: int, network: int | None, selection: str) -> Path:
    """Return the path of the checkpoint with the weights for one split and network, see `weights`."""
    if is_file(source):
        return source
    for folder in (source / f"split-{split}", source / f"fold-{split}"):
        if find(folder, "best-*"):
            return _checkpoint_in_maps(folder, network, selection)
    fold = Fold(source, split, "")
    if not is_folder(fold.path):
        raise NotFoundError(
            f"{source}: expected fold-{split} (neurocnn, ClinicaDL 0.2.1) or split-{split} (ClinicaDL 1.x); a "
            "transfer uses split k of the source for split k"
        )
    if _is_neurocnn_folder(source) and fold.state.exists():
        raise SettingError(
            f"{fold.path}: this split is not fully trained; finish its run before the transfer"
        )
    several = bool(find(fold.path / "models", "cnn-*"))
    if several and network is None:
        raise SettingError(f"{source}: found one network per part; expected a single network; use multi=True")
    network = network if several else None
    return _choose_model(fold.model(selection, network), fold.model("best_loss", network), "best_*")


def _checkpoint_in_maps(folder: Path, network: int | None, selection: str) -> Path:
    several = bool(find(folder, "best-*/network-*_model.pth.tar"))
    if several and network is None:
        raise SettingError(f"{folder}: found one network per part; expected a single network; use multi=True")
    name = f"network-{network}_model.pth.tar" if several else "model.pth.tar"
    names = _ABBREVIATIONS.get(selection, (selection.replace("best_", "best-", 1),))
    wanted = [folder / candidate / name for candidate in names]
    chosen = next((path for path in wanted if is_file(path)), wanted[0])
    return _choose_model(chosen, folder / "best-loss" / name, "best-*")


def _choose_model(wanted: Path, by_loss: Path, pattern: str) -> Path:
    """Return `wanted` if it exists, else `by_loss` if it is the only model, as for autoencoders and regressions."""
    if is_file(wanted):
        return wanted
    folder = wanted.parents[1]
    there = [path.name for path in find(folder, pattern) if is_file(path / wanted.name)]
    if there == [by_loss.parent.name]:
        return by_loss
    advice = " or ".join(repr(_selection_of(name)) for name in there)
    raise NotFoundError(
        f"{wanted}: no such model to transfer from; {folder} contains: {', '.join(there) or 'none'}"
        + (f"; pass transfer_selection={advice}" if there else "")
    )


def _selection_of(folder: str) -> str:
    """Return the name of the selection whose best model is in a folder of neurocnn or ClinicaDL."""
    known = (selection for selection, folders in _ABBREVIATIONS.items() if folder in folders)
    return next(known, folder.replace("best-", "best_", 1))


def source_participants(source: Source, split: int) -> pd.DataFrame:
    """Return the participants that the source of one split has seen, see `leakage.record_seen`.

    If the source did not record its participants, the table says that they are unknown.
    """
    if isinstance(source, Path) and _is_neurocnn_folder(source):
        if not is_file(Fold(source, split, "").seen):
            raise NotFoundError(
                f"{source}: split {split} has not been run; a transfer uses split k of the source for split k; run the "
                "source first, with the same splits"
            )
        return leakage.read_seen(Fold(source, split, ""))
    return leakage.unknown_source()


def warn_of_participants(source: Source) -> None:
    """Show a warning if the source did not record the participants that it has seen."""
    if isinstance(source, Path) and _is_neurocnn_folder(source):
        return
    what = type(source).__name__ if isinstance(source, torch_nn.Module) else str(source)
    warnings.warn(
        f"transfer from {what}: the participants that the source has seen are unknown; check that none of them is in a "
        "validation or test set",
        stacklevel=2,
    )


def warn_of_output_order(
    source: Source, split: int, network: int | None, selection: str, classes: Sequence[str] | None
) -> None:
    """Show the warning of `nn.read_weights` about the order of outputs, unless it is the order of the classes.

    Parameters
    ----------
    source, split, network, selection
        See `weights`.
    classes
        Classes of the experiment; None for a task without classes.
    """
    # ClinicaDL 1.x sorts its classes.
    if isinstance(source, Path) and (classes is None or list(classes) != sorted(classes)):
        nn.read_weights(checkpoint(source, split, network, selection))


def warn_of_other_parts(source: Source, parts: data.Parts, part_ids: Sequence[int]) -> None:
    """Show a warning if a source with one network per part was trained on other parts of the image.

    ClinicaDL does not record the parts, so that only the numbers of its networks are compared. Slices are not compared,
    because the id of a slice does not depend on the number of discarded slices.

    Parameters
    ----------
    source
        See `as_source`.
    parts, part_ids
        Parts of the experiment, which has one network per part.
    """
    if isinstance(parts, data.Slice) or isinstance(source, torch_nn.Module) or is_file(source):
        return
    if _is_neurocnn_folder(source):
        saved = read_settings(source / COMMANDLINE)
        found, new = saved["parts"], {"parts": to_json(parts)}
        differ = bool(saved["multi"] and differences({"parts": found}, new))
    else:
        files = [path.name for pattern in _NETWORKS for path in find(source, pattern)]
        numbers = {int(number) for name in files for number in re.findall(r"^(?:network|cnn)-(\d+)", name)}
        found, differ = f"{len(numbers)} networks", not numbers <= set(part_ids)
    if differ:
        warnings.warn(
            f"transfer from {source}: its networks belong to other parts of the image ({found}) than those of this "
            f"experiment ({parts}, {len(part_ids)} networks); network k of the source initialises network k; check "
            "that both belong to the same region",
            stacklevel=2,
        )


def _is_neurocnn_folder(folder: Path) -> bool:
    path = folder / COMMANDLINE
    return is_file(path) and "neurocnn" in read_settings(path)

"""Checks, before a run is resumed, that a result folder belongs to the same experiment."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neurocnn import data
from neurocnn.engine.fingerprint import Change, describe_changes, differences, forbidden_changes
from neurocnn.errors import SettingError
from neurocnn.errors.logger import LOGGER
from neurocnn.experiment.recipe import Recipe
from neurocnn.results.folder import ResultFolder
from neurocnn.results.leakage import drop_unused_cohorts
from neurocnn.results.paths import COMMANDLINE, SETS, WRITING_LOCK
from neurocnn.results.same_study import check_same_images, check_same_rows
from neurocnn.results.setting_json import Settings, custom_names
from neurocnn.results.settings import drop_unrecorded, read_settings
from neurocnn.storage.files import find, is_file, is_folder, storage_errors
from neurocnn.storage.identity import COHORT


def check_resumable(
    where: ResultFolder,
    settings: Settings,
    splits: Sequence[data.Split],
    images: pd.DataFrame | None = None,
) -> None:
    """Raise an error unless the folder is new, empty, or contains an experiment with these settings.

    Parameters
    ----------
    where
        Result folder, which need not exist.
    settings
        Settings of the experiment, as in `commandline.json`.
    splits
        Splits of the experiment.
    images
        Fingerprints of the images, see `ImageSet.fingerprints`.

    Raises
    ------
    SettingError
        If the folder contains files of other programs, or if its settings, sessions, labels or images differ. The
        message contains the differences.
    StorageError
        If the folder is a file or cannot be read.

    Examples
    --------
    >>> from neurocnn import engine
    >>> check_resumable(ResultFolder(tmp / "new", engine.classification(), "image"), {"multi": True}, [])
    >>> _ = (tmp / "thesis.txt").write_text("years of work")
    >>> check_resumable(ResultFolder(tmp, engine.classification(), "image"), {"multi": True}, [])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurocnn.errors.SettingError: ...: found other files and no commandline.json; expected a new folder ...
    """
    root = where.root
    with storage_errors(root, "open"):
        if root.exists() and not is_folder(root):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    # The files are listed first: another process that starts the folder now writes the settings before other files.
    found = find(root)
    if not is_file(where.settings):
        if not all(map(_is_being_written, found)):
            raise SettingError(
                f"{root}: found other files and no {COMMANDLINE}; expected a new folder or a result folder; choose "
                "another folder"
            )
        return
    if not where.is_claimed:
        return
    _compare_settings(where, settings)
    columns = [where.task.label] if where.task.label else []
    cohorts = [] if images is None else [name for name in images if name == COHORT]
    for split in splits:
        fold = where.fold(split.index)
        for name, sessions in (("train", split.train), ("validation", split.validation)):
            if is_file(fold.sessions(name)):
                check_same_rows(fold.sessions(name), drop_unused_cohorts(sessions, cohorts), columns)
        if images is not None:
            check_same_images(fold, images, SETS)


def continued_epochs(where: ResultFolder, settings: Settings, n_splits: int) -> int | None:
    """Return the number of epochs for the splits that are not done; None for a folder without results.

    The larger of the recorded and the new number is used. Splits that are done are not trained further.

    Raises
    ------
    SettingError
        If all splits are done and more epochs are requested.
    """
    if not is_file(where.settings) or not where.is_claimed:
        return None
    saved, new = (found["trainer"].get("epochs") for found in (read_settings(where.settings), settings))
    if not isinstance(saved, int) or not isinstance(new, int):
        return None
    if new > saved and len(where.finished_folds) == n_splits:
        raise SettingError(
            f"{where.root}: epochs={new}, but all splits were trained with epochs={saved} and are finished; a "
            f"finished split is not trained further; use another folder with transfer_from={str(where.root)!r}"
        )
    if new < saved:
        LOGGER.warning(
            "%s: epochs=%d as in the folder instead of %d: all splits use the larger number",
            where.root,
            saved,
            new,
        )
    return max(saved, new)


def has_new_values(saved: Settings, new: Settings) -> bool:
    """Return whether the recorded settings must be updated because of an allowed change or moved images.

    Examples
    --------
    >>> has_new_values({"trainer": {"epochs": 5}}, {"trainer": {"epochs": 9}})
    True
    """
    rules = Recipe.rules()
    return any(
        rules.get(name) in ("grow", "until scored") or _is_move(name) for name in differences(saved, new)
    )


def warn_on_resume(where: ResultFolder, settings: Settings) -> None:
    """Log a warning about custom code, which cannot be compared, and about a changed number of threads."""
    if not is_file(where.settings) or not where.is_claimed:
        return
    own = sorted({name for value in settings.values() for name in custom_names(value)})
    if own:
        LOGGER.warning(
            "%s: resuming with custom code (%s), which is compared only by name and by the arguments in its "
            "repr; use another folder if it has changed",
            where.root,
            ", ".join(own),
        )
    saved = read_settings(where.settings)
    threads, now = saved.get("n_threads"), settings.get("n_threads")
    if threads is not None and threads != now:
        LOGGER.warning(
            "%s: running with %s threads of torch, but the folder was started with %s: the last digits of "
            "the results change; call torch.set_num_threads(%s) for the same digits",
            where.root, now, threads, threads,
        )  # fmt: skip
    moves = {name: change for name, change in differences(saved, settings).items() if _is_move(name)}
    if moves and not any(is_file(fold.images) for fold in where.folds):
        LOGGER.warning(
            "%s: the images have another location (%s), and images.tsv is missing: "
            "the content of the images is not compared",
            where.root,
            describe_changes(moves),
        )


def _compare_settings(where: ResultFolder, new: Settings) -> None:
    saved = read_settings(where.settings)
    changes = forbidden_changes(
        saved, drop_unrecorded(new, saved), Recipe.rules(), scored=bool(where.finished_folds)
    )
    # Epochs and moved images are omitted here: `continued_epochs` and `check_same_images` check them.
    refused = {
        name: change for name, change in changes.items() if name != "trainer.epochs" and not _is_move(name)
    }
    if refused:
        raise SettingError(
            f"{where.root}: the folder contains another experiment; these settings differ (folder → now): "
            f"{describe_changes(_first_weights(refused))}; use the same settings to resume that "
            "experiment, or use another folder"
        )


def _first_weights(changes: dict[str, Change], maximum: int = 3) -> dict[str, Change]:
    """Return `changes` with at most `maximum` changes of the network's weights, to keep the message short."""
    weights = [name for name in changes if name.startswith("network.")]
    return {name: change for name, change in changes.items() if name not in weights[maximum:]}


def _is_move(name: str) -> bool:
    return name.split(".")[:2] in (["caps", "root"], ["caps", "table"])


def _is_being_written(path: Path) -> bool:
    """Return whether `path` is the settings file or its lock, which another process may be writing."""
    return path.name in (COMMANDLINE, WRITING_LOCK) or path.name.startswith(f".{COMMANDLINE}.")

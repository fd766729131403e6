"""The check that a result folder contains the start of the same experiment."""

from collections.abc import Sequence
from pathlib import Path

from neurocnn import data, storage
from neurocnn.engine.fingerprint import describe_changes, differences, forbidden_changes
from neurocnn.errors import SettingError
from neurocnn.errors.logger import LOGGER
from neurocnn.experiment.recipe import Recipe
from neurocnn.results.folder import ResultFolder
from neurocnn.results.paths import COMMANDLINE, Fold
from neurocnn.results.settings import Settings, custom_names, read_settings
from neurocnn.storage.identity import IMAGE, key_columns


def check_resumable(where: ResultFolder, settings: Settings, splits: Sequence[data.Split]) -> None:
    """Refuse a folder that contains anything but the start of an experiment with these settings.

    Parameters
    ----------
    where
        Result folder, which may be missing or empty.
    settings
        Settings of the experiment, as in `commandline.json`.
    splits
        Splits of the experiment.

    Raises
    ------
    SettingError
        If it is a file, or contains other files, settings (the message names them) or sessions.

    Examples
    --------
    >>> check_resumable(ResultFolder(tmp / "new", engine.classification(), "image"), {"multi": True}, [])
    >>> _ = (tmp / "thesis.txt").write_text("years of work")
    >>> check_resumable(ResultFolder(tmp, engine.classification(), "image"), {"multi": True}, [])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurocnn.errors.SettingError: ...: not empty and without commandline.json; choose another folder
    """
    root = where.root
    if where.settings.is_file():
        _warn_of_custom_code(root, settings)
        _compare_settings(where, settings, splits)
        for split in splits:
            _compare_sessions(where.fold(split.index), split)
    elif root.exists() and not root.is_dir():
        raise SettingError(f"{root}: a file; expected a folder for the results")
    elif root.is_dir() and not all(map(_is_being_written, root.iterdir())):
        raise SettingError(f"{root}: not empty and without {COMMANDLINE}; choose another folder")


def has_new_values(saved: Settings, new: Settings) -> bool:
    """Return whether settings differ that may change until a split is scored.

    Examples
    --------
    >>> has_new_values({"trainer": {"epochs": 5}}, {"trainer": {"epochs": 9}})
    True
    """
    rules = Recipe.rules()
    return any(rules.get(name) in ("grow", "until scored") for name in differences(saved, new))


def _warn_of_custom_code(root: Path, settings: Settings) -> None:
    own = sorted({name for value in settings.values() for name in custom_names(value)})
    if own:
        LOGGER.warning(
            "%s: resuming with custom code (%s), which is compared by name only: use another folder if it has changed",
            root,
            ", ".join(own),
        )


def _compare_settings(where: ResultFolder, new: Settings, splits: Sequence[data.Split]) -> None:
    saved, rules = read_settings(where.settings), Recipe.rules()
    changes = forbidden_changes(saved, new, rules)
    # The number of epochs may change in any way until a network has results.
    changes.pop("trainer.epochs", None)
    if changes:
        raise SettingError(
            f"{where.root}: the folder contains another experiment; these settings differ (folder → now): "
            f"{describe_changes(changes)}; use the same settings to resume it, or another folder"
        )
    folds = [where.fold(split.index) for split in splits]
    done = [fold.index for fold in folds if where.is_done(fold)]
    predicted = [fold.index for fold in folds if any(fold.state.glob("cnn-*/*_prediction.tsv"))]
    found = differences(saved, new)
    for name, fixed in (("trainer.epochs", done + predicted), ("selection_threshold", done)):
        if fixed and name in found:
            raise SettingError(
                f"{where.root}: splits {fixed} have results of other settings (folder → now): "
                f"{describe_changes({name: found[name]})}; expected the same in all splits; use the same settings to "
                "resume, or another folder"
            )


def _is_being_written(path: Path) -> bool:
    """Return whether `path` is the settings file, which a parallel task writes first."""
    return path.name == COMMANDLINE or path.name.startswith(f".{COMMANDLINE}.")


def _compare_sessions(fold: Fold, split: data.Split) -> None:
    for name, new in (("train", split.train), ("validation", split.validation)):
        path = fold.sessions(name)
        if path.is_file():
            saved = storage.read_table(path)
            key = key_columns(saved.columns, IMAGE)
            if saved[key].to_numpy().tolist() != new.reindex(columns=key).to_numpy().tolist():
                raise SettingError(
                    f"{path}: {len(saved)} other sessions than those of the split ({len(new)}); use the same splits to "
                    "resume, or another folder"
                )

"""Whether a result folder holds the beginning of this very experiment, so that a run may go on there."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurocnn import data, engine, storage
from neurocnn.errors import SettingError
from neurocnn.results.paths import COMMANDLINE, Fold
from neurocnn.results.scoring import last_table
from neurocnn.results.settings import Settings, custom_names, differences, read_settings

_LOGGER = logging.getLogger("neurocnn")
#: What may differ when a run goes on: it changes no number.
_FREE = (
    "neurocnn",
    "trainer.n_workers",
    "trainer.device",
    "trainer.checkpoint_seconds",
    "trainer.rank_seconds",
    "caps.cache_bytes",
    "networks_at_once",
)
#: What may change as long as nothing is scored: what is done cannot follow.
_UNTIL_SCORED = ("trainer.epochs", "selection_threshold")


def check(
    folder: Path, settings: Settings, splits: Sequence[data.Split], task: engine.Task, parts: Any
) -> None:
    """Refuse a folder that holds something else than the beginning of an experiment.

    Parameters
    ----------
    folder
        It may be missing or empty.
    settings
        Those of the experiment, as `commandline.json` has them.
    splits, task, parts
        Those of the experiment.

    Raises
    ------
    SettingError
        It is a file, holds other files, other settings (the message names them), or other sessions.

    Examples
    --------
    >>> task, parts = engine.classification(), data.WholeImage()
    >>> check(tmp / "new", {"multi": True}, [], task, parts)
    >>> _ = (tmp / "thesis.txt").write_text("years of work")
    >>> check(tmp, {"multi": True}, [], task, parts)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurocnn.errors.SettingError: ... is not empty and holds no commandline.json; choose another folder
    """
    path = folder / COMMANDLINE
    if path.is_file():
        own = sorted({name for value in settings.values() for name in custom_names(value)})
        if own:
            _LOGGER.warning(
                "%s: going on with your own code (%s), which is compared by name only: if it has changed, use "
                "another folder",
                folder,
                ", ".join(own),
            )
        folds = [Fold(folder, split.index, task.name) for split in splits]
        done = [fold.index for fold in folds if last_table(fold, task, parts).is_file()]
        begun = [fold.index for fold in folds if any(fold.state.glob("cnn-*/*_prediction.tsv"))]
        _compare_settings(path, settings, {"trainer.epochs": done + begun, "selection_threshold": done})
        for fold, split in zip(folds, splits, strict=True):
            _compare_sessions(fold, split)
    elif folder.exists() and not folder.is_dir():
        raise SettingError(f"{folder} is a file; give a folder for the results")
    elif folder.is_dir() and not all(map(_is_being_written, folder.iterdir())):
        raise SettingError(f"{folder} is not empty and holds no {COMMANDLINE}; choose another folder")


def is_changed(there: Settings, now: Settings) -> bool:
    """Whether settings differ that may change as long as nothing is scored.

    Examples
    --------
    >>> is_changed({"trainer": {"epochs": 5}}, {"trainer": {"epochs": 9}})
    True
    """
    return any(item.startswith(_UNTIL_SCORED) for item in differences(there, now))


def _is_being_written(path: Path) -> bool:
    """Whether a file is that with which another task of a job array has just begun the folder."""
    return path.name == COMMANDLINE or path.name.startswith(f".{COMMANDLINE}.")


def _compare_settings(path: Path, now: Settings, fixed: Mapping[str, list[int]]) -> None:
    """`fixed` has the splits that hold to a setting that may change until then."""
    found = differences(read_settings(path), now)
    differing = [item for item in found if not item.startswith((*_FREE, *_UNTIL_SCORED))]
    if differing:
        raise SettingError(
            f"{path.parent} holds another experiment; these settings differ (there → now): "
            f"{'; '.join(differing)}. Use the same settings to go on, or another folder"
        )
    for name, splits in fixed.items():
        late = [item for item in found if item.startswith(name)]
        if late and splits:
            raise SettingError(
                f"{path.parent}: splits {splits} have results of other settings (there → now): {late[0]}, and all "
                "splits must be made alike. Use the same settings to go on, or another folder"
            )


def _compare_sessions(fold: Fold, split: data.Split) -> None:
    for name, now in (("train", split.train), ("validation", split.validation)):
        if fold.sessions(name).is_file():
            there = storage.read_table(fold.sessions(name))
            key = [column for column in ("cohort", "participant_id", "session_id") if column in there]
            if there[key].to_numpy().tolist() != now[key].to_numpy().tolist():
                raise SettingError(
                    f"{fold.sessions(name)} holds other sessions ({len(there)}) than the split that was given "
                    f"({len(now)}); use the same splits to go on, or another folder"
                )

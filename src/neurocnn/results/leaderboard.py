"""Table that compares several result folders, with the settings in which they differ."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neurocnn.engine.metrics import smaller_is_better
from neurocnn.errors import NotFoundError, suggestion
from neurocnn.errors.arguments import argument_error, check_list, check_path, check_text
from neurocnn.results.paths import COMMANDLINE
from neurocnn.results.setting_json import CUSTOM, Settings
from neurocnn.results.settings import DESCRIPTIONS
from neurocnn.results.tables import ResultTables
from neurocnn.storage.files import find, is_file

_WHERE = "leaderboard"
# The user does not choose these settings: they follow from the data and the version of neurocnn.
_NOT_CHOSEN = {*DESCRIPTIONS, "neurocnn", "input_shape", "image_shape", "splits"}


def leaderboard(
    folders: "str | os.PathLike[str] | ResultTables | Sequence[str | os.PathLike[str] | ResultTables]",
    *,
    level: str = "image",
    selection: str | None = None,
    dataset: str = "validation",
    by: str | None = None,
) -> pd.DataFrame:
    """Return a table of result folders, best first, with the settings in which they differ.

    The score of the best of many folders is partly chance: report its score on data that were not used for any choice.

    Parameters
    ----------
    folders
        Folder that contains result folders at most two levels below; or a list of result folders or of Results.
    level, selection, dataset
        See `Results.metrics`.
    by
        Metric by which the table is sorted. With None, the metric of the selection, or the first metric if the folders
        lack that metric.

    Returns
    -------
    DataFrame
        One row per result folder: ``folder``; the settings that differ, such as ``trainer.learning_rate`` (a list as
        text if the folds have different values, as in the folder ``best`` of a search); ``splits``,
        the number of finished splits; and the mean of each metric over these splits, NaN if no split is finished.

    Raises
    ------
    NotFoundError
        If no result folder is found.
    SettingError
        If `by` is not a metric of these folders, or the selection or level does not exist.

    Examples
    --------
    >>> results.metrics().shape[0]
    4
    >>> leaderboard(results.folder.parent)["splits"].tolist()
    [2]
    """
    tables = _open_results(folders)
    settings = [_settings(table) for table in tables]
    names = dict.fromkeys(name for own in settings for name in own)
    differing = [name for name in names if len({_value_text(own.get(name)) for own in settings}) > 1]
    rows = []
    for table, own in zip(tables, settings, strict=True):
        row = {"folder": str(table.folder), **{name: own.get(name) for name in differing}}
        rows.append(row | {"splits": len(table.splits)} | _mean_metrics(table, level, selection, dataset))
    frame = pd.DataFrame(rows)
    metrics = [str(name) for name in frame.columns[2 + len(differing) :]]
    if by is None:
        chosen = (selection or tables[0].selections[-1]).removeprefix("best_")
        by = chosen if chosen in metrics or not metrics else metrics[0]
    elif check_text("by", by, expected="a metric", where=_WHERE) not in metrics:
        raise argument_error(
            "by", by, "a metric of the folders", where=_WHERE, remedy=suggestion(by, metrics)
        )
    if by in metrics:
        frame = frame.sort_values(by, ascending=smaller_is_better(by), kind="stable", ignore_index=True)
    return frame


def _open_results(folders: Any) -> list[ResultTables]:
    if isinstance(folders, str | os.PathLike):
        root = check_path("folders", folders, where=_WHERE)
        found: list[Any] = [root] if is_file(root / COMMANDLINE) else _find_folders(root)
        if not found:
            raise NotFoundError(
                f"{_WHERE}: {root} contains no result folder; expected one with {COMMANDLINE}"
            )
    elif isinstance(folders, ResultTables):
        found = [folders]
    else:
        found = check_list("folders", folders, "a folder, or a list of result folders", where=_WHERE)
        if not found:
            raise argument_error("folders", folders, "at least one result folder", where=_WHERE)
    return [
        one if isinstance(one, ResultTables) else ResultTables(check_path(f"folders[{i}]", one, where=_WHERE))
        for i, one in enumerate(found)
    ]


def _find_folders(root: Path) -> list[Path]:
    paths = [path.parent for pattern in ("*", "*/*") for path in find(root, f"{pattern}/{COMMANDLINE}")]
    # Shorter paths precede longer ones, so that trial-2 precedes trial-10.
    return sorted(paths, key=lambda path: (len(str(path)), str(path)))


def _settings(table: ResultTables) -> dict[str, Any]:
    """Return the user's settings by dotted name.

    If the folds have different values (after a search), the value is the list of them as text.
    """
    folds = [dict(_flatten(table._experiment.of_fold(index).settings)) for index in table.splits]
    folds = folds or [dict(_flatten(table.settings))]
    found = {}
    for name in dict.fromkeys(name for own in folds for name in own):
        values = [own.get(name) for own in folds]
        found[name] = values[0] if len(set(map(_value_text, values))) == 1 else _value_text(values)
    return found


def _flatten(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each of the user's settings. The value of custom code is its name."""
    for name, value in settings.items():
        if prefix or name not in _NOT_CHOSEN:
            if isinstance(value, Mapping) and CUSTOM in value:
                yield f"{prefix}{name}", value.get("repr", value[CUSTOM])
            elif isinstance(value, Mapping):
                yield from _flatten(dict(value), f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value if _is_scalar(value) else _value_text(value)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def _value_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _mean_metrics(table: ResultTables, level: str, selection: str | None, dataset: str) -> dict[str, float]:
    """Return the mean of each metric over the splits; an empty dict if no split is finished."""
    if not table.splits:
        return {}
    means: dict[Any, Any] = table.metrics(level, selection, dataset).loc["mean"].to_dict()
    return {str(name): value for name, value in means.items() if not str(name).endswith(("_low", "_high"))}

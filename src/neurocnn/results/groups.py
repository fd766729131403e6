"""Metrics by group of participants, and predictions from age, sex or site only."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurocnn import engine, storage
from neurocnn.errors import NotFoundError, SettingError, TableError
from neurocnn.errors.arguments import argument_error, check_each, check_integer, check_list, check_number
from neurocnn.results.checked_tables import drop_names
from neurocnn.results.ensembles import final_predictions
from neurocnn.results.folder import IMAGE, ResultFolder
from neurocnn.results.paths import SETS, Fold
from neurocnn.results.reading import read_metrics
from neurocnn.results.scoring import metrics_row
from neurocnn.storage.files import is_file
from neurocnn.storage.identity import PARTICIPANT, check_columns, describe_rows, key_columns

#: If a numeric column has at most this many different values, each value is a group.
_MAX_GROUPS = 5


def read_sessions(folder: ResultFolder, fold: Fold, dataset: str, columns: Sequence[str]) -> pd.DataFrame:
    """Return the sessions of a data set, with all their columns.

    Raises
    ------
    NotFoundError
        If the folder has no table of the data set's sessions.
    TableError
        If one of `columns` is missing.
    """
    path = fold.sessions(dataset)
    if not is_file(path):
        raise NotFoundError(f"{path} does not exist; predict dataset={dataset!r} again to write this table")
    table = storage.read_table(path)
    check_columns(table, columns, path)
    return table


def group_table(
    folder: ResultFolder, by: str, dataset: str, selection: str | None, bins: int | Sequence[float] | None
) -> pd.DataFrame:
    """Return the table of `Results.by_group`."""
    predictions = final_predictions(folder, selection, dataset)
    if predictions["true_label"].isna().any():
        raise SettingError(
            f"{folder.root}: by_group: dataset={dataset!r} has no true labels; call predict with labels"
        )
    folds = folder.finished_folds if dataset in SETS else folder.finished_folds[:1]
    tables = [read_sessions(folder, fold, dataset, [by]) for fold in folds]
    sessions = pd.concat(tables, ignore_index=True)
    key = key_columns(set(predictions.columns) & set(sessions.columns))
    values = predictions[key].merge(sessions.drop_duplicates(key)[[*key, by]], on=key, how="left")[by]
    names = group_names(values, bins)
    rows = {}
    for name in names.cat.categories:
        own = predictions[(names == name).to_numpy()]
        if len(own):
            people = own[key_columns(own, PARTICIPANT)].drop_duplicates()
            row = metrics_row(folder.task, drop_names(own), intervals=True).iloc[0]
            row[_recalls_of_absent_classes(folder.task, row, own["true_label"])] = np.nan
            rows[name] = {"participants": len(people), "images": len(own), **row.to_dict()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(by)


def _recalls_of_absent_classes(
    task: engine.Task, row: "pd.Series[Any]", labels: "pd.Series[Any]"
) -> list[str]:
    """Return the columns with the recall of a class that does not occur in the group, which is not defined."""
    present = [bool((labels == index).any()) for index in range(len(task.classes or ()))]
    if len(present) == 2:
        absent = {
            name for name, found in zip(("specificity", "sensitivity"), present, strict=True) if not found
        }
    else:
        # With more classes, both are means over the classes.
        absent = set() if all(present) else {"specificity", "sensitivity"}
    return [name for name in row.index if name.removesuffix("_low").removesuffix("_high") in absent]


def group_names(values: "pd.Series[Any]", bins: int | Sequence[float] | None) -> "pd.Series[Any]":
    """Return the name of each value's group as a categorical: the value itself, or its band.

    Examples
    --------
    >>> group_names(pd.Series([61.0, 70.5, 82.0, np.nan]), [60, 70, 90]).tolist()
    ['60 to 70', '70 to 90', '70 to 90', 'missing']
    """
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if bins is None and not (is_number and values.nunique() > _MAX_GROUPS):
        texts = values.map(
            lambda value: "missing" if pd.isna(value) else f"{value:g}" if is_number else str(value)
        )
        order = [text for text in sorted(set(texts)) if text != "missing"]
        return texts.astype(pd.CategoricalDtype([*order, "missing"], ordered=True))
    if not is_number:
        raise argument_error("bins", bins, "None, because the column is not numeric", where="by_group")
    edges = _bin_edges(values, bins)
    bands = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    outside = values.notna() & ((values < edges[0]) | (values > edges[-1]))
    if outside.any():
        raise argument_error(
            "bins", list(edges), f"limits that include {values[outside].iloc[0]:g}", where="by_group"
        )
    cut = pd.cut(values, list(edges), labels=bands, include_lowest=True)
    return cut.cat.add_categories("missing").fillna("missing")


def _bin_edges(values: "pd.Series[Any]", bins: int | Sequence[float] | None) -> list[float]:
    if bins is None or isinstance(bins, int):
        maximum = max(1, int(values.nunique()))
        n = 3 if bins is None else check_integer("bins", bins, minimum=1, maximum=maximum, where="by_group")
        return sorted({float(edge) for edge in values.quantile(np.linspace(0, 1, n + 1).tolist())})
    expected = "a number of bands, or their increasing limits"
    edges = check_each(
        "bins", check_list("bins", bins, expected, where="by_group"), check_number, where="by_group"
    )
    if len(edges) < 2 or any(low >= high for low, high in pairwise(edges)):
        raise argument_error("bins", bins, expected, where="by_group")
    return edges


def confound_table(
    folder: ResultFolder, on: Sequence[str], dataset: str, selection: str | None
) -> pd.DataFrame:
    """Return the table of `Results.confounds`."""
    network = read_metrics(folder, IMAGE, selection, dataset)
    columns = check_each("on", check_list("on", on, "column names", where="confounds"), _check_name)
    if not columns:
        raise argument_error("on", on, "at least one column name", where="confounds")
    if folder.task.label in columns:
        raise argument_error(
            "on", on, f"columns other than the label {folder.task.label!r}", where="confounds"
        )
    rows = {}
    for fold in folder.check_done():
        if fold.index in network.index:
            train, tested = (read_sessions(folder, fold, name, columns) for name in ("train", dataset))
            rows[fold.index] = _score_confounds(
                folder.task, train, tested, columns, f"{fold.path}: confounds"
            )
    scores = pd.DataFrame.from_dict(rows, orient="index")
    splits = network.loc[list(rows)]
    names = [name for name in scores if name in splits]
    return pd.DataFrame(
        {
            "network": splits[names].mean(),
            "network_std": splits[names].std(),
            "confounds": scores[names].mean(),
            "confounds_std": scores[names].std(),
            "difference": splits[names].mean() - scores[names].mean(),
        }
    ).rename_axis("metric")


def _check_name(name: str, value: object, where: str = "confounds") -> str:
    if not isinstance(value, str) or not value:
        raise argument_error(name, value, "a column name", where=where)
    return value


def _score_confounds(
    task: engine.Task, train: pd.DataFrame, tested: pd.DataFrame, columns: list[str], where: str
) -> dict[str, float]:
    """Return the metrics on `tested` of a linear model that is fitted to columns of `train`."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    for table in (train, tested):
        missing = table[table[columns].isna().any(axis=1)]
        if len(missing):
            raise TableError(
                f"{where}: {', '.join(columns)}: a value is missing for {describe_rows(missing)}; expected "
                "complete columns; choose other columns, or run an experiment without these sessions"
            )
    numbers = [name for name in columns if pd.api.types.is_numeric_dtype(train[name])]
    texts = [name for name in columns if name not in numbers]
    encoder = make_column_transformer(
        (StandardScaler(), numbers), (OneHotEncoder(handle_unknown="ignore"), texts)
    )
    model = make_pipeline(encoder, LogisticRegression(max_iter=1000) if task.classes else LinearRegression())
    model.fit(train[columns], _targets(task, train))
    labels = {"true_label": _targets(task, tested), "predicted_label": model.predict(tested[columns])}
    found = tested[key_columns(tested)].assign(**labels)
    if task.classes:
        known, probabilities = list(model[-1].classes_), model.predict_proba(tested[columns])
        for index in range(len(task.classes)):
            found[f"proba{index}"] = probabilities[:, known.index(index)] if index in known else 0.0
    return {str(name): float(value) for name, value in task.metrics(found).items()}


def _targets(task: engine.Task, sessions: pd.DataFrame) -> np.ndarray[Any, Any]:
    if task.label is None or task.label not in sessions:
        raise TableError(
            f"confounds: the label column {task.label!r} is missing in the sessions; add the column to the table, and "
            "run or predict again"
        )
    batch = {name: sessions[name].tolist() for name in key_columns(sessions)}
    target = task.target({**batch, "label": sessions[task.label].tolist()}, torch.device("cpu"))
    return np.asarray(target.double() if task.classes is None else target)

"""Scores of a table of predictions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from neurocnn.errors import SettingError, TableError

Array = np.ndarray[Any, Any]
Metrics = dict[str, float]
#: A DataFrame, or its columns as arrays.
Table = pd.DataFrame | dict[str, Array]

#: Metrics that are better when they are smaller.
ERRORS = frozenset({"mae", "mse", "rmse"})


def smaller_is_better(metric: str) -> bool:
    """Whether a smaller value of this metric is the better one.

    Examples
    --------
    >>> smaller_is_better("loss"), smaller_is_better("balanced_accuracy")
    (True, False)
    """
    return metric.endswith("loss") or metric in ERRORS


def classification_metrics(table: Table, n_classes: int) -> Metrics:
    """Scores of predicted classes.

    Parameters
    ----------
    table
        Columns ``true_label``, ``predicted_label`` (numbers of classes) and, for the area under the ROC
        curve, ``proba0``, ``proba1``, …; for the loss, ``loss``.
    n_classes
        With two, class 1 is the positive one. With more, sensitivity, specificity, PPV, NPV and the area
        under the curve are means over the classes of one class against the rest.

    Returns
    -------
    dict
        ``loss`` (where there is one), ``accuracy``, ``balanced_accuracy`` (mean over the classes that occur),
        ``sensitivity``, ``specificity``, ``ppv``, ``npv`` (each 0 where its denominator is), ``roc_auc``
        (NaN where a class does not occur).

    Raises
    ------
    TableError
        The table is empty or true labels are missing.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0, 0, 1, 1], "predicted_label": [0, 1, 1, 1]})
    >>> classification_metrics(table, 2)["balanced_accuracy"]
    0.75
    """
    true, predicted = _labels(table, "true_label"), _labels(table, "predicted_label")
    confusion = np.bincount(true * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, -1)
    if len(confusion[0]) != n_classes:
        raise TableError(f"labels go beyond the {n_classes} classes 0 … {n_classes - 1}")
    hits, n_true, n_predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    others = len(true) - n_true - n_predicted + hits
    positive = slice(1, 2) if n_classes == 2 else slice(None)
    scores = {
        "accuracy": hits.sum() / len(true),
        "balanced_accuracy": (hits[n_true > 0] / n_true[n_true > 0]).mean(),
        "sensitivity": _ratio(hits, n_true)[positive].mean(),
        "specificity": _ratio(others, len(true) - n_true)[positive].mean(),
        "ppv": _ratio(hits, n_predicted)[positive].mean(),
        "npv": _ratio(others, len(true) - n_predicted)[positive].mean(),
    }
    names = [f"proba{k}" for k in range(n_classes)]
    if set(names) <= set(table):
        columns = [np.asarray(table[name], dtype=float) for name in names]
        areas = [_area(true == k, columns[k]) for k in range(n_classes)[positive]]
        scores["roc_auc"] = sum(areas) / len(areas)
    return _with_loss(table, scores)


def regression_metrics(table: Table) -> Metrics:
    """Scores of predicted numbers: ``loss`` (where there is one), ``mae``, ``rmse``, ``r2``.

    R2 is 1 − (sum of squared errors) / (sum of squares around the mean); where all true values are equal it
    is 1 for a perfect prediction and 0 otherwise, and NaN for a single row.

    Examples
    --------
    >>> regression_metrics(pd.DataFrame({"true_label": [1.0, 3.0], "predicted_label": [1.0, 2.0]}))
    {'mae': 0.5, 'rmse': 0.7071067811865476, 'r2': 0.5}
    """
    true, predicted = _numbers(table, "true_label"), _numbers(table, "predicted_label")
    errors = predicted - true
    residual, total = np.square(errors).sum(), np.square(true - true.mean()).sum()
    if len(true) < 2:
        r2 = math.nan
    elif total > 0:
        r2 = 1 - residual / total
    else:
        r2 = float(residual == 0)
    scores = {"mae": np.abs(errors).mean(), "rmse": math.sqrt(np.square(errors).mean()), "r2": r2}
    return _with_loss(table, scores)


def reconstruction_metrics(table: Table) -> Metrics:
    """Scores of reconstructions: means of each sample's ``mse``, ``mae``, ``psnr`` and ``ssim``, and
    ``rmse``.

    ``rmse`` is the root of the mean ``mse``.

    Examples
    --------
    >>> table = pd.DataFrame({"mse": [0.0, 0.08], "mae": [0.0, 0.2], "psnr": [40.0, 20.0], "ssim": [1.0, 0.5]})
    >>> reconstruction_metrics(table)
    {'mse': 0.04, 'mae': 0.1, 'rmse': 0.2, 'psnr': 30.0, 'ssim': 0.75}
    """
    mse = _numbers(table, "mse").mean()
    scores = {
        "mse": mse,
        "mae": _numbers(table, "mae").mean(),
        "rmse": math.sqrt(mse),
        "psnr": _numbers(table, "psnr").mean(),
        "ssim": _numbers(table, "ssim").mean(),
    }
    return _with_loss(table, scores)


def confidence_intervals(
    table: pd.DataFrame,
    metrics: Callable[[pd.DataFrame], Metrics] | Any,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Percentile bootstrap intervals of metrics, over participants.

    A participant's rows are drawn together: sessions and parts of one person are no independent samples.
    Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.

    Parameters
    ----------
    table
        Predictions, with ``participant_id`` (and ``cohort`` where there are several).
    metrics
        A task, or what its ``metrics`` is: a function from a table to numbers. It gets the columns that are
        no ids, as float64.
    n
        How many times participants are drawn.
    seed
        Same seed, same intervals.
    level
        The share of draws inside the interval.

    Returns
    -------
    DataFrame
        A row a metric (index ``metric``), columns ``value``, ``lower``, ``upper``; draws where a metric is
        not defined are left out.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "participant_id": ["sub-1", "sub-2", "sub-3", "sub-4"],
    ...     "true_label": [1.0, 2.0, 3.0, 4.0], "predicted_label": [1.5, 2.5, 3.5, 4.5],
    ... })
    >>> confidence_intervals(table, regression_metrics, n=100).loc["mae"].to_list()
    [0.5, 0.5, 0.5]
    """
    score = getattr(metrics, "metrics", metrics)
    if n < 1 or not 0 < level < 1:
        raise SettingError(f"n is {n} and level {level}; n ≥ 1 and a level between 0 and 1 are needed")
    ids = [name for name in ("cohort", "participant_id", "session_id", "part_id") if name in table.columns]
    numbers = table.drop(columns=ids).apply(pd.to_numeric).astype(np.float64)
    # Our own metrics take a dict of arrays as well, from which drawing is many times faster.
    ours = getattr(score, "func", score).__module__ == __name__
    arrays = {str(name): numbers[name].to_numpy() for name in numbers.columns}
    value = score(numbers)
    keys = [name for name in ("cohort", "participant_id") if name in table.columns]
    groups = list(table.groupby(keys, sort=True).indices.values())
    generator = np.random.default_rng(seed)
    draws = np.full((n, len(value)), np.nan)
    for draw in draws:
        drawn = generator.integers(len(groups), size=len(groups))
        rows = np.concatenate([groups[i] for i in drawn])
        sample: Any = {name: array[rows] for name, array in arrays.items()} if ours else numbers.take(rows)
        scores = score(sample)
        draw[:] = [scores.get(name, math.nan) for name in value]
    tail = (1 - level) / 2
    intervals = []
    for name, column in zip(value, draws.T, strict=True):
        defined = column[~np.isnan(column)]
        lower, upper = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (math.nan, math.nan)
        intervals.append({"metric": name, "value": value[name], "lower": lower, "upper": upper})
    return pd.DataFrame(intervals).set_index("metric")


def _labels(table: Table, column: str) -> Array:
    return _numbers(table, column).astype(np.int64)


def _numbers(table: Table, column: str) -> Array:
    if column not in table:
        raise TableError(f"the table has no column {column!r}; it has {', '.join(map(str, table))}")
    values: Any = table[column]
    if values.dtype != np.float64 or not isinstance(values, np.ndarray):
        values = pd.to_numeric(pd.Series(values)).to_numpy(dtype=float, na_value=np.nan)
    if len(values) == 0:
        raise TableError("the table has no row; there is nothing to score")
    missing = int(np.isnan(values).sum())
    if missing and column == "true_label":
        raise TableError(f"true_label is missing in {missing} of {len(values)} rows; they cannot be scored")
    numbers: Array = values
    return numbers


def _ratio(numerator: Array, denominator: Array) -> Array:
    shares: Array = np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
    return shares


def _area(positive: Array, scores: Array) -> float:
    """Give the area under the ROC curve as the Mann-Whitney statistic, ties counted half."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0 or np.isnan(scores).any():
        return math.nan
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[position]
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _with_loss(table: Table, scores: dict[str, Any]) -> Metrics:
    loss = {"loss": float(np.asarray(table["loss"], dtype=float).mean())} if "loss" in table else {}
    return loss | {name: float(score) for name, score in scores.items()}

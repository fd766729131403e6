"""Metrics of a table of predictions."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from neurocnn.errors import TableError

Array = np.ndarray[Any, Any]
Metrics = dict[str, float]

#: Metrics for which smaller is better.
ERRORS = frozenset({"mae", "mse", "rmse"})


def smaller_is_better(metric: str) -> bool:
    """Return whether a smaller value of this metric is better.

    Examples
    --------
    >>> smaller_is_better("loss"), smaller_is_better("balanced_accuracy")
    (True, False)
    """
    return metric.endswith("loss") or metric in ERRORS


def classification_metrics(table: pd.DataFrame, n_classes: int) -> Metrics:
    """Return the metrics of a classification.

    Parameters
    ----------
    table
        Columns ``true_label`` and ``predicted_label`` (indices of classes) and, optionally, ``proba0``, ``proba1``, …
        for the area under the ROC curve, and ``loss``.
    n_classes
        Number of classes. With two classes, class 1 is the positive class. With more classes, sensitivity, specificity,
        PPV, NPV and the area under the ROC curve are means over the classes, where each class is compared with all
        others.

    Returns
    -------
    dict
        ``loss`` (if the table has this column), ``accuracy``, ``balanced_accuracy`` (mean over the classes that occur),
        ``sensitivity``, ``specificity``, ``ppv``, ``npv`` (each 0 if its denominator is 0), ``roc_auc``
        (NaN if a class does not occur).

    Raises
    ------
    TableError
        If the table is empty or true labels are missing.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0, 0, 1, 1], "predicted_label": [0, 1, 1, 1]})
    >>> classification_metrics(table, 2)["balanced_accuracy"]
    0.75
    """
    true, predicted = _label_indices(table, "true_label"), _label_indices(table, "predicted_label")
    confusion = np.bincount(true * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, -1)
    if len(confusion[0]) != n_classes:
        raise TableError(f"the table has labels of unknown classes; expected 0 … {n_classes - 1}")
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
        areas = [roc_area(true == k, columns[k]) for k in range(n_classes)[positive]]
        scores["roc_auc"] = sum(areas) / len(areas)
    return with_loss(table, scores)


def regression_metrics(table: pd.DataFrame) -> Metrics:
    """Return the metrics of a regression: ``loss`` (if the table has this column), ``mae``, ``rmse``, ``r2``.

    R2 is 1 − (sum of squared errors) / (sum of squares around the mean). If all true values are equal it is 1 for a
    perfect prediction and 0 otherwise; it is NaN for a single row.

    Examples
    --------
    >>> regression_metrics(pd.DataFrame({"true_label": [1.0, 3.0], "predicted_label": [1.0, 2.0]}))
    {'mae': 0.5, 'rmse': 0.7071067811865476, 'r2': 0.5}
    """
    true, predicted = _float_column(table, "true_label"), _float_column(table, "predicted_label")
    errors = predicted - true
    residual, total = np.square(errors).sum(), np.square(true - true.mean()).sum()
    if len(true) < 2:
        r2 = math.nan
    elif total > 0:
        # For nearly equal true values, R2 may be −inf.
        with np.errstate(over="ignore"):
            r2 = 1 - residual / total
    else:
        r2 = float(residual == 0)
    scores = {"mae": np.abs(errors).mean(), "rmse": math.sqrt(np.square(errors).mean()), "r2": r2}
    return with_loss(table, scores)


def reconstruction_metrics(table: pd.DataFrame) -> Metrics:
    """Return the metrics of a reconstruction.

    The metrics are the means of ``mse``, ``mae``, ``psnr`` and ``ssim`` over the samples, ``rmse`` (the root of the
    mean ``mse``), and ``loss`` (if the table has this column).

    Examples
    --------
    >>> table = pd.DataFrame({"mse": [0.0, 0.08], "mae": [0.0, 0.2], "psnr": [40.0, 20.0], "ssim": [1.0, 0.5]})
    >>> reconstruction_metrics(table)
    {'mse': 0.04, 'mae': 0.1, 'rmse': 0.2, 'psnr': 30.0, 'ssim': 0.75}
    """
    mse = _float_column(table, "mse").mean()
    scores = {
        "mse": mse,
        "mae": _float_column(table, "mae").mean(),
        "rmse": math.sqrt(mse),
        "psnr": _float_column(table, "psnr").mean(),
        "ssim": _float_column(table, "ssim").mean(),
    }
    return with_loss(table, scores)


def probability_columns(table: pd.DataFrame) -> list[str]:
    """Return the names of the columns of class probabilities: ``proba0``, ``proba1``, …"""
    names: list[str] = []
    while f"proba{len(names)}" in table:
        names.append(f"proba{len(names)}")
    return names


def _label_indices(table: pd.DataFrame, column: str) -> Array:
    return _float_column(table, column).astype(np.int64)


def _float_column(table: pd.DataFrame, column: str) -> Array:
    if column not in table:
        raise TableError(f"the table has no column {column!r}; found {', '.join(map(str, table))}")
    series = table[column]
    numeric = series if series.dtype == np.float64 else pd.to_numeric(series)
    values: Array = numeric.to_numpy(dtype=float, na_value=np.nan)
    if len(values) == 0:
        raise TableError("the table has no rows; expected at least one row")
    missing = int(np.isnan(values).sum())
    if missing and column == "true_label":
        raise TableError(
            f"true_label is missing in {missing} of {len(values)} rows; expected a label; drop these rows"
        )
    finite = np.isfinite(values)
    if column in ("true_label", "predicted_label") and not finite.all():
        row = int(finite.argmin())
        raise TableError(f"{column} is NaN or infinite in row {row}; expected finite numbers")
    return values


def _ratio(numerator: Array, denominator: Array) -> Array:
    shares: Array = np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
    return shares


def roc_area(positive: Array, scores: Array) -> float:
    """Return the area under the ROC curve: the Mann-Whitney statistic, with ties counted half."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0 or np.isnan(scores).any():
        return math.nan
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[position]
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def with_loss(table: pd.DataFrame, scores: Mapping[str, Any]) -> Metrics:
    """Return the scores of a table as floats, after the mean of its column ``loss``, if it has one.

    Examples
    --------
    >>> with_loss(pd.DataFrame({"loss": [1.0, 2.0]}), {"accuracy": 1})
    {'loss': 1.5, 'accuracy': 1.0}
    """
    loss = {"loss": float(np.asarray(table["loss"], dtype=float).mean())} if "loss" in table else {}
    return loss | {name: float(score) for name, score in scores.items()}

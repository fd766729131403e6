"""How much each part of an image counts in a vote.

Patches in the corners of an image hold background and skull; those within the brain know more. What a part
knows is measured on the validation set of its own split and selection, never on the set that votes.
"""

import warnings
from collections.abc import Mapping
from typing import Any, TypeAlias, Union

import numpy as np
import pandas as pd

from neurocnn.errors import SettingError, TableError

# Quoted and in a Union, for pandas is generic to type checkers only.
Weights: TypeAlias = Union["pd.Series[Any]", Mapping[int, float]]


def part_balanced_accuracy(predictions: pd.DataFrame) -> "pd.Series[Any]":
    """The balanced accuracy of each part: the mean over the classes that occur of the fraction found.

    Parameters
    ----------
    predictions
        One row a part: ``part_id, true_label, predicted_label`` and any other columns.

    Returns
    -------
    Series
        ``balanced_accuracy`` (0 to 1), index ``part_id`` in increasing order.

    Raises
    ------
    TableError
        There is no row, a column is absent, or a label is missing.

    Examples
    --------
    >>> parts = pd.DataFrame({
    ...     "part_id": [0, 0, 0, 1, 1, 1], "true_label": [0, 0, 1, 0, 0, 1],
    ...     "predicted_label": [0, 1, 1, 1, 1, 1],
    ... })
    >>> part_balanced_accuracy(parts).to_dict()
    {0: 0.75, 1: 0.5}
    """
    columns = ["part_id", "true_label", "predicted_label"]
    absent = [column for column in columns if column not in predictions]
    if absent:
        raise TableError(
            f"predictions have no column {', '.join(absent)}; "
            f"there are: {', '.join(map(str, predictions.columns)) or 'none'}"
        )
    if predictions.empty:
        raise TableError("predictions have no row: a part's accuracy is measured on validation images")
    missing = predictions[columns].isna().any(axis=1)
    if missing.any():
        parts = sorted(predictions.loc[missing, "part_id"].dropna().unique().tolist())
        raise TableError(
            f"predictions: {int(missing.sum())} of {len(predictions)} rows lack a label or part_id "
            f"(parts {parts}): accuracies need labelled images"
        )
    right = predictions["predicted_label"] == predictions["true_label"]
    found = right.groupby([predictions["part_id"], predictions["true_label"]]).mean()
    return found.groupby(level="part_id").mean().astype(float).rename("balanced_accuracy")


def part_weights(
    validation_predictions: pd.DataFrame, selection_threshold: float | None = None
) -> "pd.Series[Any]":
    """The weights of a soft vote: the parts' validation balanced accuracies, scaled to sum to 1.

    Parameters
    ----------
    validation_predictions
        Predictions for the parts of the validation images of the same split and selection, see
        `part_balanced_accuracy`.
    selection_threshold
        Only parts whose balanced accuracy is greater than this count; the others weigh 0. None: all count.

    Returns
    -------
    Series
        ``weight``, index ``part_id`` (all parts, in increasing order); sums to 1.

    Warns
    -----
    UserWarning
        All accuracies are zero: all parts weigh the same.

    Raises
    ------
    TableError
        See `part_balanced_accuracy`.
    SettingError
        The threshold is not between 0 and 1, or no part is above it.

    Examples
    --------
    >>> parts = pd.DataFrame({
    ...     "part_id": [0, 0, 0, 1, 1, 1], "true_label": [0, 0, 1, 0, 0, 1],
    ...     "predicted_label": [0, 1, 1, 1, 1, 1],
    ... })
    >>> part_weights(parts).to_dict()
    {0: 0.6, 1: 0.4}
    >>> part_weights(parts, selection_threshold=0.5).to_dict()
    {0: 1.0, 1: 0.0}
    """
    accuracies = part_balanced_accuracy(validation_predictions)
    if selection_threshold is not None:
        accuracies = _selected(accuracies, selection_threshold)
    elif not accuracies.any():
        warnings.warn(
            f"all {len(accuracies)} parts have a validation balanced accuracy of 0: "
            "they get the same weight; look at their trainings",
            stacklevel=2,
        )
        accuracies = accuracies + 1.0
    return (accuracies / accuracies.sum()).rename("weight")


def _selected(accuracies: "pd.Series[Any]", threshold: float) -> "pd.Series[Any]":
    if not 0 <= threshold <= 1:
        raise SettingError(f"selection_threshold must be between 0 and 1, found {threshold}")
    selected = accuracies.where(accuracies > threshold, 0.0)
    if not selected.any():
        raise SettingError(
            f"selection_threshold={threshold} leaves no part: the highest validation balanced accuracy "
            f"is {accuracies.max():.6g} (part {accuracies.idxmax()}); choose a lower threshold or None"
        )
    return selected


def checked_weights(weights: Weights) -> "pd.Series[Any]":
    """Weights as a Series of float64 by part id.

    Raises
    ------
    SettingError
        There are none, a part has two, or one is negative, infinite or missing.
    """
    series = pd.Series(weights, dtype=float)
    if series.empty:
        raise SettingError("there are no weights; give None for a vote in which all parts count the same")
    if series.index.has_duplicates:
        twice = sorted(series.index[series.index.duplicated()].unique().tolist())
        raise SettingError(f"weights: parts {twice} have two weights; give each part one")
    wrong = series[~(np.isfinite(series) & (series >= 0))]
    if len(wrong):
        raise SettingError(f"weights must be finite and not negative, found {wrong.head(5).to_dict()}")
    return series

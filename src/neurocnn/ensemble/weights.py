"""Weight of each part of an image in a vote.

Patches in the corners of an image show background and skull, and predict worse than patches within the brain. A part's
weight comes from its accuracy on the validation set of the same split and selection, never from the set for which the
vote is computed.
"""

import warnings
from collections.abc import Mapping
from typing import Any, TypeAlias, Union

import pandas as pd

from neurocnn.ensemble.grouping import WHERE, check_predictions
from neurocnn.errors import SettingError, TableError
from neurocnn.errors.arguments import argument_error, check_integer, check_number

# The type is quoted and in a Union, because only type checkers treat pandas' Series as generic.
Weights: TypeAlias = Union["pd.Series[Any]", Mapping[int, float]]


def part_balanced_accuracy(predictions: pd.DataFrame) -> "pd.Series[Any]":
    """Return the balanced accuracy of each part: the mean of the recalls of the classes that occur.

    Parameters
    ----------
    predictions
        One row per part: ``part_id, true_label, predicted_label`` and any other columns.

    Returns
    -------
    Series
        ``balanced_accuracy`` (0 to 1), index ``part_id`` in increasing order.

    Raises
    ------
    TableError
        If the table has no rows, or a column or label is missing.

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
    check_predictions(predictions, columns)
    missing = predictions[columns].isna().any(axis=1)
    if missing.any():
        parts = sorted(predictions.loc[missing, "part_id"].dropna().unique().tolist())
        raise TableError(
            f"{WHERE}: {int(missing.sum())} of {len(predictions)} rows lack a label or part_id (parts {parts}); "
            "expected labelled images"
        )
    right = predictions["predicted_label"] == predictions["true_label"]
    found = right.groupby([predictions["part_id"], predictions["true_label"]]).mean()
    return found.groupby(level="part_id").mean().astype(float).rename("balanced_accuracy")


def part_weights(
    validation_predictions: pd.DataFrame, selection_threshold: float | None = None
) -> "pd.Series[Any]":
    """Return the weights of a soft vote: the parts' validation balanced accuracies, scaled to sum to 1.

    Parameters
    ----------
    validation_predictions
        Predictions for the parts of the validation images of the same split and selection, see
        `part_balanced_accuracy`.
    selection_threshold
        Lower limit of a part's balanced accuracy: parts that do not exceed this limit get weight 0. With None, all
        parts are kept.

    Returns
    -------
    Series
        ``weight``, index ``part_id`` (all parts, in increasing order); sums to 1.

    Warns
    -----
    UserWarning
        If all accuracies are zero; all parts then have the same weight.

    Raises
    ------
    TableError
        See `part_balanced_accuracy`.
    SettingError
        If the threshold is not between 0 and 1, or no part exceeds it.

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
        accuracies = _check_and_apply_threshold(accuracies, selection_threshold)
    elif not accuracies.any():
        warnings.warn(
            f"all {len(accuracies)} parts have a validation balanced accuracy of 0 and get the same weight; check "
            "how they were trained",
            stacklevel=2,
        )
        accuracies = accuracies + 1.0
    return (accuracies / accuracies.sum()).rename("weight")


def _check_and_apply_threshold(accuracies: "pd.Series[Any]", threshold: float) -> "pd.Series[Any]":
    limit = check_number("selection_threshold", threshold, minimum=0, maximum=1)
    selected = accuracies.where(accuracies > limit, 0.0)
    if not selected.any():
        highest = f"{accuracies.max():.6g} (part {accuracies.idxmax()})"
        raise SettingError(
            f"selection_threshold={threshold}: no part exceeds it; the highest validation balanced accuracy is "
            f"{highest}; choose a lower threshold or None"
        )
    return selected


def check_weights(weights: Weights) -> "pd.Series[Any]":
    """Return the weights as a Series of float64 by part id.

    Raises
    ------
    SettingError
        If the weights are empty or not labelled by part id, a part has two weights, or a weight is not finite or < 0.
    """
    if not isinstance(weights, pd.Series | Mapping):
        expected = "a Series indexed by part_id or a dict {part_id: weight}, as from part_weights"
        raise argument_error("weights", weights, expected, where="soft_vote")
    if not len(weights):
        raise argument_error(
            "weights", weights, "at least one weight, or None for equal weights", where="soft_vote"
        )
    found: dict[int, float] = {}
    for key, weight in weights.items():
        part = check_integer("weights: part_id", key, where="soft_vote")
        if part in found:
            raise SettingError(f"soft_vote: weights: part {part} has two weights; expected one weight")
        found[part] = check_number(f"weights[{part}]", weight, minimum=0, where="soft_vote")
    return pd.Series(found, dtype=float)

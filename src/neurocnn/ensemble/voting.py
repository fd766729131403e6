"""Votes: predictions for images from the predictions for their parts.

A vote identifies rows by image (participant, session and, if there are several, cohort) and part, never by position,
because several networks, workers and ranks write rows in any order. Sums are computed in the order of the part ids, so
that the result does not depend on the order of the rows, not even in its last bit.
"""

import re
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurocnn.ensemble.grouping import WHERE, PartsOfImages
from neurocnn.ensemble.weights import Weights, check_weights
from neurocnn.errors import TableError
from neurocnn.errors.arguments import check_table
from neurocnn.storage.identity import PART, describe_rows

# Sums of probabilities that are equal may differ because of rounding. Differences up to this limit count as a tie.
_ROUNDING = 1e-12


def soft_vote(predictions: pd.DataFrame, weights: Weights | None = None) -> pd.DataFrame:
    """Return the weighted mean of the parts' probabilities: p_c = Σ_i w_i p_i,c / Σ_i w_i.

    The sums are over the existing parts of an image. If a part is missing, the weights of the other parts are scaled
    up. The class with the largest probability is predicted; in a tie, the class with the lowest index.

    Parameters
    ----------
    predictions
        One row per part: ``participant_id, session_id, [cohort,] part_id, [true_label,] proba0, proba1, …``
    weights
        Series indexed by part id, or dict, with weights on any scale, as `part_weights` returns for the validation
        set of the same split and selection. With None, all parts have the same weight.

    Returns
    -------
    DataFrame
        One row per image, in the order of the images' first rows in `predictions`, with the same columns except
        ``part_id``, and with ``predicted_label``. A missing true label stays missing.

    Warns
    -----
    UserWarning
        If a part has no weight (the part is omitted), or all parts of an image have weight zero (equal weights
        are used).

    Raises
    ------
    TableError
        If a column or id is missing, a part of an image occurs twice, an image has two true labels, a probability
        is not a number from 0 to 1, or an image has no part with a weight.
    SettingError
        If the weights are not labelled by part id, or a weight is negative or not a number.

    References
    ----------
    Wen et al., Medical Image Analysis 63 (2020) 101694, section 3.3: soft voting of slices and patches.

    Examples
    --------
    >>> parts = pd.DataFrame({
    ...     "participant_id": ["sub-01", "sub-01"], "session_id": ["ses-M00", "ses-M00"], "part_id": [0, 1],
    ...     "true_label": [1, 1], "proba0": [0.75, 0.25], "proba1": [0.25, 0.75],
    ... })
    >>> soft_vote(parts, pd.Series({0: 0.2, 1: 0.6}))
      participant_id session_id  true_label  predicted_label  proba0  proba1
    0         sub-01    ses-M00           1                1   0.375   0.625
    """
    columns = _probability_columns(predictions)
    if not columns:
        raise TableError(
            f"{WHERE}: the columns proba0, proba1, … are missing; expected probabilities; use `average` for numbers "
            "(`vote='average'` of a Task)"
        )
    parts = PartsOfImages.from_table(predictions, columns)
    probabilities = parts.numbers(columns)
    parts.raise_if_any((probabilities < 0) | (probabilities > 1 + 1e-6), "a probability is outside 0 … 1")
    row_weights = _row_weights(parts, weights)[:, None]
    means = parts.total(row_weights * probabilities) / parts.total(row_weights)
    return parts.images.assign(
        predicted_label=_first_largest(means), **dict(zip(columns, means.T, strict=True))
    )


def hard_vote(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the class that most parts predict; in a tie, the class with the lowest index.

    Parameters
    ----------
    predictions
        One row per part: ``participant_id, session_id, [cohort,] part_id, [true_label,] predicted_label``. The
        number of classes is the number of columns ``proba0, …``, or the largest label + 1 without these columns.

    Returns
    -------
    DataFrame
        One row per image, in the order of the images' first rows in `predictions`, with the columns of `soft_vote`;
        ``proba0, …`` are the fractions of the image's parts that predict each class.

    Raises
    ------
    TableError
        If a column or id is missing, a part of an image occurs twice, an image has two true labels, or a predicted
        label is not the index of a class.

    Examples
    --------
    >>> parts = pd.DataFrame({
    ...     "participant_id": "sub-01", "session_id": "ses-M00", "part_id": range(4),
    ...     "predicted_label": [1, 0, 1, 1],
    ... })
    >>> hard_vote(parts)
      participant_id session_id  predicted_label  proba0  proba1
    0         sub-01    ses-M00                1    0.25    0.75
    """
    parts = PartsOfImages.from_table(predictions, ["predicted_label"])
    labels = parts.numbers(["predicted_label"])
    parts.raise_if_any(
        (labels < 0) | (labels % 1 != 0), "a predicted label is not the index of a class (0, 1, …)"
    )
    known = [labels.max(), len(_probability_columns(predictions)) - 1]
    if "true_label" in parts.images:
        known.extend(parts.images["true_label"].dropna())
    n_classes = int(max(known)) + 1
    votes = parts.total((labels == np.arange(n_classes)).astype(float))
    fractions = votes / votes.sum(axis=1, keepdims=True)
    return parts.images.assign(
        predicted_label=_first_largest(fractions), **{f"proba{c}": fractions[:, c] for c in range(n_classes)}
    )


def average(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each numeric column over the parts of each image, the vote of regressions and reconstructions.

    Parameters
    ----------
    predictions
        One row per part: ``participant_id, session_id, [cohort,] part_id, [true_label,]`` and numeric columns to
        average. ``loss`` is omitted, because an image's loss is not the mean of its parts' losses.

    Returns
    -------
    DataFrame
        One row per image, in the order of the images' first rows in `predictions`, with the same columns except
        ``part_id``.

    Raises
    ------
    TableError
        If a column or id is missing, a part of an image occurs twice, an image has two true labels, a value is not
        a finite number, or the table has probabilities of classes.

    Examples
    --------
    >>> parts = pd.DataFrame({
    ...     "participant_id": "sub-01", "session_id": "ses-M00", "part_id": [0, 1],
    ...     "true_label": 70.0, "predicted_label": [66.0, 71.0],
    ... })
    >>> average(parts)
      participant_id session_id  true_label  predicted_label
    0         sub-01    ses-M00        70.0             68.5
    """
    if _probability_columns(predictions):
        raise TableError(
            f"{WHERE}: found class probabilities (proba0, …); expected predictions of a regression or reconstruction; "
            "for a classification use soft_vote or hard_vote"
        )
    omitted = {*PART, "true_label", "loss"}
    columns = [str(name) for name in predictions.select_dtypes("number").columns if name not in omitted]
    if not columns:
        raise TableError(f"{WHERE}: no numeric column to average; expected a column such as predicted_label")
    parts = PartsOfImages.from_table(predictions, columns)
    means = parts.total(parts.numbers(columns)) / parts.total(np.ones((len(parts.rows), 1)))
    return parts.images.assign(**dict(zip(columns, means.T, strict=True)))


def _probability_columns(table: pd.DataFrame) -> list[str]:
    names = check_table(WHERE, table).columns
    found = {str(name) for name in names if re.fullmatch(r"proba\d+", str(name))}
    columns = [f"proba{index}" for index in range(len(found))]
    if found != set(columns):
        raise TableError(
            f"{WHERE}: found the columns {', '.join(sorted(found))}; expected {', '.join(columns)}"
        )
    return columns


def _row_weights(parts: PartsOfImages, weights: Weights | None) -> npt.NDArray[np.float64]:
    """Return the weight of each row: zero for omitted rows; each image has at least one weight above zero."""
    if weights is None:
        return np.ones(len(parts.rows))
    series = check_weights(weights)
    row_weights = series.reindex(parts.rows["part_id"]).to_numpy(float)
    unknown = np.isnan(row_weights)
    if unknown.any():
        unweighted = parts.total(~unknown[:, None] * 1.0)[:, 0] == 0
        known = list(series.index)
        parts.raise_if_any(
            unweighted[parts.image],
            f"images without a weighted part; found weights for the part_ids {known}",
        )
        omitted = sorted(parts.rows.loc[unknown, "part_id"].unique().tolist())
        warnings.warn(f"parts without a weight are omitted from the vote: {omitted}", stacklevel=3)
    row_weights = np.where(unknown, 0.0, row_weights)
    zero = (parts.total(row_weights[:, None])[:, 0] == 0)[parts.image]
    if zero.any():
        rows = describe_rows(parts.rows[zero])
        warnings.warn(
            f"all weights of an image are zero, so its parts get equal weights: {rows}", stacklevel=3
        )
        row_weights = np.where(zero & ~unknown, 1.0, row_weights)
    return row_weights


def _first_largest(values: npt.NDArray[np.float64]) -> npt.NDArray[np.integer[Any]]:
    return np.asarray(np.argmax(values >= values.max(axis=1, keepdims=True) - _ROUNDING, axis=1))

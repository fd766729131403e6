"""From predictions of parts to predictions of images.

A vote joins rows by image (participant, session and, where there is one, cohort) and part, never by their
position: networks of several parts, workers and ranks deliver rows in any order. Sums run in the order of
the part ids, so that the order of the rows changes no bit of the result.
"""

import re
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurocnn.ensemble.grouping import KEYS, PartsOfImages, named
from neurocnn.ensemble.weights import Weights, checked_weights
from neurocnn.errors import TableError

# Probabilities of classes whose exact sums are equal may differ by rounding; this decides that they tie.
_ROUNDING = 1e-12


def soft_vote(predictions: pd.DataFrame, weights: Weights | None = None) -> pd.DataFrame:
    """The weighted mean of the parts' probabilities: p_c = Σ_i w_i p_i,c / Σ_i w_i.

    The sums run over the parts that an image has: a missing part is left out and the weights of the others
    are scaled up. The class of the largest probability is predicted, the lower one of several.

    Parameters
    ----------
    predictions
        One row a part: ``participant_id, session_id, [cohort,] part_id, [true_label,] proba0, proba1, …``
    weights
        A weight for each part id, on any scale: what `part_weights` makes of the predictions for the
        validation set of the same split and selection. None: all parts count the same.

    Returns
    -------
    DataFrame
        One row an image, in the order of their first rows: the same columns without ``part_id`` and with
        ``predicted_label``. A true label that is missing stays missing.

    Warns
    -----
    UserWarning
        A part has no weight (it is left out), or all parts of an image weigh zero (they count the same).

    Raises
    ------
    TableError
        A column or id is missing, a part of an image stands there twice, an image has two true labels, a
        probability is no number from 0 to 1, or an image has no part that has a weight.
    SettingError
        A weight is negative or no number.

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
            "a soft vote needs the columns proba0, proba1, …; "
            f"there are: {', '.join(map(str, predictions.columns))} (values are averaged by `average`)"
        )
    parts = PartsOfImages.of(predictions, columns)
    probabilities = parts.numbers(columns)
    parts.refuse((probabilities < 0) | (probabilities > 1 + 1e-6), "a probability is not between 0 and 1")
    row_weights = _row_weights(parts, weights)[:, None]
    means = parts.total(row_weights * probabilities) / parts.total(row_weights)
    return parts.images.assign(
        predicted_label=_first_largest(means), **dict(zip(columns, means.T, strict=True))
    )


def hard_vote(predictions: pd.DataFrame) -> pd.DataFrame:
    """The class that most parts predict, the lower one of several.

    Parameters
    ----------
    predictions
        One row a part: ``participant_id, session_id, [cohort,] part_id, [true_label,] predicted_label``;
        columns ``proba0, …`` say how many classes there are. Without them the largest label says it.

    Returns
    -------
    DataFrame
        One row an image, in the order of their first rows, as `soft_vote` gives it; ``proba0, …`` are the
        fractions of its parts that predict each class.

    Raises
    ------
    TableError
        A column or id is missing, a part of an image stands there twice, an image has two true labels, or a
        predicted label is no index of a class.

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
    parts = PartsOfImages.of(predictions, ["predicted_label"])
    labels = parts.numbers(["predicted_label"])
    parts.refuse((labels < 0) | (labels % 1 != 0), "a predicted label is no index of a class (0, 1, …)")
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
    """The plain mean over parts of values: the vote of a regression, or the measures of a reconstruction.

    Parameters
    ----------
    predictions
        One row a part: ``participant_id, session_id, [cohort,] part_id, [true_label,]`` and the columns of
        numbers to average. ``loss`` is left out: an image's loss is not the mean of its parts' losses.

    Returns
    -------
    DataFrame
        One row an image, in the order of their first rows, with the same columns without ``part_id``.

    Raises
    ------
    TableError
        A column or id is missing, a part of an image stands there twice, an image has two true labels, a
        value is no finite number, or the table has classes' probabilities.

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
            "this table holds classes and their probabilities, whose mean label means nothing: "
            "use soft_vote or hard_vote"
        )
    left_out = {*KEYS, "part_id", "true_label", "loss"}
    numeric = predictions.select_dtypes("number").columns
    columns = [str(column) for column in numeric if column not in left_out]
    if not columns:
        raise TableError(
            "there is no column of numbers to average, such as predicted_label; "
            f"there are: {', '.join(map(str, predictions.columns))}"
        )
    parts = PartsOfImages.of(predictions, columns)
    means = parts.total(parts.numbers(columns)) / parts.total(np.ones((len(parts.rows), 1)))
    return parts.images.assign(**dict(zip(columns, means.T, strict=True)))


def _probability_columns(table: pd.DataFrame) -> list[str]:
    found = {str(column) for column in table.columns if re.fullmatch(r"proba\d+", str(column))}
    columns = [f"proba{index}" for index in range(len(found))]
    if found != set(columns):
        raise TableError(f"the probabilities must be {', '.join(columns)}; found {', '.join(sorted(found))}")
    return columns


def _row_weights(parts: PartsOfImages, weights: Weights | None) -> npt.NDArray[np.float64]:
    """The weight of each row; zero for rows left out, at least one above zero for each image."""
    if weights is None:
        return np.ones(len(parts.rows))
    series = checked_weights(weights)
    row_weights = series.reindex(parts.rows["part_id"]).to_numpy(float)
    unknown = np.isnan(row_weights)
    if unknown.any():
        nothing = parts.total(~unknown[:, None] * 1.0)[:, 0] == 0
        parts.refuse(
            nothing[parts.image], f"no part has a weight (there are weights for {list(series.index)})"
        )
        left_out = sorted(parts.rows.loc[unknown, "part_id"].unique().tolist())
        warnings.warn(f"parts without a weight are left out of the vote: {left_out}", stacklevel=3)
    row_weights = np.where(unknown, 0.0, row_weights)
    zero = (parts.total(row_weights[:, None])[:, 0] == 0)[parts.image]
    if zero.any():
        found = named(parts.rows[zero])
        warnings.warn(f"all weights are zero, so that all parts count the same: {found}", stacklevel=3)
        row_weights = np.where(zero & ~unknown, 1.0, row_weights)
    return row_weights


def _first_largest(
    values: npt.NDArray[np.float64],
) -> npt.NDArray[np.integer[Any]]:
    return np.asarray(np.argmax(values >= values.max(axis=1, keepdims=True) - _ROUNDING, axis=1))

"""Standardised mean differences between the participants of two sets."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurocnn.storage.identity import IMAGE, person_columns

#: Text columns with more distinct values, such as names, are omitted.
MAX_VALUES = 10
_COLUMNS = ["column", "value", "train", "validation", "difference"]


def balance(train: pd.DataFrame, validation: pd.DataFrame) -> pd.DataFrame:
    """Return the standardised mean differences of two sets: one row per numeric column and per value of each text
    column.

    Only the first row of each participant is used. Text columns with more than 10 distinct values are omitted, and
    missing values are ignored.

    Parameters
    ----------
    train, validation
        Sessions of the two sets.

    Returns
    -------
    DataFrame
        ``column``; ``value``, None for numbers; ``train`` and ``validation``, the mean, or the proportion of
        participants with the value; ``difference``, train − validation in pooled standard deviations,
        √((s₁² + s₂²) / 2), where s² = p (1 − p) for a proportion p. If both sets are constant, the difference is 0 for
        equal means and infinite for different means. Without values, it is NaN.

    References
    ----------
    Austin, Statistics in Medicine 28 (2009) 3083: differences below 0.1 are negligible.

    Examples
    --------
    >>> ids = {"participant_id": ["sub-1", "sub-2"], "session_id": "ses-M00"}
    >>> balance(pd.DataFrame({**ids, "age": [60, 70]}), pd.DataFrame({**ids, "age": [70, 80]})).round(2)
      column value  train  validation  difference
    0    age  None   65.0        75.0       -1.41
    """
    first, second = (table.drop_duplicates(person_columns(table)) for table in (train, validation))
    names = [str(name) for name in first if name in second and name not in IMAGE]
    rows = [row for name in names for row in _column_differences(name, first, second)]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _column_differences(
    name: str, first: pd.DataFrame, second: pd.DataFrame
) -> Iterator[tuple[str, str | None, float, float, float]]:
    columns = [table[name].dropna() for table in (first, second)]
    if all(pd.api.types.is_numeric_dtype(column) and column.dtype != bool for column in columns):
        means = [_mean_or_nan(column.to_numpy(dtype=float)) for column in columns]
        spreads = [float(column.var()) if len(column) > 1 else math.nan for column in columns]
        yield name, None, means[0], means[1], _standardised_difference(means, spreads)
        return
    values = sorted({str(value) for column in columns for value in column})
    if len(values) > MAX_VALUES:
        return
    for value in values:
        shares = [_mean_or_nan(np.array(column.astype(str) == value, dtype=float)) for column in columns]
        yield (
            name,
            value,
            shares[0],
            shares[1],
            _standardised_difference(shares, [share * (1 - share) for share in shares]),
        )


def _mean_or_nan(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _standardised_difference(means: list[float], variances: list[float]) -> float:
    distance, spread = means[0] - means[1], math.sqrt(sum(variances) / 2)
    if distance == 0:
        return 0.0
    return distance / spread if spread != 0 else math.copysign(math.inf, distance)

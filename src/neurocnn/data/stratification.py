"""Order of participants in which neighbours are similar in chosen categorical and numeric columns."""

import itertools
import math
import numbers
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurocnn.errors import TableError
from neurocnn.errors.arguments import check_each, check_list, check_text
from neurocnn.storage.identity import check_columns, describe_rows
from neurocnn.storage.tables import is_number

# A numeric column with more distinct values is continuous. The CDR has fewer values, so they are classes.
_MAX_CLASSES = 6
# A text column in which at least this fraction of cells are numbers is treated as a numeric column with invalid cells.
_MIN_NUMERIC = 0.8

Integers = NDArray[np.int64]


def stratified_columns(sessions: pd.DataFrame, stratify: str | Sequence[str]) -> list[str]:
    """Return the names of the columns by which to stratify, after a check of their values.

    Parameters
    ----------
    sessions
        One row per image.
    stratify
        Column name or list of column names.

    Raises
    ------
    TableError
        If a column is missing, or at least 80 % but not all of its values are numbers. The message contains the first
        cell that is not a number. Columns of pandas' dtype "category" are always classes.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1", "sub-2", "sub-3", "sub-4", "sub-5"], "age": [*"1234", "90+"]})
    >>> stratified_columns(frame, "age")
    Traceback (most recent call last):
    neurocnn.errors.TableError: stratify: age='90+' in row 4 (sub-5); expected a number as in 4 of 5 rows; correct the \
cell, leave it empty if the value is missing, or convert the column with astype("category") if its values are classes
    """
    expected = "a column name or a list of them"
    columns = [stratify] if isinstance(stratify, str) else check_list("stratify", stratify, expected)
    check_each("stratify", columns, check_text, expected="a column name")
    check_columns(sessions, columns, "stratify")
    for column in columns:
        _check_numbers(sessions, column)
    return columns


def _check_numbers(sessions: pd.DataFrame, name: str) -> None:
    column = sessions[name]
    is_number_type = pd.api.types.is_numeric_dtype(column)
    if isinstance(column.dtype, pd.CategoricalDtype) or (
        is_number_type and not column.isin([math.inf, -math.inf]).any()
    ):
        return
    cells = [(row, str(value)) for row, value in enumerate(column.tolist()) if not pd.isna(value)]
    invalid = [(row, cell) for row, cell in cells if not _is_finite(cell)]
    # A cell with a decimal comma counts as a number here, because its column should probably be numeric.
    n_numbers = sum(is_number(cell.replace(",", ".", 1)) for _, cell in cells)
    if invalid and n_numbers >= _MIN_NUMERIC * len(cells):
        row, cell = invalid[0]
        who = describe_rows(sessions.iloc[[row]])
        raise TableError(
            f"stratify: {name}={cell!r} in row {row} ({who}); expected a number as in "
            f"{len(cells) - len(invalid)} of {len(cells)} rows; correct the cell, leave it empty if the value is "
            'missing, or convert the column with astype("category") if its values are classes'
        )


def _is_finite(cell: str) -> bool:
    return is_number(cell) and cell.isascii() and math.isfinite(float(cell))


def _plain_numbers(column: pd.Series) -> pd.Series:
    """Convert a column of Python objects or text to numbers if all its values are numbers."""
    is_text = isinstance(column.dtype, pd.StringDtype)
    values: Sequence[object] = column.dropna().tolist() if column.dtype == object or is_text else ()
    if values and all(isinstance(value, str) and is_number(value) for value in values):
        return pd.to_numeric(column.astype(object))
    if any(isinstance(value, bool) or not isinstance(value, numbers.Real) for value in values) or not values:
        return column
    return pd.to_numeric(column)


def stratified_order(
    people: pd.DataFrame, columns: list[str], block: int, rng: np.random.Generator
) -> Integers:
    """Return an order in which any `block` consecutive participants are as similar as possible in the columns.

    Participants are sorted by classes and, within a combination of classes, by numbers. Then each `block` of neighbours
    is shuffled.

    Parameters
    ----------
    people
        One row per participant.
    columns
        Columns by which to sort, most important first; see `stratified_columns`.
    block
        Number of neighbours that are shuffled together.
    rng
        Generator of the random numbers.
    """
    series = [_plain_numbers(people[name]) for name in columns]
    continuous = [_is_continuous(column, block) for column in series]
    classes = [_value_ranks(column) for column, number in zip(series, continuous, strict=True) if not number]
    values = [_value_ranks(column) for column, number in zip(series, continuous, strict=True) if number]
    rows = rng.permutation(len(people))
    for group in _class_combinations(rows, classes):
        group[:] = _order_by_numbers(group, values, block, rng)
    return rows


def indicator_columns(column: pd.Series, n_sets: int) -> NDArray[np.float64]:
    """Return one column per class, 1 in the rows of the class and 0 elsewhere. Numbers are divided into four classes.

    Parameters
    ----------
    column
        Values of all participants.
    n_sets
        Number of sets to which the participants are assigned.

    Examples
    --------
    >>> indicator_columns(pd.Series(["CN", "AD", "CN"]), 2).tolist()
    [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    values = _plain_numbers(column)
    codes = _value_ranks(values)
    if _is_continuous(values, n_sets):
        codes = np.asarray(
            (4 * (values.rank(method="average") - 0.5) / len(values)).fillna(-1) // 1, np.int64
        )
    found: NDArray[np.float64] = (codes[:, None] == np.unique(codes)).astype(np.float64)
    return found


def _class_combinations(rows: Integers, classes: list[Integers]) -> Iterator[Integers]:
    """Sort `rows` by the categorical columns, in place, and yield a view of the rows of each combination of classes."""
    if not classes:
        yield rows
        return
    rows[:] = rows[np.lexsort([codes[rows] for codes in reversed(classes)])]
    keys = np.stack([codes[rows] for codes in classes])
    starts = [0, *(np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1), len(rows)]
    for first, after_last in itertools.pairwise(starts):
        yield rows[first:after_last]


def _order_by_numbers(
    rows: Integers, values: list[Integers], block: int, rng: np.random.Generator
) -> Integers:
    """Sort rows by the first column, each run of consecutive rows by the second, and so on; then shuffle each block."""
    if not values:
        return rows
    if len(rows) <= block:
        return rng.permutation(rows)
    rows = rows[np.argsort(values[0][rows], kind="stable")]
    # The number of blocks in a run is a power of their total number, so that all columns are balanced equally well.
    run = block * max(1, round((len(rows) / block) ** (1 - 1 / len(values))))
    runs = [rows[i : i + run] for i in range(0, len(rows), run)]
    if len(values) == 1:
        return np.concatenate([rng.permutation(part) for part in runs])
    return np.concatenate([_order_by_numbers(part, values[1:], block, rng) for part in runs])


def _value_ranks(column: pd.Series) -> Integers:
    """Return the rank of each value, from 1, as an integer; equal values have equal ranks, missing values have 0."""
    values = column if pd.api.types.is_numeric_dtype(column) else column.astype(str).where(column.notna())
    # `Series.rank` of pandas 3.0 warns with pyarrow 25 or later.
    return np.asarray(pd.factorize(values, sort=True)[0] + 1, dtype=np.int64)


def _is_continuous(column: pd.Series, block: int) -> bool:
    """Return whether the values of a column are continuous, unlike classes that are encoded as numbers (CDR, sex)."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    n_values = column.nunique()
    return bool(n_values > _MAX_CLASSES or n_values * 2 * block > len(column))

"""Pairs of participants from two groups, the two of a pair being similar in age, sex or other columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from neurocnn.data.visits import baseline
from neurocnn.errors import SettingError, TableError
from neurocnn.errors.arguments import check_each, check_list, check_number, check_table, check_text
from neurocnn.storage.identity import PARTICIPANT, check_columns, describe_rows, key_columns

_WHERE = "balanced"


def balanced(
    sessions: pd.DataFrame,
    by: str = "diagnosis",
    on: Sequence[str] = ("age", "sex"),
    tolerance: float | Mapping[str, float] = 2,
) -> pd.DataFrame:
    """Return the sessions of participants of two groups who form pairs, for example of the same sex and similar age.

    The number of pairs is as large as possible, and the sum of their differences as small as possible (an assignment
    problem, solved exactly by SciPy's ``linear_sum_assignment``). A network that is trained on the pairs cannot use the
    matched columns to distinguish the groups.

    Parameters
    ----------
    sessions
        Table of sessions. The values of a participant are those of the first session.
    by
        Column with two different values, the groups.
    on
        Columns to match. Within a pair, strings are equal, and so are numbers of a column with only two different
        values; other numbers differ by at most `tolerance`.
    tolerance
        Largest difference within a pair, in the unit of the column (such as years), or a mapping from columns to such
        differences.

    Returns
    -------
    DataFrame
        All sessions of the matched participants, in the order of `sessions`, with the index of the pair in the new
        column ``pair``.

    Raises
    ------
    TableError
        If a column or value is missing, or there are not exactly two groups.
    SettingError
        If the tolerance is not a number ≥ 0, or no pair can be formed.

    Examples
    --------
    >>> sessions = pd.DataFrame({
    ...     "participant_id": ["sub-1", "sub-2", "sub-3", "sub-4"], "session_id": "ses-M000",
    ...     "diagnosis": ["CN", "CN", "AD", "AD"], "age": [70, 60, 71.5, 80], "sex": ["F", "F", "F", "M"],
    ... })
    >>> balanced(sessions)[["participant_id", "diagnosis", "age", "pair"]]
      participant_id diagnosis   age  pair
    0          sub-1        CN  70.0     0
    2          sub-3        AD  71.5     0
    """
    check_table("sessions", sessions, where=_WHERE)
    by = check_text("by", by, expected="a column name", where=_WHERE)
    columns = check_list("on", on, "column names such as ['age', 'sex']", where=_WHERE)
    columns = check_each("on", columns, check_text, expected="a column name", where=_WHERE)
    check_columns(sessions, [by], _WHERE, "pass by=…")
    check_columns(sessions, columns, _WHERE, "pass on=…")
    if "pair" in sessions:
        raise TableError(f"{_WHERE}: the column 'pair' exists already; rename or remove it")
    person, people = key_columns(sessions, PARTICIPANT), baseline(sessions)
    _check_complete(people, [by, *columns])
    groups = sorted(people[by].unique().tolist(), key=str)
    if len(groups) != 2:
        raise TableError(
            f"{_WHERE}: the values of {by} are {groups}; expected two groups; select the rows of two groups"
        )
    limits = {name: _largest_difference(people[name], name, tolerance) for name in columns}
    first, second = (people[people[by] == group] for group in groups)
    pairs = _match(first, second, limits)
    if not len(pairs):
        raise SettingError(
            f"{_WHERE}: tolerance={tolerance!r}: no pair of {groups[0]} and {groups[1]} matches in "
            f"{', '.join(columns)}; use a larger tolerance or fewer columns"
        )
    numbers = range(len(pairs))
    matched = zip((first, second), pairs.T, strict=True)
    numbered = pd.concat([table[person].iloc[rows].assign(pair=numbers) for table, rows in matched])
    found = sessions.assign(_row=range(len(sessions))).merge(numbered, on=person).sort_values("_row")
    found.index = sessions.index[found.pop("_row")]
    return found


def _check_complete(people: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = people[people[columns].isna().any(axis=1)]
    if len(missing):
        raise TableError(
            f"{_WHERE}: a value of {', '.join(columns)} is missing for {describe_rows(missing)}; "
            "fill it or drop these rows"
        )


def _largest_difference(
    values: "pd.Series[Any]", name: str, tolerance: float | Mapping[str, float]
) -> float | None:
    """Return the largest difference in a column within a pair; None if the values must be equal."""
    if not pd.api.types.is_numeric_dtype(values) or values.nunique() <= 2:
        return None
    wanted = tolerance.get(name, 0.0) if isinstance(tolerance, Mapping) else tolerance
    return check_number("tolerance", wanted, minimum=0, where=_WHERE)


def _match(
    first: pd.DataFrame, second: pd.DataFrame, limits: Mapping[str, float | None]
) -> np.ndarray[Any, Any]:
    """Return, for each pair, its row numbers in `first` and `second`, shape (pairs, 2)."""
    from scipy.optimize import linear_sum_assignment

    distance = np.zeros((len(first), len(second)))
    allowed = np.ones(distance.shape, dtype=bool)
    for name, limit in limits.items():
        one, other = first[name].to_numpy(), second[name].to_numpy()
        if limit is None:
            allowed &= one[:, None] == other[None, :]
        else:
            apart = np.abs(np.subtract.outer(one.astype(float), other.astype(float)))
            # The addition of 1e-9 allows for rounding: the difference of 72.1 and 70.1 is not exactly 2.
            allowed &= apart <= limit + 1e-9
            distance += apart / (limit or 1.0)
    # A forbidden pair costs more than all allowed pairs together, so that the number of allowed pairs is maximal.
    cost = np.where(allowed, distance, (1 + len(limits)) * (1 + min(distance.shape)))
    rows, columns = linear_sum_assignment(cost)
    kept = np.flatnonzero(allowed[rows, columns])
    return np.column_stack([rows[kept], columns[kept]])

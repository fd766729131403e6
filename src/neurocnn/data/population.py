"""Table that describes a population."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from neurocnn.errors import TableError, suggestion
from neurocnn.storage.identity import check_columns

_COLUMNS = {"age": "age_bl", "sex": "sex", "education": "education_level", "MMS": "MMS", "CDR": "cdr_global"}


def population(
    sessions: pd.DataFrame, by: str = "diagnosis", columns: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Describe a population, with one row per value of a column.

    Parameters
    ----------
    sessions
        One row per participant.
    by
        Column whose values become rows.
    columns
        Column of ``age``, ``sex``, ``education``, ``MMS`` and ``CDR``, if it is neither the lab's (``age_bl``,
        ``education_level``, ``cdr_global``) nor named as the characteristic. Missing columns are omitted.

    Returns
    -------
    table
        ``N``, ``age``, ``%sexF``, ``education``, ``MMS``, ``CDR=0``, ``CDR=0.5``, ``CDR=1``, ``CDR=2``. Missing
        values do not count in means and standard deviations (dividing by N).

    Raises
    ------
    TableError
        If a column is missing, or contains text instead of numbers.

    Examples
    --------
    >>> frame = pd.DataFrame({"diagnosis": ["AD", "CN", "CN"], "sex": ["F", "F", "M"], "years": [70, 60, 64]})
    >>> population(frame, columns={"age": "years"})
        N         age  %sexF
    AD  1  70.0 ± 0.0  100.0
    CN  2  62.0 ± 2.0   50.0
    """
    known = [str(column) for column in sessions.columns]
    named = dict(columns or {})
    for name in named:
        if name not in _COLUMNS:
            raise TableError(f"population: no characteristic {name!r}; {suggestion(name, _COLUMNS)}")
    check_columns(sessions, (by, *named.values()), "population")
    found = {name: column if column in known else name for name, column in _COLUMNS.items()}
    used = {name: column for name, column in (found | named).items() if column in known}
    rows = {value: _describe(group, used) for value, group in sessions.groupby(by)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _describe(group: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, object]:
    row: dict[str, object] = {"N": len(group)}
    for name, column in columns.items():
        values = group[column]
        if name == "sex":
            row["%sexF"] = round(100 * float((values == "F").mean()), 1)
        elif name == "CDR":
            row |= {f"CDR={score:g}": int((values == score).sum()) for score in (0, 0.5, 1, 2)}
        else:
            row[name] = _mean_and_deviation(values)
    return row


def _mean_and_deviation(values: pd.Series) -> str:
    if not pd.api.types.is_numeric_dtype(values) and values.notna().any():
        text = next(value for value in values.dropna() if isinstance(value, str))
        raise TableError(f"population: the column {values.name!r} contains {text!r}; expected numbers")
    numbers = values.dropna().to_numpy(dtype=float)
    return f"{numbers.mean():.1f} ± {np.std(numbers):.1f}" if len(numbers) else "n/a"

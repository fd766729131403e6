"""Table of the characteristics of a population."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurocnn.data.visits import baseline
from neurocnn.errors import TableError, suggestion
from neurocnn.errors.arguments import argument_error, check_table, check_text
from neurocnn.storage.identity import REQUIRED, check_columns, describe_rows, person_columns

_COLUMNS = {"age": "age_bl", "sex": "sex", "education": "education_level", "MMS": "MMS", "CDR": "cdr_global"}
_FEMALE = {"f": True, "female": True, "m": False, "male": False}


def population(
    sessions: pd.DataFrame, by: str = "diagnosis", columns: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return a table of the characteristics of a population, with one row per value of the column `by`.

    Parameters
    ----------
    sessions
        One row per image or per participant. Participants with several rows count once, with their first session;
        without the column `participant_id`, each row counts as a participant.
    by
        Column whose values become rows. Participants without a value are in the row ``n/a``.
    columns
        Column of each characteristic ``age``, ``sex``, ``education``, ``MMS`` and ``CDR``. By default, this is the
        column of the same name, or ``age_bl``, ``education_level`` or ``cdr_global``. Missing columns are omitted.

    Returns
    -------
    table
        ``N``, ``age``, ``%sexF``, ``education``, ``MMS``, ``CDR=0``, ``CDR=0.5``, ``CDR=1``, ``CDR=2``. Means, standard
        deviations (dividing by N) and shares ignore missing values, and are ``n/a`` if all values are missing. Sexes
        are F, M, female or male, in upper or lower case.

    Raises
    ------
    TableError
        If a column is missing, a sex is not one of these four words, or a value of a numeric column is not a number.
        The message contains the row.

    Examples
    --------
    >>> frame = pd.DataFrame({"diagnosis": ["AD", "CN", "CN"], "sex": ["F", "F", "M"], "years": [70, 60, 64]})
    >>> population(frame, columns={"age": "years"})
        N         age  %sexF
    AD  1  70.0 ± 0.0  100.0
    CN  2  62.0 ± 2.0   50.0
    """
    check_table("sessions", sessions, where="population")
    if columns is not None and not isinstance(columns, Mapping):
        raise argument_error("columns", columns, "a mapping such as {'age': 'age_bl'}", where="population")
    requested = dict(columns or {})
    for name in requested:
        if name not in _COLUMNS:
            raise TableError(
                f"population: unknown characteristic {name!r}; {suggestion(str(name), _COLUMNS)}"
            )
    check_columns(sessions, [check_text("by", by, where="population")], "population", "pass by=…")
    check_columns(sessions, requested.values(), "population")
    known = [str(column) for column in sessions.columns]
    found = {name: column if column in known else name for name, column in _COLUMNS.items()}
    used = {name: column for name, column in (found | requested).items() if column in known}
    people = _first_sessions(sessions)
    rows = {
        "n/a" if pd.isna(value) else value: _characteristics(group, used)
        for value, group in people.groupby(by, dropna=False)
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _first_sessions(sessions: pd.DataFrame) -> pd.DataFrame:
    if set(REQUIRED) <= set(sessions.columns):
        return baseline(sessions)
    return sessions.drop_duplicates(person_columns(sessions)) if "participant_id" in sessions else sessions


def _characteristics(people: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, object]:
    row: dict[str, object] = {"N": len(people)}
    for name, column in columns.items():
        if name == "sex":
            female = [
                _is_female(people, index, column) for index in np.flatnonzero(people[column].notna()).tolist()
            ]
            row["%sexF"] = round(100 * float(np.mean(female)), 1) if female else "n/a"
            continue
        numbers = _numeric_values(people, column)
        if name == "CDR":
            counts = {f"CDR={score:g}": int((numbers == score).sum()) for score in (0, 0.5, 1, 2)}
            row |= counts if len(numbers) else dict.fromkeys(counts, "n/a")
        else:
            row[name] = f"{numbers.mean():.1f} ± {np.std(numbers):.1f}" if len(numbers) else "n/a"
    return row


def _is_female(people: pd.DataFrame, row: int, column: str) -> bool:
    value = people[column].iloc[row]
    female = _FEMALE.get(value.lower()) if isinstance(value, str) else None
    if female is None:
        raise _cell_error(people, row, column, "F, M, female or male")
    return female


def _numeric_values(people: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """Return the values of a numeric column that are not missing."""
    if not pd.api.types.is_numeric_dtype(people[column]):
        for row, value in enumerate(people[column].tolist()):
            if isinstance(value, str | bool) or not (pd.isna(value) or isinstance(value, Real)):
                raise _cell_error(people, row, column, "a number")
    infinite = people[column].isin([np.inf, -np.inf]).to_numpy()
    if infinite.any():
        raise _cell_error(people, int(infinite.argmax()), column, "a finite number")
    return people[column].dropna().to_numpy(dtype=np.float64)


def _cell_error(people: pd.DataFrame, row: int, column: str, expected: str) -> TableError:
    who = describe_rows(people.iloc[[row]]) or f"row {people.index[row]}"
    value = people[column].tolist()[row]
    return TableError(f"population: {column}={value!r} of {who}; expected {expected}; correct the table")

"""Columns that identify a row: participant, session, cohort and part.

A participant is identified by ``participant_id``, together with ``cohort`` if every row of a table has a cohort.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import pandas as pd

from neurocnn.errors import TableError, suggestion
from neurocnn.errors.arguments import argument_error, check_table
from neurocnn.errors.logger import LOGGER

COHORT = "cohort"
PARTICIPANT = (COHORT, "participant_id")
IMAGE = (*PARTICIPANT, "session_id")
PART = (*IMAGE, "part_id")
#: Columns that every table of sessions must have.
REQUIRED = ("participant_id", "session_id")
# Prefix and example of the ids in these columns.
_EXAMPLES = {"participant_id": ("sub-", "sub-001"), "session_id": ("ses-", "ses-M00")}

_FORBIDDEN = re.compile(r"[\x00-\x1f\s/\\]")
# Unicode categories of characters without a glyph: control, format, surrogate, unassigned.
_INVISIBLE = {"Cc", "Cf", "Cs", "Cn"}
# Characters of other categories that are invisible too: joiners, fillers and variation selectors.
_FILLERS = {*"\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0", *map(chr, range(0xFE00, 0xFE10))}


def key_columns(columns: Iterable[object], key: Iterable[str] = IMAGE) -> list[str]:
    """Return the identity columns of `key` that are among `columns`, in the order of `key`.

    Examples
    --------
    >>> key_columns(["session_id", "age", "participant_id"])
    ['participant_id', 'session_id']
    """
    known = set(columns)
    return [name for name in key if name in known]


def describe_row(row: Mapping[str, Any]) -> str:
    """Return the name of a row: cohort, participant, session and part, if it has these columns.

    Examples
    --------
    >>> describe_row({"participant_id": "sub-01", "session_id": "ses-M000", "part_id": 3})
    'sub-01 ses-M000 part 3'
    """
    words = [str(row[name]) for name in IMAGE if name in row and not _is_missing(row[name])]
    if "part_id" in row:
        words.append(f"part {row['part_id']}")
    return " ".join(words)


def describe_rows(rows: pd.DataFrame | Iterable[Mapping[str, Any]], most: int = 5) -> str:
    """Return the names of the first `most` rows, and the number of the remaining rows.

    Examples
    --------
    >>> describe_rows([{"participant_id": f"sub-{i}"} for i in range(4)], most=2)
    'sub-0, sub-1 and 2 more'
    """
    found: list[Any] = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else list(rows)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(map(describe_row, islice(found, most))) + more


def interleave_parts(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join the tables of one network per part into one table, sorted by image and then by part.

    Parameters
    ----------
    tables
        One table per part, each with one row per image, in the same order of images.

    Examples
    --------
    >>> tables = [pd.DataFrame({"session_id": ["ses-1", "ses-2"], "part_id": part}) for part in (4, 9)]
    >>> interleave_parts(tables).to_numpy().tolist()
    [['ses-1', 4], ['ses-1', 9], ['ses-2', 4], ['ses-2', 9]]
    """
    # A stable sort by the row number keeps the order of the parts within each image.
    rows = pd.concat([table.reset_index(drop=True) for table in tables])
    return rows.sort_index(kind="stable").reset_index(drop=True)


def person_columns(*tables: pd.DataFrame) -> list[str]:
    """Return the columns that identify a participant when these tables are compared.

    Cohorts are compared only if every row of every table has a cohort: a participant without a cohort may belong to
    any cohort.
    """
    with_cohort = all(COHORT in table and bool(table[COHORT].notna().all()) for table in tables)
    return list(PARTICIPANT if with_cohort else PARTICIPANT[1:])


def shared_participants(first: pd.DataFrame, second: pd.DataFrame) -> list[str]:
    """Return the sorted names of the participants in both tables, and warn of similar ids.

    Examples
    --------
    >>> first = pd.DataFrame({"participant_id": ["sub-1", "sub-2"]})
    >>> shared_participants(first, pd.DataFrame({"participant_id": ["sub-2", "sub-3"]}))
    ['sub-2']
    """
    warn_of_similar_ids(first, second)
    columns = person_columns(first, second)
    people = [set(table[columns].itertuples(index=False, name=None)) for table in (first, second)]
    return sorted(" ".join(map(str, person)) for person in people[0] & people[1])


def check_columns(
    table: pd.DataFrame | Iterable[object], required: Iterable[str], where: object, remedy: str = ""
) -> None:
    """Check that a table, or a list of column names, has the required columns.

    Raises
    ------
    TableError
        If a column is missing. The message lists the existing columns and similar names, and ends with `remedy`, or
        for an id column with the advice to rename the column.

    Examples
    --------
    >>> check_columns(["participant_id", "session"], ["session_id"], "labels.tsv")
    Traceback (most recent call last):
    neurocnn.errors.TableError: labels.tsv: the column 'session_id' is missing; did you mean 'session'? \
There are: participant_id, session; rename the column
    """
    columns = [str(name) for name in table]
    for name in required:
        if name not in columns:
            end = remedy or ("rename the column" if name in REQUIRED else "")
            message = f"{where}: the column {name!r} is missing; {suggestion(name, columns)}"
            raise TableError(f"{message}; {end}" if end else message)


def check_ids(
    frame: pd.DataFrame, where: str, rows: Sequence[str] | None = None, required: Sequence[str] = REQUIRED
) -> None:
    """Check that the ids of a table are well-formed, and that no two rows identify the same image or part.

    Parameters
    ----------
    frame
        Table with `participant_id` and `session_id`.
    where
        Name of the table in messages.
    rows
        Names of the rows in messages; ``row 0``, ``row 1``, … if not given.
    required
        Required id columns: `REQUIRED`, or only ``participant_id``.

    Raises
    ------
    TableError
        If an id is malformed, or two rows have the same ids.
    """
    check_table("table", frame, where=where)
    check_columns(frame, required, where)
    names = [f"row {i}" for i in range(len(frame))] if rows is None else rows
    for column in required:
        prefix, example = _EXAMPLES[column]
        for row, value in zip(names, frame[column].tolist(), strict=True):
            if not _is_id(value, prefix):
                raise TableError(
                    f"{where}, {row}: {column}={value!r}; expected text such as {example!r} without spaces, "
                    "'/' or '..'"
                )
    keys = key_columns(frame.columns, PART)
    first: dict[tuple[Any, ...], str] = {}
    for row, key in zip(names, zip(*(frame[name].tolist() for name in keys), strict=True), strict=True):
        if key in first:
            what = describe_row(dict(zip(keys, key, strict=True)))
            raise TableError(
                f"{where}: {first[key]} and {row} are both {what}; expected different ids; remove one of the rows"
            )
        first[key] = row


def similar_ids(ids: Iterable[str]) -> list[list[str]]:
    """Return groups of different ids that look the same.

    Ids are similar if they differ only in upper and lower case, Unicode normalisation (one character for "é", or two)
    or invisible characters. Messages should show similar ids with `ascii`, because they may look the same.

    Examples
    --------
    >>> similar_ids(["sub-1a", "sub-2", "sub-1A", "sub-1a\\u200b"])
    [['sub-1a', 'sub-1A', 'sub-1a\\u200b']]
    """
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(ids):
        groups.setdefault(_visible_form(name), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def warn_of_similar_ids(*tables: pd.DataFrame) -> None:
    """Log a warning for each group of participants of these tables whose ids are similar, see `similar_ids`."""
    names = (name for table in tables for name in table["participant_id"] if isinstance(name, str))
    for ids in similar_ids(names):
        _warn_once(", ".join(map(ascii, sorted(ids))))


# The cache ensures that each warning is logged once, not once per split.
@lru_cache(maxsize=1024)
def _warn_once(ids: str) -> None:
    LOGGER.warning(
        "the participant ids %s differ only in upper and lower case, Unicode normalisation or invisible characters, "
        "and count as different participants; use one id if they are the same person",
        ids,
    )


def _visible_form(name: str) -> str:
    if name.isascii() and name.isprintable():
        return name.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(c for c in folded if unicodedata.category(c) not in _INVISIBLE and c not in _FILLERS)


def check_folder_name(name: str, value: object) -> str:
    """Return the id of a participant or session if it is a safe folder name, else raise a SettingError.

    Examples
    --------
    >>> check_folder_name("participant_id", "../sub-01")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurocnn.errors.SettingError: participant_id='../sub-01'; expected text such as ...
    """
    if isinstance(value, str) and _is_id(value, ""):
        return value
    raise argument_error(name, value, "text such as 'sub-001' without spaces, '/' or '..'")


def _is_id(value: object, prefix: str) -> bool:
    return (
        isinstance(value, str)
        and len(value) > len(prefix)
        and value.startswith(prefix)
        and ".." not in value
        and _FORBIDDEN.search(value) is None
    )


def _is_missing(value: object) -> bool:
    return bool(pd.isna(value))  # type: ignore[call-overload]

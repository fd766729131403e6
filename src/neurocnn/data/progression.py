"""Stable and progressive mild cognitive impairment."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from neurocnn.errors import TableError
from neurocnn.errors.arguments import check_integer, check_table
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.identity import check_columns, check_ids, describe_rows, person_columns

_DIAGNOSES = ("CN", "MCI", "AD")


def progression(table: pd.DataFrame, months: int = 36) -> pd.DataFrame:
    """Divide MCI into stable, progressive, reverted and unknown MCI, by the diagnoses of later sessions.

    Parameters
    ----------
    table
        One row per session: `participant_id`, `session_id` with the month (``ses-M012``), `diagnosis` (CN, MCI, AD or
        missing), and any other columns.
    months
        Time horizon h, in months.

    Returns
    -------
    table
        Copy of the table in which MCI is replaced by sMCI, pMCI, rMCI or uMCI. The number of each is logged.

    Raises
    ------
    TableError
        If a column is missing, a `session_id` has no month, two sessions of a participant have the same month, or a
        diagnosis is not CN, MCI, AD or missing.

    Notes
    -----
    Sessions without a diagnosis are ignored. For MCI at month t, the first rule that applies determines the result:

    1. rMCI (reversion): a session in (t, t + h] is CN, or a session of AD at any time (also before t) is followed by
       another diagnosis up to t + h.
    2. pMCI: a session in (t, t + h] is AD.
    3. sMCI: the first session at t + h or later is MCI.
    4. uMCI (unknown): the follow-up is too short, or the first session after t + h is not MCI, so that the diagnosis at
       t + h is not known.

    Other sessions after t + h are ignored. rMCI and uMCI are usually excluded:
    ``table[table["diagnosis"].isin(["sMCI", "pMCI"])]``.

    Examples
    --------
    >>> visits = {"session_id": ["ses-M000", "ses-M036", "ses-M048"], "diagnosis": ["MCI", "MCI", "AD"]}
    >>> progression(pd.DataFrame({"participant_id": "sub-01", **visits}))["diagnosis"].tolist()
    ['sMCI', 'pMCI', 'AD']
    """
    check_ids(check_table("table", table, where="progression"), "progression")
    check_columns(table, ["diagnosis"], "progression")
    horizon = check_integer("months", months, minimum=1, where="progression")
    keys = list(
        zip(
            table[person_columns(table)].itertuples(index=False, name=None),
            _month_of_each_row(table),
            strict=True,
        )
    )
    visits: dict[Any, dict[int, str]] = {}
    seen: dict[Any, int] = {}
    for row, (key, diagnosis) in enumerate(zip(keys, table["diagnosis"].tolist(), strict=True)):
        if seen.setdefault(key, row) != row:
            raise _row_error(
                table, [seen[key], row], "; expected different months; correct or drop one of the rows"
            )
        if pd.isna(diagnosis):
            continue
        if diagnosis not in _DIAGNOSES:
            remedy = "rename it, as in table.replace({'diagnosis': {'EMCI': 'MCI'}})"
            found = f"{diagnosis!r}; expected CN, MCI, AD or a missing value; {remedy}"
            raise _row_error(table, [row], f": diagnosis={found}")
        visits.setdefault(key[0], {})[key[1]] = diagnosis
    labels = [
        _kind_of_mci(visits[person], month, month + horizon) if diagnosis == "MCI" else diagnosis
        for (person, month), diagnosis in zip(keys, table["diagnosis"].tolist(), strict=True)
    ]
    counts = Counter(labels)
    LOGGER.info(
        "progression within %d months: %d sMCI, %d pMCI, %d rMCI (reversion), %d uMCI (unknown)",
        horizon,
        *(counts[name] for name in ("sMCI", "pMCI", "rMCI", "uMCI")),
    )
    return table.assign(diagnosis=labels)


def _kind_of_mci(visits: Mapping[int, str], start: int, end: int) -> str:
    """Return the kind of MCI at month `start`. `visits` are the diagnoses by month, and `end` is the time horizon."""
    until = [visits[month] for month in sorted(visits) if month <= end]
    within = {visits[month] for month in visits if start < month <= end}
    since_ad = until[until.index("AD") :] if "AD" in until else []
    if "CN" in within or set(since_ad) - {"AD"}:
        return "rMCI"
    if "AD" in within:
        return "pMCI"
    later = [month for month in visits if month >= end]
    return "sMCI" if later and visits[min(later)] == "MCI" else "uMCI"


def _month_of_each_row(table: pd.DataFrame) -> list[int]:
    found = [re.fullmatch(r"ses-M(\d+)", session) for session in table["session_id"].tolist()]
    for row, match in enumerate(found):
        if match is None:
            found = table["session_id"].iloc[row]
            expected = "expected 'ses-M' and the month, such as 'ses-M012'; rename the session"
            raise _row_error(table, [row], f": session_id={found!r}; {expected}")
    return [int(match[1]) for match in found if match]


def _row_error(table: pd.DataFrame, rows: list[int], problem: str) -> TableError:
    return TableError(f"progression: {describe_rows(table.iloc[rows])}{problem}")

"""Selection of the first, the last or all sessions (visits) of each participant."""

import re
from collections.abc import Callable

import pandas as pd

from neurocnn.errors import TableError
from neurocnn.errors.arguments import check_choice, check_table
from neurocnn.storage.identity import check_ids, person_columns

#: Choices of the visits of each participant that a set contains.
VISITS = ("baseline", "last", "all")


def baseline(sessions: pd.DataFrame) -> pd.DataFrame:
    """Return the first session of each participant, by the numbers (months) in the session ids.

    Parameters
    ----------
    sessions
        One row per image.

    Raises
    ------
    TableError
        If the sessions of a participant cannot be ordered, because a session has no number, or two sessions have the
        same number.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1"] * 2, "session_id": ["ses-M12", "ses-M006"]})
    >>> baseline(frame)["session_id"].tolist()
    ['ses-M006']
    """
    return _one_visit(check_table("sessions", sessions, where="baseline"), min)


def select_visits(sessions: pd.DataFrame, visits: str) -> pd.DataFrame:
    """Return the first (``"baseline"``), the ``"last"`` or ``"all"`` sessions of each participant; see `baseline`.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1"] * 2, "session_id": ["ses-M12", "ses-M006"]})
    >>> select_visits(frame, "last")["session_id"].tolist()
    ['ses-M12']
    """
    check_choice("visits", visits, VISITS)
    if visits == "all":
        check_ids(sessions, "sessions")
        return sessions.reset_index(drop=True)
    return baseline(sessions) if visits == "baseline" else _one_visit(sessions, max)


def _one_visit(sessions: pd.DataFrame, choose: Callable[..., tuple[int, int]]) -> pd.DataFrame:
    check_ids(sessions, "sessions")
    frame = sessions.reset_index(drop=True)
    found: dict[str, tuple[int, int]] = {}
    sessions_by_month: dict[tuple[str, int], str] = {}
    for row, (person, session) in enumerate(
        zip(person_names(frame), frame["session_id"].tolist(), strict=True)
    ):
        number = re.search(r"\d+", session)
        month = int(number.group()) if number else -1
        other = sessions_by_month.setdefault((person, month), session)
        if other != session:
            raise TableError(
                f"sessions {other} and {session} of {person} cannot be ordered; expected a different number in each "
                "id, as in ses-M00"
            )
        found[person] = choose(found.get(person, (month, row)), (month, row))
    _check_session_numbers(sessions_by_month)
    return frame.iloc[sorted(row for _, row in found.values())].reset_index(drop=True)


def _check_session_numbers(sessions_by_month: dict[tuple[str, int], str]) -> None:
    """Raise an error if a participant has several sessions and a session without a number."""
    several = {person for person, month in sessions_by_month if month >= 0}
    for (person, month), session in sessions_by_month.items():
        if month < 0 and person in several:
            raise TableError(
                f"sessions of {person} cannot be ordered: {session} has no number; expected a number in each id, as in "
                "ses-M00"
            )


def person_names(frame: pd.DataFrame) -> list[str]:
    """Return the participant of each row as text, with the cohort if every row has a cohort."""
    return ["/".join(row) for row in frame[person_columns(frame)].itertuples(index=False, name=None)]

"""Splits by participant: kfold and holdout, alike in all the columns that are asked for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neurocnn.data.tables import check_ids
from neurocnn.errors import LeakError, SettingError, TableError, suggestion


@dataclass(frozen=True, eq=False)
class Split:
    """A training set and a validation set that share no participant.

    Parameters
    ----------
    index
        The number of the split; its results go to ``fold-<index>``.
    train, validation
        One row an image: `participant_id`, `session_id`, [`cohort`,] and any others.

    Raises
    ------
    TableError
        A set is empty, or its rows do not name images.
    LeakError
        A participant is in both sets.
    """

    index: int
    train: pd.DataFrame
    validation: pd.DataFrame

    def __post_init__(self) -> None:
        for what in ("train", "validation"):
            frame = getattr(self, what).reset_index(drop=True)
            if not len(frame):
                raise TableError(f"split {self.index}: the {what} set is empty")
            check_ids(frame, f"split {self.index}, {what}")
            object.__setattr__(self, what, frame)
        check_apart(self.train, self.validation, f"split {self.index}: train and validation")


def check_apart(first: pd.DataFrame, second: pd.DataFrame, what: str) -> None:
    """Refuse two sets that share a participant.

    Raises
    ------
    LeakError
        With the participants.
    """
    columns = ["participant_id"]
    if "cohort" in first.columns and "cohort" in second.columns:
        columns = ["cohort", "participant_id"]
    both = sorted(
        {*first[columns].itertuples(index=False, name=None)}
        & {*second[columns].itertuples(index=False, name=None)}
    )
    if both:
        names = ", ".join("/".join(map(str, key)) for key in both)
        raise LeakError(f"{what} share {len(both)} participants, expected none: {names}")


def baseline(sessions: pd.DataFrame) -> pd.DataFrame:
    """The first session of each participant, in the order of the sessions' numbers.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1"] * 2, "session_id": ["ses-M12", "ses-M06"]})
    >>> baseline(frame)["session_id"].tolist()
    ['ses-M06']
    """
    frame = sessions.reset_index(drop=True)
    groups = _participants(frame)
    order = frame["session_id"].map(_month)
    first = order.groupby(groups, sort=False).idxmin()
    return frame.loc[sorted(first)].reset_index(drop=True)


def _month(session: str) -> int:
    found = re.search(r"\d+", session)
    return int(found.group()) if found else -1


def _participants(frame: pd.DataFrame) -> pd.Series:
    """One text for each participant: the same id in two cohorts means two persons."""
    if "cohort" in frame.columns:
        return frame["cohort"].astype(str) + "/" + frame["participant_id"].astype(str)
    return frame["participant_id"].astype(str)


def kfold(
    sessions: pd.DataFrame, n_splits: int = 5, stratify: str | Sequence[str] = (), seed: int = 0
) -> list[Split]:
    """Deal participants out into validation sets; each is in exactly one.

    Participants are sorted by the columns of `stratify` and dealt out in turn, so that classes and numbers
    are distributed alike; no class is too rare.

    Parameters
    ----------
    sessions
        One row an image.
    n_splits
        2 or more.
    stratify
        Columns, of classes or of numbers; a participant counts with the baseline session's values.
    seed
        Of the ties.

    Returns
    -------
    splits
        Training sets hold all sessions, validation sets baseline ones.
    """
    check_ids(sessions, "sessions")
    if not isinstance(n_splits, int) or n_splits < 2:
        raise SettingError(f"n_splits is {n_splits!r}, expected a whole number, 2 or more")
    people = baseline(sessions)
    if len(people) < n_splits:
        raise TableError(f"{len(people)} participants cannot be dealt out into {n_splits} splits")
    order = _order(people, stratify, n_splits, seed)
    fold = pd.Series(np.arange(len(order)) % n_splits, index=_participants(people).iloc[order].to_numpy())
    return [_split(sessions, people, fold == i, i) for i in range(n_splits)]


def _split(sessions: pd.DataFrame, people: pd.DataFrame, held_out: pd.Series, index: int) -> Split:
    train = sessions[~_participants(sessions).map(held_out).to_numpy(dtype=bool)]
    validation = people[_participants(people).map(held_out).to_numpy(dtype=bool)]
    return Split(index, train, validation)


def holdout(
    sessions: pd.DataFrame, fraction: float = 0.2, stratify: str | Sequence[str] = (), seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set participants apart for the test.

    Parameters
    ----------
    sessions
        One row an image.
    fraction
        Of the participants, between 0 and 1.
    stratify, seed
        As of `kfold`.

    Returns
    -------
    rest, held_out
        All sessions of the others, and the baseline sessions of those set apart.
    """
    check_ids(sessions, "sessions")
    if not 0 < fraction < 1:
        raise SettingError(f"fraction is {fraction!r}, expected a number between 0 and 1")
    people = baseline(sessions)
    if len(people) < 2:
        raise TableError("there is one participant, of whom none can be set apart")
    n_out = min(max(1, round(fraction * len(people))), len(people) - 1)
    block = max(2, round(1 / min(fraction, 1 - fraction)))
    order = _order(people, stratify, block, seed)
    start = np.random.default_rng([seed, 1]).random()
    steps = np.floor(np.arange(len(people) + 1) * n_out / len(people) + start)
    held_out = pd.Series(np.diff(steps) > 0, index=_participants(people).iloc[order].to_numpy())
    split = _split(sessions, people, held_out, 0)
    return split.train, split.validation


def _order(people: pd.DataFrame, stratify: str | Sequence[str], block: int, seed: int) -> np.ndarray:
    """The participants sorted so that any `block` in a row are alike."""
    columns = [stratify] if isinstance(stratify, str) else list(stratify)
    for column in columns:
        if column not in people.columns:
            raise TableError(
                f"stratify: there is no column {column!r}; {suggestion(column, map(str, people.columns))}"
            )
    rng = np.random.default_rng(seed)
    keys = [rng.permutation(len(people))]
    for column in reversed(columns):
        keys.append(
            people[column].rank(method="dense").fillna(0).to_numpy()
            if pd.api.types.is_numeric_dtype(people[column])
            else people[column].astype(str).rank(method="dense").to_numpy()
        )
    return np.lexsort(keys)

"""Splits by participant, whose sets are similar in the stratified columns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neurocnn.data.stratification import stratified_columns, stratified_order
from neurocnn.errors import LeakError, TableError
from neurocnn.errors.arguments import check_integer, check_number, check_table
from neurocnn.storage.display import html_view
from neurocnn.storage.identity import check_ids, person_columns, shared_participants


@dataclass(frozen=True, eq=False)
class Split:
    """A training set and a validation set without common participants.

    Parameters
    ----------
    index
        Number of the split. Its results are stored in ``fold-<index>``.
    train, validation
        One row per image: `participant_id`, `session_id`, optionally `cohort`, and any other columns.

    Raises
    ------
    TableError
        If a set is empty, or its rows do not identify images.
    LeakError
        If a participant is in both sets.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "session_id": "ses-M00"})
    >>> Split(0, frame[:1], frame[:1])
    Traceback (most recent call last):
    neurocnn.errors.LeakError: split 0: train and validation share 1 participants: sub-1; expected none; move all sessions of a participant to one set
    """  # noqa: E501 (a message is one line)

    index: int
    train: pd.DataFrame
    validation: pd.DataFrame

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", check_integer("index", self.index, minimum=0, where="Split"))
        for name in ("train", "validation"):
            frame = check_table(name, getattr(self, name), where="Split").reset_index(drop=True)
            check_ids(frame, f"split {self.index}, {name}")
            if not len(frame):
                raise TableError(f"split {self.index}: the {name} set is empty")
            object.__setattr__(self, name, frame)
        shared = shared_participants(self.train, self.validation)
        if shared:
            raise LeakError(
                f"split {self.index}: train and validation share {len(shared)} participants: {', '.join(shared)}; "
                "expected none; move all sessions of a participant to one set"
            )

    def __repr__(self) -> str:
        sets = (f"{name}: {len(getattr(self, name))} images" for name in ("train", "validation"))
        return f"Split({self.index}, {', '.join(sets)})"

    _repr_html_ = html_view


def baseline(sessions: pd.DataFrame) -> pd.DataFrame:
    """Return the first session of each participant, by the sessions' numbers (months).

    Parameters
    ----------
    sessions
        One row per image.

    Raises
    ------
    TableError
        If a participant's sessions cannot be ordered: one has no number, or two have the same.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1"] * 2, "session_id": ["ses-M12", "ses-M006"]})
    >>> baseline(frame)["session_id"].tolist()
    ['ses-M006']
    """
    check_ids(check_table("sessions", sessions, where="baseline"), "sessions")
    frame = sessions.reset_index(drop=True)
    first: dict[str, tuple[int, int]] = {}
    seen: dict[tuple[str, int], str] = {}
    for row, (person, session) in enumerate(zip(_persons(frame), frame["session_id"].tolist(), strict=True)):
        found = re.search(r"\d+", session)
        month = int(found.group()) if found else -1
        other = seen.setdefault((person, month), session)
        if other != session:
            raise TableError(
                f"sessions {other} and {session} of {person} cannot be ordered; expected a different number in each, "
                "as in ses-M00"
            )
        first[person] = min(first.get(person, (month, row)), (month, row))
    _check_numbered(seen)
    return frame.iloc[sorted(row for _, row in first.values())].reset_index(drop=True)


def _check_numbered(seen: dict[tuple[str, int], str]) -> None:
    """Raise an error if a participant has several sessions, one of which has no number."""
    several = {person for person, month in seen if month >= 0}
    for (person, month), session in seen.items():
        if month < 0 and person in several:
            raise TableError(
                f"sessions of {person} cannot be ordered: {session} has no number; expected one, as in ses-M00"
            )


def _persons(frame: pd.DataFrame) -> list[str]:
    """Return a name of each row's participant, with the cohort if every row has one."""
    return ["/".join(row) for row in frame[person_columns(frame)].itertuples(index=False, name=None)]


def kfold(
    sessions: pd.DataFrame, n_splits: int = 5, stratify: str | Sequence[str] = (), seed: int = 0
) -> list[Split]:
    """Return the splits of a cross-validation; each participant is in exactly one validation set.

    Equal participant ids are never separated, not even those of different cohorts.

    Parameters
    ----------
    sessions
        One row per image.
    n_splits
        Number of splits, at least 2.
    stratify
        Column or columns of classes or numbers in which the sets should be similar, most important first. The values
        are those of each participant's baseline session.
    seed
        Seed of the assignment, which does not depend on the order of the rows.

    Returns
    -------
    splits
        Training sets contain all sessions, validation sets the baseline ones.

    Raises
    ------
    TableError
        If a column is missing, or text although most of its values are numbers, or there are fewer participants than
        splits.

    Notes
    -----
    Participants are sorted by the columns and assigned to the sets in turn. In each class of the first column, and in
    each combination of the first two, three, …, the sets' sizes differ by at most one participant; no class is too
    rare. Numbers are sorted within classes, and any `n_splits` neighbours are assigned to different sets at random.

    Examples
    --------
    >>> ids = [f"sub-{i}" for i in range(6)]
    >>> frame = pd.DataFrame({"participant_id": ids, "session_id": "ses-M00", "diagnosis": ["AD", "CN"] * 3})
    >>> [split.validation["diagnosis"].tolist() for split in kfold(frame, 3, "diagnosis")]
    [['AD', 'CN'], ['AD', 'CN'], ['AD', 'CN']]
    """
    n_splits = check_integer("n_splits", n_splits, minimum=2, where="kfold")
    people, columns = _people(sessions, "kfold"), stratified_columns(sessions, stratify)
    if len(people) < n_splits:
        raise TableError(
            f"kfold: n_splits={n_splits}; expected at most the number of participants, {len(people)}"
        )
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0, where="kfold"))
    order = stratified_order(people, columns, n_splits, rng)
    folds = np.empty(len(people), dtype=np.int64)
    # The sets get random numbers, otherwise the first splits would always be the larger ones.
    folds[order] = rng.permutation(n_splits)[np.arange(len(people)) % n_splits]
    return [_split(sessions, people[folds == index], index) for index in range(n_splits)]


def holdout(
    sessions: pd.DataFrame, fraction: float = 0.2, stratify: str | Sequence[str] = (), seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Separate a test set of participants from the others.

    Equal participant ids are never separated, not even those of different cohorts.

    Parameters
    ----------
    sessions
        One row per image.
    fraction
        Fraction of the participants in the test set, between 0 and 1; at least one participant is in each set.
    stratify, seed
        See `kfold`.

    Returns
    -------
    rest, held_out
        All sessions of the remaining participants, and the baseline sessions of the test set.

    Raises
    ------
    TableError
        If a column is missing, or text although most of its values are numbers, or there is only one participant.

    Examples
    --------
    >>> ids = [f"sub-{i}" for i in range(10)]
    >>> frame = pd.DataFrame({"participant_id": ids, "session_id": "ses-M00", "diagnosis": ["AD", "CN"] * 5})
    >>> rest, test = holdout(frame, 0.2, "diagnosis")
    >>> len(rest), sorted(test["diagnosis"])
    (8, ['AD', 'CN'])
    """
    fraction = check_number("fraction", fraction, above=0, below=1, where="holdout")
    people, columns = _people(sessions, "holdout"), stratified_columns(sessions, stratify)
    n = len(people)
    if n < 2:
        raise TableError(f"holdout: sessions has {n} participants; expected at least 2")
    n_out = min(max(1, round(fraction * n)), n - 1)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0, where="holdout"))
    order = stratified_order(people, columns, max(2, round(n / min(n_out, n - n_out))), rng)
    # Held-out participants are evenly spaced in the sorted order, so that each run contributes its share.
    steps = np.floor(np.arange(n + 1) * n_out / n + rng.random())
    held_out = np.empty(n, dtype=bool)
    held_out[order] = np.diff(steps) > 0
    split = _split(sessions, people[held_out], 0)
    return split.train, split.validation


def _people(sessions: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return one baseline session per participant id, sorted by id."""
    people = baseline(check_table("sessions", sessions, where=where))
    order = np.argsort(np.array(_persons(people), dtype=object), kind="stable")
    return people.iloc[order].drop_duplicates("participant_id").reset_index(drop=True)


def _split(sessions: pd.DataFrame, held_out: pd.DataFrame, index: int) -> Split:
    """Return the split that validates on the baseline sessions of `held_out` and trains on all other participants."""
    validates = sessions["participant_id"].isin(held_out["participant_id"])
    validation = baseline(sessions[validates])
    order = np.argsort(np.array(_persons(validation), dtype=object), kind="stable")
    return Split(index, sessions[~validates], validation.iloc[order])

"""Splits by participant into sets that are similar in chosen columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neurocnn.data.groups import assign_groups, group_names
from neurocnn.data.stratification import Integers, stratified_columns, stratified_order
from neurocnn.data.visits import VISITS, baseline, person_names, select_visits
from neurocnn.errors import LeakError, TableError
from neurocnn.errors.arguments import check_choice, check_integer, check_number, check_table
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
        Tables with one row per image: `participant_id`, `session_id`, optionally `cohort`, and any other columns.

    Raises
    ------
    TableError
        If a set is empty, or ids are malformed or repeated.
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


def kfold(
    sessions: pd.DataFrame,
    n_splits: int = 5,
    stratify: str | Sequence[str] = (),
    seed: int = 0,
    *,
    repeats: int = 1,
    groups: str | None = None,
    visits: str = "baseline",
) -> list[Split]:
    """Return the splits of a cross-validation; in each repeat, a participant is in exactly one validation set.

    Sessions with the same participant id are never separated, even if they are from different cohorts.

    Parameters
    ----------
    sessions
        One row per image.
    n_splits
        Number of splits per repeat, at least 2.
    stratify
        Column or columns of classes or numbers in which the sets should be similar, most important first. The value of
        a participant is that of the baseline session. Missing values are a class of their own, and
        smaller than all numbers.
    seed
        Seed of the random assignment, which does not depend on the order of the rows.
    repeats
        Number of cross-validations with different random assignments. Their splits are numbered from 0 to
        ``n_splits * repeats - 1``; the first `n_splits` do not depend on `repeats`.
    groups
        Column of groups, such as sites or families, whose participants are never separated.
    visits
        Sessions of each participant in the validation sets: ``"baseline"`` (the first one), ``"last"`` or ``"all"``.

    Returns
    -------
    splits
        Splits whose training sets contain all sessions, and validation sets the chosen `visits`.

    Raises
    ------
    TableError
        If a column is missing, a column of numbers contains a cell that is not a number, there are fewer participants
        or groups than splits, or a participant is in several groups.

    Notes
    -----
    Participants are sorted by the columns and assigned to the sets in turn. In each class of the first column, and in
    each combination of classes of the first two, three, … columns, the sizes of the sets differ by at most one
    participant, even if a class is rare. Within classes, participants are sorted by numeric columns, and any `n_splits`
    neighbours are assigned to different sets at random.

    Groups are assigned one by one, the largest first, each to the set that makes the sets most similar in the number
    of participants and in each class; numbers are divided into four classes of equal size.

    Examples
    --------
    >>> ids = [f"sub-{i}" for i in range(6)]
    >>> frame = pd.DataFrame({"participant_id": ids, "session_id": "ses-M00", "diagnosis": ["AD", "CN"] * 3})
    >>> [split.validation["diagnosis"].tolist() for split in kfold(frame, 3, "diagnosis")]
    [['AD', 'CN'], ['AD', 'CN'], ['AD', 'CN']]
    >>> [split.index for split in kfold(frame, 3, repeats=2)]
    [0, 1, 2, 3, 4, 5]
    """
    n_splits = check_integer("n_splits", n_splits, minimum=2, where="kfold")
    repeats = check_integer("repeats", repeats, minimum=1, where="kfold")
    people, columns = _baseline_people(sessions, "kfold"), stratified_columns(sessions, stratify)
    check_choice("visits", visits, VISITS, where="kfold")
    names = None
    if groups is not None:
        group_names(sessions, groups, ["participant_id"], "kfold")
        names = people[groups].astype(str)
    n, what = (len(people), "participants") if names is None else (names.nunique(), f"groups ({groups})")
    if n < n_splits:
        raise TableError(f"kfold: n_splits={n_splits}; expected at most the number of {what}, {n}")
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0, where="kfold"))
    splits = []
    for first in range(0, n_splits * repeats, n_splits):
        if names is None:
            folds = _assign_people(people, columns, n_splits, rng)
        else:
            folds = assign_groups(people, names, columns, n_splits, rng)
        splits += [_split_by_people(sessions, people[folds == k], first + k, visits) for k in range(n_splits)]
    return splits


def _assign_people(
    people: pd.DataFrame, columns: list[str], n_splits: int, rng: np.random.Generator
) -> Integers:
    """Return the number of each participant's validation set."""
    order = stratified_order(people, columns, n_splits, rng)
    folds = np.empty(len(people), dtype=np.int64)
    # The sets are numbered at random. Otherwise the first sets would always be the larger ones.
    folds[order] = rng.permutation(n_splits)[np.arange(len(people)) % n_splits]
    return folds


def leave_one_group_out(sessions: pd.DataFrame, column: str, *, visits: str = "baseline") -> list[Split]:
    """Return one split per group, such as a site or a cohort: the group is the validation set, the others are for
    training.

    Parameters
    ----------
    sessions
        One row per image.
    column
        Column of the groups. The i-th group in alphabetical order is the validation set of split i.
    visits
        See `kfold`.

    Raises
    ------
    TableError
        If the column is missing or has an empty cell, there is only one group, or a participant is in several groups.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1", "sub-2", "sub-3"], "session_id": "ses-M00", "site": [*"BAB"]})
    >>> [split.validation["participant_id"].tolist() for split in leave_one_group_out(frame, "site")]
    [['sub-2'], ['sub-1', 'sub-3']]
    """
    where = "leave_one_group_out"
    check_ids(check_table("sessions", sessions, where=where), "sessions")
    check_choice("visits", visits, VISITS, where=where)
    # Participants of different cohorts are different people, even if their ids are equal.
    names = group_names(sessions, column, person_columns(sessions), where)
    groups = sorted(names.unique())
    if len(groups) < 2:
        raise TableError(f"{where}: {column}={groups}; expected at least two groups")
    return [
        _split_by_validation(sessions, names == group, index, visits) for index, group in enumerate(groups)
    ]


def holdout(
    sessions: pd.DataFrame,
    fraction: float = 0.2,
    stratify: str | Sequence[str] = (),
    seed: int = 0,
    *,
    visits: str = "baseline",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Separate a test set of participants from the remaining participants.

    Sessions with the same participant id are never separated, even if they are from different cohorts.

    Parameters
    ----------
    sessions
        One row per image.
    fraction
        Fraction of the participants in the test set, between 0 and 1; at least one participant is in each set.
    stratify, seed
        See `kfold`.
    visits
        Sessions of each participant in the test set, see `kfold`.

    Returns
    -------
    rest, held_out
        All sessions of the remaining participants, and the chosen `visits` of the participants in the test set.

    Raises
    ------
    TableError
        If a column is missing, a column of numbers contains a cell that is not a number, or there is only one
        participant.

    Examples
    --------
    >>> ids = [f"sub-{i}" for i in range(10)]
    >>> frame = pd.DataFrame({"participant_id": ids, "session_id": "ses-M00", "diagnosis": ["AD", "CN"] * 5})
    >>> rest, test = holdout(frame, 0.2, "diagnosis")
    >>> len(rest), sorted(test["diagnosis"])
    (8, ['AD', 'CN'])
    """
    check_choice("visits", visits, VISITS, where="holdout")
    fraction = check_number("fraction", fraction, above=0, below=1, where="holdout")
    people, columns = _baseline_people(sessions, "holdout"), stratified_columns(sessions, stratify)
    n = len(people)
    if n < 2:
        raise TableError(f"holdout: sessions has {n} participants; expected at least 2")
    n_out = min(max(1, round(fraction * n)), n - 1)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0, where="holdout"))
    order = stratified_order(people, columns, max(2, round(n / min(n_out, n - n_out))), rng)
    # The held-out participants are evenly spaced in the sorted order. Neighbours are similar, so that both sets are
    # similar.
    steps = np.floor(np.arange(n + 1) * n_out / n + rng.random())
    held_out = np.empty(n, dtype=bool)
    held_out[order] = np.diff(steps) > 0
    split = _split_by_people(sessions, people[held_out], 0, visits)
    return split.train, split.validation


def _baseline_people(sessions: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return one baseline session per participant id, sorted by id."""
    people = baseline(check_table("sessions", sessions, where=where))
    order = np.argsort(np.array(person_names(people), dtype=object), kind="stable")
    return people.iloc[order].drop_duplicates("participant_id").reset_index(drop=True)


def _split_by_people(sessions: pd.DataFrame, held_out: pd.DataFrame, index: int, visits: str) -> Split:
    """Return the split with the participants of `held_out` for validation and all other participants for training."""
    return _split_by_validation(
        sessions, sessions["participant_id"].isin(held_out["participant_id"]), index, visits
    )


def _split_by_validation(
    sessions: pd.DataFrame, validates: "pd.Series[bool]", index: int, visits: str
) -> Split:
    validation = select_visits(sessions[validates], visits)
    order = np.argsort(np.array(person_names(validation), dtype=object), kind="stable")
    return Split(index, sessions[~validates], validation.iloc[order])

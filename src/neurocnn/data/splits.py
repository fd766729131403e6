"""Splits by participant: kfold and holdout, alike in all the columns that are asked for."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neurocnn.errors import LeakError, SettingError, TableError, suggestion
from neurocnn.storage.identity import check_ids

_MOST_CLASSES = 6  # numbers with more values than a CDR has are no classes

Integers = np.ndarray[Any, np.dtype[np.int64]]


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

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "session_id": "ses-M00"})
    >>> Split(0, frame[:1], frame[:1])
    Traceback (most recent call last):
    neurocnn.errors.LeakError: split 0: train and validation share 1 participants, expected none: sub-1
    """

    index: int
    train: pd.DataFrame
    validation: pd.DataFrame

    def __post_init__(self) -> None:
        if not isinstance(self.index, int) or isinstance(self.index, bool) or self.index < 0:
            raise SettingError(f"the split's index is {self.index!r}, expected a whole number, 0 or more")
        for what in ("train", "validation"):
            frame = getattr(self, what).reset_index(drop=True)
            check_ids(frame, f"split {self.index}, {what}")
            if not len(frame):
                raise TableError(f"split {self.index}: the {what} set is empty")
            object.__setattr__(self, what, frame)
        check_apart(self.train, self.validation, f"split {self.index}: train and validation")

    def __repr__(self) -> str:
        sets = (f"{name}: {len(getattr(self, name))} images" for name in ("train", "validation"))
        return f"Split({self.index}, {', '.join(sets)})"


def check_apart(first: pd.DataFrame, second: pd.DataFrame, what: str) -> None:
    """Refuse two sets that share a participant.

    Parameters
    ----------
    first, second
        Tables with `participant_id`; `cohort` counts where both have it.
    what
        The two sets, for the message.

    Raises
    ------
    LeakError
        With the participants.
    """
    columns = ["participant_id"]
    if "cohort" in first.columns and "cohort" in second.columns:
        columns = ["cohort", "participant_id"]
    people = [set(zip(*(frame[name].tolist() for name in columns), strict=True)) for frame in (first, second)]
    both = sorted("/".join(map(str, key)) for key in people[0] & people[1])
    if both:
        raise LeakError(f"{what} share {len(both)} participants, expected none: {', '.join(both)}")


def baseline(sessions: pd.DataFrame) -> pd.DataFrame:
    """The first session of each participant, by the sessions' numbers (months).

    Parameters
    ----------
    sessions
        One row an image.

    Raises
    ------
    TableError
        A participant's sessions cannot be ordered: one has no number, or two have the same.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1"] * 2, "session_id": ["ses-M12", "ses-M006"]})
    >>> baseline(frame)["session_id"].tolist()
    ['ses-M006']
    """
    frame = sessions.reset_index(drop=True)
    first: dict[str, tuple[int, int]] = {}
    seen: dict[tuple[str, int], str] = {}
    for row, (person, session) in enumerate(zip(_people(frame), frame["session_id"].tolist(), strict=True)):
        found = re.search(r"\d+", session)
        month = int(found.group()) if found else -1
        other = seen.setdefault((person, month), session)
        if other != session:
            raise TableError(
                f"sessions {other} and {session} of {person} cannot be ordered; expected numbers as in ses-M00, "
                "each once"
            )
        first[person] = min(first.get(person, (month, row)), (month, row))
    _check_numbered(seen)
    return frame.iloc[sorted(row for _, row in first.values())].reset_index(drop=True)


def _check_numbered(seen: dict[tuple[str, int], str]) -> None:
    """A session without a number is the first of a participant only if it is the only one."""
    several = {person for person, month in seen if month >= 0}
    for (person, month), session in seen.items():
        if month < 0 and person in several:
            raise TableError(
                f"session {session} of {person} has no number, so that the participant's sessions cannot be ordered"
            )


def _people(frame: pd.DataFrame) -> list[str]:
    """One text for each row's participant: the same id in two cohorts means two persons."""
    ids: list[str] = frame["participant_id"].tolist()
    if "cohort" not in frame.columns:
        return ids
    return [f"{cohort}/{person}" for cohort, person in zip(frame["cohort"].tolist(), ids, strict=True)]


def kfold(
    sessions: pd.DataFrame, n_splits: int = 5, stratify: str | Sequence[str] = (), seed: int = 0
) -> list[Split]:
    """Deal participants out into validation sets; each participant is in exactly one.

    Parameters
    ----------
    sessions
        One row an image.
    n_splits
        2 or more.
    stratify
        Columns of classes or of numbers, or one of them, in which the sets shall be alike; a participant
        counts with the baseline session's values. Columns that come first weigh more.
    seed
        The order of the rows does not matter, the seed does.

    Returns
    -------
    splits
        Training sets hold all sessions, validation sets baseline ones.

    Raises
    ------
    TableError
        A column is missing, or there are fewer participants than splits.

    Notes
    -----
    Participants are sorted by the columns and dealt out in turn. In each class of the first column, and in
    each combination of the first two, three, …, sets differ by one participant at most; no class is too rare.
    Numbers are sorted within classes, and any `n_splits` neighbours are dealt to different sets at random.

    Examples
    --------
    >>> ids = [f"sub-{i}" for i in range(6)]
    >>> frame = pd.DataFrame({"participant_id": ids, "session_id": "ses-M00", "diagnosis": ["AD", "CN"] * 3})
    >>> [split.validation["diagnosis"].tolist() for split in kfold(frame, 3, "diagnosis")]
    [['AD', 'CN'], ['AD', 'CN'], ['AD', 'CN']]
    """
    if not isinstance(n_splits, int) or isinstance(n_splits, bool) or n_splits < 2:
        raise SettingError(f"n_splits is {n_splits!r}, expected a whole number, 2 or more")
    people = _sorted_people(sessions)
    if len(people) < n_splits:
        raise TableError(
            f"{len(people)} participants cannot be dealt out into {n_splits} splits; ask for fewer splits"
        )
    rng = np.random.default_rng(seed)
    order = _alike(people, stratify, n_splits, rng)
    folds = np.empty(len(people), dtype=np.int64)
    # Which set begins is drawn, so that no split is always the larger one.
    folds[order] = rng.permutation(n_splits)[np.arange(len(people)) % n_splits]
    return [_apart(sessions, people, folds == index, index) for index in range(n_splits)]


def holdout(
    sessions: pd.DataFrame, fraction: float = 0.2, stratify: str | Sequence[str] = (), seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set participants apart, for a test.

    Parameters
    ----------
    sessions
        One row an image.
    fraction
        Of the participants, between 0 and 1; at least one is set apart and one is left.
    stratify, seed
        As of `kfold`.

    Returns
    -------
    rest, held_out
        All sessions of those who are left, and the baseline sessions of those set apart.

    Raises
    ------
    TableError
        A column is missing, or there is only one participant.

    Examples
    --------
    >>> ids = [f"sub-{i}" for i in range(10)]
    >>> frame = pd.DataFrame({"participant_id": ids, "session_id": "ses-M00", "diagnosis": ["AD", "CN"] * 5})
    >>> rest, test = holdout(frame, 0.2, "diagnosis")
    >>> len(rest), sorted(test["diagnosis"])
    (8, ['AD', 'CN'])
    """
    if not isinstance(fraction, float | int) or not 0 < fraction < 1:
        raise SettingError(f"fraction is {fraction!r}, expected a number between 0 and 1")
    people = _sorted_people(sessions)
    n = len(people)
    if n < 2:
        raise TableError(f"there are {n} participants, of whom none can be set apart")
    n_out = min(max(1, round(fraction * n)), n - 1)
    rng = np.random.default_rng(seed)
    order = _alike(people, stratify, max(2, round(n / min(n_out, n - n_out))), rng)
    # Equal steps through the sorted participants: each run of them gives its share, rounded up or down.
    steps = np.floor(np.arange(n + 1) * n_out / n + rng.random())
    held_out = np.empty(n, dtype=bool)
    held_out[order] = np.diff(steps) > 0
    split = _apart(sessions, people, held_out, 0)
    return split.train, split.validation


def _sorted_people(sessions: pd.DataFrame) -> pd.DataFrame:
    """The baseline session of each participant, in the order of their ids."""
    check_ids(sessions, "sessions")
    people = baseline(sessions)
    order = np.argsort(np.array(_people(people), dtype=object), kind="stable")
    return people.iloc[order].reset_index(drop=True)


def _apart(
    sessions: pd.DataFrame, people: pd.DataFrame, held_out: np.ndarray[Any, np.dtype[np.bool_]], index: int
) -> Split:
    """A split whose validation set holds some participants; making it verifies it."""
    out = {person for person, held in zip(_people(people), held_out, strict=True) if held}
    train = sessions[[person not in out for person in _people(sessions)]]
    return Split(index, train, people[held_out])


def _alike(
    people: pd.DataFrame, stratify: str | Sequence[str], block: int, rng: np.random.Generator
) -> Integers:
    """An order of participants in which any `block` neighbours are as alike as they can be.

    Sorted by classes first; within a combination of classes by numbers; within `block` neighbours at random.
    """
    columns = [stratify] if isinstance(stratify, str) else list(stratify)
    for column in columns:
        if column not in people.columns:
            raise TableError(
                f"stratify: there is no column {column!r}; {suggestion(column, map(str, people.columns))}"
            )
    numbers = [name for name in columns if _is_continuous(people[name], block)]
    classes = [_codes(people[name]) for name in columns if name not in numbers]
    values = [_codes(people[name]) for name in numbers]
    rows = rng.permutation(len(people))
    for group in _groups(rows, classes):
        group[:] = _by_numbers(group, values, block, rng)
    return rows


def _groups(rows: Integers, classes: list[Integers]) -> Iterator[Integers]:
    """Sort `rows` by the classes in place; views of the rows of each combination."""
    if not classes:
        yield rows
        return
    rows[:] = rows[np.lexsort([codes[rows] for codes in reversed(classes)])]
    keys = np.stack([codes[rows] for codes in classes])
    starts = [0, *(np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1), len(rows)]
    for begin, end in itertools.pairwise(starts):
        yield rows[begin:end]


def _by_numbers(rows: Integers, values: list[Integers], block: int, rng: np.random.Generator) -> Integers:
    """Sort by the first number, runs of that by the next one, and so on; then shuffle within blocks."""
    if not values:
        return rows
    if len(rows) <= block:
        return rng.permutation(rows)
    rows = rows[np.argsort(values[0][rows], kind="stable")]
    # With several numbers, a run spans so many blocks that each number gets an equal say.
    run = block * max(1, round((len(rows) / block) ** (1 - 1 / len(values))))
    runs = [rows[i : i + run] for i in range(0, len(rows), run)]
    if len(values) == 1:
        return np.concatenate([rng.permutation(part) for part in runs])
    return np.concatenate([_by_numbers(part, values[1:], block, rng) for part in runs])


def _codes(column: pd.Series) -> Integers:
    """Whole numbers that sort as the values do; missing ones come first."""
    values = column if pd.api.types.is_numeric_dtype(column) else column.astype(str).where(column.notna())
    return np.asarray(values.rank(method="dense").fillna(0), dtype=np.int64)


def _is_continuous(column: pd.Series, block: int) -> bool:
    """Whether a column's values are numbers rather than classes that are written as numbers (a CDR, a sex)."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    n_values = column.nunique()
    return bool(n_values > _MOST_CLASSES or n_values * 2 * block > len(column))

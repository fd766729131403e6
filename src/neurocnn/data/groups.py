"""Groups of participants, such as sites or families, which a split never separates."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from neurocnn.data.stratification import Integers, indicators
from neurocnn.errors import TableError
from neurocnn.errors.arguments import check_text
from neurocnn.storage.identity import check_columns, describe_rows


def group_names(sessions: pd.DataFrame, column: str, person: Sequence[str], where: str) -> "pd.Series[str]":
    """Return the group of each row as text.

    Parameters
    ----------
    sessions
        One row per image.
    column
        Column of the groups.
    person
        Columns that identify a participant.
    where
        Name of the calling function, for messages.

    Raises
    ------
    TableError
        If the column is missing or empty in a row, or a participant is in several groups.
    """
    check_columns(sessions, [check_text("column", column, expected="a column name", where=where)], where)
    missing = sessions[sessions[column].isna()]
    if len(missing):
        raise TableError(
            f"{where}: {column} is missing for {describe_rows(missing)}; expected a group in each row; "
            "fill it or leave these rows out"
        )
    several = sessions.groupby(list(person))[column].nunique() > 1
    if several.any():
        name = several.index[several][0]
        own = sessions[(sessions[list(person)] == name).all(axis=1)]
        raise TableError(
            f"{where}: {column}={own[column].unique().tolist()} of {describe_rows(own)}; expected one group per "
            "participant; correct the table, or leave the sessions of all groups but one out"
        )
    return sessions[column].astype(str)


def assign_groups(
    people: pd.DataFrame,
    groups: "pd.Series[str]",
    columns: Sequence[str],
    n_sets: int,
    rng: np.random.Generator,
) -> Integers:
    """Return the number of the set of each participant; the participants of a group have the same.

    The groups, the largest first, are assigned one by one to the set in which the sum of squared deviations from equal
    sets, over the number of participants and each class of the columns, grows least.

    Parameters
    ----------
    people
        One row per participant.
    groups
        Group of each row.
    columns
        Columns in which the sets should be similar.
    n_sets
        Number of sets, at most that of the groups.
    rng
        Source of random numbers: it decides between equal choices.
    """
    codes, names = pd.factorize(groups)
    features = np.column_stack(
        [np.ones(len(people)), *(indicators(people[name], n_sets) for name in columns)]
    )
    counts = np.zeros((len(names), features.shape[1]))
    np.add.at(counts, codes, features)
    # A class of few participants weighs as much as one of many.
    counts /= np.maximum(features.sum(axis=0), 1)
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order, 0], kind="stable")]
    sets, loads = np.zeros(len(names), dtype=np.int64), np.zeros((n_sets, counts.shape[1]))
    for group in order:
        growth = ((loads + counts[group]) ** 2 - loads**2).sum(axis=1)
        shuffled = rng.permutation(n_sets)
        sets[group] = shuffled[np.argmin(growth[shuffled])]
        loads[sets[group]] += counts[group]
    return sets[codes]

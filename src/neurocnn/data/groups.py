"""Groups of participants, such as sites or families, which are never divided between sets."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from neurocnn.data.stratification import Integers, indicator_columns
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
        If the column is missing or has an empty cell, or a participant is in several groups.
    """
    check_columns(sessions, [check_text("column", column, expected="a column name", where=where)], where)
    missing = sessions[sessions[column].isna()]
    if len(missing):
        raise TableError(
            f"{where}: {column} is missing for {describe_rows(missing)}; expected a group in each row; "
            "fill in the group or remove these rows"
        )
    several = sessions.groupby(list(person))[column].nunique() > 1
    if several.any():
        name = several.index[several][0]
        own = sessions[(sessions[list(person)] == name).all(axis=1)]
        raise TableError(
            f"{where}: {column}={own[column].unique().tolist()} of {describe_rows(own)}; expected one group per "
            "participant; correct the table, or keep the sessions of one group only"
        )
    return sessions[column].astype(str)


def assign_groups(
    people: pd.DataFrame,
    groups: "pd.Series[str]",
    columns: Sequence[str],
    n_sets: int,
    rng: np.random.Generator,
) -> Integers:
    """Return the number of each participant's set, which is the same for all participants of a group.

    The groups are assigned one by one, the largest first, each to the set that makes the sets most similar: the
    sum of squares of the sets' numbers of participants, in total and in each class of the columns, is then minimal.

    Parameters
    ----------
    people
        One row per participant.
    groups
        Group of each row.
    columns
        Columns in which the sets should be similar.
    n_sets
        Number of sets, at most the number of groups.
    rng
        Generator that chooses between equally good sets.
    """
    codes, names = pd.factorize(groups)
    features = np.column_stack(
        [np.ones(len(people)), *(indicator_columns(people[name], n_sets) for name in columns)]
    )
    counts = np.zeros((len(names), features.shape[1]))
    np.add.at(counts, codes, features)
    # After the division, rare classes have the same weight as frequent ones.
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

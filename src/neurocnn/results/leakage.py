"""Participants that a model has seen, and the check that new data do not contain them.

`seen.tsv` has one row per participant and role: ``train``, ``validation`` (seen by the selection), the same roles of
the transfer's source with the prefix ``source_``, and one row ``source_unknown`` if the source did not record its
participants.
"""

from collections.abc import Collection, Iterable

import pandas as pd

from neurocnn import storage
from neurocnn.errors import LeakError, TableError
from neurocnn.results.paths import Fold
from neurocnn.storage.identity import COHORT, PARTICIPANT, key_columns, warn_of_similar_ids

UNKNOWN = "source_unknown"
#: Roles of the participants whose images were used to train the weights.
TRAINED = ("train", "source_train")


def record_seen(
    train: pd.DataFrame, validation: pd.DataFrame, source: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the table of participants that a model has seen.

    Parameters
    ----------
    train, validation
        Sessions with ``participant_id`` and, for several cohorts, ``cohort``.
    source
        Table of the participants that the transfer's source has seen; None without a transfer.

    Examples
    --------
    >>> train, validation = ({"participant_id": [name]} for name in ("sub-01", "sub-02"))
    >>> record_seen(pd.DataFrame(train), pd.DataFrame(validation))
      participant_id        role
    0         sub-01       train
    1         sub-02  validation
    """
    pieces = [
        sessions[key_columns(sessions, PARTICIPANT)].assign(role=role)
        for role, sessions in (("train", train), ("validation", validation))
    ]
    if source is not None:
        own = source["role"].where(source["role"].str.startswith("source_"), "source_" + source["role"])
        pieces.append(source.assign(role=own))
    table = pd.concat(pieces, ignore_index=True).drop_duplicates(ignore_index=True)
    return table[[*key_columns(table, PARTICIPANT), "role"]]


def read_seen(fold: Fold) -> pd.DataFrame:
    """Return the participants that the networks of a fold have seen.

    Raises
    ------
    NotFoundError
        If the fold has no `seen.tsv`.
    LeakError
        If `seen.tsv` differs from ``train.tsv`` or ``validation.tsv`` in the same folder.
    """
    seen = storage.read_table(fold.seen, required=("participant_id", "role"))
    for role in ("train", "validation"):
        path = fold.sessions(role)
        if path.is_file():
            sessions = storage.read_table(path)
            key = key_columns(set(sessions.columns) & set(seen.columns), PARTICIPANT)
            recorded, people = (
                set(table[key].fillna("").itertuples(index=False, name=None))
                for table in (seen[seen["role"] == role], sessions)
            )
            for found, where in ((people - recorded, path), (recorded - people, fold.seen)):
                if found:
                    names = ", ".join(sorted(" ".join(map(str, person)) for person in found)[:5])
                    raise LeakError(
                        f"{fold.seen} and {path.name} differ: {len(found)} participants are only in {where.name} "
                        f"({names}); restore the files that the training wrote"
                    )
    return seen


def drop_unused_cohorts(sessions: pd.DataFrame, cohorts: Collection[str]) -> pd.DataFrame:
    """Return the sessions, without the column ``cohort`` if the images have no cohorts.

    Examples
    --------
    >>> table = pd.DataFrame({"participant_id": ["sub-01"], "cohort": ["phase 2"]})
    >>> list(drop_unused_cohorts(table, [])), list(drop_unused_cohorts(table, ["phase 1", "phase 2"]))
    (['participant_id'], ['participant_id', 'cohort'])
    """
    return sessions if cohorts else sessions.drop(columns=COHORT, errors="ignore")


def unknown_source() -> pd.DataFrame:
    """Return the table of seen participants for a transfer from a source that did not record its participants."""
    return pd.DataFrame({"participant_id": [None], "role": [UNKNOWN]})


def check_unseen(
    seen: pd.DataFrame,
    sessions: pd.DataFrame,
    where: str,
    roles: Iterable[str] | None = None,
    advice: str = "leave them out or use a model that has not seen them",
) -> None:
    """Raise a LeakError if participants of these sessions were seen in training.

    Parameters
    ----------
    seen
        See `record_seen`. Cohorts are compared only if both tables have a column ``cohort``. A row of `seen` without a
        cohort matches participants of any cohort.
    sessions
        Sessions to be evaluated.
    where
        Start of the message.
    roles
        Roles that count as seen; all by default.
    advice
        End of the message.

    Raises
    ------
    LeakError
        If a participant was seen. The message contains the participants and their roles.
    TableError
        If the sessions have no column ``participant_id``.

    Examples
    --------
    >>> known = record_seen(*(pd.DataFrame({"participant_id": [name]}) for name in ("sub-01", "sub-02")))
    >>> check_unseen(known, pd.DataFrame({"participant_id": ["sub-03"]}), "test")
    >>> check_unseen(known, pd.DataFrame({"participant_id": ["sub-01"]}), "test")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurocnn.errors.LeakError: test: 1 participants were seen in training: sub-01 train; leave them out ...
    """
    if "participant_id" not in sessions:
        columns = ", ".join(map(str, sessions))
        raise TableError(f"{where}: columns of the sessions: {columns}; expected participant_id among them")
    if roles is not None:
        seen = seen[seen["role"].isin(list(roles))]
    warn_of_similar_ids(seen, sessions)
    key = [name for name in PARTICIPANT if name in seen and name in sessions]
    known = seen.merge(sessions[key].drop_duplicates(), on=key)
    if COHORT in key:
        nameless = seen[seen[COHORT].isna()].drop(columns=COHORT)
        known = pd.concat([known, nameless.merge(sessions[key].drop_duplicates(), on="participant_id")])
    if len(known):
        people: dict[tuple[str, ...], list[str]] = {}
        for *person, role in known[[*key, "role"]].drop_duplicates().itertuples(index=False, name=None):
            people.setdefault(tuple(map(str, person)), []).append(str(role))
        names = [f"{' '.join(person)} {'/'.join(roles)}" for person, roles in people.items()]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise LeakError(
            f"{where}: {len(names)} participants were seen in training: {', '.join(names[:10])}{more}; {advice}"
        )

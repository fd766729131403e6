"""Whom a model has seen, and the one check that it is not judged on them.

`seen.tsv` has a row a participant and role: ``train``, ``validation`` (the selection saw them), the same of the
transfer's source with ``source_`` in front, and one row ``source_unknown`` where a source does not say.
"""

from collections.abc import Iterable

import pandas as pd

from neurocnn.errors import LeakError, TableError

UNKNOWN = "source_unknown"
#: The roles in which a participant changed the weights.
TRAINED = ("train", "source_train")
_KEY = ["cohort", "participant_id"]


def record(train: pd.DataFrame, validation: pd.DataFrame, source: pd.DataFrame | None = None) -> pd.DataFrame:
    """Give the table of whom a model has seen.

    Parameters
    ----------
    train, validation
        Sessions with ``participant_id`` and, where there are several, ``cohort``.
    source
        The same table of the transfer's source, None without a transfer.

    Examples
    --------
    >>> train, validation = ({"participant_id": [name]} for name in ("sub-01", "sub-02"))
    >>> record(pd.DataFrame(train), pd.DataFrame(validation))
      participant_id        role
    0         sub-01       train
    1         sub-02  validation
    """
    pieces = [_participants(train).assign(role="train"), _participants(validation).assign(role="validation")]
    if source is not None:
        own = source["role"].where(source["role"].str.startswith("source_"), "source_" + source["role"])
        pieces.append(source.assign(role=own))
    table = pd.concat(pieces, ignore_index=True).drop_duplicates(ignore_index=True)
    return table[[*[name for name in _KEY if name in table], "role"]]


def unknown() -> pd.DataFrame:
    """The table of a source that does not say whom it has seen."""
    return pd.DataFrame({"participant_id": ["n/a"], "role": [UNKNOWN]})


def check(seen: pd.DataFrame, sessions: pd.DataFrame, what: str, roles: Iterable[str] | None = None) -> None:
    """Refuse sessions whose participants were seen.

    Parameters
    ----------
    seen
        What `record` gives. Participants are compared with their cohort where both sides know it, by name alone
        otherwise: a source with one cohort says none, and its participants may be those of any.
    sessions
        Those that shall be judged.
    what
        Who shall not have been seen by whom, for the message.
    roles
        The roles that count; all by default.

    Raises
    ------
    LeakError
        With the participants and their roles.
    TableError
        The sessions have no column ``participant_id``.

    Examples
    --------
    >>> known = record(*(pd.DataFrame({"participant_id": [name]}) for name in ("sub-01", "sub-02")))
    >>> check(known, pd.DataFrame({"participant_id": ["sub-03"]}), "test")
    >>> check(known, pd.DataFrame({"participant_id": ["sub-01"]}), "test")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurocnn.errors.LeakError: test: 1 participants were seen before: sub-01 train; leave them out ...
    """
    if "participant_id" not in sessions:
        raise TableError(
            f"{what}: the sessions have no column participant_id; there are: {', '.join(map(str, sessions))}"
        )
    if roles is not None:
        seen = seen[seen["role"].isin(list(roles))]
    key = [name for name in _KEY if name in seen and name in sessions]
    met = seen.merge(sessions[key].drop_duplicates(), on=key)
    if "cohort" in key:
        nameless = seen[seen["cohort"].isna()].drop(columns="cohort")
        met = pd.concat([met, nameless.merge(sessions[key].drop_duplicates(), on="participant_id")])
    if len(met):
        people: dict[tuple[str, ...], list[str]] = {}
        for *who, role in met[[*key, "role"]].drop_duplicates().itertuples(index=False, name=None):
            people.setdefault(tuple(map(str, who)), []).append(str(role))
        names = [f"{' '.join(who)} {'/'.join(roles)}" for who, roles in people.items()]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise LeakError(
            f"{what}: {len(names)} participants were seen before: {', '.join(names[:10])}{more}; leave them out "
            "or use a model that has not seen them"
        )


def _participants(sessions: pd.DataFrame) -> pd.DataFrame:
    return sessions[[name for name in _KEY if name in sessions]].drop_duplicates()

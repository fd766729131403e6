"""Table of sessions of a BIDS folder."""

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from neurocnn.errors import NotFoundError, TableError
from neurocnn.errors.arguments import check_path
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.files import find, is_file, is_folder
from neurocnn.storage.identity import REQUIRED, check_ids
from neurocnn.storage.tables import read_texts, typed_columns


def read_bids(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the table of sessions of a BIDS folder.

    Parameters
    ----------
    folder
        BIDS folder with ``participants.tsv``. The sessions of a participant are the rows of
        ``sub-…/sub-…_sessions.tsv``, or the folders ``sub-…/ses-…`` if that file does not exist.

    Returns
    -------
    sessions
        One row per session, in the order of the files, with all columns of both kinds of table and the types of
        `read_table`. A value in ``participants.tsv`` is repeated for each session of the participant, unless the
        participant's sessions table has the same column, such as a diagnosis: then only the sessions table is used,
        because ``participants.tsv`` often describes only the first session.
        Participants without sessions are omitted, and a log message lists them.

    Raises
    ------
    NotFoundError
        If the folder or ``participants.tsv`` does not exist, or no participant has a session.
    TableError
        If a table is invalid (see `read_table`), a participant has several rows in ``participants.tsv``, or the folder
        of a participant or session has no row.
    StorageError
        If a file cannot be read.

    Examples
    --------
    >>> _ = (tmp / "participants.tsv").write_text("participant_id\\tsex\\nsub-01\\tF\\n")
    >>> (tmp / "sub-01").mkdir()
    >>> _ = (tmp / "sub-01" / "sub-01_sessions.tsv").write_text("session_id\\tage\\nses-M000\\t70\\nses-M012\\t71\\n")
    >>> read_bids(tmp)
      participant_id session_id  age sex
    0         sub-01   ses-M000   70   F
    1         sub-01   ses-M012   71   F
    """
    root = check_path("folder", folder, where="read_bids")
    if not is_folder(root):
        raise NotFoundError(f"{root}: the folder does not exist; expected a BIDS folder")
    path = root / "participants.tsv"
    participants, lines = read_texts(path, REQUIRED[:1])
    check_ids(participants[[REQUIRED[0]]], str(path), lines, REQUIRED[:1])
    names = participants[REQUIRED[0]].tolist()
    _check_listed(_folders(root, "sub-"), names, path)
    tables = {name: _read_sessions(root / name) for name in names}
    without = [name for name, table in tables.items() if table.empty]
    if len(without) == len(names):
        raise NotFoundError(
            f"{root}: no participant has a session; expected sub-…_sessions.tsv or folders ses-…"
        )
    if without:
        LOGGER.warning(
            "%s: %d participants without sessions are omitted: %s", root, len(without), ", ".join(without)
        )
    sessions = pd.concat(tables.values()).fillna("n/a")
    shared = participants.columns.intersection(sessions.columns).drop(REQUIRED[0])
    texts = sessions.merge(participants.drop(columns=shared), on=REQUIRED[0], how="left")
    for column in shared.drop(REQUIRED[1], errors="ignore"):
        lacking = texts[REQUIRED[0]].isin([name for name, table in tables.items() if column not in table])
        values = participants.set_index(REQUIRED[0])[column]
        texts.loc[lacking, column] = texts.loc[lacking, REQUIRED[0]].map(values)
    rows = [
        f"{root}, {person} {session}" for person, session in texts[list(REQUIRED)].itertuples(index=False)
    ]
    return typed_columns(texts, rows)


def _read_sessions(folder: Path) -> pd.DataFrame:
    """Return the sessions of one participant as a table of strings."""
    path = folder / f"{folder.name}_sessions.tsv"
    found = _folders(folder, "ses-")
    if not is_file(path):
        return pd.DataFrame({"participant_id": folder.name, "session_id": found}, dtype=object)
    table, lines = read_texts(path, REQUIRED[1:])
    if "participant_id" not in table:
        table.insert(0, "participant_id", folder.name)
    check_ids(table, str(path), lines)
    other = sorted({*table["participant_id"]} - {folder.name})
    if other:
        raise TableError(
            f"{path}: participant_id={other[0]!r}; expected {folder.name!r}, as in the file's name"
        )
    _check_listed(found, table["session_id"].tolist(), path)
    return table


def _folders(parent: Path, prefix: str) -> list[str]:
    return [path.name for path in find(parent, f"{prefix}*") if is_folder(path)]


def _check_listed(folders: Iterable[str], ids: Iterable[str], path: Path) -> None:
    # Without this error, images would have no labels if, for example, the table and the folder spell an id differently
    # (ses-M00, ses-M000).
    missing = sorted({*folders} - {*ids})
    if missing:
        raise TableError(
            f"{path}: no rows for the folders {', '.join(missing)}; expected one row each; add rows or correct the ids"
        )

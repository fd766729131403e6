"""Checks that a result folder stays one study: the same sessions, labels and images in every run.

`images.tsv` of a fold contains the fingerprint (checksum and size) of each image that its networks were trained or
evaluated on.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neurocnn import storage
from neurocnn.engine.labels import label_key
from neurocnn.errors import LeakError, SettingError
from neurocnn.results.folder import ResultFolder
from neurocnn.results.paths import Fold
from neurocnn.storage.identity import COHORT, IMAGE, describe_row, key_columns

_SHOWN = 5


def check_same_rows(path: Path, new: pd.DataFrame, columns: Sequence[str]) -> None:
    """Check that a table contains the same sessions as before, with the same values of the columns that are used.

    Parameters
    ----------
    path
        Table of the result folder.
    new
        Sessions of now.
    columns
        Columns that the experiment uses, besides ids. Other columns may change.

    Raises
    ------
    SettingError
        If sessions or values differ; the message names the rows and both values.
    """
    saved = storage.read_table(path)
    key = key_columns(saved.columns)
    rows = saved[key].to_numpy().tolist()
    if rows != new.reindex(columns=key).to_numpy().tolist():
        raise SettingError(
            f"{path}: {len(saved)} other sessions than those of now ({len(new)}); use the same sessions, or another "
            "folder"
        )
    changed = [
        f"{describe_row(dict(zip(key, row, strict=True)))}: {name}={old!r} → {now!r}"
        for name in columns
        if name in saved and name in new
        for row, old, now in zip(rows, saved[name].tolist(), new[name].tolist(), strict=True)
        if label_key(old) != label_key(now)
    ]
    if changed:
        raise SettingError(
            f"{path}: values have changed (folder → now): {_shorten(changed)}; use another folder"
        )


def read_images(fold: Fold) -> pd.DataFrame:
    """Return the fingerprints of the images that a fold has used.

    Raises
    ------
    SettingError
        If sessions of the fold are missing: a shortened table would let replaced images pass.
    """
    images = storage.read_table(fold.images, required=("fingerprint",))
    for name in ("train", "validation"):
        path = fold.sessions(name)
        if path.is_file():
            sessions = storage.read_table(path)
            key = key_columns(set(sessions.columns) & set(images.columns))
            known = set(images[key].itertuples(index=False, name=None))
            missing = [row for row in sessions[key].itertuples(index=False, name=None) if row not in known]
            if missing:
                names = _shorten([" ".join(map(str, row)) for row in missing])
                raise SettingError(
                    f"{fold.images}: {len(missing)} sessions of {path.name} are missing ({names}); restore the file "
                    "that the training wrote"
                )
    return images


def check_same_images(folder: ResultFolder, images: pd.DataFrame) -> None:
    """Check that images are those that the folds of a result folder have used.

    Parameters
    ----------
    folder
        Result folder.
    images
        Fingerprints of now, see `Caps.fingerprints`.

    Raises
    ------
    SettingError
        If an image has changed; the message names the sessions.
    """
    for fold in folder.folds:
        if not fold.images.is_file():
            continue
        saved = read_images(fold)
        key = key_columns(set(saved.columns) & set(images.columns))
        both = saved.merge(images, on=key, suffixes=("_saved", ""))
        changed = both[both["fingerprint_saved"] != both["fingerprint"]]
        if len(changed):
            names = [describe_row(row) for row in changed[key].to_dict("records")]  # type: ignore[arg-type]
            raise SettingError(
                f"{fold.images}: {len(names)} images have changed since they were used: {_shorten(names)}; restore "
                "them, or use another folder"
            )


def add_images(fold: Fold, images: pd.DataFrame) -> None:
    """Add the fingerprints of images to those of a fold."""
    if fold.images.is_file():
        saved = read_images(fold)
        images = pd.concat([saved, images], ignore_index=True)
    storage.write_table(images.drop_duplicates(key_columns(images.columns)), fold.images)


def check_renamed_cohorts(fold: Fold, seen: pd.DataFrame, images: pd.DataFrame, where: str) -> None:
    """Refuse images of participants who were seen under the name of another cohort.

    Parameters
    ----------
    fold
        Fold of the networks.
    seen
        Participants that the networks have seen, see `leakage.record_seen`.
    images
        Fingerprints of the images to be evaluated.
    where
        Start of the message.

    Raises
    ------
    LeakError
        If an image of a participant who was seen has another cohort now.
    """
    if not fold.images.is_file() or COHORT not in images:
        return
    saved = read_images(fold)
    person = key_columns(set(seen.columns) & set(saved.columns), IMAGE[:2])
    saved = saved.merge(seen[person].drop_duplicates(), on=person)
    if COHORT not in saved:
        return
    same = saved.merge(images, on=["participant_id", "session_id", "fingerprint"], suffixes=("_saved", ""))
    renamed = same[same[f"{COHORT}_saved"] != same[COHORT]]
    if len(renamed):
        names = [
            f"{row['participant_id']} ({row[f'{COHORT}_saved']} → {row[COHORT]})"
            for _, row in renamed.drop_duplicates("participant_id").iterrows()
        ]
        raise LeakError(
            f"{where}: {len(names)} participants were seen under another cohort: {_shorten(names)}; use the cohort "
            "names of the training, and leave these participants out"
        )


def _shorten(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more

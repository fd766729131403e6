"""Checks that the sessions, labels and images of a result folder are the same in every run.

`images.tsv` of a fold contains the fingerprint (checksum and size) of each image that its networks were trained or
evaluated on, and the name of the data set.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from neurocnn import storage
from neurocnn.engine.labels import label_key
from neurocnn.errors import LeakError, SettingError
from neurocnn.results.paths import SETS, Fold
from neurocnn.storage.identity import COHORT, IMAGE, REQUIRED, describe_row, describe_rows, key_columns

#: Column of `images.tsv`: ``train``, ``validation``, or the name of predicted data.
DATASET = "dataset"
_SHOWN = 5


def check_same_rows(path: Path, new: pd.DataFrame, columns: Sequence[str]) -> None:
    """Check that the sessions, and their values in the used columns, equal a table in the result folder.

    Parameters
    ----------
    path
        Table of the result folder.
    new
        Sessions of the current run.
    columns
        Columns that the experiment uses in addition to the ids. Other columns may change.

    Raises
    ------
    SettingError
        If sessions or values differ. The message contains the rows and both values.
    """
    saved = storage.read_table(path)
    key = key_columns(set(saved.columns) & set(new.columns))
    rows = saved[key].to_numpy().tolist()
    if rows != new[key].to_numpy().tolist():
        differing = describe_other_sessions(saved[key], new[key]) or "their order"
        raise SettingError(
            f"{path}: the sessions differ from those of this run ({differing}); use the same sessions, or "
            "another folder"
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
            f"{path}: values have changed (folder → now): {shorten_list(changed)}; use another folder"
        )


def describe_other_sessions(saved: pd.DataFrame, new: pd.DataFrame) -> str:
    """Return a string with the sessions that only one of two tables contains; it is empty for equal sessions."""
    rows = [set(table.itertuples(index=False, name=None)) for table in (saved, new)]
    names = [
        f"{describe_row(dict(zip(saved.columns, row, strict=True)))} only {where}"
        for where, only in (("in the folder", rows[0] - rows[1]), ("now", rows[1] - rows[0]))
        for row in sorted(only)
    ]
    return shorten_list(names)


def check_same_images(fold: Fold, images: pd.DataFrame, datasets: Sequence[str]) -> None:
    """Check that images have not changed since a fold used them.

    Parameters
    ----------
    fold
        Fold of a result folder.
    images
        Current fingerprints of the images, see `ImageSet.fingerprints`.
    datasets
        Names of the data sets whose images are compared. Other data sets may have other images with the same ids.

    Raises
    ------
    SettingError
        If an image has changed. The message contains the sessions.
    """
    saved = read_images(fold, datasets)
    key = key_columns(set(saved.columns) & set(images.columns))
    both = saved.merge(images, on=key, suffixes=("_saved", ""))
    changed = both[both["fingerprint_saved"] != both["fingerprint"]].drop_duplicates(key)
    if len(changed):
        names = [describe_row(row) for row in changed[key].to_dict("records")]  # type: ignore[arg-type]
        raise SettingError(
            f"{fold.images}: {len(names)} images have changed since this split used them: {shorten_list(names)}; "
            "restore the images, or use another result folder or another name for the data set"
        )


def read_images(fold: Fold, datasets: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the recorded fingerprints of the images of `datasets`, by default of all data sets.

    Raises
    ------
    SettingError
        If rows of training or validation sessions are missing, because replaced images of these sessions would not be
        detected.
    """
    if not fold.images.is_file():
        return pd.DataFrame(columns=[*REQUIRED, DATASET, "fingerprint"], dtype=object)
    saved = storage.read_table(fold.images, required=("participant_id", DATASET, "fingerprint"))
    recorded = set(saved[DATASET])
    # Earlier versions of neurocnn recorded no fingerprints during training. Their folders contain only those of images
    # that were predicted since then.
    if not recorded or not recorded.isdisjoint(SETS):
        for name in SETS:
            _check_complete(fold, name, saved[saved[DATASET] == name])
    return saved if datasets is None else saved[saved[DATASET].isin(list(datasets))]


def _check_complete(fold: Fold, dataset: str, images: pd.DataFrame) -> None:
    path = fold.sessions(dataset)
    if not path.is_file():
        return
    sessions = storage.read_table(path)
    key = key_columns(set(sessions.columns) & set(images.columns))
    known = set(images[key].itertuples(index=False, name=None))
    missing = [row for row in sessions[key].itertuples(index=False, name=None) if row not in known]
    if missing:
        names = shorten_list([describe_row(dict(zip(key, row, strict=True))) for row in missing])
        raise SettingError(
            f"{fold.images}: {len(missing)} sessions of {path.name} are missing ({names}); restore the file that the "
            "training wrote"
        )


def write_images(fold: Fold, images: Mapping[str, pd.DataFrame]) -> None:
    """Write the fingerprints of images, by name of their data set. Fingerprints of other data sets are kept."""
    saved = read_images(fold)
    kept = saved[~saved[DATASET].isin(list(images))]
    new = [table.assign(**{DATASET: name}) for name, table in images.items()]
    storage.write_table(pd.concat([*([kept] if len(kept) else []), *new], ignore_index=True), fold.images)


def remove_outdated_fingerprints(fold: Fold, images: pd.DataFrame) -> None:
    """Remove the fingerprints of a fold without results if its sessions or images have changed meanwhile.

    A run that failed before its first score has written these fingerprints. `images` are the current fingerprints.
    Equal fingerprints are kept, because another process may just have written them.
    """
    try:
        check_same_images(fold, images, SETS)
    except SettingError:
        fold.images.unlink(missing_ok=True)


def check_copies(images: pd.DataFrame) -> None:
    """Raise an error if two cohorts contain the same image, because its participant would count as two people.

    Raises
    ------
    LeakError
        If an image is in two cohorts. The message contains the sessions.
    """
    copies = images[images.duplicated([*REQUIRED, "fingerprint"], keep=False)]
    if len(copies):
        raise LeakError(
            f"{len(copies)} images are copies of an image in another cohort: {describe_rows(copies)}; expected each "
            "participant in one cohort; leave the copies out"
        )


def check_renamed_cohorts(fold: Fold, seen: pd.DataFrame, images: pd.DataFrame, where: str) -> None:
    """Raise a LeakError if participants were seen in training under another name of their cohort.

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
        If an image of a seen participant has another cohort than in training.
    """
    saved = read_images(fold)
    if COHORT not in images or COHORT not in saved:
        return
    person = key_columns(set(seen.columns) & set(saved.columns), IMAGE[:2])
    saved = saved.merge(seen[person].drop_duplicates(), on=person)
    same = saved.merge(images, on=["participant_id", "session_id", "fingerprint"], suffixes=("_saved", ""))
    renamed = same[same[f"{COHORT}_saved"] != same[COHORT]]
    if len(renamed):
        names = [
            f"{row['participant_id']} ({row[f'{COHORT}_saved']} → {row[COHORT]})"
            for _, row in renamed.drop_duplicates("participant_id").iterrows()
        ]
        raise LeakError(
            f"{where}: {len(names)} participants were seen under another cohort: {shorten_list(names)}; use the cohort "
            "names that were used in training, and leave these participants out"
        )


def shorten_list(items: Sequence[str]) -> str:
    """Return a string with the first 5 items, and the number of remaining items."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more

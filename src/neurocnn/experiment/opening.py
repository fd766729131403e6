"""Start of a run: checks of the sessions, and the first files of a result folder that processes may share."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neurocnn import data, engine, storage
from neurocnn.errors import TableError
from neurocnn.errors.logger import LOGGER
from neurocnn.experiment.fold import FoldRun
from neurocnn.experiment.resuming import check_resumable, has_new_values
from neurocnn.results.folder import ResultFolder
from neurocnn.results.leakage import drop_unused_cohorts
from neurocnn.results.paths import SETS
from neurocnn.results.same_study import check_copies, remove_outdated_fingerprints
from neurocnn.results.scoring import first_image
from neurocnn.results.setting_json import Settings
from neurocnn.results.settings import read_settings, write_environment, write_settings
from neurocnn.storage.identity import IMAGE, describe_rows, key_columns


def check_sessions(
    caps: data.ImageSet, label: str | None, splits: Sequence[data.Split], chosen: Sequence[data.Split]
) -> pd.DataFrame:
    """Check cohorts, copied images and labels, and return the fingerprints of the images of the chosen splits.

    Parameters
    ----------
    caps
        Location of the images.
    label
        Label column, which must not have missing values; None for a task without labels.
    splits, chosen
        All splits, whose cohorts must exist, and the splits to run.

    Raises
    ------
    NotFoundError, ImageError
        If images are missing or unreadable. The message lists all of them.
    TableError
        If labels are missing.
    LeakError
        If two cohorts contain the same image.
    """
    if caps.cohorts:
        tables = [table for split in splits for table in (split.train, split.validation)]
        caps.check_cohorts({name for table in tables for name in table.get("cohort", ())})
    sessions = pd.concat([table for split in chosen for table in (split.train, split.validation)])
    sessions = drop_unused_cohorts(sessions, caps.cohorts)
    sessions = sessions.drop_duplicates(key_columns(sessions.columns, IMAGE))
    images = caps.fingerprints(sessions.reset_index(drop=True))
    check_copies(images)
    if label in sessions and sessions[label].isna().any():
        missing = sessions[sessions[label].isna()]
        rows = describe_rows(missing, most=len(missing))
        raise TableError(
            f"{label!r} is missing for {len(missing)} sessions: {rows}; add the labels or remove these rows"
        )
    return images


def warn_of_sources(runs: Sequence[FoldRun], networks: Sequence[Sequence[int] | None]) -> None:
    """Show the warnings about each source of a transfer once, for the first split that is not done.

    Parameters
    ----------
    runs
        Runs of the splits. After a search, their sources may differ.
    networks
        part_ids of the networks of each run; None for a single network.
    """
    shown = set()
    for run, parts in zip(runs, networks, strict=True):
        if run.recipe.transfer_from not in shown and not run.is_done:
            run.recipe.warn_of_source(run.fold.index, run.train.part_ids, parts)
            shown.add(run.recipe.transfer_from)


def log_unknown_affine(where: ResultFolder, dataset: data.CapsDataset, reconstructions: bool) -> None:
    """Log that no NIfTI files will be written if the affine is unknown, because only prepared tensors exist."""
    writes = reconstructions or (where.has_part_accuracy and hasattr(dataset.parts, "place"))
    if writes and dataset.caps.known_affine(*first_image(dataset)) is None:
        LOGGER.info("%s: no NIfTI maps are written, because the affine of the images is unknown", where.root)


def open_folder(
    where: ResultFolder, settings: Settings, splits: Sequence[data.Split], images: pd.DataFrame
) -> None:
    """Write the settings, and the sessions and balance of each split, unless the folder already has results.

    Raises
    ------
    SettingError
        If another process has started another experiment in the folder since the first check.
    """
    ranks = engine.find_ranks()
    ranks.barrier("before the result folder is written")
    if ranks.rank == 0:
        with where.hold() as lock:
            tables: dict[Path, pd.DataFrame] = {}
            for split in splits:
                fold = where.fold(split.index)
                tables |= dict(zip(map(fold.sessions, SETS), (split.train, split.validation), strict=True))
                tables[fold.balance] = data.balance(split.train, split.validation)
            storage.remove_leftovers(lock, where.settings, where.environment, *tables)
            check_resumable(where, settings, splits, images)
            claimed = where.settings.is_file() and where.is_claimed
            if not claimed or has_new_values(read_settings(where.settings), settings):
                # The settings are written first, because they identify the folder.
                write_settings(settings, where.settings)
            if not where.environment.is_file():
                write_environment(where.environment)
            for path, table in tables.items():
                if not claimed or not path.is_file():
                    storage.write_table(table, path)
            if not claimed:
                for split in splits:
                    remove_outdated_fingerprints(where.fold(split.index), images)
    ranks.barrier("after the result folder was written")


def read_split(where: ResultFolder, index: int) -> data.Split:
    """Return a split of a result folder."""
    fold = where.fold(index)
    return data.Split(index, *(storage.read_table(fold.sessions(name)) for name in SETS))

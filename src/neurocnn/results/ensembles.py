"""Ensemble predictions, which combine all splits, and image-level tables that are rebuilt by another vote."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from filelock import BaseFileLock

from neurocnn import engine, storage
from neurocnn.errors import SettingError
from neurocnn.errors.logger import LOGGER
from neurocnn.results.checked_tables import N_SPLITS, drop_names, read_predicted, read_row
from neurocnn.results.folder import IMAGE, ResultFolder
from neurocnn.results.paths import SETS, Fold
from neurocnn.results.prediction import read_validation
from neurocnn.results.scoring import add_class_names, metrics_row, vote_images, write_image_level
from neurocnn.results.votes import FoldVote, Vote, read_vote, set_temperature, vote_path, write_vote
from neurocnn.storage.files import is_file, write_atomically
from neurocnn.storage.identity import key_columns

#: Value of the column ``split`` in rows of the ensemble of all splits.
ENSEMBLE = "ensemble"


def ensemble_table(folder: ResultFolder, tables: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Return one row per image: the mean of the splits' probabilities (regression: predicted labels), and ``n_splits``.

    Parameters
    ----------
    folder
        The result folder. Its task determines whether probabilities or, for a regression, predicted labels
        are averaged.
    tables
        Image-level predictions by split. An image may be missing in some tables.

    Examples
    --------
    >>> from pathlib import Path
    >>> from neurocnn import engine
    >>> rows = [{"participant_id": "sub-1", "session_id": "ses-1", "predicted_label": age} for age in (70.0, 72.0)]
    >>> tables = {split: pd.DataFrame([row]) for split, row in enumerate(rows)}
    >>> ensemble_table(ResultFolder(Path("results"), engine.regression(), "image"), tables)
      participant_id session_id  predicted_label  n_splits
    0          sub-1      ses-1             71.0         2
    """
    stacked = pd.concat([table.assign(part_id=split) for split, table in tables.items()], ignore_index=True)
    stacked = drop_names(stacked).drop(columns="split", errors="ignore")
    found = vote_images(folder.task, stacked, None)
    counts = stacked.groupby(key_columns(stacked), sort=False).size()
    return add_class_names(folder.task, found).assign(**{N_SPLITS: counts.to_numpy()})


def read_image_level(folder: ResultFolder, selection: str, dataset: str) -> dict[int, pd.DataFrame]:
    """Return the existing image-level predictions of the splits that are done, by split."""
    paths = {
        fold.index: fold.table(selection, dataset, IMAGE, "prediction") for fold in folder.finished_folds
    }
    return {index: read_predicted(path) for index, path in paths.items() if is_file(path)}


Tables = tuple[pd.DataFrame | None, pd.DataFrame | None]


def ensemble_tables(folder: ResultFolder, selection: str, dataset: str) -> Tables:
    """Return the ensemble's predictions and metrics. If their files are missing, both tables are computed.

    Both are None for ``train`` and ``validation``, or if there are no predictions. The metrics are None if labels or
    the code of a custom task are missing.
    """
    if dataset in SETS or folder.task.vote is None:
        return None, None
    paths = _paths(folder, selection, dataset)
    if not is_file(paths[0]):
        return _compute_ensemble(folder, selection, dataset)
    return read_predicted(paths[0]), read_row(paths[1]) if is_file(paths[1]) else None


def final_predictions(folder: ResultFolder, selection: str | None, dataset: str) -> pd.DataFrame:
    """Return one prediction per image: that of the ensemble or, for ``validation``, of the split that validates the
    image.

    Raises
    ------
    NotFoundError, SettingError
        If image-level predictions or the selection do not exist.
    """
    chosen = folder.check_selection(selection)
    if folder.reconstructs or folder.task.vote is None:
        raise SettingError(
            f"{folder.root}: task={folder.task.name!r}; expected a task with one prediction per image"
        )
    folder.find_tables("prediction", IMAGE, chosen, dataset)
    found = ensemble_tables(folder, chosen, dataset)[0]
    return ensemble_table(folder, read_image_level(folder, chosen, dataset)) if found is None else found


def _paths(folder: ResultFolder, selection: str, dataset: str) -> list[Path]:
    return [folder.ensemble(selection, dataset, content) for content in ("prediction", "metrics")]


def _compute_ensemble(folder: ResultFolder, selection: str, dataset: str) -> Tables:
    tables = read_image_level(folder, selection, dataset)
    if not tables:
        return None, None
    found = ensemble_table(folder, tables)
    if found["true_label"].isna().any():
        return found, None
    try:
        row = metrics_row(folder.task, drop_names(found), intervals=True)
    except SettingError:
        # The metrics of a custom task cannot be computed without its code.
        return found, None
    return found, row.assign(**{N_SPLITS: float(found[N_SPLITS].max())})


def write_ensembles(folder: ResultFolder, dataset: str, lock: BaseFileLock) -> None:
    """Write the ensemble's tables of a predicted data set, for each selection, while the folder's lock is held."""
    for selection in folder.selections if folder.task.vote is not None else ():
        paths = _paths(folder, selection, dataset)
        storage.remove_leftovers(lock, *paths)
        for path, table in zip(paths, _compute_ensemble(folder, selection, dataset), strict=True):
            if table is None:
                path.unlink(missing_ok=True)
            else:
                storage.write_table(table, path)


def finish_prediction(folder: ResultFolder, folds: Sequence[Fold], sessions: pd.DataFrame, name: str) -> None:
    """Write the predicted sessions with all their columns, and the ensemble's tables. Only rank 0 writes."""
    if engine.find_ranks().rank == 0:
        with folder.hold() as lock:
            for fold in folds:
                storage.write_table(sessions, fold.sessions(name))
            write_ensembles(folder, name, lock)


def apply_vote(folder: ResultFolder, vote: Vote, lock: BaseFileLock) -> None:
    """Record a vote and rebuild all image-level tables, while the folder's lock is held.

    A marker file exists until all tables are rebuilt, so that `finish_vote` can complete an interrupted vote.
    """
    storage.remove_leftovers(lock, _marker(folder), vote_path(folder))
    with write_atomically(_marker(folder)):
        pass
    write_vote(folder, vote)
    _rebuild(folder, vote, lock)
    _marker(folder).unlink(missing_ok=True)


def finish_vote(folder: ResultFolder) -> None:
    """Rebuild all image-level tables if a vote was interrupted; wait if another process is rebuilding them."""
    if is_file(_marker(folder)):
        with folder.hold() as lock:
            # Another process may have completed the vote while this process waited for the lock.
            if is_file(_marker(folder)):
                LOGGER.warning("%s: a vote was interrupted; its tables are rebuilt", folder.root)
                if is_file(vote_path(folder)):
                    _rebuild(folder, read_vote(folder, None), lock)
                _marker(folder).unlink(missing_ok=True)


def _marker(folder: ResultFolder) -> Path:
    return folder.root / ".vote.unfinished"


def _rebuild(folder: ResultFolder, vote: Vote, lock: BaseFileLock) -> None:
    done = folder.check_done()
    for fold in done:
        for selection in folder.selections:
            _revote(folder, fold, selection, vote, lock)
    names = {name for fold in done for name in folder.datasets(fold, folder.selections[0])}
    for name in sorted(names - set(SETS)):
        write_ensembles(folder, name, lock)


def _revote(folder: ResultFolder, fold: Fold, selection: str, vote: Vote, lock: BaseFileLock) -> None:
    fold_vote = vote.of_fold(folder, fold, selection, read_validation(folder, fold, selection))
    for dataset in folder.datasets(fold, selection):
        paths = [fold.table(selection, dataset, IMAGE, content) for content in ("prediction", "metrics")]
        storage.remove_leftovers(lock, *paths)
        table = read_predicted(fold.table(selection, dataset, folder.parts, "prediction"))
        # The loss of complete images is kept, because it cannot be computed from their predictions.
        previous = read_row(paths[1]) if not folder.votes and is_file(paths[1]) else None
        write_image_level(folder, fold, selection, dataset, table, fold_vote, previous)
    if fold_vote.weights is not None:
        path = fold.part_accuracy(selection)
        storage.remove_leftovers(lock, path)
        accuracies = storage.read_table(path, required=["part_id"])
        weights = fold_vote.weights.reindex(accuracies["part_id"]).fillna(0.0)
        storage.write_table(accuracies.assign(weight=weights.to_numpy()), path)


def uncalibrated_table(
    folder: ResultFolder, fold: Fold, selection: str, dataset: str, fold_vote: FoldVote
) -> pd.DataFrame:
    """Return the image-level predictions with the weights of `fold_vote`, uncalibrated. No table is written."""
    table = drop_names(read_predicted(fold.table(selection, dataset, folder.parts, "prediction")))
    return vote_images(folder.task, table, fold_vote.weights) if folder.votes else set_temperature(table, 1.0)

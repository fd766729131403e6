"""Tables of a result folder, computed from part-level predictions: votes, metrics, and accuracies of the parts."""

import gzip
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import pandas as pd

from neurocnn import data, engine, ensemble, storage
from neurocnn.data.parts import LocatedParts
from neurocnn.engine.intervals import known_limits
from neurocnn.engine.metrics import probability_columns
from neurocnn.engine.task import table_metrics
from neurocnn.results.checked_tables import CLASS_NAMES, drop_names
from neurocnn.results.folder import IMAGE, ResultFolder
from neurocnn.results.paths import Fold
from neurocnn.results.votes import FoldVote, set_temperature
from neurocnn.storage.files import write_atomically
from neurocnn.storage.identity import PART, key_columns
from neurocnn.storage.tables import MISSING


def write_tables(
    folder: ResultFolder,
    fold: Fold,
    selection: str,
    dataset: str,
    predictions: pd.DataFrame,
    fold_vote: FoldVote,
) -> None:
    """Write the tables of one selection and one data set. The image-level tables are written last.

    Parameters
    ----------
    folder, fold, selection, dataset
        Location of the tables.
    predictions
        Table of `engine.evaluate`: one row per part, with its loss if there are labels.
    fold_vote
        Weights and temperature of the same fold and selection, see `Vote.of_fold`.
    """
    if folder.parts != IMAGE:
        _write(folder, partial(fold.table, selection, dataset, folder.parts), predictions)
    if folder.parts == IMAGE or folder.votes:
        write_image_level(folder, fold, selection, dataset, predictions, fold_vote)


def write_image_level(
    folder: ResultFolder,
    fold: Fold,
    selection: str,
    dataset: str,
    predictions: pd.DataFrame,
    fold_vote: FoldVote,
    previous: pd.DataFrame | None = None,
) -> None:
    """Write the image-level tables from the part-level predictions, see `write_tables`.

    If no part votes, no predictions are written; in the row of metrics, ``n_parts`` is 0 and all other values are
    missing.

    Parameters
    ----------
    folder, fold, selection, dataset, predictions, fold_vote
        See `write_tables`.
    previous
        Previous row of metrics, or None. Its values that are not computed again (the loss) are copied.
    """
    path, task = partial(fold.table, selection, dataset, IMAGE), folder.task
    votes = {} if fold_vote.weights is None else {"n_parts": float((fold_vote.weights > 0).sum())}
    if fold_vote.is_empty:
        path("prediction").unlink(missing_ok=True)
        if predictions["true_label"].notna().all():
            names = task.metrics(predictions.drop(columns="loss", errors="ignore"))
            storage.write_table(pd.DataFrame([dict.fromkeys(names, np.nan) | votes]), path("metrics"))
        return
    if folder.votes:
        predictions = vote_images(task, predictions, fold_vote.weights)
    if not folder.reconstructs:
        predictions = set_temperature(
            predictions.drop(columns="part_id", errors="ignore"), fold_vote.temperature
        )
    _write(folder, path, predictions, intervals=not folder.reconstructs, more=votes, previous=previous)


def _write(
    folder: ResultFolder,
    path: Callable[[str], Path],
    table: pd.DataFrame,
    *,
    intervals: bool = False,
    more: Mapping[str, float] | None = None,
    previous: pd.DataFrame | None = None,
) -> None:
    """Write the predictions to ``path("prediction")`` and, if all rows have labels, metrics to ``path("metrics")``."""
    table = drop_names(table)
    if not folder.reconstructs:
        named = add_class_names(folder.task, table.drop(columns="loss", errors="ignore"))
        storage.write_table(named, path("prediction"))
    if "true_label" not in table or table["true_label"].notna().all():
        row = metrics_row(folder.task, table, intervals=intervals).assign(**(more or {}))
        row = row if previous is None else previous.assign(**{str(name): row[name] for name in row})
        storage.write_table(row, path("metrics"))


def vote_images(
    task: engine.Task, predictions: pd.DataFrame, weights: "pd.Series[float] | None"
) -> pd.DataFrame:
    """Return one row per image: for classes, the soft vote of its parts; for a regression, their unweighted mean."""
    if task.vote == "average":
        return ensemble.average(predictions)
    known = key_columns(predictions, [*PART, "true_label", "predicted_label"])
    return ensemble.soft_vote(predictions[[*known, *probability_columns(predictions)]], weights)


def add_class_names(task: engine.Task, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the names of the true and the predicted class as columns after their indices.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0.0, np.nan], "predicted_label": [1, 0]})
    >>> add_class_names(engine.classification(), table).to_numpy().tolist()
    [[0.0, 1, 'CN', 'AD'], [nan, 0, nan, 'CN']]
    """
    if task.classes is None or "predicted_label" not in table:
        return table
    # A TSV file cannot contain line breaks or tabs in a name, nor a name such as "n/a", which means a missing value.
    names = {index: " ".join(name.split()) for index, name in enumerate(task.classes)}
    names = {index: name for index, name in names.items() if name not in MISSING}
    table = table.drop(columns=list(CLASS_NAMES), errors="ignore")
    position = list(table).index("predicted_label") + 1
    for label, column in zip(("predicted_label", "true_label"), reversed(CLASS_NAMES), strict=True):
        if label in table:
            table.insert(position, column, table[label].map(names).astype(object))
    return table


def metrics_row(task: engine.Task, table: pd.DataFrame, *, intervals: bool) -> pd.DataFrame:
    """Return the metrics of a table as one row, with 95 % confidence intervals if `intervals` is True.

    Custom metrics have no intervals here, because a bootstrap would call their function a thousand times.
    """
    row = table_metrics(task, table)
    if intervals:
        for name, (low, high) in known_limits(table, task, row).items():
            row[f"{name}_low"], row[f"{name}_high"] = low, high
    return pd.DataFrame([row])


def write_part_accuracy(
    fold: Fold,
    selection: str,
    validation: pd.DataFrame,
    weights: "pd.Series[float]",
    dataset: data.CapsDataset,
) -> None:
    """Write each part's validation balanced accuracy and weight as a table, and as a NIfTI map.

    Parameters
    ----------
    fold, selection
        Location of the table and the map.
    validation
        Predictions for the parts of the validation set.
    weights
        See `Vote.of_fold`.
    dataset
        Data set whose first image determines the shape and the affine of the map. No map is written for parts without
        `place`, or if the affine is unknown.
    """
    accuracy = ensemble.part_balanced_accuracy(validation)
    table = pd.DataFrame({"part_id": accuracy.index, "balanced_accuracy": accuracy.to_numpy()})
    table["weight"] = weights.reindex(table["part_id"]).fillna(0.0).to_numpy()
    # Custom parts may have no method `place`.
    if hasattr(dataset.parts, "place"):
        values = {int(part): float(value) for part, value in zip(accuracy.index, accuracy, strict=True)}
        first = first_image(dataset)
        painted = data.paint(cast(LocatedParts, dataset.parts), dataset.caps.shape(*first), values)
        path, affine = fold.part_accuracy(selection, "nii.gz"), dataset.caps.known_affine(*first)
        if affine is not None:
            write_nifti(path, np.nan_to_num(painted, copy=False), affine)
    # The table is written last, because its existence marks the fold as done.
    storage.write_table(table, fold.part_accuracy(selection))


def first_image(dataset: data.CapsDataset) -> tuple[str, str, str | None]:
    """Return the participant, session and cohort of a data set's first image."""
    row = dataset.sessions.iloc[0]
    return row["participant_id"], row["session_id"], row.get("cohort")


def write_nifti(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume (D, H, W), with its affine in mm, as a compressed float32 NIfTI file, atomically."""
    image = nib.nifti1.Nifti1Image(np.asarray(volume, dtype=np.float32), affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    # With mtime=0 and no file name, the same volume gives the same bytes.
    with write_atomically(path) as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
        image.to_stream(stream)

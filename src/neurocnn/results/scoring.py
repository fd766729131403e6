"""From part-level predictions to the tables of a result folder: votes, metrics, the map of the parts."""

import gzip
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import pandas as pd

from neurocnn import data, engine, ensemble, storage
from neurocnn.data.parts import LocatedParts
from neurocnn.results.folder import IMAGE, ResultFolder
from neurocnn.results.paths import Fold
from neurocnn.storage.files import write_whole


def vote_weights(
    folder: ResultFolder, validation: pd.DataFrame, threshold: float | None
) -> "pd.Series[float] | None":
    """Return the parts' weights in a vote, None if the vote is a plain mean."""
    return ensemble.part_weights(validation, threshold) if folder.has_part_accuracy else None


def write_tables(
    folder: ResultFolder,
    fold: Fold,
    selection: str,
    dataset: str,
    predictions: pd.DataFrame,
    weights: "pd.Series[float] | None",
) -> None:
    """Write the tables of one selection and one set, image level last.

    Parameters
    ----------
    folder, fold, selection, dataset
        Location of the tables.
    predictions
        Table of `engine.evaluate`: one row per part, with its loss if there are labels.
    weights
        See `vote_weights`, of the same fold and selection.
    """
    task, tables = folder.task, {folder.parts: predictions}
    if folder.votes:
        tables[IMAGE] = _vote(task, predictions.drop(columns="loss", errors="ignore"), weights)
    for level, table in tables.items():
        if not folder.reconstructs:
            # For a whole image the part is the image.
            unwanted = ["loss", "part_id"] if level == IMAGE else ["loss"]
            path = fold.table(selection, dataset, level, "prediction")
            storage.write_table(table.drop(columns=unwanted, errors="ignore"), path)
        if "true_label" not in table or table["true_label"].notna().all():
            path = fold.table(selection, dataset, level, "metrics")
            intervals = level == IMAGE and not folder.reconstructs
            storage.write_table(metrics_row(task, table, intervals=intervals), path)


def _vote(task: engine.Task, predictions: pd.DataFrame, weights: "pd.Series[float] | None") -> pd.DataFrame:
    """Return one row per image: soft voting for classes, the plain mean for values."""
    if task.vote == "average":
        return ensemble.average(predictions)
    return ensemble.soft_vote(predictions, weights)


def metrics_row(task: engine.Task, table: pd.DataFrame, *, intervals: bool) -> pd.DataFrame:
    """Return the metrics of a table as one row, with 95 % confidence intervals on request."""
    row: dict[str, float] = dict(task.metrics(table))
    if intervals:
        for name, interval in engine.confidence_intervals(table, task).iterrows():
            row[f"{name}_low"], row[f"{name}_high"] = float(interval["lower"]), float(interval["upper"])
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
        See `vote_weights`.
    dataset
        Data set whose first image gives the map its shape and affine. Parts without `place` have no map, and images
        whose affine is unknown have none.
    """
    accuracy = ensemble.part_balanced_accuracy(validation)
    table = pd.DataFrame({"part_id": accuracy.index, "balanced_accuracy": accuracy.to_numpy()})
    table["weight"] = weights.reindex(table["part_id"]).fillna(0.0).to_numpy()
    if hasattr(dataset.parts, "place"):  # parts of a user may have no `place`
        values = {int(part): float(value) for part, value in zip(accuracy.index, accuracy, strict=True)}
        first = first_image(dataset)
        painted = data.paint(cast(LocatedParts, dataset.parts), dataset.caps.shape(*first), values)
        path, affine = fold.part_accuracy(selection, "nii.gz"), dataset.caps.known_affine(*first)
        if affine is not None:
            write_nifti(path, np.nan_to_num(painted), affine)
    # The table is written last, because its existence marks the fold as done.
    storage.write_table(table, fold.part_accuracy(selection))


def first_image(dataset: data.CapsDataset) -> tuple[str, str, str | None]:
    """Return participant, session and cohort of a data set's first image."""
    row = dataset.sessions.iloc[0]
    return row["participant_id"], row["session_id"], row.get("cohort")


def write_nifti(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write a float32 volume (D, H, W) with its affine, compressed, completely or not at all."""
    image = nib.nifti1.Nifti1Image(np.asarray(volume, dtype=np.float32), affine)  # type: ignore[no-untyped-call]
    with write_whole(path) as file:
        # mtime=0: the same volume gives the same bytes.
        file.write(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))

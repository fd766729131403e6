"""From part-level predictions to the tables of a result folder: votes, metrics, the map of the parts."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from neurocnn import data, engine, ensemble, storage
from neurocnn.errors import SettingError
from neurocnn.results.paths import Fold
from neurocnn.storage.files import write_whole

IMAGE = "image"


def selections(task: engine.Task) -> list[str]:
    """Give the names of the folders of a task's selections, ``best_loss`` first.

    Examples
    --------
    >>> selections(engine.classification())
    ['best_loss', 'best_balanced_accuracy']
    """
    return [f"best_{name}" for name in task.selection]


def levels(task: engine.Task, parts: Any) -> list[str]:
    """Give the levels of a task's tables: the parts' own, and the image's where votes are taken."""
    if task.name == "reconstruction" or parts.name == IMAGE:
        return [str(parts.name)]
    return [str(parts.name), IMAGE]


def paints(task: engine.Task, parts: Any) -> bool:
    """Whether the parts' accuracies are written and painted: classes, and several parts."""
    return task.classes is not None and parts.name != IMAGE


def last_table(fold: Fold, task: engine.Task, parts: Any) -> Path:
    """Give the table that is written last: a fold is done when it exists."""
    selection = selections(task)[-1]
    if paints(task, parts):
        return fold.part_accuracy(selection)
    return fold.table(selection, "validation", levels(task, parts)[-1], "metrics")


def weights(task: engine.Task, validation: pd.DataFrame, threshold: float | None) -> pd.Series | None:
    """Give the parts' weights in a vote; None where it is a plain mean."""
    if task.classes is None:
        return None
    return ensemble.part_weights(validation, threshold)


def vote(task: engine.Task, predictions: pd.DataFrame, part_weights: pd.Series | None) -> pd.DataFrame:
    """Give one row an image: soft voting for classes, the plain mean for values."""
    if task.classes is None:
        return ensemble.average(predictions)
    return ensemble.soft_vote(predictions, part_weights)


def write_tables(
    fold: Fold,
    selection: str,
    dataset: str,
    predictions: pd.DataFrame,
    task: engine.Task,
    parts: Any,
    part_weights: pd.Series | None,
) -> None:
    """Write the tables of one selection and one set, image level last.

    Parameters
    ----------
    fold, selection, dataset
        Where the tables go to.
    predictions
        What `engine.evaluate` gives: one row a part, with its loss where there are labels.
    task, parts
        Those of the experiment.
    part_weights
        What `weights` gives of the same fold and selection.
    """
    tables = {str(parts.name): predictions}
    if IMAGE in levels(task, parts) and parts.name != IMAGE:
        tables[IMAGE] = vote(task, predictions.drop(columns="loss", errors="ignore"), part_weights)
    for level, table in tables.items():
        labelled = table["true_label"].notna().all() if "true_label" in table else True
        if task.name != "reconstruction":
            # For a whole image the part is the image.
            unwanted = ["loss", "part_id"] if level == IMAGE else ["loss"]
            path = fold.table(selection, dataset, level, "prediction")
            storage.write_table(table.drop(columns=unwanted, errors="ignore"), path)
        if labelled:
            path = fold.table(selection, dataset, level, "metrics")
            storage.write_table(metrics_row(task, table, intervals=level == IMAGE), path)


def metrics_row(task: engine.Task, table: pd.DataFrame, *, intervals: bool) -> pd.DataFrame:
    """Give the metrics of a table as one row, with 95 % bootstrap intervals on request."""
    row: dict[str, float] = dict(task.metrics(table))
    if intervals and task.name != "reconstruction":
        for name, interval in engine.confidence_intervals(table, task).iterrows():
            row[f"{name}_low"], row[f"{name}_high"] = float(interval["lower"]), float(interval["upper"])
    return pd.DataFrame([row])


def write_part_accuracy(
    fold: Fold,
    selection: str,
    validation: pd.DataFrame,
    part_weights: pd.Series,
    parts: Any,
    shape: tuple[int, int, int],
    affine: np.ndarray,
) -> None:
    """Write each part's validation balanced accuracy and weight as a table, and paint it as a NIfTI map.

    The map (D, H, W) is painted for parts that know their `place`; the table is written last.
    """
    accuracy = ensemble.part_balanced_accuracy(validation)
    table = pd.DataFrame({"part_id": accuracy.index, "balanced_accuracy": accuracy.to_numpy()})
    table["weight"] = part_weights.reindex(table["part_id"]).fillna(0.0).to_numpy()
    if hasattr(parts, "place"):  # the user's own parts need not know where they lie
        values = {int(part): float(value) for part, value in zip(accuracy.index, accuracy, strict=True)}
        painted = data.paint(parts, shape, values)
        write_nifti(fold.part_accuracy(selection, "nii.gz"), np.nan_to_num(painted), affine)
    storage.write_table(table, fold.part_accuracy(selection))


def write_nifti(path: Any, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write a float32 volume (D, H, W) with its affine, compressed, whole or not at all."""
    image: Any = nib.nifti1.Nifti1Image(np.asarray(volume, dtype=np.float32), affine)  # type: ignore[no-untyped-call]
    with write_whole(path) as file:
        # mtime=0: the same volume gives the same bytes.
        file.write(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def table_level(level: str, task: engine.Task, parts: Any) -> str:
    """Give the level as file names have it: ``part`` stands for the parts' own name.

    Raises
    ------
    SettingError
        There is no such level in these results.
    """
    there = levels(task, parts)
    wanted = str(parts.name) if level == "part" else level
    if wanted == IMAGE and there == [str(parts.name)]:
        wanted = there[0]
    if wanted not in there:
        raise SettingError(f"level={level!r}: these results have the levels {', '.join(there)}")
    return wanted

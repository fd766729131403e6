"""Predictions for new data with the models of a result folder, which are written into the same folder."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from torch import nn as torch_nn

from neurocnn import data, engine, ensemble, storage
from neurocnn.data.orientation import Grid
from neurocnn.engine.inputs import image_targets
from neurocnn.errors import SettingError, TableError
from neurocnn.errors.arguments import argument_error, check_instance
from neurocnn.errors.logger import LOGGER
from neurocnn.results.folder import ResultFolder
from neurocnn.results.leakage import check_unseen, read_seen
from neurocnn.results.paths import SETS, Fold
from neurocnn.results.same_study import (
    check_renamed_cohorts,
    check_same_images,
    describe_other_sessions,
    read_images,
    shorten_list,
    write_images,
)
from neurocnn.results.scoring import first_image, metrics_row, write_tables
from neurocnn.results.votes import Vote
from neurocnn.storage.identity import describe_row, interleave_parts, key_columns
from neurocnn.storage.tables import format_table

#: A data set must not have one of these names, because other tables of a fold have them.
RESERVED = (*SETS, "seen", "images", "training", "balance")
#: One network for all parts, or one per part_id.
Networks = torch_nn.Module | Mapping[int, torch_nn.Module]


class Evaluation(TypedDict):
    """Settings of an evaluation, see `Trainer`."""

    batch_size: int
    n_workers: int | str
    precision: str


def check_name(name: object) -> str:
    """Return the name of a data set if it can be part of file names and is not reserved for another table.

    Examples
    --------
    >>> check_name("test")
    'test'
    >>> check_name("train")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: name='train'; expected letters, digits and _, except 'train', 'validation', \
'seen', 'images', 'training', 'balance'
    """
    if not isinstance(name, str) or name in RESERVED or not name.isidentifier():
        raise argument_error("name", name, f"letters, digits and _, except {', '.join(map(repr, RESERVED))}")
    return name


def make_dataset(
    caps: data.ImageSet,
    sessions: pd.DataFrame,
    *,
    label: str | None,
    parts: data.Parts,
    transform: Callable[..., Any] | None,
    grid: Grid,
) -> data.CapsDataset:
    """Return a data set of new images with the parts and transform of training, and with labels if there are any.

    A warning is logged if the images have another position than `grid`, which describes the images in training.

    Raises
    ------
    SettingError
        If the images have another shape than those in training.
    """
    check_instance("sessions", sessions, pd.DataFrame, "a table such as that of nc.read_table")
    labelled = label in sessions and sessions[label].notna().any()
    dataset = data.CapsDataset(
        caps, sessions, parts=parts, label=label if labelled else None, transform=transform
    )
    first = first_image(dataset)
    own = Grid(caps.shape(*first), caps.known_affine(*first))
    if own.shape != grid.shape:
        raise SettingError(
            f"image shape={own.shape}; expected {grid.shape} as in training, because otherwise the same parts would "
            "contain other regions; use images of the same preprocessing"
        )
    if not own.is_at(grid):
        names = "the first training image", f"the image of {' '.join(first[:2])}"
        LOGGER.warning(grid.describe_difference(names[0], own, names[1]))
    return dataset


def check_new_data(
    folder: ResultFolder, fold: Fold, dataset: data.CapsDataset, images: pd.DataFrame, name: str
) -> None:
    """Raise an error if the fold's models have seen a participant, or `name` is in use for other data.

    Raises
    ------
    LeakError
        If participants were seen. The message contains their roles.
    SettingError
        If the name is in use for other sessions, labels or images.
    TableError
        If a label is unknown.
    """
    # `format_table` raises an error if the sessions cannot be written.
    format_table(dataset.sessions, fold.sessions(name))
    where, seen = f"{fold.path}: prediction on new data", read_seen(fold)
    check_unseen(seen, dataset.sessions, where)
    check_renamed_cohorts(fold, seen, images, where)
    try:
        targets = image_targets(folder.task, dataset) if dataset.label is not None else None
    except TableError as error:
        raise TableError(
            f"{error}, or drop the column {dataset.label!r} to predict without metrics"
        ) from error
    if not _has_tables(folder, fold, name):
        return
    check_same_images(fold, images, [name])
    saved = read_images(fold, [name])
    key = key_columns(set(saved.columns) & set(images.columns))
    differing = describe_other_sessions(saved[key], images[key]) if len(saved) else ""
    if differing:
        raise SettingError(
            f"{fold.images}: name={name!r} is in use for other sessions ({differing}); choose another name for the "
            "data set"
        )
    path = fold.table(folder.selections[0], name, folder.parts, "prediction")
    if path.is_file():
        _check_same(folder, storage.read_table(path), dataset.sessions, targets, path)


def _has_tables(folder: ResultFolder, fold: Fold, dataset_name: str) -> bool:
    """Return whether a fold has tables of the data set `dataset_name`."""
    return any(path.is_file() for path in _table_paths(folder, fold, dataset_name))


def _table_paths(folder: ResultFolder, fold: Fold, name: str) -> list[Path]:
    """Return the paths of all tables of a data set."""
    keys = product(folder.selections, [name], folder.levels, ("prediction", "metrics"))
    return [fold.table(*key) for key in keys]


def _check_same(
    folder: ResultFolder,
    saved: pd.DataFrame,
    sessions: pd.DataFrame,
    targets: Sequence[float] | None,
    path: Path,
) -> None:
    key = key_columns(set(saved.columns) & set(sessions.columns))
    labels = saved.drop_duplicates(key).set_index(key)["true_label"]
    differing = describe_other_sessions(labels.index.to_frame(), sessions[key])
    if differing:
        raise SettingError(
            f"{path}: the predictions are of other sessions ({differing}); choose another name for the data set"
        )
    if targets is not None and labels.notna().all():
        new = pd.Series(targets, index=pd.MultiIndex.from_frame(sessions[key]), dtype=float)
        old = labels.reindex(new.index).astype(float)
        changed = [
            f"{describe_row(dict(zip(key, row, strict=True)))}: "
            f"{_target_text(folder, old[row])} → {_target_text(folder, new[row])}"
            for row in new.index[~np.isclose(old, new, rtol=1e-5)]
        ]
        if changed:
            raise SettingError(
                f"{path}: labels have changed (folder → now): {shorten_list(changed)}; choose another name for the "
                "data set"
            )


def _target_text(folder: ResultFolder, target: float) -> str:
    """Return a target as text: the name of its class, or its value."""
    classes = folder.task.classes
    return f"{target:g}" if classes is None else str(classes[int(target)])


def predict_fold(
    folder: ResultFolder,
    fold: Fold,
    selection: str,
    name: str,
    dataset: data.CapsDataset,
    images: pd.DataFrame,
    load: Callable[[], Networks],
    evaluation: Evaluation,
    vote: Vote,
) -> None:
    """Evaluate one model on new data and write the tables, unless they exist.

    Parameters
    ----------
    folder, fold, selection, name
        Location of the tables.
    dataset, images
        New data, and the fingerprints of their images.
    load
        ``load()`` returns the trained networks; it is called only if tables are missing.
    evaluation
        Settings of the evaluation.
    vote
        Vote that combines the predictions of parts.
    """
    content = "metrics" if dataset.label or folder.reconstructs else "prediction"
    last = fold.table(selection, name, folder.levels[-1], content)
    if last.is_file() and not (folder.reconstructs and read_images(fold, [name]).empty):
        return
    predictions = engine.evaluate(load(), folder.task, dataset, **evaluation)
    if last.is_file():
        _check_same_metrics(last, metrics_row(folder.task, predictions, intervals=False))
        return
    fold_vote = vote.of_fold(folder, fold, selection, read_validation(folder, fold, selection))
    if engine.find_ranks().rank == 0:
        with folder.hold() as lock:
            storage.remove_leftovers(
                lock, fold.images, fold.sessions(name), *_table_paths(folder, fold, name)
            )
            # The fingerprints are written first, so that no table exists without the fingerprints of its images.
            if not _has_tables(folder, fold, name):
                write_images(fold, {name: images})
            write_tables(folder, fold, selection, name, predictions, fold_vote)


def read_validation(folder: ResultFolder, fold: Fold, selection: str) -> pd.DataFrame:
    """Return the part-level predictions for the validation set; an empty table if the vote has no weights.

    Raises
    ------
    TableError
        If a label is missing.
    """
    if not folder.has_part_accuracy:
        return pd.DataFrame()
    path = fold.table(selection, "validation", folder.parts, "prediction")
    validation = storage.read_table(path)
    try:
        ensemble.part_balanced_accuracy(validation)
    except TableError as error:
        raise TableError(f"{path}: {error}; restore the file") from error
    return validation


def encode_folds(
    folds: Sequence[Fold],
    datasets: Mapping[int, data.CapsDataset],
    load: Callable[..., Networks],
    evaluation: Evaluation,
) -> pd.DataFrame:
    """Return the codes of all folds' autoencoders in one table, by fold and in the order of the data sets.

    Parameters
    ----------
    folds
        Folds.
    datasets
        Data set of each fold, by index of the fold.
    load
        ``load(fold, part_ids=…)`` returns the networks of a fold.
    evaluation
        Settings of the evaluation.
    """
    tables = []
    for fold in folds:
        dataset = datasets[fold.index]
        networks = load(fold, part_ids=dataset.part_ids)
        if isinstance(networks, torch_nn.Module):
            table = engine.encode(networks, dataset, **evaluation)
        else:
            parts = dataset.part_ids
            table = interleave_parts(
                [engine.encode(networks[part], dataset.only_part(part), **evaluation) for part in parts]
            )
        table.insert(0, "split", fold.index)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _check_same_metrics(path: Path, new: pd.DataFrame) -> None:
    # Earlier versions did not record the images, but equal metrics show that the images are the same.
    saved = storage.read_table(path, required=())
    if not np.allclose(saved[list(new)].to_numpy(dtype=float), new.to_numpy(dtype=float), rtol=1e-2):
        raise SettingError(f"{path} contains metrics of other sessions; choose another name for the data set")

"""What must hold of the data sets before the first epoch, and what a resumed training must find again."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import torch
from torch.utils.data import DataLoader

from neurocnn.engine.batch import label_list
from neurocnn.engine.task import Task
from neurocnn.errors import LeakError, SettingError, TableError
from neurocnn.errors.logger import LOGGER

_PEOPLE = ("cohort", "participant_id")
#: What a dataset may tell of itself beside its samples.
_TOLD = ("sessions", "part_ids", "takes_epoch", "with_seed", "without_augmentation")


def check_sets(task: Task, sets: Mapping[str, Any], sampler: str) -> None:
    """Check the training and validation set as far as their tables of sessions tell.

    Raises
    ------
    SettingError
        A set is empty or a wrapper that hides what training needs of a dataset, or the sampler weighs classes
        where there are none.
    LeakError
        A participant is in both.
    TableError
        Labels are missing or unknown, or the training set has a single class.
    """
    for name, dataset in sets.items():
        if isinstance(dataset, DataLoader):
            raise SettingError(
                f"the {name} set is a DataLoader; give the dataset itself: the trainer makes its batches"
            )
        _check_wrapper(name, dataset)
        if len(dataset) == 0:
            raise SettingError(f"the {name} set is empty")
    if sampler == "weighted" and task.classes is None:
        raise SettingError(f"sampler is 'weighted', but a {task.name} has no classes; 'random' is expected")
    tables = [getattr(dataset, "sessions", None) for dataset in sets.values()]
    if len(tables) == 2 and all(isinstance(table, pd.DataFrame) for table in tables):
        _check_apart(*tables)
    for name, dataset in sets.items():
        targets = image_targets(task, dataset)
        if targets is not None and name == "train":
            check_classes(task, targets)


def _check_wrapper(name: str, dataset: Any) -> None:
    """Refuse a `Subset` and the like of a dataset whose seeds, table or plain images would be out of sight."""
    for inner in (getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())):
        hidden = [told for told in _TOLD if hasattr(inner, told) and not hasattr(dataset, told)]
        if hidden:
            raise SettingError(
                f"the {name} set is a {type(dataset).__name__}, which hides {', '.join(hidden)} of the "
                f"{type(inner).__name__} in it: augmentation, evaluation and the search for participants in both "
                "sets would go wrong without a word; select or join rows of the table of sessions and make one "
                f"{type(inner).__name__} of them"
            )
        if inner is not None:
            _check_wrapper(name, inner)


def _check_apart(train: Any, validation: Any) -> None:
    keys = [key for key in _PEOPLE if key in train.columns and key in validation.columns]
    both = (
        sorted(
            set(zip(*(train[key] for key in keys), strict=True))
            & set(zip(*(validation[key] for key in keys), strict=True))
        )
        if keys
        else []
    )
    if both:
        names = ", ".join(" ".join(map(str, person)) for person in both[:5])
        raise LeakError(
            f"{len(both)} participants are in the training and in the validation set: {names}"
            f"{', …' if len(both) > 5 else ''}; give each participant to one of them"
        )


def check_classes(task: Task, targets: Iterable[int]) -> None:
    """Check that a set has samples of two classes at least.

    Raises
    ------
    TableError
        It has not; the message has the count of each class.
    """
    if task.classes is None:
        return
    counts = Counter(int(target) for target in targets)
    found = ", ".join(f"{name}: {counts[k]}" for k, name in enumerate(task.classes))
    if 1 < len(counts) < len(task.classes):
        LOGGER.warning("the training set lacks a class (%s): it will never be learnt", found)
    if len(counts) < 2:
        raise TableError(
            f"the training set has a single class ({found}); a classification needs samples of two at least"
        )


def image_targets(task: Task, dataset: Any) -> list[Any] | None:
    """Give the target of each image, from the dataset's table; None where it has none.

    Raises
    ------
    TableError
        A label is missing or unknown.
    """
    sessions = getattr(dataset, "sessions", None)
    if task.label is None or not isinstance(sessions, pd.DataFrame) or task.label not in sessions.columns:
        return None
    columns = [*_PEOPLE, "session_id"]
    batch: dict[str, Any] = {name: sessions[name].tolist() for name in columns if name in sessions.columns}
    batch["label"] = sessions[task.label].tolist()
    return task.target(batch, torch.device("cpu")).tolist()


def unit_classes(task: Task, dataset: Any, n_units: int) -> list[int]:
    """Give the class of each unit of an epoch: of each sample, or of each image where parts have networks.

    A dataset without a table of sessions is read through once for it.
    """
    targets = image_targets(task, dataset)
    if targets is None:
        items = (dataset[index * (len(dataset) // n_units)] for index in range(n_units))
        label = str(task.label)
        labels = [
            label_list({"label": [item["label"]]} if "label" in item else {}, label)[0] for item in items
        ]
        targets = task.target({"label": labels}, torch.device("cpu")).tolist()
    check_classes(task, targets)
    return [int(target) for target in targets for _ in range(n_units // len(targets))]

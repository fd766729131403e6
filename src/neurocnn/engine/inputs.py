"""Checks of the data sets before the first epoch, and targets computed from their tables of sessions."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from neurocnn.engine.batch import EXTRAS, Dataset, Network, label_list, sessions_of
from neurocnn.engine.task import Task
from neurocnn.errors import LeakError, SettingError, TableError
from neurocnn.errors.arguments import argument_error, check_instance, check_integer
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.identity import key_columns, shared_participants


def check_dataset(name: str, dataset: Any) -> None:
    """Check that a value is a map-style dataset whose samples are dicts.

    Raises
    ------
    SettingError
        If `dataset` has no length or no items, or is a data loader or a list of values that are not dicts.
    """
    if isinstance(dataset, DataLoader):
        raise argument_error(name, dataset, "the dataset itself instead of a data loader")
    expected = "a dataset with a length and samples that are dicts, such as nc.CapsDataset"
    has_items = hasattr(type(dataset), "__len__") and hasattr(type(dataset), "__getitem__")
    if not has_items or isinstance(dataset, str | bytes | Mapping | pd.DataFrame | pd.Series | np.ndarray):
        raise argument_error(name, dataset, expected)
    if isinstance(dataset, list | tuple) and not all(isinstance(item, Mapping) for item in dataset):
        raise argument_error(name, dataset, expected)


def check_networks(model: nn.Module | Mapping[int, nn.Module]) -> dict[Network, nn.Module]:
    """Return networks by part_id; a single network has the key None.

    Raises
    ------
    SettingError
        If `model` is neither a network nor a mapping from part_id to networks.
    """
    expected = "a torch.nn.Module, or a dict of modules by part_id"
    if isinstance(model, nn.Module):
        return {None: model}
    if not isinstance(model, Mapping) or not model:
        raise argument_error("model", model, expected)
    for part, network in model.items():
        check_integer("part_id of a model", part)
        check_instance("model", network, nn.Module, expected)
    return dict(model.items())


def check_sets(task: Task, sets: Mapping[str, Dataset], sampler: str) -> None:
    """Check the training and the validation set by their tables of sessions, if they have such tables.

    Raises
    ------
    SettingError
        If a set is empty or is a wrapper that hides members of its dataset that training uses (see `DatasetExtras`),
        or the sampler weights the classes of a task without classes.
    LeakError
        If a participant is in both sets.
    TableError
        If labels are missing or unknown, or the training set has a single class.
    """
    for name, dataset in sets.items():
        check_dataset(f"the {name} set", dataset)
        _check_wrapper(name, dataset)
        if len(dataset) == 0:
            raise SettingError(f"the {name} set is empty; expected at least one sample")
    if sampler == "weighted" and task.classes is None:
        raise argument_error("sampler", sampler, f"'random', because a {task.name} has no classes")
    tables = [sessions_of(dataset) for dataset in sets.values()]
    check_disjoint([table for table in tables if table is not None])
    targets = image_targets(task, sets["train"])
    if targets is not None:
        check_classes(task, targets)
    if "validation" in sets:
        image_targets(task, sets["validation"])


def _check_wrapper(name: str, dataset: object) -> None:
    """Raise an error for a wrapper (such as `Subset`) that hides the seed, table or augmentation of its dataset."""
    for inner in (getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())):
        hidden = [extra for extra in EXTRAS if hasattr(inner, extra) and not hasattr(dataset, extra)]
        if hidden:
            kind = type(inner).__name__
            raise SettingError(
                f"the {name} set is a {type(dataset).__name__}, which hides {', '.join(hidden)} of its {kind}; select "
                f"or concatenate rows of the sessions table and create one {kind} from them"
            )
        if inner is not None:
            _check_wrapper(name, inner)


def check_disjoint(tables: Sequence[pd.DataFrame]) -> None:
    """Check that two tables have no common participant.

    They are the sessions tables of two sets, or the tables of their first evaluation, which also contain the
    participants of datasets without a table of sessions.

    Raises
    ------
    LeakError
        If a participant is in both sets.
    """
    if len(tables) < 2 or any("participant_id" not in table for table in tables):
        return
    shared = shared_participants(*tables)
    if shared:
        more = ", …" if len(shared) > 5 else ""
        raise LeakError(
            f"{len(shared)} participants are in the training and in the validation set: {', '.join(shared[:5])}{more}; "
            "assign each participant to one of the sets"
        )


def check_classes(task: Task, targets: Iterable[int]) -> None:
    """Check that a training set has samples of at least two classes, and warn if a class has no samples.

    Raises
    ------
    TableError
        If all samples have the same class. The message contains the count of each class.
    """
    if task.classes is None:
        return
    counts = Counter(int(target) for target in targets)
    found = ", ".join(f"{name}: {counts[k]}" for k, name in enumerate(task.classes))
    if 1 < len(counts) < len(task.classes):
        LOGGER.warning("the training set has no sample of a class, which cannot be learnt; found %s", found)
    if len(counts) < 2:
        raise TableError(f"the training set has a single class ({found}); expected at least two")


def image_targets(task: Task, dataset: object) -> list[Any] | None:
    """Return the target of each image, from the table of the dataset; None if the table has no labels.

    Raises
    ------
    TableError
        If a label is missing or unknown.
    """
    sessions = sessions_of(dataset)
    if task.label is None or task.target_from == "image" or sessions is None or task.label not in sessions:
        return None
    batch: dict[str, Any] = {name: sessions[name].tolist() for name in key_columns(sessions.columns)}
    batch["label"] = sessions[task.label].tolist()
    return task.target(batch, torch.device("cpu")).tolist()


def sampling_classes(task: Task, dataset: Dataset, n_units: int) -> list[int]:
    """Return the class of each unit of an epoch. A unit is a sample or, with one network per part, an image.

    If the dataset has no table of sessions, all its samples are read.
    """
    targets = image_targets(task, dataset)
    if targets is None:
        items = (dataset[index * (len(dataset) // n_units)] for index in range(n_units))
        labels = [_item_label(item, str(task.label)) for item in items]
        targets = task.target({"label": labels}, torch.device("cpu")).tolist()
    check_classes(task, targets)
    return [int(target) for target in targets for _ in range(n_units // len(targets))]


def _item_label(item: Mapping[str, Any], label: str) -> Any:
    return label_list({"label": [item["label"]]} if "label" in item else {}, label)[0]

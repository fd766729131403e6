"""Interfaces of datasets (`typing.Protocol`), the format of batches, and the selection of rows of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import pandas as pd
from torch import Tensor

from neurocnn.errors import SettingError, TableError
from neurocnn.storage.identity import PART, describe_row

#: One sample: a mapping with ``image`` (C, …), ``participant_id``, ``session_id``, ``part_id``, and optionally
#: ``label`` and ``cohort``.
Item = Mapping[str, Any]
#: Batch of samples, a dict with the entries of `Item`: ``image`` (B, C, …), ``part_id`` (B,), the other entries as
#: lists; ``label`` is a list of B plain values (numbers, text, None, lists of numbers), as the table contains them.
Batch = dict[str, Any]
#: The part_id of the part that a network is trained on; None for a single network for all parts.
Network = int | None


class Dataset(Protocol):
    """Dataset for training and evaluation. It has a length, and its items are dicts (`Item`).

    Any map-style dataset of torch with such items, or list of items, can be used. A dataset may also have the members
    of `DatasetExtras`.
    """

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: Any, /) -> Item:
        """Return the sample at an index."""
        ...


class DatasetExtras(Protocol):
    """Optional members of a dataset. A member is used if the dataset has it.

    Attributes
    ----------
    sessions
        Table with one row per image, in the order of the images, with identity columns and labels. It is used to check
        participants and labels before training.
    part_ids
        Parts of each image. Samples are ordered image by image: sample ``i`` is part ``i % len(part_ids)`` of image
        ``i // len(part_ids)``. Required for one network per part.
    takes_epoch
        Whether an index may be a pair (epoch, sample number). Such a dataset seeds its own augmentation; for other
        datasets the global random states are seeded before each sample.
    """

    sessions: pd.DataFrame
    part_ids: Sequence[int]
    takes_epoch: bool

    def with_seed(self, seed: int) -> Dataset:
        """Return the same samples with another seed of the augmentation."""
        ...

    def without_augmentation(self) -> Dataset:
        """Return the same samples without augmentation."""
        ...


class FillingDataset(Dataset, Protocol):
    """Dataset whose samples can be written into existing memory, by several threads at the same time.

    Attributes
    ----------
    input_shape
        Shape of each image.
    fills
        Whether `fill` can be used, which may depend on the transform.
    """

    input_shape: tuple[int, ...]

    @property
    def fills(self) -> bool:
        """Whether `fill` can be used."""
        ...

    def fill(self, index: tuple[int, int], out: Tensor) -> Item:
        """Write the image of a sample into `out` and return the sample, equal to ``self[index]``."""
        ...


def can_fill(dataset: object) -> TypeGuard[FillingDataset]:
    """Return whether the dataset itself can fill memory; for a wrapper that forwards attributes, return False."""
    return hasattr(type(dataset), "fill") and bool(getattr(dataset, "fills", False))


EXTRAS = ("sessions", "part_ids", "takes_epoch", "with_seed", "without_augmentation")


def sessions_of(dataset: object) -> pd.DataFrame | None:
    """Return the table of a dataset's images; None if the dataset has no table."""
    sessions = getattr(dataset, "sessions", None)
    return sessions if isinstance(sessions, pd.DataFrame) else None


def optional_part_ids(dataset: object) -> list[int] | None:
    """Return the part ids of a dataset; None if it has no part ids.

    Raises
    ------
    SettingError
        If the part ids are not integers.
    """
    parts = getattr(dataset, "part_ids", None)
    if parts is None or len(parts) == 0:
        return None
    try:
        return [int(part) for part in parts]
    except (TypeError, ValueError) as error:
        raise SettingError(f"part_ids={parts!r:.80}; expected integers") from error


def part_ids_of(dataset: object) -> list[int]:
    """Return the part ids of a dataset.

    Raises
    ------
    SettingError
        If the dataset has no part ids, without which its samples cannot be assigned to one network per part.
    """
    parts = optional_part_ids(dataset)
    if parts is None:
        raise SettingError(
            f"{type(dataset).__name__}: part_ids is missing; one network per part needs a dataset with part_ids, "
            "ordered image by image"
        )
    return parts


def plain_dataset(dataset: Any) -> Dataset:
    """Return a dataset without its augmentation, or the dataset itself if it has no method for that."""
    return dataset.without_augmentation() if hasattr(dataset, "without_augmentation") else dataset  # type: ignore[no-any-return]


def seeded_dataset(dataset: Any, seed: int) -> Dataset:
    """Return a dataset with another seed of its augmentation, or the dataset itself if it has no method for that."""
    return dataset.with_seed(seed) if hasattr(dataset, "with_seed") else dataset  # type: ignore[no-any-return]


def label_list(batch: Mapping[str, Any], label: str) -> list[Any]:
    """Return the labels of a batch. `label` is the name of the label column, for the error message.

    Raises
    ------
    TableError
        If the batch has no labels.
    """
    if "label" not in batch:
        raise TableError(
            f"the samples have no label, but the task needs the column {label!r}; create the dataset with "
            f"label={label!r}"
        )
    values = batch["label"]
    return values.tolist() if isinstance(values, Tensor) else list(values)


def sample_name(batch: Mapping[str, Any], row: int) -> str:
    """Return the name of a sample of a batch: its participant, session and part, if they are known.

    Examples
    --------
    >>> import torch
    >>> sample_name({"participant_id": ["sub-1", "sub-2"], "part_id": torch.tensor([0, 3])}, 1)
    'sub-2 part 3'
    """
    values = {name: batch[name][row] for name in PART if name in batch}
    plain = {name: value.item() if isinstance(value, Tensor) else value for name, value in values.items()}
    return describe_row(plain) or f"row {row}"


def part_rows(batch: Batch, part: Network) -> Batch:
    """Return the rows of a batch that belong to one part (None: all rows)."""
    if part is None:
        return batch
    rows = (batch["part_id"] == part).nonzero().flatten()
    indices = rows.tolist()
    chosen = {name: _select_rows(value, rows, indices) for name, value in batch.items() if name != "label"}
    if "label" in batch:
        chosen["label"] = [batch["label"][row] for row in indices]
    return chosen


def _select_rows(value: Any, rows: Tensor, indices: list[int]) -> Any:
    if isinstance(value, Tensor):
        # Indices on the CPU would make the host wait for the GPU.
        return value[rows.to(value.device, non_blocking=value.is_cuda)]
    if isinstance(value, Mapping):
        return {name: _select_rows(each, rows, indices) for name, each in value.items()}
    if isinstance(value, list | tuple):
        # torch collates strings to a list with one entry per sample, but transposes tuples and lists into columns.
        if value and isinstance(value[0], str | bytes):
            return [value[row] for row in indices]
        return [_select_rows(each, rows, indices) for each in value]
    return value

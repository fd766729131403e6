"""Collation of samples into a batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from neurocnn.engine.batch import Batch, Item, sample_name
from neurocnn.engine.shortage import is_shortage
from neurocnn.errors import SettingError
from neurocnn.storage.identity import PART, describe_row, describe_rows

_REQUIRED = ("image", "participant_id", "session_id", "part_id")


def collate(items: Sequence[Item], image: Tensor | None = None) -> Batch:
    """Return samples as a batch, as torch's `default_collate` does, but with the labels as a list of plain values.

    `image` is the tensor of all images, if they are already in one tensor.

    Raises
    ------
    SettingError
        If the samples are not dicts with the required entries, or have different entries. Only the label may be missing
        in some samples.

    Examples
    --------
    >>> import torch
    >>> item = {"image": torch.zeros(1, 2, 2), "participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0}
    >>> collate([item | {"label": "AD"}, item | {"label": None}])["label"]
    ['AD', None]
    """
    first = items[0]
    if not isinstance(first, Mapping) or any(name not in first for name in _REQUIRED):
        raise SettingError(_missing_entries_message(first))
    try:
        same = sum(map(len, items)) == len(first) * len(items)
        columns = {name: [item[name] for item in items] for name in first} if same else {}
    except (KeyError, TypeError, IndexError):
        columns = {}
    columns = columns or _align_columns(items)
    given = {} if image is None else {"image": image}
    try:
        batch = {
            name: given[name] if name in given else _COLLATORS.get(name, _collate_column)(values)
            for name, values in columns.items()
        }
    except (RuntimeError, TypeError) as error:
        if is_shortage(error):
            raise
        _check_shapes(columns)
        raise SettingError(
            f"the samples {describe_rows(items)} cannot be joined in a batch: {str(error).splitlines()[0]}; expected "
            "tensors, arrays, numbers or text, of the same type in all samples"
        ) from error
    return batch


def _check_shapes(columns: Mapping[str, list[Any]]) -> None:
    """Raise an error that names the samples if tensors of a batch have different shapes."""
    for name, values in columns.items():
        shapes = [tuple(np.shape(value)) for value in values if isinstance(value, Tensor | np.ndarray)]
        if name != "label" and len(shapes) == len(values) and len(set(shapes)) > 1:
            other = next(row for row, shape in enumerate(shapes) if shape != shapes[0])
            found = [f"{sample_name(columns, row)} has shape {shapes[row]}" for row in (0, other)]
            raise SettingError(
                f"{name}: {' and '.join(found)}; expected the same shape in all samples of a batch; pad or crop in the "
                "transform"
            )


def _align_columns(items: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the columns of samples with different entries; a missing label is None."""
    names: dict[str, None] = {}
    for item in items:
        if not isinstance(item, Mapping) or any(name not in item for name in _REQUIRED):
            raise SettingError(_missing_entries_message(item))
        names |= dict.fromkeys(item)
    for item in items:
        missing = [name for name in names if name not in item and name != "label"]
        if missing:
            who = describe_row({name: item[name] for name in PART[1:3]})
            raise SettingError(
                f"the sample {who} has no {', '.join(missing)}, unlike other samples of its batch; provide it in all "
                "samples of the dataset or in none"
            )
    return {name: [item.get(name) for item in items] for name in names}


def _missing_entries_message(item: object) -> str:
    found = list(item) if isinstance(item, Mapping) else []
    return (
        f"the dataset's samples lack {', '.join(name for name in _REQUIRED if name not in found)}; found "
        f"{', '.join(found) or f'a {type(item).__name__}'}; expected dicts with {', '.join(_REQUIRED)} and, if known, "
        "label"
    )


def _collate_column(values: list[Any]) -> Any:
    # torch compares many types before it recognises strings, so strings are returned at once.
    return values if type(values[0]) is str else default_collate(values)


def _collate_part_ids(values: list[Any]) -> Tensor:
    try:
        # torch reads a list of numbers several times more slowly than numpy.
        plain = set(map(type, values)) == {int}
        found = torch.from_numpy(np.array(values, np.int64)) if plain else default_collate(values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = None
    if not isinstance(found, Tensor) or found.dim() != 1:
        raise SettingError(f"the dataset's samples: part_id={values}; expected one integer per sample")
    return found


def _plain_labels(values: list[Any]) -> list[Any]:
    # A set of types is faster to compare than thousands of values.
    return values if set(map(type, values)) <= _PLAIN else [_plain_label(value) for value in values]


def _plain_label(value: Any) -> Any:
    # Labels that are images stay arrays, because as lists they would take many times the memory.
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim < 2:
        return value.tolist()
    return value


_PLAIN = {str, int, float, bool, type(None)}
_COLLATORS: dict[str, Callable[[list[Any]], Any]] = {
    "label": _plain_labels,
    "part_id": _collate_part_ids,
}

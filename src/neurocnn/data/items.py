"""Components of a dataset item: the transformed part as a plain tensor, and the label."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neurocnn.data.sources import Source
from neurocnn.data.spatial import with_affine
from neurocnn.data.transforms import Transform
from neurocnn.errors import NeurocnnError, SettingError, TableError
from neurocnn.storage.identity import check_columns, describe_rows


def apply(name: str, transform: Transform | None, part: Tensor, source: Source, part_id: int) -> Tensor:
    """Apply a transform or an augmentation to a part. `name` is its name in error messages.

    Raises
    ------
    SettingError
        If the transform fails, or returns no tensor. The message names the part.
    """
    if transform is None:
        return part
    try:
        found = with_affine(transform)(part)
    except (NeurocnnError, MemoryError):
        raise
    except Exception as error:
        raise SettingError(
            f"{source.name}, part {part_id} of shape {tuple(part.shape)}: {name}={transform!r} failed: "
            f"{type(error).__name__}: {error}; correct the {name}"
        ) from error
    if not isinstance(found, Tensor | np.ndarray):
        raise SettingError(
            f"{source.name}, part {part_id}: {name}={transform!r} returned {type(found).__name__}; expected a "
            f"tensor; correct the {name}"
        )
    return found


def plain_tensor(part: Tensor, image: Tensor | None) -> Tensor:
    """Return a plain float32 tensor that shares no memory with the image."""
    part = torch.as_tensor(part, dtype=torch.float32).as_subclass(Tensor)
    if image is not None and part.untyped_storage().data_ptr() == image.untyped_storage().data_ptr():
        part = part.clone()
    return part.contiguous()


def read_labels(sessions: pd.DataFrame, label: str | None) -> list[Any] | None:
    """Return the label of each image, or None if no label is requested.

    Raises
    ------
    TableError
        If the column or a label is missing.
    """
    if label is None:
        return None
    check_columns(sessions, [label], "sessions")
    missing = sessions[sessions[label].isna()]
    if len(missing):
        rows = describe_rows(missing, most=len(missing))
        raise TableError(
            f"sessions: {label!r} is missing in {len(missing)} rows: {rows}; fill in the labels or drop the rows"
        )
    return list(sessions[label].tolist())

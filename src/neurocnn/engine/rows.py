"""Collection of the rows of a table, batch by batch, during a pass over a dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neurocnn.engine.batch import Batch, sample_name
from neurocnn.engine.outputs import Columns
from neurocnn.errors import SettingError
from neurocnn.storage.identity import IMAGE


class Identities:
    """Identity columns of the rows, and the index of each row.

    Identities are stored in a few long lists, because many small arrays would fragment the memory.
    """

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}

    def add(self, batch: Batch, first: int) -> None:
        """Add the rows of a batch. `first` is the index of its first row."""
        part_ids = batch["part_id"].tolist()
        if self.columns and ("cohort" in batch) != ("cohort" in self.columns):
            raise SettingError(
                f"the sample {sample_name(batch, 0)} has {'a' if 'cohort' in batch else 'no'} cohort, unlike the "
                "samples before it; provide a cohort in all samples of the dataset or in none"
            )
        for name in ("participant_id", "session_id", "cohort"):
            if name in batch:
                values = batch[name]
                self.columns.setdefault(name, []).extend(
                    values.tolist() if isinstance(values, Tensor) else values
                )
        self.columns.setdefault("part_id", []).extend(part_ids)
        self.columns.setdefault("row", []).extend(range(first, first + len(part_ids)))

    def last(self, n: int) -> Batch:
        """Return the last `n` rows."""
        return {name: values[-n:] for name, values in self.columns.items()}

    def arrays(self) -> Columns:
        """Return all rows as arrays."""
        return {
            name: np.array(values, dtype=object if name in IMAGE else np.int64)
            for name, values in self.columns.items()
        }


def concatenate(chunks: Sequence[Mapping[str, Any]]) -> Columns:
    """Return the concatenated columns of all chunks as arrays. If a chunk lacks a column, its values are NaN.

    Columns of a chunk are arrays or tensors. Tensors of all chunks are read from their device at once.
    """
    columns = {}
    for name in dict.fromkeys(name for chunk in chunks for name in chunk):
        found = [chunk[name] if name in chunk else _missing_column(chunk) for chunk in chunks]
        tensors = [each for each in found if isinstance(each, Tensor)]
        if len(tensors) == len(found):
            columns[name] = _to_array(torch.cat(tensors))
        else:
            arrays = [_to_array(each) if isinstance(each, Tensor) else each for each in found]
            columns[name] = np.concatenate(arrays)
    return columns


def _to_array(column: Tensor) -> np.ndarray[Any, Any]:
    values = column.cpu()
    return (values.double() if values.is_floating_point() else values).numpy()


def _missing_column(chunk: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    return np.full(len(next(iter(chunk.values()))), np.nan)


def join_ranks(ranks: list[Columns]) -> pd.DataFrame:
    """Return the columns of all ranks as one table, ordered by the index of the rows.

    Raises
    ------
    SettingError
        If there are no rows.
    """
    columns = concatenate([columns for columns in ranks if columns])
    if not columns:
        raise SettingError("the dataset is empty; expected at least one sample")
    order = columns.pop("row").argsort(kind="stable")
    return pd.DataFrame({name: column[order] for name, column in columns.items()}).infer_objects()

"""Files of the predictions of the best epochs, from which the final tables are written."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from pandas.api.types import is_numeric_dtype

from neurocnn.errors import CheckpointError, NotFoundError
from neurocnn.storage.tensors import load_tensors, save_tensors


def write_predictions(path: Path, epoch: int, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the predictions of an epoch by set, without rounding.

    Nothing is written if a column contains values that are neither numbers nor text, because such values could not be
    read.

    Examples
    --------
    >>> table = pd.DataFrame({"participant_id": ["sub-1"], "loss": [0.1]})
    >>> write_predictions(tmp / "kept.pt", 3, {"validation": table})
    >>> read_predictions(tmp / "kept.pt", 3)["validation"].equals(table)
    True
    >>> read_predictions(tmp / "kept.pt", 4)
    {}
    """
    content = {
        name: {
            key: torch.tensor(c.to_numpy()) if is_numeric_dtype(c) else c.tolist() for key, c in table.items()
        }
        for name, table in tables.items()
    }
    try:
        save_tensors({"epoch": epoch, "tables": content}, path)
    except CheckpointError:
        path.unlink(missing_ok=True)


def read_predictions(path: Path, epoch: int) -> dict[str, pd.DataFrame]:
    """Return the predictions of an epoch by set; an empty dict if the file has another epoch or cannot be read."""
    try:
        content = load_tensors(path)
        if content["epoch"] != epoch:
            return {}
        return {
            name: pd.DataFrame(
                {key: c.numpy() if isinstance(c, torch.Tensor) else c for key, c in columns.items()}
            )
            for name, columns in content["tables"].items()
        }
    except (NotFoundError, CheckpointError, AttributeError, LookupError, TypeError, ValueError):
        return {}

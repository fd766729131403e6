"""Functions that read tables of a result folder and check the type of every cell."""

import numbers
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neurocnn import storage
from neurocnn.errors import TableError
from neurocnn.storage.identity import COHORT, IMAGE, REQUIRED

#: Columns with the names of classes.
CLASS_NAMES = ("true_class", "predicted_class")
#: Column of the number of splits over which an ensemble prediction is averaged.
N_SPLITS = "n_splits"
#: Columns that must not have missing values.
_COUNTS = ("epoch", "iteration", "part_id")


def read_numbers(path: Path, required: Sequence[str] = ()) -> pd.DataFrame:
    """Return a table of numbers.

    Raises
    ------
    TableError
        If the table has no rows, a required column is missing, or a cell is text.
    """
    table = storage.read_table(path, required=required)
    _check_numbers(table, path, [str(name) for name in table])
    return table


def read_row(path: Path) -> pd.DataFrame:
    """Return a table of metrics, which must have one row of numbers, else raise a TableError."""
    table = read_numbers(path).astype(float)
    if len(table) != 1:
        raise TableError(f"{path}: {len(table)} rows; expected the row that the run wrote; restore the file")
    return table


def read_predicted(path: Path, required: Sequence[str] = ("predicted_label", "true_label")) -> pd.DataFrame:
    """Return a table of predictions.

    Raises
    ------
    TableError
        See `read_numbers`. Ids and names of classes may be text.
    """
    table = storage.read_table(path, required=[*REQUIRED, *required])
    texts = (*IMAGE, COHORT, *CLASS_NAMES)
    _check_numbers(table, path, [str(name) for name in table if name not in texts])
    return table


def drop_names(table: pd.DataFrame) -> pd.DataFrame:
    """Return predictions without the columns that metrics do not accept: names of classes, and `N_SPLITS`."""
    return table.drop(columns=[*CLASS_NAMES, N_SPLITS], errors="ignore")


def _check_numbers(table: pd.DataFrame, path: Path, columns: Sequence[str]) -> None:
    """Raise a TableError with the path if a cell of these columns is text."""
    for name in columns:
        if name in _COUNTS and table[name].isna().any():
            raise TableError(f"{path}: {name} is missing in a row; expected a number; restore the file")
        if not pd.api.types.is_numeric_dtype(table[name]) and table[name].notna().any():
            value = next(cell for cell in table[name] if not isinstance(cell, numbers.Real))
            raise TableError(
                f"{path}: {name}={value!r}; expected the number that the run wrote; restore the file"
            )

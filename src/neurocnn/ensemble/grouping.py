"""Grouping of the rows of parts by image, with checks.

An image is identified by its participant, session and, if there are several, cohort. Rows may be in any order, because
several networks, workers and ranks write them.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurocnn.errors import TableError
from neurocnn.errors.arguments import check_table
from neurocnn.storage.identity import COHORT, REQUIRED, check_columns, describe_rows, key_columns

#: Name of a table of predictions in messages.
WHERE = "predictions"


@dataclass(frozen=True, eq=False)
class PartsOfImages:
    """Rows of parts grouped by image."""

    rows: pd.DataFrame
    """The table, ordered by image and part id."""
    images: pd.DataFrame
    """One row per image: its identity columns and, if the table contains it, `true_label`."""
    image: npt.NDArray[np.integer[Any]]
    """For each row of `rows`, the number of its image's row in `images`."""
    starts: npt.NDArray[np.integer[Any]]
    """For each image, the number of its first part's row in `rows`."""

    @classmethod
    def from_table(cls, table: pd.DataFrame, columns: list[str]) -> "PartsOfImages":
        """Return checked rows ordered by image (in order of first appearance) and part; `columns` must exist."""
        keys = key_columns(check_table(WHERE, table).columns, (*REQUIRED, COHORT))
        _check_ids(table, [*keys, "part_id"], columns)
        first_seen = table.groupby(keys, sort=False).ngroup().to_numpy()
        part_ids = table["part_id"].to_numpy()
        order = np.lexsort((part_ids, first_seen))
        image = first_seen[order]
        starts = np.flatnonzero(np.diff(image, prepend=-1))
        rows = table.iloc[order].reset_index(drop=True)
        images = rows.loc[starts, keys].reset_index(drop=True)
        parts = cls(rows, images, image, starts)
        repeated = (np.diff(image, prepend=-1) == 0) & (np.diff(part_ids[order], prepend=-1) == 0)
        parts.raise_if_any(repeated, "a part of an image occurs twice")
        if "true_label" in rows:
            parts.images["true_label"] = parts._true_labels()
        return parts

    def _true_labels(self) -> "pd.Series[Any]":
        labels = self.rows["true_label"].groupby(self.image)
        several = labels.nunique() > 1
        if several.any():
            found = labels.unique()[several].iloc[0].tolist()
            reason = f"an image has two true labels ({found} for the first such image)"
            self.raise_if_any(several.to_numpy()[self.image], reason)
        return labels.first()

    def numbers(self, columns: list[str]) -> npt.NDArray[np.float64]:
        """Return the columns as a finite float64 array (rows, columns)."""
        values: npt.NDArray[np.float64] = np.empty((len(self.rows), len(columns)))
        for index, column in enumerate(columns):
            numeric = pd.to_numeric(self.rows[column], errors="coerce")
            values[:, index] = numeric.to_numpy(float, na_value=np.nan)
        self.raise_if_any(~np.isfinite(values), f"{', '.join(columns)}: a value is missing or not finite")
        return values

    def total(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the sums of an array (rows, columns) over the parts of each image, in the order of the part ids."""
        return cast(npt.NDArray[np.float64], np.add.reduceat(values, self.starts, axis=0))

    def raise_if_any(self, wrong: npt.NDArray[np.bool_], reason: str) -> None:
        """Raise a TableError with `reason` if `wrong` is True for any row. The message contains these rows."""
        lines = np.flatnonzero(wrong.reshape(len(self.rows), -1).any(axis=1))
        if len(lines):
            rows = describe_rows(self.rows.iloc[lines])
            raise TableError(f"{WHERE}: {reason}: {rows}; predict these images again or correct the table")


def check_predictions(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the table if it has the columns and at least one row, else raise a TableError."""
    check_columns(check_table(WHERE, table), columns, WHERE)
    if table.empty:
        raise TableError(f"{WHERE}: the table has no rows; expected at least one part of an image")
    return table


def _check_ids(table: pd.DataFrame, ids: list[str], columns: list[str]) -> None:
    check_predictions(table, [*REQUIRED, *ids, *columns])
    missing = table[ids].isna().any(axis=1).to_numpy()
    if missing.any():
        raise TableError(
            f"{WHERE}: row {int(np.argmax(missing))}: a value of {', '.join(ids)} is missing; fill it, or drop the row"
        )
    kind = table["part_id"].dtype
    if not pd.api.types.is_integer_dtype(kind):
        raise TableError(f"{WHERE}: the column 'part_id' has the dtype {kind}; expected integers")

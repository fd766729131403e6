"""Rows of parts brought together by image, and checked.

An image is a participant, a session and, where there are several, a cohort. Rows come in any order: several
networks, workers and ranks deliver them.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurocnn.errors import TableError

KEYS = ("participant_id", "session_id", "cohort")


@dataclass(frozen=True, eq=False)
class PartsOfImages:
    """Rows of parts brought together by image."""

    rows: pd.DataFrame
    """The table, ordered by image and part id."""
    images: pd.DataFrame
    """One row an image: its keys and, where the table has it, `true_label`."""
    image: npt.NDArray[np.integer[Any]]
    """For each of `rows` its row in `images`."""
    starts: npt.NDArray[np.integer[Any]]
    """For each image its first row in `rows`."""

    @classmethod
    def of(cls, table: pd.DataFrame, columns: list[str]) -> "PartsOfImages":
        """Check the ids and labels of a table and order it by image (as first seen) and part."""
        keys = [key for key in KEYS if key in table or key != "cohort"]
        _check_ids(table, [*keys, "part_id"], columns)
        first_seen = table.groupby(keys, sort=False).ngroup().to_numpy()
        part_ids = table["part_id"].to_numpy()
        order = np.lexsort((part_ids, first_seen))
        image = first_seen[order]
        starts = np.flatnonzero(np.diff(image, prepend=-1))
        rows = table.iloc[order].reset_index(drop=True)
        parts = cls(rows, rows.loc[starts, keys].reset_index(drop=True), image, starts)
        twice = (np.diff(image, prepend=-1) == 0) & (np.diff(part_ids[order], prepend=-1) == 0)
        parts.refuse(twice, "a part of an image stands in the table twice")
        if "true_label" in rows:
            parts.images["true_label"] = parts._true_labels()
        return parts

    def _true_labels(self) -> "pd.Series[Any]":
        labels = self.rows["true_label"].groupby(self.image)
        several = labels.nunique() > 1
        if several.any():
            found = labels.unique()[several].iloc[0].tolist()
            self.refuse(
                several.to_numpy()[self.image], f"an image has two true labels ({found} for the first)"
            )
        return labels.first()

    def numbers(self, columns: list[str]) -> npt.NDArray[np.float64]:
        """The columns as a finite float64 array (rows, columns)."""
        values: npt.NDArray[np.float64] = np.empty((len(self.rows), len(columns)))
        for index, column in enumerate(columns):
            numeric = pd.to_numeric(self.rows[column], errors="coerce")
            values[:, index] = numeric.to_numpy(float, na_value=np.nan)
        self.refuse(~np.isfinite(values), f"{', '.join(columns)}: a value is missing or not finite")
        return values

    def total(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Sum an array (rows, columns) over each image's parts, in the order of their ids."""
        return cast(npt.NDArray[np.float64], np.add.reduceat(values, self.starts, axis=0))

    def refuse(self, wrong: npt.NDArray[np.bool_], why: str) -> None:
        """Raise a TableError that names the rows that are wrong, if there are any."""
        lines = np.flatnonzero(wrong.reshape(len(self.rows), -1).any(axis=1))
        if len(lines):
            where = named(self.rows.iloc[lines])
            raise TableError(f"predictions: {why}: {where}; predict these images anew or mend the table")


def _check_ids(table: pd.DataFrame, ids: list[str], columns: list[str]) -> None:
    absent = [column for column in [*ids, *columns] if column not in table]
    if absent:
        raise TableError(
            f"predictions have no column {', '.join(absent)}; "
            f"there are: {', '.join(map(str, table.columns)) or 'none'}"
        )
    if table.empty:
        raise TableError("predictions have no row: there is nothing to vote on")
    missing = table[ids].isna().any(axis=1).to_numpy()
    if missing.any():
        raise TableError(
            f"predictions: row {int(np.argmax(missing))} (counted from 0) lacks one of {', '.join(ids)}"
        )
    if not pd.api.types.is_integer_dtype(table["part_id"].dtype):
        raise TableError(f"predictions: part_id must be whole numbers, found {table['part_id'].dtype}")


def named(rows: pd.DataFrame, at_most: int = 5) -> str:
    """The first rows' images and parts in words, and how many more there are."""
    columns = [column for column in ("cohort", "participant_id", "session_id") if column in rows]
    names = [
        f"{' '.join(map(str, row[:-1]))} part {row[-1]}"
        for row in rows[[*columns, "part_id"]].head(at_most).itertuples(index=False, name=None)
    ]
    return ", ".join(names) + (f" and {len(rows) - at_most} more" if len(rows) > at_most else "")

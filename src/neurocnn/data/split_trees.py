"""Reading and writing split trees of either generation of ClinicaDL."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neurocnn.data.layout import cohort_paths
from neurocnn.data.splits import Split, baseline as baseline_sessions
from neurocnn.data.tables import read_table, write_table
from neurocnn.errors import NotFoundError, TableError


def read_splits(
    path: str | os.PathLike[str],
    n_splits: int | None = None,
    diagnoses: Sequence[str] | None = None,
    baseline: bool = False,
) -> list[Split]:
    """Read splits."""
    path = Path(path)
    folder = path / f"{n_splits}_fold" if n_splits else path
    found = sorted(folder.glob("split-*"), key=lambda f: int(f.name[6:]))
    if not found:
        raise NotFoundError(f"{folder}: no split-<i>")
    splits = []
    for tree in found:
        train = read_table(tree / ("train_baseline.tsv" if baseline else "train.tsv"))
        validation = read_table(tree / "validation_baseline.tsv")
        if diagnoses is not None:
            train, validation = (
                frame[frame["diagnosis"].isin(list(diagnoses))] for frame in (train, validation)
            )
        splits.append(Split(int(tree.name[6:]), train, validation))
    return splits


def write_splits(splits: Sequence[Split], folder: str | os.PathLike[str]) -> None:
    """Write splits as a tree of ClinicaDL 1.x."""
    for split in splits:
        tree = Path(folder) / f"{len(splits)}_fold" / f"split-{split.index}"
        write_table(split.train, tree / "train.tsv")
        write_table(baseline_sessions(split.train), tree / "train_baseline.tsv")
        write_table(split.validation, tree / "validation_baseline.tsv")

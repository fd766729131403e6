"""Tables of a result folder, joined over the splits."""

import numpy as np
import pandas as pd

from neurocnn.errors import NotFoundError, SettingError
from neurocnn.results.checked_tables import read_numbers, read_predicted, read_row
from neurocnn.results.ensembles import ENSEMBLE, ensemble_tables
from neurocnn.results.folder import IMAGE as IMAGE_LEVEL
from neurocnn.results.folder import ResultFolder
from neurocnn.results.scoring import add_class_names
from neurocnn.storage.files import is_file


def read_metrics(folder: ResultFolder, level: str, selection: str | None, dataset: str) -> pd.DataFrame:
    """Return the table of `Results.metrics`."""
    tables = folder.find_tables("metrics", level, selection, dataset)
    rows = {fold.index: read_row(path) for fold, path in tables}
    table = pd.concat(rows).droplevel(1)
    spread = pd.DataFrame({"mean": table.mean(), "std": table.std()}).T
    # The limits are omitted, because their average over the splits is not a confidence interval of the mean.
    limits = [name for name in map(str, table) if name.endswith(("_low", "_high"))]
    table = pd.concat([table, spread.assign(**dict.fromkeys(limits, np.nan))])
    if folder.check_level(level) == IMAGE_LEVEL:
        row = ensemble_tables(folder, folder.check_selection(selection), dataset)[1]
        table = table if row is None else pd.concat([table, row.set_axis([ENSEMBLE])])
    return table.rename_axis("split")


def read_predictions(folder: ResultFolder, level: str, selection: str | None, dataset: str) -> pd.DataFrame:
    """Return the table of `Results.predictions`."""
    if folder.reconstructs:
        raise SettingError(
            f"{folder.root}: a reconstruction has no predictions; use metrics(level='part') or encode(…)"
        )
    tables = {}
    for fold, path in folder.find_tables("prediction", level, selection, dataset):
        tables[fold.index] = read_predicted(path, required=["predicted_label"])
    found = _stack(tables, "split")
    if folder.check_level(level) == IMAGE_LEVEL:
        averaged = ensemble_tables(folder, folder.check_selection(selection), dataset)[0]
        if averaged is not None:
            averaged.insert(0, "split", ENSEMBLE)
            found = pd.concat([found.astype({"split": object}), averaged], ignore_index=True)
    return add_class_names(folder.task, found)


def read_history(folder: ResultFolder) -> pd.DataFrame:
    """Return the table of `Results.history`."""
    paths = {fold.index: fold.training() for fold in folder.folds}
    required = ("epoch", "iteration", "time")
    tables = {index: read_numbers(path, required) for index, path in paths.items() if is_file(path)}
    if not tables:
        raise NotFoundError(f"{folder.root}: training.tsv is missing; run the experiment first")
    return _stack(tables, "split")


def read_network_histories(folder: ResultFolder, split: int, networks: list[int]) -> pd.DataFrame:
    """Return the histories of a fold's networks in one table, with ``network`` as the first column."""
    fold = folder.fold(split)
    tables = {part: read_numbers(fold.training(part)) for part in networks}
    return _stack(tables, "network")


def read_part_accuracy(folder: ResultFolder, selection: str | None) -> dict[int, float]:
    """Return the parts' validation balanced accuracies, averaged over the splits that have accuracies.

    Raises
    ------
    NotFoundError
        If no split is done, or the results contain no accuracies of parts.
    """
    chosen = folder.check_selection(selection)
    paths = [fold.part_accuracy(chosen) for fold in folder.check_done()]
    required = ("part_id", "balanced_accuracy")
    tables = [read_numbers(path, required) for path in paths if is_file(path)]
    if not tables:
        raise NotFoundError(
            f"{folder.root}: part_balanced_accuracy.tsv is missing; only a classification of several parts has it"
        )
    means = pd.concat(tables).groupby("part_id")["balanced_accuracy"].mean()
    return {int(part): float(value) for part, value in zip(means.index.tolist(), means, strict=True)}


def _stack(tables: dict[int, pd.DataFrame], column: str) -> pd.DataFrame:
    """Return the concatenated tables, with their keys in a new first column."""
    for key, table in tables.items():
        table.insert(0, column, key)
    return pd.concat(tables.values(), ignore_index=True)

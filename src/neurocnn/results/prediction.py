"""New data, judged by the models of a result folder and written into it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import nn as torch_nn

from neurocnn import data, engine, storage
from neurocnn.engine.inputs import image_targets
from neurocnn.errors import LeakError, SettingError
from neurocnn.results import leakage as seen
from neurocnn.results import scoring
from neurocnn.results.paths import Fold

if TYPE_CHECKING:
    from neurocnn.results.results import Results


def check_name(name: str) -> None:
    """Refuse a name that could not stand in file names, or that is taken.

    Examples
    --------
    >>> check_name("test")
    >>> check_name("train")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurocnn.errors.SettingError: name='train': expected letters, digits and underscores, ...
    """
    if not isinstance(name, str) or name in ("train", "validation") or not name.isidentifier():
        raise SettingError(
            f"name={name!r}: expected letters, digits and underscores, and neither train nor validation"
        )


def make_dataset(results: "Results", caps: data.Caps, sessions: pd.DataFrame) -> data.CapsDataset:
    """Cut and transform new images as in training; labels where there are any.

    Raises
    ------
    SettingError
        An argument is of another kind, or the images have another shape than those of the training.
    """
    if not isinstance(caps, data.Caps):
        raise SettingError(f"caps={caps!r}: expected an nc.Caps")
    if not isinstance(sessions, pd.DataFrame):
        raise SettingError(
            f"sessions is a {type(sessions).__name__}: expected a table, as nc.read_table gives it"
        )
    label = results.task.label
    labelled = label in sessions and sessions[label].notna().any()
    dataset = data.CapsDataset(
        caps,
        sessions,
        parts=results.parts,
        label=label if labelled else None,
        transform=results.setting("transform"),
    )
    first = dataset.sessions.iloc[0]
    shape = caps.shape(first["participant_id"], first["session_id"], first.get("cohort"))
    trained = tuple(results.settings["image_shape"])
    if shape != trained:
        raise SettingError(
            f"the images have shape {shape}, those of the training {trained}: the same parts would hold other "
            "regions; give images of the same preprocessing"
        )
    return dataset


def check(results: "Results", fold: Fold, dataset: data.CapsDataset, name: str) -> None:
    """Refuse participants whom the fold's models have seen, and a name under which other data were predicted.

    Raises
    ------
    LeakError
        With the participants and their roles.
    SettingError
        The name is taken by other sessions or other labels.
    TableError
        A label is unknown.
    """
    table = storage.read_table(fold.seen, required=("participant_id", "role"))
    try:
        seen.check(table, dataset.sessions, "prediction on new data")
    except LeakError as error:
        raise LeakError(f"{fold.path}: {error}") from None
    targets = image_targets(results.task, dataset) if dataset.label is not None else None
    path = fold.table(results.selections[0], name, str(results.parts.name), "prediction")
    if path.is_file():
        _check_same(storage.read_table(path), dataset.sessions, targets, path)


def _check_same(before: pd.DataFrame, sessions: pd.DataFrame, targets: list[Any] | None, path: Path) -> None:
    key = [column for column in ("cohort", "participant_id", "session_id") if column in before]
    there = before.drop_duplicates(key).set_index(key)["true_label"]
    if set(key) > set(sessions) or set(there.index) != set(map(tuple, sessions[key].to_numpy())):
        raise SettingError(f"{path} holds predictions of other sessions; choose another name")
    if targets is not None and there.notna().all():
        now = pd.Series(targets, index=pd.MultiIndex.from_frame(sessions[key]), dtype=float)
        if not np.allclose(there.reindex(now.index).to_numpy(dtype=float), now, rtol=1e-5):
            raise SettingError(f"{path} holds other labels of these sessions; choose another name")


def predict(results: "Results", fold: Fold, selection: str, dataset: data.CapsDataset, name: str) -> None:
    """Write the tables of one model and one set of new data, where they are not there yet."""
    level = scoring.levels(results.task, results.parts)[-1]
    reconstructs = results.task.name == "reconstruction"
    last = fold.table(selection, name, level, "metrics" if dataset.label or reconstructs else "prediction")
    if last.is_file() and not reconstructs:
        return
    predictions = engine.evaluate(
        _model(results, fold, selection, dataset), results.task, dataset, **_how(results)
    )
    if reconstructs and last.is_file():
        _check_same_metrics(last, scoring.metrics_row(results.task, predictions, intervals=False))
        return
    weights = None
    if scoring.paints(results.task, results.parts):
        validation = storage.read_table(fold.table(selection, "validation", results.parts.name, "prediction"))
        weights = scoring.weights(results.task, validation, results.settings["selection_threshold"])
    if engine.find_ranks().rank == 0:
        scoring.write_tables(fold, selection, name, predictions, results.task, results.parts, weights)


def codes(results: "Results", fold: Fold, dataset: data.CapsDataset, selection: str | None) -> pd.DataFrame:
    """Give the codes of one fold's autoencoders, with the column ``split`` in front."""
    if results.settings["multi"]:
        parts = [
            engine.encode(
                results.load_model(fold.index, selection, part), dataset.only_part(part), **_how(results)
            )
            for part in dataset.part_ids
        ]
        table = pd.concat(parts, keys=range(len(parts)), names=["part", "image"])
        table = table.sort_index(level=["image", "part"]).reset_index(drop=True)
    else:
        table = engine.encode(results.load_model(fold.index, selection), dataset, **_how(results))
    table.insert(0, "split", fold.index)
    return table


def _model(
    results: "Results", fold: Fold, selection: str, dataset: data.CapsDataset
) -> torch_nn.Module | Mapping[int, torch_nn.Module]:
    if results.settings["multi"]:
        return {part: results.load_model(fold.index, selection, part) for part in dataset.part_ids}
    return results.load_model(fold.index, selection)


def _how(results: "Results") -> dict[str, Any]:
    # The trainer itself may be custom; the device is that of this machine.
    return {name: results.settings["trainer"][name] for name in ("batch_size", "n_workers", "precision")}


def _check_same_metrics(path: Path, now: pd.DataFrame) -> None:
    # No table says whose reconstructions were measured; other people have other numbers.
    before = storage.read_table(path, required=())
    if not np.allclose(before[list(now)].to_numpy(dtype=float), now.to_numpy(dtype=float), rtol=1e-2):
        raise SettingError(f"{path} holds metrics of other sessions; choose another name")

"""A result folder read back: metrics, predictions, history, models, and predictions for new data."""

import html
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from torch import nn as torch_nn
from tqdm.auto import tqdm

from neurocnn import data, engine, nn, scoring, seen
from neurocnn.errors import LeakError, NotFoundError, SettingError, suggestion
from neurocnn.layout import COMMANDLINE, Fold, folds
from neurocnn.settings import decode, is_custom, read_settings

_OWN_SETS = ("train", "validation")


class Results:
    """What an experiment left in its folder.

    Parameters
    ----------
    folder
        The folder that `Experiment.run` was given.
    **custom
        Settings that are recorded as custom (a builder, a transform, a task): the objects themselves, by the
        name of the setting, such as ``architecture=build``. Needed only by what uses them.

    Raises
    ------
    NotFoundError
        It is no result folder.
    """

    def __init__(self, folder: str | Path, **custom: Any) -> None:
        self.folder = Path(folder)
        self.settings = read_settings(self.folder / COMMANDLINE)
        for name in custom:
            if name not in self.settings:
                raise SettingError(f"{name!r} is no setting; {suggestion(name, self.settings)}")
        self._custom = custom

    def setting(self, name: str) -> Any:
        """Give a setting of the experiment as an object, such as ``parts`` or ``task``.

        Raises
        ------
        SettingError
            It was written by the user and was not given.
        """
        if name in self._custom:
            return self._custom[name]
        value = self.settings[name]
        if is_custom(value):
            raise SettingError(
                f"{self.folder}: the setting {name!r} is custom ({value}) and code is not stored; "
                f"give it: Results({str(self.folder)!r}, {name}=…) or Experiment.load(…, {name}=…)"
            )
        return decode(value)

    @cached_property
    def task(self) -> engine.Task:
        """The task of the experiment."""
        return self.setting("task")  # type: ignore[no-any-return]

    @cached_property
    def parts(self) -> Any:
        """The parts of the experiment's images."""
        return self.setting("parts")

    @property
    def splits(self) -> list[int]:
        """The indices of the splits that are done."""
        return [fold.index for fold in self._folds() if self._is_done(fold)]

    @property
    def selections(self) -> list[str]:
        """The names of the selections, such as ``best_loss``."""
        return scoring.selections(self.task)

    def metrics(
        self, level: str = "image", selection: str | None = None, dataset: str = "validation"
    ) -> pd.DataFrame:
        """Give the metrics of every split, with their mean and standard deviation.

        Parameters
        ----------
        level
            ``image``, or ``part`` (or the parts' own name).
        selection
            Which best model: ``best_loss``, ``best_balanced_accuracy``; by default the latter where there is
            one.
        dataset
            ``train``, ``validation``, or a name given to `predict`.

        Returns
        -------
        DataFrame
            A row a split, then ``mean`` and ``std`` (the sample's standard deviation, over n − 1).
        """
        rows = {
            fold.index: data.read_table(path, required=()).iloc[0]
            for fold, path in self._tables(level, selection, dataset, "metrics")
        }
        table = pd.DataFrame(rows).T.astype(float)
        table.index.name = "split"
        spread = pd.DataFrame({"mean": table.mean(), "std": table.std()}).T
        return pd.concat([table, spread]).rename_axis("split")

    def predictions(
        self, level: str = "image", selection: str | None = None, dataset: str = "validation"
    ) -> pd.DataFrame:
        """Give the predictions of every split in one table, with the column ``split`` in front."""
        pieces = []
        for fold, path in self._tables(level, selection, dataset, "prediction"):
            piece = data.read_table(path)
            piece.insert(0, "split", fold.index)
            pieces.append(piece)
        return pd.concat(pieces, ignore_index=True)

    def history(self) -> pd.DataFrame:
        """Give the metrics of every evaluation during training, with the column ``split`` in front."""
        pieces = []
        for fold in self._folds():
            if fold.training().is_file():
                piece = data.read_table(fold.training(), required=())
                piece.insert(0, "split", fold.index)
                pieces.append(piece)
        if not pieces:
            raise NotFoundError(f"{self.folder}: no training.tsv is there yet")
        return pd.concat(pieces, ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """Give the table for a paper: a row a split, then mean ± standard deviation.

        Returns
        -------
        DataFrame
            Participants of both sets, epochs trained, minutes, and the validation metric of each level:
            balanced accuracy for classes, mean absolute error for values, mean squared error for images.
        """
        metric = {"classification": "balanced_accuracy", "regression": "mae"}.get(self.task.name, "mse")
        history = self.history()
        rows: dict[Any, dict[str, Any]] = {}
        for index in self.splits:
            fold, own = self._fold(index), history[history["split"] == index]
            rows[index] = {
                "train participants": _participants(fold, "train"),
                "validation participants": _participants(fold, "validation"),
                "epochs": int(own["epoch"].max()) + 1,
                "minutes": round(_seconds(own) / 60, 1),
            }
        table = pd.DataFrame(rows).T.astype(object)
        table.loc["mean ± std"] = ""
        for level in scoring.levels(self.task, self.parts):
            values = self.metrics(level)[metric]
            last = f"{values['mean']:.3f} ± {values['std']:.3f}"
            table[f"{level} {metric}"] = [*(f"{values[index]:.3f}" for index in rows), last]
        return table.rename_axis("split")

    def part_map(self, selection: str | None = None) -> np.ndarray:
        """Give the parts' validation balanced accuracies, averaged over the splits, as a volume.

        Returns
        -------
        ndarray
            (D, H, W); NaN where there is no part. `plotting.part_map` and `plotting.overview` draw it.
        """
        chosen = self._selection(selection)
        paths = [fold.part_accuracy(chosen, "nii.gz") for fold in self._folds()]
        found = [np.asarray(nib.nifti1.load(path).dataobj) for path in paths if path.is_file()]  # type: ignore[no-untyped-call]
        if not found:
            raise NotFoundError(
                f"{self.folder}: there is no map of the parts; only classified parts have one"
            )
        mean = np.mean(found, axis=0)
        return np.where(mean > 0, mean, np.nan)

    def load_model(
        self, split: int, selection: str | None = None, network: int | None = None
    ) -> torch_nn.Module:
        """Give a trained network, in evaluation mode, on the CPU.

        Parameters
        ----------
        split
            The index of the split.
        selection
            Which best model, as in `metrics`.
        network
            The part_id of the network, where each part has its own.

        Raises
        ------
        SettingError
            `network` is missing or superfluous, or the architecture is custom and was not given.
        """
        multi = bool(self.settings["multi"])
        if multi != (network is not None):
            need = "each part has its network: give network=<part_id>" if multi else "one network serves all"
            raise SettingError(f"{self.folder}, network={network!r}: {need}")
        path = self._fold(split).model(self._selection(selection), network)
        state = nn.read_weights(path)
        options = dict(self.setting("options"))
        if self.settings["architecture"] == "resnet18":
            options["weights"] = None  # all weights come from the file
        model = network_for(
            self.setting("architecture"), tuple(self.settings["input_shape"]), self.task, options
        )
        model.load_state_dict(state)
        return model.eval()

    def predict(self, caps: data.Caps, sessions: pd.DataFrame, name: str) -> pd.DataFrame:
        """Evaluate new data with the models of every split, into the same folder.

        Parameters
        ----------
        caps
            Where their images are, preprocessed as in training.
        sessions
            The sessions; the label's column may be missing, then there are predictions and no metrics.
        name
            The name of this data set in file names and in `metrics`.

        Returns
        -------
        DataFrame
            The image-level predictions of every split, as `predictions` gives them.

        Raises
        ------
        LeakError
            A participant was seen in training, by the selection, or by the transfer's source.
        SettingError
            The name is taken by other data.
        """
        self._check_name(name)
        done = [fold for fold in self._folds() if self._is_done(fold)]
        if not done:
            raise NotFoundError(f"{self.folder}: no split is done yet; run the experiment first")
        for fold in done:
            self._check_unseen(fold, sessions)
            self._check_same(fold, sessions, name)
        dataset = self._dataset(caps, sessions)
        tasks = [(fold, selection) for fold in done for selection in self.selections]
        for fold, selection in tqdm(tasks, f"predict {name}", disable=None, unit="model"):
            self._predict(fold, selection, dataset, name)
        engine.find_ranks().meet("after predicting new data")
        if self.task.name == "reconstruction":
            return self.metrics(level="part", dataset=name)
        return self.predictions(dataset=name)

    def encode(self, caps: data.Caps, sessions: pd.DataFrame, selection: str | None = None) -> pd.DataFrame:
        """Give the codes of images, for clustering: one row a part and split, columns ``code0``, ``code1``, …"""
        sessions = sessions.drop(columns=self.task.label or [], errors="ignore")
        dataset = self._dataset(caps, sessions)
        pieces = []
        for index in self.splits:
            if self.settings["multi"]:
                tables = [
                    engine.encode(self.load_model(index, selection, part), dataset.only_part(part))
                    for part in dataset.part_ids
                ]
                table = pd.concat(tables, ignore_index=True)
            else:
                table = engine.encode(self.load_model(index, selection), dataset)
            table.insert(0, "split", index)
            pieces.append(table)
        return pd.concat(pieces, ignore_index=True)

    def __repr__(self) -> str:
        return f"Results({str(self.folder)!r}): {self.task.name}, splits {self.splits} done"

    def _repr_html_(self) -> str:
        title = f"{self.task.name} of {self.parts.name}s, {html.escape(str(self.settings['architecture']))}"
        body = self.summary().to_html(border=0) if self.splits else "<p>No split is done yet.</p>"
        return f"<h4>{title}</h4><p><code>{html.escape(str(self.folder))}</code></p>{body}"

    def _predict(self, fold: Fold, selection: str, dataset: data.CapsDataset, name: str) -> None:
        last = fold.table(selection, name, scoring.levels(self.task, self.parts)[-1], "prediction")
        if self.task.name != "reconstruction" and last.is_file():
            return
        model: torch_nn.Module | Mapping[int, torch_nn.Module]
        if self.settings["multi"]:
            model = {part: self.load_model(fold.index, selection, part) for part in dataset.part_ids}
        else:
            model = self.load_model(fold.index, selection)
        predictions = engine.evaluate(
            model, self.task, dataset, batch_size=int(self.settings["trainer"]["batch_size"])
        )
        weights = None
        if self.task.classes is not None and self.parts.name != scoring.IMAGE:
            validation = data.read_table(fold.table(selection, "validation", self.parts.name, "prediction"))
            weights = scoring.weights(self.task, validation, self.settings["selection_threshold"])
        if engine.find_ranks().rank == 0:
            scoring.write_tables(fold, selection, name, predictions, self.task, self.parts, weights)

    def _dataset(self, caps: data.Caps, sessions: pd.DataFrame) -> data.CapsDataset:
        label = self.task.label if self.task.label in sessions else None
        transform = self.setting("transform")
        return data.CapsDataset(caps, sessions, parts=self.parts, label=label, transform=transform)

    def _check_name(self, name: str) -> None:
        if name in _OWN_SETS or not name.isidentifier():
            raise SettingError(
                f"name={name!r}: expected letters, digits and underscores, and neither train nor validation"
            )

    def _check_unseen(self, fold: Fold, sessions: pd.DataFrame) -> None:
        table = data.read_table(fold.seen, required=("participant_id", "role"))
        try:
            seen.check(table, sessions, "prediction on new data")
        except LeakError as error:
            raise LeakError(f"{fold.path}: {error}") from None

    def _check_same(self, fold: Fold, sessions: pd.DataFrame, name: str) -> None:
        if self.task.name == "reconstruction":
            return
        path = fold.table(self.selections[0], name, self.parts.name, "prediction")
        if path.is_file():
            before = data.read_table(path)
            key = [column for column in ("cohort", "participant_id", "session_id") if column in before]
            if set(map(tuple, before[key].to_numpy())) != set(map(tuple, sessions[key].to_numpy())):
                raise SettingError(
                    f"{path} holds predictions of other sessions; choose another name than {name!r}"
                )

    def _tables(
        self, level: str, selection: str | None, dataset: str, content: str
    ) -> list[tuple[Fold, Path]]:
        chosen = self._selection(selection)
        wanted = scoring.table_level(level, self.task, self.parts)
        paths = [(fold, fold.table(chosen, dataset, wanted, content)) for fold in self._folds()]
        found = [(fold, path) for fold, path in paths if path.is_file()]
        if not found:
            suffix = f"_{wanted}_level_{content}.tsv"
            there = {
                path.name.removesuffix(suffix) for path in self.folder.glob(f"fold-*/*/{chosen}/*{suffix}")
            }
            raise NotFoundError(
                f"{self.folder}: no {content} of {dataset!r} at level {wanted!r}; there are: "
                f"{', '.join(sorted(there)) or 'none yet'}"
            )
        return found

    def _selection(self, selection: str | None) -> str:
        chosen = selection or self.selections[-1]
        if chosen not in self.selections:
            raise SettingError(f"selection={selection!r}: {suggestion(chosen, self.selections)}")
        return chosen

    def _folds(self) -> list[Fold]:
        return folds(self.folder, str(self.task.name))

    def _fold(self, index: int) -> Fold:
        for fold in self._folds():
            if fold.index == index:
                return fold
        raise SettingError(f"{self.folder}: there is no split {index}; there are {self.splits}")

    def _is_done(self, fold: Fold) -> bool:
        return scoring.last_table(fold, self.task, self.parts).is_file()


def network_for(
    architecture: Any, input_shape: tuple[int, ...], task: engine.Task, options: Mapping[str, Any]
) -> torch_nn.Module:
    """Build the network of a task: the architecture itself, or the autoencoder derived from it."""
    model = nn.create_model(architecture, input_shape, n_outputs=task.n_outputs, **options)
    return nn.CNN_Transformer(model) if task.name == "reconstruction" else model


def _participants(fold: Fold, dataset: str) -> int:
    return int(data.read_table(fold.sessions(dataset))["participant_id"].nunique())


def _seconds(history: pd.DataFrame) -> float:
    return float(np.nanmax(history["time"].to_numpy(dtype=float))) if len(history) else 0.0

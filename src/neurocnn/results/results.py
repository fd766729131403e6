"""A result folder read back: metrics, predictions, history, models, and predictions for new data."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn as torch_nn
from tqdm.auto import tqdm

from neurocnn import data, engine, storage
from neurocnn.errors import NotFoundError, SettingError, suggestion
from neurocnn.results import networks, scoring, summary
from neurocnn.results import prediction as newdata
from neurocnn.results.paths import COMMANDLINE, Fold, folds
from neurocnn.results.settings import custom_names, decode, is_custom, read_settings


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
    SettingError
        Another program made it, or a name in `custom` is no setting.

    Examples
    --------
    >>> import neurocnn as nc
    >>> labels = nc.make_caps(tmp / "caps", n_participants=12, preprocessing="t1-volume", shape=(18, 20, 18))
    >>> caps = nc.Caps(tmp / "caps", "t1-volume")
    >>> rest, test = nc.holdout(labels, fraction=0.25, stratify=["diagnosis"])
    >>> splits = nc.kfold(rest, n_splits=2, stratify=["diagnosis"])
    >>> trainer = nc.Trainer(epochs=1, device="cpu")
    >>> experiment = nc.Experiment(caps, splits, nc.Patch(9, 9), nc.classification(), "Conv3_FC1", trainer)
    >>> _ = experiment.run(tmp / "results")
    >>> results = nc.Results(tmp / "results")
    >>> results.splits, results.selections
    ([0, 1], ['best_loss', 'best_balanced_accuracy'])
    >>> results.metrics(level="image").index.tolist()
    [0, 1, 'mean', 'std']
    >>> len(results.predict(caps, test, name="test")) == 2 * len(test)
    True
    >>> results.predictions(level="part", dataset="test").columns.tolist()
    ['split', 'participant_id', 'session_id', 'part_id', 'true_label', 'predicted_label', 'proba0', 'proba1']
    >>> results.load_model(split=0).training
    False
    """

    def __init__(self, folder: str | Path, **custom: Any) -> None:
        self.folder = Path(folder)
        self.settings = read_settings(self.folder / COMMANDLINE)
        if "neurocnn" not in self.settings:
            raise SettingError(
                f"{self.folder}: its {COMMANDLINE} was not written by neurocnn (ClinicaDL has a file of this name); "
                "transfer_from=… takes the weights of such a folder"
            )
        for name in custom:
            if name not in self.settings:
                raise SettingError(f"{name!r} is no setting; {suggestion(name, self.settings)}")
        self._custom = custom

    def setting(self, name: str) -> Any:
        """Give a setting of the experiment as an object, such as ``parts`` or ``task``.

        Raises
        ------
        SettingError
            There is no such setting, or it was written by the user and was not given.
        """
        if name in self._custom:
            return self._custom[name]
        if name not in self.settings:
            raise SettingError(f"{name!r} is no setting; {suggestion(name, self.settings)}")
        value = self.settings[name]
        if is_custom(value):
            raise SettingError(
                f"{self.folder}: the setting {name!r} is custom ({', '.join(custom_names(value))}) and code is not "
                f"stored; give it: Results({str(self.folder)!r}, {name}=…) or Experiment.load(…, {name}=…)"
            )
        return decode(value)

    def knows(self, name: str) -> bool:
        """Whether `setting` can give it."""
        return name in self._custom or not is_custom(self.settings[name])

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
            A row a split, then ``mean`` and ``std`` (the sample's standard deviation, over n − 1; NaN for one).
            Splits that are not done yet are left out.

        Raises
        ------
        NotFoundError
            There is no such table; the message says for which sets there is.
        SettingError
            There is no such level or selection.
        """
        rows = {
            fold.index: storage.read_table(path, required=()).iloc[0]
            for fold, path in self._tables(level, selection, dataset, "metrics")
        }
        table = pd.DataFrame(rows).T.astype(float)
        spread = pd.DataFrame({"mean": table.mean(), "std": table.std()}).T
        return pd.concat([table, spread]).rename_axis("split")

    def predictions(
        self, level: str = "image", selection: str | None = None, dataset: str = "validation"
    ) -> pd.DataFrame:
        """Give the predictions of every split in one table, with the column ``split`` in front.

        Parameters
        ----------
        level, selection, dataset
            As for `metrics`.

        Returns
        -------
        DataFrame
            A row a split and image (or part): ``participant_id``, ``session_id``, [``cohort``, ``part_id``,]
            ``true_label`` (missing where there were no labels), ``predicted_label`` and, for classes,
            ``proba0``, ``proba1``, …; classes are positions in ``task.classes``.

        Raises
        ------
        NotFoundError, SettingError
            As for `metrics`; an autoencoder has metrics only.
        """
        if self.task.name == "reconstruction":
            raise SettingError(f"{self.folder}: reconstructions have metrics and codes, and no predictions")
        pieces = []
        for fold, path in self._tables(level, selection, dataset, "prediction"):
            piece = storage.read_table(path)
            piece.insert(0, "split", fold.index)
            pieces.append(piece)
        return pd.concat(pieces, ignore_index=True)

    def history(self) -> pd.DataFrame:
        """Give the metrics of every evaluation during training, with the column ``split`` in front.

        Returns
        -------
        DataFrame
            ``split``, [``network``,] ``epoch``, ``iteration``, ``time`` in seconds, ``train_loss``, …,
            ``validation_loss``, …; also of splits that still run.

        Raises
        ------
        NotFoundError
            Nothing has been trained yet.
        """
        pieces = []
        for fold in self._folds():
            if fold.training().is_file():
                piece = storage.read_table(fold.training(), required=())
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
            Participants of both sets, epochs trained and minutes (of the longest, where each part has its
            network), and the validation metric of each level: balanced accuracy for classes, mean absolute
            error for values, mean squared error for images, else that of the last selection.

        Raises
        ------
        NotFoundError
            No split is done yet.
        """
        return summary.table(self)

    def part_map(self, selection: str | None = None) -> np.ndarray:
        """Give the parts' validation balanced accuracies, averaged over the splits, as a volume.

        Returns
        -------
        ndarray
            (D, H, W); NaN where there is no part. `plotting.part_map` and `plotting.overview` draw it.

        Raises
        ------
        NotFoundError
            These results have no such map, or no split is done.
        """
        chosen = self._selection(selection)
        paths = [fold.part_accuracy(chosen) for fold in self._done()]
        tables = [storage.read_table(path, required=("part_id",)) for path in paths if path.is_file()]
        if not tables or not hasattr(self.parts, "place"):
            raise NotFoundError(
                f"{self.folder}: there is no map of the parts; only classified parts that know their place have one"
            )
        means = pd.concat(tables).groupby("part_id")["balanced_accuracy"].mean()
        shape = tuple(self.settings["image_shape"])
        return data.paint(self.parts, shape, dict(zip(map(int, means.index), map(float, means), strict=True)))

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
        NotFoundError, CheckpointError, ModelError
            The file is missing, damaged, or does not fit the architecture that was given.
        """
        multi = bool(self.settings["multi"])
        if multi != (network is not None):
            need = "each part has its network: give network=<part_id>" if multi else "one network serves all"
            raise SettingError(f"{self.folder}, network={network!r}: {need}")
        path = self._fold(split).model(self._selection(selection), network)
        shape = tuple(self.settings["input_shape"])
        return networks.read(path, self.setting("architecture"), shape, self.task, self.setting("options"))

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
            The name is taken by other data or labels, or the images have another shape than in training.
        NotFoundError
            Images are missing (all are listed), or no split is done.
        TableError
            Some labels are missing or unknown.
        """
        newdata.check_name(name)
        done = self._done()
        dataset = newdata.make_dataset(self, caps, sessions)
        for fold in done:
            newdata.check(self, fold, dataset, name)
        tasks = [(fold, selection) for fold in done for selection in self.selections]
        for fold, selection in tqdm(tasks, f"predict {name}", disable=None, unit="model"):
            newdata.predict(self, fold, selection, dataset, name)
        engine.find_ranks().barrier("after predicting new data")
        if self.task.name == "reconstruction":
            return self.metrics(level="part", dataset=name)
        return self.predictions(dataset=name)

    def encode(self, caps: data.Caps, sessions: pd.DataFrame, selection: str | None = None) -> pd.DataFrame:
        """Give the codes of images, for clustering.

        Parameters
        ----------
        caps, sessions
            As for `predict`; labels are not looked at, and participants of the training are welcome.
        selection
            As for `metrics`.

        Returns
        -------
        DataFrame
            One row a split and part: ``split``, ``participant_id``, ``session_id``, [``cohort``,] ``part_id``,
            ``code0``, ``code1``, … Codes of different splits have different axes.

        Raises
        ------
        ModelError
            The networks are no autoencoders.
        NotFoundError
            Images are missing, or no split is done.
        """
        done = self._done()
        dataset = newdata.make_dataset(self, caps, sessions)
        return pd.concat([newdata.codes(self, fold, dataset, selection) for fold in done], ignore_index=True)

    def __repr__(self) -> str:
        return summary.line(self)

    def _repr_html_(self) -> str:
        return summary.page(self)

    def _done(self) -> list[Fold]:
        done = [fold for fold in self._folds() if self._is_done(fold)]
        if not done:
            raise NotFoundError(f"{self.folder}: no split is done yet; run the experiment first")
        return done

    def _tables(
        self, level: str, selection: str | None, dataset: str, content: str
    ) -> list[tuple[Fold, Path]]:
        chosen = self._selection(selection)
        wanted = scoring.table_level(level, self.task, self.parts)
        paths = [(fold, fold.table(chosen, dataset, wanted, content)) for fold in self._done()]
        found = [(fold, path) for fold, path in paths if path.is_file()]
        if not found:
            suffix = f"_{wanted}_level_{content}.tsv"
            there = {
                path.name.removesuffix(suffix) for path in self.folder.glob(f"fold-*/*/{chosen}/*{suffix}")
            }
            predicted = any(fold.table(chosen, dataset, wanted, "prediction").is_file() for fold, _ in paths)
            raise NotFoundError(
                f"{self.folder}: no {content} of {dataset!r} at level {wanted!r}"
                f"{', whose sessions had no labels when they were predicted' if predicted else ''}; there are: "
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
        there = [fold.index for fold in self._folds()]
        raise SettingError(
            f"{self.folder}: there is no split {index}; there are {there}, done are {self.splits}"
        )

    def _is_done(self, fold: Fold) -> bool:
        return scoring.last_table(fold, self.task, self.parts).is_file()

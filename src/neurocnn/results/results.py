"""Results: a result folder read back, and predictions for new data."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from torch import nn as torch_nn
from tqdm.auto import tqdm

from neurocnn import data, engine
from neurocnn.data.parts import LocatedParts
from neurocnn.errors import NotFoundError
from neurocnn.errors.arguments import check_path, check_text
from neurocnn.results import prediction, reading, summary
from neurocnn.results.folder import ResultFolder
from neurocnn.results.recorded import RecordedExperiment


class Results:
    """The result folder of an experiment.

    Parameters
    ----------
    folder
        The folder that `Experiment.run` was called with.
    **custom
        Settings that are recorded as custom (a builder, a transform, a task), as objects by name, such as
        ``architecture=build``. Tables are read without them.

    Raises
    ------
    NotFoundError
        If it is not a result folder.
    SettingError
        If another program wrote it, or a name in `custom` is not a setting.

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
        self.folder = check_path("folder", folder, where="Results")
        self._experiment = RecordedExperiment(self.folder, custom)
        self.settings = self._experiment.settings

    def setting(self, name: str) -> Any:
        """Return a setting of the experiment as an object, such as ``parts`` or ``task``.

        Raises
        ------
        SettingError
            If it is not a setting, or is custom and was not given.
        """
        name = check_text("name", name, expected="a setting", where="Results.setting")
        return self._experiment.setting(name)

    @property
    def task(self) -> engine.Task:
        """Task of the experiment."""
        return self._experiment.task

    @property
    def parts(self) -> data.Parts:
        """Parts of the experiment's images."""
        return self._experiment.parts

    @property
    def _folder(self) -> ResultFolder:
        return self._experiment.folder

    @property
    def splits(self) -> list[int]:
        """Indices of the splits that are done."""
        return [fold.index for fold in self._folder.done]

    @property
    def selections(self) -> list[str]:
        """Names of the selections, such as ``best_loss``."""
        return self._folder.selections

    def metrics(
        self, level: str = "image", selection: str | None = None, dataset: str = "validation"
    ) -> pd.DataFrame:
        """Return the metrics of every split, with their mean and standard deviation.

        Parameters
        ----------
        level
            ``image``, or ``part`` (or the parts' own name).
        selection
            Best model: ``best_loss``, ``best_balanced_accuracy``; the latter by default, if there is one.
        dataset
            ``train``, ``validation``, or a name that `predict` was called with.

        Returns
        -------
        DataFrame
            One row per split that is done, then ``mean`` and ``std`` (over n − 1; NaN for one split).

        Raises
        ------
        NotFoundError
            If there is no such table; the message lists the sets that have one.
        SettingError
            If the level or selection does not exist.
        """
        return reading.read_metrics(self._folder, level, selection, dataset)

    def predictions(
        self, level: str = "image", selection: str | None = None, dataset: str = "validation"
    ) -> pd.DataFrame:
        """Return the predictions of every split in one table, with ``split`` as its first column.

        Parameters
        ----------
        level, selection, dataset
            See `metrics`.

        Returns
        -------
        DataFrame
            One row per split and image (or part): ``participant_id``, ``session_id``, [``cohort``, ``part_id``,]
            ``true_label`` (may be missing), ``predicted_label`` and ``proba0``, …; a class is its index in `classes`.

        Raises
        ------
        NotFoundError, SettingError
            See `metrics`. An autoencoder has only metrics.
        """
        return reading.read_predictions(self._folder, level, selection, dataset)

    def history(self) -> pd.DataFrame:
        """Return the metrics of every evaluation during training, with ``split`` as the first column.

        Returns
        -------
        DataFrame
            ``split``, [``network``,] ``epoch``, ``iteration``, ``time`` in seconds, ``train_loss``, …, including
            splits that are still being trained.

        Raises
        ------
        NotFoundError
            If nothing has been trained yet.
        """
        return reading.read_history(self._folder)

    def summary(self) -> pd.DataFrame:
        """Return the table for a paper: one row per split, then mean ± standard deviation.

        Returns
        -------
        DataFrame
            Participants of both sets, epochs and minutes (of the longest network), and the validation metric of each
            level: balanced accuracy, mean absolute or squared error, otherwise that of the last selection.

        Raises
        ------
        NotFoundError
            If no split is done yet.
        """
        return summary.summary_table(self._folder)

    def part_map(self, selection: str | None = None) -> np.ndarray:
        """Return the parts' validation balanced accuracies, averaged over the splits, as a volume.

        Returns
        -------
        ndarray
            Shape (D, H, W); NaN outside the parts. `plotting.part_map` and `plotting.overview` draw it.

        Raises
        ------
        NotFoundError
            If these results have no such map, or no split is done.
        """
        accuracy = reading.read_part_accuracy(self._folder, selection)
        if not hasattr(self.parts, "place"):
            raise NotFoundError(f"{self.folder}: no map of accuracies; only parts with `place` have one")
        return data.paint(cast(LocatedParts, self.parts), tuple(self.settings["image_shape"]), accuracy)

    def load_model(
        self, split: int, selection: str | None = None, network: int | None = None
    ) -> torch_nn.Module:
        """Return a trained network, in evaluation mode, on the CPU.

        Parameters
        ----------
        split
            Index of the split.
        selection
            See `metrics`.
        network
            part_id of the network, if each part has its own.

        Raises
        ------
        SettingError
            If `network` is missing or not expected, or the architecture is custom and was not passed to `Results`.
        NotFoundError, CheckpointError, ModelError
            If the file is missing or damaged, or does not fit the architecture.
        """
        return self._experiment.load_network(split, selection, network)

    def predict(self, caps: data.Caps, sessions: pd.DataFrame, name: str) -> pd.DataFrame:
        """Evaluate new data with the models of every split, and write the tables into the folder.

        Parameters
        ----------
        caps
            Location of the images, preprocessed as in training.
        sessions
            Sessions. Without the column of labels there are predictions and no metrics.
        name
            Name of this data set in file names and in `metrics`.

        Returns
        -------
        DataFrame
            Image-level predictions of every split, see `predictions`.

        Raises
        ------
        LeakError
            If a participant was seen in training, by the selection, or by the transfer's source.
        SettingError
            If the name is used for other data or labels, or the images have another shape than in training.
        NotFoundError
            If images are missing (all are listed), or no split is done.
        TableError
            If some labels are missing or unknown.
        """
        name, folder, experiment = prediction.check_name(name), self._folder, self._experiment
        done, dataset = folder.check_done(), experiment.new_dataset(caps, sessions)
        images = caps.fingerprints(dataset.sessions)
        for fold in done:
            prediction.check_new_data(folder, fold, dataset, images, name)
        how = experiment.evaluation, self.settings["selection_threshold"]
        pairs = [(fold, selection) for fold in done for selection in self.selections]
        for fold, selection in tqdm(pairs, f"predict {name}", disable=None, unit="model"):
            load = partial(experiment.load_networks, fold, selection, dataset.part_ids)
            prediction.predict_fold(folder, fold, selection, name, dataset, images, load, *how)
        engine.find_ranks().barrier("after predicting new data")
        return self.metrics("part", dataset=name) if folder.reconstructs else self.predictions(dataset=name)

    def encode(self, caps: data.Caps, sessions: pd.DataFrame, selection: str | None = None) -> pd.DataFrame:
        """Return the codes of images, for clustering.

        Parameters
        ----------
        caps, sessions
            See `predict`. Labels are ignored, and training participants are allowed.
        selection
            See `metrics`.

        Returns
        -------
        DataFrame
            One row per split and part: ``split``, ``participant_id``, ``session_id``, [``cohort``,] ``part_id``,
            ``code0``, ``code1``, … The codes of different splits have different axes.

        Raises
        ------
        ModelError
            If the networks are not autoencoders.
        NotFoundError
            If images are missing, or no split is done.
        """
        experiment, chosen = self._experiment, self._folder.check_selection(selection)
        done, dataset = self._folder.check_done(), experiment.new_dataset(caps, sessions)
        load = partial(experiment.load_networks, selection=chosen, part_ids=dataset.part_ids)
        return prediction.encode_folds(done, dataset, load, experiment.evaluation)

    def __repr__(self) -> str:
        return summary.describe(self.folder, self._experiment.readable, self.settings)

    def _repr_html_(self) -> str:
        return summary.html_page(self.folder, self._experiment.readable, self.settings)

"""Tables, settings and networks of a result folder."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from torch import nn as torch_nn

from neurocnn import data, engine
from neurocnn.data.parts import LocatedParts
from neurocnn.errors import NotFoundError
from neurocnn.errors.arguments import check_path, check_text
from neurocnn.results import reading, summary
from neurocnn.results.folder import ResultFolder
from neurocnn.results.recorded import RecordedExperiment
from neurocnn.results.votes import Vote, read_vote


class ResultTables:
    """What a result folder contains; see `Results`, which adds answers and predictions for new data."""

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
    def _vote(self) -> Vote:
        return read_vote(self._folder, self.settings["selection_threshold"])

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
            One row per split that is done, then ``mean`` and ``std`` (over n − 1; NaN for one split); for a set that
            `predict` was called with, at image level, also ``ensemble``, with the number of splits, ``n_splits``.
            ``n_parts`` is the number of parts that vote; 0 if none exceeds the threshold.

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
            ``true_label`` (may be missing), ``predicted_label`` and ``proba0``, …; a class is its index in `classes`,
            and ``true_class`` and ``predicted_class`` are the names. At image level, a set that `predict` was called
            with also has one row per image whose ``split`` is ``ensemble``: the mean of ``n_splits`` splits.

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

    def summary(self, dataset: str = "validation") -> pd.DataFrame:
        """Return the table for a paper: one row per split, then the mean, an interval over people, and chance.

        Parameters
        ----------
        dataset
            See `metrics`.

        Returns
        -------
        DataFrame
            Participants, epochs and minutes (of the longest network), the main metric of the parts, and all metrics of
            the images by the last selection. Rows: the splits; ``mean ± std`` over them (n − 1); ``95 % interval`` of
            that mean over people, with their number: participants are drawn 1,000 times with replacement, within
            those of the same splits and class, each split is scored and the scores are averaged (percentiles, Efron &
            Tibshirani (1993), 13.3); ``chance``: for k classes 1/k (specificity 1 − 1/k, area under the curve 1/2),
            for values the error of the mean of the training labels. An autoencoder has neither interval nor chance.

        Raises
        ------
        NotFoundError
            If no split is done yet, or there are no metrics of the data set.

        Examples
        --------
        >>> results.summary().index.tolist()
        [0, 1, 'mean ± std', '95 % interval', 'chance']
        >>> results.summary().loc["chance", "image roc_auc"]
        '0.500'
        """
        return summary.summary_table(self._folder, check_text("dataset", dataset, where="Results.summary"))

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

    def __repr__(self) -> str:
        return summary.describe(self.folder, self._experiment.readable, self.settings)

    def _repr_html_(self) -> str:
        return summary.html_page(self.folder, self._experiment.readable, self.settings)

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
from neurocnn.results.ensembles import finish_vote
from neurocnn.results.folder import ResultFolder
from neurocnn.results.recorded import RecordedExperiment
from neurocnn.results.votes import Vote


class ResultTables:
    """Content of a result folder; see `Results`, which adds analyses and predictions for new data."""

    def __init__(self, folder: str | Path, **custom: Any) -> None:
        self.folder = check_path("folder", folder, where="Results")
        self._experiment = RecordedExperiment(self.folder, custom)
        self.settings = self._experiment.settings

    def setting(self, name: str) -> Any:
        """Return a setting of the experiment as an object, such as ``parts`` or ``task``.

        Raises
        ------
        SettingError
            If `name` is not a setting, or is custom and was not passed to `Results`.

        Examples
        --------
        >>> results.setting("trainer").epochs
        3
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
        """Result folder. Each access first completes a vote that was interrupted."""
        finish_vote(self._experiment.folder)
        return self._experiment.folder

    @property
    def _vote(self) -> Vote:
        return self._experiment.vote()

    @property
    def splits(self) -> list[int]:
        """Indices of the splits that are done.

        Examples
        --------
        >>> results.splits
        [0, 1]
        """
        return [fold.index for fold in self._folder.finished_folds]

    @property
    def selections(self) -> list[str]:
        """Names of the selections, such as ``best_loss``.

        Examples
        --------
        >>> results.selections
        ['best_loss', 'best_balanced_accuracy']
        """
        return self._folder.selections

    def metrics(
        self, level: str = "image", selection: str | None = None, dataset: str = "validation"
    ) -> pd.DataFrame:
        """Return the metrics of every split, with their mean and standard deviation.

        Parameters
        ----------
        level
            ``image``, or ``part`` (or the name of the parts, such as ``patch``).
        selection
            Selection of the best epoch: ``best_loss`` or ``best_balanced_accuracy``. With None, the task's last
            selection, which is ``best_balanced_accuracy`` for a classification.
        dataset
            ``train``, ``validation``, or a name that was passed to `predict`.

        Returns
        -------
        DataFrame
            One row per split that is done, then ``mean`` and ``std`` (with n − 1; NaN for one split). At image level,
            data passed to `predict` also have a row ``ensemble``, with the number of splits in ``n_splits``.
            ``n_parts`` is the number of parts that vote (0 if no part exceeds the threshold).

        Raises
        ------
        NotFoundError
            If the table does not exist. The message lists the data sets that have such a table.
        SettingError
            If the level or selection does not exist.

        Examples
        --------
        >>> results.metrics().index.tolist()
        [0, 1, 'mean', 'std']
        >>> "balanced_accuracy" in results.metrics(level="part", selection="best_loss", dataset="train")
        True
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
            ``true_label`` (may be missing), ``predicted_label`` and ``proba0``, …. For a classification, a label is the
            index of a class; ``true_class`` and ``predicted_class`` are the names of the classes. For data passed to
            `predict`, the table at image level also has one row per image with the split ``ensemble``, the mean of
            ``n_splits`` splits.

        Raises
        ------
        NotFoundError, SettingError
            See `metrics`. An autoencoder has only metrics.

        Examples
        --------
        >>> len(results.predictions()), len(results.predictions(level="part"))
        (14, 112)
        >>> bool(results.predictions()[["true_class", "predicted_class"]].isin(["AD", "CN"]).all(axis=None))
        True
        """
        return reading.read_predictions(self._folder, level, selection, dataset)

    def history(self) -> pd.DataFrame:
        """Return the metrics of every evaluation during training, with ``split`` as the first column.

        Returns
        -------
        DataFrame
            One row per evaluation: ``split``, [``network``,] ``epoch``, ``iteration``, ``time`` in seconds,
            ``train_loss``, … Splits that are still being trained are included.

        Raises
        ------
        NotFoundError
            If nothing has been trained yet.

        Examples
        --------
        >>> results.history().groupby("split")["epoch"].max().tolist()
        [2, 2]
        """
        return reading.read_history(self._folder)

    def summary(self, dataset: str = "validation") -> pd.DataFrame:
        """Return a table for publication: one row per split, then the mean, its confidence interval, and chance.

        Parameters
        ----------
        dataset
            See `metrics`.

        Returns
        -------
        DataFrame
            Columns: participants, epochs and minutes (of the network that took longest), the main metric of the parts,
            and all metrics of the images, for the last selection. Rows: the splits; ``mean ± std`` over the splits
            (with n − 1); ``95 % interval`` of that mean, with the number of participants: a percentile bootstrap (Efron
            & Tibshirani (1993), 13.3) draws participants 1,000 times with replacement, stratified by split and class,
            evaluates each split and averages the scores. If all draws have the same score, as for a perfect or a
            constant classifier, the limits of the splits (see `engine.confidence_intervals`) are averaged or, if the
            splits have different participants, combined by MOVER; ``chance``: for k classes 1/k (specificity 1 − 1/k,
            area under the ROC curve 1/2), for a regression the error of a constant prediction, the mean training
            label. An autoencoder has neither interval nor chance.

        Raises
        ------
        NotFoundError
            If no split is done yet, or the data set has no metrics.

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
            Volume (D, H, W), with NaN outside the parts. `plotting.part_map` and `plotting.overview` draw it.

        Raises
        ------
        NotFoundError
            If the results have no accuracies of parts, the parts have no positions, or no split is done.

        Examples
        --------
        >>> results.part_map().shape
        (18, 20, 18)
        """
        accuracy = reading.read_part_accuracy(self._folder, selection)
        if not hasattr(self.parts, "place"):
            raise NotFoundError(f"{self.folder}: no map of accuracies; expected parts with `place`")
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
            part_id of the network, if each part has its own network.

        Raises
        ------
        SettingError
            If `network` is missing or should be None, or the architecture is custom and was not passed to `Results`.
        NotFoundError, CheckpointError, ModelError
            If the file is missing or damaged, or does not fit the architecture.

        Examples
        --------
        >>> model = results.load_model(split=0, selection="best_loss")
        >>> type(model).__name__, model.training
        ('CNN', False)
        """
        return self._experiment.load_network(split, selection, network)

    def __repr__(self) -> str:
        return summary.console_line(self.folder, self._experiment.readable, self.settings)

    def _repr_html_(self) -> str:
        return summary.html_page(self.folder, self._experiment.readable, self.settings)

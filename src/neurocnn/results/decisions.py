"""Votes, probabilities and thresholds of a result folder, from its tables."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from neurocnn.errors.arguments import argument_error, check_integer, check_text
from neurocnn.results import calibration
from neurocnn.results.ensembles import apply_vote
from neurocnn.results.tables import ResultTables
from neurocnn.results.votes import check_threshold, check_vote_weights, write_vote


class Decisions(ResultTables):
    """Votes, calibration and decision thresholds; see `Results`.

    In the examples, `results` is a classification of patches in two splits, with a predicted set ``test``.
    """

    def vote(
        self,
        selection_threshold: float | None = None,
        weights: "Literal['uniform'] | pd.Series[float] | Mapping[int, float] | None" = None,
    ) -> pd.DataFrame:
        """Rebuild the image-level tables of all splits and data sets from the part-level predictions by a new vote.

        No network is trained or evaluated. The vote is recorded in ``vote.json`` and used for later predictions and
        splits. If the weights or the threshold change, recorded temperatures are fitted again (see `calibrate`) and
        operating points are removed, because they belong to the probabilities of the previous vote. If the process is
        killed, the next access to the results completes the vote.

        Parameters
        ----------
        selection_threshold
            Lower limit (exclusive, 0 to 1) of the validation balanced accuracy of the parts that vote; None for all
            parts. If no part of a split exceeds the limit, the split has no image-level predictions; in its metrics,
            ``n_parts`` is 0 and all other values are missing.
        weights
            None for the parts' validation balanced accuracies, ``"uniform"`` for equal weights, or weights by part_id
            (a part without a weight does not vote). The weights are scaled to sum to 1.

        Returns
        -------
        DataFrame
            Image-level metrics of the validation sets, see `metrics`.

        Raises
        ------
        SettingError
            If the threshold or the weights are invalid, or the experiment is not a classification of parts.
        NotFoundError
            If no split is done yet.

        Examples
        --------
        >>> results.vote(weights="uniform")["n_parts"].tolist()
        [8.0, 8.0, 8.0, 0.0]
        >>> results.vote(selection_threshold=1)["balanced_accuracy"].tolist()  # no part exceeds 1
        [nan, nan, nan, nan]
        """
        folder, threshold = self._folder, check_threshold(selection_threshold)
        folder.check_done()
        if folder.reconstructs:
            raise argument_error(
                "task", folder.task.name, "a task with predictions", where=f"{folder.root}: vote"
            )
        parts: list[int] = []
        if folder.has_part_accuracy:
            parts = sorted(self.predictions("part")["part_id"].unique().tolist())
        elif threshold is not None or weights is not None:
            name, value = ("weights", weights) if threshold is None else ("selection_threshold", threshold)
            expected = "None: a vote needs a classification with several parts per image"
            raise argument_error(name, value, expected, where=f"{folder.root}: vote")
        chosen = check_vote_weights(weights, parts)
        with folder.hold() as lock:
            before = self._vote
            vote = dataclasses.replace(before, selection_threshold=threshold, weights=chosen)
            if (before.selection_threshold, before.weights) != (threshold, chosen):
                vote = calibration.adapt_to_weights(folder, vote)
            apply_vote(folder, vote, lock)
        return self.metrics()

    def operating_point(
        self,
        rule: str | Mapping[str, float] = "youden",
        dataset: str = "test",
        *,
        selection: str | None = None,
    ) -> pd.DataFrame:
        """Choose decision thresholds on the validation sets, and return the metrics of other data at these thresholds.

        The second class is predicted if its uncalibrated probability is at least the threshold of the split. The
        thresholds are recorded in ``vote.json``. The ensemble uses the mean of the splits' thresholds.

        Parameters
        ----------
        rule
            ``"youden"`` (largest sensitivity + specificity − 1; Youden, Cancer 3 (1950)), ``{"sensitivity": 0.9}``
            (reached with the highest specificity) or ``{"specificity": 0.9}``.
        dataset
            Name of a data set that was passed to `predict`.
        selection
            See `metrics`.

        Returns
        -------
        DataFrame
            One row per split, and the row ``ensemble``. Columns: ``threshold``, and the metrics of `dataset` with 95 %
            limits.

        Raises
        ------
        SettingError
            If the rule is unknown, the task does not have two classes, labels are missing, or `dataset` is
            ``validation`` or ``train``: the threshold must be evaluated on other data than those on which it was
            chosen.
        NotFoundError
            If there are no predictions.

        Examples
        --------
        >>> results.operating_point({"sensitivity": 0.9})[["threshold", "sensitivity"]].index.tolist()
        [0, 1, 'ensemble']
        """
        folder = self._folder
        checked, chosen = calibration.check_rule(rule), folder.check_selection(selection)
        check_text("dataset", dataset, where="operating_point")
        with folder.hold():
            vote, table = calibration.operating_point(folder, self._vote, checked, dataset, chosen)
            write_vote(folder, vote)
        return table

    def calibrate(self) -> pd.DataFrame:
        """Fit the temperature T of calibrated probabilities softmax(logits / T) to the validation set of each split.

        The temperatures are recorded in ``vote.json``. Existing tables do not change; later calls of `predict` and
        `vote` apply the temperatures to image-level probabilities. Predicted classes do not change (Guo et al., ICML
        2017).

        Returns
        -------
        DataFrame
            One row per selection and split (index). Columns: ``temperature`` (0.05 to 20); ``loss_before`` and
            ``loss_after``, the mean negative log-likelihood of the validation images before and after calibration.

        Raises
        ------
        SettingError
            If the task has no classes.
        NotFoundError
            If no split is done yet.

        Examples
        --------
        >>> table = results.calibrate()
        >>> bool((table["loss_after"] <= table["loss_before"]).all())
        True
        """
        folder = self._folder
        folder.check_done()
        with folder.hold():
            vote, table = calibration.calibrate(folder, self._vote)
            write_vote(folder, vote)
        return table

    def calibration(
        self, dataset: str = "test", *, selection: str | None = None, n_bins: int = 10
    ) -> pd.DataFrame:
        """Return the calibration of the probabilities: Brier score and expected calibration error.

        Parameters
        ----------
        dataset, selection
            See `metrics`.
        n_bins
            Number of bins of equal width.

        Returns
        -------
        DataFrame
            One row per split and, for data passed to `predict`, ``ensemble``. Columns: ``n``, the number of images;
            ``brier`` (0 is best), for two classes the mean squared error of the second class's probability, for more
            classes the sum of these errors over the classes (Brier, Monthly Weather Review 78 (1950)); ``ece``, the
            expected calibration error (Naeini et al., AAAI 2015): the absolute difference between the observed share
            and the mean probability of a bin, averaged over the images, for the second class, or for the predicted
            class if there are more than two classes.

        Raises
        ------
        SettingError
            If the task has no classes, or labels are missing.
        NotFoundError
            If there are no predictions.

        Examples
        --------
        >>> results.calibration("test").columns.tolist()
        ['n', 'brier', 'ece']
        """
        tables, n_classes, n_bins = self._probabilities(dataset, selection, n_bins, "calibration")
        rows = {
            split: calibration.calibration_scores(table, n_classes, n_bins) for split, table in tables.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")

    def reliability(
        self, dataset: str = "test", *, selection: str | None = None, n_bins: int = 10
    ) -> pd.DataFrame:
        """Return the reliability diagram as a table.

        Parameters
        ----------
        dataset, selection, n_bins
            See `calibration`.

        Returns
        -------
        DataFrame
            One row per split (and ``ensemble``) and non-empty bin: ``split``, ``predicted`` (mean probability),
            ``observed`` (share of the images that belong to the class) and ``n`` (number of images).

        Raises
        ------
        SettingError, NotFoundError
            See `calibration`.

        Examples
        --------
        >>> results.reliability("test", n_bins=5).columns.tolist()
        ['split', 'predicted', 'observed', 'n']
        """
        tables, n_classes, n_bins = self._probabilities(dataset, selection, n_bins, "reliability")
        bins = [
            calibration.reliability_table(table, n_classes, n_bins).assign(split=split)
            for split, table in tables.items()
        ]
        return pd.concat(bins, ignore_index=True)[["split", "predicted", "observed", "n"]]

    def _probabilities(
        self, dataset: str, selection: str | None, n_bins: int, where: str
    ) -> tuple[dict[Any, pd.DataFrame], int, int]:
        folder = self._folder
        n_bins = check_integer("n_bins", n_bins, minimum=1, where=where)
        check_text("dataset", dataset, where=where)
        tables = calibration.labelled_tables(folder, folder.check_selection(selection), dataset, where)
        return calibration.add_ensemble(folder, tables, dataset), len(folder.task.classes or ()), n_bins

"""Analyses of the predictions in a result folder: metrics of each group, and predictions from confounds."""

from collections.abc import Sequence

import pandas as pd

from neurocnn.errors.arguments import check_text
from neurocnn.results import groups
from neurocnn.results.decisions import Decisions


class Analyses(Decisions):
    """Analyses of predictions by participant; see `Results`.

    In the examples, `results` is a classification of patches in two splits, with a predicted set ``test``.
    """

    def by_group(
        self,
        by: str,
        dataset: str = "test",
        *,
        selection: str | None = None,
        bins: int | Sequence[float] | None = None,
    ) -> pd.DataFrame:
        """Return the metrics of each group of participants, such as a sex, age band, site or scanner.

        Parameters
        ----------
        by
            Column of the sessions (``fold-<i>/<dataset>.tsv``).
        dataset, selection
            See `metrics`. Each image has one prediction: that of the ensemble or, for ``validation``, that of the split
            whose validation set contains the image.
        bins
            For a numeric column: number of bands with equally many images, or the limits of the bands. With None, a
            numeric column of more than 5 different values is divided into 3 bands.

        Returns
        -------
        DataFrame
            One row per group (index `by`; ``missing`` for missing values): ``participants``, ``images``, and each
            metric with the limits of its 95 % confidence interval, ``…_low`` and ``…_high``, see
            `metrics`. The sensitivity of a group without patients (class 1) and the specificity of a group without
            controls (class 0) are missing.

        Raises
        ------
        TableError
            If the sessions have no such column.
        SettingError
            If labels are missing, or a value is outside the bins.
        NotFoundError
            If the data set has no predictions, or the folder lacks its sessions, which earlier versions did not write
            (predict the data set again).

        Examples
        --------
        >>> results.by_group("sex", dataset="validation")[["participants", "images"]].sum().tolist()
        [14, 14]
        """
        by = check_text("by", by, expected="a column name", where="by_group")
        check_text("dataset", dataset, where="by_group")
        return groups.group_table(self._folder, by, dataset, selection, bins)

    def confounds(
        self,
        on: Sequence[str] = ("age", "sex"),
        dataset: str = "validation",
        *,
        selection: str | None = None,
    ) -> pd.DataFrame:
        """Return the scores of the network, and those of a linear model that predicts from columns of the sessions.

        A logistic regression (for a regression task, a linear one) is fitted to the training sessions of each split and
        evaluated with the network's metrics. Numbers are standardised, and strings are one-hot encoded (scikit-learn).

        Parameters
        ----------
        on
            Columns of the sessions, without the label.
        dataset, selection
            See `metrics`.

        Returns
        -------
        DataFrame
            One row per metric. Columns: mean over the splits and standard deviation (with n − 1) of the network,
            ``network`` and ``network_std``, and of the linear model, ``confounds`` and ``confounds_std``;
            ``difference`` (network − confounds).

        Raises
        ------
        SettingError
            If `on` contains the label.
        TableError
            If a column or value is missing.
        NotFoundError
            If the data set has no metrics, or the folder lacks its sessions.

        Examples
        --------
        >>> results.confounds(["age", "sex"]).columns.tolist()
        ['network', 'network_std', 'confounds', 'confounds_std', 'difference']
        """
        check_text("dataset", dataset, where="confounds")
        return groups.confound_table(self._folder, on, dataset, selection)

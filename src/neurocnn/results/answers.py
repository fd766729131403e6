"""Answers that follow from the tables of a result folder, without its images."""

from collections.abc import Sequence

import pandas as pd

from neurocnn.errors.arguments import check_text
from neurocnn.results import groups
from neurocnn.results.decisions import Decisions


class Answers(Decisions):
    """Questions about participants; see `Results`.

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
        """Return the metrics of groups of participants: by sex, age bands, site, scanner.

        Parameters
        ----------
        by
            Column of the sessions (``fold-<i>/<dataset>.tsv``).
        dataset, selection
            See `metrics`. Each participant has one answer: that of the ensemble, for the validation sets that of the
            split that held the participant out.
        bins
            For numbers: number of bands with equally many images, or the limits of the bands. With None, numbers of
            more than 5 values have 3 bands.

        Returns
        -------
        DataFrame
            One row per group (index `by`; ``missing`` for missing values): ``participants``, ``images``, and each
            metric with its 95 % limits, ``…_low`` and ``…_high``, see `engine.confidence_intervals`.

        Raises
        ------
        TableError
            If there is no such column.
        SettingError
            If labels are missing, or the bins do not contain all values.
        NotFoundError
            If the set has no predictions, or an earlier version did not keep its sessions (predict it again).

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
        """Return what these columns predict without any image, next to the network's score.

        A logistic regression (for a regression, a linear one) is fitted to the training sessions of each split and
        scored as the network. Numbers are standardised, texts one-hot encoded (scikit-learn).

        Parameters
        ----------
        on
            Columns of the sessions.
        dataset, selection
            See `metrics`.

        Returns
        -------
        DataFrame
            One row per metric: means over the splits and standard deviations (over n − 1), ``network``,
            ``network_std``, ``confounds``, ``confounds_std``, and ``difference`` (network − confounds).

        Raises
        ------
        TableError
            If a column or value is missing.
        NotFoundError
            If the set has no metrics, or its sessions were not kept.

        Examples
        --------
        >>> results.confounds(["age", "sex"]).columns.tolist()
        ['network', 'network_std', 'confounds', 'confounds_std', 'difference']
        """
        check_text("dataset", dataset, where="confounds")
        return groups.confound_table(self._folder, on, dataset, selection)

"""Answers that follow from the tables of a result folder, without its images."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import pandas as pd

from neurocnn.errors.arguments import argument_error
from neurocnn.results.ensembles import revote
from neurocnn.results.tables import ResultTables
from neurocnn.results.votes import check_threshold, check_vote_weights, write_vote


class Answers(ResultTables):
    """Questions to a finished experiment; see `Results`.

    In the examples, `results` is a classification of patches in two splits, with a predicted set ``test``.
    """

    def vote(
        self,
        selection_threshold: float | None = None,
        weights: "Literal['uniform'] | pd.Series[float] | Mapping[int, float] | None" = None,
    ) -> pd.DataFrame:
        """Vote again: rebuild the image-level tables of all splits and sets from the part-level predictions.

        Nothing is trained or predicted. The vote is recorded in ``vote.json``, and later predictions and splits use it.

        Parameters
        ----------
        selection_threshold
            Limit that the validation balanced accuracy of a part must exceed, 0 to 1; None: all parts vote. A split in
            which no part exceeds it has no image-level predictions, and a row of metrics with ``n_parts`` 0.
        weights
            None for the parts' validation balanced accuracies, ``"uniform"``, or weights by part_id (a missing part
            does not vote). They are scaled to sum to 1.

        Returns
        -------
        DataFrame
            Image-level metrics of the validation sets, see `metrics`.

        Raises
        ------
        SettingError
            If the threshold or the weights are of another kind, or the images have no parts whose classes could vote.
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
            expected = "None, because only several parts of a classification are weighted"
            raise argument_error(name, value, expected, where=f"{folder.root}: vote")
        chosen = check_vote_weights(weights, parts)
        before = self._vote
        vote = dataclasses.replace(before, selection_threshold=threshold, weights=chosen)
        if (before.selection_threshold, before.weights) != (threshold, chosen):
            # They were chosen for other probabilities.
            vote = dataclasses.replace(vote, operating_points={})
        with folder.hold() as lock:
            revote(folder, vote, lock)
            write_vote(folder, vote)
        return self.metrics()

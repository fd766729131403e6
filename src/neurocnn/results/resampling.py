"""Bootstrap over participants: metrics of participants drawn with replacement."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neurocnn import engine
from neurocnn.engine.metrics import probability_columns
from neurocnn.errors import SettingError
from neurocnn.results.checked_tables import drop_names
from neurocnn.storage.identity import IMAGE, PARTICIPANT, key_columns

Array = np.ndarray[Any, Any]
#: Scores of each draw, by metric. The first score belongs to the original data.
Scores = dict[str, Array]


@dataclass(frozen=True, eq=False)
class Draws:
    """Participants drawn with replacement, the same participants for all tables.

    Parameters
    ----------
    counts
        Number of times that each participant is drawn; shape (1 + n, participants). The first row is all 1.
    people
        For each table, the index of each row's participant.
    """

    counts: Array
    people: Sequence[Array]

    @property
    def n_people(self) -> int:
        """Number of participants."""
        return int(self.counts.shape[1])

    @property
    def shares_people(self) -> bool:
        """Whether a participant is in several tables."""
        return sum(len(np.unique(people)) for people in self.people) > self.n_people

    def scores(
        self, task: engine.Task, tables: Sequence[pd.DataFrame], observed: Sequence[Mapping[str, float]]
    ) -> Scores:
        """Return the score of each draw, averaged over the tables. `observed` are the scores of the original tables."""
        found = [
            scores_of_draws(task, table, self.counts[:, people], values)
            for table, people, values in zip(tables, self.people, observed, strict=True)
        ]
        common = [name for name in found[0] if all(name in scores for scores in found)]
        return {name: np.mean([scores[name] for scores in found], axis=0) for name in common}


def draw_people(tables: Sequence[pd.DataFrame], *, by_class: bool, n: int = 1000, seed: int = 0) -> Draws:
    """Draw participants with replacement, stratified by the tables that contain them and by class.

    Parameters
    ----------
    tables
        Tables of predictions with ``true_label``.
    by_class
        Whether to stratify by ``true_label``, for classes.
    n, seed
        Number of draws, and seed of the random numbers.

    Examples
    --------
    >>> table = pd.DataFrame({"participant_id": ["sub-1", "sub-2", "sub-3"], "true_label": [0, 0, 1]})
    >>> draws = draw_people([table], by_class=True, n=2)
    >>> draws.counts.shape, draws.counts[:, 2].tolist(), draws.counts[:, :2].sum(axis=1).tolist()
    ((3, 3), [1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    """
    rows = pd.concat([table.assign(table=index) for index, table in enumerate(tables)], ignore_index=True)
    person = rows.groupby(key_columns(rows, PARTICIPANT), sort=False, dropna=False).ngroup().to_numpy()
    label = rows["true_label"] if by_class else rows["table"]
    kinds = (
        (rows["table"].astype(str) + "/" + label.astype(str))
        .groupby(person)
        .agg(lambda kind: "|".join(sorted(set(kind))))
    )
    generator = np.random.default_rng(seed)
    counts = np.ones((1 + n, len(kinds)))
    for kind in sorted(set(kinds)):
        own = np.flatnonzero(kinds == kind)
        counts[1:, own] = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=n)
    people = np.split(person, np.cumsum([len(table) for table in tables])[:-1])
    return Draws(counts, people)


def limits(draws: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile limits of the draws' scores, without NaN and without the score of the original data."""
    defined = draws[1:][~np.isnan(draws[1:])]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def scores_of_draws(
    task: engine.Task, table: pd.DataFrame, weights: Array, observed: Mapping[str, float]
) -> Scores:
    """Return the metrics of a table in each draw. Draw i counts row j `weights[i, j]` times; draw 0 counts each row
    once.

    Metrics of this library are computed for all draws at once, other metrics by the task's function for each draw.
    Other metrics are omitted if the code of a custom task is missing.
    """
    table = drop_names(table)
    numbers = table.drop(columns=key_columns(table, IMAGE)).astype(float)
    if "loss" in observed and "loss" not in numbers:
        loss = _default_loss(numbers)
        # The loss of a custom task, or with class weights, cannot be computed from the predictions: it has no interval.
        if np.isclose(loss.mean(), observed["loss"], rtol=1e-3):
            numbers = numbers.assign(loss=loss)
    known = (
        class_scores(numbers, len(task.classes), weights) if task.classes else value_scores(numbers, weights)
    )
    # A user's metric may have the name of a built-in metric. Both are the same metric only if their values are equal.
    found = {
        name: known[name]
        for name, value in observed.items()
        if name in known and np.isclose(known[name][0], value, atol=1e-9, equal_nan=True)
    }
    others = [name for name in observed if name not in found]
    if others:
        # Custom metrics also receive the ids, as everywhere else.
        complete, rows = table.assign(**numbers), np.arange(len(table))
        try:
            others = [name for name in others if name in task.metrics(complete)]
        except SettingError:
            return found
        if not others:
            return found
        drawn = [task.metrics(complete.iloc[np.repeat(rows, row.astype(int))]) for row in weights]
        found |= {name: np.array([row.get(name, math.nan) for row in drawn]) for name in others}
    return found


def _default_loss(numbers: pd.DataFrame) -> Array:
    """Return the loss of each image, computed from its prediction: cross-entropy for a classification, squared error
    for a regression.
    """
    true, columns = numbers["true_label"].to_numpy(dtype=float), probability_columns(numbers)
    if columns:
        own = numbers[columns].to_numpy(dtype=float)[np.arange(len(true)), true.astype(int)]
        loss: Array = -np.log(np.maximum(own, 1e-300))
    else:
        loss = np.square(numbers["predicted_label"].to_numpy(dtype=float) - true)
    return loss


def class_scores(table: pd.DataFrame, n_classes: int, weights: Array) -> Scores:
    """Return the metrics of `classification_metrics` for each row of `weights`.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0, 0, 1], "predicted_label": [0, 1, 1]})
    >>> class_scores(table, 2, np.array([[1, 1, 1], [2, 0, 1]]))["accuracy"].round(2).tolist()
    [0.67, 1.0]
    """
    true, predicted = (table[name].to_numpy(dtype=int) for name in ("true_label", "predicted_label"))
    cells = np.zeros((len(true), n_classes**2))
    cells[np.arange(len(true)), true * n_classes + predicted] = 1
    confusion = (weights @ cells).reshape(len(weights), n_classes, n_classes)
    hits, n_true, n_predicted = np.einsum("nkk->nk", confusion), confusion.sum(2), confusion.sum(1)
    total = confusion.sum((1, 2))
    others = total[:, None] - n_true - n_predicted + hits
    positive = slice(1, 2) if n_classes == 2 else slice(None)
    recalls = _ratio(hits, n_true)
    scores = {
        "accuracy": hits.sum(1) / total,
        "balanced_accuracy": recalls.sum(1) / (n_true > 0).sum(1),
        "sensitivity": recalls[:, positive].mean(1),
        "specificity": _ratio(others, total[:, None] - n_true)[:, positive].mean(1),
        "ppv": _ratio(hits, n_predicted)[:, positive].mean(1),
        "npv": _ratio(others, total[:, None] - n_predicted)[:, positive].mean(1),
    }
    columns = probability_columns(table)
    if len(columns) == n_classes:
        classes = range(n_classes)[positive]
        areas = [_areas(table[columns[k]].to_numpy(dtype=float), true == k, weights) for k in classes]
        scores["roc_auc"] = np.mean(areas, axis=0)
    return scores | _mean_loss(table, weights)


def value_scores(table: pd.DataFrame, weights: Array) -> Scores:
    """Return the metrics of `regression_metrics` for each row of `weights`."""
    if not {"true_label", "predicted_label"} <= set(table):
        return {}
    true, predicted = (table[name].to_numpy(dtype=float) for name in ("true_label", "predicted_label"))
    error, true = predicted - true, true - true.mean()
    total = weights.sum(1)
    squares = weights @ error**2
    spread = weights @ true**2 - (weights @ true) ** 2 / total
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {
            "mae": weights @ np.abs(error) / total,
            "rmse": np.sqrt(squares / total),
            "r2": np.where(spread > 0, 1 - squares / spread, np.where(total < 2, math.nan, squares == 0)),
        }
    return scores | _mean_loss(table, weights)


def _mean_loss(table: pd.DataFrame, weights: Array) -> Scores:
    return {"loss": weights @ table["loss"].to_numpy(dtype=float) / weights.sum(1)} if "loss" in table else {}


def _ratio(numerator: Array, denominator: Array) -> Array:
    shares: Array = np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)
    return shares


def _areas(scores: Array, positive: Array, weights: Array) -> Array:
    """Return the area under the ROC curve in each draw, where a tie counts as half a correctly ordered pair."""
    wins = np.subtract.outer(scores[positive], scores[~positive])
    wins = (wins > 0) + 0.5 * (wins == 0)
    first, second = weights[:, positive], weights[:, ~positive]
    pairs = first.sum(1) * second.sum(1)
    area: Array = np.divide(
        ((first @ wins) * second).sum(1), pairs, out=np.full(len(weights), math.nan), where=pairs > 0
    )
    return area

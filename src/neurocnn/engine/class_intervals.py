"""Confidence intervals of classification metrics, computed with formulas; see `confidence_intervals`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from neurocnn.engine.metrics import roc_area

Array = np.ndarray[Any, Any]
#: Value, lower limit, upper limit.
Interval = tuple[float, float, float]


def class_intervals(table: pd.DataFrame, people: Array, n_classes: int, z: float) -> dict[str, Interval]:
    """Return the value and the limits of each metric for which a formula exists.

    Parameters
    ----------
    table
        Columns ``true_label``, ``predicted_label``, and ``proba1`` for the area under the ROC curve.
    people
        Index of the participant of each row.
    n_classes
        Number of classes.
    z
        Quantile of the normal distribution, 1.96 for a coverage of 0.95.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0, 0, 1, 1], "predicted_label": [0, 1, 1, 1]})
    >>> [round(limit, 3) for limit in class_intervals(table, np.arange(4), 2, 1.96)["balanced_accuracy"]]
    [0.75, 0.364, 0.953]
    """
    if not {"true_label", "predicted_label"} <= set(table):
        return {}
    true, predicted = (table[name].to_numpy(dtype=float) for name in ("true_label", "predicted_label"))

    def proportion(hit: Array, rows: Array) -> Interval:
        return _proportion_interval(hit[rows], people[rows], z)

    right = true == predicted
    recalls = [proportion(right, true == k) for k in range(n_classes)]
    precisions = [proportion(right, predicted == k) for k in range(n_classes)]
    present = [recall for k, recall in enumerate(recalls) if (true == k).any()]
    found = {"accuracy": _proportion_interval(right, people, z), "balanced_accuracy": _mean_interval(present)}
    if n_classes > 2:
        # Specificity and NPV are omitted: their values for the classes share samples, so they are not independent.
        return found | {"sensitivity": _mean_interval(recalls), "ppv": _mean_interval(precisions)}
    found |= {
        "sensitivity": recalls[1],
        "specificity": recalls[0],
        "ppv": precisions[1],
        "npv": precisions[0],
    }
    if "proba1" in table and len(present) == 2:
        found["roc_auc"] = _area_interval(table["proba1"].to_numpy(dtype=float), true == 1, people, z)
    return found


def _proportion_interval(hit: Array, people: Array, z: float) -> Interval:
    """Return the share of True in `hit` and its Wilson limits: 0, with the limits 0 and 1, if there are no rows."""
    if len(hit) == 0:
        return 0.0, 0.0, 1.0
    value = float(hit.mean())
    return value, *wilson_limits(value, effective_size(hit, people), z)


def wilson_limits(share: float, size: float, z: float) -> tuple[float, float]:
    """Return Wilson's limits of a proportion in `size` independent samples.

    Examples
    --------
    >>> [round(limit, 4) for limit in wilson_limits(1.0, 10, 1.96)]
    [0.7225, 1.0]
    """
    factor = 1 / (1 + z**2 / size)
    centre = factor * (share + z**2 / (2 * size))
    half = factor * z * math.sqrt(share * (1 - share) / size + z**2 / (4 * size**2))
    # At 0 and 1, rounding would leave a limit next to the exact one.
    lower, upper = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if share == 0 else lower), (1.0 if share == 1 else upper)


def effective_size(hit: Array, people: Array) -> float:
    """Return the effective sample size of clustered rows: the number of rows divided by the design effect.

    The result is at most the number of rows, and at least the effective size that rows would have if they were equal
    within each person.

    Examples
    --------
    >>> effective_size(np.array([1, 1, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 2]))
    3.0
    """
    n = len(hit)
    rows = np.bincount(people)
    rows, hits = rows[rows > 0], np.bincount(people, weights=hit)[rows > 0]
    least, share = n**2 / float(np.square(rows).sum()), float(np.mean(hit))
    if len(rows) == n or share in (0.0, 1.0):
        return least
    m = len(rows)
    variance = m / (m - 1) * float(np.square(hits - share * rows).sum()) / n**2 if m > 1 else math.inf
    return min(float(n), max(least, share * (1 - share) / variance if variance > 0 else n))


def _mean_interval(parts: Sequence[Interval]) -> Interval:
    """Return the mean of independent metrics, with limits by MOVER (method of variance estimates recovery)."""
    values, lower, upper = np.array(parts).T
    value = float(values.mean())
    below = math.sqrt(float(np.square(values - lower).sum())) / len(parts)
    above = math.sqrt(float(np.square(upper - values).sum())) / len(parts)
    return value, max(0.0, value - below), min(1.0, value + above)


def _area_interval(scores: Array, positive: Array, people: Array, z: float) -> Interval:
    """Return the area under the ROC curve, with limits that are symmetric on the logit scale."""
    area = roc_area(positive, scores)
    if math.isnan(area):
        return area, area, area
    variance = 0.0 if area in (0.0, 1.0) else _area_variance(scores, positive, people, area)
    if variance == 0:  # perfectly separated classes, or equal scores
        sizes = [effective_size(np.ones(int(rows.sum())), people[rows]) for rows in (positive, ~positive)]
        return area, *wilson_limits(area, min(sizes), z)
    deviation = math.sqrt(variance) / (area * (1 - area))
    centre = math.log(area / (1 - area))
    lower, upper = (1 / (1 + math.exp(-(centre + sign * z * deviation))) for sign in (-1, 1))
    return area, lower, upper


def _area_variance(scores: Array, positive: Array, people: Array, area: float) -> float:
    first, second = placements(scores, positive)
    return placement_variance(first - area, second - area, positive, people)


def placements(scores: Array, positive: Array) -> tuple[Array, Array]:
    """Return the share of negatives below each positive, and of positives above each negative. Ties count half.

    Examples
    --------
    >>> placements(np.array([0.2, 0.9, 0.5]), np.array([False, True, True]))
    (array([1., 1.]), array([1.]))
    """
    wins = scores[positive][:, None] - scores[~positive][None, :]
    shares = (wins > 0) + 0.5 * (wins == 0)
    return shares.mean(1), shares.mean(0)


def placement_variance(of_positives: Array, of_negatives: Array, positive: Array, people: Array) -> float:
    """Return the variance of an area under the ROC curve, by DeLong, for clustered data (Obuchowski).

    Parameters
    ----------
    of_positives, of_negatives
        Placements of the positives and of the negatives, minus the area; for the difference of two areas, the
        differences of the placements, minus the difference of the areas.
    positive, people
        Whether each row is positive, and the index of its participant.
    """
    sums = []
    for side, rows in ((of_positives, positive), (of_negatives, ~positive)):
        own = np.bincount(people[rows], weights=side, minlength=people.max() + 1) / len(side)
        m = len(np.unique(people[rows]))
        sums.append((own, m / (m - 1) if m > 1 else 1.0))
    (one, few_first), (other, few_second) = sums
    variance = (
        few_first * np.square(one).sum() + few_second * np.square(other).sum() + 2 * (one * other).sum()
    )
    return max(0.0, float(variance))

"""Confidence intervals of metrics, over participants."""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np
import pandas as pd

from neurocnn.engine.class_intervals import class_intervals
from neurocnn.engine.metrics import regression_metrics
from neurocnn.engine.task import Task
from neurocnn.errors.arguments import check_callable, check_flag, check_integer, check_number, check_table
from neurocnn.storage.identity import PART, PARTICIPANT, check_columns, key_columns


def confidence_intervals(
    table: pd.DataFrame,
    metrics: Task | Callable[[pd.DataFrame], Mapping[str, float]],
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    *,
    resample_own: bool = True,
) -> pd.DataFrame:
    """Return confidence intervals of metrics.

    The rows of a participant (sessions, parts) are treated as a cluster, not as independent samples.

    - Proportions (accuracy, sensitivity, specificity, PPV, NPV): Wilson's limits, with the number of rows divided by
      the design effect of the clusters (Wilson, JASA 22 (1927); Kish, "Survey Sampling" (1965)).
    - Means of proportions, such as the balanced accuracy: the limits of the proportions, combined by MOVER (Zou &
      Donner, Statistics in Medicine 27 (2008)).
    - Area under the ROC curve: DeLong's variance for clustered data (Obuchowski, Biometrics 53 (1997)), on the logit
      scale; Wilson's limits for the smaller class if this variance is 0.
    - Other metrics: percentile bootstrap over participants within each class (Efron & Tibshirani, "An Introduction to
      the Bootstrap" (1993), 13.3).

    Parameters
    ----------
    table
        Predictions, with ``participant_id`` (and ``cohort`` if there are several).
    metrics
        A task, or a function ``metrics(table)`` that returns a dict of numbers. The function receives the columns that
        do not identify a row, as float64.
    n
        Number of bootstrap samples.
    seed
        Seed of the bootstrap samples.
    level
        Coverage of the intervals, between 0 and 1.
    resample_own
        Whether to compute limits of custom metrics by bootstrap, which calls the function `n` times. With False, these
        limits are NaN.

    Returns
    -------
    DataFrame
        One row per metric (index ``metric``), columns ``value``, ``lower``, ``upper``. Bootstrap samples in which a
        metric is not defined are omitted.

    Raises
    ------
    SettingError
        If an argument cannot be used.
    TableError
        If the table has no ``participant_id``, no rows, or no true labels.

    Examples
    --------
    >>> from neurocnn.engine import classification
    >>> table = pd.DataFrame({
    ...     "participant_id": [f"sub-{i}" for i in range(10)],
    ...     "true_label": [0, 1] * 5, "predicted_label": [0, 1] * 4 + [1, 1],
    ... })
    >>> confidence_intervals(table, classification()).loc["accuracy"].round(3).to_list()
    [0.9, 0.596, 0.982]
    """
    where = "confidence_intervals"
    check_columns(check_table("table", table, where=where), ["participant_id"], where)
    score = metrics.metrics if isinstance(metrics, Task) else check_callable("metrics", metrics, where=where)
    n = check_integer("n", n, minimum=1, where=where)
    seed = check_integer("seed", seed, minimum=0, where=where)
    level = check_number("level", level, above=0, below=1, where=where)
    numbers = _numbers(table)
    values = score(numbers)
    resampled = score if check_flag("resample_own", resample_own, where=where) else None
    found = _limits(table, numbers, _count_classes(metrics, numbers), values, resampled, n, seed, level)
    rows = [
        {"metric": name, "value": values[name], "lower": found[name][0], "upper": found[name][1]}
        for name in values
    ]
    return pd.DataFrame(rows).set_index("metric")


def known_limits(
    table: pd.DataFrame, task: Task, values: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Return the 95 % confidence limits of metrics that follow from their values alone.

    The limits of custom metrics are NaN, because these metrics would have to be computed again.

    Examples
    --------
    >>> from neurocnn.engine import regression
    >>> table = pd.DataFrame({"participant_id": ["a", "b"], "true_label": [1.0, 3.0], "predicted_label": [1.0, 2.0]})
    >>> known_limits(table, regression(), {"mae": 0.5, "own": 7.0})
    {'mae': (0.0, 1.0), 'own': (nan, nan)}
    """
    numbers = _numbers(table)
    found = _limits(table, numbers, _count_classes(task, numbers), values, None, 1000, 0, 0.95)
    return {name: found[name] for name in values}


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that do not identify a row, as float64."""
    numbers: pd.DataFrame = table.drop(columns=key_columns(table.columns, PART)).apply(pd.to_numeric)
    return numbers.astype(np.float64)


def _limits(
    table: pd.DataFrame,
    numbers: pd.DataFrame,
    n_classes: int,
    values: Mapping[str, float],
    score: Callable[[pd.DataFrame], Mapping[str, float]] | None,
    n: int,
    seed: int,
    level: float,
) -> dict[str, tuple[float, float]]:
    """Return the limits of each metric, see `confidence_intervals`. Without `score`, custom metrics have none."""
    people = table.groupby(key_columns(table.columns, PARTICIPANT), sort=True).ngroup().to_numpy()
    found = _analytic_limits(numbers, people, n_classes, values, level)
    if score is None:
        score = _built_in_scores(numbers, n_classes)
        standard = score(numbers)
        same = {name for name in standard if math.isclose(values.get(name, math.nan), standard[name])}
        found |= dict.fromkeys(set(values) - set(found) - same, (math.nan, math.nan))
    if len(found) < len(values):
        by_class = n_classes > 0 and "true_label" in numbers
        strata = _rows_by_stratum(
            numbers["true_label"].to_numpy() if by_class else np.zeros(len(numbers)), people
        )
        if set(values) - set(found) == {"loss"} and math.isclose(values["loss"], numbers["loss"].mean()):
            # All other metrics have formulas. Computing them in the bootstrap would take most of the time of an
            # evaluation.
            numbers, score = numbers[["loss"]], _mean_loss
        found = _bootstrap(numbers, strata, score, n, seed, level) | found
    return found


def _analytic_limits(
    numbers: pd.DataFrame, people: np.ndarray, n_classes: int, values: Mapping[str, float], level: float
) -> dict[str, tuple[float, float]]:
    """Return the limits of those classification metrics for which a formula exists."""
    if not n_classes:
        return {}
    known = class_intervals(numbers, people, n_classes, NormalDist().inv_cdf((1 + level) / 2))
    # A user's metric may have the name of a built-in metric. The limits of the built-in metric are used only if both
    # values are equal.
    return {
        name: known[name][1:]
        for name, value in values.items()
        if name in known and math.isclose(value, known[name][0], abs_tol=1e-12)
    }


def _built_in_scores(numbers: pd.DataFrame, n_classes: int) -> Callable[[pd.DataFrame], Mapping[str, float]]:
    """Return a function that computes the built-in metrics without a formula for their limits: all metrics of a
    regression, otherwise only the loss.
    """
    if not n_classes and {"true_label", "predicted_label"} <= set(numbers):
        return regression_metrics
    return _mean_loss if "loss" in numbers else lambda _: {}


def _mean_loss(numbers: pd.DataFrame) -> dict[str, float]:
    return {"loss": numbers["loss"].to_numpy().mean()}


def _bootstrap(
    numbers: pd.DataFrame,
    strata: list[list[np.ndarray]],
    score: Callable[[pd.DataFrame], Mapping[str, float]],
    n: int,
    seed: int,
    level: float,
) -> dict[str, tuple[float, float]]:
    """Return the percentile limits of each metric, for participants drawn with replacement within each stratum."""
    values, names = numbers.to_numpy(), list(score(numbers))
    generator = np.random.default_rng(seed)
    draws = np.full((n, len(names)), math.nan)
    for draw in draws:
        drawn = [
            stratum[i] for stratum in strata for i in generator.integers(len(stratum), size=len(stratum))
        ]
        scores = score(pd.DataFrame(values[np.concatenate(drawn)], columns=numbers.columns))
        draw[:] = [scores.get(name, math.nan) for name in names]
    limits = {}
    for name, column in zip(names, draws.T, strict=True):
        defined = column[~np.isnan(column)]
        tails = [(1 - level) / 2, (1 + level) / 2]
        lower, upper = np.quantile(defined, tails) if len(defined) else (math.nan, math.nan)
        limits[name] = (float(lower), float(upper))
    return limits


def _count_classes(metrics: object, numbers: pd.DataFrame) -> int:
    """Return the number of classes; 0 if the table does not belong to a classification."""
    if isinstance(metrics, Task):
        return len(metrics.classes or ())
    labels = numbers.filter(["true_label", "predicted_label"]).to_numpy()
    probabilities = numbers.filter(regex=r"^proba\d+$").shape[1]
    if probabilities or not labels.size or not set(np.unique(labels)) <= set(range(10)):
        return probabilities
    return max(2, int(labels.max()) + 1)


def _rows_by_stratum(labels: np.ndarray, people: np.ndarray) -> list[list[np.ndarray]]:
    """Return the rows of each participant, by stratum: one per class, and one for participants of several classes."""
    strata: dict[float | None, list[np.ndarray]] = {}
    for person in range(people.max() + 1):
        rows = np.flatnonzero(people == person)
        classes = set(labels[rows])
        strata.setdefault(classes.pop() if len(classes) == 1 else None, []).append(rows)
    return list(strata.values())

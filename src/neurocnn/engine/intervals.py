"""Confidence intervals of metrics."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from neurocnn.engine.task import Task
from neurocnn.errors.arguments import check_integer, check_number
from neurocnn.storage.identity import PART, PARTICIPANT, key_columns


def confidence_intervals(
    table: pd.DataFrame,
    metrics: Task | Callable[[pd.DataFrame], Mapping[str, float]],
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Return percentile bootstrap intervals of metrics, over participants.

    The rows of a participant are drawn together: sessions and parts of one person are not independent samples.
    Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.

    Parameters
    ----------
    table
        Predictions, with ``participant_id`` (and ``cohort`` if there are several).
    metrics
        A task, or a function from a table to numbers, as its ``metrics``. The function receives the columns that do not
        identify a row, as float64.
    n
        Number of bootstrap samples.
    seed
        Seed of the bootstrap samples.
    level
        Share of the bootstrap distribution inside the interval.

    Returns
    -------
    DataFrame
        One row per metric (index ``metric``), columns ``value``, ``lower``, ``upper``. Bootstrap samples in which a
        metric is not defined are omitted.

    Examples
    --------
    >>> from neurocnn.engine import regression
    >>> table = pd.DataFrame({
    ...     "participant_id": ["sub-1", "sub-2", "sub-3", "sub-4"],
    ...     "true_label": [1.0, 2.0, 3.0, 4.0], "predicted_label": [1.5, 2.5, 3.5, 4.5],
    ... })
    >>> confidence_intervals(table, regression(), n=100).loc["mae"].to_list()
    [0.5, 0.5, 0.5]
    """
    n = check_integer("n", n, minimum=1, where="confidence_intervals")
    level = check_number("level", level, above=0, below=1, where="confidence_intervals")
    score = metrics.metrics if isinstance(metrics, Task) else metrics
    numbers = table.drop(columns=key_columns(table.columns, PART)).apply(pd.to_numeric).astype(np.float64)
    values, value = numbers.to_numpy(), score(numbers)
    groups = list(table.groupby(key_columns(table.columns, PARTICIPANT), sort=True).indices.values())
    generator = np.random.default_rng(seed)
    draws = np.full((n, len(value)), math.nan)
    for draw in draws:
        rows = np.concatenate([groups[i] for i in generator.integers(len(groups), size=len(groups))])
        scores = score(pd.DataFrame(values[rows], columns=numbers.columns))
        draw[:] = [scores.get(name, math.nan) for name in value]
    tail = (1 - level) / 2
    intervals = []
    for name, column in zip(value, draws.T, strict=True):
        defined = column[~np.isnan(column)]
        lower, upper = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (math.nan, math.nan)
        intervals.append({"metric": name, "value": value[name], "lower": lower, "upper": upper})
    return pd.DataFrame(intervals).set_index("metric")

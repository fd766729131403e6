"""Calibration of probabilities: temperatures, reliability, Brier score, and decision thresholds."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from neurocnn import engine
from neurocnn.engine.metrics import probability_columns
from neurocnn.errors import SettingError
from neurocnn.errors.arguments import argument_error, check_number
from neurocnn.errors.logger import LOGGER
from neurocnn.results.checked_tables import drop_names
from neurocnn.results.ensembles import ENSEMBLE, ensemble_table, read_image_level, uncalibrated_table
from neurocnn.results.folder import IMAGE, ResultFolder
from neurocnn.results.paths import SETS
from neurocnn.results.prediction import read_validation
from neurocnn.results.scoring import metrics_row
from neurocnn.results.votes import OperatingPoint, Vote, set_temperature

Array = np.ndarray[Any, Any]
#: The search for a temperature is limited to this range.
_TEMPERATURES = (0.05, 20.0)


def labelled_tables(
    folder: ResultFolder, selection: str, dataset: str, where: str
) -> dict[int, pd.DataFrame]:
    """Return the labelled image-level predictions of each split of a classification.

    Raises
    ------
    SettingError
        If the task has no classes, or true labels are missing.
    NotFoundError
        If there are no predictions.
    """
    _check_classes(folder, where)
    folder.find_tables("prediction", IMAGE, selection, dataset)
    tables = read_image_level(folder, selection, dataset)
    if any(table["true_label"].isna().any() for table in tables.values()):
        raise SettingError(
            f"{folder.root}: {where}: dataset={dataset!r} has no true labels; call predict with labels"
        )
    return tables


def add_ensemble(
    folder: ResultFolder, tables: dict[int, pd.DataFrame], dataset: str
) -> dict[Any, pd.DataFrame]:
    """Return `tables` and, for a data set that was passed to `predict`, the table of the ensemble."""
    return tables if dataset in SETS else {**tables, ENSEMBLE: ensemble_table(folder, tables)}


def fit_temperature(table: pd.DataFrame) -> tuple[float, float, float]:
    """Return the temperature with the lowest mean negative log-likelihood, and this loss before and after scaling.

    The search is limited to temperatures from 0.05 to 20, because a perfect classifier has no minimum.

    References
    ----------
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0, 1, 1, 0], "proba0": [0.99, 0.01, 0.99, 0.01]})
    >>> table["proba1"] = 1 - table["proba0"]
    >>> fit_temperature(table)[0]  # half of the confident predictions are wrong
    20.0
    """
    from scipy.optimize import minimize_scalar

    raw = set_temperature(table, 1.0)
    true = raw["true_label"].to_numpy(dtype=int)

    def loss(log_temperature: float) -> float:
        columns = set_temperature(raw, math.exp(log_temperature))[probability_columns(raw)].to_numpy(
            dtype=float
        )
        return float(-np.log(np.maximum(columns[np.arange(len(true)), true], 1e-300)).mean())

    bounds = tuple(map(math.log, _TEMPERATURES))
    found = float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)
    # The losses at both limits are also compared, because the search itself never reaches a limit.
    found = min((found, *bounds), key=loss)
    return round(math.exp(found), 9), loss(0.0), loss(found)


def calibrate(folder: ResultFolder, vote: Vote) -> tuple[Vote, pd.DataFrame]:
    """Return `vote` with the fitted temperatures of all selections and splits, and the table of `Results.calibrate`.

    The probabilities are computed with the weights of `vote`, which may differ from those used in the existing tables.
    A split in which no part votes has no temperature.
    """
    _check_classes(folder, "calibrate")
    rows, temperatures = [], {}
    for selection in folder.selections:
        found = {}
        for fold in folder.check_done():
            fold_vote = vote.of_fold(folder, fold, selection, read_validation(folder, fold, selection))
            if not fold_vote.is_empty:
                table = uncalibrated_table(folder, fold, selection, "validation", fold_vote)
                found[fold.index], before, after = fit_temperature(table)
                rows.append((selection, fold.index, found[fold.index], before, after))
                _warn_at_limit(folder, selection, fold.index, found[fold.index])
        temperatures[selection] = found
    columns = ["selection", "split", "temperature", "loss_before", "loss_after"]
    table = pd.DataFrame(rows, columns=columns).set_index(["selection", "split"])
    return dataclasses.replace(vote, temperatures=temperatures), table


def _check_classes(folder: ResultFolder, where: str) -> None:
    if folder.task.classes is None:
        raise argument_error("task", folder.task.name, "a classification", where=f"{folder.root}: {where}")


def _warn_at_limit(folder: ResultFolder, selection: str, split: int, temperature: float) -> None:
    if temperature in _TEMPERATURES:
        LOGGER.warning(
            "%s, split %d, %s: temperature=%g is a limit of the search, because the validation set is too small or "
            "perfectly separated; use more validation images",
            folder.root,
            split,
            selection,
            temperature,
        )


def adapt_to_weights(folder: ResultFolder, vote: Vote) -> Vote:
    """Return `vote` after a change of its weights: temperatures are fitted again, and operating points are removed."""
    if vote.operating_points:
        LOGGER.warning(
            "%s: the operating points of the previous vote are removed; choose them again with "
            "results.operating_point(…)",
            folder.root,
        )
    changed = calibrate(folder, vote)[0] if vote.temperatures else vote
    return dataclasses.replace(changed, operating_points={})


def outcomes(table: pd.DataFrame, n_classes: int) -> tuple[Array, Array]:
    """Return for each image whether an event has occurred (1 or 0), and the predicted probability of the event.

    For two classes, the event is that the image is of the second class; for more classes, that the predicted class is
    the true class.
    """
    true = table["true_label"].to_numpy(dtype=int)
    columns = table[probability_columns(table)].to_numpy(dtype=float)
    if n_classes == 2:
        return true == 1, columns[:, 1]
    return columns.argmax(axis=1) == true, columns.max(axis=1)


def reliability_table(table: pd.DataFrame, n_classes: int, n_bins: int) -> pd.DataFrame:
    """Return one row per non-empty bin: ``predicted``, ``observed`` and ``n``, see `Results.reliability`.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0, 1, 1], "proba0": [0.9, 0.2, 0.3], "proba1": [0.1, 0.8, 0.7]})
    >>> reliability_table(table, 2, 2).to_dict("records")
    [{'predicted': 0.1, 'observed': 0.0, 'n': 1}, {'predicted': 0.75, 'observed': 1.0, 'n': 2}]
    """
    from sklearn.calibration import calibration_curve

    hit, probability = outcomes(table, n_classes)
    observed, predicted = calibration_curve(hit, probability, n_bins=n_bins)
    inner = np.linspace(0, 1, n_bins + 1)[1:-1]
    counts = np.bincount(np.searchsorted(inner, probability), minlength=n_bins)
    return pd.DataFrame({"predicted": predicted, "observed": observed, "n": counts[counts > 0]})


def calibration_scores(table: pd.DataFrame, n_classes: int, n_bins: int) -> dict[str, float]:
    """Return the number of rows (``n``), the Brier score and the expected calibration error of a table.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0, 1], "proba0": [0.9, 0.2], "proba1": [0.1, 0.8]})
    >>> {name: round(value, 3) for name, value in calibration_scores(table, n_classes=2, n_bins=10).items()}
    {'n': 2, 'brier': 0.025, 'ece': 0.15}
    """
    from sklearn.metrics import brier_score_loss

    bins = reliability_table(table, n_classes, n_bins)
    error = float((bins["n"] * (bins["observed"] - bins["predicted"]).abs()).sum() / len(table))
    hit, probability = outcomes(table, n_classes)
    if n_classes == 2:
        brier = float(brier_score_loss(hit, probability))
    else:
        columns = table[probability_columns(table)].to_numpy(dtype=float)
        truth = np.eye(n_classes)[table["true_label"].to_numpy(dtype=int)]
        brier = float(np.square(columns - truth).sum(axis=1).mean())
    return {"n": len(table), "brier": brier, "ece": error}


def check_rule(rule: object) -> str | dict[str, float]:
    """Return the rule of an operating point if it is valid, else raise a SettingError.

    Examples
    --------
    >>> check_rule({"sensitivity": 0.9})
    {'sensitivity': 0.9}
    >>> check_rule("best")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: operating_point: rule='best'; expected 'youden', {'sensitivity': 0.9} or \
{'specificity': 0.9}
    """
    if isinstance(rule, str) and rule == "youden":
        return rule
    if isinstance(rule, Mapping) and len(rule) == 1:
        ((name, value),) = rule.items()
        if name in ("sensitivity", "specificity"):
            return {name: check_number(name, value, minimum=0, maximum=1, where="operating_point")}
    expected = "'youden', {'sensitivity': 0.9} or {'specificity': 0.9}"
    raise argument_error("rule", rule, expected, where="operating_point")


def choose_threshold(table: pd.DataFrame, rule: str | Mapping[str, float]) -> float:
    """Return the threshold at or above which the second class is predicted.

    ``"youden"`` maximises sensitivity + specificity − 1 (Youden, Cancer 3 (1950)); a required sensitivity is reached
    with the highest specificity, and a required specificity with the highest sensitivity. If several thresholds are
    equally good, the highest is returned.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0, 0, 1, 1], "proba1": [0.1, 0.4, 0.3, 0.9]})
    >>> choose_threshold(table, "youden"), choose_threshold(table, {"sensitivity": 1.0})
    (0.9, 0.3)
    """
    from sklearn.metrics import roc_curve

    scores = table["proba1"].to_numpy(dtype=float)
    false, true, thresholds = roc_curve(table["true_label"] == 1, scores, drop_intermediate=False)
    if isinstance(rule, str):
        index = int(np.argmax(true - false))
    elif "sensitivity" in rule:
        index = int(np.argmax(true >= rule["sensitivity"] - 1e-12))
    else:
        index = int(np.flatnonzero(1 - false >= rule["specificity"] - 1e-12)[-1])
    # scikit-learn's first threshold, at which no image is positive, is infinite. JSON cannot contain infinity, so a
    # finite threshold is returned.
    return float(min(thresholds[index], np.nextafter(scores.max(), 2)))


def operating_point(
    folder: ResultFolder, vote: Vote, rule: str | Mapping[str, float], dataset: str, selection: str
) -> tuple[Vote, pd.DataFrame]:
    """Return `vote` with a new operating point of a selection, and the table of `Results.operating_point`.

    Raises
    ------
    SettingError
        If there are more than two classes, a validation set has one class, or `dataset` is the training or validation
        set.
    """
    where = "operating_point"
    if dataset in SETS:
        expected = "the name of a predicted data set, because the threshold is chosen on the validation set"
        raise argument_error("dataset", dataset, expected, where=where)
    if folder.task.classes is not None and len(folder.task.classes) != 2:
        raise argument_error("task", folder.task.classes, "two classes", where=where)
    thresholds = {}
    for split, table in labelled_tables(folder, selection, "validation", where).items():
        if table["true_label"].nunique() < 2:
            raise SettingError(
                f"{folder.root}: {where}: the validation set of split {split} has one class; expected two"
            )
        thresholds[split] = choose_threshold(set_temperature(table, 1.0), rule)
    raw = {
        split: set_temperature(table, 1.0)
        for split, table in labelled_tables(folder, selection, dataset, where).items()
        if split in thresholds
    }
    limits: dict[Any, float] = {**thresholds, ENSEMBLE: float(np.mean([thresholds[split] for split in raw]))}
    rows = {
        split: _scores_at_threshold(folder.task, table, limits[split])
        for split, table in add_ensemble(folder, raw, dataset).items()
    }
    point = OperatingPoint(rule, thresholds)
    changed = dataclasses.replace(vote, operating_points={**vote.operating_points, selection: point})
    return changed, pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")


def _scores_at_threshold(task: engine.Task, table: pd.DataFrame, threshold: float) -> dict[str, float]:
    decided = table.assign(predicted_label=(table["proba1"] >= threshold).astype(int))
    row = metrics_row(task, drop_names(decided), intervals=True).iloc[0]
    return {"threshold": threshold} | {str(name): float(value) for name, value in row.items()}

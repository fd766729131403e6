"""Comparison of two experiments on the same participants."""

import math

import numpy as np
import pandas as pd

from neurocnn import engine, storage
from neurocnn.engine.class_intervals import placement_variance, placements
from neurocnn.errors import SettingError
from neurocnn.errors.arguments import argument_error, check_instance, check_integer, check_text
from neurocnn.results.checked_tables import drop_names
from neurocnn.results.ensembles import final_predictions
from neurocnn.results.folder import IMAGE, ResultFolder
from neurocnn.results.reading import read_metrics
from neurocnn.results.resampling import Array, draw_people, limits
from neurocnn.results.same_study import describe_other_sessions
from neurocnn.results.tables import ResultTables
from neurocnn.storage.files import is_file
from neurocnn.storage.identity import PARTICIPANT, key_columns

_WHERE = "compare"


def compare(
    results_a: ResultTables,
    results_b: ResultTables,
    dataset: str = "test",
    *,
    selection: str | None = None,
    n: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare two experiments on the same participants.

    Each image has one prediction: for data passed to `Results.predict`, the mean over the splits; for ``validation``,
    that of the split whose validation set contains the image.

    Parameters
    ----------
    results_a, results_b
        Results of two experiments with the same task.
    dataset
        ``validation``, or a name that was passed to `Results.predict` of both experiments.
    selection
        Selection of the best epoch, see `Results.metrics`.
    n, seed
        Number of bootstrap samples, at most 100,000, and seed of the random numbers.

    Returns
    -------
    DataFrame
        One row per metric (index ``metric``):

        ``a``, ``b``, ``difference``
            The metric of each experiment, and the difference a − b.
        ``low``, ``high``
            95 % confidence interval of the difference, from a percentile bootstrap (Efron & Tibshirani (1993), 13.3):
            participants are drawn with replacement within each class, the same participants for both experiments. The
            width is 0 if all draws have the same difference, for example if one experiment predicts all participants
            correctly and the other a single class; the interval is then too narrow.
        ``mcnemar``
            p-value of the exact test of McNemar (Psychometrika 12 (1947)) of equal accuracy, in the row ``accuracy``;
            missing if a participant has several images, because these are not independent.
        ``delong``
            p-value of the test of DeLong et al. (Biometrics 44 (1988)) for two correlated areas under the ROC curve,
            with the images of a participant as a cluster (Obuchowski, Biometrics 53 (1997)), in the row ``roc_auc`` of
            a task with two classes.
        ``resampled_t``
            p-value of the corrected resampled t-test over the splits (Nadeau & Bengio, Machine Learning 52 (2003)): the
            variance of the differences over the k splits is multiplied by 1/k + n_test/n_train. Missing if the
            experiments have different splits, or only one split.

    Raises
    ------
    SettingError
        If the tasks, sessions or true labels differ, or labels are missing.
    NotFoundError
        If one of the experiments has no predictions for the data set.

    Examples
    --------
    >>> results.metrics(dataset="test").shape[0]
    5
    >>> compare(results, results, "test").loc["accuracy", ["difference", "mcnemar", "resampled_t"]].to_list()
    [0.0, 1.0, 1.0]
    """
    for name, value in (("results_a", results_a), ("results_b", results_b)):
        check_instance(name, value, ResultTables, "an nc.Results", where=_WHERE)
    check_text("dataset", dataset, where=_WHERE)
    n = check_integer("n", n, minimum=1, maximum=100_000, where=_WHERE)
    seed = check_integer("seed", seed, minimum=0, where=_WHERE)
    folders = (results_a._folder, results_b._folder)
    task = _check_tasks(results_a, results_b)
    first, second = _aligned(
        *(final_predictions(folder, selection, dataset) for folder in folders), dataset=dataset
    )
    values = [dict(task.metrics(drop_names(table))) for table in (first, second)]
    draws = draw_people([first], by_class=task.classes is not None, n=n, seed=seed)
    scores = [
        draws.scores(task, [table], [value]) for table, value in zip((first, second), values, strict=True)
    ]
    tests = _resampled_t_p_values(*folders, selection, dataset)
    rows = []
    for metric in (name for name in values[0] if name in scores[0] and name in scores[1]):
        low, high = limits(scores[0][metric] - scores[1][metric])
        a, b = values[0][metric], values[1][metric]
        row = {"metric": metric, "a": a, "b": b, "difference": a - b, "low": low, "high": high}
        row["mcnemar"] = mcnemar_p_value(first, second) if metric == "accuracy" else math.nan
        row["delong"] = delong_p_value(first, second) if metric == "roc_auc" else math.nan
        rows.append(row | {"resampled_t": tests.get(metric, math.nan)})
    return pd.DataFrame(rows).set_index("metric")


def _check_tasks(results_a: ResultTables, results_b: ResultTables) -> engine.Task:
    first, second = results_a.task, results_b.task
    if (first.classes, first.vote) != (second.classes, second.vote):
        raise argument_error("results_b", second, f"the task of results_a, {first}", where=_WHERE)
    return first


def _aligned(first: pd.DataFrame, second: pd.DataFrame, *, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both tables in the order of the first table; raise an error if sessions or labels differ."""
    where = f"{_WHERE}: dataset={dataset!r}"
    key = key_columns(set(first.columns) & set(second.columns))
    for table in (first, second):
        if table["true_label"].isna().any():
            raise SettingError(
                f"{where}: true labels are missing; expected labelled sessions; call predict with labels"
            )
    differing = describe_other_sessions(first[key], second[key])
    if differing:
        found = differing.replace("in the folder", "in results_a").replace("only now", "only in results_b")
        raise SettingError(
            f"{where}: {found}; expected the same sessions; predict the same sessions with both experiments"
        )
    second = first[key].merge(second, on=key, how="left", validate="one_to_one")
    changed = ~np.isclose(first["true_label"].astype(float), second["true_label"].astype(float), rtol=1e-5)
    if changed.any():
        names = ", ".join(first.loc[changed, "participant_id"].head())
        raise SettingError(
            f"{where}: the true labels of {names} differ; expected the same labels in both experiments"
        )
    return first.reset_index(drop=True), second


def mcnemar_p_value(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Return the p-value of the exact two-sided test of McNemar; NaN if a participant has several rows.

    Examples
    --------
    >>> first = pd.DataFrame({"participant_id": [f"sub-{i}" for i in range(6)], "true_label": 1, "predicted_label": 1})
    >>> mcnemar_p_value(first, first.assign(predicted_label=0))
    0.03125
    """
    if first.duplicated(key_columns(first, PARTICIPANT)).any():
        return math.nan
    right = [table["true_label"] == table["predicted_label"] for table in (first, second)]
    only = sorted([int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())])
    tail = sum(math.comb(sum(only), k) for k in range(only[0] + 1))
    return float(min(1.0, 2 * tail / 2 ** sum(only)))


def delong_p_value(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Return the two-sided p-value of DeLong's test; NaN unless there are exactly two classes.

    Examples
    --------
    >>> first = pd.DataFrame({"participant_id": list("abc"), "true_label": [0, 1, 1], "proba1": [0.4, 0.3, 0.9]})
    >>> delong_p_value(first, first)
    1.0
    """
    positive = first["true_label"].to_numpy() == 1
    if "proba2" in first or positive.all() or not positive.any():
        return math.nan
    people = first.groupby(key_columns(first, PARTICIPANT), sort=False).ngroup().to_numpy()
    sides = [placements(table["proba1"].to_numpy(dtype=float), positive) for table in (first, second)]
    differences: list[Array] = [one - other for one, other in zip(*sides, strict=True)]
    difference = float(differences[0].mean())
    first_side, second_side = (side - difference for side in differences)
    variance = placement_variance(first_side, second_side, positive, people)
    if variance == 0:
        return 1.0 if difference == 0 else math.nan
    return math.erfc(abs(difference) / math.sqrt(2 * variance))


def _resampled_t_p_values(
    first: ResultFolder, second: ResultFolder, selection: str | None, dataset: str
) -> dict[str, float]:
    """Return the p-value of the resampled t-test for each metric; empty if the splits differ or there is only one."""
    done = [fold.index for fold in first.finished_folds]
    if len(done) < 2 or done != [fold.index for fold in second.finished_folds]:
        return {}
    sizes = []
    for index in done:
        people = [_read_people(folder, index, "train") for folder in (first, second)]
        tested = [_read_people(folder, index, dataset) for folder in (first, second)]
        if people[0] != people[1] or tested[0] != tested[1]:
            return {}
        sizes.append((len(tested[0]), len(people[0])))
    tables = [read_metrics(folder, IMAGE, selection, dataset).reindex(done) for folder in (first, second)]
    share = float(np.mean([test / train for test, train in sizes]))
    return {
        str(name): resampled_t_p_value((tables[0][name] - tables[1][name]).to_numpy(dtype=float), share)
        for name in tables[0]
        if name in tables[1]
    }


def _read_people(folder: ResultFolder, index: int, dataset: str) -> set[tuple[object, ...]]:
    fold = folder.fold(index)
    path = fold.sessions(dataset)
    # Earlier versions did not write this file.
    if not is_file(path):
        path = fold.table(folder.selections[0], dataset, IMAGE, "prediction")
    table = storage.read_table(path)
    return set(table[key_columns(table, PARTICIPANT)].itertuples(index=False, name=None))


def resampled_t_p_value(differences: Array, test_ratio: float) -> float:
    """Return the two-sided p-value of the corrected resampled t-test (Nadeau & Bengio 2003).

    Parameters
    ----------
    differences
        Difference of the scores in each split, shape (k,).
    test_ratio
        Size of a test set divided by the size of a training set.

    Examples
    --------
    >>> round(resampled_t_p_value(np.array([0.02, 0.05, 0.03, 0.04, 0.01]), 0.25), 4)
    0.0474
    """
    from scipy.stats import t

    k, mean = len(differences), float(np.mean(differences))
    variance = float(np.var(differences, ddof=1)) if k > 1 else math.nan
    if variance == 0:
        return 1.0 if mean == 0 else math.nan
    return float(2 * t.sf(abs(mean) / math.sqrt((1 / k + test_ratio) * variance), k - 1))

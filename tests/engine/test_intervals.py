"""Confidence intervals contain the true value as often as their level promises."""

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from neurocnn.engine import classification, confidence_intervals, regression
from neurocnn.engine.class_intervals import class_intervals, effective_size, wilson_limits
from neurocnn.errors import SettingError, TableError

Z = NormalDist().inv_cdf(0.975)


def study(generator, n, value, visits=1, rho=0.7):
    """Return a random table of a study whose true proportions and true area under the ROC curve are `value`."""
    true = np.repeat(np.arange(n) % 2, visits)
    person, visit = generator.standard_normal(n).repeat(visits), generator.standard_normal(n * visits)
    latent = math.sqrt(rho) * person + math.sqrt(1 - rho) * visit if visits > 1 else visit
    quantile = NormalDist().inv_cdf(value)
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{i // visits:03d}" for i in range(n * visits)],
            "true_label": true,
            "predicted_label": np.where(latent < quantile, true, 1 - true),
            "proba1": latent + true * math.sqrt(2) * quantile,
        }
    )
    return table.assign(proba0=-table.proba1)


@pytest.mark.faults
@pytest.mark.faults_full
@pytest.mark.parametrize("visits", [1, 3])
def test_intervals_cover_the_true_value(visits):
    generator, coverage = np.random.default_rng(visits), []
    for n in (20, 40, 100):
        for value in (0.6, 0.75, 0.85, 0.9, 0.95):
            inside = []
            for _ in range(2000):
                table = study(generator, n, value, visits)
                people = np.repeat(np.arange(n), visits)
                found = class_intervals(table.drop(columns="participant_id"), people, 2, Z)
                inside.append({name: low <= value <= high for name, (_, low, high) in found.items()})
            coverage.append(pd.DataFrame(inside).mean().rename((n, value)))
    table = pd.DataFrame(coverage)
    print(table.round(3).to_string())
    # 0.015 is three standard errors of 2,000 studies; the exact coverage of one proportion is in the next test.
    assert (table.mean() >= 0.94).all()
    assert (table.min() >= 0.90 - 0.015).all()


def test_limits_of_no_hit_and_of_hits_only_are_exact():
    limits = [(*wilson_limits(0.0, n, Z), *wilson_limits(1.0, n, Z)) for n in range(1, 200)]
    # The formula for a share of 0 or 1 has a closed form.
    for n, (zero, upper, lower, one) in enumerate(limits, start=1):
        assert (zero, one) == (0, 1)
        assert upper == pytest.approx(Z**2 / (n + Z**2))
        assert lower == pytest.approx(n / (n + Z**2))


@pytest.mark.parametrize("n", [10, 20, 50, 100])
def test_the_coverage_of_proportions_agrees_with_the_binomial_distribution(n):
    hits = np.arange(n + 1)
    limits = np.array([wilson_limits(k / n, n, Z) for k in hits])
    coverage = []
    for value in (0.6, 0.75, 0.85, 0.9, 0.95):
        chance = np.array([math.comb(n, k) * value**k * (1 - value) ** (n - k) for k in hits])
        coverage.append(chance[(limits[:, 0] <= value) & (value <= limits[:, 1])].sum())
    assert min(coverage) >= 0.90
    assert np.mean(coverage) >= 0.94


def test_the_variance_of_an_area_agrees_with_delong():
    table = study(np.random.default_rng(0), 40, 0.8)
    positive, scores = table.true_label.to_numpy() == 1, table.proba1.to_numpy()
    kernel = np.array([[float(x > y) for y in scores[~positive]] for x in scores[positive]])
    variance = kernel.mean(1).var(ddof=1) / 20 + kernel.mean(0).var(ddof=1) / 20
    area = kernel.mean()
    half = Z * math.sqrt(variance) / (area * (1 - area))
    centre = math.log(area / (1 - area))
    expected = [area, 1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-half - centre))]
    found = confidence_intervals(table, classification()).loc["roc_auc"]
    assert found.to_list() == pytest.approx(expected)


def test_copies_of_a_visit_do_not_change_an_interval():
    table = study(np.random.default_rng(1), 40, 0.8)
    once = confidence_intervals(table, classification())
    thrice = confidence_intervals(pd.concat([table] * 3), classification())
    names = ["accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "roc_auc"]
    assert thrice.loc[names].to_numpy() == pytest.approx(once.loc[names].to_numpy(), rel=0.01)
    assert effective_size(np.ones(6), np.array([0, 0, 0, 0, 1, 2])) == 2.0


def test_the_interval_of_a_perfect_area_depends_on_the_smaller_class():
    table = pd.DataFrame(
        {"participant_id": [f"sub-{i}" for i in range(30)], "true_label": [0] * 20 + [1] * 10}
    )
    table["predicted_label"] = table.true_label
    table["proba1"] = table.true_label + np.arange(30) / 100
    table["proba0"] = -table.proba1
    found = confidence_intervals(table, classification())
    assert found.loc["roc_auc"].to_list() == pytest.approx([1, 10 / (10 + Z**2), 1])
    assert found.lower["balanced_accuracy"] < 0.9


def test_a_custom_metric_has_a_bootstrap_interval_even_with_a_built_in_name():
    table = study(np.random.default_rng(2), 60, 0.8)

    def own(table):
        # This metric has the name of the accuracy but is the share of errors.
        return {"accuracy": float((table["true_label"] != table["predicted_label"]).mean())}

    row = confidence_intervals(table, replace(classification(), metrics=own)).loc["accuracy"]
    ours = confidence_intervals(table, classification()).loc["accuracy"]
    assert row["value"] == pytest.approx(1 - ours["value"])
    assert row["lower"] == pytest.approx(1 - ours["upper"], abs=0.04)
    assert row["upper"] == pytest.approx(1 - ours["lower"], abs=0.04)
    pd.testing.assert_frame_equal(
        confidence_intervals(table, own), confidence_intervals(table, replace(classification(), metrics=own))
    )


@pytest.mark.parametrize("task", [classification(), regression()], ids=["classes", "values"])
def test_a_custom_metric_is_called_once_unless_its_interval_is_requested(task):
    table, calls = study(np.random.default_rng(3), 40, 0.8).assign(loss=1.0), []

    def own(table):
        calls.append(table)
        return {**task.metrics(table), "own": float(table["predicted_label"].mean())}

    found = confidence_intervals(table, replace(task, metrics=own), resample_own=False)
    assert len(calls) == 1
    assert found.loc["own", ["lower", "upper"]].isna().all()
    pd.testing.assert_frame_equal(found.drop("own"), confidence_intervals(table, task))


def test_the_bootstrap_draws_within_each_class():
    table = study(np.random.default_rng(3), 20, 0.8).assign(weight=lambda table: table.true_label)
    row = confidence_intervals(table, lambda table: {"share": float(table["weight"].mean())}, n=50).loc[
        "share"
    ]
    assert row.to_list() == [0.5, 0.5, 0.5]


def test_predicted_values_are_not_mistaken_for_classes():
    ages = pd.DataFrame(
        {
            "participant_id": [f"sub-{i}" for i in range(8)],
            "true_label": [1.0] * 4 + [2.0] * 4,
            "predicted_label": 1.5,
        }
    )
    found = confidence_intervals(ages, regression())
    assert found.loc["mae"].to_list() == [0.5, 0.5, 0.5]


def test_metrics_of_three_classes_have_limits():
    table = study(np.random.default_rng(4), 60, 0.8).drop(columns=["proba0", "proba1"])
    table.loc[::3, ["true_label", "predicted_label"]] = 2
    found = confidence_intervals(table, classification(classes=["a", "b", "c"]), n=100)
    assert ((found.lower <= found.value) & (found.value <= found.upper)).all()
    assert (found.upper - found.lower < 0.5).all()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"table": None}, TableError),
        ({"table": "predictions.tsv"}, TableError),
        ({"metrics": None}, SettingError),
        ({"n": 0}, SettingError),
        ({"n": "many"}, SettingError),
        ({"seed": -1}, SettingError),
        ({"level": 1}, SettingError),
        ({"table": pd.DataFrame({"true_label": [1], "predicted_label": [1]})}, TableError),
        (
            {"table": pd.DataFrame({"participant_id": [], "true_label": [], "predicted_label": []})},
            TableError,
        ),
    ],
)
def test_invalid_arguments_of_intervals_are_refused(change, error):
    table = study(np.random.default_rng(0), 10, 0.8)
    with pytest.raises(error):
        confidence_intervals(**{"table": table, "metrics": classification()} | change)


def test_equal_scores_have_a_roc_area_of_one_half_with_limits_of_the_smaller_class():
    true = np.array([0] * 12 + [1] * 8)
    table = pd.DataFrame({"true_label": true, "predicted_label": 1, "proba1": 0.6})
    area, lower, upper = class_intervals(table, np.arange(20), 2, Z)["roc_auc"]
    assert area == 0.5
    assert (lower, upper) == wilson_limits(0.5, 8, Z)

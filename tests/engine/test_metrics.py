import math

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as peer
from hypothesis import given, settings
from hypothesis import strategies as st

from neurocnn.engine import classification, confidence_intervals, reconstruction, regression
from neurocnn.errors import SettingError, TableError

ZERO = {"zero_division": 0}


@st.composite
def predictions(draw, n_classes):
    n = draw(st.integers(1, 30))
    labels = st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)
    true, seed = draw(labels), draw(st.integers(0, 1000))
    # Few different values cause many ties, which are the difficult part of a ROC curve.
    probabilities = np.random.default_rng(seed).integers(1, 4, (n, n_classes)).astype(float)
    probabilities /= probabilities.sum(1, keepdims=True)
    table = pd.DataFrame({"true_label": true, "predicted_label": draw(labels)})
    for k in range(n_classes):
        table[f"proba{k}"] = probabilities[:, k]
    return table


@settings(max_examples=40)
@given(predictions(2))
def test_binary_scores_agree_with_scikit_learn(table):
    true, predicted = table.true_label, table.predicted_label
    scores = classification(classes=["CN", "AD"]).metrics(table)
    expected = {
        "accuracy": peer.accuracy_score(true, predicted),
        "balanced_accuracy": peer.recall_score(
            true, predicted, labels=sorted(set(true)), average="macro", **ZERO
        ),
        "sensitivity": peer.recall_score(true, predicted, **ZERO),
        "specificity": peer.recall_score(true, predicted, pos_label=0, **ZERO),
        "ppv": peer.precision_score(true, predicted, **ZERO),
        "npv": peer.precision_score(true, predicted, pos_label=0, **ZERO),
    }
    if true.nunique() == 2:
        expected["balanced_accuracy"] = peer.balanced_accuracy_score(true, predicted)
        expected["roc_auc"] = peer.roc_auc_score(true, table.proba1)
    else:
        assert math.isnan(scores.pop("roc_auc"))
    assert scores == pytest.approx(expected)


@settings(max_examples=25)
@given(predictions(4))
def test_scores_of_several_classes_are_means_over_each_class_against_the_rest(table):
    true, predicted = table.true_label, table.predicted_label
    scores = classification(classes=["a", "b", "c", "d"]).metrics(table)
    everyone = {"labels": range(4), "average": "macro", **ZERO}
    opposite = [(true != k, predicted != k) for k in range(4)]
    expected = {
        "accuracy": peer.accuracy_score(true, predicted),
        "balanced_accuracy": peer.recall_score(
            true, predicted, labels=sorted(set(true)), average="macro", **ZERO
        ),
        "sensitivity": peer.recall_score(true, predicted, **everyone),
        "ppv": peer.precision_score(true, predicted, **everyone),
        "specificity": np.mean([peer.recall_score(*pair, **ZERO) for pair in opposite]),
        "npv": np.mean([peer.precision_score(*pair, **ZERO) for pair in opposite]),
    }
    if true.nunique() == 4:
        probabilities = table[[f"proba{k}" for k in range(4)]]
        expected["roc_auc"] = peer.roc_auc_score(true, probabilities, multi_class="ovr")
    else:
        assert math.isnan(scores.pop("roc_auc"))
    assert scores == pytest.approx(expected)


# scikit-learn warns of the overflow that differences near the smallest numbers cause.
numbers = st.floats(-100, 100).map(lambda number: round(number, 6))
values = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=20)


def test_r2_of_nearly_equal_true_values_is_minus_infinity_without_a_warning():
    table = pd.DataFrame({"true_label": [0.0, 4e-155], "predicted_label": [1.0, 0.0]})
    assert regression().metrics(table)["r2"] == -math.inf


@given(values)
def test_regression_scores_agree_with_scikit_learn(pairs):
    table = pd.DataFrame(pairs, columns=["true_label", "predicted_label"])
    scores = regression().metrics(table)
    pair = table.true_label, table.predicted_label
    assert scores["mae"] == pytest.approx(peer.mean_absolute_error(*pair))
    assert scores["rmse"] == pytest.approx(peer.root_mean_squared_error(*pair))
    assert scores["r2"] == pytest.approx(peer.r2_score(*pair), rel=1e-6)


def test_the_loss_is_the_mean_of_its_column():
    table = pd.DataFrame({"true_label": [0, 1], "predicted_label": [0, 1], "loss": [0.5, 1.5]})
    scores = classification().metrics(table)
    assert next(iter(scores)) == "loss"
    assert scores["loss"] == 1.0
    assert math.isnan(classification().metrics(table.assign(loss=[0.5, math.nan]))["loss"])


@pytest.mark.parametrize("task", [classification(), regression(), reconstruction()])
def test_a_table_that_cannot_be_scored_is_refused(task):
    with pytest.raises(TableError, match="no row"):
        task.metrics(pd.DataFrame({"true_label": [], "predicted_label": [], "mse": []}))
    with pytest.raises(TableError, match="no column"):
        task.metrics(pd.DataFrame({"participant_id": ["sub-1"]}))


def test_a_table_with_missing_labels_is_not_scored():
    table = pd.DataFrame({"true_label": [0, None], "predicted_label": [0, 1]})
    with pytest.raises(TableError, match="missing in 1 of 2 rows"):
        classification().metrics(table)


def people(n=60, rows=3, seed=0):
    generator = np.random.default_rng(seed)
    true = np.repeat(generator.integers(0, 2, n), rows)
    right = np.repeat(generator.random(n) < 0.8, rows)
    return pd.DataFrame(
        {
            "participant_id": np.repeat([f"sub-{i}" for i in range(n)], rows),
            "true_label": true,
            "predicted_label": np.where(right, true, 1 - true),
        }
    )


def test_the_interval_of_accuracy_agrees_with_the_binomial_distribution_of_participants():
    table = people(n=200)
    interval = confidence_intervals(table, classification(), n=2000).loc["accuracy"]
    p = interval.value
    # All rows of a participant agree, so that the 600 rows are 200 independent observations.
    half = 1.96 * math.sqrt(p * (1 - p) / 200)
    assert interval.upper - interval.lower == pytest.approx(2 * half, rel=0.15)
    assert interval.lower < p < interval.upper


def test_intervals_depend_only_on_the_seed():
    table = people().assign(loss=lambda table: np.linspace(0, 1, len(table)))
    first = confidence_intervals(table, classification(), n=50, seed=3)
    shuffled = table.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(first, confidence_intervals(table, classification(), n=50, seed=3))
    assert list(first.columns) == ["value", "lower", "upper"]
    # The interval of a proportion comes from a formula, without a seed.
    assert (
        first.lower["accuracy"]
        == confidence_intervals(table, classification(), n=50, seed=4).lower["accuracy"]
    )
    assert first.lower["loss"] != confidence_intervals(table, classification(), n=50, seed=4).lower["loss"]
    assert (
        confidence_intervals(shuffled, classification(), n=50, seed=3).value["accuracy"]
        == first.value["accuracy"]
    )


def test_bootstrap_samples_with_an_undefined_metric_are_omitted():
    table = people(n=4).assign(proba0=0.5, proba1=0.5)
    table["true_label"] = [0] * 9 + [1] * 3
    defined = lambda drawn: {"half": 0.5 if drawn["true_label"].nunique() == 2 else math.nan}  # noqa: E731
    interval = confidence_intervals(table, defined, n=100).loc["half"]
    assert interval.lower == interval.upper == 0.5
    with pytest.raises(SettingError):
        confidence_intervals(table, classification(), n=0)

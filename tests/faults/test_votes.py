"""Votes that cannot be computed are refused with an error that names the cause."""

import pandas as pd
import pytest
from faults.clauses import covers, refuse

import neurocnn as nc


@pytest.fixture
def predictions() -> pd.DataFrame:
    """Return predictions for two parts of three images."""
    return pd.DataFrame(
        {
            "participant_id": ["sub-1", "sub-1", "sub-2", "sub-2", "sub-3", "sub-3"],
            "session_id": "ses-M00",
            "part_id": [0, 1] * 3,
            "true_label": [0, 0, 1, 1, 0, 0],
            "predicted_label": [0, 1, 1, 1, 0, 0],
            "proba0": [0.9, 0.4, 0.2, 0.3, 0.8, 0.7],
            "proba1": [0.1, 0.6, 0.8, 0.7, 0.2, 0.3],
        }
    )


@covers("all weights zero")
def test_without_positive_weights_the_vote_is_uniform_with_a_warning(predictions: pd.DataFrame):
    with pytest.warns(UserWarning, match="zero|0"):
        voted = nc.soft_vote(predictions, pd.Series([0.0, 0.0], index=[0, 1]))
    assert voted["proba0"].tolist() == pytest.approx([0.65, 0.25, 0.75])


@covers("missing part")
def test_a_missing_part_is_omitted_and_the_other_weights_are_renormalised(predictions: pd.DataFrame):
    weights = pd.Series([0.75, 0.25], index=[0, 1])
    voted = nc.soft_vote(predictions.iloc[1:], weights)
    assert voted["proba0"].tolist() == pytest.approx([0.4, 0.75 * 0.2 + 0.25 * 0.3, 0.75 * 0.8 + 0.25 * 0.7])


@covers("NaN probabilities")
def test_an_error_names_the_image_with_a_nan_probability(predictions: pd.DataFrame):
    predictions.loc[2, "proba0"] = float("nan")
    refuse(lambda: nc.soft_vote(predictions), nc.NeurocnnError, "sub-2", "proba0")


@covers("two true labels")
def test_two_true_labels_of_one_image_are_refused(predictions: pd.DataFrame):
    predictions.loc[1, "true_label"] = 1
    refuse(lambda: nc.soft_vote(predictions), nc.NeurocnnError, "sub-1", "[0, 1]")


@covers("threshold without parts")
def test_a_threshold_that_no_part_exceeds_is_refused(predictions: pd.DataFrame):
    refuse(
        lambda: nc.part_weights(predictions, selection_threshold=1.0), nc.NeurocnnError, "selection_threshold"
    )


@covers("weights by label")
def test_weights_for_parts_that_are_missing_are_refused(predictions: pd.DataFrame):
    refuse(lambda: nc.soft_vote(predictions, pd.Series([0.5, 0.5], index=[7, 8])), nc.NeurocnnError, "part")

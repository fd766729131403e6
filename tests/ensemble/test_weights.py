"""The weights of a vote are validation balanced accuracies, in any order of rows."""

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from neurocnn.ensemble import part_balanced_accuracy, part_weights
from neurocnn.errors import NeurocnnError, SettingError, TableError

# Three parts whose balanced accuracies, computed by hand, are 1, 3/4 and 1/2.
THREE_PARTS = pd.DataFrame(
    {
        "participant_id": ["sub-01", "sub-02", "sub-03"] * 3,
        "session_id": "ses-M00",
        "part_id": [7] * 3 + [2] * 3 + [4] * 3,
        "true_label": [0, 0, 1] * 3,
        "predicted_label": [0, 0, 1, 0, 1, 1, 0, 0, 0],
    }
)


@st.composite
def labelled_parts(draw: st.DrawFn) -> pd.DataFrame:
    n_classes = draw(st.integers(2, 4))
    label = st.integers(0, n_classes - 1)
    rows = draw(st.lists(st.tuples(st.integers(0, 4), label, label), min_size=1, max_size=60))
    return pd.DataFrame(rows, columns=["part_id", "true_label", "predicted_label"])


# scikit-learn warns of classes that are predicted but never true, and ignores these classes too.
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@given(labelled_parts())
def test_the_balanced_accuracy_of_a_part_equals_that_of_scikit_learn(predictions):
    ours = part_balanced_accuracy(predictions)
    assert list(ours.index) == sorted(predictions["part_id"].unique())
    for part_id, rows in predictions.groupby("part_id"):
        expected = balanced_accuracy_score(rows["true_label"], rows["predicted_label"])
        assert ours[part_id] == pytest.approx(expected, abs=1e-12)


@given(st.data(), labelled_parts())
def test_the_order_of_rows_does_not_change_the_accuracies(data, predictions):
    order = data.draw(st.permutations(range(len(predictions))))
    pd.testing.assert_series_equal(
        part_balanced_accuracy(predictions), part_balanced_accuracy(predictions.iloc[order])
    )


def test_weights_are_accuracies_scaled_to_sum_to_one():
    accuracies = part_balanced_accuracy(THREE_PARTS)
    assert accuracies.to_dict() == {2: 0.75, 4: 0.5, 7: 1.0}
    weights = part_weights(THREE_PARTS)
    assert weights.index.name == "part_id"
    assert weights.to_dict() == pytest.approx({2: 0.75 / 2.25, 4: 0.5 / 2.25, 7: 1 / 2.25})
    assert weights.sum() == pytest.approx(1, abs=1e-15)


def test_only_parts_above_the_threshold_have_a_weight():
    weights = part_weights(THREE_PARTS, selection_threshold=0.5)
    assert weights.to_dict() == pytest.approx({2: 0.75 / 1.75, 4: 0, 7: 1 / 1.75})


@pytest.mark.faults
def test_a_threshold_that_no_part_exceeds_is_refused_with_the_highest_accuracy():
    poor = THREE_PARTS[THREE_PARTS["part_id"] != 7]
    with pytest.raises(SettingError, match=r"0\.8: no part exceeds it.* is 0\.75 \(part 2\)"):
        part_weights(poor, selection_threshold=0.8)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "0.5", [0.5]])
def test_a_threshold_outside_0_to_1_is_refused(threshold):
    with pytest.raises(SettingError, match="expected a finite number ≥ 0 and ≤ 1"):
        part_weights(THREE_PARTS, selection_threshold=threshold)


@pytest.mark.faults
def test_parts_that_are_always_wrong_get_equal_weights_with_a_warning():
    wrong = THREE_PARTS.assign(predicted_label=1 - THREE_PARTS["true_label"])
    with pytest.warns(UserWarning, match="all 3 parts have a validation balanced accuracy of 0"):
        weights = part_weights(wrong)
    assert weights.to_dict() == pytest.approx({2: 1 / 3, 4: 1 / 3, 7: 1 / 3})


@pytest.mark.faults
@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
def test_rows_without_labels_are_refused_with_their_part_ids(missing):
    labels = THREE_PARTS["true_label"].astype(object).where(THREE_PARTS.index != 4, missing)
    with pytest.raises(TableError, match=r"1 of 9 rows lack a label or part_id \(parts \[2\]\)"):
        part_weights(THREE_PARTS.assign(true_label=labels))


def test_a_missing_column_and_an_empty_table_are_refused():
    with pytest.raises(
        TableError, match=r"the column 'predicted_label' is missing.*There are: part_id, participant_id"
    ):
        part_weights(THREE_PARTS.drop(columns="predicted_label"))
    with pytest.raises(TableError, match="no row"):
        part_weights(THREE_PARTS.iloc[:0])


def test_errors_can_be_pickled():
    with pytest.raises(NeurocnnError) as caught:
        part_weights(THREE_PARTS, selection_threshold=1)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

"""Votes equal a loop over single images and do not depend on the order of rows."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neurocnn.ensemble import average, hard_vote, part_weights, soft_vote
from neurocnn.errors import SettingError, TableError

IMAGE = ["participant_id", "session_id", "cohort"]


def table_of(rows: dict[tuple[str, str, int], list[float]], **columns: object) -> pd.DataFrame:
    """Return a table of predictions from {(participant, session, part): probabilities}."""
    keys = pd.DataFrame(list(rows), columns=["participant_id", "session_id", "part_id"])
    probabilities = np.array(list(rows.values()), dtype=float)
    keys["predicted_label"] = probabilities.argmax(axis=1)
    return keys.assign(**columns, **{f"proba{c}": p for c, p in enumerate(probabilities.T)})


@st.composite
def predictions(draw: st.DrawFn) -> pd.DataFrame:
    """Draw predictions for parts of images of one or two cohorts, in any order, with many equal probabilities."""
    n_classes = draw(st.integers(2, 4))
    rows = []
    cohorts = draw(st.sampled_from([["A"], ["A", "B"]]))
    images = [(f"sub-{i}", f"ses-M{j:02}", c) for i in range(3) for j in (0, 6) for c in cohorts]
    for image in draw(st.lists(st.sampled_from(images), min_size=1, unique=True)):
        true_label = draw(st.integers(0, n_classes - 1))
        for part_id in draw(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True)):
            cuts = sorted(draw(st.lists(st.integers(0, 64), min_size=n_classes - 1, max_size=n_classes - 1)))
            probabilities = np.diff([0, *cuts, 64]) / 64
            rows.append((*image, part_id, true_label, int(probabilities.argmax()), *probabilities))
    columns = [*IMAGE, "part_id", "true_label", "predicted_label", *(f"proba{c}" for c in range(n_classes))]
    table = pd.DataFrame(draw(st.permutations(rows)), columns=columns)
    return table if len(cohorts) > 1 else table.drop(columns="cohort")


weights_of_six = st.lists(st.floats(0.01, 1), min_size=6, max_size=6).map(pd.Series)


def keys_of(table: pd.DataFrame) -> list[str]:
    return [key for key in IMAGE if key in table]


def naive_soft_vote(table: pd.DataFrame, weights: pd.Series) -> dict[tuple[str, ...], list[float]]:
    """Return the weighted means of the rows of each image by a loop, in the order of the images' first rows."""
    n_classes = sum(column.startswith("proba") for column in table)
    sums: dict[tuple[str, ...], list[float]] = {}
    totals: dict[tuple[str, ...], float] = {}
    for row in table.to_dict("records"):
        key = tuple(row[k] for k in keys_of(table))
        image = sums.setdefault(key, [0.0] * n_classes)
        totals[key] = totals.get(key, 0.0) + weights[row["part_id"]]
        for c in range(n_classes):
            image[c] += weights[row["part_id"]] * row[f"proba{c}"]
    return {key: [value / totals[key] for value in image] for key, image in sums.items()}


@given(predictions(), weights_of_six)
def test_a_soft_vote_is_the_weighted_mean_over_the_parts_that_an_image_has(table, weights):
    voted = soft_vote(table, weights)
    expected = naive_soft_vote(table, weights)
    found = voted.set_index(keys_of(table)).filter(like="proba")
    assert list(found.index) == list(expected)
    np.testing.assert_allclose(found.to_numpy(), list(expected.values()), rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=0, atol=1e-13)


@given(predictions())
def test_a_soft_vote_without_weights_is_the_unweighted_mean(table):
    classes = [column for column in table if column.startswith("proba")]
    means = table.groupby(keys_of(table), sort=False)[classes].mean().reset_index()
    pd.testing.assert_frame_equal(soft_vote(table)[means.columns], means, rtol=0, atol=1e-13)


@given(st.data(), predictions(), weights_of_six)
def test_a_vote_does_not_depend_on_the_order_of_rows(data, table, weights):
    shuffled = table.iloc[data.draw(st.permutations(range(len(table))))]
    for vote in (lambda t: soft_vote(t, weights), hard_vote):
        first, second = (vote(t).sort_values(keys_of(t), ignore_index=True) for t in (table, shuffled))
        pd.testing.assert_frame_equal(first, second, check_exact=True)


@given(predictions(), weights_of_six, st.floats(1e-3, 1e3))
def test_the_scale_of_weights_does_not_matter(table, weights, scale):
    once, scaled = soft_vote(table, weights), soft_vote(table, weights * scale)
    pd.testing.assert_frame_equal(once, scaled, rtol=0, atol=1e-13)
    pd.testing.assert_frame_equal(once, soft_vote(table, weights * 4), check_exact=True)


@given(predictions(), weights_of_six)
def test_weights_are_matched_by_part_id_instead_of_position(table, weights):
    backwards = weights.iloc[::-1]
    pd.testing.assert_frame_equal(soft_vote(table, weights), soft_vote(table, backwards), check_exact=True)
    pd.testing.assert_frame_equal(soft_vote(table, weights), soft_vote(table, weights.to_dict()))


@given(predictions(), weights_of_six, st.integers(0, 5))
def test_a_part_of_weight_zero_has_the_same_effect_as_a_missing_part(table, weights, part_id):
    weights[part_id] = 0
    without = table[table["part_id"] != part_id]
    keys = keys_of(table)
    table = table[table.set_index(keys).index.isin(without.set_index(keys).index)]
    assume(len(table))
    voted, expected = (soft_vote(t, weights).sort_values(keys, ignore_index=True) for t in (table, without))
    pd.testing.assert_frame_equal(voted, expected, rtol=0, atol=1e-13)


@given(predictions())
def test_a_hard_vote_counts_parts_and_the_lower_class_wins_a_tie(table):
    voted = hard_vote(table).set_index(keys_of(table))
    for key, rows in table.groupby(keys_of(table)):
        counts = [
            int((rows["predicted_label"] == c).sum()) for c in range(voted.filter(like="proba").shape[1])
        ]
        image = voted.loc[key]
        assert image["predicted_label"] == counts.index(max(counts))
        assert [image[f"proba{c}"] for c in range(len(counts))] == [n / len(rows) for n in counts]


@given(predictions(), st.randoms(use_true_random=False))
def test_an_average_is_the_mean_of_the_values_of_an_image(table, random):
    values = table.drop(columns=[c for c in table if c.startswith("proba")])
    values["predicted_label"] = [random.uniform(50, 90) for _ in range(len(values))]
    averaged = average(values).set_index(keys_of(table))
    for key, rows in values.groupby(keys_of(table)):
        expected = sum(rows["predicted_label"].tolist()) / len(rows)
        assert averaged.loc[key, "predicted_label"] == pytest.approx(expected, rel=1e-14)
        assert averaged.loc[key, "true_label"] == rows["true_label"].iloc[0]


@pytest.mark.parametrize(
    ("parts", "winner"),
    [
        ([[0.5, 0.5]], 0),
        # The exact means are equal, but float64 sums of tenths are not.
        ([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], 0),
        ([[0.2, 0.4, 0.4]], 1),
        ([[0.1, 0.3, 0.6], [0.1, 0.6, 0.3]], 1),
        ([[0.49, 0.51]], 1),
    ],
)
def test_the_lower_class_wins_a_tie_of_a_soft_vote(parts, winner):
    table = table_of({("sub-1", "ses-M00", j): p for j, p in enumerate(parts)})
    assert soft_vote(table)["predicted_label"].tolist() == [winner]
    mirrored = table_of({("sub-1", "ses-M00", j): p for j, p in enumerate(parts[::-1])})
    assert soft_vote(mirrored)["predicted_label"].tolist() == [winner]


def test_both_hippocampi_have_equal_weights_by_default():
    table = table_of({("sub-1", "ses-M00", 0): [0.9, 0.1], ("sub-1", "ses-M00", 1): [0.2, 0.8]}, true_label=0)
    assert soft_vote(table).to_dict("records") == [
        {
            "participant_id": "sub-1",
            "session_id": "ses-M00",
            "true_label": 0,
            "predicted_label": 0,
            "proba0": pytest.approx(0.55),
            "proba1": pytest.approx(0.45),
        }
    ]


def test_a_vote_has_the_documented_columns_and_integer_labels():
    table = table_of({("sub-1", "ses-M00", 0): [0.9, 0.1]}, true_label=0, cohort="A", loss=0.3)
    expected = [*IMAGE, "true_label", "predicted_label", "proba0", "proba1"]
    for voted in (soft_vote(table), hard_vote(table)):
        assert list(voted.columns) == expected
        assert voted["true_label"].dtype == voted["predicted_label"].dtype == np.int64
    assert list(average(table.drop(columns=["proba0", "proba1"])).columns) == expected[:-2]


def test_twelve_classes_are_in_numeric_order():
    probabilities = np.full(12, 0.05)
    probabilities[10] = 0.45
    voted = soft_vote(table_of({("sub-1", "ses-M00", 0): probabilities.tolist()}))
    assert voted["predicted_label"].item() == 10
    assert list(voted.columns)[-12:] == [f"proba{c}" for c in range(12)]


@pytest.mark.parametrize("labels", [None, [np.nan] * 2, [pd.NA] * 2, pd.array([None, None], "Int64")])
def test_images_without_labels_are_accepted(labels):
    table = table_of({("sub-1", "ses-M00", j): [0.2, 0.8] for j in (0, 1)})
    if labels is not None:
        table["true_label"] = labels
    for voted in (soft_vote(table), hard_vote(table), average(table.drop(columns=["proba0", "proba1"]))):
        assert voted["predicted_label"].tolist() == [1]
        assert ("true_label" in voted) == (labels is not None)
        assert labels is None or voted["true_label"].isna().all()


def test_the_same_participant_id_in_two_cohorts_is_two_images():
    rows = {("sub-1", "ses-M00", 0): [0.2, 0.8]}
    both = pd.concat([table_of(rows, cohort="A"), table_of({key: [0.6, 0.4] for key in rows}, cohort="B")])
    assert soft_vote(both)[["cohort", "predicted_label"]].values.tolist() == [["A", 1], ["B", 0]]


def test_an_average_omits_loss_and_text_and_includes_every_metric():
    rows = {("sub-1", "ses-M00", j): [1.0] for j in (0, 1)}
    table = table_of(rows, mse=[0.1, 0.3], psnr=[20.0, 30.0], loss=[1.0, 2.0], scanner="x")
    table = table.drop(columns=["proba0", "predicted_label"])
    assert average(table).to_dict("records") == [
        {"participant_id": "sub-1", "session_id": "ses-M00", "mse": pytest.approx(0.2), "psnr": 25.0}
    ]


@pytest.mark.faults
def test_equal_weights_replace_weights_of_zero_with_a_warning():
    table = table_of({("sub-1", "ses-M00", 0): [0.9, 0.1], ("sub-1", "ses-M00", 1): [0.2, 0.8]})
    with pytest.warns(UserWarning, match="all weights of an image are zero.*sub-1 ses-M00 part 0"):
        voted = soft_vote(table, {0: 0.0, 1: 0.0})
    pd.testing.assert_frame_equal(voted, soft_vote(table))


@pytest.mark.faults
def test_a_warning_names_an_image_whose_parts_all_have_weight_zero_and_other_votes_are_unchanged():
    table = table_of(
        {
            ("sub-1", "ses-M00", 0): [0.9, 0.1],
            ("sub-1", "ses-M00", 1): [0.2, 0.8],
            ("sub-2", "ses-M00", 0): [0.7, 0.3],
        }
    )
    with pytest.warns(UserWarning, match="get equal weights: sub-2 ses-M00 part 0$"):
        voted = soft_vote(table, {0: 0.0, 1: 1.0})
    assert voted["proba0"].tolist() == [0.2, 0.7]


@pytest.mark.faults
def test_a_part_without_a_weight_is_omitted_with_a_warning():
    table = table_of({("sub-1", "ses-M00", 0): [0.9, 0.1], ("sub-1", "ses-M00", 5): [0.2, 0.8]})
    with pytest.warns(UserWarning, match=r"without a weight are omitted from the vote: \[5\]"):
        voted = soft_vote(table, {0: 0.25})
    assert voted["proba0"].tolist() == [0.9]


@pytest.mark.faults
def test_an_image_without_any_weighted_part_is_refused_with_its_name():
    table = table_of({("sub-1", "ses-M00", 0): [0.9, 0.1], ("sub-2", "ses-M06", 5): [0.2, 0.8]})
    with pytest.raises(
        TableError, match=r"images without a weighted part; found weights .*\[0\]: sub-2 ses-M06 part 5"
    ):
        soft_vote(table, {0: 1.0})


@pytest.mark.faults
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (pd.Series([0.5, 0.5], index=[3, 3]), "part 3 has two weights"),
        ({0: -0.5, 1: 1.0}, r"weights\[0\]=-0.5; expected a finite number ≥ 0"),
        ({0: np.nan}, "expected a finite number"),
        ({0: np.inf}, "expected a finite number"),
        ({0: "much"}, "expected a finite number"),
        ({}, "at least one weight"),
        ({"0": 1.0}, "part_id='0'; expected an integer"),
        ({0.5: 1.0}, r"part_id=0\.5; expected an integer"),
        ([0.5, 0.5], "a Series indexed by part_id or a dict"),
        (np.ones(2), "a Series indexed by part_id or a dict"),
        ((1.0,), "a Series indexed by part_id or a dict"),
        ({1.0, 2.0}, "a Series indexed by part_id or a dict"),
        (1.0, "a Series indexed by part_id or a dict"),
        ("weights", "a Series indexed by part_id or a dict"),
        (pd.DataFrame({"weight": [1.0]}), "a Series indexed by part_id or a dict"),
        (object(), "a Series indexed by part_id or a dict"),
    ],
)
def test_unusable_weights_are_refused(weights, message):
    table = table_of({("sub-1", "ses-M00", 0): [0.9, 0.1]})
    with pytest.raises(SettingError, match=message):
        soft_vote(table, weights)


@pytest.mark.faults
@pytest.mark.parametrize("other", [None, "predictions.tsv", 3, [1], {"part_id": [0]}, object()])
@pytest.mark.parametrize("vote", [soft_vote, hard_vote, average, part_weights])
def test_a_value_that_is_not_a_table_is_refused(vote, other):
    with pytest.raises(TableError, match=r"predictions=.*; expected a DataFrame"):
        vote(other)


@pytest.mark.faults
@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
def test_an_impossible_probability_is_refused_with_its_image(bad):
    table = table_of({("sub-1", "ses-M00", 0): [0.9, 0.1], ("sub-2", "ses-M06", 3): [0.2, bad]})
    with pytest.raises(TableError, match="sub-2 ses-M06 part 3;"):
        soft_vote(table)


@pytest.mark.faults
def test_two_true_labels_for_one_image_are_refused_and_shown():
    table = table_of({("sub-1", "ses-M00", j): [0.9, 0.1] for j in (0, 1)}, true_label=[0, 1])
    for vote in (soft_vote, hard_vote):
        with pytest.raises(
            TableError, match=r"two true labels \(\[0, 1\] for the first such image\): sub-1 ses-M00 part 0"
        ):
            vote(table)


@pytest.mark.faults
def test_a_repeated_part_is_refused():
    table = table_of({("sub-1", "ses-M00", 0): [0.9, 0.1]}, cohort="A")
    with pytest.raises(TableError, match="twice: A sub-1 ses-M00 part 0"):
        soft_vote(pd.concat([table, table]))


def test_a_message_names_five_invalid_rows_and_counts_the_others():
    table = table_of({("sub-1", "ses-M00", j): [np.nan, 0.1] for j in range(7)})
    with pytest.raises(TableError, match="part 4 and 2 more"):
        soft_vote(table)


@pytest.mark.faults
@pytest.mark.parametrize("column", ["participant_id", "session_id", "part_id"])
def test_a_missing_id_is_refused(column):
    table = table_of({("sub-1", "ses-M00", 0): [0.9, 0.1], ("sub-2", "ses-M00", 0): [0.9, 0.1]})
    with pytest.raises(TableError, match=f"the column '{column}' is missing"):
        soft_vote(table.drop(columns=column))
    table[column] = table[column].astype(object).where(table.index != 1, None)
    with pytest.raises(TableError, match=r"row 1: a value of .* is missing"):
        soft_vote(table)


def test_tables_without_the_required_columns_are_refused():
    table = table_of({("sub-1", "ses-M00", 0): [0.9, 0.1]})
    with pytest.raises(TableError, match=r"use `average` for numbers"):
        soft_vote(table.drop(columns=["proba0", "proba1"]))
    with pytest.raises(TableError, match="found the columns proba1; expected proba0"):
        soft_vote(table.drop(columns="proba0"))
    with pytest.raises(TableError, match="use soft_vote or hard_vote"):
        average(table)
    with pytest.raises(TableError, match="no numeric column to average"):
        average(table[["participant_id", "session_id", "part_id"]])
    with pytest.raises(TableError, match="no row"):
        soft_vote(table.iloc[:0])
    with pytest.raises(TableError, match="'part_id' has the dtype float64; expected integers"):
        soft_vote(table.assign(part_id=0.5))
    with pytest.raises(TableError, match=r"not the index of a class.*sub-1"):
        hard_vote(table.assign(predicted_label=0.5))


def test_a_vote_changes_neither_table_nor_weights():
    table = table_of({("sub-2", "ses-M00", 1): [0.9, 0.1], ("sub-1", "ses-M00", 0): [0.4, 0.6]}, true_label=0)
    weights = pd.Series({0: 1.0, 1: 3.0})
    before = table.copy(), weights.copy()
    soft_vote(table, weights)
    hard_vote(table)
    pd.testing.assert_frame_equal(table, before[0])
    pd.testing.assert_series_equal(weights, before[1])


def test_ten_thousand_images_of_36_parts_vote_in_under_two_seconds():
    # This takes about 0.3 s on a slow core. The limit allows for busy machines; a loop over rows would take minutes.
    n_images, n_parts = 10_000, 36
    rng = np.random.default_rng(0)
    probability = rng.random(n_images * n_parts)
    table = pd.DataFrame(
        {
            "participant_id": np.repeat([f"sub-{i:05}" for i in range(n_images)], n_parts),
            "session_id": "ses-M00",
            "part_id": np.tile(np.arange(n_parts), n_images),
            "true_label": np.repeat(rng.integers(0, 2, n_images), n_parts),
            "predicted_label": (probability > 0.5).astype(int),
            "proba0": 1 - probability,
            "proba1": probability,
        }
    )
    start = time.process_time()
    voted = soft_vote(table, part_weights(table))
    assert time.process_time() - start < 2
    assert len(voted) == n_images

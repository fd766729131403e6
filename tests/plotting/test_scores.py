"""The numbers in figures of scores are those of scikit-learn."""

import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from neurocnn.errors import TableError
from neurocnn.plotting import confusion_matrix, roc


def predictions_of(n: int, n_classes: int = 2, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % n_classes
    probabilities = rng.dirichlet(np.ones(n_classes), n).round(2) + 0.3 * np.eye(n_classes)[truth]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i}" for i in range(n)],
            "true_label": truth,
            "predicted_label": probabilities.argmax(axis=1),
            **{f"proba{c}": probabilities[:, c] for c in range(n_classes)},
        }
    )


def tiles(axes) -> list[list[str]]:
    return [text.get_text().split("\n") for text in axes.texts]


@pytest.mark.parametrize("classes", [["CN", "AD"], ["CN", "MCI", "AD"]])
def test_the_tiles_contain_the_counts_of_scikit_learn_and_percentages_of_the_true_class(classes):
    table = predictions_of(37, len(classes))
    (axes,) = confusion_matrix(table, classes).axes
    counts = metrics.confusion_matrix(table["true_label"], table["predicted_label"])
    shares = metrics.confusion_matrix(table["true_label"], table["predicted_label"], normalize="true")
    assert tiles(axes) == [
        [f"{c}", f"{100 * s:.1f} %"] for c, s in zip(counts.flat, shares.flat, strict=True)
    ]
    np.testing.assert_allclose(axes.images[0].get_array(), shares)
    assert [label.get_text() for label in axes.get_xticklabels()] == classes
    rows = [f"{name}\n(n = {total})" for name, total in zip(classes, counts.sum(axis=1), strict=True)]
    assert [label.get_text() for label in axes.get_yticklabels()] == rows


def test_counts_of_splits_are_summed_for_every_form_of_input():
    tables = [predictions_of(n, seed=n) for n in (11, 14, 9)]
    together = pd.concat([table.assign(split=i) for i, table in enumerate(tables)])
    every = pd.concat(tables)
    counts = metrics.confusion_matrix(every["true_label"], every["predicted_label"])
    for given in (tables, dict(enumerate(tables)), together):
        (axes,) = confusion_matrix(given, ["CN", "AD"]).axes
        assert [int(tile[0]) for tile in tiles(axes)] == counts.ravel().tolist()
        assert axes.get_xlabel() == "Predicted class\nsum of 3 splits"


def test_a_class_that_does_not_occur_has_zero_percent():
    table = predictions_of(6).assign(true_label=0)
    (axes,) = confusion_matrix(table, ["CN", "AD"]).axes
    assert tiles(axes)[2:] == [["0", "0.0 %"], ["0", "0.0 %"]]


def curves_of(axes) -> list[np.ndarray]:
    return [line.get_xydata() for line in axes.lines if line.get_label() != "chance"]


def legend_of(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_single_roc_curve_equals_scikit_learn_and_its_area_is_shown():
    table = predictions_of(40)
    (axes,) = roc(table, ["CN", "AD"]).axes
    fpr, tpr, _ = metrics.roc_curve(table["true_label"], table["proba1"])
    np.testing.assert_array_equal(curves_of(axes)[0], np.column_stack([fpr, tpr]))
    area = metrics.roc_auc_score(table["true_label"], table["proba1"])
    assert legend_of(axes) == ["chance", f"AD: AUC {area:.2f}"]
    assert axes.get_title("left") == "ROC"


def test_the_chance_line_is_the_diagonal():
    (axes,) = roc(predictions_of(10), ["CN", "AD"]).axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]


def sensitivity_at(rate: float, table: pd.DataFrame) -> float:
    """Return the sensitivity of the ROC curve at a false-positive rate: the upper end of a rise, a point of a slope."""
    points = list(zip(*metrics.roc_curve(table["true_label"], table["proba1"])[:2], strict=True))
    best = max((y for x, y in points if x == rate), default=None)
    if best is not None:
        return best
    (x0, y0), (x1, y1) = next((a, b) for a, b in itertools.pairwise(points) if a[0] < rate < b[0])
    return y0 + (y1 - y0) * (rate - x0) / (x1 - x0)


def test_curves_of_splits_are_drawn_with_their_mean_and_the_mean_and_sd_of_their_areas():
    tables = {name: predictions_of(n, seed=n) for name, n in (("a", 26), ("b", 31), ("c", 44))}
    (axes,) = roc(tables, ["CN", "AD"]).axes
    *single, mean = curves_of(axes)
    for drawn, table in zip(single, tables.values(), strict=True):
        fpr, tpr, _ = metrics.roc_curve(table["true_label"], table["proba1"])
        np.testing.assert_array_equal(drawn, np.column_stack([fpr, tpr]))
    assert mean[0].tolist() == [0, 0]
    for rate, height in mean[1::20]:
        expected = np.mean([sensitivity_at(rate, table) for table in tables.values()])
        assert height == pytest.approx(expected, abs=1e-12)
    areas = [metrics.roc_auc_score(table["true_label"], table["proba1"]) for table in tables.values()]
    sd = np.sqrt(sum((a - sum(areas) / 3) ** 2 for a in areas) / 2)
    assert legend_of(axes) == ["chance", f"AD: AUC {sum(areas) / 3:.2f} ± {sd:.2f}"]
    assert axes.get_legend().get_title().get_text() == "mean ± SD of 3 splits"


def test_each_of_three_classes_is_drawn_against_the_other_classes():
    table = predictions_of(60, 3)
    (axes,) = roc(table, ["CN", "MCI", "AD"]).axes
    areas = [metrics.roc_auc_score(table["true_label"] == c, table[f"proba{c}"]) for c in range(3)]
    expected = [f"{name}: AUC {area:.2f}" for name, area in zip(["CN", "MCI", "AD"], areas, strict=True)]
    assert legend_of(axes) == ["chance", *expected]
    assert len({line.get_color() for line in axes.lines}) == 4


@pytest.mark.parametrize("picture", [confusion_matrix, roc])
def test_tables_that_cannot_be_drawn_are_refused(picture):
    table = predictions_of(10)
    with pytest.raises(TableError, match="the table has no rows"):
        picture([], ["CN", "AD"])
    with pytest.raises(TableError, match="split 0: the column 'true_label' is missing"):
        picture(table.drop(columns="true_label"), ["CN", "AD"])
    with pytest.raises(TableError, match=r"split 'x': true_label=\[2\]; expected 0 to 1"):
        picture({"x": table.replace({"true_label": {1: 2}})}, ["CN", "AD"])
    with pytest.raises(TableError, match=r"true_label=\[nan\]"):
        picture(table.assign(true_label=table["true_label"].where(table.index != 3)), ["CN", "AD"])


def test_a_curve_needs_both_classes_and_all_probabilities():
    table = predictions_of(10)
    with pytest.raises(TableError, match=r"0 of 10 images have class 1"):
        roc(table.assign(true_label=0), ["CN", "AD"])
    with pytest.raises(TableError, match="proba1 is missing or has missing values"):
        roc(table.assign(proba1=table["proba1"].where(table.index != 3)), ["CN", "AD"])


def test_only_the_ensemble_is_counted_and_it_has_no_roc_curve():
    tables = {0: predictions_of(20), 1: predictions_of(20, seed=1), "ensemble": predictions_of(20, seed=2)}
    together = pd.concat([table.assign(split=name) for name, table in tables.items()])
    (axes,) = confusion_matrix(together, ["CN", "AD"]).axes
    assert sum(int(text.get_text().split("\n")[0]) for text in axes.texts) == 20
    (axes,) = roc(together, ["CN", "AD"]).axes
    assert axes.get_legend().get_title().get_text() == "mean ± SD of 2 splits"

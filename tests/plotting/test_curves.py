"""Learning curves show the values of the history, and mark the best epochs and the end of training."""

import numpy as np
import pandas as pd
import pytest

from neurocnn.errors import TableError
from neurocnn.plotting import learning_curves


def history_of(n_epochs: int, seed: int = 0, **columns: object) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    names = [
        f"{which}_{metric}" for which in ("train", "validation") for metric in ("loss", "balanced_accuracy")
    ]
    table = pd.DataFrame({"epoch": range(n_epochs), "iteration": np.arange(1, n_epochs + 1) * 10})
    return table.assign(time=1.0, **{name: rng.random(n_epochs) for name in names}, **columns)


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found


def marks(axes, marker):
    """Return the positions of all marks of a kind: stars have a path of 11 points, strokes a path of 2."""
    corners = {"best": 11, "end": 2}[marker]
    shapes = [c for c in axes.collections if len(c.get_paths()[0].vertices) == corners]
    return [tuple(shape.get_offsets()[0].tolist()) for shape in shapes]


def test_the_lines_are_the_columns_of_the_history():
    history = history_of(7)
    loss, accuracy = learning_curves(history).axes
    assert [loss.get_title("left"), accuracy.get_title("left")] == ["Loss", "Balanced accuracy"]
    for axes, metric in ((loss, "loss"), (accuracy, "balanced_accuracy")):
        for which in ("train", "validation"):
            np.testing.assert_array_equal(line(axes, which).get_xdata(), history["epoch"])
            np.testing.assert_array_equal(line(axes, which).get_ydata(), history[f"{which}_{metric}"])


def test_best_epochs_are_the_first_lowest_loss_and_the_first_highest_accuracy():
    history = history_of(6)
    history["validation_loss"] = [0.9, 0.4, 0.5, 0.4, 0.6, 0.7]
    history["validation_balanced_accuracy"] = [0.5, 0.6, 0.8, 0.7, 0.8, 0.6]
    loss, accuracy = learning_curves(history).axes
    assert marks(loss, "best") == [(1, 0.4)]
    assert marks(accuracy, "best") == [(2, 0.8)]


def test_given_best_epochs_and_the_end_are_marked_at_their_values():
    history = history_of(6)
    loss, accuracy = learning_curves(history, {"best_loss": 3}, stopped=4).axes
    assert marks(loss, "best") == [(3, history["validation_loss"][3])]
    assert marks(loss, "end") == [(4, history["validation_loss"][4])]
    assert marks(accuracy, "best") == []


def test_by_default_the_last_epoch_is_marked_as_the_end():
    history = history_of(6)
    for axes, metric in zip(learning_curves(history).axes, ("loss", "balanced_accuracy"), strict=True):
        assert marks(axes, "end") == [(5, history[f"validation_{metric}"][5])]


def test_several_histories_are_drawn_with_their_mean_over_common_epochs():
    tables = {name: history_of(n, seed) for seed, (name, n) in enumerate({"a": 5, "b": 7, "c": 6}.items())}
    loss = learning_curves(tables).axes[0]
    drawn = [line.get_ydata().tolist() for line in loss.lines]
    for table in tables.values():
        assert table["train_loss"].tolist() in drawn
        assert table["validation_loss"].tolist() in drawn
    mean = line(loss, "validation, mean of 3")
    expected = [np.mean([table["validation_loss"][e] for table in tables.values()]) for e in range(5)]
    np.testing.assert_allclose(mean.get_ydata(), expected, rtol=1e-14)
    assert sorted(x for x, _ in marks(loss, "end")) == [4, 5, 6]


def test_one_table_of_all_splits_and_networks_is_drawn_like_a_mapping():
    parts = {(s, n): history_of(4 + s + n, seed=10 * s + n) for s in range(2) for n in range(2)}
    together = pd.concat([table.assign(split=s, network=n) for (s, n), table in parts.items()])
    first, second = (learning_curves(history).axes[1] for history in (parts, together))
    assert len(first.lines) == len(second.lines) == 2 * 4 + 2
    for one, other in zip(first.lines, second.lines, strict=True):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_each_of_several_histories_has_its_own_best_epochs_and_end():
    tables = {0: history_of(5), 1: history_of(6, 1)}
    best = {0: {"best_loss": 1}, 1: {"best_loss": 2}}
    loss, accuracy = learning_curves(tables, best, stopped={0: 3, 1: 4}).axes
    expected = [(epoch, tables[name]["validation_loss"][epoch]) for name, epoch in ((0, 1), (1, 2))]
    assert marks(loss, "best") == expected
    assert [x for x, _ in marks(accuracy, "end")] == [3, 4]
    assert marks(accuracy, "best") == []


@pytest.mark.parametrize("iterations", [[2, 4, 6, 8, 10, 12, 14], [2, 4, 6, 2, 4, 6, 2]])
def test_evaluations_inside_an_epoch_are_drawn_at_the_fraction_of_its_updates(iterations):
    history = history_of(7, epoch=[0, 0, 0, 1, 1, 1, 2], iteration=iterations)
    x = line(learning_curves(history).axes[0], "train").get_xdata()
    np.testing.assert_allclose(x, [-2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1, 4 / 3], atol=1e-12)


def test_the_metrics_to_draw_can_be_chosen_and_a_history_may_have_no_validation():
    history = history_of(5).drop(columns=["validation_loss", "validation_balanced_accuracy"])
    (axes,) = learning_curves(history.assign(train_mae=1.5), metrics=["mae"]).axes
    assert axes.get_title("left") == "MAE"
    assert [line.get_label() for line in axes.lines] == ["train"]
    assert marks(axes, "best") == []


def test_unusable_histories_are_refused():
    with pytest.raises(TableError, match=r"of mae are missing; available metrics: balanced_accuracy, loss"):
        learning_curves(history_of(3), metrics=["mae"])
    with pytest.raises(TableError, match="a table has no row"):
        learning_curves(history_of(3).iloc[:0])
    with pytest.raises(TableError, match="a table has no row"):
        learning_curves({})
    with pytest.raises(TableError, match="of loss are missing; available metrics: none"):
        learning_curves(pd.DataFrame({"epoch": [0]}))

import math

import pytest

from neurocnn.engine.stopping import Stopper, is_better

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("patience", "tolerance", "losses", "stops_after"),
    [
        (1, 0.0, [1.0, 1.0], 2),
        (2, 0.0, [1.0, 1.0, 1.0], 3),
        (2, 0.0, [1.0, 2.0, 0.9, 2.0, 2.0], 5),
        (2, 0.0, [1.0, 0.9, 0.8, 0.7, 0.6], None),
        (0, 0.0, [1.0] * 100, None),
        (3, 0.0, [NAN, NAN, NAN], 3),
        (2, 0.0, [1.0, NAN, 0.9, NAN, NAN], 5),
        (2, 0.0, [NAN, 5.0, 6.0, 6.0], 4),
        (2, 0.0, [INF, INF], 2),
        # Values that are smaller than the best value, but not than 0.9 × best, are not improvements.
        (2, 0.1, [1.0, 0.95, 0.9], 3),
        (2, 0.1, [1.0, 0.95, 0.85, 0.8], None),
        # An improvement must be smaller than best × (1 − tolerance); an equal value is not enough.
        (1, 0.5, [1.0, 0.5], 2),
        # The best value is the smallest of all earlier values, even if it was not an improvement.
        (3, 0.1, [1.0, 0.95, 0.89, 0.85], 4),
        (3, 0.1, [1.0, 0.95, 0.85, 0.85, 0.8], None),
        (1, 0.0, [0.0, 0.0], 2),
    ],
)
def test_early_stopping_agrees_with_reference_values(patience, tolerance, losses, stops_after):
    stopper = Stopper(patience, tolerance)
    stops = [stopper.should_stop_after(loss) for loss in losses]
    assert (stops.index(True) + 1 if True in stops else None) == stops_after


@pytest.mark.parametrize(
    ("metric", "value", "best", "better"),
    [
        ("loss", 1.0, None, True),
        ("loss", 0.9, 1.0, True),
        ("loss", 1.0, 1.0, False),
        ("loss", NAN, None, False),
        ("loss", INF, None, False),
        ("mae", 0.9, 1.0, True),
        ("balanced_accuracy", 0.9, 0.8, True),
        ("balanced_accuracy", 0.8, 0.8, False),
        ("roc_auc", NAN, 0.1, False),
    ],
)
def test_only_a_strictly_better_value_is_better(metric, value, best, better):
    assert is_better(metric, value, best) is better

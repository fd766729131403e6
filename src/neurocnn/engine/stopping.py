"""Early stopping, and the comparison that selects the best epoch."""

import math
from dataclasses import dataclass

from neurocnn.engine.metrics import smaller_is_better


@dataclass
class Stopper:
    """Early stopping if a metric does not improve sufficiently during `patience` epochs.

    An epoch is an improvement if its loss is smaller than best − tolerance × |best|, where best is the smallest loss of
    all earlier epochs. If larger values of the metric are better, its negative is used as the loss. NaN is not an
    improvement.

    Attributes
    ----------
    patience
        Number of epochs without improvement after which to stop; 0 to never stop early.
    tolerance
        Required relative improvement, in [0, 1).
    metric
        Name of the metric, see `smaller_is_better`.
    best
        Best earlier value, negated if larger values are better.

    Examples
    --------
    >>> stopper = Stopper(patience=2, tolerance=0.1)
    >>> [stopper.should_stop_after(loss) for loss in (1.0, 0.95, 0.9)]
    [False, False, True]
    >>> stopper = Stopper(patience=1, tolerance=0.0, metric="roc_auc")
    >>> [stopper.should_stop_after(area) for area in (0.7, 0.8, 0.75)]
    [False, False, True]
    """

    patience: int
    tolerance: float
    metric: str = "loss"
    best: float = math.inf
    waited: int = 0

    def should_stop_after(self, value: float) -> bool:
        """Return whether training should stop after the epoch that ended with this value of the metric."""
        loss = value if smaller_is_better(self.metric) else -value
        improved = loss < self.best * (1 - math.copysign(self.tolerance, self.best))
        self.waited = 0 if improved else self.waited + 1
        if loss < self.best:
            self.best = loss
        return 0 < self.patience <= self.waited


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Return whether a value is finite and strictly better than the best earlier value.

    Examples
    --------
    >>> is_better("loss", 0.5, None), is_better("loss", 0.5, 0.5), is_better("roc_auc", 0.9, 0.8)
    (True, False, True)
    """
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best if smaller_is_better(metric) else value > best

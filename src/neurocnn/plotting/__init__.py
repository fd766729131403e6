"""Figures (extra ``plot``): learning curves, scores, predictions, maps of the brain, and a report.

Every function except `report` accepts a `Results`, tables or arrays, and returns a matplotlib Figure. A notebook
displays the figure, and ``figure.savefig(path)`` writes it. matplotlib is imported when the first figure is created.
"""

from neurocnn.plotting.curves import learning_curves
from neurocnn.plotting.explanations import explanation
from neurocnn.plotting.overview import overview
from neurocnn.plotting.predictions import bland_altman, precision_recall, predicted_against_true, reliability
from neurocnn.plotting.reconstructions import reconstruction
from neurocnn.plotting.report import report
from neurocnn.plotting.scores import confusion_matrix, roc
from neurocnn.plotting.thumbnails import thumbnails
from neurocnn.plotting.volumes import part_map, parts, planes

__all__ = [
    "bland_altman",
    "confusion_matrix",
    "explanation",
    "learning_curves",
    "overview",
    "part_map",
    "parts",
    "planes",
    "precision_recall",
    "predicted_against_true",
    "reconstruction",
    "reliability",
    "report",
    "roc",
    "thumbnails",
]


def __dir__() -> list[str]:
    return __all__

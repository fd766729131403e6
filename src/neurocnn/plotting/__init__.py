"""Figures (extra ``plot``): learning curves, scores, and maps of the brain.

Every function takes plain tables or arrays and returns a matplotlib Figure, which a notebook shows and
``figure.savefig(path)`` writes. matplotlib is imported when the first figure is made.
"""

from neurocnn.plotting.curves import learning_curves
from neurocnn.plotting.overview import overview
from neurocnn.plotting.scores import confusion_matrix, roc
from neurocnn.plotting.volumes import part_map, planes, reconstruction

__all__ = ["confusion_matrix", "learning_curves", "overview", "part_map", "planes", "reconstruction", "roc"]

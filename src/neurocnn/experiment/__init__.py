"""Experiments, which train networks into a result folder: their folds, transfer and resume."""

from neurocnn.experiment.experiment import Experiment
from neurocnn.experiment.search import search

__all__ = ["Experiment", "search"]

"""Experiments, which train networks into a result folder: their folds, transfer and resume."""

from neurocnn.experiment.experiment import Experiment

__all__ = ["Experiment"]

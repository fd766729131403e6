"""Making a result folder: the experiment, its folds, transfer and resume."""

from neurocnn.experiment.experiment import Experiment

__all__ = ["Experiment"]

"""Training and evaluation of networks: tasks, the trainer, tables of predictions."""

from neurocnn.engine.evaluation import encode, evaluate, predict
from neurocnn.engine.intervals import confidence_intervals
from neurocnn.engine.ranks import find_ranks
from neurocnn.engine.standard_tasks import classification, reconstruction, regression
from neurocnn.engine.task import Task
from neurocnn.engine.trainer import Trainer
from neurocnn.engine.training import Callback, Training, TrainingState

__all__ = [
    "Callback",
    "Task",
    "Trainer",
    "Training",
    "TrainingState",
    "classification",
    "confidence_intervals",
    "encode",
    "evaluate",
    "find_ranks",
    "predict",
    "reconstruction",
    "regression",
]

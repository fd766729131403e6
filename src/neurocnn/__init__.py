"""Train 2-D and 3-D CNNs on MRI and PET that Clinica has preprocessed.

The script in the README uses nothing but the names below, in the order of a study: find the images (`Caps`), split the
participants (`holdout`, `kfold`), choose how an image enters (`WholeImage`, `Patch`, `Slice`, `Roi`), what is learnt
(`classification`, `regression`, `reconstruction`) and how (`Trainer`), run it (`Experiment`), and read it (`Results`).
"""

from importlib.metadata import version

from neurocnn.data import (
    Caps,
    CapsDataset,
    Custom,
    FlairLinear,
    MinMax,
    Patch,
    PetLinear,
    Roi,
    Slice,
    Split,
    T1Extensive,
    T1Linear,
    T1Volume,
    WholeImage,
    ZScore,
    holdout,
    kfold,
    make_caps,
    population,
    read_splits,
    write_splits,
)
from neurocnn.engine import Task, Trainer, classification, encode, predict, reconstruction, regression
from neurocnn.ensemble import average, hard_vote, part_weights, soft_vote
from neurocnn.errors import NeurocnnError
from neurocnn.experiment import Experiment
from neurocnn.nn import (
    CNN,
    CNN_Transformer,
    CropMaxUnpool2d,
    CropMaxUnpool3d,
    PadMaxPool2d,
    PadMaxPool3d,
    create_model,
    describe,
    list_models,
    read_weights,
    transfer_weights,
)
from neurocnn.plugins import hookimpl
from neurocnn.results import Results
from neurocnn.storage import read_table, write_table

__version__ = version("neurocnn")


__all__ = [
    "CNN",
    "CNN_Transformer",
    "Caps",
    "CapsDataset",
    "CropMaxUnpool2d",
    "CropMaxUnpool3d",
    "Custom",
    "Experiment",
    "FlairLinear",
    "MinMax",
    "NeurocnnError",
    "PadMaxPool2d",
    "PadMaxPool3d",
    "Patch",
    "PetLinear",
    "Results",
    "Roi",
    "Slice",
    "Split",
    "T1Extensive",
    "T1Linear",
    "T1Volume",
    "Task",
    "Trainer",
    "WholeImage",
    "ZScore",
    "average",
    "classification",
    "create_model",
    "describe",
    "encode",
    "hard_vote",
    "holdout",
    "hookimpl",
    "kfold",
    "list_models",
    "make_caps",
    "part_weights",
    "population",
    "predict",
    "read_splits",
    "read_table",
    "read_weights",
    "reconstruction",
    "regression",
    "soft_vote",
    "transfer_weights",
    "write_splits",
    "write_table",
]

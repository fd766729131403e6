"""Train 2-D and 3-D CNNs on MRI and PET that Clinica has preprocessed.

All public names, by the step of a study:

Images          Caps, and the names of its pipelines: T1Linear, T1Extensive, T1Volume, FlairLinear, PetLinear,
                Custom; for paths in a table: nc.Images; make_caps writes a synthetic CAPS
Participants    read_bids, read_table, write_table, progression, population, balanced, holdout, kfold,
                leave_one_group_out, Split, read_splits, write_splits
Parts           WholeImage, Patch, Slice, Roi; scaling of their voxels: MinMax, ZScore; dataset of parts: CapsDataset
Task            classification, regression, reconstruction; for other tasks: Task
Network         create_model, list_models, describe, CNN; pooling: PadMaxPool2d, PadMaxPool3d, CropMaxUnpool2d,
                CropMaxUnpool3d; autoencoder: CNN_Transformer; weights: transfer_weights, read_weights;
                architectures of your own package: hookimpl
Training        Trainer, whose `fit` returns a Training and passes a TrainingState to callbacks
Study           Experiment, which trains networks on all splits and writes a result folder; search, which finds settings
Results         Results, which reads a result folder; compare, which compares two folders; leaderboard, which ranks
                several folders; without a folder: predict, encode
Votes           part_weights, soft_vote, hard_vote, average
Pictures        plotting, a module that needs the extra ``plot``
Errors          NeurocnnError, the base of all; SettingError (arguments), TableError, ImageError, ModelError
                (networks, plugins), CheckpointError (files of tensors), NotFoundError, StorageError (disks),
                LeakError (a participant in two sets), TrainingError, InUseError (another process uses the folder),
                MissingExtraError (an optional package)

``help(neurocnn.Caps)`` and so on show shapes, units, errors and an example.
"""

import importlib
from importlib.metadata import version
from typing import Any

from neurocnn.data import (
    Caps,
    CapsDataset,
    Custom,
    FlairLinear,
    Images,
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
    balanced,
    holdout,
    kfold,
    leave_one_group_out,
    make_caps,
    population,
    progression,
    read_bids,
    read_splits,
    write_splits,
)
from neurocnn.engine import (
    Task,
    Trainer,
    Training,
    TrainingState,
    classification,
    encode,
    predict,
    reconstruction,
    regression,
)
from neurocnn.ensemble import average, hard_vote, part_weights, soft_vote
from neurocnn.errors import (
    CheckpointError,
    ImageError,
    InUseError,
    LeakError,
    MissingExtraError,
    ModelError,
    NeurocnnError,
    NotFoundError,
    SettingError,
    StorageError,
    TableError,
    TrainingError,
    suggestion,
)
from neurocnn.experiment import Experiment, search
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
from neurocnn.results import Results, compare, leaderboard
from neurocnn.storage import read_table, write_table

__version__ = version("neurocnn")


__all__ = [
    "CNN",
    "CNN_Transformer",
    "Caps",
    "CapsDataset",
    "CheckpointError",
    "CropMaxUnpool2d",
    "CropMaxUnpool3d",
    "Custom",
    "Experiment",
    "FlairLinear",
    "ImageError",
    "Images",
    "InUseError",
    "LeakError",
    "MinMax",
    "MissingExtraError",
    "ModelError",
    "NeurocnnError",
    "NotFoundError",
    "PadMaxPool2d",
    "PadMaxPool3d",
    "Patch",
    "PetLinear",
    "Results",
    "Roi",
    "SettingError",
    "Slice",
    "Split",
    "StorageError",
    "T1Extensive",
    "T1Linear",
    "T1Volume",
    "TableError",
    "Task",
    "Trainer",
    "Training",
    "TrainingError",
    "TrainingState",
    "WholeImage",
    "ZScore",
    "average",
    "balanced",
    "classification",
    "compare",
    "create_model",
    "describe",
    "encode",
    "hard_vote",
    "holdout",
    "hookimpl",
    "kfold",
    "leaderboard",
    "leave_one_group_out",
    "list_models",
    "make_caps",
    "part_weights",
    "population",
    "predict",
    "progression",
    "read_bids",
    "read_splits",
    "read_table",
    "read_weights",
    "reconstruction",
    "regression",
    "search",
    "soft_vote",
    "transfer_weights",
    "write_splits",
    "write_table",
]


def __getattr__(name: str) -> Any:
    # The plotting module is optional. matplotlib is imported only when a figure is drawn.
    if name == "plotting":
        return importlib.import_module("neurocnn.plotting")
    raise AttributeError(f"module 'neurocnn' has no attribute {name!r}; {suggestion(name, __all__)}")


def __dir__() -> list[str]:
    # An import makes submodules attributes of the package, but they are not listed here.
    return [*__all__, "plotting"]

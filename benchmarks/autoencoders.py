"""How well autoencoders reconstruct images of participants that they were not trained on.

Run with ``python benchmarks/autoencoders.py [case ...]``. Each figure is the mean squared error on the validation set,
divided by that of the voxel-wise mean of the training parts; a constant image (the mean intensity of the training
parts) is given in the same unit. About an hour on one core, most of it for the patches.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

import neurocnn as nc


def datasets(folder: Path, preprocessing: str, parts: object, n_train: int, n_validation: int) -> tuple:
    if not folder.exists():
        nc.make_caps(folder, n_participants=n_train + n_validation, preprocessing=preprocessing, seed=0)
    labels = nc.read_table(folder / "labels.tsv")
    caps = nc.Caps(folder, preprocessing)
    train, validation = nc.holdout(
        labels, fraction=n_validation / (n_train + n_validation), stratify=["diagnosis"]
    )
    return nc.CapsDataset(caps, train, parts), nc.CapsDataset(caps, validation, parts)


def stack(dataset: nc.CapsDataset) -> torch.Tensor:
    return torch.stack([dataset[i]["image"] for i in range(len(dataset))])


def measure(
    name: str,
    data: tuple,
    trainer: nc.Trainer,
    architecture: str,
    most: dict[str, float | str],
    bottleneck: int | None = None,
) -> None:
    train, validation = (stack(dataset) for dataset in data)
    mean = ((validation - train.mean(0)) ** 2).mean()
    constant = float(((validation - train.mean()) ** 2).mean() / mean)
    print(f"{name}: {len(train)} training parts; a constant image: {constant:.2f}")
    for output, limit in most.items():
        torch.manual_seed(0)
        cnn = nc.create_model(architecture, data[0].input_shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of output="mirror", which is measured too
            autoencoder = nc.CNN_Transformer(cnn, output=output, bottleneck=bottleneck)
        autoencoder.start_at(float(train.mean()))  # as an experiment does
        start = time.perf_counter()
        history = trainer.fit(autoencoder, nc.reconstruction(), *data).history
        error = history["validation_loss"].to_numpy() / float(mean)
        limit = constant if limit == "constant" else limit
        print(
            f"  {output:8} {error[-1]:8.2f} (best {error.min():.2f}); expected at most {limit:.2f}"
            f"{'' if error[-1] <= limit else '  MISSED'}; {time.perf_counter() - start:.0f} s",
            flush=True,
        )


def lab(folder: Path) -> None:
    """The lab's network at the lab's settings: 30 epochs, batches of 4, learning rate 1e-2."""
    data = datasets(folder / "volume", "t1-volume", nc.Roi.hippocampi("t1-volume"), 30, 10)
    trainer = nc.Trainer(epochs=30, batch_size=4, learning_rate=1e-2, weight_decay=0, patience=0)
    most = {"sigmoid": 0.50, "linear": 0.60, "mirror": float("inf")}
    measure("lab", data, trainer, "Conv3_FC1", most, bottleneck=1)
    measure("lab without bottleneck", data, trainer, "Conv3_FC1", {"sigmoid": 0.50, "linear": 0.60})


def defaults(folder: Path) -> None:
    """Conv3_FC1 at the Trainer's defaults."""
    data = datasets(folder / "volume", "t1-volume", nc.Roi.hippocampi("t1-volume"), 30, 10)
    measure("defaults", data, nc.Trainer(), "Conv3_FC1", {"linear": "constant", "sigmoid": "constant"})


def quickstart(folder: Path) -> None:
    """The quickstart's autoencoder on its first split: 5 epochs, learning rate 1e-2."""
    data = datasets(folder / "quickstart", "t1-volume", nc.Roi.hippocampi("t1-volume"), 58, 30)
    trainer = nc.Trainer(epochs=5, learning_rate=1e-2)
    measure("quickstart", data, trainer, "Conv3_FC1", {"linear": 1.0})


def patches(folder: Path) -> None:
    """Conv4_FC3 on the 36 patches of eight images: 20 epochs, learning rate 1e-3."""
    data = datasets(folder / "linear", "t1-linear", nc.Patch(50, 50), 8, 4)
    measure("patches", data, nc.Trainer(learning_rate=1e-3), "Conv4_FC3", {"linear": 1.0, "sigmoid": 1.0})


CASES: dict[str, Callable[[Path], None]] = {
    "lab": lab,
    "quickstart": quickstart,
    "defaults": defaults,
    "patches": patches,
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for case in sys.argv[1:] or CASES:
            CASES[case](Path(name))

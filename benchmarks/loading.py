"""Samples per second that the loader delivers in each epoch, measured with a network that takes no time.

Run with ``python benchmarks/loading.py [--workers 0 2] [--kinds image patch slice] [--sources prepared nifti]``. Images
have the size of t1-linear. The network reads eight voxels, so that an epoch (a pass of training, and an evaluation of
both sets) takes as long as its data. The first epoch also checks each file.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

# The first step of an optimizer imports this module, which takes longer than a first pass over a dozen images.
import torch._dynamo
from torch import Tensor, nn

import neurocnn as nc

KINDS = {"image": (nc.WholeImage(), 4), "patch": (nc.Patch(50, 50), 32), "slice": (nc.Slice(channels=3), 32)}


class Corner(nn.Module):
    """A network that reads eight voxels."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(image.flatten(1)[:, :8])


def make_images(folder: Path, n: int, prepared: bool, fortran: bool) -> pd.DataFrame:
    """Write a CAPS with images of the size of t1-linear, and return its labels."""
    labels = nc.make_caps(folder, n_participants=n, shape=(169, 208, 179))
    if prepared:
        nc.Caps(folder).prepare(n_workers=2)
    if fortran:
        # ClinicaDL writes the voxels in the order of the NIfTI file, first axis fastest, without a record of origin.
        for path in folder.rglob("*.pt"):
            image = torch.load(path, weights_only=True)
            torch.save(torch.from_numpy(np.asfortranarray(image[0].numpy())).unsqueeze(0), path)
    return labels


def rates(caps: nc.Caps, labels: pd.DataFrame, kind: str, workers: int | str, epochs: int) -> list[float]:
    """Return the samples per second of each epoch."""
    parts, batch_size = KINDS[kind]
    n_validation = max(1, len(labels) // 4)
    train, validation = (
        nc.CapsDataset(caps, table, parts, label="diagnosis")
        for table in (labels[n_validation:], labels[:n_validation])
    )
    task = nc.classification("diagnosis", sorted(labels.diagnosis.unique()))
    trainer = nc.Trainer(epochs=epochs, batch_size=batch_size, patience=0, n_workers=workers, device="cpu")
    marks = [time.perf_counter()]
    trainer.fit(
        Corner(), task, train, validation, callbacks=[lambda state: marks.append(time.perf_counter())]
    )
    n = 2 * len(train) + len(validation)
    return [n / (end - start) for start, end in itertools.pairwise(marks)]


def main() -> None:
    """Print medians over rounds, in which the numbers of workers alternate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", nargs="+", default=["0", "2"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--sources", nargs="+", default=["prepared"], help="prepared, fortran, nifti")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "neurocnn-loading"))
    chosen = parser.parse_args()
    for source in chosen.sources:
        folder = chosen.folder / f"{source}-{chosen.images}"
        if not folder.exists():
            make_images(folder, chosen.images, source != "nifti", source == "fortran")
        labels = nc.read_table(folder / "labels.tsv")
        for kind in chosen.kinds:
            found: dict[str, list[list[float]]] = {workers: [] for workers in chosen.workers}
            for _ in range(chosen.rounds):
                for workers in chosen.workers:
                    number = int(workers) if workers.isdigit() else workers
                    found[workers].append(rates(nc.Caps(folder), labels, kind, number, chosen.epochs))
            for workers, rounds in found.items():
                first, last = (
                    statistics.median(r[0] for r in rounds),
                    statistics.median(r[-1] for r in rounds),
                )
                print(
                    f"{source:8s} {kind:5s} {workers:>4s} workers: first epoch {first:7.1f}, last {last:7.1f} a second",
                    flush=True,
                )


if __name__ == "__main__":
    main()

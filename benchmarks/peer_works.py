"""The works that `peers` compares: each runs in a process of its own, in the environment of its side.

    python benchmarks/peer_works.py SIDE WORK FOLDER WORKERS

prints one line of JSON: items per second in the first and in the last pass of a loader, or seconds per epoch, and the
largest memory of the process and its workers in MiB.
"""

import contextlib
import json
import logging
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from torch.utils.data import DataLoader

BATCH_SIZES = {"image": 4, "patch": 32, "slice": 32}
PASSES = 3
# Images of the training and the validation set, epochs, and architecture of ClinicaDL and of neurocnn.
EPOCHS = {
    "epochs of patches": ("patch", 8, 4, 2, "Conv4_FC3", "Conv4_FC3_v1"),
    "epochs of images": ("image", 4, 2, 2, "Conv5_FC3", "Conv5_FC3"),
    "epochs of 36 networks": ("patch", 8, 4, 2, "Conv4_FC3", "Conv4_FC3_v1"),
}
NETWORKS = 36
MEASURED_NETWORKS = 2


class Memory(threading.Thread):
    """The largest memory of this process and its children, in MiB.

    ``private`` counts the pages that one of the processes alone has mapped. It lacks what a process shares with its
    workers: libraries, memory from before the fork, and batches on their way. ``all`` counts these pages once.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest = {"private": 0.0, "all": 0.0}
        self.ended = threading.Event()

    def run(self) -> None:
        """Measure five times per second."""
        process = psutil.Process()
        while not self.ended.wait(0.2):
            private = everything = 0
            for each in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    memory = each.memory_full_info()
                    private, everything = private + memory.uss, everything + memory.pss
            for name, total in (("private", private), ("all", everything)):
                self.largest[name] = max(self.largest[name], total / 2**20)


def tables(folder: Path, n_train: int, n_validation: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the labels of the first images of each set."""
    labels = pd.read_csv(folder / "labels.tsv", sep="\t")
    return labels[:n_train], labels[n_train : n_train + n_validation].reset_index(drop=True)


def passes(make: Callable[[], Iterable[Any]]) -> dict[str, float]:
    """Return the items per second of the first and the last pass; the first one includes the construction."""
    rates = []
    start = time.perf_counter()
    loader = make()
    for _ in range(PASSES):
        n = sum(len(batch["label"]) for batch in loader)
        end = time.perf_counter()
        rates.append(n / (end - start))
        start = end
    return {"first": rates[0], "last": rates[-1]}


def load_neurocnn(kind: str, folder: Path, workers: str) -> dict[str, float]:
    """Train a network that costs nothing, so that an epoch takes as long as its data."""
    from loading import rates

    import neurocnn as nc

    labels = pd.read_csv(folder / "labels.tsv", sep="\t")
    number = int(workers) if workers.isdigit() else workers
    found = rates(nc.Caps(folder / "caps"), labels, kind, number, PASSES)
    return {"first": found[0], "last": found[-1]}


def load_clinicadl(kind: str, folder: Path, workers: str) -> dict[str, float]:
    """Iterate over ClinicaDL's data set as its training does."""
    from clinicadl.utils.caps_dataset.data import get_transforms, return_dataset
    from clinicadl.utils.preprocessing import read_preprocessing

    caps = folder / "caps-clinicadl"
    settings = read_preprocessing(caps / "tensor_extraction" / f"{kind}.json")
    table = pd.read_csv(folder / "labels.tsv", sep="\t").assign(cohort="single")
    codes = {name: code for code, name in enumerate(sorted(table.diagnosis.unique()))}
    transform = get_transforms(normalize=True)[1]

    def make() -> Iterable[Any]:
        dataset = return_dataset(caps, table, settings, transform, label="diagnosis", label_code=codes)
        return DataLoader(dataset, BATCH_SIZES[kind], shuffle=True, num_workers=int(workers))

    return passes(make)


def image_files(folder: Path, suffix: str) -> list[str]:
    """Return the paths of the images (``.nii.gz``) or of the prepared tensors (``.pt``) of whole images."""
    found = [path for path in sorted((folder / "caps").rglob(f"*{suffix}")) if "_based/" not in str(path)]
    whole = [path for path in sorted((folder / "caps").rglob(f"*{suffix}")) if "/image_based/" in str(path)]
    return [str(path) for path in whole or found]


def load_monai(kind: str, folder: Path, workers: str) -> dict[str, float]:
    """Iterate over MONAI's CacheDataset, which keeps all scaled images or patches in memory."""
    from monai.data import CacheDataset
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, ScaleIntensity

    from_nifti = kind.endswith("nifti")
    files = image_files(folder, ".nii.gz" if from_nifti else ".pt")
    starts = [(i, j, k) for i in (0, 50, 100) for j in (0, 50, 100, 150) for k in (0, 50, 100)]
    boxes = starts if kind == "patch" else [None]
    read = (
        Compose([LoadImage(image_only=True), EnsureChannelFirst()])
        if from_nifti
        else partial(torch.load, mmap=True)
    )
    scale = ScaleIntensity()

    # Of a tuple, MONAI would transform each element.
    def item(entry: dict[str, Any]) -> dict[str, Any]:
        image = read(entry["path"])
        if entry["box"] is not None:
            image = image[(slice(None), *(slice(first, first + 50) for first in entry["box"]))]
        return {"image": torch.as_tensor(scale(image)), "label": 0}

    def make() -> Iterable[Any]:
        entries = [{"path": path, "box": box} for path in files for box in boxes]
        dataset = CacheDataset(entries, item, num_workers=max(1, int(workers)), progress=False)
        size = BATCH_SIZES[kind.split()[0]]
        return DataLoader(dataset, size, shuffle=True, num_workers=int(workers))

    return passes(make)


def load_torchio(kind: str, folder: Path, workers: str) -> dict[str, float]:
    """Iterate over TorchIO's queue of 36 random patches per image."""
    import torchio as tio

    def read(path: Path) -> tuple[torch.Tensor, Any]:
        return torch.load(path), torch.eye(4).numpy()

    subjects = [
        tio.Subject(image=tio.ScalarImage(path, reader=read), label=0) for path in image_files(folder, ".pt")
    ]
    dataset = tio.SubjectsDataset(subjects, transform=tio.RescaleIntensity((0, 1)))
    sampler = tio.UniformSampler(50)

    def make() -> Iterable[Any]:
        queue = tio.Queue(dataset, 2 * NETWORKS, NETWORKS, sampler, num_workers=int(workers))
        return tio.SubjectsLoader(queue, batch_size=BATCH_SIZES[kind])

    return passes(make)


def train_neurocnn(work: str, folder: Path, workers: str) -> dict[str, float]:
    """Run an experiment of one split, with its evaluations, tables and checkpoints."""
    import neurocnn as nc

    kind, n_train, n_validation, epochs, _, architecture = EPOCHS[work]
    parts = nc.Patch(50, 50) if kind == "patch" else nc.WholeImage()
    trainer = nc.Trainer(
        epochs=epochs,
        batch_size=8 if kind == "patch" else 2,
        patience=0,
        device="cpu",
        n_workers=int(workers) if workers.isdigit() else workers,
    )
    split = nc.Split(0, *tables(folder, n_train, n_validation))
    task = nc.classification("diagnosis", classes=["CN", "AD"])
    multi = "networks" in work
    experiment = nc.Experiment(
        nc.Caps(folder / "caps"), [split], parts, task, architecture, trainer, multi=multi
    )
    results = folder / "results"
    shutil.rmtree(results, ignore_errors=True)
    start = time.perf_counter()
    experiment.run(results, verbose=False)
    return {"seconds": (time.perf_counter() - start) / epochs}


def train_clinicadl(work: str, folder: Path, workers: str) -> dict[str, float]:
    """Run ``clinicadl train classification``; of many networks, two are measured and the others extrapolated."""
    from clinicadl.cmdline import cli
    from clinicadl.utils.maps_manager import MapsManager

    kind, n_train, n_validation, epochs, architecture, _ = EPOCHS[work]
    multi = "networks" in work
    lists, maps = folder / f"lists-{kind}", folder / "maps"
    lists.mkdir(exist_ok=True)
    shutil.rmtree(maps, ignore_errors=True)
    for name, table in zip(
        ("train", "validation_baseline"), tables(folder, n_train, n_validation), strict=True
    ):
        table.to_csv(lists / f"{name}.tsv", sep="\t", index=False)
    arguments = f"train classification {folder / 'caps-clinicadl'} {kind}.json {lists} {maps} --no-gpu"
    arguments += f" --n_proc {workers} --batch_size {8 if kind == 'patch' else 2} --epochs {epochs} --seed 0"
    arguments += f" --architecture {architecture} --diagnoses AD --diagnoses CN" + " --multi_network" * multi
    seconds: list[float] = []
    train = MapsManager._train

    def train_measured(*args: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        train(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        if multi and len(seconds) == MEASURED_NETWORKS:
            raise StopIteration

    MapsManager._train = train_measured
    start = time.perf_counter()
    with contextlib.suppress(StopIteration):
        cli(arguments.split(), standalone_mode=False)
    total = time.perf_counter() - start
    if multi:
        total = total - sum(seconds) + sum(seconds) / len(seconds) * NETWORKS
    return {"seconds": total / epochs}


def main() -> None:
    """Run one work, and print its figures."""
    side, work, folder, workers = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    # The output of the libraries goes to the standard error, so that the last line is the result.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    memory = Memory()
    memory.start()
    run = globals()[("train_" if work in EPOCHS else "load_") + side]
    found = run(work, folder, workers)
    memory.ended.set()
    print(json.dumps(found | memory.largest), file=output, flush=True)


if __name__ == "__main__":
    main()

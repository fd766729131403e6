"""Processor time of the second epoch with the choices of the page "Train on a CPU", as ratios within one run.

Run with ``python benchmarks/epoch_choices.py``. The choices take turns; one thread computes and reads, so that other
programs on the machine hardly change the ratios. Takes about two minutes.
"""

import statistics
import tempfile
import time
from functools import partial

import torch

import neurocnn as nc

PARTS = nc.Roi.hippocampi("t1-linear")


def epoch(labels, folder: str, cache_bytes: int = 2**30, evaluate_train: str = "epoch") -> float:
    """Return the seconds of the second epoch of a training on 8 images, with 4 images for validation."""
    caps = nc.Caps(folder, cache_bytes=cache_bytes)
    train, validation = (
        nc.CapsDataset(caps, rows, PARTS, label="diagnosis") for rows in (labels[4:], labels[:4])
    )
    trainer = nc.Trainer(epochs=2, n_workers=0, device="cpu", evaluate_train=evaluate_train)
    marks: list[float] = []
    trainer.fit(
        nc.create_model("Conv3_FC1", train.input_shape),
        nc.classification(),
        train,
        validation,
        callbacks=[lambda state: marks.append(time.process_time())],
    )
    return marks[1] - marks[0]


def compare(ways: dict[str, partial[float]], rounds: int = 3) -> None:
    """Print the medians of the ways, as ratios to the first way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(run())
    first = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        print(f"{name:40} {statistics.median(values) / first:.2f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        labels = nc.make_caps(folder, n_participants=12)
        default = partial(epoch, labels, folder)
        compare(
            {"from NIfTI files": default, "from NIfTI files, cache_bytes=0": partial(default, cache_bytes=0)}
        )
        nc.Caps(folder).prepare()
        ends = partial(default, evaluate_train="end")
        compare({"from prepared tensors": default, "from prepared tensors, evaluate_train='end'": ends})

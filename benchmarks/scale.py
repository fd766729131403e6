"""Time until the first batch, time per image of an epoch, and memory, for large numbers of sessions.

Run with ``python benchmarks/scale.py [--sessions 1000 10000 100000] [--sources FOLDER …]``. All images are links to a
few small files, so that the time is spent on tables, paths and checks. `FOLDER` is the ``src`` of another version,
which is measured in turn with this one.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "{0}_ses-M000_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w.nii.gz"
# File systems limit the number of links to one file, on ext4 to 65,000.
LINKS_PER_FILE = 10_000


def make_sessions(folder: Path, n: int) -> Path:
    """Write a CAPS of n sessions with images of 8×8×8 voxels, and its labels; return the path of the labels."""
    import nibabel
    import numpy as np

    labels = folder / f"labels-{n}.tsv"
    if labels.exists():
        return labels
    rows = ["participant_id\tsession_id\tdiagnosis\tage\tsex"]
    for index in range(n):
        participant = f"sub-{index:06d}"
        path = (
            folder / "caps" / "subjects" / participant / "ses-M000" / "t1_linear" / NAME.format(participant)
        )
        original = folder / f"original-{index // LINKS_PER_FILE}.nii.gz"
        if not original.exists():
            original.parent.mkdir(parents=True, exist_ok=True)
            voxels = np.random.default_rng(index).random((8, 8, 8), np.float32)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), original)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.link(original, path)
        rows.append(
            f"{participant}\tses-M000\t{('CN', 'AD')[index % 2]}\t{60 + index % 30}\t{'FM'[index % 2]}"
        )
    labels.write_text("\n".join(rows) + "\n")
    return labels


def measure(folder: Path, labels: Path, images: int) -> dict[str, float]:
    """Return seconds until the first batch and for an epoch of at most `images` images, and the memory in MiB."""
    import torch
    from torch import nn

    import neurocnn as nc

    class Reached(Exception):
        """The first batch has reached the network."""

    class Network(nn.Module):
        def __init__(self, stop: bool) -> None:
            super().__init__()
            self.fc, self.stop = nn.Linear(8, 2), stop

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if self.stop and not image.is_meta:
                raise Reached
            return self.fc(image.flatten(1)[:, :8])

    task = nc.classification("diagnosis", classes=["CN", "AD"])
    trainer = nc.Trainer(epochs=2, patience=0, batch_size=32, n_workers=0, device="cpu")
    nc.create_model("Conv3_FC1", (1, 16, 16, 16))  # imports are not measured
    begun = time.perf_counter()
    rest, validation = nc.holdout(nc.read_table(labels), fraction=0.1, stratify=["diagnosis"])
    caps = nc.Caps(folder / "caps")
    data = [nc.CapsDataset(caps, table, label="diagnosis") for table in (rest, validation)]
    try:
        trainer.fit(Network(stop=True), task, *data)
    except Exception as error:
        if not isinstance(error, Reached) and not isinstance(error.__cause__, Reached):
            raise
    first = time.perf_counter() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    few = [nc.CapsDataset(caps, table[: images // 2], label="diagnosis") for table in (rest, validation)]
    marks: list[float] = []
    trainer.fit(Network(stop=False), task, *few, callbacks=[lambda state: marks.append(time.perf_counter())])
    return {"first": first, "epoch": marks[1] - marks[0], "MiB": memory}


def main() -> None:
    """Print the median over rounds, in which versions and numbers of sessions take turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--sources", nargs="+", type=Path, default=[HERE.parent / "src"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "neurocnn-scale"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        labels, images = Path(chosen.measure[0]), int(chosen.measure[1])
        print(json.dumps(measure(labels.parent, labels, images)))
        return
    found: dict[tuple[Path, int], list[dict[str, float]]] = {}
    for turn in range(chosen.rounds):
        for n in chosen.sessions:
            labels = make_sessions(chosen.folder / str(n), n)
            for source in chosen.sources:
                command = [sys.executable, __file__, "--measure", str(labels), str(min(n, 10_000))]
                environment = os.environ | {"PYTHONPATH": str(source.resolve())}
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
                found.setdefault((source, n), []).append(json.loads(done.stdout.splitlines()[-1]))
        print(f"round {turn + 1} of {chosen.rounds}", file=sys.stderr, flush=True)
    for (source, n), rounds in found.items():
        first, epoch, memory = (
            statistics.median(one[name] for one in rounds) for name in ("first", "epoch", "MiB")
        )
        print(
            f"{source}: {n:7,d} sessions, {first:7.2f} s to the first batch, {epoch:7.2f} s an epoch, {memory:,.0f} MiB"
        )


if __name__ == "__main__":
    main()

"""Write the result folders here, with the source of commit d0c1727 on the path.

    PYTHONPATH=<source of d0c1727>:tests OMP_NUM_THREADS=1 python tests/old_folders/write.py

Split 0 is finished. Split 1 was killed (SIGKILL) inside its second epoch, after four of six updates; the sixth batch
has one sample. `expected` holds the tables that d0c1727 wrote when it resumed split 1.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from old_folders.networks import tiny

import neurocnn as nc

HERE = Path(__file__).parent
SLICES = nc.Slice(direction=2, discarded_slices=8)  # two slices of each image
STUDIES = {
    "single": {
        "architecture": "Conv3_FC1",
        "trainer": nc.Trainer(
            epochs=3, batch_size=3, learning_rate=1e-2, evaluation_steps=2, checkpoint_seconds=0, device="cpu"
        ),
    },
    "multi": {
        "architecture": tiny,
        "multi": True,
        "trainer": nc.Trainer(
            epochs=3,
            batch_size=7,
            learning_rate=1e-2,
            accumulation_steps=1,
            checkpoint_seconds=0,
            device="cpu",
        ),
    },
}
N_SAVES = {"single": 6 + 4, "multi": 2 * 2 + 1}  # states that are written before the kill


def experiment(name: str, folder: Path) -> nc.Experiment:
    """The experiment of one folder, on the synthetic images in `folder`."""
    labels = nc.make_caps(folder, n_participants=16, preprocessing="t1-volume", shape=(18, 20, 18), seed=3)
    splits = nc.kfold(labels, n_splits=2, stratify=["diagnosis"], seed=0)
    task = nc.classification("diagnosis", classes=["CN", "AD"])
    return nc.Experiment(nc.Caps(folder, "t1-volume"), splits, SLICES, task, **STUDIES[name])


def kill_after(n: int) -> None:
    """Let the n-th save be the last thing that this process does."""
    from neurocnn.engine.records import Record  # exists at commit d0c1727 only

    save, count = Record.save, 0

    def saved(self: Record, *arguments: object) -> None:
        nonlocal count
        save(self, *arguments)
        count += 1
        if count == n:
            os.kill(os.getpid(), 9)

    Record.save = saved


def trim(folder: Path) -> None:
    """Remove what no test needs: logs, locks, maps, and the older state of the larger network."""
    for logs in folder.rglob("tensorboard_logs"):
        shutil.rmtree(logs)
    older = sorted(folder.glob("fold-1/state/state-?.pt"), key=lambda path: path.stat().st_mtime_ns)[:-1]
    for path in [*folder.rglob("*.nii.gz"), *folder.rglob("*.lock"), *older]:
        path.unlink()


def write(name: str) -> None:
    """Write one folder, and the files that its resumed run writes."""
    folder, caps = HERE / name, Path(tempfile.mkdtemp()) / "caps"
    shutil.rmtree(folder, ignore_errors=True)
    experiment(name, caps).run(folder, splits=[0])
    if (child := os.fork()) == 0:
        kill_after(N_SAVES[name])
        experiment(name, caps).run(folder, splits=[1])
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 9
    shutil.rmtree(HERE / "expected" / name, ignore_errors=True)
    copy = caps.parent / "copy"
    shutil.copytree(folder, copy)
    experiment(name, caps).run(copy)
    for path in (copy / "fold-1").rglob("*.tsv"):
        target = HERE / "expected" / name / path.relative_to(copy / "fold-1")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    trim(folder)
    settings = folder / "commandline.json"
    settings.write_text(settings.read_text().replace(str(caps), "CAPS"))
    (folder / "environment.txt").write_text("not kept here\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for study in sys.argv[1:] or STUDIES:
        write(study)

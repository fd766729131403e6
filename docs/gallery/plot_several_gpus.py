"""
Several GPUs
============

``torchrun`` starts the same script once for each GPU. Each process computes a part of every batch, and the result
equals the result of one process, up to rounding. Without GPUs, the processes share the CPU, so that this example runs
on any machine.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import neurocnn as nc

folder = Path(tempfile.mkdtemp())
nc.make_caps(folder / "caps", n_participants=24, preprocessing="t1-volume", shape=(40, 48, 40))
script = """
import sys
import torch
import neurocnn as nc

if __name__ == "__main__":
    caps = nc.Caps("caps", "t1-volume")
    split = nc.kfold(nc.read_table("caps/labels.tsv"), n_splits=3, stratify=["diagnosis"])[0]
    train, validation = (nc.CapsDataset(caps, rows, label="diagnosis") for rows in (split.train, split.validation))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(40 * 48 * 40, 2))
    trainer = nc.Trainer(epochs=10, batch_size=8, learning_rate=1e-4, patience=0, n_workers=0)
    trainer.fit(network, nc.classification(), train, validation, folder=sys.argv[1])
"""
(folder / "train.py").write_text(script)

# %%
# These calls are equivalent to ``python train.py`` and ``torchrun --standalone --nproc-per-node 2 train.py``:
torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
subprocess.run([sys.executable, "train.py", "one process"], cwd=folder, check=True)
subprocess.run(
    [sys.executable, *torchrun, "train.py", "two processes"], cwd=folder, check=True, capture_output=True
)

# %%
# Both learning curves coincide. The network of this example contains no batch norm, because a batch norm would
# normalise the samples of each process separately.
histories = {
    name: nc.read_table(folder / name / "training.tsv", required=())
    for name in ("one process", "two processes")
}
losses = [history["train_loss"] for history in histories.values()]
print(f"Largest difference of the losses: {(losses[0] - losses[1]).abs().max():.1e}")
nc.plotting.learning_curves(histories, metrics=["loss"])

"""
Resume a run that was killed
============================

A checkpoint is written at the end of each epoch, and every ``checkpoint_seconds`` within an epoch. If the same script
is started again, it resumes from the last checkpoint and ends with the same results as a run that was not stopped.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import neurocnn as nc

folder = Path(tempfile.mkdtemp())
nc.make_caps(folder / "caps", n_participants=24, preprocessing="t1-volume", shape=(40, 48, 40))

# %%
# This script trains into the folder ``sys.argv[1]``. A callback kills the process of the script after an epoch, as a
# cluster may do at the time limit.
script = """
import os, signal, sys
import torch
import neurocnn as nc

caps = nc.Caps("caps", "t1-volume")
split = nc.kfold(nc.read_table("caps/labels.tsv"), n_splits=3, stratify=["diagnosis"])[0]
train, validation = (nc.CapsDataset(caps, rows, label="diagnosis") for rows in (split.train, split.validation))
torch.manual_seed(0)
cnn = nc.create_model("Conv3_FC1", train.input_shape, dropout=0.5)

def kill(state):
    if sys.argv[2:] == [str(state.epoch)]:
        os.kill(os.getpid(), signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

trainer = nc.Trainer(epochs=8, batch_size=4, learning_rate=1e-3, patience=0, n_workers=0)
trainer.fit(cnn, nc.classification(), train, validation, folder=sys.argv[1], callbacks=[kill])
"""


def run(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-c", script, *arguments], cwd=folder).returncode


def history(name: str):
    return nc.read_table(folder / name / "training.tsv", required=())


run("unbroken")
print("Killed in epoch 4, exit status:", run("resumed", "4"))
print("Epochs that are done:", len(history("resumed")))

# %%
# The second call resumes the training. The history then differs from the history of the uninterrupted training only in
# the column ``time``.
run("resumed")
columns = history("unbroken").columns.drop("time")
print("Identical:", history("unbroken")[columns].equals(history("resumed")[columns]))
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.plot(history("unbroken")["train_loss"], linewidth=6, alpha=0.3, label="unbroken")
axes.plot(history("resumed")["train_loss"], label="killed and resumed")
axes.axvline(4, color="black", linestyle=":", label="killed")
axes.set(xlabel="Epoch", ylabel="Training loss")
axes.legend()

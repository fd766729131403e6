"""Split trees and result folders in the formats of ClinicaDL 0.2.1 and 1.x."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

import neurocnn as nc


def baseline(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first session of each participant, which is always month 0 here."""
    return frame[frame["session_id"] == "ses-M000"]


def write_old_set(folder: Path, frame: pd.DataFrame, baseline_only: bool = False, label: bool = True) -> None:
    """Write a set in the format of ClinicaDL 0.2.1: one file per diagnosis."""
    for diagnosis in sorted(frame["diagnosis"].unique()):
        rows = frame[frame["diagnosis"] == diagnosis]
        rows = rows if label else rows.drop(columns="diagnosis")
        if not baseline_only:
            nc.write_table(rows, folder / f"{diagnosis}.tsv")
        nc.write_table(baseline(rows), folder / f"{diagnosis}_baseline.tsv")


def write_new_split(folder: Path, train: pd.DataFrame, validation: pd.DataFrame, label: bool = True) -> None:
    """Write a split in the format of ClinicaDL 1.x."""
    tables = {
        "train": train,
        "train_baseline": baseline(train),
        "validation_baseline": baseline(validation),
        "validation": validation,
    }
    for name, frame in tables.items():
        nc.write_table(frame if label else frame[["participant_id", "session_id"]], folder / f"{name}.tsv")


def write_old_results(folder: Path, state: Mapping[str, torch.Tensor], n_splits: int = 1) -> Path:
    """Write a result folder of ClinicaDL 0.2.1, with both best models of each fold."""
    renamed = {
        name.replace("convolutions.", "features.").replace("fc.", "classifier."): tensor
        for name, tensor in state.items()
    }
    content = {"model": renamed, "epoch": 3, "valid_loss": 0.5, "valid_acc": 0.75}
    for split in range(n_splits):
        for selection in ("best_loss", "best_balanced_accuracy"):
            path = folder / f"fold-{split}/models/{selection}/model_best.pth.tar"
            path.parent.mkdir(parents=True)
            torch.save(content, path)
    (folder / "commandline.json").write_text('{"network_type": "cnn", "mode": "roi"}')
    return folder


def write_maps(folder: Path, state: Mapping[str, torch.Tensor], network: str, n_splits: int = 1) -> Path:
    """Write a MAPS folder of ClinicaDL 1.x, whose checkpoints contain the name of the network."""
    for split in range(n_splits):
        for name in ("best-loss", "best-BA"):
            path = folder / f"split-{split}/{name}/model.pth.tar"
            path.parent.mkdir(parents=True)
            torch.save({"model": dict(state), "epoch": 3, "name": network}, path)
    (folder / "maps.json").write_text('{"network_task": "classification"}')
    return folder

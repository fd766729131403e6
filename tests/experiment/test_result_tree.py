"""Every combination of parts, task and `multi` writes exactly the documented files and columns."""

import re
from pathlib import Path

import pandas as pd
import pytest
from studies import PARTS, SHAPE, TASKS, TRAINER, Study

import neurocnn as nc
from neurocnn.errors import SettingError

N_PARTS = {"image": 1, "patch": 8, "roi": 2, "slice": 4}
FOLDERS = {
    "classification": "cnn_classification",
    "regression": "cnn_regression",
    "reconstruction": "autoencoder_reconstruction",
}
METRICS = {
    "classification": [
        "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "roc_auc",
    ],
    "regression": ["mae", "rmse", "r2"],
    "reconstruction": ["mse", "mae", "rmse", "psnr", "ssim"],
}  # fmt: skip


def tree(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, without the time and host in names of event files."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {re.sub(r"(events\.out\.tfevents)\..*", r"\1", name) for name in names}


def expected_tree(parts: str, task: str, multi: bool) -> set[str]:
    """Return the documented paths of one fold of two."""
    selections = ["best_loss", "best_balanced_accuracy"] if task == "classification" else ["best_loss"]
    networks = [f"cnn-{j}/" for j in PARTS[parts].ids(SHAPE)] if multi else [""]
    files = {"commandline.json", "environment.txt"}
    files |= {f"fold-{k}/{name}.tsv" for k in (0, 1) for name in ("train", "validation", "balance")}
    files |= {"fold-0/images.tsv", "fold-0/seen.tsv", "fold-0/training.tsv"}
    files |= {f"fold-0/models/{j}training.tsv" for j in networks if multi}
    for j in networks:
        files |= {f"fold-0/models/{j}{name}/model_best.pth.tar" for name in selections}
        sets = ("train", "validation")
        files |= {f"fold-0/tensorboard_logs/{j}{name}/events.out.tfevents" for name in sets}
    levels = {parts, "image"} if task != "reconstruction" else {parts}
    contents = ("metrics", "prediction") if task != "reconstruction" else ("metrics",)
    files |= {
        f"fold-0/{FOLDERS[task]}/{selection}/{name}_{level}_level_{content}.tsv"
        for selection in selections
        for name in ("train", "validation")
        for level in levels
        for content in contents
    }
    if task == "classification" and parts != "image":
        files |= {
            f"fold-0/cnn_classification/{selection}/part_balanced_accuracy.{suffix}"
            for selection in selections
            for suffix in ("tsv", "nii.gz")
        }
    return files


def expected_columns(name: str, parts: str, task: str, multi: bool, cohorts: bool) -> list[str]:
    """Return the documented columns of a table with this name."""
    if name == "part_balanced_accuracy.tsv":
        return ["part_id", "balanced_accuracy", "weight"]
    if name == "training.tsv":
        metrics = [f"{s}_{metric}" for s in ("train", "validation") for metric in ["loss", *METRICS[task]]]
        return ["epoch", "iteration", "time", *metrics]
    who = ["participant_id", "session_id", *(["cohort"] if cohorts else [])]
    image_level = "image_level" in name
    if name.endswith("prediction.tsv"):
        classes = ["true_class", "predicted_class", "proba0", "proba1"] if task == "classification" else []
        part = [] if image_level else ["part_id"]
        return [*who, *part, "true_label", "predicted_label", *classes]
    own_level = not image_level or parts == "image"  # a vote has no loss
    metrics = [*(["loss"] if own_level else []), *METRICS[task]]
    if image_level and task != "reconstruction":
        metrics += [f"{metric}_{end}" for metric in metrics for end in ("low", "high")]
    return metrics if own_level or task != "classification" else [*metrics, "n_parts"]


@pytest.mark.parametrize("cohorts", [False, True], ids=["one cohort", "two cohorts"])
@pytest.mark.parametrize("multi", [False, True], ids=["single", "multi"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("parts", PARTS)
def test_every_combination_writes_exactly_the_documented_files_and_columns(
    study: Study, cohort_study: Study, tmp_path: Path, parts: str, task: str, multi: bool, cohorts: bool
):
    assert len(PARTS[parts].ids(SHAPE)) == N_PARTS[parts]
    caps, _, splits = cohort_study if cohorts else study
    arguments = (caps, splits, PARTS[parts], TASKS[task], "Conv3_FC1", TRAINER)
    if multi and parts == "image":
        with pytest.raises(SettingError, match="multi=True"):
            nc.Experiment(*arguments, multi=True)
        return
    nc.Experiment(*arguments, multi=multi).run(tmp_path / "results", splits=[0])
    assert tree(tmp_path / "results") == expected_tree(parts, task, multi)
    fold = tmp_path / "results" / "fold-0"
    tables = [*(fold / FOLDERS[task]).rglob("*.tsv"), *fold.rglob("training.tsv")]
    for path in tables:
        columns = expected_columns(path.name, parts, task, multi, cohorts)
        if multi and path.parent == fold:
            columns = ["network", *columns]
        assert sorted(pd.read_csv(path, sep="\t")) == sorted(columns), path
        if path.name.endswith("prediction.tsv"):
            assert list(pd.read_csv(path, sep="\t")) == columns, path

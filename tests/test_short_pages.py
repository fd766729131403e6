"""The code of the short pages runs. Most pages check their results with `assert`."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pages import PAGES, ROOT, blocks, name_of, run
from test_pages import RUNS

import neurocnn as nc


def no_files(folder: Path) -> None:
    """Write no files, for pages that need only images and labels."""


def train_on_half(folder: Path) -> None:
    """Write the results of an experiment with two splits."""
    splits = nc.kfold(nc.read_table("labels.tsv"), n_splits=2, stratify=["diagnosis"])
    nc.Experiment(nc.Caps("caps"), splits, nc.WholeImage(), nc.classification(), "Conv3_FC1").run("results")


def train_on_patches(folder: Path) -> None:
    """Write the results of an experiment with eight patches per image, and two options of the network."""
    splits = nc.kfold(nc.read_table("labels.tsv"), n_splits=2, stratify=["diagnosis"])
    task, options = nc.classification(), {"dropout": 0.3}
    nc.Experiment(nc.Caps("caps"), splits, nc.Patch(25, 25), task, "Conv3_FC1", options=options).run(
        "results"
    )


def add_a_row_without_image(folder: Path) -> None:
    """Add a participant without an image to the labels."""
    labels = nc.read_table("labels.tsv")
    more = labels.tail(1).assign(participant_id="sub-without")
    nc.write_table(pd.concat([labels, more], ignore_index=True), "labels.tsv")


def write_masks(folder: Path) -> None:
    """Write a mask of each hippocampus, with the affine of the images."""
    (folder / "masks").mkdir()
    image = nib.load(next((folder / "caps").rglob("*.nii.gz")))
    for name, start in (("left", 10), ("right", 26)):
        mask = np.zeros(image.shape, np.uint8)
        mask[start : start + 14, 15:30, 10:24] = 1
        nib.save(nib.Nifti1Image(mask, image.affine), folder / f"masks/roi-{name}Hippocampus_mask.nii.gz")


def write_table_of_images(folder: Path) -> None:
    """Write a table with the paths of two images per session."""
    labels = nc.make_caps(folder / "pet", n_participants=10, shape=(50, 50, 50), seed=1)
    ids = labels[["participant_id", "session_id"]].to_numpy()
    for name in ("t1", "pet"):
        caps = nc.Caps(folder / ("caps" if name == "t1" else "pet"))
        labels[name] = [str(caps.path(*who).relative_to(folder)) for who in ids]
    nc.write_table(labels, folder / "images.tsv")


def copy_cohorts(folder: Path) -> None:
    """Write two cohorts of different people with the same ids."""
    for seed, name in enumerate(("adni", "aibl")):
        labels = nc.make_caps(folder / name / "caps", n_participants=8, shape=(16, 18, 16), seed=seed)
        labels["participant_id"] = labels["participant_id"].str.replace("sub-", f"sub-{name}")
        for path in (folder / name / "caps/subjects").iterdir():
            path.rename(path.with_name(path.name.replace("sub-", f"sub-{name}")))
        for path in sorted((folder / name / "caps/subjects").rglob("sub-0*")):
            path.rename(path.with_name(path.name.replace("sub-", f"sub-{name}")))
        nc.write_table(labels, folder / name / "labels.tsv")


def check_regions(names: dict[str, object]) -> None:
    assert list(names["regions"].regions) == ["leftHippocampus", "rightHippocampus"]  # type: ignore[attr-defined]
    assert Path("regions.png").is_file()


def check_cohorts(names: dict[str, object]) -> None:
    assert set(nc.Results("results/adni").predictions()["cohort"]) == {"ADNI"}
    assert set(names["predictions"]["cohort"]) == {"AIBL"}  # type: ignore[index]
    assert set(nc.Results("results/both").predictions()["cohort"]) == {"ADNI", "AIBL"}


def check_two_channels(names: dict[str, object]) -> None:
    assert nc.Results("results").settings["input_shape"] == [2, 50, 50, 50]
    assert len(names["predictions"]) == 3 * len(names["test"])  # type: ignore[arg-type]


def check_own_metric(names: dict[str, object]) -> None:
    row = names["results"].metrics(selection="best_youden").loc[0]  # type: ignore[attr-defined]
    assert row["youden"] == pytest.approx(2 * row["balanced_accuracy"] - 1)
    grades = nc.Results("ordinal").predictions()
    assert np.allclose(grades[["proba0", "proba1", "proba2"]].sum(axis=1), 1)
    assert set(grades["true_label"]) == {0, 1, 2}


def check_tables(names: dict[str, object]) -> None:
    """Check that other programs read the same rows as `Results`."""
    ours = nc.Results("results").predictions()
    assert names["predictions"]["participant_id"].tolist() == ours["participant_id"].tolist()  # type: ignore[index]
    assert np.allclose(names["predictions"]["proba1"], ours["proba1"])  # type: ignore[index]
    assert names["predictions"]["fold"].tolist() == [f"fold-{split}" for split in ours["split"]]  # type: ignore[index]
    assert Path("summary.csv").is_file()
    (script,) = blocks(ROOT / "docs/how-to/read-results-elsewhere.md", "r")
    assert len(list(Path().glob(f"{script.split(chr(34))[1]}/validation_image_level_prediction.tsv"))) == 2
    if shutil.which("Rscript"):
        script += 'write.table(predictions, "r.tsv", sep="\\t", quote=FALSE, row.names=FALSE)'
        subprocess.run(["Rscript", "-e", script], check=True)
        expected = names["predictions"].reset_index(drop=True)  # type: ignore[attr-defined]
        pd.testing.assert_frame_equal(pd.read_csv("r.tsv", sep="\t"), expected, check_dtype=False)


def check_checked(names: dict[str, object]) -> None:
    assert Path("worst.png").is_file()
    assert len(names["checked"]) == len(names["labels"]) - 1  # type: ignore[arg-type]


def check_exported(names: dict[str, object]) -> None:
    """Check that the mean of the parts' probabilities on the page is the recorded vote."""
    first = names["labels"].iloc[0]["participant_id"]  # type: ignore[attr-defined]
    tables = Path("results/fold-0/cnn_classification/best_balanced_accuracy")
    votes = pd.concat(
        [nc.read_table(tables / f"{name}_image_level_prediction.tsv") for name in ("train", "validation")]
    )
    own = votes.set_index("participant_id").loc[first]
    assert names["voted"].tolist() == pytest.approx(own[["proba0", "proba1"]].tolist(), abs=1e-4)  # type: ignore[attr-defined]


def check_explained(names: dict[str, object]) -> None:
    assert Path("ad.png").is_file()
    people = {name.split("_")[0] for name in (path.name for path in Path("results").rglob("patient/*/sub-*"))}
    assert people == {names["patient"]["participant_id"].iloc[0]}  # type: ignore[index]


def check_resumed(names: dict[str, object]) -> None:
    assert names["results"].splits == [0, 1]  # type: ignore[attr-defined]


def nothing_more(names: dict[str, object]) -> None:
    """Check nothing, for pages whose code contains all checks."""


Setup = Callable[[Path], None]
Check = Callable[[dict[str, object]], None]


#: By page: functions that write additional files before its code runs, and that check results afterwards.
def require_optuna(folder: Path) -> None:
    pytest.importorskip("optuna")


def require_transforms(folder: Path) -> None:
    pytest.importorskip("monai")
    pytest.importorskip("torchio")


SHORT: dict[str, tuple[Setup, Check]] = {
    "docs/concepts/autoencoders.md": (no_files, nothing_more),
    "docs/concepts/intervals.md": (train_on_half, nothing_more),
    "docs/concepts/leakage.md": (train_on_half, nothing_more),
    "docs/concepts/parts.md": (no_files, nothing_more),
    "docs/concepts/pooling.md": (no_files, nothing_more),
    "docs/concepts/splits.md": (no_files, nothing_more),
    "docs/concepts/tasks.md": (no_files, nothing_more),
    "docs/concepts/votes.md": (no_files, nothing_more),
    "docs/how-to/check-images.md": (add_a_row_without_image, check_checked),
    "docs/how-to/choose-a-preprocessing.md": (no_files, nothing_more),
    "docs/how-to/explain-predictions.md": (train_on_half, check_explained),
    "docs/how-to/export-a-model.md": (train_on_patches, check_exported),
    "docs/how-to/read-results-elsewhere.md": (train_on_half, check_tables),
    "docs/how-to/reproduce-results.md": (no_files, nothing_more),
    "docs/how-to/resume.md": (no_files, check_resumed),
    "docs/how-to/search-settings.md": (require_optuna, nothing_more),
    "docs/how-to/transform-images.md": (require_transforms, nothing_more),
    "docs/how-to/use-your-own-loss-or-metric.md": (no_files, check_own_metric),
    "docs/how-to/use-images-from-a-table.md": (write_table_of_images, check_two_channels),
    "docs/how-to/use-regions-from-masks.md": (write_masks, check_regions),
    "docs/how-to/use-several-cohorts.md": (copy_cohorts, check_cohorts),
}
#: Pages that need more than one epoch.
LONG = "docs/concepts/resuming.md"


@pytest.mark.parametrize("page", SHORT)
def test_the_code_of_a_short_page_runs(page: str, folder: Path, in_short: None):
    setup, check = SHORT[page]
    setup(folder)
    check(run(page))


@pytest.mark.cpu
def test_the_resumed_run_of_the_page_has_the_same_history(folder: Path):
    names = run(LONG)
    assert len(names["resumed"].history) == 3  # type: ignore[attr-defined]


def test_every_page_with_code_is_run():
    assert {name_of(page) for page in PAGES} == {*RUNS, *SHORT, LONG, "README.md"}

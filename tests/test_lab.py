"""The lab runs from start to end, and its results agree with the effects in the synthetic data."""

import ast
import os
import shutil
import tarfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

import neurocnn as nc

STEM = "T1w_segm-graymatter_space-Ixi549Space_modulated-off_probability"
SCRIPT = Path(__file__).parents[1] / "docs/tutorials/lab.py"


def run_lab(folder: Path, monkeypatch: pytest.MonkeyPatch, **constants: object) -> dict[str, object]:
    """Run the script in a folder with other constants; return the names that it defines."""
    source = SCRIPT.read_text(encoding="utf-8")
    for old, new in constants.items():
        lines = [line for line in source.splitlines() if line.startswith(f"{old} = ")]
        assert len(lines) == 1
        source = source.replace(lines[0], f"{old} = {new!r}")
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    with torch.random.fork_rng(devices=[]):
        exec(compile(source, str(SCRIPT), "exec"), names)
    plt.close("all")
    # The variables hold hundreds of megabytes.
    for dataset in ("neurocnn-lab/dataset/CAPS", "OASIS-1_dataset/CAPS"):
        if not (folder / dataset).parent.is_symlink():
            shutil.rmtree(folder / dataset, ignore_errors=True)
    pictures = {path.name for path in (folder / "neurocnn-lab").glob("*.png")}
    assert pictures == {
        f"{name}.png" for name in ("population", "image", "left", "autoencoder", "reconstruction", "clusters")
    }
    return names


def test_the_results_of_the_lab_agree_with_the_synthetic_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = run_lab(tmp_path, monkeypatch, N_EPOCHS=10, N_PARTICIPANTS=80)
    # Both classes have the same size, and the ages overlap.
    ages = found["everyone"].groupby("diagnosis")["age"]  # type: ignore[attr-defined]
    assert ages.size().tolist() == [40, 40]
    assert abs(ages.mean()["AD"] - ages.mean()["CN"]) < 5
    # The data set returns the box of the left hippocampus, which is shifted only in training.
    assert torch.equal(found["item"]["image"], found["crop"])  # type: ignore[index]
    moved = [not torch.equal(one, found["crop"]) for one in found["shifted"]]  # type: ignore[attr-defined,arg-type]
    assert sum(moved) >= 3
    assert found["n_weights"] == 22_786
    # The hippocampi of patients are smaller, on both sides.
    accuracies = [found["accuracy_by_hand"], *(found["measure"](found[side]) for side in ("left", "right"))]  # type: ignore[operator]
    assert all(accuracy["balanced_accuracy"] >= 0.7 for accuracy in accuracies)  # type: ignore[index]
    assert found["accuracy_of_votes"]["balanced_accuracy"] >= 0.8  # type: ignore[index]
    # The network recognises the disease and not the age, because age does not change these images.
    assert found["accuracy_of_old"]["balanced_accuracy"] >= 0.8  # type: ignore[index]
    by_age = found["accuracy_of_age"]["balanced_accuracy"]  # type: ignore[index]
    assert by_age <= min(0.7, found["accuracy_of_votes"]["balanced_accuracy"] - 0.1)  # type: ignore[index]
    # The autoencoder written by hand equals the derived autoencoder, and is better than the mean image.
    assert found["is_same"]
    assert found["code"].shape == (4, 80)  # type: ignore[attr-defined]
    assert found["ratio"] < 0.7  # type: ignore[operator]
    # The clusters show the size of the hippocampi, which depends on diagnosis and MMS but not on age.
    clusters = found["by_cluster"].sort_values("AD")  # type: ignore[attr-defined]
    assert clusters["AD"].diff().iloc[-1] > 0.3
    assert clusters["MMS"].diff().iloc[-1] < -2
    assert abs(clusters["age"].diff().iloc[-1]) < 5


def write_tarball(folder: Path, n_train: int, n_validation: int) -> Path:
    """Write a tarball with the names of the lab's files and columns; half of the controls are young."""
    data = folder / "OASIS-1_dataset"
    tables = data / "tsv_files/lab_1"
    tables.mkdir(parents=True)
    rows = []
    for i in range(n_train + n_validation):
        name, is_ad = f"sub-OASIS1{i:04}", i % 2 == 0
        images = data / f"CAPS/subjects/{name}/ses-M00/deeplearning_prepare_data/image_based/custom"
        images.mkdir(parents=True)
        voxels = torch.zeros(1, 121, 145, 121)
        voxels[:, 20:100, 45:95, 22:62] = torch.rand((80, 50, 40), generator=torch.Generator().manual_seed(i))
        # Files that were written years ago may have the format before torch 1.6.
        torch.save(voxels, images / f"{name}_ses-M00_{STEM}.pt", _use_new_zipfile_serialization=i % 3 > 0)
        cdr, diagnosis = (1.0, "AD") if is_ad else (None, "CN")
        rows.append(
            {
                "participant_id": name, "session_id": "ses-M00", "alternative_id_1": f"OAS1_{i:04}_MR1",
                "sex": "FM"[i % 3 == 0], "education_level": 2.0 if is_ad else None,
                "age_bl": 70 + i if i % 4 != 1 else 20 + i, "cdr": cdr, "diagnosis_bl": diagnosis,
                "laterality": "R", "MMS": 22.0 if is_ad else 30.0, "cdr_global": cdr, "diagnosis": diagnosis,
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(tables / "OASIS_BIDS.tsv", sep="\t", index=False)
    for name, part in {"train": table[:n_train], "validation": table[n_train:]}.items():
        ids = part[["participant_id", "session_id", "diagnosis"]]
        ids.to_csv(tables / f"{name}.tsv", sep="\t", index=False)
    (data / "raw").mkdir()
    (data / f"raw/{rows[0]['participant_id']}_ses-M00_T1w.nii.gz").write_bytes(b"")
    path = folder / "OASIS-1-dataset_pt_new.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tarball:
        tarball.add(data, data.name)
    return path


def test_the_lab_runs_on_a_tarball_with_the_original_names_of_files_and_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "work").mkdir()
    with tarfile.open(write_tarball(tmp_path, n_train=8, n_validation=8)) as tarball:
        # The first releases of Python 3.11 have no filters; the test has written this tarball itself.
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tarball.extractall(tmp_path / "work", **safe)
    found = run_lab(tmp_path / "work", monkeypatch, N_EPOCHS=1, **{"AGE, MMS": ("age_bl", "MMS")})
    assert not (tmp_path / "work/neurocnn-lab/dataset").exists()
    assert len(found["train"]) == len(found["validation"]) == 8  # type: ignore[arg-type]
    # All patients are old, so that age alone separates them from the young half of the controls.
    assert found["accuracy_of_age"]["sensitivity"] == 1  # type: ignore[index]
    assert len(found["old"]) == 6  # type: ignore[arg-type]


def test_the_names_of_columns_are_the_only_setting_at_the_top_of_the_lab():
    top = ast.parse(SCRIPT.read_text(encoding="utf-8").partition("# %%")[0])
    constants = [
        ast.unparse(node.targets[0])
        for node in top.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).strip("()").isupper()
    ]
    assert constants == ["(AGE, MMS)"]


@pytest.mark.skipif(
    "NEUROCNN_OASIS" not in os.environ, reason="set NEUROCNN_OASIS to the folder OASIS-1_dataset"
)
def test_the_lab_runs_on_oasis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "OASIS-1_dataset").symlink_to(Path(os.environ["NEUROCNN_OASIS"]).resolve())
    found = run_lab(tmp_path, monkeypatch, **{"AGE, MMS": ("age_bl", "MMS")})
    table = nc.population(found["everyone"])  # type: ignore[arg-type]
    assert table.loc[["AD", "CN"], ["N", "age"]].to_numpy().tolist() == [
        [73, "77.5 ± 7.4"],
        [304, "44.0 ± 23.3"],
    ]
    assert found["accuracy_of_old"]["balanced_accuracy"] > 0.55  # type: ignore[index]
    assert found["ratio"] < 1  # type: ignore[operator]

"""Experiments on the folder tree of the lab: prepared tensors without NIfTI files."""

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_caps import rows
from studies import PARTS, TASKS, TRAINER

import neurocnn as nc

STEM = "T1w_segm-graymatter_space-Ixi549Space_modulated-off_probability"
#: Affine of SPM's space Ixi549Space at 1.5 mm, from the headers of Clinica's images.
IXI_AFFINE = np.array([[-1.5, 0, 0, 90], [0, 1.5, 0, -126], [0, 0, 1.5, -72], [0, 0, 0, 1]])


def lab_tree(root: Path, shape: tuple[int, int, int], n: int = 8) -> nc.Caps:
    for i in range(n):
        name = f"sub-{i:02}"
        folder = root / "subjects" / name / "ses-M00" / "deeplearning_prepare_data" / "image_based" / "custom"
        folder.mkdir(parents=True)
        image = torch.rand((1, *shape), generator=torch.Generator().manual_seed(i))
        torch.save(image, folder / f"{name}_ses-M00_{STEM}.pt")
    return nc.Caps(root, "t1-volume")


def run(caps: nc.Caps, folder: Path, parts, task: str = "classification", **settings) -> nc.Results:
    splits = nc.kfold(rows(8), n_splits=2, stratify=["diagnosis"])
    experiment = nc.Experiment(caps, splits, parts, TASKS[task], "Conv3_FC1", TRAINER, **settings)
    return experiment.run(folder, splits=[0])


def test_the_part_map_of_prepared_tensors_is_in_the_space_of_their_pipeline(tmp_path: Path):
    caps = lab_tree(tmp_path / "caps", (121, 145, 121))
    results = run(caps, tmp_path / "results", nc.Roi.hippocampi("t1-volume"), multi=True)
    assert results.splits == [0]
    maps = list(tmp_path.rglob("part_balanced_accuracy.nii.gz"))
    assert len(maps) == 2
    for path in maps:
        image = nib.load(path)
        assert image.shape == (121, 145, 121)
        np.testing.assert_array_equal(image.affine, IXI_AFFINE)
        inside = np.asarray(image.dataobj)[25:55, 50:90, 27:57]
        assert np.ptp(inside) == 0


def test_reconstructions_of_prepared_tensors_are_in_the_space_of_their_pipeline(tmp_path: Path):
    caps = lab_tree(tmp_path / "caps", (121, 145, 121))
    regions = nc.Roi.hippocampi("t1-volume")
    run(caps, tmp_path / "results", regions, "reconstruction", reconstructions=True)
    image = nib.load(next(tmp_path.rglob("train/output-0.nii.gz")))
    corner = IXI_AFFINE @ [65, 50, 27, 1]
    np.testing.assert_allclose(image.affine[:3, 3], corner[:3])
    np.testing.assert_array_equal(image.affine[:3, :3], IXI_AFFINE[:3, :3])


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("parts", ["patch", "roi", "slice"])
def test_without_a_known_affine_the_maps_are_omitted_with_one_log_line(parts, multi, tmp_path: Path, caplog):
    caps = lab_tree(tmp_path / "caps", (18, 20, 18))
    with caplog.at_level(logging.INFO, "neurocnn"):
        results = run(caps, tmp_path / "results", PARTS[parts], multi=multi)
    assert results.splits == [0]
    assert len(results.metrics()) == 3
    assert sum("affine of the images is unknown" in line for line in caplog.messages) == 1
    assert not list((tmp_path / "results").rglob("*.nii.gz"))


def test_without_a_known_affine_reconstructions_are_omitted_with_one_log_line(tmp_path: Path, caplog):
    caps = lab_tree(tmp_path / "caps", (18, 20, 18))
    with caplog.at_level(logging.INFO, "neurocnn"):
        results = run(
            caps, tmp_path / "results", PARTS["patch"], "reconstruction", multi=True, reconstructions=True
        )
    assert results.splits == [0]
    assert sum("affine of the images is unknown" in line for line in caplog.messages) == 1
    assert not list((tmp_path / "results").rglob("*.nii.gz"))

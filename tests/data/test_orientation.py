"""Reorientation keeps the position of each voxel in mm."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_caps import voxels_of, write_t1

from neurocnn.data import Caps
from neurocnn.data.orientation import Grid, orientation_of
from neurocnn.errors import ImageError, SettingError

ALL_48 = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*axes)
]


def test_there_are_48_orientations():
    assert len(set(ALL_48)) == 48


@pytest.mark.parametrize("found", ["RAS", "LPS", "SRA", "PIR"])
def test_all_48_orientations_agree_with_nibabel(tmp_path: Path, found: str):
    voxels = voxels_of(0, (3, 4, 5))
    world = {
        "R": (1, 0, 0),
        "L": (-1, 0, 0),
        "A": (0, 1, 0),
        "P": (0, -1, 0),
        "S": (0, 0, 1),
        "I": (0, 0, -1),
    }
    affine = np.eye(4)
    affine[:3, :3] = np.array([world[letter] for letter in found]).T * (1.5, 2.0, 2.5)
    affine[:3, 3] = (7, -8, 9)
    assert "".join(nib.aff2axcodes(affine)) == found
    write_t1(tmp_path, "sub-1", voxels, affine=affine)
    image = nib.Nifti1Image(voxels, affine)
    for wanted in ALL_48:
        caps = Caps(tmp_path, orientation=wanted)
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt(found), nib.orientations.axcodes2ornt(wanted)
        )
        expected = image.as_reoriented(turn)
        assert np.array_equal(caps.read("sub-1", "ses-M00")[0].numpy(), expected.get_fdata(dtype=np.float32))
        assert np.allclose(caps.affine("sub-1", "ses-M00"), expected.affine)
        assert orientation_of(caps.affine("sub-1", "ses-M00")) == wanted
        assert caps.shape("sub-1", "ses-M00") == expected.shape


@given(st.sampled_from(ALL_48), st.sampled_from(ALL_48))
def test_reorienting_to_another_orientation_and_back_changes_nothing(first: str, second: str):
    image = torch.arange(60.0).reshape(1, 3, 4, 5)
    codes = nib.orientations.axcodes2ornt(first)
    affine = np.linalg.inv(nib.orientations.inv_ornt_aff(codes, (3, 4, 5)))
    assert orientation_of(affine) == first
    there = Grid((3, 4, 5), affine).reoriented(second)
    back = Grid(there.shape, there.affine).reoriented(first)
    assert torch.equal(back.reorient(there.reorient(image)), image)
    assert np.allclose(back.affine, affine)


def test_prepared_tensors_are_reoriented_too(tmp_path: Path):
    write_t1(tmp_path, "sub-1", voxels_of(0))
    without = [Caps(tmp_path, orientation=o).read("sub-1", "ses-M00") for o in ("RAS", "LAS", "ASR")]
    Caps(tmp_path, orientation="RAS").prepare()
    stored = torch.load(next(tmp_path.rglob("*.pt")), weights_only=True)
    assert torch.equal(stored, Caps(tmp_path).read("sub-1", "ses-M00"))  # with the file's order of axes
    for o, image in zip(("RAS", "LAS", "ASR"), without, strict=True):
        assert torch.equal(Caps(tmp_path, orientation=o).read("sub-1", "ses-M00"), image)


def test_a_tensor_without_a_nifti_cannot_be_reoriented(tmp_path: Path):
    path = write_t1(tmp_path, "sub-1", voxels_of(0))
    Caps(tmp_path).prepare()
    path.unlink()
    with pytest.raises(ImageError, match="only a prepared tensor"):
        Caps(tmp_path, orientation="RAS").read("sub-1", "ses-M00")


@pytest.mark.faults
def test_mixed_orientations_in_a_cohort_are_refused_or_reoriented(tmp_path: Path):
    voxels = voxels_of(0)
    write_t1(tmp_path, "sub-1", voxels, affine=np.diag([-1.0, 1, 1, 1]))
    write_t1(tmp_path, "sub-2", voxels[::-1], affine=np.diag([1.0, 1, 1, 1]))
    caps = Caps(tmp_path)
    caps.read("sub-1", "ses-M00")
    with pytest.raises(ImageError, match=r'sub-2.*RAS.*sub-1.*LAS.*orientation="RAS"'):
        caps.read("sub-2", "ses-M00")
    turned = Caps(tmp_path, orientation="RAS")
    assert torch.equal(turned.read("sub-1", "ses-M00"), turned.read("sub-2", "ses-M00"))


@pytest.mark.parametrize("orientation", ["ras", "RA", "RRS", "RLS", "RASA", 7, "XYZ", ""])
def test_an_invalid_orientation_is_refused(tmp_path: Path, orientation: object):
    write_t1(tmp_path, "sub-1", voxels_of(0))
    with pytest.raises(SettingError, match="three letters"):
        Caps(tmp_path, orientation=orientation)

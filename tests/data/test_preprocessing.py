"""Images are found by the file names of both generations of Clinica."""

from pathlib import Path

import pytest
import torch
from small_caps import voxels_of, write_nifti

from neurocnn.data import (
    Caps,
    Custom,
    FlairLinear,
    PetLinear,
    T1Extensive,
    T1Linear,
    T1Volume,
)
from neurocnn.data.preprocessing import Preprocessing, as_preprocessing
from neurocnn.errors import ImageError, NotFoundError, SettingError

# Folder, and file name after `<sub>_<ses>[_T1w]`, from the table of Clinica's outputs.
TABLE = {
    T1Linear(): ("t1_linear", "_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w.nii.gz"),
    T1Linear(cropped=False): ("t1_linear", "_space-MNI152NLin2009cSym_res-1x1x1_T1w.nii.gz"),
    T1Extensive(): ("t1_extensive", "_space-Ixi549Space_desc-SkullStripped_T1w.nii.gz"),
    T1Volume(): (
        "t1/spm/segmentation/normalized_space",
        "_segm-graymatter_space-Ixi549Space_modulated-off_probability.nii.gz",
    ),
    FlairLinear(): ("flair_linear", "_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_flair.nii.gz"),
    FlairLinear(cropped=False): ("flair_linear", "_space-MNI152NLin2009cSym_res-1x1x1_flair.nii.gz"),
    PetLinear("18FFDG", "cerebellumPons2"): (
        "pet_linear",
        "_trc-18FFDG_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_suvr-cerebellumPons2_pet.nii.gz",
    ),
    PetLinear("18FAV45", "pons", cropped=False): (
        "pet_linear",
        "_trc-18FAV45_space-MNI152NLin2009cSym_res-1x1x1_suvr-pons_pet.nii.gz",
    ),
    Custom("_space-own_T1w.nii.gz"): ("somewhere/deep", "_space-own_T1w.nii.gz"),
    Custom("_space-own_T1w.nii"): ("somewhere", "_space-own_T1w.nii"),
}


@pytest.mark.parametrize("generation", ["", "_T1w"])
@pytest.mark.parametrize("session", ["ses-M00", "ses-M000"])
@pytest.mark.parametrize("kind", TABLE, ids=repr)
def test_images_of_every_pipeline_and_both_generations_are_found(
    tmp_path: Path, kind: Preprocessing, session: str, generation: str
):
    folder, end = TABLE[kind]
    voxels = voxels_of(1)
    place = tmp_path / "subjects" / "sub-1" / session / folder
    path = write_nifti(place / f"sub-1_{session}{generation}{end}", voxels)
    # Other images of the same session must not be returned instead.
    write_nifti(place / f"sub-1_{session}_space-other.nii.gz", voxels + 1)
    caps = Caps(tmp_path, kind)
    assert caps.path("sub-1", session) == path
    assert caps.sessions().to_dict("list") == {"participant_id": ["sub-1"], "session_id": [session]}
    assert torch.equal(caps.read("sub-1", session), torch.from_numpy(voxels)[None])
    assert caps.shape("sub-1", session) == voxels.shape


def test_t1_extensive_images_are_found_with_both_spellings_of_skullstripped(tmp_path: Path):
    folder = tmp_path / "subjects" / "sub-1" / "ses-M00" / "t1_extensive"
    path = write_nifti(folder / "sub-1_ses-M00_space-Ixi549Space_desc-skullstripped_T1w.nii.gz", voxels_of(1))
    assert Caps(tmp_path, "t1-extensive").path("sub-1", "ses-M00") == path


def test_sessions_m00_and_m000_are_never_confused(tmp_path: Path):
    folder = tmp_path / "subjects" / "sub-1" / "ses-M000" / "t1_linear"
    write_nifti(folder / f"sub-1_ses-M000{TABLE[T1Linear()][1]}", voxels_of(1))
    with pytest.raises(NotFoundError, match="ses-M000"):
        Caps(tmp_path).path("sub-1", "ses-M00")


@pytest.mark.faults
def test_an_error_names_both_of_two_matching_files(tmp_path: Path):
    folder = tmp_path / "subjects" / "sub-1" / "ses-M00" / "t1_linear"
    end = TABLE[T1Linear()][1]
    paths = [write_nifti(folder / f"sub-1_ses-M00{middle}{end}", voxels_of(1)) for middle in ("", "_T1w")]
    with pytest.raises(ImageError, match="2 files match") as caught:
        Caps(tmp_path).path("sub-1", "ses-M00")
    assert all(str(path) in str(caught.value) for path in paths)
    with pytest.raises(ImageError, match="2 files match"):
        Caps(tmp_path).sessions()


def test_an_error_names_both_of_two_matching_custom_files(tmp_path: Path):
    folder = tmp_path / "subjects" / "sub-1" / "ses-M00"
    paths = [write_nifti(folder / place / "sub-1_ses-M00_x_T1w.nii.gz", voxels_of(1)) for place in "ab"]
    with pytest.raises(ImageError) as caught:
        Caps(tmp_path, Custom("_T1w.nii.gz")).path("sub-1", "ses-M00")
    assert all(str(path) in str(caught.value) for path in paths)


def test_a_custom_suffix_does_not_match_another_participants_file(tmp_path: Path):
    folder = tmp_path / "subjects" / "sub-1" / "ses-M00"
    write_nifti(folder / "sub-11_ses-M00_T1w.nii.gz", voxels_of(1))
    with pytest.raises(NotFoundError):
        Caps(tmp_path, Custom("_T1w.nii.gz")).path("sub-1", "ses-M00")


def test_a_name_is_short_for_the_default_preprocessing():
    assert [
        as_preprocessing(name) for name in ("t1-linear", "t1-extensive", "t1-volume", "flair-linear")
    ] == [
        T1Linear(cropped=True),
        T1Extensive(),
        T1Volume(),
        FlairLinear(cropped=True),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("t1-liner", "did you mean 't1-linear'"),
        ("pet-linear", "PetLinear"),
        ("custom", "Custom"),
        (T1Linear, "expected a name or an object"),
        (7, "expected a name or an object"),
    ],
)
def test_an_unknown_preprocessing_is_refused(given: object, message: str):
    with pytest.raises(SettingError, match=message):
        as_preprocessing(given)


@pytest.mark.parametrize("suffix", ["*_T1w.nii.gz", "_T1w", "a/b.nii.gz", ""])
def test_an_invalid_custom_suffix_is_refused(suffix: str):
    with pytest.raises(SettingError, match="suffix"):
        Custom(suffix)


@pytest.mark.parametrize("tracer", ["", "18F FDG", "../x", 18])
def test_an_invalid_tracer_is_refused(tracer: str):
    with pytest.raises(SettingError, match="tracer"):
        PetLinear(tracer, "pons")

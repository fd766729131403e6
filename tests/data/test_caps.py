"""A CAPS folder is read correctly, or an error names the fault."""

import logging
import pickle
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from small_caps import AFFINE, T1, rows, small_caps, voxels_of, write_nifti, write_t1

from neurocnn.data import Caps, CapsDataset, MinMax, Patch
from neurocnn.data import nifti as nifti_module
from neurocnn.errors import ImageError, NeurocnnError, NotFoundError, SettingError, TableError
from neurocnn.storage import write_table


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list to which the paths of decoded NIfTI files are appended."""
    paths: list[Path] = []
    read = nifti_module.read_voxels

    def counting(path: Path, what: str):
        paths.append(path)
        return read(path, what)

    monkeypatch.setattr(nifti_module, "read_voxels", counting)
    return paths


def test_volumes_are_float32_with_a_channel_in_the_order_of_the_file(tmp_path: Path):
    root = small_caps(tmp_path)
    caps = Caps(root)
    for i in range(3):
        image = caps.read(f"sub-{i:02}", "ses-M00")
        assert image.dtype == torch.float32
        assert torch.equal(image, torch.from_numpy(voxels_of(i))[None])
        assert np.array_equal(caps.affine(f"sub-{i:02}", "ses-M00"), AFFINE)


def test_read_returns_a_copy(tmp_path: Path):
    caps = Caps(small_caps(tmp_path))
    caps.read("sub-00", "ses-M00").zero_()
    caps.affine("sub-00", "ses-M00")[:] = 0
    assert torch.equal(caps.read("sub-00", "ses-M00"), torch.from_numpy(voxels_of(0))[None])
    assert np.array_equal(caps.affine("sub-00", "ses-M00"), AFFINE)


def test_only_sessions_with_the_image_are_listed(tmp_path: Path):
    root = small_caps(tmp_path, 2)
    write_t1(root, "sub-00", voxels_of(0), session="ses-M12")
    (root / "subjects" / "sub-07" / "ses-M00").mkdir(parents=True)
    (root / "subjects" / "notes.txt").touch()
    assert Caps(root).sessions().to_dict("list") == {
        "participant_id": ["sub-00", "sub-00", "sub-01"],
        "session_id": ["ses-M00", "ses-M12", "ses-M00"],
    }


@pytest.mark.faults
def test_an_error_names_a_missing_root_or_subjects_folder(tmp_path: Path):
    with pytest.raises(NotFoundError, match="does not exist"):
        Caps(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="no folder 'subjects'"):
        Caps(tmp_path)
    with pytest.raises(NotFoundError, match="cohort 'A'"):
        Caps({"A": tmp_path / "nowhere"})


@pytest.mark.parametrize(
    ("given", "near"), [("sub-1", "sub-01"), ("sub-001", "sub-01"), ("SUB-01", None), ("sub-9", None)]
)
def test_a_missing_participant_is_reported_with_a_similar_id_that_is_never_used(
    tmp_path: Path, given: str, near: str | None
):
    caps = Caps(small_caps(tmp_path))
    with pytest.raises(NotFoundError) as caught:
        caps.path(given, "ses-M00")
    assert (f"is it {near}?" in str(caught.value)) == (near is not None)


@pytest.mark.faults
def test_all_missing_images_are_listed_before_anything_is_read(tmp_path: Path, opened: list[Path]):
    root = small_caps(tmp_path, 2)
    frame = pd.concat([rows(2), rows(2, "ses-M06"), rows(4)[2:]], ignore_index=True)
    with pytest.raises(NotFoundError) as caught:
        CapsDataset(Caps(root), frame)
    assert "4 of 6 images" in str(caught.value)
    for session in ("sub-00/ses-M06", "sub-01/ses-M06", "sub-02", "sub-03"):
        assert session in str(caught.value)
    assert opened == []


@pytest.mark.faults
def test_an_image_of_another_shape_than_the_cohort_is_refused(tmp_path: Path):
    root = small_caps(tmp_path, 2)
    write_t1(root, "sub-02", voxels_of(2, (6, 8, 6)))
    dataset = CapsDataset(Caps(root), rows(3))
    _ = dataset[1]
    with pytest.raises(ImageError, match=r"sub-02.*\(6, 8, 6\).*sub-00.*\(6, 8, 7\)"):
        dataset[2]


def test_cohorts_of_different_shapes_are_refused_in_a_dataset(tmp_path: Path):
    caps = Caps({"A": small_caps(tmp_path / "a", 1), "B": small_caps(tmp_path / "b", 1, (5, 5, 5))})
    with pytest.raises(ImageError, match="shapes of the cohorts' images differ"):
        CapsDataset(caps, caps.sessions())


@pytest.mark.parametrize("kind", ["mapping", "tsv", "tsv with relative paths"])
def test_images_of_several_cohorts_are_read_with_the_name_of_their_cohort(tmp_path: Path, kind: str):
    folders = {name: small_caps(tmp_path / name, 2) for name in ("A", "B")}
    write_t1(folders["B"], "sub-00", voxels_of(7))
    table = tmp_path / "caps.tsv"
    paths = [str(path) if kind == "tsv" else name for name, path in folders.items()]
    write_table(pd.DataFrame({"cohort": list(folders), "path": paths}), table)
    caps = Caps(folders if kind == "mapping" else table)
    assert caps.sessions()["cohort"].tolist() == ["A", "A", "B", "B"]
    assert torch.equal(caps.read("sub-00", "ses-M00", "A")[0], torch.from_numpy(voxels_of(0)))
    assert torch.equal(caps.read("sub-00", "ses-M00", "B")[0], torch.from_numpy(voxels_of(7)))
    with pytest.raises(SettingError, match="cohort=None; expected a cohort"):
        caps.read("sub-00", "ses-M00")
    with pytest.raises(SettingError, match="cohort='a'; expected a cohort"):
        caps.read("sub-00", "ses-M00", "a")


@pytest.mark.faults
def test_cohorts_that_differ_between_two_tables_are_refused(tmp_path: Path):
    caps = Caps({"ADNI": small_caps(tmp_path / "a"), "OASIS": small_caps(tmp_path / "b")})
    with pytest.raises(TableError, match="'cohort' is missing"):
        caps.sources(rows(1))
    with pytest.raises(TableError, match="'ADNI1' is not a cohort of the images; did you mean 'ADNI'"):
        caps.sources(rows(1).assign(cohort="ADNI1"))
    caps.check_cohorts(["OASIS", "ADNI"])
    with pytest.raises(TableError, match=r"OASIS.*only in the images"):
        caps.check_cohorts(["ADNI"])
    with pytest.raises(TableError, match=r"AIBL.*only in the labels"):
        caps.check_cohorts(["ADNI", "OASIS", "AIBL"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cohort\tpath\nA\tx\nA\ty\n", "twice"),
        ("cohort\tpath\nA\tn/a\n", "in both columns"),
        ("cohort\tfolder\nA\tx\n", "'path' is missing"),
        ("cohort\tpath\nA\tnowhere\n", "cohort 'A'"),
    ],
)
@pytest.mark.faults
def test_a_faulty_table_of_cohorts_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "caps.tsv").write_text(text)
    with pytest.raises(NeurocnnError, match=message):
        Caps(tmp_path / "caps.tsv")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.faults
def test_nan_and_infinite_voxels_are_an_error_or_zeros(tmp_path: Path, value: float):
    voxels = voxels_of(0)
    voxels[1, 2, 3] = voxels[4, 5, 6] = value
    write_t1(tmp_path, "sub-00", voxels)
    with pytest.raises(
        ImageError, match=r'sub-00.*2 voxels are NaN or infinite.*\(1, 2, 3\).*nan_voxels="zero"'
    ):
        Caps(tmp_path).read("sub-00", "ses-M00")
    with pytest.warns(UserWarning, match="read as zeros"):
        image = Caps(tmp_path, nan_voxels="zero").read("sub-00", "ses-M00")
    voxels[1, 2, 3] = voxels[4, 5, 6] = 0
    assert torch.equal(image[0], torch.from_numpy(voxels))


def test_nan_voxels_of_a_prepared_tensor_are_detected_too(tmp_path: Path):
    voxels = voxels_of(0)
    voxels[1, 2, 3] = np.nan
    write_t1(tmp_path, "sub-00", voxels)
    with pytest.raises(ImageError, match="1 voxels are NaN"):
        Caps(tmp_path).prepare()
    with pytest.warns(UserWarning, match="read as zeros"):
        Caps(tmp_path, nan_voxels="zero").prepare()
    with pytest.raises(ImageError, match="1 voxels are NaN"):
        Caps(tmp_path).read("sub-00", "ses-M00")
    with pytest.warns(UserWarning, match="read as zeros"):
        assert Caps(tmp_path, nan_voxels="zero").read("sub-00", "ses-M00")[0, 1, 2, 3] == 0


@pytest.mark.faults
def test_a_constant_image_is_reported_once_and_becomes_zeros(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_t1(tmp_path, "sub-00", np.full((6, 8, 7), 3, dtype=np.float32))
    with caplog.at_level(logging.WARNING, "neurocnn"):
        dataset = CapsDataset(Caps(tmp_path), rows(1))
        items = [dataset[0]["image"] for _ in range(3)]
    assert all((item == 0).all() for item in items)
    said = [record for record in caplog.records if "all voxels are 3.0" in record.getMessage()]
    assert len(said) == 1


def test_a_constant_part_of_an_image_is_not_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    voxels = voxels_of(0)
    voxels[:3] = 0
    write_t1(tmp_path, "sub-00", voxels)
    Caps(tmp_path).prepare(parts=Patch(3, 3))
    dataset = CapsDataset(Caps(tmp_path), rows(1), Patch(3, 3))
    assert (dataset[0]["image"] == 0).all()
    assert caplog.text == ""


def test_an_invalid_setting_is_refused(tmp_path: Path):
    root = small_caps(tmp_path)
    with pytest.raises(SettingError, match="nan_voxels"):
        Caps(root, nan_voxels="ignore")
    with pytest.raises(SettingError, match="cache_bytes"):
        Caps(root, cache_bytes=-1)
    with pytest.raises(SettingError, match="mapping from cohorts"):
        Caps({})


def test_an_image_is_decoded_once_for_all_its_parts(tmp_path: Path, opened: list[Path]):
    dataset = CapsDataset(Caps(small_caps(tmp_path)), rows(), Patch(3, 2))
    for i in torch.randperm(len(dataset)).tolist():
        _ = dataset[i]
    assert len(opened) == 3


def test_the_cache_does_not_exceed_its_size(tmp_path: Path, opened: list[Path]):
    n_bytes = 4 * 6 * 8 * 7
    caps = Caps(small_caps(tmp_path, 4), cache_bytes=2 * n_bytes + 1)
    for i in (0, 1, 0, 1, 2, 1, 2, 0):
        caps.read(f"sub-{i:02}", "ses-M00")
        assert caps.images._cache.n_held_bytes <= caps.cache_bytes
    assert len(opened) == 4  # images 0, 1 and 2, which evicts image 0, and image 0 again
    none = Caps(tmp_path, cache_bytes=0)
    assert torch.equal(none.read("sub-00", "ses-M00"), caps.read("sub-00", "ses-M00"))
    assert len(none.images._cache) == 0


@pytest.mark.parametrize("cache_bytes", [0, 3 * 4 * 6 * 8 * 7, 2**30])
def test_prepared_images_that_stay_in_memory_do_not_exceed_the_cache(
    tmp_path: Path, caplog, cache_bytes: int
):
    n = 12
    root = small_caps(tmp_path, n)
    Caps(root).prepare()
    expected = [Caps(root).read(f"sub-{i:02}", "ses-M00") for i in range(n)]
    caps = Caps(root, cache_bytes=cache_bytes)
    dataset = CapsDataset(caps, rows(n), Patch(3, 2))
    n_parts = len(dataset) // n
    with caplog.at_level(logging.INFO, logger="neurocnn"):
        for _ in range(2):
            for i in torch.randperm(len(dataset)).tolist():
                image = expected[i // n_parts]
                part = Patch(3, 2).extract(image, i % n_parts)
                torch.testing.assert_close(dataset[i]["image"], MinMax()(part), rtol=0, atol=1e-6)
    n_kept = {0: 0, 2**30: n}.get(cache_bytes, 3)
    assert caps.images._cache.n_held_bytes == n_kept * 4 * 6 * 8 * 7
    assert [record.getMessage() for record in caplog.records] == [
        f"cache_bytes={cache_bytes} is full (3 images); the prepared images that are not in it are mapped again when "
        "they are needed; increase cache_bytes if there is enough memory"
    ] * (n_kept == 3)
    if sys.platform == "linux":
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        n_mapped = sum(path.startswith(str(tmp_path)) for path in mapped)
        assert n_mapped == min(n, n_kept + 8), "eight more than those in the cache, which were read last"


def test_a_prepared_image_that_changed_is_read_again_if_it_is_not_in_the_cache(tmp_path: Path):
    root = small_caps(tmp_path, 12)
    Caps(root).prepare()
    caps = Caps(root, cache_bytes=0)
    for i in range(12):
        caps.read(f"sub-{i:02}", "ses-M00")
    changed = voxels_of(7)
    write_t1(root, "sub-00", changed)
    Caps(root).prepare()
    assert torch.equal(caps.read("sub-00", "ses-M00")[0], torch.from_numpy(changed))


def test_a_prepared_image_that_was_replaced_by_one_of_another_shape_is_refused(tmp_path: Path):
    root = small_caps(tmp_path, 12)
    Caps(root).prepare()
    for nifti in root.rglob("*.nii.gz"):
        nifti.unlink()
    caps = Caps(root, cache_bytes=0)
    for i in range(12):
        caps.read(f"sub-{i:02}", "ses-M00")
    [path] = root.rglob("sub-00*.pt")
    torch.save(torch.rand(1, 9, 8, 7), path)
    with pytest.raises(ImageError, match=r"shape=\(9, 8, 7\), but it was \(6, 8, 7\) when it was first read"):
        caps.read("sub-00", "ses-M00")


def test_files_that_cannot_be_mapped_are_evicted_as_decoded_images_are(tmp_path: Path):
    """torch reads files of its versions before 1.6 completely."""
    root = small_caps(tmp_path, 3)
    Caps(root).prepare()
    for path in root.rglob("*.pt"):
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    caps = Caps(root, cache_bytes=2 * 4 * 6 * 8 * 7)
    for i in (0, 1, 2):
        assert torch.equal(caps.read(f"sub-{i:02}", "ses-M00")[0], torch.from_numpy(voxels_of(i)))
    cached = [caps.images.cached(source) is not None for source in caps.sources(rows(3))]
    assert cached == [False, True, True]


def test_a_copy_in_another_process_starts_with_empty_caches(tmp_path: Path):
    caps = Caps(small_caps(tmp_path))
    caps.read("sub-00", "ses-M00")
    copy = pickle.loads(pickle.dumps(caps))
    assert len(caps.images._cache) == 1
    assert len(copy.images._cache) == 0
    assert torch.equal(copy.read("sub-00", "ses-M00"), caps.read("sub-00", "ses-M00"))
    # The copy contains the grid of the first image, so that it also refuses images with another grid.
    write_t1(tmp_path, "sub-01", voxels_of(1, (5, 8, 7)))
    with pytest.raises(ImageError, match="unlike the rest"):
        copy.read("sub-01", "ses-M00")


@pytest.mark.faults
def test_errors_name_the_image_and_can_be_pickled(tmp_path: Path):
    root = small_caps(tmp_path, 1)
    path = Caps(root).path("sub-00", "ses-M00")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImageError) as caught:
        Caps(root).read("sub-00", "ses-M00")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert "sub-00 ses-M00" in str(again)
    assert str(path) in str(again)


def test_an_image_with_the_expected_name_is_found_without_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    caps = Caps(small_caps(tmp_path))
    monkeypatch.setattr("os.walk", lambda *_: pytest.fail("searched"))
    monkeypatch.setattr(Path, "glob", lambda *_: pytest.fail("searched"))
    assert caps.path("sub-00", "ses-M00").is_file()
    assert len(caps.sessions()) == 3


def test_a_prepared_tensor_without_a_nifti_file_counts_as_an_image(tmp_path: Path):
    """The data of the lab contain only prepared tensors."""
    stem = "sub-1_ses-M00_T1w_segm-graymatter_space-Ixi549Space_modulated-off_probability"
    folder = tmp_path / "subjects/sub-1/ses-M00/deeplearning_prepare_data/image_based/custom"
    folder.mkdir(parents=True)
    image = torch.rand(1, 5, 6, 7)
    torch.save(image, folder / f"{stem}.pt")
    caps = Caps(tmp_path, "t1-volume")
    assert len(caps.sessions()) == 1
    assert caps.path("sub-1", "ses-M00") == folder / f"{stem}.pt"
    assert caps.shape("sub-1", "ses-M00") == (5, 6, 7)
    assert torch.equal(caps.read("sub-1", "ses-M00"), image)
    with pytest.raises(ImageError, match="no affine"):
        caps.affine("sub-1", "ses-M00")


def test_real_shapes_and_an_oblique_affine_are_read(tmp_path: Path):
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.2, 0.05) * 1.5, [1, 2, 3])
    path = tmp_path / "subjects" / "sub-1" / "ses-M00" / "t1_linear" / f"sub-1_ses-M00_{T1}"
    write_nifti(path, voxels_of(1), affine)
    caps = Caps(tmp_path)
    assert np.allclose(caps.affine("sub-1", "ses-M00"), affine, atol=1e-6)


def test_a_list_of_folders_is_refused(tmp_path):
    with pytest.raises(SettingError, match="mapping"):
        Caps([tmp_path, tmp_path])  # type: ignore[arg-type]

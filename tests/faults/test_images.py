"""Invalid images are refused before training, with errors that contain the file, the participant and the values."""

import gzip
import math
import os
import re
import shutil
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from faults.clauses import covers, messages, refuse
from small_caps import AFFINE, T1, rows, small_caps, voxels_of, write_nifti, write_t1

import neurocnn as nc


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a CAPS of three participants."""
    return small_caps(tmp_path / "caps")


def image(root: Path, participant: str = "sub-01") -> Path:
    return root / "subjects" / participant / "ses-M00" / "t1_linear" / f"{participant}_ses-M00_{T1}"


def tensor(root: Path, participant: str = "sub-01") -> Path:
    (path,) = (root / "subjects" / participant).rglob("*.pt")
    return path


def read_all(root: Path, **settings: object) -> torch.Tensor:
    dataset = nc.CapsDataset(nc.Caps(root, **settings), rows(), transform=None)
    return torch.stack([dataset[i]["image"] for i in range(len(dataset))])


def repack(path: Path, change) -> None:
    """Decompress a NIfTI file, change its bytes with a function, and compress them again."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    change(content)
    path.write_bytes(gzip.compress(bytes(content)))


@covers("root or subjects missing")
def test_an_error_names_a_missing_caps_folder(tmp_path: Path):
    refuse(lambda: nc.Caps(tmp_path / "cap").sessions(), nc.NotFoundError, "cap")
    (tmp_path / "caps").mkdir()
    refuse(lambda: nc.Caps(tmp_path / "caps").sessions(), nc.NotFoundError, "subjects")


@covers("images missing")
def test_all_missing_images_are_listed(root: Path):
    for participant in ("sub-00", "sub-02"):
        image(root, participant).unlink()
    refuse(lambda: nc.CapsDataset(nc.Caps(root), rows()), nc.NotFoundError, "sub-00", "sub-02")


@covers("two files match")
def test_an_error_names_both_of_two_matching_files(root: Path):
    folder = image(root).parent
    image(root).rename(folder / f"sub-01_ses-M00_run-01_{T1}")
    shutil.copy(folder / f"sub-01_ses-M00_run-01_{T1}", folder / f"sub-01_ses-M00_run-02_{T1}")
    refuse(lambda: read_all(root), nc.ImageError, "run-01", "run-02")


@covers("BIDS entities")
@pytest.mark.parametrize("entities", ["run-01_", "acq-sag_", "acq-sag_run-2_", "rec-coregiso_", "T1w_"])
def test_files_with_entities_are_found(root: Path, entities: str):
    image(root).rename(image(root).parent / f"sub-01_ses-M00_{entities}{T1}")
    assert read_all(root)[1].numpy()[0] == pytest.approx(voxels_of(1))


@covers("BIDS entities")
def test_plain_nifti_files_are_found(root: Path):
    write_nifti(Path(str(image(root)).removesuffix(".gz")), voxels_of(1))
    image(root).unlink()
    assert read_all(root)[1].numpy()[0] == pytest.approx(voxels_of(1))


DAMAGES = {
    "zero bytes": lambda content: b"",
    "not gzip": gzip.decompress,
    "truncated": lambda content: content[: len(content) // 2],
    "flipped bit": lambda content: content[:500] + bytes([content[500] ^ 4]) + content[501:],
}


@pytest.mark.parametrize("damage", [pytest.param(name, marks=covers(name), id=name) for name in DAMAGES])
def test_an_error_names_a_damaged_file(root: Path, damage: str):
    image(root).write_bytes(DAMAGES[damage](image(root).read_bytes()))
    refuse(lambda: read_all(root), nc.ImageError, "sub-01")


@covers("gzip named .nii")
def test_an_error_names_a_gzip_file_with_the_suffix_nii(root: Path):
    image(root).rename(str(image(root)).removesuffix(".gz"))
    refuse(lambda: read_all(root), nc.ImageError, "sub-01", "gzip")


@covers("header that claims too much")
def test_a_header_that_requires_more_than_the_memory_is_refused(root: Path):
    sizes = np.array([3, 20000, 20000, 20000], "<i2").tobytes()
    repack(image(root), lambda content: content.__setitem__(slice(40, 48), sizes))
    refuse(lambda: read_all(root), nc.ImageError, "sub-01")


@covers("impossible shape")
@pytest.mark.parametrize("sizes", [(3, -6, 8, 7), (3, 0, 8, 7), (4, 6, 8, 7, 2), (2, 6, 8)])
def test_an_impossible_shape_is_refused(root: Path, sizes: tuple[int, ...]):
    content = np.array(sizes, "<i2").tobytes()
    repack(image(root), lambda data: data.__setitem__(slice(40, 40 + len(content)), content))
    refuse(lambda: read_all(root), nc.ImageError, "sub-01")


@covers("unknown type")
def test_an_unknown_type_is_refused(root: Path):
    repack(image(root), lambda content: content.__setitem__(slice(70, 72), b"\x99\x09"))
    refuse(lambda: read_all(root), nc.ImageError, "sub-01", "type")


@covers("NaN or infinite voxels")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_error_counts_voxels_that_are_not_finite(root: Path, value: float):
    voxels = voxels_of(1)
    voxels[2, 3, 4] = voxels[5, 5, 5] = value
    write_t1(root, "sub-01", voxels)
    words = ("sub-01", "2", "(2, 3, 4)", *(['nan_voxels="zero"'] if math.isnan(value) else []))
    refuse(lambda: read_all(root), nc.ImageError, *words)


@covers("NaN or singular affine")
@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_an_affine_that_cannot_be_inverted_is_refused(root: Path, value: float):
    write_t1(root, "sub-01", voxels_of(1))

    def spoil(content: bytearray) -> None:
        content[252:256] = np.array([0, 1], "<i2").tobytes()  # The affine is read from the sform.
        content[280:296] = np.full(4, value, "<f4").tobytes()

    repack(image(root), spoil)
    refuse(lambda: nc.Caps(root).affine("sub-01", "ses-M00"), nc.ImageError, "sub-01", "affine")


@covers("other shape than the cohort")
def test_an_image_of_another_shape_is_refused(root: Path):
    write_t1(root, "sub-01", voxels_of(1, (6, 8, 8)))
    refuse(lambda: read_all(root), nc.ImageError, "sub-01", "(6, 8, 8)", "(6, 8, 7)")


@covers("constant image")
def test_a_constant_image_becomes_zeros_with_one_warning(root: Path, caplog: pytest.LogCaptureFixture):
    write_t1(root, "sub-01", np.full((6, 8, 7), 3, np.float32))
    with messages(caplog) as said:
        dataset = nc.CapsDataset(nc.Caps(root), rows())
        found = [dataset[1]["image"] for _ in range(2)]
    assert all(bool((one == 0).all()) for one in found)
    assert len([message for message in said if "all voxels are 3.0" in message]) == 1


@covers("stale tensor")
def test_an_outdated_tensor_is_not_used(root: Path):
    nc.Caps(root).prepare()
    write_t1(root, "sub-01", voxels_of(9))
    assert read_all(root)[1].numpy()[0] == pytest.approx(voxels_of(9))


class Payload:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@covers("damaged or malicious tensor")
@pytest.mark.parametrize("kind", ["flipped", "truncated", "malicious", "text", "other content"])
def test_a_damaged_tensor_is_an_error_and_runs_nothing(root: Path, tmp_path: Path, kind: str):
    nc.Caps(root).prepare()
    path = tensor(root)
    content = bytearray(path.read_bytes())
    if kind == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif kind == "truncated":
        path.write_bytes(content[:-100])
    elif kind == "text":
        path.write_text("no tensor")
    else:
        torch.save(Payload(tmp_path / "ran") if kind == "malicious" else {"image": "text"}, path)
    refuse(lambda: read_all(root), nc.NeurocnnError, "sub-01")  # type: ignore[type-abstract]
    assert not (tmp_path / "ran").exists()
    nc.Caps(root).prepare()
    assert read_all(root)[1].numpy()[0] == pytest.approx(voxels_of(1))


@covers("mixed orientations")
def test_mixed_orientations_are_refused_with_the_remedy(root: Path):
    write_t1(
        root, "sub-01", voxels_of(1), affine=np.diag([2.0, 2, 2, 1]) + (AFFINE - np.diag(np.diag(AFFINE)))
    )
    refuse(lambda: read_all(root), nc.ImageError, "sub-01", "orientation")
    read_all(root, orientation="RAS")


@covers("dead link, annex pointer, unreadable file")
def test_all_files_that_cannot_be_read_are_listed_at_once(root: Path, tmp_path: Path):
    image(root, "sub-00").unlink()
    image(root, "sub-00").symlink_to(tmp_path / "nowhere.nii.gz")
    image(root, "sub-01").write_text("/annex/objects/MD5E-s100--0123456789abcdef.nii.gz\n")
    image(root, "sub-02").write_bytes(b"")
    experiment = nc.Experiment(
        nc.Caps(root),
        [nc.Split(0, rows(2), rows(3).iloc[2:])],
        nc.WholeImage(),
        nc.classification(),
        "Conv3_FC1",
    )
    refuse(lambda: experiment.run(tmp_path / "results"), nc.NeurocnnError, "sub-00", "sub-01", "sub-02")  # type: ignore[type-abstract]
    assert not (tmp_path / "results").exists()


@covers("other voxel size, origin or rotation")
@pytest.mark.parametrize("change", ["size", "origin", "rotation"])
def test_images_in_different_spaces_cause_a_warning_that_names_both(
    root: Path, change: str, caplog: pytest.LogCaptureFixture
):
    affine = AFFINE.copy()
    if change == "size":
        affine[:3, :3] *= 2
    elif change == "origin":
        affine[:3, 3] += 100
    else:
        turn = np.eye(4)
        turn[:2, :2] = [[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]]
        affine = turn @ affine
    write_t1(root, "sub-01", voxels_of(1), affine=affine)
    read_all(root)
    assert re.search(r"(?s)sub-0\d.*sub-0\d", caplog.text)


@covers("header without orientation")
def test_a_header_without_orientation_is_reported_if_an_orientation_is_required(root: Path):
    def remove(content: bytearray) -> None:
        content[252:256] = bytes(4)

    repack(image(root), remove)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            read_all(root, orientation="RAS")
        except nc.ImageError as error:
            assert "sub-01" in str(error)  # noqa: PT017
        else:
            assert any("sub-01" in str(one.message) for one in caught)


@covers("tensors without NIfTI")
def test_images_can_be_read_from_tensors_without_nifti_files(root: Path):
    expected = read_all(root)
    nc.Caps(root).prepare()
    for path in root.rglob("*.nii.gz"):
        path.unlink()
    assert torch.equal(read_all(root), expected)


@covers("no disk space to prepare")
def test_a_preparation_without_disk_space_writes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    refuse(lambda: nc.Caps(root).prepare(), nc.StorageError, str(root))
    assert not list(root.rglob("*.pt"))


@covers("many empty gzip members")
def test_many_empty_gzip_members_are_refused_in_linear_time(root: Path):
    image(root).write_bytes(gzip.compress(b"") * 50_000 + image(root).read_bytes())
    try:
        read_all(root)
    except nc.ImageError as error:
        assert "sub-01" in str(error)  # noqa: PT017


@covers("compressed to gigabytes")
def test_a_nifti_that_is_larger_than_its_header_requires_is_refused(root: Path):
    whole = gzip.decompress(image(root).read_bytes())
    image(root).write_bytes(gzip.compress(whole + bytes(200_000_000), 1))
    refuse(lambda: read_all(root), nc.ImageError, "sub-01")


@covers("links for locks")
def test_a_link_in_the_place_of_a_tensor_does_not_change_its_target(root: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    nc.Caps(root).prepare()
    path = tensor(root)
    path.unlink()
    path.symlink_to(tmp_path / "mine.txt")
    nc.Caps(root).prepare()
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert os.path.islink(path) or nib is not None

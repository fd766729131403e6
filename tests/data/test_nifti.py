"""Damaged and invalid NIfTI files are refused; valid files are read with the same result as by nibabel."""

import gzip
import importlib
import struct
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_caps import AFFINE, voxels_of, write_nifti

from neurocnn.data import nifti
from neurocnn.errors import ImageError, NotFoundError
from neurocnn.storage.compression import zlib_module
from neurocnn.storage.memory import available_memory


@pytest.fixture(params=["isal", "zlib"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Run a test with zlib and, if it is installed, with isal."""
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
    zlib_module.cache_clear()
    yield
    zlib_module.cache_clear()


def header_bytes(shape: tuple[int, ...] = (4, 5, 6), **fields: object) -> bytearray:
    """Return the bytes of an uncompressed NIfTI file of zeros, with the given fields in its header."""
    image = nib.Nifti1Image(np.zeros(shape, dtype=np.float32), AFFINE)
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    return content


def gz(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(bytes(content)))
    return path


DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">f4", ">i2"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.25, -3.0)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_voxels_equal_those_of_nibabel(tmp_path: Path, dtype: str, scale: tuple[float, float], name: str):
    stored = np.random.default_rng(0).integers(0, 100, (4, 5, 6)).astype(dtype)
    image = nib.Nifti1Image(stored, AFFINE, dtype=stored.dtype)
    image.header.set_slope_inter(*scale)
    image.header.set_data_dtype(stored.dtype)
    # nibabel rounds the voxels when it saves them, so that the reference is what it reads again.
    nib.save(image, tmp_path / name)
    expected = nib.load(tmp_path / name).get_fdata(dtype=np.float32)
    voxels, header = nifti.read_voxels(tmp_path / name, "an image")
    assert np.array_equal(voxels[0].numpy(), expected)
    assert voxels.is_contiguous()
    assert header.shape == (4, 5, 6)
    assert np.allclose(header.affine, AFFINE)


def test_nifti_2_and_gzip_of_several_members_are_read(tmp_path: Path, inflater: None):
    voxels = voxels_of(0, (4, 5, 6))
    nib.save(nib.Nifti2Image(voxels, AFFINE), tmp_path / "two.nii.gz")
    assert np.array_equal(nifti.read_voxels(tmp_path / "two.nii.gz", "x")[0][0].numpy(), voxels)
    content = nib.Nifti1Image(voxels, AFFINE).to_bytes()
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    assert np.array_equal(nifti.read_voxels(tmp_path / "members.nii.gz", "x")[0][0].numpy(), voxels)


@pytest.mark.faults
def test_an_error_names_a_missing_file(tmp_path: Path):
    with pytest.raises(NotFoundError, match="sub-1"):
        nifti.read_voxels(tmp_path / "a.nii.gz", "sub-1, ses-M00")


@pytest.mark.faults
def test_a_file_of_zero_bytes_is_refused(tmp_path: Path):
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(ImageError, match="zero bytes"):
        nifti.read_voxels(tmp_path / "a.nii.gz", "x")


@pytest.mark.faults
def test_a_file_that_is_not_gzip_is_refused(tmp_path: Path):
    (tmp_path / "a.nii.gz").write_bytes(header_bytes())
    with pytest.raises(ImageError, match="is not gzip"):
        nifti.read_voxels(tmp_path / "a.nii.gz", "x")


@pytest.mark.faults
def test_a_file_that_is_not_nifti_is_refused(tmp_path: Path):
    with pytest.raises(ImageError, match="is not a NIfTI file"):
        nifti.read_voxels(gz(tmp_path / "a.nii.gz", b"<html>" * 100), "x")


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
@pytest.mark.faults
def test_a_truncated_file_is_refused(tmp_path: Path, part: float, inflater: None):
    path = write_nifti(tmp_path / "a.nii.gz", voxels_of(0, (16, 16, 16)))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        nifti.read_voxels(path, "x")


@pytest.mark.faults
def test_a_file_truncated_in_the_gzip_trailer_is_refused(tmp_path: Path, inflater: None):
    path = write_nifti(tmp_path / "a.nii.gz", voxels_of(0))
    for cut in range(1, 9):
        content = path.read_bytes()
        (tmp_path / "b.nii.gz").write_bytes(content[:-cut])
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            nifti.read_voxels(tmp_path / "b.nii.gz", "x")


@pytest.mark.faults
def test_any_flipped_bit_is_detected(tmp_path: Path, inflater: None):
    """In stored (uncompressed) blocks, only the checksum can detect a flipped bit."""
    raw = nib.Nifti1Image(voxels_of(0, (4, 4, 4)), AFFINE).to_bytes()
    for level in (0, 6):
        content = gzip.compress(raw, compresslevel=level, mtime=0)
        for byte in range(10, len(content), 7):
            damaged = bytearray(content)
            damaged[byte] ^= 1 << byte % 8
            (tmp_path / "a.nii.gz").write_bytes(damaged)
            with pytest.raises(ImageError):
                nifti.read_voxels(tmp_path / "a.nii.gz", "x")


@pytest.mark.faults
def test_a_header_that_requires_more_bytes_than_the_file_is_refused_unread(tmp_path: Path):
    content = header_bytes(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    with pytest.raises(ImageError, match="cannot contain"):
        nifti.read_voxels(gz(tmp_path / "a.nii.gz", content), "x")
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(ImageError, match="cannot contain"):
        nifti.read_voxels(tmp_path / "a.nii", "x")


@pytest.mark.faults
def test_a_header_that_requires_more_than_the_memory_is_refused_before_allocating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_nifti(tmp_path / "a.nii.gz", np.zeros((32, 32, 32), dtype=np.float32))
    monkeypatch.setattr(nifti, "available_memory", lambda: 100_000)
    monkeypatch.setattr(nifti, "_decompress", lambda *_: pytest.fail("inflated"))
    with pytest.raises(ImageError, match="but only 100000 are available"):
        nifti.read_voxels(path, "x")


def test_the_available_memory_is_less_than_the_machine_has():
    total = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    assert 0 < available_memory() <= int(total.split()[1]) * 1024


@pytest.mark.faults
def test_a_gzip_bomb_is_decompressed_only_up_to_the_size_in_its_header(tmp_path: Path, inflater: None):
    path = gz(tmp_path / "a.nii.gz", bytes(header_bytes()) + bytes(50_000_000))
    with pytest.raises(ImageError, match="its content exceeds"):
        nifti.read_voxels(path, "x")


@pytest.mark.parametrize(
    "dim",
    [
        [3, -4, 5, 6, 1, 1, 1, 1],
        [3, 0, 5, 6, 1, 1, 1, 1],
        [4, 4, 5, 6, 2, 1, 1, 1],
        [4, 4, 5, 6, 1, 1, 1, 1],
        [2, 4, 5, 1, 1, 1, 1, 1],
        [0, 4, 5, 6, 1, 1, 1, 1],
    ],
)
@pytest.mark.faults
def test_a_shape_that_is_not_3d_or_not_positive_is_refused(tmp_path: Path, dim: list[int]):
    with pytest.raises(ImageError, match="expected three positive numbers"):
        nifti.read_voxels(gz(tmp_path / "a.nii.gz", header_bytes(dim=dim)), "x")


@pytest.mark.parametrize("code", [0, 1, 32, 128, 9999])
@pytest.mark.faults
def test_an_unknown_or_complex_data_type_is_refused(tmp_path: Path, code: int):
    with pytest.raises(ImageError, match=r"type|invalid"):
        nifti.read_voxels(gz(tmp_path / "a.nii.gz", header_bytes(datatype=code)), "x")


@pytest.mark.parametrize("row", [[np.nan, 0, 0, 0], [np.inf, 0, 0, 0], [0, 0, 0, 5]])
@pytest.mark.faults
def test_a_nan_or_singular_affine_is_refused(tmp_path: Path, row: list[float]):
    with pytest.raises(ImageError, match="affine"):
        nifti.read_voxels(gz(tmp_path / "a.nii.gz", header_bytes(srow_x=row, sform_code=1)), "x")


@pytest.mark.faults
def test_a_header_with_fewer_voxels_than_the_file_is_refused(tmp_path: Path):
    (tmp_path / "a.nii").write_bytes(header_bytes(dim=[3, 4, 5, 5, 1, 1, 1, 1]))
    with pytest.raises(ImageError, match=r"832 bytes.*752"):
        nifti.read_voxels(tmp_path / "a.nii", "x")


@pytest.mark.faults
def test_every_damaged_header_raises_an_image_error_or_is_harmless(tmp_path: Path):
    """Each byte of a header is set to extreme values: reading returns voxels or raises an ImageError."""
    content = header_bytes()
    for byte in range(348):
        for value in (0, 255):
            damaged = bytearray(content)
            damaged[byte] = value
            (tmp_path / "a.nii").write_bytes(damaged)
            try:
                voxels, header = nifti.read_voxels(tmp_path / "a.nii", "x")
            except ImageError:
                continue
            assert tuple(voxels.shape) == (1, *header.shape)


def test_reading_a_header_reads_no_more_than_the_first_bytes(tmp_path: Path):
    path = write_nifti(tmp_path / "a.nii.gz", voxels_of(0, (40, 40, 40)))
    content = path.read_bytes()
    path.write_bytes(content[:4096])
    assert nifti.read_header(path, "x").shape == (40, 40, 40)


def test_the_checksum_in_the_gzip_trailer_is_that_of_the_content():
    """The fingerprint of an image requires this."""
    content = bytes(header_bytes())
    assert struct.unpack("<II", gzip.compress(content)[-8:]) == (zlib.crc32(content), len(content))
    assert importlib.util.find_spec("zlib") is not None

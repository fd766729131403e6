"""A fingerprint depends only on the content of an image."""

import gzip
import os
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from small_caps import rows, small_caps, voxels_of, write_t1

from neurocnn.data import Caps
from neurocnn.data import nifti as nifti_module


def fingerprints(root: Path) -> list[str]:
    return Caps(root).fingerprints(rows(1))["fingerprint"].tolist()


def unzip(root: Path) -> Path:
    """Replace the file of the first image by an uncompressed file."""
    path = Caps(root).path("sub-00", "ses-M00")
    plain = path.with_suffix("")
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    return plain


def tensors_alone(root: Path) -> Path:
    caps = Caps(root)
    caps.prepare()
    caps.path("sub-00", "ses-M00").unlink()
    return Caps(root).path("sub-00", "ses-M00")


def test_the_table_has_one_row_per_session_with_its_ids(tmp_path: Path):
    caps = Caps({name: small_caps(tmp_path / name, 2) for name in ("A", "B")})
    table = caps.fingerprints(caps.sessions())
    assert table.columns.tolist() == ["cohort", "participant_id", "session_id", "fingerprint"]
    assert table["cohort"].tolist() == ["A", "A", "B", "B"]
    assert table["fingerprint"].nunique() == 2  # both cohorts have the same images


@pytest.mark.faults
@pytest.mark.parametrize("make", [lambda root: None, unzip, tensors_alone], ids=["gz", "nii", "tensor"])
def test_a_copy_has_the_same_fingerprint_and_a_replaced_image_has_another_fingerprint(tmp_path: Path, make):
    root = small_caps(tmp_path / "one", 1)
    make(root)
    found = fingerprints(root)
    shutil.copytree(root, tmp_path / "two")
    for path in (tmp_path / "two").rglob("sub-00_*"):
        os.utime(path, (0, 0))
    assert fingerprints(tmp_path / "two") == found
    other = tmp_path / "three"
    write_t1(other, "sub-00", voxels_of(0) + 1)
    make(other)
    assert fingerprints(other) != found


def test_checksum_and_size_are_those_of_the_decompressed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = small_caps(tmp_path, 1)
    content = gzip.decompress(Caps(root).path("sub-00", "ses-M00").read_bytes())
    monkeypatch.setattr(nifti_module, "_decompress", lambda *_: pytest.fail("decompressed"))
    assert fingerprints(root) == [f"nifti-{zlib.crc32(content):08x}-{len(content)}"]
    path = unzip(root)
    assert fingerprints(root) == [f"nifti-{zlib.crc32(content):08x}-{len(content)}"]
    changed = bytearray(content)
    changed[-3] ^= 1
    path.write_bytes(changed)
    assert fingerprints(root) == [f"nifti-{zlib.crc32(changed):08x}-{len(content)}"]


def test_a_tensor_without_nifti_has_the_checksum_of_its_voxels(tmp_path: Path):
    path = tensors_alone(small_caps(tmp_path, 1))
    checksum = zlib.crc32(voxels_of(0).tobytes())
    assert fingerprints(tmp_path) == [f"tensor-{checksum:08x}-{voxels_of(0).nbytes}"]
    torch.save(torch.from_numpy(voxels_of(0))[None], path, _use_new_zipfile_serialization=False)
    assert fingerprints(tmp_path) == [f"tensor-{zlib.crc32(path.read_bytes()):08x}-{path.stat().st_size}"]

"""A file of tensors that is damaged, unsafe or has unexpected content is refused."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurocnn.errors import CheckpointError, NotFoundError, StorageError
from neurocnn.storage.compression import zlib_module
from neurocnn.storage.tensors import load_tensors, save_tensors


def test_numpy_scalars_are_read_as_plain_numbers(tmp_path: Path):
    state = torch.nn.BatchNorm1d(2).state_dict()
    content = {
        "model": state,
        "lr": np.float64(0.1),
        "rows": [{"n": np.int64(3), "name": np.str_("a")}, (np.float32(0.5), np.bool_(True))],
        np.int64(4): None,
    }
    save_tensors(content, tmp_path / "state.pt")
    read = load_tensors(tmp_path / "state.pt")
    assert read["model"]._metadata == state._metadata
    del read["model"]
    assert repr(read) == "{'lr': 0.1, 'rows': [{'n': 3, 'name': 'a'}, (0.5, True)], 4: None}"
    assert type(content["lr"]) is np.float64, "the caller's own stays"


@pytest.mark.parametrize("foreign", [np.ones(2), Path("a"), torch.nn.Linear(2, 2)])
def test_an_object_that_could_not_be_loaded_is_not_saved(foreign: object, tmp_path: Path):
    save_tensors({"epoch": 1}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt: not saved.*(numpy|pathlib|Linear)"):
        save_tensors({"model": [foreign]}, tmp_path / "state.pt")
    assert load_tensors(tmp_path / "state.pt") == {"epoch": 1}


def test_a_write_that_fails_at_any_size_is_a_storage_error_and_keeps_the_old_file(tmp_path: Path):
    resource = pytest.importorskip("resource", reason="no limit of file sizes")
    path, content = tmp_path / "state.pt", {"model": torch.arange(9000), "rows": list(range(50))}
    save_tensors(content, tmp_path / "size.pt")
    n_bytes = (tmp_path / "size.pt").stat().st_size
    save_tensors({"epoch": 1}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, n_bytes, n_bytes // 12):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(StorageError, match=r"File too large.*state\.pt"):
                save_tensors(content, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_tensors(path) == {"epoch": 1}
    assert sorted(os.listdir(tmp_path)) == ["size.pt", "state.pt"]


def test_every_flipped_bit_in_the_tensors_is_detected(tmp_path: Path):
    path = tmp_path / "state.pt"
    tensor = torch.arange(64, dtype=torch.float32)
    save_tensors({"model": tensor}, path)
    whole = path.read_bytes()
    start = whole.index(tensor.numpy().tobytes())
    for position in range(start, start + tensor.numel() * 4, 7):
        broken = bytearray(whole)
        broken[position] ^= 0x10
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match="checksum"):
            load_tensors(path)


@pytest.mark.parametrize("isal", [True, False])
def test_a_flipped_bit_is_detected_anywhere_in_a_large_tensor(isal: bool, tmp_path: Path, monkeypatch):
    if not isal:
        monkeypatch.setitem(sys.modules, "isal", None)
    zlib_module.cache_clear()
    path = tmp_path / "state.pt"
    # The tensor takes more than three of the blocks in which a file is read.
    tensor = torch.rand(3 * 2**16 + 5)
    save_tensors(tensor, path)
    assert torch.equal(load_tensors(path), tensor)
    whole = path.read_bytes()
    start = whole.index(tensor.numpy().tobytes())
    for position in (0, 2**18 - 1, 2**18, 2**19 + 3, 3 * 2**18 + 19):
        broken = bytearray(whole)
        broken[start + position] ^= 0x80
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"wrong checksum of .*data/0"):
            load_tensors(path)
    zlib_module.cache_clear()


def test_any_flipped_byte_gives_an_error_or_the_same_tensors(tmp_path: Path):
    path = tmp_path / "state.pt"
    tensor = torch.arange(8, dtype=torch.float32)
    save_tensors({"model": tensor}, path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 0x04
        path.write_bytes(broken)
        try:
            loaded = load_tensors(path)
        except CheckpointError:
            continue
        assert torch.equal(loaded["model"], tensor), position


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; delete it and write it again"),
        (
            b"plain text",
            "the content cannot be read (Unsupported operand 112); expected a file of tensors, but it is",
        ),
        (
            b"a participant",
            "the content cannot be read (IndexError: pop from empty list); expected a file of",
        ),
        (
            b"PK\x03\x04 and nothing",
            "the file is truncated or damaged (File is not a zip file); expected an archive",
        ),
    ],
)
def test_a_file_of_another_format_is_a_checkpoint_error(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: {message}")):
        load_tensors(path)


def test_a_truncated_file_is_a_checkpoint_error_at_every_length(tmp_path: Path):
    path = tmp_path / "state.pt"
    save_tensors(torch.zeros(4), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        expected = (
            "truncated or damaged" if length > 3 else "empty|truncated, damaged or another kind of file"
        )
        with pytest.raises(CheckpointError, match=expected):
            load_tensors(path)


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="does not exist") as caught:
        load_tensors(tmp_path / "none.pt")
    assert isinstance(caught.value, NotFoundError)


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_payload_is_refused_and_does_not_run(tmp_path: Path, zipped: bool):
    path = tmp_path / "state.pt"
    torch.save({"model": _Payload(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="nothing else is loaded"):
        load_tensors(path)
    assert not (tmp_path / "ran").exists()

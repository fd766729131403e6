"""Files appear whole or not at all, and a damaged one is never read."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurocnn import errors
from neurocnn.errors import CheckpointError, InUseError, NeurocnnError, NotFoundError
from neurocnn.storage.files import write_whole
from neurocnn.storage.locks import hold
from neurocnn.storage.tensors import load_tensors, save_tensors


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "table.tsv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), write_whole(path, "w") as file:
        file.write("new")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.tsv"]


def test_a_file_gets_the_permissions_that_the_umask_says(tmp_path: Path):
    with write_whole(tmp_path / "a", "w") as file:
        file.write("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_an_error_of_the_disk_names_the_final_path(tmp_path: Path):
    path = tmp_path / "deep" / "state.pt"
    with pytest.raises(OSError, match=r"state\.pt") as caught, write_whole(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert isinstance(caught.value, NeurocnnError)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.errno, copy.filename) == (errno.ENOSPC, str(path))
    assert os.listdir(path.parent) == []


def test_numbers_of_numpy_are_read_back_as_plain_ones(tmp_path: Path):
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
def test_what_could_not_be_read_again_is_not_written(foreign: object, tmp_path: Path):
    save_tensors({"epoch": 1}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt: is not written.*(numpy|pathlib|Linear)"):
        save_tensors({"model": [foreign]}, tmp_path / "state.pt")
    assert load_tensors(tmp_path / "state.pt") == {"epoch": 1}


def test_every_flipped_bit_in_the_tensors_is_noticed(tmp_path: Path):
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


def test_any_flipped_byte_gives_an_error_or_the_very_tensors(tmp_path: Path):
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


@pytest.mark.parametrize("content", [b"", b"plain text", b"PK\x03\x04 and nothing"])
def test_what_is_no_file_of_tensors_is_a_checkpoint_error(tmp_path: Path, content: bytes):
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        load_tensors(path)


def test_a_truncated_file_is_a_checkpoint_error_at_every_length(tmp_path: Path):
    path = tmp_path / "state.pt"
    save_tensors(torch.zeros(4), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_tensors(path)


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such file") as caught:
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


def test_the_second_process_is_told_who_holds_the_lock(tmp_path: Path):
    code = (
        "import sys; from neurocnn.storage.locks import hold\n"
        "with hold(sys.argv[1], 'split 0'):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(InUseError, match=f'"pid": {other.pid}'),
            hold(tmp_path / "lock", "split 0"),
        ):
            pass
        other.kill()
        other.wait()
        with hold(tmp_path / "lock", "split 0"):
            pass


def test_every_error_survives_pickling():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, NeurocnnError)]
    assert len(kinds) >= 9
    for kind in kinds:
        copy = pickle.loads(pickle.dumps(kind("what, where and what to do")))
        assert type(copy) is kind
        assert str(copy) == "what, where and what to do"

"""Files are written completely or not at all."""

import errno
import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest

from neurocnn.errors import NeurocnnError
from neurocnn.storage.files import find, write_atomically


def test_a_block_that_raises_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "table.tsv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), write_atomically(path, "w") as file:
        file.write("new")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.tsv"]


def test_a_file_gets_the_permissions_of_the_umask(tmp_path: Path):
    with write_atomically(tmp_path / "a", "w") as file:
        file.write("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_the_error_of_a_full_disk_names_the_final_path(tmp_path: Path):
    path = tmp_path / "deep" / "state.pt"
    with pytest.raises(OSError, match=r"state\.pt") as caught, write_atomically(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert isinstance(caught.value, NeurocnnError)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.errno, copy.filename) == (errno.ENOSPC, str(path))
    assert os.listdir(path.parent) == []


@pytest.mark.faults
def test_files_are_found_while_another_process_removes_folders(tmp_path: Path):
    (tmp_path / "fold.lock").touch()
    child = os.fork()
    if child == 0:
        while True:
            (tmp_path / "state" / "a" / "b").mkdir(parents=True, exist_ok=True)
            shutil.rmtree(tmp_path / "state")
    try:
        for _ in range(6000):
            assert tmp_path / "fold.lock" in find(tmp_path, "**/*.lock")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

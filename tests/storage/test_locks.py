"""Locks are released when their process ends, and errors name the process that holds a lock."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from neurocnn.errors import InUseError, StorageError
from neurocnn.storage.locks import hold, is_held


def test_the_error_of_a_second_process_names_the_holder(tmp_path: Path):
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


def test_every_refused_process_reads_the_note_of_the_holder(tmp_path: Path):
    with hold(tmp_path / "lock", "split 0"):
        for _ in range(3):
            with pytest.raises(InUseError, match=f'"pid": {os.getpid()}'), hold(tmp_path / "lock", "split 0"):
                pass


def test_a_forked_child_that_outlives_its_killed_parent_does_not_keep_the_lock(tmp_path: Path):
    script = (
        "import os, signal, sys, time\n"
        "from neurocnn.storage.locks import hold\n"
        "with hold(sys.argv[1], 'it'):\n"
        "    if os.fork() == 0:\n"
        "        print(os.getpid(), flush=True); time.sleep(60); os._exit(0)\n"
        "    time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        try:
            with hold(tmp_path / "lock", "it"):
                os.kill(child, 0)  # The child must still be running.
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_that_leaves_the_block_does_not_release_the_lock_of_its_parent(tmp_path: Path):
    with hold(tmp_path / "lock", "it"):
        code = "from neurocnn.storage.locks import hold; import sys\nwith hold(sys.argv[1], 'it'): pass"
        child = os.fork()
        if child == 0:
            try:
                raise KeyboardInterrupt
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        second = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "lock")], capture_output=True, text=True, check=False
        )
        assert "InUseError" in second.stderr


def test_a_waiting_process_gets_the_lock_when_the_holder_releases_it(tmp_path: Path):
    code = (
        "import sys, time; from neurocnn.storage.locks import hold\n"
        "with hold(sys.argv[1], 'it'):\n    print('held', flush=True); time.sleep(0.5)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        start = time.monotonic()
        with hold(tmp_path / "lock", "it", wait=True):
            assert time.monotonic() - start > 0.1


def test_is_held_creates_nothing_while_the_folder_of_the_lock_is_removed(tmp_path: Path):
    folder = tmp_path / "state"
    ended = threading.Event()

    def ask() -> None:
        # Without a pause, two threads take the lock so often that `hold` may not get it in time.
        while not ended.wait(0.0005):
            is_held(folder / "fold.lock")

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            with hold(folder / "fold.lock", "split 0"):
                assert is_held(folder / "fold.lock")
            shutil.rmtree(folder)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not folder.exists()
    assert not is_held(folder / "fold.lock")
    assert not folder.exists()


def test_import_and_locks_work_without_fcntl(tmp_path: Path):
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "import neurocnn\n"
        "from neurocnn.storage.locks import hold\n"
        "with hold(sys.argv[1], 'split 0'):\n"
        "    try:\n"
        "        with hold(sys.argv[1], 'split 0'): pass\n"
        "    except neurocnn.NeurocnnError as error:\n"
        "        print(type(error).__name__)\n"
        "with hold(sys.argv[1], 'split 0'): pass"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "InUseError\n"


def test_a_folder_at_the_path_of_a_lock_is_a_storage_error(tmp_path: Path):
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(StorageError, match="cannot lock split 0") as caught,
        hold(tmp_path / "lock", "split 0"),
    ):
        pass
    assert caught.value.filename == str(tmp_path / "lock")

"""System errors become errors of neurocnn with the path, and no file takes more memory than its size."""

import errno
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from unsafe_files import unsafe_files

import neurocnn as nc
from neurocnn.errors import CheckpointError, InUseError, NeurocnnError, StorageError
from neurocnn.storage import hold, load_tensors, read_table, remove_leftovers, save_tensors, write_table
from neurocnn.storage import locks as locks_module
from neurocnn.storage.files import write_atomically

pytestmark = pytest.mark.faults
Repetitions = Callable[[int, int], int]


@pytest.fixture
def shared() -> Iterator[Path]:
    """Provide a folder that other users may enter, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def as_nobody(call: Callable[[], object]) -> str:
    """Return the kind and message of the error that a call raises in a child without root's rights."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        text = "no error"
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            call()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, text.encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read()


def enter_lock(path: Path) -> None:
    with hold(path, "split 0"):
        pass


def test_an_error_names_an_unreadable_table_or_file_of_tensors(shared: Path):
    write_table(pd.DataFrame({"x": [1]}), shared / "t.tsv")
    save_tensors({"x": 1}, shared / "t.pt")
    for path, read in ((shared / "t.tsv", read_table), (shared / "t.pt", load_tensors)):
        path.chmod(0)
        message = as_nobody(lambda path=path, read=read: read(path))
        assert message.startswith(
            "StorageError: [Errno 13] cannot read: Permission denied; check the permissions"
        )
        assert str(path) in message


def test_an_error_names_a_file_in_a_folder_without_access(shared: Path):
    folder = shared / "private"
    folder.mkdir(mode=0o700)
    if os.getuid() != 0:
        folder.chmod(0)
    for call in (
        lambda: read_table(folder / "t.tsv"),
        lambda: load_tensors(folder / "t.pt"),
        lambda: write_table(pd.DataFrame({"x": [1]}), folder / "t.tsv"),
        lambda: enter_lock(folder / "lock"),
    ):
        message = as_nobody(call)
        assert message.startswith("StorageError: [Errno 13] cannot ")
        assert str(folder) in message


@pytest.mark.parametrize("private", ["commandline.json", "fold-0", "."])
def test_an_error_names_a_result_folder_that_may_not_be_read(shared: Path, private: str):
    labels = nc.make_caps(shared / "caps", n_participants=8, preprocessing="t1-volume", shape=(18, 20, 18))
    splits = nc.kfold(labels, n_splits=2, stratify=["diagnosis"])
    trainer = nc.Trainer(epochs=1, device="cpu", n_workers=0)
    caps, results = nc.Caps(shared / "caps", "t1-volume"), shared / "results"
    nc.Experiment(caps, splits, nc.WholeImage(), nc.classification(), "Conv3_FC1", trainer).run(results)
    (results / private).chmod(0)
    for call in (
        lambda: nc.Results(results).metrics(),
        lambda: nc.Results(results).summary(),
        lambda: nc.Experiment.load(results).run(results),
    ):
        message = as_nobody(call)
        assert message.startswith("StorageError: [Errno 13] cannot ")
        assert str(results) in message


def test_an_error_names_a_lock_file_of_another_user(shared: Path):
    path = shared / "lock"
    enter_lock(path)
    path.chmod(0o600)
    if os.getuid() == 0:
        message = as_nobody(lambda: enter_lock(path))
        assert message.startswith("StorageError: [Errno 13] cannot lock split 0")
        assert str(path) in message


def test_an_error_names_a_read_only_folder_and_its_files_stay(shared: Path):
    write_table(pd.DataFrame({"x": [1]}), shared / "t.tsv")
    shared.chmod(0o555)
    message = as_nobody(lambda: write_table(pd.DataFrame({"x": [2]}), shared / "t.tsv"))
    shared.chmod(0o777)
    assert message.startswith(
        "StorageError: [Errno 13] cannot write: Permission denied; check the permissions"
    )
    assert read_table(shared / "t.tsv", required=())["x"].tolist() == [1]


@pytest.mark.parametrize(
    ("action", "call"),
    [
        ("write", lambda path: write_table(pd.DataFrame({"x": [1]}), path)),
        ("write", lambda path: save_tensors({"x": 1}, path)),
        ("lock", enter_lock),
    ],
)
def test_a_path_that_cannot_exist_is_a_storage_error_with_a_remedy(
    tmp_path: Path, action: str, call: Callable[[Path], object]
):
    (tmp_path / "file").touch()
    for path, remedy in (
        (tmp_path / ("x" * 300), "choose a shorter path"),
        (tmp_path / "file" / "deep" / "t", "a file is where a folder is expected"),
        (tmp_path / "file" / "t", "a file is where a folder is expected"),
    ):
        with pytest.raises(StorageError, match=f"cannot {action}.*{remedy}") as caught:
            call(path)
        assert caught.value.filename == str(path)


def test_an_error_names_a_folder_in_the_place_of_a_file(tmp_path: Path):
    with pytest.raises(StorageError, match="a folder is where a file is expected"):
        write_table(pd.DataFrame({"x": [1]}), tmp_path)
    assert [entry for entry in tmp_path.parent.iterdir() if entry.name.startswith(f".{tmp_path.name}")] == []


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_the_error_of_a_disk_without_file_locks_has_a_remedy(tmp_path: Path, monkeypatch, code: int):
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(
        StorageError, match=r"cannot lock split 0: .*; the disk has no file locks; choose"
    ) as caught:
        enter_lock(tmp_path / "lock")
    assert caught.value.filename == str(tmp_path / "lock")


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_lock_file_that_is_a_link_does_not_change_its_target(
    tmp_path: Path, make: Callable[[Path, Path], None]
):
    other = tmp_path / "other"
    other.write_text("precious")
    make(other, tmp_path / "lock")
    with pytest.raises(StorageError, match="cannot lock split 0"):
        enter_lock(tmp_path / "lock")
    assert other.read_text() == "precious"


def test_a_dangling_link_or_a_pipe_in_place_of_a_lock_file_is_refused_at_once(tmp_path: Path):
    os.symlink(tmp_path / "new", tmp_path / "lock")
    os.mkfifo(tmp_path / "pipe")
    for name in ("lock", "pipe"):
        with pytest.raises(StorageError):
            enter_lock(tmp_path / name)
    assert not (tmp_path / "new").exists()


def test_leftovers_are_removed_only_under_a_held_lock_and_links_are_kept(tmp_path: Path):
    other = tmp_path / "other"
    other.write_text("precious")
    leftover, link = tmp_path / ".t.tsv.1-00000000", tmp_path / ".t.tsv.1-00000001"
    leftover.touch()
    os.symlink(other, link)
    (tmp_path / ".t.tsv.1-00000002").mkdir()
    with hold(tmp_path / "lock", "it") as lock:
        pass
    with pytest.raises(InUseError, match="does not hold the lock"):
        remove_leftovers(lock, tmp_path / "t.tsv")
    with hold(tmp_path / "lock", "it") as lock:
        message = as_nobody(lambda: remove_leftovers(lock, tmp_path / "t.tsv"))
        assert message.startswith("InUseError")
        remove_leftovers(lock, tmp_path / "t.tsv", tmp_path / "missing" / "t.tsv")
    assert not leftover.exists()
    assert link.is_symlink()
    assert other.read_text() == "precious"


def test_a_link_at_the_path_of_a_table_is_replaced_and_not_followed(tmp_path: Path):
    other = tmp_path / "other"
    other.write_text("precious")
    os.symlink(other, tmp_path / "t.tsv")
    write_table(pd.DataFrame({"x": [1]}), tmp_path / "t.tsv")
    assert other.read_text() == "precious"
    assert stat.S_ISREG((tmp_path / "t.tsv").lstat().st_mode)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize("mmap", [False, True])
def test_unsafe_files_are_refused_without_running_code_or_taking_memory(tmp_path: Path, mmap: bool):
    files = unsafe_files(str(tmp_path / "ran"))
    assert len(files) >= 30
    path = tmp_path / "state.pt"
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    loaded = []
    for name, content in files.items():
        path.write_bytes(content)
        # Half a gigabyte is enough for the files, but not for the sizes that some of them claim.
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), limits[1]))
        try:
            load_tensors(path, mmap=mmap)
        except CheckpointError as error:
            if "state.pt" not in str(error) or "MemoryError" in str(error) or "allocate" in str(error):
                loaded.append(f"{name}: {error}")
        else:
            loaded.append(name)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    assert loaded == []
    assert not (tmp_path / "ran").exists()


def test_tied_and_expanded_tensors_are_still_saved_and_loaded(tmp_path: Path):
    weight = torch.arange(6.0).reshape(2, 3)
    expanded = torch.ones(1, 1).expand(1000, 1000)
    save_tensors({"a": weight, "b": weight.T, "c": expanded, "empty": torch.empty(0)}, tmp_path / "t.pt")
    found = load_tensors(tmp_path / "t.pt")
    assert torch.equal(found["b"], weight.T)
    assert torch.equal(found["c"], expanded)


def test_a_flipped_bit_in_tensors_is_detected_or_changes_no_value(tmp_path: Path, repetitions: Repetitions):
    content = {
        "model": {"weight": torch.randn(4, 5), "n": torch.tensor(3)},
        "epoch": 7,
        "rows": [{"loss": 0.5}],
    }
    path = tmp_path / "state.pt"
    save_tensors(content, path)
    complete = path.read_bytes()
    draw, detected = random.Random(0), 0
    for _ in range(repetitions(200, 1000)):
        position = draw.randrange(8 * len(complete))
        changed = bytearray(complete)
        changed[position // 8] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            found = load_tensors(path, mmap=draw.random() < 0.5)
        except CheckpointError:
            detected += 1
            continue
        assert torch.equal(found["model"]["weight"], content["model"]["weight"]), position
        assert {**found, "model": None} == {**content, "model": None}, position
        assert found["model"]["n"] == 3, position
    print(f"tensors: {detected} flips detected, the others harmless")
    assert detected > 0


TABLE = "participant_id\tsession_id\tdiagnosis\tage\n" + "".join(
    f"sub-{i:03}\tses-M{6 * (i % 3):02}\t{'AD' if i % 2 else 'CN'}\t{60.5 + i}\n" for i in range(8)
)


def test_a_table_with_random_changes_is_read_exactly_or_refused(tmp_path: Path, repetitions: Repetitions):
    draw, refused, accepted = random.Random(0), 0, 0
    texts = [*'\t\n\r"\0 ,\\٣', "sub-", "n/a", "1e999", ".."]
    pieces = [*(text.encode() for text in texts), b"\xff", b""]
    path = tmp_path / "t.tsv"
    count = repetitions(300, 10_000)
    for _ in range(count):
        content = TABLE.encode()
        for _ in range(draw.randint(1, 3)):
            start = draw.randrange(len(content))
            stop = start + draw.choice([0, 0, 1, 1, 2, 30])
            content = content[:start] + draw.choice([*pieces, bytes([draw.randrange(256)])]) + content[stop:]
        path.write_bytes(content)
        try:
            found = read_table(path)
        except NeurocnnError as error:
            refused += str(path) in str(error)
            continue
        accepted += 1
        # An accepted table has one row per line of the file, and is the same after it is written and read.
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").strip("\n").split("\n")
        assert len(found) == len(lines) - 1, content
        write_table(found, tmp_path / "again.tsv")
        pd.testing.assert_frame_equal(read_table(tmp_path / "again.tsv"), found)
    assert refused + accepted == count
    print(f"tables: {refused} changed tables refused, the others read exactly")


def test_processes_that_race_for_a_lock_hold_it_one_at_a_time(tmp_path: Path, repetitions: Repetitions):
    rounds = repetitions(3, 50)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from neurocnn.errors import InUseError\n"
        "from neurocnn.storage import hold, remove_leftovers, write_atomically\n"
        "folder = Path(sys.argv[1])\n"
        "done = 0\n"
        "while done < int(sys.argv[2]):\n"
        "    try:\n"
        "        with hold(folder / 'new' / 'lock', 'it', wait=done % 2 == 0) as lock:\n"
        "            path = folder / 'count'\n"
        "            remove_leftovers(lock, path)\n"
        "            n = int(path.read_text()) if path.exists() else 0\n"
        "            with write_atomically(path, 'w') as file:\n"
        "                file.write(str(n + 1))\n"
        "        done += 1\n"
        "    except InUseError as error:\n"
        "        assert 'held by another process' in str(error)\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(rounds)], stderr=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    for racer in racers:
        assert racer.communicate(timeout=300)[1] == ""
    assert (tmp_path / "count").read_text() == str(8 * rounds)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["count", "new"]


def test_the_message_about_a_lock_contains_at_most_200_characters_of_the_note(tmp_path: Path):
    (tmp_path / "lock").write_bytes(b"\xff" * 1000)
    assert len(locks_module._read_note(tmp_path / "lock")) <= 200
    assert locks_module._read_note(tmp_path / "missing") == "unknown"


def test_an_error_in_the_block_is_raised_unchanged_and_no_file_remains(tmp_path: Path):
    with pytest.raises(CheckpointError, match="mine"), write_atomically(tmp_path / "t") as file:
        file.write(b"x")
        raise CheckpointError("mine")
    assert os.listdir(tmp_path) == []

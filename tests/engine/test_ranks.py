"""Training and evaluation by two ranks on a CPU give the results of one process."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import rank_script
import torch
from toys import Toys, die, network, same_weights

from neurocnn.engine import Trainer, classification, predict
from neurocnn.engine.ranks import find_ranks
from neurocnn.errors import TrainingError

pytestmark = pytest.mark.cpu


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, rank_script.__file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder, [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    torch.set_num_threads(1)
    rank_script.main(folder)
    return torch.load(folder / "rank-0.pt", weights_only=True)


def differences(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_ranks_and_one_process_train_the_same_weights_without_batch_norm(ranks, alone):
    _, (first, _) = ranks
    assert differences(first["single"], alone["single"]) < 1e-6
    for part in rank_script.PARTS:
        assert differences(first["multi"][part], alone["multi"][part]) < 1e-6


@pytest.mark.parametrize("kind", ["single", "normed"])
def test_all_ranks_end_with_identical_weights(ranks, kind):
    _, (first, second) = ranks
    assert same_weights(first[kind], second[kind])
    assert first["histories"] == second["histories"]


@pytest.mark.faults
def test_an_evaluation_by_ranks_has_each_sample_once_and_equals_one_process(ranks, alone):
    _, (first, second) = ranks
    expected = pd.DataFrame(alone["table"])
    assert len(expected) == 14
    for found in (first, second):
        pd.testing.assert_frame_equal(pd.DataFrame(found["table"]), expected, rtol=0, atol=1e-6)


def test_histories_of_ranks_and_of_one_process_are_equal(ranks, alone):
    _, (first, _) = ranks
    for found, expected in zip(first["histories"], alone["histories"], strict=True):
        pd.testing.assert_frame_equal(pd.DataFrame(found), pd.DataFrame(expected), rtol=0, atol=1e-5)


def test_only_rank_0_writes_files(ranks):
    folder, _ = ranks
    for name, networks in {"single": [""], "multi": ["cnn-0", "cnn-3"]}.items():
        logs = sorted(path.parent for path in (folder / name).rglob("events.out.tfevents.*"))
        sets = [
            folder / name / "tensorboard_logs" / each / one
            for each in networks
            for one in ("train", "validation")
        ]
        assert logs == sorted(sets), "one file per set"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not list threads")
def test_the_threads_of_the_communication_end_before_python(ranks):
    # A thread that waits for the interpreter lock at exit aborts the process.
    folder, _ = ranks
    for rank in range(2):
        names = (folder / f"threads-{rank}.txt").read_text()
        assert names
        assert "gloo" not in names


def test_a_killed_job_of_several_ranks_can_be_resumed(ranks, tmp_path):
    _, (first, _) = ranks

    def fit(model):
        train, validation = rank_script.sets()
        Trainer(**rank_script.SETTINGS, checkpoint_seconds=0).fit(
            model, rank_script.TASK, train, validation, folder=tmp_path
        )

    def killed(rank):
        model = network(norm=False)
        if rank == 1:
            model.register_forward_pre_hook(lambda module, _: die() if counted() == 12 else None)
        fit(model)

    def unharmed(rank):
        model = network(seed=rank, norm=False)
        fit(model)
        torch.save(model.state_dict(), tmp_path / f"{rank}.pt")

    count = []

    def counted():
        count.append(1)
        return len(count)

    assert forked(killed)[1] == -signal.SIGKILL
    assert (tmp_path / "state" / "state-0.pt").exists()
    assert forked(unharmed) == [0, 0]
    for rank in range(2):
        assert same_weights(torch.load(tmp_path / f"{rank}.pt", weights_only=True), first["single"])


def forked(function, seconds=60):
    """Run a function in two processes that are ranks of one job, and end both after one has failed, as torchrun does.

    Return the exit codes; None for a process that had to be killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.environ.update(
                    {
                        "RANK": str(rank),
                        "WORLD_SIZE": "2",
                        "LOCAL_RANK": str(rank),
                        "MASTER_ADDR": "127.0.0.1",
                    }
                )
                os.environ["MASTER_PORT"] = str(port)
                torch.set_num_threads(1)
                function(rank)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    codes, end = [None, None], time.monotonic() + seconds
    while None in codes and time.monotonic() < end:
        for rank, child in enumerate(children):
            if codes[rank] is None:
                pid, status = os.waitpid(child, os.WNOHANG)
                codes[rank] = os.waitstatus_to_exitcode(status) if pid else None
                if codes[rank]:
                    end = min(end, time.monotonic() + 5)
        time.sleep(0.05)
    for rank, child in enumerate(children):
        if codes[rank] is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return codes


class Hanging(Toys):
    """Dataset whose eighth sample fails in rank 1."""

    def __getitem__(self, index):
        if os.environ.get("RANK") == "1" and len(self.opened) == 7:
            self.fail()
        return super().__getitem__(index)


class Dying(Hanging):
    fail = staticmethod(die)


class Waiting(Hanging):
    fail = staticmethod(lambda: time.sleep(1000))


@pytest.mark.faults
@pytest.mark.parametrize("kind", [Dying, Waiting])
@pytest.mark.parametrize("where", ["training", "prediction"])
def test_a_rank_that_dies_or_hangs_ends_the_job_with_an_error_that_names_it(kind, where, tmp_path):
    task = classification("diagnosis", ["CN", "AD"])

    def job(rank):
        try:
            if where == "training":
                trainer = Trainer(epochs=50, batch_size=2, device="cpu", rank_seconds=3)
                trainer.fit(network(), task, kind(20), folder=tmp_path)
            else:
                Trainer(epochs=1, batch_size=2, device="cpu", rank_seconds=3).fit(network(), task, Toys(4))
                predict(network(), task, kind(40), device="cpu", batch_size=1)
        except TrainingError as error:
            (tmp_path / f"error-{rank}").write_text(str(error))
            raise

    codes = forked(job)
    assert codes[0] == 1
    assert codes[1] == (-signal.SIGKILL if kind is Dying else None)
    assert "rank 1" in (tmp_path / "error-0").read_text().lower()
    assert not list(Path(tmp_path).rglob(".*.tsv.*")), "no half-written table"


@pytest.mark.faults
def test_an_error_names_a_rank_that_died_before_the_barrier(tmp_path):
    def job(rank):
        ranks = find_ranks(seconds=3)
        ranks.barrier("at first")
        if rank == 1:
            die()
        time.sleep(1)
        with pytest.raises(TrainingError, match="no answer from rank 1 within"):
            ranks.barrier("later")
        (tmp_path / "named").touch()

    forked(job)
    assert (tmp_path / "named").exists()


def test_the_process_group_is_released_before_python_ends(tmp_path):
    script = (
        "import atexit\n"
        "atexit.register(lambda: print('group' in ranks._control))\n"  # registered first, runs last
        "import torch.distributed as dist\n"
        "from neurocnn.engine import ranks\n"
        f"dist.init_process_group('gloo', init_method='file://{tmp_path}/ranks', rank=0, world_size=1)\n"
        "ranks.find_ranks()\n"
        "assert 'group' in ranks._control\n"
        "dist.destroy_process_group()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    # Only the last line is compared, because gloo of torch 2.10 prints a line before it.
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["False"]), done.stderr


@pytest.mark.parametrize("local", [0, 1])
def test_ranks_join_on_a_machine_with_fewer_gpus_than_ranks(local, monkeypatch):
    """The GPU and the process group are replaced: this test needs neither."""
    joined, chosen = [], []
    for name, value in {"WORLD_SIZE": "2", "RANK": str(local), "LOCAL_RANK": str(local)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: joined.append(backend))
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: joined[0])
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend, **_: joined.append(backend))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: local)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(atexit, "register", lambda *_: None)
    monkeypatch.setattr("neurocnn.engine.ranks._control", {})
    assert find_ranks().local == local
    assert joined == ["cpu:gloo,cuda:nccl", "gloo"]
    assert chosen == [0] * (local == 0)

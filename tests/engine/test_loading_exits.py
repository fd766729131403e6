"""Threads that load batches end with their process, however the process ends."""

import os
import subprocess
import sys

import pytest
import threads_script
import torch
from toys import same_weights

pytestmark = pytest.mark.cpu
RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(folder, ending, ranks=False, **environment):
    """Run the script with this `ending`. If the process hangs, it is killed and `TimeoutExpired` is raised."""
    return subprocess.run(
        [sys.executable, *(RANKS if ranks else ()), threads_script.__file__, str(folder), ending],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
    )


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        pytest.param("exception", 1, "ValueError: in a callback", marks=pytest.mark.on_demand),
        pytest.param("exit", 3, "", marks=pytest.mark.on_demand),
        ("abandoned", 3, ""),
        pytest.param("signal", -2, "KeyboardInterrupt", marks=pytest.mark.on_demand),
        ("signal while a batch is awaited", -2, "KeyboardInterrupt"),
    ],
)
def test_a_process_with_loading_threads_ends_at_once(tmp_path, ending, code, message):
    done = run(tmp_path, ending)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.on_demand
def test_ranks_with_threads_equal_ranks_without_threads(tmp_path):
    found = []
    for n_workers in ("0", "2"):
        folder = tmp_path / n_workers
        done = run(folder, "completed", ranks=True, N_WORKERS=n_workers)
        assert done.returncode == 0, done.stderr
        found += [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(same_weights(each["state"], found[0]["state"]) for each in found)
    assert all(each["history"] == found[0]["history"] for each in found)


def test_a_rank_that_fails_ends_the_other_rank(tmp_path):
    done = run(tmp_path, "a rank fails", ranks=True)
    assert done.returncode == 1
    assert "ValueError: in a callback" in done.stderr

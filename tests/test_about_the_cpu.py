"""On a machine with a GPU, the tests marked `cpu` run in processes that see no GPU.

With a GPU, torch's first backward pass starts a thread per GPU, even if all tensors are on the CPU. A child that is
forked later cannot compute gradients. Therefore tests that fork need a process without a GPU. So do tests that compare
trainings bit for bit with ``device="auto"``, and tests that start several ranks.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
FORK = re.compile(r"os\.fork\(|in_child\(|get_context\(\"fork\"\)")
RANKS = re.compile(r"torch\.distributed\.run\b")


def files_with(pattern: str) -> list[str]:
    """Return the test files that contain the pattern, relative to the folder of the tests."""
    found = (path for path in sorted(HERE.rglob("test_*.py")) if path != Path(__file__))
    return [
        path.relative_to(HERE).as_posix() for path in found if re.search(pattern, path.read_text("utf-8"))
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the tests themselves run here")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("file", files_with(r"pytest\.mark\.cpu"))
def test_the_tests_about_the_cpu_pass_in_a_process_without_a_gpu(
    file: str, tmp_path: Path, request: pytest.FixtureRequest
):
    faults = request.config.getoption("--faults")
    options = ["-m", "cpu and not on_demand", f"--faults={faults}", f"--basetemp={tmp_path / 'tests'}"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(HERE / file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command,
        cwd=request.config.rootpath,
        env=environment | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]


def test_every_file_that_forks_or_starts_ranks_has_tests_marked_cpu():
    """The files of `storage` fork without computing gradients."""
    concerned = {*files_with(FORK.pattern), *files_with(RANKS.pattern)}
    concerned = {file for file in concerned if not file.startswith("storage/")}
    assert len(concerned) > 5
    assert concerned <= set(files_with(r"pytest\.mark\.cpu"))

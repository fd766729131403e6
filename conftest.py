"""Options, fixtures and global state that all tests and docstring examples share."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import neurocnn as nc

#: Why tests marked ``cpu`` are skipped in a process that sees a GPU: after a backward pass, even one on the CPU, torch
#: refuses another one in a forked child; and trainings on a GPU are not equal bit for bit.
ABOUT_THE_CPU = "about the CPU: tests/test_about_the_cpu.py runs it with CUDA_VISIBLE_DEVICES=''"
# torch starts one thread per GPU in the first backward pass, and a forked child cannot compute gradients after that.
# Fake tensors, which `torch.export` uses too, count as eight GPUs. Therefore this pass precedes all tests.
torch.ones(1, requires_grad=True).backward()
#: Triton comes with torch for CUDA only.
collect_ignore = [] if find_spec("triton") else ["src/neurocnn/nn/triton_pooling.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--faults=full``, the long form of the tests of faults."""
    parser.addoption(
        "--faults",
        choices=("short", "full"),
        default="short",
        help="form of the tests marked `faults`: short (default), or full with many more repetitions",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` without a GPU and those marked ``cpu`` with one.

    Tests marked ``faults_full`` are deselected without ``--faults=full``.
    """
    has_gpu = torch.cuda.is_available()
    marker, reason = ("cpu", ABOUT_THE_CPU) if has_gpu else ("gpu", "no CUDA device")
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))
    if config.getoption("--faults") == "full":
        return
    long = [item for item in items if item.get_closest_marker("faults_full")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("faults_full")]


@pytest.fixture
def repetitions(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Return a function ``repetitions(short, full)`` that selects the number for the form that runs."""
    full = request.config.getoption("--faults") == "full"
    return lambda short, long: long if full else short


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images in `caps`, and in `results` a finished experiment on them with a predicted set ``test``."""
    folder = tmp_path_factory.mktemp("finished")
    labels = nc.make_caps(folder / "caps", n_participants=20, preprocessing="t1-volume", shape=(18, 20, 18))
    caps = nc.Caps(folder / "caps", "t1-volume")
    rest, test = nc.holdout(labels, fraction=0.3, stratify=["diagnosis"])
    splits = nc.kfold(rest, n_splits=2, stratify=["diagnosis"])
    trainer = nc.Trainer(epochs=3, batch_size=4, learning_rate=1e-3, n_workers=0, device="cpu")
    experiment = nc.Experiment(caps, splits, nc.Patch(9, 9), nc.classification(), "Conv3_FC1", trainer)
    experiment.run(folder / "results").predict(caps, test, name="test")
    return folder


@pytest.fixture(autouse=True)
def doctest_folder(
    request: pytest.FixtureRequest, doctest_namespace: dict[str, object], tmp_path: Path
) -> None:
    """Provide each docstring example with `tmp`, an empty folder, and `results`, a finished experiment on `caps`."""
    doctest_namespace["tmp"] = tmp_path
    test = getattr(request.node, "dtest", None)
    if test is not None and ">>> results." in test.docstring and "results = " not in test.docstring:
        study = request.getfixturevalue("finished_study")
        shutil.copytree(study / "results", tmp_path / "results")
        doctest_namespace["results"] = nc.Results(tmp_path / "results")
        doctest_namespace["caps"] = nc.Caps(study / "caps", "t1-volume")
        doctest_namespace["labels"] = nc.read_table(study / "caps/labels.tsv")


@pytest.fixture(autouse=True)
def restored_torch_settings():
    """Undo changes of torch's global settings after each test."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)

"""Options, fixtures and global state that all tests and docstring examples share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--faults=full``, the long form of the tests of faults."""
    parser.addoption(
        "--faults",
        choices=("short", "full"),
        default="short",
        help="form of the tests marked `faults`: short (default), or full with many more repetitions",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked ``faults_full``, unless ``--faults=full`` is given."""
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


@pytest.fixture(autouse=True)
def doctest_folder(doctest_namespace: dict[str, object], tmp_path: Path) -> None:
    """Provide each docstring example with `tmp`, an empty folder."""
    doctest_namespace["tmp"] = tmp_path


@pytest.fixture(autouse=True)
def restored_torch_settings():
    """Undo changes of torch's global settings after each test."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)

"""What every test and docstring example may use."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def doctest_folder(doctest_namespace: dict[str, object], tmp_path: Path) -> None:
    """Give each docstring example `tmp`, an empty folder."""
    doctest_namespace["tmp"] = tmp_path


@pytest.fixture(autouse=True)
def restored_torch_settings():
    """Undo what a test does to torch's global settings."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)

"""Fixtures and settings of all tests."""

from collections.abc import Iterator

import pandas as pd
import pytest
import torch
from hypothesis import settings
from studies import SHAPE, Study

import neurocnn as nc

# The duration of an example depends on the machine, not on the tested code.
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Restore torch's number of threads after a test that changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A small study that several test files share."""
    folder = tmp_path_factory.mktemp("study") / "caps"
    labels = nc.make_caps(folder, n_participants=16, preprocessing="t1-volume", shape=SHAPE, seed=3)
    splits = nc.kfold(labels, n_splits=2, stratify=["diagnosis"], seed=0)
    return Study(nc.Caps(folder, "t1-volume"), labels, splits)


@pytest.fixture(scope="session")
def cohort_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A small study of two cohorts, whose participants have the same ids."""
    folder = tmp_path_factory.mktemp("cohorts")
    rows, tables = [], []
    for seed, name in enumerate(("ADNI", "AIBL")):
        table = nc.make_caps(
            folder / name, n_participants=8, preprocessing="t1-volume", shape=SHAPE, seed=seed
        )
        rows.append({"cohort": name, "path": str(folder / name)})
        tables.append(table.assign(cohort=name))
    nc.write_table(pd.DataFrame(rows), folder / "caps.tsv")
    labels = pd.concat(tables, ignore_index=True)
    splits = nc.kfold(labels, n_splits=2, stratify=["diagnosis"], seed=0)
    return Study(nc.Caps(folder / "caps.tsv", "t1-volume"), labels, splits)

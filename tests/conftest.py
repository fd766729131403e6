"""Fixtures and settings of all tests."""

import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import settings
from studies import SHAPE, Study

import neurocnn as nc
from neurocnn import engine

# The duration of an example depends on the machine, not on the tested code.
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a small study that several test files share."""
    folder = tmp_path_factory.mktemp("study") / "caps"
    labels = nc.make_caps(folder, n_participants=16, preprocessing="t1-volume", shape=SHAPE, seed=3)
    splits = nc.kfold(labels, n_splits=2, stratify=["diagnosis"], seed=0)
    return Study(nc.Caps(folder, "t1-volume"), labels, splits)


@pytest.fixture(scope="session")
def cohort_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a small study of two cohorts, whose participants have the same ids."""
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


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the code of the pages reads: images and labels."""
    folder = tmp_path_factory.mktemp("pages")
    shape = (50, 50, 50)  # Each image has one patch of the size that the pages use.
    labels = nc.make_caps(folder / "caps", n_participants=10, shape=shape)
    nc.write_table(labels, folder / "labels.tsv")
    return folder


@pytest.fixture
def folder(study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of `study_folder`, which is the working directory of the test."""
    shutil.copytree(study_folder, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all trainings have one epoch on the CPU without workers, and all intervals few bootstrap samples."""
    check = nc.Trainer.__post_init__

    def shorten(trainer: nc.Trainer) -> None:
        check(trainer)
        for name, value in {"epochs": 1, "n_workers": 0, "device": "cpu"}.items():
            object.__setattr__(trainer, name, value)

    monkeypatch.setattr(nc.Trainer, "__post_init__", shorten)
    monkeypatch.setattr(engine, "confidence_intervals", partial(engine.confidence_intervals, n=20))

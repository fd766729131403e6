"""A replaced image is read again, and copies, study phases and similar ids do not hide a shared participant."""

import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_caps import AFFINE, rows, small_caps, voxels_of, write_nifti, write_t1
from torch import nn

import neurocnn as nc
from neurocnn.data.fingerprints import fingerprint

FAST = nc.Trainer(epochs=1, batch_size=4, device="cpu", n_workers=0)


def tiny(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(8, n_outputs))


@pytest.mark.faults
@pytest.mark.parametrize("prepared", [False, True])
def test_a_data_set_created_after_an_image_was_replaced_has_its_voxels(tmp_path: Path, prepared: bool):
    """The replaced file keeps the modification time of the first file, as after `cp -p` or `rsync -t`."""
    caps = nc.Caps(small_caps(tmp_path))
    if prepared:
        caps.prepare()
    first = nc.CapsDataset(caps, rows(), transform=None)[1]["image"]
    status = caps.path("sub-01", "ses-M00").stat()
    path = write_t1(tmp_path, "sub-01", voxels_of(50))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = nc.CapsDataset(caps, rows(), transform=None)[1]["image"]
    assert not torch.equal(first, found)
    assert np.array_equal(found[0].numpy(), voxels_of(50))


@pytest.mark.faults
def test_a_replaced_nii_of_the_same_size_and_time_has_another_fingerprint(tmp_path: Path):
    path = tmp_path / "subjects/sub-00/ses-M00/t1_linear/sub-00_ses-M00_own_T1w.nii"
    write_nifti(path, voxels_of(0))
    caps = nc.Caps(tmp_path, nc.Custom("_own_T1w.nii"))
    status, (source,) = path.stat(), caps.sources(rows(1))
    before = fingerprint(source)
    write_nifti(path, voxels_of(1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert fingerprint(source) != before


@pytest.mark.faults
def test_a_participant_in_two_study_phases_is_one_person(tmp_path: Path):
    caps = nc.Caps(small_caps(tmp_path, 4))
    train, validation = (
        nc.CapsDataset(caps, rows(4).assign(cohort=phase), label="diagnosis")
        for phase in ("phase 1", "phase 2")
    )
    with pytest.raises(nc.LeakError, match="sub-00"):
        FAST.fit(tiny((1,), 2), nc.classification(), train, validation)


@pytest.mark.faults
def test_an_experiment_ignores_a_column_cohort_that_the_images_lack(tmp_path: Path):
    caps = nc.Caps(small_caps(tmp_path / "caps", 8))
    splits = nc.kfold(rows(8).assign(cohort="phase 1"), 2, "diagnosis")
    results = nc.Experiment(caps, splits, nc.WholeImage(), nc.classification(), tiny, FAST).run(
        tmp_path / "results"
    )
    assert results.splits == [0, 1]


@pytest.mark.faults
def test_a_leak_is_found_even_if_the_sessions_table_differs_from_the_items(tmp_path: Path):
    caps = nc.Caps(small_caps(tmp_path, 8))

    class Wrapper(list[object]):
        sessions: pd.DataFrame

    train = Wrapper(nc.CapsDataset(caps, rows(8), label="diagnosis"))
    validation = Wrapper(nc.CapsDataset(caps, rows(8)[6:], label="diagnosis"))
    train.sessions, validation.sessions = rows(6), rows(8)[6:]
    with pytest.raises(nc.LeakError, match="sub-06, sub-07"):
        FAST.fit(tiny((1,), 2), nc.classification(), train, validation)


@pytest.mark.faults
def test_a_copy_of_a_folder_is_not_a_second_cohort(tmp_path: Path):
    for name in ("a", "b"):
        small_caps(tmp_path / name, 4)
    table = pd.concat([rows(4).assign(cohort=name) for name in ("a", "b")], ignore_index=True)
    splits = [nc.Split(0, table[:4], table[4:])]
    caps = nc.Caps({name: tmp_path / name for name in ("a", "b")})
    with pytest.raises(nc.LeakError, match="a sub-00 ses-M00"):
        nc.Experiment(caps, splits, nc.WholeImage(), nc.classification(), tiny, FAST).run(
            tmp_path / "results"
        )
    assert not (tmp_path / "results").exists()


@pytest.mark.faults
def test_ids_that_look_the_same_cause_a_warning_in_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for i in range(4):
        write_t1(tmp_path, f"sub-fit{i}", voxels_of(i))
        write_t1(tmp_path, f"sub-FIT{i}", voxels_of(i + 4))
    caps = nc.Caps(tmp_path)
    sets = [
        nc.CapsDataset(
            caps, rows(4).assign(participant_id=[f"sub-{name}{i}" for i in range(4)]), label="diagnosis"
        )
        for name in ("fit", "FIT")
    ]
    FAST.fit(tiny((1,), 2), nc.classification(), *sets)
    assert "'sub-FIT3', 'sub-fit3' differ only in" in caplog.text


@pytest.mark.faults
def test_a_cohort_in_another_space_causes_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    moved = AFFINE.copy()
    moved[0, 3] += 100
    for name, affine in (("a", AFFINE), ("b", moved)):
        write_t1(tmp_path / name, "sub-00", voxels_of(ord(name)), affine=affine)
    caps = nc.Caps({name: tmp_path / name for name in ("a", "b")})
    table = pd.concat([rows(1).assign(cohort=name) for name in ("a", "b")])
    with caplog.at_level(logging.WARNING, "neurocnn"):
        for _ in range(2):
            nc.CapsDataset(caps, table)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(
        "b sub-00 ses-M00: its voxels are up to 100.0 mm from those of a sub-00 ses-M00"
    )


@pytest.mark.faults
@pytest.mark.parametrize("cell", ["1e999", "٣٤", "inf"])
def test_stratification_refuses_infinite_numbers_and_digits_of_other_scripts(cell: str):
    frame = rows(10).assign(age=[*map(str, range(60, 69)), cell])
    with pytest.raises(nc.TableError, match="row 9"):
        nc.kfold(frame, 2, "age")
    with pytest.raises(nc.TableError, match="row 9"):
        nc.holdout(frame.assign(age=[*range(60, 69), np.inf]), 0.3, "age")


def test_numbers_as_text_are_stratified_as_numbers():
    ages = [5 + 7 * i for i in range(40)]
    numbers, texts = (nc.kfold(rows(40).assign(age=kind), 4, "age") for kind in (ages, list(map(str, ages))))
    for number, text in zip(numbers, texts, strict=True):
        assert number.validation.participant_id.tolist() == text.validation.participant_id.tolist()


@pytest.mark.faults
@pytest.mark.parametrize("box", [{(0, 2), (1, 3), (2, 4)}, ({0, 2}, {1, 3}, {2, 4})])
def test_a_box_of_unordered_sets_is_refused(box: object):
    with pytest.raises(nc.SettingError, match="three pairs"):
        nc.Roi({"a": box})  # type: ignore[dict-item]


@pytest.mark.faults
def test_an_error_names_the_row_of_an_infinite_age():
    with pytest.raises(nc.TableError, match="sub-01"):
        nc.population(rows(2).assign(age=[60.0, np.inf]))


@pytest.mark.faults
def test_nan_predictions_have_no_metrics():
    table = rows(4).assign(true_label=[0, 1, 0, 1], predicted_label=[0, 1, 1, np.nan])
    with pytest.raises(nc.TableError, match="predicted_label"):
        nc.classification().metrics(table)

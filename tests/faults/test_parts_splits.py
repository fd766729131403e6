"""Impossible parts, labels and splits are refused with errors that contain the values found."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faults.clauses import covers, refuse
from small_caps import rows, small_caps, write_nifti
from studies import Study, experiment

import neurocnn as nc


@pytest.fixture
def caps(tmp_path: Path) -> nc.Caps:
    return nc.Caps(small_caps(tmp_path / "caps", n=6))


@covers("region outside")
def test_a_region_outside_the_image_is_refused(caps: nc.Caps):
    roi = nc.Roi({"hippocampus": ((0, 4), (0, 4), (4, 9))})
    refuse(lambda: nc.CapsDataset(caps, rows(), parts=roi), nc.NeurocnnError, "hippocampus", "(6, 8, 7)")


@covers("too many slices discarded")
def test_discarding_more_slices_than_exist_is_refused(caps: nc.Caps):
    refuse(
        lambda: nc.CapsDataset(caps, rows(), parts=nc.Slice(0, 3)), nc.NeurocnnError, "discarded_slices", "6"
    )


@covers("size or stride below 1")
@pytest.mark.parametrize(
    "settings", [{"size": 0}, {"stride": 0}, {"size": -1}, {"stride": -3}, {"size": 2.5}]
)
def test_a_size_or_stride_below_1_is_refused(settings: dict[str, object]):
    name, value = next(iter(settings.items()))
    refuse(lambda: nc.Patch(**settings), nc.SettingError, name, str(value))


@covers("mask empty, not 0/1 or of another shape")
@pytest.mark.parametrize("kind", ["empty", "grey", "shape"])
def test_a_bad_mask_is_refused(caps: nc.Caps, tmp_path: Path, kind: str):
    mask = np.zeros((6, 8, 8 if kind == "shape" else 7), np.float32)
    if kind != "empty":
        mask[2:4, 2:4, 2:4] = 0.5 if kind == "grey" else 1
    path = write_nifti(tmp_path / "tpl_roi-amygdala_mask.nii.gz", mask)
    refuse(
        lambda: nc.CapsDataset(caps, rows(), parts=nc.Roi.from_masks([path]))[0], nc.NeurocnnError, "amygdala"
    )


@covers("multi with one part")
def test_one_network_per_part_is_refused_for_a_single_part(study: Study):
    refuse(lambda: experiment(study, "image", multi=True), nc.SettingError, "multi=True")


@covers("missing label")
def test_the_error_of_a_missing_label_names_the_session(caps: nc.Caps):
    table = rows(6)
    table.loc[2, "diagnosis"] = None
    refuse(lambda: nc.CapsDataset(caps, table, label="diagnosis"), nc.TableError, "sub-02", "diagnosis")


@covers("unknown label")
def test_an_error_names_an_unknown_label_and_the_allowed_labels(caps: nc.Caps, tmp_path: Path):
    table = rows(6)
    table.loc[0, "diagnosis"] = "MCI"
    study = nc.Experiment(
        caps, [nc.Split(0, table.iloc[:4], table.iloc[4:])], nc.WholeImage(), nc.classification(), "Conv3_FC1"
    )
    refuse(lambda: study.run(tmp_path / "results"), nc.TableError, "MCI", "CN", "AD")
    assert not (tmp_path / "results").exists()


@covers("single class")
def test_a_training_set_of_one_class_is_refused_with_counts(caps: nc.Caps, tmp_path: Path):
    table = rows(6)
    table.loc[:3, "diagnosis"] = "AD"
    study = nc.Experiment(
        caps, [nc.Split(0, table.iloc[:4], table.iloc[4:])], nc.WholeImage(), nc.classification(), "Conv3_FC1"
    )
    refuse(lambda: study.run(tmp_path / "results"), nc.TableError, "AD", "4")
    assert not (tmp_path / "results").exists()


@covers("participant in two sets")
def test_a_participant_in_two_sets_is_refused():
    refuse(lambda: nc.Split(0, rows(4), rows(6).iloc[3:]), nc.LeakError, "sub-03")


@covers("fewer participants than splits")
def test_fewer_participants_than_splits_are_refused():
    refuse(lambda: nc.kfold(rows(3), 4), nc.NeurocnnError, "3", "4")


@covers("no split tree")
def test_the_error_of_a_missing_split_tree_lists_the_searched_files(tmp_path: Path):
    refuse(lambda: nc.read_splits(tmp_path), nc.NotFoundError, str(tmp_path), "train")


@covers("file for a folder and the reverse")
def test_a_file_in_place_of_a_folder_or_a_folder_in_place_of_a_file_is_refused(tmp_path: Path):
    nc.write_table(rows(), tmp_path / "labels.tsv")
    refuse(lambda: nc.read_splits(tmp_path / "labels.tsv"), nc.NeurocnnError, "labels.tsv")
    refuse(lambda: nc.read_table(tmp_path), nc.NeurocnnError, str(tmp_path))


@covers("cohorts that differ")
def test_an_error_names_cohorts_that_the_caps_lacks(tmp_path: Path):
    for name in ("ADNI", "AIBL"):
        small_caps(tmp_path / name, n=6)
    caps = nc.Caps({"ADNI": tmp_path / "ADNI", "AIBL": tmp_path / "AIBL"})
    table = rows(6).assign(cohort="OASIS")
    refuse(lambda: nc.CapsDataset(caps, table), nc.NeurocnnError, "OASIS", "ADNI")


@covers("cohort column without cohorts, or with empty cells")
def test_a_person_stays_in_one_set_if_the_column_cohort_contains_study_phases():
    table = rows(6).assign(cohort=["ADNI1"] * 6)
    refuse(lambda: nc.Split(0, table.iloc[:4], rows(6).iloc[3:]), nc.LeakError, "sub-03")


@covers("cohort column without cohorts, or with empty cells")
def test_kfold_keeps_visits_of_one_person_in_two_study_phases_together():
    both = pd.concat([rows(8).assign(cohort="ADNI1"), rows(8, "ses-M12").assign(cohort="ADNI2")])
    for split in nc.kfold(both.reset_index(drop=True), 2, seed=1):
        assert not set(split.train["participant_id"]) & set(split.validation["participant_id"])


@covers("one folder under two cohort names")
def test_one_folder_under_two_cohort_names_is_refused(tmp_path: Path):
    small_caps(tmp_path / "ADNI")
    (tmp_path / "AIBL").symlink_to(tmp_path / "ADNI")
    refuse(
        lambda: nc.Caps({"ADNI": tmp_path / "ADNI", "AIBL": tmp_path / "AIBL"}).sessions(),
        nc.NeurocnnError,
        "ADNI",
        "AIBL",
    )


@covers("weights by label")
@pytest.mark.parametrize(
    "weights",
    [{"AD": 5.0, "CN": 0.5}, pd.Series({"AD": 5.0, "CN": 0.5}), [0.5, 5.0]],
    ids=["dict", "Series", "list"],
)
def test_class_weights_are_matched_to_classes_by_label(weights: object):
    task = nc.classification(classes=["CN", "AD"], class_weights=weights)
    assert [float(weight) for weight in task.arguments["class_weights"]] == [0.5, 5.0]


@covers("weights by label")
def test_class_weights_of_unknown_labels_are_refused():
    refuse(lambda: nc.classification(class_weights={1: 5.0, 2: 0.5}), nc.SettingError, "class_weights")


KINDS = [None, "text", 3.5, [1, "a"], {"a": 1}, object(), {1, 2}, int, (x for x in "ab")]


@covers("another kind of value")
@pytest.mark.parametrize("value", KINDS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(nc.Trainer) if field.init])
def test_a_setting_of_an_unexpected_type_is_refused_or_accepted(name: str, value: object):
    try:
        nc.Trainer(**{name: value})
    except nc.SettingError as error:
        assert name in str(error)  # noqa: PT017


@covers("another kind of value")
@pytest.mark.parametrize("value", ["labels.tsv", None, 3, {"a": 1}], ids=str)
def test_a_value_instead_of_a_table_is_refused(value: object):
    for call in (nc.kfold, nc.population):
        arguments = (value, 2) if call is nc.kfold else (value,)
        refuse(lambda call=call, arguments=arguments: call(*arguments), nc.NeurocnnError)


@covers("another kind of value")
@pytest.mark.parametrize("value", ["labels.tsv", None, 3, ["a"]], ids=str)
def test_a_value_instead_of_splits_is_refused(study: Study, value: object):
    refuse(
        lambda: nc.Experiment(study.caps, value, nc.WholeImage(), nc.classification(), "Conv3_FC1"),
        nc.NeurocnnError,
        "splits",
    )


@covers("another kind of value")
@pytest.mark.parametrize("stratify", [None, {"age", "diagnosis"}, 3], ids=["None", "set", "number"])
def test_a_value_instead_of_columns_is_refused(stratify: object):
    refuse(lambda: nc.kfold(rows(6), 2, stratify=stratify), nc.NeurocnnError, "stratify")


@covers("near name of a keyword")
def test_a_similar_keyword_is_suggested():
    refuse(lambda: nc.Trainer(lr=0.1), nc.SettingError, "lr", "learning_rate")


@covers("NaN, zero, negative numbers")
@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"learning_rate": float("nan")},
        {"batch_size": -1},
        {"patience": -1},
    ],
    ids=str,
)
def test_a_number_outside_its_range_is_refused(settings: dict[str, float]):
    refuse(lambda: nc.Trainer(**settings), nc.SettingError, next(iter(settings)))

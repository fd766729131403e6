"""Split trees of both generations of ClinicaDL can be read, and ClinicaDL can read the written ones."""

import math
from pathlib import Path

import pandas as pd
import pytest
from clinicadl_files import baseline as first
from clinicadl_files import write_new_split as write_new
from clinicadl_files import write_old_set as write_old
from small_caps import rows

from neurocnn.data import Split, kfold, read_splits, write_splits
from neurocnn.errors import LeakError, NeurocnnError, NotFoundError, SettingError, TableError
from neurocnn.storage import write_table

DIAGNOSES = ("AD", "CN", "pMCI", "sMCI")


def people(prefix: str, n: int = 4) -> pd.DataFrame:
    """Return a table of participants with two sessions each and all diagnoses in turn."""
    frame = pd.DataFrame(
        [
            (f"sub-{prefix}{i:03}", session, DIAGNOSES[i % 4], 70.5 + i)
            for i in range(n)
            for session in ("ses-M000", "ses-M012")
        ],
        columns=["participant_id", "session_id", "diagnosis", "age"],
    )
    return frame


def same(
    found: pd.DataFrame, expected: pd.DataFrame, columns: tuple[str, ...] = ("diagnosis", "age")
) -> None:
    by = ["participant_id", "session_id"]
    found, expected = (
        frame.sort_values(by).reset_index(drop=True)[[*by, *columns]] for frame in (found, expected)
    )
    pd.testing.assert_frame_equal(found, expected)


def check(splits: list[Split], n: int = 2) -> None:
    """Check that split i has the training participants ti and validates on the baselines of vi."""
    assert [split.index for split in splits] == list(range(n))
    for i, split in enumerate(splits):
        same(split.train, people(f"t{i}"))
        same(split.validation, first(people(f"v{i}")))


@pytest.mark.parametrize("label", [True, False])
def test_a_k_fold_tree_of_clinicadl_0_2_1_is_read(tmp_path: Path, label: bool):
    for i in range(2):
        write_old(tmp_path / "train_splits-2" / f"split-{i}", people(f"t{i}"), label=label)
        write_old(
            tmp_path / "validation_splits-2" / f"split-{i}", people(f"v{i}"), baseline_only=True, label=label
        )
    check(read_splits(tmp_path))
    check(read_splits(tmp_path, n_splits=2))
    with pytest.raises(
        NotFoundError,
        match=r"no split tree of 5 splits; searched for train_splits-5.*5_fold.*found .*train_splits-2",
    ):
        read_splits(tmp_path, n_splits=5)


def test_a_single_split_of_clinicadl_0_2_1_is_read_next_to_its_folds(tmp_path: Path):
    write_old(tmp_path / "train", people("t0"))
    write_old(tmp_path / "validation", people("v0"))
    check(read_splits(tmp_path), 1)
    # The lab's folder of a single split also contains folds of its training set.
    for i in range(2):
        write_old(tmp_path / "train_splits-2" / f"split-{i}", people(f"t{i}"))
        write_old(tmp_path / "validation_splits-2" / f"split-{i}", people(f"v{i}"))
    check(read_splits(tmp_path, n_splits=2))
    with pytest.raises(TableError, match="several split trees"):
        read_splits(tmp_path)


@pytest.mark.parametrize("place", ["", "2_fold", "split", "split/2_fold", "split_1/2_fold_1"])
@pytest.mark.parametrize("label", [True, False])
def test_a_k_fold_tree_of_clinicadl_1_x_is_read(tmp_path: Path, place: str, label: bool):
    for i in range(2):
        folder = tmp_path / place if "fold" in place else tmp_path / place / "2_fold"
        write_new(folder / f"split-{i}", people(f"t{i}"), people(f"v{i}"), label)
    if not label:
        labels = pd.concat([people(f"{kind}{i}") for kind in "tv" for i in range(2)])
        write_table(labels, tmp_path / "labels.tsv")
    check(read_splits(tmp_path))
    check(read_splits(folder))
    check(read_splits(folder, n_splits=2))


def test_a_single_split_of_clinicadl_1_x_is_read(tmp_path: Path):
    write_new(tmp_path / "split", people("t0"), people("v0"))
    check(read_splits(tmp_path), 1)
    check(read_splits(tmp_path / "split"), 1)


def test_several_trees_are_refused(tmp_path: Path):
    for name in ("split", "split_1"):
        write_new(tmp_path / name, people("t0"), people("v0"))
    with pytest.raises(TableError, match=r"several split trees.*split.*split_1"):
        read_splits(tmp_path)
    check(read_splits(tmp_path / "split_1"), 1)


def test_training_sets_can_contain_only_baseline_sessions(tmp_path: Path):
    write_new(tmp_path / "split", people("t0"), people("v0"))
    same(read_splits(tmp_path, baseline=True)[0].train, first(people("t0")))
    write_old(tmp_path / "old" / "train", people("t0"))
    write_old(tmp_path / "old" / "validation", people("v0"))
    same(read_splits(tmp_path / "old", baseline=True)[0].train, first(people("t0")))


@pytest.mark.parametrize("generation", ["old", "new"])
def test_diagnoses_can_be_selected(tmp_path: Path, generation: str):
    if generation == "old":
        write_old(tmp_path / "train", people("t0"))
        write_old(tmp_path / "validation", people("v0"))
    else:
        write_new(tmp_path / "split", people("t0"), people("v0"))
    (split,) = read_splits(tmp_path, diagnoses=["AD", "CN"])
    same(split.train, people("t0").query("diagnosis in ('AD', 'CN')"))
    same(split.validation, first(people("v0")).query("diagnosis in ('AD', 'CN')"))
    with pytest.raises((NotFoundError, TableError), match=r"'MCI'|MCI.tsv.*'sMCI'"):
        read_splits(tmp_path, diagnoses=["MCI"])


def test_a_table_of_labels_that_lacks_rows_of_the_split_is_refused(tmp_path: Path):
    write_new(tmp_path / "split", people("t0"), people("v0"), label=False)
    write_table(people("t0"), tmp_path / "labels.tsv")
    with pytest.raises(TableError, match=r"4 rows are not in .*labels\.tsv: sub-v0000"):
        read_splits(tmp_path)


def test_missing_labels_are_an_error_only_if_needed(tmp_path: Path):
    write_new(tmp_path / "split", people("t0"), people("v0"), label=False)
    assert "diagnosis" not in read_splits(tmp_path)[0].train.columns
    with pytest.raises(TableError, match=r"labels\.tsv in its parent folders.*column 'diagnosis' is missing"):
        read_splits(tmp_path, diagnoses=["AD"])


def test_the_error_of_a_missing_split_tree_lists_the_searched_folders(tmp_path: Path):
    with pytest.raises(NotFoundError, match="found no folder; expected the folder"):
        read_splits(tmp_path / "nowhere")
    with pytest.raises(
        NotFoundError, match=r"no split tree; searched for train_splits-<n>/split-<i>.*<n>_fold"
    ):
        read_splits(tmp_path)


def test_an_error_names_a_missing_fold(tmp_path: Path):
    for i in (0, 2):
        write_new(tmp_path / "3_fold" / f"split-{i}", people(f"t{i}"), people(f"v{i}"))
    with pytest.raises(NotFoundError, match="found split-0, split-2; expected split-0 to split-2"):
        read_splits(tmp_path)


def test_an_error_names_a_missing_table(tmp_path: Path):
    write_new(tmp_path / "2_fold" / "split-0", people("t0"), people("v0"))
    write_new(tmp_path / "2_fold" / "split-1", people("t1"), people("v1"))
    (tmp_path / "2_fold" / "split-1" / "validation_baseline.tsv").unlink()
    with pytest.raises(NotFoundError, match=r"split-1.validation_baseline\.tsv"):
        read_splits(tmp_path)


def test_a_participant_in_both_sets_of_a_split_tree_is_refused(tmp_path: Path):
    write_new(tmp_path / "split", people("t0"), people("t0")[4:])
    with pytest.raises(LeakError, match="sub-t0002, sub-t0003"):
        read_splits(tmp_path)


def test_a_tsv_instead_of_a_folder_and_a_folder_instead_of_a_tsv_are_refused(tmp_path: Path):
    write_table(people("t0"), tmp_path / "train.tsv")
    with pytest.raises(TableError, match="expected the folder of a split tree, or a multi-cohort TSV"):
        read_splits(tmp_path / "train.tsv")
    write_table(
        pd.DataFrame({"cohort": ["A"], "path": ["train.tsv"], "diagnoses": ["AD"]}), tmp_path / "cohorts.tsv"
    )
    with pytest.raises(TableError, match="found a file; expected the folder"):
        read_splits(tmp_path / "cohorts.tsv")


def cohorts(tmp_path: Path, diagnoses: tuple[str, str] = ("AD,CN", "AD, pMCI")) -> Path:
    """Write two cohorts, one per generation of ClinicaDL, with the same participant ids."""
    for i in range(2):
        write_old(tmp_path / "a" / "train_splits-2" / f"split-{i}", people(f"t{i}"))
        write_old(tmp_path / "a" / "validation_splits-2" / f"split-{i}", people(f"v{i}"))
        write_new(tmp_path / "b" / "2_fold" / f"split-{i}", people(f"t{i}"), people(f"v{i}"))
    table = pd.DataFrame({"cohort": ["A", "B"], "path": ["a", str(tmp_path / "b")], "diagnoses": diagnoses})
    write_table(table, tmp_path / "cohorts.tsv")
    return tmp_path / "cohorts.tsv"


def test_a_multi_cohort_tsv_joins_the_cohorts_split_by_split(tmp_path: Path):
    splits = read_splits(cohorts(tmp_path), n_splits=2)
    assert [split.index for split in splits] == [0, 1]
    wanted = {"A": ["AD", "CN"], "B": ["AD", "pMCI"]}
    for i, split in enumerate(splits):
        for cohort, names in wanted.items():
            for found, expected in (
                (split.train, people(f"t{i}")),
                (split.validation, first(people(f"v{i}"))),
            ):
                same(found[found["cohort"] == cohort], expected[expected["diagnosis"].isin(names)])


def test_diagnoses_of_a_multi_cohort_tsv_can_be_selected(tmp_path: Path):
    (split, _) = read_splits(cohorts(tmp_path), diagnoses=["CN", "pMCI"])
    assert set(split.train[["cohort", "diagnosis"]].itertuples(index=False, name=None)) == {
        ("A", "CN"),
        ("B", "pMCI"),
    }
    with pytest.raises(TableError, match="no cohort has any of the diagnoses BV"):
        read_splits(cohorts(tmp_path), diagnoses=["BV"])


def test_cohorts_with_different_numbers_of_splits_are_refused(tmp_path: Path):
    path = cohorts(tmp_path)
    for i in range(2):
        (tmp_path / "b" / "2_fold" / f"split-{i}").rename(tmp_path / "b" / f"moved-{i}")
    (tmp_path / "b" / "2_fold").rmdir()
    write_new(tmp_path / "b" / "split", people("t0"), people("v0"))
    with pytest.raises(TableError, match="different numbers of splits"):
        read_splits(path)


def test_a_cohort_without_diagnoses_is_refused(tmp_path: Path):
    with pytest.raises(TableError, match="cohort 'B' has no diagnoses"):
        read_splits(cohorts(tmp_path, ("AD", math.nan)))


def test_written_splits_are_read_back(tmp_path: Path):
    frame = people("x", 12)
    splits = kfold(frame, 3, ["diagnosis", "age"])
    write_splits(splits, tmp_path)
    again = read_splits(tmp_path)
    for old, new in zip(splits, again, strict=True):
        same(new.train, old.train)
        same(new.validation, old.validation)
        same(read_splits(tmp_path, baseline=True)[new.index].train, first(old.train))


def test_written_files_are_those_that_clinicadl_opens(tmp_path: Path):
    """Compare with the files that the split managers of 1.x open below their folder."""
    splits = kfold(people("x", 12), 3)
    write_splits(splits, tmp_path)
    for split in splits:
        folder = tmp_path / "3_fold" / f"split-{split.index}"
        for name, expected in (
            ("train", split.train),
            ("train_baseline", first(split.train)),
            ("validation_baseline", split.validation),
        ):
            found = pd.read_csv(folder / f"{name}.tsv", sep="\t")
            assert list(found.columns) == ["participant_id", "session_id", "diagnosis", "age"]
            same(found, expected.reset_index(drop=True), ("age",))
    write_splits([splits[0]], tmp_path / "one")
    assert (tmp_path / "one" / "split" / "train.tsv").is_file()
    assert (tmp_path / "one" / "split" / "validation_baseline.tsv").is_file()


def test_an_existing_tree_is_never_overwritten(tmp_path: Path):
    splits = kfold(people("x", 12), 3, seed=1)
    write_splits(splits, tmp_path)
    write_splits(splits, tmp_path)  # equal splits may be written again
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tsv")}
    with pytest.raises(SettingError, match="found a different split"):
        write_splits(kfold(people("x", 12), 3, seed=2), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.tsv")} == before


def test_inconsistent_splits_are_not_written(tmp_path: Path):
    splits = kfold(people("x", 12), 3)
    for wrong in ([], splits[1:], [splits[0], splits[0]]):
        with pytest.raises(SettingError, match="indices"):
            write_splits(wrong, tmp_path)


@pytest.mark.parametrize("n_splits", [1, 0, "5", 2.0])
def test_n_splits_must_be_none_or_at_least_2(tmp_path: Path, n_splits: object):
    with pytest.raises(SettingError, match="n_splits"):
        read_splits(tmp_path, n_splits=n_splits)


def test_the_cohort_names_of_labels_and_caps_are_compared(tmp_path: Path):
    from small_caps import small_caps

    from neurocnn.data import Caps

    caps = Caps({"A": small_caps(tmp_path / "caps-a"), "C": small_caps(tmp_path / "caps-c")})
    train = read_splits(cohorts(tmp_path))[0].train
    with pytest.raises(TableError, match=r"C only in the images; B only in the labels"):
        caps.check_cohorts(train["cohort"])
    assert len(caps.sources(rows(2).assign(cohort=["A", "C"]))) == 2


@pytest.mark.faults
@pytest.mark.parametrize(
    "value", [None, 3.5, ["a"], {"a": 1}, object()], ids=lambda value: type(value).__name__
)
def test_arguments_of_another_type_are_refused(tmp_path: Path, value: object):
    calls = [
        lambda: read_splits(value),
        lambda: write_splits(value, tmp_path),
        lambda: write_splits([value], tmp_path),
        lambda: read_splits(tmp_path, baseline=value),
    ]
    if value is not None:
        calls += [lambda: read_splits(tmp_path, value), lambda: read_splits(tmp_path, diagnoses=value)]
    for call in calls:
        with pytest.raises(NeurocnnError):
            call()

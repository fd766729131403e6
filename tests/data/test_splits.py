"""Splits by participant: no leak, no empty set, similar sets in the stratified columns."""

import random
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocnn.data import Split, baseline, holdout, kfold, leave_one_group_out
from neurocnn.errors import LeakError, NeurocnnError, SettingError, TableError


def people(n: int, seed: int = 0, sessions: int = 1) -> pd.DataFrame:
    """Return a table of participants with diagnosis, sex, age and MMS, and sessions every 6 months."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:04}" for i in range(n)],
            "session_id": "ses-M00",
            "diagnosis": rng.choice(["AD", "CN", "MCI"], n, p=[0.2, 0.5, 0.3]),
            "sex": rng.choice(["F", "M"], n),
            "age": rng.normal(70, 8, n).round(1),
            "MMS": rng.integers(15, 31, n).astype(float),
        }
    )
    later = [frame.assign(session_id=f"ses-M{6 * i:02}") for i in range(sessions)]
    return pd.concat(later, ignore_index=True)


def ids(frame: pd.DataFrame) -> set[str]:
    return set(frame["participant_id"])


@given(
    st.integers(2, 6),
    st.integers(6, 40),
    st.integers(0, 9),
    st.sampled_from([(), "diagnosis", ("age",), ("diagnosis", "sex", "age", "MMS")]),
)
def test_each_participant_is_in_exactly_one_validation_set(n_splits: int, n: int, seed: int, stratify):
    frame = people(n, seed, sessions=2)
    splits = kfold(frame, n_splits, stratify, seed)
    assert [split.index for split in splits] == list(range(n_splits))
    counts = Counter(person for split in splits for person in split.validation["participant_id"])
    assert counts == dict.fromkeys(ids(frame), 1)
    sizes = [len(split.validation) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for split in splits:
        assert ids(split.train) == ids(frame) - ids(split.validation)
        assert len(split.train) == 2 * len(ids(split.train))  # all sessions
        assert set(split.validation["session_id"]) == {"ses-M00"}  # baseline


@given(st.integers(2, 6), st.integers(6, 60), st.integers(0, 9))
def test_sizes_of_each_class_and_combination_differ_by_at_most_one(n_splits: int, n: int, seed: int):
    frame = people(n, seed)
    splits = kfold(frame, n_splits, ["diagnosis", "sex", "age"], seed)
    for columns in (["diagnosis"], ["diagnosis", "sex"]):
        for _, group in frame.groupby(columns):
            counts = [len(ids(split.validation) & ids(group)) for split in splits]
            assert max(counts) - min(counts) <= 1


def test_a_rare_class_is_never_refused():
    frame = people(11)
    frame["diagnosis"] = ["rare"] + ["CN"] * 10
    assert len(kfold(frame, 5, ["diagnosis", "sex", "age"])) == 5
    rest, test = holdout(frame, 0.2, ["diagnosis", "sex", "age"])
    assert len(rest) + len(test) == 11


@pytest.mark.parametrize(
    "stratify", [["diagnosis", "sex", "age"], ["age", "sex", "diagnosis"], ["diagnosis", "age", "MMS"]]
)
def test_numbers_are_distributed_more_evenly_than_by_chance(stratify: list[str]):
    """Compare the spread of the folds' means with that of splits without stratification."""
    numbers = [name for name in stratify if name in ("age", "MMS")]
    spread = {name: ([], []) for name in numbers}
    for seed in range(20):
        frame = people(200, seed)
        for which, columns in enumerate((stratify, ())):
            splits = kfold(frame, 5, columns, seed)
            for name in numbers:
                spread[name][which].append(np.std([split.validation[name].mean() for split in splits]))
    for name in numbers:
        stratified, by_chance = map(np.mean, spread[name])
        assert stratified < 0.5 * by_chance


def test_no_fold_always_has_the_lowest_numbers():
    """Assigning sorted participants in turn would put the youngest of each five into the first fold."""
    ages = np.zeros(5)
    for seed in range(200):
        frame = people(25, seed)
        ages += [split.validation["age"].mean() for split in kfold(frame, 5, "age", seed)]
    # The standard error of each mean over 200 splits is about 8 / sqrt(25) / sqrt(200) = 0.11 years.
    assert np.ptp(ages / 200) < 0.7


@given(st.floats(0.05, 0.95), st.integers(2, 50), st.integers(0, 9))
def test_a_holdout_has_the_requested_size(fraction: float, n: int, seed: int):
    frame = people(n, seed, sessions=2)
    rest, test = holdout(frame, fraction, ["diagnosis", "sex", "age"], seed)
    assert len(test) == min(max(1, round(fraction * n)), n - 1)
    assert not ids(rest) & ids(test)
    assert ids(rest) | ids(test) == ids(frame)
    assert len(rest) == 2 * len(ids(rest))
    assert set(test["session_id"]) == {"ses-M00"}
    for _, group in frame.drop_duplicates("participant_id").groupby("diagnosis"):
        share = len(ids(test) & ids(group))
        assert abs(share - len(group) * len(test) / n) < 1


def test_a_holdout_is_stratified_by_numbers_too():
    gaps: tuple[list[float], list[float]] = ([], [])
    for seed in range(30):
        frame = people(150, seed)
        for which, stratify in enumerate((["diagnosis", "sex", "age"], ())):
            rest, test = holdout(frame, 0.2, stratify, seed)
            gaps[which].append(abs(rest["age"].mean() - test["age"].mean()))
    assert np.mean(gaps[0]) < 0.6 * np.mean(gaps[1])


def test_the_assignment_depends_on_the_seed_and_not_on_the_order_of_rows():
    frame = people(40, sessions=2)
    stratify = ["diagnosis", "sex", "age"]
    first = [ids(split.validation) for split in kfold(frame, 4, stratify, seed=1)]
    shuffled = frame.sample(frac=1, random_state=5)
    assert [ids(split.validation) for split in kfold(shuffled, 4, stratify, seed=1)] == first
    assert [ids(split.validation) for split in kfold(frame, 4, stratify, seed=2)] != first
    assert ids(holdout(frame, 0.3, stratify, 1)[1]) == ids(holdout(shuffled, 0.3, stratify, 1)[1])
    assert ids(holdout(frame, 0.3, stratify, 1)[1]) != ids(holdout(frame, 0.3, stratify, 2)[1])


def test_missing_values_are_a_separate_class():
    frame = people(40)
    frame.loc[:9, "diagnosis"] = None
    frame.loc[5:14, "age"] = np.nan
    missing = set(frame["participant_id"][:10])
    counts = [len(ids(split.validation) & missing) for split in kfold(frame, 5, ["diagnosis", "age"])]
    assert counts == [2] * 5


def test_fewer_participants_than_splits_are_refused():
    with pytest.raises(TableError, match="n_splits=5; expected at most the number of participants, 4"):
        kfold(people(4, sessions=3), 5)
    with pytest.raises(TableError, match="has 1 participants; expected at least 2"):
        holdout(people(1, sessions=3), 0.5)


@pytest.mark.parametrize("n_splits", [1, 0, -2, 2.0, "5", True])
def test_n_splits_must_be_at_least_2(n_splits: object):
    with pytest.raises(SettingError, match="n_splits"):
        kfold(people(9), n_splits)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, "a", None])
def test_a_fraction_must_be_between_0_and_1(fraction: object):
    with pytest.raises(SettingError, match="fraction"):
        holdout(people(9), fraction)


def test_a_missing_column_is_refused():
    for split in (lambda: kfold(people(9), 3, "diagnose"), lambda: holdout(people(9), 0.3, ["diagnose"])):
        with pytest.raises(TableError, match="did you mean 'diagnosis'"):
            split()


def test_the_same_id_in_two_cohorts_is_two_participants():
    frame = pd.concat([people(6).assign(cohort="A"), people(6).assign(cohort="B")], ignore_index=True)
    splits = kfold(frame, 3, "cohort")
    assert [split.validation["cohort"].tolist() for split in splits] == [["A", "A", "B", "B"]] * 3
    Split(0, frame[:6], frame[6:])
    with pytest.raises(LeakError, match="A sub-0005"):
        Split(0, frame[:6], frame[5:])


def test_an_error_names_a_participant_in_two_sets():
    frame = people(4, sessions=2)
    with pytest.raises(LeakError, match="share 2 participants: sub-0001, sub-0003; expected none") as caught:
        Split(3, frame[:4], frame.iloc[[5, 7]])
    assert isinstance(caught.value, ValueError)
    assert "split 3" in str(caught.value)


def test_an_empty_set_is_refused():
    frame = people(4)
    for train, validation, what in ((frame[:0], frame, "train"), (frame, frame[:0], "validation")):
        with pytest.raises(TableError, match=f"the {what} set is empty"):
            Split(0, train, validation)


def test_baseline_is_the_first_session_in_numeric_order():
    sessions = ["ses-M100", "ses-M024", "ses-M12", "ses-M006"]
    frame = pd.DataFrame({"participant_id": ["sub-1"] * 4 + ["sub-2"], "session_id": [*sessions, "ses-M18"]})
    for seed in range(5):
        found = baseline(frame.sample(frac=1, random_state=seed))
        assert dict(zip(found["participant_id"], found["session_id"], strict=True)) == {
            "sub-1": "ses-M006",
            "sub-2": "ses-M18",
        }


@pytest.mark.parametrize("sessions", [["ses-M00", "ses-M000"], ["ses-first", "ses-M06"]])
def test_sessions_that_cannot_be_ordered_are_refused(sessions: list[str]):
    frame = pd.DataFrame({"participant_id": "sub-1", "session_id": sessions})
    with pytest.raises(TableError, match="cannot be ordered"):
        baseline(frame)


def test_a_single_session_needs_no_number():
    frame = pd.DataFrame({"participant_id": ["sub-1"], "session_id": ["ses-first"]})
    assert len(baseline(frame)) == 1


COLUMNS = ["participant_id", "session_id", "diagnosis", "age"]
Rows = list[tuple[str, str, str, float]]


def random_rows(draw: random.Random) -> Rows:
    """Return participants with one to three sessions each, and sometimes a duplicate row."""
    rows = [
        (f"sub-{person}", f"ses-M{6 * visit:02}", draw.choice(["AD", "CN"]), draw.gauss(70, 9))
        for person in draw.sample(range(30), draw.randint(1, 11))
        for visit in range(draw.randint(1, 3))
    ]
    if draw.random() < 0.2:
        rows.append(draw.choice(rows))
    draw.shuffle(rows)
    return rows


def double(rows: Rows) -> bool:
    return len({row[:2] for row in rows}) < len(rows)


@pytest.mark.parametrize("n_splits", [1_000, pytest.param(10_000, marks=pytest.mark.on_demand)])
def test_random_splits_are_accepted_only_if_they_are_valid(n_splits: int):
    """Each table is divided at random into two sets. The intersection of their participants tests for leaks."""
    draw = random.Random(0)
    outcomes: Counter[str] = Counter()
    for _ in range(n_splits):
        rows = random_rows(draw)
        if draw.random() < 0.5:
            chosen = {f"sub-{person}" for person in draw.sample(range(30), draw.randint(0, 15))}
            inside = [row[0] in chosen for row in rows]
        else:
            inside = [draw.random() < 0.3 for _ in rows]
        sets = [[row for row, i in zip(rows, inside, strict=True) if i == which] for which in (False, True)]
        leaks = bool({row[0] for row in sets[0]} & {row[0] for row in sets[1]})
        clean = not leaks and all(sets) and not any(map(double, sets))
        train, validation = (pd.DataFrame(part, columns=COLUMNS) for part in sets)
        try:
            Split(0, train, validation)
            accepted = True
        except NeurocnnError:
            accepted = False
        assert accepted == clean
        outcomes["clean" if clean else "leaks" if leaks else "other"] += 1
    assert min(outcomes.values()) > n_splits / 20


def test_kfold_of_random_tables_has_no_leak_or_is_correctly_refused():
    draw = random.Random(1)
    for _ in range(300):
        rows = random_rows(draw)
        frame = pd.DataFrame(rows, columns=COLUMNS)
        n_splits = draw.randint(2, 4)
        try:
            splits = kfold(frame, n_splits, ["diagnosis", "age"], draw.randint(0, 99))
        except TableError:
            assert double(rows) or len(ids(frame)) < n_splits
            continue
        assert not double(rows)
        assert len(ids(frame)) >= n_splits
        assert all(not ids(split.train) & ids(split.validation) for split in splits)


@pytest.mark.faults
@pytest.mark.parametrize("cell", ["NA", "-", "90+", "70,5", "unknown", "<55"])
def test_a_numeric_column_with_a_text_cell_is_refused_with_the_cell(cell: str):
    frame = people(10).astype({"age": object})
    frame.loc[3, "age"] = cell
    texts = frame.assign(age=[str(age) for age in frame["age"]])
    for table in (frame, texts):
        for split in (lambda t=table: kfold(t, 2, ["sex", "age"]), lambda t=table: holdout(t, 0.3, "age")):
            with pytest.raises(
                TableError, match=rf"age='{re.escape(cell)}' in row 3 \(sub-0003 ses-M00\)"
            ) as caught:
                split()
            assert "as in 9 of 10 rows" in str(caught.value)


@pytest.mark.faults
def test_a_column_of_decimal_commas_is_refused():
    frame = people(10)
    with pytest.raises(TableError, match="expected a number as in 0 of 10 rows"):
        kfold(frame.assign(age=[f"{age:.1f}".replace(".", ",") for age in frame["age"]]), 2, "age")


def test_strings_and_categories_that_include_numbers_are_classes():
    frame = people(10)
    assert len(kfold(frame.assign(site=["1", "2", "A", "B", "C"] * 2), 2, "site")) == 2
    assert len(kfold(frame.assign(site=["001", "002", "003", "004", "A"] * 2), 2, "site")) == 2
    mixed = pd.Series(["1", "2", "3", "4", "A"] * 2, dtype="category")
    counts = [
        split.validation["site"].tolist().count("A") for split in kfold(frame.assign(site=mixed), 2, "site")
    ]
    assert counts == [1, 1]


def test_a_column_of_objects_that_are_numbers_is_stratified_as_numbers():
    frame = people(60)
    objects = frame.assign(age=frame["age"].astype(object).where(frame.index > 2, None))
    numbers = frame.assign(age=frame["age"].where(frame.index > 2))
    for first, second in zip(kfold(objects, 3, "age"), kfold(numbers, 3, "age"), strict=True):
        assert ids(first.validation) == ids(second.validation)


@pytest.mark.faults
@pytest.mark.parametrize("cohorts", [["ADNI1", "ADNI2"], ["A", None], [None, "B"]])
def test_equal_ids_are_kept_together_in_all_cohorts(cohorts: list[str | None]):
    """A study phase as cohort would make two people of one, and an empty cell cannot be compared."""
    frame = people(9, sessions=2)
    frame["cohort"] = [cohorts[session == "ses-M06"] for session in frame["session_id"]]
    for split in kfold(frame, 3, ["diagnosis", "age"]):
        assert not ids(split.train) & ids(split.validation)
    rest, test = holdout(frame, 0.3)
    assert not ids(rest) & ids(test)


@pytest.mark.faults
def test_cohorts_are_compared_only_if_both_sets_have_one_in_every_row():
    frame = people(4)
    Split(0, frame.assign(cohort="A"), frame.assign(cohort="B"))
    for train, validation in (
        (frame.assign(cohort="A"), frame),
        (frame.assign(cohort=["A", "A", "A", None]), frame.assign(cohort="B")),
    ):
        with pytest.raises(LeakError, match="share 4 participants"):
            Split(0, train, validation)


@pytest.mark.faults
@pytest.mark.parametrize("other", ["sub-0001A", "sub-0001\u200ba", "sub-0001\uff41"])
def test_ids_that_look_the_same_cause_a_single_warning(other: str, caplog: pytest.LogCaptureFixture):
    frame = people(8)
    frame.loc[0, "participant_id"] = "sub-0001a"
    frame.loc[5, "participant_id"] = other
    kfold(frame, 4)
    assert caplog.text.count("count as different participants") == 1
    assert ", ".join(map(ascii, sorted(["sub-0001a", other]))) in caplog.text
    assert "sub-0002" not in caplog.text


@pytest.mark.faults
@pytest.mark.parametrize("stratify", [None, {"sex", "age"}, 3, {"sex": 1}, object()])
def test_stratify_must_be_an_ordered_list(stratify: object):
    with pytest.raises(SettingError, match="stratify"):
        kfold(people(9), 3, stratify)


def test_a_generator_of_columns_is_read_once():
    expected = [ids(split.validation) for split in kfold(people(20), 4, ["sex", "age"])]
    assert [ids(split.validation) for split in kfold(people(20), 4, (c for c in ("sex", "age")))] == expected


@pytest.mark.faults
@pytest.mark.parametrize("value", [None, "labels.tsv", 3, [1], {"a": 1}, object()])
def test_a_table_must_be_a_data_frame(value: object):
    calls = [
        lambda: kfold(value),
        lambda: holdout(value),
        lambda: baseline(value),
        lambda: Split(0, value, people(2)),
    ]
    for call in calls:
        with pytest.raises(TableError, match="expected a DataFrame"):
            call()


@pytest.mark.faults
@pytest.mark.parametrize("seed", [None, -1, 1.5, "0", True])
def test_a_seed_must_be_given(seed: object):
    """Without a seed, the jobs of an array would have different splits."""
    for split in (lambda: kfold(people(9), 3, seed=seed), lambda: holdout(people(9), 0.3, seed=seed)):
        with pytest.raises(SettingError, match="seed="):
            split()


def test_repeats_are_numbered_consecutively_and_the_first_repeat_never_changes():
    frame = people(30)
    splits = kfold(frame, 3, ["diagnosis", "age"], seed=5, repeats=4)
    assert [split.index for split in splits] == list(range(12))
    once = kfold(frame, 3, ["diagnosis", "age"], seed=5)
    for first, second in zip(once, splits, strict=False):
        assert first.validation.equals(second.validation)
    for start in range(0, 12, 3):
        own = Counter(person for split in splits[start : start + 3] for person in ids(split.validation))
        assert own == dict.fromkeys(ids(frame), 1)
    assert len({frozenset(ids(split.validation)) for split in splits}) == 12


@given(
    st.integers(2, 5),
    st.lists(st.integers(1, 9), min_size=5, max_size=20),
    st.integers(0, 9),
    st.sampled_from([(), "diagnosis", ("diagnosis", "sex", "age")]),
)
def test_groups_are_never_separated(n_splits: int, sizes: list[int], seed: int, stratify):
    frame = people(sum(sizes), seed, sessions=2)
    frame["site"] = np.tile(np.repeat([f"site {i}" for i in range(len(sizes))], sizes), 2)
    splits = kfold(frame, n_splits, stratify, seed, groups="site", repeats=2)
    for start in (0, n_splits):
        own = splits[start : start + n_splits]
        counts = Counter(person for split in own for person in split.validation["participant_id"])
        assert counts == dict.fromkeys(ids(frame), 1)
        for split in own:
            assert not set(split.train["site"]) & set(split.validation["site"])
        if not stratify:
            # A greedy assignment, the largest group first, is within one group of equal sets.
            found = [len(split.validation) for split in own]
            assert max(found) - min(found) <= max(sizes)


def test_families_are_stratified_more_evenly_than_by_chance():
    spread: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(20):
        frame = people(150, seed)
        frame["family"] = [f"family {i // 3}" for i in range(150)]
        for stratified in spread:
            splits = kfold(frame, 5, ["diagnosis", "age"] if stratified else (), seed, groups="family")
            spread[stratified].append(
                np.std([(split.validation["diagnosis"] == "AD").mean() for split in splits])
            )
    assert np.mean(spread[True]) < 0.5 * np.mean(spread[False])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": ["A"] * 6}, r"n_splits=2; expected at most the number of groups \(site\), 1"),
        ({"site": ["A", "A", "B", None, "B", "B"]}, "site is missing for sub-0003 ses-M00"),
        ({"site": [*"ABABAB"], "participant_id": ["sub-1", "sub-1", *[f"sub-{i}" for i in range(3, 7)]]},
         r"site=\['A', 'B'\] of sub-1 .*expected one group per participant"),
    ],
)  # fmt: skip
def test_invalid_groups_are_refused(change: dict[str, list], message: str):
    frame = people(6).assign(**change)
    frame["session_id"] = [f"ses-M{i:02}" for i in range(6)] if "participant_id" in change else "ses-M00"
    with pytest.raises(TableError, match=message):
        kfold(frame, 2, groups="site")
    with pytest.raises(TableError):
        leave_one_group_out(frame, "site")
    with pytest.raises(TableError, match="did you mean 'site'"):
        kfold(frame, 2, groups="sites")


def test_leave_one_group_out_validates_on_each_group_once():
    frame = people(20, sessions=3)
    frame["site"] = [["Paris", "Bern", "Lyon"][int(name[-2:]) % 3] for name in frame["participant_id"]]
    splits = leave_one_group_out(frame, "site", visits="last")
    assert [split.index for split in splits] == [0, 1, 2]
    for split, site in zip(splits, ["Bern", "Lyon", "Paris"], strict=True):
        assert set(split.validation["site"]) == {site}
        assert set(split.validation["session_id"]) == {"ses-M12"}
        assert ids(split.validation) == ids(frame[frame["site"] == site])
        assert len(split.train) == (frame["site"] != site).sum()


def test_a_cohort_can_be_left_out_even_if_another_cohort_has_the_same_ids():
    frame = pd.concat([people(4).assign(cohort=name) for name in ("ADNI", "AIBL")])
    splits = leave_one_group_out(frame, "cohort")
    assert [set(split.validation["cohort"]) for split in splits] == [{"ADNI"}, {"AIBL"}]


@pytest.mark.parametrize(
    ("visits", "expected"),
    [("baseline", {"ses-M00"}), ("last", {"ses-M12"}), ("all", {"ses-M00", "ses-M06", "ses-M12"})],
)
def test_visits_selects_the_sessions_of_the_validation_and_test_sets(visits: str, expected: set[str]):
    frame = people(12, sessions=3).sample(frac=1, random_state=0)
    _, test = holdout(frame, 0.25, visits=visits)
    for found in (test, *(split.validation for split in kfold(frame, 3, visits=visits))):
        assert set(found["session_id"]) == expected
        assert len(found) == len(ids(found)) * len(expected)
    assert all(len(split.train) == 24 for split in kfold(frame, 3, visits=visits))
    with pytest.raises(SettingError, match="did you mean 'last'"):
        kfold(frame, visits="lasts")

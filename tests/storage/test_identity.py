"""Rows are described and compared by their identity columns."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocnn.errors import TableError
from neurocnn.storage.identity import (
    IMAGE,
    PART,
    check_columns,
    check_ids,
    describe_row,
    describe_rows,
    key_columns,
    person_columns,
    shared_participants,
    similar_ids,
)

people = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 5)), min_size=1, max_size=12)


def table(rows: list[tuple[str, int]]) -> pd.DataFrame:
    return pd.DataFrame({"cohort": [c for c, _ in rows], "participant_id": [f"sub-{i}" for _, i in rows]})


@given(people, people)
def test_shared_participants_are_the_intersection_of_cohort_and_participant(first, second):
    both = {f"{c} sub-{i}" for c, i in first} & {f"{c} sub-{i}" for c, i in second}
    assert shared_participants(table(first), table(second)) == sorted(both)


@given(people, people)
def test_participants_are_compared_by_id_if_a_table_has_no_cohorts(first, second):
    both = {f"sub-{i}" for _, i in first} & {f"sub-{i}" for _, i in second}
    one = table(first)
    for other in (table(second).drop(columns="cohort"), table(second).assign(cohort=None)):
        assert shared_participants(one, other) == sorted(both)
        assert shared_participants(other, one) == sorted(both)


def test_cohorts_are_not_compared_if_a_row_has_no_cohort():
    frame = table([("A", 1), ("A", 2)])
    assert person_columns(frame) == ["cohort", "participant_id"]
    frame.loc[1, "cohort"] = np.nan
    assert person_columns(frame) == ["participant_id"]


@given(st.permutations([*PART, "age"]))
def test_key_columns_have_a_fixed_order(columns: list[str]):
    assert key_columns(columns) == list(IMAGE)
    assert key_columns(columns, PART) == list(PART)


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA])
def test_a_missing_id_is_omitted_from_a_name(missing: object):
    row = {"cohort": missing, "participant_id": "sub-1", "session_id": "ses-1", "part_id": np.int64(2)}
    assert describe_row(row) == "sub-1 ses-1 part 2"
    assert describe_row(pd.Series(row)) == "sub-1 ses-1 part 2"


def test_a_table_and_a_list_of_its_rows_have_the_same_description():
    frame = table([("A", i) for i in range(7)]).assign(session_id="ses-1", part_id=range(7), age=1)
    expected = "A sub-0 ses-1 part 0, A sub-1 ses-1 part 1 and 5 more"
    assert describe_rows(frame, most=2) == expected
    assert describe_rows(frame.to_dict("records"), most=2) == expected


@pytest.mark.parametrize(
    "value", ["1", "sub-", "sub-a/b", "sub-a\\b", "sub-..", "sub-a b", "sub-a\n", "sub-\x07", 3, None]
)
def test_a_malformed_id_is_refused_with_its_row(value: object):
    frame = pd.DataFrame({"participant_id": ["sub-1", value], "session_id": "ses-1"})
    with pytest.raises(TableError, match=r"^sessions, row 1: participant_id="):
        check_ids(frame, "sessions")


def test_an_error_names_both_rows_of_a_repeated_part():
    frame = pd.DataFrame({"participant_id": "sub-1", "session_id": "ses-1", "part_id": [0, 1, 0]})
    with pytest.raises(
        TableError, match="t: row 0 and row 2 are both sub-1 ses-1 part 0; expected different ids"
    ):
        check_ids(frame, "t")
    check_ids(frame.iloc[:2], "t")


def test_an_error_names_a_missing_column_and_similar_names():
    with pytest.raises(
        TableError, match=r"t: .*'session_id' is missing; .* There are: session; rename the column"
    ):
        check_columns(pd.DataFrame({"session": ["x"]}), ["session_id"], "t")


@pytest.mark.faults
@pytest.mark.parametrize(
    "other",
    [
        "sub-JOSÉ",
        "sub-jose\u0301",
        "sub-jo\u200bsé",
        "sub-\ufeffjosé",
        "sub-jo\u00adsé",
        "sub-josé\ufe0f",
        "sub-ｊosé",
    ],
)
def test_ids_that_differ_in_case_normalisation_or_invisible_characters_are_similar(other: str):
    assert similar_ids(["sub-josé", "sub-maria", other, other]) == [["sub-josé", other]]


@pytest.mark.faults
@given(st.lists(st.text("0123456789abcdef", min_size=1), max_size=20))
def test_different_plain_ids_are_never_similar(names: list[str]):
    assert similar_ids([f"sub-{name}" for name in names]) == []

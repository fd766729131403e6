"""A model is never evaluated on participants that it has seen."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocnn.errors import LeakError, TableError
from neurocnn.results.leakage import TRAINED, check_unseen, record_seen, unknown_source


def _sessions(names, cohort=None):
    table = pd.DataFrame({"participant_id": list(names), "session_id": "ses-M000"})
    return table if cohort is None else table.assign(cohort=cohort)


def test_participants_of_the_source_and_of_its_source_are_recorded_with_their_roles():
    first = record_seen(_sessions(["sub-1"]), _sessions(["sub-2"]))
    second = record_seen(_sessions(["sub-3"]), _sessions(["sub-4"]), first)
    third = record_seen(_sessions(["sub-5"]), _sessions(["sub-6"]), second)
    roles = dict(zip(third["participant_id"], third["role"], strict=True))
    assert roles == {
        "sub-5": "train",
        "sub-6": "validation",
        "sub-3": "source_train",
        "sub-4": "source_validation",
        "sub-1": "source_train",
        "sub-2": "source_validation",
    }


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_an_error_is_raised_exactly_if_a_participant_was_seen(train, validation, new):
    table = record_seen(*(_sessions(f"sub-{i}" for i in sorted(ids)) for ids in (train, validation)))
    sessions = _sessions(f"sub-{i}" for i in sorted(new))
    if new & (train | validation):
        with pytest.raises(LeakError, match=f"{len(new & (train | validation))} participants"):
            check_unseen(table, sessions, "test")
    else:
        check_unseen(table, sessions, "test")


def test_validation_participants_of_the_source_do_not_count_as_training_participants():
    table = record_seen(_sessions(["sub-1"]), _sessions(["sub-2"]))
    check_unseen(table, _sessions(["sub-2"]), "transfer", TRAINED)
    with pytest.raises(LeakError):
        check_unseen(table, _sessions(["sub-1"]), "transfer", TRAINED)


def test_equal_participant_ids_in_two_cohorts_are_two_people():
    table = record_seen(_sessions(["sub-1"], "ADNI"), _sessions(["sub-2"], "ADNI"))
    check_unseen(table, _sessions(["sub-1"], "AIBL"), "test")
    with pytest.raises(LeakError, match="ADNI sub-1"):
        check_unseen(table, _sessions(["sub-1"], "ADNI"), "test")


def test_only_ids_are_compared_unless_both_tables_have_cohorts():
    table = record_seen(_sessions(["sub-1"], "ADNI"), _sessions(["sub-2"], "ADNI"))
    with pytest.raises(LeakError, match="sub-1"):
        check_unseen(table, _sessions(["sub-1"]), "test")


def test_participants_of_a_source_without_cohorts_are_found_in_tables_with_cohorts():
    source = record_seen(_sessions(["sub-1"]), _sessions(["sub-2"]))
    table = record_seen(_sessions(["sub-3"], "ADNI"), _sessions(["sub-4"], "ADNI"), source)
    for name, role in (("sub-1", "source_train"), ("sub-2", "source_validation")):
        with pytest.raises(LeakError, match=f"{name} {role}"):
            check_unseen(table, _sessions([name], "AIBL"), "test")
    check_unseen(table, _sessions(["sub-3"], "AIBL"), "test")


def test_no_participant_is_refused_if_the_source_recorded_none():
    table = record_seen(_sessions(["sub-1"], "ADNI"), _sessions(["sub-2"], "ADNI"), unknown_source())
    check_unseen(table, _sessions(["sub-3"], "ADNI"), "test")


def test_sessions_without_a_participant_column_are_refused():
    table = record_seen(_sessions(["sub-1"]), _sessions(["sub-2"]))
    with pytest.raises(TableError, match="expected participant_id among them"):
        check_unseen(table, pd.DataFrame({"subject": ["sub-1"]}), "test")


def test_a_participant_with_two_roles_is_counted_once():
    first = record_seen(_sessions(["sub-1"]), _sessions(["sub-2"]))
    table = record_seen(_sessions(["sub-1"]), _sessions(["sub-3"]), first)
    with pytest.raises(LeakError, match="1 participants were seen in training: sub-1 train/source_train;"):
        check_unseen(table, _sessions(["sub-1"]), "test")

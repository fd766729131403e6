"""Stable and progressive MCI follow the documented rules, month by month."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocnn.data import progression
from neurocnn.errors import TableError


def visits(diagnoses: dict[int, object], **columns: object) -> pd.DataFrame:
    sessions = [f"ses-M{month:03d}" for month in diagnoses]
    rows = {"session_id": sessions, "diagnosis": list(diagnoses.values())}
    return pd.DataFrame({"participant_id": "sub-01", **rows, **columns}, dtype=object)


def naive(diagnoses: dict[int, object], start: int, months: int) -> str:
    """Return the label of a session by a walk through all later months."""
    had_ad = progressed = False
    for month in range(start + months + 1):
        known = diagnoses.get(month)
        if known is None:
            continue
        if had_ad and known != "AD":
            return "rMCI"
        if known == "CN" and month > start:
            return "rMCI"
        if known == "AD":
            had_ad = True
            progressed = progressed or month > start
    if progressed:
        return "pMCI"
    for month in range(start + months, 200):
        if diagnoses.get(month) is not None:
            return "sMCI" if diagnoses[month] == "MCI" else "uMCI"
    return "uMCI"


@given(
    st.dictionaries(st.integers(0, 60), st.sampled_from(["MCI", "MCI", "CN", "AD", None]), min_size=1),
    st.integers(1, 48),
)
def test_each_session_is_labelled_as_by_a_walk_through_the_months(diagnoses, months):
    found = progression(visits(diagnoses), months)["diagnosis"].tolist()
    expected = [
        naive(diagnoses, month, months) if known == "MCI" else known for month, known in diagnoses.items()
    ]
    assert [None if pd.isna(label) else label for label in found] == expected


CASES = {
    "stable": ({0: "MCI", 36: "MCI", 48: "AD"}, "sMCI"),
    "stable, seen later": ({0: "MCI", 24: "MCI", 48: "MCI"}, "sMCI"),
    "progressive": ({0: "MCI", 12: "MCI", 36: "AD"}, "pMCI"),
    "progressive before a gap": ({0: "MCI", 6: "AD"}, "pMCI"),
    "reversion to CN": ({0: "MCI", 12: "CN", 36: "MCI"}, "rMCI"),
    "reversion from AD": ({0: "MCI", 12: "AD", 36: "MCI"}, "rMCI"),
    "MCI after AD": ({0: "AD", 12: "MCI", 48: "MCI"}, "rMCI"),
    "CN before": ({0: "CN", 12: "MCI", 48: "MCI"}, "sMCI"),
    "too short": ({0: "MCI", 24: "MCI"}, "uMCI"),
    "AD after a gap over the horizon": ({0: "MCI", 24: "MCI", 48: "AD"}, "uMCI"),
    "missing at the horizon": ({0: "MCI", 36: None}, "uMCI"),
    "reversion after the horizon": ({0: "MCI", 36: "MCI", 60: "CN"}, "sMCI"),
    "rows in any order": ({48: "MCI", 12: "AD", 0: "MCI"}, "rMCI"),
    "reversion before progression": ({0: "MCI", 12: "CN", 24: "AD"}, "rMCI"),
}


@pytest.mark.parametrize("case", CASES)
def test_documented_cases_are_labelled_as_documented(case):
    diagnoses, expected = CASES[case]
    table = visits(diagnoses)
    first = list(diagnoses.values()).index("MCI")
    assert progression(table)["diagnosis"].tolist()[first] == expected


def test_participants_of_two_cohorts_are_distinguished_and_other_columns_kept(caplog):
    caplog.set_level("INFO", logger="neurocnn")
    table = pd.concat(
        [visits({0: "MCI", 36: "AD"}, cohort="A", age=70), visits({0: "MCI", 36: "MCI"}, cohort="B", age=71)]
    )
    found = progression(table)
    assert found["diagnosis"].tolist() == ["pMCI", "AD", "sMCI", "uMCI"]
    assert found.drop(columns="diagnosis").equals(table.drop(columns="diagnosis"))
    assert table["diagnosis"].tolist() == ["MCI", "AD", "MCI", "MCI"]
    assert "within 36 months: 1 sMCI, 1 pMCI, 0 rMCI (reversion), 1 uMCI (unknown)" in caplog.text


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            visits({0: "MCI", 12: "EMCI"}),
            "sub-01 ses-M012: diagnosis='EMCI'; expected CN, MCI, AD .*; rename",
        ),
        (
            visits({0: "MCI"}).assign(session_id="ses-01"),
            "sub-01 ses-01: session_id='ses-01'; expected 'ses-M' and the month",
        ),
        (
            visits({0: "MCI", 1: "AD"}).assign(session_id=["ses-M00", "ses-M000"]),
            "sub-01 ses-M00, sub-01 ses-M000; expected different months",
        ),
        (visits({0: "MCI"}).rename(columns={"diagnosis": "dx"}), "the column 'diagnosis' is missing"),
    ],
)
def test_a_table_without_a_defined_result_is_refused(table, message):
    with pytest.raises(TableError, match=message):
        progression(table)

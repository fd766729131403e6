"""The population table equals that of the lab."""

import warnings

import numpy as np
import pandas as pd
import pytest

from neurocnn.data import population
from neurocnn.errors import NeurocnnError, TableError


def oasis(n: int = 40, seed: int = 0) -> pd.DataFrame:
    """Return a table with the columns of the lab's table, and with missing values in the same columns."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "participant_id": [f"sub-{i}" for i in range(n)],
            "session_id": "ses-M00",
            "diagnosis": rng.choice(["AD", "CN"], n),
            "sex": rng.choice(["F", "M"], n),
            "age_bl": rng.integers(18, 97, n),
            "education_level": rng.integers(1, 6, n).astype(float),
            "MMS": rng.integers(14, 31, n).astype(float),
            "cdr_global": rng.choice([0, 0.5, 1, 2, np.nan], n),
        }
    )
    frame.loc[::7, ["education_level", "MMS"]] = np.nan
    return frame


def naive(values: list[float]) -> str:
    """Return mean and standard deviation (dividing by N) as text, by their definition."""
    known = [v for v in values if v == v]
    mean = sum(known) / len(known)
    return f"{mean:.1f} ± {(sum((v - mean) ** 2 for v in known) / len(known)) ** 0.5:.1f}"


def test_the_table_has_the_labs_rows_columns_and_formulas():
    frame = oasis()
    table = population(frame)
    assert list(table.index) == ["AD", "CN"]
    assert list(table.columns) == [
        "N",
        "age",
        "%sexF",
        "education",
        "MMS",
        "CDR=0",
        "CDR=0.5",
        "CDR=1",
        "CDR=2",
    ]
    for diagnosis in ("AD", "CN"):
        group = frame[frame["diagnosis"] == diagnosis]
        row = table.loc[diagnosis]
        assert row["N"] == len(group)
        assert row["age"] == naive(group["age_bl"].tolist())
        assert row["education"] == naive(group["education_level"].tolist())
        assert row["MMS"] == naive(group["MMS"].tolist())
        assert row["%sexF"] == round(100 * sum(s == "F" for s in group["sex"]) / len(group), 1)
        for score in ("0", "0.5", "1", "2"):
            assert row[f"CDR={score}"] == sum(v == float(score) for v in group["cdr_global"])


def test_columns_with_other_names_can_be_passed():
    frame = oasis().rename(columns={"age_bl": "age", "cdr_global": "CDR", "diagnosis": "group"})
    table = population(frame, by="group", columns={"age": "age", "CDR": "CDR"})
    expected = population(oasis())
    assert table.equals(expected)


def test_missing_columns_are_omitted_unless_requested():
    frame = oasis()[["participant_id", "diagnosis", "sex"]]
    assert list(population(frame).columns) == ["N", "%sexF"]
    with pytest.raises(TableError, match="column 'age' is missing"):
        population(frame, columns={"age": "age"})
    with pytest.raises(TableError, match="unknown characteristic 'educ'; did you mean 'education'"):
        population(oasis(), columns={"educ": "MMS"})
    with pytest.raises(TableError, match=r"'diagnose' is missing; did you mean 'diagnosis'.*; pass by=…"):
        population(frame, by="diagnose")


def test_a_group_without_values_is_n_a_without_warnings():
    frame = oasis().assign(MMS=lambda f: f["MMS"].where(f["diagnosis"] == "AD"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert population(frame).loc["CN", "MMS"] == "n/a"


def test_text_instead_of_numbers_is_refused():
    with pytest.raises(TableError, match=r"MMS='NA' of sub-. ses-M00; expected a number"):
        population(oasis().assign(MMS="NA"))


def test_a_column_may_have_the_name_of_its_characteristic():
    frame = oasis()
    plain = frame.rename(columns={"age_bl": "age", "education_level": "education", "cdr_global": "CDR"})
    pd.testing.assert_frame_equal(population(plain), population(frame))


@pytest.mark.faults
def test_the_share_of_women_omits_missing_values_and_accepts_all_spellings():
    sexes = ["F", "female", "f", "Female", "M", "male", "m", None, None, "FEMALE"]
    frame = pd.DataFrame({"diagnosis": ["AD"] * 10, "sex": sexes})
    assert population(frame).loc["AD", "%sexF"] == 62.5  # 5 of 8
    assert population(frame.assign(sex=[None] * 10)).loc["AD", "%sexF"] == "n/a"


@pytest.mark.faults
@pytest.mark.parametrize("code", [0, 1, 1.0, "0", "W", "woman", "", True])
def test_an_error_names_the_row_of_an_unknown_code_of_sex(code: object):
    frame = oasis(4).astype({"sex": object})
    frame.loc[2, "sex"] = code
    with pytest.raises(TableError, match=f"sex={code!r} of sub-2 ses-M00; expected F, M, female or male"):
        population(frame)


@pytest.mark.faults
@pytest.mark.parametrize("column", ["age_bl", "education_level", "MMS", "cdr_global"])
def test_an_error_names_the_row_of_a_string_among_numbers(column: str):
    frame = oasis(6).astype({column: object})
    frame.loc[4, column] = "0.5"
    with pytest.raises(TableError, match=f"{column}='0.5' of sub-4 ses-M00; expected a number"):
        population(frame)


@pytest.mark.faults
def test_participants_count_once_with_their_first_session():
    """24 participants have 44 visits, and their diagnosis and MMS change after the first visit."""
    first = oasis(24)
    later = first[:20].assign(session_id="ses-M12", diagnosis="AD", MMS=0.0)
    visits = pd.concat([later, first], ignore_index=True)
    assert len(visits) == 44
    pd.testing.assert_frame_equal(population(visits), population(first))
    rows = visits.drop(columns=["participant_id", "session_id"])
    assert population(rows)["N"].sum() == 44
    assert population(visits.drop(columns="session_id"))["N"].sum() == 24


@pytest.mark.faults
def test_missing_groups_and_unknown_scores_are_shown_as_n_a():
    frame = oasis(10)
    frame.loc[:3, "diagnosis"] = None
    assert population(frame).loc["n/a", "N"] == 4
    unknown = population(frame.assign(cdr_global=np.nan))
    assert (unknown[["CDR=0", "CDR=0.5", "CDR=1", "CDR=2"]] == "n/a").all(axis=None)


@pytest.mark.faults
@pytest.mark.parametrize("value", [None, "labels.tsv", 3, [1], {"a": 1}, object()])
def test_arguments_of_another_type_are_refused(value: object):
    with pytest.raises(TableError, match="expected a DataFrame"):
        population(value)
    with pytest.raises(NeurocnnError, match="by"):
        population(oasis(), by=3)
    if value is not None:
        with pytest.raises(NeurocnnError):
            population(oasis(), columns=value)

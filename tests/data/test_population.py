"""The table of a population is the lab's."""

import warnings

import numpy as np
import pandas as pd
import pytest

from neurocnn.data import population
from neurocnn.errors import TableError


def oasis(n: int = 40, seed: int = 0) -> pd.DataFrame:
    """A table with the lab's columns, with gaps where the lab's has gaps."""
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
    """Mean and standard deviation by the definition, dividing by N."""
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


def test_other_names_of_columns_are_given():
    frame = oasis().rename(columns={"age_bl": "age", "cdr_global": "CDR", "diagnosis": "group"})
    table = population(frame, by="group", columns={"age": "age", "CDR": "CDR"})
    expected = population(oasis())
    assert table.equals(expected)


def test_what_the_table_does_not_have_is_left_out_and_what_was_asked_for_is_not():
    frame = oasis()[["participant_id", "diagnosis", "sex"]]
    assert list(population(frame).columns) == ["N", "%sexF"]
    with pytest.raises(TableError, match="no column 'age'"):
        population(frame, columns={"age": "age"})
    with pytest.raises(TableError, match="no characteristic 'educ'; did you mean 'education'"):
        population(oasis(), columns={"educ": "MMS"})
    with pytest.raises(TableError, match="no column 'diagnose'; did you mean 'diagnosis'"):
        population(frame, by="diagnose")


def test_a_group_without_a_value_is_n_a_and_warns_of_nothing():
    frame = oasis().assign(MMS=lambda f: f["MMS"].where(f["diagnosis"] == "AD"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert population(frame).loc["CN", "MMS"] == "n/a"


def test_text_where_numbers_were_expected_is_refused():
    with pytest.raises(TableError, match="'MMS' holds text"):
        population(oasis().assign(MMS="NA"))


def test_a_column_may_be_called_like_its_characteristic():
    frame = oasis()
    plain = frame.rename(columns={"age_bl": "age", "education_level": "education", "cdr_global": "CDR"})
    pd.testing.assert_frame_equal(population(plain), population(frame))

"""Participants are matched in as many pairs as possible, of the same sex and similar age."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

import neurocnn as nc
from neurocnn.errors import SettingError, TableError


def sessions_of(n: int, seed: int, n_patients: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i:02}" for i in range(n)],
            "session_id": "ses-M000",
            "diagnosis": ["AD" if i < n_patients else "CN" for i in range(n)],
            "age": generator.uniform(60, 70, n).round(1),
            "sex": generator.choice(["F", "M"], n),
        }
    )


def best_by_trial(sessions: pd.DataFrame, tolerance: float) -> tuple[int, float]:
    """Return the largest number of pairs, and the smallest sum of age differences for it, by trying all assignments."""
    patients, controls = (sessions[sessions["diagnosis"] == name] for name in ("AD", "CN"))
    best = (0, 0.0)
    for chosen in permutations(range(len(controls)), len(patients)):
        others = controls.iloc[list(chosen)]
        apart = np.abs(patients["age"].to_numpy() - others["age"].to_numpy())
        ok = (apart <= tolerance + 1e-9) & (patients["sex"].to_numpy() == others["sex"].to_numpy())
        best = min(best, (-int(ok.sum()), float(apart[ok].sum())))
    return -best[0], best[1]


@pytest.mark.parametrize("seed", range(6))
def test_pairs_are_as_many_and_as_close_as_possible(seed: int):
    sessions = sessions_of(10, seed, n_patients=4)
    n_pairs, total = best_by_trial(sessions, 2)
    found = nc.balanced(sessions)
    assert found["pair"].nunique() == n_pairs
    differences = found.groupby("pair")["age"].agg(np.ptp)
    assert differences.sum() == pytest.approx(total)
    assert (differences <= 2 + 1e-9).all()
    assert (found.groupby("pair")["sex"].nunique() == 1).all()
    assert (found.groupby("pair")["diagnosis"].nunique() == 2).all()
    assert (found.groupby("pair").size() == 2).all()


def test_all_sessions_of_a_pair_are_kept_and_the_values_of_the_first_session_are_matched():
    sessions = pd.DataFrame(
        {
            "participant_id": ["sub-1", "sub-1", "sub-2", "sub-3"],
            "session_id": ["ses-M012", "ses-M000", "ses-M000", "ses-M000"],
            "diagnosis": ["AD", "CN", "AD", "AD"],
            "age": [71.0, 70.0, 70.5, 90.0],
        }
    )
    found = nc.balanced(sessions, on=["age"])
    assert found["participant_id"].tolist() == ["sub-1", "sub-1", "sub-2"]
    assert found.index.tolist() == [0, 1, 2]
    assert set(found["pair"]) == {0}


def test_numeric_columns_of_two_values_are_matched_exactly():
    sessions = sessions_of(12, 0, 6).assign(sex=lambda table: (table["sex"] == "F").astype(int))
    found = nc.balanced(sessions, tolerance={"age": 100})
    assert (found.groupby("pair")["sex"].nunique() == 1).all()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("change", "arguments", "kind", "words"),
    [
        (
            lambda t: t.assign(diagnosis="AD"),
            {},
            TableError,
            r"values of diagnosis are \['AD'\]; expected two groups",
        ),
        (lambda t: t.assign(age=np.nan), {}, TableError, "age, sex is missing for sub-00"),
        (lambda t: t, {"on": ["weight"]}, TableError, "the column 'weight' is missing;.*; pass on=…"),
        (
            lambda t: t.rename(columns={"diagnosis": "DX"}),
            {},
            TableError,
            "'diagnosis' is missing;.*; pass by=…",
        ),
        (lambda t: t, {"on": "age"}, SettingError, "on='age'; expected column names"),
        (lambda t: t, {"tolerance": -1}, SettingError, "tolerance=-1"),
        (lambda t: t.assign(pair=1), {}, TableError, "'pair' exists"),
        (lambda t: t.assign(sex=t["diagnosis"]), {}, SettingError, "no pair of AD and CN"),
    ],
)
def test_tables_without_pairs_are_refused(change, arguments, kind, words):
    with pytest.raises(kind, match=words):
        nc.balanced(change(sessions_of(8, 1, 4)), **arguments)

"""The balance of two sets has the standardised mean differences of Austin (2009)."""

import math

import numpy as np
import pandas as pd
import pytest

from neurocnn.data import balance


def table(n: int, seed: int, **columns) -> pd.DataFrame:
    names = [f"sub-{seed}{i:03}" for i in range(n)]
    return pd.DataFrame({"participant_id": names, "session_id": "ses-M00", **columns})


def test_differences_equal_the_formulas():
    rng = np.random.default_rng(0)
    ages = [rng.normal(70, 8, 40), rng.normal(75, 4, 15)]
    sexes = [["F"] * 10 + ["M"] * 30, ["F"] * 9 + ["M"] * 6]
    sets = [
        table(len(age), i, age=age, sex=sex) for i, (age, sex) in enumerate(zip(ages, sexes, strict=True))
    ]
    found = balance(*sets).set_index(["column", "value"])
    age = found.loc[("age", None)] if ("age", None) in found.index else found.loc["age"].iloc[0]
    pooled = math.sqrt((ages[0].var(ddof=1) + ages[1].var(ddof=1)) / 2)
    assert age["difference"] == pytest.approx((ages[0].mean() - ages[1].mean()) / pooled)
    female = found.loc[("sex", "F")]
    assert (female["train"], female["validation"]) == (0.25, 0.6)
    assert female["difference"] == pytest.approx((0.25 - 0.6) / math.sqrt((0.25 * 0.75 + 0.6 * 0.4) / 2))
    assert found.loc[("sex", "M")]["difference"] == pytest.approx(-female["difference"])


def test_participants_count_once_and_missing_values_do_not_count():
    train = pd.concat(
        [table(3, 0, age=[60.0, 70.0, None]), table(3, 0, age=[0.0] * 3).assign(session_id="ses-M12")]
    )
    row = balance(train, table(2, 1, age=[65.0, 65.0])).iloc[0]
    assert (row["train"], row["validation"], row["difference"]) == (65, 65, 0)


def test_text_columns_with_many_values_are_omitted_and_constants_are_compared():
    names = [f"name {i}" for i in range(12)]
    found = balance(
        table(12, 0, name=names, site="A", score=1), table(12, 1, name=names, site="B", score=2, extra=1)
    )
    assert found["column"].tolist() == ["site", "site", "score"]
    assert found["difference"].tolist() == [math.inf, -math.inf, -math.inf]

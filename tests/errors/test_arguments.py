"""Each check returns accepted values in plain form, and refuses other values with a message of the same form."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurocnn.errors import SettingError
from neurocnn.errors.arguments import (
    argument_error,
    check_callable,
    check_choice,
    check_each,
    check_flag,
    check_instance,
    check_integer,
    check_list,
    check_number,
    check_text,
)

ODD = [
    None, True, 1, 1.5, float("nan"), float("inf"), "", "a", b"a", [], [1], (), {}, {"a": 1}, {1}, object(), print,
    int, pd.Series([1]), np.arange(2), np.float64(0.5), np.int64(3), torch.ones(2), iter([1]), 10**400,
]  # fmt: skip
CHECKS = {
    "an integer": check_integer,
    "a finite number": check_number,
    "True or False": check_flag,
    "a non-empty string": check_text,
    "one of 'x', 2": lambda name, value, **where: check_choice(name, value, ["x", 2], **where),
    "a callable": check_callable,
    "a dict": lambda name, value, **where: check_instance(name, value, dict, "a dict", **where),
    "a list": lambda name, value, **where: check_list(name, value, "a list", **where),
}


@pytest.mark.parametrize("expected", CHECKS)
def test_any_value_is_accepted_or_refused_with_a_message_of_the_same_form(expected: str):
    messages = []
    for value in ODD:
        try:
            CHECKS[expected]("name", value, where="Trainer")
        except SettingError as error:
            messages.append(str(error))
    assert len(messages) >= 10
    for message in messages:
        assert re.match(r"Trainer: name=.*; expected " + re.escape(expected), message, re.DOTALL)
        assert len(message) < 200


@given(st.integers(-(2**60), 2**60), st.integers(-10, 10), st.integers(0, 10))
def test_an_integer_is_accepted_exactly_within_its_limits(value: int, minimum: int, width: int):
    inside = minimum <= value <= minimum + width
    for given_value in (value, np.int64(value)):
        try:
            found = check_integer("n", given_value, minimum=minimum, maximum=minimum + width)
        except SettingError:
            assert not inside
        else:
            assert inside
            assert type(found) is int
            assert found == value


@given(st.floats(), st.floats(-10, 10), st.floats(0, 10))
def test_a_number_is_accepted_exactly_within_its_limits(value: float, low: float, width: float):
    high = low + width
    for limits, inside in (
        ({"minimum": low, "maximum": high}, low <= value <= high),
        ({"above": low, "below": high}, low < value < high),
    ):
        try:
            found = check_number("x", np.float64(value), **limits)
        except SettingError:
            assert not inside
        else:
            assert inside
            assert type(found) is float
            assert found == value


@pytest.mark.parametrize("value", [{1, 2}, frozenset([1]), {"a": 1}, "ab", b"ab", 3, None])
def test_a_set_dict_text_or_scalar_is_refused_where_a_list_is_expected(value: object):
    with pytest.raises(SettingError, match="expected a list of classes"):
        check_list("classes", value, "a list of classes")


def test_a_generator_is_accepted_as_a_list():
    assert check_list("classes", (name for name in ("CN", "AD")), "a list") == ["CN", "AD"]


def test_true_is_refused_as_the_choice_1():
    with pytest.raises(SettingError):
        check_choice("n", True, [0, 1])


def test_an_error_names_an_item_by_its_index():
    with pytest.raises(SettingError, match=r"^fit: splits\[1\]=-1; expected an integer ≥ 0$"):
        check_each("splits", [0, -1], check_integer, minimum=0, where="fit")


def test_a_long_value_is_shortened_and_a_remedy_ends_the_message():
    text = str(argument_error("x", list(range(1000)), "less", where="f", remedy="choose less"))
    assert len(text) < 120
    assert text.endswith("; expected less; choose less")

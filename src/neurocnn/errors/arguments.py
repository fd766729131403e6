"""Checks of arguments, with one function per kind of value.

Every message has the form ``where: name=value; expected …; remedy``. Each check returns the checked value as a plain
Python value (an int instead of a numpy integer), which the caller stores.
"""

import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import pandas as pd

from neurocnn.errors import SettingError, TableError, suggestion

T = TypeVar("T")


def argument_error(
    name: str, value: object, expected: str, *, where: str = "", remedy: str = ""
) -> SettingError:
    """Return the error for an argument that cannot be used.

    Parameters
    ----------
    name
        Name of the argument.
    value
        Value that was given, shortened to 80 characters in the message.
    expected
        Description of the values that can be used.
    where
        Name of the function or class that has the argument.
    remedy
        Instruction that corrects the call.

    Examples
    --------
    >>> str(argument_error("stride", 0, "an integer ≥ 1", where="Patch"))
    'Patch: stride=0; expected an integer ≥ 1'
    """
    prefix = f"{where}: " if where else ""
    suffix = f"; {remedy}" if remedy else ""
    return SettingError(f"{prefix}{name}={shorten(repr(value), 80)}; expected {expected}{suffix}")


def check_integer(
    name: str, value: object, *, minimum: int | None = None, maximum: int | None = None, where: str = ""
) -> int:
    """Return `value` as an int, else raise a SettingError.

    Raises
    ------
    SettingError
        If `value` is not an integer, or outside `minimum` … `maximum` (both inclusive).

    Examples
    --------
    >>> check_integer("epochs", 20, minimum=1)
    20
    >>> check_integer("epochs", True, minimum=1)
    Traceback (most recent call last):
    neurocnn.errors.SettingError: epochs=True; expected an integer ≥ 1
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number = int(value)
        if (minimum is None or number >= minimum) and (maximum is None or number <= maximum):
            return number
    raise argument_error(name, value, f"an integer{_describe_limits(minimum, maximum)}", where=where)


def check_number(
    name: str,
    value: object,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    where: str = "",
) -> float:
    """Return `value` as a finite float, else raise a SettingError.

    Parameters
    ----------
    name, value, where
        See `argument_error`.
    minimum, maximum
        Inclusive limits.
    above, below
        Exclusive limits.

    Raises
    ------
    SettingError
        If `value` is not a finite number, or outside the limits.

    Examples
    --------
    >>> check_number("tolerance", 0.1, minimum=0, below=1)
    0.1
    >>> check_number("tolerance", 1, minimum=0, below=1)
    Traceback (most recent call last):
    neurocnn.errors.SettingError: tolerance=1; expected a finite number ≥ 0 and < 1
    """
    number = _as_float(value)
    if number is not None and (
        math.isfinite(number)
        and (minimum is None or number >= minimum)
        and (maximum is None or number <= maximum)
        and (above is None or number > above)
        and (below is None or number < below)
    ):
        return number
    limits = _describe_limits(minimum, maximum, above, below)
    raise argument_error(name, value, f"a finite number{limits}", where=where)


def _as_float(value: Any) -> float | None:
    # A tensor or array with one value, such as a mean, is accepted as a number.
    plain = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    if not isinstance(plain, numbers.Real) or isinstance(plain, bool):
        return None
    try:
        return float(plain)
    except OverflowError:
        return None


def check_flag(name: str, value: object, *, where: str = "") -> bool:
    """Return `value` if it is True or False, else raise a SettingError.

    Examples
    --------
    >>> check_flag("multi", "no")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: multi='no'; expected True or False
    """
    if isinstance(value, bool):
        return value
    raise argument_error(name, value, "True or False", where=where)


def check_text(name: str, value: object, *, expected: str = "a non-empty string", where: str = "") -> str:
    """Return `value` if it is a non-empty string, else raise a SettingError.

    Examples
    --------
    >>> check_text("label", None, expected="a column name")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: label=None; expected a column name
    """
    if isinstance(value, str) and value:
        return value
    raise argument_error(name, value, expected, where=where)


def check_choice(name: str, value: object, choices: Iterable[T], *, where: str = "") -> T:
    """Return the member of `choices` that equals `value`, else raise a SettingError that lists them.

    Examples
    --------
    >>> check_choice("sampler", "wieghted", ["random", "weighted"])
    Traceback (most recent call last):
    neurocnn.errors.SettingError: sampler='wieghted'; expected one of 'random', 'weighted'; did you mean 'weighted'?
    """
    allowed = list(choices)
    for choice in allowed:
        if type(choice) is type(value) and choice == value:
            return choice
    near = suggestion(value, map(str, allowed)).split(" There")[0] if isinstance(value, str) else ""
    remedy = near if near.startswith("did you mean") else ""
    raise argument_error(name, value, f"one of {', '.join(map(repr, allowed))}", where=where, remedy=remedy)


def check_callable(name: str, value: Any, expected: str = "a callable", *, where: str = "") -> Any:
    """Return `value` if it can be called, else raise a SettingError.

    Examples
    --------
    >>> check_callable("optimizer", "adam", "a function such as torch.optim.SGD")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: optimizer='adam'; expected a function such as torch.optim.SGD
    """
    if callable(value):
        return value
    raise argument_error(name, value, expected, where=where)


def check_instance(name: str, value: object, kind: type[T], expected: str, *, where: str = "") -> T:
    """Return `value` if it is an instance of `kind`, else raise a SettingError.

    Examples
    --------
    >>> check_instance("caps", "folder", dict, "an nc.Caps", where="Experiment")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: Experiment: caps='folder'; expected an nc.Caps
    """
    if isinstance(value, kind):
        return value
    raise argument_error(name, value, expected, where=where)


def check_list(name: str, value: Any, expected: str, *, where: str = "") -> list[Any]:
    """Return the items of an ordered iterable as a list. An iterator is consumed.

    Raises
    ------
    SettingError
        If `value` is not iterable, or is a string, bytes, a mapping or a set.

    Examples
    --------
    >>> check_list("classes", ("CN", "AD"), "a list such as ['CN', 'AD']")
    ['CN', 'AD']
    >>> check_list("classes", {"CN"}, "a list such as ['CN', 'AD']")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: classes={'CN'}; expected a list such as ['CN', 'AD']
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | AbstractSet):
        return list(value)
    raise argument_error(name, value, expected, where=where)


def check_path(name: str, value: object, *, where: str = "") -> Path:
    """Return `value` as a Path, else raise a SettingError.

    Raises
    ------
    SettingError
        If `value` is neither a non-empty str nor an os.PathLike, or contains a NUL character.

    Examples
    --------
    >>> check_path("folder", None)
    Traceback (most recent call last):
    neurocnn.errors.SettingError: folder=None; expected a path
    """
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str) and path and "\0" not in path:
            return Path(path)
    raise argument_error(name, value, "a path", where=where)


def check_table(name: str, value: object, *, where: str = "") -> pd.DataFrame:
    """Return `value` if it is a DataFrame, else raise a TableError.

    Examples
    --------
    >>> check_table("sessions", "labels.tsv", where="kfold")
    Traceback (most recent call last):
    neurocnn.errors.TableError: kfold: sessions='labels.tsv'; expected a DataFrame; read a file with nc.read_table
    """
    if isinstance(value, pd.DataFrame):
        return value
    remedy = "read a file with nc.read_table" if isinstance(value, str | os.PathLike) else ""
    raise TableError(str(argument_error(name, value, "a DataFrame", where=where, remedy=remedy)))


def check_shape(name: str, value: Any, *, lengths: Sequence[int] = (3,), where: str = "") -> tuple[int, ...]:
    """Return a shape as a tuple of integers ≥ 1. `lengths` are the allowed numbers of axes.

    Examples
    --------
    >>> check_shape("shape", [169, 208, 179])
    (169, 208, 179)
    >>> check_shape("shape", "169x208x179")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: shape='169x208x179'; expected 3 integers ≥ 1
    """
    expected = f"{' or '.join(map(str, lengths))} integers ≥ 1"
    sizes = check_list(name, value, expected, where=where)
    if len(sizes) not in lengths:
        raise argument_error(name, value, expected, where=where)
    return tuple(check_each(name, sizes, check_integer, minimum=1, where=where))


def check_each(name: str, values: Sequence[Any], check: Callable[..., T], **limits: Any) -> list[T]:
    """Apply `check` to each value, and return the results. Messages name the values ``name[0]``, ``name[1]``, …

    Examples
    --------
    >>> check_each("splits", [0, 1], check_integer, minimum=0)
    [0, 1]
    """
    return [check(f"{name}[{i}]", value, **limits) for i, value in enumerate(values)]


def _describe_limits(
    minimum: float | None, maximum: float | None, above: float | None = None, below: float | None = None
) -> str:
    limits = {"≥": minimum, ">": above, "≤": maximum, "<": below}
    found = [f"{sign} {limit}" for sign, limit in limits.items() if limit is not None]
    return f" {' and '.join(found)}" if found else ""

"""Errors for unknown keyword arguments of public classes, with similar names."""

import functools
import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, TypeVar

from neurocnn.errors import SettingError

Class = TypeVar("Class", bound=type)


def suggest_keywords(cls: Class) -> Class:
    """Make a class raise a SettingError for unknown keyword arguments. The class's signature does not change.

    Examples
    --------
    >>> @suggest_keywords
    ... class Trainer:
    ...     def __init__(self, *, learning_rate=1e-4): ...
    >>> Trainer(lr=0.1)
    Traceback (most recent call last):
    neurocnn.errors.SettingError: Trainer: unknown argument lr; did you mean learning_rate? expected learning_rate
    """
    initialise = cls.__init__  # type: ignore[misc]
    known = [name for name in inspect.signature(initialise).parameters if name != "self"]

    @functools.wraps(initialise)
    def wrapper(self: Any, *arguments: Any, **keywords: Any) -> None:
        unknown = [name for name in keywords if name not in known]
        if unknown:
            near = near_names(unknown[0], known)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise SettingError(
                f"{cls.__name__}: unknown argument {unknown[0]}; {hint}expected {', '.join(known)}"
            )
        initialise(self, *arguments, **keywords)

    cls.__init__ = wrapper  # type: ignore[misc]
    return cls


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that are similar to `name`. If there are none, return those whose initials are `name`.

    Examples
    --------
    >>> near_names("lr", ["learning_rate", "patience"]), near_names("epoch", ["epochs"])
    (['learning_rate'], ['epochs'])
    """
    names = list(known)
    near = get_close_matches(name, names, n=2, cutoff=0.6)
    abbreviated = [full for full in names if name == "".join(word[:1] for word in full.split("_"))]
    return near or abbreviated

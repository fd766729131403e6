"""Labels as tables have them, and the numbers that a loss needs."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from neurocnn.engine.batch import label_list, sample_name
from neurocnn.errors import SettingError, TableError

MISSING = ""


def label_key(value: Any) -> str:
    """One spelling for a label, whether it came as text or as a number; empty where it is missing.

    Examples
    --------
    >>> {label_key(value) for value in (1, 1.0, "1", "1.0", torch.tensor(1))}
    {'1'}
    >>> label_key(float("nan"))
    ''
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(value)
    text = value.strip() if isinstance(value, str) else value
    try:
        number = float(text)
    except (TypeError, ValueError, RuntimeError):
        # A missing value of pandas is no number; what has several numbers, such as a list, is not missing.
        if isinstance(text, str):
            return text
        return MISSING if pd.api.types.is_scalar(value) and pd.isna(value) else str(value)
    if not math.isfinite(number):
        return text if isinstance(text, str) else (MISSING if math.isnan(number) else str(number))
    return str(int(number)) if number.is_integer() else repr(number)


def class_codes(classes: Sequence[Any] | Mapping[Any, int]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Give the output of each label, and each output's name.

    Examples
    --------
    >>> class_codes({"CN": 0, "sMCI": 0, "AD": 1})
    ({'CN': 0, 'sMCI': 0, 'AD': 1}, ('CN+sMCI', 'AD'))
    """
    if isinstance(classes, str):
        raise SettingError(f"classes is the text {classes!r}; a list such as ['CN', 'AD'] is needed")
    pairs = list(classes.items()) if isinstance(classes, Mapping) else [(c, k) for k, c in enumerate(classes)]
    codes: dict[str, int] = {}
    members: dict[int, list[str]] = {}
    for label, output in pairs:
        key = label_key(label)
        if key == MISSING or key in codes:
            raise SettingError(f"classes: the label {label!r} is empty or stands there twice: {classes!r}")
        if isinstance(output, bool) or not isinstance(output, int):
            raise SettingError(f"classes: {label!r} is given {output!r}; the number of an output is needed")
        codes[key] = output
        members.setdefault(output, []).append(str(label))
    if len(members) < 2 or sorted(members) != list(range(len(members))):
        raise SettingError(f"classes are {classes!r}; two or more are needed, numbered 0, 1, 2, …")
    return codes, tuple("+".join(members[output]) for output in sorted(members))


def class_indices(
    batch: Mapping[str, Any], device: torch.device, *, codes: Mapping[str, int], label: str
) -> Tensor:
    """Give the output that stands for each sample's label, shape (B,).

    Raises
    ------
    TableError
        A label is missing or none of the classes; the message names the rows and what is allowed.
    """
    values = label_list(batch, label)
    if set(map(type, values)) == {str} and codes.keys() >= set(values):
        # Most labels are text that stands in the list as it is.
        return torch.tensor([codes[value] for value in values], dtype=torch.int64, device=device)
    keys = [label_key(_single(value)) for value in values]
    wrong = [row for row, key in enumerate(keys) if key not in codes]
    if wrong:
        allowed = ", ".join(codes)
        raise TableError(
            f"{label}: {_rows(batch, keys, wrong)}; one of {allowed} is expected; "
            "correct the table, leave these rows out, or give their label to a class"
        )
    return torch.tensor([codes[key] for key in keys], dtype=torch.int64, device=device)


def label_numbers(batch: Mapping[str, Any], device: torch.device, *, label: str) -> Tensor:
    """Give each sample's label as a number, shape (B,), float32.

    Raises
    ------
    TableError
        A label is missing or no number.
    """
    values = label_list(batch, label)
    numbers = [_number(_single(value)) for value in values]
    wrong = [row for row, number in enumerate(numbers) if not math.isfinite(number)]
    if wrong:
        keys = [label_key(value) for value in values]
        raise TableError(
            f"{label}: {_rows(batch, keys, wrong)}; a finite number is expected; "
            "correct the table or leave these rows out"
        )
    return torch.tensor(numbers, dtype=torch.float32, device=device)


def needs_labels_alone(target: Callable[..., Tensor]) -> bool:
    """Whether this function for targets is one of ours, which look at nothing but labels."""
    return isinstance(target, partial) and target.func in (class_indices, label_numbers)


def without_labels(batch: Mapping[str, Any]) -> bool:
    """Whether no sample of a batch has a label."""
    values = batch.get("label")
    if values is None:
        return True
    return not any(value.strip() if type(value) is str else label_key(value) for value in values)


def _single(label: Any) -> Any:
    # A label may be a list of one number.
    return label[0] if isinstance(label, list | tuple) and len(label) == 1 else label


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _rows(batch: Mapping[str, Any], keys: Sequence[str], wrong: Sequence[int]) -> str:
    shown = [f"{sample_name(batch, row)} has {repr(keys[row]) if keys[row] else 'none'}" for row in wrong[:5]]
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return f"{len(wrong)} labels cannot be used: " + ", ".join(shown) + more

"""Labels in tables, and their conversion to the numbers that a loss requires."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from neurocnn.engine.batch import label_list, sample_name
from neurocnn.errors import SettingError, TableError
from neurocnn.errors.arguments import argument_error, check_each, check_integer, check_list, check_number

MISSING = ""


def label_key(value: Any) -> str:
    """Return the canonical string of a label, which is the same for 1, 1.0 and "1", and empty for a missing label.

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
        # pandas' NA is a missing label, but cannot be converted to a float. A list of several numbers is a label.
        if isinstance(text, str):
            return text
        return MISSING if pd.api.types.is_scalar(value) and pd.isna(value) else str(value)
    if not math.isfinite(number):
        return text if isinstance(text, str) else (MISSING if math.isnan(number) else str(number))
    return str(int(number)) if number.is_integer() else repr(number)


def class_codes(classes: Sequence[Any] | Mapping[Any, int]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the output index of each label, and the name of each output.

    Raises
    ------
    SettingError
        If there are fewer than two outputs, a label is empty or occurs twice, or the outputs are not 0, 1, 2, …

    Examples
    --------
    >>> class_codes({"CN": 0, "sMCI": 0, "AD": 1})
    ({'CN': 0, 'sMCI': 0, 'AD': 1}, ('CN+sMCI', 'AD'))
    """
    pairs = list(classes.items()) if isinstance(classes, Mapping) else [(c, k) for k, c in enumerate(classes)]
    codes: dict[str, int] = {}
    members: dict[int, list[str]] = {}
    for label, output in pairs:
        key = label_key(label)
        if key == MISSING or key in codes:
            raise SettingError(
                f"classes={classes!r}: {label!r} is empty or occurs twice; expected different, non-empty labels"
            )
        codes[key] = check_integer(f"classes[{label!r}]", output, minimum=0)
        members.setdefault(codes[key], []).append(str(label))
    if len(members) < 2 or sorted(members) != list(range(len(members))):
        raise argument_error("classes", classes, "two or more classes, with the outputs 0, 1, 2, …")
    return codes, tuple("+".join(members[output]) for output in sorted(members))


def check_class_weights(weights: Any, codes: Mapping[str, int], names: Sequence[str]) -> tuple[float, ...]:
    """Return the weight of each class, from a list in the order of the classes, or a dict or Series by label.

    Raises
    ------
    SettingError
        If the weights are not positive numbers, or their labels are not the classes.

    Examples
    --------
    >>> check_class_weights({"AD": 3, "CN": 1}, {"CN": 0, "AD": 1}, ["CN", "AD"])
    (1.0, 3.0)
    """
    order = ", ".join(names)
    expected = (
        f"{len(names)} positive numbers: a list in the order of the classes {order}, or a dict by label"
    )
    if isinstance(weights, Mapping | pd.Series):
        values = _weights_by_class(weights, codes, names, expected)
    else:
        values = check_list("class_weights", weights, expected, where="classification")
    if len(values) != len(names):
        raise argument_error("class_weights", weights, expected, where="classification")
    return tuple(check_each("class_weights", values, check_number, above=0, where="classification"))


def _weights_by_class(
    weights: Mapping[Any, Any] | pd.Series, codes: Mapping[str, int], names: Sequence[str], expected: str
) -> list[Any]:
    outputs_by_key = dict(codes) | {label_key(name): output for output, name in enumerate(names)}
    found: dict[int, Any] = {}
    for label, value in weights.items():
        output = outputs_by_key.get(label_key(label))
        if output is None or found.setdefault(output, value) != value:
            reason = f"{label!r} is not a class" if output is None else f"{names[output]!r} has two weights"
            raise argument_error(
                "class_weights", dict(weights), expected, where="classification", remedy=reason
            )
    return [found[output] for output in sorted(found)]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a small tensor on a device. By default, torch would wait until a CUDA GPU has finished all operations."""
    return values.to(device, non_blocking=device.type == "cuda")


def class_indices(
    batch: Mapping[str, Any], device: torch.device, *, codes: Mapping[str, int], label: str
) -> Tensor:
    """Return the index of the class of each sample, shape (B,), int64.

    Raises
    ------
    TableError
        If a label is missing or is not a class. The message contains the rows and the classes.
    """
    values = label_list(batch, label)
    if set(map(type, values)) == {str} and codes.keys() >= set(values):
        # Most labels are spelt like the classes. For them this shortcut is faster than `label_key`.
        return to_device(torch.tensor([codes[value] for value in values], dtype=torch.int64), device)
    keys = [label_key(_single_value(value)) for value in values]
    wrong = [row for row, key in enumerate(keys) if key not in codes]
    if wrong:
        raise TableError(
            f"{label}: {_describe_labels(batch, keys, wrong)}; expected one of {', '.join(codes)}; correct the table, "
            "drop these rows, or add their label to a class"
        )
    return to_device(torch.tensor([codes[key] for key in keys], dtype=torch.int64), device)


def label_numbers(batch: Mapping[str, Any], device: torch.device, *, label: str) -> Tensor:
    """Return the label of each sample as a number, shape (B,), float32.

    Raises
    ------
    TableError
        If a label is missing or not a finite number.
    """
    values = [_single_value(value) for value in label_list(batch, label)]
    numbers = [_number_or_nan(value) for value in values]
    wrong = [row for row, number in enumerate(numbers) if not math.isfinite(number)]
    if wrong:
        keys = [label_key(value) for value in values]
        raise TableError(
            f"{label}: {_describe_labels(batch, keys, wrong)}; expected a finite number; correct the table or drop "
            "these rows"
        )
    return to_device(torch.tensor(numbers, dtype=torch.float32), device)


def has_labels(batch: Mapping[str, Any]) -> bool:
    """Return whether any sample of a batch has a label."""
    values = batch.get("label")
    if values is None:
        return False
    return any(value.strip() if type(value) is str else label_key(value) for value in values)


def _single_value(label: Any) -> Any:
    # A label may be a list of one number.
    return label[0] if isinstance(label, list | tuple) and len(label) == 1 else label


def _number_or_nan(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _describe_labels(batch: Mapping[str, Any], keys: Sequence[str], wrong: Sequence[int]) -> str:
    shown = [
        f"{sample_name(batch, row)} has {repr(keys[row]) if keys[row] else 'no label'}" for row in wrong[:5]
    ]
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return f"{len(wrong)} labels cannot be used: " + ", ".join(shown) + more

"""Comparison of the settings before training is resumed.

The metadata of a dataclass field, ``field(metadata={"resume": rule})``, contain the rule that determines whether the
setting may differ when training resumes:

- ``"free"``: may change at any time, because the results do not depend on the setting;
- ``"grow"``: may become larger;
- ``"until scored"``: may change until a split has its final tables.

A field without a rule must not change. In ``field(metadata={"before": value})``, ``value`` is the value of the field
for folders that were written before the field existed; without ``before``, it is the field's default.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neurocnn.engine.batch import Dataset, Network, optional_part_ids, sessions_of
from neurocnn.engine.task import Task
from neurocnn.errors import SettingError
from neurocnn.storage.identity import IMAGE, key_columns
from neurocnn.storage.tensors import plain

Settings = Mapping[str, Any]
#: Change of a setting: its value in the folder, and its new value.
Change = tuple[Any, Any]
#: Mappings whose order has a meaning: the part_id of a region is its position.
_ORDERED = frozenset({"regions"})


def resume_rules(kind: type, prefix: str = "") -> dict[str, str]:
    """Return the rules of the fields that have one, by `prefix` + name of the field.

    Examples
    --------
    >>> @dataclasses.dataclass
    ... class Trainer:
    ...     epochs: int = dataclasses.field(default=20, metadata={"resume": "grow"})
    ...     seed: int = 0
    >>> resume_rules(Trainer, "trainer.")
    {'trainer.epochs': 'grow'}
    """
    return {
        f"{prefix}{field.name}": field.metadata["resume"]
        for field in dataclasses.fields(kind)
        if "resume" in field.metadata
    }


def earlier_values(kind: type) -> dict[str, Any]:
    """Return, for each field, the value to use for settings that were written before the field existed.

    Examples
    --------
    >>> @dataclasses.dataclass
    ... class Trainer:
    ...     output: str = dataclasses.field(default="linear", metadata={"before": "mirror"})
    ...     seed: int = 0
    >>> earlier_values(Trainer)
    {'output': 'mirror', 'seed': 0}
    """
    values = {}
    for field in dataclasses.fields(kind):
        if "before" in field.metadata:
            values[field.name] = field.metadata["before"]
        elif field.default is not dataclasses.MISSING:
            values[field.name] = field.default
    return values


def differences(old: Settings, new: Settings, prefix: str = "") -> dict[str, Change]:
    """Return the old and the new value of each setting that differs, by dotted name.

    Settings of the same type (``{"type": "Trainer", …}``) are compared field by field. A list equals a tuple of the
    same items.

    Examples
    --------
    >>> differences({"multi": True, "trainer": {"seed": 0}}, {"multi": True, "trainer": {"seed": 1}})
    {'trainer.seed': (0, 1)}
    """
    found: dict[str, Change] = {}
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping) and before.get("type") == now.get("type"):
            if name in _ORDERED and list(before) != list(now):
                found[f"{prefix}{name}"] = (list(before), list(now))
            found |= differences(before, now, f"{prefix}{name}.")
        elif _as_comparable(before) != _as_comparable(now):
            found[f"{prefix}{name}"] = (before, now)
    return found


def forbidden_changes(
    old: Settings, new: Settings, rules: Mapping[str, str], *, scored: bool = False
) -> dict[str, Change]:
    """Return the differences that the rules do not allow.

    Parameters
    ----------
    old, new
        Settings in the folder, and new settings.
    rules
        Rule by dotted name, see `resume_rules`.
    scored
        Whether the final tables of a split exist, which must not change any more.

    Examples
    --------
    >>> forbidden_changes({"epochs": 5, "device": "cpu"}, {"epochs": 9, "device": "cuda"},
    ...                   {"epochs": "grow", "device": "free"})
    {}
    >>> forbidden_changes({"epochs": 9}, {"epochs": 5}, {"epochs": "grow"})
    {'epochs': (9, 5)}
    """
    found = differences(old, new)
    return {
        name: change for name, change in found.items() if not _is_allowed(rules.get(name), change, scored)
    }


def describe_changes(changes: Mapping[str, Change]) -> str:
    """Return changes as text for a message, such as ``trainer.seed: 0 → 1``."""
    return "; ".join(
        f"{name}: {_short_text(old)} → {_short_text(new)}" for name, (old, new) in changes.items()
    )


def check_settings(old: Settings, new: Settings, rules: Mapping[str, str], folder: Path) -> None:
    """Check that the settings of a training state differ from the current settings only as the rules allow.

    Raises
    ------
    SettingError
        If a setting that must not change differs. The message contains both values.

    Examples
    --------
    >>> rules = {"epochs": "grow", "n_workers": "free"}
    >>> check_settings({"epochs": 5, "n_workers": 0}, {"epochs": 9, "n_workers": 2}, rules, tmp)
    """
    changes = forbidden_changes(old, new, rules)
    if changes:
        raise SettingError(
            f"{folder}: the training state has other settings (state → now): {describe_changes(changes)}; expected the "
            "same settings; use the settings of the state, or another folder"
        )


def settings_fingerprint(
    trainer: Any, task: Task, model: torch.nn.Module, sets: Mapping[str, Dataset], part: Network
) -> dict[str, Any]:
    """Return the settings that are compared before training is resumed, as plain values by name.

    Parameters
    ----------
    trainer
        Dataclass of settings.
    task
        Task.
    model
        Network: the names and shapes of its weights are part of the fingerprint.
    sets
        Training and validation set: their sessions and labels are part of the fingerprint.
    part
        The part_id of the network's part; None for a network for all parts.
    """
    fields = {
        field.name: plain_setting(getattr(trainer, field.name)) for field in dataclasses.fields(trainer)
    }
    arguments = {f"task.{name}": str(value) for name, value in task.arguments.items()}
    data = {"train": "none", "validation": "none"} | {
        name: _describe_dataset(dataset, task, part) for name, dataset in sets.items()
    }
    return (
        fields
        | {"task": task.name, "selection": ", ".join(task.selection)}
        | arguments
        | {"network": describe_network(model), "n_threads": torch.get_num_threads()}
        | data
    )


def describe_network(model: torch.nn.Module) -> str:
    """Return a string with a network's class, the number of its tensors, and a hash of their names and shapes."""
    shapes = [f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items()]
    return f"{type(model).__name__}, {len(shapes)} tensors, {_digest(shapes)}"


def plain_setting(value: Any) -> Any:
    """Return a setting as a plain value: a function or class as its name, a partial as a name with arguments."""
    value = plain(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, partial):
        return f"{plain_setting(value.func)}{plain(value.args)}{plain(value.keywords)}"
    return getattr(value, "__qualname__", type(value).__qualname__)


def _describe_dataset(dataset: Dataset, task: Task, part: Network) -> str:
    sessions = sessions_of(dataset)
    parts = [part] if part is not None else optional_part_ids(dataset)
    if sessions is None:
        return f"{len(dataset)} samples"
    names = [*key_columns(sessions.columns, IMAGE), *([task.label] if task.label in sessions.columns else [])]
    lines = ["\t".join(map(str, row)) for row in sessions[names].itertuples(index=False)]
    return f"{len(sessions)} images, parts {_short_list(parts)}, {_digest([*lines, str(parts)])}"


def _is_allowed(rule: str | None, change: Change, scored: bool) -> bool:
    old, new = change
    if rule == "grow":
        return isinstance(old, int) and isinstance(new, int) and new >= old
    return rule == "free" or (rule == "until scored" and not scored)


def _as_comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short_text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def _short_list(parts: Sequence[int] | None) -> str:
    return str(parts) if parts is None or len(parts) < 4 else f"{parts[0]} … {parts[-1]}"


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

"""Conversion of settings to JSON values, and back.

Plain values and objects of neurocnn are stored with all their fields. Code of the user (a builder, a transform, an
optimizer) is recorded as custom, by its name only, and must be passed when the settings are loaded. The names that
custom tasks and parts have in tables are also recorded, so that the tables can be read without the code.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, NoReturn

import pandas as pd

from neurocnn import data, engine
from neurocnn.errors import SettingError
from neurocnn.randomness import members

#: Settings by name: plain values, or nested settings.
Settings = dict[str, Any]

CUSTOM = "custom"
_PARTIAL_FIELDS = ("arguments", "keywords")
_TABLE = "table"
_TASKS = ("classification", "regression", "reconstruction")


def to_json(value: object) -> Any:
    """Return a setting in its JSON form.

    Examples
    --------
    >>> import neurocnn as nc
    >>> to_json(nc.Patch(size=50, stride=25))["type"]
    'Patch'
    >>> to_json(print)
    {'custom': 'builtins.print'}
    >>> to_json(partial(print, end=""))["keywords"]
    {'end': ''}
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, engine.Task):
        return _task_to_json(value)
    if isinstance(value, data.Caps):
        # The path is absolute, because the settings may be loaded in another working directory.
        return _fields_to_json(value) | {"root": _absolute(value.root)}
    if isinstance(value, data.Images):
        return _fields_to_json(value) | {"table": _paths_to_json(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, set | frozenset):
        # The values are sorted, because the order of a set of strings differs between processes.
        return sorted(map(to_json, value), key=repr)
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("neurocnn."):
        return _fields_to_json(value)
    return _code_to_json(value)


def _fields_to_json(value: Any) -> Settings:
    names = [field.name for field in dataclasses.fields(value) if field.init]
    return {"type": type(value).__name__, **{name: to_json(getattr(value, name)) for name in names}}


def _code_to_json(value: object) -> Settings:
    """Return the name of a function, class or object, with the arguments of a partial and the repr of an object."""
    found: Settings = {CUSTOM: qualified_name(value)}
    if isinstance(value, partial):
        arguments = to_json(value.args), to_json(value.keywords)
        return (
            found
            | {"function": qualified_name(value.func)}
            | dict(zip(_PARTIAL_FIELDS, arguments, strict=True))
        )
    if isinstance(value, data.Parts) and not isinstance(value, type):
        found["name"] = value.name
    if not hasattr(value, "__qualname__") and type(value).__repr__ is not object.__repr__:
        text = repr(value)
        # A repr with a memory address is omitted, because it differs in each process.
        found |= {} if " at 0x" in text else {"repr": shorten(text, 2000)}
    if callable(value) and (inner := members(value)):
        found["transforms"] = {str(i): to_json(item) for i, item in enumerate(inner)}
    return found


def _absolute(root: Any) -> Any:
    if isinstance(root, Mapping):
        return {str(cohort): _absolute(folder) for cohort, folder in root.items()}
    return str(Path(root).absolute())


def _paths_to_json(images: data.Images) -> Any:
    """Return the absolute path of a TSV, or the ids and the absolute paths of a DataFrame."""
    if not isinstance(images.table, pd.DataFrame):
        return str(Path(images.table).absolute())
    return {"type": _TABLE, "columns": images.paths().to_dict("list")}


def _task_to_json(task: engine.Task) -> Settings:
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    name = f"task {task.name}"
    if task.name in _TASKS:
        plain = getattr(engine, task.name)(**task.arguments)
        changed = {key: value for key, value in fields.items() if not _is_same(value, getattr(plain, key))}
        if not changed:
            return {"type": task.name, **{key: to_json(item) for key, item in task.arguments.items()}}
        name = (
            f"{task.name} with {', '.join(f'{key} {_short_name(value)}' for key, value in changed.items())}"
        )
    return {CUSTOM: name, **{key: to_json(value) for key, value in fields.items() if not callable(value)}}


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, partial) and isinstance(other, partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    return bool(one == other)


def _short_name(value: object) -> str:
    return qualified_name(value) if callable(value) else repr(value)


def qualified_name(value: object) -> str:
    """Return ``module.name`` of a function or class, or of the class of an object."""
    named: Any = value if hasattr(value, "__qualname__") else type(value)
    return main_name(f"{named.__module__}.{named.__qualname__}")


def main_name(name: str) -> str:
    """Return `name` with ``__main__`` instead of ``__mp_main__``, a script's module name in a spawned process."""
    return name.replace("__mp_main__.", "__main__.")


def is_custom(value: object) -> bool:
    """Return whether a setting in JSON form, or a setting nested in it, is custom."""
    return bool(custom_names(value))


def custom_names(value: object) -> list[str]:
    """Return the names of all custom values in a setting in JSON form.

    Examples
    --------
    >>> custom_names({"type": "Trainer", "epochs": 20, "optimizer": {"custom": "study.sgd"}})
    ['study.sgd']
    """
    if isinstance(value, dict) and CUSTOM in value:
        return [str(value[CUSTOM])]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [name for item in items for name in custom_names(item)]


def from_json(value: Any) -> Any:
    """Return the setting that `to_json` converted.

    Raises
    ------
    SettingError
        If the setting is custom, or its type is unknown to this version.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if CUSTOM in value:
        raise SettingError(f"{value[CUSTOM]} is custom; expected a setting whose code is part of neurocnn")
    kind = value.get("type")
    if kind == _TABLE:
        try:
            return pd.DataFrame(value["columns"])
        except ValueError as error:
            raise SettingError(f"table: {error}; expected columns of equal length") from error
    arguments = {name: from_json(item) for name, item in value.items() if name != "type"}
    return arguments if kind is None else find_type(str(kind))(**arguments)


def find_type(kind: str) -> Callable[..., Any]:
    """Return the class or function of this library that creates a setting of this type."""
    for module in (data, engine):
        if kind in _TASKS or kind[:1].isupper():
            maker: Callable[..., Any] | None = getattr(module, kind, None)
            if maker is not None:
                return maker
    raise SettingError(
        f"type={kind!r}; expected a type of this version of neurocnn; use the version that wrote the settings"
    )


def describe_task(value: Settings) -> engine.Task | None:
    """Return a task with which tables can be read; None if its name is not recorded. Its custom functions raise errors.

    Examples
    --------
    >>> task = dataclasses.replace(engine.classification(), loss=lambda output, target: output)
    >>> describe_task(to_json(task)).classes
    ('CN', 'AD')
    """
    if CUSTOM not in value:
        task: engine.Task = from_json(value)
        return task
    if "name" not in value:
        return None

    def raise_custom(*arguments: object) -> NoReturn:
        raise SettingError(f"task: {value[CUSTOM]} is custom and its code is missing; use Results(…, task=…)")

    fields: Settings = {}
    for field in dataclasses.fields(engine.Task):
        if field.name in value:
            found = value[field.name]
            fields[field.name] = tuple(found) if isinstance(found, list) else found
        elif field.default is field.default_factory is dataclasses.MISSING:
            fields[field.name] = raise_custom
    return engine.Task(**fields)


def parts_name(value: Settings) -> str | None:
    """Return the name of parts in JSON form; None if they are custom without a recorded name."""
    return str(from_json(value).name) if CUSTOM not in value else value.get("name")

"""The settings of an experiment as JSON, and back.

`commandline.json` holds plain values and names that neurocnn knows. What a user wrote (a builder, a transform, an
optimizer) is recorded as custom, by its name: code is never stored, so that `load` asks for it again.
"""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from neurocnn import data, engine
from neurocnn.errors import NotFoundError, SettingError
from neurocnn.storage.files import write_whole

Settings = dict[str, Any]

_TASKS = ("classification", "regression", "reconstruction")


def encode(value: Any) -> Any:
    """Give a setting as JSON has it.

    Examples
    --------
    >>> import neurocnn as nc
    >>> encode(nc.Patch(size=50, stride=25))["type"]
    'Patch'
    >>> encode(print)
    {'custom': 'builtins.print'}
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, engine.Task):
        return _encode_task(value)
    if isinstance(value, data.Caps):
        # Absolute: whoever loads it may stand in another folder.
        return _encode_fields(value) | {"root": _absolute(value.root)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("neurocnn."):
        return _encode_fields(value)
    return {"custom": name_of(value)}


def _encode_fields(value: Any) -> Settings:
    fields = [field.name for field in dataclasses.fields(value) if field.init]
    return {"type": type(value).__name__, **{name: encode(getattr(value, name)) for name in fields}}


def _absolute(root: Any) -> Any:
    if isinstance(root, Mapping):
        return {str(cohort): _absolute(folder) for cohort, folder in root.items()}
    return str(Path(root).absolute())


def _encode_task(task: engine.Task) -> Any:
    if task.name not in _TASKS:
        return {"custom": f"task {task.name}"}
    plain = getattr(engine, task.name)(**task.arguments)
    fields = [field.name for field in dataclasses.fields(task)]
    changed = [name for name in fields if not _same(getattr(task, name), getattr(plain, name))]
    if changed:
        found = (f"{name} {_named(getattr(task, name))}" for name in changed)
        return {"custom": f"{task.name} with {', '.join(found)}"}
    return {"type": task.name, **{name: encode(item) for name, item in task.arguments.items()}}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, partial) and isinstance(other, partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    return bool(one == other)


def _named(value: Any) -> str:
    return name_of(value) if callable(value) else repr(value)


def name_of(value: Any) -> str:
    """The name under which a user finds a function, class or object again."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def is_custom(value: Any) -> bool:
    """Whether an encoded setting, or one inside it, is known by name only."""
    return bool(custom_names(value))


def custom_names(value: Any) -> list[str]:
    """Give the names of what is custom in an encoded setting.

    Examples
    --------
    >>> custom_names({"type": "Trainer", "epochs": 20, "optimizer": {"custom": "study.sgd"}})
    ['study.sgd']
    """
    if isinstance(value, dict) and set(value) == {"custom"}:
        return [str(value["custom"])]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [name for item in items for name in custom_names(item)]


def decode(value: Any) -> Any:
    """Rebuild a setting from what `encode` gave.

    Raises
    ------
    SettingError
        A custom setting, or a type that this version does not know.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"custom"}:
        raise SettingError(f"{value['custom']} was written by the user and is not stored")
    kind = value.get("type")
    arguments = {name: decode(item) for name, item in value.items() if name != "type"}
    if kind is None:
        return arguments
    return _maker(str(kind))(**arguments)


def _maker(kind: str) -> Callable[..., Any]:
    places: tuple[ModuleType, ...] = (data, engine)
    for place in places:
        if kind in _TASKS or kind[:1].isupper():
            maker = getattr(place, kind, None)
            if maker is not None:
                return maker  # type: ignore[no-any-return]
    raise SettingError(f"{kind!r} is unknown to this version of neurocnn; a newer one may have written it")


def write_settings(settings: Settings, path: Path) -> None:
    """Write `commandline.json`, whole or not at all."""
    with write_whole(path, "w") as file:
        json.dump(settings, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_settings(path: Path) -> Settings:
    """Read `commandline.json`.

    Raises
    ------
    NotFoundError
        There is none: this is no result folder.
    SettingError
        It is no JSON object.

    Examples
    --------
    >>> write_settings({"multi": True}, tmp / "commandline.json")
    >>> read_settings(tmp / "commandline.json")
    {'multi': True}
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: there is no such file; {path.parent} is no result folder of neurocnn")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingError(f"{path}: is no JSON ({error})") from error
    if not isinstance(settings, dict):
        raise SettingError(f"{path}: holds no settings by name")
    return settings


def differences(old: Settings, new: Settings, prefix: str = "") -> list[str]:
    """Give the names of the settings that differ, as ``trainer.batch_size: 8 → 16``.

    Examples
    --------
    >>> differences({"multi": True, "trainer": {"seed": 0}}, {"multi": True, "trainer": {"seed": 1}})
    ['trainer.seed: 0 → 1']
    """
    found: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict) and before.get("type") == after.get("type"):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {_short(before)} → {_short(after)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def write_environment(path: Path) -> None:
    """Write what ran: Python, platform, device and every installed package with its version."""
    packages = {item.metadata["Name"]: item.version for item in importlib.metadata.distributions()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    lines = [
        f"Python {platform.python_version()} ({platform.python_implementation()})",
        f"Platform {platform.platform()}",
        f"CUDA device {device} (CUDA {torch.version.cuda})",
        "",
        *sorted((f"{name}=={version}" for name, version in packages.items() if name), key=str.lower),
    ]
    with write_whole(path, "w") as file:
        file.write("\n".join(lines) + "\n")

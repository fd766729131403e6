"""Settings of an experiment as JSON, and back.

`commandline.json` contains plain values and names that neurocnn knows. Code of the user (a builder, a transform, an
optimizer) is recorded as custom, by its name: code is not stored, and loading asks for it. What the tables of custom
tasks and parts are called is recorded too, so that they can be read without the code.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, NoReturn

import torch

from neurocnn import data, engine
from neurocnn.errors import NotFoundError, SettingError
from neurocnn.errors.arguments import check_each, check_integer, check_list
from neurocnn.storage.files import write_whole

#: Settings by name: plain values, and settings inside them.
Settings = dict[str, Any]

CUSTOM = "custom"
_OF_PARTIAL = ("arguments", "keywords")
_TASKS = ("classification", "regression", "reconstruction")
#: Settings that describe the run of an experiment: weights' names and shapes, and torch's number of threads.
DESCRIPTIONS = ("network", "n_threads")
#: Values that held before a setting was recorded, by type and field; for others its default held.
_EARLIER: dict[str, Settings] = {"reconstruction": {"output": "mirror", "bottleneck": None}}


def encode(value: object) -> Any:
    """Return a setting in its JSON form.

    Examples
    --------
    >>> import neurocnn as nc
    >>> encode(nc.Patch(size=50, stride=25))["type"]
    'Patch'
    >>> encode(print)
    {'custom': 'builtins.print'}
    >>> encode(partial(print, end=""))["keywords"]
    {'end': ''}
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, engine.Task):
        return _encode_task(value)
    if isinstance(value, data.Caps):
        # Absolute, because it may be loaded in another working directory.
        return _encode_fields(value) | {"root": _absolute(value.root)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("neurocnn."):
        return _encode_fields(value)
    return _encode_code(value)


def _encode_fields(value: Any) -> Settings:
    names = [field.name for field in dataclasses.fields(value) if field.init]
    return {"type": type(value).__name__, **{name: encode(getattr(value, name)) for name in names}}


def _encode_code(value: object) -> Settings:
    """Return the name of code, with the arguments that it shows."""
    found: Settings = {CUSTOM: qualified_name(value)}
    if isinstance(value, partial):
        arguments = encode(value.args), encode(value.keywords)
        return (
            found | {"function": qualified_name(value.func)} | dict(zip(_OF_PARTIAL, arguments, strict=True))
        )
    if isinstance(value, data.Parts) and not isinstance(value, type):
        found["name"] = value.name
    if not hasattr(value, "__qualname__") and type(value).__repr__ is not object.__repr__:
        text = repr(value)
        # An address differs in each process.
        found |= {} if " at 0x" in text else {"repr": shorten(text, 2000)}
    return found


def _absolute(root: Any) -> Any:
    if isinstance(root, Mapping):
        return {str(cohort): _absolute(folder) for cohort, folder in root.items()}
    return str(Path(root).absolute())


def _encode_task(task: engine.Task) -> Settings:
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    name = f"task {task.name}"
    if task.name in _TASKS:
        plain = getattr(engine, task.name)(**task.arguments)
        changed = {key: value for key, value in fields.items() if not _is_same(value, getattr(plain, key))}
        if not changed:
            return {"type": task.name, **{key: encode(item) for key, item in task.arguments.items()}}
        name = (
            f"{task.name} with {', '.join(f'{key} {_short_name(value)}' for key, value in changed.items())}"
        )
    return {CUSTOM: name, **{key: encode(value) for key, value in fields.items() if not callable(value)}}


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, partial) and isinstance(other, partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    return bool(one == other)


def _short_name(value: object) -> str:
    return qualified_name(value) if callable(value) else repr(value)


def qualified_name(value: object) -> str:
    """Return module and name of a function or class, or of the class of an object."""
    named: Any = value if hasattr(value, "__qualname__") else type(value)
    return _main_name(f"{named.__module__}.{named.__qualname__}")


def _main_name(name: str) -> str:
    """Return a name with the module that a script has in its own process, not in one that it spawned."""
    return name.replace("__mp_main__.", "__main__.")


def is_custom(value: object) -> bool:
    """Return whether an encoded setting, or one inside it, is known by name only."""
    return bool(custom_names(value))


def custom_names(value: object) -> list[str]:
    """Return the names of the custom values in an encoded setting.

    Examples
    --------
    >>> custom_names({"type": "Trainer", "epochs": 20, "optimizer": {"custom": "study.sgd"}})
    ['study.sgd']
    """
    if isinstance(value, dict) and CUSTOM in value:
        return [str(value[CUSTOM])]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [name for item in items for name in custom_names(item)]


def decode(value: Any) -> Any:
    """Return the setting that `encode` encoded.

    Raises
    ------
    SettingError
        If the setting is custom, or of a type that this version does not know.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if CUSTOM in value:
        raise SettingError(f"{value[CUSTOM]} is custom; expected a setting whose code is part of neurocnn")
    kind = value.get("type")
    arguments = {name: decode(item) for name, item in value.items() if name != "type"}
    return arguments if kind is None else _maker(str(kind))(**arguments)


def _maker(kind: str) -> Callable[..., Any]:
    for module in (data, engine):
        if kind in _TASKS or kind[:1].isupper():
            maker: Callable[..., Any] | None = getattr(module, kind, None)
            if maker is not None:
                return maker
    raise SettingError(
        f"type={kind!r}; expected a type of this version of neurocnn; use the version that wrote it"
    )


def describe_task(value: Settings) -> engine.Task | None:
    """Return an encoded task whose functions raise if it is custom, None if too little is recorded.

    Examples
    --------
    >>> task = dataclasses.replace(engine.classification(), loss=lambda output, target: output)
    >>> describe_task(encode(task)).classes
    ('CN', 'AD')
    """
    if CUSTOM not in value:
        task: engine.Task = decode(value)
        return task
    if "name" not in value:
        return None

    def code_needed(*arguments: object) -> NoReturn:
        raise SettingError(f"task: {value[CUSTOM]} is custom; expected its code: Results(…, task=…)")

    fields: Settings = {}
    for field in dataclasses.fields(engine.Task):
        if field.name in value:
            found = value[field.name]
            fields[field.name] = tuple(found) if isinstance(found, list) else found
        elif field.default is field.default_factory is dataclasses.MISSING:
            fields[field.name] = code_needed
    return engine.Task(**fields)


def parts_name(value: Settings) -> str | None:
    """Return the name of encoded parts, None if they are custom and it is not recorded."""
    return str(decode(value).name) if CUSTOM not in value else value.get("name")


def fill_missing(value: Any) -> Any:
    """Return encoded settings with the values that held before a missing setting was recorded.

    Examples
    --------
    >>> fill_missing({"trainer": {"type": "Trainer", "epochs": 3}})["trainer"]["batch_size"]
    8
    """
    if not isinstance(value, dict):
        return value
    filled = {name: fill_missing(item) for name, item in value.items()}
    if CUSTOM in value:
        filled[CUSTOM] = _main_name(str(value[CUSTOM]))
    kind = value.get("type")
    if kind == "reconstruction":
        return _EARLIER[kind] | filled
    if CUSTOM in value and value.get("reconstructs"):
        return filled | {"arguments": _EARLIER["reconstruction"] | filled.get("arguments", {})}
    if isinstance(kind, str) and kind[:1].isupper():
        for field in dataclasses.fields(_maker(kind)):  # type: ignore[arg-type]
            if field.init and field.name not in filled and field.default is not dataclasses.MISSING:
                earlier = _EARLIER.get(kind, {})
                filled[field.name] = earlier.get(field.name, encode(field.default))
    return filled


def drop_unrecorded(new: Settings, saved: Settings) -> Settings:
    """Return new settings without what earlier versions did not record: the network, and arguments of code.

    Examples
    --------
    >>> drop_unrecorded({"multi": True, "network": {}}, {"multi": False})
    {'multi': True}
    """
    optional = set(new) if CUSTOM in saved else set(DESCRIPTIONS)
    kept = {name: value for name, value in new.items() if name in saved or name not in optional}
    return {
        name: drop_unrecorded(value, saved[name])
        if isinstance(value, dict) and isinstance(saved.get(name), dict)
        else value
        for name, value in kept.items()
    }


def write_settings(settings: Settings, path: Path) -> None:
    """Write `commandline.json`, completely or not at all."""
    with write_whole(path, "w") as file:
        json.dump(settings, file, indent=2, ensure_ascii=False)
        file.write("\n")


@contextlib.contextmanager
def content_errors(path: Path) -> Iterator[None]:
    """Raise a SettingError with the path for settings whose content cannot be used.

    Examples
    --------
    >>> with content_errors(Path("results/commandline.json")):
    ...     decode({"type": "Patch", "size": "large"})
    Traceback (most recent call last):
    neurocnn.errors.SettingError: results/commandline.json: Patch: size='large'; expected an integer ≥ 1
    """
    try:
        yield
    except SettingError as error:
        raise error if str(path.parent) in str(error) else SettingError(f"{path}: {error}") from error
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise SettingError(
            f"{path}: {error}; expected the settings of an experiment; restore it from a copy"
        ) from error


def read_settings(path: Path) -> Settings:
    """Read `commandline.json`.

    Raises
    ------
    NotFoundError
        If the file is missing: this is not a result folder.
    SettingError
        If it is not a JSON object.

    Examples
    --------
    >>> write_settings({"multi": True}, tmp / "commandline.json")
    >>> read_settings(tmp / "commandline.json")
    {'multi': True}
    """
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist; {path.parent} is not a result folder of neurocnn")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingError(f"{path}: {error}; expected JSON; restore it from a copy") from error
    if not isinstance(settings, dict):
        raise SettingError(f"{path}: found a {type(settings).__name__}; expected settings by name")
    with content_errors(path):
        filled: Settings = fill_missing(settings)
        indices = check_list("splits", filled.get("splits", []), "a list of indices")
        check_each("splits", indices, check_integer, minimum=0)
    return filled


def write_environment(path: Path) -> None:
    """Write the versions of Python, platform, device and every installed package."""
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

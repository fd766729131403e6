"""Settings of an experiment in `commandline.json`, and installed packages in `environment.txt`."""

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from neurocnn.errors import ModelError, NotFoundError, SettingError
from neurocnn.errors.arguments import argument_error, check_each, check_integer, check_list
from neurocnn.results.setting_json import CUSTOM, Settings, find_type, main_name, to_json
from neurocnn.storage.files import is_file, storage_errors, write_atomically

#: Recorded values that are not chosen by the user: names and shapes of the weights, torch's number of threads, and the
#: affine of the first image (None if unknown).
DESCRIPTIONS = ("network", "n_threads", "image_affine")
#: Encoded defaults of the settings of an experiment that have a default.
DEFAULTS: Settings = {
    "multi": False,
    "transfer_from": None,
    "transfer_selection": "best_balanced_accuracy",
    "selection_threshold": None,
    "options": {},
    "transform": {"type": "MinMax"},
    "augmentation": None,
    "reconstructions": False,
    "networks_at_once": None,
}
#: Settings whose values are objects of this library, or custom.
_OBJECTS = {"caps", "parts", "task", "trainer"}
#: Values of settings in folders that were written before the setting existed, if the value differs from the default.
_EARLIER: dict[str, Settings] = {
    "reconstruction": {"output": "mirror", "bottleneck": None},
    "Trainer": {"n_workers": 0},
}
#: Names of settings that earlier versions have written, and their names now.
_RENAMED = {"fold_batch_norm": "fused"}


def fill_missing(value: Any) -> Any:
    """Return settings in JSON form in which each missing setting has the value that was used before it existed.

    Examples
    --------
    >>> fill_missing({"trainer": {"type": "Trainer", "epochs": 3}})["trainer"]["batch_size"]
    8
    """
    if not isinstance(value, dict):
        return value
    filled = {_RENAMED.get(name, name): fill_missing(item) for name, item in value.items()}
    if CUSTOM in value:
        filled[CUSTOM] = main_name(str(value[CUSTOM]))
    kind = value.get("type")
    if kind == "reconstruction":
        return _EARLIER[kind] | filled
    if CUSTOM in value and value.get("reconstructs"):
        return filled | {"arguments": _EARLIER["reconstruction"] | filled.get("arguments", {})}
    if isinstance(kind, str) and kind[:1].isupper():
        for field in dataclasses.fields(find_type(kind)):  # type: ignore[arg-type]
            if field.init and field.name not in filled and field.default is not dataclasses.MISSING:
                earlier = _EARLIER.get(kind, {})
                filled[field.name] = earlier.get(field.name, to_json(field.default))
    return filled


def drop_unrecorded(new: Settings, saved: Settings) -> Settings:
    """Return `new` without settings that `saved` lacks because an earlier version did not record them.

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
    """Write `commandline.json` atomically."""
    with write_atomically(path, "w") as file:
        json.dump(settings, file, indent=2, ensure_ascii=False)
        file.write("\n")


@contextlib.contextmanager
def content_errors(path: Path) -> Iterator[None]:
    """Add the path to errors that the content of a settings file causes.

    Examples
    --------
    >>> from neurocnn.results.setting_json import from_json
    >>> with content_errors(Path("results/commandline.json")):
    ...     from_json({"type": "Patch", "size": "large"})
    Traceback (most recent call last):
    neurocnn.errors.SettingError: results/commandline.json: Patch: size='large'; expected an integer ≥ 1
    """
    try:
        yield
    except (ModelError, SettingError) as error:
        raise error if str(path.parent) in str(error) else type(error)(f"{path}: {error}") from error
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise SettingError(
            f"{path}: {error}; expected the settings of an experiment; restore the file from a copy"
        ) from error


def read_settings(path: Path) -> Settings:
    """Read `commandline.json`.

    Raises
    ------
    NotFoundError
        If the file is missing.
    SettingError
        If the file is not a JSON object, or a setting has a wrong type.

    Examples
    --------
    >>> write_settings({"multi": True}, tmp / "commandline.json")
    >>> read_settings(tmp / "commandline.json")
    {'multi': True}
    """
    if not is_file(path):
        raise _missing_settings(path)
    try:
        with storage_errors(path, "read"):
            text = path.read_text(encoding="utf-8")
        settings = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise SettingError(f"{path}: {error}; expected JSON; restore the file from a copy") from error
    if not isinstance(settings, dict):
        raise SettingError(
            f"{path}: found a {type(settings).__name__}; expected a dict from names to settings"
        )
    with content_errors(path):
        filled: Settings = fill_missing(settings)
        indices = check_list("splits", filled.get("splits", []), "a list of indices")
        check_each("splits", indices, check_integer, minimum=0)
        for name in _OBJECTS & set(filled):
            if not isinstance(filled[name], dict) or not {CUSTOM, "type"} & set(filled[name]):
                raise argument_error(name, filled[name], "an object with a type")
    return filled


def _missing_settings(path: Path) -> NotFoundError:
    """Return the error for a path that does not exist, which names the folder that was meant if it is known."""
    folder = path.parent
    # A file of the folder is often passed instead of the folder.
    meant = folder.parent if is_file(folder) else folder
    if is_file(meant / "maps.json"):
        advice = f"{meant} is a MAPS folder of ClinicaDL; use transfer_from=… for its weights"
    elif is_file(folder.parent / path.name):
        advice = f"expected the result folder; pass {folder.parent}"
    else:
        advice = f"{folder} is not a result folder of neurocnn"
    missing = f"{folder} is a file" if is_file(folder) else f"{path} does not exist"
    return NotFoundError(f"{missing}; {advice}")


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
    with write_atomically(path, "w") as file:
        file.write("\n".join(lines) + "\n")

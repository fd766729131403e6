"""Architectures from other packages.

The only extension point is the hook `neurocnn_architectures`. A package names a module in the entry-point group
``neurocnn``; the module has a function with the name of the hook, marked with `hookimpl`. The built-in networks use the
same hook. Installing a package never changes the network that is trained: a name that two packages provide raises an
error, and a broken package affects only calls that request its networks.
"""

import inspect
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import TypeVar, cast

import pluggy
from torch import Tensor, nn

from neurocnn.errors import ModelError, suggestion
from neurocnn.errors.arguments import argument_error

GROUP = "neurocnn"
#: A function ``build(input_shape, n_outputs, **options) -> nn.Module``. `input_shape` is (C, H, W) or (C, D, H, W),
#: and the module's outputs have the shape (B, n_outputs), see `output_tensor`.
Builder = Callable[..., nn.Module]

F = TypeVar("F", bound=Callable[..., object])

hookspec = pluggy.HookspecMarker(GROUP)
_implementation = pluggy.HookimplMarker(GROUP)


def hookimpl(function: F) -> F:
    """Return a function marked as the implementation of the hook `neurocnn_architectures`.

    Parameters
    ----------
    function
        Function named ``neurocnn_architectures``, in the module that a package lists in its entry-point group
        ``neurocnn``. It returns a dict of builders ``build(input_shape, n_outputs, **options) -> nn.Module``, where
        `input_shape` is (C, H, W) or (C, D, H, W), in voxels.

    Raises
    ------
    SettingError
        If `function` is not a function, or has another name.

    Examples
    --------
    >>> def build(input_shape, n_outputs):
    ...     return nn.Sequential(nn.Flatten(), nn.LazyLinear(n_outputs))
    >>> @hookimpl
    ... def neurocnn_architectures():
    ...     return {"Linear": build}
    """
    if not inspect.isfunction(function):
        raise argument_error("function", function, "a function", where="hookimpl")
    if function.__name__ != neurocnn_architectures.__name__:
        expected = "a function named 'neurocnn_architectures'"
        raise argument_error("function", function.__name__, expected, where="hookimpl")
    return _implementation(function)


@hookspec
def neurocnn_architectures() -> Mapping[str, Builder]:  # type: ignore[empty-body]
    """Return the networks of a package.

    Returns
    -------
    Mapping[str, Builder]
        Builders by name of the network: ``build(input_shape, n_outputs, **options) -> nn.Module``, where
        `input_shape` is (C, H, W) or (C, D, H, W) and the module's outputs have the shape (B, n_outputs).
    """


@dataclass(frozen=True)
class Architecture:
    """Builder of a network, and its origin: the name and version of the package that provides it."""

    name: str
    origin: str
    build: Builder


class Architectures:
    """All architectures of installed packages, and the packages that failed to load.

    Parameters
    ----------
    builtin
        The plugin of neurocnn itself, an object that implements the hook.
    """

    def __init__(self, builtin: object) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(_Specification)
        self._found: dict[str, list[Architecture]] = {}
        # Traceback of each package that failed to load, by origin.
        self.broken: dict[str, str] = {}
        # Name, image shape, number of outputs and options of networks whose outputs were checked.
        self.checked: set[tuple[object, ...]] = set()
        self._add_plugin(f"neurocnn {metadata.version('neurocnn')}", lambda: builtin)
        for origin, load in sorted(_installed_plugins(), key=lambda plugin: plugin[0]):
            self._add_plugin(origin, load)

    def _add_plugin(self, origin: str, load: Callable[[], object]) -> None:
        plugin: object = None
        try:
            plugin = load()
            for architecture in self._call_hook(origin, plugin):
                self._found.setdefault(architecture.name, []).append(architecture)
        except BaseException as error:
            # All exceptions are caught: the other packages must work even if this one calls sys.exit() or raises
            # KeyboardInterrupt.
            if plugin is not None and self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            self.broken[origin] = traceback.format_exc()
            # The standard library formats the reason, because str(error) may raise an error.
            reason = "".join(traceback.format_exception_only(error)).strip()
            warnings.warn(
                f"plugin {origin} failed to load: {reason}; its traceback is shown when an unknown architecture is "
                "requested",
                stacklevel=2,
            )

    def _call_hook(self, origin: str, plugin: object) -> list[Architecture]:
        name = self._manager.register(plugin)
        # pluggy raises an error for a hook with an unknown name.
        self._manager.check_pending()
        hooks = self._manager.hook.neurocnn_architectures.get_hookimpls()
        own = [hook.function for hook in hooks if hook.plugin_name == name]
        if not own:
            raise ModelError("expected a function neurocnn_architectures marked with @neurocnn.hookimpl")
        return _check_builders(origin, own[0]())

    def names(self) -> dict[str, str]:
        """Return the origin of each architecture by name. The origins of several packages are joined by "and"."""
        return {
            name: " and ".join(one.origin for one in found) for name, found in sorted(self._found.items())
        }

    def get(self, name: str) -> Architecture:
        """Return the architecture `name`.

        Raises
        ------
        ModelError
            If no package provides the architecture, or several packages do.
        """
        found = self._found.get(name, [])
        if len(found) == 1:
            return found[0]
        if found:
            raise ModelError(
                f"architecture {name!r}: provided by {' and by '.join(one.origin for one in found)}; expected one "
                "package; uninstall the other packages, or pass a builder instead of the name"
            )
        broken = "".join(f"\nPlugin {origin} failed:\n{trace}" for origin, trace in self.broken.items())
        raise ModelError(
            f"architecture {name!r}: unknown; {suggestion(name, self._found)}; if a package provided it, install that "
            f"package (`environment.txt` lists the packages of a run){broken}"
        )


def output_tensor(output: object) -> Tensor | None:
    """Return the tensor of a network's output: the output itself, or the last tensor of a tuple or list.

    The output of an autoencoder is a tuple (code, reconstruction). Entries that are not tensors, such as a list of
    hidden states, are ignored. If there is no tensor, the result is None.

    Examples
    --------
    >>> import torch
    >>> output_tensor((torch.zeros(4, 2), [torch.zeros(4, 10, 48)])).shape
    torch.Size([4, 2])
    """
    entries = reversed(output) if isinstance(output, tuple | list) else [output]
    return next((entry for entry in entries if isinstance(entry, Tensor)), None)


class _Specification:
    """Specification of the hook, in a class because pluggy would treat other names of the module as hooks."""

    neurocnn_architectures = staticmethod(neurocnn_architectures)


def _installed_plugins() -> list[tuple[str, Callable[[], object]]]:
    """Return the origin and the loader of each plugin. If its metadata cannot be read, the loader raises the error."""
    try:
        return [(_origin_of(entry), entry.load) for entry in metadata.entry_points(group=GROUP)]
    except Exception:
        # The loop below catches the errors of each package separately.
        plugins: list[tuple[str, Callable[[], object]]] = []
        for distribution in metadata.distributions():
            try:
                entries = distribution.entry_points.select(group=GROUP)
            except Exception as error:
                name = str(getattr(distribution, "_path", "of unknown name"))
                plugins.append((name, partial(_raise_error, error)))
            else:
                plugins += [(_origin_of(entry), entry.load) for entry in entries]
        return plugins


def _origin_of(entry: metadata.EntryPoint) -> str:
    try:
        return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
    except Exception:
        return entry.value


def _raise_error(error: Exception) -> None:
    raise error


def _check_builders(origin: str, returned: object) -> list[Architecture]:
    where = f"neurocnn_architectures() of {origin}"
    if not isinstance(returned, Mapping):
        raise ModelError(
            f"{where}: returned {type(returned).__name__}; expected a mapping from names to builders"
        )
    for name, build in returned.items():
        if not isinstance(name, str) or not callable(build):
            raise ModelError(
                f"{where}: maps {name!r} to {build!r}; expected a name and a function "
                "build(input_shape, n_outputs, **options)"
            )
    builders = cast(Mapping[str, Builder], returned)
    return [Architecture(name, origin, build) for name, build in builders.items()]

"""Architectures that other packages bring.

The whole extension surface is one hook, below. A package names a module in the entry-point group
``neurocnn``; the module has a function of the hook's name, marked with `hookimpl`. The built-in networks come
through the same door. Installing a package never changes a training by itself: names that two packages claim
are refused, not overridden, and a package that is broken harms nobody but those who ask for its networks.
"""

import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, cast

import pluggy

from neurocnn.errors import ModelError, suggestion

GROUP = "neurocnn"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def neurocnn_architectures() -> Mapping[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Give the networks that a package brings.

    Returns
    -------
    Mapping[str, Callable]
        From a network's name to its builder, ``build(input_shape, n_outputs, **options) -> nn.Module``, where
        `input_shape` is (C, H, W) or (C, D, H, W) and the module's outputs have the shape (B, n_outputs).
    """


@dataclass(frozen=True)
class Architecture:
    """A builder and the package, with its version, that it comes from."""

    name: str
    origin: str
    build: Callable[..., Any]


class Architectures:
    """All architectures that installed packages bring, and the packages that failed to.

    Parameters
    ----------
    builtin
        The plugin of neurocnn itself, any object that implements the hook.
    """

    def __init__(self, builtin: object) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(_This)
        self._found: dict[str, list[Architecture]] = {}
        self.broken: dict[str, str] = {}  # origin -> traceback
        self._add(f"neurocnn {metadata.version('neurocnn')}", lambda: builtin)
        entries = metadata.entry_points(group=GROUP)
        for entry in sorted(entries, key=lambda entry: (_origin(entry), entry.name)):
            self._add(_origin(entry), entry.load)

    def _add(self, origin: str, load: Callable[[], object]) -> None:
        plugin: object = None
        try:
            plugin = load()
            for architecture in self._offered(origin, plugin):
                self._found.setdefault(architecture.name, []).append(architecture)
        except (Exception, SystemExit) as error:
            # Whatever a foreign package does, the others must still work.
            if plugin is not None and self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            self.broken[origin] = traceback.format_exc()
            warnings.warn(
                f"the plugin {origin} brings no architectures to neurocnn: {type(error).__name__}: {error}; "
                "its traceback is shown when a network is asked for that nobody else brings",
                stacklevel=2,
            )

    def _offered(self, origin: str, plugin: object) -> list[Architecture]:
        name = self._manager.register(plugin)
        self._manager.check_pending()  # a hook that does not exist
        hooks = self._manager.hook.neurocnn_architectures.get_hookimpls()
        own = [hook.function for hook in hooks if hook.plugin_name == name]
        if not own:
            raise ModelError("it has no function neurocnn_architectures marked with @neurocnn.hookimpl")
        return _checked(origin, own[0]())

    def names(self) -> dict[str, str]:
        """Each name with its origin; where several packages claim it, all of them."""
        return {
            name: " and ".join(one.origin for one in found) for name, found in sorted(self._found.items())
        }

    def get(self, name: str) -> Architecture:
        """Return the architecture of that name, or raise a `ModelError` that says why there is none."""
        found = self._found.get(name, [])
        if len(found) == 1:
            return found[0]
        if found:
            raise ModelError(
                f"architecture {name!r} is brought by {' and by '.join(one.origin for one in found)}; "
                "uninstall one of them, or pass a builder instead of the name"
            )
        broken = "".join(f"\nThe plugin {origin} failed:\n{trace}" for origin, trace in self.broken.items())
        raise ModelError(f"there is no architecture {name!r}: {suggestion(name, self._found)}{broken}")


class _This:
    """Holds the specification alone, so that nothing else of this module is taken for a hook."""

    neurocnn_architectures = staticmethod(neurocnn_architectures)


def _origin(entry: metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _checked(origin: str, returned: object) -> list[Architecture]:
    if not isinstance(returned, Mapping):
        raise ModelError(
            f"neurocnn_architectures() of {origin} returned {type(returned).__name__}; "
            "expected a mapping from name to builder"
        )
    for name, build in returned.items():
        if not isinstance(name, str) or not callable(build):
            raise ModelError(
                f"neurocnn_architectures() of {origin} maps {name!r} to {build!r}; "
                "expected a name and a function build(input_shape, n_outputs, **options)"
            )
    return [
        Architecture(name, origin, build)
        for name, build in cast(Mapping[str, Callable[..., Any]], returned).items()
    ]

"""From a name, a builder or a module to a network, checked before it is trained."""

import copy
import inspect
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from neurocnn.errors import ModelError, NeurocnnError, SettingError
from neurocnn.nn import architectures
from neurocnn.nn.dry_run import dry_run, layer_shapes
from neurocnn.plugins import Architectures

Buildable = str | Callable[..., nn.Module] | nn.Module


@cache
def installed() -> Architectures:
    """Return the architectures of all installed packages, looked up once in a process."""
    return Architectures(architectures)


def list_models() -> dict[str, str]:
    """Return the name of each architecture with the package and version that it comes from.

    >>> list_models()["Conv5_FC3"].split()[0]
    'neurocnn'
    """
    return installed().names()


def create_model(
    architecture: Buildable, input_shape: Sequence[int], n_outputs: int | None = 2, **options: Any
) -> nn.Module:
    """Build a network and check, without computing, that it fits its inputs and outputs.

    Parameters
    ----------
    architecture
        A name of `list_models`, a function ``build(input_shape, n_outputs, **options) -> nn.Module``, or a
        module, of which a copy is returned.
    input_shape
        (C, H, W) or (C, D, H, W) of one image, voxels.
    n_outputs
        The network gives (B, n_outputs). None if its outputs do not matter, because only an autoencoder will
        be derived from it.
    **options
        The builder's own, such as ``dropout=0.5``.

    Raises
    ------
    ModelError
        Unknown name, unknown option, an input that the network cannot take, outputs of another shape, a
        builder that returns no module.

    Examples
    --------
    >>> cnn = create_model("Conv4_FC3", (1, 50, 50, 50), n_outputs=2, dropout=0.5)
    >>> sum(p.numel() for p in cnn.parameters())
    134372
    """
    shape = _checked_shape(input_shape)
    where = _title(architecture)
    if isinstance(architecture, nn.Module):
        if options:
            raise ModelError(
                f"{where} is built already and takes no options; found {', '.join(sorted(options))}"
            )
        model: nn.Module = copy.deepcopy(architecture)
    elif not isinstance(architecture, str) and not callable(architecture):
        raise ModelError(
            f"{architecture!r} is no architecture; expected a name of list_models(), a builder or a module"
        )
    else:
        build = installed().get(architecture).build if isinstance(architecture, str) else architecture
        _check_options(build, options, where)
        model = _built(build, where, shape, 2 if n_outputs is None else n_outputs, options)
    _check_outputs(model, shape, n_outputs, where)
    return model


def _built(
    build: Callable[..., Any], where: str, shape: tuple[int, ...], n_outputs: int, options: dict[str, Any]
) -> nn.Module:
    try:
        model = build(shape, n_outputs, **options)
    except NeurocnnError:
        raise
    except Exception as error:
        raise ModelError(
            f"{where} could not be built for images of shape {shape} and {n_outputs} outputs: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the builder of {where} returned {type(model).__name__}; expected a torch.nn.Module"
        )
    return model


def _title(architecture: object) -> str:
    if isinstance(architecture, str):
        return f"architecture {architecture!r}"
    return getattr(architecture, "__name__", type(architecture).__name__)


def _checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in input_shape)
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise SettingError(f"input_shape is {shape}; expected (C, H, W) or (C, D, H, W), each at least 1")
    return shape


def _check_options(build: Callable[..., Any], options: dict[str, Any], where: str) -> None:
    parameters = list(inspect.signature(build).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    accepted = [p.name for p in parameters[2:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ModelError(
            f"{where} has no option {', '.join(map(repr, unknown))}; "
            f"it accepts {', '.join(accepted) or 'none'}"
        )


def _check_outputs(model: nn.Module, shape: tuple[int, ...], n_outputs: int | None, where: str) -> None:
    try:
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
            _initialize(model, shape)
        outputs = dry_run(model, shape)
    except Exception as error:
        raise ModelError(
            f"{where} does not take images of shape {shape}: {type(error).__name__}: {error}"
        ) from error
    if n_outputs is None:
        return
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if found != (2, n_outputs):
        raise ModelError(
            f"{where} gives {found} for 2 images of shape {shape}; expected (2, {n_outputs}), "
            "one row an image and one column an output"
        )


def _initialize(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Let torch's lazy layers see an image, so that an optimizer finds their parameters."""
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(2, *shape))
    model.train(training)


def describe(
    architecture: Buildable, input_size: str = "1@128x128", n_outputs: int | None = 2, **options: Any
) -> str:
    """Return a table of a network's layers, the sizes of their feature maps, and their parameters.

    Parameters
    ----------
    architecture, n_outputs, **options
        As for `create_model`. No weights are loaded or downloaded.
    input_size
        C@HxW or C@DxHxW, voxels.

    Examples
    --------
    >>> table = describe("Conv5_FC3", input_size="1@169x208x179").splitlines()
    >>> table[2].split()
    ['convolutions.0', 'Conv3d', '8@169x208x179', '224']
    >>> table[-1]
    '42293972 parameters, of which 42293972 are trained'
    """
    match = re.fullmatch(r"(\d+)@(\d+)x(\d+)(?:x(\d+))?", input_size)
    if match is None:
        raise SettingError(
            f"input_size is {input_size!r}; expected C@HxW or C@DxHxW, such as '1@169x208x179'"
        )
    shape = tuple(int(number) for number in match.groups() if number is not None)
    try:
        with torch.device("meta"):  # shapes without values: nothing to compute, nothing to load
            model = create_model(architecture, shape, n_outputs, **options)
    except NeurocnnError:
        raise
    except Exception:
        model = create_model(architecture, shape, n_outputs, **options)
    rows = [("layer", "type", "output", "parameters")]
    for name, layer, size in layer_shapes(model, shape):
        n = sum(p.numel() for p in layer.parameters())
        rows.append((name, type(layer).__name__, _written(size), str(n) if n else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=True)),)).rstrip() for row in rows
    ]
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total, trained = sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)
    return "\n".join(
        [
            f"{_title(architecture).removeprefix('architecture ')} on {input_size}",
            *lines,
            f"{total} parameters, of which {trained} are trained",
        ]
    )


def _written(size: Sequence[int]) -> str:
    if len(size) == 1:
        return str(size[0])
    return f"{size[0]}@{'x'.join(map(str, size[1:]))}" if size else ""

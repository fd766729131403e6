"""Networks from names, builders or modules, checked before they are trained."""

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from neurocnn.errors import ModelError, NeurocnnError
from neurocnn.errors.arguments import argument_error, check_each, check_integer, check_list, check_text
from neurocnn.nn import architectures
from neurocnn.nn.dry_run import copy_network, dry_run, layer_shapes
from neurocnn.plugins import Architectures, Builder, output_tensor

#: A name of `list_models`, a builder ``build(input_shape, n_outputs, **options)``, or a module.
ArchitectureLike = str | Builder | nn.Module


@cache
def installed() -> Architectures:
    """Return the architectures of all installed packages. The search runs once per process."""
    return Architectures(architectures)


def list_models() -> dict[str, str]:
    """Return the name of each architecture with the package and version that provide it.

    Examples
    --------
    >>> list_models()["Conv5_FC3"].split()[0]
    'neurocnn'
    """
    return installed().names()


def create_model(
    architecture: ArchitectureLike, input_shape: Sequence[int], n_outputs: int | None = 2, **options: Any
) -> nn.Module:
    """Return a new network, after a check of its input and output shapes that computes no values.

    Parameters
    ----------
    architecture
        A name of `list_models`, a function ``build(input_shape, n_outputs, **options) -> nn.Module``, or a
        module, which is copied.
    input_shape
        Shape (C, H, W) or (C, D, H, W) of one image, in voxels.
    n_outputs
        Number of outputs per image. None accepts any number, for a network from which only an autoencoder is derived.
    **options
        Options of the builder, such as ``dropout=0.5``.

    Raises
    ------
    SettingError
        If `input_shape` or `n_outputs` cannot be used.
    ModelError
        If the name or an option is unknown, the builder fails or does not return a module, or the network does not
        accept the images or has outputs of another shape.

    Examples
    --------
    >>> cnn = create_model("Conv4_FC3", (1, 50, 50, 50), n_outputs=2, dropout=0.5)
    >>> sum(p.numel() for p in cnn.parameters())
    134372
    """
    shape = _check_shape(input_shape)
    if n_outputs is not None:
        n_outputs = check_integer("n_outputs", n_outputs, minimum=1, where="create_model")
    title = _name_in_messages(architecture)
    if isinstance(architecture, nn.Module):
        if options:
            raise ModelError(
                f"{title}: options={sorted(options)}; expected none, because the network exists already"
            )
        model = copy_network(architecture, title)
    elif isinstance(architecture, str) or callable(architecture):
        build = installed().get(architecture).build if isinstance(architecture, str) else architecture
        _check_options(build, options, title)
        model = _build(build, title, shape, 2 if n_outputs is None else n_outputs, options)
    else:
        raise ModelError(
            f"create_model: architecture={architecture!r}; expected a name of list_models(), a builder or a module"
        )
    if not isinstance(architecture, str):
        _check_outputs(model, shape, n_outputs, title)
        return model
    # The networks of an experiment's parts and splits differ only in their weights, so one of them is checked.
    same, checked = (architecture, shape, n_outputs, repr(sorted(options.items()))), installed().checked
    if same not in checked or _is_lazy(model):
        _check_outputs(model, shape, n_outputs, title)
        checked.add(same)
    return model


def _is_lazy(model: nn.Module) -> bool:
    return any(map(nn.parameter.is_lazy, (*model.parameters(), *model.buffers())))


def _build(
    build: Builder, title: str, shape: tuple[int, ...], n_outputs: int, options: Mapping[str, Any]
) -> nn.Module:
    try:
        model = build(shape, n_outputs, **options)
    except NeurocnnError:
        raise
    except (Exception, SystemExit) as error:
        if not _accepts(build, shape, n_outputs, options):
            raise ModelError(
                f"{title}: {error}; expected a builder with the arguments (input_shape, n_outputs, **options)"
            ) from error
        raise ModelError(
            f"{title}: cannot be built for images of shape {shape} and {n_outputs} outputs: "
            f"{type(error).__name__}: {error}; use another input shape or other options"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{title}: the builder returned {type(model).__name__}; expected a torch.nn.Module")
    return model


def _accepts(build: Builder, shape: tuple[int, ...], n_outputs: int, options: Mapping[str, Any]) -> bool:
    """Return whether a builder can be called with these arguments; True if its signature is unknown."""
    try:
        inspect.signature(build).bind(shape, n_outputs, **options)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _name_in_messages(architecture: object) -> str:
    if isinstance(architecture, str):
        return f"architecture {architecture!r}"
    return str(getattr(architecture, "__name__", type(architecture).__name__))


def _check_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    expected = "(C, H, W) or (C, D, H, W), each ≥ 1"
    sizes = check_list("input_shape", input_shape, expected)
    if len(sizes) not in (3, 4) or 0 in sizes:
        raise argument_error("input_shape", tuple(sizes), expected)
    return tuple(check_each("input_shape", sizes, check_integer, minimum=1))


def option_names(architecture: ArchitectureLike) -> list[str] | None:
    """Return the names of the options that an architecture accepts; None if it accepts any name.

    Raises
    ------
    ModelError
        If the name of the architecture is unknown.

    Examples
    --------
    >>> option_names("Conv5_FC3")
    ['dropout', 'fused']
    """
    if isinstance(architecture, nn.Module):
        return []
    build = installed().get(architecture).build if isinstance(architecture, str) else architecture
    try:
        parameters = list(inspect.signature(build).parameters.values())
    except (TypeError, ValueError):
        # A function of an extension module may have no signature. Its call then shows whether the arguments fit.
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters[2:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _check_options(build: Builder, options: Mapping[str, Any], title: str) -> None:
    accepted = option_names(build)
    unknown = sorted(set(options).difference(accepted or ()))
    if accepted is not None and unknown:
        names = ", ".join(map(repr, unknown))
        raise ModelError(f"{title}: unknown option {names}; expected {', '.join(accepted) or 'no options'}")


def _check_outputs(model: nn.Module, shape: tuple[int, ...], n_outputs: int | None, title: str) -> None:
    try:
        if _is_lazy(model):
            _initialize(model, shape)
        outputs = dry_run(model, shape)
    except NeurocnnError:
        raise
    except Exception as error:
        raise ModelError(
            f"{title}: images of shape {shape} are not accepted: {type(error).__name__}: {error}; use another input "
            "shape or other options"
        ) from error
    output = output_tensor(outputs)
    found = type(outputs).__name__ if output is None else tuple(output.shape)
    if n_outputs is not None and found != (2, n_outputs):
        is_image = output is not None and output.dim() == 1 + len(shape)
        raise ModelError(
            f"{title}: outputs {found} for 2 images of shape {shape}; expected (2, {n_outputs}), "
            "one row per image and one column per output"
            f"{'; an autoencoder requires nc.reconstruction() as task, or n_outputs=None' if is_image else ''}"
        )


def _initialize(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Run torch's lazy layers once, so that an optimizer finds their parameters."""
    training = model.training
    device = next(parameter.device for parameter in model.parameters())
    with torch.no_grad():
        model.eval()(torch.zeros(2, *shape, device=device))
    model.train(training)


def describe(
    architecture: ArchitectureLike, input_size: str = "1@128x128", n_outputs: int | None = 2, **options: Any
) -> str:
    """Return a table of a network's layers, with the size of their outputs and their number of parameters.

    Parameters
    ----------
    architecture, n_outputs, **options
        See `create_model`. No weights are loaded or downloaded.
    input_size
        Shape of one image as ``C@HxW`` or ``C@DxHxW``, in voxels.

    Raises
    ------
    SettingError, ModelError
        If `input_size` has another format; see also `create_model`.

    Examples
    --------
    >>> table = describe("Conv5_FC3", input_size="1@169x208x179").splitlines()
    >>> table[2].split()
    ['convolutions.0', 'Conv3d', '8@169x208x179', '224']
    >>> table[-1]
    '42293972 parameters, of which 42293972 are trained'
    """
    expected = "C@HxW or C@DxHxW, such as '1@169x208x179'"
    check_text("input_size", input_size, expected=expected, where="describe")
    match = re.fullmatch(r"(\d+)@(\d+)x(\d+)(?:x(\d+))?", input_size)
    if match is None:
        raise argument_error("input_size", input_size, expected, where="describe")
    shape = tuple(int(number) for number in match.groups() if number is not None)
    # Shapes are sufficient, so nothing is computed or loaded.
    with torch.device("meta"):
        model = create_model(architecture, shape, n_outputs, **options)
    rows = [("layer", "type", "output", "parameters")]
    for name, layer, size in layer_shapes(model, shape):
        n = sum(p.numel() for p in layer.parameters())
        rows.append((name, type(layer).__name__, _size_text(size), str(n or "")))
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total, trained = sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained)
    title = f"{_name_in_messages(architecture).removeprefix('architecture ')} on {input_size}"
    return "\n".join([title, *_align(rows), f"{total} parameters, of which {trained} are trained"])


def _size_text(size: Sequence[int]) -> str:
    return "@".join(part for part in (str(size[0]), "x".join(map(str, size[1:]))) if part) if size else ""


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]

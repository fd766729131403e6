"""Weights that go from one network into another, and weights that ClinicaDL trained.

A transfer is all or nothing: names and shapes are compared before the first value is written.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurocnn.errors import CheckpointError, ModelError
from neurocnn.files import load_tensors

# Wrappers that put their own name before every parameter's: torch.compile and DistributedDataParallel.
WRAPPERS = re.compile(r"^((_orig_mod|module)\.)+")


def transfer_weights(source: nn.Module | Mapping[str, Tensor], target: nn.Module) -> None:
    """Copy the weights of `source` into `target`, in place; batch norms' running statistics too.

    An autoencoder gives its encoder to a CNN's convolutions and takes it back from there; networks of the same
    names exchange everything.

    Parameters
    ----------
    source
        A network, or its state dict (see `read_weights`).
    target
        A network. It stays as it was if an error is raised.

    Raises
    ------
    ModelError
        Lists all parameters that are missing in the source, unexpected, or of another shape.

    Examples
    --------
    >>> from neurocnn.nn import CNN_Transformer, create_model
    >>> cnn = create_model("Conv5_FC3", (1, 32, 32))
    >>> autoencoder = CNN_Transformer(create_model("Conv5_FC3", (1, 32, 32)))
    >>> transfer_weights(autoencoder, cnn)
    >>> bool((cnn.convolutions[0].weight == autoencoder.encoder[0].weight).all())
    True
    """
    given = _plain_names(source.state_dict() if isinstance(source, nn.Module) else source)
    state = target.state_dict()
    names = {WRAPPERS.sub("", name): name for name in state}
    given, wanted = _matching_part(given, list(names))
    _check(given, {name: state[names[name]] for name in wanted})
    target.load_state_dict({**state, **{names[name]: given[name] for name in wanted}})


def _plain_names(state: Mapping[str, Any]) -> dict[str, Any]:
    return {WRAPPERS.sub("", name): value for name, value in state.items()}


def _matching_part(given: dict[str, Any], target: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the source's parameters under the target's names, and the names that the target must find there."""
    for of_source, of_target in (("encoder.", "convolutions."), ("convolutions.", "encoder.")):
        if _has(given, of_source) and _has(target, of_target) and not _has(given, of_target):
            renamed = {
                of_target + name.removeprefix(of_source): value
                for name, value in given.items()
                if name.startswith(of_source)
            }
            return renamed, [name for name in target if name.startswith(of_target)]
    return given, target


def _has(names: Sequence[str] | Mapping[str, Any], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _check(given: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    mismatched = [
        f"{name} (source {_shape(given[name])}, target {tuple(tensor.shape)})"
        for name, tensor in wanted.items()
        if name in given and _shape(given[name]) != tuple(tensor.shape)
    ]
    if missing or unexpected or mismatched:
        found = (
            ("missing in the source", missing),
            ("unexpected", unexpected),
            ("of another shape", mismatched),
        )
        lines = "".join(f"\n  {what}: {', '.join(names)}" for what, names in found if names)
        raise ModelError(
            f"the weights do not fit the network, which stays as it was:{lines}\n"
            "take a source of the same architecture, input size and number of outputs"
        )


def _shape(value: object) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def read_weights(
    path: str | os.PathLike[str], output_order: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Read the weights of a checkpoint of neurocnn or of ClinicaDL 0.2 or 1.x, under neurocnn's names.

    Parameters
    ----------
    path
        ``model_best.pth.tar``, or any file with a state dict.
    output_order
        Output i of the result is output ``output_order[i]`` of the file.

    Raises
    ------
    NotFoundError, CheckpointError
        No file, a damaged one, one that would run code, or one without weights.
    """
    content = load_tensors(path, safe=_numpy_scalars())
    state = content.get("model", content) if isinstance(content, dict) else None
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise CheckpointError(f"{path}: holds no state dict; expected one, or a dict with one under 'model'")
    return {_our_name(WRAPPERS.sub("", name)): value for name, value in state.items()}


def _numpy_scalars() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    from numpy._core.multiarray import scalar

    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, np.dtypes.Float64DType]


def _our_name(name: str) -> str:
    for pattern, ours in NAMES:
        name, found = re.subn(pattern, ours, name)
        if found:
            break
    return name


NAMES = (
    (r"^features\.", "convolutions."),
    (r"^classifier\.", "fc."),
    (r"^conv1\.", "convolutions.0."),
    (r"^bn1\.", "convolutions.1."),
    (r"^layer1\.", "convolutions.4."),
    (r"^layer2\.", "convolutions.5."),
    (r"^layer3\.", "convolutions.6."),
    (r"^layer4\.", "convolutions.7."),
    (r"^fc\.(weight|bias)$", r"fc.1.\1"),
    (r"^(fc\.)?fc_out\.", "fc.3."),
)

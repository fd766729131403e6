"""Weights that go from one network into another, and weights that ClinicaDL trained.

A transfer is all or nothing: names and shapes are compared before the first value is written.
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from neurocnn.errors import CheckpointError, ModelError
from neurocnn.storage.tensors import load_tensors

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
    """Read the weights of a checkpoint of neurocnn, or of ClinicaDL 0.2 or 1.x, under neurocnn's names.

    Parameters
    ----------
    path
        ``model_best.pth.tar`` and the like, or any file with a state dict.
    output_order
        Output i of the result is output ``output_order[i]`` of the file. ClinicaDL 1.x sorts its labels, so that
        AD is output 0 and CN output 1: ``output_order=(1, 0)`` gives them as ``classes=["CN", "AD"]`` has them, and
        (0, 1) leaves them, for ``classes=["AD", "CN"]``.

    Raises
    ------
    NotFoundError, CheckpointError
        No file, a damaged one, one that would run code, or one without weights.
    ModelError
        `output_order` is no order of the outputs.

    Warns
    -----
    UserWarning
        A classifier of ClinicaDL 1.x is read, and `output_order` does not say what to do with its outputs.

    Examples
    --------
    >>> import torch
    >>> from neurocnn.storage.tensors import save_tensors
    >>> state = {"features.0.weight": torch.zeros(8, 1, 3, 3), "classifier.2.bias": torch.tensor([1.0, 2.0])}
    >>> save_tensors({"model": state, "epoch": 3, "valid_loss": 0.5}, tmp / "model_best.pth.tar")
    >>> weights = read_weights(tmp / "model_best.pth.tar", output_order=(1, 0))
    >>> list(weights), weights["fc.2.bias"].tolist()
    (['convolutions.0.weight', 'fc.2.bias'], [2.0, 1.0])
    """
    content = load_tensors(path, safe=_numpy_scalars())
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path}: holds no state dict; expected names with their tensors, or a dict with that under 'model'"
        )
    state = _plain_names(state)
    if "valid_loss" in content:  # ClinicaDL 0.2
        state = {our_resnet_name(_renamed(name, PARTS)): value for name, value in state.items()}
    elif set(content) == {"model", "epoch", "name"}:  # ClinicaDL 1.x, or neurocnn
        state = {_renamed(name, {"fc.fc_out.": "fc.3."}): value for name, value in state.items()}
        if output_order is None and content["name"] in V1_CLASSIFIERS:
            warnings.warn(
                f"{path}: its outputs are read as they stand, and ClinicaDL 1.x sorts its labels (AD 0, CN 1); "
                "say output_order=(1, 0) for classes=['CN', 'AD'], or (0, 1) if they are right as they are; an "
                "experiment takes them with classes=['AD', 'CN']",
                stacklevel=2,
            )
    return state if output_order is None else _reordered(state, list(output_order), path)


# The architectures of ClinicaDL 1.x as its checkpoints name them; neurocnn's own say CNN.
V1_CLASSIFIERS = {"Conv4_FC3", "Conv5_FC3", "resnet18", "Stride_Conv5_FC3"}
PARTS = {"features.": "convolutions.", "classifier.": "fc."}
RESNET = {
    "conv1.": "convolutions.0.",
    "bn1.": "convolutions.1.",
    **{f"layer{n}.": f"convolutions.{n + 3}." for n in (1, 2, 3, 4)},
    "fc.weight": "fc.1.weight",
    "fc.bias": "fc.1.bias",
    "fc_out.": "fc.3.",
}


def our_resnet_name(name: str) -> str:
    """Return neurocnn's name of a parameter of torchvision's ResNet-18.

    >>> our_resnet_name("layer4.1.conv2.weight"), our_resnet_name("fc.bias")
    ('convolutions.7.1.conv2.weight', 'fc.1.bias')
    """
    return _renamed(name, RESNET)


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _reordered(state: dict[str, Tensor], order: list[int], path: object) -> dict[str, Tensor]:
    """Permute the outputs of the last fully-connected layer."""
    last = max((name for name in state if name.startswith("fc.")), key=_position, default="fc.?.weight")
    names = [name for name in state if name.rpartition(".")[0] == last.rpartition(".")[0]]
    if not names or any(sorted(order) != list(range(len(state[name]))) for name in names):
        found = f"{len(state[names[0]])} outputs" if names else "no outputs (parameters fc.…)"
        raise ModelError(
            f"{path}: output_order is {tuple(order)}, and the file has {found}; expected each once"
        )
    return {name: value[order] if name in names else value for name, value in state.items()}


def _position(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\.(\d+)(?=\.)", name))


def _numpy_scalars() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    # ClinicaDL 0.2 stored its losses as numpy scalars; numpy 1 and 2 name their module differently.
    scalar: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
    old, new = "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"
    return [(scalar, old), (scalar, new), np.dtype, np.dtypes.Float64DType]

"""Reading of weights from checkpoint files of neurocnn, ClinicaDL 0.2 and 1.x, and torchvision."""

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from neurocnn.errors import CheckpointError, ModelError
from neurocnn.errors.arguments import check_each, check_integer, check_list, check_path
from neurocnn.nn.transfer import unwrap_names
from neurocnn.storage.tensors import load_tensors, read_safetensors
from neurocnn.storage.weights import check_state_dict

FilePath = str | os.PathLike[str]
# Names of architectures in checkpoints of ClinicaDL 1.x; neurocnn's checkpoints contain the class, such as CNN.
V1_CLASSIFIERS = {"Conv4_FC3", "Conv5_FC3", "resnet18", "Stride_Conv5_FC3"}
V02_PREFIXES = {"features.": "convolutions.", "classifier.": "fc."}
V1_PREFIXES = {"fc.fc_out.": "fc.3."}
TORCHVISION_PREFIXES = {
    "conv1.": "convolutions.0.",
    "bn1.": "convolutions.1.",
    **{f"layer{n}.": f"convolutions.{n + 3}." for n in (1, 2, 3, 4)},
    "fc.weight": "fc.1.weight",
    "fc.bias": "fc.1.bias",
    "fc_out.": "fc.3.",
}


def read_weights(path: FilePath, output_order: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Return the weights in a checkpoint file, in which the parameter names of ClinicaDL are replaced by neurocnn's.

    Parameters
    ----------
    path
        Path of ``model_best.pth.tar``, of another file with a state dict, possibly under the key ``model`` or
        ``state_dict``, or of a ``.safetensors`` file, which requires the package safetensors. ClinicaDL's parameter
        names are recognised by the file's keys: ``valid_loss`` in 0.2.1; exactly ``model``, ``epoch`` and ``name`` in
        1.x.
    output_order
        Permutation of the outputs: output i of the result is output ``output_order[i]`` of the file. ClinicaDL 1.x
        sorts its labels, so that AD is output 0 and CN output 1: ``output_order=(1, 0)`` sorts them in the order of
        ``classes=["CN", "AD"]``, and (0, 1) keeps their order, for ``classes=["AD", "CN"]``.

    Raises
    ------
    NotFoundError
        If the file is missing.
    MissingExtraError
        If a ``.safetensors`` file is read and safetensors is not installed.
    CheckpointError
        If the file is damaged, would run code, or does not contain the finite weights of a network.
    ModelError
        If `output_order` is not a permutation of the outputs.

    Warns
    -----
    UserWarning
        If the file is a classifier of ClinicaDL 1.x and `output_order` is missing.

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
    file = check_path("path", path, where="read_weights")
    order = output_order
    if order is not None:
        order = check_list("output_order", order, "integers such as (1, 0)", where="read_weights")
        check_each("output_order", order, check_integer, minimum=0, where="read_weights")
    content = (
        read_safetensors(file) if file.suffix == ".safetensors" else load_tensors(file, safe=_numpy_scalars())
    )
    keys = [
        key
        for key in ("model", "state_dict")
        if isinstance(content, dict) and isinstance(content.get(key), dict)
    ]
    weights = check_state_dict(content[keys[0]] if keys else content, file)
    state = unwrap_names(weights)
    # ClinicaDL 0.2 wrote this key.
    if "valid_loss" in content:
        state = from_torchvision(_rename(state, V02_PREFIXES))
    elif set(content) == {"model", "epoch", "name"}:
        # ClinicaDL 1.x or neurocnn wrote these keys.
        state = _rename(state, V1_PREFIXES)
        if order is None and str(content["name"]) in V1_CLASSIFIERS:
            warnings.warn(
                f"{file}: output_order=None; ClinicaDL 1.x sorts its labels (AD 0, CN 1), and their order is kept; "
                "pass output_order=(1, 0) for classes=['CN', 'AD'], or (0, 1) to keep the order; in an experiment, "
                "use classes=['AD', 'CN']",
                stacklevel=2,
            )
    if len(state) < len(weights):
        raise CheckpointError(
            f"{file}: several parameters have the same name after renaming; expected distinct names"
        )
    return state if order is None else _reorder_outputs(state, order, file)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with neurocnn's names for the parameters of torchvision's ResNet-18.

    Examples
    --------
    >>> list(from_torchvision({"layer4.1.conv2.weight": Tensor(), "fc.bias": Tensor()}))
    ['convolutions.7.1.conv2.weight', 'fc.1.bias']
    """
    return _rename(state, TORCHVISION_PREFIXES)


def _rename(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    pattern = re.compile(f"^(?:{'|'.join(map(re.escape, prefixes))})")
    return {pattern.sub(lambda match: prefixes[match[0]], name): value for name, value in state.items()}


def _reorder_outputs(state: dict[str, Tensor], order: list[int], path: object) -> dict[str, Tensor]:
    """Permute the outputs of the last fully-connected layer."""
    tensors = [name for name, value in state.items() if name.startswith("fc.") and value.dim()]
    last = max(tensors, key=_layer_numbers, default="fc.?.weight").rpartition(".")[0]
    names = [name for name in tensors if name.rpartition(".")[0] == last]
    sizes = {len(state[name]) for name in names}
    if sizes != {len(order)} or sorted(order) != list(range(len(order))):
        found = f"{min(sizes)} outputs" if sizes else "no outputs (parameters fc.…)"
        raise ModelError(
            f"{path}: output_order={tuple(order)}, but the file has {found}; expected each output once"
        )
    return {name: value[order] if name in names else value for name, value in state.items()}


def _layer_numbers(name: str) -> list[tuple[int, str]]:
    """Return the numbers of the layers in a parameter's name, as a key by which names are sorted."""
    # Numbers are compared by length first, because int() refuses thousands of digits.
    return [(len(digits), digits) for digits in re.findall(r"\.(\d+)(?=\.)", name)]


def _numpy_scalars() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    # ClinicaDL 0.2 stored its losses as numpy scalars; the module of `scalar` has different names in numpy 1 and 2.
    scalar: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
    old, new = "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"
    return [(scalar, old), (scalar, new), np.dtype, np.dtypes.Float64DType]

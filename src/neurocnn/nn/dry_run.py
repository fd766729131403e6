"""Copies of networks, and the shapes of their outputs, determined on the meta device without computing values."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neurocnn.errors import ModelError


def copy_network(module: nn.Module, where: str = "", memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of a network.

    Parameters
    ----------
    module
        The network.
    where
        Name of the network, for the message.
    memo
        Copies of some of the network's tensors, by `id` of the original; see `copy.deepcopy`.

    Raises
    ------
    ModelError
        If a layer keeps a computed tensor, such as the weight of the old weight_norm, or cannot be copied for another
        reason; the message contains the path of the layer.

    Examples
    --------
    >>> copy_network(nn.Linear(2, 1))
    Linear(in_features=2, out_features=1, bias=True)
    """
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        for path, layer in module.named_modules():
            computed = [
                name for name, value in vars(layer).items() if isinstance(value, Tensor) and value.grad_fn
            ]
            if computed:
                reason = (
                    f"{path or 'the network'} ({type(layer).__name__}) keeps the computed tensor {computed[0]!r}; "
                    "expected only parameters and buffers; use torch.nn.utils.parametrizations, not the old weight_norm"
                )
            elif isinstance(layer, nn.modules.lazy.LazyModuleMixin):
                reason = f"{path or 'the network'} is an uninitialised lazy layer; call the network with a batch first"
        raise ModelError(
            f"{where or type(module).__name__}: the network cannot be copied: {reason}"
        ) from error


def dry_run(module: nn.Module, input_shape: Sequence[int], batch: int = 2) -> Any:
    """Return the output of a copy of `module` for a batch of zeros.

    The copy runs on torch's meta device, where tensors have shapes but no values, in evaluation mode: no memory is
    allocated, no random number drawn, and `module` is unchanged. Only a network that needs values (for example
    because it branches on values) runs on the CPU.

    Parameters
    ----------
    module
        The network; its parameters may be on any device.
    input_shape
        Shape (C, …) of one image.
    batch
        Number of images.

    Examples
    --------
    >>> dry_run(nn.Conv2d(1, 8, 3), (1, 10, 12)).shape
    torch.Size([2, 8, 8, 10])
    """
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    with torch.no_grad():
        try:
            return _copy(module, "meta").eval()(torch.zeros(batch, *input_shape, device="meta", dtype=dtype))
        except Exception:
            if any(tensor.is_meta for tensor in module.parameters()):
                raise
        with torch.random.fork_rng(devices=()):
            return _copy(module, "cpu").eval()(torch.zeros(batch, *input_shape, dtype=dtype))


def layer_shapes(
    module: nn.Module, input_shape: Sequence[int]
) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Return the path, the module and the output shape (C, …) for one image of each innermost layer.

    Parameters
    ----------
    module
        The network.
    input_shape
        Shape (C, …) of one image.

    Examples
    --------
    >>> layer_shapes(nn.Sequential(nn.Conv2d(1, 8, 3)), (1, 10, 12))[0][2]
    (8, 8, 10)
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        shapes[name] = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else ()

    leaves = [(name, layer) for name, layer in module.named_modules() if not [*layer.children()]]
    hooks = [layer.register_forward_hook(partial(record, name)) for name, layer in leaves]
    try:
        dry_run(module, input_shape)
    finally:
        for hook in hooks:
            hook.remove()
    return [(name, layer, shapes.get(name, ())) for name, layer in leaves]


def _copy(module: nn.Module, device: str) -> nn.Module:
    # deepcopy uses these tensors from its memo, so that it does not copy the tensors of the network on their own
    # device.
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to(device), requires_grad=p.requires_grad and p.is_floating_point())
        for p in module.parameters()
        if not isinstance(p, nn.parameter.UninitializedParameter)
    }
    memo.update({id(b): b.detach().to(device, copy=True) for b in module.buffers() if b is not None})
    return copy_network(module, memo=memo)

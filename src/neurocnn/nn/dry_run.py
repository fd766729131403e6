"""The shape of a network's outputs, determined without computing them."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn


def dry_run(module: nn.Module, input_shape: Sequence[int], batch: int = 2) -> Any:
    """Return the output of a copy of `module` for a batch of zeros.

    The copy runs on torch's meta device, where tensors have shapes but no values, in evaluation mode: no memory is
    allocated, no random number drawn, and `module` is unchanged. Only a network that needs values (for example
    because it branches on them) runs on the CPU.

    Parameters
    ----------
    module
        The network; its parameters may be on any device.
    input_shape
        (C, …) of one image.
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
        (C, …) of one image.

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
    # deepcopy uses the tensors in its memo, so they are never copied on their own device.
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to(device), requires_grad=p.requires_grad and p.is_floating_point())
        for p in module.parameters()
        if not isinstance(p, nn.parameter.UninitializedParameter)
    }
    memo.update({id(b): b.detach().to(device, copy=True) for b in module.buffers() if b is not None})
    return copy.deepcopy(module, memo)

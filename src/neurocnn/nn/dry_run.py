"""The shape of a network's outputs, found without computing them."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def dry_run(module: nn.Module, input_shape: Sequence[int], batch: int = 2) -> Any:
    """Send zeros through a copy of `module` and return what comes out.

    It runs on torch's meta device, where tensors have shapes and no values, in evaluation mode: no memory is
    taken, no random number drawn, and `module` stays as it is. Only a network that needs values
    (say, one that branches on them) is run on the CPU.

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


def _copy(module: nn.Module, device: str) -> nn.Module:
    # deepcopy takes from its memo what stands there: the tensors are never copied on their own device.
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to(device), requires_grad=p.requires_grad and p.is_floating_point())
        for p in module.parameters()
        if not isinstance(p, nn.parameter.UninitializedParameter)
    }
    memo.update({id(b): b.detach().to(device, copy=True) for b in module.buffers() if b is not None})
    return copy.deepcopy(module, memo)

"""Fast allocation of large tensors; memory formats; tests of whether the values of a tensor can be accessed.

On a CPU, allocation takes most of the time of an unpooling: the system clears each new page of 4 KiB at its first
access, and torch clears it again. numpy requests pages of 2 MiB (on Linux), and does not clear memory that the system
has already cleared. The values are the same; `benchmarks/test_pooling.py` measures the time.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


def allocate_like(
    like: Tensor, size: Sequence[int], dtype: torch.dtype | None = None, zeros: bool = False
) -> Tensor:
    """Return a new tensor (B, C, …) on the device and in the memory format of `like`.

    Parameters
    ----------
    like
        Tensor (B, C, …) of any size.
    size
        Shape of the new tensor.
    dtype
        Data type of the new tensor, by default that of `like`.
    zeros
        Whether to fill the tensor with zeros; otherwise its values are arbitrary.

    Raises
    ------
    MemoryError
        If numpy cannot allocate the memory (on a CPU).

    Notes
    -----
    On a CPU numpy owns the memory, so ``resize_`` cannot enlarge the tensor.

    Examples
    --------
    >>> allocate_like(torch.rand(1, 2, 3, 3), (1, 2, 2, 2), zeros=True).sum()
    tensor(0.)
    """
    dtype = dtype or like.dtype
    layout = torch.contiguous_format
    if is_channels_last(like):
        layout = torch.channels_last if like.dim() == 4 else torch.channels_last_3d
    if not is_eager(like):
        new = torch.empty(size, dtype=dtype, device=like.device, memory_format=layout)
        return new.zero_() if zeros else new
    allocate = np.zeros if zeros else np.empty
    memory = torch.from_numpy(allocate(math.prod(size) * dtype.itemsize, np.uint8)).untyped_storage()
    strides = torch.empty(size, device="meta", memory_format=layout).stride()
    return torch.empty(0, dtype=dtype, device=like.device).set_(memory, 0, size, strides)


def is_channels_last(x: Tensor) -> bool:
    """Return whether `x` (B, C, …) is stored channels-last: its channels have the smallest stride."""
    strides = [x.stride(axis) for axis in (1, *range(x.dim() - 1, 1, -1), 0)]
    return strides[0] == 1 and all(a <= b for a, b in pairwise(strides)) and not x.is_contiguous()


def is_eager(x: Tensor, device: str = "cpu") -> bool:
    """Return whether `x` is a plain tensor on this type of device: not batched by vmap, not being compiled."""
    if x.device.type != device or type(x) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling():
        return False
    try:
        x.untyped_storage()
    except NotImplementedError:
        # The wrapped tensors of torch.func and torch.vmap have no storage.
        return False
    return True


def needs_plain_operations() -> bool:
    """Return whether only torch's own operations work, as in `torch.jit.trace` and forward-mode derivatives.

    This package defines no forward-mode derivatives, because torch.compile refuses functions that have them.
    """
    if torch.compiler.is_compiling():
        return False
    # The nesting level is read, because a dual tensor cannot be recognised if another transform of torch.func wraps it.
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return tracing or getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0


def flattening(like: Tensor) -> tuple[Callable[[Tensor], Tensor], int]:
    """Return a function that flattens the spatial axes in the memory format of `like`, and the resulting axis."""
    return (_flatten_channels_last, 1) if is_channels_last(like) else (_flatten_contiguous, 2)


# reshape is used, because torch does not support flatten in batched gradients (vmap).
def _flatten_contiguous(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def _flatten_channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(x.shape[0], math.prod(x.shape[2:]), x.shape[1])


def unflatten(x: Tensor, axis: int, size: Sequence[int]) -> Tensor:
    """Return flattened maps as (B, C, \\*size)."""
    if axis == 1:
        return x.reshape(x.shape[0], *size, x.shape[2]).movedim(-1, 1)
    return x.reshape(*x.shape[:2], *size)

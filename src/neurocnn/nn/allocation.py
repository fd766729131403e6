"""Fast allocation of large new tensors.

On a CPU, allocation takes most of the time of an unpooling: the system clears each new page of 4 KiB at its first
access, and torch clears it again. numpy requests pages of 2 MiB (on Linux), and does not clear memory that the system
has already cleared. The values are the same; `benchmarks/test_pooling.py` measures the time.
"""

import math
from collections.abc import Sequence
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
    if not is_eager_cpu(like):
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


def is_eager_cpu(x: Tensor) -> bool:
    """Return whether the values of `x` are in CPU memory: not on a GPU, not batched by vmap, not being compiled."""
    if x.device.type != "cpu" or type(x) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling():
        return False
    try:
        x.untyped_storage()
    except NotImplementedError:  # The wrapped tensors of torch.func and torch.vmap have no storage.
        return False
    return True

"""Memory for large new tensors that costs little to get.

On a CPU, most of the time of an unpooling goes into memory: the system clears each new page of 4 KiB when it is first
touched, and torch then clears it again. numpy asks (on Linux) for pages of 2 MiB, and takes memory that the system
has cleared as the zeros that it is. The numbers are the same; `benchmarks/test_pooling.py` shows the time.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


def fresh(like: Tensor, size: Sequence[int], dtype: torch.dtype | None = None, zeros: bool = False) -> Tensor:
    """Make a new tensor (B, C, …) where `like` lies, channels last if `like` is so.

    Parameters
    ----------
    like
        (B, C, …), whatever its sizes; its device and, unless another is given, its data type are taken.
    size
        That of the new tensor.
    dtype
        Its data type.
    zeros
        Fill it with zeros; else its values are arbitrary.

    Notes
    -----
    On a CPU the memory is numpy's: ``resize_`` cannot enlarge the tensor, and where there is too little memory
    the error is a `MemoryError`.

    Examples
    --------
    >>> fresh(torch.rand(1, 2, 3, 3), (1, 2, 2, 2), zeros=True).sum()
    tensor(0.)
    """
    dtype = dtype or like.dtype
    if not is_plain(like):
        memory_format = _memory_format(like)
        new = torch.empty(size, dtype=dtype, device=like.device, memory_format=memory_format)
        return new.zero_() if zeros else new
    make = np.zeros if zeros else np.empty
    pages = torch.from_numpy(make(math.prod(size) * dtype.itemsize, np.uint8)).untyped_storage()
    strides = torch.empty(size, device="meta", memory_format=_memory_format(like)).stride()
    return torch.empty(0, dtype=dtype, device=like.device).set_(pages, 0, size, strides)


def _memory_format(x: Tensor) -> torch.memory_format:
    if is_channels_last(x):
        return torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return torch.contiguous_format


def is_channels_last(x: Tensor) -> bool:
    """Tell whether the channels of `x` (B, C, …) lie side by side in memory, and its last axis next."""
    strides = [x.stride(axis) for axis in (1, *range(x.dim() - 1, 1, -1), 0)]
    return strides[0] == 1 and all(a <= b for a, b in pairwise(strides)) and not x.is_contiguous()


def is_plain(x: Tensor) -> bool:
    """Tell whether `x` is numbers in the CPU's memory: not on a GPU, not batched by vmap, not being compiled."""
    if x.device.type != "cpu" or type(x) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling():
        return False
    try:
        x.untyped_storage()
    except NotImplementedError:  # what torch.func and torch.vmap hand around has none
        return False
    return True

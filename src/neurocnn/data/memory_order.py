"""Fast reading of tensors whose first axis is contiguous in memory, as in NIfTI files."""

from collections.abc import Iterator
from types import EllipsisType

import torch
from torch import Tensor

Box = tuple[slice | EllipsisType, ...]
# Along the first axis, a tile is as long as a cache line. Along the other axes, it has as many voxels as fit into the
# processor's cache.
_LINE, _TILE = 16, 2**15


def bounds_of(voxels: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value; both are NaN if any voxel is NaN.

    Examples
    --------
    >>> bounds_of(torch.tensor([[1.0, 4.0], [2.0, 3.0]]).T)
    (1.0, 4.0)
    """
    # The axes are permuted into the order of the memory, so that torch needs no copy.
    axes = sorted(range(voxels.dim()), key=voxels.stride, reverse=True)
    low, high = torch.aminmax(voxels.permute(axes))
    return low.item(), high.item()


def tiles(voxels: Tensor) -> Iterator[Box]:
    """Yield the boxes by which a tensor is copied: one box if the tensor is small or its last axis is contiguous."""
    if voxels.dim() < 3 or voxels.stride(-1) == 1 or voxels.numel() <= _TILE:
        yield (...,)
        return
    first, second, third = voxels.shape[-3:]
    width = max(1, _TILE // (_LINE * third))
    for i in range(0, first, _LINE):
        for j in range(0, second, width):
            yield (..., slice(i, i + _LINE), slice(j, j + width), slice(None))


def copy_voxels(voxels: Tensor, out: Tensor | None = None) -> Tensor:
    """Return a contiguous copy of a tensor, which is written into `out` if given.

    Examples
    --------
    >>> copy_voxels(torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]).T).tolist()
    [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    """
    if out is None:
        out = torch.empty(voxels.shape, dtype=voxels.dtype)
    for box in tiles(voxels):
        out[box].copy_(voxels[box])
    return out

"""Max pooling of two voxels per axis on the CPU, by torch's kernel for channels-last maps.

torch pools channels-last maps with vector instructions, over the channels of a voxel, and other maps voxel by voxel,
which takes several times as long. Here the voxels of a row are passed to that kernel as channels, so that it pools all
axes but the last; then the two voxels of each pair in a row are compared. The maps are visited in pieces, whose
intermediate results fit into the processor's cache.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from neurocnn.nn.allocation import allocate_like, is_channels_last, is_eager

# Number of voxels that are pooled at once, which are 4 MiB of float32.
PIECE = 2**20
#: Smallest number of voxels, and of voxels per row, of a map that is pooled in this way. For other maps, torch's kernel
#: is faster.
PAIRS_VOXELS, PAIRS_ROW = 2**18, 8


def pools_pairs(x: Tensor) -> bool:
    """Return whether `pool_pairs` pools the map `x` (B, C, …): a large map of a known memory format on the CPU."""
    # This is tested first, because an exported program must not depend on the number of voxels.
    if not is_eager(x) or not x.is_floating_point() or x.numel() < PAIRS_VOXELS:
        return False
    return is_channels_last(x) or (x.is_contiguous() and x.shape[-1] >= PAIRS_ROW)


def pool_pairs(x: Tensor, return_indices: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return the maximum of each window of two voxels per axis, with a padding of −inf in front of odd axes.

    Parameters
    ----------
    x
        Feature maps (B, C, H, W) or (B, C, D, H, W) for which `pools_pairs` is True.
    return_indices
        Whether to return the positions of the maxima in the flattened map. Of equal voxels, the first is the maximum;
        0.0 and -0.0 are equal, and either may be the value.

    Returns
    -------
    tuple
        The maxima and their positions, in the memory format of `x`. If a window contains a NaN, its maximum is NaN and
        its position may be that of any voxel in the window.

    Examples
    --------
    >>> maxima, indices = pool_pairs(torch.tensor([[[[1.0, 4.0, 3.0], [2.0, 2.0, 5.0]]]]), return_indices=True)
    >>> maxima.tolist(), indices.tolist()
    ([[[[2.0, 5.0]]]], [[[[3, 5]]]])
    """
    size = [*x.shape[:2], *(-(-n // 2) for n in x.shape[2:])]
    out = allocate_like(x, size)
    indices = allocate_like(x, size, torch.int64) if return_indices else None
    # Maps of one voxel have both memory formats, so the format is that of `x` for all three tensors.
    last = is_channels_last(x)
    maps, pooled = _rows(x, last), _rows(out, last)
    positions = None if indices is None else _rows(indices, last)
    for maps_of_piece, planes, pooled_planes in _pieces(maps):
        piece = maps[maps_of_piece, planes]
        first = planes.start * math.prod(x.shape[-2:])
        into = (maps_of_piece, pooled_planes)
        _pool_piece(piece, pooled[into], None if positions is None else positions[into], first)
    return out, indices


def _rows(x: Tensor, channels_last: bool) -> Tensor:
    """Return maps as (maps, D, H, W, channels) in the order of their memory. Contiguous maps have one channel here."""
    x = x.movedim(1, -1) if channels_last else x.flatten(0, 1).unsqueeze(-1)
    return x if x.dim() == 5 else x.unsqueeze(1)


def _pieces(maps: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Yield the maps and the planes of each piece, and the planes of its maxima."""
    n, depth = maps.shape[:2]
    plane, odd = max(1, math.prod(maps.shape[2:])), depth % 2
    together, step = max(1, PIECE // (plane * max(1, depth))), max(1, PIECE // plane // 2) * 2
    # The first window of an odd axis contains one plane, so the first piece has one plane less than the others.
    planes = [0, *range(step - odd, depth, step), depth]
    for start in range(0, n, together):
        for first, end in pairwise(planes):
            yield (
                slice(start, start + together),
                slice(first, end),
                slice((first + odd) // 2, (end + odd) // 2),
            )


def _pool_piece(piece: Tensor, out: Tensor, positions: Tensor | None, first: int) -> None:
    """Write the maxima of a piece (maps, D, H, W, channels) and their positions; its first voxel is at `first`."""
    depth, height, width, channels = piece.shape[1:]
    two, odd = (min(2, depth), 2), width % 2
    rows = piece.flatten(-2).movedim(-1, 1)
    found = torch.ops.aten.max_pool2d_with_indices(
        rows, two, two, (depth % 2 if depth > 1 else 0, height % 2)
    )
    maxima, planes = (each.movedim(1, -1).unflatten(-1, (width, channels)) for each in found)
    early, late = (maxima[..., start::2, :] for start in (odd, odd + 1))
    torch.maximum(early, late, out=out[..., odd:, :])
    if odd:
        out[..., 0, :] = maxima[..., 0, :]
    if positions is None:
        return
    planes_of_early, planes_of_late = (planes[..., start::2, :] for start in (odd, odd + 1))
    is_late = (late == early).logical_and_(planes_of_late < planes_of_early).logical_or_(late > early)
    columns = torch.arange(first + odd, first + width, 2, device=out.device)[:, None]
    pairs = positions[..., odd:, :]
    torch.where(is_late, planes_of_late, planes_of_early, out=pairs)
    torch.add(columns, pairs, alpha=width, out=pairs).add_(is_late)
    if odd:
        torch.add(first, planes[..., 0, :], alpha=width, out=positions[..., 0, :])

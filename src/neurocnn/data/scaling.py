"""Smallest and largest values of parts, which are kept, and min-max scaling that reads and writes each voxel once."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch import Tensor

from neurocnn.data.images import Images
from neurocnn.data.memory_order import tiles

Floats = npt.NDArray[np.float32]
#: Smallest and largest value of a part.
Bounds = tuple[float, float]
# Voxels per block: read, subtracted from and divided while they are in the processor's cache.
_BLOCK = 2**16


class KeptBounds:
    """The bounds of the parts of a dataset, once they are known: later visits of a part read it once.

    Parameters
    ----------
    images
        Reader of the images. If a file was replaced, all bounds are unknown again.
    n_images, n_parts
        Numbers of images, and of parts of each.

    Examples
    --------
    >>> kept = KeptBounds(Images(None, "error", 0), n_images=2, n_parts=3)
    >>> kept.put(1, 2, (0.5, 4.0))
    >>> kept.get(1, 2), kept.get(0, 2)
    ((0.5, 4.0), None)
    """

    def __init__(self, images: Images, n_images: int, n_parts: int) -> None:
        self._images, self._shape = images, (n_images, n_parts, 2)
        self._clear()

    def __reduce__(self) -> tuple[type["KeptBounds"], tuple[Images, int, int]]:
        return KeptBounds, (self._images, *self._shape[:2])

    def _clear(self) -> None:
        # The system provides zeros without memory until they are written.
        self._values: Floats = np.zeros(self._shape, np.float32)
        self._generation = self._images.generation

    def get(self, row: int, position: int) -> Bounds | None:
        """Return the bounds of a part, or None if they are unknown."""
        if self._generation != self._images.generation:
            self._clear()
        low, high = self._values[row, position].tolist()
        return (low, high) if low != high else None

    def put(self, row: int, position: int, bounds: Bounds) -> None:
        """Keep the bounds of a part."""
        # One assignment, so that no other thread sees only one of the two.
        self._values[row, position] = bounds


def scale(part: Tensor, bounds: Bounds, out: Tensor) -> None:
    """Write (part − min) / (max − min) into `out`, zeros if the part is constant: what `MinMax` returns, bit for bit.

    Examples
    --------
    >>> import torch
    >>> out = torch.empty(3)
    >>> scale(torch.tensor([2.0, 3.0, 6.0]), (2.0, 6.0), out)
    >>> out.tolist()
    [0.0, 0.25, 1.0]
    """
    low, high = np.float32(bounds[0]), np.float32(bounds[1])
    with np.errstate(all="ignore"):
        span = high - low
        if not span > 0:
            out.zero_()
            return
        for voxels, target in _blocks(part, out):
            np.subtract(voxels, low, out=target)
            np.divide(target, span, out=target)


def _blocks(part: Tensor, out: Tensor) -> Iterator[tuple[Floats, Floats]]:
    """Divide two tensors of one shape into blocks; those of a transposed part are copied to `out` first."""
    if part.is_contiguous() and out.is_contiguous():
        flat, target = part.numpy().reshape(-1), out.numpy().reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            yield flat[start : start + _BLOCK], target[start : start + _BLOCK]
        return
    for box in tiles(part):
        block = part[box] if part.stride(-1) == 1 else out[box].copy_(part[box])
        yield block.numpy(), out[box].numpy()

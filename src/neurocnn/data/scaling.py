"""Min-max scaling that reads and writes each voxel once, because the smallest and largest value are known."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurocnn.data.memory_order import tiles
from neurocnn.data.reader import ImageReader

Floats = npt.NDArray[np.float32]
#: Smallest and largest value of a part.
Bounds = tuple[float, float]
# Number of voxels per block. A block of this size remains in the processor's cache for both operations.
_BLOCK = 2**16
# Images of at least this size are scaled by torch's threads, if the calling thread may use several. For smaller parts,
# and for a single thread, numpy is as fast or faster.
_LARGE = 2**20


class BoundsCache:
    """Smallest and largest values of the parts of a dataset, with which a part can be scaled in a single pass.

    Parameters
    ----------
    images
        Reader of the images. If the reader detects that a file was replaced, all stored values are deleted.
    n_images, n_parts
        Number of images, and number of parts per image.

    Examples
    --------
    >>> kept = BoundsCache(ImageReader(None, "error", 0), n_images=2, n_parts=3)
    >>> kept.put(1, 2, (0.5, 4.0))
    >>> kept.get(1, 2), kept.get(0, 2)
    ((0.5, 4.0), None)
    """

    def __init__(self, images: ImageReader, n_images: int, n_parts: int) -> None:
        self._images, self._shape = images, (n_images, n_parts, 2)
        self._clear()

    def __reduce__(self) -> tuple[type["BoundsCache"], tuple[ImageReader, int, int]]:
        return BoundsCache, (self._images, *self._shape[:2])

    def _clear(self) -> None:
        # The system allocates the memory of the zeros only when values are written.
        self._values: Floats = np.zeros(self._shape, np.float32)
        self._generation = self._images.generation

    def get(self, row: int, position: int) -> Bounds | None:
        """Return the smallest and largest value of a part, or None if they are unknown."""
        if self._generation != self._images.generation:
            self._clear()
        low, high = self._values[row, position].tolist()
        return (low, high) if low != high else None

    def put(self, row: int, position: int, bounds: Bounds) -> None:
        """Store the smallest and largest value of a part."""
        # A single assignment sets both values, so that other threads never read a new and an old one.
        self._values[row, position] = bounds


def scale(part: Tensor, bounds: Bounds, out: Tensor) -> None:
    """Write (part − min) / (max − min), or zeros for a constant part, into `out`.

    The result is bit-identical to that of `MinMax`.

    Examples
    --------
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
        if part.numel() >= _LARGE and part.stride(-1) == 1 and torch.get_num_threads() > 1:
            torch.sub(part, float(low), out=out).div_(float(span))
            return
        for voxels, target in _blocks(part, out):
            np.subtract(voxels, low, out=target)
            np.divide(target, span, out=target)


def _blocks(part: Tensor, out: Tensor) -> Iterator[tuple[Floats, Floats]]:
    """Yield blocks of two tensors of equal shape; blocks of a transposed part are first copied to `out`."""
    if part.is_contiguous() and out.is_contiguous():
        flat, target = part.numpy().reshape(-1), out.numpy().reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            yield flat[start : start + _BLOCK], target[start : start + _BLOCK]
        return
    for box in tiles(part):
        block = part[box] if part.stride(-1) == 1 else out[box].copy_(part[box])
        yield block.numpy(), out[box].numpy()

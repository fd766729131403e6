"""Reusable memory for batches. Allocating new memory takes longer than scaling the voxels that are written into it."""

import sys

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]


class Buffers:
    """Arrays for batches; an array is reused when nothing else refers to it.

    Parameters
    ----------
    copies
        Stream in which the arrays are copied to a GPU, or None. The arrays are then in pinned memory, from which a GPU
        copies faster.

    Examples
    --------
    >>> buffers = Buffers(None)
    >>> first, second = buffers.get(2, (1, 4)), buffers.get(2, (1, 4))
    >>> address = first.ctypes.data
    >>> del first
    >>> buffers.get(1, (1, 4)).ctypes.data == address, len(buffers.arrays)
    (True, 2)
    """

    def __init__(self, copies: torch.cuda.Stream | None) -> None:
        self.stream = copies
        self.arrays: list[Floats] = []
        # Event of the last copy of each array to the GPU, by the id of the array.
        self.copies: dict[int, torch.cuda.Event] = {}

    def get(self, n: int, shape: tuple[int, ...]) -> Floats:
        """Return an unused array of shape (m, *shape), with m ≥ n."""
        free = [k for k in range(len(self.arrays)) if self._is_free(k)]
        for k in free:
            if self.arrays[k].shape[1:] == shape and len(self.arrays[k]) >= n:
                return self.arrays[k]
        if free:
            # No unused array fits, because it is too small or was created for samples of another shape. One of them is
            # replaced.
            self.copies.pop(id(self.arrays.pop(free[0])), None)
        largest = max([n, *(len(array) for array in self.arrays if array.shape[1:] == shape)])
        # torch aligns memory for all kernels, so that results do not depend on the buffer.
        self.arrays.append(torch.empty((largest, *shape), pin_memory=self.stream is not None).numpy())
        return self.arrays[-1]

    def _is_free(self, k: int) -> bool:
        copied = self.copies.get(id(self.arrays[k]))
        return _count_references(self.arrays, k) == _UNUSED and (copied is None or copied.query())  # type: ignore[no-untyped-call]

    def mark_copied(self, array: Floats | None) -> None:
        """Record that a copy of this array to the GPU was started, if there is one."""
        if array is not None:
            self.copies[id(array)] = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.copies[id(array)].record(self.stream)


def _count_references(arrays: list[Floats], k: int) -> int:
    return sys.getrefcount(arrays[k])


# Reference count of an unused array, to which only the list refers. It depends on the version of Python.
_UNUSED = _count_references([np.empty(0, np.float32)], 0)

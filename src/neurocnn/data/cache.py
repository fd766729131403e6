"""Cache of images, limited in bytes, and locks for threads that read images."""

import os
import threading
from collections import OrderedDict

from torch import Tensor
from torch.utils.data import get_worker_info

from neurocnn.data.sources import Source

_N_LOCKS = 64
_locks: list[threading.RLock] = []


def _renew_locks() -> None:
    # A forked process inherits locks that are held, but not the threads that would release them.
    _locks[:] = [threading.RLock() for _ in range(_N_LOCKS + 1)]


_renew_locks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def lock_of(source: Source) -> threading.RLock:
    """Return the lock that a thread holds while it reads an image. Several images may share a lock."""
    return _locks[hash(source) % _N_LOCKS]


class Cache:
    """Cache of the most recently used images.

    Parameters
    ----------
    n_bytes
        Largest total size, shared equally among the workers of a data loader.
    n_images
        Largest number of images.
    """

    def __init__(self, n_bytes: int, n_images: int) -> None:
        self.n_bytes = n_bytes
        self.n_images = n_images
        self.n_held_bytes = 0
        self._images: OrderedDict[Source, Tensor] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def get(self, source: Source) -> Tensor | None:
        """Return an image, or None if missing. The image becomes the most recently used one."""
        with _locks[-1]:
            image = self._images.get(source)
            if image is not None:
                self._images.move_to_end(source)
            return image

    def has_room(self, image: Tensor) -> bool:
        """Return whether an image can be added without evicting others."""
        return self.n_held_bytes + image.nbytes <= self._limit() and len(self._images) < self.n_images

    def _limit(self) -> int:
        info = get_worker_info()
        return self.n_bytes // (info.num_workers if info is not None else 1)

    def put(self, source: Source, image: Tensor) -> None:
        """Add an image and evict the least recently used ones."""
        limit = self._limit()
        with _locks[-1]:
            if source in self._images:
                self.n_held_bytes -= self._images.pop(source).nbytes
            # An image larger than the cache is not added, because it would evict all others.
            if image.nbytes <= limit:
                self._images[source] = image
                self.n_held_bytes += image.nbytes
            while self.n_held_bytes > limit or len(self._images) > self.n_images:
                self.n_held_bytes -= self._images.popitem(last=False)[1].nbytes

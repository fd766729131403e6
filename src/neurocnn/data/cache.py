"""Cache of images, limited in bytes, and locks for threads that read images."""

import os
import threading
from collections import OrderedDict

from torch import Tensor
from torch.utils.data import get_worker_info

from neurocnn.data.sources import Source
from neurocnn.errors.logger import LOGGER

# Linux limits the memory maps of a process to 65,530 by default.
_MOST_IMAGES = 30_000
# Mapped images outside the cache: one for each thread that reads images, or for each channel of one image.
_MOST_RECENT = 8
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
    """Cache of images, decoded or mapped into memory, limited in bytes.

    If a decoded image is added, the least recently used images are evicted. A mapped image evicts no other one, because
    mapping it again takes less time than decoding, and a pass in random order would need the evicted one as soon. If
    there is no room for it, it is kept while it is one of the few most recently mapped ones, so that the parts of an
    image can be read one after the other.

    Parameters
    ----------
    n_bytes
        Largest total size, shared equally among the workers of a data loader.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.n_held_bytes = 0
        self._images: OrderedDict[Source, Tensor] = OrderedDict()
        self._recent: OrderedDict[Source, Tensor] = OrderedDict()
        self._was_full = False

    def __len__(self) -> int:
        """Return the number of images, without those that are kept because they are recent."""
        return len(self._images)

    def get(self, source: Source) -> Tensor | None:
        """Return an image, or None if missing. It becomes the most recently used one in its list."""
        with _locks[-1]:
            for images in (self._images, self._recent):
                if (image := images.get(source)) is not None:
                    images.move_to_end(source)
                    return image
            return None

    def has_room(self, image: Tensor) -> bool:
        """Return whether an image can be added without evicting others."""
        return self.n_held_bytes + image.nbytes <= self._limit() and len(self._images) < _MOST_IMAGES

    def _limit(self) -> int:
        info = get_worker_info()
        return self.n_bytes // (info.num_workers if info is not None else 1)

    def put(self, source: Source, image: Tensor, *, mapped: bool = False) -> None:
        """Add an image, which is decoded or mapped into memory."""
        limit = self._limit()
        with _locks[-1]:
            if source in self._images:
                self.n_held_bytes -= self._images.pop(source).nbytes
            if mapped and not self.has_room(image):
                self._recent[source] = image
                if len(self._recent) > _MOST_RECENT:
                    self._recent.popitem(last=False)
                self._report_full()
                return
            # An image larger than the cache is not added, because it would evict all others.
            if image.nbytes <= limit:
                self._images[source] = image
                self.n_held_bytes += image.nbytes
            while self.n_held_bytes > limit or len(self._images) > _MOST_IMAGES:
                self.n_held_bytes -= self._images.popitem(last=False)[1].nbytes

    def _report_full(self) -> None:
        """Log once that there is no room for a prepared image."""
        if self.n_bytes and not self._was_full:
            self._was_full = True
            LOGGER.info(
                "cache_bytes=%d is full (%d images); the prepared images that are not in it are mapped again when they "
                "are needed; increase cache_bytes if there is enough memory",
                self.n_bytes,
                len(self._images),
            )

"""Reuse of freed memory by the C library during computations on the CPU."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

#: Parameters of glibc's `mallopt` (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Blocks of at most this size are reused. Larger ones fragment the heap: a training on whole images then took a third
#: more memory.
LARGEST_REUSED = 256 * 2**20
#: The largest values that glibc itself chooses from the sizes of freed blocks; they hold after the block.
MMAP_THRESHOLD, TRIM_THRESHOLD = 32 * 2**20, 64 * 2**20
#: Environment variables by which a user chooses these limits; they are left as they are.
USER_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")

_lock = Lock()
_n_blocks = 0
_resident_before = 0


@cache
def _c_function(name: str) -> Callable[..., int] | None:
    """Return a function of glibc; None for another C library, or if the user configured glibc by a variable."""
    if not sys.platform.startswith("linux") or any(name in os.environ for name in USER_SETTINGS):
        return None
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return function


def _set_thresholds(mmap: int, trim: int) -> None:
    mallopt = _c_function("mallopt")
    # Older versions of glibc allow at most 32 MiB. The second call alone would freeze the first limit at 128 KiB.
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, mmap) or mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)):
        mallopt(M_TRIM_THRESHOLD, trim)


def _begin_in_child() -> None:
    """Forget the blocks of the parent's threads, which do not exist in a forked process."""
    global _lock, _n_blocks
    _lock, _n_blocks = Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory in the process during the block, for the next batch; return it to the system afterwards.

    By default, glibc returns blocks of more than 32 MiB, such as a feature map, to the system at once. The system
    clears and maps every page of the next feature map again, which takes up to a third of a training step on the CPU.
    Blocks of several threads may overlap. Without effect where the C library is not glibc, and where an environment
    variable such as ``MALLOC_MMAP_THRESHOLD_`` configures it.

    Examples
    --------
    >>> with keep_freed_memory():
    ...     pass
    """
    global _n_blocks, _resident_before
    with _lock:
        _n_blocks += 1
        if _n_blocks == 1:
            _resident_before = _resident_bytes()
            _set_thresholds(LARGEST_REUSED, 2**31 - 1)
    try:
        yield
    finally:
        with _lock:
            # A process that was forked inside a block may leave it.
            _n_blocks = max(0, _n_blocks - 1)
            if _n_blocks == 0:
                _set_thresholds(MMAP_THRESHOLD, TRIM_THRESHOLD)
                _trim()


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _trim() -> None:
    # Trimming takes milliseconds, longer than the prediction of a few small parts.
    trim = _c_function("malloc_trim")
    if trim is not None and _resident_bytes() - _resident_before > TRIM_THRESHOLD // 2:
        trim(0)

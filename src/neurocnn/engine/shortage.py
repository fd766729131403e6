"""Errors from a lack of file handles or shared memory, which worker processes need."""

import errno
import re

from neurocnn.errors import TrainingError

#: Words in the messages of the system and of torch that report this lack.
_MESSAGES = re.compile(r"Too many open files|ancdata|shared memory|/dev/shm|shm_open")


def is_shortage(error: BaseException) -> bool:
    """Return whether an error reports a lack of file handles or shared memory.

    Examples
    --------
    >>> is_shortage(OSError(24, "Too many open files"))
    True
    """
    # The workers' queues have semaphores in shared memory; if it is full, the error names no file.
    no_space = isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
    return no_space or _MESSAGES.search(str(error)) is not None


def shortage_error(error: BaseException) -> TrainingError:
    """Return an error with a remedy, to replace an error for which `is_shortage` returns True."""
    return TrainingError(
        f"no more file handles or shared memory: {str(error).strip().splitlines()[-1]}; use fewer workers "
        "(n_workers) or a smaller batch_size, or raise the limit (ulimit -n, or the size of /dev/shm)"
    )

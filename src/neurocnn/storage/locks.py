"""File locks that the system releases when their process ends or is killed.

The package filelock provides the locks. It uses ``flock`` (on Windows ``msvcrt``). Version 4 is required for two
properties: a process that fails to acquire a lock does not change the holder's note in the lock file, and a forked
child closes the file, so that a worker that outlives its killed parent does not keep the lock. To close the file
in a child, filelock registers functions with `os.register_at_fork` when it is imported.

Without ``fcntl`` (some builds of Python for small systems) filelock can only create a marker file. A marker
file also excludes a second run, but may have to be deleted by hand if its run was killed on another machine.
"""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:
    # fcntl is missing on Windows, and in some builds of Python for small systems.
    fcntl = None  # type: ignore[assignment]

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from neurocnn.errors import InUseError
from neurocnn.storage.files import storage_errors

#: `hold` retries for this time before it raises an error, because `is_held` in another process takes the lock briefly.
_PROBE_SECONDS = 0.5


@contextlib.contextmanager
def hold(path: str | os.PathLike[str], what: str, *, wait: bool = False) -> Iterator[BaseFileLock]:
    """Hold a lock during the block. If the process dies, the system releases the lock.

    Parameters
    ----------
    path
        Path of the lock file, created if missing. The file is never removed: otherwise two processes could lock two
        different files of the same name.
    what
        Name of the protected files, for the message to a second process.
    wait
        Whether to wait until another process releases the lock, instead of raising an error.

    Yields
    ------
    lock
        The lock, which `remove_leftovers` requires.

    Raises
    ------
    InUseError
        If another process holds the lock. The message contains its host and process id.
    StorageError
        If the file cannot be locked: read-only folder, another user's file, a link, a disk without locks.
    """
    path = Path(path)
    # No note is written into a marker file, because filelock writes its own note there.
    note: dict[str, Any] = {} if issubclass(FileLock, SoftFileLock) else {"on_acquired": _write_note}
    with storage_errors(path, f"lock {what}"):
        lock = FileLock(
            path, -1 if wait else _PROBE_SECONDS, thread_local=False, fallback_to_soft=False, **note
        )
        try:
            _acquire(lock, path)
        except Timeout:
            raise InUseError(
                f"{what}: held by another process ({_read_note(path)}, lock {path}); wait until it has ended, or "
                "choose another folder"
            ) from None
    try:
        yield lock
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, path: Path) -> None:
    """Acquire a lock. If another process removes the folder of the lock in the meantime, it is created again."""
    for _ in range(100):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except FileNotFoundError:
            continue
        return
    raise FileNotFoundError(errno.ENOENT, "the folder of the lock is removed repeatedly")


def _write_note(descriptor: int) -> None:
    # If the lock file is a hard link, the note would overwrite the content of another file.
    if os.fstat(descriptor).st_nlink > 1:
        raise OSError(errno.EMLINK, "the lock file has several names (hard links)")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())


def _read_note(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")[:200].strip() or "unknown"
    except OSError:
        # Windows denies access to locked bytes.
        return "unknown"


def is_held(path: str | os.PathLike[str]) -> bool:
    """Return whether any process, including this one, holds the lock. The file is never created.

    Examples
    --------
    >>> with hold(tmp / "fold.lock", "split 0"):
    ...     is_held(tmp / "fold.lock")
    True
    >>> is_held(tmp / "fold.lock")
    False
    """
    path = Path(path)
    if fcntl is None:
        with contextlib.suppress(InUseError):
            if path.exists():
                with hold(path, "the lock"):
                    return False
            return False
        return True
    # `hold` is not used, because it would create the lock's folder again if another process has removed it in
    # the meantime.
    with storage_errors(path, "lock"), contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        stack.callback(os.close, descriptor)
        try:
            # The lock is shared, so that two processes that call this function at the same time do not detect each
            # other.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

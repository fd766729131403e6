"""File locks that the system releases when their process ends or is killed.

They come from filelock, which uses ``flock`` (on Windows ``msvcrt``). Two properties are needed that it has since
version 4: a process that finds the lock taken leaves the note of the holder in the file, and a forked child closes the
file, so that a worker that outlives its killed parent does not keep the lock. filelock registers functions with
`os.register_at_fork` for that when it is imported.

Without ``fcntl`` (some builds of Python for small systems) filelock can only create a marker file. Two runs are kept
apart there too, but the marker of a run that was killed on another machine may have to be deleted by hand.
"""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from neurocnn.errors import InUseError
from neurocnn.storage.files import storage_errors

#: `is_held` takes a lock briefly. Other processes wait this long before they report that it is in use.
_PROBE_SECONDS = 0.5


@contextlib.contextmanager
def hold(path: str | os.PathLike[str], what: str, *, wait: bool = False) -> Iterator[BaseFileLock]:
    """Hold a lock while the block runs. The system releases it if the process dies.

    Parameters
    ----------
    path
        Path of the lock file, created if missing. It is kept: after a removal two processes could lock two files of
        one name.
    what
        Name of the protected files, for the message to a second process.
    wait
        Wait until the other process releases the lock, instead of raising.

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
    # A marker file has a note of its own.
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
    """Acquire a lock, whose folder another process may remove at any time because its work is done."""
    for _ in range(100):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except FileNotFoundError:
            continue
        return
    raise FileNotFoundError(errno.ENOENT, "the folder of the lock is removed again and again")


def _write_note(descriptor: int) -> None:
    # A hard link could point to another file, whose content the note would replace.
    if os.fstat(descriptor).st_nlink > 1:
        raise OSError(errno.EMLINK, "the lock file has several names (hard links)")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())


def _read_note(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")[:200].strip() or "unknown"
    except OSError:  # Windows denies access to locked bytes
        return "unknown"


def is_held(path: str | os.PathLike[str]) -> bool:
    """Return whether a lock file is locked, by any process.

    Examples
    --------
    >>> with hold(tmp / "fold.lock", "split 0"):
    ...     is_held(tmp / "fold.lock")
    True
    >>> is_held(tmp / "fold.lock")
    False
    """
    try:
        with hold(path, "the lock"):
            return False
    except InUseError:
        return True

"""Atomic writes, and system errors with the path and a remedy.

An atomic write replaces a file completely or not at all, although a process may be killed at any time and a disk may
be full: the file is written under a temporary name in the same folder, flushed to the disk and renamed.
"""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import BaseFileLock

from neurocnn.errors import InUseError, NeurocnnError, StorageError

#: Names of the temporary files of `write_atomically`.
_TEMPORARY = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}", re.DOTALL)
_REMEDIES = {
    errno.ENOSPC: "free space on the disk",
    errno.EDQUOT: "free space within your quota",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ENOTDIR: "a file is where a folder is expected; choose another folder",
    errno.EEXIST: "a file is where a folder is expected; choose another folder",
    errno.EISDIR: "a folder is where a file is expected; choose another path",
    errno.ELOOP: "a link is where a file is expected; remove it",
    errno.ENOSYS: "the disk has no file locks; choose a folder on another disk",
    errno.ENOTSUP: "the disk has no file locks; choose a folder on another disk",
    errno.ENOLCK: "the disk has no file locks; choose a folder on another disk",
}


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str], action: str) -> Iterator[None]:
    """Raise a StorageError with the path and a remedy instead of an OSError of the system.

    Examples
    --------
    >>> with storage_errors("labels.tsv", "read"):
    ...     raise PermissionError(13, "Permission denied")
    Traceback (most recent call last):
    neurocnn.errors.StorageError: [Errno 13] cannot read: Permission denied; check the permissions: 'labels.tsv'
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, NeurocnnError):
            raise
        remedy = _REMEDIES.get(error.errno, "check the permissions")
        raise StorageError(
            error.errno, f"cannot {action}: {error.strerror}; {remedy}", os.fspath(path)
        ) from error


def is_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file exists, or raise a StorageError if this process may not access its folder."""
    with storage_errors(path, "read"):
        return Path(path).is_file()


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder exists, or raise a StorageError if this process may not access its parent folder."""
    with storage_errors(path, "read"):
        return Path(path).is_dir()


def find(folder: str | os.PathLike[str], pattern: str = "*") -> list[Path]:
    """Return the sorted paths in a folder that match a pattern; an empty list if the folder is missing."""
    with storage_errors(folder, "read"):
        if not Path(folder).is_dir():
            return []
        # `scandir` is called for its error, because glob returns nothing for a folder that cannot be read.
        os.scandir(folder).close()
        # glob fails if another process removes a subfolder in the meantime.
        for _ in range(100):
            with contextlib.suppress(FileNotFoundError):
                return sorted(Path(folder).glob(pattern))
        return sorted(Path(folder).glob(pattern))


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file for writing, which is renamed to `path` when it is complete and on the disk.

    Parameters
    ----------
    path
        The final path. Its folder is created if missing. An existing file is replaced when the block ends, and kept
        if the block raises.
    mode
        ``"wb"``, ``"w+b"`` to read what was written, or ``"w"`` (UTF-8 with plain line feeds).

    Raises
    ------
    StorageError
        If the file cannot be written (full disk, read-only folder). The message contains `path`.

    Examples
    --------
    >>> with write_atomically(tmp / "table.tsv", "w") as file:
    ...     _ = file.write("participant_id\\n")
    >>> [entry.name for entry in tmp.iterdir()]
    ['table.tsv']
    """
    path = Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with storage_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
        # tempfile would ignore the user's umask and make the file private, although results may be shared.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
        try:
            with os.fdopen(descriptor, mode, **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def remove_leftovers(lock: BaseFileLock, *paths: Path) -> None:
    """Remove the temporary files of processes that were killed while writing to `paths`. Links are not followed.

    Parameters
    ----------
    lock
        Lock that protects the files, see `hold`. This process must hold it.
    paths
        Paths of the files.

    Raises
    ------
    InUseError
        If this process does not hold the lock.

    Examples
    --------
    >>> from neurocnn.storage import hold
    >>> _ = (tmp / ".table.tsv.17-0a1b2c3d").write_text("participant")
    >>> _ = (tmp / ".table.tsv.swp").write_text("an editor's")
    >>> with hold(tmp / "lock", "the table") as lock:
    ...     remove_leftovers(lock, tmp / "table.tsv")
    >>> sorted(entry.name for entry in tmp.iterdir())
    ['.table.tsv.swp', 'lock']
    """
    if not lock.is_locked:
        raise InUseError(
            f"{lock.lock_file}: this process does not hold the lock; acquire the lock before removing temporary files"
        )
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, wanted in names.items():
        for entry in os.scandir(folder) if folder.is_dir() else ():
            found = _TEMPORARY.fullmatch(entry.name)
            if found and found[1] in wanted and entry.is_file(follow_symlinks=False):
                with storage_errors(entry.path, "remove"), contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)

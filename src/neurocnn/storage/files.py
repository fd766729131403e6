"""Files that are written completely or not at all.

A process may be killed at any byte and a disk may be full. Therefore: write to a temporary file in the same folder,
flush it to the disk, rename it.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from neurocnn.errors import StorageError


@contextlib.contextmanager
def write_whole(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that gets its name only after all of it is on the disk.

    Parameters
    ----------
    path
        The final path. Its folder is created if missing. An existing file is replaced when the block ends, and kept
        if the block raises.
    mode
        ``"wb"`` or ``"w"`` (UTF-8 with plain line feeds).

    Raises
    ------
    StorageError
        If the file cannot be written (full disk, read-only folder). The message contains `path`.

    Examples
    --------
    >>> with write_whole(tmp / "table.tsv", "w") as file:
    ...     _ = file.write("participant_id\\n")
    >>> [entry.name for entry in tmp.iterdir()]
    ['table.tsv']
    """
    path = Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
        # tempfile would make the file private, against the user's umask for shared results.
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        temporary = name
        with os.fdopen(descriptor, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(error.errno, f"cannot write: {error.strerror}", str(path)) from error
        raise


def remove_leftovers(*paths: Path) -> None:
    """Remove the temporary files of killed processes that were writing these files.

    The caller must hold a lock under which alone the files are written.

    Examples
    --------
    >>> _ = (tmp / ".table.tsv.17-0a1b2c3d").write_text("participant")
    >>> _ = (tmp / ".table.tsv.swp").write_text("an editor's")
    >>> remove_leftovers(tmp / "table.tsv")
    >>> [entry.name for entry in tmp.iterdir()]
    ['.table.tsv.swp']
    """
    for path in paths:
        name = re.compile(rf"\.{re.escape(path.name)}\.\d+-[0-9a-f]{{8}}")
        for entry in path.parent.iterdir() if path.parent.is_dir() else ():
            if name.fullmatch(entry.name) and entry.is_file():
                entry.unlink(missing_ok=True)

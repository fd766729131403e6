"""Files that appear whole or not at all, and are read back only as they were written.

A process may be killed at any byte, a disk may be full, a bit may flip. Therefore: write beside, flush to the
disk, rename; check every checksum on reading; unpickle nothing.
"""

import contextlib
import copy
import fcntl
import io
import json
import os
import pickle
import re
import secrets
import socket
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from neurocnn.errors import CheckpointError, InUseError, NotFoundError, StorageError


@contextlib.contextmanager
def write_whole(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes its name only when all of it is on the disk.

    Parameters
    ----------
    path
        The final name; its folder is made where there is none. What stood there stays until the block ends
        well, and for good if it does not.
    mode
        ``"wb"`` or ``"w"`` (UTF-8 with plain line feeds).

    Raises
    ------
    StorageError
        With `path` in it: full disk, read-only folder.

    Examples
    --------
    >>> with write_whole(tmp / "table.tsv", "w") as file:
    ...     _ = file.write("participant_id\\n")
    >>> [entry.name for entry in tmp.iterdir()]
    ['table.tsv']
    """
    path = Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
        # Not tempfile: its files are private, whatever the user's umask says of shared results.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        temporary = str(beside)
        with os.fdopen(descriptor, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(error.errno, f"cannot write: {error.strerror}", str(path)) from error
        raise


def remove_leftovers(*paths: Path) -> None:
    """Remove what `write_whole` left beside these files when it was killed.

    Nobody may be writing them, which a lock that the caller holds tells.

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


def save_tensors(content: Any, path: str | os.PathLike[str]) -> None:
    """`torch.save` that appears whole or not at all.

    Parameters
    ----------
    content
        Tensors and plain values (numbers, text, lists, dicts): what `load_tensors` will read. Numpy's numbers
        become plain ones.
    path
        The file.

    Raises
    ------
    CheckpointError
        There is something else in it, which could never be read back; nothing is written.
    StorageError
        The disk is full or the folder read-only.
    """
    # torch's own writer reports a full disk as a RuntimeError without a path; bytes written by us do not.
    buffer = io.BytesIO()
    torch.save(plain(content), buffer)
    buffer.seek(0)
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
    if unsafe:
        raise CheckpointError(
            f"{path}: is not written, for it could not be read again: {', '.join(sorted(unsafe))} are in it; keep "
            "tensors, numbers, text, lists and dicts alone in states of networks, optimizers and schedulers"
        )
    with write_whole(path) as file:
        file.write(buffer.getbuffer())


def plain(content: Any) -> Any:
    """Give content with Python's numbers and text in place of numpy's, in dicts, lists and tuples too.

    Numpy's are subclasses of Python's or behave as they do, so that nobody sees them in a configuration; but they
    are pickled as objects of numpy, which `load_tensors` refuses.

    Examples
    --------
    >>> plain({"lr": np.float64(0.1), "betas": (np.float32(0.5), 0.9)})
    {'lr': 0.1, 'betas': (0.5, 0.9)}
    """
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, dict):
        changed = {plain(key): plain(value) for key, value in content.items()}
        new = copy.copy(content)  # with what a state dict has beside its entries
        new.clear()
        for key, value in changed.items():
            new[key] = value
        return new
    if type(content) in (list, tuple):
        return type(content)(map(plain, content))
    return content


def load_tensors(
    path: str | os.PathLike[str],
    *,
    mmap: bool = False,
    verify: bool = True,
    safe: Sequence[Callable[..., Any] | tuple[Callable[..., Any], str]] = (),
) -> Any:
    """Read what `torch.save` wrote, on the CPU, checked and without unpickling code.

    Parameters
    ----------
    path
        The file.
    mmap
        Leave the tensors' bytes in the file until they are used.
    verify
        Compare each record's CRC-32 (torch writes it but does not check it). Files of torch
        before 1.6 have none.
    safe
        Globals that ``weights_only`` shall allow besides its own.

    Raises
    ------
    NotFoundError
        There is no such file.
    CheckpointError
        It is empty, truncated, damaged, no file of tensors, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty; delete it and write it anew")
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if verify and zipped:
        damaged = _damaged_record(path)
        if damaged is not None:
            raise CheckpointError(
                f"{path}: the checksum of {damaged} is wrong: the file is damaged; "
                "restore it from a copy or write it anew"
            )
    if verify and _foreign_pickle(path, zipped):
        raise CheckpointError(
            f"{path}: this is no file of tensors and plain values, and nothing else is loaded (a pickle that "
            "torch.save has not written as it does by default)"
        )
    try:
        with torch.serialization.safe_globals(list(safe)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipped)
    except pickle.UnpicklingError as error:
        unsafe = [line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
        raise CheckpointError(
            f"{path}: this is no file of tensors and plain values, and nothing else is loaded"
            + (f" ({unsafe[0].strip()})" if unsafe else "")
        ) from error
    except Exception as error:  # what an unpickler may raise on any bytes has no common kind
        raise CheckpointError(
            f"{path}: cannot be read as a file of tensors ({type(error).__name__}: {error}); "
            "it is truncated, damaged or something else"
        ) from error


def _damaged_record(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError):
        return "the archive"


def _foreign_pickle(path: Path, zipped: bool) -> bool:
    """Whether the pickle in a file begins otherwise than torch's, in protocol 2; torch would only warn."""
    try:
        if not zipped:
            with open(path, "rb") as file:
                start = file.read(2)
        else:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                start = archive.open(names[0]).read(2) if names else b"\x80\x02"
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError):
        return False  # damaged in another way, which torch will say
    return start[:1] == b"\x80" and start != b"\x80\x02"


@contextlib.contextmanager
def hold(path: str | os.PathLike[str], what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock for as long as the block runs; the kernel lets go of it if the process dies.

    Parameters
    ----------
    path
        The lock's file, made where there is none. It stays: removing it would let two processes lock
        two files of one name.
    what
        What is held, for the message to the second process.
    wait
        Wait until the other process lets go instead of raising.

    Raises
    ------
    InUseError
        Another process holds it; the message says which.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise InUseError(
                f"{what} is held by another process ({file.read().strip() or 'unknown'}, lock {path}); "
                "wait until it has ended, or choose another folder"
            ) from None
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        file.flush()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
            if not file.closed:
                file.truncate(0)


_held: set[IO[str]] = set()


def _let_go() -> None:
    # A forked worker would keep the lock for as long as it outlives its killed parent.
    for file in _held:
        file.close()


os.register_at_fork(after_in_child=_let_go)

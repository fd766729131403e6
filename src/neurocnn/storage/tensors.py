"""Files of tensors: written completely or not at all, every checksum verified, nothing unpickled."""

import copy
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurocnn.errors import CheckpointError, NotFoundError
from neurocnn.storage.files import write_whole


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

"""Locks that are released when their process ends."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from neurocnn.errors import InUseError


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

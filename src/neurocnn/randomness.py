"""Seeds and random states. Random numbers depend only on given keys, and drawing them does not affect other code."""

import contextlib
import hashlib
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocnn.errors import CheckpointError
from neurocnn.errors.logger import LOGGER

_LOCK = threading.RLock()


@contextlib.contextmanager
def exclusive(what: str) -> Iterator[None]:
    """Prevent other threads of this process from running such a block at the same time: random states are global.

    Blocks of the same thread may be nested.

    Parameters
    ----------
    what
        Name of the caller, for the log entry if the caller must wait.
    """
    if not _LOCK.acquire(blocking=False):
        LOGGER.info("%s waits for another thread that trains or predicts in this process", what)
        _LOCK.acquire()
    try:
        yield
    finally:
        _LOCK.release()


def _replace_lock() -> None:
    # A fork copies only the calling thread. In the child, a lock that another thread holds would never be released.
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_lock)


@contextlib.contextmanager
def preserve_random_states() -> Iterator[None]:
    """Restore Python's, numpy's and torch's CPU random states after the block.

    GPU generators are not changed, because data are prepared on the CPU.
    """
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)


def seed_all(*numbers: int) -> None:
    """Seed Python's, numpy's and torch's CPU random states from `numbers`."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))


@contextlib.contextmanager
def seeded(*key: str | int | None) -> Iterator[int]:
    """Run a block in which Python's, numpy's and torch's random numbers depend on `key` only.

    Parameters
    ----------
    key
        Values that the random numbers should depend on.

    Yields
    ------
    seed
        Number derived from the key, as a seed for other generators.

    Notes
    -----
    The three global random states are restored after the block.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    seed = int.from_bytes(digest[:4], "little")
    with preserve_random_states():
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield seed


def reseed(transform: Callable[..., object], seed: int) -> None:
    """Seed a transform that has its own generator (MONAI's `set_random_state`), or all such members of a composition.

    Parameters
    ----------
    transform
        A callable, or a composition that stores its members in `transforms`.
    seed
        Seed of a transform. Each member of a composition gets a different seed, derived from this seed.
    """
    if hasattr(transform, "set_random_state"):
        transform.set_random_state(seed=seed)
        return
    for i, member in enumerate(members(transform)):
        reseed(member, (seed + i + 1) % 2**32)


def members(transform: Callable[..., object]) -> list[Callable[..., Any]]:
    """Return the members of a composition of transforms; an empty list for a single transform."""
    found = getattr(transform, "transforms", None)
    return list(found) if isinstance(found, list | tuple | torch.nn.ModuleList) else []


class RandomState:
    """A random state of torch that belongs to one network.

    Parameters
    ----------
    seed
        Seed of the initial state.
    device
        Device of the network. The CPU's random state is always included, a GPU's only if `device` is a GPU.

    Examples
    --------
    >>> own = RandomState(0, torch.device("cpu"))
    >>> with own.as_global():
    ...     first = torch.rand(1)
    >>> bool(first == torch.rand(1, generator=torch.Generator().manual_seed(0)))
    True
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._accelerator = _accelerator_module(device)
        with torch.random.fork_rng(devices=[]):
            self.cpu = torch.Generator().manual_seed(seed).get_state()
        self.device: Tensor | None = None
        if self._accelerator is not None:
            outer = self._accelerator.get_rng_state()
            self._accelerator.manual_seed(seed)
            self.device = self._accelerator.get_rng_state()
            self._accelerator.set_rng_state(outer)

    @contextlib.contextmanager
    def as_global(self) -> Iterator[None]:
        """Use this state as torch's global random state during the block."""
        outer = torch.get_rng_state()
        torch.set_rng_state(self.cpu)
        outer_device = None
        if self._accelerator is not None and self.device is not None:
            outer_device = self._accelerator.get_rng_state()
            self._accelerator.set_rng_state(self.device)
        try:
            yield
        finally:
            self.cpu = torch.get_rng_state()
            torch.set_rng_state(outer)
            if self._accelerator is not None and outer_device is not None:
                self.device = self._accelerator.get_rng_state()
                self._accelerator.set_rng_state(outer_device)

    def state(self) -> dict[str, Any]:
        """Return the random states in the format that `restore` reads."""
        return {"cpu": self.cpu, "device": self.device}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore `state`; its accelerator part is ignored if the device type differs.

        Raises
        ------
        CheckpointError
            If `state` is not a random state of this version of torch.
        """
        cpu = state.get("cpu")
        if not isinstance(cpu, Tensor) or (cpu.dtype, cpu.shape) != (self.cpu.dtype, self.cpu.shape):
            raise CheckpointError(
                "the random state is not a state of torch's CPU generator; expected a state of this version of torch"
            )
        self.cpu = cpu
        saved = state.get("device")
        if self.device is not None and isinstance(saved, Tensor) and saved.shape == self.device.shape:
            self.device = saved


def _accelerator_module(device: torch.device) -> ModuleType | None:
    return {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)

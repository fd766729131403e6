"""Seeds and random states: what is random depends on named keys alone, and disturbs nothing else."""

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextlib.contextmanager
def seeded(*key: str | int | None) -> Iterator[int]:
    """Run a block with Python's, numpy's and torch's random numbers decided by `key` alone.

    Parameters
    ----------
    key
        Whatever the random numbers shall depend on.

    Yields
    ------
    seed
        A number made of the key, for generators of their own.

    Notes
    -----
    The three global states are afterwards what they were, so that augmentation changes nothing else. GPU
    generators are left alone: data are prepared on the CPU, often in worker processes.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    seed = int.from_bytes(digest[:4], "little")
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield seed
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)


def reseed(transform: Any, seed: int) -> None:
    """Seed the transforms that have a generator of their own (MONAI's `set_random_state`).

    Parameters
    ----------
    transform
        Any callable, or a composition that keeps what it calls in `transforms`.
    seed
        Each member of a composition gets another one, made of this.
    """
    if hasattr(transform, "set_random_state"):
        transform.set_random_state(seed=seed)
        return
    members = getattr(transform, "transforms", None)
    if isinstance(members, list | tuple | torch.nn.ModuleList):
        for i, member in enumerate(members):
            reseed(member, (seed + i + 1) % 2**32)


class RandomState:
    """Torch's random numbers as one network sees them, whatever else runs beside it.

    Parameters
    ----------
    seed
        Where they start.
    device
        The CPU's are always part of it, a GPU's if this is one.

    Examples
    --------
    >>> mine = RandomState(0, torch.device("cpu"))
    >>> with mine.borrowed():
    ...     first = torch.rand(1)
    >>> bool(first == torch.rand(1, generator=torch.Generator().manual_seed(0)))
    True
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._accelerator = _states_of(device)
        with torch.random.fork_rng(devices=[]):
            self.cpu = torch.Generator().manual_seed(seed).get_state()
        self.device: Tensor | None = None
        if self._accelerator is not None:
            outer = self._accelerator.get_rng_state()
            self._accelerator.manual_seed(seed)
            self.device = self._accelerator.get_rng_state()
            self._accelerator.set_rng_state(outer)

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[None]:
        """Make it torch's global random state while the block runs."""
        outer = torch.get_rng_state()
        torch.set_rng_state(self.cpu)
        other = None
        if self._accelerator is not None and self.device is not None:
            other = self._accelerator.get_rng_state()
            self._accelerator.set_rng_state(self.device)
        try:
            yield
        finally:
            self.cpu = torch.get_rng_state()
            torch.set_rng_state(outer)
            if self._accelerator is not None and other is not None:
                self.device = self._accelerator.get_rng_state()
                self._accelerator.set_rng_state(other)

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"cpu": self.cpu, "device": self.device}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; a state of another kind of device gives what fits."""
        self.cpu = state["cpu"]
        other = state["device"]
        if self.device is not None and other is not None and other.shape == self.device.shape:
            self.device = other


def _states_of(device: torch.device) -> Any:
    return {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)

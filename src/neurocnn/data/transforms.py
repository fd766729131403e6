"""Normalisation of a part, and the seeding of its augmentation."""

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class MinMax:
    """Stretch the values of a part to [0, 1]: (x − min) / (max − min); a constant part becomes 0.

    Examples
    --------
    >>> MinMax()(torch.tensor([2.0, 3.0, 6.0])).tolist()
    [0.0, 0.25, 1.0]
    """

    def __call__(self, part: Tensor) -> Tensor:
        """The part, of any shape, normalised; the one given stays as it is."""
        low, high = torch.aminmax(part)
        span = high - low
        if not span > 0:
            return torch.zeros_like(part)
        return (part - low).div_(span)


@dataclass(frozen=True)
class ZScore:
    """Give a part mean 0 and standard deviation 1 (dividing by N); a constant part becomes 0.

    Examples
    --------
    >>> ZScore()(torch.tensor([1.0, 3.0])).tolist()
    [-1.0, 1.0]
    """

    def __call__(self, part: Tensor) -> Tensor:
        """The part, of any shape, normalised; the one given stays as it is."""
        low, high = torch.aminmax(part)
        if low == high:
            return torch.zeros_like(part)
        spread, mean = torch.std_mean(part, correction=0)
        return (part - mean).div_(spread)


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

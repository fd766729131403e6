"""Normalisation of a part."""

from dataclasses import dataclass

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

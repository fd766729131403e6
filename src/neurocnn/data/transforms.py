"""Normalisation of a part."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: A transform or augmentation: any callable that takes a part (C, …) and returns one, such as those of torchvision,
#: MONAI and TorchIO.
Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MinMax:
    """Scale the values of a part to [0, 1]: (x − min) / (max − min); a constant part becomes 0.

    Examples
    --------
    >>> MinMax()(torch.tensor([2.0, 3.0, 6.0])).tolist()
    [0.0, 0.25, 1.0]
    """

    def __call__(self, part: Tensor) -> Tensor:
        """Return the normalised part, of any shape. The input is not changed."""
        low, high = torch.aminmax(part)
        span = high - low
        if not span > 0:
            return torch.zeros_like(part)
        return (part - low).div_(span)


@dataclass(frozen=True)
class ZScore:
    """Scale a part to mean 0 and standard deviation 1 (dividing by N); a constant part becomes 0.

    Examples
    --------
    >>> ZScore()(torch.tensor([1.0, 3.0])).tolist()
    [-1.0, 1.0]
    """

    def __call__(self, part: Tensor) -> Tensor:
        """Return the normalised part, of any shape. The input is not changed."""
        low, high = torch.aminmax(part)
        if low == high:
            return torch.zeros_like(part)
        spread, mean = torch.std_mean(part, correction=0)
        return (part - mean).div_(spread)

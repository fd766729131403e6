"""Transforms that normalise a part."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurocnn.errors.arguments import argument_error, check_instance

#: A transform or augmentation: any callable that takes a part (C, …) and returns a part, such as transforms of
#: torchvision, MONAI and TorchIO.
Transform = Callable[[Tensor], Tensor]


def check_transform(name: str, value: Any, *, where: str = "") -> Transform | None:
    """Return a transform or None, else raise a SettingError.

    Examples
    --------
    >>> check_transform("transform", MinMax)
    Traceback (most recent call last):
    neurocnn.errors.SettingError: transform=<class 'neurocnn.data.transforms.MinMax'>; expected a function from tensor \
to tensor, or None; make an instance: MinMax()
    """
    if value is None or (callable(value) and not isinstance(value, type)):
        return value
    remedy = f"make an instance: {value.__name__}()" if isinstance(value, type) else ""
    raise argument_error(name, value, "a function from tensor to tensor, or None", where=where, remedy=remedy)


@dataclass(frozen=True)
class MinMax:
    """Transform that scales the values of a part to [0, 1]: (x − min) / (max − min). A constant part becomes 0.

    Examples
    --------
    >>> MinMax()(torch.tensor([2.0, 3.0, 6.0])).tolist()
    [0.0, 0.25, 1.0]
    """

    def __call__(self, part: Tensor) -> Tensor:
        """Return the normalised part, of any shape. The input is not changed."""
        low, high = torch.aminmax(check_instance("part", part, Tensor, "a tensor"))
        span = high - low
        if not span > 0:
            return torch.zeros_like(part)
        return (part - low).div_(span)


@dataclass(frozen=True)
class ZScore:
    """Transform that scales a part to mean 0 and standard deviation 1 (dividing by N). A constant part becomes 0.

    Examples
    --------
    >>> ZScore()(torch.tensor([1.0, 3.0])).tolist()
    [-1.0, 1.0]
    """

    def __call__(self, part: Tensor) -> Tensor:
        """Return the normalised part, of any shape. The input is not changed."""
        low, high = torch.aminmax(check_instance("part", part, Tensor, "a tensor"))
        if low == high:
            return torch.zeros_like(part)
        spread, mean = torch.std_mean(part, correction=0)
        return (part - mean).div_(spread)

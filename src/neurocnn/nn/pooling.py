"""The layers of max pooling that lose no voxel at an odd border, and of the way back."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from neurocnn.errors import ModelError, SettingError
from neurocnn.nn.functional import cropped, pad_max_pool, scatter_maxima

Sizes = int | tuple[int, ...]


class _PadMaxPool(nn.Module):
    """What `PadMaxPool2d` and `PadMaxPool3d` share: all but the number of axes."""

    n_axes: int

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        return_indices: bool = False,
        return_pad: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = _per_axis("kernel_size", kernel_size, self.n_axes)
        self.stride = self.kernel_size if stride is None else _per_axis("stride", stride, self.n_axes)
        self.set_new_return(return_indices, return_pad)

    def set_new_return(self, return_indices: bool = True, return_pad: bool = True) -> None:
        """Choose what `forward` returns beside the maxima."""
        self.return_indices = return_indices
        self.return_pad = return_pad

    def forward(self, f_maps: Tensor) -> Any:
        """Return the maxima (B, C, …) of `f_maps` (B, C, …) and what was chosen: indices, pad."""
        _check_axes(self, f_maps, self.n_axes)
        out, indices, padding = pad_max_pool(f_maps, self.kernel_size, self.stride, self.return_indices)
        if self.return_indices:
            return (out, indices, padding) if self.return_pad else (out, indices)
        return (out, padding) if self.return_pad else out

    def extra_repr(self) -> str:
        """Say kernel and stride."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class PadMaxPool2d(_PadMaxPool):
    """Max pooling of (B, C, H, W) that pads with zeros in front of an axis which the stride does not divide.

    Parameters
    ----------
    kernel_size, stride
        A number, or one an axis (H, W). The stride is by default the kernel's size.
    return_indices
        Return also the positions of the maxima in the flattened padded map, for `CropMaxUnpool2d`.
    return_pad
        Return also the pad ``(W, 0, H, 0)``.

    Notes
    -----
    Works with torch.compile, torch.export (any batch, fixed sizes), torch.func.grad, vmap, autocast,
    channels_last and on the meta device. In deterministic mode on CUDA its backward pass is slower: torch's own
    has no deterministic form, the scatter or gather used instead has a slow one. It has no forward-mode derivatives
    (torch.func.jvp, hessian): torch.compile does not take functions that have.

    Examples
    --------
    >>> import torch
    >>> PadMaxPool2d(2)(torch.zeros(1, 8, 5, 6)).shape
    torch.Size([1, 8, 3, 3])
    """

    n_axes = 2


class PadMaxPool3d(_PadMaxPool):
    """Max pooling of (B, C, D, H, W) that pads with zeros in front of an axis which the stride does not divide.

    Parameters
    ----------
    kernel_size, stride
        A number, or one an axis (D, H, W). The stride is by default the kernel's size.
    return_indices
        Return also the positions of the maxima in the flattened padded map, for `CropMaxUnpool3d`.
    return_pad
        Return also the pad ``(W, 0, H, 0, D, 0)``.

    Notes
    -----
    Works with torch.compile, torch.export (any batch, fixed sizes), torch.func.grad, vmap, autocast,
    channels_last_3d and on the meta device. In deterministic mode on CUDA its backward pass is slower: torch's own
    has no deterministic form, the scatter or gather used instead has a slow one. It has no forward-mode derivatives
    (torch.func.jvp, hessian): torch.compile does not take functions that have.

    Examples
    --------
    >>> import torch
    >>> pool = PadMaxPool3d(2, 2, return_indices=True, return_pad=True)
    >>> maxima, indices, padding = pool(torch.zeros(1, 8, 5, 6, 7))
    >>> maxima.shape, padding
    (torch.Size([1, 8, 3, 3, 4]), (1, 0, 0, 0, 1, 0))
    """

    n_axes = 3


class _CropMaxUnpool(nn.Module):
    """What `CropMaxUnpool2d` and `CropMaxUnpool3d` share: all but the number of axes."""

    n_axes: int

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None) -> None:
        super().__init__()
        self.kernel_size = _per_axis("kernel_size", kernel_size, self.n_axes)
        self.stride = self.kernel_size if stride is None else _per_axis("stride", stride, self.n_axes)

    def forward(self, f_maps: Tensor, indices: Tensor, padding: Sequence[int] | None = None) -> Tensor:
        """Return the maps that were pooled: the values where the maxima were, zeros elsewhere, the pad cropped."""
        _check_axes(self, f_maps, self.n_axes)
        padded = [
            step * (n - 1 + -(-k // step))
            for n, k, step in zip(f_maps.shape[2:], self.kernel_size, self.stride, strict=True)
        ]
        out = scatter_maxima(f_maps, indices, padded)
        return out if padding is None else cropped(out, padding[-2::-2])

    def extra_repr(self) -> str:
        """Say kernel and stride."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class CropMaxUnpool2d(_CropMaxUnpool):
    """The way back of `PadMaxPool2d`: unpooling, then cropping of the pad.

    Parameters
    ----------
    kernel_size, stride
        Those of the pooling.

    Notes
    -----
    Unlike `torch.nn.MaxUnpool2d` it takes any kernel and stride, and works in deterministic mode. `forward` takes
    the pooling's ``indices`` and ``padding``; without the latter nothing is cropped.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(1, 8, 5, 6)
    >>> out = CropMaxUnpool2d(2)(*PadMaxPool2d(2, return_indices=True, return_pad=True)(x))
    >>> out.shape
    torch.Size([1, 8, 5, 6])
    """

    n_axes = 2


class CropMaxUnpool3d(_CropMaxUnpool):
    """The way back of `PadMaxPool3d`: unpooling, then cropping of the pad.

    Parameters
    ----------
    kernel_size, stride
        Those of the pooling.

    Notes
    -----
    Unlike `torch.nn.MaxUnpool3d` it takes any kernel and stride, and works in deterministic mode. `forward` takes
    the pooling's ``indices`` and ``padding``; without the latter nothing is cropped.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(1, 8, 5, 6, 7)
    >>> out = CropMaxUnpool3d(2)(*PadMaxPool3d(2, return_indices=True, return_pad=True)(x))
    >>> out.shape
    torch.Size([1, 8, 5, 6, 7])
    """

    n_axes = 3


def _per_axis(what: str, value: Sizes, n: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, Sequence) else (value,) * n
    if len(numbers) != n or not all(isinstance(number, int) and number > 0 for number in numbers):
        raise SettingError(f"{what} is {value!r}; expected a positive whole number, or {n} of them")
    return numbers


def _check_axes(layer: nn.Module, f_maps: Tensor, n: int) -> None:
    if f_maps.dim() != n + 2:
        axes = "(B, C, H, W)" if n == 2 else "(B, C, D, H, W)"
        raise ModelError(
            f"{type(layer).__name__} takes feature maps {axes}; found shape {tuple(f_maps.shape)}"
        )

"""Max-pooling layers that keep the border voxels of odd axes, and layers that reverse this pooling."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from neurocnn.errors import ModelError
from neurocnn.errors.arguments import argument_error, check_flag
from neurocnn.nn.functional import crop, pad_max_pool, scatter_maxima

Sizes = int | Sequence[int]


class _Windows(nn.Module):
    """Base class of layers with pooling windows, whose kernel size and stride are one integer per axis."""

    n_axes: int

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None) -> None:
        super().__init__()
        self.kernel_size = self._per_axis("kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else self._per_axis("stride", stride)

    def _per_axis(self, name: str, value: Any) -> tuple[int, ...]:
        numbers = tuple(value) if isinstance(value, list | tuple) else (value,) * self.n_axes
        if len(numbers) != self.n_axes or any(type(n) is not int or n < 1 for n in numbers):
            expected = f"a positive integer, or {self.n_axes} of them"
            raise argument_error(name, value, expected, where=type(self).__name__)
        return numbers

    def _check_axes(self, f_maps: Tensor) -> None:
        if not isinstance(f_maps, Tensor) or f_maps.dim() != self.n_axes + 2:
            found = tuple(f_maps.shape) if isinstance(f_maps, Tensor) else type(f_maps).__name__
            axes = "(B, C, H, W)" if self.n_axes == 2 else "(B, C, D, H, W)"
            raise ModelError(
                f"{type(self).__name__}: feature maps of shape {found}; expected {axes}; use the layer for this shape"
            )

    def extra_repr(self) -> str:
        """Return the kernel size and the stride as text, for `repr`."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class _PadMaxPool(_Windows):
    """Base class of `PadMaxPool2d` and `PadMaxPool3d`."""

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        return_indices: bool = False,
        return_pad: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride)
        self.set_new_return(return_indices, return_pad)

    def set_new_return(self, return_indices: bool = True, return_pad: bool = True) -> None:
        """Choose the values that `forward` returns in addition to the maxima."""
        self.return_indices = check_flag("return_indices", return_indices, where=type(self).__name__)
        self.return_pad = check_flag("return_pad", return_pad, where=type(self).__name__)

    def forward(self, f_maps: Tensor) -> Any:
        """Return the maxima (B, C, …) of `f_maps` (B, C, …) and, if chosen, their indices and the padding."""
        self._check_axes(f_maps)
        out, indices, padding = pad_max_pool(f_maps, self.kernel_size, self.stride, self.return_indices)
        if self.return_indices:
            return (out, indices, padding) if self.return_pad else (out, indices)
        return (out, padding) if self.return_pad else out


class PadMaxPool2d(_PadMaxPool):
    """Max pooling of (B, C, H, W) with zero-padding in front of each axis that the stride does not divide.

    Parameters
    ----------
    kernel_size, stride
        A positive integer, or one per axis (H, W). The stride is by default the kernel size.
    return_indices
        Whether to return the positions of the maxima in the flattened padded map, for `CropMaxUnpool2d`.
    return_pad
        Whether to return the padding ``(W, 0, H, 0)``, in voxels per side.

    Raises
    ------
    SettingError
        If an argument is not a positive integer (or one per axis), or a flag is not a bool.

    Notes
    -----
    The layer works with torch.compile, torch.export (any batch size, fixed image size), torch.func.grad, vmap,
    autocast, channels_last and on the meta device. In deterministic mode on CUDA the backward pass is slower: torch's
    max pooling has no deterministic backward pass, and is replaced by a deterministic scatter or gather, which is slow.
    torch.jit.trace, the graph of TensorBoard and forward-mode derivatives (torch.func.jvp, hessian) use torch's padding
    and max pooling, with the same result; forward-mode derivatives do not work in torch.compile.

    Examples
    --------
    >>> import torch
    >>> pool = PadMaxPool2d(2)
    >>> pool(torch.zeros(1, 8, 5, 6)).shape
    torch.Size([1, 8, 3, 3])
    >>> pool.set_new_return(return_indices=False, return_pad=True)
    >>> pool(torch.zeros(1, 8, 5, 6))[1]
    (0, 0, 1, 0)
    """

    n_axes = 2


class PadMaxPool3d(_PadMaxPool):
    """Max pooling of (B, C, D, H, W) with zero-padding in front of each axis that the stride does not divide.

    Parameters
    ----------
    kernel_size, stride
        A positive integer, or one per axis (D, H, W). The stride is by default the kernel size.
    return_indices
        Whether to return the positions of the maxima in the flattened padded map, for `CropMaxUnpool3d`.
    return_pad
        Whether to return the padding ``(W, 0, H, 0, D, 0)``, in voxels per side.

    Raises
    ------
    SettingError
        If an argument is not a positive integer (or one per axis), or a flag is not a bool.

    Notes
    -----
    See `PadMaxPool2d`; the memory format is channels_last_3d.

    Examples
    --------
    >>> import torch
    >>> pool = PadMaxPool3d(2, 2, return_indices=True, return_pad=True)
    >>> maxima, indices, padding = pool(torch.zeros(1, 8, 5, 6, 7))
    >>> maxima.shape, padding
    (torch.Size([1, 8, 3, 3, 4]), (1, 0, 0, 0, 1, 0))
    >>> pool.set_new_return(False, False)
    >>> pool(torch.zeros(1, 8, 5, 6, 7)).shape
    torch.Size([1, 8, 3, 3, 4])
    """

    n_axes = 3


class _CropMaxUnpool(_Windows):
    """Base class of `CropMaxUnpool2d` and `CropMaxUnpool3d`."""

    def forward(self, f_maps: Tensor, indices: Tensor, padding: Sequence[int] | None = None) -> Tensor:
        """Return maps of the size before pooling: `f_maps` at `indices`, zeros elsewhere, without the padding."""
        self._check_axes(f_maps)
        windows = zip(f_maps.shape[2:], self.kernel_size, self.stride, strict=True)
        out = scatter_maxima(f_maps, indices, [step * (n - 1 + -(-k // step)) for n, k, step in windows])
        return out if padding is None else crop(out, padding[-2::-2])


class CropMaxUnpool2d(_CropMaxUnpool):
    """Unpooling that reverses `PadMaxPool2d`, including its padding.

    Parameters
    ----------
    kernel_size, stride
        Kernel size and stride of the pooling.

    Raises
    ------
    SettingError
        If an argument is not a positive integer (or one per axis), or a flag is not a bool.

    Notes
    -----
    Unlike `torch.nn.MaxUnpool2d`, this layer supports any kernel and stride, and deterministic mode. `forward` takes
    the ``indices`` and the ``padding`` of the pooling; without ``padding``, nothing is cropped.

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
    """Unpooling that reverses `PadMaxPool3d`, including its padding.

    Parameters
    ----------
    kernel_size, stride
        Kernel size and stride of the pooling.

    Raises
    ------
    SettingError
        If an argument is not a positive integer (or one per axis), or a flag is not a bool.

    Notes
    -----
    See `CropMaxUnpool2d`.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(1, 8, 5, 6, 7)
    >>> out = CropMaxUnpool3d(2)(*PadMaxPool3d(2, return_indices=True, return_pad=True)(x))
    >>> out.shape
    torch.Size([1, 8, 5, 6, 7])
    """

    n_axes = 3

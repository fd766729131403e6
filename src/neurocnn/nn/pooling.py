"""Max pooling that loses no voxel at an odd border, and its way back.

The numbers are those of zeros padded in front of each axis, up to a multiple of the stride, and torch's max pooling
after it; indices too, so that they go through any unpooling. What differs is the road: padding a feature map
copies all of it, while only the first window of each padded axis ever sees a pad. So the map is pooled where it
lies (torch's own padding is −inf, the identity of max) and those first windows are mended.

Ties: the pad comes first in its window, so it wins against an equal maximum, takes that gradient away, and lets
unpooling drop the value.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocnn.errors import ModelError, SettingError

Sizes = int | tuple[int, ...]
PIECE = 2**23  # voxels; of float32 these are 32 MiB


def pad_max_pool(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], return_indices: bool = False
) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
    """Zero-pad `x` in front of each axis to a multiple of the stride, then take the maximum of each window.

    Parameters
    ----------
    x
        Feature maps (B, C, H, W) or (B, C, D, H, W).
    kernel, stride
        One positive number an axis.
    return_indices
        Return also where the maxima are.

    Returns
    -------
    The maxima (B, C, …); their positions in the flattened padded map, or None; the pad, as `torch.nn.functional.pad`
    takes it: ``(W, 0, H, 0, D, 0)``.

    Examples
    --------
    >>> maxima, _, padding = pad_max_pool(torch.tensor([[[[1.0, 2.0, 3.0]] * 2]]), (2, 2), (2, 2))
    >>> maxima.tolist(), padding
    ([[[[1.0, 3.0]]]], (1, 0, 0, 0))
    """
    pads = [-size % step for size, step in zip(x.shape[2:], stride, strict=True)]
    padding = tuple(number for pad in reversed(pads) for number in (pad, 0))
    halving = all(k == s == 2 for k, s in zip(kernel, stride, strict=True))
    if halving and not return_indices and _wants_slices(x):
        # piece by piece: what lies between two steps stays in the cache, and needs no fresh memory
        maps = x.flatten(0, 1)
        pieces = torch.split(maps, max(1, PIECE * len(maps) // max(1, x.numel())))
        halved = torch.cat([_halved(piece, 1) for piece in pieces])
        return halved.view(*x.shape[:2], *halved.shape[1:]), None, padding
    fits = all(k == s and 2 * pad <= k for pad, k, s in zip(pads, kernel, stride, strict=True))
    if return_indices or (any(pads) and not fits):
        # indices are those of the padded map: to find them, it must be there
        padded = F.pad(x, padding) if any(pads) else x
        return *_max_pool(padded, kernel, stride, [0] * len(pads)), padding
    if any(pads) and not _lacks_backward(x):
        return _Mended.apply(x, tuple(kernel), tuple(pads))[0], None, padding
    out, _ = _max_pool(x, kernel, stride, pads)
    _mend(out, pads)
    return out, None, padding


def _max_pool(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int]
) -> tuple[Tensor, Tensor]:
    pool: Any = F.max_pool2d if len(kernel) == 2 else F.max_pool3d
    if _lacks_backward(x):
        indices = pool(x.detach(), kernel, stride, pads, return_indices=True)[1]
        return x.flatten(2).gather(2, indices.flatten(2)).view(indices.shape), indices
    out, indices = pool(x, kernel, stride, pads, return_indices=True)
    return out, indices


def _lacks_backward(x: Tensor) -> bool:
    # torch has no deterministic backward pass of max pooling on CUDA, but one of gather
    return x.is_cuda and torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled()


class _Mended(torch.autograd.Function):
    """Max pooling where kernel and stride are equal, and the mending of its first windows.

    The gradient of what a pad won is dropped. Autograd would do the same through the in-place operations, with a
    copy of the gradient for each of them.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, kernel: tuple[int, ...], pads: tuple[int, ...]) -> tuple[Tensor, ...]:
        out, indices = _max_pool(x, kernel, kernel, pads)
        return out, indices, *_mend(out, pads)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        # not the maxima themselves, which a layer behind may change in place
        ctx.save_for_backward(inputs[0], *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # or zeros are made for the indices
        ctx.settings = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        x, indices, *lost = ctx.saved_tensors
        kernel, pads = ctx.settings
        if gradients[0] is None:
            return None, None, None
        aten = torch.ops.aten
        pool = (aten.max_pool2d_with_indices_backward, aten.max_pool3d_with_indices_backward)[len(pads) - 2]
        gradient = gradients[0].to(x.dtype)
        through = pool(gradient, x, kernel, kernel, pads, [1] * len(pads), False, indices)
        # Windows do not overlap: what a lost one got is dropped there, which spares a copy of the gradient.
        for axis, of_axis in zip([axis for axis, pad in enumerate(pads, 2) if pad], lost, strict=True):
            first = through.narrow(axis, 0, kernel[axis - 2] - pads[axis - 2])
            first.masked_fill_(_windows(of_axis, axis, kernel, pads), 0)
        return through, None, None


def _windows(mask: Tensor, but: int, kernel: Sequence[int], pads: Sequence[int]) -> Tensor:
    """Spread a mask of windows over the voxels of each window, along all axes but one; pads are left out."""
    for axis, (k, pad) in enumerate(zip(kernel, pads, strict=True), 2):
        if axis != but:
            wide = mask.unsqueeze(axis + 1)
            wide = wide.expand(*wide.shape[: axis + 1], k, *wide.shape[axis + 2 :]).flatten(axis, axis + 1)
            mask = wide.narrow(axis, pad, wide.shape[axis] - pad)
    return mask


def _wants_slices(x: Tensor) -> bool:
    # On the CPU, torch computes indices even where nobody wants them.
    differentiated = torch.is_grad_enabled() and x.requires_grad
    return (
        x.device.type == "cpu"
        and not differentiated
        and not torch.compiler.is_compiling()
        and x.is_contiguous()
    )


def _halved(x: Tensor, axis: int) -> Tensor:
    """Take the maximum of each pair along `axis` and all after it; an odd axis begins with a pair of pad and voxel."""
    if axis == x.dim():
        return x
    even, odd = (x[(slice(None),) * axis + (slice(start, None, 2),)] for start in (0, 1))
    if even.shape[axis] == odd.shape[axis]:
        return _halved(torch.maximum(even, odd), axis + 1)
    first = even.narrow(axis, 0, 1).clamp(min=0)
    others = torch.maximum(even.narrow(axis, 1, odd.shape[axis]), odd)
    return torch.cat([_halved(first, axis + 1), _halved(others, axis + 1)], axis)


def _mend(out: Tensor, pads: Sequence[int]) -> list[Tensor]:
    """Let the zeros of the pad win, in place, in the first window of each padded axis; return where they do."""
    lost = []
    for axis, pad in enumerate(pads, 2):
        if pad:
            first = out.narrow(axis, 0, 1)
            lost.append(first <= 0)  # a tie too
            first.masked_fill_(lost[-1], 0)
    return lost


def scatter_maxima(values: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Put values back where their maxima were, among zeros.

    Parameters
    ----------
    values, indices
        (B, C, …), as a pooling gave them. Where two indices are equal, the last value counts (on the CPU).
    size
        (H, W) or (D, H, W) of the map that was pooled.

    Returns
    -------
    (B, C, *size)

    Examples
    --------
    >>> scatter_maxima(torch.tensor([[[[5.0]]]]), torch.tensor([[[[3]]]]), (2, 2)).tolist()
    [[[[0.0, 0.0], [0.0, 5.0]]]]
    """
    if values.shape != indices.shape:
        raise ModelError(
            f"cannot unpool feature maps of shape {tuple(values.shape)} with indices of shape "
            f"{tuple(indices.shape)}; expected the indices of a pooling that gave maps of that shape"
        )
    n = torch.Size(size).numel()
    zero = values.new_zeros(())  # expanded, it takes no memory before it is scattered into
    if values.stride(1) == 1 and values.shape[1] > 1:  # channels last, and so they stay
        zeros = zero.expand(values.shape[0], n, values.shape[1])
        out = zeros.scatter(1, _channels_last(indices), _channels_last(values))
        return out.view(len(values), *size, values.shape[1]).movedim(-1, 1)
    zeros = zero.expand(*values.shape[:2], n)
    return zeros.scatter(2, indices.flatten(2), values.flatten(2)).view(*values.shape[:2], *size)


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(1, -2)


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
    Works with torch.compile, torch.export (fixed sizes), vmap, autocast, channels_last and on the meta device.
    In deterministic mode on CUDA it takes a slower road, for torch has no deterministic backward pass there.

    Examples
    --------
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
    Works with torch.compile, torch.export (fixed sizes), vmap, autocast, channels_last_3d and on the meta device.
    In deterministic mode on CUDA it takes a slower road, for torch has no deterministic backward pass there.

    Examples
    --------
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
        for axis, pad in zip(range(out.dim() - 1, 1, -1), (padding or ())[::2], strict=False):
            out = out.narrow(axis, pad, out.shape[axis] - pad)
        return out

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

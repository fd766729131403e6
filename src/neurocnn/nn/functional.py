"""The maxima of windows that lose no voxel at an odd border, and the way back.

The numbers are those of zeros padded in front of each axis, up to a multiple of the stride, and torch's max pooling
after it; indices too, so that they go through any unpooling. What differs is the road: padding a feature map
copies all of it, while only the first window of each padded axis ever sees a pad. So the map is pooled where it
lies (torch's own padding is −inf, the identity of max) and those first windows are mended, unless indices are asked
for, which are those of the padded map. And where windows do not overlap, the gradient of pooling is an unpooling:
neither the map nor its maxima are kept for it.

Ties: the pad comes first in its window, so it wins against an equal maximum, takes that gradient away, and lets
unpooling drop the value.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neurocnn.errors import ModelError
from neurocnn.nn.allocation import fresh, is_channels_last, is_plain

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
        return _halved_in_pieces(x), None, padding
    if any(k > s for k, s in zip(kernel, stride, strict=True)):
        return *_overlapping(F.pad(x, padding) if any(pads) else x, kernel, stride), padding
    mended = not return_indices and all(
        not pad or (k == s and 2 * pad <= k) for pad, k, s in zip(pads, kernel, stride, strict=True)
    )
    out, indices, *_ = _Disjoint.apply(x, tuple(kernel), tuple(stride), tuple(pads), mended)
    return out, indices if return_indices else None, padding


def _max_pool(n: int) -> Any:
    return F.max_pool2d if n == 2 else F.max_pool3d


def _overlapping(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> tuple[Tensor, Tensor]:
    pool = _max_pool(len(kernel))
    if x.is_cuda and torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled():
        # torch has no deterministic backward pass of max pooling on CUDA, but one of gather
        indices = pool(x.detach(), kernel, stride, return_indices=True)[1]
        return x.flatten(2).gather(2, indices.flatten(2)).view(indices.shape), indices
    out, indices = pool(x, kernel, stride, return_indices=True)
    return out, indices


class _Disjoint(torch.autograd.Function):
    """Max pooling with windows that do not overlap, so that its gradient is put back as an unpooling is.

    Either `x` is pooled where it lies and its first windows are mended, or the padded map is made, to whose voxels the
    indices then point.
    """

    @staticmethod
    def forward(
        x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], pads: tuple[int, ...], mended: bool
    ) -> tuple[Tensor, ...]:
        if not mended:
            x, pads = _padded(x, pads), (0,) * len(pads)
        out, indices = _maxima(x, kernel, stride, pads)
        return out, indices, *_mend(out, pads)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, _, _, ctx.pads, ctx.mended = inputs
        # not the maxima themselves, which a layer behind may change in place
        ctx.save_for_backward(*output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # or zeros are made for the indices
        ctx.size = tuple(x.shape[2:])
        if not ctx.mended:
            ctx.size = tuple(n + pad for n, pad in zip(ctx.size, ctx.pads, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        indices, *lost = ctx.saved_tensors
        gradient = gradients[0]
        if gradient is None:
            return None, None, None, None, None
        through = _Scattered.apply(gradient, indices, ctx.size, *_by_axis(ctx.pads, lost))
        return through if ctx.mended else cropped(through, ctx.pads), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *settings: Any) -> Any:
        x = x.movedim(in_dims[0], 0)
        outputs = _Disjoint.apply(x.flatten(0, 1), *settings)
        return tuple(output.unflatten(0, x.shape[:2]) for output in outputs), (0,) * len(outputs)


def _padded(x: Tensor, pads: Sequence[int]) -> Tensor:
    if not any(pads):
        return x
    padded = fresh(
        x, [*x.shape[:2], *(n + pad for n, pad in zip(x.shape[2:], pads, strict=True))], zeros=True
    )
    cropped(padded, pads).copy_(x)
    return padded


def cropped(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Leave out the first voxels of each axis: as many as `pads` has for it."""
    for axis, pad in enumerate(pads, 2):
        x = x.narrow(axis, pad, x.shape[axis] - pad)
    return x


def _maxima(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Pool with windows that do not overlap, pads being −inf."""
    if not is_plain(x):
        found: tuple[Tensor, Tensor] = _max_pool(len(pads))(x, kernel, stride, pads, return_indices=True)
        return found
    size = [
        *x.shape[:2],
        *((n + 2 * pad - k) // s + 1 for n, pad, k, s in zip(x.shape[2:], pads, kernel, stride, strict=True)),
    ]
    out, indices = fresh(x, size), fresh(x, size, torch.int64)
    aten = torch.ops.aten
    pool = (aten.max_pool2d_with_indices, aten.max_pool3d_with_indices)[len(pads) - 2]
    pool.out(x, kernel, stride, pads, out=out, indices=indices)
    return out, indices


def _wants_slices(x: Tensor) -> bool:
    # On the CPU, torch computes indices even where nobody wants them.
    differentiated = torch.is_grad_enabled() and x.requires_grad
    return is_plain(x) and x.is_contiguous() and not differentiated


def _halved_in_pieces(x: Tensor) -> Tensor:
    # what lies between two steps stays in the cache, and needs no fresh memory
    maps = x.flatten(0, 1)
    pieces = torch.split(maps, max(1, PIECE * len(maps) // max(1, x.numel())))
    halved = torch.cat([_halved(piece, 1) for piece in pieces])
    return halved.view(*x.shape[:2], *halved.shape[1:])


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
    out: Tensor = _Scattered.apply(values, indices, tuple(size), None, None, None)
    return out


class _Scattered(torch.autograd.Function):
    """Zeros with values at indices, but for the values that a pad won; backward, the gradients at these indices."""

    # Where a pad won, in the first windows of each axis. Not *lost: torch 2.10 compiles no such functions.
    @staticmethod
    def forward(
        values: Tensor,
        indices: Tensor,
        size: tuple[int, ...],
        first: Tensor | None,
        second: Tensor | None,
        third: Tensor | None,
    ) -> Tensor:
        lost = first, second, third
        if not is_plain(values):
            return _scattered(_without(values, lost), indices, size)
        if any(of_axis is not None for of_axis in lost):  # as above, in place
            values = fresh(indices, values.shape, values.dtype).copy_(values)
            for axis, of_axis in enumerate(lost, 2):
                if of_axis is not None:
                    values.narrow(axis, 0, 1).masked_fill_(of_axis, 0)
        out = fresh(indices, (*values.shape[:2], *size), values.dtype, zeros=True)
        if is_channels_last(indices):
            rows, of_indices, of_values = (_channels_last(part) for part in (out, indices, values))
            rows.scatter_(1, of_indices, of_values)
        else:
            _flat(out).scatter_(2, _flat(indices), _flat(values))
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, indices, _, *lost = inputs
        ctx.save_for_backward(indices, *lost)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        indices, *lost = ctx.saved_tensors
        gathered = _gathered(gradients[0], indices)
        return _without(gathered, lost), None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        n = info.batch_size
        folded = [
            (part.expand(n, *part.shape) if dim is None else part.movedim(dim, 0)).flatten(0, 1)
            if isinstance(part, Tensor)
            else part
            for part, dim in zip(inputs, in_dims, strict=True)
        ]
        out = _Scattered.apply(*folded)
        return out.unflatten(0, (n, out.shape[0] // n)), 0


def _scattered(values: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Do what `_Scattered` does with operations that every device, compiler and transformation knows."""
    b, c = values.shape[:2]
    if is_channels_last(indices):
        zeros = values.new_zeros(b, math.prod(size), c)
        rows = zeros.scatter(1, _channels_last(indices), _channels_last(values))
        return rows.reshape(b, *size, c).movedim(-1, 1)
    zeros = values.new_zeros(b, c, math.prod(size))
    return zeros.scatter(2, _flat(indices), _flat(values)).reshape(b, c, *size)


def _gathered(x: Tensor, indices: Tensor) -> Tensor:
    if is_channels_last(indices):
        rows = _channels_last(x).gather(1, _channels_last(indices))
        return rows.reshape(*indices.movedim(1, -1).shape).movedim(-1, 1)
    return _flat(x).gather(2, _flat(indices)).reshape(indices.shape)


# reshape and not flatten, which torch does not know for gradients that it takes many at a time
def _flat(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(x.shape[0], math.prod(x.shape[2:]), x.shape[1])


def _by_axis(pads: Sequence[int], lost: Sequence[Tensor]) -> list[Tensor | None]:
    """Give what `_mend` gave in three places, one an axis."""
    masks = iter(lost)
    return [next(masks, None) if pad else None for pad in (*pads, 0)[:3]]


def _without(values: Tensor, lost: Sequence[Tensor | None]) -> Tensor:
    """Put zeros where a pad won."""
    for axis, of_axis in enumerate(lost, 2):
        if of_axis is not None:
            first, others = values.tensor_split([1], axis)
            values = torch.cat([first.masked_fill(of_axis, 0), others], axis)
    return values

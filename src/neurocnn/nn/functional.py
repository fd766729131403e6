"""Max pooling that keeps the border voxels of axes that the stride does not divide, and its unpooling, as functions.

The result equals that of zero-padding in front of each axis up to a multiple of the stride, followed by torch's max
pooling. The indices refer to the padded map, so they work with any unpooling. The computation differs, because
padding copies the complete feature map although only the first pooling window of each padded axis contains padding.
Instead, the map is pooled with torch's implicit padding (−inf, the identity of max), and those first windows are
clamped to ≥ 0 afterwards, unless indices are requested. If the pooling windows do not overlap, the gradient of the
pooling is an unpooling, so that neither the map nor its maxima are kept for the backward pass.

Ties: the padding precedes the voxels of its window. If it equals the maximum, the gradient goes to the padding.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neurocnn.errors import ModelError
from neurocnn.nn.allocation import allocate_like, flattening, is_eager, needs_plain_operations, unflatten
from neurocnn.nn.kernels import max_pool_pairs_by_kernels, pools_by_kernels
from neurocnn.nn.pair_pooling import pool_pairs, pools_pairs

_MAX_POOL: dict[int, Callable[..., Any]] = {2: F.max_pool2d, 3: F.max_pool3d}
Ints = tuple[int, ...]
Mask = Tensor | None


def pad_max_pool(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], return_indices: bool = False
) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
    """Zero-pad `x` in front of each axis to a multiple of the stride and return the maximum of each window.

    Parameters
    ----------
    x
        Feature maps (B, C, H, W) or (B, C, D, H, W).
    kernel, stride
        One positive integer per axis.
    return_indices
        Whether to return the positions of the maxima.

    Returns
    -------
    tuple
        The maxima (B, C, …); their positions in the flattened padded map, or None; the number of voxels added per
        side, in the order of `torch.nn.functional.pad`: ``(W, 0, H, 0, D, 0)``.

    Examples
    --------
    >>> maxima, _, padding = pad_max_pool(torch.tensor([[[[1.0, 2.0, 3.0]] * 2]]), (2, 2), (2, 2))
    >>> maxima.tolist(), padding
    ([[[[1.0, 3.0]]]], (1, 0, 0, 0))
    """
    pads = [-size % step for size, step in zip(x.shape[2:], stride, strict=True)]
    padding = tuple(number for pad in reversed(pads) for number in (pad, 0))
    if needs_plain_operations():
        # While tracing, sizes are tensors whose values must not be read. Therefore the map is always padded.
        out, indices = _MAX_POOL[len(kernel)](F.pad(x, padding), kernel, stride, return_indices=True)
        return out, indices if return_indices else None, padding
    windows = list(zip(pads, kernel, stride, strict=True))
    if all(k == s == 2 for _, k, s in windows):
        if pools_by_kernels(x):
            return *max_pool_pairs_by_kernels(x, return_indices), padding
        if not return_indices and pools_pairs(x) and not (torch.is_grad_enabled() and x.requires_grad):
            # torch's pooling computes indices even if they are not requested.
            out, _ = pool_pairs(x)
            clamp_padded(out, pads)
            return out, None, padding
    if any(k > s for _, k, s in windows):
        out, indices = _pool_overlapping(F.pad(x, padding) if any(pads) else x, kernel, stride)
    else:
        clampable = all(not pad or (k == s and 2 * pad <= k) for pad, k, s in windows)
        settings = tuple(kernel), tuple(stride), tuple(pads), clampable and not return_indices
        out, indices, *_ = _DisjointPool.apply(x, *settings)
    return out, indices if return_indices else None, padding


def crop(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Return a view of `x` without the first `pads[i]` voxels of spatial axis i."""
    for axis, pad in enumerate(pads, 2):
        x = x.narrow(axis, pad, x.shape[axis] - pad)
    return x


def scatter_maxima(values: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Return a map (B, C, \\*size) of zeros with `values` at the positions of their maxima.

    Parameters
    ----------
    values, indices
        (B, C, …), as returned by a pooling. If two indices are equal, the last value is used (on the CPU).
    size
        (H, W) or (D, H, W) of the map before pooling.

    Raises
    ------
    ModelError
        If values and indices differ in shape.

    Examples
    --------
    >>> scatter_maxima(torch.tensor([[[[5.0]]]]), torch.tensor([[[[3]]]]), (2, 2)).tolist()
    [[[[0.0, 0.0], [0.0, 5.0]]]]
    """
    if values.shape != indices.shape:
        raise ModelError(
            f"unpooling: indices of shape {tuple(indices.shape)}; expected the shape of the feature maps, "
            f"{tuple(values.shape)}; pass the indices of the pooling that these maps come from"
        )
    if needs_plain_operations():
        zeros = values.new_zeros((*values.shape[:2], math.prod(size)))
        return zeros.scatter(2, indices.flatten(2), values.flatten(2)).view(*values.shape[:2], *size)
    out: Tensor = _Scatter.apply(values, indices, tuple(size), None, None, None)
    return out


def _pool_overlapping(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> tuple[Tensor, Tensor]:
    pool = _MAX_POOL[len(kernel)]
    if x.is_cuda and torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled():
        # On CUDA, torch has a deterministic backward pass for gather, but not for max pooling.
        indices = pool(x.detach(), kernel, stride, return_indices=True)[1]
        return x.flatten(2).gather(2, indices.flatten(2)).view(indices.shape), indices
    out, indices = pool(x, kernel, stride, return_indices=True)
    return out, indices


class _DisjointPool(torch.autograd.Function):
    """Max pooling with pooling windows that do not overlap. Its backward pass is an unpooling.

    With `skip_padding`, `x` is pooled unpadded and the first windows are clamped. Otherwise the padded map is
    created, and the indices refer to its voxels.
    """

    @staticmethod
    def forward(x: Tensor, kernel: Ints, stride: Ints, pads: Ints, skip_padding: bool) -> tuple[Tensor, ...]:
        if not skip_padding:
            x, pads = _pad(x, pads), (0,) * len(pads)
        out, indices = pool_disjoint(x, kernel, stride, pads)
        return out, indices, *clamp_padded(out, pads)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, _, _, ctx.pads, ctx.skip_padding = inputs
        # The maxima are not saved, because a later layer may change them in place.
        ctx.save_for_backward(*output[1:])
        ctx.mark_non_differentiable(*output[1:])
        # Without this call, torch would allocate gradients of zeros for the indices.
        ctx.set_materialize_grads(False)
        added = (0,) * len(ctx.pads) if ctx.skip_padding else ctx.pads
        ctx.size = tuple(n + pad for n, pad in zip(x.shape[2:], added, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        indices, *pad_won = ctx.saved_tensors
        gradient = gradients[0]
        if gradient is None:
            return None, None, None, None, None
        scattered = _Scatter.apply(gradient, indices, ctx.size, *_by_axis(ctx.pads, pad_won))
        return scattered if ctx.skip_padding else crop(scattered, ctx.pads), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *settings: Any) -> Any:
        x = x.movedim(in_dims[0], 0)
        outputs = _DisjointPool.apply(x.flatten(0, 1), *settings)
        return tuple(output.unflatten(0, x.shape[:2]) for output in outputs), (0,) * len(outputs)


def _pad(x: Tensor, pads: Sequence[int]) -> Tensor:
    if not any(pads):
        return x
    size = [*x.shape[:2], *(n + pad for n, pad in zip(x.shape[2:], pads, strict=True))]
    padded = allocate_like(x, size, zeros=True)
    crop(padded, pads).copy_(x)
    return padded


def pool_disjoint(x: Tensor, kernel: Ints, stride: Ints, pads: Ints) -> tuple[Tensor, Tensor]:
    """Return the maxima and indices of windows that do not overlap, with a padding of −inf."""
    if not is_eager(x):
        found: tuple[Tensor, Tensor] = _MAX_POOL[len(pads)](x, kernel, stride, pads, return_indices=True)
        return found
    halves = {*kernel, *stride} == {2} and pads == tuple(n % 2 for n in x.shape[2:])
    if halves and x.is_contiguous() and pools_pairs(x):
        out, indices = pool_pairs(x, return_indices=True)
        # Of several NaNs, torch returns the position of the last. The sum is also NaN if there are ∞ and −∞.
        if indices is not None and not out.sum().isnan():
            return out, indices
    windows = zip(x.shape[2:], pads, kernel, stride, strict=True)
    size = [*x.shape[:2], *((n + 2 * pad - k) // s + 1 for n, pad, k, s in windows)]
    out, indices = allocate_like(x, size), allocate_like(x, size, torch.int64)
    aten = torch.ops.aten
    pool = (aten.max_pool2d_with_indices, aten.max_pool3d_with_indices)[len(pads) - 2]
    pool.out(x, kernel, stride, pads, out=out, indices=indices)
    return out, indices


def clamp_padded(out: Tensor, pads: Sequence[int]) -> list[Tensor]:
    """Clamp the first window of each padded axis to ≥ 0, in place; return masks of values that were ≤ 0."""
    pad_won = []
    for axis, pad in enumerate(pads, 2):
        if pad:
            first = out.narrow(axis, 0, 1)
            # The comparison includes 0, because in a tie the padding is the maximum.
            pad_won.append(first <= 0)
            first.masked_fill_(pad_won[-1], 0)
    return pad_won


class _Scatter(torch.autograd.Function):
    """Function that returns zeros with `values` at `indices`. Its backward pass reads the gradients at these indices.

    `first`, `second` and `third` are masks of the first windows of each axis, True if the maximum is in the padding:
    these values are dropped. Each mask is an argument, because torch 2.10 does not compile lists of masks.
    """

    @staticmethod
    def forward(
        values: Tensor, indices: Tensor, size: Ints, first: Mask, second: Mask, third: Mask
    ) -> Tensor:
        flatten, axis = flattening(indices)
        masks = first, second, third
        # vmap does not support in-place scatter.
        if not (is_eager(values) or is_eager(values, "cuda")):
            rows = flatten(_zero_masked(values, masks))
            zeros = rows.new_zeros([math.prod(size) if i == axis else n for i, n in enumerate(rows.shape)])
            return unflatten(zeros.scatter(axis, flatten(indices), rows), axis, size)
        out = allocate_like(indices, (*values.shape[:2], *size), values.dtype, zeros=True)
        flatten(out).scatter_(axis, flatten(indices), flatten(values))
        # The first windows of padded axes are written again, which is faster than a copy of `values` with zeros. The
        # mask of an axis includes the windows that the masks of the axes before it have zeroed.
        for spatial, mask in enumerate(masks, 2):
            if mask is not None:
                kept = values.narrow(spatial, 0, 1).masked_fill(mask, 0)
                flatten(out).scatter_(axis, flatten(indices.narrow(spatial, 0, 1)), flatten(kept))
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, indices, _, *pad_won = inputs
        ctx.save_for_backward(indices, *pad_won)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        indices, *pad_won = ctx.saved_tensors
        flatten, axis = flattening(indices)
        gathered = flatten(gradients[0]).gather(axis, flatten(indices))
        values = unflatten(gathered, axis, indices.shape[2:])
        return _zero_masked(values, pad_won), None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        n = info.batch_size

        def fold(part: Any, dim: int | None) -> Any:
            if not isinstance(part, Tensor):
                return part
            return (part.expand(n, *part.shape) if dim is None else part.movedim(dim, 0)).flatten(0, 1)

        out = _Scatter.apply(*map(fold, inputs, in_dims))
        return out.unflatten(0, (n, out.shape[0] // n)), 0


def _by_axis(pads: Sequence[int], pad_won: Sequence[Tensor]) -> list[Mask]:
    """Return one entry per axis: the mask of `clamp_padded`, or None if the axis has no padding."""
    masks = iter(pad_won)
    return [next(masks, None) if pad else None for pad in (*pads, 0)[:3]]


def _zero_masked(values: Tensor, masks: Sequence[Mask]) -> Tensor:
    """Return `values` with zeros where the mask of an axis is True; a mask covers the first index of its axis."""
    for axis, mask in enumerate(masks, 2):
        if mask is not None:
            first, others = values.tensor_split([1], axis)
            values = torch.cat([first.masked_fill(mask, 0), others], axis)
    return values

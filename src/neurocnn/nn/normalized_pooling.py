"""Batch norm, an activation and max pooling as one operation of a training on the CPU.

An increasing function of each channel does not change which voxel of a window is the largest. The convolution's output
is therefore pooled first, and batch norm and activation are computed for its maxima only, an eighth of the voxels in
3-D. With μ, σ² the statistics of the N voxels y of a channel, y' = (y - μ) / √(σ² + ε) and the gradients g of γ·y' + β,
the gradient of batch norm (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167) is

    γ / √(σ² + ε) · (g - Σg / N - y' · Σ(g·y') / N),

where g is zero except at the maxima, which makes it a linear function of y with other values at the maxima. Instead of
three feature maps and their gradients, only y is stored, and the positions of the maxima if y is contiguous. If the
caller allows it and the graph is not kept, the gradient of y is written into the memory of y.
"""

from typing import Any, TypeGuard, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocnn.nn.allocation import allocate_like, flattening, is_channels_last, is_eager, unflatten
from neurocnn.nn.functional import clamp_padded, pad_max_pool, pool_disjoint
from neurocnn.nn.pair_pooling import pool_pairs, pools_pairs
from neurocnn.nn.pooling import PadMaxPool2d, PadMaxPool3d

Norm = nn.BatchNorm2d | nn.BatchNorm3d
Activation = nn.ReLU | nn.LeakyReLU
Pool = PadMaxPool2d | PadMaxPool3d
# Numbers in a vector register of the widest processors, and values whose statistics are computed at once.
_VECTOR, _PIECE = 16, 2**19


def is_increasing(layer: nn.Module) -> TypeGuard[Activation]:
    """Return whether `layer` is an increasing function with f(0) = 0, so that max pooling may precede it."""
    return type(layer) is nn.ReLU or (type(layer) is nn.LeakyReLU and layer.negative_slope >= 0)


def normalizes_and_pools(layers: tuple[nn.Module, ...]) -> TypeGuard[tuple[Norm, Activation, Pool]]:
    """Return whether `normalize_and_pool` computes these layers in a training."""
    if len(layers) != 3:
        return False
    norm, activation, pool = layers
    if not isinstance(norm, Norm) or not isinstance(pool, Pool) or not is_increasing(activation):
        return False
    # Subclasses may compute something else.
    plain = type(norm) in get_args(Norm) and type(pool) in get_args(Pool) and norm.training
    # Without a momentum, the running statistics are averages over all batches.
    tracked = norm.momentum is not None or norm.running_mean is None
    halving = {*pool.kernel_size, *pool.stride} == {2}
    return plain and tracked and halving and not (pool.return_indices or pool.return_pad)


def normalize_and_pool(
    norm: Norm, activation: Activation, pool: Pool, y: Tensor, overwrite: bool = False
) -> Tensor:
    """Return ``pool(activation(norm(y)))`` for layers for which `normalizes_and_pools` is True.

    Parameters
    ----------
    norm, activation, pool
        Layers. The running statistics of `norm` are updated.
    y
        Feature maps (B, C, …).
    overwrite
        Whether the backward pass may replace the values of `y`, a map without gaps in memory, by their gradient,
        because nothing else needs them.

    Notes
    -----
    The layers are applied one by one on other devices than the CPU, in half precision, and where a weight of `norm` is
    missing or not positive.

    Examples
    --------
    >>> layers = nn.BatchNorm2d(2), nn.ReLU(), PadMaxPool2d(2)
    >>> y = torch.rand(4, 2, 5, 5)
    >>> torch.allclose(normalize_and_pool(*layers, y), nn.Sequential(*layers)(y), atol=1e-6)
    True
    """
    if not _is_exact(norm, y) or y.dim() != len(pool.stride) + 2:
        out: Tensor = pool(activation(norm(y)))
        return out
    running: tuple[Tensor | None, Tensor | None] = (None, None)
    if norm.track_running_stats:
        running = norm.running_mean, norm.running_var
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    slope = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0
    out = _NormalizedPool.apply(
        y, norm.weight, norm.bias, *running, norm.momentum or 0.0, norm.eps, slope, overwrite
    )
    return out


def _is_exact(norm: Norm, y: Tensor) -> bool:
    """Return whether pooling before batch norm gives the same values, and the layer would raise no error."""
    values: list[Tensor] = [norm.weight, norm.bias]
    if norm.track_running_stats:
        values += [value for value in (norm.running_mean, norm.running_var) if value is not None]
    # torch does not check the sizes of the statistics before it writes to them.
    fits = y.dim() > 2 and all(value is not None and value.shape == y.shape[1:2] for value in values)
    if not fits or y.numel() <= y.shape[1] or y.dtype not in (torch.float32, torch.float64) or norm.eps <= 0:
        return False
    eager = all(is_eager(value) and value.dtype == y.dtype for value in (y, *values))
    return eager and not bool((norm.weight <= 0).any())


class _NormalizedPool(torch.autograd.Function):
    """Batch norm, (leaky) ReLU, and max pooling with windows of two voxels per axis."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, *settings: Any) -> Tensor:
        running_mean, running_variance, momentum, ctx.eps, ctx.slope, ctx.overwrite = settings
        mean, variance = _update_statistics(y, running_mean, running_variance, momentum)
        # Channels-last maps are pooled again in the backward pass: this takes no longer than reading the maxima at
        # their saved positions.
        last = is_channels_last(y)
        out, indices = pool_pairs(y) if last and pools_pairs(y) else _pool(y)
        ctx.save_for_backward(y, weight, bias, mean, variance, None if last else indices)
        F.leaky_relu_(_normalize(out, mean, variance, ctx.eps, weight, bias, out), ctx.slope)
        clamp_padded(out, _pads(y))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        y, weight, bias, mean, variance, indices = ctx.saved_tensors
        settings = (None,) * 6
        if torch.is_grad_enabled() or not is_eager(gradients[0]):
            return *_differentiable_gradients((y, weight, bias), gradients[0], ctx), *settings
        flatten, axis = flattening(y)
        if indices is None:
            maxima, indices = _pool(y)
        else:
            maxima = unflatten(flatten(y).gather(axis, flatten(indices)), axis, indices.shape[2:])
        positive = _normalize(maxima, mean, variance, ctx.eps, weight, bias) > 0
        gradient = _through_activation(gradients[0], positive, ctx.slope, _pads(y))
        axes = [0, *range(2, y.dim())]
        d_bias = gradient.sum(axes)
        d_weight = _normalize(maxima, mean, variance, ctx.eps).mul_(gradient).sum(axes)
        if not ctx.needs_input_grad[0]:
            return None, d_weight, d_bias, *settings
        # The gradient of y is factor · y + shift, and scale · gradient is added at the maxima.
        inverse, n = torch.rsqrt(variance + ctx.eps), y.numel() // y.shape[1]
        scale = weight * inverse
        factor = -scale * inverse * d_weight / n
        shift = -scale * d_bias / n - factor * mean
        at_maxima = _per_channel(maxima, factor, shift).add_(gradient.mul_(_channels(scale, y.dim())))
        # The gradient has no graph, so it is written through a tensor without one.
        d_y = _per_channel(y, factor, shift, y.detach() if ctx.overwrite and not _keeps_graph() else None)
        flatten(d_y).scatter_(axis, flatten(indices), flatten(at_maxima))
        return d_y, d_weight, d_bias, *settings


def _pads(y: Tensor) -> tuple[int, ...]:
    return tuple(n % 2 for n in y.shape[2:])


def _pool(y: Tensor) -> tuple[Tensor, Tensor]:
    two = (2,) * (y.dim() - 2)
    return pool_disjoint(y, two, two, _pads(y))


def _keeps_graph() -> bool:
    """Return whether the backward pass may be repeated (``retain_graph=True``); True if torch has no such function."""
    keeps = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
    return bool(keeps())


def _update_statistics(
    y: Tensor, running_mean: Tensor | None, running_variance: Tensor | None, momentum: float
) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of each channel, and update the running statistics as batch norm does."""
    if y.dtype != torch.float32 or y.shape[1] >= _VECTOR or not is_channels_last(y):
        return torch.batch_norm_update_stats(y, running_mean, running_variance, momentum)
    mean, variance = _channel_statistics(y)
    n = y.numel() // y.shape[1]
    for running, new in ((running_mean, mean), (running_variance, variance * (n / (n - 1)))):
        if running is not None:
            running.mul_(1 - momentum).add_(new, alpha=momentum)
    return mean, variance


def _channel_statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the (biased) variance of each channel of channels-last maps.

    Torch's kernel takes twice as long if a voxel has fewer channels than a vector register has numbers, and its
    variance of millions of voxels is wrong by up to 1 %. Here the maps are visited in pieces that fit into the
    processor's cache. The statistics of the pieces are combined as in Chan, Golub and LeVeque 1979 (Updating formulae
    and a pairwise algorithm for computing sample variances).
    """
    width = y.shape[-1]
    rows = y.movedim(1, -1).reshape(-1, width * y.shape[1])
    sizes, means, squares = [], [], []
    for piece in torch.split(rows, max(1, _PIECE // rows.shape[1])):
        sizes.append(float(len(piece) * width))
        means.append(piece.mean(0).view(width, -1).mean(0))
        deviations = piece - means[-1].repeat(width)
        squares.append(deviations.square_().sum(0).view(width, -1).sum(0))
    weights, of_pieces = means[0].new_tensor(sizes, dtype=torch.float64)[:, None], torch.stack(means).double()
    mean = (weights * of_pieces).sum(0) / weights.sum()
    between = (weights * (of_pieces - mean).square()).sum(0)
    variance = (torch.stack(squares).double().sum(0) + between) / weights.sum()
    return mean.to(y.dtype), variance.to(y.dtype)


def _channels(values: Tensor, n_axes: int) -> Tensor:
    return values.view(-1, *[1] * (n_axes - 2))


def _normalize(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    scale = torch.rsqrt(variance + eps) * (1 if weight is None else weight)
    return _per_channel(x, scale, (0 if bias is None else bias) - mean * scale, out)


def _per_channel(x: Tensor, factor: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """Return factor · x + shift with one factor and one shift per channel, in the memory format of `x`."""
    out = allocate_like(x, x.shape) if out is None else out
    if not is_channels_last(x):
        return torch.addcmul(_channels(shift, x.dim()), x, _channels(factor, x.dim()), out=out)
    # A row of voxels with all channels is longer than the channels of a voxel, which suits vector instructions.
    n = x.shape[-1]
    rows, row_of_out = (each.movedim(1, -1).flatten(-2) for each in (x, out))
    torch.addcmul(shift.repeat(n), rows, factor.repeat(n), out=row_of_out)
    return out


def _through_activation(gradient: Tensor, positive: Tensor, slope: float, pads: tuple[int, ...]) -> Tensor:
    """Return the gradient before the activation. Where the padding is larger than the maximum, it is zero."""
    gradient = torch.where(positive, gradient, gradient * slope)
    for axis, pad in enumerate(pads, 2):
        if pad:
            gradient.narrow(axis, 0, 1).masked_fill_(~positive.narrow(axis, 0, 1), 0)
    return gradient


def _differentiable_gradients(inputs: tuple[Tensor, ...], gradient: Tensor, ctx: Any) -> list[Tensor | None]:
    """Return the gradients of the three inputs by torch's operations, for second derivatives and batched gradients."""
    again, two = torch.is_grad_enabled(), (2,) * (gradient.dim() - 2)
    with torch.enable_grad():
        # Views, because the input may itself depend on the same weights.
        y, weight, bias = views = [each.view_as(each) for each in inputs]
        out = F.leaky_relu(F.batch_norm(y, None, None, weight, bias, True, 0.0, ctx.eps), ctx.slope)
        pooled = pad_max_pool(out, two, two)[0]
    needed = ctx.needs_input_grad[:3]
    wanted = [view for view, need in zip(views, needed, strict=True) if need]
    found = iter(torch.autograd.grad(pooled, wanted, gradient, create_graph=again))
    return [next(found) if need else None for need in needed]

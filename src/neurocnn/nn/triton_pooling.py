# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, untyped-decorator, import-untyped"
"""Max pooling of pairs of voxels by Triton kernels, for feature maps on a GPU.

The result equals that of padding with zeros in front and torch's max pooling, bit for bit. The position of a maximum is
that of the first of several equal values in row order, but of the last of several NaN. The forward pass reads the map
once and keeps one byte per window, the position of the maximum. The backward pass reads the gradient and these bytes
once and writes each voxel once, without atomic additions, so it is deterministic.

This module needs triton, which comes with torch for CUDA. Triton's interpreter runs the kernels on the CPU if
``TRITON_INTERPRET=1`` is set before triton is imported.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from neurocnn.nn.allocation import is_channels_last

# Number of windows and warps per program. On an H200 these took 0.46 of torch's time for the largest map of Conv5_FC3
# (256 and 4: 0.6).
_WINDOWS = 512
_WARPS = 8


# Sizes are constants, so that the compiler replaces divisions by multiplications.
@triton.jit
def _first_voxel(
    window,
    C: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    LAST: tl.constexpr,
    DEEP: tl.constexpr,
):
    """Return the offset in memory and the indices (d, h, w) of the first voxel of a window."""
    PD: tl.constexpr = D % 2 if DEEP else 0
    PH: tl.constexpr = H % 2
    PW: tl.constexpr = W % 2
    D2: tl.constexpr = (D + PD) // 2 if DEEP else 1
    S: tl.constexpr = C if LAST else 1
    c = window * 0
    if LAST:
        c = window % C
        window = window // C
    w = 2 * (window % ((W + PW) // 2)) - PW
    window = window // ((W + PW) // 2)
    h = 2 * (window % ((H + PH) // 2)) - PH
    window = window // ((H + PH) // 2)
    d = 2 * (window % D2) - PD if DEEP else c * 0
    # Index of the image and channel, or of the image if the channels are last.
    n = window // D2
    return (((n * D + d) * H + h) * W + w) * S + c, d, h, w


@triton.jit
def _pool(
    x_ptr,
    y_ptr,
    code_ptr,
    n_windows,
    C: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    DOUBLE: tl.constexpr,
    CODES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    S: tl.constexpr = C if LAST else 1
    program = tl.program_id(0)
    window = (program.to(tl.int64) if WIDE else program) * BLOCK + tl.arange(0, BLOCK)
    inside = window < n_windows
    first, d, h, w = _first_voxel(window, C, D, H, W, LAST, DEEP)
    # The first voxel, or the padding in its place, is the maximum until a larger value occurs, even if it is −inf.
    valid = inside & (d >= 0) & (h >= 0) & (w >= 0)
    best = tl.load(x_ptr + first, mask=valid, other=0.0)
    if not DOUBLE:
        # The conversion is exact. Values in half precision cannot be compared directly.
        best = best.to(tl.float32)
    code = tl.zeros([BLOCK], tl.int32)
    # The loop has no names for the offsets, because constants cannot be reassigned in a loop that is unrolled.
    for k in tl.static_range(1, 8 if DEEP else 4):
        valid = inside & (d + k // 4 >= 0) & (h + (k // 2) % 2 >= 0) & (w + k % 2 >= 0)
        value = tl.load(x_ptr + first + ((k // 4 * H + (k // 2) % 2) * W + k % 2) * S, mask=valid, other=0.0)
        if not DOUBLE:
            value = value.to(tl.float32)
        wins = (value > best) | (value != value)
        best = tl.where(wins, value, best)
        code = tl.where(wins, k, code)
    tl.store(y_ptr + window, best.to(y_ptr.dtype.element_ty), mask=inside)
    if CODES:
        tl.store(code_ptr + window, code.to(tl.uint8), mask=inside)


@triton.jit
def _unpool(
    g_ptr,
    code_ptr,
    dx_ptr,
    n_windows,
    C: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    S: tl.constexpr = C if LAST else 1
    program = tl.program_id(0)
    window = (program.to(tl.int64) if WIDE else program) * BLOCK + tl.arange(0, BLOCK)
    inside = window < n_windows
    first, d, h, w = _first_voxel(window, C, D, H, W, LAST, DEEP)
    g = tl.load(g_ptr + window, mask=inside, other=0.0)
    code = tl.load(code_ptr + window, mask=inside, other=0).to(tl.int32)
    zero = tl.zeros_like(g)
    for row in tl.static_range(0, 4 if DEEP else 2):
        start = first + (row // 2 * H + row % 2) * W * S
        valid = inside & (d + row // 2 >= 0) & (h + row % 2 >= 0)
        left = tl.where(code == 2 * row, g, zero)
        right = tl.where(code == 2 * row + 1, g, zero)
        if LAST:
            tl.store(dx_ptr + start, left, mask=valid & (w >= 0))
            tl.store(dx_ptr + start + S, right, mask=valid)
        else:
            # Both voxels of a row are neighbours in memory, so that one instruction writes them.
            voxels = tl.interleave(start, start + 1)
            mask = tl.interleave((valid & (w >= 0)).to(tl.int8), valid.to(tl.int8)) != 0
            tl.store(dx_ptr + voxels, tl.interleave(left, right), mask=mask)


def _launch(kernel: Any, tensors: Sequence[Tensor], size: Sequence[int], last: bool, **flags: bool) -> None:
    """Run a kernel over the windows of a map of shape `size`, (B, C, …). `tensors` are its pointer arguments."""
    windows = tensors[1]
    if not windows.numel():
        return
    channels, *axes = size[1:]
    deep = len(axes) == 3
    depth, height, width = axes if deep else (1, *axes)
    wide = windows.numel() * (8 if deep else 4) >= 2**31
    # Triton launches kernels on the current device.
    with torch.cuda.device_of(windows):
        kernel[(triton.cdiv(windows.numel(), _WINDOWS),)](
            *tensors, windows.numel(), channels, depth, height, width, LAST=last, DEEP=deep, WIDE=wide,
            BLOCK=_WINDOWS, num_warps=_WARPS, **flags,
        )  # fmt: skip


def _layout(x: Tensor, last: bool) -> torch.memory_format:
    if not last:
        return torch.contiguous_format
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


def _same(kernel: Any) -> Any:
    return kernel


Wrap = Callable[[Any], Any]


def _visible(kernel: Any) -> Any:
    """Return a kernel that torch.compile sees; kernels of the interpreter cannot be compiled."""
    return wrap_triton(kernel) if isinstance(kernel, triton.JITFunction) else kernel


def _run_pool(x: Tensor, return_positions: bool, wrap: Wrap = _same) -> tuple[Tensor, Tensor]:
    last = is_channels_last(x)
    x = x.contiguous(memory_format=_layout(x, last))
    size = [*x.shape[:2], *((n + 1) // 2 for n in x.shape[2:])]
    out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=_layout(x, last))
    found = (
        torch.empty_like(out, dtype=torch.uint8) if return_positions else out.new_empty(0, dtype=torch.uint8)
    )
    double = x.dtype == torch.float64
    _launch(wrap(_pool), (x, out, found), x.shape, last, DOUBLE=double, CODES=return_positions)
    return out, found


def _run_unpool(values: Tensor, positions: Tensor, size: Sequence[int], wrap: Wrap = _same) -> Tensor:
    last = is_channels_last(positions)
    values = values.contiguous(memory_format=_layout(values, last))
    out = torch.empty(size, dtype=values.dtype, device=values.device, memory_format=_layout(values, last))
    _launch(wrap(_unpool), (values, positions, out), size, last)
    return out


@triton_op("neurocnn::max_pool_pairs", mutates_args=())
def max_pool_pairs(x: Tensor, return_positions: bool) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window of two voxels per axis, and its position in the window.

    Parameters
    ----------
    x
        Feature maps (B, C, H, W) or (B, C, D, H, W) of any floating-point type, on a GPU.
    return_positions
        Whether to return positions; otherwise the second tensor is empty.

    Returns
    -------
    tuple
        The maxima (B, C, …), and their positions as uint8, ``4d + 2h + w`` (``2h + w`` in 2-D) with d, h, w in {0, 1}.
        An odd axis is padded with a zero in front.
    """
    return _run_pool(x, return_positions, _visible)


@triton_op("neurocnn::unpool_pairs", mutates_args=())
def unpool_pairs(values: Tensor, positions: Tensor, size: Sequence[int]) -> Tensor:
    """Return a map of shape `size` with `values` at the `positions` of `max_pool_pairs`, zeros elsewhere.

    A value whose position is in the padding is dropped.
    """
    return _run_unpool(values, positions, size, _visible)


def max_pool_pairs_with_positions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return maxima and positions as `max_pool_pairs` does, with derivatives of any order, also under torch.func."""
    return _MaxPoolPairs.apply(x)


def padded_indices(positions: Tensor, size: Sequence[int]) -> Tensor:
    """Return the positions of maxima in the flattened map of spatial shape `size`, padded to even axes."""
    n_axes = positions.dim() - 2
    found = torch.zeros_like(positions, dtype=torch.int64)
    for axis in range(n_axes):
        start = 2 * torch.arange(positions.shape[axis + 2], device=positions.device)
        step = (positions >> (n_axes - 1 - axis)) & 1
        found = found * (size[axis] + size[axis] % 2) + start.view(-1, *[1] * (n_axes - 1 - axis)) + step
    return found


class _MaxPoolPairs(torch.autograd.Function):
    """Autograd function of `max_pool_pairs` with positions. Unlike the derivatives of a registered operator, its
    derivatives also work in torch.func.
    """

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        # An operator of torch takes several times as long to call as its kernel, but only operators can be compiled.
        pool = max_pool_pairs if torch.compiler.is_compiling() else _run_pool
        return pool(x, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output[1])
        ctx.size = tuple(inputs[0].shape)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:
        [positions] = ctx.saved_tensors
        return None if gradients[0] is None else _UnpoolPairs.apply(gradients[0], positions, ctx.size)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        x = x.movedim(in_dims[0], 0)
        return tuple(part.unflatten(0, x.shape[:2]) for part in _MaxPoolPairs.apply(x.flatten(0, 1))), (0, 0)


class _UnpoolPairs(torch.autograd.Function):
    """Autograd function of `unpool_pairs`, with derivatives of any order."""

    @staticmethod
    def forward(values: Tensor, positions: Tensor, size: Sequence[int]) -> Tensor:
        unpool = unpool_pairs if torch.compiler.is_compiling() else _run_unpool
        return unpool(values, positions, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        [positions] = ctx.saved_tensors
        pads = [side for n in reversed(gradients[0].shape[2:]) for side in (n % 2, 0)]
        # A value that the pooling omits has no gradient, so its gradient is padded with zeros.
        padded = torch.nn.functional.pad(gradients[0], pads)
        indices = padded_indices(positions, gradients[0].shape[2:])
        return padded.flatten(2).gather(2, indices.flatten(2)).view(positions.shape), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, values: Tensor, positions: Tensor, size: Sequence[int]) -> Any:
        n = info.batch_size
        parts = [
            (part.expand(n, *part.shape) if dim is None else part.movedim(dim, 0)).flatten(0, 1)
            for part, dim in ((values, in_dims[0]), (positions, in_dims[1]))
        ]
        return _UnpoolPairs.apply(*parts, [n * size[0], *size[1:]]).unflatten(0, (n, size[0])), 0

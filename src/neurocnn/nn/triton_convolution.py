# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, untyped-decorator, import-untyped"
"""Convolutions of images with few channels by Triton kernels, for a GPU.

A convolution of 3 × 3 × 3 voxels with one input channel needs little arithmetic for each voxel that it writes. cuDNN's
kernels for it are made for many channels, and take several times as long as reading the images and writing the feature
maps. The same holds for the gradient of the weights with few input channels: it is a matrix product of the gradient of
the outputs (C_out × voxels) and the shifted inputs (voxels × 27 C_in). Each program sums over some of the voxels, and
the sums of all programs are added in a fixed order, so that the result is deterministic.

Feature maps are channels-last. Products are accumulated in float32. The gradient of float32 weights is computed from
pairs of bfloat16 numbers whose sum has 16 significant bits, more than TF32 has (11).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Voxels per program of the convolution, and per step of the gradient.
_VOXELS = 256
_STEP = 128
# Programs of the gradient: each has one partial sum.
_PROGRAMS = 1056
_COLUMNS = 64


@triton.jit
def _voxel(v, D: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr):
    """Return for each output voxel the index of its image, and the first input voxel (d, h, w) of its window."""
    w = v % (W + 2 * P - 2)
    v = v // (W + 2 * P - 2)
    h = v % (H + 2 * P - 2)
    v = v // (H + 2 * P - 2)
    d = v % (D + 2 * P - 2)
    return v // (D + 2 * P - 2), d - P, h - P, w - P


@triton.jit
def _convolve(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    n_voxels,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    P: tl.constexpr,
    C_OUT: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    v = (program.to(tl.int64) if WIDE else program) * BLOCK + tl.arange(0, BLOCK)
    inside = v < n_voxels
    c = tl.arange(0, CHANNELS)
    n, d, h, w = _voxel(v, D, H, W, P)
    first = ((n * D + d) * H + h) * W + w
    sums = tl.zeros([BLOCK, CHANNELS], tl.float32) + tl.load(bias_ptr + c)[None, :]
    # The loop has no names for the offsets, because constants cannot be reassigned in a loop that is unrolled.
    for k in tl.static_range(0, 27):
        valid = inside & (d + k // 9 >= 0) & (d + k // 9 < D)
        valid = valid & (h + k // 3 % 3 >= 0) & (h + k // 3 % 3 < H) & (w + k % 3 >= 0) & (w + k % 3 < W)
        x = tl.load(x_ptr + first + (k // 9 * H + k // 3 % 3) * W + k % 3, mask=valid, other=0.0)
        weight = tl.load(weight_ptr + k * CHANNELS + c)
        sums += x.to(tl.float32)[:, None] * weight[None, :]
    places = y_ptr + v[:, None] * C_OUT + c[None, :]
    tl.store(places, sums.to(y_ptr.dtype.element_ty), mask=inside[:, None] & (c[None, :] < C_OUT))


@triton.jit
def _weight_gradient(
    x_ptr,
    g_ptr,
    sums_ptr,
    n_voxels,
    n_steps,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    P: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    STEP: tl.constexpr,
):
    # A column of the shifted inputs is one input channel at one of 27 offsets; the last column is 1, for the bias.
    k = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    offset = k // C_IN
    kd, kh, kw = offset // 9, offset // 3 % 3, offset % 3
    c = tl.arange(0, CHANNELS)
    sums = tl.zeros([CHANNELS, COLUMNS], tl.float32)
    program = tl.program_id(0)
    begin = (program.to(tl.int64) if WIDE else program) * n_steps * STEP
    for step in range(0, n_steps):
        v = begin + step * STEP + tl.arange(0, STEP)
        inside = v < n_voxels
        n, d, h, w = _voxel(v, D, H, W, P)
        valid = inside & (c[:, None] < C_OUT)
        g = tl.load(g_ptr + v[None, :] * C_OUT + c[:, None], mask=valid, other=0.0)
        dk, hk, wk = d[:, None] + kd[None, :], h[:, None] + kh[None, :], w[:, None] + kw[None, :]
        valid = inside[:, None] & (k[None, :] < 27 * C_IN) & (dk >= 0) & (dk < D)
        valid = valid & (hk >= 0) & (hk < H) & (wk >= 0) & (wk < W)
        places = (((n[:, None] * D + dk) * H + hk) * W + wk) * C_IN + (k % C_IN)[None, :]
        x = tl.load(x_ptr + places, mask=valid, other=0.0)
        x += ((k[None, :] == 27 * C_IN) & inside[:, None]).to(x_ptr.dtype.element_ty)
        sums = tl.dot(g, x, sums, input_precision=PRECISION)
    row = tl.program_id(0) * CHANNELS + c
    tl.store(sums_ptr + row[:, None] * (tl.num_programs(1) * COLUMNS) + k[None, :], sums)


def _precision() -> str:
    # The interpreter computes in float32.
    return "bf16x3" if isinstance(_weight_gradient, triton.JITFunction) else "ieee"


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Return the convolution of images with one channel, as `torch.nn.functional.conv3d` does.

    Parameters
    ----------
    x
        Images (B, 1, D, H, W) in contiguous format, of a floating-point type, on a GPU.
    weight
        (C_out, 1, 3, 3, 3).
    bias
        (C_out,), or None.
    padding
        0 or 1 voxels on each side.

    Returns
    -------
    Tensor
        (B, C_out, D + 2 padding - 2, …), channels-last, of the type of `x`.
    """
    c_out, size = weight.shape[0], x.shape[2:]
    channels = _power_of_two(c_out)
    numbers = weight.new_zeros((28, channels), dtype=torch.float32)
    numbers[:27, :c_out] = weight.reshape(c_out, 27).t()
    if bias is not None:
        numbers[27, :c_out] = bias
    shape = (x.shape[0], c_out, *(n + 2 * padding - 2 for n in size))
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    n_voxels = y.numel() // c_out
    if n_voxels:
        wide = max(y.numel(), x.numel()) >= 2**31
        # Triton launches kernels on the current device.
        with torch.cuda.device_of(x):
            _convolve[(triton.cdiv(n_voxels, _VOXELS),)](
                x, numbers, numbers[27], y, n_voxels, *size, padding, c_out, channels, wide, _VOXELS, num_warps=4
            )  # fmt: skip
    return y


def weight_gradient(x: Tensor, gradient: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of a convolution's weights (C_out, C_in, 3, 3, 3) and of its bias (C_out,), in float32.

    Parameters
    ----------
    x
        Inputs (B, C_in, D, H, W), channels-last, in float32, bfloat16 or float16, on a GPU.
    gradient
        Gradient of the outputs (B, C_out, D + 2 padding - 2, …), channels-last, of the type of `x`.
    padding
        0 or 1 voxels on each side.
    """
    (_, c_in, *size), c_out = x.shape, gradient.shape[1]
    n_voxels = gradient.numel() // c_out
    n_steps = triton.cdiv(triton.cdiv(n_voxels, _PROGRAMS), _STEP)
    n_programs = triton.cdiv(n_voxels, n_steps * _STEP)
    # A matrix product on the tensor cores has at least 16 rows.
    channels, n_columns = max(16, _power_of_two(c_out)), 27 * c_in + 1
    columns = min(_COLUMNS, _power_of_two(n_columns))
    n_blocks = triton.cdiv(n_columns, columns)
    sums = x.new_empty((n_programs, channels, n_blocks * columns), dtype=torch.float32)
    wide = max(gradient.numel(), x.numel()) >= 2**31
    with torch.cuda.device_of(x):
        _weight_gradient[(n_programs, n_blocks)](
            x, gradient, sums, n_voxels, n_steps, *size, padding, c_in, c_out, channels, columns, wide,
            _precision(), _STEP, num_warps=4,
        )  # fmt: skip
    total = sums.sum(0)[:c_out]
    weights = total[:, : 27 * c_in].reshape(c_out, 3, 3, 3, c_in).permute(0, 4, 1, 2, 3)
    return weights, total[:, 27 * c_in]

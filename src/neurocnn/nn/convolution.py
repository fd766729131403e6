"""3-D convolutions with few channels on a GPU, for which cuDNN's choices take several times as long as necessary.

Three computations differ from `torch.nn.functional.conv3d`; the results agree up to rounding:

- The convolution of images with one channel, and the gradient of weights with few input channels, are computed by the
  kernels of `triton_convolution`.
- In float32, the gradient of the inputs is computed as the convolution of the gradient with the flipped weights, for
  which cuDNN has faster kernels than for the gradient.
"""

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocnn.nn.allocation import is_eager
from neurocnn.nn.kernels import has_triton

#: Largest number of input channels for which a kernel computes the gradient of the weights.
MAX_CHANNELS = 8
_LAST = torch.channels_last_3d


def convolves_by_kernels(layer: nn.Module, x: Tensor) -> TypeGuard[nn.Conv3d]:
    """Return whether `convolve` computes the layer `layer` for the inputs `x` (B, C, D, H, W)."""
    if not is_eager(x, "cuda") or not has_triton() or not x.is_floating_point():
        return False
    if not is_supported(layer) or not is_eager(layer.weight, "cuda"):
        return False
    return x.dtype != torch.float64 and _allows_rounding()


def is_supported(layer: nn.Module) -> TypeGuard[nn.Conv3d]:
    """Return whether a layer is a convolution of 3 × 3 × 3 voxels with stride 1 and at most one voxel of padding."""
    if type(layer) is not nn.Conv3d:
        return False
    plain = (
        layer.kernel_size == (3, 3, 3) and layer.stride == layer.dilation == (1, 1, 1) and layer.groups == 1
    )
    return plain and layer.padding_mode == "zeros" and layer.padding in ((0, 0, 0), (1, 1, 1))


def _allows_rounding() -> bool:
    # Whoever switches TF32 off expects products in full float32. torch raises an error if `allow_tf32` is read after
    # this setting was changed.
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]


def convolve(layer: nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the output of a layer for which `is_supported` is True, with these weights, in autocast's type."""
    padding = int(layer.padding[0])
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    out: Tensor = _Convolution.apply(x, weight, bias, padding)
    return out


class _Convolution(torch.autograd.Function):
    """Convolution of 3 × 3 × 3 voxels, with stride 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        from neurocnn.nn.triton_convolution import convolve as convolve_one_channel

        ctx.padding, ctx.has_bias = padding, bias is not None
        ctx.save_for_backward(x, weight)
        if x.shape[1] == 1:
            return convolve_one_channel(x.contiguous(), weight, bias, padding)
        return F.conv3d(x.contiguous(memory_format=_LAST), weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=_LAST)
        wanted = [*ctx.needs_input_grad[:2], ctx.has_bias and ctx.needs_input_grad[2]]
        if torch.is_grad_enabled():
            # Only torch's operation has derivatives.
            return *_torch_gradients(x, weight, gradient, ctx.padding, wanted), None
        found: list[Tensor | None] = [None, None, None]
        if wanted[0] and x.dtype == torch.float32 and x.shape[1] > 1:
            found[0] = F.conv3d(gradient, weight.flip(2, 3, 4).transpose(0, 1), padding=2 - ctx.padding)
            wanted[0] = False
        if (wanted[1] or wanted[2]) and x.shape[1] <= MAX_CHANNELS:
            from neurocnn.nn.triton_convolution import weight_gradient

            weights, bias = weight_gradient(x.contiguous(memory_format=_LAST), gradient, ctx.padding)
            found[1] = weights.to(weight.dtype) if wanted[1] else None
            found[2] = bias.to(weight.dtype) if wanted[2] else None
            wanted[1:] = [False, False]
        if any(wanted):
            rest = _torch_gradients(x, weight, gradient, ctx.padding, wanted)
            found = [ours if theirs is None else theirs for ours, theirs in zip(found, rest, strict=True)]
        return *found, None


def _torch_gradients(
    x: Tensor, weight: Tensor, gradient: Tensor, padding: int, wanted: list[bool]
) -> list[Tensor | None]:
    ones = [1, 1, 1]
    found = torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], ones, [padding] * 3, ones, False, [0, 0, 0], 1, wanted
    )
    return [each if want else None for each, want in zip(found, wanted, strict=True)]

"""Sequences of layers: their iteration, and their computation with fewer passes over the feature maps."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocnn.hooks import has_hooks
from neurocnn.nn.allocation import needs_plain_operations
from neurocnn.nn.convolution import convolve, convolves_by_kernels
from neurocnn.nn.normalized_pooling import Norm, is_increasing, normalize_and_pool, normalizes_and_pools
from neurocnn.nn.pooling import PadMaxPool2d, PadMaxPool3d

Convolution = nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
#: Smallest number of values of a map whose batch norm, activation and pooling are one operation. For smaller maps, its
#: calls take longer than it saves.
SMALLEST_MAP = 2**20
POOLS = (PadMaxPool2d, PadMaxPool3d, nn.MaxPool2d, nn.MaxPool3d)


def is_sequence(module: object) -> bool:
    """Return whether `module` is a Sequential that applies its layers one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def iterate_layers(sequence: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the path and the module of each layer of nested Sequentials, in the order of their application."""
    # `named_children` would omit the second occurrence of a module.
    for name, module in sequence._modules.items():
        where = f"{path}.{name}" if path else name
        if module is not None and is_sequence(module):
            yield from iterate_layers(module, where)
        elif module is not None:
            yield where, module


def can_fold(sequence: nn.Module, x: Tensor) -> bool:
    """Return whether `evaluate_folded` gives the output of `sequence` for `x`, except for rounding.

    This requires an evaluation without gradients, in full precision, and without hooks.
    """
    device = x.device.type
    if torch.is_grad_enabled() or x.dtype not in (torch.float32, torch.float64):
        return False
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return False
    return _applies_layers_only(sequence)


def can_fuse(sequence: nn.Module, x: Tensor) -> bool:
    """Return whether `apply_fused` gives the output of `sequence` for `x`, except for rounding."""
    # The functions of `apply_fused` have no rules for torch.func.
    if x.device.type not in ("cpu", "cuda") or torch._C._are_functorch_transforms_active():
        return False
    return _applies_layers_only(sequence)


def _applies_layers_only(sequence: nn.Module) -> bool:
    """Return whether nothing but the output of a sequence is needed, so that layers may be computed together."""
    if torch.compiler.is_compiling() or needs_plain_operations():
        return False
    return is_sequence(sequence) and not has_hooks(sequence)


def apply_fused(sequence: nn.Module, x: Tensor) -> Tensor:
    """Return the output of a sequence for which `can_fuse` is True.

    On a GPU convolutions are computed by kernels; on a CPU, batch norm, activation and pooling are one operation.
    """
    layers = [layer for _, layer in iterate_layers(sequence)]
    is_private = False
    while layers:
        block = tuple(layers[:3])
        if x.numel() >= SMALLEST_MAP and normalizes_and_pools(block):
            x, is_private = normalize_and_pool(*block, x, overwrite=is_private), False
            del layers[:3]
        else:
            layer = layers.pop(0)
            x = convolve(layer, x, layer.weight, layer.bias) if convolves_by_kernels(layer, x) else layer(x)
            # The backward pass of a convolution does not need its output.
            is_private = (
                type(layer) in CONVOLUTIONS and "_conv_forward" not in vars(layer) and not _is_observed()
            )
    return x


def _is_observed() -> bool:
    """Return whether a mode or hook of torch may keep tensors; True if this version of torch does not list them."""
    try:
        stacks = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
        return any(stacks) or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    except (AttributeError, TypeError):
        return True


def evaluate_folded(sequence: nn.Module, x: Tensor) -> Tensor:
    """Return the output of a sequence, with batch norm folded into the convolutions, and pooling before activation.

    Parameters
    ----------
    sequence
        Sequential for which `can_fold` is True. A batch norm in training mode is applied as it is.
    x
        Images or feature maps (B, C, …).

    Notes
    -----
    In evaluation mode a batch norm is y = s·x + t for each channel, with s = γ / √(σ² + ε) and t = β - s·μ. The
    convolution w∗x + b before it therefore becomes (s·w)∗x + (s·b + t).

    Examples
    --------
    >>> blocks = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), PadMaxPool2d(2)).eval()
    >>> image = torch.rand(2, 1, 9, 9)
    >>> with torch.no_grad():
    ...     torch.allclose(evaluate_folded(blocks, image), blocks(image), atol=1e-6)
    True
    """
    for step in _steps([layer for _, layer in iterate_layers(sequence)]):
        x = step(x)
    return x


def _steps(layers: Sequence[nn.Module]) -> Iterator[Callable[[Tensor], Tensor]]:
    remaining = list(layers)
    while remaining:
        first = remaining.pop(0)
        second = remaining[0] if remaining else None
        if isinstance(first, CONVOLUTIONS) and isinstance(second, NORMS) and _is_foldable(first, second):
            remaining.pop(0)
            yield partial(_convolve_and_normalize, first, second)
        else:
            if second is not None and is_increasing(first) and _is_plain_pool(second):
                yield remaining.pop(0)
            yield first


def _is_foldable(convolution: Convolution, norm: Norm) -> bool:
    # Subclasses may compute something else.
    exact = type(convolution) in CONVOLUTIONS and type(norm) in NORMS and convolution.padding_mode == "zeros"
    variance = None if norm.training else norm.running_var
    return exact and variance is not None and variance.dtype == convolution.weight.dtype


def _is_plain_pool(layer: nn.Module) -> bool:
    return type(layer) in POOLS and not layer.return_indices and not getattr(layer, "return_pad", False)


def _convolve_and_normalize(convolution: Convolution, norm: Norm, x: Tensor) -> Tensor:
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = norm.weight * scale
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    if convolution.bias is not None:
        shift = shift + convolution.bias * scale
    weight = convolution.weight * scale.view(-1, *[1] * (convolution.weight.dim() - 1))
    if convolves_by_kernels(convolution, x):
        return convolve(convolution, x, weight, shift)
    operation = F.conv2d if isinstance(convolution, nn.Conv2d) else F.conv3d
    settings = convolution.stride, convolution.padding, convolution.dilation, convolution.groups
    return operation(x, weight, shift, *settings)  # type: ignore[arg-type]

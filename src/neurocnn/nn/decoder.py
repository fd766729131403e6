"""Decoder of an autoencoder: the layers of its encoder, transposed and in reverse order.

The decoder reverses the encoder unit by unit. A unit is a convolution (or a fully-connected layer) and the layers up
to the next convolution or fully-connected layer. The reverse of a unit consists of the unpoolings, the transposed
convolution, and copies of the remaining layers in the encoder's order, with norms resized.
"""

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from neurocnn.errors import ModelError
from neurocnn.nn.dry_run import copy_network, dry_run
from neurocnn.nn.pooling import CropMaxUnpool2d, CropMaxUnpool3d, PadMaxPool2d, PadMaxPool3d
from neurocnn.nn.sequences import iterate_layers

Convolution = nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose2d | nn.ConvTranspose3d
PadPool = PadMaxPool2d | PadMaxPool3d
MaxPool = nn.MaxPool2d | nn.MaxPool3d
FlattenOrUnflatten = nn.Flatten | nn.Unflatten
# Shape (C, H, W), (C, D, H, W) or (N,). Only C, N and the number of axes are used.
Shape = tuple[int, ...]
# A layer of the encoder: its index, path and module.
Layer = tuple[int, str, nn.Module]
# A layer of the decoder, with the index of the encoder's layer that provides its indices or sizes.
Step = tuple[nn.Module, int | None]


class Reshape(nn.Module):
    """Layer that reverses Flatten and Unflatten."""

    def forward(self, x: Any, shape: Any) -> Any:
        """Return `x` (B, …) as (B, \\*shape[1:])."""
        return x.reshape(x.shape[0], *shape[1:])


def mirror(sequence: nn.Module, path: str = "", output: str = "mirror") -> list[Step]:
    """Return the steps of the decoder for a sequence of layers.

    Parameters
    ----------
    sequence
        The encoder.
    path
        Path of the encoder in its network, for messages.
    output
        End of the decoder, see `CNN_Transformer`.

    Raises
    ------
    ModelError
        If a layer has no transposed version; the message contains its path.

    Examples
    --------
    >>> [type(layer).__name__ for layer, _ in mirror(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()))]
    ['ConvTranspose2d', 'ReLU']
    """
    units: list[list[Layer]] = [[]]
    for index, (where, module) in enumerate(iterate_layers(sequence, path)):
        _check_reversible(where, module)
        if isinstance(module, Convolution | nn.Linear | FlattenOrUnflatten):
            units.append([])
        units[-1].append((index, where, module))
    inverts_slope = output == "mirror"
    decoder = [
        step
        for n in reversed(range(len(units)))
        for step in _reversed_unit(units[n], _input_shape_of(units[n:]), inverts_slope)
    ]
    return decoder if inverts_slope else _replace_end(decoder, is_sigmoid=output == "sigmoid")


def _replace_end(decoder: list[Step], is_sigmoid: bool) -> list[Step]:
    """Return the steps without norms and activations after the last transposed layer; add a sigmoid if `is_sigmoid`."""
    mains = [i for i, (layer, _) in enumerate(decoder) if isinstance(layer, Transposed | nn.Linear)]
    if not mains:
        raise ModelError(
            "CNN_Transformer: found no convolution or fully-connected layer; expected at least one"
        )
    last: Any = decoder[mains[-1]][0]
    end: list[Step] = []
    if is_sigmoid:
        norms: Any = {nn.Linear: nn.BatchNorm1d, nn.ConvTranspose2d: nn.BatchNorm2d}
        n = last.out_features if isinstance(last, nn.Linear) else last.out_channels
        norm = norms.get(type(last), nn.BatchNorm3d)(n, **_convolution_arguments(last))
        end = [(norm, None), (nn.Sigmoid(), None)]
    # Unpoolings and reshapes (the steps with an index) are kept, because they restore the size.
    sized = [step for step in decoder[mains[-1] + 1 :] if step[1] is not None]
    return [*decoder[: mains[-1] + 1], *end, *sized]


def _check_reversible(path: str, layer: nn.Module) -> None:
    reason = ""
    inner = [type(m).__name__ for m in layer.modules() if m is not layer and _changes_shape(m)]
    if isinstance(layer, nn.modules.conv._ConvNd) and not isinstance(layer, Convolution):
        reason = "expected Conv2d or Conv3d; other convolutions are not supported"
    elif isinstance(layer, Convolution) and layer.padding_mode != "zeros":
        reason = f"padding_mode={layer.padding_mode!r} has no transposed version; expected 'zeros'"
    elif isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        reason = "the lazy layer is not initialised; call the network with a batch first"
    elif inner:
        reason = (
            f"expected a plain layer without skip connections; it contains {', '.join(inner[:4])}; write an "
            "autoencoder with a module `encoder`"
        )
    if reason:
        raise _layer_error(path, layer, reason)


def _changes_shape(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.conv._ConvNd | nn.Linear | FlattenOrUnflatten | PadPool | MaxPool)


def _layer_error(path: str, layer: nn.Module, reason: str) -> ModelError:
    return ModelError(f"{path} ({type(layer).__name__}): no autoencoder can be derived: {reason}")


def _input_shape_of(units: list[list[Layer]]) -> Shape:
    """Return the shape of the first unit's input, from the first layer that determines it."""
    for _, _, layer in (entry for unit in units for entry in unit):
        if isinstance(layer, Convolution):
            return (layer.in_channels, *(9, 7, 8)[: len(layer.kernel_size)])
        if isinstance(layer, nn.Linear):
            return (layer.in_features,)
    return (6,)


def _reversed_unit(unit: list[Layer], before: Shape, inverts_slope: bool) -> Iterator[Step]:
    for index, _, layer in reversed(unit):
        if isinstance(layer, PadPool):
            unpool = CropMaxUnpool2d if isinstance(layer, PadMaxPool2d) else CropMaxUnpool3d
            yield unpool(layer.kernel_size, layer.stride), index
        elif isinstance(layer, MaxPool):
            max_unpool: Any = nn.MaxUnpool2d if isinstance(layer, nn.MaxPool2d) else nn.MaxUnpool3d
            yield max_unpool(layer.kernel_size, layer.stride, layer.padding), index
    after, reshape = before, None
    for index, path, layer in unit:
        if isinstance(layer, Convolution):
            after = (layer.out_channels, *before[1:])
            yield _transpose(layer), index
        elif isinstance(layer, nn.Linear):
            after = (layer.out_features,)
            bias = layer.bias is not None
            yield (
                nn.Linear(layer.out_features, layer.in_features, bias, **_convolution_arguments(layer)),
                None,
            )
        elif isinstance(layer, FlattenOrUnflatten):
            reshape = index
        elif not isinstance(layer, PadPool | MaxPool):
            yield _resized_copy(path, layer, after, before, inverts_slope), None
    # The reshape comes last, because the layers after a Flatten have the flattened size.
    if reshape is not None:
        yield Reshape(), reshape


def _convolution_arguments(layer: Any) -> dict[str, Any]:
    return {"device": layer.weight.device, "dtype": layer.weight.dtype}


def _transpose(layer: nn.Conv2d | nn.Conv3d) -> nn.Module:
    padding: Any = layer.padding
    if isinstance(padding, str):
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = tuple(t // 2 if padding == "same" else 0 for t in total)
    kind: Any = nn.ConvTranspose2d if isinstance(layer, nn.Conv2d) else nn.ConvTranspose3d
    channels, windows = (layer.out_channels, layer.in_channels), (layer.kernel_size, layer.stride, padding)
    options = {"groups": layer.groups, "bias": layer.bias is not None, "dilation": layer.dilation}
    transposed: nn.Module = kind(*channels, *windows, **options, **_convolution_arguments(layer))
    return transposed


def _resized_copy(
    path: str, layer: nn.Module, old_shape: Shape, new_shape: Shape, inverts_slope: bool
) -> nn.Module:
    """Return a copy of a layer for the decoder, resized from `old_shape` to `new_shape`."""
    n = new_shape[0]
    new = copy_network(layer, path)
    if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.num_features != n:
        new = type(layer)(n, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    elif isinstance(layer, nn.GroupNorm) and layer.num_channels != n:
        new = nn.GroupNorm(math.gcd(layer.num_groups, n), n, layer.eps, layer.affine)
    elif isinstance(layer, nn.LayerNorm) and layer.normalized_shape == old_shape == (old_shape[0],):
        new = nn.LayerNorm(n, layer.eps, layer.elementwise_affine, layer.bias is not None)
    elif isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
        new = nn.PReLU(n)
    elif isinstance(layer, nn.LeakyReLU) and layer.negative_slope != 0 and inverts_slope:
        new = nn.LeakyReLU(1 / layer.negative_slope, layer.inplace)
    tensor = next((t for t in (*layer.parameters(), *layer.buffers()) if t.is_floating_point()), None)
    if tensor is not None:
        new = new.to(tensor.device, tensor.dtype)
    _check_keeps_size(path, layer, old_shape)
    _check_keeps_size(path, new, new_shape)
    return new


def _check_keeps_size(path: str, layer: nn.Module, shape: Shape) -> None:
    for size in (shape, (shape[0], *(n + 3 for n in shape[1:]))):
        try:
            found = tuple(dry_run(layer, size).shape[1:])
        except Exception as error:
            reason = f"the layer does not accept feature maps of {size[0]} channels and any size ({error})"
            raise _layer_error(path, layer, reason) from error
        if found != size:
            raise _layer_error(
                path,
                layer,
                f"the layer changes the shape {size} to {found} and has no transposed version",
            )

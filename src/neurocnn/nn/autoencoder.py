"""An autoencoder derived from a CNN: its convolutions, and the same layers backwards.

The decoder reverses units. A unit is a convolution (or a fully-connected layer) and what follows it up to the
next one; backwards it is the unpoolings, the transposed convolution, then the rest in the encoder's order with
norms resized. Sizes that a forward pass rounds away are recorded in the encoder and given back in the decoder, so
that any input size comes out exactly.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocnn.errors import ModelError
from neurocnn.nn.dry_run import dry_run
from neurocnn.nn.functional import pad_max_pool, scatter_maxima
from neurocnn.nn.pooling import CropMaxUnpool2d, CropMaxUnpool3d, PadMaxPool2d, PadMaxPool3d

Convolution = nn.Conv2d | nn.Conv3d
PadPool = PadMaxPool2d | PadMaxPool3d
MaxPool = nn.MaxPool2d | nn.MaxPool3d
Reshaping = nn.Flatten | nn.Unflatten


class Reshape(nn.Module):
    """Give a batch the shape that it had in the encoder."""

    def forward(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Return `x` (B, …) as (B, *shape[1:])."""
        return x.reshape(x.shape[0], *shape[1:])


class CNN_Transformer(nn.Module):
    """Autoencoder derived from a CNN.

    `encoder` is a copy of the CNN's convolutions with their weights, `decoder` a Sequential with the transposed
    layers in reverse order: Conv → ConvTranspose, PadMaxPool → CropMaxUnpool, MaxPool → MaxUnpool, Linear → Linear with
    sizes swapped, Flatten → Reshape, LeakyReLU → LeakyReLU with the inverse slope (a slope of 0 has none and stays),
    norms resized to the transposed convolution's channels, everything that keeps the size copied.

    Parameters
    ----------
    cnn
        A network whose `convolutions` are a Sequential (of Sequentials), or such a Sequential itself. The batch of a
        forward pass may have any size that the CNN takes.

    Raises
    ------
    ModelError
        With the layer's path: it has no transposed version (padding modes other than zeros, skip connections,
        average pooling, …).

    Examples
    --------
    >>> cnn = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), PadMaxPool2d(2, 2))
    >>> autoencoder = CNN_Transformer(cnn)
    >>> code, reconstruction = autoencoder(torch.zeros(4, 1, 9, 12))
    >>> code.shape, reconstruction.shape
    (torch.Size([4, 160]), torch.Size([4, 1, 9, 12]))
    >>> [type(layer).__name__ for layer in autoencoder.decoder]
    ['CropMaxUnpool2d', 'ConvTranspose2d', 'BatchNorm2d', 'ReLU']
    """

    def __init__(self, cnn: nn.Module) -> None:
        super().__init__()
        has_parts = isinstance(getattr(cnn, "convolutions", None), nn.Module)
        convolutions: Any = cnn.convolutions if has_parts else cnn
        if not _is_sequence(convolutions):
            raise ModelError(
                f"an autoencoder can be derived from a Sequential; found {type(convolutions).__name__} in "
                f"{type(cnn).__name__}{'.convolutions' if has_parts else ', which has no `convolutions`'}"
            )
        self.encoder = copy.deepcopy(convolutions)
        for layer in self.encoder.modules():
            if isinstance(layer, PadPool):
                layer.set_new_return(False, False)
            elif isinstance(layer, MaxPool):
                layer.return_indices = False
        layers = list(_layers(convolutions, "convolutions" if has_parts else ""))
        decoder, self._sources = _decoder(layers)
        self.decoder = nn.Sequential(*decoder)
        self.train(cnn.training)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes (B, n) of images (B, C, …), without reconstructing them."""
        code: Tensor = self.encoder(x)
        return code.flatten(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes (B, n) and the reconstructions, of the shape of `x` (B, C, …)."""
        traces: list[Any] = []
        for _, layer in _layers(self.encoder):
            x, trace = _forward(layer, x)
            traces.append(trace)
        code = x.flatten(1)
        for layer, source in zip(self.decoder, self._sources, strict=True):
            x = _backward(layer, x, None if source is None else traces[source])
        return code, x


def _is_sequence(module: object) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _layers(sequence: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    # not named_children, which leaves out a module that stands there twice
    for name, module in sequence._modules.items():
        where = f"{path}.{name}" if path else name
        if module is not None and _is_sequence(module):
            yield from _layers(module, where)
        elif module is not None:
            yield where, module


def _forward(layer: nn.Module, x: Tensor) -> tuple[Tensor, Any]:
    """Apply a layer of the encoder; with the result, what its reverse will need."""
    if isinstance(layer, PadPool):
        out, indices, padding = pad_max_pool(x, layer.kernel_size, layer.stride, return_indices=True)
        return out, (indices, padding)
    if isinstance(layer, MaxPool):
        pool = F.max_pool2d if isinstance(layer, nn.MaxPool2d) else F.max_pool3d
        out, indices = pool(
            x,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            ceil_mode=layer.ceil_mode,
            return_indices=True,
        )
        return out, (indices, x.shape[2:])
    return layer(x), x.shape


def _backward(layer: nn.Module, x: Tensor, trace: Any) -> Tensor:
    """Apply a layer of the decoder."""
    if isinstance(layer, CropMaxUnpool2d | CropMaxUnpool3d):
        unpooled: Tensor = layer(x, *trace)
        return unpooled
    if isinstance(layer, nn.MaxUnpool2d | nn.MaxUnpool3d):
        # torch's own refuses deterministic mode and kernels unlike their stride
        return scatter_maxima(x, trace[0], trace[1])
    if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
        return _to_size(layer, x, trace[2:])
    if isinstance(layer, Reshape):
        reshaped: Tensor = layer(x, trace)
        return reshaped
    out: Tensor = layer(x)
    return out


def _to_size(layer: nn.ConvTranspose2d | nn.ConvTranspose3d, x: Tensor, size: torch.Size) -> Tensor:
    """Transposed convolution with the output's size given; an even kernel's "same" padding leaves one too many."""
    least = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1
        for n, k, s, p, d in zip(x.shape[2:], *_per_axis(layer), strict=True)
    ]
    asked = [max(a, b) for a, b in zip(least, size, strict=True)]
    out: Tensor = layer(x, output_size=asked)
    for axis, n in enumerate(size, 2):
        out = out if out.shape[axis] == n else out.narrow(axis, 0, n)
    return out


def _per_axis(layer: Any) -> tuple[tuple[int, ...], ...]:
    return layer.kernel_size, layer.stride, layer.padding, layer.dilation


Layers = list[tuple[int, str, nn.Module]]  # position, path, layer


def _decoder(layers: list[tuple[str, nn.Module]]) -> tuple[list[nn.Module], list[int | None]]:
    """Return the decoder's layers, and for each the position of the encoder's layer whose trace it takes."""
    units: list[Layers] = [[]]
    for position, (path, layer) in enumerate(layers):
        _refuse(path, layer)
        if isinstance(layer, Convolution | nn.Linear | Reshaping):
            units.append([])
        units[-1].append((position, path, layer))
    decoder: list[nn.Module] = []
    sources: list[int | None] = []
    for n in reversed(range(len(units))):
        for layer, source in _reversed_unit(units[n], _shape_before(units, n)):
            decoder.append(layer)
            sources.append(source)
    return decoder, sources


def _refuse(path: str, layer: nn.Module) -> None:
    reason = ""
    inner = [type(m).__name__ for m in layer.modules() if m is not layer and _changes(m)]
    if isinstance(layer, nn.modules.conv._ConvNd) and not isinstance(layer, Convolution):
        reason = "only Conv2d and Conv3d have a transposed version here"
    elif isinstance(layer, Convolution) and layer.padding_mode != "zeros":
        reason = f"a convolution with padding_mode={layer.padding_mode!r} has no transposed version; expected 'zeros'"
    elif isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        reason = "its size is not known yet; send a batch through the network first"
    elif inner:
        reason = f"it is no plain sequence of layers (it may have skip connections) but holds {', '.join(inner[:4])}"
    if reason:
        raise ModelError(f"{path} ({type(layer).__name__}): no autoencoder can be derived: {reason}")


def _changes(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.conv._ConvNd | nn.Linear | Reshaping | PadPool | MaxPool)


Shape = tuple[
    int, ...
]  # (C, H, W), (C, D, H, W) or (N,): only C and N, and how many axes there are, have a meaning


def _shape_before(units: list[Layers], n: int) -> Shape:
    """Return the kind of values that the unit's decoder gives, read off the next layer that knows it."""
    for unit in units[n:]:
        for _, _, layer in unit:
            if isinstance(layer, Convolution):
                return (layer.in_channels, *(9, 7, 8)[: len(layer.kernel_size)])
            if isinstance(layer, nn.Linear):
                return (layer.in_features,)
    return (6,)


def _reversed_unit(unit: Layers, before: Shape) -> Iterator[tuple[nn.Module, int | None]]:
    if not unit:
        return
    main = unit[0][2] if isinstance(unit[0][2], Convolution | nn.Linear | Reshaping) else None
    rest = unit if main is None else unit[1:]
    for position, _, layer in reversed(rest):
        if isinstance(layer, PadPool):
            crop = CropMaxUnpool2d if isinstance(layer, PadMaxPool2d) else CropMaxUnpool3d
            yield crop(layer.kernel_size, layer.stride), position
        elif isinstance(layer, MaxPool):
            plain: Any = nn.MaxUnpool2d if isinstance(layer, nn.MaxPool2d) else nn.MaxUnpool3d
            yield plain(layer.kernel_size, layer.stride, layer.padding), position
    others = [(path, layer) for _, path, layer in rest if not isinstance(layer, PadPool | MaxPool)]
    if isinstance(main, Convolution):
        yield _transposed(main), unit[0][0]
        after: Shape = (main.out_channels, *before[1:])
    elif isinstance(main, nn.Linear):
        yield _swapped(main), None
        after = (main.out_features,)
    else:
        after = before
    for path, layer in others:
        yield _resized(path, layer, after, before), None
    if isinstance(main, Reshaping):  # what follows it is of the flattened size, so the reshape comes last
        yield Reshape(), unit[0][0]


def _transposed(layer: nn.Conv2d | nn.Conv3d) -> nn.Module:
    padding: Any = layer.padding
    if isinstance(padding, str):
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = tuple(t // 2 if padding == "same" else 0 for t in total)
    kind: Any = nn.ConvTranspose2d if isinstance(layer, nn.Conv2d) else nn.ConvTranspose3d
    transposed: nn.Module = kind(
        layer.out_channels,
        layer.in_channels,
        layer.kernel_size,
        layer.stride,
        padding,
        groups=layer.groups,
        bias=layer.bias is not None,
        dilation=layer.dilation,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    return transposed


def _swapped(layer: nn.Linear) -> nn.Linear:
    return nn.Linear(
        layer.out_features,
        layer.in_features,
        bias=layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )


def _resized(path: str, layer: nn.Module, after: Shape, before: Shape) -> nn.Module:
    """Copy a layer that sees `after` in the encoder for the values `before` of the decoder."""
    n = before[0]
    new = copy.deepcopy(layer)
    if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.num_features != n:
        new = type(layer)(n, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    elif isinstance(layer, nn.GroupNorm) and layer.num_channels != n:
        new = nn.GroupNorm(math.gcd(layer.num_groups, n), n, layer.eps, layer.affine)
    elif isinstance(layer, nn.LayerNorm) and layer.normalized_shape == after == (after[0],):
        new = nn.LayerNorm(n, layer.eps, layer.elementwise_affine, layer.bias is not None)
    elif isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
        new = nn.PReLU(n)
    elif isinstance(layer, nn.LeakyReLU) and layer.negative_slope != 0:
        new = nn.LeakyReLU(1 / layer.negative_slope, layer.inplace)
    tensor = next((t for t in (*layer.parameters(), *layer.buffers()) if t.is_floating_point()), None)
    if tensor is not None:
        new = new.to(tensor.device, tensor.dtype)
    _check_keeps_size(path, layer, after)
    _check_keeps_size(path, new, before)
    return new


def _check_keeps_size(path: str, layer: nn.Module, shape: Shape) -> None:
    for size in (shape, (shape[0], *(n + 3 for n in shape[1:]))):
        try:
            found = tuple(dry_run(layer, size).shape[1:])
        except Exception as error:
            raise ModelError(
                f"{path} ({type(layer).__name__}): no autoencoder can be derived: "
                f"the layer does not take feature maps of {size[0]} channels and any size ({error})"
            ) from error
        if found != size:
            raise ModelError(
                f"{path} ({type(layer).__name__}): no autoencoder can be derived: "
                f"the layer turns {size} into {found} and has no transposed version"
            )

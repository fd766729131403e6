"""Autoencoder that is derived from a CNN: the convolutions of the CNN, and a decoder that mirrors them.

Layers with a stride round the size of their output. The encoder records the sizes before rounding and the decoder
restores these sizes, so that the reconstruction has exactly the size of the input.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocnn.errors import ModelError
from neurocnn.errors.arguments import check_choice, check_instance, check_integer, check_number
from neurocnn.nn.decoder import (
    Convolution,
    FlattenOrUnflatten,
    MaxPool,
    PadPool,
    Transposed,
    mirror,
)
from neurocnn.nn.dry_run import copy_network
from neurocnn.nn.functional import pad_max_pool, scatter_maxima
from neurocnn.nn.sequences import is_sequence, iterate_layers

#: Choices for the end of a decoder, see `CNN_Transformer`.
OUTPUTS = ("mirror", "linear", "sigmoid")
NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
#: Factor by which `start_at` multiplies the weights of the last layer.
START_FACTOR = 0.1


class CNN_Transformer(nn.Module):
    """Autoencoder derived from a CNN.

    `encoder` is a copy of the CNN's convolutions with their weights. `decoder` is a Sequential of the transposed
    layers in reverse order: Conv → ConvTranspose, PadMaxPool → CropMaxUnpool, MaxPool → MaxUnpool, Linear → Linear with
    sizes swapped, Flatten → Reshape, norms resized to the channels of the transposed convolution, a copy of any other
    layer that keeps the size.

    Parameters
    ----------
    cnn
        A network whose `convolutions` are a Sequential (of Sequentials), or such a Sequential itself. Images may have
        any size that the CNN accepts.
    output
        ``"mirror"`` for all layers, with inverse slopes of LeakyReLUs (except 0), as in ClinicaDL; ``"linear"`` for a
        decoder that ends in the last transposed convolution; ``"sigmoid"`` for a batch norm and a sigmoid after this
        convolution, for images in [0, 1]. With ``"linear"`` and ``"sigmoid"``, LeakyReLUs keep their slope.
    bottleneck
        Number of channels to which a convolution with kernel size 1 reduces the feature maps of the encoder; a
        transposed convolution expands them again before the decoder. With None, the code is the encoder's feature
        maps. `transfer_weights` to a CNN does not copy these two convolutions.

    Raises
    ------
    SettingError
        If an argument cannot be used.
    ModelError
        If the network is not a sequence, does not end in feature maps that a bottleneck can reduce, or a layer has no
        transposed version (padding modes other than zeros, skip connections, average pooling, …). The message contains
        the layer's path.

    Warns
    -----
    UserWarning
        If the inverse slope of a LeakyReLU magnifies values in the decoder, which therefore hardly learns.

    Examples
    --------
    >>> import torch
    >>> from neurocnn.nn import PadMaxPool2d
    >>> cnn = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), PadMaxPool2d(2, 2))
    >>> autoencoder = CNN_Transformer(cnn)
    >>> code, reconstruction = autoencoder(torch.zeros(4, 1, 9, 12))
    >>> code.shape, reconstruction.shape
    (torch.Size([4, 160]), torch.Size([4, 1, 9, 12]))
    >>> torch.equal(autoencoder.encode(torch.zeros(4, 1, 9, 12)), code)
    True
    >>> [type(layer).__name__ for layer in autoencoder.decoder]
    ['CropMaxUnpool2d', 'ConvTranspose2d', 'BatchNorm2d', 'ReLU']
    >>> autoencoder = CNN_Transformer(cnn, output="linear", bottleneck=1)
    >>> autoencoder(torch.zeros(4, 1, 9, 12))[0].shape, len(autoencoder.decoder)
    (torch.Size([4, 20]), 2)
    """

    def __init__(self, cnn: nn.Module, output: str = "mirror", bottleneck: int | None = None) -> None:
        super().__init__()
        self.output = check_choice("output", output, OUTPUTS, where="CNN_Transformer")
        check_instance("cnn", cnn, nn.Module, "a torch.nn.Module", where="CNN_Transformer")
        has_convolutions = isinstance(getattr(cnn, "convolutions", None), nn.Module)
        convolutions: Any = cnn.convolutions if has_convolutions else cnn
        if not is_sequence(convolutions):
            raise ModelError(
                f"CNN_Transformer: found {type(convolutions).__name__} in {type(cnn).__name__}"
                f"{'.convolutions' if has_convolutions else ', which has no `convolutions`'}; expected a Sequential, "
                "as in nc.CNN(convolutions, fc)"
            )
        steps = mirror(convolutions, "convolutions" if has_convolutions else "", output)
        _warn_of_magnification(layer for layer, _ in steps)
        self.bottleneck, self.expansion = _bottleneck(convolutions, bottleneck)
        self.encoder = copy_network(convolutions, "CNN_Transformer")
        for layer in self.encoder.modules():
            if isinstance(layer, PadPool):
                layer.set_new_return(False, False)
            elif isinstance(layer, MaxPool):
                layer.return_indices = False
        self.decoder = nn.Sequential(*(layer for layer, _ in steps))
        self._sources = [source for _, source in steps]
        self.train(cnn.training)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes (B, n) of images (B, C, …), without reconstructing them."""
        code: Tensor = self.bottleneck(self.encoder(x))
        return code.flatten(1)

    def start_at(self, intensity: float) -> None:
        """Make the first reconstructions nearly constant images of this intensity, from which training is faster.

        This has no effect for ``output="mirror"``.

        Parameters
        ----------
        intensity
            Mean intensity of the training set; in [0, 1] for ``output="sigmoid"``.

        Examples
        --------
        >>> autoencoder = CNN_Transformer(nn.Sequential(nn.Conv2d(1, 8, 3)), output="linear")
        >>> autoencoder.start_at(0.5)
        >>> autoencoder.decoder[-1].bias.tolist()
        [0.5]
        """
        intensity = check_number("intensity", intensity, where="start_at")
        ends = [layer for layer in self.decoder if isinstance(layer, Transposed | nn.Linear | NORMS)]
        if self.output == "mirror" or ends[-1].bias is None:
            return
        if self.output == "sigmoid":
            intensity = math.log(max(intensity, 0.01) / max(1 - intensity, 0.01))
        with torch.no_grad():
            ends[-1].weight.mul_(START_FACTOR)
            ends[-1].bias.fill_(intensity)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes (B, n) and the reconstructions, of the shape of `x` (B, C, …)."""
        traces: list[tuple[Any, ...]] = []
        for _, layer in iterate_layers(self.encoder):
            x, trace = _encode_layer(layer, x)
            traces.append(trace)
        x = self.bottleneck(x)
        code = x.flatten(1)
        x = self.expansion(x)
        for layer, source in zip(self.decoder, self._sources, strict=True):
            x = _decode_layer(layer, x, () if source is None else traces[source])
        return code, x


def _warn_of_magnification(decoder: Iterable[nn.Module]) -> None:
    slopes = [layer.negative_slope for layer in decoder if isinstance(layer, nn.LeakyReLU)]
    if max(slopes, default=0) > 1:
        warnings.warn(
            f"CNN_Transformer: output='mirror' multiplies negative values by {max(slopes):g} in {len(slopes)} LeakyReLU"
            " layers of the decoder, so that it hardly learns; use output='linear' or 'sigmoid', unless the weights "
            "come from ClinicaDL",
            stacklevel=3,
        )


def _bottleneck(convolutions: nn.Module, n_channels: int | None) -> tuple[nn.Module, nn.Module]:
    """Return the convolutions that reduce and expand the channels; identities if `n_channels` is None."""
    if n_channels is None:
        return nn.Identity(), nn.Identity()
    check_integer("bottleneck", n_channels, minimum=1, where="CNN_Transformer")
    last: Any = None
    for _, layer in iterate_layers(convolutions):
        last = layer if isinstance(layer, Convolution | nn.Linear | FlattenOrUnflatten) else last
    if not isinstance(last, Convolution):
        raise ModelError(
            f"CNN_Transformer: bottleneck={n_channels}, but the encoder ends in {type(last).__name__}; expected "
            "feature maps of a convolution; use bottleneck=None"
        )
    is_2d = isinstance(last, nn.Conv2d)
    reduce: Any = nn.Conv2d if is_2d else nn.Conv3d
    expand: Any = nn.ConvTranspose2d if is_2d else nn.ConvTranspose3d
    where = {"device": last.weight.device, "dtype": last.weight.dtype}
    return reduce(last.out_channels, n_channels, 1, **where), expand(
        n_channels, last.out_channels, 1, **where
    )


def _encode_layer(layer: nn.Module, x: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
    """Apply a layer of the encoder; return its output, and the indices and sizes that the decoder needs."""
    if isinstance(layer, PadPool):
        out, indices, padding = pad_max_pool(x, layer.kernel_size, layer.stride, return_indices=True)
        return out, (indices, padding)
    if isinstance(layer, MaxPool):
        pool: Any = F.max_pool2d if isinstance(layer, nn.MaxPool2d) else F.max_pool3d
        windows = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        out, indices = pool(x, *windows, ceil_mode=layer.ceil_mode, return_indices=True)
        return out, (indices, x.shape[2:])
    return layer(x), (x.shape,)


def _decode_layer(layer: nn.Module, x: Tensor, trace: tuple[Any, ...]) -> Tensor:
    """Apply a layer of the decoder to `x` with the indices and sizes from the encoder."""
    if isinstance(layer, nn.MaxUnpool2d | nn.MaxUnpool3d):
        # torch's unpooling does not support deterministic mode, or kernels that differ from their stride.
        return scatter_maxima(x, *trace)
    if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
        return _restore_size(layer, x, trace[0][2:])
    out: Tensor = layer(x, *trace)
    return out


def _restore_size(layer: Any, x: Tensor, size: Sequence[int]) -> Tensor:
    """Apply a transposed convolution whose output must have the spatial shape `size`."""
    windows = zip(x.shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
    minimum = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in windows]
    out: Tensor = layer(x, output_size=[max(a, b) for a, b in zip(minimum, size, strict=True)])
    # With padding "same", an even kernel returns one voxel too many.
    for axis, n in enumerate(size, 2):
        out = out if out.shape[axis] == n else out.narrow(axis, 0, n)
    return out

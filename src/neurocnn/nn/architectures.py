"""Built-in networks. They are provided by the same hook as networks of other packages.

A block consists of a convolution (kernel 3), batch norm, activation, and pooling that halves the feature map. The size
of the first fully-connected layer is computed from the input, so any image size is accepted. Names, channels and the
order of layers must not change, because published weights depend on them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from neurocnn.errors import ModelError
from neurocnn.nn.cnn import CNN
from neurocnn.nn.pooling import PadMaxPool2d, PadMaxPool3d
from neurocnn.nn.resnet import resnet18
from neurocnn.plugins import Builder, hookimpl

CHANNELS = (8, 16, 32, 64, 128)


@hookimpl
def neurocnn_architectures() -> Mapping[str, Builder]:
    """Return the built-in networks."""
    return {
        "Conv3_FC1": conv3_fc1,
        "Conv4_FC3": conv4_fc3,
        "Conv4_FC3_v1": conv4_fc3_v1,
        "Conv5_FC3": conv5_fc3,
        "Conv5_FC3_mni": conv5_fc3,
        "resnet18": resnet18,
    }


def conv3_fc1(
    input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.5, fused: bool = True
) -> CNN:
    """Return the network of the hippocampus lab: 8-16-32 channels, LeakyReLU, one fully-connected layer."""
    convolutions = _convolution_blocks(input_shape, CHANNELS[:3], padding=1, activation=nn.LeakyReLU)
    n_features = _n_features(CHANNELS[:3], input_shape, padding=1)
    fc = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(n_features, n_outputs))
    return CNN(convolutions, fc, fused)


def conv4_fc3(
    input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0, fused: bool = True
) -> CNN:
    """Return the network for patches and regions: 15-25-50-50 channels without padding, 50 and 40 hidden units."""
    channels = (15, 25, 50, 50)
    # For n output voxels, a block without padding needs 2n + 1 input voxels: the convolution removes 2, and the pooling
    # pads the remaining 2n − 1 to 2n.
    minimum = 2 ** (len(channels) + 1) - 1
    if min(input_shape[1:]) < minimum:
        raise ModelError(
            f"Conv4_FC3: images of {tuple(input_shape[1:])} voxels; expected at least {minimum} voxels on each axis; "
            "use larger parts, or a network with padding, such as Conv5_FC3"
        )
    convolutions = _convolution_blocks(input_shape, channels, padding=0)
    fc = _fully_connected_part(_n_features(channels, input_shape, padding=0), (50, 40), n_outputs, dropout)
    # The published network has a dropout between its first two layers.
    fc.insert(4, nn.Dropout(dropout))
    return CNN(convolutions, fc, fused)


def conv4_fc3_v1(
    input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0, fused: bool = True
) -> CNN:
    """Return Conv4_FC3 of ClinicaDL 1.x, which has the five convolutions of Conv5_FC3, then 50 and 40 hidden units."""
    convolutions = _convolution_blocks(input_shape, CHANNELS, padding=1)
    return CNN(
        convolutions,
        _fully_connected_part(_n_features(CHANNELS, input_shape, padding=1), (50, 40), n_outputs, dropout),
        fused,
    )


def conv5_fc3(
    input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0, fused: bool = True
) -> CNN:
    """Return the network for complete images: 8-16-32-64-128 channels, then 1300 and 50 hidden units."""
    convolutions = _convolution_blocks(input_shape, CHANNELS, padding=1)
    return CNN(
        convolutions,
        _fully_connected_part(_n_features(CHANNELS, input_shape, padding=1), (1300, 50), n_outputs, dropout),
        fused,
    )


def _convolution_blocks(
    input_shape: Sequence[int], channels: Sequence[int], padding: int, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    kinds: Any = (nn.Conv3d, nn.BatchNorm3d, PadMaxPool3d)
    if len(input_shape) == 3:
        kinds = (nn.Conv2d, nn.BatchNorm2d, PadMaxPool2d)
    convolution, norm, pool = kinds
    layers: list[nn.Module] = []
    for before, after in zip([input_shape[0], *channels], channels, strict=False):
        layers += [convolution(before, after, 3, padding=padding), norm(after), activation(), pool(2, 2)]
    return nn.Sequential(*layers)


def _fully_connected_part(n: int, hidden: tuple[int, int], n_outputs: int, dropout: float) -> nn.Sequential:
    first = [nn.Flatten(), nn.Dropout(dropout), nn.Linear(n, hidden[0]), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(*hidden), nn.ReLU(), nn.Linear(hidden[1], n_outputs))


def _n_features(channels: Sequence[int], input_shape: Sequence[int], padding: int) -> int:
    """Return the number of values per image after the convolutions."""
    sizes = list(input_shape[1:])
    for _ in channels:
        # A convolution shortens an axis by 2 − 2 · padding voxels; the pooling halves it, and rounds up.
        sizes = [-(-(size - 2 + 2 * padding) // 2) for size in sizes]
    return channels[-1] * math.prod(sizes)

"""The networks that come with neurocnn, through the same hook as everybody's.

A block is convolution (kernel 3), batch norm, activation, and pooling that halves the map. The first
fully-connected layer takes what the convolutions leave of the input, so any size will do. Names, channels and the
order of layers are those of published weights: they are data, not taste.
"""

import os
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from neurocnn.errors import ModelError
from neurocnn.nn.cnn import CNN
from neurocnn.nn.dry_run import dry_run
from neurocnn.nn.pooling import PadMaxPool2d, PadMaxPool3d
from neurocnn.plugins import hookimpl

Path = str | os.PathLike[str]


@hookimpl
def neurocnn_architectures() -> Mapping[str, Callable[..., nn.Module]]:
    """Give the built-in networks."""
    return {
        "Conv3_FC1": conv3_fc1,
        "Conv4_FC3": conv4_fc3,
        "Conv4_FC3_v1": conv4_fc3_v1,
        "Conv5_FC3": conv5_fc3,
        "Conv5_FC3_mni": conv5_fc3,
        "resnet18": resnet18,
    }


def conv3_fc1(input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.5) -> CNN:
    """The network of the hippocampus lab: 8-16-32 channels, LeakyReLU, one fully-connected layer."""
    convolutions = _blocks(input_shape, (8, 16, 32), padding=1, activation=nn.LeakyReLU)
    n = _n_features(convolutions, input_shape)
    return CNN(convolutions, nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(n, n_outputs)))


def conv4_fc3(input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0) -> CNN:
    """The network of patches and regions: 15-25-50-50 channels without padding, 50 and 40 hidden values."""
    channels = (15, 25, 50, 50)
    least = _least_size(len(channels))
    if min(input_shape[1:]) < least:
        raise ModelError(
            f"Conv4_FC3 needs at least {least} voxels on each axis; found {tuple(input_shape[1:])}; "
            "take larger parts, or a network that pads, such as Conv5_FC3"
        )
    convolutions = _blocks(input_shape, channels, padding=0)
    fc = _fc(_n_features(convolutions, input_shape), (50, 40), n_outputs, dropout)
    fc.insert(4, nn.Dropout(dropout))  # between its first two layers, as the published one has it
    return CNN(convolutions, fc)


def conv4_fc3_v1(input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0) -> CNN:
    """What ClinicaDL 1.x calls Conv4_FC3: the convolutions of Conv5_FC3, then 50 and 40 hidden values."""
    convolutions = _blocks(input_shape, (8, 16, 32, 64, 128), padding=1)
    return CNN(convolutions, _fc(_n_features(convolutions, input_shape), (50, 40), n_outputs, dropout))


def conv5_fc3(input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0) -> CNN:
    """The network of whole images: 8-16-32-64-128 channels, then 1300 and 50 hidden values."""
    convolutions = _blocks(input_shape, (8, 16, 32, 64, 128), padding=1)
    return CNN(convolutions, _fc(_n_features(convolutions, input_shape), (1300, 50), n_outputs, dropout))


def resnet18(
    input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0, weights: Path | None = "imagenet"
) -> CNN:
    """ResNet-18 with its 1000 outputs, then dropout and one more layer; 2-D.

    With weights (``"imagenet"``, or the path of a file of them) only the last block, the 1000 outputs and the new
    layer are trained; with ``weights=None`` all layers are.
    """
    if len(input_shape) != 3:
        raise ModelError(
            f"resnet18 takes 2-D images (C, H, W); found shape {tuple(input_shape)}; take slices"
        )
    if weights == "imagenet" and input_shape[0] != 3:
        raise ModelError(
            f"ImageNet's weights are for 3 channels; found {input_shape[0]}; "
            "take slices with channels=3, or weights=None"
        )
    from neurocnn.nn import resnet as imagenet  # torchvision, which may be missing, is for this network only

    net = imagenet.torchvision_resnet18()
    if input_shape[0] != 3:
        net.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=7, stride=2, padding=3, bias=False)
    convolutions = nn.Sequential(
        net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4, net.avgpool
    )
    fc = nn.Sequential(nn.Flatten(), net.fc, nn.Dropout(dropout), nn.Linear(1000, n_outputs))
    model = CNN(convolutions, fc)
    if weights is not None:
        imagenet.load(model, weights)
        for layer in convolutions[:7]:
            layer.requires_grad_(False)
    return model


def _blocks(
    input_shape: Sequence[int],
    channels: Sequence[int],
    padding: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip([input_shape[0], *channels], channels, strict=False):
        if len(input_shape) == 3:
            layers += [nn.Conv2d(before, after, 3, padding=padding), nn.BatchNorm2d(after)]
            layers += [activation(), PadMaxPool2d(2, 2)]
        else:
            layers += [nn.Conv3d(before, after, 3, padding=padding), nn.BatchNorm3d(after)]
            layers += [activation(), PadMaxPool3d(2, 2)]
    return nn.Sequential(*layers)


def _fc(n: int, hidden: tuple[int, int], n_outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(n, hidden[0]),
        nn.ReLU(),
        nn.Linear(*hidden),
        nn.ReLU(),
        nn.Linear(hidden[1], n_outputs),
    )


def _n_features(convolutions: nn.Module, input_shape: Sequence[int]) -> int:
    return int(dry_run(convolutions, input_shape)[0].numel())


def _least_size(n_blocks: int) -> int:
    """Return the size of which `n_blocks` blocks without padding leave one voxel."""
    size = 1
    for _ in range(n_blocks):
        size = 2 * size - 1 + 2  # an odd size is padded before it is halved; the convolution takes 2
    return size

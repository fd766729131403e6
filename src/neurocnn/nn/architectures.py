"""The networks that come with neurocnn, through the same hook as everybody's."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from neurocnn.errors import ModelError
from neurocnn.nn.cnn import CNN
from neurocnn.nn.dry_run import dry_run
from neurocnn.nn.pooling import PadMaxPool2d, PadMaxPool3d
from neurocnn.plugins import hookimpl


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


def _convolutions(
    input_shape: Sequence[int],
    channels: Sequence[int],
    padding: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    flat = len(input_shape) == 3
    convolution, norm, pool = (
        (nn.Conv2d, nn.BatchNorm2d, PadMaxPool2d) if flat else (nn.Conv3d, nn.BatchNorm3d, PadMaxPool3d)
    )
    layers: list[nn.Module] = []
    for before, after in zip([input_shape[0], *channels], channels, strict=False):
        layers += [convolution(before, after, 3, padding=padding), norm(after), activation(), pool(2, 2)]
    return nn.Sequential(*layers)


def _n_features(convolutions: nn.Module, input_shape: Sequence[int]) -> int:
    return int(dry_run(convolutions, input_shape)[0].numel())


def conv3_fc1(input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.5) -> CNN:
    """The network of the hippocampus lab: 8-16-32 channels, LeakyReLU, one fully-connected layer."""
    convolutions = _convolutions(input_shape, (8, 16, 32), 1, nn.LeakyReLU)
    n = _n_features(convolutions, input_shape)
    return CNN(convolutions, nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(n, n_outputs)))


def conv4_fc3(input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0) -> CNN:
    """The network of patches and regions: 15-25-50-50 channels without padding, 50 and 40 hidden values."""
    if min(input_shape[1:]) < 31:
        raise ModelError(
            f"Conv4_FC3 needs at least 31 voxels on each axis; found {tuple(input_shape[1:])}; "
            "take larger parts, or a network with padding such as Conv5_FC3"
        )
    convolutions = _convolutions(input_shape, (15, 25, 50, 50), 0)
    n = _n_features(convolutions, input_shape)
    return CNN(
        convolutions,
        nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(n, 50),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(50, 40),
            nn.ReLU(),
            nn.Linear(40, n_outputs),
        ),
    )


def conv4_fc3_v1(input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0) -> CNN:
    """What ClinicaDL 1.x calls Conv4_FC3: the convolutions of Conv5_FC3, 50 and 40 hidden values."""
    return _padded(input_shape, (50, 40), n_outputs, dropout)


def conv5_fc3(input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0) -> CNN:
    """The network of whole images: 8-16-32-64-128 channels, 1300 and 50 hidden values."""
    return _padded(input_shape, (1300, 50), n_outputs, dropout)


def _padded(input_shape: Sequence[int], hidden: tuple[int, int], n_outputs: int, dropout: float) -> CNN:
    convolutions = _convolutions(input_shape, (8, 16, 32, 64, 128), 1)
    n = _n_features(convolutions, input_shape)
    return CNN(
        convolutions,
        nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(n, hidden[0]),
            nn.ReLU(),
            nn.Linear(*hidden),
            nn.ReLU(),
            nn.Linear(hidden[1], n_outputs),
        ),
    )


def resnet18(
    input_shape: Sequence[int], n_outputs: int = 2, dropout: float = 0.0, weights: str | None = "imagenet"
) -> CNN:
    """ResNet-18, pretrained on ImageNet, its last block fine-tuned."""
    from torchvision.models import ResNet18_Weights
    from torchvision.models import resnet18 as build

    net = build()
    if input_shape[0] != 3:
        net.conv1 = nn.Conv2d(input_shape[0], 64, 7, 2, 3, bias=False)
    if weights is not None and torch.get_default_device().type != "meta":
        net.load_state_dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    convolutions = nn.Sequential(
        net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4, net.avgpool
    )
    if weights is not None:
        for layer in convolutions[:7]:
            layer.requires_grad_(False)
    return CNN(
        convolutions, nn.Sequential(nn.Flatten(), net.fc, nn.Dropout(dropout), nn.Linear(1000, n_outputs))
    )

"""ResNet-18 and its ImageNet weights. Unreadable weights raise an error and are never replaced by random weights."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurocnn.errors import CheckpointError, ModelError, NotFoundError
from neurocnn.nn.checkpoints import FilePath, from_torchvision, read_weights
from neurocnn.nn.cnn import CNN
from neurocnn.nn.transfer import transfer_weights


def resnet18(
    input_shape: Sequence[int],
    n_outputs: int = 2,
    dropout: float = 0.0,
    weights: FilePath | None = "imagenet",
    fused: bool = True,
) -> CNN:
    """Return ResNet-18 for slices, with its 1000 outputs followed by dropout and another fully-connected layer.

    ClinicaDL trains this network on slices of 224×224 pixels in [0, 1]; with torchvision's ``Compose`` and ``Resize``,
    that is ``transform=Compose([MinMax(), Resize((224, 224))])``. Other sizes are allowed.

    Parameters
    ----------
    input_shape
        Shape (C, H, W) of one image. ImageNet's weights need three channels.
    n_outputs
        Number of outputs.
    dropout
        Probability of the dropout before the last layer.
    weights
        ``"imagenet"``, the path of torchvision's state dict or of a checkpoint (see `read_weights`), or None. With
        weights, only the last block, the 1000 outputs and the added layer are trained; without, all layers are.
    fused
        See `CNN`. The blocks with skip connections are evaluated layer by layer.

    Raises
    ------
    ModelError
        If the images are 3-D, have another number of channels than the weights, or torchvision cannot be imported.
    NotFoundError, CheckpointError
        If the file of weights is missing and cannot be downloaded, or is damaged.
    """
    if len(input_shape) != 3:
        raise ModelError(
            f"resnet18: input_shape={tuple(input_shape)}; expected 2-D images (C, H, W); use slices"
        )
    if weights == "imagenet" and input_shape[0] != 3:
        raise ModelError(
            f"resnet18: {input_shape[0]} channels with ImageNet's weights; expected 3 channels; "
            "use slices with channels=3, or weights=None"
        )
    net = _torchvision_resnet18()
    if input_shape[0] != 3:
        net.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=7, stride=2, padding=3, bias=False)
    first = [net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3]
    fc = nn.Sequential(nn.Flatten(), net.fc, nn.Dropout(dropout), nn.Linear(1000, n_outputs))
    model = CNN(nn.Sequential(*first, net.layer4, net.avgpool), fc, fused)
    if weights is not None:
        _load(model, weights)
        for layer in first:
            layer.requires_grad_(False)
    return model


def _torchvision_resnet18() -> Any:
    try:
        from torchvision.models import resnet18
    except Exception as error:
        # A torchvision that was built for another torch raises errors of any kind.
        raise ModelError(
            f"resnet18: torchvision cannot be imported ({type(error).__name__}: {error}); expected the version for "
            f"torch {torch.__version__}; install it, or use another network"
        ) from error
    return resnet18(weights=None)


def _load(model: nn.Module, weights: FilePath) -> None:
    """Load pretrained weights. The last layer keeps its initial weights if the file has no weights for it."""
    if all(parameter.is_meta for parameter in model.parameters()):
        # Parameters on the meta device have no values, so that no weights need to be loaded.
        return
    state = from_torchvision(read_weights(_imagenet_file() if weights == "imagenet" else weights))
    own = {name: value for name, value in model.state_dict().items() if name.startswith("fc.3.")}
    transfer_weights({**own, **state}, model)


def _imagenet_file() -> Path:
    """Return the file of ImageNet's weights in torchvision's cache folder, after a download if it is missing."""
    from torchvision.models import ResNet18_Weights

    url = str(ResNet18_Weights.IMAGENET1K_V1.url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    digest = next(iter(re.findall(r"-([0-9a-f]{8,})\.", path.name)), "")
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest or None, progress=False)
        except Exception as error:
            raise NotFoundError(
                f"{path}: the file of ImageNet's weights is missing and the download failed "
                f"({type(error).__name__}: {error}); download {url} on another machine and copy it to this path, "
                "or use weights=None to train from scratch"
            ) from error
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(digest):
        raise CheckpointError(
            f"{path}: SHA-256 starts with {found[:8]}; expected {digest}; the file is damaged: delete it and "
            "download it again"
        )
    return path

"""ResNet-18 as torchvision builds it and ImageNet taught it; real weights or an error, never random ones."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurocnn.errors import CheckpointError, ModelError, NotFoundError
from neurocnn.nn.transfer import our_resnet_name, read_weights, transfer_weights


def torchvision_resnet18() -> Any:
    """Return torchvision's untrained ResNet-18, or raise a `ModelError` if torchvision cannot be used."""
    try:
        from torchvision.models import resnet18
    except Exception as error:  # a torchvision built for another torch fails with anything
        raise ModelError(
            f"resnet18 needs torchvision, which cannot be imported ({type(error).__name__}: {error}); "
            "install the version that belongs to your torch; the other networks do without it"
        ) from error
    return resnet18(weights=None)


def load(model: nn.Module, weights: str | os.PathLike[str]) -> None:
    """Load pretrained weights into a network of `neurocnn.nn.architectures.resnet18`.

    Parameters
    ----------
    model
        The network. Its last layer keeps its own weights where the file has none for it.
    weights
        ``"imagenet"``, or the path of torchvision's state dict or of a checkpoint (see `read_weights`).

    Raises
    ------
    NotFoundError, CheckpointError
        The file cannot be had, or is damaged.
    """
    if all(parameter.is_meta for parameter in model.parameters()):
        return  # without values there is nothing to load: only the shapes are asked for
    state = read_weights(imagenet_file() if weights == "imagenet" else weights)
    state = {our_resnet_name(name): value for name, value in state.items()}
    own = {name: value for name, value in model.state_dict().items() if name.startswith("fc.3.")}
    transfer_weights({**own, **state}, model)


def imagenet_file() -> Path:
    """Return the file of ImageNet's weights in torchvision's cache folder, downloaded if it is not there.

    Raises
    ------
    NotFoundError
        It is not there and cannot be downloaded; the message says where to put it.
    CheckpointError
        Its checksum is not the one in its name.
    """
    from torchvision.models import ResNet18_Weights

    url = str(ResNet18_Weights.IMAGENET1K_V1.url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    digest = named.group(1) if named else ""
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest or None, progress=False)
        except Exception as error:
            raise NotFoundError(
                f"{path}: ImageNet's weights are not there and cannot be downloaded "
                f"({type(error).__name__}: {error}); download {url} elsewhere and put it there, "
                "or choose weights=None to train from scratch"
            ) from error
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(digest):
        raise CheckpointError(
            f"{path}: its SHA-256 begins with {found[:8]}; expected {digest}: the file is damaged; "
            "delete it and download it anew"
        )
    return path

"""Networks: layers, architectures, autoencoders, transfer of weights.

Public names are those of this package. Its modules are private.
"""

from neurocnn.nn.autoencoder import CNN_Transformer
from neurocnn.nn.checkpoints import read_weights
from neurocnn.nn.cnn import CNN
from neurocnn.nn.pooling import CropMaxUnpool2d, CropMaxUnpool3d, PadMaxPool2d, PadMaxPool3d
from neurocnn.nn.registry import ArchitectureLike, create_model, describe, list_models
from neurocnn.nn.transfer import transfer_weights

__all__ = [
    "CNN",
    "ArchitectureLike",
    "CNN_Transformer",
    "CropMaxUnpool2d",
    "CropMaxUnpool3d",
    "PadMaxPool2d",
    "PadMaxPool3d",
    "create_model",
    "describe",
    "list_models",
    "read_weights",
    "transfer_weights",
]

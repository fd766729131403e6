"""A network for neurocnn in a package of its own."""

from torch import nn

import neurocnn as nc


@nc.hookimpl
def neurocnn_architectures():
    return {"TinyCNN": build}


def build(input_shape, n_outputs, *, width=4):
    """One block and one layer, for images (C, H, W) or (C, D, H, W)."""
    flat = len(input_shape) == 3
    convolution, pool, mean = (
        (nn.Conv2d, nc.PadMaxPool2d, nn.AdaptiveAvgPool2d)
        if flat
        else (nn.Conv3d, nc.PadMaxPool3d, nn.AdaptiveAvgPool3d)
    )
    convolutions = nn.Sequential(convolution(input_shape[0], width, 3, padding=1), nn.ReLU(), pool(2))
    return nc.CNN(convolutions, nn.Sequential(mean(1), nn.Flatten(), nn.Linear(width, n_outputs)))

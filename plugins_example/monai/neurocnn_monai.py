"""Networks of MONAI for neurocnn, for volumes: DenseNet121, ResNet-18 and -50, SEResNet-50 and a vision transformer."""

from functools import partial

from monai.networks import nets

import neurocnn as nc


@nc.hookimpl
def neurocnn_architectures():
    return {
        "MonaiDenseNet121": partial(build, nets.DenseNet121, "out_channels"),
        "MonaiResNet18": partial(build, nets.resnet18, "num_classes", n_input_channels=True),
        "MonaiResNet50": partial(build, nets.resnet50, "num_classes", n_input_channels=True),
        "MonaiSEResNet50": partial(build, nets.SEResNet50, "num_classes"),
        "MonaiViT": build_vit,
    }


def build(network, outputs, input_shape, n_outputs, *, n_input_channels=False, **options):
    """Build a convolutional network with its own `options`, such as ``dropout_prob=0.2`` for DenseNet121."""
    channels = "n_input_channels" if n_input_channels else "in_channels"
    given = {"spatial_dims": len(input_shape) - 1, channels: input_shape[0], outputs: n_outputs}
    return network(**given, **options)


def build_vit(input_shape, n_outputs, *, patch_size=16, **options):
    """Build a vision transformer, whose output is a tuple of the classes and the hidden states."""
    return nets.ViT(
        in_channels=input_shape[0],
        img_size=input_shape[1:],
        patch_size=patch_size,
        spatial_dims=len(input_shape) - 1,
        classification=True,
        num_classes=n_outputs,
        post_activation=None,  # MONAI's default, a tanh, would limit the outputs to [-1, 1]
        **options,
    )

"""A network in two parts: convolutions and a fully-connected part."""

from torch import Tensor, nn

from neurocnn.errors.arguments import check_flag, check_instance
from neurocnn.nn.sequences import apply_fused, can_fold, can_fuse, evaluate_folded


class CNN(nn.Module):
    """Convolutions followed by a fully-connected part.

    Any two modules can be combined. An autoencoder can be derived from the network if `convolutions` is a Sequential.

    Parameters
    ----------
    convolutions
        Module from images (B, C, H, W) or (B, C, D, H, W) to feature maps.
    fc
        Module from the feature maps to outputs (B, n_outputs).
    fused
        Whether layers are computed together or by other kernels where this is faster. The outputs are the same except
        for rounding. An evaluation without gradients folds batch norm into the convolutions, and pools before the
        activation, which takes about 0.6 of the time on a CPU. A training on a CPU pools before batch norm and
        activation, if the maps are large. On a GPU, 3-D convolutions with few channels have kernels of their own.

    Raises
    ------
    SettingError
        If `convolutions` or `fc` is not a torch.nn.Module, or `fused` not a bool.

    Examples
    --------
    >>> import torch
    >>> convolutions = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
    >>> cnn = CNN(convolutions, nn.Sequential(nn.Flatten(), nn.Linear(8 * 6 * 6, 2)))
    >>> cnn(torch.zeros(4, 1, 8, 8)).shape
    torch.Size([4, 2])
    """

    def __init__(self, convolutions: nn.Module, fc: nn.Module, fused: bool = True) -> None:
        super().__init__()
        expected = "a torch.nn.Module"
        self.convolutions = check_instance("convolutions", convolutions, nn.Module, expected, where="CNN")
        self.fc = check_instance("fc", fc, nn.Module, expected, where="CNN")
        self.fused = check_flag("fused", fused, where="CNN")

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs (B, n_outputs) for images (B, C, H, W) or (B, C, D, H, W)."""
        if self.fused and can_fold(self.convolutions, images):
            maps = evaluate_folded(self.convolutions, images)
        elif self.fused and can_fuse(self.convolutions, images):
            maps = apply_fused(self.convolutions, images)
        else:
            maps = self.convolutions(images)
        outputs: Tensor = self.fc(maps)
        return outputs

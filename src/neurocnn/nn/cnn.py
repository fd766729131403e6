"""A network in two parts: convolutions and a fully-connected part."""

from torch import Tensor, nn

from neurocnn.errors.arguments import check_instance


class CNN(nn.Module):
    """Convolutions followed by a fully-connected part.

    Any two modules can be combined. An autoencoder can be derived from the network if `convolutions` is a Sequential.

    Parameters
    ----------
    convolutions
        Module from images (B, C, H, W) or (B, C, D, H, W) to feature maps.
    fc
        Module from the feature maps to outputs (B, n_outputs).

    Raises
    ------
    SettingError
        If an argument is not a torch.nn.Module.

    Examples
    --------
    >>> import torch
    >>> convolutions = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
    >>> cnn = CNN(convolutions, nn.Sequential(nn.Flatten(), nn.Linear(8 * 6 * 6, 2)))
    >>> cnn(torch.zeros(4, 1, 8, 8)).shape
    torch.Size([4, 2])
    """

    def __init__(self, convolutions: nn.Module, fc: nn.Module) -> None:
        super().__init__()
        expected = "a torch.nn.Module"
        self.convolutions = check_instance("convolutions", convolutions, nn.Module, expected, where="CNN")
        self.fc = check_instance("fc", fc, nn.Module, expected, where="CNN")

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs (B, n_outputs) for images (B, C, H, W) or (B, C, D, H, W)."""
        outputs: Tensor = self.fc(self.convolutions(images))
        return outputs

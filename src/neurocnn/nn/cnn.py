"""A network in two parts: convolutions, and a fully-connected part that reads them."""

from torch import Tensor, nn


class CNN(nn.Module):
    """Convolutions and then a fully-connected part.

    Any two modules will do. An autoencoder can be derived, and weights exchanged with it, where `convolutions`
    is a Sequential.

    Parameters
    ----------
    convolutions
        From images (B, C, H, W) or (B, C, D, H, W) to feature maps.
    fc
        From the feature maps to outputs (B, n_outputs).

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
        self.convolutions = convolutions
        self.fc = fc

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs (B, n_outputs) for images (B, C, H, W) or (B, C, D, H, W)."""
        outputs: Tensor = self.fc(self.convolutions(images))
        return outputs

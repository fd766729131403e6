"""Similarity of images and their reconstructions."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 7


def similarity(output: Tensor, target: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Return the similarity of each reconstruction in a batch to its image.

    Parameters
    ----------
    output, target
        Reconstructions and images, shape (B, C, H, W) or (B, C, D, H, W).

    Returns
    -------
    dict
        ``mse``, ``mae``, ``psnr`` (dB) and ``ssim``, each of shape (B,), float64. The data range for PSNR and SSIM is
        the range of the image (1 for a constant image).

    Examples
    --------
    >>> image = torch.linspace(0, 1, 512).reshape(1, 1, 8, 8, 8)
    >>> float(similarity(image, image)["ssim"][0])
    1.0
    """
    # In single precision the variances of smooth images vanish, but MPS does not support float64.
    wide = torch.float32 if target.device.type == "mps" else torch.float64
    output, target = output.to(wide), target.to(wide)
    difference = (output - target).flatten(1)
    squared = difference.square().mean(1)
    flat = target.flatten(1)
    extent = flat.amax(1) - flat.amin(1)
    extent = torch.where(extent > 0, extent, torch.ones_like(extent))
    columns = {
        "mse": squared,
        "mae": difference.abs().mean(1),
        "psnr": 10 * torch.log10(extent.square() / squared),
        "ssim": structural_similarity(output, target, extent),
    }
    # The columns are read at once, because the host waits for a GPU whenever it reads.
    values = torch.stack(list(columns.values())).cpu().double().numpy()
    return dict(zip(columns, values, strict=True))


def structural_similarity(output: Tensor, target: Tensor, extent: Tensor) -> Tensor:
    """Return the mean structural similarity (SSIM) of each reconstruction and its image, shape (B,).

    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13 (2004), with a uniform window of 7 voxels (or the largest odd one
    that fits), sample covariances, K1 = 0.01 and K2 = 0.03, averaged over the windows within the image.

    Parameters
    ----------
    output, target
        Reconstructions and images, shape (B, C, H, W) or (B, C, D, H, W).
    extent
        Range of the values of each sample, shape (B,).
    """
    shortest = min(target.shape[2:])
    window = min(WINDOW, shortest - 1 + shortest % 2)
    n_voxels = window ** (target.dim() - 2)
    unbiased = n_voxels / (n_voxels - 1) if n_voxels > 1 else 1.0
    mean_x, mean_y = _window_mean(target, window), _window_mean(output, window)
    var_x = unbiased * (_window_mean(target * target, window) - mean_x * mean_x)
    var_y = unbiased * (_window_mean(output * output, window) - mean_y * mean_y)
    cov = unbiased * (_window_mean(target * output, window) - mean_x * mean_y)
    scale = extent.reshape(-1, *[1] * (target.dim() - 1))
    c1, c2 = (0.01 * scale).square(), (0.03 * scale).square()
    upper = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    lower = (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    return (upper / lower).flatten(1).mean(1)


def _window_mean(image: Tensor, window: int) -> Tensor:
    # The mean is taken along one axis at a time, which takes 3 × 7 additions per voxel instead of 7 × 7 × 7.
    pool = F.avg_pool3d if image.dim() == 5 else F.avg_pool2d
    n_axes = image.dim() - 2
    for axis in range(n_axes):
        image = pool(image, tuple(window if a == axis else 1 for a in range(n_axes)), stride=1)
    return image

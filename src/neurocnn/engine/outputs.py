"""Computation of the losses and table columns of each sample from the outputs of a network, for each kind of task."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neurocnn.engine.similarity import similarity
from neurocnn.errors import ModelError, SettingError
from neurocnn.plugins import output_tensor

#: Columns of a table, by name.
Columns = dict[str, np.ndarray[Any, Any]]


def final_output(output: object) -> Tensor:
    """Return the tensor for the loss: the last tensor of a tuple, in single or double precision.

    Raises
    ------
    ModelError
        If the output is neither a tensor nor a tuple that contains a tensor.
    """
    found = output_tensor(output)
    if found is None:
        raise ModelError(
            f"the network's output is a {type(output).__name__}; expected a tensor, or a tuple with a tensor"
        )
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found


def cross_entropy(
    output: object, target: Tensor, n_classes: int, weights: tuple[float, ...] | None
) -> Tensor:
    """Return the cross-entropy of each sample, multiplied by the weight of its class; shape (B,)."""
    logits = final_output(output)
    if logits.shape != (len(target), n_classes):
        raise ModelError(
            f"the network's output has shape {tuple(logits.shape)}; expected ({len(target)}, {n_classes}), one "
            f"output per class; create the network with n_outputs={n_classes}"
        )
    losses = F.cross_entropy(logits, target, reduction="none")
    if weights is None:
        return losses
    # A tensor of a list would be copied to the device, and the host would wait for a GPU.
    return losses * torch.stack([losses.new_full((), weight) for weight in weights])[target]


def class_columns(output: object, target: Tensor | None) -> Columns:
    """Return ``true_label``, ``predicted_label`` and the probabilities ``proba0``, ``proba1``, … of each sample."""
    logits = final_output(output)
    if logits.dim() != 2:
        raise ModelError(
            f"the network's output has shape {tuple(logits.shape)}; expected (samples, classes), also for a batch of "
            "one sample; remove .squeeze()"
        )
    # In float64 the probabilities sum to 1. They are computed on the CPU, because some devices lack float64.
    probabilities = torch.softmax(logits.detach().cpu().double(), dim=1).numpy()
    columns: Columns = {
        "true_label": _missing_labels(len(probabilities)) if target is None else target.cpu().numpy(),
        "predicted_label": probabilities.argmax(axis=1),
    }
    return columns | {f"proba{k}": probabilities[:, k] for k in range(probabilities.shape[1])}


def rescale(output: object, mean: float, scale: float) -> Tensor:
    """Return ``mean + scale * output``."""
    return mean + scale * final_output(output)


def squared_error(output: object, target: Tensor) -> Tensor:
    """Return the squared error of each predicted number; shape (B,)."""
    values = _predicted_numbers(output)
    if values.shape != target.shape:
        raise ModelError(
            f"the network's output has {len(values)} numbers for labels of shape {tuple(target.shape)}; expected one "
            "number per sample"
        )
    return F.mse_loss(values, target.to(values.dtype), reduction="none")


def number_columns(output: object, target: Tensor | None) -> Columns:
    """Return ``true_label`` and ``predicted_label`` of each sample."""
    predicted = _predicted_numbers(output).detach().cpu().double().numpy()
    true = _missing_labels(len(predicted)) if target is None else _shortest_decimals(target)
    return {"true_label": true, "predicted_label": predicted}


def _predicted_numbers(output: object) -> Tensor:
    values = final_output(output)
    if values.dim() == 0 or values.numel() != len(values):
        n_samples = len(values) if values.dim() else "samples"
        raise ModelError(
            f"the network's output has shape {tuple(values.shape)}; expected ({n_samples}, 1), also for a batch of "
            "one sample; create the network with n_outputs=1 and remove .squeeze()"
        )
    return values.reshape(-1)


def _shortest_decimals(target: Tensor) -> np.ndarray[Any, Any]:
    # The label 71.8 becomes 71.80000305 if it is converted to float32 and then to float64. Its shortest decimal
    # representation is 71.8.
    return np.array([float(str(value)) for value in target.cpu().numpy()], dtype=np.float64)


def _missing_labels(n: int) -> np.ndarray[Any, Any]:
    return np.full(n, np.nan)


def voxel_error(output: object, target: Tensor) -> Tensor:
    """Return the mean squared error over the voxels of each sample; shape (B,)."""
    image = _reconstructed_image(output, target)
    return F.mse_loss(image, target.to(image.dtype), reduction="none").flatten(1).mean(1)


def reconstruction_columns(output: object, target: Tensor | None) -> Columns:
    """Return ``mse``, ``mae``, ``psnr`` and ``ssim`` of each sample."""
    if target is None:
        raise SettingError("target=None; expected the input images, as the target of a reconstruction")
    return similarity(_reconstructed_image(output, target).detach(), target)


def _reconstructed_image(output: object, target: Tensor) -> Tensor:
    image = final_output(output)
    if image.shape != target.shape:
        raise ModelError(
            f"the reconstruction has shape {tuple(image.shape)}; expected the shape of the input, {tuple(target.shape)}"
        )
    return image

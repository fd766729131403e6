"""Parts of an image and their reconstructions as NIfTI files, at the position of the parts in the image's space."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn as torch_nn

from neurocnn import data
from neurocnn.data.parts import LocatedParts
from neurocnn.errors import SettingError
from neurocnn.errors.logger import LOGGER
from neurocnn.results.scoring import first_image, write_nifti


def check_placeable(dataset: data.CapsDataset) -> None:
    """Refuse parts that cannot be put back into the volume.

    Raises
    ------
    SettingError
        If a transform changes the number of voxels of a part.
    """
    shape = dataset.caps.shape(*first_image(dataset))
    place = cast(LocatedParts, dataset.parts).place(shape, dataset.part_ids[0])
    box = [axis.stop - axis.start for axis in place]
    if math.prod(box) != math.prod(dataset.input_shape[1:]):
        raise SettingError(
            f"reconstructions=True: the transform returns parts of shape {dataset.input_shape}; expected {box} voxels, "
            "which fit into the volume; use reconstructions=False or no such transform"
        )


def write(folder: Path, models: Mapping[int, torch_nn.Module], dataset: data.CapsDataset) -> None:
    """Write ``input-<k>.nii.gz`` and ``output-<k>.nii.gz`` for the parts of a data set's first image.

    Parameters
    ----------
    folder
        Folder of the files; k is the number of the part, from 0.
    models
        Autoencoder of each part_id. Parts without one are skipped.
    dataset
        Data set without augmentation.
    """
    first = first_image(dataset)
    shape, affine = dataset.caps.shape(*first), dataset.caps.known_affine(*first)
    if affine is None:
        return
    for k, part in enumerate(dataset.part_ids):
        if part not in models:
            continue
        model = models[part].eval()
        batch = dataset[k]["image"].unsqueeze(0).to(next(model.parameters()).device)
        with torch.no_grad():
            output = model(batch)[-1]
        place = cast(LocatedParts, dataset.parts).place(shape, part)
        for name, tensor in (("input", batch), ("output", output)):
            volume = _as_volume(tensor[0].float().cpu().numpy(), place)
            write_nifti(folder / f"{name}-{k}.nii.gz", volume, data.part_affine(affine, place))


def _as_volume(part: np.ndarray, place: tuple[slice, slice, slice]) -> np.ndarray:
    """Return a part (C, …) as (D, H, W): one of a slice's equal channels, with the axis of the slice."""
    volume: np.ndarray = part[0].reshape([box.stop - box.start for box in place])
    return volume


def mean_intensity(dataset: data.CapsDataset, part: int | None, most: int = 16) -> float:
    """Return the mean intensity of at most `most` samples, evenly chosen; of one part only if `part` is given."""
    samples = _samples(dataset, part)
    chosen = range(0, len(samples), -(-len(samples) // most))
    return sum(float(samples[i]["image"].mean()) for i in chosen) / len(chosen)


def compare_with_mean(
    error: float, train: data.CapsDataset, validation: data.CapsDataset, part: int | None
) -> None:
    """Log a warning if an autoencoder's validation error exceeds that of the training set's mean image."""
    samples, others = _samples(train, part), _samples(validation, part)
    mean = sum(samples[i]["image"].double() for i in range(len(samples))) / len(samples)
    errors = [float(((others[i]["image"] - mean) ** 2).mean()) for i in range(len(others))]
    of_mean = sum(errors) / len(errors)
    if not error <= of_mean:
        LOGGER.warning(
            "the autoencoder%s reconstructs worse than the mean image of the training set does: validation error "
            "%.4g, mean image %.4g; use more epochs, a higher learning_rate or another output",
            "" if part is None else f" of part {part}", error, of_mean,
        )  # fmt: skip


def _samples(dataset: data.CapsDataset, part: int | None) -> data.CapsDataset:
    plain = dataset.without_augmentation()
    return plain if part is None else plain.only_part(part)

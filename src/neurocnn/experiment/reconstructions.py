"""Parts of an image and their reconstructions as NIfTI files, in the space of the image."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import nn as torch_nn

from neurocnn import data
from neurocnn.data.parts import LocatedParts
from neurocnn.engine.outputs import final_output
from neurocnn.errors.logger import LOGGER
from neurocnn.results.placing import as_volume
from neurocnn.results.scoring import first_image, write_nifti


def write(folder: Path, models: Mapping[int, torch_nn.Module], dataset: data.CapsDataset) -> None:
    """Write ``input-<k>.nii.gz`` and ``output-<k>.nii.gz`` for the parts of a data set's first image.

    If the images have several channels, these are the files of the first channel; those of the second end in
    ``_channel-1``, those of the third in ``_channel-2``.

    Parameters
    ----------
    folder
        Folder of the files. In a file name, k is the index of the part in `dataset.part_ids`.
    models
        Autoencoder of each part_id. Parts without an autoencoder are skipped.
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
            output = final_output(model(batch))
        place = cast(LocatedParts, dataset.parts).place(shape, part)
        for name, tensor in (("input", batch), ("output", output)):
            # A slice may contain each channel of the image several times.
            step = tensor.shape[1] // dataset.caps.n_channels
            for channel, volume in enumerate(tensor[0, ::step].float().cpu().numpy()):
                suffix = f"_channel-{channel}" if channel else ""
                path = folder / f"{name}-{k}{suffix}.nii.gz"
                write_nifti(path, as_volume(volume, place), data.part_affine(affine, place))


def mean_intensity(dataset: data.CapsDataset, part: int | None, maximum: int = 16) -> float:
    """Return the mean intensity of at most `maximum` evenly spaced samples of all parts, or of `part` only."""
    samples = _samples(dataset, part)
    chosen = range(0, len(samples), -(-len(samples) // maximum))
    return sum(float(samples[i]["image"].mean()) for i in chosen) / len(chosen)


def compare_with_mean(
    error: float, train: data.CapsDataset, validation: data.CapsDataset, part: int | None
) -> None:
    """Log a warning if an autoencoder's validation error exceeds the error of the training set's mean image."""
    samples, others = _samples(train, part), _samples(validation, part)
    mean = sum(samples[i]["image"].double() for i in range(len(samples))) / len(samples)
    errors = [float(((others[i]["image"] - mean) ** 2).mean()) for i in range(len(others))]
    of_mean = sum(errors) / len(errors)
    if not error <= of_mean:
        LOGGER.warning(
            "the autoencoder%s reconstructs worse than the mean image of the training set does: validation error "
            "%.4g, error of the mean image %.4g; use more epochs, a higher learning_rate or another output",
            "" if part is None else f" of part {part}", error, of_mean,
        )  # fmt: skip


def _samples(dataset: data.CapsDataset, part: int | None) -> data.CapsDataset:
    plain = dataset.without_augmentation()
    return plain if part is None else plain.only_part(part)

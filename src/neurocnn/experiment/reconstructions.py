"""The parts of an image and what an autoencoder makes of them, as NIfTI files that lie where they were cut."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn as torch_nn

from neurocnn import data
from neurocnn.errors import SettingError
from neurocnn.results import scoring


def check(dataset: data.CapsDataset) -> None:
    """Refuse parts that cannot be put back into the volume.

    Raises
    ------
    SettingError
        A transform gives parts of another size than they were cut with.
    """
    first, parts = dataset.sessions.iloc[0], cast(Any, dataset.parts)
    shape = dataset.caps.shape(first["participant_id"], first["session_id"], first.get("cohort"))
    box = [axis.stop - axis.start for axis in parts.place(shape, dataset.part_ids[0])]
    if math.prod(box) != math.prod(dataset.input_shape[1:]):
        raise SettingError(
            f"reconstructions=True: the transform makes parts of shape {dataset.input_shape} out of {box} voxels, "
            "which have no place in the volume; leave reconstructions or the transform out"
        )


def write(
    folder: Path, models: Mapping[int, torch_nn.Module], dataset: data.CapsDataset, affine: np.ndarray
) -> None:
    """Write ``input-<k>.nii.gz`` and ``output-<k>.nii.gz`` for the parts of a data set's first image.

    Parameters
    ----------
    folder
        Where to; k counts the parts in their order, from 0.
    models
        The autoencoder of each part_id; parts without one are left out.
    dataset
        Without augmentation.
    affine
        (4, 4), of the whole volume, voxel to world in mm.
    """
    first, parts = dataset.sessions.iloc[0], cast(Any, dataset.parts)
    shape = dataset.caps.shape(first["participant_id"], first["session_id"], first.get("cohort"))
    for k, part in enumerate(dataset.part_ids):
        if part not in models:
            continue
        model = models[part].eval()
        batch = dataset[k]["image"].unsqueeze(0).to(next(model.parameters()).device)
        with torch.no_grad():
            output = model(batch)[-1]
        place = parts.place(shape, part)
        for name, tensor in (("input", batch), ("output", output)):
            volume = _as_volume(tensor[0].float().cpu().numpy(), place)
            scoring.write_nifti(folder / f"{name}-{k}.nii.gz", volume, data.part_affine(affine, place))


def _as_volume(part: np.ndarray, place: tuple[slice, slice, slice]) -> np.ndarray:
    """Give a part (C, …) as (D, H, W); the equal channels of a slice become one, its axis comes back."""
    volume: np.ndarray = part[0].reshape([box.stop - box.start for box in place])
    return volume

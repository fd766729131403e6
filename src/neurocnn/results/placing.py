"""Placement of parts in the volume of their image."""

import math
from typing import cast

import numpy as np

from neurocnn import data
from neurocnn.data.parts import LocatedParts, Place
from neurocnn.errors import SettingError
from neurocnn.errors.arguments import argument_error
from neurocnn.results.scoring import first_image


def check_placeable(dataset: data.CapsDataset, where: str) -> None:
    """Check that the parts, after their transform, have the size of their boxes in the volume.

    Parameters
    ----------
    dataset
        Data set; its first part is checked.
    where
        Start of the error message.

    Raises
    ------
    SettingError
        If the parts have no boxes, or the transform changes the number of voxels of a part.
    """
    if not hasattr(dataset.parts, "place"):
        raise argument_error("parts", dataset.parts, "parts with `place`, such as nc.Patch", where=where)
    shape = dataset.caps.shape(*first_image(dataset))
    place = cast(LocatedParts, dataset.parts).place(shape, dataset.part_ids[0])
    box = box_shape(place)
    if math.prod(box) != math.prod(dataset.input_shape[1:]):
        raise SettingError(
            f"{where}: the transform returns parts of shape {dataset.input_shape}; expected {box} voxels, "
            "the size of a part in the volume; use a transform that keeps the number of voxels"
        )


def box_shape(place: Place) -> list[int]:
    """Return the number of voxels of a box along each axis.

    >>> box_shape((slice(2, 5), slice(0, 1), slice(4, 6)))
    [3, 1, 2]
    """
    return [axis.stop - axis.start for axis in place]


def as_volume(part: np.ndarray, place: Place) -> np.ndarray:
    """Return a part of shape (d, h, w), or (h, w) for a slice, as an array of the shape of its box."""
    volume: np.ndarray = part.reshape(box_shape(place))
    return volume

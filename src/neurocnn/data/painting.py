"""Volumes in which the value of each part is written to the voxels of the part."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from neurocnn.data.parts import LocatedParts, Place

Floats = npt.NDArray[np.floating[Any]]


def paint(parts: LocatedParts, shape: tuple[int, int, int], values: Mapping[int, float]) -> Floats:
    """Return a volume in which each voxel has the mean value of the parts that contain it.

    Parameters
    ----------
    parts
        Parts with the method `place`.
    shape
        Shape (D, H, W) of the volume in voxels.
    values
        Value of each part_id.

    Returns
    -------
    ndarray
        Volume (D, H, W), float64, with NaN outside all parts.

    Examples
    --------
    >>> from neurocnn.data.parts import Patch
    >>> paint(Patch(size=2, stride=1), (2, 2, 3), {0: 1.0, 1: 3.0})[0, 0].tolist()
    [1.0, 2.0, 3.0]
    """
    volume: Floats = np.zeros(shape)
    count = np.zeros(shape, np.int32)
    for part_id, value in values.items():
        place = parts.place(shape, part_id)
        volume[place] += value
        count[place] += 1
    # The sums become means in place, because a volume of a whole brain takes 50 MB.
    np.divide(volume, count, out=volume, where=count > 0)
    volume[count == 0] = np.nan
    return volume


def part_affine(affine: Floats, place: Place) -> Floats:
    """Return the affine of a part: the volume's affine, moved to the part's first voxel.

    Parameters
    ----------
    affine
        Affine (4, 4) of the volume, from voxel to world in mm.
    place
        Box of the part in the volume, as `LocatedParts.place` returns it.

    Examples
    --------
    >>> moved = part_affine(np.diag([2.0, 2.0, 2.0, 1.0]), (slice(1, 3), slice(0, 2), slice(5, 9)))
    >>> moved[:3, 3].tolist()
    [2.0, 0.0, 10.0]
    """
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] = (affine @ [*(axis.start for axis in place), 1.0])[:3]
    return moved

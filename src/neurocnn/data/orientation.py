"""The voxel grid of an image: shape and affine, and how its axes are reordered."""

from dataclasses import dataclass
from typing import Any

import nibabel.orientations as nib_orientations
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurocnn.errors.arguments import argument_error

Affine = npt.NDArray[np.float64]
Shape3 = tuple[int, int, int]
_nibabel: Any = nib_orientations  # nibabel has no types


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid of an image.

    Parameters
    ----------
    shape
        (D, H, W), voxels.
    affine
        (4, 4), from voxel to world in mm; None if unknown: a prepared tensor has no affine.
    reorientation
        (3, 2), nibabel's description of the change from the file's order of axes; None if unchanged.
    """

    shape: Shape3
    affine: Affine | None = None
    reorientation: npt.NDArray[np.float64] | None = None

    def reoriented(self, orientation: str | None) -> "Grid":
        """Return the grid with axes that point to `orientation`, without resampling; None changes nothing.

        Examples
        --------
        >>> grid = Grid((5, 6, 7), np.diag([-1.0, -1.0, 1.0, 1.0])).reoriented("SRA")
        >>> grid.shape, orientation_of(grid.affine)
        ((7, 5, 6), 'SRA')
        """
        if self.affine is None or orientation in (None, orientation_of(self.affine)):
            return self
        change = _nibabel.ornt_transform(
            _nibabel.io_orientation(self.affine), _nibabel.axcodes2ornt(orientation)
        )
        first, second, third = (self.shape[axis] for axis in np.argsort(change[:, 0]))
        affine = self.affine @ _nibabel.inv_ornt_aff(change, self.shape)
        return Grid((first, second, third), affine, change)

    def reorient(self, image: Tensor) -> Tensor:
        """Return an image (1, D, H, W) of the file with its axes reordered; the same object if unchanged."""
        if self.reorientation is None:
            return image
        voxels = _nibabel.apply_orientation(image[0].numpy(), self.reorientation)
        return torch.from_numpy(np.ascontiguousarray(voxels)).unsqueeze(0)


def check_orientation(orientation: str) -> str:
    """Return `orientation` if it is three letters such as ``"RAS"``: the directions of the three axes.

    Raises
    ------
    SettingError
        If it is anything else.
    """
    letters = orientation if isinstance(orientation, str) else ""
    if len(letters) != 3 or any(
        sum(letter in axis for letter in letters) != 1 for axis in ("LR", "PA", "IS")
    ):
        raise argument_error("orientation", orientation, "three letters, one each of L/R, P/A and I/S: 'RAS'")
    return orientation


def orientation_of(affine: Affine) -> str:
    """Return the directions of a volume's axes, such as ``"RAS"``, each the nearest axis of the world."""
    return "".join(_nibabel.aff2axcodes(affine))

"""Voxel grid of an image: its shape and affine, and the reordering of its axes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from types import MappingProxyType
from typing import Any

import nibabel.orientations as nib_orientations
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurocnn.errors.arguments import argument_error

Affine = npt.NDArray[np.float64]
Shape3 = tuple[int, int, int]
# nibabel has no type hints.
_nibabel: Any = nib_orientations
# Voxel size and position of the first voxel, in mm. The key is the name of the space and the shape.
_SPACES: Mapping[tuple[str, Shape3], tuple[tuple[float, ...], tuple[float, ...]]] = MappingProxyType(
    {
        ("MNI152NLin2009cSym", (193, 229, 193)): ((1, 1, 1), (-96, -132, -78)),
        ("MNI152NLin2009cSym", (169, 208, 179)): ((1, 1, 1), (-84, -119, -78)),
        ("Ixi549Space", (121, 145, 121)): ((-1.5, 1.5, 1.5), (90, -126, -72)),
    }
)


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid of an image.

    Parameters
    ----------
    shape
        Shape (D, H, W) in voxels.
    affine
        Affine (4, 4) from voxel to world in mm; None if unknown, as for a prepared tensor without a NIfTI file.
    is_oriented
        Whether the directions of the axes are known. They are unknown if both orientation codes of a header are 0.
    reorientation
        Change from the file's order of axes, as an orientation array (3, 2) of nibabel; None if unchanged.
    """

    shape: Shape3
    affine: Affine | None = None
    reorientation: npt.NDArray[np.float64] | None = None
    is_oriented: bool = True

    def reoriented(self, orientation: str | None) -> "Grid":
        """Return the grid with its axes reordered to `orientation`, without resampling; unchanged for None.

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

    def distance(self, other: "Grid") -> float:
        """Return the largest distance (mm) between a corner of this volume and the same voxel in `other`.

        The distance is NaN if the position of either volume is unknown.

        Examples
        --------
        >>> one, two = np.eye(4), np.diag([2.0, 1.0, 1.0, 1.0])
        >>> Grid((5, 6, 7), one).distance(Grid((5, 6, 7), two))
        4.0
        """
        if self.affine is None or other.affine is None or not (self.is_oriented and other.is_oriented):
            return float("nan")
        corners = np.array([*product(*((0, n - 1) for n in self.shape))]) @ np.eye(3, 4) + [0, 0, 0, 1]
        moved = corners @ (self.affine - other.affine).T
        return float(np.linalg.norm(moved[:, :3], axis=1).max())

    def is_at(self, other: "Grid") -> bool:
        """Return whether the corners of both grids differ by at most a tenth of a voxel, or one position is unknown."""
        if self.affine is None or other.affine is None or (self.affine == other.affine).all():
            return True
        return not self.distance(other) > 0.1 * float(np.linalg.norm(self.affine[:3, :3], axis=0).min())

    def describe_difference(self, name: str, other: "Grid", other_name: str) -> str:
        """Return a message about the difference between the affine of this grid and that of another image, `other`."""
        affines = [np.round(grid.affine, 3).tolist() for grid in (other, self) if grid.affine is not None]
        return (
            f"{other_name}: its voxels are up to {self.distance(other):.1f} mm from those of {name}, which has the "
            f"same shape; affine={affines[0]}; expected {affines[-1]}; check voxel sizes, origin and rotation"
        )

    def reorient(self, image: Tensor) -> Tensor:
        """Return an image (1, D, H, W) with its axes reordered from the file's order to the order of this grid."""
        if self.reorientation is None:
            return image
        voxels = _nibabel.apply_orientation(image[0].numpy(), self.reorientation)
        return torch.from_numpy(np.ascontiguousarray(voxels)).unsqueeze(0)


def check_orientation(orientation: str) -> str:
    """Return `orientation` if it is three letters such as ``"RAS"``: the directions of the three axes.

    Raises
    ------
    SettingError
        If `orientation` is anything else.
    """
    letters = orientation if isinstance(orientation, str) else ""
    if len(letters) != 3 or any(
        sum(letter in axis for letter in letters) != 1 for axis in ("LR", "PA", "IS")
    ):
        raise argument_error(
            "orientation", orientation, "three letters, one each of L/R, P/A and I/S, as in 'RAS'"
        )
    return orientation


def orientation_of(affine: Affine) -> str:
    """Return the orientation of a volume, such as ``"RAS"``: the nearest world direction of each of its axes."""
    return _orientation(np.asarray(affine, np.float64).tobytes())


@lru_cache(maxsize=1024)
def _orientation(affine: bytes) -> str:
    return "".join(_nibabel.aff2axcodes(np.frombuffer(affine).reshape(4, 4)))


def known_affine(stem: str, shape: Shape3) -> Affine | None:
    """Return the affine (4, 4), voxel to world in mm, that all images of a pipeline have; None if unknown.

    Parameters
    ----------
    stem
        Name of the image's file, which contains the space.
    shape
        (D, H, W), voxels.

    Examples
    --------
    >>> known_affine("sub-1_ses-M00_T1w_segm-graymatter_space-Ixi549Space_probability", (121, 145, 121))
    array([[  -1.5,    0. ,    0. ,   90. ],
           [   0. ,    1.5,    0. , -126. ],
           [   0. ,    0. ,    1.5,  -72. ],
           [   0. ,    0. ,    0. ,    1. ]])
    """
    for (space, known), (voxel, origin) in _SPACES.items():
        if f"_space-{space}_" in stem and shape == known:
            affine = np.diag([*voxel, 1.0])
            affine[:3, 3] = origin
            return affine
    return None

"""Turning volumes: which axis of the file becomes which, and which are flipped."""

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from torch import Tensor

from neurocnn.errors import SettingError

_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}


@dataclass(frozen=True)
class Turn:
    """A change of the order and direction of a volume's axes, without resampling.

    Parameters
    ----------
    axes
        Which axis of the file becomes the first, second and third.
    flipped
        Which of the *new* axes run backwards.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The shape of a turned volume of `shape` (D, H, W)."""
        first, second, third = (shape[axis] for axis in self.axes)
        return (first, second, third)

    def image(self, image: Tensor) -> Tensor:
        """The image (1, D, H, W) turned; a view of it where nothing is flipped."""
        image = image.permute(0, *(axis + 1 for axis in self.axes))
        flips = [axis + 1 for axis in range(3) if self.flipped[axis]]
        return image.flip(flips) if flips else image

    def affine(
        self, affine: np.ndarray[Any, np.dtype[np.float64]], shape: tuple[int, ...]
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The affine (4, 4) of the turned volume; `shape` is the one before."""
        # A voxel v of the turned volume is the voxel back @ v of the file.
        back = np.zeros((4, 4))
        back[3, 3] = 1
        for new, old in enumerate(self.axes):
            back[old, new] = -1 if self.flipped[new] else 1
            back[old, 3] = shape[old] - 1 if self.flipped[new] else 0
        turned: np.ndarray[Any, np.dtype[np.float64]] = affine @ back
        return turned


def check_orientation(orientation: str) -> str:
    """Check three letters such as ``"RAS"``: where the first, second and third axis point to.

    Raises
    ------
    SettingError
        They are no orientation.
    """
    axes = ["LR", "PA", "IS"]
    letters = orientation if isinstance(orientation, str) else ""
    if len(letters) != 3 or any(sum(letter in axis for letter in letters) != 1 for axis in axes):
        raise SettingError(
            f"orientation is {orientation!r}, expected three letters, one each of L/R, P/A and I/S: 'RAS'"
        )
    return orientation


def turn_between(found: str, wanted: str) -> Turn:
    """The turn that takes a volume of one orientation to another.

    Examples
    --------
    >>> turn_between("LPS", "RAS")
    Turn(axes=(0, 1, 2), flipped=(True, True, False))
    >>> turn_between("RAS", "SRA").axes
    (2, 0, 1)
    """
    axes = [found.index(letter) if letter in found else found.index(_OPPOSITE[letter]) for letter in wanted]
    flipped = [found[axis] != letter for axis, letter in zip(axes, wanted, strict=True)]
    return Turn((axes[0], axes[1], axes[2]), (flipped[0], flipped[1], flipped[2]))


def orientation_of(affine: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """Where each axis of a volume points to, such as ``"RAS"``, by the nearest axis of the world."""
    axes: Any = nib.aff2axcodes  # nibabel leaves it untyped
    return "".join(axes(affine))

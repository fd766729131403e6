"""Transforms of TorchIO and MONAI, which need the affine of a part, for anatomical flips or spacings in mm.

TorchIO's transforms are called with a `ScalarImage`, MONAI's with a `MetaTensor`, also as members of a composition.
Neither library is imported here, because a user who passes one of its transforms has already imported it.
"""

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocnn.data.painting import Floats, part_affine
from neurocnn.data.parts import Place
from neurocnn.data.transforms import Transform
from neurocnn.errors import SettingError
from neurocnn.randomness import members


@dataclass(frozen=True)
class Space:
    """Affine of a part in world coordinates, and the axis perpendicular to a slice.

    Parameters
    ----------
    affine
        Affine (4, 4) from voxel indices of the part to mm.
    slice_axis
        Axis of the image tensor (1, 2 or 3) perpendicular to a slice; None for parts with three axes.
    """

    affine: Floats
    slice_axis: int | None = None

    def plane_affine(self) -> Floats:
        """Return the two-dimensional affine (3, 3) of a slice. Its world axes are the two that are nearest to the
        slice's axes.

        Examples
        --------
        >>> Space(np.diag([2.0, 3.0, 4.0, 1.0]), slice_axis=1).plane_affine().tolist()
        [[3.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 1.0]]
        """
        axes = [axis for axis in range(3) if axis + 1 != self.slice_axis]
        steps = np.abs(self.affine[:3, :3])
        first = int(steps[:, axes[0]].argmax())
        second = max((row for row in range(3) if row != first), key=lambda row: float(steps[row, axes[1]]))
        return self.affine[np.ix_([first, second, 3], [*axes, 3])]


#: Space of the part that is being transformed. A transform that moves the part updates this value.
_space: ContextVar[Space | None] = ContextVar("space", default=None)


def needs_affine(transform: Transform) -> bool:
    """Return whether a transform, or a member of a composition, is from TorchIO or MONAI."""
    return _library_name(transform) is not None or any(map(needs_affine, members(transform)))


def part_space(affine: Floats, box: Place, shape: tuple[int, ...], shift: Sequence[int] = (0, 0, 0)) -> Space:
    """Return the affine of a part and, for a slice, the axis perpendicular to it.

    Parameters
    ----------
    affine
        Affine (4, 4) of the image.
    box
        Box of the part.
    shape
        Shape of the part: (C, D, H, W), or (C, H, W) for slices.
    shift
        Number of voxels by which the box is moved along each axis.
    """
    size = [axis.stop - axis.start for axis in box]
    planes = [
        axis for axis in range(3) if size[axis] == 1 and (*size[:axis], *size[axis + 1 :]) == tuple(shape[1:])
    ]
    first, second, third = (
        slice(axis.start + by, axis.stop + by) for axis, by in zip(box, shift, strict=True)
    )
    return Space(part_affine(affine, (first, second, third)), planes[0] + 1 if planes else None)


@contextmanager
def set_space(space: Space | None) -> Iterator[None]:
    """Set the space of the part for transforms that are called within the ``with`` block."""
    token = _space.set(space)
    try:
        yield
    finally:
        _space.reset(token)


def with_affine(transform: Transform) -> Transform:
    """Return a transform whose members from TorchIO and MONAI are called with the affine of the part."""
    library = _library_name(transform)
    inner = members(transform)
    # Members of a composition of TorchIO or MONAI are not wrapped, because the composition passes images of its library
    # to them.
    wrapped = [
        member if library == "torchio" or library == _library_name(member) == "monai" else with_affine(member)
        for member in inner
    ]
    if any(new is not old for new, old in zip(wrapped, inner, strict=True)):
        composition: Any = copy.copy(transform)
        object.__setattr__(composition, "transforms", type(composition.transforms)(wrapped))
        transform = composition
    return transform if library is None else _WithAffine(transform, library)


class _WithAffine:
    """Function from tensor to tensor that calls a transform of TorchIO or MONAI with the affine of the part."""

    def __init__(self, transform: Transform, library: str) -> None:
        self.transform: Any = transform
        self.library = library

    def __call__(self, part: Tensor) -> Tensor:
        space = _space.get()
        if space is None:
            return self.transform(part)  # type: ignore[no-any-return]
        return self._torchio(part, space) if self.library == "torchio" else self._monai(part, space)

    def _torchio(self, part: Any, space: Space) -> Tensor:
        """Apply a transform of TorchIO, which accepts only volumes: a slice becomes a volume of one slice."""
        # In a composition of MONAI, the part is a MetaTensor, and an earlier transform may have changed its affine.
        in_monai = hasattr(part, "affine")
        affine = part.affine.numpy() if in_monai and space.slice_axis is None else space.affine
        axis = space.slice_axis if part.ndim == 3 else None
        volume = part if axis is None else part.unsqueeze(axis)
        image = self.transform(sys.modules["torchio"].ScalarImage(tensor=_plain(volume), affine=affine))
        found: Tensor = image.data
        if axis is not None:
            if found.shape[axis] != 1:
                raise SettingError(
                    f"{self.transform!r} returned {found.shape[axis]} slices; expected 1; use a transform "
                    "that does not change the axis perpendicular to the slice"
                )
            found = found.squeeze(axis)
        _space.set(Space(image.affine, space.slice_axis))
        if not in_monai:
            return found
        moved: Tensor = type(part)(
            found, affine=torch.as_tensor(image.affine) if axis is None else part.affine
        )
        return moved

    def _monai(self, part: Tensor, space: Space) -> Tensor:
        """Apply a transform of MONAI. A slice is passed with an affine (3, 3) of two axes."""
        if hasattr(part, "affine"):
            return self.transform(part)  # type: ignore[no-any-return]
        in_plane = space.slice_axis is not None and part.ndim == 3
        affine = torch.as_tensor(space.plane_affine() if in_plane else space.affine)
        image = self.transform(sys.modules["monai.data.meta_tensor"].MetaTensor(part, affine=affine))
        if hasattr(image, "affine") and not in_plane:
            _space.set(Space(image.affine.numpy(), space.slice_axis))
        return _plain(image)


def _plain(image: Any) -> Tensor:
    """Return a MetaTensor of MONAI as a plain tensor."""
    tensor: Tensor = image.as_tensor() if hasattr(image, "as_tensor") else image
    return tensor


def _library_name(transform: Transform) -> str | None:
    """Return "torchio" or "monai" if the class of a transform, or a base class, is from that library, else None."""
    roots = {base.__module__.partition(".")[0] for base in type(transform).__mro__}
    return next((name for name in ("torchio", "monai") if name in roots), None)

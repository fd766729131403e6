"""The parts that an image is cut into: all of it, patches, or slices (regions of interest: `roi`).

Parts are any object with `name`, `ids` and `extract`. Those here also know the `place` of a part in the
volume, so that only its voxels need to be read and its result can be painted back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from neurocnn.errors import SettingError

Shape = tuple[int, ...]
Place = tuple[slice, slice, slice]


@runtime_checkable
class Parts(Protocol):
    """What a dataset asks of parts."""

    @property
    def name(self) -> str:
        """One of "image", "patch", "slice" and "roi", or a name of your own."""
        ...

    def ids(self, shape: Shape) -> list[int]:
        """The ids of the parts of a volume of `shape` (D, H, W), in order."""
        ...

    def extract(self, image: Tensor, part_id: int) -> Tensor:
        """One part of an image (1, D, H, W)."""
        ...


@runtime_checkable
class LocatedParts(Parts, Protocol):
    """Parts that are boxes of voxels: only these voxels are read, and results can be painted into the volume."""

    def place(self, shape: Shape, part_id: int) -> Place:
        """Return the box of a part in a volume of `shape`, as a slice along each axis."""
        ...


@dataclass(frozen=True)
class WholeImage:
    """The whole volume as one part, with id 0.

    Examples
    --------
    >>> WholeImage().ids((169, 208, 179))
    [0]
    """

    name = "image"

    def ids(self, shape: Shape) -> list[int]:
        """The one id, 0."""
        return [0]

    def place(self, shape: Shape, part_id: int) -> Place:
        """All of the volume."""
        check_part(self.name, range(1), shape, part_id)
        return (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))

    def extract(self, image: Tensor, part_id: int) -> Tensor:
        """The image (1, D, H, W), copied."""
        check_part(self.name, range(1), image.shape[1:], part_id)
        return image.clone()


@dataclass(frozen=True)
class Patch:
    """Cubes on a regular grid.

    The order is that of torch's `unfold` along each axis: the last axis runs fastest. There is no padding;
    voxels behind the last full step belong to no patch.

    Parameters
    ----------
    size
        Of the cube's edge, in voxels.
    stride
        From one cube to the next, in voxels.

    Examples
    --------
    >>> len(Patch(size=50, stride=50).ids((169, 208, 179)))
    36
    """

    size: int = 50
    stride: int = 50

    name = "patch"

    def __post_init__(self) -> None:
        for what, value in (("size", self.size), ("stride", self.stride)):
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise SettingError(f"Patch: {what} is {value!r}, expected a positive whole number of voxels")

    def grid(self, shape: Shape) -> tuple[int, int, int]:
        """How many patches there are along each axis.

        Raises
        ------
        SettingError
            The volume is smaller than one patch.
        """
        if min(shape) < self.size:
            raise SettingError(
                f"patches of {self.size} voxels do not fit into an image of shape {tuple(shape)}"
            )
        first, second, third = ((n - self.size) // self.stride + 1 for n in shape)
        return (first, second, third)

    def ids(self, shape: Shape) -> list[int]:
        """0, 1, … over the grid."""
        return list(range(math.prod(self.grid(shape))))

    def place(self, shape: Shape, part_id: int) -> Place:
        """The patch's cube."""
        _, second, third = grid = self.grid(shape)
        check_part(self.name, range(math.prod(grid)), shape, part_id)
        starts = (part_id // (second * third), part_id // third % second, part_id % third)
        first, middle, last = (slice(i * self.stride, i * self.stride + self.size) for i in starts)
        return (first, middle, last)

    def extract(self, image: Tensor, part_id: int) -> Tensor:
        """The patch (1, size, size, size), copied."""
        return image[(slice(None), *self.place(image.shape[1:], part_id))].clone()

    def descriptor(self, part_id: int) -> str:
        """How file names call the part."""
        return f"patchsize-{self.size}_stride-{self.stride}_patch-{part_id}"


@dataclass(frozen=True)
class Slice:
    """Planes across one axis; a slice's id is its index in the volume.

    Parameters
    ----------
    direction
        0, 1 or 2: sagittal, coronal or axial, that is across the first, second or third axis.
    discarded_slices
        How many planes are left out at the beginning and at the end; one number serves both.
    channels
        1, or 3 equal ones for networks that were made for colours.

    Examples
    --------
    >>> len(Slice(direction=0).ids((169, 208, 179)))
    129
    """

    direction: int = 0
    discarded_slices: int | Sequence[int] = 20
    channels: int = 1

    name = "slice"

    def __post_init__(self) -> None:
        if self.direction not in (0, 1, 2) or isinstance(self.direction, bool):
            raise SettingError(f"Slice: direction is {self.direction!r}, expected 0, 1 or 2")
        if self.channels not in (1, 3) or isinstance(self.channels, bool):
            raise SettingError(f"Slice: channels is {self.channels!r}, expected 1 or 3")
        self._discarded()

    def _discarded(self) -> tuple[int, int]:
        given = self.discarded_slices
        numbers = list(given) if isinstance(given, Sequence) else [given, given]
        if len(numbers) != 2 or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
            raise SettingError(
                f"Slice: discarded_slices is {given!r}, expected one or two whole numbers, 0 or more"
            )
        return numbers[0], numbers[1]

    def ids(self, shape: Shape) -> list[int]:
        """The indices of the planes that are left.

        Raises
        ------
        SettingError
            None is left.
        """
        return list(self._range(shape))

    def _range(self, shape: Shape) -> range:
        begin, end = self._discarded()
        n = shape[self.direction]
        if begin + end >= n:
            raise SettingError(
                f"{begin} + {end} slices are discarded of the {n} that an image of shape {tuple(shape)} has "
                f"in direction {self.direction}; discard less"
            )
        return range(begin, n - end)

    def place(self, shape: Shape, part_id: int) -> Place:
        """The plane, one voxel thick."""
        check_part(self.name, self._range(shape), shape, part_id)
        place = [slice(0, n) for n in shape]
        place[self.direction] = slice(part_id, part_id + 1)
        return (place[0], place[1], place[2])

    def extract(self, image: Tensor, part_id: int) -> Tensor:
        """The slice (channels, H, W) of the two axes that are left, copied."""
        check_part(self.name, self._range(image.shape[1:]), image.shape[1:], part_id)
        plane = image.select(self.direction + 1, part_id)
        return plane.expand(self.channels, *plane.shape[1:]).clone(memory_format=torch.contiguous_format)

    def descriptor(self, part_id: int) -> str:
        """How file names call the part."""
        axis = ("sag", "cor", "axi")[self.direction]
        return f"axis-{axis}_channel-{'rgb' if self.channels == 3 else 'single'}_slice-{part_id}"


def check_part(name: str, ids: range, shape: Shape, part_id: int) -> None:
    """Refuse a part that a volume of `shape` does not have.

    Parameters
    ----------
    name
        What the parts are called.
    ids
        Those that there are.
    shape, part_id
        Of the volume and of the part asked for.

    Raises
    ------
    SettingError
        With the ids that there are.
    """
    if part_id not in ids:
        raise SettingError(
            f"{name} {part_id} does not exist in an image of shape {tuple(shape)}: "
            f"there are {len(ids)}, from {ids[0]} to {ids[-1]}"
        )

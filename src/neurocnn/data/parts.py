"""Parts of an image: the complete volume, patches, or slices (regions of interest are in `roi`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from neurocnn.errors import SettingError
from neurocnn.errors.arguments import argument_error, check_choice, check_each, check_integer

Shape = tuple[int, ...]
Place = tuple[slice, slice, slice]


@runtime_checkable
class Parts(Protocol):
    """Division of an image into parts.

    Any object with these three members can be used. All parts of this package are also `LocatedParts`.
    """

    @property
    def name(self) -> str:
        """Name of the kind of parts: "image", "patch", "slice", "roi" or another name."""
        ...

    def ids(self, shape: Shape) -> list[int]:
        """Return the ids of the parts of a volume of `shape` (D, H, W), in order."""
        ...

    def extract(self, image: Tensor, part_id: int) -> Tensor:
        """Return a part (C, …) of an image (1, D, H, W)."""
        ...


@runtime_checkable
class LocatedParts(Parts, Protocol):
    """Parts that are boxes of voxels. A part can be read separately, and values of parts can form a volume."""

    def place(self, shape: Shape, part_id: int) -> Place:
        """Return the box of a part in a volume of `shape`, as a slice along each axis."""
        ...


@runtime_checkable
class ShiftedParts(Parts, Protocol):
    """Parts whose boxes are moved at random in training."""

    @property
    def random_shift(self) -> int:
        """Largest shift along each axis, in voxels."""
        ...

    def extract(self, image: Tensor, part_id: int, shift: Sequence[int] = (0, 0, 0)) -> Tensor:
        """Return a part of an image with its box moved by `shift` voxels along each axis."""
        ...


@dataclass(frozen=True)
class WholeImage:
    """The complete volume as one part, with id 0.

    Examples
    --------
    >>> image, whole = torch.rand(1, 12, 14, 12), WholeImage()
    >>> whole.ids((12, 14, 12)), whole.place((12, 14, 12), 0)
    ([0], (slice(0, 12, None), slice(0, 14, None), slice(0, 12, None)))
    >>> whole.view(image, 0) is image, torch.equal(whole.extract(image, 0), image)
    (True, True)
    """

    name = "image"

    def ids(self, shape: Shape) -> list[int]:
        """Return the only id, 0."""
        return [0]

    def place(self, shape: Shape, part_id: int) -> Place:
        """Return the box of the complete volume."""
        check_part(self.name, range(1), shape, part_id)
        return (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))

    def view(self, image: Tensor, part_id: int) -> Tensor:
        """Return the image itself."""
        check_part(self.name, range(1), image.shape[1:], part_id)
        return image

    def extract(self, image: Tensor, part_id: int) -> Tensor:
        """Return a copy of the image (1, D, H, W)."""
        return self.view(image, part_id).clone()


@dataclass(frozen=True)
class Patch:
    """Cubes on a regular grid.

    The order is that of torch's `unfold` along each axis: the index along the last axis changes fastest. There is no
    padding: the remaining voxels at the end of an axis belong to no patch.

    Parameters
    ----------
    size
        Edge length, in voxels.
    stride
        Distance between the starts of neighbouring cubes, in voxels.

    Examples
    --------
    >>> patches, image = Patch(size=50, stride=50), torch.rand(1, 169, 208, 179)
    >>> len(patches.ids((169, 208, 179))), patches.grid((169, 208, 179))
    (36, (3, 4, 3))
    >>> patches.place((169, 208, 179), 35)
    (slice(100, 150, None), slice(150, 200, None), slice(100, 150, None))
    >>> patches.extract(image, 35).shape, patches.descriptor(35)
    (torch.Size([1, 50, 50, 50]), 'patchsize-50_stride-50_patch-35')
    >>> torch.equal(patches.view(image, 35), image[:, 100:150, 150:200, 100:150])
    True
    """

    size: int = 50
    stride: int = 50

    name = "patch"

    def __post_init__(self) -> None:
        for name in ("size", "stride"):
            value = check_integer(name, getattr(self, name), minimum=1, where="Patch")
            object.__setattr__(self, name, value)

    def grid(self, shape: Shape) -> tuple[int, int, int]:
        """Return the number of patches along each axis.

        Raises
        ------
        SettingError
            If the volume is smaller than one patch.
        """
        if min(shape) < self.size:
            expected = f"at most {min(shape)} for an image of shape {tuple(shape)}"
            raise argument_error("size", self.size, expected, where="Patch")
        first, second, third = ((n - self.size) // self.stride + 1 for n in shape)
        return (first, second, third)

    def ids(self, shape: Shape) -> list[int]:
        """Return the ids 0, 1, … of the patches of the grid."""
        return list(range(math.prod(self.grid(shape))))

    def place(self, shape: Shape, part_id: int) -> Place:
        """Return the box of a patch."""
        _, second, third = grid = self.grid(shape)
        check_part(self.name, range(math.prod(grid)), shape, part_id)
        starts = (part_id // (second * third), part_id // third % second, part_id % third)
        first, middle, last = (slice(i * self.stride, i * self.stride + self.size) for i in starts)
        return (first, middle, last)

    def view(self, image: Tensor, part_id: int) -> Tensor:
        """Return the patch (1, size, size, size), which shares the memory of the image."""
        return image[(slice(None), *self.place(image.shape[1:], part_id))]

    def extract(self, image: Tensor, part_id: int) -> Tensor:
        """Return a copy of the patch (1, size, size, size)."""
        return self.view(image, part_id).clone()

    def descriptor(self, part_id: int) -> str:
        """Return the part's name in file names."""
        return f"patchsize-{self.size}_stride-{self.stride}_patch-{part_id}"


@dataclass(frozen=True)
class Slice:
    """Planes perpendicular to one axis. The id of a slice is its index in the volume.

    Parameters
    ----------
    direction
        Axis perpendicular to the planes: 0, 1 or 2 for sagittal, coronal or axial slices.
    discarded_slices
        Numbers of planes to omit at the beginning and at the end of the axis, or one number for both ends.
    channels
        Number of channels, which all contain the same values: 1, or 3 for networks that expect colour images.

    Examples
    --------
    >>> slices, image = Slice(direction=0, channels=3), torch.rand(1, 169, 208, 179)
    >>> len(slices.ids((169, 208, 179))), slices.place((169, 208, 179), 20)
    (129, (slice(20, 21, None), slice(0, 208, None), slice(0, 179, None)))
    >>> slices.extract(image, 20).shape, slices.descriptor(20)
    (torch.Size([3, 208, 179]), 'axis-sag_channel-rgb_slice-20')
    >>> torch.equal(slices.view(image, 20)[2], image[0, 20])
    True
    """

    direction: int = 0
    discarded_slices: int | Sequence[int] = 20
    channels: int = 1

    name = "slice"

    def __post_init__(self) -> None:
        direction = check_integer("direction", self.direction, minimum=0, maximum=2, where="Slice")
        object.__setattr__(self, "direction", direction)
        channels = check_integer("channels", self.channels, minimum=1, where="Slice")
        object.__setattr__(self, "channels", check_choice("channels", channels, (1, 3), where="Slice"))
        self._discarded()

    def _discarded(self) -> tuple[int, int]:
        value = self.discarded_slices
        numbers = list(value) if isinstance(value, Sequence) else [value, value]
        if len(numbers) != 2:
            raise argument_error("discarded_slices", value, "one or two integers ≥ 0", where="Slice")
        first, last = check_each("discarded_slices", numbers, check_integer, minimum=0, where="Slice")
        return first, last

    def ids(self, shape: Shape) -> list[int]:
        """Return the indices of the planes that are not discarded.

        Raises
        ------
        SettingError
            If all planes are discarded.
        """
        return list(self._kept_indices(shape))

    def _kept_indices(self, shape: Shape) -> range:
        first, last = self._discarded()
        n = shape[self.direction]
        if first + last >= n:
            expected = f"a sum below {n} for direction {self.direction} of shape {tuple(shape)}"
            raise argument_error(
                "discarded_slices", (first, last), expected, where="Slice", remedy="discard fewer planes"
            )
        return range(first, n - last)

    def place(self, shape: Shape, part_id: int) -> Place:
        """Return the box of the plane, one voxel thick."""
        check_part(self.name, self._kept_indices(shape), shape, part_id)
        place = [slice(0, n) for n in shape]
        place[self.direction] = slice(part_id, part_id + 1)
        return (place[0], place[1], place[2])

    def view(self, image: Tensor, part_id: int) -> Tensor:
        """Return the slice (channels, H, W), which shares the memory of the image."""
        check_part(self.name, self._kept_indices(image.shape[1:]), image.shape[1:], part_id)
        plane = image.select(self.direction + 1, part_id)
        return plane.expand(self.channels, *plane.shape[1:])

    def extract(self, image: Tensor, part_id: int) -> Tensor:
        """Return a copy of the slice (channels, H, W), where H and W are the two axes of the plane."""
        return self.view(image, part_id).clone(memory_format=torch.contiguous_format)

    def descriptor(self, part_id: int) -> str:
        """Return the part's name in file names."""
        axis = ("sag", "cor", "axi")[self.direction]
        return f"axis-{axis}_channel-{'rgb' if self.channels == 3 else 'single'}_slice-{part_id}"


def check_parts(name: str, value: Any, *, where: str = "") -> Parts:
    """Return `value` if it can be used as parts, else raise a SettingError.

    Examples
    --------
    >>> check_parts("parts", Patch)
    Traceback (most recent call last):
    neurocnn.errors.SettingError: parts=<class 'neurocnn.data.parts.Patch'>; expected parts such as nc.Patch(50), or \
an object with name, ids and extract; make an instance: Patch()
    """
    if isinstance(value, Parts) and not isinstance(value, type):
        return value
    remedy = f"make an instance: {value.__name__}()" if isinstance(value, type) else ""
    expected = "parts such as nc.Patch(50), or an object with name, ids and extract"
    raise argument_error(name, value, expected, where=where, remedy=remedy)


def check_part(name: str, ids: range, shape: Shape, part_id: int) -> None:
    """Check that a volume of `shape` has the part `part_id`.

    Parameters
    ----------
    name
        Name of the kind of parts.
    ids
        Ids of the parts of the volume.
    shape, part_id
        Shape of the volume and id of the part.

    Raises
    ------
    SettingError
        If the part does not exist. The message contains the range of ids.
    """
    check_integer("part_id", part_id, where=name)
    if part_id not in ids:
        raise SettingError(
            f"{name} {part_id} does not exist in an image of shape {tuple(shape)}; "
            f"expected one of {len(ids)} ids, {ids[0]} to {ids[-1]}"
        )

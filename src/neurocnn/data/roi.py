"""Regions of interest: boxes, or masks that are cropped to what they cover."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from neurocnn.data.nifti import Header, read_voxels
from neurocnn.data.orientation import orientation_of
from neurocnn.data.parts import Place, Shape, check_part
from neurocnn.errors import ImageError, SettingError, suggestion

Box = Sequence[Sequence[int]]

# Voxels in the files' order; ClinicaDL's for MNI152NLin2009cSym, the lab session's for Ixi549Space.
_HIPPOCAMPI: dict[str, dict[str, Box]] = {
    "t1-linear": {
        "rightHippocampusBox": ((84, 134), (71, 121), (43, 93)),
        "leftHippocampusBox": ((36, 86), (71, 121), (43, 93)),
    },
    "t1-volume": {
        "rightHippocampusBox": ((65, 95), (50, 90), (27, 57)),
        "leftHippocampusBox": ((25, 55), (50, 90), (27, 57)),
    },
}


@dataclass(frozen=True)
class _Region:
    """A region that has been checked: its box, and its mask's voxels within the box if it has one."""

    name: str
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    mask: Tensor | None = None
    header: Header | None = None


@dataclass(frozen=True)
class Roi:
    """Regions of interest; a region's id is its position in `regions`.

    Parameters
    ----------
    regions
        From each region's name to its box, ``((first, after_last), …)`` for the three axes in voxels, or to
        the path of a NIfTI mask of 0 and 1. A mask's region is the image times the mask, cropped to the
        mask's bounding box.
    random_shift
        In training, regions are moved by up to so many voxels along each axis, both ends inclusive.

    Raises
    ------
    SettingError
        A name, box or shift that makes no sense.
    ImageError
        A mask that is empty, or has values other than 0 and 1.

    Examples
    --------
    >>> import torch
    >>> roi = Roi({"corner": ((0, 2), (0, 2), (0, 2))})
    >>> roi.extract(torch.arange(27.0).reshape(1, 3, 3, 3), 0).flatten().tolist()
    [0.0, 1.0, 3.0, 4.0, 9.0, 10.0, 12.0, 13.0]
    """

    regions: Mapping[str, Box | str]
    random_shift: int = 0
    _checked: tuple[_Region, ...] = field(init=False, repr=False, compare=False)

    name = "roi"

    def __post_init__(self) -> None:
        if not isinstance(self.regions, Mapping) or not self.regions:
            raise SettingError(
                f"Roi: regions is {self.regions!r}, expected a mapping from names to boxes or masks"
            )
        shift = self.random_shift
        if not isinstance(shift, int) or isinstance(shift, bool) or shift < 0:
            raise SettingError(
                f"Roi: random_shift is {shift!r}, expected a whole number of voxels, 0 or more"
            )
        object.__setattr__(self, "_checked", tuple(_region(*item) for item in self.regions.items()))

    @classmethod
    def hippocampi(cls, preprocessing: str = "t1-linear", random_shift: int = 0) -> "Roi":
        """The two hippocampi: 0 is the right one, 1 the left one.

        Parameters
        ----------
        preprocessing
            ``"t1-linear"`` (cropped; 50×50×50 voxels) or ``"t1-volume"`` (30×40×30 voxels).
        random_shift
            As of `Roi`.

        Raises
        ------
        SettingError
            No hippocampi are known for this preprocessing.
        """
        if preprocessing not in _HIPPOCAMPI:
            raise SettingError(
                f"no hippocampi are known for {preprocessing!r}; {suggestion(preprocessing, _HIPPOCAMPI)}"
            )
        return cls(_HIPPOCAMPI[preprocessing], random_shift)

    @classmethod
    def from_masks(
        cls, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], random_shift: int = 0
    ) -> "Roi":
        """The regions of NIfTI masks, named by the ``roi-<name>`` in their files' names.

        Parameters
        ----------
        paths
            Of the masks, in the order of the regions.
        random_shift
            As of `Roi`.
        """
        given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        regions: dict[str, str] = {}
        for path in map(Path, given):
            found = re.search(r"roi-([A-Za-z0-9]+)", path.name)
            name = found.group(1) if found else re.sub(r"[^A-Za-z0-9]", "", path.name.split(".")[0])
            if name in regions:
                raise SettingError(f"Roi: two masks are called {name!r}: {regions[name]} and {path}")
            regions[name] = str(path)
        return cls(regions, random_shift)

    def ids(self, shape: Shape) -> list[int]:
        """0, 1, … in the order of `regions`.

        Raises
        ------
        SettingError
            A region, moved as far as `random_shift` allows, leaves an image of `shape`.
        ImageError
            A mask is of another shape.
        """
        for region in self._checked:
            if region.header is not None and region.header.shape != tuple(shape):
                raise ImageError(
                    f"the mask of region {region.name!r} ({self.regions[region.name]}) is of shape "
                    f"{region.header.shape}, expected that of the images, {tuple(shape)}"
                )
            shift = self.random_shift
            if any(a < shift or b + shift > n for (a, b), n in zip(region.box, shape, strict=True)):
                moved = f" moved by up to {shift} voxels" if shift else ""
                raise SettingError(
                    f"region {region.name!r} with the box {region.box}{moved} leaves the image of shape "
                    f"{tuple(shape)}"
                )
        return list(range(len(self._checked)))

    def place(self, shape: Shape, part_id: int, shift: Sequence[int] = (0, 0, 0)) -> Place:
        """The region's box, moved by `shift` voxels along each axis."""
        check_part(self.name, range(len(self.ids(shape))), shape, part_id)
        return self._moved(part_id, shift)

    def _moved(self, part_id: int, shift: Sequence[int]) -> Place:
        box = self._checked[part_id].box
        first, second, third = (slice(a + s, b + s) for (a, b), s in zip(box, shift, strict=True))
        return (first, second, third)

    def extract(self, image: Tensor, part_id: int, shift: Sequence[int] = (0, 0, 0)) -> Tensor:
        """The region (1, d, h, w), copied; its box (and mask) moved by `shift` voxels along each axis."""
        part = image[(slice(None), *self.place(image.shape[1:], part_id, shift))]
        mask = self._checked[part_id].mask
        return part.clone() if mask is None else part * mask

    def mask(self, part_id: int) -> Tensor | None:
        """The voxels of a region's mask within its box; None where the region is a box."""
        return self._checked[part_id].mask

    def mask_orientations(self) -> dict[str, str]:
        """Where the axes of each region's mask point to, such as ``"RAS"``; boxes have none."""
        masked = (region for region in self._checked if region.header is not None)
        return {region.name: orientation_of(region.header.affine) for region in masked if region.header}

    def descriptor(self, part_id: int) -> str:
        """How file names call the part."""
        return f"roi-{self._checked[part_id].name}"


def _region(name: str, given: Box | str) -> _Region:
    if not isinstance(name, str) or not name.isalnum():
        raise SettingError(
            f"Roi: the region's name is {name!r}, expected letters and digits, as in roi-<name>"
        )
    if isinstance(given, str | os.PathLike):
        return _masked(name, Path(given))
    try:
        box = tuple((int(a), int(b)) for a, b in given)
        valid = (
            len(box) == 3
            and all(0 <= a < b for a, b in box)
            and [list(x) for x in box] == [list(x) for x in given]
        )
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise SettingError(
            f"Roi: the box of region {name!r} is {given!r}, expected three pairs of whole numbers, "
            "the first voxel and the one after the last, such as ((36, 86), (71, 121), (43, 93))"
        )
    return _Region(name, (box[0], box[1], box[2]))


def _masked(name: str, path: Path) -> _Region:
    voxels, header = read_voxels(path, f"the mask of region {name!r}", one_channel=True)
    mask = voxels[0]
    strange = (mask != 0) & (mask != 1)
    if strange.any():
        value = mask[strange][0].item()
        raise ImageError(f"the mask of region {name!r} ({path}) holds {value}, expected only 0 and 1")
    where = mask.nonzero()
    if not len(where):
        raise ImageError(f"the mask of region {name!r} ({path}) is empty: it holds no 1")
    first, last = where.amin(0).tolist(), (where.amax(0) + 1).tolist()
    (a, b), (c, d), (e, f) = zip(first, last, strict=True)
    return _Region(name, ((a, b), (c, d), (e, f)), mask[a:b, c:d, e:f].clone(), header)

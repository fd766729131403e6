"""Regions of interest: boxes, or masks cropped to their bounding boxes."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from neurocnn.data.nifti import Header, read_voxels
from neurocnn.data.parts import Place, Shape, check_part
from neurocnn.errors import ImageError, SettingError
from neurocnn.errors.arguments import (
    argument_error,
    check_choice,
    check_each,
    check_instance,
    check_integer,
    check_list,
    check_shape,
)

Box = Sequence[Sequence[int]]

# The boxes are voxel indices in the order of the file's axes. They are from ClinicaDL (MNI152NLin2009cSym) and from its
# tutorial (Ixi549Space).
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
    """Region after its checks: the box and, for a region from a mask, the voxels of the mask within the box."""

    name: str
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    mask: Tensor | None = None
    header: Header | None = None


@dataclass(frozen=True)
class Roi:
    """Regions of interest. The id of a region is its position in `regions`.

    Parameters
    ----------
    regions
        Box or mask of each region, by name. A box is ``((first, after_last), …)`` for the three axes, in voxels; a
        mask is the path of a NIfTI file with voxels 0 and 1. The part for a mask is the image multiplied by the mask,
        cropped to the mask's bounding box.
    random_shift
        Largest random shift along each axis in training, in voxels: integers from −`random_shift` to `random_shift`.

    Raises
    ------
    SettingError
        If a name, box or shift cannot be used.
    ImageError
        If a mask is empty or has values other than 0 and 1.

    Examples
    --------
    >>> import torch
    >>> roi, image = Roi({"corner": ((0, 2), (0, 2), (0, 2))}), torch.arange(27.0).reshape(1, 3, 3, 3)
    >>> roi.extract(image, 0).flatten().tolist()
    [0.0, 1.0, 3.0, 4.0, 9.0, 10.0, 12.0, 13.0]
    >>> torch.equal(roi.view(image, 0, shift=(1, 0, 0)), image[:, 1:3, 0:2, 0:2])
    True
    >>> roi.ids((3, 3, 3)), roi.place((3, 3, 3), 0), roi.descriptor(0)
    ([0], (slice(0, 2, None), slice(0, 2, None), slice(0, 2, None)), 'roi-corner')
    >>> import nibabel, numpy
    >>> voxels = numpy.zeros((4, 4, 4), "uint8")
    >>> voxels[1, 1:3, 1:3] = 1
    >>> nibabel.save(nibabel.Nifti1Image(voxels, numpy.eye(4)), tmp / "roi-corner_mask.nii.gz")
    >>> roi = Roi.from_masks(tmp / "roi-corner_mask.nii.gz")
    >>> list(roi.regions), roi.mask(0).shape, roi.mask_headers()["corner"].shape
    (['corner'], torch.Size([1, 2, 2]), (4, 4, 4))
    """

    regions: Mapping[str, Box | str]
    random_shift: int = 0
    _checked: tuple[_Region, ...] = field(init=False, repr=False, compare=False)

    name = "roi"

    def __post_init__(self) -> None:
        if not isinstance(self.regions, Mapping) or not self.regions:
            expected = "a mapping from names to boxes or mask paths"
            raise argument_error("regions", self.regions, expected, where="Roi")
        shift = check_integer("random_shift", self.random_shift, minimum=0, where="Roi")
        object.__setattr__(self, "random_shift", shift)
        object.__setattr__(self, "_checked", tuple(_region(*item) for item in self.regions.items()))

    @classmethod
    def hippocampi(cls, preprocessing: str = "t1-linear", random_shift: int = 0) -> "Roi":
        """Return the regions of the two hippocampi; id 0 is the right hippocampus, id 1 the left hippocampus.

        Parameters
        ----------
        preprocessing
            ``"t1-linear"`` (cropped; 50×50×50 voxels) or ``"t1-volume"`` (30×40×30 voxels).
        random_shift
            See `Roi`.

        Raises
        ------
        SettingError
            If no boxes of the hippocampi are known for this preprocessing.

        Examples
        --------
        >>> Roi.hippocampi("t1-volume").regions["rightHippocampusBox"]
        ((65, 95), (50, 90), (27, 57))
        """
        known = check_choice("preprocessing", preprocessing, _HIPPOCAMPI, where="Roi.hippocampi")
        return cls(_HIPPOCAMPI[known], random_shift)

    @classmethod
    def from_masks(
        cls, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], random_shift: int = 0
    ) -> "Roi":
        """Return regions from NIfTI masks. The name of a region follows ``roi-`` in the name of the mask's file.

        Parameters
        ----------
        paths
            Paths of the masks, in the order of the regions.
        random_shift
            See `Roi`.
        """
        where, expected = "Roi.from_masks", "a path or a list of paths"
        single = isinstance(paths, str | os.PathLike)
        regions: dict[str, str] = {}
        for given in [paths] if single else check_list("paths", paths, expected, where=where):
            if not isinstance(given, str | os.PathLike):
                raise argument_error("paths", given, expected, where=where)
            path = Path(given)
            found = re.search(r"roi-([A-Za-z0-9]+)", path.name)
            name = found.group(1) if found else re.sub(r"[^A-Za-z0-9]", "", path.name.split(".")[0])
            if name in regions:
                raise SettingError(
                    f"{where}: two masks are called {name!r}: {regions[name]} and {path}; rename one of the files"
                )
            regions[name] = str(path)
        return cls(regions, random_shift)

    def ids(self, shape: Shape) -> list[int]:
        """Return the ids 0, 1, … of the regions, in the order of `regions`.

        Raises
        ------
        SettingError
            If a region, moved by up to `random_shift`, exceeds an image of `shape`.
        ImageError
            If the shape of a mask is not `shape`.
        """
        shape = check_shape("shape", shape, where="Roi")
        for region in self._checked:
            if region.header is not None and region.header.shape != tuple(shape):
                raise ImageError(
                    f"the mask of region {region.name!r} ({self.regions[region.name]}) has shape "
                    f"{region.header.shape}; expected the shape of the images, {tuple(shape)}"
                )
            shift = self.random_shift
            if any(a < shift or b + shift > n for (a, b), n in zip(region.box, shape, strict=True)):
                moved = f" shifted by up to {shift} voxels" if shift else ""
                raise SettingError(
                    f"region {region.name!r}: box={region.box}{moved}; expected a box within the image of shape "
                    f"{tuple(shape)}"
                )
        return list(range(len(self._checked)))

    def place(self, shape: Shape, part_id: int, shift: Sequence[int] = (0, 0, 0)) -> Place:
        """Return the region's box, moved by `shift` voxels along each axis."""
        check_part(self.name, range(len(self.ids(shape))), shape, part_id)
        shift = check_each("shift", check_list("shift", shift, "3 integers", where="Roi"), check_integer)
        if len(shift) != 3:
            raise argument_error("shift", shift, "3 integers", where="Roi")
        box = self._checked[part_id].box
        first, second, third = (slice(a + s, b + s) for (a, b), s in zip(box, shift, strict=True))
        return (first, second, third)

    def extract(self, image: Tensor, part_id: int, shift: Sequence[int] = (0, 0, 0)) -> Tensor:
        """Return a copy of the region (1, d, h, w), with its box and mask moved by `shift` voxels along each axis."""
        part = self.view(image, part_id, shift)
        return part if self._checked[part_id].mask is not None else part.clone()

    def view(self, image: Tensor, part_id: int, shift: Sequence[int] = (0, 0, 0)) -> Tensor:
        """Return the region (1, d, h, w), which shares the memory of the image unless it has a mask."""
        check_instance("image", image, Tensor, "a tensor (1, D, H, W)", where="Roi")
        part = image[(slice(None), *self.place(image.shape[1:], part_id, shift))]
        mask = self._checked[part_id].mask
        return part if mask is None else part * mask

    def mask(self, part_id: int) -> Tensor | None:
        """Return the voxels of a region's mask within its box; None if the region is a box."""
        return self._region(part_id).mask

    def mask_headers(self) -> dict[str, Header]:
        """Return the header of each mask, by name of the region. Regions that are boxes are omitted."""
        return {region.name: region.header for region in self._checked if region.header is not None}

    def descriptor(self, part_id: int) -> str:
        """Return the part's name in file names."""
        return f"roi-{self._region(part_id).name}"

    def _region(self, part_id: int) -> _Region:
        return self._checked[
            check_integer("part_id", part_id, minimum=0, maximum=len(self._checked) - 1, where="Roi")
        ]


def _region(name: str, value: Box | str | os.PathLike[str]) -> _Region:
    if not isinstance(name, str) or not name.isalnum():
        raise SettingError(f"Roi: region {name!r}; expected a name of letters and digits, as in roi-<name>")
    if isinstance(value, str | os.PathLike):
        return _region_from_mask(name, Path(value))
    try:
        pairs = [check_list(name, pair, "a pair") for pair in check_list(name, value, "three pairs")]
        box = tuple((int(a), int(b)) for a, b in pairs)
        valid = len(box) == 3 and all(0 <= a < b for a, b in box) and [list(x) for x in box] == pairs
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        expected = "three pairs (first voxel, voxel after the last), such as ((36, 86), (71, 121), (43, 93))"
        raise argument_error(f"regions[{name!r}]", value, expected, where="Roi")
    return _Region(name, (box[0], box[1], box[2]))


def _region_from_mask(name: str, path: Path) -> _Region:
    voxels, header = read_voxels(path, f"the mask of region {name!r}", one_channel=True)
    mask = voxels[0]
    invalid = (mask != 0) & (mask != 1)
    if invalid.any():
        value = mask[invalid][0].item()
        raise ImageError(f"the mask of region {name!r} ({path}) contains {value}; expected only 0 and 1")
    inside = mask.nonzero()
    if not len(inside):
        raise ImageError(
            f"the mask of region {name!r} ({path}) is empty; expected at least one voxel of value 1"
        )
    first, last = inside.amin(0).tolist(), (inside.amax(0) + 1).tolist()
    (a, b), (c, d), (e, f) = zip(first, last, strict=True)
    return _Region(name, ((a, b), (c, d), (e, f)), mask[a:b, c:d, e:f].clone(), header)


def check_equal_sizes(parts: Roi, shape: tuple[int, int, int]) -> None:
    """Raise a SettingError if the regions have different sizes, so that they cannot form a batch."""
    boxes = {name: parts.place(shape, part_id) for part_id, name in enumerate(parts.regions)}
    sizes = {name: tuple(axis.stop - axis.start for axis in box) for name, box in boxes.items()}
    if len(set(sizes.values())) > 1:
        raise SettingError(
            f"Roi: the regions have different shapes, {sizes}; expected the same shape; create one dataset per "
            "region"
        )

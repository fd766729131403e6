"""Parts that were extracted beforehand, each in a file of its own.

They are those of ``clinicadl prepare-data``; ours carry which voxels they hold, since a region's name alone
does not say so.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from neurocnn.data import prepare as prepared
from neurocnn.data.images import Images, decode, same_voxels
from neurocnn.data.orientation import Turn
from neurocnn.data.parts import Parts, Place, Shape
from neurocnn.data.sources import Source
from neurocnn.errors import ImageError, SettingError


@runtime_checkable
class NamedParts(Protocol):
    """Parts that can be kept in files: they know their names and places."""

    name: str

    def ids(self, shape: Shape) -> list[int]:
        """As of `Parts`."""
        ...

    def extract(self, image: Tensor, part_id: int) -> Tensor:
        """As of `Parts`."""
        ...

    def place(self, shape: Shape, part_id: int) -> Place:
        """Where a part lies in the volume."""
        ...

    def descriptor(self, part_id: int) -> str:
        """How file names call a part."""
        ...


def read_part(images: Images, source: Source, cohort: str | None, parts: Parts, part_id: int) -> Tensor:
    """One part of an image, from wherever it comes fastest; a copy.

    A prepared tensor of the whole image comes first, of which only the part's voxels are read, then the
    part's own file, then the NIfTI.
    """
    if images.held(source) is None and isinstance(parts, NamedParts) and not source.tensor.is_file():
        shape, _, turn = images.header(source, cohort)
        if turn == Turn():
            part = images.checked(
                source,
                part_path(source, parts, part_id),
                lambda tensor: _holds_the_part(tensor, images, source, cohort, parts, part_id, shape),
                mmap=False,
            )
            if part is not None:
                return images.finite(part, source)
    return parts.extract(images.image(source, cohort), part_id)


def part_path(source: Source, parts: NamedParts, part_id: int) -> Path:
    """Where the tensor of a part is, or would be."""
    stem = prepared.part_stem(source.stem, parts.descriptor(part_id))
    return source.tensor_of(parts.name, stem)


def part_signature(parts: NamedParts, shape: Shape, part_id: int) -> str:
    """Which voxels a part holds: its box, and the checksum of its mask if it has one.

    Examples
    --------
    >>> from neurocnn.data.parts import Patch
    >>> part_signature(Patch(2, 2), (4, 4, 4), 7)
    '2:4 2:4 2:4'
    """
    box = " ".join(f"{axis.start}:{axis.stop}" for axis in parts.place(shape, part_id))
    mask = parts.mask(part_id) if hasattr(parts, "mask") else None
    return box if mask is None else f"{box} mask-{zlib.crc32(mask.numpy().tobytes()):08x}"


def _holds_the_part(
    part: Tensor,
    images: Images,
    source: Source,
    cohort: str | None,
    parts: NamedParts,
    part_id: int,
    shape: Shape,
) -> bool:
    # An image without memory is enough to learn a part's shape.
    empty = torch.zeros(1).expand(1, *shape)
    if part.shape != parts.extract(empty, part_id).shape:
        return False
    path = part_path(source, parts, part_id)
    origin = prepared.read_origin(path)
    if origin is not None and origin.part != part_signature(parts, shape, part_id):
        return False
    if source.nifti is None:
        return True
    made = prepared.made_of(path, source.nifti)
    if made is not None:
        return made
    return same_voxels(parts.extract(decode(source), part_id), part)


def check_extractable(
    images: Images, sources: Sequence[tuple[Source, str | None]], parts: Parts
) -> NamedParts:
    """Refuse parts that cannot be kept in files.

    Raises
    ------
    SettingError
        They have no names or places, or images are turned.
    """
    if not isinstance(parts, NamedParts):
        raise SettingError(
            f"{parts!r} have no `descriptor` and `place`, so that they cannot be prepared; "
            "prepare whole images, which serve all parts: caps.prepare()"
        )
    for source, cohort in sources:
        try:
            turn = images.header(source, cohort)[2]
        except ImageError:
            continue  # said when its turn comes, after the others are prepared
        if turn != Turn():
            raise SettingError(
                f"{source.what} is turned to {images.orientation}, but prepared parts keep the order of the "
                "file; prepare whole images, which serve all orientations: caps.prepare()"
            )
    return parts


def missing_parts(images: Images, source: Source, cohort: str | None, parts: NamedParts) -> list[int]:
    """The parts of an image whose files are missing, damaged or stale."""
    shape = images.header(source, cohort)[0]
    return [
        part_id for part_id in parts.ids(shape) if not _usable(images, source, cohort, parts, part_id, shape)
    ]


def _usable(
    images: Images, source: Source, cohort: str | None, parts: NamedParts, part_id: int, shape: Shape
) -> bool:
    path = part_path(source, parts, part_id)
    try:
        part = images.checked(
            source,
            path,
            lambda tensor: _holds_the_part(tensor, images, source, cohort, parts, part_id, shape),
            mmap=False,
        )
    except ImageError:
        return False
    return part is not None


def extract_parts(images: Images, source: Source, cohort: str | None, parts: NamedParts) -> None:
    """Write the files of an image's parts that are missing, damaged or stale."""
    missing = missing_parts(images, source, cohort, parts)
    if not missing:
        return
    mapped = images.prepared(source)
    image = mapped if mapped is not None else decode(source)
    images.finite(image, source)  # an error now rather than in training
    shape = tuple(image.shape[1:])
    made_of = prepared.fingerprint(source.nifti) if source.nifti is not None else ""
    for part_id in missing:
        origin = prepared.Origin(made_of, part_signature(parts, shape, part_id))
        prepared.write_prepared(parts.extract(image, part_id), part_path(source, parts, part_id), origin)

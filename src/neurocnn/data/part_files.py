"""Parts of images: cut from the image, or read from prepared files of the parts.

File names are those of ``clinicadl prepare-data``. A file that neurocnn writes contains a record of the part's box and
mask, because the name of a region does not determine its voxels.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from neurocnn.data.decoding import decode, is_up_to_date
from neurocnn.data.parts import LocatedParts, Parts, Patch, Shape, Slice, WholeImage
from neurocnn.data.reader import ImageReader
from neurocnn.data.roi import Roi
from neurocnn.data.sources import Source
from neurocnn.data.tensor_files import Origin, nifti_stamp, part_stem, read_origin, write_prepared
from neurocnn.errors import ImageError, NeurocnnError, SettingError
from neurocnn.storage.files import storage_errors

#: Classes of parts with a method `view`. Its result may share the memory of the image.
OWN_PARTS = (WholeImage, Patch, Slice, Roi)


@runtime_checkable
class StorableParts(LocatedParts, Protocol):
    """Parts that can be stored in files, because `descriptor` returns a name of each part for file names."""

    def descriptor(self, part_id: int) -> str:
        """Return the part's name in file names."""
        ...


def read_part(
    images: ImageReader, source: Source, parts: Parts, part_id: int, *, checked: bool = False
) -> tuple[Tensor, tuple[float, float] | None]:
    """Return one part of an image.

    The part comes from the first of these sources that exists: the image in the cache, the prepared tensor of the
    complete image (only the part's voxels are read), the prepared tensor of the part, the NIfTI file.

    Parameters
    ----------
    images, source, parts, part_id
        Part to read.
    checked
        Whether the part was read before, so that its voxels are known to be finite.

    Returns
    -------
    part, bounds
        The part, which may share its memory with the image and must not be written to; its smallest and largest value,
        or None if the values are unknown.
    """
    with storage_errors(source.session_folder, f"read {source.name}"):
        if (
            images.cached(source) is None
            and isinstance(parts, StorableParts)
            and not source.tensor_path.is_file()
        ):
            part = open_part(images, source, parts, part_id)
            if part is not None:
                if checked and images.nan_voxels == "error":
                    return part, None
                return images.finite(part, source)
    image = images.image(source)
    # `view` replaces `extract` only for the classes themselves, because a subclass may override `extract`.
    extract = parts.view if type(parts) in OWN_PARTS else parts.extract  # type: ignore[attr-defined]
    return extract(image, part_id), images.bounds(source) if type(parts) is WholeImage else None


def part_path(source: Source, parts: StorableParts, part_id: int) -> Path:
    """Return the path of a part's prepared tensor, which need not exist."""
    return source.part_tensor_path(parts.name, part_stem(source.stem, parts.descriptor(part_id)))


def part_signature(parts: LocatedParts, shape: Shape, part_id: int) -> str:
    """Return a string that identifies the voxels of a part: its box and, if it has a mask, the checksum of the mask.

    Examples
    --------
    >>> from neurocnn.data.parts import Patch
    >>> part_signature(Patch(2, 2), (4, 4, 4), 7)
    '2:4 2:4 2:4'
    """
    box = " ".join(f"{axis.start}:{axis.stop}" for axis in parts.place(shape, part_id))
    mask = parts.mask(part_id) if hasattr(parts, "mask") else None
    return box if mask is None else f"{box} mask-{zlib.crc32(mask.numpy().tobytes()):08x}"


def open_part(images: ImageReader, source: Source, parts: StorableParts, part_id: int) -> Tensor | None:
    """Return a part from its prepared file, or None if it is missing or outdated.

    If images are reoriented, None is returned too, because prepared parts have the NIfTI file's order of axes.

    Raises
    ------
    ImageError
        If the file is damaged or unsafe.
    """
    grid = images.grid(source)
    if grid.reorientation is not None:
        return None
    path = part_path(source, parts, part_id)

    def is_current(part: Tensor) -> bool:
        # The shape is computed from an expanded scalar, which needs no memory for the voxels of an image.
        if part.shape != parts.extract(torch.zeros(1).expand(1, *grid.shape), part_id).shape:
            return False
        origin = read_origin(path)
        if origin is not None and origin.part != part_signature(parts, grid.shape, part_id):
            return False
        return is_up_to_date(part, path, source, lambda source: parts.extract(decode(source), part_id))

    return images.open_if_current(source, path, is_current, mmap=False)


def check_storable(images: ImageReader, sources: Sequence[Source], parts: Parts) -> StorableParts:
    """Return `parts` if they can be kept in files.

    Raises
    ------
    SettingError
        If the parts have no names or boxes, or images are reoriented.
    """
    if not isinstance(parts, StorableParts):
        raise SettingError(
            f"prepare: parts={parts!r}; expected parts with the methods `descriptor` and `place`; prepare "
            "complete images instead, from which all parts can be read: caps.prepare()"
        )
    for source in sources:
        try:
            reoriented = images.grid(source).reorientation is not None
        except NeurocnnError:
            # The error of this image is raised after the other images are prepared.
            continue
        if reoriented:
            raise SettingError(
                f"{source.name}: orientation={images.orientation!r}, but prepared parts have the file's "
                "orientation; prepare complete images, which can be reoriented: caps.prepare()"
            )
    return parts


def write_parts(images: ImageReader, source: Source, parts: StorableParts) -> None:
    """Write the files of an image's parts that are missing, damaged or outdated."""
    shape = images.grid(source).shape
    missing = [part_id for part_id in parts.ids(shape) if not _is_usable(images, source, parts, part_id)]
    if not missing:
        return
    prepared = images.prepared_tensor(source)
    image = prepared if prepared is not None else decode(source)
    # `finite` is called for its error: invalid voxels are reported now, not during training.
    images.finite(image, source)
    origin = nifti_stamp(source.nifti) if source.nifti is not None else ""
    for part_id in missing:
        write_prepared(
            parts.extract(image, part_id),
            part_path(source, parts, part_id),
            Origin(origin, part_signature(parts, shape, part_id)),
        )


def _is_usable(images: ImageReader, source: Source, parts: StorableParts, part_id: int) -> bool:
    try:
        return open_part(images, source, parts, part_id) is not None
    except ImageError:
        return False

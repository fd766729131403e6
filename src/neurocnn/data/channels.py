"""Parts of single channels, each of which is read from one file."""

from collections.abc import Sequence

import torch
from torch import Tensor

from neurocnn.data.items import apply
from neurocnn.data.memory_order import bounds_of, copy_voxels
from neurocnn.data.part_files import read_part
from neurocnn.data.parts import LocatedParts, Parts, ShiftedParts
from neurocnn.data.reader import ImageReader
from neurocnn.data.scaling import Bounds, BoundsCache, scale
from neurocnn.data.sources import Source
from neurocnn.data.spatial import Space, part_space
from neurocnn.data.transforms import MinMax, Transform


class ChannelParts:
    """Reader of the parts of single channels.

    A part is identified by the index of its file in `sources` and the index of its id in `part_ids`.

    Parameters
    ----------
    images
        Reader of the files.
    sources
        Files of all channels of all images.
    parts, part_ids
        Kind of parts, and the ids of the parts of a channel.
    transform
        Transform of a part, see `CapsDataset`.
    """

    def __init__(
        self,
        images: ImageReader,
        sources: Sequence[Source],
        parts: Parts,
        part_ids: Sequence[int],
        transform: Transform | None,
    ) -> None:
        self.images, self.sources = images, sources
        self.parts, self.part_ids, self.transform = parts, part_ids, transform
        self._bounds = BoundsCache(images, len(sources), len(part_ids))

    def read(self, index: int, position: int) -> tuple[Tensor, Bounds | None]:
        """Return a part, which may share its memory with the image, and its smallest and largest value if known."""
        images, source, part_id = self.images, self.sources[index], self.part_ids[position]
        while True:
            generation, kept = images.generation, self._bounds.get(index, position)
            part, found = read_part(images, source, self.parts, part_id, checked=kept is not None)
            # If the generation has changed, the file was replaced during the read, so its bounds must not be stored.
            if images.generation == generation:
                return part, kept or found

    def write(self, part: Tensor, bounds: Bounds | None, index: int, position: int, out: Tensor) -> None:
        """Apply one of this package's transforms to a part that `read` returned, and write the result into `out`."""
        if part.dtype != out.dtype:
            out.copy_(self.transformed(part, index, position))
        elif type(self.transform) is MinMax:
            bounds = bounds or bounds_of(part)
            self._bounds.put(index, position, bounds)
            scale(part, bounds, out)
        else:
            # The transform receives a contiguous copy, because sums depend on the order of the voxels in memory.
            found = self.transformed(copy_voxels(part, out), index, position)
            if found is not out:
                out.copy_(found)

    def transformed(self, part: Tensor, index: int, position: int) -> Tensor:
        """Return the transformed part. It may be a tensor subclass of another library."""
        return apply("transform", self.transform, part, self.sources[index], self.part_ids[position])

    def copy(self, index: int, position: int, shifted: bool) -> tuple[Tensor, list[int]]:
        """Return a copy of a part and the shift of its box.

        The shift is random if `shifted` is True and the parts have a random shift, otherwise 0.
        """
        if shifted and isinstance(self.parts, ShiftedParts) and (most := self.parts.random_shift):
            shift = torch.randint(-most, most + 1, (3,)).tolist()
            image = self.images.image(self.sources[index])
            return self.parts.extract(image, self.part_ids[position], shift), shift
        # The part is copied, because a transform may write to its input.
        return copy_voxels(self.read(index, position)[0]), [0, 0, 0]

    def space(self, index: int, position: int, shift: Sequence[int], part: Tensor) -> Space | None:
        """Return the space of a part, see `part_space`; None if the affine or the box is unknown."""
        grid = self.images.grid(self.sources[index])
        if grid.affine is None or not isinstance(self.parts, LocatedParts):
            return None
        place = self.parts.place(grid.shape, self.part_ids[position])
        return part_space(grid.affine, place, tuple(part.shape), shift)

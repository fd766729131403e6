"""Checks that the images of several cohorts, the channels of an image, and masks have the same voxel grid."""

from collections.abc import Sequence

from neurocnn.data.orientation import Grid
from neurocnn.data.reader import ImageReader
from neurocnn.data.roi import Roi
from neurocnn.data.sources import Source
from neurocnn.errors import ImageError


def common_shape(images: ImageReader, sources: Sequence[Source]) -> tuple[int, int, int]:
    """Return the common shape of all images, from the header of the first image of each cohort.

    Raises
    ------
    ImageError
        If the shapes of the cohorts differ.
    """
    first: dict[str | None, Source] = {}
    for source in sources:
        first.setdefault(source.cohort, source)
    (example, expected), *others = [(source, images.grid(source)) for source in first.values()]
    for source, grid in others:
        if grid.shape != expected.shape:
            found = {each.cohort: images.grid(each).shape for each in first.values()}
            raise ImageError(f"the shapes of the cohorts' images differ: {found}; expected equal shapes")
        if not grid.is_at(expected):
            message = expected.describe_difference(example.name, grid, source.name)
            images.warn_once(source.cohort, "cohort", message)
    return expected.shape


def check_channels(images: ImageReader, sources: Sequence[Source], n_channels: int) -> None:
    """Check that the headers are valid, and that the channels of each image have the same voxel grid.

    Parameters
    ----------
    images
        Reader of the images, which also compares each image with the first image of its cohort.
    sources, n_channels
        See `ImageSet.sources`.

    Raises
    ------
    ImageError
        If headers are invalid, or grids differ. The message lists all of them.
    """
    problems: list[str] = []
    for start in range(0, len(sources), n_channels):
        grids: list[tuple[Source, Grid]] = []
        for source in sources[start : start + n_channels]:
            try:
                grids.append((source, images.grid(source)))
            except ImageError as error:
                problems.append(str(error))
        for source, grid in grids[1:]:
            first, expected = grids[0]
            if not grid.is_at(expected):
                problems.append(expected.describe_difference(first.name, grid, source.name))
    if problems:
        header = f"{len(problems)} images cannot be used:\n" if len(problems) > 1 else ""
        raise ImageError(header + "\n".join(problems))


def compare_masks(parts: Roi, images: ImageReader, source: Source) -> None:
    """Log a warning if a mask and the images have different affines: the mask then covers the wrong structures."""
    grid = images.grid(source)
    for name, header in parts.mask_headers().items():
        mask = Grid(header.shape, header.affine, is_oriented=header.is_oriented)
        if mask.shape == grid.shape and not mask.is_at(grid):
            what = f"the mask of region {name!r} ({parts.regions[name]})"
            images.warn_once(source.cohort, what, grid.describe_difference(source.name, mask, what))

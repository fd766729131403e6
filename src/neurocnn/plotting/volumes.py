"""Volumes in three orthogonal planes: images with regions, maps over a template, reconstructions."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from neurocnn.errors import ImageError
from neurocnn.plotting.canvas import CYCLE, INK, LABEL, ORANGE, as_array, new_figure
from neurocnn.plotting.sections import (
    BAR,
    Box,
    Volume,
    as_volume,
    colour_bar,
    draw_box,
    draw_plane,
    draw_slice,
    extent,
    heading,
    meeting_point,
    plane_axes,
    side_heading,
    spatial,
    suptitle,
    window,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Boxes: TypeAlias = Mapping[str, Box] | Iterable[Box]


def planes(
    volume: Any,
    at: Sequence[int] | None = None,
    *,
    boxes: Boxes = (),
    voxel_size: Sequence[float] = (1, 1, 1),
    title: str | None = None,
) -> "Figure":
    """Draw three orthogonal planes of a volume, and the boxes (patches, regions) that they cut.

    Parameters
    ----------
    volume
        Array or tensor (D, H, W) or (1, D, H, W).
    at
        The voxel (x, y, z) in which the planes meet. None: the centre of the first named box, or of the
        volume.
    boxes
        Places as slices along each axis, such as ``parts.place(shape, part_id)`` gives; of a mapping the
        names are written beside them.
    voxel_size
        Length of a voxel along each axis (mm).
    title
        The heading.

    Raises
    ------
    ImageError
        It is no volume.
    SettingError
        `at` is outside it.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> region = (slice(4, 12), slice(2, 10), slice(3, 9))
    >>> planes(np.ones((16, 18, 14)), boxes={"left": region}).savefig(tmp / "planes.png")
    """
    array = as_volume(volume, "volume")
    named = boxes if isinstance(boxes, Mapping) else {}
    places = list(boxes.values()) if isinstance(boxes, Mapping) else list(boxes)
    middle = [(box.start + box.stop) // 2 for box in places[0]] if named else [n // 2 for n in array.shape]
    point = meeting_point(array.shape, middle if at is None else at)
    width, height = extent(array.shape, voxel_size, 9)
    figure = new_figure(width, height + 0.4 + 0.3 * bool(title))
    for axis, axes in enumerate(plane_axes(figure, array.shape, voxel_size, bar=False)[0]):
        draw_plane(axes, array, axis, point, voxel_size, window(array), "gray")
        heading(axes, axis, point[axis])
        for index, (place, name) in enumerate(zip_longest(places, named)):
            draw_box(
                axes, place, axis, point[axis], CYCLE[(index + 1) % len(CYCLE)] if named else ORANGE, name
            )
    suptitle(figure, title)
    return figure


def part_map(
    values: Any,
    template: Any = None,
    at: Sequence[int] | None = None,
    *,
    label: str = "Validation balanced accuracy",
    vmin: float | None = None,
    vmax: float | None = None,
    opacity: float = 0.65,
    voxel_size: Sequence[float] = (1, 1, 1),
    title: str | None = None,
) -> "Figure":
    """Draw a map of values over a template in three planes, with a colour bar.

    Parameters
    ----------
    values
        Array or tensor (D, H, W), such as the balanced accuracy of the part that a voxel belongs to; NaN
        where there is none.
    template
        The volume of the same shape that lies below, such as an image of the data. None: nothing.
    at
        The voxel (x, y, z) in which the planes meet. None: the centre of the voxels with the highest value.
    label
        What the values are.
    vmin, vmax
        The values at the ends of the colours. None: the lowest and the highest; for balanced accuracies
        ``vmin=0.5`` (chance, of two classes) is a good choice.
    opacity
        Of the map, from 0 to 1.
    voxel_size
        Length of a voxel along each axis (mm).
    title
        The heading.

    Raises
    ------
    ImageError
        Map and template differ in shape, are no volumes, or the map has no value.
    SettingError
        `at` is outside the volume.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> accuracy = np.full((16, 18, 14), np.nan)
    >>> accuracy[4:12, 2:10, 3:9] = 0.8
    >>> part_map(accuracy, np.ones((16, 18, 14)), vmin=0.5, vmax=1).savefig(tmp / "map.png")
    """
    array = as_volume(values, "map")
    width, height = extent(array.shape, voxel_size, 9)
    figure = new_figure(width * (1 + BAR) + 0.8, height + 0.4 + 0.3 * bool(title))
    panels = plane_axes(figure, array.shape, voxel_size)[0]
    draw_map(panels, array, template, at, label, (vmin, vmax), opacity, voxel_size)
    suptitle(figure, title)
    return figure


def reconstruction(
    image: Any, output: Any, title: str | None = None, *, voxel_size: Sequence[float] = (1, 1, 1)
) -> "Figure":
    """Draw an image, its reconstruction and their difference, in three planes or, of a slice, in its own.

    Parameters
    ----------
    image
        Array or tensor (1, D, H, W) or (D, H, W), or of a slice (C, H, W) or (H, W), whose first channel is
        shown.
    output
        What the autoencoder made of it, of the same shape.
    title
        The heading. None: the mean squared error.
    voxel_size
        Length of a voxel along each axis (mm).

    Raises
    ------
    ImageError
        The shapes differ, or are of no image.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((1, 16, 18, 14))
    >>> reconstruction(image, 0.9 * image).savefig(tmp / "reconstruction.png")
    """
    before, after = as_array(image), as_array(output)
    if before.shape != after.shape:
        raise ImageError(f"image {before.shape} and reconstruction {after.shape} must have the same shape")
    before, after = spatial(before), spatial(after)
    difference = after - before
    most = float(np.percentile(np.abs(difference), 99.5)) or 1.0
    rows = (
        ("Input", before, window(before), "gray"),
        ("Reconstruction", after, window(before), "gray"),
        ("Difference", difference, (-most, most), "RdBu_r"),
    )
    figure = _three_planes(rows, voxel_size) if before.ndim == 3 else _one_plane(rows)
    suptitle(figure, title or f"Mean squared error {np.mean(difference**2):.3g}")
    return figure


Row: TypeAlias = tuple[str, Volume, tuple[float, float], str]


def _three_planes(rows: Sequence[Row], voxel_size: Sequence[float]) -> "Figure":
    """Volumes below each other, in three planes each."""
    shape = rows[0][1].shape
    middle = [size // 2 for size in shape]
    width, height = extent(shape, voxel_size, 6.6)
    figure = new_figure(width * (1 + BAR) + 1.1, len(rows) * (height + 0.1) + 0.9)
    lines = plane_axes(figure, shape, voxel_size, len(rows))
    for (*panels, beside), (name, array, ends, colours) in zip(lines, rows, strict=True):
        for axis, axes in enumerate(panels):
            shown = draw_plane(axes, array, axis, middle, voxel_size, ends, colours)
            if array is rows[0][1]:
                heading(axes, axis, middle[axis])
        side_heading(panels[0], name)
        colour_bar(shown, beside)
    return figure


def _one_plane(rows: Sequence[Row]) -> "Figure":
    """Slices beside each other."""
    width, height = rows[0][1].shape
    figure = new_figure(3.5 * len(rows), 0.9 + 2.5 * height / width)
    grid = figure.add_gridspec(1, 2 * len(rows), width_ratios=[1, 0.05] * len(rows))
    for column, (name, array, ends, colours) in enumerate(rows):
        axes = figure.add_subplot(grid[2 * column])
        shown = draw_slice(axes, array, ends, colours)
        axes.set_title(name, fontsize=LABEL, color=INK)
        colour_bar(shown, figure.add_subplot(grid[2 * column + 1]))
    return figure


def draw_map(
    panels: "Sequence[Axes]",
    values: Volume,
    template: Any,
    at: Sequence[int] | None,
    label: str,
    ends: tuple[float | None, float | None],
    opacity: float,
    voxel_size: Sequence[float],
) -> None:
    """Draw a map over a template into three axes, and its colour bar into the fourth."""
    if not np.isfinite(values).any():
        raise ImageError("the map has no value: all voxels are NaN or infinite")
    below = None if template is None else as_volume(template, "template")
    if below is not None and below.shape != values.shape:
        raise ImageError(f"map {values.shape} and template {below.shape} must have the same shape")
    point = meeting_point(values.shape, _highest(values) if at is None else at)
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    low, high = (lowest if ends[0] is None else ends[0]), (highest if ends[1] is None else ends[1])
    for axis, axes in enumerate(panels[:3]):
        if below is not None:
            dark, bright = window(below)
            draw_plane(axes, below, axis, point, voxel_size, (dark, bright), "gray")
            # Lighter below the map, so that its colours stay those of the bar on a black background too.
            lit = np.where(np.isnan(values), np.nan, below)
            draw_plane(axes, lit, axis, point, voxel_size, (dark - 0.6 * (bright - dark), bright), "gray")
        shown = draw_plane(axes, values, axis, point, voxel_size, (low, high), "viridis", opacity)
        heading(axes, axis, point[axis])
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max"}
    colour_bar(shown, panels[3], label, beyond.get((lowest < low, highest > high), "neither"))


def _highest(values: Volume) -> list[int]:
    """Of the voxels with the highest value the one nearest to their middle."""
    voxels = np.argwhere(values == np.nanmax(values))
    nearest = np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))
    return [int(index) for index in voxels[nearest]]

"""Figures of volumes in three orthogonal planes: images with regions, maps over a template, reconstructions."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from neurocnn.errors import ImageError
from neurocnn.plotting import canvas, sections
from neurocnn.plotting.sections import Box, Volume

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
        Voxel (x, y, z) in which the planes cross. With None, the centre of the first named box, or of the volume.
    boxes
        Regions as slices along each axis, as ``parts.place(shape, part_id)`` returns them. The names of a mapping are
        written next to them.
    voxel_size
        Length of a voxel along each axis (mm).
    title
        Title of the figure.

    Raises
    ------
    ImageError
        If it is not a volume.
    SettingError
        If `at` is outside it.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> region = (slice(4, 12), slice(2, 10), slice(3, 9))
    >>> planes(np.ones((16, 18, 14)), boxes={"left": region}).savefig(tmp / "planes.png")
    """
    array = sections.as_volume(volume, "volume")
    names = boxes if isinstance(boxes, Mapping) else {}
    regions = list(boxes.values()) if isinstance(boxes, Mapping) else list(boxes)
    middle = [(box.start + box.stop) // 2 for box in regions[0]] if names else [n // 2 for n in array.shape]
    point = sections.check_voxel(array.shape, middle if at is None else at)
    width, height = sections.extent(array.shape, voxel_size, 9)
    figure = canvas.new_figure(width, height + 0.4 + 0.3 * bool(title))
    for axis, axes in enumerate(sections.plane_axes(figure, array.shape, voxel_size, bar=False)[0]):
        sections.draw_plane(axes, array, axis, point, voxel_size, sections.grey_limits(array), "gray")
        sections.set_plane_title(axes, axis, point[axis])
        for index, (region, name) in enumerate(zip_longest(regions, names)):
            colour = canvas.CYCLE[(index + 1) % len(canvas.CYCLE)] if names else canvas.ORANGE
            sections.draw_box(axes, region, axis, point[axis], colour, name)
    sections.set_figure_title(figure, title)
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
        Array or tensor (D, H, W), such as the balanced accuracy of the part that contains a voxel; NaN outside all
        parts.
    template
        Volume of the same shape to draw below the map, such as an image of the data. With None, there is none.
    at
        Voxel (x, y, z) in which the planes cross. With None, the voxel of the highest value nearest to the centre of
        all such voxels.
    label
        Name of the values.
    vmin, vmax
        Values at both ends of the colour scale. With None, the lowest and the highest; for balanced accuracies
        ``vmin=0.5`` is chance with two classes.
    opacity
        Opacity of the map, from 0 to 1.
    voxel_size
        Length of a voxel along each axis (mm).
    title
        Title of the figure.

    Raises
    ------
    ImageError
        If map and template differ in shape or are not volumes, or the map has no value.
    SettingError
        If `at` is outside the volume.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> accuracy = np.full((16, 18, 14), np.nan)
    >>> accuracy[4:12, 2:10, 3:9] = 0.8
    >>> part_map(accuracy, np.ones((16, 18, 14)), vmin=0.5, vmax=1).savefig(tmp / "map.png")
    """
    array = sections.as_volume(values, "map")
    width, height = sections.extent(array.shape, voxel_size, 9)
    figure = canvas.new_figure(width * (1 + sections.BAR) + 0.8, height + 0.4 + 0.3 * bool(title))
    panels = sections.plane_axes(figure, array.shape, voxel_size)[0]
    draw_map(panels, array, template, at, label, (vmin, vmax), opacity, voxel_size)
    sections.set_figure_title(figure, title)
    return figure


def reconstruction(
    image: Any, output: Any, title: str | None = None, *, voxel_size: Sequence[float] = (1, 1, 1)
) -> "Figure":
    """Draw an image, its reconstruction and their difference, in three planes or, for a slice, in its own.

    Parameters
    ----------
    image
        Array or tensor (1, D, H, W) or (D, H, W), or for a slice (C, H, W) or (H, W). The first channel is shown.
    output
        Output of the autoencoder, of the same shape.
    title
        Title of the figure. With None, the mean squared error.
    voxel_size
        Length of a voxel along each axis (mm).

    Raises
    ------
    ImageError
        If the shapes differ, or are not those of an image.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((1, 16, 18, 14))
    >>> reconstruction(image, 0.9 * image).savefig(tmp / "reconstruction.png")
    """
    before, after = canvas.as_array(image), canvas.as_array(output)
    if before.shape != after.shape:
        raise ImageError(f"reconstruction: shape={after.shape}; expected that of the image, {before.shape}")
    before, after = sections.first_channel(before), sections.first_channel(after)
    difference = after - before
    most = float(np.percentile(np.abs(difference), 99.5)) or 1.0
    rows = (
        ("Input", before, sections.grey_limits(before), "gray"),
        ("Reconstruction", after, sections.grey_limits(before), "gray"),
        ("Difference", difference, (-most, most), "RdBu_r"),
    )
    figure = _three_planes(rows, voxel_size) if before.ndim == 3 else _one_plane(rows)
    sections.set_figure_title(figure, title or f"Mean squared error {np.mean(difference**2):.3g}")
    return figure


Row: TypeAlias = tuple[str, Volume, tuple[float, float], str]


def _three_planes(rows: Sequence[Row], voxel_size: Sequence[float]) -> "Figure":
    """Return a figure of volumes below each other, in three planes each."""
    shape = rows[0][1].shape
    middle = [size // 2 for size in shape]
    width, height = sections.extent(shape, voxel_size, 6.6)
    figure = canvas.new_figure(width * (1 + sections.BAR) + 1.1, len(rows) * (height + 0.1) + 0.9)
    lines = sections.plane_axes(figure, shape, voxel_size, len(rows))
    for (*panels, bar), (name, array, limits, colours) in zip(lines, rows, strict=True):
        for axis, axes in enumerate(panels):
            shown = sections.draw_plane(axes, array, axis, middle, voxel_size, limits, colours)
            if array is rows[0][1]:
                sections.set_plane_title(axes, axis, middle[axis])
        panels[0].set_ylabel(name, fontsize=canvas.TITLE, color=canvas.INK)
        sections.add_colour_bar(shown, bar)
    return figure


def _one_plane(rows: Sequence[Row]) -> "Figure":
    """Return a figure of slices side by side."""
    width, height = rows[0][1].shape
    figure = canvas.new_figure(3.5 * len(rows), 0.9 + 2.5 * height / width)
    grid = figure.add_gridspec(1, 2 * len(rows), width_ratios=[1, 0.05] * len(rows))
    for column, (name, array, limits, colours) in enumerate(rows):
        axes = figure.add_subplot(grid[2 * column])
        shown = sections.draw_slice(axes, array, limits, colours)
        axes.set_title(name, fontsize=canvas.LABEL, color=canvas.INK)
        sections.add_colour_bar(shown, figure.add_subplot(grid[2 * column + 1]))
    return figure


def draw_map(
    panels: "Sequence[Axes]",
    values: Volume,
    template: Any,
    at: Sequence[int] | None,
    label: str,
    limits: tuple[float | None, float | None],
    opacity: float,
    voxel_size: Sequence[float],
) -> None:
    """Draw a map over a template in three axes, and its colour bar in the fourth."""
    if not np.isfinite(values).any():
        raise ImageError("map: all voxels are NaN or infinite; expected at least one value")
    below = None if template is None else sections.as_volume(template, "template")
    if below is not None and below.shape != values.shape:
        raise ImageError(f"template: shape={below.shape}; expected that of the map, {values.shape}")
    point = sections.check_voxel(values.shape, _highest(values) if at is None else at)
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    low, high = (lowest if limits[0] is None else limits[0]), (highest if limits[1] is None else limits[1])
    for axis, axes in enumerate(panels[:3]):
        if below is not None:
            dark, bright = sections.grey_limits(below)
            sections.draw_plane(axes, below, axis, point, voxel_size, (dark, bright), "gray")
            # The template is lighter below the map, so that its colours match the bar on a black background too.
            lit = np.where(np.isnan(values), np.nan, below)
            sections.draw_plane(
                axes, lit, axis, point, voxel_size, (dark - 0.6 * (bright - dark), bright), "gray"
            )
        shown = sections.draw_plane(axes, values, axis, point, voxel_size, (low, high), "viridis", opacity)
        sections.set_plane_title(axes, axis, point[axis])
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max"}
    sections.add_colour_bar(shown, panels[3], label, beyond.get((lowest < low, highest > high), "neither"))


def _highest(values: Volume) -> list[int]:
    """Return the voxel of the highest value that is nearest to the centre of all such voxels."""
    voxels = np.argwhere(values == np.nanmax(values))
    nearest = np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))
    return [int(index) for index in voxels[nearest]]

"""Figures of volumes in three orthogonal planes: images with boxes, and maps over a template."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from neurocnn.data import ImageSet
from neurocnn.data.parts import LocatedParts
from neurocnn.errors import ImageError
from neurocnn.errors.arguments import argument_error
from neurocnn.plotting import canvas, inputs, sections
from neurocnn.plotting.sections import Box, Volume
from neurocnn.results import Results
from neurocnn.results.scoring import first_image
from neurocnn.results.tables import ResultTables

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
    """Draw three orthogonal planes of a volume, and the boxes (patches, regions) that they intersect.

    Parameters
    ----------
    volume
        Array or tensor (D, H, W) or (1, D, H, W). A slice, (H, W), (1, H, W) or (3, H, W), is drawn as one image;
        three channels that differ are drawn red, green and blue.
    at
        Voxel (x, y, z) in which the planes cross. With None, the centre of the first box if the boxes have names,
        otherwise the centre of the volume.
    boxes
        Boxes as one slice per axis, as ``parts.place(shape, part_id)`` returns them. If `boxes` is a mapping, its keys
        are drawn as names of the boxes.
    voxel_size
        Length of a voxel along each axis (mm).
    title
        Title of the figure.

    Raises
    ------
    ImageError
        If `volume` is neither a volume nor a slice.
    SettingError
        If `at` is outside the volume, or `at` or `boxes` is given for a slice.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> region = (slice(4, 12), slice(2, 10), slice(3, 9))
    >>> planes(np.ones((16, 18, 14)), boxes={"left": region}).savefig(tmp / "planes.png")
    """
    full = canvas.as_array(volume)
    if full.ndim == 2 or (full.ndim == 3 and len(full) in (1, 3)):
        if at is not None or boxes:
            raise argument_error(
                "at" if at is not None else "boxes",
                at or boxes,
                "no value, because the image is a slice",
                where="planes",
            )
        return _slice_figure(full, title)
    array = sections.as_volume(full, "volume")
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


def _slice_figure(array: Volume, title: str | None) -> "Figure":
    """Return the figure of a slice of shape (H, W), (1, H, W) or (3, H, W)."""
    single = array if array.ndim == 2 else array[0]
    figure = canvas.new_figure(3.8, 0.6 + 3.5 * single.shape[1] / single.shape[0])
    axes = figure.add_subplot()
    if array.ndim == 3 and len(array) == 3 and not (array == array[0]).all():
        low, high = sections.grey_limits(array)
        colours = np.clip((array - low) / ((high - low) or 1.0), 0, 1)
        axes.imshow(colours.transpose(2, 1, 0), origin="lower")
        axes.set_axis_off()
    else:
        sections.draw_slice(axes, single, sections.grey_limits(single), "gray")
    sections.set_figure_title(figure, title)
    return figure


def parts(results: Results, caps: ImageSet | None = None, at: Sequence[int] | None = None) -> "Figure":
    """Draw the first validation image of the first split with the boxes of its parts.

    Parameters
    ----------
    results
        Results of an experiment whose parts have boxes: patches, regions or slices.
    caps
        Current location of the images. With None, their location during training.
    at
        See `planes`.

    Raises
    ------
    SettingError
        If the parts have no boxes.
    NotFoundError
        If the image does not exist, or no split is done.

    Examples
    --------
    >>> results.metrics().shape[0]
    4
    >>> parts(results, caps).savefig(tmp / "parts.png")
    """
    dataset = inputs.first_dataset(results, caps)
    if not hasattr(dataset.parts, "place"):
        raise argument_error("results", results, "parts with `place`, such as nc.Patch", where="parts")
    image = dataset.caps.read(*first_image(dataset))[0]
    place = cast(LocatedParts, dataset.parts).place
    return planes(image, at, boxes=[place(tuple(image.shape), part) for part in dataset.part_ids])


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
        Results, whose mean over the splits is drawn (see `Results.part_map`); or an array or tensor (D, H, W), such as
        the balanced accuracy of the part that contains a voxel, with NaN outside all parts.
    template
        Volume of the same shape that is drawn below the map, such as an image of the data set. With None, the first
        validation image of the results, if it can be read; no template for an array.
    at
        Voxel (x, y, z) in which the planes cross. With None, a voxel with the highest value; of several, the one
        nearest to their centre.
    label
        Name of the values.
    vmin, vmax
        Values at both ends of the colour scale. With None, the lowest and the highest value. For balanced accuracies
        of two classes, ``vmin=0.5`` is the chance level.
    opacity
        Opacity of the map, from 0 to 1.
    voxel_size
        Length of a voxel along each axis (mm).
    title
        Title of the figure.

    Raises
    ------
    ImageError
        If map and template differ in shape or are not volumes, or the map has no finite value.
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
    if isinstance(values, ResultTables):
        template = inputs.template(values) if template is None else template
        values = values.part_map()
    array = sections.as_volume(values, "map")
    width, height = sections.extent(array.shape, voxel_size, 9)
    figure = canvas.new_figure(width * (1 + sections.BAR) + 0.8, height + 0.4 + 0.3 * bool(title))
    panels = sections.plane_axes(figure, array.shape, voxel_size)[0]
    draw_map(panels, array, template, at, label, (vmin, vmax), opacity, voxel_size)
    sections.set_figure_title(figure, title)
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
    """Draw a map over a template in the first three panels, and its colour bar in the fourth."""
    if not np.isfinite(values).any():
        raise ImageError("map: all voxels are NaN or infinite; expected at least one finite value")
    below = None if template is None else sections.as_volume(template, "template")
    if below is not None and below.shape != values.shape:
        raise ImageError(f"template: shape={below.shape}; expected {values.shape}, the shape of the map")
    point = sections.check_voxel(values.shape, _highest(values) if at is None else at)
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    low, high = (lowest if limits[0] is None else limits[0]), (highest if limits[1] is None else limits[1])
    if low == high:
        # The colour bar would widen equal limits for one of the planes only.
        low, high = low - 0.05, high + 0.05
    for axis, axes in enumerate(panels[:3]):
        if below is not None:
            dark, bright = sections.grey_limits(below)
            sections.draw_plane(axes, below, axis, point, voxel_size, (dark, bright), "gray")
            # The template is made lighter below the map. On black, the colours of the map would not match the colour
            # bar.
            lit = np.where(np.isnan(values), np.nan, below)
            sections.draw_plane(
                axes, lit, axis, point, voxel_size, (dark - 0.6 * (bright - dark), bright), "gray"
            )
        shown = sections.draw_plane(axes, values, axis, point, voxel_size, (low, high), "viridis", opacity)
        sections.set_plane_title(axes, axis, point[axis])
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max"}
    sections.add_colour_bar(shown, panels[3], label, beyond.get((lowest < low, highest > high), "neither"))


def _highest(values: Volume) -> list[int]:
    """Return the voxel with the highest value; of several, the one nearest to their centre."""
    voxels = np.argwhere(values == np.nanmax(values))
    nearest = np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))
    return [int(index) for index in voxels[nearest]]

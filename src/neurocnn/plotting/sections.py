"""Planes of a volume, arranged as in neuroimaging viewers.

The axes of a volume are (x, y, z), in the order of its file. The second axis of a plane points upwards: sagittal
(y, z), coronal (x, z), axial (x, y). All planes of a figure have the same scale.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neurocnn.errors import ImageError
from neurocnn.errors.arguments import argument_error, check_each, check_integer, check_list
from neurocnn.plotting.canvas import INK, LABEL, MUTED, SMALL, TITLE, as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

Volume: TypeAlias = npt.NDArray[np.float64]
Box: TypeAlias = tuple[slice, slice, slice]

PLANES = ("sagittal", "coronal", "axial")
#: Width of a colour bar, relative to the width of the planes.
BAR = 0.025
#: Height, relative to that of a plane, up to which the name of a box fits between the box and the title.
_ROOM = 0.85


def as_volume(values: Any, what: str) -> Volume:
    """Return an array or tensor (D, H, W) or (1, D, H, W) as an array (D, H, W).

    Raises
    ------
    ImageError
        If `values` has another shape.
    """
    full = as_array(values)
    array = full[0] if full.ndim == 4 and len(full) == 1 else full
    if array.ndim != 3 or 0 in array.shape:
        raise ImageError(
            f"{what}: shape={full.shape}; expected (D, H, W) or (1, D, H, W); choose one channel, such as volume[0]"
        )
    return array


def first_channel(array: Volume) -> Volume:
    """Return the first channel of a volume or slice.

    Raises
    ------
    ImageError
        If `array` is neither a volume nor a slice.
    """
    # An array with three axes is a slice with 1 or 3 channels, or a volume without a channel axis.
    if array.ndim == 4 or (array.ndim == 3 and len(array) in (1, 3)):
        array = array[0]
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ImageError(f"shape={array.shape}; expected a volume ([1,] D, H, W) or a slice ([C,] H, W)")
    return array


def check_voxel(shape: Sequence[int], at: Sequence[int]) -> list[int]:
    """Check that the voxel `at`, in which the three planes cross, is in the volume, and return it as a list.

    Raises
    ------
    SettingError
        If `at` is outside the volume.
    """
    given = check_list("at", at, "a voxel (x, y, z)")
    point = check_each("at", given, check_integer)
    if len(point) != 3 or not all(0 <= index < size for index, size in zip(point, shape, strict=True)):
        raise argument_error("at", tuple(given), f"a voxel (x, y, z) of a volume of shape {tuple(shape)}")
    return point


def grey_limits(array: Volume) -> tuple[float, float]:
    """Return the values that are drawn black and white: the 0.5th and 99.5th percentiles of the finite values."""
    finite = array[np.isfinite(array)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, [0.5, 99.5]))
    return (low, high) if high > low else (float(finite.min()), float(finite.max()) or 1.0)


def _plane_sizes(shape: Sequence[int], voxel_size: Sequence[float]) -> list[tuple[float, float]]:
    """Return the width and the height (mm) of each of the three planes."""
    x, y, z = (size * length for size, length in zip(shape, voxel_size, strict=True))
    return [(y, z), (x, z), (x, y)]


def extent(shape: Sequence[int], voxel_size: Sequence[float], width: float) -> tuple[float, float]:
    """Return the width and the height (inches) of three planes next to each other, at the same scale."""
    sides = _plane_sizes(shape, voxel_size)
    return width, width * max(height for _, height in sides) / sum(side for side, _ in sides)


def plane_axes(
    figure: "Figure | SubFigure",
    shape: Sequence[int],
    voxel_size: Sequence[float],
    lines: int = 1,
    bar: bool = True,
) -> "list[list[Axes]]":
    """Return, for each line of the figure, three axes at a common scale, and narrow axes for a colour bar."""
    widths = [side for side, _ in _plane_sizes(shape, voxel_size)]
    widths += [BAR * sum(widths)] * bar
    grid = figure.add_gridspec(lines, len(widths), width_ratios=widths)
    columns = range(len(widths))
    return [[figure.add_subplot(grid[line, column]) for column in columns] for line in range(lines)]


def draw_plane(
    axes: "Axes",
    volume: Volume,
    axis: int,
    point: Sequence[int],
    voxel_size: Sequence[float],
    limits: tuple[float, float],
    colours: str,
    opacity: float = 1.0,
) -> "AxesImage":
    """Draw the plane of `volume` perpendicular to `axis` through `point`. NaN is transparent."""
    across, up = (length for other, length in enumerate(voxel_size) if other != axis)
    plane = np.moveaxis(volume, axis, 0)[point[axis]]
    shown = draw_slice(axes, plane, limits, colours, opacity)
    axes.set_aspect(up / across)
    axes.set_anchor("N")
    return shown


def draw_slice(
    axes: "Axes", plane: Volume, limits: tuple[float, float], colours: str, opacity: float = 1.0
) -> "AxesImage":
    """Draw an array whose first axis is horizontal and whose second axis is vertical."""
    colouring: dict[str, Any] = {"cmap": colours, "vmin": limits[0], "vmax": limits[1], "alpha": opacity}
    shown = axes.imshow(np.ma.masked_invalid(plane.T), origin="lower", interpolation="nearest", **colouring)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return shown


def draw_box(axes: "Axes", region: Box, axis: int, index: int, colour: str, name: str | None) -> None:
    """Draw the outline of a box that the plane intersects, with its name above or, near the title, in the box."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    if not region[axis].start <= index < region[axis].stop:
        return
    across, up = (box for other, box in enumerate(region) if other != axis)
    # The edges of voxel i are at i ± 0.5, because its centre is drawn at i.
    corner = (across.start - 0.5, up.start - 0.5)
    size = (across.stop - across.start, up.stop - up.start)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.6))
    if name is not None:
        bottom, top = axes.get_ylim()
        below = up.stop > bottom + _ROOM * (top - bottom)
        text = axes.annotate(
            name,
            (across.start + size[0] / 2, up.stop - 0.5),
            xytext=(0, -3 if below else 3),
            textcoords="offset points",
            color="white",
            fontsize=SMALL,
            ha="center",
            va="top" if below else "bottom",
        )
        text.set_path_effects([withStroke(linewidth=2.5, foreground=colour)])


def set_plane_title(axes: "Axes", axis: int, index: int) -> None:
    """Set the title of a plane to its name and position."""
    axes.set_title(f"{PLANES[axis]}, {'xyz'[axis]} = {index}", fontsize=LABEL, color=MUTED)


def set_figure_title(figure: "Figure", text: str | None) -> None:
    """Set the title of a figure, unless it is empty or None."""
    if text:
        figure.suptitle(text, fontsize=TITLE + 1, color=INK)


def add_colour_bar(shown: "AxesImage", axes: "Axes", label: str = "", extend: str = "neither") -> None:
    """Draw a colour bar in `axes`."""
    from matplotlib.cm import ScalarMappable

    # The bar is drawn from the norm and the colour map. A bar drawn from the image would have the opacity of the image.
    bar = axes.figure.colorbar(ScalarMappable(shown.norm, shown.cmap), cax=axes, label=label, extend=extend)
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=SMALL, color=MUTED, labelcolor=INK, length=3)
    axes.yaxis.label.set(fontsize=LABEL, color=INK)

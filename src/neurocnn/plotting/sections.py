"""One plane of a volume, drawn as neuroimaging viewers draw it.

The axes of a volume are (x, y, z), in the order of its file. The second axis of a plane points upwards:
sagittal (y, z), coronal (x, z), axial (x, y). All planes of a picture have one scale.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neurocnn.errors import ImageError, SettingError
from neurocnn.plotting.canvas import INK, LABEL, MUTED, SMALL, TITLE, as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

Volume: TypeAlias = npt.NDArray[np.float64]
Box: TypeAlias = tuple[slice, slice, slice]

PLANES = ("sagittal", "coronal", "axial")
BAR = 0.025  # the width of a colour bar, relative to the planes beside it


def as_volume(values: Any, what: str) -> Volume:
    """An array (D, H, W) of an array or tensor that may have one channel.

    Raises
    ------
    ImageError
        It is no volume.
    """
    array = as_array(values)
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim != 3 or 0 in array.shape:
        raise ImageError(
            f"{what}: expected a shape (D, H, W) or (1, D, H, W), found {as_array(values).shape}"
        )
    return array


def spatial(array: Volume) -> Volume:
    """A volume or slice without its channels, of which the first is shown.

    Raises
    ------
    ImageError
        It is neither.
    """
    # Three numbers are a slice with 1 or 3 channels, or a volume of a single channel.
    if array.ndim == 4 or (array.ndim == 3 and len(array) in (1, 3)):
        array = array[0]
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ImageError(f"expected a volume ([1,] D, H, W) or a slice ([C,] H, W), found {array.shape}")
    return array


def meeting_point(shape: Sequence[int], at: Sequence[int]) -> list[int]:
    """The voxel in which three planes meet, checked.

    Raises
    ------
    SettingError
        It is outside the volume.
    """
    point = [int(index) for index in at]
    if len(point) != 3 or not all(0 <= index < size for index, size in zip(point, shape, strict=True)):
        raise SettingError(f"at={tuple(at)} is no voxel (x, y, z) of a volume of shape {tuple(shape)}")
    return point


def window(array: Volume) -> tuple[float, float]:
    """The values shown black and white: without the few that outshine all others."""
    finite = array[np.isfinite(array)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, [0.5, 99.5]))
    return (low, high) if high > low else (float(finite.min()), float(finite.max()) or 1.0)


def _sides(shape: Sequence[int], voxel_size: Sequence[float]) -> list[tuple[float, float]]:
    """Width and height (mm) of the three planes."""
    x, y, z = (size * length for size, length in zip(shape, voxel_size, strict=True))
    return [(y, z), (x, z), (x, y)]


def extent(shape: Sequence[int], voxel_size: Sequence[float], width: float) -> tuple[float, float]:
    """Width and height (inches) of three planes side by side in one scale."""
    sides = _sides(shape, voxel_size)
    return width, width * max(height for _, height in sides) / sum(side for side, _ in sides)


def plane_axes(
    figure: "Figure | SubFigure",
    shape: Sequence[int],
    voxel_size: Sequence[float],
    lines: int = 1,
    bar: bool = True,
) -> "list[list[Axes]]":
    """For each line three axes, as wide as the planes are in one scale, and a narrow one for a colour bar."""
    widths = [side for side, _ in _sides(shape, voxel_size)]
    widths += [BAR * sum(widths)] * bar
    grid = figure.add_gridspec(lines, len(widths), width_ratios=widths)
    return [
        [figure.add_subplot(grid[line, column]) for column in range(len(widths))] for line in range(lines)
    ]


def draw_plane(
    axes: "Axes",
    volume: Volume,
    axis: int,
    point: Sequence[int],
    voxel_size: Sequence[float],
    ends: tuple[float, float],
    colours: str,
    opacity: float = 1.0,
) -> "AxesImage":
    """Draw the plane of `volume` across `axis` at `point`; NaN is transparent."""
    across, up = (length for other, length in enumerate(voxel_size) if other != axis)
    plane = np.moveaxis(volume, axis, 0)[point[axis]]
    shown = draw_slice(axes, plane, ends, colours, opacity)
    axes.set_aspect(up / across)
    axes.set_anchor("N")
    return shown


def draw_slice(
    axes: "Axes", plane: Volume, ends: tuple[float, float], colours: str, opacity: float = 1.0
) -> "AxesImage":
    """Draw an array (across, up)."""
    shown = axes.imshow(
        np.ma.masked_invalid(plane.T),
        origin="lower",
        cmap=colours,
        vmin=ends[0],
        vmax=ends[1],
        alpha=opacity,
        interpolation="nearest",
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return shown


def draw_box(axes: "Axes", place: Box, axis: int, index: int, colour: str, name: str | None) -> None:
    """Outline a box where the plane cuts it, with its name above."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    if not place[axis].start <= index < place[axis].stop:
        return
    across, up = (box for other, box in enumerate(place) if other != axis)
    # The middle of voxel i is at i: its edges are half a voxel away.
    corner = (across.start - 0.5, up.start - 0.5)
    size = (across.stop - across.start, up.stop - up.start)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.6))
    if name is not None:
        middle = across.start + size[0] / 2
        text = axes.text(middle, up.stop + 1, name, color="white", fontsize=SMALL, ha="center", va="bottom")
        text.set_path_effects([withStroke(linewidth=2.5, foreground=colour)])


def heading(axes: "Axes", axis: int, index: int) -> None:
    """Say which plane this is."""
    axes.set_title(f"{PLANES[axis]}, {'xyz'[axis]} = {index}", fontsize=LABEL, color=MUTED)


def side_heading(axes: "Axes", text: str) -> None:
    """Name a line of pictures, at its left."""
    axes.set_ylabel(text, fontsize=TITLE, color=INK)


def suptitle(figure: "Figure", text: str | None) -> None:
    """Head the figure."""
    if text:
        figure.suptitle(text, fontsize=TITLE + 1, color=INK)


def colour_bar(shown: "AxesImage", axes: "Axes", label: str = "", extend: str = "neither") -> None:
    """Say in axes of its own what the colours mean."""
    from matplotlib.cm import ScalarMappable

    # Of the colours themselves: what is shown may be transparent.
    bar = axes.figure.colorbar(ScalarMappable(shown.norm, shown.cmap), cax=axes, label=label, extend=extend)
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=SMALL, color=MUTED, labelcolor=INK, length=3)
    axes.yaxis.label.set(fontsize=LABEL, color=INK)

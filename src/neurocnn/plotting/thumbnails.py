"""Figure of the images in a table, such as those that differ most from their cohort."""

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurocnn.data import ImageSet, check_image_set
from neurocnn.data.quality import read_unchecked
from neurocnn.errors import NeurocnnError
from neurocnn.errors.arguments import check_integer, check_table
from neurocnn.plotting import canvas, sections
from neurocnn.storage.identity import check_ids, describe_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_WHERE = "thumbnails"


def thumbnails(caps: ImageSet, checked: pd.DataFrame, n: int = 12) -> "Figure":
    """Draw three planes through the centre of the first images of a table, titled with the measure that differs most.

    Parameters
    ----------
    caps
        Location of the images.
    checked
        Table that `ImageSet.check` returned, or some of its rows. For a table of sessions without the columns `z` and
        `column`, the measure is omitted.
    n
        Largest number of images.

    Raises
    ------
    TableError
        If the rows are not sessions.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> import neurocnn as nc
    >>> labels = nc.make_caps(tmp / "caps", n_participants=3, shape=(12, 14, 12))
    >>> images = nc.Caps(tmp / "caps")
    >>> thumbnails(images, images.check(labels)).savefig(tmp / "worst.png")
    """
    check_image_set("caps", caps, where=_WHERE)
    rows = check_table("checked", checked, where=_WHERE).head(check_integer("n", n, minimum=1, where=_WHERE))
    channels = rows.groupby("channel", sort=False) if "channel" in rows else [(None, rows)]
    for _, own in channels:
        check_ids(own, _WHERE)
    n_lines = max(1, math.ceil(len(rows) / _COLUMNS))
    figure = canvas.new_figure(3.4 * _COLUMNS, 1.75 * n_lines)
    panels = figure.subplots(n_lines, _COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, row in zip(panels, rows.to_dict("records"), strict=False):
        _draw(axes, caps, row)
    return figure


def _draw(axes: "Axes", caps: ImageSet, row: dict[Any, Any]) -> None:
    """Draw the planes of an image next to each other, or the error message if the image cannot be read."""
    reason = f"\n{row['column']}, z = {row['z']:.3g}" if row.get("column") is not None and "z" in row else ""
    channel = row.get("channel")
    name = describe_row(row) if channel is None else f"{describe_row(row)} {channel}"
    axes.set_title(name + reason, fontsize=canvas.SMALL, color=canvas.INK)
    try:
        sources = caps.locate(pd.DataFrame([row]))
        source = next((each for each in sources if each.channel == channel), sources[0])
        image = canvas.as_array(read_unchecked(caps.images, source)[0])[0]
    except NeurocnnError as error:
        message = textwrap.fill(str(error), 60)
        text = axes.text(0.5, 0.5, message, fontsize=5, color=canvas.MUTED, ha="center", va="center")
        text.set_in_layout(False)  # a long path would widen the column
        return
    x, y, z = (size // 2 for size in image.shape)
    planes = [image[x], image[:, y], image[:, :, z]]
    height = max(plane.shape[1] for plane in planes)
    # Planes of different heights are centred on a background of NaN, which is transparent.
    padded = [
        np.pad(plane, ((1, 1), _margins(height - plane.shape[1])), constant_values=np.nan) for plane in planes
    ]
    sections.draw_slice(axes, np.concatenate(padded), sections.grey_limits(image), "gray")


def _margins(missing: int) -> tuple[int, int]:
    return missing // 2, missing - missing // 2

"""Figures of images and their reconstructions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from neurocnn.data import ImageSet
from neurocnn.engine.outputs import final_output
from neurocnn.errors import ImageError
from neurocnn.errors.arguments import argument_error
from neurocnn.plotting import canvas, inputs, sections
from neurocnn.plotting.sections import Volume
from neurocnn.results.tables import ResultTables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reconstruction(
    image: Any,
    output: Any = None,
    title: str | None = None,
    *,
    voxel_size: Sequence[float] = (1, 1, 1),
    caps: ImageSet | None = None,
) -> "Figure":
    """Draw an image, its reconstruction and their difference: three planes of a volume, or the complete slice.

    Parameters
    ----------
    image
        Array or tensor (1, D, H, W) or (D, H, W), or for a slice (C, H, W) or (H, W); the first channel is drawn. With
        the results of a reconstruction instead, the first part of the first validation image of the first split is
        drawn.
    output
        Output of the autoencoder, of the same shape. It is ignored if `image` is a `Results`.
    title
        Title of the figure. With None, the mean squared error.
    voxel_size
        Length of a voxel along each axis (mm).
    caps
        Current location of the images, for results. With None, their location during training.

    Raises
    ------
    ImageError
        If the shapes differ, or `image` is neither a volume nor a slice.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((1, 16, 18, 14))
    >>> reconstruction(image, 0.9 * image).savefig(tmp / "reconstruction.png")
    """
    if isinstance(image, ResultTables):
        image, output = _reconstruct(image, caps)
    before, after = canvas.as_array(image), canvas.as_array(output)
    if before.shape != after.shape:
        raise ImageError(
            f"reconstruction: shape={after.shape}; expected {before.shape}, the shape of the image"
        )
    before, after = sections.first_channel(before), sections.first_channel(after)
    difference = after - before
    limit = float(np.percentile(np.abs(difference), 99.5)) or 1.0
    rows = (
        ("Input", before, sections.grey_limits(before), "gray"),
        ("Reconstruction", after, sections.grey_limits(before), "gray"),
        ("Difference", difference, (-limit, limit), "RdBu_r"),
    )
    figure = _volumes_figure(rows, voxel_size) if before.ndim == 3 else _slices_figure(rows)
    sections.set_figure_title(figure, title or f"Mean squared error {np.mean(difference**2):.3g}")
    return figure


def _reconstruct(results: ResultTables, caps: ImageSet | None) -> tuple[Any, Any]:
    """Return the first part of the first validation image, and its reconstruction."""
    if not results._folder.reconstructs:
        raise argument_error("image", results, "the Results of a reconstruction", where="reconstruction")
    dataset = inputs.first_dataset(results, caps)
    own = results._experiment.of_fold(results.splits[0])
    network = dataset.part_ids[0] if own.settings["multi"] else None
    model, image = results.load_model(results.splits[0], network=network), dataset[0]["image"]
    with torch.no_grad():
        return image, final_output(model(image[None]))[0]


Row: TypeAlias = tuple[str, Volume, tuple[float, float], str]


def _volumes_figure(rows: Sequence[Row], voxel_size: Sequence[float]) -> "Figure":
    """Return a figure with one line per volume, of three planes each."""
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


def _slices_figure(rows: Sequence[Row]) -> "Figure":
    """Return a figure with one slice per column."""
    width, height = rows[0][1].shape
    figure = canvas.new_figure(3.5 * len(rows), 0.9 + 2.5 * height / width)
    grid = figure.add_gridspec(1, 2 * len(rows), width_ratios=[1, 0.05] * len(rows))
    for column, (name, array, limits, colours) in enumerate(rows):
        axes = figure.add_subplot(grid[2 * column])
        shown = sections.draw_slice(axes, array, limits, colours)
        axes.set_title(name, fontsize=canvas.LABEL, color=canvas.INK)
        sections.add_colour_bar(shown, figure.add_subplot(grid[2 * column + 1]))
    return figure

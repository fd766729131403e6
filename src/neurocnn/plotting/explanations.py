"""Figures of explanation maps over an image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neurocnn.data import ImageSet
from neurocnn.errors.arguments import check_instance
from neurocnn.plotting import canvas, inputs, sections
from neurocnn.results import Results
from neurocnn.results.scoring import first_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Values below this fraction of the maximum of the colour scale are transparent.
_HIDDEN = 0.1


def explanation(
    results: Results,
    method: str = "integrated_gradients",
    name: str = "explained",
    *,
    of: str | None = None,
    selection: str | None = None,
    caps: ImageSet | None = None,
    at: Sequence[int] | None = None,
) -> "Figure":
    """Draw a map of `Results.explain` on top of the first validation image, in three planes.

    Red voxels increase the explained number, and blue voxels decrease it. The colour scale ends at ± the 99.9 %
    quantile of the absolute values. Absolute values below a tenth of this quantile are transparent.

    Parameters
    ----------
    results
        Results with maps.
    method, name, of, selection
        See `Results.explanation`. By default the mean map of the last class is drawn, averaged over the splits.
    caps
        Current location of the images. With None, their location in training.
    at
        Voxel in which the planes cross. With None, the voxel with the largest absolute value.

    Raises
    ------
    NotFoundError
        If the map or the image does not exist.
    SettingError
        If `at` is outside the map.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> results.explain(caps, labels, "gradient")["split"].unique().tolist()
    [0, 1]
    >>> explanation(results, "gradient").savefig(tmp / "explanation.png")
    """
    check_instance("results", results, Results, "an nc.Results", where="explanation")
    values = results.explanation(method, name, of=of, selection=selection)
    dataset = inputs.first_dataset(results, caps)
    first = first_image(dataset)
    image = sections.as_volume(dataset.caps.read(*first)[:1], "image")
    steps = dataset.caps.affine(*first)[:3, :3]
    voxel_size = np.sqrt(np.square(steps).sum(axis=0)).tolist()
    size = np.abs(values)
    limit = float(np.quantile(size, 0.999)) or float(size.max()) or 1.0
    highest = np.unravel_index(int(size.argmax()), size.shape)
    point = sections.check_voxel(values.shape, [int(i) for i in highest] if at is None else at)
    width, height = sections.extent(values.shape, voxel_size, 9)
    figure = canvas.new_figure(width * (1 + sections.BAR) + 0.8, height + 0.7)
    *panels, bar = sections.plane_axes(figure, values.shape, voxel_size)[0]
    shown = np.where(size < _HIDDEN * limit, np.nan, values)
    for axis, axes in enumerate(panels):
        # The map of a part has the shape of its box, so that no image is drawn below it.
        if image.shape == values.shape:
            sections.draw_plane(axes, image, axis, point, voxel_size, sections.grey_limits(image), "gray")
        drawn = sections.draw_plane(axes, shown, axis, point, voxel_size, (-limit, limit), "RdBu_r", 0.8)
        sections.set_plane_title(axes, axis, point[axis])
    sections.add_colour_bar(drawn, bar, method.replace("_", " "), "both" if size.max() > limit else "neither")
    sections.set_figure_title(figure, of)
    return figure

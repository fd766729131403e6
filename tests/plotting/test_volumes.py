"""Figures of volumes show the voxels of their titles, in the right orientation."""

import numpy as np
import pytest
import torch

from neurocnn.errors import ImageError, SettingError
from neurocnn.plotting import part_map, planes, reconstruction

SHAPE = (5, 7, 6)
VOLUME = np.random.default_rng(0).random(SHAPE)
BOXES = {"right": (slice(3, 5), slice(1, 4), slice(2, 6)), "left": (slice(0, 2), slice(1, 4), slice(2, 6))}


def naive_planes(volume: np.ndarray, x: int, y: int, z: int) -> list[list[list[float]]]:
    """Return the sagittal, coronal and axial plane, with rows from bottom to top as origin='lower' draws them."""
    nx, ny, nz = volume.shape
    return [
        [[volume[x, j, k] for j in range(ny)] for k in range(nz)],
        [[volume[i, y, k] for i in range(nx)] for k in range(nz)],
        [[volume[i, j, z] for i in range(nx)] for j in range(ny)],
    ]


def shown(axes, layer: int = 0) -> np.ndarray:
    image = axes.images[layer]
    assert image.origin == "lower"
    return image.get_array().filled(np.nan)


def test_planes_cross_in_the_given_voxel():
    axes = planes(VOLUME, at=(1, 5, 2)).axes
    for panel, expected in zip(axes, naive_planes(VOLUME, 1, 5, 2), strict=True):
        np.testing.assert_array_equal(shown(panel), expected)
    assert [panel.get_title() for panel in axes] == ["sagittal, x = 1", "coronal, y = 5", "axial, z = 2"]


def test_planes_cross_by_default_in_the_centre_or_in_the_first_named_box():
    assert [a.get_title()[-1] for a in planes(VOLUME).axes] == ["2", "3", "3"]
    assert [a.get_title()[-1] for a in planes(VOLUME, boxes=list(BOXES.values())).axes] == ["2", "3", "3"]
    assert [a.get_title()[-1] for a in planes(VOLUME, boxes=BOXES).axes] == ["4", "2", "4"]


def test_a_tensor_with_a_channel_that_requires_gradients_is_drawn():
    tensor = torch.rand(1, *SHAPE, dtype=torch.float32).to(torch.bfloat16).requires_grad_()
    expected = tensor.detach()[0].double().numpy()
    np.testing.assert_array_equal(shown(planes(tensor, at=(0, 0, 0)).axes[0]), expected[0].T)


def test_a_box_is_outlined_at_its_edges_in_the_planes_that_cut_it():
    sagittal, coronal, axial = planes(VOLUME, at=(4, 2, 3), boxes=BOXES).axes
    assert [text.get_text() for text in sagittal.texts] == ["right"]
    assert [text.get_text() for text in coronal.texts] == ["right", "left"]
    assert len(axial.patches) == 2
    # Voxel i is drawn from i − 0.5 to i + 0.5, so that x (voxels 3 and 4) ends at 4.5 and y (1 to 3) at 3.5.
    assert axial.patches[0].get_bbox().extents.tolist() == [2.5, 0.5, 4.5, 3.5]
    assert sagittal.patches[0].get_bbox().extents.tolist() == [0.5, 1.5, 3.5, 5.5]


@pytest.mark.parametrize("top", [6, 20, 32, 36, 40])
def test_the_name_of_a_box_is_between_its_upper_edge_and_the_title(top: int):
    figure = planes(np.ones((40, 50, 40)), boxes={"name": (slice(4, 12), slice(4, 12), slice(top - 6, top))})
    figure.canvas.draw()
    for panel in figure.axes[:2]:
        name, title = panel.texts[0].get_window_extent(), panel.title.get_window_extent()
        edge = panel.patches[0].get_window_extent().y1
        assert name.y1 < title.y0
        assert (name.y0 > edge) == (top < 34)


def test_voxels_keep_their_proportions():
    figure = planes(VOLUME, voxel_size=(1, 2, 3))
    assert [panel.get_aspect() for panel in figure.axes] == [3 / 2, 3, 2]


def test_a_map_covers_its_template_except_where_it_has_no_value():
    values = np.full(SHAPE, np.nan)
    values[BOXES["right"]] = 0.8
    values[BOXES["left"]] = 0.6
    *panels, bar = part_map(values, VOLUME, at=(4, 2, 3), vmin=0.5, vmax=0.9).axes
    for panel, below, above in zip(
        panels, naive_planes(VOLUME, 4, 2, 3), naive_planes(values, 4, 2, 3), strict=True
    ):
        np.testing.assert_array_equal(shown(panel, 0), below)
        np.testing.assert_array_equal(shown(panel, -1), above)
        assert panel.images[-1].get_clim() == (0.5, 0.9)
    assert bar.get_ylabel() == "Validation balanced accuracy"
    assert bar.get_ylim() == (0.5, 0.9)


def test_a_map_is_cut_by_default_through_a_voxel_of_its_highest_value():
    values = np.full(SHAPE, np.nan)
    values[BOXES["right"]] = 0.8
    values[BOXES["left"]] = 0.6
    x, y, z = (int(panel.get_title()[-1]) for panel in part_map(values).axes[:3])
    assert values[x, y, z] == 0.8
    assert (y, z) == (2, 3)


def test_a_map_without_limits_spans_its_values():
    values = np.where(VOLUME > 0.5, VOLUME, np.nan)
    assert part_map(values).axes[0].images[0].get_clim() == (np.nanmin(values), np.nanmax(values))


def test_equal_values_have_one_colour_in_all_planes_and_in_the_colour_bar():
    figure = part_map(np.where(VOLUME > 0.5, 0.5, np.nan), vmin=0.5)
    figure.canvas.draw()
    colours = {tuple(image.to_rgba(0.5)) for axes in figure.axes for image in axes.images}
    assert len(figure.axes[0].images) == 1
    assert len(colours) == 1


def test_a_reconstruction_is_shown_below_its_input_with_their_difference():
    output = 0.5 * VOLUME + 0.1
    figure = reconstruction(VOLUME[None], torch.from_numpy(output)[None])
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 9
    for row, volume in enumerate((VOLUME, output, output - VOLUME)):
        for panel, expected in zip(panels[3 * row :], naive_planes(volume, 2, 3, 3), strict=False):
            np.testing.assert_array_equal(shown(panel), expected)
    low, high = panels[-1].images[0].get_clim()
    assert low == -high < 0
    assert panels[0].images[0].get_clim() == panels[3].images[0].get_clim()
    assert figure.get_suptitle() == f"Mean squared error {((output - VOLUME) ** 2).mean():.3g}"


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_a_slice_is_shown_in_its_own_plane(channels):
    image = VOLUME[2] if channels is None else np.stack([VOLUME[2]] * channels)
    figure = reconstruction(image, 0 * image, title="slice 2")
    panels = [axes for axes in figure.axes if axes.images]
    assert [panel.get_title() for panel in panels] == ["Input", "Reconstruction", "Difference"]
    for panel, expected in zip(panels, (VOLUME[2], 0 * VOLUME[2], -VOLUME[2]), strict=True):
        np.testing.assert_array_equal(shown(panel), expected.T)
    assert figure.get_suptitle() == "slice 2"


@pytest.mark.parametrize("draw", [planes, part_map, lambda v: reconstruction(v, v)])
def test_a_constant_volume_is_drawn(draw, tmp_path):
    draw(np.zeros(SHAPE)).savefig(tmp_path / "constant.png")


def test_an_array_that_cannot_be_drawn_is_refused():
    with pytest.raises(SettingError, match=r"at=\(5, 0, 0\); expected a voxel \(x, y, z\) .*\(5, 7, 6\)"):
        planes(VOLUME, at=(5, 0, 0))
    with pytest.raises(SettingError, match="expected a voxel"):
        planes(VOLUME, at=(0, 0))
    with pytest.raises(ImageError, match=r"shape=\(2, 5, 7, 6\)"):
        planes(np.stack([VOLUME, VOLUME]))
    with pytest.raises(
        ImageError, match=r"template: shape=\(5, 7, 5\); expected \(5, 7, 6\), the shape of the map"
    ):
        part_map(VOLUME, VOLUME[..., 1:])
    with pytest.raises(ImageError, match="expected at least one finite value"):
        part_map(np.full(SHAPE, np.nan))
    with pytest.raises(ImageError, match="the shape of the image"):
        reconstruction(VOLUME, VOLUME[1:])
    with pytest.raises(ImageError, match=r"shape=\(7,\)"):
        reconstruction(VOLUME[0, :, 0], VOLUME[0, :, 0])

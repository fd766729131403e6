"""Parts equal those of naive loops, and `place` returns their boxes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_caps import AFFINE, rows, small_caps, write_nifti

from neurocnn.data import Caps, CapsDataset, Parts, Patch, Roi, Slice, WholeImage
from neurocnn.errors import ImageError, NeurocnnError, SettingError

CROPPED = (169, 208, 179)  # t1-linear
VOLUME = (121, 145, 121)  # t1-volume
shapes = st.tuples(*[st.integers(1, 9)] * 3)


def image_of(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(float(np.prod(shape))).reshape(1, *shape)


def test_a_t1_linear_image_has_36_patches_and_129_168_or_139_slices():
    assert Patch(50, 50).ids(CROPPED) == list(range(36))
    assert Patch(50, 50).grid(CROPPED) == (3, 4, 3)
    for direction, n in enumerate((129, 168, 139)):
        ids = Slice(direction).ids(CROPPED)
        assert ids == list(range(20, 20 + n))
        assert ids[-1] == CROPPED[direction] - 21


def naive_patches(image: torch.Tensor, size: int, stride: int) -> list[torch.Tensor]:
    found = []
    _, depth, height, width = image.shape
    for z in range(0, depth, stride):
        for y in range(0, height, stride):
            for x in range(0, width, stride):
                if z + size <= depth and y + size <= height and x + size <= width:
                    found.append(image[:, z : z + size, y : y + size, x : x + size])
    return found


@given(shapes, st.integers(1, 5), st.integers(1, 5))
def test_a_patch_equals_the_naive_crop(shape: tuple[int, int, int], size: int, stride: int):
    image, parts = image_of(shape), Patch(size, stride)
    expected = naive_patches(image, size, stride)
    if not expected:
        with pytest.raises(SettingError, match="expected at most"):
            parts.ids(shape)
        return
    assert parts.ids(shape) == list(range(len(expected)))
    for part_id, patch in enumerate(expected):
        assert torch.equal(parts.extract(image, part_id), patch)


@given(shapes, st.integers(1, 4), st.integers(1, 4))
def test_patches_have_the_order_of_unfold(shape: tuple[int, int, int], size: int, stride: int):
    if min(shape) < size:
        return
    image, parts = image_of(shape), Patch(size, stride)
    unfolded = image.unfold(1, size, stride).unfold(2, size, stride).unfold(3, size, stride)
    unfolded = unfolded.reshape(-1, 1, size, size, size)
    assert len(parts.ids(shape)) == len(unfolded)
    assert all(torch.equal(parts.extract(image, i), patch) for i, patch in enumerate(unfolded))


@given(shapes, st.integers(0, 2), st.integers(0, 4), st.integers(0, 4), st.sampled_from([1, 3]))
def test_a_slice_equals_the_naive_plane(
    shape: tuple[int, int, int], direction: int, begin: int, end: int, channels: int
):
    image, parts = image_of(shape), Slice(direction, (begin, end), channels)
    expected = list(range(shape[direction]))[begin : shape[direction] - end]
    if begin + end >= shape[direction]:
        with pytest.raises(SettingError, match="discard fewer planes"):
            parts.ids(shape)
        return
    assert parts.ids(shape) == expected
    for part_id in expected:
        plane = np.take(image[0].numpy(), part_id, axis=direction)
        part = parts.extract(image, part_id)
        assert part.shape == (channels, *plane.shape)
        assert all(np.array_equal(channel.numpy(), plane) for channel in part)


def test_one_number_of_discarded_slices_applies_to_both_ends():
    assert Slice(2, 3).ids((9, 9, 9)) == Slice(2, [3, 3]).ids((9, 9, 9)) == [3, 4, 5]


def boxes_of(parts: Parts, shape: tuple[int, ...]) -> list[tuple[slice, slice, slice]]:
    return [parts.place(shape, part_id) for part_id in parts.ids(shape)]


ALL = [
    WholeImage(),
    Patch(3, 2),
    Slice(0, 1, 1),
    Slice(1, 2, 3),
    Slice(2, 0, 1),
    Roi({"a": ((0, 3), (1, 4), (2, 5)), "b": ((2, 5), (0, 3), (1, 4))}),
]


@pytest.mark.parametrize("parts", ALL, ids=repr)
def test_place_is_the_box_of_the_extracted_part(parts: Parts):
    image = image_of((5, 6, 7))
    for part_id in parts.ids((5, 6, 7)):
        part = parts.extract(image, part_id)
        there = image[(slice(None), *parts.place((5, 6, 7), part_id))]
        assert torch.equal(part[:1].reshape(there.shape), there)


@pytest.mark.parametrize("parts", ALL, ids=repr)
def test_an_extracted_part_is_a_copy(parts: Parts):
    image = image_of((5, 6, 7))
    part = parts.extract(image, parts.ids((5, 6, 7))[0])
    part.fill_(-1)
    assert torch.equal(image, image_of((5, 6, 7)))
    assert part.is_contiguous()


@pytest.mark.parametrize("parts", ALL, ids=repr)
def test_a_missing_part_is_refused(parts: Parts):
    for part_id in (-1, 10**6):
        with pytest.raises(SettingError, match=r"does not exist"):
            parts.extract(image_of((5, 6, 7)), part_id)


@pytest.mark.parametrize("field", ["size", "stride"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True, None])
def test_size_and_stride_must_be_positive_integers(field: str, value: object):
    with pytest.raises(SettingError, match=f"{field}="):
        Patch(**{field: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"direction": 3}, "direction"),
        ({"direction": True}, "direction"),
        ({"channels": 2}, "channels"),
        ({"discarded_slices": -1}, "discarded_slices"),
        ({"discarded_slices": (1, 2, 3)}, "discarded_slices"),
        ({"discarded_slices": 1.5}, "discarded_slices"),
        ({"discarded_slices": None}, "discarded_slices"),
    ],
)
def test_an_invalid_slice_setting_is_refused(settings: dict[str, object], message: str):
    with pytest.raises(SettingError, match=message):
        Slice(**settings)


def test_the_two_hippocampi_of_t1_linear_have_the_boxes_of_clinicadl():
    roi = Roi.hippocampi("t1-linear")
    assert roi.ids(CROPPED) == [0, 1]
    assert boxes_of(roi, CROPPED) == [
        (slice(84, 134), slice(71, 121), slice(43, 93)),
        (slice(36, 86), slice(71, 121), slice(43, 93)),
    ]
    for centre, place in zip([(109, 96, 68), (61, 96, 68)], boxes_of(roi, CROPPED), strict=True):
        assert tuple(s.start + 25 for s in place) == centre
    assert roi.descriptor(0).startswith("roi-right")
    assert roi.descriptor(1).startswith("roi-left")


def test_the_two_hippocampi_of_t1_volume_have_the_boxes_of_the_lab():
    roi = Roi.hippocampi("t1-volume", random_shift=2)
    image = image_of(VOLUME)
    assert torch.equal(roi.extract(image, 0), image[:, 65:95, 50:90, 27:57])
    assert torch.equal(roi.extract(image, 1), image[:, 25:55, 50:90, 27:57])
    assert roi.random_shift == 2
    with pytest.raises(SettingError, match="did you mean 't1-linear'"):
        Roi.hippocampi("t1-linea")


def test_a_region_outside_the_image_is_refused_with_box_and_shape():
    with pytest.raises(SettingError, match=r"'a'.*\(\(0, 3\), \(0, 3\), \(0, 9\)\).*\(5, 6, 7\)"):
        Roi({"a": ((0, 3), (0, 3), (0, 9))}).ids((5, 6, 7))
    # The largest shift reaches the border of the image.
    Roi({"a": ((2, 3), (2, 4), (2, 5))}, random_shift=2).ids((5, 6, 7))
    for box in (((1, 3), (2, 4), (2, 5)), ((2, 4), (2, 4), (2, 5))):
        with pytest.raises(SettingError, match="shifted by up to 2 voxels"):
            Roi({"a": box}, random_shift=2).ids((5, 6, 7))


@pytest.mark.parametrize(
    "regions",
    [
        {},
        {"a": ((0, 3), (0, 3))},
        {"a": ((3, 3), (0, 3), (0, 3))},
        {"a": ((-1, 3), (0, 3), (0, 3))},
        {"a": ((0, 2.5), (0, 3), (0, 3))},
        {"a": 5},
        {"a/b": ((0, 3), (0, 3), (0, 3))},
        {"": ((0, 3), (0, 3), (0, 3))},
        [((0, 3), (0, 3), (0, 3))],
    ],
)
def test_an_invalid_region_is_refused(regions: object):
    with pytest.raises(SettingError, match="Roi"):
        Roi(regions)


@pytest.mark.parametrize("shift", [-1, 1.5, True])
def test_a_shift_must_be_a_non_negative_integer(shift: object):
    with pytest.raises(SettingError, match="random_shift"):
        Roi.hippocampi(random_shift=shift)


def mask_of(shape: tuple[int, ...] = (6, 8, 7)) -> np.ndarray:
    """Return the mask of a ball, which differs from its bounding box."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    return (((grid - np.reshape((2, 4, 3), (3, 1, 1, 1))) ** 2).sum(0) <= 4).astype(np.uint8)


def test_a_mask_is_multiplied_and_cropped_to_its_bounding_box(tmp_path: Path):
    mask = mask_of()
    path = write_nifti(tmp_path / "tpl-X_desc-Crop_res-1x1x1_roi-ball_mask.nii.gz", mask)
    roi = Roi.from_masks([path])
    image = image_of((6, 8, 7)) + 1
    inside = np.argwhere(mask)
    box = tuple(slice(a, b + 1) for a, b in zip(inside.min(0), inside.max(0), strict=True))
    assert roi.ids((6, 8, 7)) == [0]
    assert roi.place((6, 8, 7), 0) == box
    assert roi.descriptor(0) == "roi-ball"
    expected = (image[0].numpy() * mask)[box]
    assert np.array_equal(roi.extract(image, 0)[0].numpy(), expected)
    assert (roi.extract(image, 0) == 0).any()


def test_a_shifted_mask_region_is_the_shifted_image_times_the_mask(tmp_path: Path):
    mask = mask_of()
    roi = Roi.from_masks(write_nifti(tmp_path / "roi-ball_mask.nii", mask), random_shift=0)
    image = image_of((6, 8, 7)) + 1
    (a, b), (c, d), (e, f) = ((s.start, s.stop) for s in roi.place((6, 8, 7), 0))
    expected = image[:, a + 1 : b + 1, c - 1 : d - 1, e:f] * torch.from_numpy(mask[a:b, c:d, e:f])
    assert torch.equal(roi.extract(image, 0, (1, -1, 0)), expected)


def test_a_mask_may_have_a_channel_axis(tmp_path: Path):
    path = write_nifti(tmp_path / "roi-a_mask.nii.gz", mask_of()[..., None])
    assert torch.equal(
        Roi.from_masks(path).extract(image_of((6, 8, 7)), 0),
        Roi.from_masks(write_nifti(tmp_path / "roi-b_mask.nii.gz", mask_of())).extract(
            image_of((6, 8, 7)), 0
        ),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask * 0, "is empty"),
        (lambda mask: mask * 2, "contains 2.0; expected only 0 and 1"),
        (lambda mask: mask - 0.5 * mask, "contains 0.5"),
        (lambda mask: np.where(mask, np.nan, 0), "contains nan"),
        (lambda mask: np.stack([mask, mask], axis=-1), "shape"),
    ],
)
def test_a_mask_that_is_empty_or_not_0_and_1_is_refused(tmp_path: Path, change, message: str):
    path = write_nifti(tmp_path / "roi-a_mask.nii.gz", change(mask_of()).astype(np.float32))
    with pytest.raises(ImageError, match=message) as caught:
        Roi.from_masks(path)
    assert str(path) in str(caught.value)


def test_a_mask_of_another_shape_is_refused(tmp_path: Path):
    root = small_caps(tmp_path / "caps", 1)
    path = write_nifti(tmp_path / "roi-a_mask.nii.gz", mask_of((7, 8, 7)))
    with pytest.raises(ImageError, match=r"shape \(7, 8, 7\); expected the shape of the images, \(6, 8, 7\)"):
        CapsDataset(Caps(root), rows(1), Roi.from_masks(path))


def test_a_mask_of_another_orientation_causes_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = small_caps(tmp_path / "caps", 1)
    same = write_nifti(tmp_path / "roi-a_mask.nii.gz", mask_of())
    CapsDataset(Caps(root), rows(1), Roi.from_masks(same))
    assert caplog.text == ""
    other = write_nifti(
        tmp_path / "roi-b_mask.nii.gz", mask_of(), np.diag([1.0, 1, 1, 1]) @ AFFINE * [[-1], [1], [1], [1]]
    )
    CapsDataset(Caps(root), rows(1), Roi.from_masks(other))
    assert "the mask of region 'b'" in caplog.text


def test_two_masks_with_the_same_name_are_refused(tmp_path: Path):
    paths = [write_nifti(tmp_path / folder / "roi-a_mask.nii.gz", mask_of()) for folder in "xy"]
    with pytest.raises(SettingError, match="two masks are called 'a'"):
        Roi.from_masks(paths)


@pytest.mark.parametrize("parts", [*ALL, Roi.hippocampi(random_shift=3)], ids=repr)
def test_parts_can_be_rebuilt_from_their_settings(parts: Parts):
    import dataclasses
    import json

    values = {field.name: getattr(parts, field.name) for field in dataclasses.fields(parts) if field.init}
    again = type(parts)(**json.loads(json.dumps(values)))
    shape = CROPPED if parts == Roi.hippocampi(random_shift=3) else (5, 6, 7)
    assert again.ids(shape) == parts.ids(shape)
    assert boxes_of(again, shape) == boxes_of(parts, shape)


def test_the_setting_of_a_mask_region_is_its_path(tmp_path: Path):
    path = write_nifti(tmp_path / "roi-a_mask.nii.gz", mask_of())
    assert Roi.from_masks(path) == Roi({"a": str(path)})


def test_places_cover_each_voxel_the_expected_number_of_times():
    """Compare the patches that contain each voxel with a count along each axis."""
    shape, parts = (7, 6, 8), Patch(3, 2)
    count = np.zeros(shape, dtype=int)
    for place in boxes_of(parts, shape):
        count[place] += 1
    for z, y, x in itertools.product(*map(range, shape)):
        per_axis = [
            sum(start <= position < start + 3 for start in range(0, n - 2, 2))
            for position, n in zip((z, y, x), shape, strict=True)
        ]
        assert count[z, y, x] == np.prod(per_axis)


@pytest.mark.faults
@pytest.mark.parametrize(
    "masks",
    [{"a", "b"}, {"a": 1}, 3, None, [None], ["roi-a.nii", 3]],
    ids=["set", "dict", "number", "None", "list of None", "list with a number"],
)
def test_masks_must_be_an_ordered_list_of_paths(masks: object):
    """The order of a set of names, and with it the ids of the regions, differs between processes."""
    with pytest.raises(SettingError, match="paths="):
        Roi.from_masks(masks)


def test_a_generator_of_masks_is_read_once(tmp_path: Path):
    paths = [write_nifti(tmp_path / f"roi-{name}_mask.nii.gz", mask_of()) for name in "ba"]
    assert Roi.from_masks(path for path in paths) == Roi.from_masks(paths)
    assert list(Roi.from_masks(paths).regions) == ["b", "a"]


@pytest.mark.faults
@pytest.mark.parametrize(
    "value", [None, "text", 3.5, ["a"], {"a": 1}, object()], ids=lambda value: type(value).__name__
)
def test_settings_of_another_type_are_refused(value: object):
    calls = [
        lambda: Patch(value),
        lambda: Patch(3, value),
        lambda: Slice(value),
        lambda: Slice(0, value),
        lambda: Slice(0, 1, value),
        lambda: Roi(value),
        lambda: Roi({"a": value}),
        lambda: Roi({"a": ((0, 1), (0, 1), (0, 1))}, value),
        lambda: Roi.hippocampi(value),
    ]
    for call in calls:
        with pytest.raises(NeurocnnError):
            call()


def test_settings_may_be_numpy_numbers():
    assert Patch(np.int64(4), np.int32(2)) == Patch(4, 2)
    assert type(Patch(np.int64(4)).size) is int
    assert Slice(np.int64(1), (np.int64(2), 1), np.int64(3)).ids((9, 9, 9)) == Slice(1, (2, 1), 3).ids(
        (9, 9, 9)
    )

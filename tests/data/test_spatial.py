"""Transforms of TorchIO and MONAI get the affine of the part, so that results equal those for the part as a file."""

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from small_caps import rows, voxels_of, write_t1
from torch import Tensor

from neurocnn.data import Caps, CapsDataset, MinMax, Patch, Roi, Slice, WholeImage
from neurocnn.data.spatial import Space, part_space, with_affine

SHAPE = (9, 12, 10)
# The axes point to P, S and L, with voxels of 3, 2 and 1.5 mm, so that no axis is as in an identity matrix.
PSL = np.array([[0, 0, -1.5, 7], [-3.0, 0, 0, 11], [0, 2.0, 0, -5], [0, 0, 0, 1]])
PARTS = [
    WholeImage(),
    Patch(4, 3),
    Slice(0, 1),
    Slice(1, 1),
    Slice(2, 1),
    Roi({"a": ((2, 7), (3, 9), (1, 6))}),
]


@pytest.fixture
def caps(tmp_path: Path) -> Caps:
    write_t1(tmp_path, "sub-00", voxels_of(0, SHAPE), affine=PSL)
    return Caps(tmp_path)


def file_of(caps: Caps, parts: Any, part_id: int, folder: Path) -> Path:
    """Cut a part out of the NIfTI image with nibabel, which moves the origin."""
    image = nib.load(caps.path("sub-00", "ses-M00"))
    cut = image.slicer[parts.place(SHAPE, part_id)]
    path = folder / f"part-{part_id}.nii"
    nib.save(cut, path)
    return path


def item(caps: Caps, parts: Any, transform: Any, part_id: int) -> Tensor:
    dataset = CapsDataset(caps, rows(1), parts, transform=transform)
    found = dataset.only_part(part_id)[0]["image"]
    assert type(found) is Tensor
    return found


class Chain:
    """Composition of transforms, as written by a user."""

    def __init__(self, *transforms: Any) -> None:
        self.transforms = transforms

    def __call__(self, part: Tensor) -> Tensor:
        for transform in self.transforms:
            part = transform(part)
        return part


class Square:
    """Transform that squares the values."""

    def __call__(self, part: Tensor) -> Tensor:
        return part * part


def torchio_transforms(tio: Any) -> dict[str, Any]:
    return {
        "flip": tio.RandomFlip(axes="LR", flip_probability=1),
        "resample": tio.Resample(4),
        "blur": tio.Blur(4.0),
        "canonical": tio.ToCanonical(),
        "composition": tio.Compose([tio.Flip("LR"), tio.Resample(3), tio.Blur(2.0)]),
    }


@pytest.mark.faults
@pytest.mark.parametrize("parts", PARTS, ids=repr)
@pytest.mark.parametrize("name", ["flip", "resample", "blur", "canonical", "composition"])
def test_a_transform_of_torchio_equals_that_of_the_part_saved_as_a_file(
    caps: Caps, parts: Any, name: str, tmp_path: Path
):
    tio = pytest.importorskip("torchio")
    if isinstance(parts, Slice) and (
        name not in ("flip", "blur") or (name == "flip" and parts.direction == 2)
    ):
        pytest.skip(
            "changes the axes or the number of slices, or flips an axis of one voxel, which TorchIO refuses"
        )
    transform = torchio_transforms(tio)[name]
    part_id = parts.ids(SHAPE)[-1]
    expected = transform(tio.ScalarImage(file_of(caps, parts, part_id, tmp_path))).data
    if isinstance(parts, Slice):
        expected = expected.squeeze(parts.direction + 1)
    found = item(caps, parts, transform, part_id)
    assert torch.allclose(found, expected, atol=1e-4)
    if name in ("flip", "resample") and not isinstance(parts, Slice):
        cut = tio.ScalarImage(file_of(caps, parts, part_id, tmp_path)).data
        with_identity = transform(cut)
        assert with_identity.shape != expected.shape or not torch.equal(with_identity, expected)


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["user's", "torchvision's", "MONAI's"])
def test_members_of_a_composition_get_the_affine_of_the_previous_member(
    caps: Caps, kind: str, tmp_path: Path
):
    tio = pytest.importorskip("torchio")
    members = [tio.Resample(3), Square(), tio.Flip("LR"), tio.Blur(2.0)]
    if kind == "user's":
        transform: Any = Chain(members[0], Chain(*members[1:]))
    elif kind == "torchvision's":
        transform = pytest.importorskip("torchvision.transforms.v2").Compose(members)
    else:
        transform = pytest.importorskip("monai.transforms").Compose(members)
    image = members[0](tio.ScalarImage(file_of(caps, WholeImage(), 0, tmp_path)))
    image = tio.ScalarImage(tensor=image.data**2, affine=image.affine)
    expected = members[3](members[2](image)).data
    assert torch.allclose(item(caps, WholeImage(), transform, 0), expected, rtol=1e-4)


@pytest.mark.faults
@pytest.mark.parametrize("parts", [PARTS[0], PARTS[1], PARTS[5]], ids=repr)
@pytest.mark.parametrize("name", ["spacing", "orientation", "composition", "user's composition"])
def test_a_transform_of_monai_equals_that_of_the_part_saved_as_a_file(
    caps: Caps, parts: Any, name: str, tmp_path: Path
):
    monai = pytest.importorskip("monai.transforms")
    spacing, orientation = (
        monai.Spacing(pixdim=(2.0, 2.0, 2.0)),
        monai.Orientation(axcodes="RAS", labels=None),
    )
    transform, steps = {
        "spacing": (spacing, [spacing]),
        "orientation": (orientation, [orientation]),
        "composition": (monai.Compose([orientation, MinMax(), spacing]), [orientation, MinMax(), spacing]),
        "user's composition": (Chain(orientation, MinMax(), spacing), [orientation, MinMax(), spacing]),
    }[name]
    part_id = parts.ids(SHAPE)[-1]
    path = file_of(caps, parts, part_id, tmp_path)
    expected = monai.LoadImage(image_only=True, ensure_channel_first=True)(path)
    for step in steps:
        expected = step(expected)
    assert torch.allclose(item(caps, parts, transform, part_id), expected.as_tensor(), atol=1e-4)


@pytest.mark.faults
def test_monai_receives_the_spacing_within_a_slice(caps: Caps):
    monai = pytest.importorskip("monai.transforms")
    found = item(caps, Slice(0, 1), monai.Spacing(pixdim=(1.0, 1.5)), 4)
    assert found.shape == (1, 2 * (12 - 1) + 1, 10)  # 2 mm become 1 mm, 1.5 mm remain


@pytest.mark.faults
def test_a_random_transform_of_torchio_repeats_with_workers_and_in_evaluation(caps: Caps):
    tio = pytest.importorskip("torchio")
    dataset = CapsDataset(caps, rows(1), Patch(4, 3), transform=tio.RandomNoise(std=(1, 2)))
    before = torch.get_rng_state()
    first = dataset[0]["image"]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(dataset[0]["image"], first)


class Volume:
    """Replacement of TorchIO's ScalarImage."""

    def __init__(self, tensor: Tensor, affine: np.ndarray) -> None:
        self.data, self.affine = tensor, np.asarray(affine)


def flip_to_right(image: Any) -> Any:
    """Flip the axis that runs from right to left, so that it runs from left to right."""
    axis = int(np.abs(image.affine[0, :3]).argmax())
    affine = image.affine.copy()
    if affine[0, axis] > 0:
        return image
    affine[:3, 3] += affine[:3, axis] * (image.data.shape[axis + 1] - 1)
    affine[:3, axis] *= -1
    return Volume(image.data.flip(axis + 1), affine)


@pytest.fixture
def flip(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a transform of a replacement of TorchIO, which works without TorchIO."""
    library = types.ModuleType("torchio")
    library.ScalarImage = Volume
    monkeypatch.setitem(sys.modules, "torchio", library)
    cls = type(
        "Flip", (), {"__module__": "torchio.transforms", "__call__": lambda self, image: flip_to_right(image)}
    )
    return cls()


@pytest.mark.parametrize("parts", PARTS, ids=repr)
def test_the_image_that_a_transform_gets_has_the_affine_of_the_part(caps: Caps, parts: Any, flip: Any):
    """The third axis points to the left: the first flip reverses it, and the second flip need not."""
    for part_id in (parts.ids(SHAPE)[0], parts.ids(SHAPE)[-1]):
        raw = item(caps, parts, None, part_id)
        once = item(caps, parts, flip, part_id)
        twice = item(caps, parts, Chain(flip, Square(), Chain(flip)), part_id)
        axis = raw.ndim - 1 if not (isinstance(parts, Slice) and parts.direction == 2) else None
        expected = raw if axis is None else raw.flip(axis)
        assert torch.equal(once, expected)
        assert torch.equal(twice, expected**2)


def test_the_augmentation_gets_the_affine_after_the_transform(caps: Caps, flip: Any):
    dataset = CapsDataset(caps, rows(1), transform=flip, augmentation=flip)
    assert torch.equal(dataset[0]["image"], dataset.without_augmentation()[0]["image"])


def test_a_shifted_region_has_a_shifted_origin(caps: Caps, flip: Any):
    seen = []
    record = type(flip)
    record.__call__ = lambda self, image: seen.append(image) or image
    roi = Roi({"a": ((2, 7), (3, 9), (2, 6))}, random_shift=2)
    dataset = CapsDataset(caps, rows(1), roi, transform=None, augmentation=record())
    whole = torch.from_numpy(voxels_of(0, SHAPE))
    seen.clear()
    for epoch in range(5):
        _ = dataset[epoch, 0]
    assert len({tuple(image.affine[:3, 3]) for image in seen}) > 1
    for image in seen:
        first = np.rint(np.linalg.inv(PSL) @ image.affine[:, 3])[:3].astype(int)
        box = tuple(slice(a, a + n) for a, n in zip(first, image.data.shape[1:], strict=True))
        assert torch.equal(image.data[0], whole[box])


def test_transforms_of_other_libraries_are_not_wrapped():
    chain = Chain(MinMax(), Chain(Square()))
    assert with_affine(chain) is chain


def test_a_composition_is_not_changed_by_its_use(caps: Caps, flip: Any):
    chain = Chain(flip, Square())
    item(caps, WholeImage(), chain, 0)
    assert chain.transforms[0] is flip
    assert pickle.loads(pickle.dumps(CapsDataset(caps, rows(1), transform=Chain(Square())).transform))


def test_the_affine_of_a_plane_has_the_steps_of_its_axes():
    for slice_axis, steps in ((1, [2.0, 1.5]), (2, [3.0, 1.5]), (3, [3.0, 2.0])):
        affine = Space(PSL, slice_axis).plane_affine()
        assert np.allclose(np.linalg.norm(affine[:2, :2], axis=0), steps)
        assert np.linalg.matrix_rank(affine) == 3


def test_a_part_of_one_voxel_across_is_a_slice_only_if_it_has_two_axes():
    place = (slice(2, 3), slice(0, 4), slice(1, 6))
    assert part_space(PSL, place, (1, 1, 4, 5)).slice_axis is None
    assert part_space(PSL, place, (3, 4, 5)).slice_axis == 1
    assert np.allclose(part_space(PSL, place, (3, 4, 5)).affine[:, 3], PSL @ [2, 0, 1, 1])

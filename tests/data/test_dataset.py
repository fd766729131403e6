"""One dataset for all parts: its batches, and augmentation that depends only on the identity of the part."""

import pickle
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_caps import rows, small_caps, voxels_of, write_t1
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from neurocnn.data import Caps, CapsDataset, MinMax, Parts, Patch, Roi, Slice, WholeImage, ZScore
from neurocnn.errors import ImageError, SettingError, TableError

ROI = Roi({"a": ((1, 4), (2, 5), (1, 4)), "b": ((2, 5), (3, 6), (3, 6))}, random_shift=1)


def noise(part: Tensor) -> Tensor:
    """Return the part with random numbers from all three global generators added."""
    return part + random.random() + np.random.random() + torch.rand(part.shape)


class Epochs(Sampler):
    """Sampler of pairs (epoch, index), as in training; the epoch changes between iterations."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.epoch = 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self):
        return iter([(self.epoch, i) for i in range(self.n)])


@pytest.fixture
def caps(tmp_path: Path) -> Caps:
    return Caps(small_caps(tmp_path))


@pytest.mark.parametrize("parts", [WholeImage(), Patch(3, 2), Slice(1, 2, 3), Roi(ROI.regions)], ids=repr)
def test_items_are_ordered_by_image_and_then_by_part(caps: Caps, parts: Parts):
    dataset = CapsDataset(caps, rows(), parts, label="diagnosis")
    ids = parts.ids((6, 8, 7))
    assert dataset.part_ids == ids
    assert len(dataset) == 3 * len(ids)
    for index in range(len(dataset)):
        row, position = divmod(index, len(ids))
        item = dataset[index]
        raw = parts.extract(torch.from_numpy(voxels_of(row))[None], ids[position])
        assert torch.equal(item["image"], MinMax()(raw))
        assert item["image"].shape == dataset.input_shape
        assert list(item) == ["image", "label", "participant_id", "session_id", "part_id"]
        assert item["label"] == ["CN", "AD", "CN"][row]
        assert item["participant_id"] == f"sub-{row:02}"
        assert item["part_id"] == ids[position]
    assert dataset[-1]["participant_id"] == "sub-02"
    for index in (len(dataset), -len(dataset) - 1, (0, len(dataset))):
        with pytest.raises(IndexError):
            dataset[index]


def test_a_batch_has_the_documented_entries(tmp_path: Path):
    caps = Caps({name: small_caps(tmp_path / name, 2) for name in ("A", "B")})
    sessions = caps.sessions().assign(diagnosis="AD", age=[60.5, 61.5, 62.0, 63.0], visits=[1, 2, 3, 4])
    batch = next(iter(DataLoader(CapsDataset(caps, sessions, Patch(3, 3), label="diagnosis"), 4)))
    assert batch["image"].shape == (4, 1, 3, 3, 3)
    assert batch["image"].dtype == torch.float32
    assert batch["label"] == ["AD"] * 4
    assert batch["participant_id"] == ["sub-00"] * 4
    assert batch["session_id"] == ["ses-M00"] * 4
    assert batch["part_id"].tolist() == [0, 1, 2, 3]
    assert batch["part_id"].dtype == torch.int64
    assert batch["cohort"] == ["A"] * 4
    ages = next(iter(DataLoader(CapsDataset(caps, sessions, label="age"), 4)))["label"]
    assert ages.tolist() == [60.5, 61.5, 62.0, 63.0]
    visits = next(iter(DataLoader(CapsDataset(caps, sessions, label="visits"), 4)))["label"]
    assert visits.tolist() == [1, 2, 3, 4]
    assert visits.dtype == torch.int64


def test_items_have_no_label_if_none_is_requested(caps: Caps):
    assert "label" not in CapsDataset(caps, rows())[0]


def test_missing_labels_are_listed_by_image(caps: Caps):
    frame = rows()
    frame["diagnosis"] = ["AD", None, None]
    with pytest.raises(TableError, match="2 rows: sub-01 ses-M00, sub-02 ses-M00;"):
        CapsDataset(caps, frame, label="diagnosis")
    with pytest.raises(TableError, match="column 'diagnose' is missing; did you mean 'diagnosis'"):
        CapsDataset(caps, frame, label="diagnose")


def test_rows_that_do_not_identify_images_are_refused(caps: Caps):
    with pytest.raises(TableError, match="no rows"):
        CapsDataset(caps, rows(0))
    with pytest.raises(TableError, match="row 0 and row 1 are both sub-00"):
        CapsDataset(caps, rows().assign(participant_id="sub-00"))
    with pytest.raises(TableError, match="participant_id"):
        CapsDataset(caps, rows().drop(columns="participant_id"))


def test_raw_voxels_and_z_scores_can_be_requested(caps: Caps):
    raw = torch.from_numpy(voxels_of(0))[None]
    assert torch.equal(CapsDataset(caps, rows(), transform=None)[0]["image"], raw)
    assert torch.allclose(
        CapsDataset(caps, rows(), transform=ZScore())[0]["image"], (raw - raw.mean()) / raw.std(correction=0)
    )


def test_an_item_shares_no_memory_with_the_image(caps: Caps):
    for parts in (WholeImage(), Patch(3, 3), Slice(0, 1)):
        dataset = CapsDataset(caps, rows(), parts, transform=None)
        before = dataset[0]["image"].clone()
        dataset[0]["image"].fill_(-5)
        assert torch.equal(dataset[0]["image"], before)


class Corners:
    """Parts of a user, without the methods place and descriptor, which share the memory of the image."""

    name = "corner"

    def ids(self, shape: tuple[int, ...]) -> list[int]:
        return [3, 7]

    def extract(self, image: Tensor, part_id: int) -> Tensor:
        return image[:, :2, :2, :2] if part_id == 3 else image[:, -2:, -2:, -2:]


@pytest.mark.parametrize("prepared", [False, True])
def test_any_object_with_ids_and_extract_can_be_used_as_parts(caps: Caps, prepared: bool):
    if prepared:
        caps.prepare()
    dataset = CapsDataset(caps, rows(), Corners(), transform=None)
    assert dataset.part_ids == [3, 7]
    dataset[1]["image"].zero_()
    assert torch.equal(dataset[1]["image"][0], torch.from_numpy(voxels_of(0))[-2:, -2:, -2:])


def test_only_part_returns_the_items_of_one_part(caps: Caps):
    dataset = CapsDataset(caps, rows(), Patch(3, 2), label="diagnosis", augmentation=noise, seed=4)
    one = dataset.only_part(5)
    assert one.part_ids == [5]
    assert len(one) == 3
    for row in range(3):
        item, other = one[2, row], dataset[2, row * len(dataset.part_ids) + 5]
        assert torch.equal(item.pop("image"), other.pop("image"))
        assert item == other
    assert dataset.part_ids != [5]
    with pytest.raises(SettingError, match="no part 99"):
        dataset.only_part(99)


def test_regions_of_different_sizes_are_refused_in_the_same_dataset(caps: Caps):
    roi = Roi({"a": ((1, 4), (2, 5), (1, 4)), "b": ((1, 5), (2, 5), (1, 4))})
    with pytest.raises(SettingError, match="different shapes"):
        CapsDataset(caps, rows(), roi)
    both = [CapsDataset(caps, rows(), Roi({name: box})).input_shape for name, box in roi.regions.items()]
    assert both == [(1, 3, 3, 3), (1, 4, 3, 3)]


def test_augmentation_depends_on_seed_epoch_participant_and_part(caps: Caps):
    dataset = CapsDataset(caps, rows(), Patch(3, 3), transform=None, augmentation=noise)
    drawn = lambda d, i: d[i]["image"] - d.without_augmentation()[i]["image"]  # noqa: E731
    first = drawn(dataset, (1, 4))
    assert torch.equal(drawn(dataset, (1, 4)), first)
    assert not torch.equal(drawn(dataset, (2, 4)), first)  # another epoch
    assert not torch.equal(drawn(dataset, (1, 5)), first)  # another part
    assert not torch.equal(drawn(dataset, (1, 4 + 8)), first)  # another participant
    assert not torch.equal(drawn(dataset.with_seed(1), (1, 4)), first)  # another seed
    assert torch.equal(drawn(dataset, (0, 4)), drawn(dataset, 4))  # a plain index means epoch 0
    # Other participants in the table do not matter.
    other = CapsDataset(caps, rows()[:1], Patch(3, 3), transform=None, augmentation=noise)
    assert torch.equal(drawn(other, (1, 4)), first)


def test_augmentation_depends_on_session_and_cohort(tmp_path: Path):
    for name in ("A", "B"):
        for session in ("ses-M00", "ses-M06"):
            write_t1(tmp_path / name, "sub-1", voxels_of(0), session)
    caps = Caps({name: tmp_path / name for name in ("A", "B")})
    dataset = CapsDataset(caps, caps.sessions(), augmentation=noise)
    images = [dataset[i]["image"] for i in range(4)]
    assert all(not torch.equal(images[i], images[j]) for i in range(4) for j in range(i))


def test_the_global_random_states_are_restored(caps: Caps):
    dataset = CapsDataset(caps, rows(), ROI, augmentation=noise)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    _ = dataset[0], dataset[1, 2]
    found = random.random(), np.random.random(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert found == (random.random(), np.random.random(), torch.rand(()))


def test_the_transform_comes_before_the_augmentation(caps: Caps):
    seen = []
    dataset = CapsDataset(caps, rows(), augmentation=lambda part: seen.append(part.aminmax()) or part * 2)
    seen.clear()
    assert dataset[0]["image"].max() == 2
    assert seen == [(0, 1)]


def test_a_random_shift_is_uniform_and_absent_in_evaluation(caps: Caps):
    dataset = CapsDataset(caps, rows(), ROI, transform=None)
    image = torch.from_numpy(voxels_of(0))[None]
    places = {shift: ROI.extract(image, 0, shift) for shift in np.ndindex(3, 3, 3)}
    places = {tuple(np.array(shift) - 1): ROI.extract(image, 0, [s - 1 for s in shift]) for shift in places}
    counts = dict.fromkeys(places, 0)
    for epoch in range(540):
        part = dataset[epoch, 0]["image"]
        (found,) = [shift for shift, expected in places.items() if torch.equal(part, expected)]
        counts[found] += 1
    assert min(counts.values()) > 0
    # The chi-square statistic of 27 positions has 26 degrees of freedom; P(χ² > 64) is below 1 in 10,000.
    assert sum((n - 20) ** 2 / 20 for n in counts.values()) < 64
    still = dataset.without_augmentation()
    assert all(torch.equal(still[epoch, 0]["image"], places[0, 0, 0]) for epoch in range(5))
    assert torch.equal(dataset[7, 0]["image"], dataset.with_seed(0)[7, 0]["image"])


@pytest.mark.parametrize("prepare", [None, WholeImage(), ROI], ids=["nifti", "images", "parts"])
def test_0_1_and_2_workers_give_the_same_tensors(caps: Caps, prepare: Parts | None):
    if prepare is not None:
        caps.prepare(parts=prepare)
    found = []
    for n_workers in (0, 1, 2):
        dataset = CapsDataset(caps, rows(), ROI, augmentation=noise)
        sampler = Epochs(len(dataset))
        loader = DataLoader(
            dataset, 4, sampler=sampler, num_workers=n_workers, persistent_workers=n_workers > 0
        )
        images = []
        for sampler.epoch in range(2):
            images += [batch["image"] for batch in loader]
        found.append(torch.cat(images))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0][:6], found[0][6:])  # the epochs have different random numbers


def test_evaluation_within_an_epoch_with_persistent_workers_is_not_augmented(caps: Caps):
    """Evaluation needs a second dataset, because a changed flag would not reach persistent workers in time."""
    train = CapsDataset(caps, rows(), ROI, transform=None, augmentation=noise)
    evaluation = train.without_augmentation()
    loaders = [DataLoader(d, 2, num_workers=2, persistent_workers=True) for d in (train, evaluation)]
    training = iter(loaders[0])
    first = next(training)["image"]
    seen = torch.cat([batch["image"] for batch in loaders[1]])
    second = next(training)["image"]
    expected = [
        ROI.extract(torch.from_numpy(voxels_of(row))[None], part) for row in range(3) for part in range(2)
    ]
    assert torch.equal(seen, torch.stack(expected))
    assert not torch.equal(torch.cat([first, second]), seen[:4])
    assert torch.equal(torch.cat([first, second]), torch.stack([train[i]["image"] for i in range(4)]))


def test_a_dataset_can_be_sent_to_a_spawned_worker(caps: Caps):
    dataset = CapsDataset(caps, rows(), ROI, label="age", augmentation=ZScore())
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[3, 2]["image"], dataset[3, 2]["image"])
    loader = DataLoader(dataset, 3, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(next(iter(loader))["image"], torch.stack([dataset[i]["image"] for i in range(3)]))


class HeldBytes(CapsDataset):
    """Dataset whose items are the number of bytes in the worker's cache."""

    def __getitem__(self, index):
        super().__getitem__(index)
        return self.caps.images._cache.n_held_bytes


def test_workers_divide_the_memory_of_the_cache(tmp_path: Path):
    n_bytes = 4 * 6 * 8 * 7
    caps = Caps(small_caps(tmp_path, 8), cache_bytes=4 * n_bytes)
    dataset = HeldBytes(caps, rows(8))
    assert max(DataLoader(dataset, None)) == 4 * n_bytes
    dataset = HeldBytes(Caps(tmp_path, cache_bytes=4 * n_bytes), rows(8))
    assert max(DataLoader(dataset, None, num_workers=2)) == 2 * n_bytes


def test_an_error_in_a_worker_names_the_image(caps: Caps, tmp_path: Path):
    dataset = CapsDataset(caps, rows())
    path = caps.path("sub-02", "ses-M00")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ImageError, match="sub-02 ses-M00"):
        list(DataLoader(dataset, 1, num_workers=1))


def test_a_transform_that_returns_no_tensor_is_refused(caps: Caps):
    with pytest.raises(SettingError, match="transform"):
        CapsDataset(caps, rows(), transform=lambda part: None)


def test_the_input_shape_is_that_after_the_transform(caps: Caps):
    dataset = CapsDataset(
        caps, rows(), Slice(0, 1, 3), transform=lambda part: torch.nn.functional.pad(part, (1, 1))
    )
    assert dataset.input_shape == (3, 8, 9) == tuple(dataset[0]["image"].shape)


def test_torchvision_transforms_work_unchanged(caps: Caps):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    dataset = CapsDataset(
        caps,
        rows(),
        Slice(0, 1, 3),
        transform=v2.Compose([MinMax(), v2.Resize((12, 12), antialias=True)]),
        augmentation=v2.Compose([v2.RandomHorizontalFlip(), v2.RandomErasing(p=1.0), v2.RandomCrop(10)]),
    )
    assert dataset.input_shape == (3, 12, 12)
    check_augmentation(dataset, (3, 10, 10))


def test_torchio_transforms_work_unchanged(caps: Caps):
    tio = pytest.importorskip("torchio")
    dataset = CapsDataset(caps, rows(), augmentation=tio.Compose([tio.RandomNoise(), tio.RandomFlip(p=0.5)]))
    check_augmentation(dataset, (1, 6, 8, 7))


def test_monai_transforms_work_unchanged(caps: Caps):
    monai = pytest.importorskip("monai.transforms")
    dataset = CapsDataset(caps, rows(), augmentation=monai.Compose([monai.RandGaussianNoise(prob=1.0)]))
    check_augmentation(dataset, (1, 6, 8, 7))


def check_augmentation(dataset: CapsDataset, shape: tuple[int, ...]) -> None:
    images = [dataset[epoch, 0]["image"] for epoch in (0, 0, 1, 2, 3)]
    assert all(type(image) is Tensor and image.shape == shape for image in images)
    assert torch.equal(images[0], images[1])
    assert any(not torch.equal(images[0], image) for image in images[2:])
    with_workers = next(iter(DataLoader(dataset, len(dataset), num_workers=1)))["image"]
    assert torch.equal(with_workers, torch.stack([dataset[i]["image"] for i in range(len(dataset))]))


def test_sessions_are_kept_in_order(caps: Caps):
    frame = rows().iloc[[2, 0]]
    dataset = CapsDataset(caps, frame, Patch(3, 3), label="age")
    pd.testing.assert_frame_equal(dataset.sessions, frame.reset_index(drop=True))
    assert [dataset[i]["label"] for i in (0, 8)] == [62.5, 60.5]


class HiddenGenerator:
    """An augmentation with a generator that cannot be seeded from outside."""

    def __init__(self) -> None:
        self._random = np.random.default_rng()

    def __call__(self, part: Tensor) -> Tensor:
        return part + float(self._random.random())


@pytest.mark.faults
def test_an_augmentation_that_hides_its_generator_causes_a_warning(
    caps: Caps, caplog: pytest.LogCaptureFixture
):
    hidden = HiddenGenerator()
    for augmentation in (hidden, lambda part: hidden(part)):
        CapsDataset(caps, rows(), Patch(3, 3), augmentation=augmentation)
        assert (
            "two calls with the same seed differ for sub-00 ses-M00; the augmentation uses a random generator"
            in caplog.text
        )
        caplog.clear()
    CapsDataset(caps, rows(), Patch(3, 3), augmentation=noise)
    CapsDataset(caps, rows(), Patch(3, 3), augmentation=lambda part: part * torch.nan)
    assert caplog.text == ""


@pytest.mark.faults
def test_an_error_in_a_transform_names_the_image_and_the_part(caps: Caps):
    def fails(part: Tensor) -> Tensor:
        raise IndexError("the third of two")

    with pytest.raises(
        SettingError, match=r"sub-00 ses-M00, part 0 of shape \(1, 3, 3, 3\): transform="
    ) as caught:
        CapsDataset(caps, rows(), Patch(3, 3), transform=fails)
    assert "failed: IndexError: the third of two" in str(caught.value)
    assert isinstance(caught.value.__cause__, IndexError)

    def fails_later(part: Tensor) -> Tensor:
        if torch.equal(part, MinMax()(torch.from_numpy(voxels_of(2))[None])):
            raise RuntimeError("not this one")
        return part

    dataset = CapsDataset(caps, rows(), augmentation=fails_later)
    for n_workers in (0, 1):
        with pytest.raises(
            SettingError, match=r"sub-02 ses-M00, part 0 .*augmentation=.*RuntimeError: not this one"
        ):
            list(DataLoader(dataset, None, num_workers=n_workers))


@pytest.mark.faults
def test_a_transform_that_returns_different_sizes_is_refused_with_the_image(caps: Caps):
    def crops(part: Tensor) -> Tensor:
        return part[
            :, : 3 if part.min() < -1e9 or torch.equal(part[0], torch.from_numpy(voxels_of(1))) else 4
        ]

    dataset = CapsDataset(caps, rows(), transform=crops)
    assert dataset[0]["image"].shape == dataset.input_shape == (1, 4, 8, 7)
    with pytest.raises(
        SettingError, match=r"sub-01 ses-M00, part 0: shape=\(1, 3, 8, 7\).*expected \(1, 4, 8, 7\)"
    ):
        dataset[1]


def test_a_random_transform_is_seeded_in_evaluation_too(caps: Caps):
    dataset = CapsDataset(caps, rows(), transform=noise)
    before = random.getstate(), torch.get_rng_state()
    first = dataset[1]["image"]
    assert torch.equal(dataset[1]["image"], first)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


OTHER_KINDS = ["text", 3.5, ["a"], {"a": 1}, object()]


@pytest.mark.faults
@pytest.mark.parametrize("name", ["caps", "sessions", "parts", "label", "transform", "augmentation", "seed"])
@pytest.mark.parametrize("value", [None, *OTHER_KINDS], ids=lambda value: type(value).__name__)
def test_arguments_of_another_type_are_refused(caps: Caps, name: str, value: object):
    arguments = {"caps": caps, "sessions": rows(), name: value}
    if value is None and name not in ("caps", "sessions", "seed"):
        CapsDataset(**arguments)
        return
    with pytest.raises(
        (SettingError, TableError), match=name if value != "text" or name != "label" else "text"
    ):
        CapsDataset(**arguments)


@pytest.mark.faults
def test_a_class_instead_of_an_instance_is_refused(caps: Caps):
    with pytest.raises(SettingError, match=r"parts=.*make an instance: Patch\(\)"):
        CapsDataset(caps, rows(), Patch)
    with pytest.raises(SettingError, match=r"transform=.*make an instance: ZScore\(\)"):
        CapsDataset(caps, rows(), transform=ZScore)

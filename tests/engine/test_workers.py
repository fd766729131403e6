import random

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, default_collate
from toys import Toys, network

from neurocnn.engine import Trainer, classification, predict
from neurocnn.engine.batch import part_rows
from neurocnn.engine.collate import collate
from neurocnn.engine.labels import has_labels
from neurocnn.engine.sampling import BatchSampler
from neurocnn.engine.workers import loader
from neurocnn.errors import SettingError

ITEM = {"participant_id": "sub-1", "session_id": "ses-M00", "part_id": 3}


def same(one, other):
    """Return whether two values are equal, with the types and all numbers of their tensors."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"label": "AD"},
        {"label": 1},
        {"label": 71.8},
        {"label": True},
        {"label": torch.tensor(2)},
        {"cohort": "ADNI", "weight": 0.5, "affine": np.eye(4), "mask": {"left": torch.ones(2), "side": "L"}},
    ],
)
def test_collate_agrees_with_the_collation_of_torch(more):
    items = [{"image": torch.rand(1, 2, 3), **ITEM, **more} for _ in range(3)]
    expected = default_collate(items)
    if "label" in more:
        # Labels are compared separately, because `collate` returns them as a list of plain values.
        assert (expected["label"] if isinstance(expected["label"], list) else expected["label"].tolist()) == (
            collate(items)["label"]
        )
        expected["label"] = collate(items)["label"]
    assert same(collate(items), expected)


@pytest.mark.parametrize("table", [True, False])
def test_batches_without_workers_equal_the_batches_of_torchs_loader(table):
    data = Toys(7, (0, 4), table=table)
    order = BatchSampler(range(len(data)), batch_size=4)
    ours = list(loader(data, order, seed=None, n_workers=0, pinned=False))
    torchs = list(DataLoader(data, batch_size=4))
    assert same(ours, torchs)
    order.first = 2
    again = list(loader(data, order, seed=None, n_workers=0, pinned=False))
    assert same(again, torchs[2:])


def test_images_are_pinned_without_workers_too(monkeypatch):
    """Pinned memory needs a GPU, so that a mark replaces it here."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 100)
    data = Toys(7)
    order = BatchSampler(range(len(data)), batch_size=4)
    ours = list(loader(data, order, seed=None, n_workers=0, pinned=True))
    expected = list(loader(data, order, seed=None, n_workers=0, pinned=False))
    assert same(ours, [batch | {"image": batch["image"] + 100} for batch in expected])


class Unreadable(Toys):
    """Dataset whose sample 5 cannot be read."""

    error: type[Exception] = RuntimeError

    def __getitem__(self, index):
        if index == 5:
            raise self.error("cannot read voxel of a deterministic DataLoader worker (pid 1)")
        return super().__getitem__(index)


@pytest.mark.parametrize("error", [RuntimeError, ConnectionError, OSError, ValueError])
def test_an_error_of_the_dataset_in_a_worker_is_raised_unchanged(error, monkeypatch):
    monkeypatch.setattr(Unreadable, "error", error)
    task, data = classification("diagnosis", ["CN", "AD"]), Unreadable(8)
    with pytest.raises(error, match="cannot read voxel"):
        predict(network(), task, data, n_workers=1, device="cpu")
    with pytest.raises(error, match="cannot read voxel"):
        Trainer(epochs=1, n_workers=1, device="cpu").fit(network(), task, data)


class Restless(Toys):
    """Dataset with random transforms that cannot be disabled."""

    without_augmentation = property()

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, noise=True, **named)


@pytest.mark.parametrize("parts", [(0,), (0, 4)])
def test_evaluations_during_training_do_not_depend_on_the_number_of_workers(parts):
    task = classification("diagnosis", ["CN", "AD"])
    histories = []
    for n_workers in (0, 0, 1):
        random.seed()
        np.random.seed()
        torch.seed()
        trainer = Trainer(epochs=2, batch_size=4, n_workers=n_workers, device="cpu")
        sets = Restless(8, parts), Restless(4, parts, prefix="val")
        trainings = trainer.fit({part: network() for part in parts}, task, *sets)
        table = pd.concat([training.history for training in trainings.values()])
        histories.append(table.drop(columns="time"))
    assert not hasattr(sets[0], "without_augmentation")
    for other in histories[1:]:
        pd.testing.assert_frame_equal(other, histories[0], check_exact=True)


def test_random_numbers_in_evaluations_are_the_same_in_all_epochs():
    # The weights do not change, so that only the samples could change the loss.
    trainer = Trainer(epochs=3, batch_size=4, learning_rate=0, weight_decay=0, patience=0, device="cpu")
    task = classification("diagnosis", ["CN", "AD"])
    history = trainer.fit(network(norm=False), task, Toys(8), Restless(4, prefix="val")).history
    assert history.validation_loss.nunique() == 1
    other = Trainer(epochs=1, seed=1, batch_size=4, learning_rate=0, weight_decay=0, device="cpu")
    again = other.fit(network(norm=False), task, Toys(8), Restless(4, prefix="val")).history
    assert again.validation_loss[0] != history.validation_loss[0]


def test_creating_batches_does_not_change_global_random_states():
    data = Restless(4)
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    np.random.randn()  # This call keeps a second random number for the next call.
    drawn = []
    for batches in ([], [[(0, 1), (0, 2)], [(1, 3)]]):
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        assert len(list(loader(data, batches, seed=5, n_workers=0, pinned=False))) == len(batches)
        drawn.append((random.random(), np.random.randn(), np.random.rand(), torch.rand(1)))
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    assert drawn[0] == drawn[1]


def test_a_sample_is_the_same_in_any_batch():
    data = Restless(4)
    whole = next(iter(loader(data, [[(2, 0), (2, 1), (2, 2)]], seed=5, n_workers=0, pinned=False)))["image"]
    alone = next(iter(loader(data, [[(2, 1)]], seed=5, n_workers=0, pinned=False)))["image"]
    epoch = next(iter(loader(data, [[(3, 1)]], seed=5, n_workers=0, pinned=False)))["image"]
    assert torch.equal(whole[1:2], alone)
    assert not torch.equal(alone, epoch)


@pytest.mark.parametrize(
    "pair", [(71.5, 64.0), ([1.0, 0.0], [0.0, 1.0]), np.eye(2), torch.eye(2), torch.arange(2.0), np.arange(2)]
)
def test_labels_of_a_batch_are_a_list_of_plain_values(pair):
    labels = collate([{"image": torch.zeros(1), **ITEM, "label": each} for each in pair])["label"]
    assert type(labels) is list
    assert torch.equal(torch.tensor(labels).double(), torch.as_tensor(np.asarray(pair)).double())
    assert {type(value) for value in np.asarray(labels, dtype=object).ravel()} <= {int, float}


def test_labels_that_are_images_stay_arrays():
    mask = torch.ones(2, 3)
    assert collate([{"image": torch.zeros(1), **ITEM, "label": mask}])["label"][0] is mask


def test_labels_of_different_lengths_are_kept():
    some = [{"image": torch.zeros(1), **ITEM, "label": each} for each in ([1, 0], None, [1])]
    assert collate(some)["label"] == [[1, 0], None, [1]]
    assert has_labels(collate(some)), "a list is no missing label"


def test_labels_that_only_some_samples_have_are_kept():
    item = {"image": torch.zeros(1), **ITEM}
    assert collate([item, item | {"label": "AD"}])["label"] == [None, "AD"]
    assert collate([item | {"label": "AD"}, item])["label"] == ["AD", None]


@pytest.mark.parametrize("name", ["cohort", "weight"])
def test_an_error_names_a_sample_that_lacks_an_entry_of_other_samples(name):
    item = {"image": torch.zeros(1), **ITEM}
    for items in (
        [item, item | {name: "a"}],
        [item | {name: "a"}, item],
        [item | {"b": 1}, item | {name: "a"}],
    ):
        with pytest.raises(SettingError, match=f"sub-1 ses-M00 has no .*{name}"):
            collate(items)
    for other in ({"image": torch.zeros(1)}, torch.zeros(5), 5):
        with pytest.raises(SettingError, match="the dataset's samples lack"):
            collate([item, other])


@pytest.mark.parametrize("part", ["left", None, [1, 2], torch.tensor([1])])
def test_a_part_id_that_is_not_a_number_is_refused(part):
    with pytest.raises(SettingError, match=r"part_id=.*; expected one integer per sample"):
        collate([{"image": torch.zeros(1), **ITEM, "part_id": part}])


def test_the_rows_of_a_part_equal_a_separate_batch_of_the_part():
    def item(i):
        extra = {
            "spacing": (4, i, 4),
            "names": ["a", str(i)],
            "nested": {"a": float(i), "b": ({"c": str(i)}, [i])},
            "nothing": (),
            "label": [i] if i % 3 else None,
        }
        return {"image": torch.full((1,), float(i)), **ITEM, "part_id": i % 2, **extra}

    items = [item(i) for i in range(6)]
    for part in (0, 1):
        assert same(part_rows(collate(items), part), collate(items[part::2]))

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate
from toys import Toys, network

from neurocnn.engine import Trainer, classification, predict
from neurocnn.engine.loading import collate, loader
from neurocnn.engine.sampling import Batches

ITEM = {"participant_id": "sub-1", "session_id": "ses-M00", "part_id": 3}


def same(one, other):
    """Whether two values are equal, with the types and all numbers of their tensors."""
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
def test_samples_are_put_together_as_torch_does(more):
    items = [{"image": torch.rand(1, 2, 3), **ITEM, **more} for _ in range(3)]
    assert same(collate(items), default_collate(items))


@pytest.mark.parametrize("table", [True, False])
def test_batches_made_without_workers_are_those_of_torchs_loader(table):
    data = Toys(7, (0, 4), table=table)
    order = Batches(range(len(data)), batch_size=4)
    ours = list(loader(data, order, seed=None, n_workers=0, pinned=False))
    torchs = list(DataLoader(data, batch_size=4))
    assert same(ours, torchs)
    order.first = 2
    again = list(loader(data, order, seed=None, n_workers=0, pinned=False))
    assert same(again, torchs[2:])


class Unreadable(Toys):
    """The sample 5 cannot be read."""

    error: type[Exception] = RuntimeError

    def __getitem__(self, index):
        if index == 5:
            raise self.error("cannot read voxel of a deterministic DataLoader worker (pid 1)")
        return super().__getitem__(index)


@pytest.mark.parametrize("error", [RuntimeError, ConnectionError, OSError, ValueError])
def test_an_error_of_the_dataset_in_a_worker_is_told_as_it_is(error, monkeypatch):
    monkeypatch.setattr(Unreadable, "error", error)
    task, data = classification("diagnosis", ["CN", "AD"]), Unreadable(8)
    with pytest.raises(error, match="cannot read voxel"):
        predict(network(), task, data, n_workers=1, device="cpu")
    with pytest.raises(error, match="cannot read voxel"):
        Trainer(epochs=1, n_workers=1, device="cpu").fit(network(), task, data)

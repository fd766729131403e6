"""Batches are copied to a GPU while it computes. Streams and events are recorded instead of those of a GPU."""

import time
from contextlib import nullcontext

import pytest
import torch
from small_caps import rows, small_caps
from torch import Tensor

from neurocnn.data import Caps, CapsDataset, WholeImage
from neurocnn.engine import loading
from neurocnn.engine.loading import Loading
from neurocnn.engine.sampling import BatchSampler
from neurocnn.engine.transfers import Transfers


class Stream:
    """Stream of a GPU that records the numbers of the copies for which it waits."""

    def __init__(self):
        self.waited: list[int] = []

    def wait_event(self, event):
        self.waited.append(event.number)


@pytest.fixture
def stream(monkeypatch):
    """Replace the streams and events of CUDA, and return the stream that computes."""
    computing, numbers = Stream(), iter(range(1000))

    class Event:
        def record(self, *stream):
            self.number = next(numbers)

        def query(self):
            return True

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: computing)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **named: empty(*size, **named))
    return computing


def transfers(n_ahead):
    found = Transfers(torch.device("cpu"), n_ahead=n_ahead)
    found.stream = Stream()
    return found


@pytest.mark.parametrize(
    ("n_ahead", "order"),
    [
        (0, ["load 0", "compute 0", "load 1", "compute 1", "load 2", "compute 2"]),
        (1, ["load 0", "load 1", "compute 0", "load 2", "compute 1", "compute 2"]),
    ],
)
def test_a_batch_is_computed_before_or_after_the_next_one_is_loaded(stream, n_ahead, order):
    done = []

    def load():
        for number in range(3):
            done.append(f"load {number}")
            yield {"image": torch.full((2, 1), float(number)), "part_id": torch.tensor([number] * 2)}

    for batch in transfers(n_ahead).ahead(load()):
        number = int(batch["part_id"][0])
        assert batch["image"].tolist() == [[number]] * 2
        # The GPU waits for the copy of this batch, not for those of later ones.
        assert stream.waited == list(range(number + 1))
        done.append(f"compute {number}")
    assert done == order


@pytest.mark.parametrize("n_ahead", [0, 1])
def test_a_pass_without_batches_or_with_one_ends(stream, n_ahead):
    assert list(transfers(n_ahead).ahead(iter([]))) == []
    assert len(list(transfers(n_ahead).ahead(iter([{"image": torch.zeros(1)}])))) == 1


@pytest.mark.parametrize(("n_workers", "n_ahead"), [(0, 0), (1, 1), ("auto", 1)])
def test_without_workers_a_batch_is_not_held_back(n_workers, n_ahead):
    with Loading(n_workers, torch.device("cpu")) as workers:
        assert workers.transfers.n_ahead == n_ahead


class Counted(CapsDataset):
    def fill(self, index, out):
        self.filled.append(index)
        return super().fill(index, out)


@pytest.mark.parametrize(("n_workers", "n_read"), [(0, 0), (2, 4)])
def test_two_large_batches_of_the_next_pass_are_read_before_the_current_pass_ends(
    stream, tmp_path, monkeypatch, n_workers, n_read
):
    monkeypatch.setattr(loading, "_SMALL_SAMPLE", 1)
    monkeypatch.setattr(loading, "_BYTES_AHEAD", 1)  # every batch is large
    data = CapsDataset(Caps(small_caps(tmp_path, 8)), rows(8), WholeImage(), label="diagnosis")
    data.__class__, data.filled = Counted, []
    expected = [data[number]["image"] for number in range(8)]
    with Loading(n_workers, torch.device("cpu")) as workers:
        workers.transfers.stream = Stream()
        current, following = (BatchSampler(range(8), 2, epoch=epoch) for epoch in (0, 1))
        source = workers.loader(data, current, seed=0)
        workers.expect([(data, following)])
        batches = workers.transfers.ahead(iter(source))
        for _ in range(4):
            batch = next(batches)
            del batch
        deadline = time.monotonic() + 20
        while len(data.filled) < 8 + n_read and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(data.filled) == [(0, k) for k in range(8)] + [(1, k) for k in range(n_read)]
        found = workers.transfers.ahead(iter(workers.loader(data, following, seed=0)))
        images = torch.cat([batch["image"].clone() for batch in found])
    assert torch.equal(images, torch.stack(expected))

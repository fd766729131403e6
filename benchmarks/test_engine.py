"""Overhead of the engine, and gain by its defaults, each relative to plain torch in the same run.

Run with ``pytest benchmarks/test_engine.py -s``, on a machine that does nothing else. Both sides take turns, and
medians are compared.
"""

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import neurocnn as nc
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.run import Run

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TASK = nc.classification("diagnosis", classes=["CN", "AD"])


def in_turn(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Return the median seconds of two alternating functions, after a round to warm up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for function, times in zip((one, other), seconds, strict=True):
            begun = time.perf_counter()
            function()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                times.append(time.perf_counter() - begun)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


class Parts(Dataset):
    """10,000 parts without a cost to read them."""

    part_ids = tuple(range(100))

    def __init__(self) -> None:
        self.image = torch.rand(1, 16, 16, 16)

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, part = divmod(index, 100)
        identity = {"participant_id": f"sub-{image}", "session_id": "ses-M00", "part_id": part}
        return {"image": self.image, "label": "AD", **identity}


@pytest.mark.parametrize("batch_size", [8, 32, 128])
def test_tables_cost_little_more_than_a_bare_loop(batch_size: int) -> None:
    data, model = Parts(), nn.Sequential(nn.Flatten(), nn.Linear(16**3, 2)).to(DEVICE).eval()

    def bare() -> None:
        with torch.inference_mode():
            for batch in DataLoader(data, batch_size=batch_size):
                model(batch["image"].to(DEVICE))

    def table() -> None:
        assert len(nc.predict(model, TASK, data, batch_size=batch_size)) == len(data)

    ours, plain = in_turn(table, bare, rounds=25)
    print(
        f"\npredict, batches of {batch_size}: {ours:.3f} s, bare loop {plain:.3f} s, ratio {ours / plain:.2f}"
    )
    assert ours <= (1.5 if DEVICE.type == "cuda" else 1.35) * plain


@pytest.mark.parametrize("batch_size", [8, 32, 128])
def test_an_update_costs_little_more_than_a_bare_loop(batch_size: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16**3, 2))
    plain = copy.deepcopy(network).to(DEVICE).train()
    image, target = torch.rand(batch_size, 1, 16, 16, 16), torch.arange(batch_size) % 2
    identity = {
        "participant_id": [f"sub-{i}" for i in range(batch_size)],
        "session_id": ["ses-M00"] * batch_size,
        "part_id": torch.zeros(batch_size, dtype=torch.long),
    }
    batch = {"image": image, "label": [("CN", "AD")[i] for i in target.tolist()], **identity}
    run = Run(network, nc.Trainer(), TASK, None, DEVICE, Ranks())
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)

    def ours() -> None:
        for _ in range(100):
            run.accumulate(batch, n_samples=batch_size, empty=False, last=True)
            run.update()

    def bare() -> None:
        for _ in range(100):
            optimizer.zero_grad()
            loss = F.cross_entropy(plain(image.to(DEVICE)), target.to(DEVICE))
            loss.backward()
            optimizer.step()
            loss.item()

    fast, slow = in_turn(ours, bare, rounds=25)
    print(f"\nupdate, batches of {batch_size}: {fast:.3f} s, bare loop {slow:.3f} s, ratio {fast / slow:.2f}")
    assert fast <= 1.25 * slow


class PadThenPool(nn.Module):
    """Pooling by its definition: pad with zeros in front, then pool."""

    def forward(self, image: Tensor) -> Tensor:
        pad = [side for n in reversed(image.shape[2:]) for side in (n % 2, 0)]
        return F.max_pool3d(F.pad(image, pad), 2, 2)


SHAPE = (1, 169, 208, 179)


def stepper(run: Run, image: Tensor) -> Callable[[], None]:
    """Return a function that does one training step with one image."""
    identity = {"participant_id": ["sub-1"], "session_id": ["ses-M00"], "part_id": torch.tensor([0])}

    def step() -> None:
        run.accumulate({"image": image, "label": ["AD"], **identity}, n_samples=1, empty=False, last=True)
        run.update()

    return step


def test_a_step_of_conv5_fc3_is_faster_than_the_plain_one() -> None:
    network = nc.create_model("Conv5_FC3", SHAPE, n_outputs=2)
    plain = copy.deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, nc.PadMaxPool3d):
            plain.set_submodule(name, PadThenPool())
    plain.to(DEVICE).train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4, weight_decay=1e-4)
    image = torch.rand(1, *SHAPE)
    ours = stepper(Run(network, nc.Trainer(), TASK, None, DEVICE, Ranks()), image)

    def eager() -> None:
        optimizer.zero_grad()
        F.cross_entropy(plain(image.to(DEVICE)), torch.tensor([1], device=DEVICE)).backward()
        optimizer.step()

    fast, slow = in_turn(ours, eager, rounds=5)
    print(f"\nConv5_FC3 step: {fast:.2f} s, plain {slow:.2f} s, ratio {fast / slow:.2f}")
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-3)
    # On a GPU, the plain network uses the same convolutions; `gpu_measurements.py` compares with torch's.
    assert DEVICE.type == "cuda" or fast <= 0.80 * slow


@pytest.mark.parametrize("default", ["fused Adam", "channels_last_3d"])
def test_gain_of_a_default_in_a_step_of_conv5_fc3(default: str) -> None:
    network, image = nc.create_model("Conv5_FC3", SHAPE, n_outputs=2), torch.rand(1, *SHAPE)
    other = copy.deepcopy(network)
    adam = partial(torch.optim.Adam, lr=1e-4, weight_decay=1e-4)
    trainer = nc.Trainer(optimizer=adam if default == "fused Adam" else None)
    without = Run(other, trainer, TASK, None, DEVICE, Ranks())
    if default == "channels_last_3d":
        without.layout = torch.contiguous_format
        without.model.to(memory_format=torch.contiguous_format)
    ours = Run(network, nc.Trainer(), TASK, None, DEVICE, Ranks())
    fast, slow = in_turn(stepper(ours, image), stepper(without, image), rounds=3)
    print(f"\nConv5_FC3 step: {fast:.2f} s, without {default} {slow:.2f} s, ratio {fast / slow:.2f}")
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, same, atol=2e-3)

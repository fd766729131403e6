"""A flipped bit in a file of a study is detected, or the values that are read do not change."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_caps import T1, small_caps

from neurocnn import Caps, create_model, read_weights
from neurocnn.engine.checkpoint import StateFiles
from neurocnn.errors import NeurocnnError
from neurocnn.storage import load_tensors, save_tensors

pytestmark = pytest.mark.faults


def flipped(complete: bytes, count: int) -> Iterator[bytes]:
    """Yield `count` copies of the file, each with a different random bit changed."""
    draw = random.Random(0)
    for _ in range(count):
        position = draw.randrange(8 * len(complete))
        changed = bytearray(complete)
        changed[position // 8] ^= 1 << position % 8
        yield bytes(changed)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def state_of(epoch: int) -> dict[str, object]:
    numbers = dict.fromkeys(("updates", "iteration", "started", "seconds"), epoch)
    containers = {name: {} for name in ("best", "best_epochs", "stopper", "settings", "optimizer", "scaler")}
    weights = {"weight": torch.full((3, 4), float(epoch))}
    lists = {"history": [{"epoch": epoch, "iteration": epoch, "time": 0.5, "loss": 1 / epoch}], "random": []}
    return {"epoch": epoch, "stopped": False, "model": weights, **numbers, **containers, **lists}


@pytest.mark.filterwarnings("ignore:.*resuming from the other state")
def test_a_flipped_bit_in_a_checkpoint_is_detected_and_the_older_checkpoint_is_used(
    tmp_path: Path, repetitions: Callable[[int, int], int], caplog: pytest.LogCaptureFixture
):
    states = StateFiles(tmp_path)
    for epoch in (1, 2):
        states.write(state_of(epoch))
    path = max(states.paths, key=lambda path: load_tensors(path)["epoch"])
    older = 0
    for content in flipped(path.read_bytes(), repetitions(100, 1000)):
        path.write_bytes(content)
        found = StateFiles(tmp_path).read()
        assert found is not None
        expected = state_of(found["epoch"])
        assert torch.equal(found["model"]["weight"], expected["model"]["weight"])
        del found["model"], expected["model"]
        assert {name: found[name] for name in expected} == expected
        older += found["epoch"] == 1
    print(f"states: {older} flips detected, the older state used; the others harmless")
    assert older > 0


def test_a_flipped_bit_in_a_model_is_detected_or_harmless(
    tmp_path: Path, repetitions: Callable[[int, int], int]
):
    torch.manual_seed(0)
    weights = create_model("Conv4_FC3", (1, 31, 31), n_outputs=2).state_dict()
    small = {name: value for name, value in weights.items() if value.numel() < 5000}
    path = tmp_path / "model_best.pth.tar"
    save_tensors({"model": small, "epoch": 3}, path)
    expected, detected = read_weights(path), 0
    for content in flipped(path.read_bytes(), repetitions(100, 1000)):
        path.write_bytes(content)
        try:
            found = read_weights(path)
        except NeurocnnError:
            detected += 1
        else:
            assert same(found, expected)
    print(f"models: {detected} flips detected, the others harmless")
    assert detected > 0


def test_a_flipped_bit_in_a_nifti_is_detected_or_harmless(
    tmp_path: Path, repetitions: Callable[[int, int], int]
):
    root = small_caps(tmp_path, 1)
    path = root / "subjects" / "sub-00" / "ses-M00" / "t1_linear" / f"sub-00_ses-M00_{T1}"
    expected, detected = Caps(root).read("sub-00", "ses-M00"), 0
    affine = Caps(root).affine("sub-00", "ses-M00")
    for content in flipped(path.read_bytes(), repetitions(100, 1000)):
        path.write_bytes(content)
        caps = Caps(root)
        try:
            found = caps.read("sub-00", "ses-M00")
        except NeurocnnError:
            detected += 1
        else:
            assert torch.equal(found, expected)
            assert np.array_equal(caps.affine("sub-00", "ses-M00"), affine)
    print(f"NIfTI: {detected} flips detected, the others harmless")
    assert detected > 0

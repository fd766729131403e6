"""Normalisation follows its formula, and random numbers depend only on their key."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from neurocnn.data import MinMax, ZScore
from neurocnn.data.scaling import scale
from neurocnn.randomness import reseed, seeded

values = st.floats(-1e4, 1e4, width=32).map(lambda x: x if abs(x) > 1e-3 else 0.0)
parts = arrays(np.float32, array_shapes(min_dims=3, max_dims=4, max_side=4), elements=values)


@given(parts)
def test_min_max_equals_the_formula_in_float64(part: np.ndarray):
    before = part.copy()
    found = MinMax()(torch.from_numpy(part)).numpy()
    exact = part.astype(np.float64)
    span = exact.max() - exact.min()
    expected = (exact - exact.min()) / span if span else np.zeros_like(exact)
    assert np.allclose(found, expected, atol=1e-6)
    assert np.array_equal(part, before)
    assert found.min() == 0
    assert found.max() == (1 if span else 0)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("shape", [(1, 7, 8, 9), (1, 90, 110, 121)], ids=["small", "large"])
@pytest.mark.parametrize("layout", ["contiguous", "box", "first axis contiguous", "constant"])
def test_scaling_with_known_bounds_equals_min_max_bit_for_bit(layout: str, shape: tuple[int, ...], n_threads):
    torch.set_num_threads(n_threads)
    generator = torch.Generator().manual_seed(0)
    part = torch.randn(shape, generator=generator) * 1e3
    if layout == "box":
        part = torch.randn([n + 3 for n in shape], generator=generator)[1:2, 3:, :-3, 1:-2]
    elif layout == "first axis contiguous":
        part = torch.randn(shape[::-1], generator=generator).permute(3, 2, 1, 0)
    elif layout == "constant":
        part = torch.full(shape, 3.25)
    assert part.shape == shape
    out = torch.full(shape, torch.nan)
    scale(part, (float(part.min()), float(part.max())), out)
    assert torch.equal(out, MinMax()(part))


@given(parts)
def test_z_score_equals_the_formula_in_float64(part: np.ndarray):
    found = ZScore()(torch.from_numpy(part)).numpy()
    exact = part.astype(np.float64)
    if exact.max() == exact.min():
        assert (found == 0).all()
        return
    if exact.std() < 1e-3 * np.abs(exact).max():
        return  # float32 itself has no more digits
    assert np.allclose(found, (exact - exact.mean()) / exact.std(), atol=1e-3)


@pytest.mark.parametrize("transform", [MinMax(), ZScore()])
def test_a_constant_part_becomes_zeros(transform):
    assert torch.equal(transform(torch.full((1, 2, 3, 4), 7.5)), torch.zeros(1, 2, 3, 4))


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_random_numbers_depend_on_the_key_and_the_global_states_are_kept():
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = draws()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    with seeded(0, 1, "A", "sub-1", "ses-M00", 2):
        first = draws()
    assert draws() == expected
    with seeded(0, 1, "A", "sub-1", "ses-M00", 2):
        assert draws() == first
    for other in [
        (1, 1, "A", "sub-1", "ses-M00", 2),
        (0, 2, "A", "sub-1", "ses-M00", 2),
        (0, 1, None, "sub-1", "ses-M00", 2),
    ]:
        with seeded(*other):
            assert draws() != first


def test_the_random_states_are_restored_after_an_error():
    before = random.getstate()
    with pytest.raises(ZeroDivisionError), seeded(0):
        _ = 1 / 0
    assert random.getstate() == before


class OwnGenerator:
    """Transform with its own random generator, like transforms of MONAI."""

    def __init__(self) -> None:
        self.R = np.random.RandomState()

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "OwnGenerator":
        self.R = np.random.RandomState(seed)
        return self

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        return part + self.R.random_sample()


class Chain:
    def __init__(self, *transforms) -> None:
        self.transforms = transforms

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        for transform in self.transforms:
            part = transform(part)
        return part


def test_transforms_with_their_own_generator_are_seeded_in_compositions_too():
    chain = Chain(OwnGenerator(), Chain(OwnGenerator()))
    found = []
    for seed in (5, 5, 6):
        reseed(chain, seed)
        found.append(float(chain(torch.zeros(()))))
    assert found[0] == found[1] != found[2]
    first, second = chain.transforms[0].R.random_sample(), chain.transforms[1].transforms[0].R.random_sample()
    assert first != second

"""Pooling and unpooling, each relative to zeros padded in front, torch's pooling, and its inverse.

Both ways run in turn in one process, so that other load on the machine affects both; the ratio is that of the
medians. On a GPU the same file runs there, but the limits are those of a CPU; `gpu_measurements.py` measures GPUs.
"""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import neurocnn as nc

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(2, 8, 169, 208, 179), (4, 16, 85, 104, 90)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
ROUNDS = 7

pool = nc.PadMaxPool3d(2, 2)
pool_for_unpooling = nc.PadMaxPool3d(2, 2, return_indices=True, return_pad=True)
unpool = nc.CropMaxUnpool3d(2, 2)


def pad_then_pool(x: Tensor, return_indices: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    front = [size % 2 for size in x.shape[:1:-1]]
    padded = F.pad(x, [number for pad in front for number in (pad, 0)])
    return F.max_pool3d(padded, 2, 2, return_indices=return_indices)


def unpool_then_crop(maxima: Tensor, indices: Tensor, padding: tuple[int, ...]) -> Tensor:
    return F.max_unpool3d(maxima, indices, 2, 2)[:, :, padding[4] :, padding[2] :, padding[0] :]


def seconds(run: Callable[[], object]) -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratio(what: str, ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    ours(), theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"\n{what}: {1e3 * a:.1f} ms against {1e3 * b:.1f} ms, ratio {a / b:.2f}")
    return a / b


def is_below(limit: float, found: float) -> bool:
    return DEVICE == "cuda" or found <= limit


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SHAPES, ids=["first block", "second block"])
def x(request: pytest.FixtureRequest, layout: str) -> Tensor:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    maps = torch.randn(request.param, device=DEVICE)
    return maps.to(memory_format=LAYOUTS[layout])


def test_forward_without_gradient(x: Tensor, layout: str):
    assert torch.equal(pool(x), pad_then_pool(x))
    assert is_below(0.40, ratio("forward", lambda: pool(x), lambda: pad_then_pool(x)))


def test_both_passes(x: Tensor, layout: str):
    x.requires_grad_()
    gradient = torch.randn_like(pool(x))

    def both(function: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(function(x), x, gradient)[0]

    assert torch.equal(both(pool), both(pad_then_pool))
    limit = 0.45 if layout == "channels_last" else 0.70
    assert is_below(limit, ratio("both passes", lambda: both(pool), lambda: both(pad_then_pool)))


def test_unpooling_with_crop(x: Tensor, layout: str):
    pooled = pool_for_unpooling(x)
    assert torch.equal(unpool(*pooled), unpool_then_crop(*pooled))
    ratio("unpooling, of pad-then-pool", lambda: unpool(*pooled), lambda: pad_then_pool(x))
    assert is_below(0.45, ratio("unpooling", lambda: unpool(*pooled), lambda: unpool_then_crop(*pooled)))

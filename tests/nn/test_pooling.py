"""PadMaxPool equals zero-padding and torch's pooling; CropMaxUnpool equals torch's unpooling and a crop."""

import itertools
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neurocnn.errors import ModelError, NeurocnnError
from neurocnn.nn import CropMaxUnpool2d, CropMaxUnpool3d, PadMaxPool2d, PadMaxPool3d, pair_pooling

POOLS = {2: PadMaxPool2d, 3: PadMaxPool3d}
UNPOOLS = {2: CropMaxUnpool2d, 3: CropMaxUnpool3d}
MAX_POOLS = {2: F.max_pool2d, 3: F.max_pool3d}


def per_axis(value, n):
    return (value,) * n if isinstance(value, int) else value


def padded(x, stride):
    """Return `x` with zeros in front of each axis up to a multiple of the stride, and the padding for F.pad."""
    n = x.dim() - 2
    missing = [
        (step - size % step) % step for size, step in zip(x.shape[2:], per_axis(stride, n), strict=True)
    ]
    pad = tuple(number for front in missing[::-1] for number in (front, 0))
    return F.pad(x, pad), pad


def plain_pool(x, kernel, stride):
    big, pad = padded(x, stride)
    return *MAX_POOLS[x.dim() - 2](big, kernel, stride, return_indices=True), pad


def values(shape, kind, seed):
    """Return random integers from a small range, so that ties are frequent: positive, negative or mixed."""
    generator = torch.Generator().manual_seed(seed)
    low, high = {"positive": (0, 3), "negative": (-3, 1), "mixed": (-2, 3)}[kind]
    return torch.randint(low, high, shape, generator=generator).double()


@pytest.fixture(scope="module", autouse=True)
def _small_maps_as_large_ones():
    """Pool the small maps of the tests in the way of large maps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_pooling, "PAIRS_VOXELS", 1)
        patch.setattr(pair_pooling, "PAIRS_ROW", 1)
        yield


numbers = st.integers(1, 4)
kinds = st.sampled_from(["positive", "negative", "mixed"])


@st.composite
def poolings(draw):
    n = draw(st.sampled_from([2, 3]))
    a_number_or_a_tuple = st.one_of(numbers, st.tuples(*[numbers] * n))
    kernel, stride = draw(a_number_or_a_tuple), draw(a_number_or_a_tuple)
    if draw(st.booleans()):
        stride = kernel  # the case of networks, in which the padding is not copied
    minimum = per_axis(kernel, n)
    size = [draw(st.integers(k, k + 5)) for k in minimum]
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), *size)
    return values(shape, draw(kinds), draw(st.integers(0, 99))), kernel, stride


@given(poolings())
def test_maxima_indices_and_padding_equal_those_of_padding_then_pooling(case):
    x, kernel, stride = case
    pool = POOLS[x.dim() - 2](kernel, stride)
    out, indices, pad = plain_pool(x, kernel, stride)
    assert torch.equal(pool(x), out)
    pool.set_new_return(True, True)
    found = pool(x)
    assert torch.equal(found[0], out)
    assert torch.equal(found[1], indices)
    assert found[2] == pad


LAYOUTS = {
    2: (torch.contiguous_format, torch.channels_last),
    3: (torch.contiguous_format, torch.channels_last_3d),
}


@pytest.mark.parametrize(("n_voxels", "smallest"), [(1, 1), (3, 1), (20, 1), (100, 1), (100, 50)])
@pytest.mark.parametrize("axes", [2, 3])
def test_maps_pooled_in_pieces_of_any_size_equal_padding_then_pooling(n_voxels, smallest, axes, monkeypatch):
    monkeypatch.setattr(pair_pooling, "PIECE", n_voxels)
    monkeypatch.setattr(pair_pooling, "PAIRS_VOXELS", smallest)
    for size, layout in itertools.product(itertools.product((1, 2, 4, 5, 9), repeat=axes), LAYOUTS[axes]):
        x = values((2, 3, *size), "mixed", sum(size)).float().to(memory_format=layout)
        expected = plain_pool(x, 2, 2)[0]
        assert torch.equal(POOLS[axes](2)(x), expected)
        x.requires_grad_()
        gradient = values(expected.shape, "mixed", 1)
        reference, found = (
            torch.autograd.grad(out, x, gradient.float())
            for out in (plain_pool(x, 2, 2)[0], POOLS[axes](2)(x))
        )
        assert torch.equal(found[0], reference[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("axes", [2, 3])
def test_infinite_and_missing_values_are_pooled_as_by_padding_then_pooling(axes, dtype):
    generator = torch.Generator().manual_seed(0)
    special = torch.tensor([-math.inf, math.inf, math.nan, -1.0, 0.0, 1.0], dtype=dtype)
    # Windows of -inf only, infinite values, NaN, and all of them.
    for choices in ([0, 0, 0, 3], [0, 1, 3, 4, 5], [2, 3, 4, 5], range(6)):
        picks = torch.tensor(choices)[
            torch.randint(len(choices), (3, 2, *(5, 4, 7)[:axes]), generator=generator)
        ]
        x = special[picks].requires_grad_()
        expected = plain_pool(x, 2, 2)
        pool = POOLS[axes](2)
        gradient = torch.arange(expected[0].numel()).view_as(expected[0]).to(dtype)
        assert torch.equal(pool(x.detach()).nan_to_num(7), expected[0].nan_to_num(7))
        assert torch.equal(pool(x).nan_to_num(7), expected[0].nan_to_num(7))
        reference, found = (torch.autograd.grad(out, x, gradient)[0] for out in (expected[0], pool(x)))
        assert torch.equal(found, reference)
        pool.set_new_return(return_indices=True, return_pad=False)
        assert torch.equal(pool(x)[1], expected[1])


@given(poolings(), st.integers(0, 99))
def test_gradients_equal_those_of_padding_then_pooling_including_ties(case, seed):
    x, kernel, stride = case
    x.requires_grad_()
    expected = plain_pool(x, kernel, stride)[0]
    gradient = values(expected.shape, "mixed", seed)
    (reference,) = torch.autograd.grad(expected, x, gradient)
    for indices in (False, True):
        out = POOLS[x.dim() - 2](kernel, stride, return_indices=indices)(x)
        (found,) = torch.autograd.grad(out[0] if indices else out, x, gradient)
        assert torch.equal(found, reference)


@given(poolings())
def test_pooling_passes_gradcheck(case):
    x, kernel, stride = case
    # All values differ from each other and from the zero of the padding, so that each maximum has a derivative.
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0)).double()
    x = (order - x.numel() // 2 + 0.5).view_as(x).requires_grad_()
    assert torch.autograd.gradcheck(POOLS[x.dim() - 2](kernel, stride), x, eps=1e-3)


def naive_unpool(maxima, indices, size):
    """Unpool by a loop over all values in row order; the last value for a voxel is kept."""
    out = torch.zeros(*maxima.shape[:2], math.prod(size), dtype=maxima.dtype)
    for b, c in itertools.product(range(maxima.shape[0]), range(maxima.shape[1])):
        for value, index in zip(maxima[b, c].flatten(), indices[b, c].flatten(), strict=True):
            out[b, c, index] = value
    return out.view(*maxima.shape[:2], *size)


@given(poolings(), st.integers(0, 99))
def test_unpooling_restores_each_value_and_crops_the_padding(case, seed):
    x, kernel, stride = case
    maxima, indices, pad = plain_pool(x, kernel, stride)
    other = values(maxima.shape, "mixed", seed).requires_grad_()
    expected = naive_unpool(other, indices, padded(x, stride)[0].shape[2:])
    crop = [slice(front, None) for front in pad[::2][::-1]]
    unpool = UNPOOLS[x.dim() - 2](kernel, stride)
    found = unpool(other, indices, pad)
    assert torch.equal(found, expected[..., *crop])
    assert found.shape == x.shape
    assert torch.equal(unpool(other, indices), expected)


@given(poolings())
def test_unpooling_passes_gradcheck(case):
    x, kernel, _ = case
    out, indices, pad = plain_pool(x, kernel, kernel)  # windows are disjoint, so that no value is overwritten
    unpool = UNPOOLS[x.dim() - 2](kernel)
    assert torch.autograd.gradcheck(lambda maxima: unpool(maxima, indices, pad), out.requires_grad_())


@pytest.mark.parametrize("n", [2, 3])
def test_unpooling_equals_that_of_torch_if_kernel_and_stride_are_equal(n):
    x = values((2, 3, 5, 6, 7)[: n + 2], "mixed", 0)
    maxima, indices, pad = plain_pool(x, 2, 2)
    expected = (nn.MaxUnpool2d if n == 2 else nn.MaxUnpool3d)(2, 2)(maxima, indices)
    crop = [slice(front, None) for front in pad[::2][::-1]]
    assert torch.equal(UNPOOLS[n](2, 2)(maxima, indices, pad), expected[..., *crop])


def test_padding_that_equals_the_maximum_gets_the_gradient_and_unpooling_drops_the_value():
    x = torch.tensor([0.0, -1.0, 5.0], requires_grad=True).view(1, 1, 1, 3)
    leaf = x.detach().clone().requires_grad_()
    pool = PadMaxPool2d((1, 2), return_indices=True, return_pad=True)
    maxima, indices, pad = pool(leaf)
    maxima.sum().backward()
    assert maxima.tolist() == [[[[0.0, 5.0]]]]
    assert leaf.grad.tolist() == [[[[0.0, 0.0, 1.0]]]]
    back = CropMaxUnpool2d((1, 2))(torch.tensor([[[[7.0, 8.0]]]]), indices, pad)
    assert back.tolist() == [[[[0.0, 0.0, 8.0]]]]


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("place", [0, 1, 4])
def test_the_maximum_of_a_window_with_nan_is_nan(place, differentiated):
    x = torch.zeros(1, 1, 5, 4, 3)
    x[0, 0, place, 1, 0] = math.nan
    x.requires_grad_(differentiated)
    expected = plain_pool(x, 2, 2)[0]
    assert torch.equal(PadMaxPool3d(2)(x).isnan(), expected.isnan())
    assert expected.isnan().any()


def test_the_next_layer_may_change_the_maxima_in_place():
    x = values((1, 2, 5, 6, 7), "mixed", 0).requires_grad_()
    expected = torch.autograd.grad(F.relu(plain_pool(x, 2, 2)[0]).sum(), x)[0]
    found = torch.autograd.grad(F.relu(PadMaxPool3d(2)(x), inplace=True).sum(), x)[0]
    assert torch.equal(found, expected)


def test_a_kernel_of_3_and_a_stride_of_2_reduce_6_voxels_to_2():
    # The documented code gives 2, although the documented formula gives 3.
    assert PadMaxPool2d(3, 2)(torch.zeros(1, 1, 6, 6)).shape == (1, 1, 2, 2)


def test_flags_determine_the_returned_values():
    x = torch.rand(1, 1, 3, 4, 5)
    pad = (1, 0, 0, 0, 1, 0)
    assert isinstance(PadMaxPool3d(2, 2)(x), torch.Tensor)
    assert PadMaxPool3d(2, 2, return_pad=True)(x)[1] == pad
    assert PadMaxPool3d(2, 2, return_indices=True)(x)[1].dtype == torch.int64
    assert PadMaxPool3d(2, 2, return_indices=True, return_pad=True)(x)[2] == pad
    pool = PadMaxPool3d(2, 2)
    pool.set_new_return()
    assert len(pool(x)) == 3
    pool.set_new_return(False, False)
    assert isinstance(pool(x), torch.Tensor)


class LabAutoencoder(nn.Module):
    """Autoencoder written as in the lab: unpooling layers get the indices and padding of pooling layers."""

    def __init__(self):
        super().__init__()
        flags = {"return_indices": True, "return_pad": True}
        self.encoder = nn.Sequential(
            nn.Conv3d(1, 2, 3, padding=1),
            nn.LeakyReLU(),
            PadMaxPool3d(2, 2, **flags),
            nn.Conv3d(2, 4, 3, padding=1),
            nn.LeakyReLU(),
            PadMaxPool3d(2, 2, **flags),
        )
        self.decoder = nn.Sequential(
            CropMaxUnpool3d(2, 2),
            nn.ConvTranspose3d(4, 2, 3, padding=1),
            CropMaxUnpool3d(2, 2),
            nn.ConvTranspose3d(2, 1, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        kept = []
        for layer in self.encoder:
            x = layer(x)
            if isinstance(layer, PadMaxPool3d):
                x, *rest = x
                kept.append(rest)
        code = x.view(x.size(0), -1)
        for layer in self.decoder:
            x = layer(x, *kept.pop()) if isinstance(layer, CropMaxUnpool3d) else layer(x)
        return code, x


def test_the_labs_autoencoder_learns_with_these_layers():
    torch.manual_seed(0)
    model = LabAutoencoder()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    images = torch.rand(2, 1, 15, 10, 9)
    losses = []
    for _ in range(8):
        code, out = model(images)
        loss = F.mse_loss(out, images)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert code.shape == (2, 4 * 4 * 3 * 3)
    assert out.shape == images.shape
    assert losses[-1] < losses[0]


LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@given(poolings(), st.integers(0, 99))
def test_the_operations_for_other_devices_return_the_same_results(layout, case, seed):
    x, kernel, stride = case
    n = x.dim() - 2
    x = x.contiguous(memory_format=LAST[n]) if layout == "channels last" else x
    leaf, pool, plain = x.clone().requires_grad_(), POOLS[n](kernel, stride), POOLS[n](kernel, stride)
    pool.set_new_return(True, True)
    maxima, indices, pad = plain_pool(leaf, kernel, stride)
    gradient = values(maxima.shape, "mixed", seed)
    (expected,) = torch.autograd.grad(maxima, leaf, gradient)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("functional", "allocation"):
            patch.setattr(f"neurocnn.nn.{module}.is_eager", lambda x, device="cpu": False)  # as under vmap
        found = pool(leaf)
        assert torch.equal(found[0], maxima)
        assert torch.equal(found[1], indices)
        for out in (found[0], plain(leaf)):
            assert torch.equal(out, maxima)
            assert torch.equal(torch.autograd.grad(out, leaf, gradient)[0], expected)
        back = UNPOOLS[n](kernel, stride)(gradient, indices, pad)
    crop = [slice(front, None) for front in pad[::2][::-1]]
    assert torch.equal(back, naive_unpool(gradient, indices, padded(x, stride)[0].shape[2:])[..., *crop])


MAPS = {2: (2, 3, 5, 6), 3: (2, 3, 5, 6, 7)}


class RoundTrip(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.pool = POOLS[n](2, return_indices=True, return_pad=True)
        self.plain = POOLS[n](2)
        self.unpool = UNPOOLS[n](2)

    def forward(self, x):
        return self.plain(x), self.unpool(*self.pool(x))


@pytest.mark.parametrize("n", [2, 3])
class TestEverywhere:
    def expected(self, n):
        x = values(MAPS[n], "mixed", 1).float()
        return x, RoundTrip(n)(x)

    def test_deterministic_mode_returns_the_same_values(self, n):
        x, expected = self.expected(n)
        torch.use_deterministic_algorithms(True)
        x.requires_grad_()
        out = RoundTrip(n)(x)
        torch.testing.assert_close(out, expected, rtol=0, atol=0)
        sum(o.sum() for o in out).backward()
        assert x.grad is not None

    def test_compiled_layers_return_the_same_values(self, n):
        x, expected = self.expected(n)
        compiled = torch.compile(RoundTrip(n), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected, rtol=0, atol=0)
        out = compiled(x.clone().requires_grad_())
        torch.testing.assert_close(out, expected, rtol=0, atol=0)

    @pytest.mark.on_demand
    @pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++")
    def test_compiled_pooling_equals_eager_pooling(self, n):
        torch.compiler.reset()  # compilations of other tests count towards torch's limit
        x, expected = self.expected(n)
        gradients = [values(out.shape, "mixed", 4).float() for out in expected]
        compiled = torch.compile(RoundTrip(n), fullgraph=True)
        for layout in (torch.contiguous_format, LAST[n]):
            leaf = x.to(memory_format=layout, copy=True).requires_grad_()
            torch.testing.assert_close(compiled(leaf.detach()), expected, rtol=0, atol=0)
            out = compiled(leaf)
            torch.testing.assert_close(out, expected, rtol=0, atol=0)
            (found,) = torch.autograd.grad(out, leaf, gradients)
            (eager,) = torch.autograd.grad(RoundTrip(n)(leaf), leaf, gradients)
            assert torch.equal(found, eager)

    def test_exported_layers_return_the_same_values(self, n):
        x, expected = self.expected(n)
        program = torch.export.export(RoundTrip(n), (x,))
        torch.testing.assert_close(program.module()(x), expected, rtol=0, atol=0)

    def test_the_channels_last_format_is_kept_with_the_same_values(self, n):
        x, expected = self.expected(n)
        leaf = x.to(memory_format=LAST[n], copy=True).requires_grad_()
        for maps in (leaf.detach(), leaf):
            out = RoundTrip(n)(maps)
            torch.testing.assert_close(out, expected, rtol=0, atol=0)
            assert all(o.stride(1) == 1 for o in out)
        (gradient,) = torch.autograd.grad(out[0], leaf, torch.ones_like(out[0]))
        assert gradient.is_contiguous(memory_format=LAST[n])

    def test_the_feature_map_is_not_saved_for_the_backward_pass(self, n):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            POOLS[n](2)(values(MAPS[n], "mixed", 1).requires_grad_())
        assert kept  # the indices
        assert not any(x.is_floating_point() for x in kept)

    def test_autocast_returns_the_same_values(self, n):
        x, expected = self.expected(n)
        with torch.autocast("cpu", torch.bfloat16):
            out = RoundTrip(n)(x.bfloat16())  # small integers are exact in bfloat16
        torch.testing.assert_close(tuple(o.float() for o in out), expected, rtol=0, atol=0)

    def test_vmap_returns_the_same_values(self, n):
        x, expected = self.expected(n)
        for inner in (x, x.clone().requires_grad_()):
            out = torch.vmap(RoundTrip(n))(inner[None].expand(3, *x.shape))
            torch.testing.assert_close(out[0][1], expected[0], rtol=0, atol=0)
            torch.testing.assert_close(out[1][2], expected[1], rtol=0, atol=0)

    def test_all_functions_of_torch_return_the_same_gradients(self, n):
        x = values(MAPS[n], "mixed", 2).float()
        pool, gradient = POOLS[n](2), values(plain_pool(x, 2, 2)[0].shape, "mixed", 3).float()
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(plain_pool(leaf, 2, 2)[0], leaf, gradient)

        def derivative(maps, function=pool):
            return torch.func.vjp(function, maps)[1](gradient)[0]

        assert torch.equal(derivative(x), expected)
        assert torch.equal(torch.vmap(derivative)(x[None].expand(2, *x.shape))[1], expected)
        many = torch.vmap(torch.func.vjp(pool, x)[1])(gradient[None].expand(2, *gradient.shape))
        assert torch.equal(many[0][1], expected)
        last = x.to(memory_format=LAST[n])
        assert torch.equal(derivative(last), expected)
        compiled = torch.compile(pool, backend="aot_eager", fullgraph=True)
        (found,) = torch.autograd.grad(compiled(leaf), leaf, gradient)
        assert torch.equal(found, expected)
        half = x.bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = pool(half)
        (found,) = torch.autograd.grad(out, half, gradient.to(out.dtype))
        assert torch.equal(found.float(), expected)

    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    def test_gradients_through_vmap_and_batched_gradients_equal_a_loop(self, n, layout):
        x = values(MAPS[n], "mixed", 2)
        x = x.contiguous(memory_format=LAST[n]) if layout == "channels last" else x
        pool, leaf = POOLS[n](2), x.clone().requires_grad_()
        gradient = values((3, *pool(x).shape), "mixed", 3)
        expected = [torch.autograd.grad(plain_pool(leaf, 2, 2)[0], leaf, one)[0] for one in gradient]

        found = torch.autograd.grad(pool(leaf), leaf, gradient, is_grads_batched=True)[0]
        assert torch.equal(found, torch.stack(expected))

        def objective(maps):
            return (torch.vmap(pool)(maps) * gradient).sum()

        many = x.expand(3, *x.shape)
        assert torch.equal(torch.func.grad(objective)(many), torch.stack(expected))
        leaves = many.clone().requires_grad_()
        assert torch.equal(torch.autograd.grad(objective(leaves), leaves)[0], torch.stack(expected))

    @pytest.mark.parametrize("layout", ["contiguous", "channels last"])
    def test_batched_gradients_of_unpooling_equal_a_loop(self, n, layout):
        x = values(MAPS[n], "mixed", 2)
        x = x.contiguous(memory_format=LAST[n]) if layout == "channels last" else x
        maxima, indices, pad = POOLS[n](2, return_indices=True, return_pad=True)(x)
        leaf, gradient = maxima.clone().requires_grad_(), values((3, *x.shape), "mixed", 3)
        found = torch.autograd.grad(UNPOOLS[n](2)(leaf, indices, pad), leaf, gradient, is_grads_batched=True)[
            0
        ]
        expected = [torch.autograd.grad(UNPOOLS[n](2)(leaf, indices, pad), leaf, one)[0] for one in gradient]
        assert torch.equal(found, torch.stack(expected))
        assert not torch.equal(expected[0], expected[1])

    def test_the_default_device_does_not_affect_the_values(self, n):
        x, expected = self.expected(n)
        with torch.device("meta"):
            out = RoundTrip(n)(x)
        torch.testing.assert_close(out, expected, rtol=0, atol=0)

    def test_maps_of_one_voxel_are_contiguous_after_unpooling(self, n):
        maxima, indices, pad = POOLS[n](2, return_indices=True, return_pad=True)(torch.rand(2, 3, *[2] * n))
        assert UNPOOLS[n](2)(maxima, indices, pad).is_contiguous()

    def test_second_derivatives_pass_gradgradcheck(self, n):
        order = torch.randperm(math.prod(MAPS[n]), generator=torch.Generator().manual_seed(0)).double()
        x = (order - len(order) // 2 + 0.5).view(MAPS[n]).requires_grad_()
        assert torch.autograd.gradgradcheck(lambda maps: POOLS[n](2)(maps) ** 2, x[:1, :1], eps=1e-3)

    def test_shapes_on_the_meta_device_are_the_same(self, n):
        x, expected = self.expected(n)
        out = RoundTrip(n).to("meta")(x.to("meta"))
        assert [o.shape for o in out] == [o.shape for o in expected]


@pytest.mark.parametrize("value", [0, -1, (2, 2, 2), 2.0, (2, "2")])
def test_an_invalid_kernel_or_stride_is_refused(value):
    with pytest.raises(NeurocnnError, match="kernel_size"):
        PadMaxPool2d(value)
    with pytest.raises(NeurocnnError, match="stride"):
        CropMaxUnpool2d(2, value)


def test_maps_with_another_number_of_axes_are_refused():
    with pytest.raises(ModelError, match=r"feature maps of shape \(2, 3, 4, 5\); expected \(B, C, D, H, W\)"):
        PadMaxPool3d(2)(torch.zeros(2, 3, 4, 5))


def test_indices_of_another_pooling_are_refused():
    with pytest.raises(ModelError, match="indices of shape"):
        CropMaxUnpool2d(2)(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 3, 3, dtype=torch.int64))


def test_the_repr_of_layers_contains_kernel_and_stride():
    assert repr(PadMaxPool2d(2, (1, 2))) == "PadMaxPool2d(kernel_size=(2, 2), stride=(1, 2))"
    assert repr(CropMaxUnpool3d(2)) == "CropMaxUnpool3d(kernel_size=(2, 2, 2), stride=(2, 2, 2))"


def run_triton_cases(interpreted):
    file = Path(__file__).with_name("triton_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(file)]
    environment = os.environ | ({"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""} if interpreted else {})
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stdout


def test_the_triton_kernels_equal_padding_then_pooling_in_the_interpreter():
    """Run the cases in another process, because the interpreter must be chosen before triton is imported."""
    pytest.importorskip("triton")
    run_triton_cases(interpreted=True)


@pytest.mark.gpu
def test_the_triton_kernels_equal_padding_then_pooling_on_the_gpu():
    run_triton_cases(interpreted=False)

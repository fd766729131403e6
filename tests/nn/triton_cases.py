"""The Triton kernels equal operations of torch: pooling bit for bit, convolutions up to rounding.

They run on a GPU, or in Triton's interpreter.

`test_pooling.py` runs this file in a separate process, because the interpreter must be chosen before triton is
imported.
"""

import os

import pytest
import torch
import torch.nn.functional as F
import triton
from torch.func import grad, vmap

from neurocnn.nn import functional, triton_convolution
from neurocnn.nn.convolution import convolve
from neurocnn.nn.triton_pooling import max_pool_pairs, max_pool_pairs_with_positions, padded_indices

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_loops = pytest.mark.skipif(
    INTERPRETED and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8),
    reason="the interpreter of earlier versions of triton has no loops of a variable length with numpy 2.4",
)
SHAPES = [(1, 1, 1, 1, 1), (2, 3, 4, 4, 4), (1, 4, 7, 9, 5), (2, 5, 3, 2, 1), (2, 3, 5, 6), (1, 4, 4, 3)]
CASES = [(shape, torch.float32) for shape in SHAPES]
CASES += [((2, 3, 5, 4, 7), dtype) for dtype in (torch.float64, torch.bfloat16, torch.float16)]
KINDS = ["mixed", "ties", "negative", "nan", "inf"]


def maps(shape, dtype, kind, last):
    torch.manual_seed(len(shape) + sum(shape))
    x = torch.randn(shape).to(dtype)
    if kind == "ties":
        x = x.round()
    if kind == "negative":
        x = -x.abs()
    if kind == "nan":
        x[torch.rand(shape) < 0.2] = float("nan")
    if kind == "inf":
        x[torch.rand(shape) < 0.3] = -float("inf")
        x[torch.rand(shape) < 0.1] = float("inf")
    layout = (
        (torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
        if last
        else torch.contiguous_format
    )
    return x.to(DEVICE).contiguous(memory_format=layout)


def plain(x, return_indices=False):
    pad = [side for n in reversed(x.shape[2:]) for side in (n % 2, 0)]
    pool = F.max_pool2d if x.dim() == 4 else F.max_pool3d
    return pool(F.pad(x, pad), 2, 2, return_indices=return_indices)


def ours(x):
    return max_pool_pairs_with_positions(x)[0]


def same(one, other):
    return torch.equal(torch.nan_to_num(one, 7.25, 99, -99), torch.nan_to_num(other, 7.25, 99, -99))


@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_maxima_indices_and_gradients_equal_padding_then_pooling(shape, dtype, last):
    for kind in KINDS:
        x = maps(shape, dtype, kind, last)
        one, other = (x.clone().requires_grad_() for _ in range(2))
        out, codes = max_pool_pairs_with_positions(one)
        expected, indices = plain(other, return_indices=True)
        assert same(out, expected), kind
        assert torch.equal(padded_indices(codes, shape[2:]), indices), kind
        assert out.stride() == torch.empty_like(out, memory_format=torch.preserve_format).stride()
        gradient = torch.randn_like(expected)
        out.backward(gradient)
        expected.backward(gradient)
        assert torch.equal(one.grad, other.grad), kind
        assert same(max_pool_pairs(x, False)[0], expected), kind


def test_the_second_derivative_equals_that_of_padding_then_pooling():
    def twice(pool, x):
        x = x.clone().requires_grad_()
        [first] = torch.autograd.grad((pool(x) ** 3).sum(), x, create_graph=True)
        return torch.autograd.grad((first**2).sum(), x)[0]

    x = maps((2, 3, 5, 4, 7), torch.float64, "mixed", False)
    assert torch.equal(twice(ours, x), twice(plain, x))


def test_vmap_and_gradients_by_torch_func_equal_a_loop():
    x = torch.stack([maps((2, 3, 5, 4, 7), torch.float32, "mixed", False) + k for k in range(3)])
    assert torch.equal(vmap(ours)(x), torch.stack([ours(one) for one in x]))
    by_map = vmap(grad(lambda one: (ours(one) ** 2).sum()))(x)
    assert torch.equal(by_map, torch.stack([grad(lambda one: (plain(one) ** 2).sum())(one) for one in x]))


def test_autocast_keeps_the_type_of_the_maps():
    x = maps((1, 2, 3, 4, 5), torch.float32, "mixed", False)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert ours(x).dtype == torch.float32


@pytest.mark.skipif(DEVICE == "cpu", reason="torch.compile has no kernels of the interpreter")
def test_a_compiled_network_equals_the_eager_one():
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3)).to(DEVICE)
    x = maps((2, 1, 8, 9, 10), torch.float32, "mixed", False)
    assert torch.allclose(torch.compile(lambda x: ours(network(x)))(x), ours(network(x)), atol=1e-5)


def test_layers_use_the_kernels_if_the_kernels_are_enabled(monkeypatch):
    monkeypatch.setattr(functional, "pools_by_kernels", lambda x: True)
    x = maps((2, 3, 5, 4, 7), torch.float32, "ties", False)
    for wanted in (False, True):
        out, indices, padding = functional.pad_max_pool(x, (2, 2, 2), (2, 2, 2), wanted)
        expected = plain(x, return_indices=True)
        assert torch.equal(out, expected[0])
        assert padding == (1, 0, 0, 0, 1, 0)
        assert (indices is not None) == wanted
        assert indices is None or torch.equal(indices, expected[1])


def channels_last(*shape, dtype=torch.float32):
    return torch.randn(shape).to(DEVICE, dtype).contiguous(memory_format=torch.channels_last_3d)


CONVOLUTIONS = [(1, 8, 1, torch.float32), (1, 15, 0, torch.float32), (8, 16, 1, torch.float32)]
CONVOLUTIONS += [(1, 8, 1, torch.float16), (3, 5, 0, torch.float16)]


@needs_loops
@pytest.mark.parametrize(("c_in", "c_out", "padding", "dtype"), CONVOLUTIONS, ids=str)
def test_gradients_of_convolution_weights_equal_those_in_float64(monkeypatch, c_in, c_out, padding, dtype):
    monkeypatch.setattr(triton_convolution, "_PROGRAMS", 5)  # several steps per program
    torch.manual_seed(0)
    x = channels_last(2, c_in, 7, 8, 9, dtype=dtype)
    weight = torch.randn(c_out, c_in, 3, 3, 3, dtype=torch.float64, device=DEVICE).requires_grad_()
    bias = torch.randn(c_out, dtype=torch.float64, device=DEVICE).requires_grad_()
    expected = F.conv3d(x.double(), weight, bias, padding=padding)
    gradient = channels_last(*expected.shape, dtype=dtype)
    wanted = torch.autograd.grad(expected, (weight, bias), gradient.double())
    for found, exact in zip(triton_convolution.weight_gradient(x, gradient, padding), wanted, strict=True):
        assert (found - exact).norm() < 2e-5 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("c_out", "padding"), [(8, 1), (15, 0)])
def test_a_convolution_of_one_channel_equals_that_in_float64(c_out, padding, dtype):
    torch.manual_seed(0)
    x, weight, bias = (
        channels_last(2, 1, 5, 6, 7, dtype=dtype),
        torch.randn(c_out, 1, 3, 3, 3),
        torch.randn(c_out),
    )
    weight, bias = weight.to(DEVICE, dtype), bias.to(DEVICE, dtype)
    expected = F.conv3d(x.double(), weight.double(), bias.double(), padding=padding)
    for b, exact in ((bias, expected), (None, expected - bias.double().view(-1, 1, 1, 1))):
        found = triton_convolution.convolve(x, weight, b, padding)
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last_3d)
        error = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
        assert (found - exact).norm() < error * exact.norm()


@needs_loops
@pytest.mark.parametrize(("c_in", "c_out"), [(1, 4), (3, 5), (9, 2)])
def test_the_derivatives_of_a_convolution_equal_those_of_torch(c_in, c_out):
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(c_in, c_out, 3, padding=1).to(DEVICE)
    x = channels_last(2, c_in, 5, 6, 7).requires_grad_()
    inputs = [x, layer.weight, layer.bias]

    def derivatives(out):
        first = torch.autograd.grad((out**2).sum(), inputs, create_graph=True)
        return [*first, *torch.autograd.grad(first[1].square().sum(), inputs[:2])]

    with torch.backends.cudnn.flags(allow_tf32=False):
        expected = derivatives(layer(x))
    found = derivatives(convolve(layer, x, layer.weight, layer.bias))
    loss = (convolve(layer, x, layer.weight, layer.bias) ** 2).sum()
    for ours, theirs in zip(
        [*torch.autograd.grad(loss, inputs), *found], expected[:3] + expected, strict=True
    ):
        assert (ours - theirs).norm() <= 2e-3 * theirs.norm()

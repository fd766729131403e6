"""Networks of this package can be exported, traced and differentiated in forward mode."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import neurocnn as nc
from neurocnn.nn import PadMaxPool3d, pair_pooling

NETWORKS = [("Conv3_FC1", (1, 18, 20, 17)), ("Conv4_FC3", (1, 50, 50, 50)), ("Conv4_FC3", (1, 64, 70))]
#: torch.jit, which forward-mode derivatives use too, warns that it is deprecated and that sizes become constants.
JIT = pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")


def networks(name: str, shape: tuple[int, ...]) -> list[nn.Module]:
    model = nc.create_model(name, shape).eval()
    return [model, nc.CNN_Transformer(model, output="linear").eval()]


@pytest.mark.parametrize(("name", "shape"), NETWORKS)
def test_an_exported_network_returns_the_same_outputs(name: str, shape: tuple[int, ...]):
    images = torch.rand(2, *shape)
    for model in networks(name, shape):
        exported = torch.export.export(model, (images,)).module()
        torch.testing.assert_close(exported(images), model(images))


@pytest.mark.parametrize(("name", "shape"), NETWORKS)
@pytest.mark.filterwarnings("ignore")  # warnings of the exporter about its own code
def test_onnx_runtime_returns_the_same_outputs(name: str, shape: tuple[int, ...], tmp_path: Path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, images = networks(name, shape)[0], torch.rand(2, *shape)
    torch.onnx.export(model, (images,), tmp_path / "model.onnx", verbose=False)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, model(images).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), NETWORKS)
@JIT
def test_a_traced_network_returns_the_same_outputs_for_any_number_of_images(
    name: str, shape: tuple[int, ...]
):
    others = torch.rand(3, *shape)
    for model in networks(name, shape):
        traced = torch.jit.trace(model, torch.rand(2, *shape))
        torch.testing.assert_close(traced(others), model(others))


@JIT
def test_tensorboard_draws_the_graph_of_a_network(tmp_path: Path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        writer.add_graph(networks(*NETWORKS[0])[0], torch.rand(2, *NETWORKS[0][1]))
    assert next(tmp_path.iterdir()).stat().st_size > 5000


@pytest.mark.parametrize(("name", "shape"), NETWORKS[::2])
@JIT
def test_a_forward_mode_derivative_equals_a_difference_quotient(name: str, shape: tuple[int, ...]):
    torch.manual_seed(0)
    model = networks(name, shape)[0].double()
    images, direction = torch.rand(2, *shape).double(), torch.randn(2, *shape).double()
    _, found = torch.func.jvp(model, (images,), (direction,))
    with torch.no_grad():
        expected = (model(images + 1e-7 * direction) - model(images - 1e-7 * direction)) / 2e-7
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)


@JIT
def test_the_hessian_of_a_pooling_equals_that_of_its_maxima():
    pool, volume = nc.PadMaxPool3d(2), torch.rand(1, 1, 3, 3, 3).double()
    hessian = torch.func.hessian(lambda v: (pool(v) ** 3).sum())(volume).reshape(27, 27)
    # Each of the 8 windows has its own maximum m, and d²(m³) = 6 m at the position of m.
    padded = nn.functional.pad(volume, (1, 0) * 3)
    maxima = nn.functional.max_pool3d(padded, 2)
    expected = torch.zeros(27).double()
    for value in maxima.flatten():
        expected[(volume.flatten() == value).nonzero()[0]] = 6 * value
    torch.testing.assert_close(hessian, torch.diag(expected))


@JIT
def test_an_unpooling_has_a_forward_mode_derivative():
    pool = nc.PadMaxPool2d(2, return_indices=True, return_pad=True)
    image, unpool = torch.rand(1, 2, 5, 6), nc.CropMaxUnpool2d(2)
    maxima, indices, padding = pool(image)
    direction = torch.rand_like(maxima)
    _, found = torch.func.jvp(lambda m: unpool(m, indices, padding), (maxima,), (direction,))
    torch.testing.assert_close(found, unpool(direction, indices, padding))


@pytest.mark.parametrize("example", [2, 6])
def test_an_exported_pooling_accepts_batches_of_any_size(example, monkeypatch):
    # Batches of one to three maps are pooled by torch's kernel, larger ones in another way.
    monkeypatch.setattr(pair_pooling, "PAIRS_VOXELS", 3 * 2 * 9**3 + 1)
    pool, batch = PadMaxPool3d(2), {0: torch.export.Dim("B", min=1, max=64)}
    program = torch.export.export(pool, (torch.rand(example, 2, 9, 9, 9),), dynamic_shapes=(batch,)).module()
    for n in (1, 3, 4, 40):
        maps = torch.rand(n, 2, 9, 9, 9)
        assert torch.equal(program(maps), pool(maps))


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="needs torch with CUDA, but no GPU")
def test_a_large_map_on_a_gpu_is_exported_for_any_batch_size_and_without_triton():
    # Fake tensors have a device and a shape, but no memory, so that no GPU is needed.
    with FakeTensorMode():
        maps, batch = torch.empty(2, 8, 65, 64, 64, device="cuda"), {0: torch.export.Dim("B", min=1)}
        program = torch.export.export(PadMaxPool3d(2), (maps,), dynamic_shapes=(batch,))
    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert torch.ops.aten.max_pool3d_with_indices.default in called
    assert not [operator for operator in called if "neurocnn" in str(operator)]

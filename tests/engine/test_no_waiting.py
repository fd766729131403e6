"""The work for a batch does not make the host wait for a GPU.

Fake tensors have a device, but no values, so that no GPU is needed: reading a value raises an error, and copies between
the CPU and the GPU are recorded. The backward pass of torch is left out.
"""

import math
from contextlib import ExitStack, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from neurocnn import randomness
from neurocnn.engine import Trainer, classification, reconstruction, regression
from neurocnn.engine.batch import part_rows
from neurocnn.engine.evaluation import task_functions
from neurocnn.engine.inference import Computation, _Pass
from neurocnn.engine.labels import to_device
from neurocnn.engine.loading import Loading
from neurocnn.engine.losses import UpdateLosses
from neurocnn.engine.non_finite import finite_rows
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.run import Run
from neurocnn.nn import create_model, kernels

pytestmark = pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="needs torch with CUDA, but no GPU"
)
GPU = torch.device("cuda", 0)
CLASSES = ["CN", "AD"]
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class FakeGpu(TorchDispatchMode):
    """Fake the tensors on a GPU, and record for each copy between the CPU and the GPU whether it waits."""

    def __init__(self):
        super().__init__()
        self.waits: list[bool] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given, named = pytree.tree_leaves(args), kwargs or {}
        is_fake = any(isinstance(each, FakeTensor) for each in given) or named.get("device") == GPU
        with nullcontext() if is_fake else unset_fake_temporarily():
            found = function(*args, **named)
        copied = [each for each in (*given, found) if isinstance(each, Tensor)]
        if function in COPIES and len({each.device.type for each in copied}) > 1:
            # The last argument of `copy_(target, source, non_blocking)` may be given by position.
            self.waits.append(not (named.get("non_blocking") or args[2:] == (True,)))
        return found


@pytest.fixture
def gpu(monkeypatch):
    """Fake a GPU during a test."""

    def backward(loss):
        for parameter in networks[-1].parameters():
            parameter.grad = torch.zeros_like(parameter)

    networks: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "to", lambda module, *args, **kwargs: networks.append(module) or module)
    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(randomness, "_accelerator_module", lambda device: None)
    # Triton's kernels cannot be launched for fake tensors.
    monkeypatch.setattr(kernels, "TRITON_VOXELS", None)
    with FakeTensorMode(allow_non_fake_inputs=True), FakeGpu() as mode:
        yield mode


def batch_on_gpu(n=4, labels=("CN", "AD")):
    return {
        "image": torch.rand(n, 1, 32, 33, 34, device=GPU),
        "label": [labels[row % 2] for row in range(n)],
        "participant_id": [f"sub-{row}" for row in range(n)],
        "session_id": ["ses-M00"] * n,
        "part_id": torch.arange(n) % 2,
    }


def network(task):
    with torch.device(GPU):
        if task.reconstructs:
            return nn.Conv3d(1, 1, 3, padding=1)
        return create_model("Conv3_FC1", (1, 32, 33, 34), n_outputs=task.n_outputs, fused=False)


TRAININGS = {
    "classification": (classification("diagnosis", CLASSES), {}),
    "class weights": (classification("diagnosis", CLASSES, class_weights=[1.0, 2.0]), {}),
    "regression": (regression("age", mean=70, scale=10), {"clip_gradient": 1.0}),
    "reconstruction": (reconstruction(), {"accumulation_steps": 2}),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_an_update_does_not_wait(name, gpu):
    task, settings = TRAININGS[name]
    run = Run(network(task), Trainer(**settings), task, None, GPU, Ranks())
    run.losses._read = math.inf  # Losses are read only after half a second.
    labels = (70.0, 80.5) if name == "regression" else CLASSES
    gpu.waits.clear()
    for last in (False, True):
        run.accumulate(batch_on_gpu(labels=labels), n_samples=8, empty=False, last=last)
    run.update()
    assert gpu.waits == [False] * (0 if task.reconstructs else 2)


def test_losses_are_on_the_gpu_also_for_an_update_without_samples(gpu):
    losses = UpdateLosses([], GPU)
    losses._read = math.inf
    losses.add(torch.rand(3, device=GPU), {})
    losses.end_update("update 0")
    losses.end_update("update 1")  # as of a rank without samples of its own
    assert {losses._mean(batches).device for _, batches in losses._updates} == {GPU}


@pytest.mark.parametrize("labels", [CLASSES, None])
def test_a_batch_of_an_evaluation_does_not_wait(labels, gpu):
    task = classification("diagnosis", CLASSES)
    computation = Computation(4, Loading(0, torch.device("cpu")), GPU, "float32", 0, Ranks())
    batch = batch_on_gpu()
    if labels is None:
        del batch["label"]
    with ExitStack() as stack:
        one = _Pass(network(task), computation, task_functions(task, computation), stack)
        gpu.waits.clear()
        for first in (0, 4):
            one.add(batch, first)
    assert gpu.waits == []


def test_the_search_for_outputs_that_are_not_finite_does_not_wait(gpu):
    code, image = torch.rand(4, 8, device=GPU), torch.rand(4, 1, 5, 5, device=GPU)
    classes = torch.zeros(4, dtype=torch.int64, device=GPU)
    found = finite_rows({"codes": [code, classes, None], "image": image, "mean": image.mean()}, 4)
    assert (found.device, found.shape) == (GPU, (4,))
    assert gpu.waits == []


def test_the_selection_of_the_rows_of_a_part_does_not_wait(gpu):
    rows = part_rows(batch_on_gpu(), 1)
    assert rows["image"].shape[0] == 2
    assert gpu.waits == [False]


def test_a_wait_is_noticed(gpu):
    with pytest.raises(DataDependentOutputException):
        float(torch.rand((), device=GPU))
    torch.ones(3).to(GPU)
    torch.ones(3, device=GPU).cpu()
    torch.ones(3, device=GPU).copy_(torch.ones(3))
    to_device(torch.ones(3), GPU)
    assert gpu.waits == [True, True, True, False]

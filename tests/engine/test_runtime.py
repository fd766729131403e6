import os

import pytest
import torch
from torch import nn
from toys import Toys, network, same_weights

from neurocnn.engine import Trainer, classification
from neurocnn.engine.runtime import find_device, memory_format, to_model_format, use_deterministic_algorithms
from neurocnn.errors import SettingError
from neurocnn.randomness import RandomState

CPU = torch.device("cpu")
TASK = classification("diagnosis", ["CN", "AD"])


@pytest.mark.parametrize("name", ["warp", "cuda:99", "cpu:x"])
def test_an_error_names_a_missing_device(name):
    with pytest.raises(SettingError, match=name):
        find_device(name)


def test_a_gpu_is_used_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: pytest.fail("changed torch's current device"))
    assert find_device("auto", local_rank=2) == torch.device("cuda", 2)
    assert find_device("cuda:1", local_rank=2) == torch.device("cuda", 1)


def test_random_states_of_networks_are_independent():
    one, other = RandomState(0, CPU), RandomState(0, CPU)
    outer = torch.get_rng_state()
    with one.as_global():
        first = torch.rand(3)
    with other.as_global():
        assert torch.equal(torch.rand(3), first)
    with one.as_global():
        second = torch.rand(3)
    assert not torch.equal(first, second)
    again = RandomState(5, CPU)
    again.restore(other.state())
    with again.as_global():
        assert torch.equal(torch.rand(3), second)
    assert torch.equal(torch.get_rng_state(), outer)


def test_determinism_changes_and_restores_the_setting_of_torch():
    with use_deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("layer", "layout", "shape"),
    [
        (nn.Conv3d(1, 2, 3), torch.channels_last_3d, (2, 3, 4, 5, 6)),
        (nn.Conv2d(1, 2, 3), torch.channels_last, (2, 3, 4, 5)),
        (nn.Linear(1, 2), torch.contiguous_format, (2, 3)),
    ],
)
def test_images_get_the_memory_format_of_the_network(layer, layout, shape):
    assert memory_format(nn.Sequential(layer)) == layout
    assert to_model_format(torch.rand(shape), CPU, torch.float32, layout).is_contiguous(memory_format=layout)


def test_a_tensor_without_image_axes_is_converted_to_the_dtype_only():
    assert (
        to_model_format(torch.rand(2, 3), CPU, torch.float64, torch.channels_last_3d).dtype == torch.float64
    )


def test_compile_true_trains_with_torch_compile(monkeypatch):
    compiled = []

    def fake(module):
        compiled.append(module)
        return module

    monkeypatch.setattr(torch, "compile", fake)
    model = network()
    Trainer(epochs=1, device="cpu", compile=True).fit(model, TASK, Toys(4))
    assert compiled == [model]


@pytest.mark.on_demand
def test_a_compiled_network_ends_near_the_eager_network(tmp_path):
    eager, compiled = network(norm=False), network(norm=False)
    trainer = {"epochs": 3, "device": "cpu", "batch_size": 3, "learning_rate": 1e-3}
    Trainer(**trainer).fit(eager, TASK, Toys(8))
    training = Trainer(**trainer, compile=True).fit(compiled, TASK, Toys(8), folder=tmp_path)
    for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    network(norm=False).load_state_dict(training.best["best_loss"])


def test_deterministic_training_uses_only_deterministic_algorithms_and_ends_with_the_same_bits():
    enabled, weights = [], []
    for _ in range(2):
        model = network(dropout=0.5)
        Trainer(epochs=2, device="cpu", deterministic=True).fit(
            model,
            TASK,
            Toys(4),
            callbacks=[lambda state: enabled.append(torch.are_deterministic_algorithms_enabled())],
        )
        weights.append(model.state_dict())
    assert enabled == [True] * 4
    assert not torch.are_deterministic_algorithms_enabled()
    assert same_weights(*weights)

"""Which networks may be repeated as a CUDA graph."""

import copy

import pytest
import torch
from torch import nn
from toys import network

from neurocnn.engine.gradients import has_static_layers


def replace_forward(model):
    model[0].forward = copy.copy(model[0].forward)


CHANGES = {
    "forward hook": lambda model: model[0].register_forward_hook(lambda *arguments: None),
    "forward pre-hook": lambda model: model[1].register_forward_pre_hook(lambda *arguments: None),
    "backward hook": lambda model: model[2].register_full_backward_hook(lambda *arguments: None),
    "backward pre-hook": lambda model: model.register_full_backward_pre_hook(lambda *arguments: None),
    "replaced forward": replace_forward,
    "hook of a gradient": lambda model: model[0].weight.register_hook(lambda gradient: gradient),
    "hook after a gradient": lambda model: model[0].weight.register_post_accumulate_grad_hook(
        lambda parameter: None
    ),
    "hook of all modules": lambda model: nn.modules.module.register_module_forward_hook(
        lambda *arguments: None
    ),
    "own layer": lambda model: model.append(type("Own", (nn.Module,), {})()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_with_python_code_of_its_own_is_not_static(change):
    model = network()
    assert has_static_layers(model)
    handle = CHANGES[change](model)
    try:
        assert not has_static_layers(model)
    finally:
        if change == "hook of all modules":
            handle.remove()


def test_a_compiled_or_wrapped_layer_is_not_static():
    model = network()
    model[2] = torch.compile(model[2])
    assert not has_static_layers(model)

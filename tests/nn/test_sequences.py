"""The evaluation of a CNN with folded batch norm gives the outputs of its layers, applied one after the other."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neurocnn.errors import SettingError
from neurocnn.nn import CNN, PadMaxPool2d, PadMaxPool3d, create_model


def randomize(model: nn.Module) -> nn.Module:
    """Give all parameters and statistics random values, as after a training, in float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator)
                value.copy_(noise + 0.2 if "running_var" in name else noise - 0.5)
    return model.double().eval()


def one_by_one(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def both(layers: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of a CNN without gradients, and those of its layers."""
    with torch.no_grad():
        return CNN(layers, nn.Flatten())(x), one_by_one(layers, x).flatten(1)


@settings(max_examples=60, deadline=None)
@given(
    axes=st.sampled_from([2, 3]),
    size=st.integers(7, 12),
    groups=st.sampled_from([1, 2]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    padding=st.sampled_from([0, 1]),
    mode=st.sampled_from(["zeros", "circular", "reflect"]),
    bias=st.booleans(),
    affine=st.booleans(),
    tracked=st.booleans(),
    training=st.booleans(),
    slope=st.sampled_from([0.0, 0.1, 3.0, -0.5]),
    pool=st.sampled_from(["pad", "torch", "padded", "none"]),
    nested=st.booleans(),
    norm_last=st.booleans(),
)
def test_outputs_equal_those_of_the_layers_one_by_one(
    axes,
    size,
    groups,
    stride,
    dilation,
    padding,
    mode,
    bias,
    affine,
    tracked,
    training,
    slope,
    pool,
    nested,
    norm_last,
):
    convolution, norm, pad_pool, max_pool = (
        (nn.Conv2d, nn.BatchNorm2d, PadMaxPool2d, nn.MaxPool2d)
        if axes == 2
        else (nn.Conv3d, nn.BatchNorm3d, PadMaxPool3d, nn.MaxPool3d)
    )
    pools = {"pad": pad_pool(2), "torch": max_pool(2), "padded": max_pool(3, 2, padding=1, ceil_mode=True)}
    layers = [
        convolution(2, 4, 3, stride, padding, dilation, groups, bias, padding_mode=mode),
        norm(4, affine=affine, track_running_stats=tracked),
        nn.LeakyReLU(slope),
    ]
    if norm_last:
        layers = [layers[0], layers[2], layers[1]]
    if pool != "none":
        layers.append(pools[pool])
    sequence = nn.Sequential(nn.Sequential(*layers[:2]), *layers[2:]) if nested else nn.Sequential(*layers)
    sequence = randomize(sequence)
    twin = copy.deepcopy(sequence)
    for model in (sequence, twin):
        for module in model.modules():
            if isinstance(module, norm):
                module.train(training)
    x = torch.rand(3, 2, *[size] * axes, dtype=torch.float64) - 0.5
    with torch.no_grad():
        outputs = CNN(sequence, nn.Flatten())(x)
        expected = one_by_one(twin, x).flatten(1)
    torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-10)
    for name, value in sequence.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Conv3_FC1", "Conv4_FC3", "Conv4_FC3_v1", "Conv5_FC3"])
@pytest.mark.parametrize("shape", [(1, 40, 33), (1, 33, 40, 35)])
def test_built_in_networks_give_the_same_outputs_with_and_without_folding(name, shape):
    folded, plain = (randomize(create_model(name, shape, fused=fold)) for fold in (True, False))
    x = torch.rand(2, *shape, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), plain(x), rtol=1e-10, atol=1e-10)
    assert list(folded.state_dict()) == list(plain.state_dict())


def blocks() -> nn.Sequential:
    layers = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), PadMaxPool3d(2))
    return randomize(layers).float()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with each application of a batch norm as a layer."""
    found: list[int] = []
    forward = nn.BatchNorm3d.forward

    def counted(self: nn.BatchNorm3d, x: Tensor) -> Tensor:
        found.append(1)
        return forward(self, x)

    monkeypatch.setattr(nn.BatchNorm3d, "forward", counted)
    return found


def test_evaluation_without_gradients_skips_the_batch_norm_and_training_does_not(calls):
    cnn, x = CNN(blocks(), nn.Flatten()), torch.rand(2, 1, 8, 8, 8)
    with torch.no_grad():
        cnn(x)
    assert not calls
    cnn(x)
    cnn.train()
    cnn(x)
    assert len(calls) == 2


def test_fused_switches_folding_off(calls):
    with torch.no_grad():
        CNN(blocks(), nn.Flatten(), fused=False)(torch.rand(2, 1, 8, 8, 8))
    assert len(calls) == 1
    with pytest.raises(SettingError, match="fused='no'"):
        CNN(blocks(), nn.Flatten(), fused="no")


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_see_the_output_of_each_layer(register):
    layers, x, seen = blocks(), torch.rand(2, 1, 8, 8, 8), []
    handle = getattr(layers[1], register)(lambda *arguments: seen.append(arguments[-1]))
    with torch.no_grad():
        expected = layers[0](x) if register == "register_forward_pre_hook" else layers[:2](x)
        seen.clear()
        CNN(layers, nn.Flatten())(x)
        found = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        handle.remove()
        CNN(layers, nn.Flatten())(x)
    assert len(seen) == 1


def test_a_replaced_forward_of_a_layer_is_called():
    layers, x = blocks(), torch.rand(2, 1, 8, 8, 8)
    layers[1].forward = torch.zeros_like
    for training in (False, True):
        assert not CNN(layers, nn.Flatten()).train(training)(x).any()
        with torch.no_grad():
            assert not CNN(layers, nn.Flatten()).train(training)(x).any()


def test_autocast_and_half_precision_apply_the_layers(calls):
    cnn, x = CNN(blocks(), nn.Flatten()), torch.rand(2, 1, 8, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cnn(x)
    with torch.no_grad():
        cnn.bfloat16()(x.bfloat16())
    assert len(calls) == 2


def test_a_subclass_of_a_layer_is_applied_as_it_is():
    class Doubled(nn.Conv3d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layers = randomize(nn.Sequential(Doubled(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), PadMaxPool3d(2)))
    torch.testing.assert_close(*both(layers, torch.rand(2, 1, 8, 8, 8, dtype=torch.float64)))


def test_vmap_over_stacked_networks_equals_the_networks():
    networks, x = [CNN(blocks(), nn.Flatten()) for _ in range(3)], torch.rand(2, 1, 8, 8, 8)
    for k, network in enumerate(networks):
        network.convolutions[0].bias.data += k
    parameters, buffers = torch.func.stack_module_state(networks)  # type: ignore[arg-type]
    with torch.no_grad():
        outputs = torch.vmap(lambda p, b: torch.func.functional_call(networks[0], (p, b), (x,)))(
            parameters, buffers
        )
        expected = torch.stack([one_by_one(network.convolutions, x).flatten(1) for network in networks])
    torch.testing.assert_close(outputs, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_export_and_trace_give_the_same_outputs():
    cnn, x = CNN(blocks(), nn.Flatten()), torch.rand(2, 1, 8, 8, 8)
    with torch.no_grad():
        expected = one_by_one(cnn.convolutions, x).flatten(1)
        torch.testing.assert_close(torch.export.export(cnn, (x,)).module()(x), expected)
        torch.testing.assert_close(torch.jit.trace(cnn, x)(x), expected)


def test_weights_that_are_not_finite_give_outputs_that_are_not_finite():
    layers = blocks()
    with torch.no_grad():
        layers[1].running_mean[2] = torch.nan
        assert CNN(layers, nn.Flatten())(torch.rand(2, 1, 8, 8, 8)).isnan().any()

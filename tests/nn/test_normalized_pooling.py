"""Batch norm, activation and pooling as one operation give the values and gradients of the three layers."""

import contextlib
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neurocnn.nn import CNN, PadMaxPool2d, PadMaxPool3d, create_model, normalized_pooling, sequences
from neurocnn.nn.normalized_pooling import normalize_and_pool, normalizes_and_pools

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def layers_of(axes: int, slope: float, **norm: object) -> nn.Sequential:
    """Return a batch norm with random weights, an activation and a pooling, in float64 and training mode."""
    kinds = {2: (nn.BatchNorm2d, PadMaxPool2d), 3: (nn.BatchNorm3d, PadMaxPool3d)}[axes]
    layers = nn.Sequential(
        kinds[0](3, **norm), nn.LeakyReLU(slope) if slope else nn.ReLU(), kinds[1](2)
    ).double()
    with torch.no_grad():
        layers[0].weight.copy_(torch.rand(3) + 0.1)
        layers[0].bias.copy_(torch.rand(3) - 0.5)
    return layers


def one_by_one(layers: nn.Sequential, y: Tensor) -> Tensor:
    for layer in layers:
        y = layer(y)
    return y


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=2, max_size=3),
    batch=st.integers(1, 3),
    channels_last=st.booleans(),
    slope=st.sampled_from([0.0, 0.1, 1.0, 3.0]),
    momentum=st.sampled_from([0.1, 1.0, 0.0]),
    tracked=st.booleans(),
    offset=st.sampled_from([0.0, 100.0]),
    levels=st.sampled_from([None, 2]),
    frozen=st.booleans(),
    sliced=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_values_gradients_and_statistics_are_those_of_the_layers(
    sizes, batch, channels_last, slope, momentum, tracked, offset, levels, frozen, sliced, seed
):
    """`levels` rounds the voxels to a few values, so that most windows have several equal maxima."""
    torch.manual_seed(seed)
    fused = layers_of(len(sizes), slope, momentum=momentum, track_running_stats=tracked)
    plain = copy.deepcopy(fused)
    y = torch.randn(batch, 3, *sizes, dtype=torch.float64)
    y = (y * levels).round() / levels if levels else y
    if y.numel() == 3 or y.var((0, *range(2, y.dim()))).min() < 1e-3:
        return
    y = (y + offset).contiguous(memory_format=LAYOUTS[y.dim()] if channels_last else torch.contiguous_format)
    if sliced:
        y = torch.cat([y, y], -1)[..., : sizes[-1]]
    inputs = [y.detach().requires_grad_(not frozen) for _ in range(2)]

    outputs = [normalize_and_pool(*fused, inputs[0]), one_by_one(plain, inputs[1])]
    torch.testing.assert_close(*outputs, rtol=1e-11, atol=1e-11)
    gradient = torch.randn_like(outputs[0])
    for out in outputs:
        out.backward(gradient)

    for name, value in fused.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=0, atol=0, msg=name)
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-9)
    if not frozen:
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("axes", [2, 3])
def test_first_and_second_derivatives_equal_numerical_ones(axes: int):
    torch.manual_seed(0)
    norm, activation, pool = layers_of(axes, 0.1)
    y = torch.randn(2, 3, *[3] * axes, dtype=torch.float64, requires_grad=True)

    def function(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values = {"weight": weight, "bias": bias}
        with torch.nn.utils.stateless._reparametrize_module(norm, values):
            return normalize_and_pool(norm, activation, pool, y)

    inputs = y, norm.weight.detach().requires_grad_(), norm.bias.detach().requires_grad_()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("change", ["negative", "zero", "float16", "untracked", "no bias"])
def test_the_layers_are_applied_where_the_operation_does_not_hold(change: str):
    torch.manual_seed(0)
    layers = layers_of(2, 0.0).float()
    norm, y = layers[0], torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        if change in ("negative", "zero"):
            norm.weight[1] = -0.5 if change == "negative" else 0.0
    if change == "float16":
        y = y.half()
    elif change == "untracked":
        norm.track_running_stats = False
    elif change == "no bias":
        norm.bias = None
    plain = copy.deepcopy(layers)
    torch.testing.assert_close(normalize_and_pool(*layers, y), one_by_one(plain, y), rtol=1e-6, atol=1e-6)
    assert layers.state_dict().keys() == plain.state_dict().keys()
    for one, other in zip(layers.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 3, 5, 6, 7), (3, 8, 9, 1, 2), (1, 1, 4, 3), (2, 15, 6, 5)])
@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (100.0, 0.1), (-3.0, 20.0)])
@pytest.mark.parametrize("tracked", [False, True])
def test_statistics_of_channels_last_maps_equal_those_in_float64(shape, offset, scale, tracked, monkeypatch):
    monkeypatch.setattr(normalized_pooling, "_PIECE", 40)
    torch.manual_seed(0)
    kinds = {4: (nn.BatchNorm2d, PadMaxPool2d), 5: (nn.BatchNorm3d, PadMaxPool3d)}[len(shape)]
    norm = kinds[0](shape[1], momentum=0.3, track_running_stats=tracked)
    y = (torch.randn(shape) * scale + offset).contiguous(memory_format=LAYOUTS[len(shape)])
    before = [torch.randn(shape[1]), torch.rand(shape[1])]
    if tracked:
        norm.running_mean.copy_(before[0])
        norm.running_var.copy_(before[1])
    plain = copy.deepcopy(norm).double()
    found = normalize_and_pool(norm, nn.ReLU(), kinds[1](2), y)
    expected = one_by_one(nn.Sequential(plain, nn.ReLU(), kinds[1](2)), y.double())
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=2e-4)
    if tracked:
        values = y.double().movedim(1, 0).flatten(1)
        for name, new, old in zip(
            ("running_mean", "running_var"), (values.mean(1), values.var(1)), before, strict=True
        ):
            torch.testing.assert_close(
                getattr(norm, name), (0.7 * old + 0.3 * new).float(), rtol=2e-6, atol=1e-6
            )


def test_statistics_with_infinite_values_and_another_default_device_are_those_of_the_norm():
    y = torch.randn(2, 3, 5, 6).contiguous(memory_format=torch.channels_last)
    y[0, 1, 2, 2] = float("inf")
    norm, plain = (nn.BatchNorm2d(3, momentum=0.6) for _ in range(2))
    with torch.device("meta"):
        normalize_and_pool(norm, nn.ReLU(), PadMaxPool2d(2), y)
    plain(y)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var, equal_nan=True)


@pytest.mark.parametrize("n_features", [1, 2, 4])
def test_a_norm_for_another_number_of_channels_is_refused_and_writes_nothing(n_features: int):
    norm = nn.BatchNorm2d(n_features)
    memory = torch.zeros(2, 64)
    norm.running_mean, norm.running_var = memory[0, :n_features], memory[1, :n_features]
    with pytest.raises(RuntimeError):
        normalize_and_pool(norm, nn.ReLU(), PadMaxPool2d(2), torch.randn(2, 3, 5, 5) + 9)
    assert not memory.any()


def tied_cnn() -> tuple[CNN, CNN]:
    """Return a CNN whose two blocks are the same layers, and a copy that applies them one by one."""
    torch.manual_seed(0)
    block = [nn.Conv2d(2, 2, 3, padding=1), *layers_of(2, 0.1, eps=1e-3)]
    block[1] = nn.BatchNorm2d(2).double()
    fused = CNN(nn.Sequential(*block, *block), nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4, 2))).double()
    plain = copy.deepcopy(fused)
    plain.fused = False
    return fused, plain


def test_gradients_of_tied_layers_with_a_graph_equal_those_of_the_layers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sequences, "SMALLEST_MAP", 0)
    x = torch.randn(4, 2, 11, 13, dtype=torch.float64)
    found = []
    for model in tied_cnn():
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(model(x).pow(3).sum(), parameters, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in gradients)
        found.append([*gradients, *torch.autograd.grad(penalty, parameters)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_batched_gradients_and_torch_func_give_the_results_of_the_layers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sequences, "SMALLEST_MAP", 0)
    x = torch.randn(4, 2, 11, 13, dtype=torch.float64, requires_grad=True)
    found = []
    for model in tied_cnn():
        eye = torch.eye(2, dtype=torch.float64)
        batched = torch.autograd.grad(model(x)[0], x, eye, is_grads_batched=True)[0]
        heads = {
            name: value.detach().expand(3, *value.shape) for name, value in model.fc.named_parameters("fc")
        }
        outputs = torch.func.vmap(
            lambda head, model=model: torch.func.functional_call(model, head, (x.detach(),))
        )(heads)
        found.append((batched, outputs))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_single_value_per_channel_is_refused_as_by_the_layer():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normalize_and_pool(*layers_of(2, 0.0), torch.zeros(1, 3, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("which", "layer"),
    [
        (0, nn.BatchNorm3d(3).eval()),
        (0, nn.BatchNorm3d(3, momentum=None)),
        (0, nn.InstanceNorm3d(3)),
        (1, nn.ELU()),
        (1, nn.LeakyReLU(-0.1)),
        (2, PadMaxPool3d(3)),
        (2, PadMaxPool3d(2, 1)),
        (2, PadMaxPool3d(2, return_indices=True)),
        (2, nn.MaxPool3d(2)),
    ],
)
def test_other_layers_are_not_computed_together(which: int, layer: nn.Module):
    layers = list(layers_of(3, 0.0))
    assert normalizes_and_pools(tuple(layers))
    layers[which] = layer
    assert not normalizes_and_pools(tuple(layers))


def bytes_for_the_backward_pass(model: nn.Module, x: Tensor) -> int:
    storages = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


@pytest.mark.parametrize("name", ["Conv3_FC1", "Conv4_FC3", "Conv5_FC3"])
def test_a_training_with_fused_layers_equals_one_without_and_needs_less_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sequences, "SMALLEST_MAP", 0)
    shape = (1, 36, 33, 40)
    models = [create_model(name, shape, fused=fused).double() for fused in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    x, target = torch.rand(4, *shape, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    memory = [bytes_for_the_backward_pass(copy.deepcopy(model).train(), x) for model in models]
    assert memory[0] < 0.8 * memory[1]

    losses = []
    for model in models:
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01)
        losses.append([])
        for _ in range(3):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), target)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())

    assert losses[0][2] != losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for key, value in models[0].state_dict().items():
        torch.testing.assert_close(value, models[1].state_dict()[key], rtol=1e-7, atol=1e-9)


def test_nested_sequences_and_repeated_layers_are_computed_together(monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(sequences, "SMALLEST_MAP", 0)
    monkeypatch.setattr(
        sequences,
        "normalize_and_pool",
        lambda *args, **options: calls.append(1) or normalize_and_pool(*args, **options),
    )
    torch.manual_seed(0)
    block = nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()), PadMaxPool2d(2)
    )
    fused = CNN(nn.Sequential(block, block), nn.Flatten()).double()
    plain = copy.deepcopy(fused)
    plain.fused = False
    x = torch.rand(3, 2, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(fused(x), plain(x), rtol=1e-11, atol=1e-11)
    assert len(calls) == 2
    assert fused.convolutions[0][1][0].num_batches_tracked == 2
    for one, other in zip(fused.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def assert_without_graph(gradient: Tensor) -> None:
    assert not gradient.requires_grad
    assert gradient.grad_fn is None


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("retain", [False, True])
def test_the_map_is_overwritten_by_its_gradient_only_if_nothing_else_needs_it(layout, overwrite, retain):
    torch.manual_seed(0)
    layers = layers_of(3, 0.1)
    x = torch.randn(2, 3, 5, 7, 6, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(one_by_one(copy.deepcopy(layers), x).pow(2).sum(), x)[0]

    y = x.contiguous(memory_format=LAYOUTS[5]) if layout == "channels last" else x * 1
    before, passed = y.detach().clone(), []
    y.register_hook(lambda gradient: passed.append(gradient.data_ptr()) or assert_without_graph(gradient))
    loss = normalize_and_pool(*layers, y, overwrite=overwrite).pow(2).sum()
    for _ in range(2 if retain else 1):
        found = torch.autograd.grad(loss, x, retain_graph=retain)[0]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)

    overwritten = overwrite and not retain
    assert torch.equal(y, before) == (not overwritten)
    assert {pointer == y.data_ptr() for pointer in passed} == {overwritten}


def test_only_outputs_of_convolutions_are_overwritten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sequences, "SMALLEST_MAP", 0)
    block = [nn.BatchNorm2d(2), nn.ReLU(), PadMaxPool2d(2)]
    model = CNN(nn.Sequential(*block, nn.Conv2d(2, 2, 3), nn.Dropout(0.5), *block), nn.Flatten())
    image = torch.randn(4, 2, 12, 12, requires_grad=True)
    before = image.detach().clone()
    asked = []
    monkeypatch.setattr(
        sequences,
        "normalize_and_pool",
        lambda *args, overwrite: asked.append(overwrite) or normalize_and_pool(*args, overwrite=overwrite),
    )
    model(image).sum().backward()
    assert asked == [False, False]
    assert torch.equal(image, before)
    CNN(nn.Sequential(nn.Conv2d(2, 2, 3), *block), nn.Flatten())(image)
    assert asked[2:] == [True]


@pytest.mark.parametrize("observer", ["saved tensors", "functions", "operations", "replaced method"])
def test_a_map_that_something_else_may_have_is_not_overwritten(
    observer: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sequences, "SMALLEST_MAP", 0)
    kept: list[Tensor] = []

    def keep(found: object) -> object:
        if isinstance(found, Tensor) and found.shape == (4, 2, 11, 13):
            kept.append(found.detach())
        return found

    class Functions(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), options=None):
            return keep(function(*args, **(options or {})))

    class Operations(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), options=None):
            return keep(function(*args, **(options or {})))

    model, plain = tied_cnn()
    convolution = model.convolutions[0]
    if observer == "replaced method":
        original = convolution._conv_forward
        convolution._conv_forward = lambda *args: keep(original(*args))
    x = torch.randn(4, 2, 11, 13, dtype=torch.float64)
    hooks = torch.autograd.graph.saved_tensors_hooks
    contexts = {
        "saved tensors": lambda: hooks(keep, lambda tensor: tensor),
        "functions": Functions,
        "operations": Operations,
    }
    with contexts.get(observer, contextlib.nullcontext)():
        loss = model(x).pow(2).sum()
    before = [tensor.clone() for tensor in kept]
    loss.backward()
    assert kept
    assert all(torch.equal(*pair) for pair in zip(kept, before, strict=True))
    plain(x).pow(2).sum().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-9)

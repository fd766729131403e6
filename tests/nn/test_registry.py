"""create_model returns a checked network from a name, a builder or a module."""

import dataclasses
import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

from neurocnn.errors import ModelError, NeurocnnError
from neurocnn.nn import CNN_Transformer, create_model, describe, list_models, registry, transfer_weights
from neurocnn.nn.dry_run import dry_run


def small(input_shape, n_outputs, *, width=4):
    """Return a small network, as a user's builder does."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(input_shape[0] * 4, n_outputs))


def test_every_name_is_listed_with_package_and_version():
    from importlib.metadata import version

    names = ["Conv3_FC1", "Conv4_FC3", "Conv4_FC3_v1", "Conv5_FC3", "Conv5_FC3_mni", "resnet18"]
    assert {name: list_models()[name] for name in names} == dict.fromkeys(
        names, f"neurocnn {version('neurocnn')}"
    )


def test_a_builder_is_accepted_instead_of_a_name():
    assert create_model(small, (3, 9, 9), n_outputs=4, width=2)(torch.zeros(1, 3, 9, 9)).shape == (1, 4)
    assert create_model(lambda shape, n: small(shape, n), (3, 9, 9)) is not None


def test_builders_need_no_hash_and_their_networks_are_not_kept():
    @dataclasses.dataclass
    class Builder:
        width: int

        def __call__(self, input_shape, n_outputs):
            return small(input_shape, n_outputs)

    class Option:
        def __repr__(self):
            raise ValueError("no repr")

    def with_option(input_shape, n_outputs, *, option):
        return small(input_shape, n_outputs)

    assert create_model(Builder(3), (3, 9, 9)) is not None
    assert create_model(with_option, (3, 9, 9), option=Option()) is not None
    module = small((3,), 2)
    create_model(module, (3, 9, 9))
    reference = weakref.ref(module)
    del module
    gc.collect()
    assert reference() is None


def test_a_name_is_checked_once_for_each_shape_number_of_outputs_and_option(monkeypatch):
    checked = []
    monkeypatch.setattr(registry, "dry_run", lambda *args: checked.append(args[1]) or dry_run(*args))
    for _ in range(2):
        for shape in ((1, 17, 18, 19), (2, 17, 18, 19)):
            create_model("Conv3_FC1", shape, n_outputs=5)
            create_model("Conv3_FC1", shape, n_outputs=6)
            create_model("Conv3_FC1", shape, n_outputs=6, dropout=0.125)
    assert len(checked) == 6


def test_a_module_is_copied():
    module = small((1,), 2)
    model = create_model(module, (1, 9, 9))
    assert model is not module
    with torch.no_grad():
        model[2].weight.zero_()
    assert module[2].weight.abs().sum() > 0


def test_weights_depend_only_on_torchs_seed_and_the_check_draws_no_random_number():
    def first():
        torch.manual_seed(3)
        model = create_model("Conv3_FC1", (1, 12, 12))
        return model.convolutions[0].weight, torch.rand(1)

    (a, after_a), (b, after_b) = first(), first()
    assert torch.equal(a, b)
    assert torch.equal(after_a, after_b)


def test_the_check_changes_no_running_statistics():
    model = create_model("Conv5_FC3", (1, 12, 12))
    assert model.convolutions[1].num_batches_tracked == 0
    assert model.training


@pytest.mark.faults
def test_an_unknown_name_is_refused_with_a_similar_name():
    with pytest.raises(ModelError, match=r"'Conv4_FC'.*did you mean.*'Conv4_FC3'"):
        create_model("Conv4_FC", (1, 50, 50))


@pytest.mark.faults
def test_an_unknown_option_is_refused_with_the_accepted_options():
    with pytest.raises(ModelError, match=r"unknown option 'droput'; expected dropout"):
        create_model("Conv4_FC3", (1, 50, 50), droput=0.5)
    with pytest.raises(ModelError, match=r"unknown option 'depth'; expected width"):
        create_model(small, (1, 50, 50), depth=3)
    with pytest.raises(ModelError, match="options=\\['dropout'\\]; expected none"):
        create_model(small((1,), 2), (1, 50, 50), dropout=0.5)


def test_a_value_that_is_neither_name_nor_builder_nor_module_is_refused():
    with pytest.raises(ModelError, match="architecture=7; expected a name"):
        create_model(7, (1, 9, 9))


@pytest.mark.faults
def test_a_builder_that_returns_no_module_is_refused():
    with pytest.raises(ModelError, match=r"returned str; expected a torch\.nn\.Module"):
        create_model(lambda shape, n_outputs: "network", (1, 9, 9))


def test_the_error_of_a_failing_builder_names_the_builder_and_the_cause():
    def broken(input_shape, n_outputs):
        raise KeyError("depth")

    with pytest.raises(ModelError, match=r"broken: cannot be built.*KeyError: 'depth'") as error:
        create_model(broken, (1, 9, 9))
    assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.faults
def test_a_builder_with_other_arguments_is_refused_with_the_expected_arguments():
    expected = r"expected a builder with the arguments \(input_shape, n_outputs, \*\*options\)"
    for build in (lambda input_shape: nn.Flatten(), lambda input_shape, n_outputs, width: nn.Flatten()):
        with pytest.raises(ModelError, match=f"argument.*; {expected}"):
            create_model(build, (1, 9, 9))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("module", "found"),
    [
        (nn.Flatten(), r"outputs \(2, 81\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(81, 3)), r"outputs \(2, 3\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(81, 2), nn.Flatten(0)), r"outputs \(4,\)"),
        (CNN_Transformer(nn.Sequential(nn.Conv2d(1, 2, 3))), r"outputs \(2, 1, 9, 9\)"),
    ],
)
def test_outputs_of_another_shape_are_refused_before_training(module, found):
    with pytest.raises(ModelError, match=found + r".*expected \(2, 2\)"):
        create_model(module, (1, 9, 9))
    with pytest.raises(ModelError, match=found) as error:
        create_model(lambda shape, n_outputs: module, (1, 9, 9))
    assert ("n_outputs=None" in str(error.value)) == isinstance(module, CNN_Transformer)


def test_any_output_is_accepted_with_n_outputs_none():
    assert (
        create_model(CNN_Transformer(nn.Sequential(nn.Conv2d(1, 2, 3))), (1, 9, 9), n_outputs=None)
        is not None
    )
    assert create_model("Conv4_FC3", (1, 40, 40), n_outputs=None).fc[-1].out_features == 2


@pytest.mark.faults
def test_a_network_that_does_not_accept_the_images_is_refused():
    with pytest.raises(ModelError, match=r"images of shape \(1, 9, 9\) are not accepted"):
        create_model(nn.Sequential(nn.Flatten(), nn.Linear(80, 2)), (1, 9, 9))


@pytest.mark.faults
def test_lazy_layers_have_their_parameters_before_training():
    model = create_model(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2)), (3, 9, 9))
    assert [tuple(p.shape) for p in model.parameters()] == [(4, 3, 3, 3), (4,), (2, 196), (2,)]
    assert model.training


def test_a_network_that_branches_on_values_is_checked_too():
    class Branching(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, : 2 if x.sum().item() == 0 else 3]

    assert create_model(Branching(), (1, 9, 9)) is not None


@pytest.mark.parametrize("shape", [(9, 9), (1, 9, 9, 9, 9), (1, 0, 9)])
def test_an_invalid_input_shape_is_refused(shape):
    with pytest.raises(NeurocnnError, match=r"expected \(C, H, W\) or \(C, D, H, W\)"):
        create_model(small, shape)


def test_describe_shows_layers_maps_and_parameters():
    lines = describe("Conv5_FC3", input_size="1@169x208x179").splitlines()
    cells = [line.split() for line in lines]
    assert ["convolutions.3", "PadMaxPool3d", "8@85x104x90"] in cells
    assert ["convolutions.16", "Conv3d", "128@11x13x12", "221312"] in cells  # 64·128·27 + 128
    assert ["fc.2", "Linear", "1300", "41934100"] in cells  # 32256·1300 + 1300
    assert "42293972" in lines[-1]
    assert "'resnet18' on 3@64x64" in describe("resnet18", "3@64x64")  # no file of weights is needed


def test_describe_accepts_the_arguments_of_create_model():
    assert "Linear" in describe(small, "3@9x9", n_outputs=4)
    assert "8@9x9" in describe(CNN_Transformer(nn.Sequential(nn.Conv2d(1, 8, 1))), "1@9x9", n_outputs=None)
    assert "'Conv4_FC3' on 1@128x128" in describe("Conv4_FC3", dropout=0.5)


@pytest.mark.parametrize("size", ["169x208x179", "1@169", "1@169x208x179x3", "x@1x1", ""])
def test_an_input_size_in_another_format_is_refused(size):
    with pytest.raises(NeurocnnError, match="expected C@HxW or C@DxHxW"):
        describe("Conv5_FC3", size)


def with_old_weight_norm(shape=(1, 9, 9), n_outputs=2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns that weight_norm is deprecated
        convolution = nn.utils.weight_norm(nn.Conv2d(shape[0], 2, 3))
    return nn.Sequential(convolution, nn.Flatten(), nn.Linear(2 * 49, n_outputs))


class KeepsItsOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(81, 2)

    def forward(self, x):
        self.last = self.layer(x.flatten(1))
        return self.last


@pytest.mark.faults
def test_a_network_that_cannot_be_copied_is_refused_with_the_layer():
    for architecture in (with_old_weight_norm(), with_old_weight_norm, lambda s, n: with_old_weight_norm()):
        with pytest.raises(
            ModelError, match=r"0 \(Conv2d\) keeps the computed tensor 'weight'.*parametrizations"
        ):
            create_model(architecture, (1, 9, 9))
    with pytest.raises(ModelError, match="keeps the computed tensor"):
        describe(with_old_weight_norm(), "1@9x9")
    with pytest.raises(ModelError, match=r"0 \(Conv2d\) keeps the computed tensor"):
        CNN_Transformer(with_old_weight_norm()[:1])
    network = KeepsItsOutput()
    network(torch.zeros(2, 1, 9, 9))
    with pytest.raises(ModelError, match="keeps the computed tensor 'last'"):
        create_model(network, (1, 9, 9))


def test_a_network_with_the_new_weight_norm_of_torch_is_copied():
    convolution = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3))
    model = create_model(nn.Sequential(convolution, nn.Flatten(), nn.Linear(98, 2)), (1, 9, 9))
    images = torch.rand(2, 1, 9, 9)
    assert torch.equal(model[0](images), convolution(images))
    assert CNN_Transformer(nn.Sequential(convolution))(images)[1].shape == images.shape


@pytest.mark.faults
def test_lazy_layers_are_described_but_refused_if_their_size_is_needed():
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    assert "4@7x7" in describe(lazy, "1@9x9")
    for first, second in ((nn.LazyLinear(2), nn.Linear(3, 2)), (nn.LazyLinear(2), nn.LazyLinear(2))):
        for source, target in ((first, second), (second, first)):
            with pytest.raises(ModelError, match="an uninitialised lazy layer"):
                transfer_weights(source, target)
    with pytest.raises(ModelError, match=r"1 \(LazyBatchNorm2d\).*lazy layer is not initialised"):
        CNN_Transformer(nn.Sequential(nn.Conv2d(1, 4, 3), nn.LazyBatchNorm2d()))


@pytest.mark.faults
@pytest.mark.parametrize("n_outputs", [0, -1, 2.0, "2", True, [2]])
def test_a_number_of_outputs_below_1_or_of_another_type_is_refused(n_outputs):
    with pytest.raises(NeurocnnError, match=r"create_model: n_outputs=.*expected an integer ≥ 1"):
        create_model("Conv3_FC1", (1, 9, 9), n_outputs=n_outputs)


@pytest.mark.faults
def test_a_builder_that_exits_is_refused():
    def leave(input_shape, n_outputs):
        raise SystemExit(3)

    with pytest.raises(ModelError, match=r"leave: cannot be built.*SystemExit"):
        create_model(leave, (1, 9, 9))

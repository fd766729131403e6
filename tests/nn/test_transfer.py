"""Weights are copied completely or not at all, and are read unchanged from old checkpoints."""

import pickle
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from neurocnn.errors import CheckpointError, MissingExtraError, ModelError, NotFoundError
from neurocnn.nn import CNN_Transformer, create_model, read_weights, transfer_weights
from neurocnn.storage.tensors import save_tensors

SHAPE = (1, 20, 18)


def filled(model, seed):
    """Return the model, filled with weights and running statistics that differ from all defaults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def cnn(seed=0, **options):
    return filled(create_model("Conv5_FC3", SHAPE, **options), seed)


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(state, other):
    assert list(state) == list(other)
    for name, tensor in state.items():
        assert torch.equal(tensor, other[name]), name


def part(model, prefix):
    return {n.removeprefix(prefix): t for n, t in copied(model).items() if n.startswith(prefix)}


def test_only_the_encoder_of_an_autoencoder_is_copied_into_a_cnn():
    source, target = filled(CNN_Transformer(cnn()), 1), cnn(2)
    before = part(target, "fc.")
    transfer_weights(source, target)
    assert_same(part(target, "convolutions."), part(source, "encoder."))
    assert_same(part(target, "fc."), before)


def test_only_the_convolutions_of_a_cnn_are_copied_into_an_autoencoder():
    source, target = cnn(1), filled(CNN_Transformer(cnn()), 2)
    before = part(target, "decoder.")
    transfer_weights(source, target)
    assert_same(part(target, "encoder."), part(source, "convolutions."))
    assert_same(part(target, "decoder."), before)


def test_the_number_of_outputs_does_not_matter_between_autoencoder_and_cnn():
    source, target = filled(CNN_Transformer(cnn(n_outputs=2)), 1), cnn(2, n_outputs=5)
    transfer_weights(source, target)
    assert_same(part(target, "convolutions."), part(source, "encoder."))


@pytest.mark.parametrize("make", [cnn, lambda seed: filled(CNN_Transformer(cnn()), seed)])
def test_all_weights_are_copied_between_networks_of_the_same_architecture(make):
    source, target = make(1), make(2)
    transfer_weights(source, target)
    assert_same(copied(target), copied(source))


def test_any_module_or_its_state_dict_is_accepted_as_source():
    source, target = filled(nn.Linear(3, 2), 1), nn.Linear(3, 2)
    transfer_weights(source.state_dict(), target)
    assert_same(copied(target), copied(source))


def test_weights_are_copied_between_wrapped_and_plain_networks():
    source, target = cnn(1), cnn(2)
    transfer_weights({f"module.{n}": t for n, t in source.state_dict().items()}, torch.compile(target))
    assert_same(copied(target), copied(source))


def test_the_targets_parameters_keep_their_identity_and_gradient_flags():
    target = cnn(2)
    target.convolutions.requires_grad_(False)
    kept = list(target.parameters())
    transfer_weights(cnn(1), target)
    assert all(a is b for a, b in zip(kept, target.parameters(), strict=True))
    assert not target.convolutions[0].weight.requires_grad


@pytest.mark.faults
def test_an_error_lists_missing_unexpected_and_mismatched_parameters_and_the_target_is_unchanged():
    target = cnn(2)
    before = copied(target)
    source = copied(cnn(1))
    source["more.weight"] = torch.zeros(1)
    del source["fc.2.bias"]
    source["convolutions.0.weight"] = torch.zeros(8, 3, 3, 3)
    with pytest.raises(ModelError) as error:
        transfer_weights(source, target)
    message = str(error.value)
    assert "missing in the source: fc.2.bias" in message
    assert "unexpected: more.weight" in message
    assert "convolutions.0.weight (source (8, 3, 3, 3), target (8, 1, 3, 3))" in message
    assert_same(copied(target), before)


def test_another_architecture_is_refused_and_nothing_is_copied():
    target = create_model("Conv3_FC1", SHAPE)
    before = copied(target)
    for source in (cnn(1), CNN_Transformer(cnn(1))):
        with pytest.raises(ModelError, match="do not fit the network, which is unchanged"):
            transfer_weights(source, target)
    assert_same(copied(target), before)


def test_another_number_of_outputs_is_refused_between_cnns():
    with pytest.raises(ModelError, match=r"fc\.6\.bias \(source \(3,\), target \(2,\)\)"):
        transfer_weights(cnn(1, n_outputs=3), cnn(2))


# Networks of ClinicaDL, built from the documented table, with the old parameter names.


def old_names(sequential, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in sequential.state_dict().items()}


def old_conv4_fc3():
    layers, channels = [], [1, 15, 25, 50, 50]
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.Sequential(nn.ZeroPad2d(0), nn.MaxPool2d(2, 2, ceil_mode=False))]
    features = filled(nn.Sequential(*layers), 1)
    classifier = filled(
        nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.0),
            nn.Linear(50, 50),
            nn.ReLU(),
            nn.Dropout(0.0),
            nn.Linear(50, 40),
            nn.ReLU(),
            nn.Linear(40, 2),
        ),
        2,
    )
    return features.eval(), classifier.eval()


def test_a_checkpoint_of_clinicadl_0_2_gives_identical_outputs(tmp_path):
    features, classifier = old_conv4_fc3()
    state = {**old_names(features, "features."), **old_names(classifier, "classifier.")}
    losses = {"valid_loss": np.float64(0.5), "valid_acc": np.float64(0.75)}
    torch.save({"model": state, "epoch": 3, **losses}, tmp_path / "model_best.pth.tar")
    model = create_model("Conv4_FC3", (1, 46, 46)).eval()  # 46 voxels become 44, 22, 20, 10, …
    transfer_weights(read_weights(tmp_path / "model_best.pth.tar"), model)
    images = torch.randn(2, 1, 46, 46)
    x = images
    for layer in features:
        if isinstance(layer, nn.Sequential):  # padding in front, computed as in the documented code
            layer[0].padding = (x.shape[3] % 2, 0, x.shape[2] % 2, 0)
        x = layer(x)
    assert torch.equal(model(images), classifier(x))


def test_the_old_format_of_torch_without_zip_is_read(tmp_path):
    state = {"features.0.weight": torch.rand(2, 1, 3, 3)}
    path = tmp_path / "model_best.pth.tar"
    torch.save({"model": state, "epoch": 0, "valid_loss": 0.1}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(path)["convolutions.0.weight"], state["features.0.weight"])


def test_a_resnet18_of_clinicadl_0_2_has_torchvisions_names_and_fc_out(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    old = filled(torchvision.models.resnet18(), 1).eval()
    out = filled(nn.Linear(1000, 2), 2)
    for module in old.modules():  # these values do not become too large in 18 layers
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.mul_(0.02)
    state = {**old.state_dict(), **old_names(out, "fc_out.")}
    path = tmp_path / "model_best.pth.tar"
    torch.save({"model": state, "epoch": 3, "valid_loss": 0.1}, path)
    images = torch.rand(2, 3, 64, 64)
    for model in (
        create_model("resnet18", (3, 64, 64), weights=None),
        create_model("resnet18", (3, 64, 64), weights=path),
    ):
        transfer_weights(read_weights(path), model)
        assert torch.equal(model.eval()(images), out(old(images)))


def v1_file(path, name="Conv4_FC3"):
    model = filled(create_model("Conv4_FC3_v1", SHAPE), 1)
    torch.save({"model": model.state_dict(), "epoch": 5, "name": name}, path)
    return model.eval()


def test_reading_a_classifier_of_clinicadl_1_warns_of_the_order_of_its_outputs(tmp_path):
    old = v1_file(tmp_path / "model.pth.tar")
    with pytest.warns(UserWarning, match=r"sorts its labels \(AD 0, CN 1\).*output_order=\(1, 0\)"):
        weights = read_weights(tmp_path / "model.pth.tar")
    model = create_model("Conv4_FC3_v1", SHAPE).eval()
    transfer_weights(weights, model)
    images = torch.rand(2, *SHAPE)
    assert torch.equal(model(images), old(images))


def test_output_order_permutes_the_outputs(tmp_path):
    old = v1_file(tmp_path / "model.pth.tar")
    images = torch.rand(2, *SHAPE)
    for order in ((0, 1), (1, 0)):
        model = create_model("Conv4_FC3_v1", SHAPE).eval()
        transfer_weights(read_weights(tmp_path / "model.pth.tar", output_order=order), model)
        torch.testing.assert_close(model(images), old(images)[:, list(order)])


@pytest.mark.parametrize("order", [(0,), (0, 0), (1, 2), (0, 1, 2)])
def test_an_order_that_is_not_a_permutation_is_refused(tmp_path, order):
    v1_file(tmp_path / "model.pth.tar")
    with pytest.raises(ModelError, match="the file has 2 outputs"):
        read_weights(tmp_path / "model.pth.tar", output_order=order)


def test_a_resnet18_of_clinicadl_1_with_the_layer_fc_out_is_read(tmp_path):
    state = {"fc.1.weight": torch.zeros(1000, 512), "fc.fc_out.weight": torch.ones(2, 1000)}
    torch.save({"model": state, "epoch": 5, "name": "resnet18"}, tmp_path / "model.pth.tar")
    weights = read_weights(tmp_path / "model.pth.tar", output_order=(0, 1))
    assert list(weights) == ["fc.1.weight", "fc.3.weight"]


def test_an_autoencoder_of_clinicadl_1_is_read_unchanged(tmp_path):
    source = filled(CNN_Transformer(create_model("Conv5_FC3", (1, 9, 8, 7))), 1)
    path = tmp_path / "model.pth.tar"
    torch.save({"model": source.state_dict(), "epoch": 5, "name": "AE_Conv5_FC3"}, path)
    target = CNN_Transformer(create_model("Conv5_FC3", (1, 9, 8, 7)))
    transfer_weights(read_weights(path), target)
    assert_same(copied(target), copied(source))


def test_parameter_names_in_a_checkpoint_of_neurocnn_are_not_changed(tmp_path):
    # A user's module may have the parameter names of ClinicaDL 0.2.
    state = {"features.0.weight": torch.rand(2), "fc.weight": torch.rand(2), "conv1.bias": torch.rand(1)}
    save_tensors({"model": state, "epoch": 3, "name": "Net", "neurocnn": "0.1.0"}, tmp_path / "a.pth.tar")
    save_tensors({"model": state, "epoch": 3, "name": "Net"}, tmp_path / "b.pth.tar")
    save_tensors(state, tmp_path / "c.pth")
    for name in ("a.pth.tar", "b.pth.tar", "c.pth"):
        assert_same(read_weights(tmp_path / name), state)


class Malicious:
    def __reduce__(self):
        return exec, ("import builtins; builtins.neurocnn_was_here = True",)


@pytest.mark.faults
def test_a_pickle_payload_is_refused_and_does_not_run(tmp_path):
    import builtins

    torch.save({"model": Malicious()}, tmp_path / "model.pth.tar")
    (tmp_path / "plain.pth.tar").write_bytes(pickle.dumps(Malicious()))
    for name in ("model.pth.tar", "plain.pth.tar"):
        with pytest.raises(CheckpointError):
            read_weights(tmp_path / name)
    assert not hasattr(builtins, "neurocnn_was_here")


@pytest.mark.faults
def test_truncated_empty_text_and_flipped_files_are_refused(tmp_path):
    path = tmp_path / "model.pth.tar"
    save_tensors({"model": {"weight": torch.rand(1000)}, "epoch": 1}, path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (whole[: len(whole) // 2], b"", b"weights\n", bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.pth\.tar"):
            read_weights(path)


@pytest.mark.faults
def test_a_file_without_weights_or_no_file_is_refused(tmp_path):
    for content in ({"epoch": 3}, {"model": [torch.zeros(1)]}, torch.zeros(3), {"model": {}}):
        save_tensors(content, tmp_path / "model.pth.tar")
        with pytest.raises(CheckpointError, match=r"model\.pth\.tar.*expected a (dict|plain tensor)"):
            read_weights(tmp_path / "model.pth.tar")
    with pytest.raises(NotFoundError):
        read_weights(tmp_path / "none.pth.tar")


@pytest.mark.faults
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_with_file_and_parameter(tmp_path, value):
    model = cnn(1)
    with torch.no_grad():
        model.convolutions[1].running_var[3] = value
    save_tensors({"model": model.state_dict(), "epoch": 1, "name": "CNN"}, tmp_path / "model.pth.tar")
    with pytest.raises(CheckpointError, match=r"model\.pth\.tar: convolutions\.1\.running_var has 1 value"):
        read_weights(tmp_path / "model.pth.tar")


WRONG = {
    "names that are numbers": ({1: torch.zeros(2)}, "found the name 1"),
    "text for a tensor": ({"weight": "0.5"}, "weight: found str"),
    "a number for a tensor": ({"weight": 0.5}, "weight: found float"),
    "a list of tensors": ([torch.zeros(2)], "found list"),
    "a model that is text": ({"model": "Conv5_FC3"}, "found str"),
    "a model that is missing": ({"model": None}, "found NoneType"),
    "an empty model": ({"model": {}}, "found an empty dict"),
    "deeply nested": ({"model": {"model": {"model": {"weight": torch.zeros(2)}}}}, "model: found dict"),
    "terabytes of one number": ({"w": torch.zeros(1).expand(2**20, 2**20)}, "bytes, the size of the file"),
    "a sparse tensor": ({"w": torch.zeros(2, 2).to_sparse()}, "expected a dense tensor"),
    "a tensor without values": ({"w": torch.zeros(2, device="meta")}, "expected a dense tensor"),
    "two names that become one": ({"w": torch.zeros(2), "module.w": torch.zeros(2)}, "the same name"),
}


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:Validating sparse")  # torch warns that this is slow
@pytest.mark.parametrize("case", WRONG)
def test_a_well_formed_file_with_other_content_is_refused_with_its_path(tmp_path, case):
    content, message = WRONG[case]
    torch.save(content, tmp_path / "model.pth.tar")
    with pytest.raises(CheckpointError, match=rf"model\.pth\.tar.*{message}"):
        read_weights(tmp_path / "model.pth.tar")


@pytest.mark.faults
@pytest.mark.parametrize("name", [["Conv4_FC3"], {"a": 1}, None, 3])
def test_an_invalid_network_name_in_a_file_does_not_matter(tmp_path, name):
    torch.save({"model": {"fc.1.bias": torch.ones(2)}, "epoch": 1, "name": name}, tmp_path / "model.pth.tar")
    assert list(read_weights(tmp_path / "model.pth.tar")) == ["fc.1.bias"]


@pytest.mark.faults
@pytest.mark.parametrize("last", ["fc.2.bias", "fc.num_batches_tracked", f"fc.{'9' * 5000}.bias"])
def test_output_order_finds_the_last_layer_for_any_parameter_names(tmp_path, last):
    state = {"fc.0.bias": torch.tensor([1.0, 2.0]), last: torch.tensor(3)}
    torch.save(state, tmp_path / "model.pth.tar")
    assert read_weights(tmp_path / "model.pth.tar", output_order=(1, 0))["fc.0.bias"].tolist() == [2.0, 1.0]


@pytest.mark.faults
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_weights_of_another_data_type_are_refused(dtype):
    target = nn.Linear(3, 2)
    before = copied(target)
    with pytest.raises(ModelError, match=rf"weight \(source \(2, 3\) {dtype}, target \(2, 3\)\)"):
        transfer_weights({"weight": torch.zeros(2, 3, dtype=dtype), "bias": torch.zeros(2)}, target)
    with pytest.raises(ModelError, match="without values"):
        transfer_weights(nn.Linear(3, 2, device="meta"), target)
    assert_same(copied(target), before)


def test_weights_under_the_key_state_dict_are_read(tmp_path):
    model = create_model("Conv3_FC1", (1, 16, 18, 16))
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "last.ckpt")
    assert_same(read_weights(tmp_path / "last.ckpt"), model.state_dict())


def test_safetensors_files_are_read(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    model = create_model("Conv3_FC1", (1, 16, 18, 16))
    library.save_file(model.state_dict(), tmp_path / "model.safetensors")
    # The library writes the tensors in another order.
    found = read_weights(tmp_path / "model.safetensors")
    assert_same(dict(sorted(found.items())), dict(sorted(model.state_dict().items())))
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "damaged.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"damaged\.safetensors.*expected a safetensors file"):
        read_weights(tmp_path / "damaged.safetensors")
    with pytest.raises(NotFoundError, match="does not exist"):
        read_weights(tmp_path / "missing.safetensors")


def test_a_safetensors_file_without_the_library_raises_an_error_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(MissingExtraError, match="pip install safetensors"):
        read_weights(tmp_path / "model.safetensors")

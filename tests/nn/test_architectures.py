"""The built-in networks have the parameters of the published networks, and accept any possible input."""

import hashlib
import sys

import pytest
import torch
from torch import nn

from neurocnn.errors import CheckpointError, ModelError, NotFoundError
from neurocnn.nn import create_model

SEQUENTIAL = ["Conv3_FC1", "Conv4_FC3", "Conv4_FC3_v1", "Conv5_FC3", "Conv5_FC3_mni"]


def n_parameters(model, trained_only=False):
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained_only)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("Conv4_FC3", (1, 50, 50, 50), 134_372),
        ("Conv5_FC3", (1, 169, 208, 179), 42_293_972),
        ("Conv5_FC3_mni", (1, 121, 145, 121), 13_673_172),
        ("Conv3_FC1", (1, 30, 40, 30), 22_786),
    ],
)
def test_parameter_counts_are_as_documented(name, shape, expected):
    with torch.device("meta"):
        assert n_parameters(create_model(name, shape)) == expected


def test_resnet18_fine_tunes_8908730_of_11691514_parameters():
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = create_model("resnet18", (3, 224, 224))
        assert n_parameters(model) == 11_691_514
        assert n_parameters(model, trained_only=True) == 8_908_730
        assert n_parameters(create_model("resnet18", (3, 64, 64), weights=None), True) == 11_691_514


def test_conv4_fc3_v1_has_the_convolutions_of_conv5_fc3_and_the_hidden_layers_of_conv4_fc3():
    v1, v5 = (create_model(name, (2, 40, 40), n_outputs=3) for name in ("Conv4_FC3_v1", "Conv5_FC3"))
    assert repr(v1.convolutions) == repr(v5.convolutions)
    sizes = [(m.in_features, m.out_features) for m in v1.fc if isinstance(m, nn.Linear)]
    assert sizes == [(128 * 2 * 2, 50), (50, 40), (40, 3)]


@pytest.mark.parametrize("name", SEQUENTIAL)
@pytest.mark.parametrize("shape", [(3, 40, 33), (2, 31, 34, 32)])
def test_networks_accept_any_size_and_any_number_of_channels_and_outputs(name, shape):
    model = create_model(name, shape, n_outputs=5).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "default", "n"),
    [
        ("Conv3_FC1", 0.5, 1),
        ("Conv4_FC3", 0, 2),
        ("Conv4_FC3_v1", 0, 1),
        ("Conv5_FC3", 0, 1),
        ("resnet18", 0, 1),
    ],
)
def test_dropout_is_an_option_with_the_documented_default(name, default, n):
    for options, expected in (({}, default), ({"dropout": 0.25}, 0.25)):
        with torch.device("meta"):
            model = create_model(name, (3, 32, 32), **options)
        assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [expected] * n


def test_conv4_fc3_refuses_smaller_images_with_the_minimum_size():
    assert create_model("Conv4_FC3", (1, 31, 31))(torch.zeros(1, 1, 31, 31).repeat(2, 1, 1, 1)).shape == (
        2,
        2,
    )
    with pytest.raises(
        ModelError, match=r"images of \(50, 30, 50\) voxels; expected at least 31 voxels on each axis"
    ):
        create_model("Conv4_FC3", (1, 50, 30, 50))


def test_conv5_fc3_accepts_a_single_voxel():
    assert create_model("Conv5_FC3", (1, 1, 1, 1)).eval()(torch.zeros(2, 1, 1, 1, 1)).shape == (2, 2)


def test_resnet18_accepts_slices_only():
    with pytest.raises(ModelError, match="expected 2-D images"):
        create_model("resnet18", (3, 32, 32, 32))


def test_imagenets_weights_need_three_channels():
    with pytest.raises(
        ModelError, match=r"1 channels with ImageNet.s weights; expected 3 channels.*weights=None"
    ):
        create_model("resnet18", (1, 64, 64))
    model = create_model("resnet18", (1, 64, 64), weights=None).eval()
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Replace torchvision's cache folder and digest by those of a new ResNet-18, and make downloads impossible."""
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    torch.manual_seed(7)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "made.pth")
    digest = hashlib.sha256((tmp_path / "made.pth").read_bytes()).hexdigest()[:8]
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    # No server listens at this address, so that a download fails at once.
    monkeypatch.setattr(weights, "url", f"http://127.0.0.1:9/models/resnet18-{digest}.pth")
    path = tmp_path / "checkpoints" / f"resnet18-{digest}.pth"
    path.parent.mkdir()
    return path, tmp_path / "made.pth", state


def assert_pretrained(model, state):
    from torchvision.models import resnet18

    reference = resnet18()
    reference.load_state_dict(state)
    images = torch.rand(2, 3, 64, 64)
    hidden = reference.eval()(images)
    expected = nn.functional.linear(hidden, model.fc[3].weight, model.fc[3].bias)
    torch.testing.assert_close(model.eval()(images), expected)


def test_resnet18_reads_weights_from_torchvisions_cache(cache):
    path, made, state = cache
    made.rename(path)
    model = create_model("resnet18", (3, 64, 64))
    assert_pretrained(model, state)
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"7", "1", "3"}  # layer4 of the convolutions; the 1000 outputs and the new layer of fc


def test_resnet18_reads_weights_from_a_path(cache):
    _, made, state = cache
    assert_pretrained(create_model("resnet18", (3, 64, 64), weights=str(made)), state)


@pytest.mark.faults
def test_missing_imagenet_weights_raise_an_error_with_the_path_of_the_file(cache):
    path, _, _ = cache
    with pytest.raises(NotFoundError) as error:
        create_model("resnet18", (3, 64, 64))
    assert str(path) in str(error.value)
    assert f"http://127.0.0.1:9/models/{path.name}" in str(error.value)
    assert not path.exists()


@pytest.mark.faults
def test_damaged_imagenet_weights_are_refused(cache):
    path, made, _ = cache
    content = bytearray(made.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        create_model("resnet18", (3, 64, 64))


@pytest.mark.parametrize(
    "broken", [ImportError("gone"), RuntimeError("operator torchvision::nms does not exist")]
)
def test_without_torchvision_only_resnet18_fails(broken, monkeypatch):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "torchvision":
                raise broken

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(ModelError, match="resnet18: torchvision cannot be imported"):
        create_model("resnet18", (3, 64, 64), weights=None)
    assert create_model("Conv5_FC3", (1, 20, 20)) is not None

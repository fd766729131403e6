"""Networks of MONAI in the example package are trained, resumed, transferred and loaded like other networks."""

import itertools
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import neurocnn as nc
from neurocnn.errors import ModelError
from neurocnn.nn import registry

nets = pytest.importorskip("monai.networks.nets", reason="MONAI, whose networks the package registers")
PACKAGE = Path(__file__).parents[1] / "plugins_example" / "monai"
TASK = nc.classification("diagnosis", classes=["CN", "AD"])
TINY_VIT = {"patch_size": 10, "hidden_size": 24, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}
TINY_RESNET = {"widen_factor": 0.125}


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """Install the example package: put its files into a folder of Python's path."""
    site = tmp_path / "site"
    info = site / "neurocnn_monai-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: neurocnn-monai\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[neurocnn]\nmonai = neurocnn_monai\n")
    (site / "neurocnn_monai.py").write_text((PACKAGE / "neurocnn_monai.py").read_text(encoding="utf-8"))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "neurocnn_monai", raising=False)
    registry.installed.cache_clear()
    yield
    registry.installed.cache_clear()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("monai")
    labels = nc.make_caps(folder / "caps", n_participants=8, preprocessing="t1-volume", shape=(20, 20, 20))
    return nc.Caps(folder / "caps", "t1-volume"), nc.kfold(labels, n_splits=2, stratify=["diagnosis"])


def experiment(study, architecture, options, parts=None, epochs=1, learning_rate=1e-4, **more):
    caps, splits = study
    trainer = nc.Trainer(epochs=epochs, learning_rate=learning_rate, batch_size=4, device="cpu", n_workers=0)
    parts = parts or nc.WholeImage()
    return nc.Experiment(caps, splits, parts, TASK, architecture, trainer, options=options, **more)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("MonaiDenseNet121", lambda: nets.DenseNet121(spatial_dims=3, in_channels=2, out_channels=3)),
        ("MonaiResNet18", lambda: nets.resnet18(spatial_dims=3, n_input_channels=2, num_classes=3)),
        ("MonaiResNet50", lambda: nets.resnet50(spatial_dims=3, n_input_channels=2, num_classes=3)),
        ("MonaiSEResNet50", lambda: nets.SEResNet50(spatial_dims=3, in_channels=2, num_classes=3)),
        ("MonaiViT", lambda: nets.ViT(2, (32,) * 3, 16, classification=True, num_classes=3, post_activation="none")),
    ],
)  # fmt: skip
def test_each_name_builds_the_network_of_monai_with_this_name(name, same):
    assert nc.list_models()[name] == "neurocnn-monai 1.0"
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in same().state_dict().items()}
        found = nc.create_model(name, (2, 32, 32, 32), n_outputs=3).state_dict()
    assert {key: value.shape for key, value in found.items()} == shapes


@pytest.mark.parametrize(("name", "options"), [("MonaiResNet18", TINY_RESNET), ("MonaiViT", TINY_VIT)])
def test_a_monai_network_is_resumed_transferred_and_loaded(study, tmp_path, name, options):
    first = experiment(study, name, options).run(tmp_path / "first", splits=[0])
    model = first.load_model(0, "best_loss")
    caps, splits = study
    images = nc.CapsDataset(caps, splits[0].validation, label="diagnosis")
    batch = torch.stack([images[i]["image"] for i in range(len(images))])
    with torch.no_grad():
        output = model(batch)
    logits = output[0] if name == "MonaiViT" else output
    table = nc.predict(model, TASK, images, device="cpu")
    assert table["proba1"].to_numpy() == pytest.approx(torch.softmax(logits, 1)[:, 1].numpy(), abs=1e-5)
    whole = experiment(study, name, options, epochs=2).run(tmp_path / "whole", splits=[0])
    begun = experiment(study, name, options, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        begun.run(tmp_path / "resumed", splits=[0], callbacks=[interrupt_after_the_first_epoch])
    resumed = experiment(study, name, options, epochs=2).run(tmp_path / "resumed", splits=[0])
    pd.testing.assert_frame_equal(resumed.predictions(), whole.predictions())
    second = experiment(study, name, options, transfer_from=first, learning_rate=1e-12)
    transferred = second.run(tmp_path / "second", splits=[0]).load_model(0, "best_loss")
    for weight, source in zip(transferred.parameters(), model.parameters(), strict=True):
        assert torch.allclose(weight, source, atol=1e-8)


def interrupt_after_the_first_epoch(state):
    if state.epoch == 0 and state.epoch_ended:
        raise KeyboardInterrupt


def test_each_part_can_have_its_own_monai_network(study, tmp_path):
    parts = nc.Patch(10, 10)
    run = experiment(study, "MonaiViT", TINY_VIT | {"patch_size": 5}, parts=parts, multi=True)
    results = run.run(tmp_path / "results", splits=[0])
    weights = [results.load_model(0, "best_loss", network=part).state_dict() for part in (0, 7)]
    assert any(not torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


class Autoencoder(nn.Module):
    """Autoencoder that returns the reconstruction, or a tuple (code, reconstruction)."""

    def __init__(self, has_code):
        super().__init__()
        self.has_code = has_code
        options = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1}
        self.unet = nets.UNet(**options, channels=(2, 4), strides=(2,))

    def forward(self, image):
        image = self.unet(image)
        return (image.mean(dim=(2, 3, 4)), image) if self.has_code else image


@pytest.mark.parametrize("has_code", [False, True])
def test_a_custom_autoencoder_is_trained_without_changes(study, tmp_path, has_code):
    caps, splits = study
    trainer = nc.Trainer(epochs=1, batch_size=4, device="cpu", n_workers=0)
    run = nc.Experiment(caps, splits, nc.WholeImage(), nc.reconstruction(), Autoencoder(has_code), trainer)
    results = run.run(tmp_path / "results", splits=[0])
    model = results.load_model(0, "best_loss")
    assert isinstance(model, Autoencoder)
    images = nc.CapsDataset(caps, splits[0].validation)
    with torch.no_grad():
        errors = [
            float(((final(model(item["image"][None])) - item["image"][None]) ** 2).mean()) for item in images
        ]
    mse = results.metrics().query("split == 0")["mse"].item()
    assert mse == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def final(output):
    return output[1] if isinstance(output, tuple) else output


class Outputs(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make, self.layer = make, nn.Linear(64, 2)

    def forward(self, image):
        return self.make(self.layer(image.flatten(1)))


@pytest.mark.parametrize(
    "make",
    [lambda x: (x, [x.double()]), lambda x: [x], lambda x: (x[:, :1], x), lambda x: (x, None, {"a": x})],
)
def test_create_fit_and_predict_use_the_last_tensor_of_a_tuple(make):
    model = nc.create_model(Outputs(make), (1, 8, 8), n_outputs=2)
    rows = itertools.product([0, 1, 2, 3], ["AD", "CN"])
    items = [
        {"image": torch.rand(1, 8, 8), "participant_id": f"sub-{label}{i}", "session_id": "ses-M00", "part_id": 0}
        | {"label": label}
        for i, label in rows
    ]  # fmt: skip
    before = nc.predict(model, TASK, items, device="cpu")
    plain = torch.softmax(model.layer(torch.stack([item["image"] for item in items]).flatten(1)), 1)
    assert before["proba1"].to_numpy() == pytest.approx(plain[:, 1].detach().numpy(), abs=1e-6)
    nc.Trainer(epochs=1, device="cpu", n_workers=0).fit(model, TASK, items)


def test_an_output_without_a_tensor_is_refused():
    with pytest.raises(ModelError, match=r"outputs tuple for 2 images"):
        nc.create_model(Outputs(lambda x: ([x], None)), (1, 8, 8), n_outputs=2)


def test_a_bottleneck_of_a_custom_autoencoder_is_refused(study, tmp_path):
    caps, splits = study
    task = nc.reconstruction(bottleneck=1)
    run = nc.Experiment(caps, splits, nc.WholeImage(), task, Autoencoder(True), nc.Trainer(epochs=1))
    with pytest.raises(ModelError, match=r"bottleneck=1; expected None"):
        run.run(tmp_path / "results")


def test_an_autoencoder_that_returns_images_of_another_size_is_refused_with_both_shapes(study, tmp_path):
    class Coarse(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Conv3d(1, 2, 3, stride=2, padding=1)
            self.decoder = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv3d(2, 1, 3, padding=1))

        def forward(self, image):
            return self.decoder(self.encoder(image))

    caps, splits = study
    run = nc.Experiment(caps, splits, nc.Patch(9, 9), nc.reconstruction(), Coarse(), nc.Trainer(epochs=1))
    found = r"images of shape \(1, 9, 9, 9\) have shape \(1, 10, 10, 10\)"
    with pytest.raises(ModelError, match=f"{found}.*choose another size of the parts"):
        run.run(tmp_path / "results")

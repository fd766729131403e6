"""The tutorial "Train your own models" has a call for every command of ClinicaDL's tutorial of the same name."""

import hashlib
import re
import runpy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import neurocnn as nc
from neurocnn import engine

torchvision = pytest.importorskip("torchvision")
Compose, Resize = torchvision.transforms.Compose, torchvision.transforms.Resize

PAGE = Path(__file__).parents[1] / "docs/tutorials/train_your_own.py"
AUTOENCODER, SINGLE, MULTI = "autoencoder", "single", "multi"
#: By result folder: the parts, the kind of network, and the result folder from which weights are transferred.
COMMANDS = {
    "slice_cnn": ("Slice", SINGLE, None),
    "slice_multi-cnn": ("Slice", MULTI, None),
    "slice_autoencoder": ("Slice", AUTOENCODER, None),
    **{
        f"{parts}_{name}": (kind, network, source and f"{parts}_{source}")
        for parts, kind, one in (("patch", "Patch", "single-cnn"), ("roi", "Roi", "cnn"))
        for name, network, source in (
            ("autoencoder", AUTOENCODER, None),
            ("autoencoder_ae", AUTOENCODER, "autoencoder"),
            ("autoencoder_single", AUTOENCODER, one),
            (one, SINGLE, None),
            (f"{one}_ae", SINGLE, "autoencoder"),
            (f"{one}_single", SINGLE, one),
            ("multi-cnn", MULTI, None),
            ("multi-cnn_ae", MULTI, "autoencoder"),
            ("multi-cnn_single", MULTI, one),
            ("multi-cnn_multi", MULTI, "multi-cnn"),
        )
    },
    "image_autoencoder": ("WholeImage", AUTOENCODER, None),
    "image_cnn_ae": ("WholeImage", SINGLE, "image_autoencoder"),
    "image_cnn": ("WholeImage", SINGLE, None),
    "mci_patch_single-cnn": ("Patch", SINGLE, "patch_single-cnn"),
    "mci_patch_multi-cnn": ("Patch", MULTI, "patch_multi-cnn"),
    "mci_roi_cnn": ("Roi", SINGLE, "roi_cnn"),
    "mci_image_cnn": ("WholeImage", SINGLE, "image_cnn"),
    "cohorts_roi_cnn": ("Roi", SINGLE, None),
    "sex_roi_cnn": ("Roi", SINGLE, None),
    "stable_roi_cnn": ("Roi", SINGLE, None),
    "age_roi_cnn": ("Roi", SINGLE, None),
    "own_autoencoder": ("Roi", AUTOENCODER, None),
    "own_cnn": ("Roi", SINGLE, "own_autoencoder"),
}


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare short runs: a working directory, the CPU without workers, few bootstrap samples, and no downloads."""
    check = nc.Trainer.__post_init__

    def on_the_cpu(trainer: nc.Trainer) -> None:
        check(trainer)
        for name, value in {"n_workers": 0, "device": "cpu"}.items():
            object.__setattr__(trainer, name, value)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nc.Trainer, "__post_init__", on_the_cpu)
    monkeypatch.setattr(engine, "confidence_intervals", partial(engine.confidence_intervals, n=20))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))


def results_of(name: str) -> nc.Results:
    return nc.Results(Path("train-your-own/results", name))


@pytest.mark.on_demand
def test_the_page_has_a_call_for_every_command(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All checks are in one test, because the page takes long and runs once."""
    names = runpy.run_path(str(PAGE), run_name="__main__")
    assert {path.name for path in Path("train-your-own/results").iterdir()} == set(COMMANDS)
    for name, (parts, network, source) in COMMANDS.items():
        check_command(name, parts, network, source)
    check_progression()
    check_cohorts_and_classes()
    check_slices_with_imagenets_weights(names, monkeypatch)


def check_command(name: str, parts: str, network: str, source: str | None) -> None:
    results = results_of(name)
    settings = results.settings
    assert results.splits == [0]
    assert settings["parts"]["type"] == parts
    assert (settings["task"]["type"] == "reconstruction") == (network == AUTOENCODER)
    assert settings["multi"] == (network == MULTI)
    started = settings["transfer_from"]
    assert (started and Path(started).name) == source
    assert results.metrics().drop(index="std").notna().any(axis=None)


def check_progression() -> None:
    """Check that the MCI participants who progress are those with atrophy in their images."""
    truth = nc.read_table("train-your-own/caps/labels.tsv").set_index("participant_id")["diagnosis"]
    predictions = results_of("mci_roi_cnn").predictions()
    expected = [int(truth[participant] == "AD") for participant in predictions["participant_id"]]
    assert predictions["true_label"].tolist() == expected


def check_cohorts_and_classes() -> None:
    assert set(results_of("cohorts_roi_cnn").predictions()["cohort"]) == {"first", "second"}
    mixed = results_of("stable_roi_cnn")
    rows = nc.read_table(mixed.folder / "fold-0/validation.tsv").merge(mixed.predictions())
    assert set(rows["diagnosis"]) == {"AD", "CN", "sMCI", "pMCI"}
    assert (rows["true_label"] == rows["diagnosis"].isin(["AD", "pMCI"])).all()


def check_slices_with_imagenets_weights(names: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that networks of slices start from ImageNet weights; here, from random weights of the same format."""
    assert results_of("slice_cnn").settings["options"] == {"weights": None}
    state = torchvision.models.resnet18().state_dict()
    folder = Path("hub/checkpoints")
    folder.mkdir(parents=True)
    torch.save(state, folder / "made.pth")
    digest = hashlib.sha256((folder / "made.pth").read_bytes()).hexdigest()[:8]
    (folder / "made.pth").rename(folder / f"resnet18-{digest}.pth")
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(weights, "url", f"http://127.0.0.1:9/resnet18-{digest}.pth")
    block = re.search(r"(?s)\nfile = .*?\n\n# one network per slice", PAGE.read_text(encoding="utf-8"))
    assert block
    exec(compile(block[0].replace("slice_cnn", "slice_imagenet"), str(PAGE), "exec"), names)
    results = results_of("slice_imagenet")
    model = results.load_model(split=0)
    assert results.settings["options"] == {"weights": "imagenet"}
    assert torch.equal(model.convolutions[0].weight, state["conv1.weight"])
    assert not torch.equal(model.convolutions[7][1].conv2.weight, state["layer4.1.conv2.weight"])


def test_weights_of_clinicadl_0_2_1_give_the_outputs_of_torchvisions_network(tmp_path: Path) -> None:
    torch.manual_seed(1)
    old, last = torchvision.models.resnet18().eval(), nn.Linear(1000, 2)
    state = old.state_dict() | {f"fc_out.{name}": value for name, value in last.state_dict().items()}
    path = tmp_path / "model_best.pth.tar"
    torch.save({"model": state, "epoch": 4, "valid_loss": 0.5, "valid_acc": 0.7}, path)

    labels = nc.make_caps(tmp_path / "caps", n_participants=2, shape=(48, 58, 50))
    caps = nc.Caps(tmp_path / "caps")
    slices = nc.Slice(direction=0, discarded_slices=23, channels=3)
    transform = Compose([nc.MinMax(), Resize((224, 224))])
    dataset = nc.CapsDataset(caps, labels.head(1), slices, "diagnosis", transform=transform)
    model = nc.create_model("resnet18", dataset.input_shape, weights=path).eval()
    images = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
    assert images.shape == (2, 3, 224, 224)

    # The expected outputs are computed from the same slices by hand.
    volume = caps.read(*labels.iloc[0][["participant_id", "session_id"]])
    scaled = [(plane - plane.min()) / (plane.max() - plane.min()) for plane in volume[0, 23:25]]
    resized = nn.functional.interpolate(
        torch.stack(scaled)[:, None], (224, 224), mode="bilinear", align_corners=False, antialias=True
    )
    with torch.no_grad():
        torch.testing.assert_close(images, resized.expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(images), last(old(images)))

"""CUDA graphs, late losses, resident images and kernels on a GPU give the results of the plain computation."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from toys import Toys

import neurocnn as nc
from neurocnn.engine import Trainer, classification, gradients
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.run import Run
from neurocnn.errors import TrainingError
from neurocnn.nn import create_model
from neurocnn.nn.pooling import PadMaxPool3d

pytestmark = pytest.mark.gpu
TASK = classification("diagnosis", classes=["CN", "AD"])
SETTINGS = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "device": "cuda"}


def network(dropout=0.5):
    blocks = [nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), PadMaxPool3d(2)]
    fc = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * 27, 2))
    return nc.CNN(nn.Sequential(*blocks), fc)


def train(model, data=None, folder=None, **settings):
    return Trainer(**SETTINGS | settings).fit(model, TASK, data or Toys(19), folder=folder)


def same(one, other):
    return all(torch.equal(value.cpu(), other[name].cpu()) for name, value in one.items())


@pytest.fixture
def replays(monkeypatch):
    """Count the replays of graphs."""
    counted, replay = [], gradients._Graph.replay
    monkeypatch.setattr(
        gradients._Graph, "replay", lambda *arguments: counted.append(1) or replay(*arguments)
    )
    return counted


CHOICES = [
    {},
    {"accumulation_steps": 2},
    {"clip_gradient": 0.1},
    {"precision": "float16"},
    {"deterministic": True},
]


@pytest.mark.parametrize("settings", CHOICES, ids=str)
def test_weights_trained_with_graphs_equal_weights_trained_without(monkeypatch, replays, settings):
    model = network()
    plain = copy.deepcopy(model)
    train(model, **settings)
    assert replays
    monkeypatch.setattr(gradients, "_MAX_VOXELS", 0)
    train(plain, **settings)
    assert same(model.state_dict(), plain.state_dict())


def test_networks_of_parts_trained_together_equal_networks_trained_alone(replays):
    data = Toys(19, parts=(0, 1, 2))
    together = {part: network() for part in data.part_ids}
    alone = copy.deepcopy(together)
    train(together, data)
    assert replays
    for part, model in alone.items():
        train({part: model}, data)
        assert same(model.state_dict(), together[part].state_dict()), part


def test_a_resumed_training_with_graphs_equals_an_uninterrupted_training(tmp_path, replays):
    whole = network()
    broken, rest = copy.deepcopy(whole), copy.deepcopy(whole)
    train(whole, epochs=3)
    train(broken, folder=tmp_path, epochs=1)
    train(rest, folder=tmp_path, epochs=3)
    assert replays
    assert same(whole.state_dict(), rest.state_dict())


class Reading(nn.ReLU):
    """Layer that reads a value, which a graph cannot repeat. Its module passes for one of torch's."""

    def forward(self, image):
        return super().forward(image) * float(image.sum() != 0.5)


def test_a_network_that_cannot_be_captured_is_trained_without_graphs(replays):
    Reading.__module__ = "torch.nn.modules.activation"
    model = network()
    plain = copy.deepcopy(model)
    model.convolutions[2] = Reading()
    train(model)
    assert not replays
    assert torch.rand(2, device="cuda").shape == (2,)
    train(plain)
    assert replays
    assert all(
        torch.allclose(one, other, atol=1e-5)
        for one, other in zip(model.parameters(), plain.parameters(), strict=True)
    )


def test_a_parameter_that_the_network_does_not_use_keeps_its_value():
    model = network()
    model.fc.unused = nn.Parameter(torch.ones(3))
    train(model, epochs=3)
    assert torch.equal(model.fc.unused.cpu(), torch.ones(3))


def test_a_callback_that_freezes_a_layer_has_an_effect(replays):
    frozen = []

    def freeze(state):
        for parameter in state.model.convolutions.parameters():
            parameter.requires_grad_(False)
        frozen.append({name: value.clone() for name, value in state.model.convolutions.named_parameters()})

    model = network()
    Trainer(**SETTINGS | {"epochs": 3, "weight_decay": 0.0}).fit(model, TASK, Toys(19), callbacks=[freeze])
    assert replays
    assert same(frozen[0], frozen[-1])


@pytest.mark.parametrize("voxels", [0, 2**24])
@pytest.mark.parametrize("settings", [{}, {"clip_gradient": 0.1}, {"precision": "float16"}], ids=str)
def test_an_update_does_not_wait_for_the_gpu(monkeypatch, settings, voxels):
    monkeypatch.setattr(gradients, "_MAX_VOXELS", voxels)
    task = classification("diagnosis", classes=["CN", "AD"], class_weights=[1.0, 2.0])
    run = Run(network(), Trainer(**settings), task, None, torch.device("cuda", 0), Ranks())
    batch = {"image": torch.rand(4, 1, 6, 6, 6), "label": ["CN", "AD"] * 2, "participant_id": list("abcd")}
    batch["image"] = batch["image"].cuda()

    def update():
        run.accumulate(batch, n_samples=4, empty=False, last=True)
        run.update()

    for _ in range(4):
        update()
    run.losses.check()
    run.losses._read = math.inf  # Losses are read only after half a second.
    # torch raises an error for each operation that waits.
    torch.cuda.set_sync_debug_mode("error")
    try:
        update()
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Diverging(Toys):
    def __getitem__(self, index):
        item = super().__getitem__(index)
        return item | {"image": item["image"] * (np.nan if index == 7 else 1.0)}


@pytest.mark.parametrize("voxels", [0, 2**24])
def test_an_error_names_the_sample_of_a_loss_that_is_not_finite_and_no_file_is_written(
    tmp_path, monkeypatch, voxels
):
    monkeypatch.setattr(gradients, "_MAX_VOXELS", voxels)
    with pytest.raises(TrainingError, match=r"epoch 0, update \d: the loss is NaN or infinite for sub-07"):
        train(network(), Diverging(19), tmp_path)
    assert not list(tmp_path.rglob("*.pth.tar")) + list(tmp_path.rglob("state*/*.pt"))


@pytest.mark.parametrize("resident", [True, "auto"])
@pytest.mark.parametrize("n_workers", [0, "auto"])
def test_resident_images_give_the_same_results(tmp_path, resident, n_workers):
    labels = nc.make_caps(tmp_path, n_participants=11, preprocessing="t1-linear", shape=(20, 22, 20))
    caps = nc.Caps(tmp_path, "t1-linear")
    train_set, validation = (
        nc.CapsDataset(caps, rows, parts=nc.Patch(10, 10), label="diagnosis")
        for rows in (labels[:7], labels[7:])
    )
    results = []
    for setting in (False, resident):
        torch.manual_seed(0)
        model = create_model("Conv3_FC1", train_set.input_shape, n_outputs=2)
        trainer = Trainer(**SETTINGS | {"resident": setting, "n_workers": n_workers, "epochs": 3})
        history = trainer.fit(model, TASK, train_set, validation).history.drop(columns="time")
        results.append((history, model.state_dict()))
    assert results[0][0].equals(results[1][0])
    assert same(results[0][1], results[1][1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["Conv5_FC3", "Conv4_FC3"])
def test_a_step_with_kernels_equals_a_step_layer_by_layer(name, precision):
    torch.manual_seed(0)
    model = create_model(name, (1, 60, 61, 62), n_outputs=2).cuda().train()
    plain = copy.deepcopy(model)
    plain.fused = False
    image = torch.rand(4, 1, 60, 61, 62, device="cuda")
    found = []
    for one in (model, plain, plain):
        one.zero_grad()
        if len(found) == 2:  # the same layers in float64
            one, image = one.double(), image.double()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16" and len(found) < 2):
            loss = one(image).float().square().sum()
        loss.backward()
        found.append([parameter.grad.double() for parameter in one.parameters()])
    # Gradients of a bias before a batch norm are 0 except for rounding.
    wanted = [k for k, exact in enumerate(found[2]) if exact.norm() > 1e-4 * max(map(torch.norm, found[2]))]
    ours, theirs = (
        torch.stack([(each[k] - found[2][k]).norm() / found[2][k].norm() for k in wanted])
        for each in found[:2]
    )
    # Both are inexact, because cuDNN computes in TF32 or bfloat16.
    assert ours.median() <= 1.5 * theirs.median()
    assert ours.max() <= 3 * theirs.max()

import copy
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score
from torch import nn
from toys import Toys, network, same_weights

from neurocnn.engine import Trainer, classification, evaluate, reconstruction
from neurocnn.errors import LeakError, SettingError, TableError

TASK = classification("diagnosis", ["CN", "AD"])
FAST = {"device": "cpu", "learning_rate": 1e-2, "patience": 0}


def weights_after(trainer, model, data, **more):
    trainer.fit(model, TASK, data, **more)
    return model.state_dict()


@pytest.mark.parametrize(
    ("n", "batch_size", "steps", "n_updates"),
    [(12, 2, 3, 2), (13, 2, 3, 2), (14, 3, 2, 3), (7, 3, 2, 1), (5, 1, 8, 1)],
)
def test_an_accumulated_update_equals_the_update_of_one_large_batch(n, batch_size, steps, n_updates):
    data = Toys(n)
    start = network(norm=False).double()
    accumulated, whole = copy.deepcopy(start), copy.deepcopy(start)
    settings = {**FAST, "epochs": 3, "weight_decay": 0.0, "optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}
    Trainer(batch_size=batch_size, accumulation_steps=steps, **settings).fit(accumulated, TASK, data)
    training = Trainer(batch_size=batch_size * steps, **settings).fit(whole, TASK, data)
    for one, other in zip(accumulated.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)
    assert training.history.iteration.iloc[-1] == 3 * n_updates
    assert not torch.equal(next(whole.parameters()), next(start.parameters()))


def test_an_update_equals_the_update_of_plain_torch():
    # In float32, Adam would magnify the rounding of gradients that are nearly 0.
    data, model = Toys(6), network(norm=False).double()
    plain = copy.deepcopy(model)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2, weight_decay=1e-4)
    images = torch.stack([data[i]["image"] for i in range(6)]).double()
    targets = torch.tensor([i % 2 for i in range(6)])
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(plain(images), targets).backward()
        optimizer.step()
    Trainer(epochs=4, batch_size=6, **FAST).fit(model, TASK, data)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


def test_the_memory_of_a_batch_is_released_before_the_next_batch():
    import weakref

    seen = []

    class Spy(nn.Sequential):
        def forward(self, image):
            if self.training:
                assert sum(ref() is not None for ref in seen) == 0
                seen.append(weakref.ref(image))
            return super().forward(image)

    Trainer(epochs=1, batch_size=1, accumulation_steps=6, **FAST).fit(Spy(*network()), TASK, Toys(6))
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("steps", "expected"), [(0, [4, 8]), (1, [1, 2, 3, 4, 5, 6, 7, 8]), (3, [3, 4, 7, 8])]
)
def test_evaluation_steps_is_a_number_of_updates(steps, expected):
    trainer = Trainer(epochs=2, batch_size=2, accumulation_steps=2, evaluation_steps=steps, **FAST)
    history = trainer.fit(network(), TASK, Toys(16), Toys(4, prefix="val")).history
    assert history.iteration.tolist() == expected
    assert history.columns[:4].tolist() == ["epoch", "iteration", "time", "train_loss"]


@pytest.mark.parametrize("sampler", ["random", "weighted"])
def test_reported_losses_are_means_over_all_samples_of_a_set(sampler):
    data, model = Toys(11, noise=True, labels=("CN", "CN", "AD")), network(norm=False)
    trainer = Trainer(epochs=1, batch_size=4, sampler=sampler, **FAST)
    row = trainer.fit(model, TASK, data, Toys(7, prefix="val")).history.iloc[0]
    for name, dataset in {"train": data.without_augmentation(), "validation": Toys(7, prefix="val")}.items():
        items = [dataset[i] for i in range(len(dataset))]
        with torch.no_grad():
            outputs = torch.cat([model(item["image"][None]) for item in items])
        targets = torch.tensor([["CN", "AD"].index(item["label"]) for item in items])
        assert row[f"{name}_loss"] == pytest.approx(float(F.cross_entropy(outputs, targets)), rel=1e-5)
        expected = balanced_accuracy_score(targets, outputs.argmax(1))
        assert row[f"{name}_balanced_accuracy"] == pytest.approx(expected)


def test_each_sample_is_used_once_per_epoch_in_a_new_order():
    orders = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 2)

        def forward(self, image):
            if self.training:
                orders.append(image.flatten(1)[:, 0].tolist())
            return self.linear(image.flatten(1)[:, :1])

    data = Toys(10)
    Trainer(epochs=2, batch_size=3, **FAST).fit(Spy(), TASK, data)
    values = sorted(float(data[i]["image"].flatten()[0]) for i in range(10))
    assert list(map(len, orders)) == [3, 3, 4, 3, 3, 4]  # The last sample is joined with the batch before it.
    epochs = [list(chain(*orders[:3])), list(chain(*orders[3:]))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == pytest.approx(values)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("table", [True, False])
def test_the_weighted_sampler_draws_classes_equally_often(table):
    drawn = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 2)

        def forward(self, image):
            if self.training:
                drawn.extend((image.flatten(1).mean(1) > 5).tolist())
            return self.linear(image.flatten(1)[:, :1])

    data = Toys(40, labels=("CN",) * 9 + ("AD",), size=2, table=table)
    data.images[[i for i in range(40) if data.labels[i] == "AD"]] += 10
    Trainer(epochs=20, batch_size=40, sampler="weighted", **FAST).fit(Spy(), TASK, data)
    assert len(drawn) == 20 * 40
    # 800 draws with probability 1/2: five standard deviations are 0.09.
    assert abs(np.mean(drawn) - 0.5) < 0.09


def test_the_best_states_contain_the_weights_after_the_best_epochs(tmp_path):
    seen = {}

    def remember(state):
        if state.epoch_ended:
            seen[state.epoch] = copy.deepcopy(state.model.state_dict())

    data, validation = Toys(12), Toys(8, prefix="val", seed=5)
    trainer = Trainer(epochs=6, batch_size=4, evaluation_steps=1, **{**FAST, "learning_rate": 0.05})
    for folder in (None, tmp_path):
        model = network()
        training = trainer.fit(model, TASK, data, validation, folder=folder, callbacks=[remember])
        ends = training.history.groupby("epoch").last()
        assert training.best_epochs == {
            "best_loss": ends.validation_loss.idxmin(),
            "best_balanced_accuracy": ends.validation_balanced_accuracy.idxmax(),
        }
        for selection, epoch in training.best_epochs.items():
            assert same_weights(training.best[selection], seen[epoch])
        assert same_weights(model.state_dict(), seen[5])
    paths = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "models").rglob("*.tar"))
    assert paths == [f"models/{name}/model_best.pth.tar" for name in ("best_balanced_accuracy", "best_loss")]


def test_without_a_validation_set_the_training_loss_selects_epochs_and_stops_early():
    trainer = Trainer(epochs=9, batch_size=4, **{**FAST, "patience": 2, "learning_rate": 0.0})
    training = trainer.fit(network(norm=False), TASK, Toys(8))
    assert training.stopped_early
    assert training.stopped_at == 2
    assert training.best_epochs["best_loss"] == 0
    assert not [name for name in training.history if name.startswith("validation")]


def test_networks_trained_in_one_pass_equal_networks_trained_one_by_one(tmp_path):
    parts = (3, 7, 8)
    train, validation = Toys(9, parts, noise=True), Toys(5, parts, prefix="val", seed=3)
    trainer = Trainer(
        epochs=6,
        batch_size=2,
        accumulation_steps=2,
        evaluation_steps=2,
        **{**FAST, "patience": 2, "learning_rate": 0.05},
    )
    models = {part: network(seed=part, dropout=0.5) for part in parts}
    alone = {part: copy.deepcopy(model) for part, model in models.items()}
    trainings = trainer.fit(models, TASK, train, validation, folder=tmp_path)
    for part in parts:
        expected = trainer.fit(alone[part], TASK, train.only_part(part), validation.only_part(part))
        assert same_weights(models[part].state_dict(), alone[part].state_dict())
        pd.testing.assert_frame_equal(
            trainings[part].history.drop(columns="time"), expected.history.drop(columns="time")
        )
        assert trainings[part].best_epochs == expected.best_epochs
        for selection in expected.best:
            assert same_weights(trainings[part].best[selection], expected.best[selection])
        assert (tmp_path / "models" / f"cnn-{part}" / "training.tsv").is_file()
    assert len({training.stopped_at for training in trainings.values()}) > 1, "they should stop apart"


def test_images_are_read_once_for_all_networks():
    train, parts = Toys(6, (0, 1, 2)), (0, 2)
    Trainer(epochs=2, batch_size=2, **FAST).fit({part: network(part) for part in parts}, TASK, train)
    runs = [train.opened[i] for i in range(0, len(train.opened), len(parts))]
    assert len(train.opened) == 6 * len(parts) * 4
    assert all(train.opened[2 * k] == train.opened[2 * k + 1] for k in range(len(runs))), (
        "parts come together"
    )


def test_training_changes_only_the_weights_of_a_network():
    model = network()
    state = torch.get_rng_state()
    Trainer(epochs=1, **FAST).fit(model, TASK, Toys(4))
    assert all(p.grad is None and p.is_contiguous() for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state is its own"


def test_a_custom_optimizer_and_scheduler_are_used():
    rates = []
    trainer = Trainer(
        epochs=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1),
        **FAST,
    )
    trainer.fit(
        network(),
        TASK,
        Toys(4),
        callbacks=[lambda state: rates.append(state.optimizer.param_groups[0]["lr"])],
    )
    assert rates == pytest.approx([1.0, 0.1, 0.01])


@pytest.mark.parametrize("rate", [1e-30, 0.01], ids=["a loss that stays", "a loss that falls"])
def test_a_plateau_scheduler_receives_the_validation_loss(rate):
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, eps=0.0)
    rates = []
    training = Trainer(
        epochs=5, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate), scheduler=plateau, **FAST
    ).fit(
        network(norm=False),
        TASK,
        Toys(4),
        callbacks=[lambda state: rates.append(state.optimizer.param_groups[0]["lr"])],
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler, expected = plateau(optimizer), []
    for loss in training.history.train_loss:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(loss)
    assert rates == expected
    assert (rates[-1] < rate) == (rate == 1e-30), "the rate is reduced only if the loss does not fall"


def test_gradients_are_clipped():
    model = network(norm=False)
    before = copy.deepcopy(model)
    trainer = Trainer(
        epochs=1, batch_size=4, clip_gradient=1e-3, optimizer=lambda p: torch.optim.SGD(p, lr=1.0), **FAST
    )
    trainer.fit(model, TASK, Toys(4))
    steps = [(a - b).detach() for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert float(torch.cat([step.flatten() for step in steps]).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_frozen_parameters_do_not_change():
    model = network(norm=False)
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    Trainer(epochs=1, **FAST).fit(model, TASK, Toys(4))
    assert torch.equal(model[0].weight, before)


def test_a_participant_in_both_sets_is_refused():
    with pytest.raises(LeakError, match=r"4 participants.*sub-00"):
        Trainer(**FAST).fit(network(), TASK, Toys(6), Toys(4))


@pytest.mark.parametrize("table", [True, False])
def test_a_training_set_with_one_class_is_refused_with_counts(table, tmp_path):
    with pytest.raises(TableError, match=r"CN: 6, AD: 0"):
        Trainer(epochs=1, **FAST).fit(network(), TASK, Toys(6, labels=("CN",), table=table), folder=tmp_path)
    assert not (tmp_path / "training.tsv").exists()


def test_unknown_labels_are_refused_before_the_first_epoch():
    with pytest.raises(TableError, match=r"sub-01 ses-M00 has 'MCI'.*one of CN, AD"):
        Trainer(**FAST).fit(network(), TASK, Toys(6, labels=("CN", "MCI")))


def test_an_autoencoder_learns():
    autoencoder = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 1, 3, padding=1))
    training = Trainer(epochs=5, **FAST).fit(autoencoder, reconstruction(), Toys(8))
    assert list(training.best) == ["best_loss"]
    assert training.history.train_loss.iloc[-1] < training.history.train_loss.iloc[0]
    assert {"train_mse", "train_mae", "train_rmse", "train_psnr", "train_ssim"} <= set(training.history)


def test_each_selection_metric_of_a_task_has_a_best_state():
    task = replace(TASK, selection=("roc_auc",))
    training = Trainer(epochs=3, **FAST).fit(network(), task, Toys(8))
    assert training.best_epochs["best_roc_auc"] == training.history.train_roc_auc.idxmax()
    with pytest.raises(SettingError, match="did you mean 'roc_auc'"):
        Trainer(epochs=1, **FAST).fit(network(), replace(TASK, selection=("roc_acu",)), Toys(8))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_network_trains_in_half_precision(precision):
    model = network(norm=False)
    training = Trainer(epochs=10, precision=precision, **FAST).fit(model, TASK, Toys(8))
    assert next(model.parameters()).dtype == torch.float32
    assert training.history.train_loss.iloc[-1] < training.history.train_loss.iloc[0]
    assert evaluate(model, TASK, Toys(8), device="cpu", precision=precision).loss.mean() == pytest.approx(
        training.history.train_loss.iloc[-1]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 2.5},
        {"patience": -1},
        {"tolerance": 1.0},
        {"learning_rate": float("nan")},
        {"sampler": "balanced"},
        {"precision": "half"},
        {"clip_gradient": 0},
        {"seed": True},
    ],
)
def test_an_error_names_the_invalid_setting(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Trainer(**wrong)

"""Settings are checked, and are the same after training is resumed, for any type of number."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from toys import Toys, network, same_weights

from neurocnn.engine import Trainer, classification
from neurocnn.errors import SettingError

TASK = classification("diagnosis", ["CN", "AD"])
NUMBERS = {
    "learning_rate": np.logspace(-3, -1, 3)[1],
    "weight_decay": np.float32(0.5),
    "tolerance": np.float64(0.25),
    "clip_gradient": np.float64(4),
    "checkpoint_seconds": np.float64(0),
    "rank_seconds": np.float32(60),
    "batch_size": np.int64(2),
    "seed": torch.tensor(3),
    "deterministic": np.bool_(False),
    "precision": np.str_("float32"),
}


def test_numpy_scalars_become_plain_numbers_in_settings():
    trainer = Trainer(**NUMBERS)
    assert trainer == Trainer(**{name: value.item() for name, value in NUMBERS.items()})
    assert {type(getattr(trainer, name)) for name in NUMBERS} == {int, float, bool, str}


def numpys_metrics(table):
    return {name: np.float64(value) for name, value in TASK.metrics(table).items()}


@pytest.mark.parametrize(
    "optimizer", [None, partial(torch.optim.SGD, lr=np.float64(0.1), momentum=np.float32(0.9))]
)
def test_a_run_with_numpy_scalars_as_settings_can_be_resumed(optimizer, tmp_path):
    task, data = replace(TASK, metrics=numpys_metrics), Toys(6)

    def fit(epochs, folder):
        model = network()
        trainer = Trainer(**NUMBERS, device="cpu", patience=0, optimizer=optimizer, epochs=np.int64(epochs))
        return model, trainer.fit(model, task, data, folder=folder)

    fit(1, tmp_path / "left")
    model, training = fit(3, tmp_path / "left")
    other, unbroken = fit(3, tmp_path / "unbroken")
    assert same_weights(model.state_dict(), other.state_dict())
    pd.testing.assert_frame_equal(
        training.history.drop(columns="time"), unbroken.history.drop(columns="time")
    )
    for name, weights in training.best.items():
        assert same_weights(weights, unbroken.best[name])


@pytest.mark.parametrize("before", [np.float32(0.9), 0.9])
def test_a_changed_number_inside_an_optimizer_is_detected(before, tmp_path):
    def fit(momentum):
        optimizer = partial(torch.optim.SGD, lr=0.1, momentum=momentum)
        Trainer(epochs=1, device="cpu", optimizer=optimizer).fit(network(), TASK, Toys(4), folder=tmp_path)

    fit(before)
    fit(float(before))
    with pytest.raises(SettingError, match="optimizer"):
        fit(np.float32(0.8))


@pytest.mark.parametrize(
    "name", ["learning_rate", "weight_decay", "tolerance", "clip_gradient", "rank_seconds"]
)
@pytest.mark.parametrize("value", ["0.1", True, float("nan"), -1.0, np.array([0.1]), 1j])
def test_a_setting_that_is_not_a_number_is_refused(name, value):
    with pytest.raises(SettingError, match=f"{name}=.*number"):
        Trainer(**{name: value})


def rates(trainer, n, **settings):
    """Return the learning rate after each update, from a run with an evaluation after each update."""
    found = []
    training = trainer.fit(
        network(),
        classification("diagnosis", ["CN", "AD"]),
        Toys(n),
        callbacks=[lambda state: found.append(state.optimizer.param_groups[0]["lr"])],
        **settings,
    )
    return found, training


def test_a_scheduler_stepped_by_update_warms_up_within_the_first_epoch():
    warm_up = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: min(1.0, (step + 1) / 5))
    trainer = Trainer(
        epochs=2, batch_size=2, evaluation_steps=1, learning_rate=0.01, scheduler=warm_up, scheduler_step="update",
        device="cpu",
    )  # fmt: skip
    found, _ = rates(trainer, 8)
    assert found == pytest.approx([0.01 * min(1.0, (step + 1) / 5) for step in range(1, 9)])


def test_one_cycle_receives_the_total_number_of_updates():
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1)
    trainer = Trainer(
        epochs=3, batch_size=2, evaluation_steps=1, scheduler=one_cycle, scheduler_step="update", patience=0,
        device="cpu",
    )  # fmt: skip
    found, _ = rates(trainer, 8)
    optimizer = torch.optim.Adam(network().parameters())
    expected, scheduler = [], one_cycle(optimizer, total_steps=12)
    for _ in range(12):
        optimizer.step()
        scheduler.step()
        expected.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(expected)


def test_a_scheduler_stepped_by_update_is_resumed_within_an_epoch(tmp_path):
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1)
    settings = {"epochs": 3, "batch_size": 2, "evaluation_steps": 1, "patience": 0, "device": "cpu"}
    trainer = Trainer(**settings, scheduler=one_cycle, scheduler_step="update", checkpoint_seconds=0)
    found, unbroken = rates(trainer, 8, folder=tmp_path / "unbroken")

    def stop(state):
        if state.iteration == 6:
            raise RuntimeError("stopped")

    task = classification("diagnosis", ["CN", "AD"])
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.fit(network(), task, Toys(8), folder=tmp_path / "resumed", callbacks=[stop])
    later, resumed = rates(trainer, 8, folder=tmp_path / "resumed")
    assert later == found[-len(later) :]
    pd.testing.assert_frame_equal(resumed.history.drop(columns="time"), unbroken.history.drop(columns="time"))


def test_a_scheduler_that_needs_the_loss_of_an_epoch_cannot_be_stepped_by_update():
    trainer = Trainer(
        scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau, scheduler_step="update", device="cpu"
    )
    with pytest.raises(SettingError, match="scheduler_step='update'; expected 'epoch' for ReduceLROnPlateau"):
        trainer.fit(network(), classification("diagnosis", ["CN", "AD"]), Toys(8))


def test_any_metric_of_the_task_can_select_epochs_and_stop_early():
    task = classification("diagnosis", ["CN", "AD"], selection=["roc_auc", "loss"])
    trainer = Trainer(epochs=30, patience=3, stopping_metric="roc_auc", learning_rate=1e-3, device="cpu")
    training = trainer.fit(network(), task, Toys(12), Toys(8, prefix="v", seed=1))
    areas = training.history["validation_roc_auc"].tolist()
    assert set(training.best) == {"best_roc_auc", "best_loss"}
    assert training.best_epochs["best_roc_auc"] == int(np.argmax(areas))
    # The expected epoch is found by a simple loop: stop after three epochs in a row without a new maximum.
    waited, best, last = 0, -np.inf, len(areas) - 1
    for epoch, area in enumerate(areas):
        waited = 0 if area > best else waited + 1
        best = max(best, area)
        if waited == 3:
            last = epoch
            break
    assert (training.stopped_at, training.stopped_early) == (last, waited == 3)


def test_an_unknown_stopping_metric_is_refused():
    trainer = Trainer(stopping_metric="rocauc", device="cpu")
    with pytest.raises(
        SettingError, match="stopping_metric: 'rocauc' is not a metric of the task; did you mean 'roc_auc'"
    ):
        trainer.fit(network(), classification("diagnosis", ["CN", "AD"]), Toys(8))

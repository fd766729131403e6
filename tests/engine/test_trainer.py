"""Settings come back from a state as they were, whatever kind of number they were given as."""

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


def test_numbers_of_numpy_become_plain_settings():
    trainer = Trainer(**NUMBERS)
    assert trainer == Trainer(**{name: value.item() for name, value in NUMBERS.items()})
    assert {type(getattr(trainer, name)) for name in NUMBERS} == {int, float, bool, str}


def numpys_metrics(table):
    return {name: np.float64(value) for name, value in TASK.metrics(table).items()}


@pytest.mark.parametrize(
    "optimizer", [None, partial(torch.optim.SGD, lr=np.float64(0.1), momentum=np.float32(0.9))]
)
def test_a_training_with_numbers_of_numpy_is_resumed(optimizer, tmp_path):
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

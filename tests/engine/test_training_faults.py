"""Runs that fail: outputs that are not finite, networks for other shapes, and states with wrong content."""

import copy
import inspect
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys import Toys, network, same_weights

from neurocnn.engine import Trainer, classification, encode, predict, reconstruction
from neurocnn.engine.checkpoint import StateFiles, check_state
from neurocnn.errors import CheckpointError, ModelError, SettingError, TrainingError
from neurocnn.nn import read_weights
from neurocnn.storage.tensors import load_tensors, save_tensors

pytestmark = pytest.mark.faults
TASK = classification("diagnosis", ["CN", "AD"])
SETTINGS = {"device": "cpu", "epochs": 4, "batch_size": 4, "learning_rate": 0.01, "patience": 0}


def without_time(training):
    return training.history.drop(columns="time")


class NanFor(nn.Module):
    """Network whose outputs for bright images are NaN in evaluations of some epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.inner, self.epochs, self.epoch = network(norm=False), epochs, 0

    def forward(self, image):
        output = self.inner(image)
        if self.training or self.epoch not in self.epochs:
            return output
        return torch.where((image.flatten(1).amax(1) > 5)[:, None], torch.nan, output)

    def follow(self, state):
        self.epoch = state.epoch + 1


@pytest.mark.parametrize("where", ["train", "validation"])
def test_an_epoch_with_a_nan_output_has_nan_metrics_and_is_never_the_best(where, caplog):
    data, validation, model = Toys(8), Toys(6, prefix="val"), NanFor({1, 3})
    (data if where == "train" else validation).images[2] += 10
    training = Trainer(**SETTINGS).fit(model, TASK, data, validation, callbacks=[model.follow])
    metrics = training.history.filter(regex="^(train|validation)_")
    assert metrics.isna().all(axis=1).tolist() == [False, True, False, True]
    assert not metrics.iloc[[0, 2]].drop(columns=[c for c in metrics if "roc" in c]).isna().any(axis=None)
    assert training.best_epochs["best_loss"] == training.history.validation_loss.idxmin()
    assert set(training.best_epochs.values()) <= {0, 2}
    name = "sub-02" if where == "train" else "val-02"
    messages = [record.getMessage() for record in caplog.records if "NaN or infinite" in record.getMessage()]
    assert len(messages) == 2
    assert all(f"{name} ses-M00 part 0 of the {where} set" in message for message in messages)


def test_epochs_with_nan_do_not_improve_and_a_run_of_only_such_epochs_fails(tmp_path):
    model = NanFor(range(100))
    data = Toys(8)
    data.images[2] += 10
    calls = []
    trainer = Trainer(**{**SETTINGS, "epochs": 50, "patience": 3})
    with pytest.raises(TrainingError, match="loss, balanced_accuracy: NaN or infinite in every epoch"):
        trainer.fit(model, TASK, data, folder=tmp_path, callbacks=[model.follow, calls.append])
    assert len(calls) == 3
    corrected, other, sound = network(norm=False), network(norm=False), Toys(8)
    Trainer(**SETTINGS).fit(corrected, TASK, sound, folder=tmp_path)
    Trainer(**SETTINGS).fit(other, TASK, sound)
    assert same_weights(corrected.state_dict(), other.state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_error_names_samples_whose_predictions_or_codes_are_not_finite(value):
    data = Toys(8)
    data.images[5] = value
    with pytest.raises(ModelError, match="NaN or infinite for sub-05 ses-M00 part 0"):
        predict(network(), TASK, data, device="cpu")
    with pytest.raises(ModelError, match="sub-05"):
        predict(nn.Identity(), reconstruction(), data, device="cpu")

    class Halves(nn.Module):
        def forward(self, image):
            return image[..., ::2], image

    with pytest.raises(ModelError, match="sub-05"):
        encode(Halves(), data, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_error_names_the_file_of_weights_that_are_not_finite(value, tmp_path):
    training = Trainer(**SETTINGS).fit(network(), TASK, Toys(8), folder=tmp_path)
    path = tmp_path / "models" / "best_loss" / "model_best.pth.tar"
    content = load_tensors(path)
    content["model"]["0.bias"][1] = value
    save_tensors(content, path)
    for load in (lambda: training.best["best_loss"], lambda: read_weights(path)):
        with pytest.raises(
            CheckpointError, match=r"best_loss/model_best\.pth\.tar: 0\.bias(: 1 of 3| has 1 value)"
        ):
            load()
    training.best["best_balanced_accuracy"]


def narrow():
    """Return a network with batch normalisation over one value per sample and channel."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 3, 6), nn.BatchNorm3d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2))


@pytest.mark.parametrize("multi", [False, True])
def test_a_last_batch_of_one_sample_is_joined_with_the_batch_before(multi):
    data = Toys(5, (0, 3) if multi else (0,))
    joined, whole = narrow(), narrow()
    for model, batch_size in ((joined, 4), (whole, 5)):
        networks = {0: model, 3: narrow()} if multi else model
        Trainer(**{**SETTINGS, "batch_size": batch_size}).fit(networks, TASK, data)
    assert same_weights(joined.state_dict(), whole.state_dict())


def test_batch_normalisation_over_one_value_is_refused_before_the_first_update(tmp_path):
    model = narrow()
    before = copy.deepcopy(dict(model.named_parameters()))
    trainer = Trainer(**{**SETTINGS, "batch_size": 1}, checkpoint_seconds=0)
    with pytest.raises(
        ModelError, match=r"shape \(1, 1, 6, 6, 6\) \(sub-0\d ses-M00 part 0\).*batch_size ≥ 2"
    ):
        trainer.fit(model, TASK, Toys(4), folder=tmp_path)
    assert same_weights(dict(model.named_parameters()), before)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in ([], ["training.lock"])
    Trainer(**SETTINGS).fit(narrow(), TASK, Toys(4), folder=tmp_path)


@pytest.mark.parametrize(
    "model", [network(size=8), network(dims=2), network(size=4)], ids=["larger", "2-D", "smaller"]
)
def test_a_network_for_another_shape_is_refused_with_samples_and_shape(model):
    for call in (
        lambda: Trainer(**SETTINGS).fit(model, TASK, Toys(4)),
        lambda: predict(model, TASK, Toys(4), device="cpu"),
    ):
        with pytest.raises(
            ModelError, match=r"\(4, 1, 6, 6, 6\) \(sub-.* and 1 more\).*input_shape=\(1, 6, 6, 6\)"
        ):
            call()


def test_an_error_names_lazy_layers_without_weights():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    for call in (
        lambda: Trainer(**SETTINGS).fit(model, TASK, Toys(4)),
        lambda: predict(model, TASK, Toys(4), device="cpu"),
    ):
        with pytest.raises(ModelError, match="weights of 1 are not initialised"):
            call()
    model(torch.zeros(1, 1, 6, 6, 6))
    Trainer(**SETTINGS).fit(model, TASK, Toys(4))


def test_a_network_with_the_old_weight_norm_trains_and_its_best_weights_load(tmp_path):
    def build():
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(216, 2)))

    training = Trainer(**SETTINGS).fit(build(), TASK, Toys(8), folder=tmp_path)
    build().load_state_dict(training.best["best_loss"])


def test_the_error_of_compile_without_a_compiler_names_the_setting(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from toys import Toys, network\n"
        "from neurocnn.engine import Trainer, classification\n"
        "trainer = Trainer(device='cpu', epochs=1, compile=True)\n"
        "trainer.fit(network(norm=False), classification('diagnosis', ['CN', 'AD']), Toys(4))\n"
    )
    absent = {"PATH": "/nonexistent", "CXX": "/nonexistent/g++"}
    environment = os.environ | absent | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert "TrainingError: compile=True: torch.compile failed" in done.stderr
    assert "use compile=False" in done.stderr


# States


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Provide a run that stopped after two epochs, and the weights and history of a complete run."""
    folder = tmp_path_factory.mktemp("stopped")
    Trainer(**{**SETTINGS, "epochs": 2}).fit(network(), TASK, Toys(8), folder=folder)
    model = network()
    training = Trainer(**SETTINGS).fit(model, TASK, Toys(8))
    return folder, model.state_dict(), without_time(training)


@pytest.fixture
def folder(stopped, tmp_path):
    return Path(shutil.copytree(stopped[0], tmp_path / "copy"))


def newest(folder):
    return max((folder / "state").glob("*.pt"), key=lambda path: load_tensors(path)["serial"])


def nested(depth=200):
    value = []
    for _ in range(depth):
        value = [value]
    return value


WRONG = {
    "no dict": lambda state: [1, 2],
    "other entries": lambda state: {"weights": torch.zeros(3)},
    "text for a number": lambda state: state | {"epoch": "three"},
    "a negative number": lambda state: state | {"updates": -1},
    "a number that is not finite": lambda state: state | {"seconds": float("nan")},
    "a number for a dict": lambda state: state | {"best": 3},
    "a serial of text": lambda state: state | {"serial": "newest"},
    "rows without names": lambda state: state | {"history": [[1, 2]]},
    "rows without an epoch": lambda state: state | {"history": [{"train_loss": 1.0}]},
    "a number of 30 digits": lambda state: state | {"updates": 10**30},
    "another epoch than the history": lambda state: state | {"epoch": 7},
    "rows removed": lambda state: state | {"history": []},
    "more updates than iterations": lambda state: state | {"updates": 10**6},
    "a tensor for a flag": lambda state: state | {"join_last": torch.zeros(2)},
    "deep nesting": lambda state: state | {"settings": {"seed": nested()}},
    "deep nesting of rows": lambda state: state | {"history": nested()},
    "terabytes": lambda state: state | {"model": state["model"] | {"0.bias": torch.zeros(1).expand(10**12)}},
    "no tensors": lambda state: state | {"model": dict.fromkeys(state["model"], 1.0)},
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_well_formed_state_with_wrong_content_is_replaced_by_the_older_one(kind, stopped, folder):
    path = newest(folder)
    torch.save(WRONG[kind](load_tensors(path)), path)
    with pytest.raises(CheckpointError, match=str(path)):
        check_state(load_tensors(path), path)
    model = network()
    with pytest.warns(UserWarning, match=f"{path.name}.*resuming from the other state"):
        training = Trainer(**SETTINGS).fit(model, TASK, Toys(8), folder=folder)
    assert same_weights(model.state_dict(), stopped[1])
    assert without_time(training).equals(stopped[2])


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"0.weight": torch.zeros(1)}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"random": [{"cpu": torch.zeros(3), "device": None}]},
        {"random": [3]},
        {"stopper": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_error_names_the_invalid_entry_of_a_state(change, folder):
    for path in (folder / "state").glob("*.pt"):
        save_tensors(load_tensors(path) | change, path)
    with pytest.raises(CheckpointError, match="state"):
        Trainer(**SETTINGS).fit(network(), TASK, Toys(8), folder=folder)


def test_a_state_with_more_updates_than_an_epoch_is_refused(folder):
    for path in (folder / "state").glob("*.pt"):
        save_tensors(load_tensors(path) | {"updates": 1000, "iteration": 10**6}, path)
    with pytest.raises(CheckpointError, match="updates=1000"):
        Trainer(**SETTINGS).fit(network(), TASK, Toys(8), folder=folder)


def test_optimizer_moments_of_a_wrong_shape_are_refused(folder):
    for path in (folder / "state").glob("*.pt"):
        state = load_tensors(path)
        state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(7)
        save_tensors(state, path)
    with pytest.raises(CheckpointError, match="exp_avg"):
        Trainer(**SETTINGS).fit(network(), TASK, Toys(8), folder=folder)


@pytest.mark.parametrize("content", [[1], {"model": 3}, {"model": {"0.bias": "text"}}, {"epoch": 1}])
def test_a_best_model_with_wrong_content_is_refused_with_its_path(content, tmp_path):
    # Without learning, the first epoch is the best epoch, and the state does not contain its weights.
    constant = {**SETTINGS, "learning_rate": 0.0}
    training = Trainer(**constant).fit(network(norm=False), TASK, Toys(8), folder=tmp_path)
    path = tmp_path / "models" / "best_loss" / "model_best.pth.tar"
    save_tensors(content, path)
    with pytest.raises(CheckpointError, match=str(path)):
        training.best["best_loss"]
    with pytest.raises(CheckpointError, match=str(path)):
        Trainer(**{**constant, "epochs": 5}).fit(network(norm=False), TASK, Toys(8), folder=tmp_path)


def test_a_flipped_bit_in_a_state_is_detected_or_changes_nothing(stopped, folder, request):
    path = newest(folder)
    intact = path.read_bytes()
    expected = StateFiles(folder / "state").read()
    generator = random.Random(0)
    full = request.config.getoption("--faults", None) == "full"
    n_detected = 0
    for _ in range(1000 if full else 60):
        content = bytearray(intact)
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            state = StateFiles(folder / "state").read()
        if caught:
            n_detected += 1
            assert state["serial"] == expected["serial"] - 1
        else:
            assert state["serial"] == expected["serial"]
            assert same_weights(state["model"], expected["model"])
            assert state["history"] == expected["history"]
    assert n_detected > 0


# Restart and resume


@pytest.mark.parametrize("changed", [{"batch_size": 2}, {"learning_rate": 0.001}, {"epochs": 2}, {"seed": 3}])
def test_a_run_that_failed_before_its_first_score_can_be_repeated_with_other_settings(changed, tmp_path):
    data = Toys(12)
    data.images[5] = float("nan")
    with pytest.raises(TrainingError, match="sub-05"):
        Trainer(**{**SETTINGS, "batch_size": 2}, checkpoint_seconds=0).fit(
            network(norm=False), TASK, data, folder=tmp_path
        )
    if not list((tmp_path / "state").glob("*.pt")):
        pytest.fail("the test needs a state")
    trainer, sound = Trainer(**{**SETTINGS, "learning_rate": 0.02, **changed}), Toys(12)
    model, other = network(norm=False), network(norm=False)
    training = trainer.fit(model, TASK, sound, folder=tmp_path)
    expected = trainer.fit(other, TASK, sound)
    assert same_weights(model.state_dict(), other.state_dict())
    assert without_time(training).equals(without_time(expected))
    with pytest.raises(SettingError, match="other settings"):
        Trainer(**{**SETTINGS, "learning_rate": 0.5}).fit(network(norm=False), TASK, sound, folder=tmp_path)


@pytest.mark.parametrize("kept", [True, False])
def test_an_interruption_logs_the_saved_state_and_a_resume_logs_its_start(kept, tmp_path, caplog):
    def interrupt(state):
        if state.epoch == 1:
            signal.raise_signal(signal.SIGINT)

    folder = tmp_path if kept else None
    with caplog.at_level(logging.INFO, logger="neurocnn"), pytest.raises(KeyboardInterrupt):
        Trainer(**SETTINGS).fit(network(), TASK, Toys(8), folder=folder, callbacks=[interrupt])
    [line] = [
        record.getMessage() for record in caplog.records if "stopped by a signal" in record.getMessage()
    ]
    assert (f"saved in {tmp_path}; run the same script again" in line) == kept
    assert ("nothing is saved" in line) == (not kept)
    if kept:
        state = load_tensors(newest(tmp_path))
        with caplog.at_level(logging.INFO, logger="neurocnn"):
            Trainer(**SETTINGS).fit(network(), TASK, Toys(8), folder=folder)
        assert f"resuming in epoch {state['epoch'] + 1}, update {state['updates']}" in caplog.text


def test_another_number_of_threads_is_logged_on_resume(tmp_path, caplog):
    torch.set_num_threads(1)
    Trainer(**{**SETTINGS, "epochs": 1}).fit(network(), TASK, Toys(8), folder=tmp_path)
    Trainer(**{**SETTINGS, "epochs": 2}).fit(network(), TASK, Toys(8), folder=tmp_path)
    assert "threads" not in caplog.text
    torch.set_num_threads(2)
    Trainer(**{**SETTINGS, "epochs": 3}).fit(network(), TASK, Toys(8), folder=tmp_path)
    assert "with 2 threads of torch, but the state was written with 1" in caplog.text
    assert load_tensors(newest(tmp_path))["settings"]["n_threads"] == 2


def test_calls_of_fit_in_two_threads_do_not_affect_each_other(caplog):
    def fit(model, seed, barrier=None):
        if barrier is not None:
            barrier.wait()
        Trainer(**SETTINGS, seed=seed).fit(model, TASK, Toys(12, noise=True))

    torch.set_num_threads(1)
    models = {seed: network(seed=0, dropout=0.5) for seed in (1, 2)}
    alone = {seed: copy.deepcopy(model) for seed, model in models.items()}
    for seed, model in alone.items():
        fit(model, seed)
    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=fit, args=(model, seed, barrier)) for seed, model in models.items()]
    with caplog.at_level(logging.INFO, logger="neurocnn"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for seed, model in models.items():
        assert same_weights(model.state_dict(), alone[seed].state_dict())
    assert "waits for another thread" in caplog.text


# Arguments


@pytest.mark.parametrize("field", inspect.signature(Trainer).parameters)
def test_a_setting_of_an_unexpected_type_is_refused_or_accepted(field):
    for value in (None, "text", -1, 1.5, float("nan"), [1], {"a": 1}, {1}, object(), Path("here"), Trainer):
        try:
            Trainer(**{field: value})
        except SettingError as error:
            assert f"Trainer: {field}=" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "optimizer", ["adam", torch.optim.Adam([nn.Parameter(torch.zeros(1))]), 3, nn.Linear(1, 1)], ids=str
)
def test_an_optimizer_that_is_not_a_function_is_refused_by_the_trainer(optimizer):
    with pytest.raises(SettingError, match=r"Trainer: optimizer=.*torch\.optim\.SGD"):
        Trainer(optimizer=optimizer)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (torch.optim.SGD, {"lr": 0.01, "weight_decay": 0.5}),
        (torch.optim.Rprop, {"lr": 0.01}),
        (partial(torch.optim.SGD, lr=0.3), {"lr": 0.3, "weight_decay": 0}),
    ],
)
def test_an_optimizer_class_receives_the_learning_rate_of_the_trainer_and_a_function_does_not(
    optimizer, expected
):
    groups = []
    Trainer(**{**SETTINGS, "epochs": 1}, weight_decay=0.5, optimizer=optimizer).fit(
        network(),
        TASK,
        Toys(4),
        callbacks=[lambda state: groups.append(dict(state.optimizer.param_groups[0]))],
    )
    assert {name: groups[0][name] for name in expected} == expected


def test_a_similar_setting_is_suggested_and_the_signature_has_the_fields():
    with pytest.raises(SettingError, match=r"unknown argument lr; did you mean learning_rate\?"):
        Trainer(lr=0.1)
    with pytest.raises(SettingError, match="did you mean epochs"):
        Trainer(epoch=3)
    assert {"epochs", "learning_rate", "checkpoint_seconds"} <= set(inspect.signature(Trainer).parameters)
    assert np.isclose(Trainer().learning_rate, 1e-4)

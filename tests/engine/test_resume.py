"""A run that is killed and resumed ends with the results of an uninterrupted run."""

import os
import random
import signal
import time
import warnings
from functools import partial

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from toys import Toys, die, in_child, kill_at, network, same_weights

from neurocnn.engine import Trainer, classification, regression
from neurocnn.errors import CheckpointError, InUseError, SettingError
from neurocnn.storage.locks import hold
from neurocnn.storage.tensors import load_tensors

pytestmark = pytest.mark.cpu
TASK = classification("diagnosis", ["CN", "AD"])
PARTS = (0, 4)
SETTINGS = {
    "device": "cpu",
    "epochs": 12,
    "batch_size": 2,
    "accumulation_steps": 2,
    "evaluation_steps": 2,
    "learning_rate": 0.03,
    "patience": 3,
    "checkpoint_seconds": 0,
}


def data():
    return Toys(10, PARTS, noise=True), Toys(6, PARTS, prefix="val", seed=4)


def fit(folder, multi=False, spoil=lambda model: None, callbacks=(), **changed):
    """Train with the settings of these tests. `spoil` may let a network kill the process."""
    models = {part: network(seed=part, dropout=0.5) for part in PARTS}
    model = models if multi else models[0]
    for each in models.values():
        spoil(each)
    torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
    trainer = Trainer(**{**SETTINGS, **changed})
    return model, trainer.fit(model, TASK, *data(), folder=folder, callbacks=callbacks)


def written(folder, multi, **changed):
    """Return all results of a run that must not depend on kills: everything except `time`."""
    tables = sorted(folder.rglob("training.tsv"))
    found = {str(p.relative_to(folder)): pd.read_csv(p, sep="\t").drop(columns="time") for p in tables}
    bests = {str(p.relative_to(folder)): load_tensors(p) for p in sorted(folder.rglob("model_best.pth.tar"))}
    events = {
        str(log.relative_to(folder).parent): logged(log)
        for log in sorted(folder.rglob("events.out.tfevents.*"))
    }
    _, training = fit(folder, multi, **changed)
    trainings = list(training.values()) if multi else [training]
    stops = [(one.stopped_at, one.stopped_early, dict(one.best_epochs)) for one in trainings]
    kept = [one.predictions["best_loss"][name] for one in trainings for name in ("train", "validation")]
    model, _ = fit(folder, multi, **changed)
    models = list(model.values()) if multi else [model]
    return found, bests, events, stops, kept, [each.state_dict() for each in models]


def logged(path):
    return [
        (event.step, value.tag, value.tensor.float_val[0])
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


def assert_same(one, other):
    tables, bests, events, stops, kept, weights = zip(one, other, strict=True)
    assert tables[0].keys() == tables[1].keys()
    for name in tables[0]:
        pd.testing.assert_frame_equal(tables[0][name], tables[1][name], check_exact=True)
    assert bests[0].keys() == bests[1].keys()
    for name, best in bests[0].items():
        assert best["epoch"] == bests[1][name]["epoch"]
        assert same_weights(best["model"], bests[1][name]["model"])
    assert events[0] == events[1]
    assert stops[0] == stops[1]
    for first, second in zip(*kept, strict=True):
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert all(same_weights(a, b) for a, b in zip(*weights, strict=True))


@pytest.fixture(scope="module", params=[False, True], ids=["single", "multi"])
def unbroken(request, tmp_path_factory):
    torch.set_num_threads(1)
    fit(tmp_path_factory.mktemp("imports"), epochs=1)
    folder = tmp_path_factory.mktemp("unbroken")
    begun = time.monotonic()
    assert in_child(lambda: fit(folder, request.param)) == 0
    return request.param, written(folder, request.param), time.monotonic() - begun


def kill_at_forward(count, training, model):
    """Kill this process in its `count`-th forward pass in training or evaluation mode."""
    left = [count]

    def note(module, inputs):
        left[0] -= module.training == training
        if left[0] == 0:
            die()

    model.register_forward_pre_hook(note)


def kill_at_call(name, number, after, model):
    """Kill this process before or after its `number`-th call of a function of `os`."""
    kill_at(name, number, after)


def kill_at_replace(suffix, after, model):
    """Kill this process before or after a file with this suffix is renamed for the second time."""
    kill_at("replace", 2, after, lambda source, target: str(target).endswith(suffix))


MOMENTS = {
    "at the first batch": partial(kill_at_forward, 1, True),
    "inside an accumulation window": partial(kill_at_forward, 8, True),
    "in the middle of an epoch": partial(kill_at_forward, 33, True),
    "in an evaluation inside an epoch": partial(kill_at_forward, 3, False),
    "in the evaluation at an epoch's end": partial(kill_at_forward, 12, False),
    "before the first state": partial(kill_at_call, "replace", 1, False),
    "before a file takes its name": partial(kill_at_call, "replace", 14, False),
    "after a file took its name": partial(kill_at_call, "replace", 14, True),
    "before kept predictions": partial(kill_at_replace, ".predictions", False),
    "between kept predictions and state": partial(kill_at_replace, ".predictions", True),
    "between state and best state": partial(kill_at_replace, "model_best.pth.tar", False),
    "while a file is written": partial(kill_at_call, "fsync", 17, False),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_a_certain_moment_ends_as_if_uninterrupted(unbroken, moment, tmp_path):
    multi, expected, _ = unbroken
    assert in_child(lambda: fit(tmp_path, multi, MOMENTS[moment])) == signal.SIGKILL
    fit(tmp_path, multi)
    assert_same(written(tmp_path, multi), expected)


def kill_at_random(folder, multi, seconds, n_kills, n_workers, seed):
    generator, n_done = random.Random(seed), 0
    for _ in range(n_kills):
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                fit(folder, multi, n_workers=n_workers)
            finally:
                os._exit(0)
        time.sleep(generator.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        n_done += os.waitpid(child, 0)[1] == signal.SIGKILL
    return n_done


@pytest.mark.parametrize(("n_workers", "n_kills"), [(0, 5), (2, 5)])
def test_a_run_killed_at_random_moments_ends_as_if_uninterrupted(unbroken, n_workers, n_kills, tmp_path):
    multi, expected, seconds = unbroken
    assert kill_at_random(tmp_path, multi, seconds / 3, n_kills, n_workers, seed=n_workers) > 0
    fit(tmp_path, multi)
    assert_same(written(tmp_path, multi), expected)


@pytest.mark.on_demand
@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_run_killed_at_fifty_random_moments_ends_as_if_uninterrupted(unbroken, n_workers, tmp_path):
    multi, expected, seconds = unbroken
    n_kills = 0
    for attempt in range(100):
        folder = tmp_path / str(attempt)
        n_kills += kill_at_random(folder, multi, seconds * (1 + n_workers) / 3, 5, n_workers, seed=attempt)
        fit(folder, multi, n_workers=n_workers)
        assert_same(written(folder, multi), expected)
        if n_kills >= 50:
            return
    raise AssertionError(f"only {n_kills} of the kills happened during training")


@pytest.mark.parametrize(("n_workers", "multi"), [(1, False), (2, False), (2, True)])
def test_the_result_does_not_depend_on_the_number_of_workers(n_workers, multi, tmp_path):
    fit(tmp_path / "none", multi, epochs=2)
    fit(tmp_path / "some", multi, epochs=2, n_workers=n_workers)
    found = [written(tmp_path / name, multi, epochs=2) for name in ("some", "none")]
    assert_same(*found)


def test_the_result_depends_on_the_seed(tmp_path):
    one, _ = fit(None, epochs=1)
    other, _ = fit(None, epochs=1, seed=1)
    assert not same_weights(one.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
@pytest.mark.parametrize("training", [True, False], ids=["in training", "in evaluation"])
def test_a_signal_saves_after_the_batch_and_exits(unbroken, number, status, training, tmp_path):
    multi, expected, _ = unbroken
    before = signal.getsignal(number)
    n_forwards = []

    def spoil(model):
        def note(module, inputs):
            n_forwards.append(module.training)
            if n_forwards.count(training) == 13 and module.training == training:
                signal.raise_signal(number)

        model.register_forward_pre_hook(note)

    with pytest.raises(status) as raised:
        fit(tmp_path, multi, spoil, checkpoint_seconds=1000)
    if status is SystemExit:
        assert raised.value.code == 143
    assert signal.getsignal(number) is before
    folder = tmp_path / "state" / ("cnn-0" if multi else "")
    updates = max(load_tensors(path)["iteration"] for path in folder.glob("*.pt"))
    forwards_each = n_forwards.count(True) / (2 if multi else 1)
    assert updates == -(-forwards_each // 2), "all that was done is in the state"
    fit(tmp_path, multi)
    assert_same(written(tmp_path, multi), expected)


def test_a_scheduler_is_resumed_after_a_kill_in_the_first_evaluation(tmp_path):
    changed = {
        "epochs": 3,
        "evaluation_steps": 0,
        "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1),
    }
    in_child(lambda: fit(tmp_path, spoil=partial(kill_at_forward, 2, False), **changed))
    assert load_tensors(tmp_path / "state" / "state-0.pt")["updates"] > 0
    model, _ = fit(tmp_path, **changed)
    unbroken, _ = fit(None, **changed)
    assert same_weights(model.state_dict(), unbroken.state_dict())


def test_the_earlier_state_is_used_if_the_latest_is_damaged(unbroken, tmp_path):
    multi, expected, _ = unbroken
    in_child(lambda: fit(tmp_path, multi, partial(kill_at_forward, 40, True)))
    for folder in {path.parent for path in (tmp_path / "state").rglob("state-*.pt")}:
        newest = max(folder.glob("state-*.pt"), key=lambda path: load_tensors(path)["serial"])
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    with pytest.warns(UserWarning, match="resuming from the other state"):
        fit(tmp_path, multi)
    assert_same(written(tmp_path, multi), expected)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 truncated"])
def test_two_damaged_states_are_an_error(content, tmp_path):
    fit(tmp_path, epochs=2)
    for path in (tmp_path / "state").glob("*.pt"):
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"no training state can be read.*state-0\.pt"):
        fit(tmp_path, epochs=2)


def test_a_state_that_would_run_code_is_refused(tmp_path):
    fit(tmp_path, epochs=1)
    for path in (tmp_path / "state").glob("*.pt"):
        torch.save({"serial": 9, "settings": os.system}, path)
    with pytest.raises(CheckpointError, match="nothing else is loaded"):
        fit(tmp_path, epochs=1)


def test_the_result_of_a_finished_run_is_returned_without_training(tmp_path):
    model, training = fit(tmp_path, epochs=3)
    files = {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"
    }
    again, repeated = fit(tmp_path, epochs=3, spoil=partial(kill_at_forward, 1, True))
    assert same_weights(model.state_dict(), again.state_dict())
    pd.testing.assert_frame_equal(training.history, repeated.history)
    assert all(path.read_bytes() == content for path, content in files.items())


def test_a_finished_run_can_be_continued_with_more_epochs(tmp_path):
    fit(tmp_path / "two", epochs=3, patience=0)
    model, training = fit(tmp_path / "two", epochs=6, patience=0)
    expected, other = fit(None, epochs=6, patience=0)
    assert same_weights(model.state_dict(), expected.state_dict())
    assert training.history.drop(columns="time").equals(other.history.drop(columns="time"))


def test_networks_trained_separately_can_be_resumed_together(tmp_path):
    fit(tmp_path / "whole", multi=True)
    train, validation = data()
    split = tmp_path / "split"
    for part in PARTS:
        trainer = Trainer(**{**SETTINGS, "epochs": 3 + part // 4})
        trainer.fit({part: network(seed=part, dropout=0.5)}, TASK, train, validation, folder=split)
    fit(split, multi=True)
    assert_same(written(split, True), written(tmp_path / "whole", True))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"batch_size": 4}, "batch_size: 2 → 4"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"epochs": 1}, "epochs: 2 → 1"),
        ({"optimizer": torch.optim.SGD}, 'optimizer: null → "SGD"'),
    ],
)
def test_an_error_names_changed_settings_on_a_resume(changed, named, tmp_path):
    fit(tmp_path, epochs=2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}
    with pytest.raises(SettingError, match=named):
        fit(tmp_path, **{"epochs": 2, **changed})
    assert all(path.read_bytes() == content for path, content in files.items())


def test_an_error_names_changed_data_networks_and_tasks_on_a_resume(tmp_path):
    trainer, (train, validation) = Trainer(epochs=1, device="cpu"), data()
    trainer.fit(network(), TASK, train, validation, folder=tmp_path)
    with pytest.raises(SettingError, match='train: "10 images'):
        trainer.fit(network(), TASK, Toys(11, PARTS), validation, folder=tmp_path)
    with pytest.raises(SettingError, match=r'validation: "6 images.* → "none"'):
        trainer.fit(network(), TASK, train, folder=tmp_path)
    with pytest.raises(SettingError, match=r'network: "Sequential, 9.* → "Sequential, 4'):
        trainer.fit(network(norm=False), TASK, train, validation, folder=tmp_path)
    with pytest.raises(SettingError, match=r"task\.classes: .*'AD'\]\" → "):
        other = classification("diagnosis", ["AD", "CN"])
        trainer.fit(network(), other, train, validation, folder=tmp_path)
    for each in (train, validation):
        each.labels = [1.0] * len(each.labels)
        each.sessions["diagnosis"] = 1.0
    with pytest.raises(SettingError, match='task: "classification" → "regression"'):
        trainer.fit(
            torch.nn.Sequential(network(), torch.nn.Linear(2, 1)),
            regression("diagnosis"),
            train,
            folder=tmp_path,
        )


def test_results_without_a_state_are_not_overwritten(tmp_path):
    fit(tmp_path, epochs=1)
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    table = (tmp_path / "training.tsv").read_bytes()
    with pytest.raises(SettingError, match="no state to resume from"):
        fit(tmp_path, epochs=1)
    assert (tmp_path / "training.tsv").read_bytes() == table


def test_a_second_run_in_a_folder_fails_with_an_error_that_names_the_first(tmp_path):
    with hold(tmp_path / "state" / "training.lock", "it"), pytest.raises(InUseError, match=str(os.getpid())):
        fit(tmp_path)


def test_callbacks_are_called_once_per_evaluation(tmp_path):
    states = []
    in_child(lambda: fit(tmp_path, spoil=partial(kill_at_forward, 30, True)))
    _, training = fit(tmp_path, callbacks=[states.append])
    told = [state.iteration for state in states]
    assert told == training.history.iteration.tolist()[-len(told) :]
    assert 0 < len(told) < len(training.history)


def test_training_without_faults_raises_no_warnings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(tmp_path, epochs=1)
        fit(tmp_path, epochs=2)


def test_a_worker_that_outlives_its_parent_does_not_hold_the_lock(tmp_path):
    path = tmp_path / "a.lock"
    with hold(path, "it"):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        time.sleep(0.5)
    try:
        with hold(path, "it"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

"""Files of a run: which of them remain after failures and kills, and do not prevent another run."""

import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import Toys, in_child, kill_at, network, same_weights

from neurocnn.engine import Trainer, classification
from neurocnn.engine.network_files import write_each
from neurocnn.errors import SettingError, StorageError, TableError

TASK = classification("diagnosis", ["CN", "AD"])
SETTINGS = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "device": "cpu"}


def single():
    return TASK, Toys(8, labels=("CN",), table=False), None


def unknown():
    return TASK, Toys(8, table=False), Toys(4, labels=("CN", "MCI"), prefix="val", table=False)


def misspelt():
    return replace(TASK, selection=("balanced_acuracy",)), Toys(8), None


@pytest.mark.parametrize("seconds", [1000, 0], ids=["states at the ends", "states at each update"])
@pytest.mark.parametrize(
    ("wrong", "error"), [(single, TableError), (unknown, TableError), (misspelt, SettingError)]
)
def test_after_a_failed_first_evaluation_the_folder_accepts_corrected_settings(
    wrong, error, seconds, tmp_path
):
    trainer = Trainer(**SETTINGS, checkpoint_seconds=seconds)
    task, train, validation = wrong()
    called = []
    with pytest.raises(error):
        trainer.fit(network(), task, train, validation, folder=tmp_path, callbacks=[called.append])
    assert [path.name for path in tmp_path.rglob("*.[tp]*") if "tfevents" not in path.name] == []
    assert not called
    corrected = Trainer(**{**SETTINGS, "batch_size": 2}), Toys(10), Toys(6, prefix="val")
    model, other = network(), network()
    corrected[0].fit(model, TASK, *corrected[1:], folder=tmp_path)
    corrected[0].fit(other, TASK, *corrected[1:])
    assert same_weights(model.state_dict(), other.state_dict())
    assert len(pd.read_csv(tmp_path / "training.tsv", sep="\t")) == 2


def test_the_error_of_a_misspelt_selection_in_the_first_evaluation_lists_the_metrics(tmp_path):
    trainer = Trainer(**SETTINGS, evaluation_steps=1)
    task, train, _ = misspelt()
    model, updated = network(), []
    model.register_forward_pre_hook(lambda module, inputs: updated.append(module.training))
    with pytest.raises(SettingError, match=r"'balanced_acuracy'.*balanced_accuracy"):
        trainer.fit(model, task, train)
    assert updated.count(True) == 1


def test_a_label_that_becomes_unknown_later_does_not_lose_finished_epochs(tmp_path):
    train, validation = Toys(8), Toys(4, prefix="val", table=False)

    def relabel(state):
        validation.labels[1] = "MCI"

    trainer = Trainer(**SETTINGS)
    with pytest.raises(TableError, match="MCI"):
        trainer.fit(network(), TASK, train, validation, folder=tmp_path, callbacks=[relabel])
    validation.labels[1] = "AD"
    calls = []
    trainer.fit(network(), TASK, train, validation, folder=tmp_path, callbacks=[calls.append])
    assert [state.epoch for state in calls] == [1]


@pytest.mark.cpu
@pytest.mark.parametrize("parts", [(0,), (0, 4)])
@pytest.mark.parametrize("number", range(1, 9))
def test_only_the_incomplete_files_of_a_killed_process_are_removed(number, parts, tmp_path):
    trainer = Trainer(**SETTINGS)

    def fit():
        models = {part: network() for part in parts}
        trainer.fit(models if len(parts) > 1 else models[0], TASK, Toys(8, parts), folder=tmp_path)

    def hidden():
        return sorted(path.name for path in tmp_path.rglob(".*") if path.is_file())

    assert in_child(lambda: (kill_at("replace", number), fit())) == signal.SIGKILL
    # The files of several networks are written at a time.
    assert 1 <= len(hidden()) <= len(parts)
    for table in tmp_path.rglob("training.tsv"):
        network_folder = table.parent.name if len(parts) > 1 else ""
        assert list((tmp_path / "state" / network_folder).glob("state-*.pt"))
    foreign = [".training.tsv.swp", ".notes.tsv.12-0a1b2c3d", ".training.tsv.12-0a1b2c3d.bak", ".nfs0123"]
    for name in foreign:
        (tmp_path / name).touch()
    fit()
    assert hidden() == sorted(foreign)
    tables = [pd.read_csv(path, sep="\t") for path in tmp_path.rglob("training.tsv")]
    assert [table.epoch.tolist() for table in tables] == [[0, 1]] * len(parts)


@pytest.mark.parametrize("failing", [0, 3])
def test_after_the_files_of_a_network_failed_no_further_files_are_written(failing):
    files = [
        SimpleNamespace(part=part, run=SimpleNamespace(device=torch.device("cpu"))) for part in range(20)
    ]
    written = []

    def write(own):
        if own.part == failing:
            raise StorageError(28, "cannot write: no space", f"cnn-{own.part}")
        time.sleep(0.1)
        written.append(own.part)

    with pytest.raises(StorageError, match=f"cnn-{failing}"):
        write_each(write, files)
    assert 0 < len(written) < 10
    assert not [thread for thread in threading.enumerate() if "writing" in thread.name]


@pytest.mark.cpu
@pytest.mark.parametrize("parts", [(0,), (0, 4)])
@pytest.mark.parametrize("earlier", [0, 2])
def test_the_row_of_a_last_epoch_is_written_after_a_kill_between_state_and_table(parts, earlier, tmp_path):
    def fit(epochs):
        models = {part: network() for part in parts}
        trainer = Trainer(**{**SETTINGS, "epochs": epochs})
        trainer.fit(models if len(parts) > 1 else models[0], TASK, Toys(8, parts), folder=tmp_path)

    if earlier:
        fit(earlier)

    def fit_and_die():
        # A resumed run first writes the tables of the epochs before.
        number = 1 + len(parts) * bool(earlier)
        kill_at("replace", number, counts=lambda source, target: str(target).endswith("training.tsv"))
        fit(earlier + 1)

    assert in_child(fit_and_die) == signal.SIGKILL
    fit(earlier + 1)
    tables = [pd.read_csv(path, sep="\t") for path in tmp_path.rglob("training.tsv")]
    assert [table.epoch.tolist() for table in tables] == [[*range(earlier + 1)]] * len(parts)
    logs = [EventAccumulator(str(folder)).Reload() for folder in tmp_path.rglob("tensorboard_logs/**/train")]
    assert [len(log.Scalars("loss")) for log in logs] == [earlier + 1] * len(parts)


@pytest.mark.cpu
def test_a_callback_finds_its_row_in_the_table_of_networks_that_resume_from_different_epochs(tmp_path):
    def fit(parts, epochs, callbacks=()):
        models = {part: network() for part in parts}
        trainer = Trainer(**{**SETTINGS, "epochs": epochs})
        trainer.fit(models, TASK, Toys(8, (0, 4)), folder=tmp_path, callbacks=callbacks)

    def compare(state):
        table = pd.read_csv(tmp_path / "models" / f"cnn-{state.part_id}" / "training.tsv", sep="\t")
        seen.append(len(table) == len(state.history))

    seen = []
    fit((0,), 1)
    fit((0, 4), 2, [compare])
    assert seen == [True] * 3

"""Faults during training: error messages, and the files that remain in the folder."""

import contextlib
import errno
import os
import pickle
import resource
import signal

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import get_worker_info
from toys import Toys, die, in_child, network, same_weights

from neurocnn.engine import Trainer, classification, predict
from neurocnn.engine.faults import largest_divisor
from neurocnn.engine.inputs import check_classes
from neurocnn.errors import SettingError, TrainingError
from neurocnn.storage.tensors import load_tensors

TASK = classification("diagnosis", ["CN", "AD"])
SETTINGS = {"device": "cpu", "epochs": 4, "batch_size": 2, "learning_rate": 0.01, "patience": 0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_error_of_a_non_finite_loss_names_update_and_participant_before_weights_change(value, tmp_path):
    data, model = Toys(8), network(norm=False)
    data.images[5] = value
    with pytest.raises(TrainingError, match=r"epoch 0, update \d.*sub-05 ses-M00 part 0") as raised:
        Trainer(**SETTINGS, accumulation_steps=2).fit(model, TASK, data, folder=tmp_path)
    assert all(p.isfinite().all() for p in model.parameters())
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["training.lock"]
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


class Steep(nn.Module):
    """Network with infinite gradients but finite outputs after `sound_updates` updates."""

    def __init__(self, sound_updates):
        super().__init__()
        self.inner, self.left = network(norm=False), sound_updates

    def forward(self, image):
        output = self.inner(image)
        self.left -= self.training
        return output if self.left >= 0 else output + (output - output).sqrt()


def test_clipped_gradients_that_are_not_finite_are_an_error_before_weights_change():
    model = Steep(2)
    with pytest.raises(TrainingError, match=r"epoch 0, update 2: the gradients are NaN.*were not updated"):
        Trainer(**SETTINGS, clip_gradient=1).fit(model, TASK, Toys(8))
    expected = network(norm=False)
    with pytest.raises(TrainingError, match="update 2"):
        Trainer(**SETTINGS, clip_gradient=1).fit(Wrecked(expected, 2), TASK, Toys(8))
    assert same_weights(model.inner.state_dict(), expected.state_dict())


def test_the_error_about_non_finite_weights_does_not_claim_unchanged_weights():
    model = Steep(2)
    with pytest.raises(
        TrainingError, match=r"epoch 0, update 3.*not finite because the gradients of an earlier update"
    ):
        Trainer(**SETTINGS).fit(model, TASK, Toys(8))
    assert not all(p.isfinite().all() for p in model.parameters())
    with pytest.raises(TrainingError, match=r"update 2.*the weights were not updated"):
        Trainer(**SETTINGS).fit(Wrecked(network(), 2), TASK, Toys(8))


class Wrecked(nn.Module):
    """Network with NaN as output after `sound_updates` updates."""

    def __init__(self, inner, sound_updates):
        super().__init__()
        self.inner, self.left = inner, sound_updates

    def forward(self, image):
        self.left -= self.training
        return self.inner(image) * (1.0 if self.left >= 0 else float("nan"))


def test_a_folder_accepts_other_settings_after_a_run_with_a_non_finite_loss(tmp_path):
    with pytest.raises(TrainingError, match="lower learning_rate"):
        Trainer(**{**SETTINGS, "learning_rate": 1e30}).fit(network(), TASK, Toys(8), folder=tmp_path)
    model, other = network(), network()
    Trainer(**SETTINGS).fit(model, TASK, Toys(8), folder=tmp_path)
    Trainer(**SETTINGS).fit(other, TASK, Toys(8))
    assert same_weights(model.state_dict(), other.state_dict())


class Cracking(nn.Module):
    """Network with NaN as output in evaluation mode after `sound_evaluations` batches."""

    def __init__(self, sound_evaluations):
        super().__init__()
        self.inner, self.left = network(norm=False), sound_evaluations

    def forward(self, image):
        output = self.inner(image)
        if not self.training:
            self.left -= 1
            if self.left < 0:
                output = output * float("nan")
        return output


def test_an_epoch_with_a_nan_validation_loss_is_never_the_best():
    # Each epoch evaluates two batches of the training set and one batch of the validation set.
    training = Trainer(**{**SETTINGS, "batch_size": 4}).fit(Cracking(6), TASK, Toys(8), Toys(4, prefix="val"))
    assert training.history.validation_loss.isna().tolist() == [False, False, True, True]
    assert training.best_epochs["best_loss"] in (0, 1)
    with pytest.raises(TrainingError, match="loss, balanced_accuracy: NaN or infinite in every epoch"):
        Trainer(**SETTINGS).fit(Cracking(0), TASK, Toys(8), Toys(4, prefix="val"))


class Greedy(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.inner, self.error = network(norm=False), error

    def forward(self, image):
        if self.error is None:
            return torch.empty(2**60)
        raise self.error


@pytest.mark.parametrize("error", [None, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_the_error_of_exhausted_memory_names_the_peak_and_a_smaller_batch_with_the_same_effective_batch(
    error,
):
    with pytest.raises(
        TrainingError,
        match=r"peak \d+\.\d+ GiB.*batch_size=6.*accumulation_steps=4 .*effective batch size of 24",
    ):
        Trainer(device="cpu", batch_size=12, accumulation_steps=2).fit(Greedy(error), TASK, Toys(24))
    with pytest.raises(TrainingError, match="smaller parts"):
        Trainer(device="cpu", batch_size=1).fit(Greedy(error), TASK, Toys(4))


@pytest.mark.parametrize("number", range(2, 50))
def test_the_suggested_batch_size_divides_the_original_batch_size(number):
    assert number % largest_divisor(number) == 0
    assert 1 <= largest_divisor(number) < number


class Deadly(Toys):
    """Dataset that kills a worker which reads sample 4."""

    def __getitem__(self, index):
        if index == 4 and get_worker_info() is not None:
            die()
        return super().__getitem__(index)


# A killed worker leaves objects whose finalisers may fail; torch reports the death itself.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("table", [True, False])
def test_the_error_of_a_dead_worker_names_its_sample_and_shared_memory(table):
    data = Deadly(12, (0, 7), table=table)
    named = r"sample 4 \(sub-02 ses-M00 part 0\)" if table else "sample 4:"
    with pytest.raises(TrainingError, match=f"{named}.*/dev/shm"):
        predict(network(), TASK, data, batch_size=1, n_workers=2, device="cpu")
    with pytest.raises(TrainingError, match=f"{named}.*/dev/shm"):
        Trainer(**SETTINGS, n_workers=1).fit(network(), TASK, data)


def test_a_worker_whose_parent_was_killed_at_its_start_does_not_hang(monkeypatch):
    # The worker finds a parent process that did not start it, as if its own parent had been killed.
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(TrainingError, match="a worker of the data loader died"):
        predict(network(), TASK, Toys(4), n_workers=1, device="cpu")


def test_an_error_of_the_dataset_is_raised_unchanged_from_a_worker():
    class Wrong(Toys):
        def __getitem__(self, index):
            raise TrainingError("the third image is torn")

    for n_workers in (0, 1):
        with pytest.raises(TrainingError, match="the third image is torn"):
            predict(network(), TASK, Wrong(4), n_workers=n_workers, device="cpu")


@pytest.mark.cpu
@pytest.mark.parametrize("limit", [500, 3_000, 8_000, 12_000, 14_000])
def test_the_error_of_a_full_disk_names_the_path_and_existing_files_stay(limit, tmp_path):
    """Writing more than `limit` bytes to a file fails, as on a full disk; the limit decides which file fails first."""
    data = Toys(8)
    trainer = Trainer(**SETTINGS, evaluation_steps=1, checkpoint_seconds=0)
    Trainer(**{**SETTINGS, "epochs": 1}, evaluation_steps=1, checkpoint_seconds=0).fit(
        network(), TASK, data, folder=tmp_path
    )
    before = sorted(tmp_path.rglob("*.pt*"))

    def starved():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            trainer.fit(network(), TASK, data, folder=tmp_path)
        except OSError as error:
            # The error is sent to the parent through a pipe, to which the limit does not apply.
            os.write(writing, f"{error.errno} {error.filename}".encode())
            raise

    reading, writing = os.pipe()
    status = in_child(starved)
    os.close(writing)
    number, _, path = os.read(reading, 1000).decode().partition(" ")
    assert os.waitstatus_to_exitcode(status) == 1
    assert int(number) == errno.EFBIG
    assert path.startswith(str(tmp_path))
    assert not [p for p in tmp_path.rglob(".*") if p.is_file()], "nothing half-written"
    for file in before:
        load_tensors(file)
    pd.read_csv(tmp_path / "training.tsv", sep="\t")
    model, other = network(), network()
    trainer.fit(model, TASK, data, folder=tmp_path)
    trainer.fit(other, TASK, data)
    assert same_weights(model.state_dict(), other.state_dict())


def test_an_error_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(OSError, match="file"):
        Trainer(**SETTINGS).fit(network(), TASK, Toys(4), folder=tmp_path / "file" / "results")
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_error_names_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=str(tmp_path)):
            Trainer(**SETTINGS).fit(network(), TASK, Toys(4), folder=tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_an_error_names_an_operation_without_a_deterministic_implementation():
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network(norm=False)

        def forward(self, image):
            # `put_` is one of few operations without a deterministic implementation on the CPU.
            image = image.detach().put_(torch.tensor([0]), torch.zeros(1))
            return self.inner(image)

    with pytest.raises(TrainingError, match="deterministic=True: put_"):
        Trainer(**SETTINGS, deterministic=True).fit(Random(), TASK, Toys(4))
    assert not torch.are_deterministic_algorithms_enabled()
    Trainer(**SETTINGS).fit(Random(), TASK, Toys(4))


def test_an_error_of_a_callback_is_raised_and_the_run_can_be_resumed(tmp_path):
    def fail(state):
        if state.epoch == 2:
            raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        Trainer(**SETTINGS).fit(network(), TASK, Toys(8), folder=tmp_path, callbacks=[fail])
    model, other = network(), network()
    training = Trainer(**SETTINGS).fit(model, TASK, Toys(8), folder=tmp_path)
    Trainer(**SETTINGS).fit(other, TASK, Toys(8))
    assert same_weights(model.state_dict(), other.state_dict())
    assert len(training.history) == 4


def test_a_data_loader_in_place_of_a_dataset_is_refused():
    loader = torch.utils.data.DataLoader(Toys(4))
    with pytest.raises(SettingError, match="expected the dataset itself"):
        Trainer(epochs=1, device="cpu").fit(network(), TASK, loader)


def test_a_warning_names_a_class_that_never_occurs(caplog):
    check_classes(classification("diagnosis", ["CN", "AD", "MCI"]), [0, 1, 1])
    assert "CN: 1, AD: 2, MCI: 0" in caplog.text

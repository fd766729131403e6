"""Arguments and data sets that cannot be used are refused before or during training and prediction."""

import contextlib
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from toys import Toys, in_child, network

from neurocnn.engine import (
    Task,
    Trainer,
    classification,
    confidence_intervals,
    encode,
    evaluate,
    predict,
    reconstruction,
    regression,
)
from neurocnn.engine.collate import collate
from neurocnn.errors import LeakError, NeurocnnError, SettingError, TrainingError

pytestmark = pytest.mark.faults
TASK = classification("diagnosis", ["CN", "AD"])
ITEM = {"participant_id": "sub-1", "session_id": "ses-M00", "part_id": 3}
STRANGE = [None, "text", 3.7, -1, ["a", None], {"a": 1}, {"a", "b"}, object(), (x for x in "ab"), int]


class Hidden(Dataset):
    """Wrapper that does not refer to its dataset, such as a cache of samples."""

    def __init__(self, data):
        self._cache = [data[i] for i in range(len(data))]

    def __len__(self):
        return len(self._cache)

    def __getitem__(self, index):
        return self._cache[index]


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


def of_another_kind(function, usual):
    return [(function, usual, name, value) for name in usual for value in STRANGE]


CALLS = [
    *of_another_kind(
        classification, {"label": "diagnosis", "classes": ["CN", "AD"], "class_weights": [1, 2]}
    ),
    *of_another_kind(regression, {"label": "age", "mean": 70, "scale": 8}),
    *of_another_kind(
        predict,
        {
            "model": network(),
            "task": TASK,
            "dataset": Toys(2),
            "batch_size": 2,
            "n_workers": 0,
            "device": "cpu",
        }
        | {"precision": "float32"},
    ),
    *of_another_kind(evaluate, {"model": network(), "task": TASK, "dataset": Toys(2), "device": "cpu"}),
    *of_another_kind(encode, {"model": network(), "dataset": Toys(2), "device": "cpu", "batch_size": 2}),
    *of_another_kind(
        Task,
        {"name": "mine", "label": "age", "target": len, "loss": len, "rows": len, "metrics": len}
        | {
            "selection": ["loss"],
            "n_outputs": 1,
            "classes": ["a", "b"],
            "arguments": {},
            "target_from": "label",
        }
        | {"reconstructs": False, "vote": None, "prediction": len},
    ),
    *of_another_kind(
        confidence_intervals, {"table": pd.DataFrame(), "metrics": len, "n": 1, "seed": 0, "level": 0.9}
    ),
]


@pytest.mark.parametrize(("function", "usual", "name", "value"), CALLS)
def test_an_argument_of_an_unexpected_type_is_accepted_or_refused(function, usual, name, value):
    with contextlib.suppress(NeurocnnError):
        function(**usual | {name: value})


def test_swapped_arguments_are_refused():
    with pytest.raises(SettingError, match="task="):
        predict(network(), Toys(2), TASK)
    with pytest.raises(SettingError, match=r"dataset=|model="):
        encode(Toys(2), network())


@pytest.mark.parametrize("dataset", [DataLoader(Toys(2)), Endless(), {"a": 1}, "folder", 3, None])
def test_a_value_that_is_not_a_dataset_is_refused_with_the_expected_kind(dataset):
    with pytest.raises(SettingError, match=r"dataset=.* expected (the dataset itself|a dataset with)"):
        predict(network(), TASK, dataset, device="cpu")
    with pytest.raises(SettingError, match=r"the train set=.* expected (the dataset itself|a dataset with)"):
        Trainer(epochs=1, device="cpu").fit(network(), TASK, dataset)


@pytest.mark.parametrize("classes", [{"CN", "AD"}, frozenset("ab"), "CN", b"ab", 3, None])
def test_classes_without_an_order_are_refused(classes):
    with pytest.raises(SettingError, match="classes="):
        classification(classes=classes)


def test_classes_from_a_generator_are_read_once():
    task = classification(classes=(name for name in ["CN", "AD"]))
    assert task.classes == ("CN", "AD")
    assert task.arguments["classes"] == ["CN", "AD"]


@pytest.mark.parametrize(
    "weights",
    [
        {"AD": 3, "CN": 1},
        pd.Series({"AD": 3, "CN": 1}),
        pd.Series(["AD"] * 3 + ["CN"]).value_counts(),
        {"CN": np.float32(1), "AD": torch.tensor(3.0)},
        (weight for weight in (1, 3)),
    ],
)
def test_class_weights_are_matched_to_classes_by_label(weights):
    task = classification(classes=["CN", "AD"], class_weights=weights)
    assert task.arguments["class_weights"] == [1, 3]
    output, target = torch.zeros(2, 2), torch.tensor([0, 1])
    assert torch.allclose(task.loss(output, target), torch.tensor([1.0, 3.0]) * np.log(2))


def test_labels_of_a_joint_class_share_one_class_weight():
    classes = {"CN": 0, "sMCI": 0, "AD": 1}
    for weights in ({"CN+sMCI": 2, "AD": 1}, {"CN": 2, "sMCI": 2, "AD": 1}, {"CN": 2, "AD": 1}):
        assert classification(classes=classes, class_weights=weights).arguments["class_weights"] == [2, 1]
    with pytest.raises(SettingError, match="two weights"):
        classification(classes=classes, class_weights={"CN": 2, "sMCI": 1, "AD": 1})
    assert classification(classes=[0, 1], class_weights={"1": 5, 0: 2}).arguments["class_weights"] == [2, 5]


@pytest.mark.parametrize(
    "weights",
    [
        {1: 5.0, 2: 0.5},
        pd.Series([1.0, 2.0]),
        {"CN": 1},
        {"CN": 1, "BV": 2},
        {1.0, 2.0},
        "12",
        {"CN": 0, "AD": 1},
    ],
)
def test_class_weights_that_do_not_match_the_classes_are_refused(weights):
    with pytest.raises(SettingError, match="class_weights"):
        classification(classes=["CN", "AD"], class_weights=weights)


def test_a_custom_loss_and_its_table_are_in_the_unit_of_the_label():
    def absolute(output, target):
        assert output.shape == (len(target), 1)
        return (output[:, 0] - target).abs()

    own = replace(regression("age", mean=75, scale=8), loss=absolute)
    data = Toys(8, labels=(70.0, 80.0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(216, 1))
    table = evaluate(model, own, data, device="cpu")
    assert np.allclose(table.loss, (table.predicted_label - table.true_label).abs(), atol=1e-4)
    assert table.loss.mean() < 20
    squared = evaluate(model, regression("age", mean=75, scale=8), data, device="cpu")
    assert np.allclose(squared.loss, table.loss**2, rtol=1e-4)
    trained = Trainer(epochs=1, learning_rate=0, weight_decay=0, device="cpu").fit(model, own, data)
    assert trained.history.train_loss[0] == pytest.approx(trained.history.train_mae[0], rel=1e-5)


def test_a_participant_in_both_sets_is_found_behind_a_wrapper_without_tables(tmp_path):
    trainer = Trainer(epochs=2, batch_size=4, device="cpu")
    with pytest.raises(
        LeakError, match="4 participants are in the training and in the validation set: sub-00"
    ):
        trainer.fit(network(), TASK, Hidden(Toys(8)), Hidden(Toys(4)), folder=tmp_path)
    with pytest.raises(LeakError, match="sub-00"):
        trainer.fit(network(), TASK, Toys(8), Hidden(Toys(4)))
    assert not list(tmp_path.rglob("*best*"))
    trainer.fit(network(), TASK, Hidden(Toys(8)), Hidden(Toys(4, prefix="val")), folder=tmp_path)


class Cohort(Toys):
    """Dataset whose samples have `cohort`, and whose table of sessions has `column` as the column ``cohort``."""

    def __init__(self, n, cohort, column):
        super().__init__(n)
        self.cohort = cohort
        self.sessions["cohort"] = column

    def __getitem__(self, index):
        return super().__getitem__(index) | ({"cohort": self.cohort} if self.cohort else {})


def test_equal_ids_are_different_people_only_if_every_row_has_a_cohort():
    trainer = Trainer(epochs=1, device="cpu")
    with pytest.raises(LeakError, match="4 participants"):
        trainer.fit(network(), TASK, Cohort(8, "A", "A"), Cohort(4, "B", ["B", "B", "B", None]))
    with pytest.raises(LeakError, match="4 participants"):  # Phases of a study are no cohorts.
        trainer.fit(network(), TASK, Cohort(8, None, "phase 1"), Cohort(4, None, "phase 2"))
    trainer.fit(network(), TASK, Cohort(8, "A", "A"), Cohort(4, "B", "B"))


@pytest.mark.parametrize("n_workers", [0, 1])
def test_an_error_names_samples_of_different_shapes_in_a_batch(n_workers):
    data = Toys(4)
    items = [data[i] for i in range(3)] + [data[3] | {"image": torch.zeros(1, 6, 6, 5)}]
    # These samples may be read in any order during training.
    shapes = r"\(1, 6, 6, [65]\)"
    message = rf"image: sub-0\d ses-M00 part 0 has shape {shapes} and sub-0\d .* has shape {shapes}; expected the same"
    with pytest.raises(SettingError, match=message):
        predict(network(), TASK, items, batch_size=4, n_workers=n_workers, device="cpu")
    with pytest.raises(SettingError, match=message):
        Trainer(epochs=1, batch_size=4, n_workers=n_workers, device="cpu").fit(network(), TASK, items)


def test_an_error_names_samples_that_cannot_form_a_batch():
    items = [{"image": torch.zeros(1), **ITEM, "extra": object()} for _ in range(2)]
    with pytest.raises(SettingError, match=r"sub-1 ses-M00 part 3.* cannot be joined in a batch"):
        collate(items)


@pytest.mark.cpu
def test_a_lack_of_file_handles_is_reported():
    def predict_with_few():
        data, model = [Toys(8)[i] for i in range(8)] * 30, network()
        predict(model, TASK, data, batch_size=1, device="cpu")
        n = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (n + 4, n + 4))
        with pytest.raises(TrainingError, match=r"no more file handles or shared memory: .*n_workers"):
            predict(model, TASK, data, batch_size=1, n_workers=2, device="cpu")

    assert in_child(predict_with_few) == 0


SHORT_MEMORY = """
import torch
from toys import Toys
from neurocnn.engine import Trainer, classification

if __name__ == "__main__":
    data = [Toys(8)[i] | {"image": torch.zeros(1, 40, 40, 40)} for i in range(8)]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(40**3, 2))
    Trainer(epochs=1, batch_size=4, n_workers=2, device="cpu").fit(
        model, classification("diagnosis", ["CN", "AD"]), data
    )
"""


@pytest.mark.parametrize(
    "size", [*(pytest.param(size, marks=pytest.mark.on_demand) for size in ("4k", "1m")), "64k"]
)
def test_a_lack_of_shared_memory_is_reported(tmp_path, size):
    mount = f"mount --make-rprivate / && mount -t tmpfs -o size={size} tmpfs /dev/shm"
    command = ["unshare", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*command, mount], capture_output=True).returncode:
        pytest.skip("mounting a small /dev/shm requires Linux and root")
    (tmp_path / "short.py").write_text(SHORT_MEMORY, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    train = f"{mount} && exec {sys.executable} {tmp_path / 'short.py'}"
    done = subprocess.run([*command, train], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert re.match(
        r"neurocnn\.errors\.TrainingError: (no more file handles or shared memory|a worker .* shared memory)",
        message,
    ), message
    assert "cannot be joined" not in message


def history_of(n_workers):
    torch.set_num_threads(1)
    trainer = Trainer(epochs=1, batch_size=4, n_workers=n_workers, device="cpu")
    return trainer.fit(network(), TASK, Toys(8)).history.drop(columns="time").to_dict("list")


@pytest.mark.cpu
def test_a_daemonic_process_reads_its_samples_without_workers():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(history_of, [2]) == [history_of(0)]


@pytest.mark.cpu
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_process_that_is_forked_after_training_does_not_hang():
    # This test does not run in a forked process, which would itself hang after threads of its parent have computed.
    torch.set_num_threads(4)
    data = Toys(8, size=40)
    model = nn.Sequential(nn.Conv3d(1, 8, 3), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(64, 2))
    Trainer(epochs=1, batch_size=4, device="cpu").fit(model, TASK, data)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if len(predict(model, TASK, data, device="cpu")) == 8 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_network_trains_with_a_custom_loss_that_smooths_labels():
    def smooth(output, target):
        return F.cross_entropy(output, target, reduction="none", label_smoothing=0.1)

    history = Trainer(epochs=1, device="cpu").fit(network(), replace(TASK, loss=smooth), Toys(8)).history
    assert history.train_loss[0] > 0
    assert reconstruction().vote is None

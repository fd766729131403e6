"""A training that evaluates only the validation set still checks the training set."""

import logging

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import Toys, network

from neurocnn.engine import Trainer, classification, evaluate
from neurocnn.errors import LeakError, TableError

TASK = classification("diagnosis", ["CN", "AD"])
END = Trainer(epochs=3, batch_size=4, device="cpu", evaluate_train="end")


def toys(n, prefix="sub", **settings):
    return Toys(n, prefix=prefix, table=False, **settings)


def test_a_participant_in_both_sets_is_found_without_tables_of_sessions(tmp_path):
    for train, validation in [(toys(8), toys(4)), (Toys(8), toys(4)), (toys(8), Toys(4))]:
        with pytest.raises(LeakError, match="4 participants are in the training and in the validation set"):
            END.fit(network(), TASK, train, validation, folder=tmp_path)
    assert not list(tmp_path.rglob("*best*"))


def test_a_training_set_of_one_class_is_found_without_a_table_of_sessions():
    with pytest.raises(TableError, match="single class"):
        END.fit(network(), TASK, toys(8, labels=("AD",)), toys(4, "val"))


@pytest.mark.parametrize(("table", "n_passes"), [(True, 3), (False, 4)])
def test_a_training_set_without_a_table_of_sessions_is_evaluated_once(table, n_passes, tmp_path):
    train, validation = Toys(8, table=table), Toys(4, prefix="val")
    train.without_augmentation = lambda: train
    training = END.fit(network(), TASK, train, validation, folder=tmp_path)
    assert len(train.opened) == n_passes * 8
    assert training.history.train_loss.isna().all()
    assert training.history.validation_loss.notna().all()
    for name, found in training.predictions["best_loss"].items():
        best = network()
        best.load_state_dict(training.best["best_loss"])
        expected = evaluate(
            best, TASK, {"train": train, "validation": validation}[name], batch_size=4, device="cpu"
        )
        pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_log_history_and_tensorboard_have_no_metrics_of_the_training_set(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="neurocnn"):
        history = END.fit(network(), TASK, Toys(8), Toys(4, prefix="val"), folder=tmp_path).history
    lines = [record.getMessage() for record in caplog.records]
    start = f"epoch 1/3: loss validation {history.validation_loss[0]:.6g}"
    assert any(line.startswith(start) for line in lines)
    written = pd.read_csv(tmp_path / "training.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert set(written.train_loss) == {"n/a"}
    assert [folder.name for folder in (tmp_path / "tensorboard_logs").iterdir()] == ["validation"]
    log = EventAccumulator(str(tmp_path / "tensorboard_logs" / "validation"))
    log.Reload()
    assert len(log.Scalars("loss")) == 3

"""The predictions of a best epoch are used for the final tables, so that no weights are evaluated twice."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from studies import Study, experiment

import neurocnn as nc
from neurocnn import engine
from neurocnn.engine import network_files
from neurocnn.errors import SettingError

SETTINGS = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "device": "cpu"}


def _tables(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*.tsv")}
    return {name: path.read_bytes() for name, path in found.items() if path.name != "training.tsv"}


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("task", ["classification", "reconstruction"])
def test_predictions_kept_in_training_equal_those_of_the_best_weights(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, multi: bool
):
    settings = {"trainer": nc.Trainer(**SETTINGS), "task": task, "multi": multi}
    experiment(study, **settings).run(tmp_path / "kept")
    assert not list((tmp_path / "kept").rglob("*.predictions"))
    monkeypatch.setattr(network_files, "read_predictions", lambda path, epoch: {})
    experiment(study, **settings).run(tmp_path / "evaluated")
    assert _tables(tmp_path / "kept") == _tables(tmp_path / "evaluated")
    assert len(_tables(tmp_path / "kept")) > 8


@pytest.mark.parametrize("multi", [False, True])
def test_an_epoch_trains_once_on_the_training_set_and_evaluates_each_set_once(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, multi: bool
):
    rows: Counter[bool] = Counter()
    build = engine.run.Run.__init__

    def count(run, model, *arguments):
        model.register_forward_pre_hook(lambda net, given: rows.update({net.training: len(given[0])}))
        build(run, model, *arguments)

    monkeypatch.setattr(engine.run.Run, "__init__", count)
    trainer = nc.Trainer(**SETTINGS | {"epochs": 1})
    experiment(study, trainer=trainer, multi=multi).run(tmp_path)
    n_train, n_validation = (
        sum(
            len(pd.read_csv(path, sep="\t"))
            for path in tmp_path.glob(f"fold-*/*/best_loss/{name}_roi_level_prediction.tsv")
        )
        for name in ("train", "validation")
    )
    assert rows == {True: n_train, False: n_train + n_validation}


def test_evaluating_the_training_set_at_the_end_gives_the_same_tables(study: Study, tmp_path: Path):
    for name in ("epoch", "end"):
        trainer = nc.Trainer(**SETTINGS, evaluate_train=name)
        experiment(study, trainer=trainer, multi=True).run(tmp_path / name)
    assert _tables(tmp_path / "epoch") == _tables(tmp_path / "end")
    histories = [nc.Results(tmp_path / name).history().drop(columns="time") for name in ("epoch", "end")]
    train = [name for name in histories[0] if name.startswith("train_")]
    assert list(histories[0]) == list(histories[1])
    assert train
    assert histories[1][train].isna().all().all()
    pd.testing.assert_frame_equal(*(history.drop(columns=train) for history in histories))


def test_without_evaluations_of_the_training_set_a_validation_set_is_required():
    item = {"image": 0, "participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0, "label": "CN"}
    trainer = nc.Trainer(**SETTINGS, evaluate_train="end")
    with pytest.raises(SettingError, match="evaluate_train='end'; expected a validation set"):
        trainer.fit(nc.create_model("Conv3_FC1", (1, 18, 20, 18)), nc.classification(), [item])

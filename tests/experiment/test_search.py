"""A search compares trials within each training set, and its winner is evaluated on people whom no trial has seen."""

import dataclasses
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from studies import TRAINER, Study, experiment, people, tables

import neurocnn as nc
from neurocnn.errors import MissingExtraError, SettingError
from neurocnn.experiment.search import _run_winner
from neurocnn.experiment.space import draw_values, with_values

SPACE = {
    "learning_rate": [1e-5, 1e-3, 1e-2],
    "dropout": [0.0, 0.5],
    "architecture": ["Conv3_FC1", "Conv5_FC3"],
}
N_TRIALS = 3


def searched(study: Study, folder: Path, **settings) -> nc.Results:
    base = experiment(study, parts="image")
    return nc.search(base, SPACE, N_TRIALS, folder, inner=0.3, verbose=False, **settings)


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("search")
    searched(study, root)
    return root


def test_no_trial_sees_the_validation_set_and_the_winner_is_trained_on_all_other_people(
    study: Study, folder: Path
):
    for split in study.splits:
        train, validation = set(split.train["participant_id"]), set(split.validation["participant_id"])
        for trial in range(N_TRIALS):
            fold = folder / f"trial-{trial}/fold-{split.index}"
            assert people(fold / "train.tsv", fold / "validation.tsv") == train
            assert set(nc.read_table(fold / "seen.tsv", required=["role"])["participant_id"]) == train
            assert len(people(fold / "validation.tsv")) == round(0.3 * len(train))
        best = folder / f"best/fold-{split.index}"
        assert people(best / "train.tsv") == train
        assert people(best / "validation.tsv") == validation


@pytest.mark.cpu
def test_the_winner_of_each_split_is_the_best_trial_and_equals_an_experiment_with_its_settings(
    study: Study, folder: Path, tmp_path: Path
):
    for index in (0, 1):
        name = f"fold-{index}/cnn_classification/best_balanced_accuracy/validation_image_level_metrics.tsv"
        found = [
            pd.read_csv(folder / f"trial-{trial}" / name, sep="\t")["balanced_accuracy"][0]
            for trial in range(N_TRIALS)
        ]
        winner = json.loads((folder / f"best/fold-{index}/winner.json").read_text())
        assert winner["trial"] == found.index(max(found))
        values = winner["values"]
        trainer = dataclasses.replace(TRAINER, learning_rate=values["learning_rate"])
        options = {"dropout": values["dropout"]}
        direct = experiment(
            study, parts="image", trainer=trainer, options=options, architecture=values["architecture"]
        )
        direct.run(tmp_path / "direct" / str(index), splits=[index], verbose=False)
        assert tables(tmp_path / f"direct/{index}/fold-{index}") == tables(folder / f"best/fold-{index}")


def test_the_winners_can_be_used_like_any_results(study: Study, folder: Path):
    results = nc.Results(folder / "best")
    assert results.splits == [0, 1]
    for index in (0, 1):
        winner = json.loads((folder / f"best/fold-{index}/winner.json").read_text())
        dropout = [
            layer.p for layer in results.load_model(index).modules() if type(layer).__name__ == "Dropout"
        ]
        assert dropout[0] == winner["values"]["dropout"]
    board = nc.leaderboard(folder).set_index("folder")
    assert len(board) == N_TRIALS + 1
    winners = [json.loads((folder / f"best/fold-{index}/winner.json").read_text()) for index in (0, 1)]
    rates = [winner["trainer"]["learning_rate"] for winner in winners]
    shown = board.loc[str(folder / "best"), "trainer.learning_rate"]
    assert shown == (rates[0] if rates[0] == rates[1] else str(rates))


@pytest.mark.cpu
def test_tasks_of_a_job_array_and_a_stopped_search_leave_the_same_tables(
    study: Study, folder: Path, tmp_path: Path
):
    n_calls = 0

    def stop(state: nc.TrainingState) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        searched(study, tmp_path, splits=[1], callbacks=[stop])
    searched(study, tmp_path, splits=[1])
    searched(study, tmp_path, splits=[0])
    assert tables(tmp_path) == tables(folder)
    for index in (0, 1):
        winners = [(root / f"best/fold-{index}/winner.json").read_bytes() for root in (tmp_path, folder)]
        assert winners[0] == winners[1]


def test_drawn_values_have_the_distributions_of_the_search_space():
    from scipy.stats import loguniform

    space = {"learning_rate": loguniform(1e-5, 1e-2), "batch_size": [2, 4, 8]}
    drawn = [draw_values(space, 0, trial) for trial in range(300)]
    rates = [values["learning_rate"] for values in drawn]
    assert all(type(rate) is float and 1e-5 <= rate <= 1e-2 for rate in rates)
    # The logarithm is uniformly distributed, so that the median is about 10^-3.5.
    assert 10**-3.8 < pd.Series(rates).median() < 10**-3.2
    counts = pd.Series([values["batch_size"] for values in drawn]).value_counts()
    assert set(counts.index) == {2, 4, 8}
    assert counts.min() > 70


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space="),
        ({"splits": [1]}, r"space\['splits'\]; expected a setting that may differ"),
        ({"task": [None]}, r"space\['task'\]; expected a setting that may differ"),
        ({"parts": [nc.Patch(9, 9)]}, r"space\['parts'\]=Patch.*; expected parts with the name 'image'"),
        ({"learning_rat": [1e-3]}, "expected a field of Trainer, .*; did you mean 'learning_rate'"),
        ({"drop_out": [0.5]}, "did you mean 'dropout'"),
        ({"transfrom": [None]}, "did you mean 'transform'"),
        ({"learning_rate": 0.1}, r"space\['learning_rate'\]=0.1; expected a list of values"),
        ({"learning_rate": []}, "at least one value"),
        ({"learning_rate": [-1.0]}, "learning_rate=-1.0; expected"),
    ],
)
def test_an_invalid_search_space_is_refused_before_a_file_is_written(
    study: Study, tmp_path: Path, space: dict, message: str
):
    with pytest.raises(SettingError, match=message):
        nc.search(experiment(study, parts="image"), space, 2, tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_another_search_in_the_folder_is_refused(study: Study, folder: Path):
    with pytest.raises(SettingError, match="the folder contains another experiment"):
        searched(study, folder, seed=1)
    with pytest.raises(
        SettingError, match="by='accuracies'; expected a metric of the task; did you mean 'accuracy'"
    ):
        searched(study, folder, by="accuracies")


def test_a_search_whose_winner_would_change_is_refused(study: Study, tmp_path: Path):
    base = experiment(study, parts="image")
    nc.search(base, {"learning_rate": [1e-3]}, 1, tmp_path, splits=[0], verbose=False)
    record = tmp_path / "best/fold-0/winner.json"
    record.write_text(record.read_text().replace('"trial": 0', '"trial": 7'))
    with pytest.raises(SettingError, match=r"winner\.json: trial=7; expected 0"):
        nc.search(base, {"learning_rate": [1e-3]}, 1, tmp_path, splits=[0], verbose=False)


class Scale:
    """Transform that multiplies the voxels; it is recorded as custom."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, image):
        return image * self.factor

    def __repr__(self):
        return f"Scale({self.factor})"


def test_a_name_is_a_field_of_the_trainer_then_an_option_then_a_field_of_the_experiment(study: Study):
    def build(input_shape, n_outputs, *, batch_size=1, transform="mean"):
        return nc.create_model("Conv3_FC1", input_shape, n_outputs)

    values = {"batch_size": 2, "transform": "sum", "multi": True}
    base = experiment(study, parts="patch", architecture=build)
    found = with_values(base, values)
    assert (found.trainer.batch_size, found.options, found.multi) == (2, {"transform": "sum"}, True)
    assert found.transform == base.transform
    assert with_values(experiment(study), {"transform": None}).transform is None


# The small networks may predict one class only; that is irrelevant here.
@pytest.mark.filterwarnings("ignore:all 8 parts have a validation balanced accuracy of 0")
@pytest.mark.cpu
def test_winners_with_other_transforms_parts_and_networks_are_used_with_their_own(
    study: Study, tmp_path: Path
):
    """Each split's images are predicted with the transform, parts and networks of the split's winner."""
    parts = [nc.Patch(9, 9), nc.Patch(8, 10)]
    choices = {"transform": [nc.MinMax(), nc.ZScore()], "parts": parts, "multi": [False, True]}
    rest, test = nc.holdout(study.labels, 0.3, ["diagnosis"])
    splits = nc.kfold(rest, 2, ["diagnosis"])
    base = dataclasses.replace(experiment(study, parts="patch"), splits=splits)
    # Each split is searched with one trial, so that its winner is known.
    own = [{name: [values[index]] for name, values in choices.items()} for index in (0, 1)]
    for index in (0, 1):
        winner = with_values(base, {name: values[0] for name, values in own[index].items()})
        _run_winner(base, winner, 0, {}, tmp_path / "best", index, (), False)
    results = nc.Results(tmp_path / "best")
    found = results.predict(study.caps, test, "test")
    for index in (0, 1):
        direct = nc.search(base, own[index], 1, tmp_path / str(index), splits=[index], verbose=False)
        for dataset in ("validation", "test"):
            if dataset == "test":
                direct.predict(study.caps, test, "test")
            expected = direct.predictions(dataset=dataset).query(f"split == {index}")
            same = results.predictions(dataset=dataset).query(f"split == {index}")
            pd.testing.assert_frame_equal(same.reset_index(drop=True), expected.reset_index(drop=True))
    assert len(found) == 3 * len(test)
    assert results.load_model(1, network=7).training is False
    with pytest.raises(SettingError, match="network=7; expected None"):
        results.load_model(0, network=7)
    maps = results.explain(study.caps, test, "gradient", baseline=0.0)
    assert maps["path"].map(Path.exists).all()


@pytest.mark.cpu
def test_results_of_a_search_can_use_a_custom_winner(study: Study, tmp_path: Path):
    base = experiment(study, parts="image")
    results = nc.search(base, {"transform": [Scale(0.5)]}, 1, tmp_path, splits=[0], verbose=False)
    direct = experiment(study, parts="image", transform=Scale(0.5)).run(
        tmp_path / "direct", splits=[0], verbose=False
    )
    assert results.predictions().equals(direct.predictions())
    assert results.setting("transform").factor == 0.5


def test_optuna_is_named_if_it_is_missing(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'neurocnn\[search\]'"):
        nc.search(experiment(study, parts="image"), {"dropout": [0.0]}, 1, tmp_path, sampler=print)

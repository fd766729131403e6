"""A search compares trials within each training set, and its winner is evaluated on people whom no trial has seen."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
from studies import TRAINER, Study, experiment

import neurocnn as nc
from neurocnn.errors import ModelError, SettingError

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


def tables(root: Path) -> dict[str, str]:
    """Return every table below a folder as text, without the column `time`."""
    return {
        str(path.relative_to(root)): pd.read_csv(path, sep="\t", dtype=str)
        .drop(columns="time", errors="ignore")
        .to_csv()
        for path in sorted(root.rglob("*.tsv"))
    }


def people(*paths: Path) -> set[str]:
    return {name for path in paths for name in nc.read_table(path)["participant_id"]}


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
    board = nc.leaderboard([folder / f"trial-{trial}" for trial in range(N_TRIALS)])
    assert {"trainer.learning_rate", "splits"} <= set(board)


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

    from neurocnn.experiment.search import draw_values

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
        ({"splits": [1]}, "all splits of a search have the same splits"),
        ({"transform": [None]}, "all splits of a search have the same transform"),
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


def test_an_unknown_option_and_another_search_in_the_folder_are_refused(
    study: Study, folder: Path, tmp_path: Path
):
    base = experiment(study, parts="image")
    with pytest.raises(ModelError, match="drop_out"):
        nc.search(base, {"drop_out": [0.5]}, 1, tmp_path / "search")
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

"""The leaderboard contains the settings in which result folders differ, and their mean metrics."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from studies import TRAINER, Study, experiment

import neurocnn as nc
from neurocnn.errors import NotFoundError, SettingError

RATES = {"slow": 1e-5, "fast": 1e-2, "usual": 1e-3}


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("several") / "studies"
    for name, rate in RATES.items():
        trainer = dataclasses.replace(TRAINER, learning_rate=rate)
        options = {"dropout": 0.5} if name == "fast" else {}
        splits = [0] if name == "slow" else None
        experiment(study, trainer=trainer, options=options).run(root / name, splits=splits)
    return root


def test_the_table_contains_differing_settings_and_mean_metrics(folder: Path):
    found = nc.leaderboard(folder)
    assert list(found.columns[:4]) == ["folder", "trainer.learning_rate", "options.dropout", "splits"]
    assert (
        dict(
            zip(
                found["folder"].map(lambda path: Path(path).name), found["trainer.learning_rate"], strict=True
            )
        )
        == RATES
    )
    for row in found.to_dict("records"):
        results = nc.Results(row["folder"])
        assert row["splits"] == len(results.splits)
        values = results.metrics().loc[results.splits, "balanced_accuracy"]
        assert row["balanced_accuracy"] == pytest.approx(np.mean(values))
    assert found["balanced_accuracy"].is_monotonic_decreasing
    assert nc.leaderboard(folder, by="loss", level="roi")["loss"].is_monotonic_increasing


def test_result_folders_are_passed_as_a_list_or_found_in_a_parent_folder(folder: Path):
    expected = nc.leaderboard(folder)
    assert set(expected["folder"]) <= set(nc.leaderboard(folder.parent)["folder"])
    listed = nc.leaderboard([str(folder / "slow"), nc.Results(folder / "fast"), folder / "usual"])
    assert set(listed["folder"]) == set(expected["folder"])
    assert nc.leaderboard(folder / "slow").columns.tolist()[:2] == ["folder", "splits"]


def test_a_folder_without_a_finished_split_has_no_metrics(study: Study, folder: Path, tmp_path: Path):
    made = experiment(study, trainer=dataclasses.replace(TRAINER, learning_rate=0.5))

    def stop(state: nc.TrainingState) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.run(tmp_path / "stopped", callbacks=[stop])
    found = nc.leaderboard([tmp_path / "stopped", folder / "usual"])
    assert found["splits"].tolist() == [2, 0]
    assert np.isnan(found["balanced_accuracy"].iloc[1])


def test_a_folder_that_is_not_a_result_folder_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(
        NotFoundError, match=r"contains no result folder; expected one with commandline\.json"
    ):
        nc.leaderboard(tmp_path)
    with pytest.raises(SettingError, match="at least one result folder"):
        nc.leaderboard([])
    with pytest.raises(SettingError, match=r"by='accuracies'; expected a metric.*did you mean 'accuracy'"):
        nc.leaderboard(folder, by="accuracies")

"""Ensemble predictions, one per image over all splits, and new votes without training."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn
from studies import PARTS, TASKS, TRAINER, Study, experiment, predicted

import neurocnn as nc
from neurocnn.errors import NotFoundError, SettingError, TableError

KEY = ["participant_id", "session_id"]


@pytest.fixture(scope="module")
def original(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("voted") / "results"
    return folder, predicted(study, folder, "patch")


@pytest.fixture
def results(original: tuple[Path, pd.DataFrame], tmp_path: Path) -> nc.Results:
    shutil.copytree(original[0], tmp_path / "results")
    return nc.Results(tmp_path / "results")


def naive_vote(parts: pd.DataFrame, weights: dict[int, float]) -> pd.Series:
    """Return the probability of class 1 for each participant, computed with a plain loop."""
    sums: dict[str, list[float]] = {}
    for row in parts.to_dict("records"):
        total = sums.setdefault(row["participant_id"], [0.0, 0.0])
        total[0] += weights[row["part_id"]] * row["proba1"]
        total[1] += weights[row["part_id"]]
    return pd.Series({name: value / weight for name, (value, weight) in sums.items()})


def accuracies(results: nc.Results, split: int) -> dict[int, float]:
    rows = results.predictions("part")
    rows = rows[rows["split"] == split]
    return {
        part: sklearn.balanced_accuracy_score(own["true_label"], own["predicted_label"])
        for part, own in rows.groupby("part_id")
    }


def test_the_ensemble_is_the_mean_of_the_splits(original, results):
    _, test = original
    path = results.folder / "ensemble/best_balanced_accuracy/test_image_level_prediction.tsv"
    written = pd.read_csv(path, sep="\t")
    assert written["participant_id"].tolist() == test["participant_id"].tolist()
    assert set(written["n_splits"]) == {2}
    found = results.predictions(dataset="test")
    by_split = found[found["split"] != "ensemble"].groupby("participant_id")["proba1"].mean()
    np.testing.assert_allclose(written["proba1"], by_split[written["participant_id"]], atol=1e-12)
    assert written["predicted_label"].tolist() == (written["proba1"] > 0.5).astype(int).tolist()
    row = results.metrics(dataset="test").loc["ensemble"]
    assert row["roc_auc"] == pytest.approx(sklearn.roc_auc_score(written["true_label"], written["proba1"]))
    assert row["balanced_accuracy"] == pytest.approx(
        sklearn.balanced_accuracy_score(written["true_label"], written["predicted_label"])
    )
    assert row["n_splits"] == 2
    assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]


def test_tables_contain_class_names_and_the_predicted_sessions(original, results):
    _, test = original
    for level in ("part", "image"):
        table = results.predictions(level, dataset="test")
        names = np.array(["CN", "AD"])
        assert table["true_class"].tolist() == names[table["true_label"].astype(int)].tolist()
        assert table["predicted_class"].tolist() == names[table["predicted_label"].astype(int)].tolist()
    written = pd.read_csv(
        results.folder / "fold-1/cnn_classification/best_loss/validation_image_level_prediction.tsv", sep="\t"
    )
    assert set(written["true_class"]) == {"CN", "AD"}
    for fold in (0, 1):
        kept = nc.read_table(results.folder / f"fold-{fold}/test.tsv")
        pd.testing.assert_frame_equal(kept, test.reset_index(drop=True), check_dtype=False)


def test_missing_files_of_the_ensemble_are_added_to_a_folder(results, study: Study, original):
    expected = results.predictions(dataset="test"), results.metrics(dataset="test")
    shutil.rmtree(results.folder / "ensemble")
    for path in results.folder.glob("fold-*/test.tsv"):
        path.unlink()
    for path in results.folder.rglob("*_prediction.tsv"):
        table = nc.read_table(path)
        nc.write_table(table.drop(columns=["true_class", "predicted_class"]), path)
    for found, wanted in zip(
        (results.predictions(dataset="test"), results.metrics(dataset="test")), expected, strict=True
    ):
        pd.testing.assert_frame_equal(found, wanted)
    results.predict(study.caps, original[1], name="test")
    assert (results.folder / "fold-0/test.tsv").is_file()
    assert len(list(results.folder.glob("ensemble/*/test_image_level_*.tsv"))) == 4


def test_the_ensemble_includes_a_split_that_is_done_later(study: Study, tmp_path: Path):
    people = nc.Split(0, study.labels.iloc[:6], study.labels.iloc[6:9])
    more = nc.Split(1, study.labels.iloc[3:9], study.labels.iloc[:3])
    run = nc.Experiment(study.caps, [people, more], PARTS["roi"], TASKS["regression"], "Conv3_FC1", TRAINER)
    results = run.run(tmp_path, splits=[0])
    table = results.predict(study.caps, study.labels.iloc[9:], name="test")
    assert set(table.loc[table["split"] == "ensemble", "n_splits"]) == {1}
    results = run.run(tmp_path)
    table = results.predict(study.caps, study.labels.iloc[9:], name="test")
    everyone = table[table["split"] == "ensemble"]
    assert set(everyone["n_splits"]) == {2}
    mean = table[table["split"] != "ensemble"].groupby("participant_id")["predicted_label"].mean()
    np.testing.assert_allclose(everyone["predicted_label"], mean[everyone["participant_id"]], atol=1e-9)
    assert results.metrics(dataset="test").loc["ensemble", "mae"] == pytest.approx(
        sklearn.mean_absolute_error(everyone["true_label"], everyone["predicted_label"])
    )


@pytest.mark.parametrize("name", ["seen", "images", "training", "balance"])
def test_a_data_set_cannot_have_the_name_of_another_table(results, study: Study, original, name: str):
    with pytest.raises(SettingError, match=f"name='{name}'; expected letters"):
        results.predict(study.caps, original[1], name=name)


@pytest.mark.parametrize("dataset", ["train", "validation", "test"])
@pytest.mark.parametrize("kind", ["accuracies", "uniform", "given"])
def test_a_vote_equals_a_plain_loop(results, dataset: str, kind: str):
    by_split = [accuracies(results, split) for split in (0, 1)]
    threshold = sorted(by_split[0].values())[len(by_split[0]) // 2] - 0.01
    given = {part: 1.0 + part for part in by_split[0]}
    weights = {"accuracies": None, "uniform": "uniform", "given": pd.Series(given)}[kind]
    results.vote(threshold, weights)
    for split, found in enumerate(by_split):
        base = {"accuracies": found, "uniform": dict.fromkeys(found, 1.0), "given": given}[kind]
        own = {part: base[part] * (found[part] > threshold) for part in found}
        parts = results.predictions("part", dataset=dataset)
        images = results.predictions("image", dataset=dataset)
        parts, images = (table[table["split"] == split] for table in (parts, images))
        if not any(own.values()):
            assert images.empty
            assert results.metrics(dataset=dataset).loc[split, "n_parts"] == 0
            continue
        expected = naive_vote(parts, own)
        np.testing.assert_allclose(images["proba1"], expected[images["participant_id"]], atol=1e-12)
        row = results.metrics(dataset=dataset).loc[split]
        assert row["n_parts"] == sum(weight > 0 for weight in own.values())
        assert row["accuracy"] == pytest.approx((images["true_label"] == images["predicted_label"]).mean())
        path = results.folder / f"fold-{split}/cnn_classification/best_balanced_accuracy"
        table = pd.read_csv(path / "part_balanced_accuracy.tsv", sep="\t").set_index("part_id")["weight"]
        np.testing.assert_allclose(table, [own[part] / sum(own.values()) for part in table.index])
    saved = json.loads((results.folder / "vote.json").read_text())
    assert saved["selection_threshold"] == threshold


def test_the_first_vote_can_be_restored_and_new_data_use_the_recorded_vote(results, study: Study, original):
    before = {path: path.read_bytes() for path in results.folder.rglob("*_level_*.tsv")}
    results.vote(weights="uniform")
    first = results.predictions(dataset="test").drop(columns="split")
    again = results.predict(study.caps, original[1], name="again").drop(columns="split")
    pd.testing.assert_frame_equal(first, again)
    results.vote()
    assert {path: path.read_bytes() for path in before} == before


def test_splits_without_a_voting_part_are_excluded_from_the_ensemble(results):
    path = results.folder / "fold-0/cnn_classification/best_balanced_accuracy"
    table = nc.read_table(path / "validation_patch_level_prediction.tsv")
    perfect = table["predicted_label"].where(table["part_id"] != 0, table["true_label"]).astype(int)
    nc.write_table(table.assign(predicted_label=perfect), path / "validation_patch_level_prediction.tsv")
    low = max(accuracies(results, 1).values())
    assert low < max(accuracies(results, 0).values()) == 1
    results.vote(selection_threshold=low)
    worse = 1
    table = results.predictions(dataset="test")
    assert set(table["split"]) == {1 - worse, "ensemble"}
    assert set(table.loc[table["split"] == "ensemble", "n_splits"]) == {1}
    assert results.metrics(dataset="test").loc[worse, "n_parts"] == 0
    results.vote(selection_threshold=1)
    with pytest.raises(NotFoundError, match="no part exceeds"):
        results.predictions(dataset="test")
    assert not list(results.folder.glob("ensemble/*/*.tsv"))
    assert "ensemble" not in results.metrics(dataset="test").index


@pytest.mark.faults
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"selection_threshold": 1.5}, "selection_threshold=1.5; expected a finite number"),
        ({"weights": "accuracy"}, "weights='accuracy'; expected None, 'uniform', or a Series"),
        ({"weights": {99: 1.0}}, r"weights=\[99\]; expected the part_ids"),
        ({"weights": {0: -1.0}}, r"weights\[0\]=-1.0"),
        ({"weights": pd.Series([0.5], index=["a"])}, "part_id='a'"),
    ],
)
def test_invalid_votes_are_refused_and_change_nothing(results, arguments, words):
    before = {path: path.read_bytes() for path in results.folder.rglob("*") if path.is_file()}
    with pytest.raises(SettingError, match=words):
        results.vote(**arguments)
    assert {path: path.read_bytes() for path in results.folder.rglob("*") if path.is_file()} == before


def test_regressions_and_complete_images_accept_no_vote_weights(study: Study, tmp_path: Path):
    regression = experiment(study, "roi", "regression").run(tmp_path / "age", splits=[0])
    before = regression.predictions()
    regression.vote()
    pd.testing.assert_frame_equal(regression.predictions(), before)
    whole = experiment(study, "image").run(tmp_path / "image", splits=[0])
    metrics = whole.metrics()
    pd.testing.assert_frame_equal(whole.vote(), metrics)
    for results in (regression, whole):
        with pytest.raises(SettingError, match="weights='uniform'; expected None"):
            results.vote(weights="uniform")


@pytest.mark.faults
@pytest.mark.parametrize("table", ["prediction", "metrics"])
def test_an_error_names_an_ensemble_table_with_invalid_content(results: nc.Results, table: str):
    path = results.folder / f"ensemble/best_balanced_accuracy/test_image_level_{table}.tsv"
    content = pd.read_csv(path, sep="\t").astype(object)
    content.iloc[0, -2] = "text"
    content.to_csv(path, sep="\t", index=False)
    read = {"metrics": lambda: results.metrics(dataset="test"), "prediction": lambda: results.by_group("sex")}
    with pytest.raises(TableError, match=re.escape(str(path))):
        read[table]()


def test_weights_that_are_all_zero_are_refused_and_change_no_table(results: nc.Results):
    before = results.metrics()
    with pytest.raises(SettingError, match="above 0"):
        results.vote(weights={0: 0.0})
    pd.testing.assert_frame_equal(results.metrics(), before)


class Killed(BaseException):
    """Stands for the signal that ends a process."""


def kill_at_write(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """End the process, in effect, before its n-th file is renamed to its final name."""
    replace, calls = os.replace, iter(range(number))

    def dying(source: str, target: str) -> None:
        if next(calls, None) is None:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)


def tables_of(results: nc.Results) -> dict[str, bytes]:
    paths = [*results.folder.rglob("*_level_*.tsv"), *results.folder.rglob("part_balanced_accuracy.tsv")]
    return {str(path.relative_to(results.folder)): path.read_bytes() for path in paths}


@pytest.mark.faults
@pytest.mark.parametrize("n_written", [0, 1, 2, 3, 11, 20])
@pytest.mark.parametrize("reading", ["metrics", "vote", "predict"])
def test_an_interrupted_vote_is_completed(
    results, study: Study, original, tmp_path: Path, n_written: int, reading: str
):
    before = tables_of(results)
    shutil.copytree(results.folder, tmp_path / "expected")
    expected = nc.Results(tmp_path / "expected")
    expected.vote(weights={0: 1.0, 3: 2.0})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at_write(patch, n_written)
        results.vote(weights={0: 1.0, 3: 2.0})
    if n_written > 2:
        assert before != tables_of(results) != tables_of(expected)
    again = nc.Results(results.folder)
    if reading == "metrics":
        found = again.metrics(dataset="test")
    elif reading == "vote":
        again.vote(weights={0: 1.0, 3: 2.0})
    else:
        again.predict(study.caps, original[1], name="test")
    # Before `vote.json` is replaced, the previous vote is valid, and its tables are complete.
    is_new = n_written > 1 or reading == "vote"
    assert tables_of(again) == (tables_of(expected) if is_new else before)
    if reading == "metrics" and is_new:
        pd.testing.assert_frame_equal(found, expected.metrics(dataset="test"))
    left = [path.name for path in results.folder.rglob(".*") if path.is_file()]
    assert left == []


def test_an_interrupted_vote_on_complete_images_keeps_their_loss(study: Study, tmp_path: Path):
    results = experiment(study, "image").run(tmp_path, splits=[0])
    loss = results.metrics().loc[0, "loss"]
    temperature = results.calibrate().loc[("best_loss", 0), "temperature"]
    for n_written in range(2, 8):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_at_write(patch, n_written)
            results.vote()
        assert results.metrics().loc[0, "loss"] == loss
    table = pd.read_csv(
        tmp_path / "fold-0/cnn_classification/best_loss/validation_image_level_prediction.tsv", sep="\t"
    )
    assert set(table["temperature"]) == {temperature}


def test_temperatures_are_fitted_again_when_the_weights_change(results, caplog):
    results.calibrate()
    results.operating_point("youden")
    results.vote(weights={0: 1.0})
    assert "operating points of the previous vote are removed" in caplog.text
    saved = json.loads((results.folder / "vote.json").read_text())
    assert saved["operating_points"] == {}
    # The same temperatures as if the new vote had been calibrated in two steps.
    found = saved["temperatures"]
    assert {name: list(splits) for name, splits in found.items()} == {
        name: ["0", "1"] for name in results.selections
    }
    again = results.calibrate()["temperature"]
    for (selection, split), temperature in again.items():
        assert found[selection][str(split)] == pytest.approx(temperature, rel=1e-4)
    voted = results.predictions(dataset="test")
    parts = results.predictions("part", dataset="test").query("part_id == 0")
    for split in (0, 1):
        raw, scaled = (table[table["split"] == split] for table in (parts, voted))
        logits = np.log(raw["proba1"] / raw["proba0"]).to_numpy() / found[results.selections[-1]][str(split)]
        np.testing.assert_allclose(scaled["proba1"], 1 / (1 + np.exp(-logits)), atol=1e-9)


def test_a_split_in_which_no_part_votes_is_not_calibrated(results):
    results.vote(selection_threshold=1)
    assert results.calibrate().empty
    assert results.vote().loc[0, "n_parts"] == 8

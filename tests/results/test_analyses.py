"""Thresholds, calibration, groups and confounds agree with plain computations."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize
from sklearn import linear_model, preprocessing
from sklearn import metrics as sklearn
from studies import Study, experiment, predicted

import neurocnn as nc
from neurocnn import engine
from neurocnn.errors import NotFoundError, SettingError, TableError
from neurocnn.results.calibration import calibration_scores, choose_threshold, fit_temperature

LAST = "best_balanced_accuracy"


@pytest.fixture(scope="module")
def original(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("answers") / "results"
    return folder, predicted(study, folder, "roi", study.labels.assign(site=["a", "b"] * 8))


@pytest.fixture
def results(original: tuple[Path, pd.DataFrame], tmp_path: Path) -> nc.Results:
    shutil.copytree(original[0], tmp_path / "results")
    return nc.Results(tmp_path / "results")


def probabilities(n: int, n_classes: int = 2, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    values = generator.dirichlet(np.ones(n_classes), n)
    true = np.array([generator.choice(n_classes, p=row**2 / (row**2).sum()) for row in values])
    return pd.DataFrame({"true_label": true, **{f"proba{k}": values[:, k] for k in range(n_classes)}})


@pytest.mark.parametrize("rule", ["youden", {"sensitivity": 0.8}, {"specificity": 0.7}])
def test_no_threshold_is_better_than_the_chosen_one(rule):
    table = probabilities(40)
    true, scores = table["true_label"] == 1, table["proba1"]
    tried = {}
    for threshold in [*scores, 1.1]:
        sensitivity, specificity = (scores[true] >= threshold).mean(), (scores[~true] < threshold).mean()
        if rule == "youden":
            tried[threshold] = (sensitivity + specificity - 1, threshold)
        elif "sensitivity" in rule and sensitivity >= 0.8:
            tried[threshold] = (specificity, threshold)
        elif "specificity" in rule and specificity >= 0.7:
            tried[threshold] = (sensitivity, -threshold)
    best = max(tried.values())[0]
    assert tried[choose_threshold(table, rule)][0] == pytest.approx(best)


def test_the_operating_point_is_chosen_on_the_validation_sets_and_reported_on_the_test_set(results):
    table = results.operating_point({"sensitivity": 0.9})
    validation, test = results.predictions(), results.predictions(dataset="test")
    for split in (0, 1):
        own = validation[validation["split"] == split]
        threshold = table.loc[split, "threshold"]
        assert ((own["proba1"] >= threshold)[own["true_label"] == 1]).mean() >= 0.9
        rows = test[test["split"] == split]
        predicted = rows["proba1"] >= threshold
        assert table.loc[split, "sensitivity"] == pytest.approx(predicted[rows["true_label"] == 1].mean())
        assert table.loc[split, "accuracy"] == pytest.approx((predicted == rows["true_label"]).mean())
    assert table.loc["ensemble", "threshold"] == pytest.approx(table.loc[[0, 1], "threshold"].mean())
    saved = json.loads((results.folder / "vote.json").read_text())["operating_points"][LAST]
    assert saved["rule"] == {"sensitivity": 0.9}
    assert list(saved["thresholds"].values()) == table.loc[[0, 1], "threshold"].tolist()
    # Training and validation sets are refused, and a calibration does not change the predicted classes.
    for name in ("validation", "train"):
        with pytest.raises(
            SettingError, match=f"dataset='{name}'; expected the name of a predicted data set"
        ):
            results.operating_point("youden", name)
    results.calibrate()
    results.vote()
    again = results.operating_point({"sensitivity": 0.9})
    np.testing.assert_allclose(again["sensitivity"], table["sensitivity"])
    np.testing.assert_allclose(again["threshold"], table["threshold"], rtol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_temperature_minimises_the_loss_of_the_logits(n_classes: int):
    table = probabilities(80, n_classes)
    temperature, before, after = fit_temperature(table)
    logits = np.log(table.filter(like="proba").to_numpy())
    true = table["true_label"].to_numpy()

    def loss(t: float) -> float:
        scaled = logits / t
        log_p = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
        return float(-log_p[np.arange(len(true)), true].mean())

    best = optimize.minimize(lambda t: loss(t[0]), [1.0], method="Nelder-Mead", options={"xatol": 1e-9}).x[0]
    assert temperature == pytest.approx(best, rel=1e-4)
    assert before == pytest.approx(loss(1.0))
    assert after == pytest.approx(loss(best))
    assert after < before


def test_a_calibration_changes_later_tables_only(results, study: Study, original):
    before = {path: path.read_bytes() for path in results.folder.rglob("*.tsv")}
    raw = results.predictions(dataset="test")
    temperatures = results.calibrate().loc[LAST, "temperature"]
    assert {path: path.read_bytes() for path in before} == before
    results.predict(study.caps, original[1], name="later")
    later = results.predictions(dataset="later")
    results.vote()
    voted = results.predictions(dataset="test")
    pd.testing.assert_frame_equal(later, voted)
    for split in (0, 1):
        rows, old = (table[table["split"] == split] for table in (voted, raw))
        logits = np.log(old["proba1"] / old["proba0"]) / temperatures[split]
        np.testing.assert_allclose(rows["proba1"], 1 / (1 + np.exp(-logits)), atol=1e-9)
        assert rows["predicted_label"].tolist() == old["predicted_label"].tolist()
    # A second vote or calibration does not apply the temperature twice.
    results.vote()
    pd.testing.assert_frame_equal(results.predictions(dataset="test"), voted)
    again = results.calibrate().loc[LAST, "temperature"]
    np.testing.assert_allclose(again, temperatures, rtol=1e-4)


def test_probabilities_of_complete_images_are_calibrated_once(study: Study, tmp_path: Path):
    results = experiment(study, "image").run(tmp_path, splits=[0])
    raw, loss = results.predictions(), results.metrics().loc[0, "loss"]
    temperature = results.calibrate().loc[(LAST, 0), "temperature"]
    for _ in range(2):
        results.vote()
        found = results.predictions()
        logits = np.log(raw["proba1"] / raw["proba0"]) / temperature
        np.testing.assert_allclose(found["proba1"], 1 / (1 + np.exp(-logits)), atol=1e-9)
        assert results.metrics().loc[0, "loss"] == loss


def test_calibration_scores_equal_a_plain_loop():
    table = probabilities(60)
    found = calibration_scores(table, 2, 10)
    true, p = (table["true_label"] == 1).to_numpy(), table["proba1"].to_numpy()
    error = 0.0
    for low in np.arange(10) / 10:
        inside = (p > low) & (p <= low + 0.1)
        if inside.any():
            error += inside.sum() / 60 * abs(true[inside].mean() - p[inside].mean())
    assert found["ece"] == pytest.approx(error, abs=1e-12)
    assert found["brier"] == pytest.approx(sklearn.brier_score_loss(true, p))
    three = probabilities(60, 3)
    onehot = np.eye(3)[three["true_label"]]
    expected = ((three.filter(like="proba").to_numpy() - onehot) ** 2).sum(1).mean()
    assert calibration_scores(three, 3, 10)["brier"] == pytest.approx(expected)


def test_the_reliability_of_each_split_and_of_the_ensemble_is_shown(results):
    scores = results.calibration("test")
    assert list(scores.index) == [0, 1, "ensemble"]
    bins = results.reliability("test", n_bins=4)
    rows = results.predictions(dataset="test")
    for split in scores.index:
        own = bins[bins["split"] == split]
        assert own["n"].sum() == scores.loc[split, "n"] == (rows["split"] == split).sum()
        assert (own["predicted"] * own["n"]).sum() == pytest.approx(
            rows.loc[rows["split"] == split, "proba1"].sum()
        )
    assert list(results.calibration("validation").index) == [0, 1]


def test_the_metrics_of_a_group_equal_the_metrics_of_its_rows(results, original):
    _, test = original
    rows = (
        results.predictions(dataset="test")
        .query("split == 'ensemble'")
        .merge(test, on=["participant_id", "session_id"])
    )
    for by in ("sex", "site"):
        found = results.by_group(by, dataset="test")
        assert list(found.index) == sorted(test[by].unique())
        for name, own in rows.groupby(by):
            assert found.loc[name, "participants"] == len(own)
            assert found.loc[name, "accuracy"] == pytest.approx(
                (own["true_label"] == own["predicted_label"]).mean()
            )
            own = own[["participant_id", "true_label", "predicted_label", "proba0", "proba1"]]
            interval = engine.confidence_intervals(own, results.task).loc["accuracy"]
            assert (
                found.loc[name, ["accuracy_low", "accuracy_high"]].tolist()
                == interval[["lower", "upper"]].tolist()
            )
    ages = results.by_group("age", bins=[0, 70, 120])
    assert ages["participants"].tolist() == [
        n for n in ((test["age"] <= 70).sum(), (test["age"] > 70).sum()) if n
    ]
    assert results.by_group("age")["participants"].sum() == len(test)
    validation = results.by_group("sex", dataset="validation")
    assert validation["participants"].sum() == len(results.predictions())


def test_the_recall_of_a_class_without_participants_is_missing(results):
    found = results.by_group("diagnosis", dataset="test")
    assert found["sensitivity"].isna().tolist() == [False, True]
    assert found["specificity"].isna().tolist() == [True, False]
    assert found.loc["CN", ["sensitivity_low", "sensitivity_high"]].isna().all()


@pytest.mark.faults
def test_groups_without_a_column_or_sessions_are_refused(results):
    with pytest.raises(TableError, match=r"fold-0/test\.tsv: the column 'scanner' is missing"):
        results.by_group("scanner")
    with pytest.raises(SettingError, match="bins=3; expected None, because the column is not numeric"):
        results.by_group("sex", bins=3)
    with pytest.raises(SettingError, match="limits that include"):
        results.by_group("age", bins=[0, 1])
    (results.folder / "fold-0/test.tsv").unlink()
    with pytest.raises(NotFoundError, match="predict dataset='test' again"):
        results.by_group("sex")


@pytest.mark.parametrize("dataset", ["validation", "test"])
def test_confound_scores_equal_a_plain_logistic_regression(results, dataset: str):
    table = results.confounds(("age", "sex"), dataset)
    scores = []
    for split in (0, 1):
        paths = [results.folder / f"fold-{split}/{name}.tsv" for name in ("train", dataset)]
        train, tested = (pd.read_csv(path, sep="\t") for path in paths)
        scale = preprocessing.StandardScaler().fit(train[["age"]])
        inputs = [
            np.column_stack([scale.transform(t[["age"]]), t["sex"] == "F", t["sex"] == "M"])
            for t in (train, tested)
        ]
        model = linear_model.LogisticRegression(max_iter=1000).fit(inputs[0], train["diagnosis"] == "AD")
        scores.append(
            sklearn.roc_auc_score(tested["diagnosis"] == "AD", model.predict_proba(inputs[1])[:, 1])
        )
    assert table.loc["roc_auc", "confounds"] == pytest.approx(np.mean(scores))
    assert table.loc["roc_auc", "network"] == results.metrics(dataset=dataset).loc["mean", "roc_auc"]


def test_confounds_of_a_regression_use_a_linear_regression(study: Study, tmp_path: Path):
    results = experiment(study, "image", "regression").run(tmp_path)
    table = results.confounds(["sex"])
    errors = []
    for split in study.splits:
        means = split.train.groupby("sex")["age"].mean()
        errors.append((split.validation["age"] - split.validation["sex"].map(means)).abs().mean())
    assert table.loc["mae", "confounds"] == pytest.approx(np.mean(errors), rel=1e-5)
    with pytest.raises(SettingError, match="expected a classification"):
        results.calibrate()
    with pytest.raises(TableError, match="'weight'"):
        results.confounds(["weight"])


@pytest.mark.faults
def test_the_label_is_not_a_confound(results):
    with pytest.raises(SettingError, match=r"on=.*expected columns other than the label 'diagnosis'"):
        results.confounds(["age", "diagnosis"])


@pytest.mark.faults
def test_missing_confounds_are_refused_with_the_session(results):
    path = results.folder / "fold-0/train.tsv"
    table = nc.read_table(path)
    nc.write_table(table.assign(age=table["age"].mask(table.index == 0)), path)
    name = f"{table.participant_id[0]} {table.session_id[0]}"
    with pytest.raises(
        TableError, match=f"age, sex: a value is missing for {name};.*or run an experiment without"
    ):
        results.confounds(["age", "sex"])


@pytest.mark.faults
def test_invalid_rules_are_refused(results):
    for rule in ("best", {"sensitivity": 2}, {"ppv": 0.5}, {}, None):
        with pytest.raises(SettingError, match=r"rule=|sensitivity=2"):
            results.operating_point(rule)

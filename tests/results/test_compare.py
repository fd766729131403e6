"""Intervals over participants, and tests of two experiments, agree with independent computations."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sklearn
from studies import PARTS, TASKS, Study

import neurocnn as nc
from neurocnn.engine import classification, regression
from neurocnn.errors import NotFoundError, SettingError
from neurocnn.results.compare import delong_p_value, mcnemar_p_value, resampled_t_p_value
from neurocnn.results.resampling import class_scores, draw_people, scores_of_draws, value_scores
from neurocnn.results.scoring import metrics_row


def table_of(n: int, n_classes: int = 2, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(n_classes), n).round(2)
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i // 2}" for i in range(n)],
            "session_id": [f"ses-{i % 2}" for i in range(n)],
            "true_label": generator.permutation(np.arange(n) % n_classes),
            "predicted_label": probabilities.argmax(1),
            **{f"proba{k}": probabilities[:, k] for k in range(n_classes)},
        }
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_class_scores_of_draws_equal_the_scores_of_tables_with_repeated_rows(n_classes: int):
    table = table_of(24, n_classes).drop(columns=["participant_id", "session_id"])
    weights = np.random.default_rng(1).integers(0, 3, (20, 24)).astype(float)
    task = classification("d", list("abc")[:n_classes])
    found = class_scores(table, n_classes, weights)
    for draw, row in enumerate(weights):
        expected = task.metrics(table.iloc[np.repeat(np.arange(24), row.astype(int))])
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][draw], value, atol=1e-12, err_msg=name)


def test_value_scores_of_draws_equal_the_scores_of_tables_with_repeated_rows():
    generator = np.random.default_rng(0)
    table = pd.DataFrame(
        {"true_label": generator.normal(70, 5, 15), "predicted_label": generator.normal(70, 5, 15)}
    )
    weights = generator.integers(0, 3, (20, 15)).astype(float)
    found = value_scores(table, weights)
    for draw, row in enumerate(weights):
        expected = regression().metrics(table.iloc[np.repeat(np.arange(15), row.astype(int))])
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][draw], value, atol=1e-9)


def test_a_custom_metric_is_computed_by_its_function():
    import dataclasses

    own = lambda table: {"accuracy": 0.5, "rows": float(len(table))}  # noqa: E731
    task = dataclasses.replace(classification(), metrics=own)
    table, weights = table_of(6), np.array([[1.0] * 6, [0, 2, 0, 1, 1, 2]])
    found = scores_of_draws(task, table, weights, {"accuracy": 0.5, "rows": 6.0})
    assert found["rows"].tolist() == [6, 6]
    assert found["accuracy"].tolist() == [0.5, 0.5]


def test_a_custom_metric_receives_the_ids_in_each_draw():
    import dataclasses

    own = lambda table: {"people": float(table["participant_id"].nunique())}  # noqa: E731
    task = dataclasses.replace(classification(), metrics=own)
    table = table_of(6).assign(participant_id=["a", "a", "b", "c", "d", "e"])
    weights = np.array([[1.0] * 6, [2, 0, 0, 1, 1, 2], [0, 0, 6, 0, 0, 0]])
    assert scores_of_draws(task, table, weights, {"people": 5.0})["people"].tolist() == [5, 4, 1]


@pytest.mark.parametrize("name", ["loss", "missing"])
def test_a_score_that_the_task_does_not_compute_from_a_table_is_omitted(name: str):
    import dataclasses

    calls: list[int] = []
    own = lambda table: calls.append(len(table)) or {"accuracy": 0.5}  # noqa: E731
    task = dataclasses.replace(classification(), metrics=own)
    assert scores_of_draws(task, table_of(6), np.ones((1000, 6)), {name: 99.0}) == {}
    assert calls == [6]


def test_a_custom_metric_is_called_once_when_a_table_is_scored():
    import dataclasses

    task, calls = classification(), []

    def own(table: pd.DataFrame) -> dict[str, float]:
        calls.append(len(table))
        # The column participant_id is available, for example for the number of participants.
        return task.metrics(table) | {"people": float(table["participant_id"].nunique())}

    table = table_of(24)
    row = metrics_row(dataclasses.replace(task, metrics=own), table, intervals=True).iloc[0]
    assert calls == [24]
    assert row["people"] == 12
    assert np.isnan(row["people_low"])
    expected = metrics_row(task, table, intervals=True).iloc[0]
    pd.testing.assert_series_equal(row[expected.index], expected)


def test_people_are_drawn_with_all_their_rows_within_the_same_splits_and_class():
    first = pd.DataFrame({"participant_id": ["a", "a", "b", "c", "d"], "true_label": [0, 0, 0, 1, 1]})
    second = pd.DataFrame({"participant_id": ["d", "e", "f"], "true_label": [1, 1, 0]})
    draws = draw_people([first, second], by_class=True, n=200, seed=3)
    of = {name: draws.counts[:, index] for index, name in enumerate("abcdef")}
    assert draws.n_people == 6
    assert ((of["a"] + of["b"]) == 2).all()
    for name in "cdef":  # no other participant is in the same splits and class
        assert (of[name] == 1).all()
    assert set(of["a"]) == {0, 1, 2}
    assert draws.people[0].tolist() == [0, 0, 1, 2, 3]
    assert draws.people[1].tolist() == [3, 4, 5]


def test_mcnemar_is_the_exact_binomial_test():
    for seed in range(5):
        first, second = table_of(40, seed=seed), table_of(40, seed=seed + 50)
        names = [f"sub-{i}" for i in range(40)]
        first, second = first.assign(participant_id=names), second.assign(participant_id=names)
        second["true_label"] = first["true_label"]
        right = [(table["true_label"] == table["predicted_label"]) for table in (first, second)]
        b, c = (right[0] & ~right[1]).sum(), (~right[0] & right[1]).sum()
        assert mcnemar_p_value(first, second) == pytest.approx(
            stats.binomtest(b, b + c, 0.5).pvalue, abs=1e-12
        )
    assert np.isnan(mcnemar_p_value(table_of(40), table_of(40)))  # two images per participant


def naive_delong(truth: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Return the p-value by equations 4 to 6 of DeLong et al. (1988), with plain loops over pairs."""
    positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    psi = [
        np.array([[float(s[i] > s[j]) + 0.5 * float(s[i] == s[j]) for j in negative] for i in positive])
        for s in (one, other)
    ]
    s10 = np.cov([p.mean(1) for p in psi])
    s01 = np.cov([p.mean(0) for p in psi])
    s = s10 / len(positive) + s01 / len(negative)
    z = (psi[0].mean() - psi[1].mean()) / np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    return float(2 * stats.norm.sf(abs(z)))


def test_delong_equals_the_formula_of_the_paper():
    for seed in range(5):
        first, second = table_of(50, seed=seed), table_of(50, seed=seed + 20)
        names = [f"sub-{i}" for i in range(50)]
        first, second = (
            t.assign(participant_id=names, true_label=first["true_label"]) for t in (first, second)
        )
        expected = naive_delong(
            *(v.to_numpy() for v in (first["true_label"], first["proba1"], second["proba1"]))
        )
        assert delong_p_value(first, second) == pytest.approx(expected, abs=1e-10)


def test_delong_with_clusters_agrees_with_a_bootstrap_over_people():
    generator = np.random.default_rng(0)
    truth = np.repeat(generator.integers(0, 2, 60), 3)
    person = np.repeat(np.arange(60), 3)
    shift = np.repeat(generator.normal(0, 1, 60), 3)
    tables = [
        pd.DataFrame(
            {
                "participant_id": [f"sub-{i}" for i in person],
                "true_label": truth,
                "proba1": 1 / (1 + np.exp(-(truth * gain + shift * noise + generator.normal(0, 0.3, 180)))),
            }
        )
        for gain, noise in ((1.0, 1.0), (0.6, -1.0))
    ]
    p = delong_p_value(*tables)
    differences = []
    for _ in range(600):
        rows = np.concatenate(
            [
                np.flatnonzero(person == i)
                for kind in (0, 1)
                for i in generator.choice(np.unique(person[truth == kind]), (truth[::3] == kind).sum())
            ]
        )
        areas = [sklearn.roc_auc_score(t["true_label"].iloc[rows], t["proba1"].iloc[rows]) for t in tables]
        differences.append(areas[0] - areas[1])
    observed = [sklearn.roc_auc_score(t["true_label"], t["proba1"]) for t in tables]
    expected = 2 * stats.norm.sf(abs(observed[0] - observed[1]) / np.std(differences))
    assert p == pytest.approx(expected, abs=0.06)


def test_the_resampled_t_test_equals_its_formula():
    differences, share = np.random.default_rng(0).normal(0.02, 0.03, 10), 0.1
    t, uncorrected = stats.ttest_1samp(differences, 0)
    # Without the correction, the test is the usual t-test. The correction multiplies the variance of the mean.
    assert resampled_t_p_value(differences, 0.0) == pytest.approx(uncorrected, abs=1e-12)
    corrected = t * np.sqrt((1 / 10) / (1 / 10 + share))
    assert resampled_t_p_value(differences, share) == pytest.approx(
        2 * stats.t.sf(abs(corrected), 9), abs=1e-12
    )


@pytest.fixture(scope="module")
def two(
    study: Study, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nc.Results, nc.Results, pd.DataFrame]:
    rest, test = nc.holdout(study.labels, fraction=0.4, stratify=["diagnosis"], seed=0)
    splits = nc.kfold(rest, n_splits=2, stratify=["diagnosis"], seed=0)
    found = []
    for rate in (1e-2, 1e-4):
        folder = tmp_path_factory.mktemp("two") / "results"
        trainer = nc.Trainer(epochs=2, batch_size=4, learning_rate=rate)
        run = nc.Experiment(study.caps, splits, PARTS["roi"], TASKS["classification"], "Conv3_FC1", trainer)
        results = run.run(folder)
        results.predict(study.caps, test, name="test")
        found.append(results)
    return found[0], found[1], test


@pytest.mark.parametrize("dataset", ["test", "validation"])
def test_two_experiments_are_compared_person_by_person(two, dataset: str):
    a, b, _ = two
    table = nc.compare(a, b, dataset, n=200)
    answers = []
    for results in (a, b):
        rows = results.predictions(dataset=dataset)
        answers.append(rows[rows["split"] == "ensemble"] if dataset == "test" else rows)
    second = answers[0][["participant_id"]].merge(answers[1], on="participant_id")
    for name, score in (("balanced_accuracy", sklearn.balanced_accuracy_score),):
        for column, rows in zip("ab", (answers[0], second), strict=True):
            assert table.loc[name, column] == pytest.approx(
                score(rows["true_label"], rows["predicted_label"])
            )
    area = sklearn.roc_auc_score(answers[0]["true_label"], answers[0]["proba1"])
    assert table.loc["roc_auc", "a"] == pytest.approx(area)
    np.testing.assert_allclose(table["difference"], table["a"] - table["b"])
    assert (table["low"] <= table["high"]).all()
    assert table.loc["accuracy", "mcnemar"] == mcnemar_p_value(answers[0].reset_index(), second)
    assert table["mcnemar"].notna().sum() == table["delong"].notna().sum() == 1
    scores = [results.metrics(dataset=dataset)["roc_auc"].loc[[0, 1]].to_numpy(float) for results in (a, b)]
    sizes = [
        len(pd.read_csv(a.folder / f"fold-{i}/{dataset}.tsv", sep="\t"))
        / len(pd.read_csv(a.folder / f"fold-{i}/train.tsv", sep="\t"))
        for i in (0, 1)
    ]
    expected = resampled_t_p_value(scores[0] - scores[1], np.mean(sizes))
    np.testing.assert_allclose(table.loc["roc_auc", "resampled_t"], expected)
    again = nc.compare(b, a, dataset, n=200)
    np.testing.assert_allclose(again["difference"], -table["difference"])
    np.testing.assert_allclose(again["low"], -table["high"], atol=1e-12)


def test_experiments_with_different_participants_or_labels_are_not_compared(
    two, study: Study, tmp_path: Path
):
    a, b, _ = two
    shutil.copytree(b.folder, tmp_path / "results")
    other = nc.Results(tmp_path / "results")
    b_test = other.folder / "ensemble/best_balanced_accuracy/test_image_level_prediction.tsv"
    table = nc.read_table(b_test)
    nc.write_table(table.iloc[1:], b_test)
    with pytest.raises(SettingError, match=r"only in results_a.*same sessions"):
        nc.compare(a, other)
    nc.write_table(table.assign(true_label=1 - table["true_label"]), b_test)
    with pytest.raises(SettingError, match=r"true labels of sub-.* differ"):
        nc.compare(a, other)
    with pytest.raises(NotFoundError, match=r"dataset='new'"):
        nc.compare(a, b, "new")
    with pytest.raises(SettingError, match=r"results_b='folder'; expected an nc.Results"):
        nc.compare(a, "folder")


def test_the_interval_of_the_summary_equals_a_plain_bootstrap(two):
    results, _, _ = two
    summary = results.summary("test")
    rows = results.predictions(dataset="test")
    tables = [rows[rows["split"] == split].set_index("participant_id") for split in (0, 1)]
    generator = np.random.default_rng(5)
    by_class = tables[0]["true_label"]
    scores = []
    for _ in range(1500):
        drawn = [
            name
            for kind in (0, 1)
            for name in generator.choice(by_class.index[by_class == kind], (by_class == kind).sum())
        ]
        values = [sklearn.roc_auc_score(t.loc[drawn, "true_label"], t.loc[drawn, "proba1"]) for t in tables]
        scores.append(np.mean(values))
    low, high = map(float, summary.loc["95 % interval", "image roc_auc"].split(" to "))
    np.testing.assert_allclose([low, high], np.quantile(scores, [0.025, 0.975]), atol=0.12)
    assert summary.loc["95 % interval", "test participants"] == len(by_class)
    assert summary.loc["chance", "image balanced_accuracy"] == "0.500"
    for name in ("roc_auc", "sensitivity", "specificity"):
        values = results.metrics(dataset="test")[name]
        assert summary.loc["mean ± std", f"image {name}"] == f"{values['mean']:.3f} ± {values['std']:.3f}"


def test_the_chance_level_of_a_regression_is_the_error_of_the_training_mean(study: Study, tmp_path: Path):
    run = nc.Experiment(
        study.caps, study.splits, PARTS["image"], TASKS["regression"], "Conv3_FC1", nc.Trainer(epochs=1)
    )
    summary = run.run(tmp_path).summary()
    errors = [(split.validation["age"] - split.train["age"].mean()).abs().mean() for split in study.splits]
    assert summary.loc["chance", "image mae"] == f"{np.mean(errors):.3f}"


def test_the_interval_of_a_constant_classifier_is_not_empty(study: Study, tmp_path: Path):
    run = nc.Experiment(
        study.caps, study.splits, PARTS["image"], TASKS["classification"], "Conv3_FC1", nc.Trainer(epochs=1)
    )
    results = run.run(tmp_path)
    for path in tmp_path.glob("fold-*/*/*/validation_image_level_prediction.tsv"):
        table = nc.read_table(path).assign(predicted_label=1, predicted_class="AD", proba0=0.4, proba1=0.6)
        nc.write_table(table, path)
    results.vote()
    summary, metrics = results.summary(), results.metrics()
    n_splits = len(results.splits)
    for name in ("accuracy", "sensitivity", "specificity", "balanced_accuracy", "roc_auc"):
        low, high = map(float, summary.loc["95 % interval", f"image {name}"].split(" to "))
        own = metrics.loc[results.splits]
        # The splits validate different participants: the squared distances from the mean are added (MOVER).
        below = np.sqrt(((own[name] - own[f"{name}_low"]) ** 2).sum()) / n_splits
        above = np.sqrt(((own[f"{name}_high"] - own[name]) ** 2).sum()) / n_splits
        mean = own[name].mean()
        np.testing.assert_allclose([low, high], [mean - below, mean + above], atol=6e-4)
        assert low < high
    # Wilson's limits of the sensitivity, 1, in the first split.
    n = (study.splits[0].validation["diagnosis"] == "AD").sum()
    wilson = stats.binomtest(n, n).proportion_ci(method="wilson").low
    assert metrics.loc[0, "sensitivity_low"] == pytest.approx(wilson, abs=1e-6)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_loss_of_complete_images_has_an_interval(study: Study, tmp_path: Path, task: str):
    run = nc.Experiment(
        study.caps, study.splits, PARTS["image"], TASKS[task], "Conv3_FC1", nc.Trainer(epochs=1)
    )
    results = run.run(tmp_path)
    low, high = map(float, results.summary().loc["95 % interval", "image loss"].split(" to "))
    assert low < results.metrics().loc["mean", "loss"] < high


@pytest.mark.parametrize("kind", ["class weights", "own loss"])
def test_a_loss_that_predictions_do_not_determine_has_no_interval_in_the_summary(
    study: Study, tmp_path: Path, kind: str
):
    import dataclasses

    task = nc.classification("diagnosis", class_weights={"CN": 1, "AD": 5})
    if kind == "own loss":
        task = dataclasses.replace(
            nc.classification("diagnosis"), loss=lambda output, target: output.square().sum(1) + 7
        )
    run = nc.Experiment(study.caps, study.splits, PARTS["image"], task, "Conv3_FC1", nc.Trainer(epochs=1))
    found = run.run(tmp_path).summary()
    assert float(found.loc[0, "image loss"]) > 0.75  # that of equal probabilities is 0.69
    assert found.loc["95 % interval", "image loss"] == ""
    assert " to " in found.loc["95 % interval", "image balanced_accuracy"]


@pytest.mark.parametrize("parts", ["image", "roi"])
def test_own_metrics_need_not_return_the_loss(study: Study, tmp_path: Path, parts: str):
    import dataclasses

    own = lambda table: {"hits": float((table["true_label"] == table["predicted_label"]).sum())}  # noqa: E731
    task = dataclasses.replace(nc.classification("diagnosis"), metrics=own, selection=("hits",))
    run = nc.Experiment(study.caps, study.splits, PARTS[parts], task, "Conv3_FC1", nc.Trainer(epochs=2))
    results = run.run(tmp_path, splits=[0])
    history = results.history()
    assert history["validation_loss"].notna().all()
    level = "image" if parts == "image" else "part"
    best = history.loc[history["validation_hits"].idxmax(), "validation_loss"]
    assert results.metrics(level=level).loc[0, "loss"] == pytest.approx(best, rel=1e-4)
    # No vote has a loss, and no metric is missing because a vote has none.
    assert results.metrics(level="image").loc[0, "hits"] >= 0
    assert "no part" not in set(results.summary().loc[0])

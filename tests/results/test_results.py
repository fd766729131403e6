"""`Results` agrees with the files of its folder, and refuses participants that its models have seen."""

import dataclasses
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from studies import PARTS, TASKS, TRAINER, Study, experiment

import neurocnn as nc
from neurocnn.errors import LeakError, NotFoundError, SettingError


@pytest.fixture(scope="module")
def finished(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[nc.Results, pd.DataFrame]:
    """Return a finished experiment on some participants, and the sessions of all other participants."""
    rest, test = nc.holdout(study.labels, fraction=0.25, stratify=["diagnosis"], seed=0)
    splits = nc.kfold(rest, n_splits=2, stratify=["diagnosis"], seed=0)
    folder = tmp_path_factory.mktemp("finished") / "results"
    run = nc.Experiment(study.caps, splits, PARTS["roi"], TASKS["classification"], "Conv3_FC1", TRAINER)
    return run.run(folder), test


def test_metrics_are_computed_from_the_predictions_and_have_mean_and_deviation(finished):
    sklearn = pytest.importorskip("sklearn.metrics")
    results, _ = finished
    for level in ("image", "part"):
        metrics = results.metrics(level, "best_loss")
        predictions = results.predictions(level, "best_loss")
        expected = [
            sklearn.balanced_accuracy_score(rows["true_label"], rows["predicted_label"])
            for _, rows in predictions.groupby("split")
        ]
        found = metrics["balanced_accuracy"]
        assert list(metrics.index) == [0, 1, "mean", "std"]
        np.testing.assert_allclose(found[[0, 1]].to_numpy(dtype=float), expected, atol=1e-12)
        assert found["mean"] == pytest.approx(np.mean(expected), abs=1e-12)
        assert found["std"] == pytest.approx(np.std(expected, ddof=1), abs=1e-12)


@pytest.mark.cpu
def test_new_data_are_predicted_by_the_models_of_every_split(study: Study, finished):
    results, test = finished
    predictions = results.predict(study.caps, test, name="test")
    assert len(predictions) == 3 * len(test)
    assert set(predictions["split"]) == {0, 1, "ensemble"}
    assert list(results.metrics("image", dataset="test").index) == [0, 1, "mean", "std", "ensemble"]
    # The expected probabilities are computed with plain torch.
    model = results.load_model(1, "best_balanced_accuracy")
    dataset = nc.CapsDataset(study.caps, test, PARTS["roi"])
    with torch.no_grad():
        logits = model(torch.stack([dataset[i]["image"] for i in range(len(dataset))]))
    expected = torch.softmax(logits.double(), dim=1)[:, 1].numpy()
    table = results.predictions("roi", "best_balanced_accuracy", "test")
    found = table[table["split"] == 1]["proba1"].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_prediction_that_completes_a_killed_one_leaves_no_temporary_files(study: Study, finished):
    results, test = finished
    before = {path for path in results.folder.rglob("*") if path.is_file()}
    tables = results.folder / "fold-0" / "cnn_classification" / "best_loss"
    leftovers = [
        tables / ".killed_image_level_metrics.tsv.17-0a1b2c3d",
        results.folder / "fold-1" / ".images.tsv.18-0a1b2c3e",
    ]
    for path in leftovers:
        path.write_text("half a table")
    results.predict(study.caps, test, name="killed")
    after = {path for path in results.folder.rglob("*") if path.is_file()}
    assert not after & set(leftovers)
    assert all(path.name.startswith("killed") for path in after - before if path.name != "images.tsv")


def test_predicting_the_same_data_again_changes_nothing_and_other_data_need_another_name(study, finished):
    results, test = finished
    first = results.predict(study.caps, test, name="again")
    pd.testing.assert_frame_equal(results.predict(study.caps, test, name="again"), first)
    with pytest.raises(SettingError, match="another name"):
        results.predict(study.caps, test.iloc[:2], name="again")
    for name in ("train", "validation", "a/b", "../x"):
        with pytest.raises(SettingError, match="name="):
            results.predict(study.caps, test, name=name)


def test_data_without_labels_are_predicted_without_metrics(study: Study, finished):
    results, test = finished
    results.predict(study.caps, test[["participant_id", "session_id"]], name="unlabelled")
    labelled = results.predict(study.caps, test, name="labelled")
    unlabelled = results.predictions(dataset="unlabelled")
    assert unlabelled["true_label"].isna().all()
    columns = ["split", "participant_id", "predicted_label", "proba0", "proba1"]
    pd.testing.assert_frame_equal(unlabelled[columns], labelled[columns])
    with pytest.raises(NotFoundError, match=r"(?s)unlabelled.*expected one of:.*labelled"):
        results.metrics(dataset="unlabelled")


@pytest.mark.parametrize("dataset", ["train", "validation"])
def test_a_participant_that_a_model_has_seen_is_refused(study: Study, finished, dataset: str):
    results, test = finished
    seen = nc.read_table(results.folder / "fold-1" / f"{dataset}.tsv").iloc[:1]
    with pytest.raises(LeakError, match=seen["participant_id"].iloc[0]):
        results.predict(study.caps, pd.concat([test, seen]), name="leaky")
    assert not list(results.folder.rglob("leaky*"))


def test_a_participant_that_the_source_has_seen_is_refused(study: Study, tmp_path: Path):
    labels = study.labels
    first = nc.Split(0, labels.iloc[:6], labels.iloc[6:8])
    second = nc.Split(0, labels.iloc[8:12], labels.iloc[12:14])
    common = {"parts": PARTS["roi"], "architecture": "Conv3_FC1", "trainer": TRAINER, "caps": study.caps}
    nc.Experiment(splits=[first], task=TASKS["reconstruction"], **common).run(tmp_path / "source")
    results = nc.Experiment(
        splits=[second], task=TASKS["classification"], transfer_from=tmp_path / "source", **common
    ).run(tmp_path / "target")
    with pytest.raises(LeakError, match="source_train"):
        results.predict(study.caps, labels.iloc[[0, 14, 15]], name="test")
    results.predict(study.caps, labels.iloc[[14, 15]], name="test")


def test_the_loaded_model_is_the_best_model_of_the_selection(finished):
    results, _ = finished
    for selection in ("best_loss", "best_balanced_accuracy"):
        path = results.folder / "fold-0" / "models" / selection / "model_best.pth.tar"
        written = torch.load(path, weights_only=True)["model"]
        model = results.load_model(0, selection)
        assert not model.training
        assert all(torch.equal(tensor, written[name]) for name, tensor in model.state_dict().items())


@pytest.mark.cpu
def test_codes_of_an_autoencoder_are_the_outputs_of_its_encoder(study: Study, tmp_path: Path):
    results = experiment(study, task="reconstruction").run(tmp_path, splits=[0])
    codes = results.encode(study.caps, study.labels.iloc[:3])
    model = results.load_model(0)
    dataset = nc.CapsDataset(study.caps, study.labels.iloc[:3], PARTS["roi"])
    with torch.no_grad():
        code, _ = model(torch.stack([dataset[i]["image"] for i in range(len(dataset))]))
    assert list(codes["part_id"]) == [0, 1] * 3
    columns = [name for name in codes if name.startswith("code")]
    np.testing.assert_allclose(codes[columns].to_numpy(dtype=float), code.flatten(1).numpy(), atol=1e-5)


def test_the_history_equals_the_written_tables_of_all_splits(finished):
    results, _ = finished
    history = results.history()
    for split in (0, 1):
        own = history[history["split"] == split].drop(columns="split").reset_index(drop=True)
        # The file is read as text first, because numbers that pandas parses may differ in the last digit.
        written = pd.read_csv(results.folder / f"fold-{split}" / "training.tsv", sep="\t", dtype=str)
        written = written.astype(own.dtypes.to_dict())
        pd.testing.assert_frame_equal(own, written, check_exact=True)


def test_the_summary_has_a_row_per_split_and_their_mean(finished):
    results, _ = finished
    summary = results.summary()
    assert list(summary.index) == [0, 1, "mean ± std", "95 % interval", "chance"]
    metrics = results.metrics("image")["balanced_accuracy"]
    assert summary.loc["mean ± std", "image balanced_accuracy"] == (
        f"{metrics['mean']:.3f} ± {metrics['std']:.3f}"
    )
    assert list(summary["train participants"][:2]) == [6, 6]
    assert list(summary["epochs"][:2]) == [1, 1]
    assert "<table" in results._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"level": "patch"}, "one of 'roi', 'image'"),
        ({"selection": "best_accuracy"}, "best_balanced_accuracy"),
        ({"dataset": "tset"}, "expected one of: "),
    ],
)
def test_the_error_about_missing_tables_lists_existing_tables(finished, arguments: dict, words: str):
    results, _ = finished
    with pytest.raises(nc.NeurocnnError, match=words):
        results.metrics(**arguments)


def test_a_folder_without_results_is_refused(tmp_path: Path):
    with pytest.raises(NotFoundError, match="not a result folder"):
        nc.Results(tmp_path)


def test_a_path_inside_a_folder_is_refused_with_the_folder_that_was_meant(finished, tmp_path: Path):
    results, _ = finished
    for inside in (results.folder / "fold-0", results.folder / "commandline.json"):
        with pytest.raises(NotFoundError, match=rf"expected the result folder; pass {results.folder}$"):
            nc.Results(inside)
    maps = tmp_path / "maps.json"
    maps.write_text("{}")
    for path in (tmp_path, maps):
        with pytest.raises(
            NotFoundError, match=rf"; {tmp_path} is a MAPS folder of ClinicaDL; use transfer_from"
        ):
            nc.Results(path)


def test_each_of_several_networks_is_loaded_by_its_part_id(study: Study, tmp_path: Path):
    results = experiment(study, multi=True).run(tmp_path, splits=[0])
    with pytest.raises(SettingError, match="network="):
        results.load_model(0)
    assert isinstance(results.load_model(0, network=1), torch.nn.Module)


class Wrapped(torch.nn.Module):
    """Network whose weights have names that look like those of other programs."""

    def __init__(self, shape, n_outputs):
        super().__init__()
        self.module = torch.nn.Module()
        self.module.features = torch.nn.Conv3d(1, 2, 3)
        self.module.classifier = torch.nn.Linear(
            2 * int(np.prod([size - 2 for size in shape[1:]])), n_outputs
        )

    def forward(self, images):
        return self.module.classifier(self.module.features(images).flatten(1))


def test_a_custom_network_keeps_the_names_of_its_weights(study: Study, tmp_path: Path):
    results = experiment(study, architecture=Wrapped).run(tmp_path, splits=[0])
    path = tmp_path / "fold-0/models/best_loss/model_best.pth.tar"
    written = torch.load(path, weights_only=True)["model"]
    state = results.load_model(0, "best_loss").state_dict()
    assert list(state) == list(written)
    assert all(torch.equal(state[name], tensor) for name, tensor in written.items())
    other = nc.Results(tmp_path, architecture="Conv3_FC1")
    with pytest.raises(nc.NeurocnnError, match="does not fit the architecture"):
        other.load_model(0, "best_loss")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(nc.NeurocnnError, match=r"model_best\.pth\.tar: .*damaged"):
        results.load_model(0, "best_loss")


def test_tables_of_a_custom_task_are_read_without_its_code(study: Study, tmp_path: Path):
    task = dataclasses.replace(TASKS["classification"], loss=lambda output, target: output.pow(2).sum(1))
    run = nc.Experiment(study.caps, study.splits, PARTS["roi"], task, "Conv3_FC1", TRAINER)
    assert "splits [0] done" in repr(run.run(tmp_path, splits=[0]))
    results, with_code = nc.Results(tmp_path), nc.Results(tmp_path, task=task)
    assert "splits [0] done" in repr(results)
    pd.testing.assert_frame_equal(results.metrics(), with_code.metrics())
    pd.testing.assert_frame_equal(results.predictions("part"), with_code.predictions("part"))
    assert results.summary().equals(with_code.summary())
    with pytest.raises(SettingError, match="task=…"):
        results.load_model(split=0)


def test_a_task_with_a_custom_name_has_a_summary(study: Study, tmp_path: Path):
    task = dataclasses.replace(TASKS["classification"], name="screening", selection=("loss", "accuracy"))
    run = nc.Experiment(study.caps, study.splits, PARTS["image"], task, "Conv3_FC1", TRAINER)
    results = run.run(tmp_path, splits=[0])
    assert results.selections == ["best_loss", "best_accuracy"]
    assert "image balanced_accuracy" in results.summary()


def test_unfinished_results_are_displayed_as_unfinished(study: Study, tmp_path: Path):
    def fail(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment(study).run(tmp_path, callbacks=[fail])
    results = nc.Results(tmp_path)
    assert results.splits == []
    assert "No split is done yet" in results._repr_html_()
    assert len(results.history()) == 1
    people = study.labels.iloc[:2]
    for question in (
        results.metrics,
        results.predictions,
        results.summary,
        results.part_map,
        lambda: results.predict(study.caps, people, name="test"),
        lambda: results.encode(study.caps, people),
    ):
        with pytest.raises(NotFoundError, match="no split is done yet"):
            question()


def test_a_single_split_has_a_mean_and_no_deviation(study: Study, tmp_path: Path):
    results = experiment(study, "image").run(tmp_path, splits=[0])
    value = results.metrics().loc[0, "balanced_accuracy"]
    assert results.summary().loc["mean ± std", "image balanced_accuracy"] == f"{value:.3f}"


def test_unlabelled_predictions_get_metrics_if_the_data_are_predicted_again_with_labels(
    study: Study, finished
):
    results, test = finished
    first = results.predict(study.caps, test.assign(diagnosis=None), name="later")
    again = results.predict(study.caps, test, name="later")
    assert results.metrics(dataset="later").shape[0] == 5
    labels = ["true_label", "true_class"]
    pd.testing.assert_frame_equal(again.drop(columns=labels), first.drop(columns=labels))
    other = test.assign(diagnosis=test["diagnosis"].map({"AD": "CN", "CN": "AD"}))
    with pytest.raises(SettingError, match="labels have changed"):
        results.predict(study.caps, other, name="later")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="participant_id"), "participant_id"),
        (lambda table: table.drop(columns="session_id"), "session_id"),
        (lambda table: table.assign(diagnosis="MCI"), "expected one of CN, AD"),
        (lambda table: table.assign(diagnosis=["AD", *[None] * (len(table) - 1)]), "is missing in"),
        (lambda table: pd.concat([table, table]), "are both"),
        (lambda table: table.iloc[:0], "no rows"),
        (lambda table: "test.tsv", "sessions='test.tsv'; expected a table"),
    ],
)
def test_sessions_that_cannot_be_predicted_are_refused_and_no_file_is_written(
    study: Study, finished, change, words
):
    results, test = finished
    with pytest.raises(nc.NeurocnnError, match=words):
        results.predict(study.caps, change(test), name="refused")
    assert not list(results.folder.rglob("refused*"))


def test_images_of_another_shape_are_refused(finished, tmp_path: Path):
    results, _ = finished
    labels = nc.make_caps(tmp_path / "caps", n_participants=17, preprocessing="t1-volume", shape=(20, 22, 20))
    with pytest.raises(SettingError, match=r"\(20, 22, 20\); expected \(18, 20, 18\)"):
        results.predict(nc.Caps(tmp_path / "caps", "t1-volume"), labels.iloc[16:], name="large")


def test_reconstructions_of_other_people_need_another_name_of_the_data_set(study: Study, tmp_path: Path):
    split = nc.Split(0, study.labels.iloc[:6], study.labels.iloc[6:8])
    run = nc.Experiment(
        study.caps, [split], PARTS["roi"], TASKS["reconstruction"], "Conv3_FC1", TRAINER, multi=True
    )
    results = run.run(tmp_path)
    first = results.predict(study.caps, study.labels.iloc[8:12], name="test")
    pd.testing.assert_frame_equal(results.predict(study.caps, study.labels.iloc[8:12], name="test"), first)
    with pytest.raises(SettingError, match="another name"):
        results.predict(study.caps, study.labels.iloc[12:13], name="test")
    with pytest.raises(SettingError, match="no predictions"):
        results.predictions()
    codes = results.encode(study.caps, study.labels.iloc[8:12])
    assert list(codes["part_id"]) == [0, 1] * 4
    assert list(codes["participant_id"][::2]) == list(study.labels["participant_id"].iloc[8:12])


def test_predictions_of_a_regression_are_read_as_they_were_computed(study: Study, tmp_path: Path):
    results = experiment(study, "patch", "regression").run(tmp_path, splits=[0])
    parts, image = results.predictions("part"), results.predictions("image")
    mean = parts.groupby("participant_id", sort=False)["predicted_label"].mean()
    np.testing.assert_allclose(image["predicted_label"], mean[image["participant_id"]], atol=1e-9)
    error = (image["true_label"] - image["predicted_label"]).abs().mean()
    assert results.metrics().loc[0, "mae"] == pytest.approx(error, abs=1e-9)
    assert results.summary().loc[0, "image mae"] == f"{error:.3f}"


def test_the_part_map_contains_the_mean_accuracy_of_each_part(study: Study, finished):
    results, _ = finished
    tables = [
        pd.read_csv(path, sep="\t").set_index("part_id")["balanced_accuracy"]
        for path in results.folder.glob("fold-*/*/best_balanced_accuracy/part_balanced_accuracy.tsv")
    ]
    painted = results.part_map()
    assert painted[10, 7, 6] == pytest.approx((tables[0][0] + tables[1][0]) / 2, abs=1e-12)
    assert painted[2, 7, 6] == pytest.approx((tables[0][1] + tables[1][1]) / 2, abs=1e-12)
    assert np.isnan(painted[0, 0, 0])


def test_the_folder_of_another_program_is_refused(tmp_path: Path):
    (tmp_path / "commandline.json").write_text('{"network_type": "cnn", "mode": "roi"}')
    with pytest.raises(SettingError, match="not written by neurocnn"):
        nc.Results(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("table", "content"),
    [
        ("validation_image_level_metrics.tsv", ""),
        ("validation_image_level_metrics.tsv", "accuracy\nhigh\n"),
        ("validation_image_level_metrics.tsv", "accuracy\n0.5\n0.6\n"),
        ("validation_image_level_prediction.tsv", "participant_id\tsession_id\nsub-1\tses-1\n"),
        (
            "validation_image_level_prediction.tsv",
            "participant_id\tsession_id\tpredicted_label\nsub-1\tses-1\tAD\n",
        ),
        ("training.tsv", "epoch\titeration\n0\t1\n"),
        ("training.tsv", "epoch\titeration\ttime\nfirst\t1\t1\n"),
        ("part_balanced_accuracy.tsv", "part_id\tbalanced_accuracy\n0\tgood\n"),
    ],
)
def test_an_error_names_a_table_with_invalid_content(finished, table, content, tmp_path):
    shutil.copytree(finished[0].folder, tmp_path / "results")
    results = nc.Results(tmp_path / "results")
    path = next(results.folder.glob(f"fold-1/**/best_balanced_accuracy/{table}"), None)
    path = path or results.folder / "fold-1" / table
    path.write_text(content)
    with pytest.raises(nc.TableError, match=f"fold-1.*{table}"):
        for read in (results.metrics, results.predictions, results.summary, results.part_map):
            read()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", {"type": "Trainer"}),
        ("parts", {"type": "Trainer"}),
        ("trainer", {"type": "Patch", "size": 3}),
        ("trainer", {"type": "Trainer", "batch_size": "many", "n_workers": 0, "precision": "float32"}),
        ("options", "x"),
        ("multi", 3),
        ("input_shape", None),
        ("image_shape", [5]),
        ("selection_threshold", "x"),
        ("selection_threshold", None),
    ],
)
def test_an_error_names_a_setting_of_a_wrong_type(finished, tmp_path, name, value):
    settings = json.loads((finished[0].folder / "commandline.json").read_text())
    settings[name] = value
    if value is None:
        del settings[name]
    path = tmp_path / "commandline.json"
    path.write_text(json.dumps(settings))
    for action in (nc.Results, nc.Experiment.load):
        with pytest.raises(SettingError, match=f"{path}.*{name if isinstance(value, str) else ''}"):
            action(tmp_path)


@pytest.mark.faults
def test_new_images_at_another_position_cause_a_warning(study: Study, finished, tmp_path: Path, caplog):
    results, test = finished
    shutil.copytree(study.caps.root, tmp_path / "caps")
    caps = nc.Caps(tmp_path / "caps", study.caps.preprocessing)
    participant, session = test[["participant_id", "session_id"]].iloc[0]
    results.predict(caps, test, name="same_position")
    assert not caplog.messages
    for row in test.itertuples():
        path = caps.path(row.participant_id, row.session_id)
        image = nib.load(path)
        moved = image.affine + np.array([[0, 0, 0, 100], *np.zeros((3, 4))])
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), path)
    results.predict(nc.Caps(tmp_path / "caps", study.caps.preprocessing), test, name="moved")
    message = next(line for line in caplog.messages if "the first training image" in line)
    assert participant in message
    assert session in message
    assert "100.0 mm" in message

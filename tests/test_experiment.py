"""An experiment leaves the very tree that the documents promise, whatever way it was run."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from studies import PARTS, SHAPE, TASKS, TRAINER, Study, experiment

import neurocnn as nc
from neurocnn.errors import LeakError, SettingError

N_PARTS = {"image": 1, "patch": 8, "roi": 2, "slice": 4}
TABLES = {
    "classification": "cnn_classification",
    "regression": "cnn_regression",
    "reconstruction": "autoencoder_reconstruction",
}


def _tree(folder: Path) -> set[str]:
    """The files below a folder; the event files' names end in a time and a host."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {re.sub(r"(events\.out\.tfevents)\..*", r"\1", name) for name in names}


def _expected_tree(parts: str, task: str, multi: bool) -> set[str]:
    """What section 7 of the reference shows for one fold of two."""
    selections = ["best_loss", "best_balanced_accuracy"] if task == "classification" else ["best_loss"]
    networks = [f"cnn-{j}/" for j in _ids(parts)] if multi else [""]
    files = {"commandline.json", "environment.txt"}
    files |= {f"fold-{k}/{name}.tsv" for k in (0, 1) for name in ("train", "validation")}
    files |= {"fold-0/seen.tsv", "fold-0/training.tsv"}
    files |= {f"fold-0/models/{j}training.tsv" for j in networks if multi}
    for j in networks:
        files |= {f"fold-0/models/{j}{name}/model_best.pth.tar" for name in selections}
        sets = ("train", "validation")
        files |= {f"fold-0/tensorboard_logs/{j}{name}/events.out.tfevents" for name in sets}
    levels = {parts, "image"} if task != "reconstruction" else {parts}
    contents = ("metrics", "prediction") if task != "reconstruction" else ("metrics",)
    files |= {
        f"fold-0/{TABLES[task]}/{selection}/{name}_{level}_level_{content}.tsv"
        for selection in selections
        for name in ("train", "validation")
        for level in levels
        for content in contents
    }
    if task == "classification" and parts != "image":
        files |= {
            f"fold-0/cnn_classification/{selection}/part_balanced_accuracy.{suffix}"
            for selection in selections
            for suffix in ("tsv", "nii.gz")
        }
    return files


def _ids(parts: str) -> list[int]:
    return PARTS[parts].ids(SHAPE)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("multi", [False, True])
def test_every_combination_leaves_exactly_the_tree_of_the_documents(
    study: Study, tmp_path: Path, parts: str, task: str, multi: bool
):
    assert len(_ids(parts)) == N_PARTS[parts]
    if multi and parts == "image":
        with pytest.raises(SettingError, match="multi=True"):
            experiment(study, parts, task, multi=True)
        return
    experiment(study, parts, task, multi=multi).run(tmp_path / "results", splits=[0])
    assert _tree(tmp_path / "results") == _expected_tree(parts, task, multi)


def test_tables_have_the_columns_of_the_documents(study: Study, tmp_path: Path):
    experiment(study).run(tmp_path, splits=[0])
    folder = tmp_path / "fold-0" / "cnn_classification" / "best_loss"
    image = ["participant_id", "session_id", "true_label", "predicted_label", "proba0", "proba1"]
    part = [*image[:2], "part_id", *image[2:]]
    assert list(pd.read_csv(folder / "validation_roi_level_prediction.tsv", sep="\t")) == part
    assert list(pd.read_csv(folder / "validation_image_level_prediction.tsv", sep="\t")) == image
    metrics = set(pd.read_csv(folder / "validation_image_level_metrics.tsv", sep="\t"))
    assert metrics >= {"accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "roc_auc"}
    assert metrics >= {"balanced_accuracy_low", "balanced_accuracy_high"}
    part_metrics = set(pd.read_csv(folder / "validation_roi_level_metrics.tsv", sep="\t"))
    assert "loss" in part_metrics


def test_every_part_of_every_image_stands_in_the_tables_once(study: Study, tmp_path: Path):
    results = experiment(study, "patch", multi=True).run(tmp_path, splits=[0])
    for dataset in ("train", "validation"):
        table = results.predictions("part", "best_loss", dataset)
        sessions = getattr(study.splits[0], dataset)
        expected = [(name, part) for name in sessions["participant_id"] for part in range(8)]
        assert list(zip(table["participant_id"], table["part_id"], strict=True)) == expected


def test_the_settings_rebuild_theexperiment(study: Study, tmp_path: Path):
    first = experiment(study, "patch", options={"dropout": 0.25}, selection_threshold=0.4)
    first.run(tmp_path, splits=[0])
    again = nc.Experiment.load(tmp_path)
    assert again.parts == first.parts
    assert again.trainer == first.trainer
    assert again.options == first.options
    assert again.selection_threshold == 0.4
    assert [list(split.validation["participant_id"]) for split in again.splits] == [
        list(split.validation["participant_id"]) for split in study.splits
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tsv")}
    again.run(tmp_path, splits=[0])
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_builder_is_recorded_as_custom_and_asked_for_by_name(study: Study, tmp_path: Path):
    def build(input_shape, n_outputs, **options):
        features = int(np.prod(input_shape))
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(features, n_outputs))

    results = experiment(study, architecture=build).run(tmp_path, splits=[0])
    assert isinstance(results.load_model(0), torch.nn.Sequential)
    assert "custom" in json.loads((tmp_path / "commandline.json").read_text())["architecture"]
    with pytest.raises(SettingError, match="architecture=…"):
        nc.Results(tmp_path).load_model(0)
    with pytest.raises(SettingError, match="architecture=…"):
        nc.Experiment.load(tmp_path)
    assert nc.Experiment.load(tmp_path, architecture=build).architecture is build
    assert nc.Results(tmp_path).metrics("image").shape[0] == 3


def test_running_again_with_other_settings_says_what_differs_and_touches_nothing(
    study: Study, tmp_path: Path
):
    experiment(study).run(tmp_path, splits=[0])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tsv")}
    other = nc.Trainer(epochs=1, batch_size=2, learning_rate=1e-3)
    with pytest.raises(SettingError, match=r"trainer\.batch_size: 4 → 2"):
        experiment(study, trainer=other).run(tmp_path)
    with pytest.raises(SettingError, match="parts"):
        experiment(study, "patch").run(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_running_again_with_other_splits_is_refused(study: Study, tmp_path: Path):
    experiment(study).run(tmp_path, splits=[0])
    swapped = [
        nc.Split(split.index, other.train, other.validation)
        for split, other in zip(study.splits, reversed(study.splits), strict=True)
    ]
    run = nc.Experiment(study.caps, swapped, PARTS["roi"], TASKS["classification"], "Conv3_FC1", TRAINER)
    with pytest.raises(SettingError, match="other sessions"):
        run.run(tmp_path)


def test_a_folder_with_other_files_is_refused(study: Study, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingError, match="not empty"):
        experiment(study).run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_job_array_leaves_the_same_tables_byte_for_byte(study: Study, tmp_path: Path):
    run = experiment(study, "roi", multi=True)
    run.run(tmp_path / "one")
    for split, network in ((1, 1), (0, 0), (0, 1), (1, 0)):
        run.run(tmp_path / "array", splits=[split], networks=[network])
    assert _tree(tmp_path / "one") == _tree(tmp_path / "array")
    for path in (tmp_path / "one").rglob("*.tsv"):
        other = tmp_path / "array" / path.relative_to(tmp_path / "one")
        if path.name == "training.tsv":
            tables = [pd.read_csv(name, sep="\t").drop(columns="time") for name in (path, other)]
            pd.testing.assert_frame_equal(*tables, check_exact=True)
        else:
            assert path.read_bytes() == other.read_bytes(), path


def test_how_many_networks_are_in_memory_changes_no_number(study: Study, tmp_path: Path):
    for number in (1, 3):
        experiment(study, "slice", multi=True, networks_at_once=number).run(
            tmp_path / str(number), splits=[0]
        )
    for path in (tmp_path / "1").rglob("*_prediction.tsv"):
        assert path.read_bytes() == (tmp_path / "3" / path.relative_to(tmp_path / "1")).read_bytes()


def test_each_network_of_several_ends_as_if_trained_alone(study: Study, tmp_path: Path):
    trainer = nc.Trainer(epochs=2, batch_size=4, learning_rate=1e-3, seed=5)
    options = {"dropout": 0.5}
    results = experiment(study, "roi", multi=True, trainer=trainer, options=options).run(tmp_path, splits=[0])
    split, task = study.splits[0], TASKS["classification"]
    sets = [
        nc.CapsDataset(study.caps, sessions, PARTS["roi"], task.label)
        for sessions in (split.train, split.validation)
    ]
    for part in (0, 1):
        torch.manual_seed(5)
        model = nc.create_model("Conv3_FC1", sets[0].input_shape, n_outputs=2, **options)
        training = trainer.fit(model, task, *(dataset.only_part(part) for dataset in sets))
        for selection in ("best_loss", "best_balanced_accuracy"):
            multi = results.load_model(0, selection, part).state_dict()
            for name, tensor in training.best[selection].items():
                assert torch.equal(tensor.cpu(), multi[name]), (part, selection, name)


def test_the_accuracy_of_each_part_is_painted_where_the_part_lies(study: Study, tmp_path: Path):
    experiment(study, "patch").run(tmp_path, splits=[0])
    folder = tmp_path / "fold-0" / "cnn_classification" / "best_loss"
    table = pd.read_csv(folder / "part_balanced_accuracy.tsv", sep="\t").set_index("part_id")
    painted = nib.load(folder / "part_balanced_accuracy.nii.gz")
    volume = painted.get_fdata()
    # 2 × 2 × 2 patches of 9 in 18 × 20 × 18: the last two coronal planes belong to none
    for part, corner in enumerate(np.ndindex(2, 2, 2)):
        block = volume[tuple(slice(9 * i, 9 * i + 9) for i in corner)]
        assert np.all(block == np.float32(table.loc[part, "balanced_accuracy"]))
    assert not volume[:, 18:].any()
    first = study.labels.iloc[0]
    np.testing.assert_allclose(
        painted.affine, study.caps.affine(first["participant_id"], first["session_id"]), atol=1e-6
    )


def test_part_accuracies_come_from_the_validation_table(study: Study, tmp_path: Path):
    sklearn = pytest.importorskip("sklearn.metrics")
    results = experiment(study, "patch").run(tmp_path, splits=[0])
    for selection in ("best_loss", "best_balanced_accuracy"):
        table = results.predictions("part", selection, "validation")
        folder = tmp_path / "fold-0" / "cnn_classification" / selection
        written = pd.read_csv(folder / "part_balanced_accuracy.tsv", sep="\t").set_index("part_id")
        for part, rows in table.groupby("part_id"):
            expected = sklearn.balanced_accuracy_score(rows["true_label"], rows["predicted_label"])
            assert written.loc[part, "balanced_accuracy"] == pytest.approx(expected, abs=1e-12)
        total = written["balanced_accuracy"].sum()
        np.testing.assert_allclose(written["weight"], written["balanced_accuracy"] / total, atol=1e-12)


def test_image_level_is_the_vote_of_the_parts_with_validation_weights(study: Study, tmp_path: Path):
    results = experiment(study, "patch").run(tmp_path, splits=[0])
    weights = pd.read_csv(
        tmp_path / "fold-0/cnn_classification/best_loss/part_balanced_accuracy.tsv", sep="\t"
    ).set_index("part_id")["weight"]
    for dataset in ("train", "validation"):
        parts = results.predictions("part", "best_loss", dataset)
        image = results.predictions("image", "best_loss", dataset).set_index("participant_id")
        for name, rows in parts.groupby("participant_id"):
            expected = sum(weights[part] * p for part, p in zip(rows["part_id"], rows["proba1"], strict=True))
            assert image.loc[name, "proba1"] == pytest.approx(expected, abs=1e-9)


def test_reconstructions_lie_where_their_parts_were_cut(study: Study, tmp_path: Path):
    experiment(study, "roi", "reconstruction", reconstructions=True).run(tmp_path, splits=[0])
    folder = tmp_path / "fold-0" / "autoencoder_reconstruction"
    who = study.splits[0].validation.iloc[0]
    volume = study.caps.read(who["participant_id"], who["session_id"])[0].numpy()
    affine = study.caps.affine(who["participant_id"], who["session_id"])
    for k, start in enumerate([(9, 6, 5), (1, 6, 5)]):
        written = nib.load(folder / "validation" / f"input-{k}.nii.gz")
        crop = volume[tuple(slice(i, i + 8) for i in start)]
        crop = (crop - crop.min()) / (crop.max() - crop.min())
        np.testing.assert_allclose(written.get_fdata(), crop, atol=1e-6)
        np.testing.assert_allclose(written.affine @ [0, 0, 0, 1], affine @ [*start, 1], atol=1e-4)
        output = nib.load(folder / "validation" / f"output-{k}.nii.gz")
        assert output.shape == (8, 8, 8)
    assert len(list(folder.glob("train/*.nii.gz"))) == 4
    assert len(list(folder.glob("*/*.tsv"))) == 2


def test_a_lock_refuses_a_second_run_of_the_same_split(study: Study, tmp_path: Path):
    from neurocnn.errors import InUseError
    from neurocnn.files import hold

    run = experiment(study)
    run.run(tmp_path, splits=[1])
    with hold(tmp_path / "fold-0" / "state" / "fold.lock", "split 0"), pytest.raises(InUseError, match="pid"):
        run.run(tmp_path)
    run.run(tmp_path)
    assert not (tmp_path / "fold-0" / "state").exists()


def test_images_that_are_missing_are_all_named_before_anything_is_written(study: Study, tmp_path: Path):
    shutil.copytree(study.caps.root, tmp_path / "caps")
    lost = list(study.splits[1].validation["participant_id"][:2])
    for name in lost:
        shutil.rmtree(tmp_path / "caps" / "subjects" / name)
    caps = nc.Caps(tmp_path / "caps", "t1-volume")
    run = nc.Experiment(caps, study.splits, PARTS["roi"], TASKS["classification"], "Conv3_FC1", TRAINER)
    with pytest.raises(FileNotFoundError, match=f"(?s){lost[0]}.*{lost[1]}"):
        run.run(tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_source_that_trained_on_a_validation_participant_is_refused(study: Study, tmp_path: Path):
    experiment(study, task="reconstruction").run(tmp_path / "autoencoder")
    swapped = [nc.Split(split.index, split.validation, split.train) for split in study.splits]
    run = nc.Experiment(
        study.caps,
        swapped,
        PARTS["roi"],
        TASKS["classification"],
        "Conv3_FC1",
        TRAINER,
        transfer_from=tmp_path / "autoencoder",
    )
    with pytest.raises(LeakError, match=study.splits[0].train["participant_id"].iloc[0]):
        run.run(tmp_path / "cnn")
    assert not (tmp_path / "cnn").exists()

"""A result folder has the documented content, however the experiment was run."""

import dataclasses
import importlib.metadata
import json
import platform
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
from neurocnn.engine.attribution import randomized_networks
from neurocnn.errors import ImageError, LeakError, NotFoundError, SettingError


def _tree(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, without the time and host in names of event files."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {re.sub(r"(events\.out\.tfevents)\..*", r"\1", name) for name in names}


def test_the_environment_names_python_the_platform_and_every_package(study: Study, tmp_path: Path):
    experiment(study, "image").run(tmp_path, splits=[0])
    lines = (tmp_path / "environment.txt").read_text().splitlines()
    assert lines[0].startswith(f"Python {platform.python_version()}")
    assert platform.platform() in lines[1]
    installed = {item.metadata["Name"]: item.version for item in importlib.metadata.distributions()}
    assert {f"{name}=={version}" for name, version in installed.items()} <= set(lines)


def test_a_run_seeds_no_gpu(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The random states of GPUs belong to the caller, and cannot be restored without using the GPUs."""
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, lambda seed: pytest.fail("a GPU is seeded"))
    trainer = nc.Trainer(epochs=1, batch_size=4, device="cpu")
    experiment(study, trainer=trainer).run(tmp_path, splits=[0])
    assert len(list(randomized_networks(torch.nn.Linear(2, 2)))) == 1


def test_every_part_of_every_image_is_in_the_tables_once(study: Study, tmp_path: Path):
    results = experiment(study, "patch", multi=True).run(tmp_path, splits=[0])
    for dataset in ("train", "validation"):
        table = results.predictions("part", "best_loss", dataset)
        sessions = getattr(study.splits[0], dataset)
        expected = [(name, part) for name in sessions["participant_id"] for part in range(8)]
        assert list(zip(table["participant_id"], table["part_id"], strict=True)) == expected


def test_an_experiment_can_be_rebuilt_from_its_settings(study: Study, tmp_path: Path):
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


def test_a_builder_is_recorded_as_custom_and_an_error_names_the_setting_to_pass(study: Study, tmp_path: Path):
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


def test_an_error_names_other_settings_of_a_second_run_and_nothing_changes(study: Study, tmp_path: Path):
    experiment(study).run(tmp_path, splits=[0])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tsv")}
    other = nc.Trainer(epochs=1, batch_size=2, learning_rate=1e-3)
    with pytest.raises(SettingError, match=r"trainer\.batch_size: 4 → 2"):
        experiment(study, trainer=other).run(tmp_path)
    with pytest.raises(SettingError, match="parts"):
        experiment(study, "patch").run(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_was_stopped_accepts_more_epochs(study: Study, tmp_path: Path):
    longer = dataclasses.replace(TRAINER, epochs=2)
    run, more = experiment(study), experiment(study, trainer=longer)
    with pytest.raises(KeyboardInterrupt):
        run.run(tmp_path / "begun", splits=[0], callbacks=[_interrupt])
    results = more.run(tmp_path / "begun", splits=[0])
    assert list(results.history()["epoch"]) == [0, 1]
    assert nc.Experiment.load(tmp_path / "begun").trainer.epochs == 2


def test_splits_that_are_not_finished_use_the_larger_number_of_epochs(study: Study, tmp_path: Path):
    more = experiment(study, trainer=dataclasses.replace(TRAINER, epochs=2))
    experiment(study).run(tmp_path, splits=[0])
    finished = (tmp_path / "fold-0/training.tsv").read_bytes()
    history = more.run(tmp_path).history()
    assert history.groupby("split")["epoch"].max().to_dict() == {0: 0, 1: 1}
    assert (tmp_path / "fold-0/training.tsv").read_bytes() == finished
    longer = experiment(study, trainer=dataclasses.replace(TRAINER, epochs=3))
    with pytest.raises(
        SettingError, match=r"all splits were trained with epochs=2 and are finished.*transfer_from="
    ):
        longer.run(tmp_path)


def test_an_error_names_corrected_labels_and_replaced_images(study: Study, tmp_path: Path):
    experiment(study).run(tmp_path, splits=[0])
    split = study.splits[0]
    other = split.validation.assign(diagnosis=split.validation["diagnosis"].map({"AD": "CN", "CN": "AD"}))
    changed = [nc.Split(0, split.train, other), *study.splits[1:]]
    run = nc.Experiment(study.caps, changed, PARTS["roi"], TASKS["classification"], "Conv3_FC1", TRAINER)
    name = f"{other.participant_id[0]} {other.session_id[0]}: diagnosis="
    with pytest.raises(SettingError, match=name):
        run.run(tmp_path)
    path = tmp_path / "fold-0/images.tsv"
    written = path.read_text()
    images = nc.read_table(path, required=("fingerprint",))
    path.write_text("\n".join(written.split("\n")[:5]) + "\n")
    with pytest.raises(SettingError, match=r"images.tsv: \d+ sessions of train.tsv are missing"):
        experiment(study).run(tmp_path)
    assert len(path.read_text().split("\n")) == 6
    nc.write_table(images.assign(fingerprint="0-1"), path)
    with pytest.raises(SettingError, match=f"{len(images)} images have changed.*{images.participant_id[0]}"):
        experiment(study).run(tmp_path)


def test_a_run_that_failed_before_its_first_score_can_be_repeated_with_corrected_settings(
    study: Study, tmp_path: Path
):
    def broken(input_shape, n_outputs):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, n_outputs))

    first = nc.Experiment(study.caps, study.splits, PARTS["roi"], TASKS["classification"], broken, TRAINER)
    with pytest.raises(nc.NeurocnnError):
        first.run(tmp_path)

    def fail(output, target):
        raise RuntimeError("a loss of one's own")

    task = dataclasses.replace(TASKS["classification"], loss=fail)
    second = nc.Experiment(study.caps, study.splits, PARTS["roi"], task, "Conv3_FC1", TRAINER)
    with pytest.raises(RuntimeError, match="of one's own"):
        second.run(tmp_path)
    assert experiment(study).run(tmp_path, splits=[0]).splits == [0]


def test_a_run_that_failed_on_an_image_can_be_repeated_without_that_image(tmp_path: Path):
    labels = nc.make_caps(tmp_path / "caps", n_participants=8, shape=SHAPE)
    caps = nc.Caps(tmp_path / "caps", "t1-linear")
    image = nib.load(caps.path("sub-0007", "ses-M000"))
    voxels = np.full(image.shape, np.nan, dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, image.affine), caps.path("sub-0007", "ses-M000"))

    def run(sessions, splits=None):
        folds = nc.kfold(sessions, n_splits=2, stratify=["diagnosis"], seed=len(sessions))
        settings = {"task": TASKS["classification"], "architecture": "Conv3_FC1", "trainer": TRAINER}
        study = nc.Experiment(caps, folds, nc.Patch(9, 9), **settings)
        return study.run(tmp_path / "results", splits=splits)

    for split in (0, 1):
        with pytest.raises(ImageError, match="sub-0007 ses-M000"):
            run(labels, [split])
    good = labels[labels["participant_id"] != "sub-0007"]
    assert run(good, [1]).splits == [1]
    assert run(good).splits == [0, 1]


def _interrupt(state):
    raise KeyboardInterrupt


def test_a_threshold_that_no_part_exceeds_can_be_lowered_without_training_again(study: Study, tmp_path: Path):
    def build(input_shape, n_outputs):
        network = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(int(np.prod(input_shape)), n_outputs)
        )
        torch.nn.init.zeros_(network[1].weight)
        return network

    still = dataclasses.replace(TRAINER, learning_rate=0.0)
    common = {"architecture": build, "trainer": still}
    # The balanced accuracy is 0.5, because the network predicts the same class for all images.
    results = experiment(study, selection_threshold=0.9, **common).run(tmp_path, splits=[0])
    before = (tmp_path / "fold-0/training.tsv").read_bytes()
    assert results.splits == [0]
    assert results.metrics().loc[0, "n_parts"] == 0
    assert np.isnan(results.metrics().loc[0, "accuracy"])
    assert results.summary().loc[0, "image balanced_accuracy"] == "no part"
    with pytest.raises(NotFoundError, match="no part exceeds"):
        results.predictions()
    assert results.vote(selection_threshold=0.4).loc[0, "n_parts"] == 2
    assert len(results.predictions()) == len(study.splits[0].validation)
    # Another split uses the recorded vote, although the experiment has another threshold.
    again = experiment(study, selection_threshold=0.9, **common).run(tmp_path)
    assert again.metrics().loc[[0, 1], "n_parts"].tolist() == [2, 2]
    assert (tmp_path / "fold-0/training.tsv").read_bytes() == before
    with pytest.raises(SettingError, match="selection_threshold"):
        experiment(study, selection_threshold=0.3, **common).run(tmp_path)


def test_settings_without_effect_on_results_may_differ_on_a_resume(study: Study, tmp_path: Path):
    experiment(study).run(tmp_path, splits=[0])
    caps = nc.Caps(study.caps.root, "t1-volume", cache_bytes=10**6)
    trainer = dataclasses.replace(TRAINER, n_workers=1, checkpoint_seconds=1, rank_seconds=5)
    run = nc.Experiment(caps, study.splits, PARTS["roi"], TASKS["classification"], "Conv3_FC1", trainer)
    assert run.run(tmp_path, splits=[0]).splits == [0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"caps": "caps"}, "caps='caps'; expected an nc.Caps"),
        ({"splits": [pd.DataFrame({"a": [1]})]}, "splits=.*expected a list of nc.Split"),
        ({"splits": []}, "expected a list of nc.Split"),
        ({"parts": nc.Patch}, "parts=.*expected parts such as"),
        ({"task": "classification"}, "task='classification'; expected a task"),
        ({"trainer": {"epochs": 1}}, "trainer=.*expected an nc.Trainer"),
        ({"options": ["dropout"]}, "options=.*expected a dict"),
        (
            {"options": {"n_outputs": 3}},
            "options=.*expected no 'n_outputs', which follows from the other settings",
        ),
        ({"multi": "no"}, "multi='no'; expected True or False"),
        ({"transform": "minmax"}, "transform='minmax'; expected a callable"),
        ({"augmentation": 3}, "augmentation=3; expected a callable"),
        ({"selection_threshold": 2}, "selection_threshold=2; expected a finite number ≥ 0 and ≤ 1"),
        ({"selection_threshold": "a"}, "selection_threshold='a'; expected a finite number"),
        ({"selection_threshold": 0.5, "task": nc.regression()}, "selection_threshold=0.5; expected None"),
        ({"networks_at_once": 0}, "networks_at_once=0"),
        ({"networks_at_once": "2"}, "networks_at_once='2'; expected an integer"),
        ({"reconstructions": True}, "has no reconstructions"),
        ({"transfer_from": 3}, "transfer_from=3"),
    ],
)
def test_an_invalid_setting_is_refused_by_the_constructor(study: Study, settings: dict, words: str):
    common = {
        "caps": study.caps,
        "splits": study.splits,
        "parts": PARTS["roi"],
        "task": TASKS["classification"],
        "architecture": "Conv3_FC1",
    }
    with pytest.raises(SettingError, match=words):
        nc.Experiment(**(common | settings))


def _relabelled(study: Study, labels: pd.DataFrame) -> list[nc.Split]:
    return [
        nc.Split(
            split.index,
            *(
                labels[labels["participant_id"].isin(s["participant_id"])]
                for s in (split.train, split.validation)
            ),
        )
        for split in study.splits
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": "Conv3_FC"}, "did you mean 'Conv3_FC1'"),
        ({"architecture": 3}, "architecture=3; expected a name"),
        ({"options": {"dropuot": 0.5}}, "dropuot"),
        ({"splits": "unknown label"}, "MCI.*expected one of CN, AD"),
        ({"splits": "single class"}, "single class"),
        ({"task": nc.regression("sex")}, "expected a finite number"),
        ({"transfer_from": nc.create_model("Conv3_FC1", (1, 8, 8, 8), n_outputs=3)}, "fc.2.weight"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:transfer from CNN"
)  # a module does not record the participants that it has seen
def test_an_experiment_that_cannot_be_trained_is_refused_before_a_file_is_written(
    study: Study, tmp_path: Path, settings: dict, words: str
):
    splits = study.splits
    if settings.get("splits") == "unknown label":
        splits = _relabelled(study, study.labels.assign(diagnosis=["MCI", *study.labels["diagnosis"][1:]]))
    if settings.get("splits") == "single class":
        splits = _relabelled(study, study.labels.assign(diagnosis="AD"))
    common = {"parts": PARTS["roi"], "task": TASKS["classification"], "architecture": "Conv3_FC1"}
    run = nc.Experiment(study.caps, trainer=TRAINER, **(common | settings | {"splits": splits}))
    with pytest.raises(nc.NeurocnnError, match=words):
        run.run(tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("chosen", [{"splits": 0}, {"splits": "0"}, {"splits": [7]}, {"splits": []}])
def test_missing_splits_are_refused(study: Study, tmp_path: Path, chosen: dict):
    with pytest.raises(SettingError, match="splits="):
        experiment(study).run(tmp_path / "results", **chosen)
    assert not (tmp_path / "results").exists()


class Halves:
    """Custom parts that define how to cut images, but no positions."""

    name = "half"

    def ids(self, shape):
        return [0, 1]

    def extract(self, image, part_id):
        return image[:, 9 * part_id : 9 * part_id + 9].clone()


def test_custom_parts_need_no_positions(study: Study, tmp_path: Path):
    run = nc.Experiment(study.caps, study.splits, Halves(), TASKS["classification"], "Conv3_FC1", TRAINER)
    results = run.run(tmp_path, splits=[0])
    assert results.splits == [0]
    assert len(results.predictions("half")) == 2 * len(results.predictions("image"))
    names = {path.name for path in tmp_path.rglob("part_balanced_accuracy*")}
    assert names == {"part_balanced_accuracy.tsv"}
    with pytest.raises(SettingError, match="place"):
        nc.Experiment(
            study.caps, study.splits, Halves(), TASKS["reconstruction"], "Conv3_FC1", reconstructions=True
        )


def test_reconstructions_without_a_position_are_refused_before_training(study: Study, tmp_path: Path):
    run = experiment(
        study,
        task="reconstruction",
        reconstructions=True,
        transform=lambda part: torch.nn.functional.pad(part, (0, 1)),
    )
    with pytest.raises(SettingError, match="the size of a part in the volume"):
        run.run(tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "change", [{"selection": ("loss", "accuracy")}, {"loss": lambda output, target: output}]
)
def test_a_changed_task_is_recorded_as_custom(change: dict):
    from neurocnn.results.setting_json import is_custom, to_json

    task = TASKS["classification"]
    assert not is_custom(to_json(task))
    assert next(iter(change)) in to_json(dataclasses.replace(task, **change))["custom"]


def test_settings_can_be_loaded_from_another_folder(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(Path(study.caps.root).parent)
    caps = nc.Caps("caps", "t1-volume")
    run = nc.Experiment(caps, study.splits, PARTS["roi"], TASKS["classification"], "Conv3_FC1", TRAINER)
    run.run(tmp_path, splits=[0])
    monkeypatch.chdir(tmp_path)
    assert nc.Experiment.load(tmp_path).run(tmp_path, splits=[0]).splits == [0]


def test_a_task_of_a_job_array_may_start_while_another_creates_the_folder(study: Study, tmp_path: Path):
    (tmp_path / ".commandline.json.4711-abcd").write_text("{")
    assert experiment(study).run(tmp_path, splits=[0]).splits == [0]


def test_checkpoints_of_a_killed_run_are_removed(study: Study, tmp_path: Path):
    experiment(study).run(tmp_path, splits=[0])
    (tmp_path / "fold-0/state").mkdir()
    (tmp_path / "fold-0/state/state-1.pt").write_bytes(b"x")
    experiment(study).run(tmp_path, splits=[0])
    assert not (tmp_path / "fold-0/state").exists()


def test_running_again_with_other_splits_is_refused(study: Study, tmp_path: Path):
    experiment(study).run(tmp_path, splits=[0])
    swapped = [
        nc.Split(split.index, other.train, other.validation)
        for split, other in zip(study.splits, reversed(study.splits), strict=True)
    ]
    run = nc.Experiment(study.caps, swapped, PARTS["roi"], TASKS["classification"], "Conv3_FC1", TRAINER)
    with pytest.raises(SettingError, match="the sessions differ"):
        run.run(tmp_path)


def test_a_folder_with_files_of_another_program_is_refused(study: Study, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingError, match="found other files"):
        experiment(study).run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.cpu
def test_a_job_array_writes_the_tables_of_one_process_byte_for_byte(study: Study, tmp_path: Path):
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


@pytest.mark.cpu
def test_the_number_of_networks_in_memory_does_not_change_results(study: Study, tmp_path: Path):
    for number in (1, 3):
        experiment(study, "slice", multi=True, networks_at_once=number).run(
            tmp_path / str(number), splits=[0]
        )
    for path in (tmp_path / "1").rglob("*_prediction.tsv"):
        assert path.read_bytes() == (tmp_path / "3" / path.relative_to(tmp_path / "1")).read_bytes()


@pytest.mark.cpu
def test_each_of_several_networks_equals_a_network_trained_separately(study: Study, tmp_path: Path):
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


def test_the_accuracy_of_each_part_is_drawn_at_its_position(study: Study, tmp_path: Path):
    experiment(study, "patch").run(tmp_path, splits=[0])
    folder = tmp_path / "fold-0" / "cnn_classification" / "best_loss"
    table = pd.read_csv(folder / "part_balanced_accuracy.tsv", sep="\t").set_index("part_id")
    painted = nib.load(folder / "part_balanced_accuracy.nii.gz")
    volume = painted.get_fdata()
    # In 18 × 20 × 18 voxels there are 2 × 2 × 2 patches of size 9, which do not contain the last two coronal planes.
    for part, corner in enumerate(np.ndindex(2, 2, 2)):
        block = volume[tuple(slice(9 * i, 9 * i + 9) for i in corner)]
        assert np.all(block == np.float32(table.loc[part, "balanced_accuracy"]))
    assert not volume[:, 18:].any()
    first = study.labels.iloc[0]
    np.testing.assert_allclose(
        painted.affine, study.caps.affine(first["participant_id"], first["session_id"]), atol=1e-6
    )


def test_part_accuracies_are_computed_from_the_validation_predictions(study: Study, tmp_path: Path):
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


def test_image_level_predictions_are_the_vote_of_the_parts_with_validation_weights(
    study: Study, tmp_path: Path
):
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


def test_reconstructions_are_at_the_positions_of_their_parts(study: Study, tmp_path: Path):
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
    from neurocnn.storage.locks import hold

    run = experiment(study)
    run.run(tmp_path, splits=[1])
    with hold(tmp_path / "fold-0" / "state" / "fold.lock", "split 0"), pytest.raises(InUseError, match="pid"):
        run.run(tmp_path)
    run.run(tmp_path)
    assert not (tmp_path / "fold-0" / "state").exists()


def test_an_error_names_all_missing_images_before_a_file_is_written(study: Study, tmp_path: Path):
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


def test_one_error_names_missing_images_or_labels_of_all_splits(study: Study, tmp_path: Path):
    lost = study.labels.iloc[:2].assign(participant_id=["sub-8888", "sub-9999"])
    splits = nc.kfold(pd.concat([study.labels, lost], ignore_index=True), n_splits=2, seed=0)
    run = nc.Experiment(study.caps, splits, PARTS["roi"], TASKS["classification"], "Conv3_FC1", TRAINER)
    with pytest.raises(FileNotFoundError, match=r"(?s)sub-8888.*sub-9999"):
        run.run(tmp_path / "results", splits=[0])
    unknown = study.labels.assign(diagnosis=[None, None, *study.labels["diagnosis"][2:]])
    run = nc.Experiment(
        study.caps,
        nc.kfold(unknown, n_splits=2, seed=0),
        PARTS["roi"],
        TASKS["classification"],
        "Conv3_FC1",
        TRAINER,
    )
    first, second = sorted(study.labels["participant_id"][:2])
    with pytest.raises(nc.NeurocnnError, match=f"(?s)2 sessions: .*({first}.*{second}|{second}.*{first})"):
        run.run(tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_resume_warns_that_only_the_name_of_custom_code_is_compared(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = experiment(study, transform=lambda part: part * 2)
    run.run(tmp_path / "results", splits=[0])
    assert "compared only by name" not in caplog.text
    run.run(tmp_path / "results", splits=[0])
    assert "lambda" in caplog.text
    assert "compared only by name" in caplog.text


class Scaled:
    """Transform whose repr contains its argument."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        return part * self.factor

    def __repr__(self) -> str:
        return f"Scaled({self.factor})"


class Composed:
    """Composition of transforms without its own repr, like the composition of MONAI."""

    def __init__(self, *transforms: Scaled) -> None:
        self.transforms = transforms

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        for transform in self.transforms:
            part = transform(part)
        return part


def test_arguments_of_the_members_of_a_composition_are_compared(study: Study, tmp_path: Path):
    experiment(study, transform=Composed(Scaled(1), Scaled(2))).run(tmp_path / "results", splits=[0])
    with pytest.raises(nc.SettingError, match=r"Scaled\(2\).*Scaled\(3\)"):
        experiment(study, transform=Composed(Scaled(1), Scaled(3))).run(tmp_path / "results")


def test_callbacks_receive_split_network_and_folder(study: Study, tmp_path: Path):
    seen = []
    experiment(study, parts="roi", multi=True).run(tmp_path / "results", callbacks=[seen.append])
    assert {(state.split, state.part_id) for state in seen} == {(k, part) for k in (0, 1) for part in (0, 1)}
    assert all(state.folder == tmp_path / f"results/fold-{state.split}" for state in seen)


def test_selection_metrics_are_recorded_and_name_the_folders(study: Study, tmp_path: Path):
    task = nc.classification("diagnosis", selection=["loss", "roc_auc"])
    made = nc.Experiment(study.caps, study.splits, PARTS["image"], task, "Conv3_FC1", TRAINER)
    results = made.run(tmp_path / "results", splits=[0])
    assert (tmp_path / "results/fold-0/models/best_roc_auc/model_best.pth.tar").is_file()
    assert (
        results.metrics(selection="best_roc_auc").loc[0, "roc_auc"]
        >= results.metrics(selection="best_loss").loc[0, "roc_auc"]
    )
    again = nc.Experiment.load(tmp_path / "results")
    assert again.task.selection == ("loss", "roc_auc")
    assert again.run(tmp_path / "results", splits=[0]).splits == [0]

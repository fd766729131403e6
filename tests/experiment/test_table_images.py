"""A study of images whose paths are in a table: training, resume, prediction and explanation of two channels."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from studies import PARTS, SHAPE, TASKS, Study

import neurocnn as nc
from neurocnn.errors import ImageError, SettingError

TRAINER = nc.Trainer(epochs=2, batch_size=4, learning_rate=1e-3)


@pytest.fixture(scope="module")
def paths(study: Study, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the labels with the paths of two images per session, T1 and PET."""
    folder = tmp_path_factory.mktemp("pet")
    pet = nc.make_caps(folder, n_participants=16, preprocessing="t1-volume", shape=SHAPE, seed=8)
    assert pet["participant_id"].tolist() == study.labels["participant_id"].tolist()
    columns = {"t1": study.caps, "pet": nc.Caps(folder, "t1-volume")}
    ids = study.labels[["participant_id", "session_id"]].to_numpy()
    return study.labels.assign(**{name: [caps.path(*who) for who in ids] for name, caps in columns.items()})


def experiment(caps, study: Study, parts: str, task: str = "classification", **settings) -> nc.Experiment:
    splits = nc.kfold(study.labels[:12], n_splits=2, stratify=["diagnosis"])
    settings = {"trainer": TRAINER} | settings
    return nc.Experiment(caps, splits, PARTS[parts], TASKS[task], "Conv3_FC1", **settings)


def tables(folder: Path) -> dict[str, str]:
    """Return the text of each table of a result folder, without the column of durations."""
    found = {}
    for path in sorted(folder.rglob("*.tsv")):
        table = nc.read_table(path, required=()).drop(columns="time", errors="ignore")
        found[path.relative_to(folder).as_posix()] = table.to_csv()
    return found


@pytest.mark.cpu
@pytest.mark.parametrize("parts", ["image", "patch"])
def test_one_column_of_a_table_gives_the_same_tables_as_the_caps(
    paths, study: Study, tmp_path: Path, parts: str
):
    for name, caps in (("caps", study.caps), ("table", nc.Images(paths, ["t1"]))):
        results = experiment(caps, study, parts).run(tmp_path / name)
        results.predict(caps, study.labels[12:], name="test")
    expected = tables(tmp_path / "caps")
    assert len(expected) > 20
    assert tables(tmp_path / "table") == expected
    # Predictions may use the other location of the same images.
    nc.Results(tmp_path / "table").predict(study.caps, study.labels[12:], name="again")


class _Stop(Exception):
    """Raised by a callback in the middle of a training."""


def _stop_in_second_epoch(state: nc.TrainingState) -> None:
    if state.epoch == 1:
        raise _Stop


@pytest.mark.cpu
@pytest.mark.parametrize(
    "parts",
    [*(pytest.param(kind, marks=pytest.mark.on_demand) for kind in ("image", "patch", "slice")), "roi"],
)
def test_a_stopped_training_of_two_channels_resumes_from_its_settings(
    paths, study: Study, tmp_path: Path, parts: str
):
    run = experiment(nc.Images(paths, ("t1", "pet")), study, parts)
    expected = run.run(tmp_path / "whole").predict(run.caps, study.labels[12:], name="test")
    with pytest.raises(_Stop):
        run.run(tmp_path / "stopped", callbacks=[_stop_in_second_epoch])
    results = nc.Experiment.load(tmp_path / "stopped").run(tmp_path / "stopped")
    found = results.predict(results.setting("caps"), study.labels[12:], name="test")
    pd.testing.assert_frame_equal(found, expected)
    assert tables(tmp_path / "stopped") == tables(tmp_path / "whole")
    first = next(iter(results.load_model(0).parameters()))
    assert first.shape[1] == 2  # input channels
    assert len(results.predictions(level="image")) == 12


def test_moved_files_resume_and_replaced_files_are_refused(paths, study: Study, tmp_path: Path):
    run = experiment(nc.Images(paths, ("t1", "pet")), study, "roi")
    run.run(tmp_path / "results", splits=[0])
    moved = paths.copy()
    for name in ("t1", "pet"):
        (tmp_path / name).mkdir()
        moved[name] = [str(shutil.copy(path, tmp_path / name)) for path in paths[name]]
    images = nc.Images(moved[::-1], ("t1", "pet"))
    results = nc.Experiment.load(tmp_path / "results", caps=images).run(tmp_path / "results")
    assert results.splits == [0, 1]
    settings = json.loads((tmp_path / "results/commandline.json").read_text())
    assert settings["caps"]["table"]["columns"]["pet"] == moved["pet"].tolist()[::-1]
    path = moved["pet"][3]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) + 1, image.affine), path)
    with pytest.raises(SettingError, match=f"images have changed.*{moved['participant_id'][3]}"):
        nc.Experiment.load(tmp_path / "results").run(tmp_path / "results")


def test_other_channels_are_refused(paths, study: Study, tmp_path: Path):
    run = experiment(nc.Images(paths, ("t1", "pet")), study, "roi")
    results = run.run(tmp_path / "results", splits=[0])
    for caps in (nc.Images(paths, ("pet", "t1")), nc.Images(paths, ["t1"]), study.caps):
        with pytest.raises(SettingError, match=r"expected \['t1', 'pet'\] as in training"):
            results.predict(caps, study.labels[12:], name="test")
        with pytest.raises(SettingError, match="another experiment"):
            nc.Experiment.load(tmp_path / "results", caps=caps).run(tmp_path / "results")


def test_an_image_in_another_space_is_refused_before_the_first_epoch(paths, study: Study, tmp_path: Path):
    table = paths.copy()
    for row in (2, 5):
        image = nib.load(paths["pet"][row])
        affine = image.affine.copy()
        affine[2, 3] += 30
        table.loc[row, "pet"] = str(tmp_path / f"{row}.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), table["pet"][row])
    with pytest.raises(
        ImageError, match=r"(?s)^2 images cannot be used:\n(sub-000[36] ses-M000 pet: its voxels.*){2}"
    ):
        experiment(nc.Images(table, ("t1", "pet")), study, "roi").run(tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.cpu
def test_an_explanation_is_the_sum_of_the_maps_of_the_channels(paths, study: Study, tmp_path: Path):
    images = nc.Images(paths, ("t1", "pet"))
    results = experiment(images, study, "image").run(tmp_path / "results", splits=[0])
    found = results.explain(images, study.labels[12:14], "gradient", baseline=0.0)
    row = found.iloc[0]
    model, item = results.load_model(0), nc.CapsDataset(images, study.labels[12:13])[0]
    voxels = item["image"][None].requires_grad_()
    (model(voxels) @ torch.tensor([-1.0, 1.0])).backward()  # the log-odds of the second class
    written = nib.load(row["path"])
    np.testing.assert_allclose(written.get_fdata(), voxels.grad[0].sum(0), atol=1e-6)
    np.testing.assert_allclose(
        written.affine, images.affine(*study.labels.iloc[12][["participant_id", "session_id"]])
    )
    # The default baseline is the mean image, whose channels are scaled by themselves.
    results.explain(images, study.labels[12:14], "integrated_gradients", name="mean", steps=3)


@pytest.mark.cpu
def test_reconstructions_have_a_file_per_channel(paths, study: Study, tmp_path: Path):
    images = nc.Images(paths, ("t1", "pet"))
    run = experiment(images, study, "patch", "reconstruction", reconstructions=True)
    results = run.run(tmp_path / "results", splits=[0])
    validation = nc.CapsDataset(images, run.splits[0].validation, PARTS["patch"])
    with torch.no_grad():
        output = results.load_model(0)(validation[1]["image"][None])
    expected = {"input": validation[1]["image"], "output": output[-1][0]}
    for name, tensor in expected.items():
        for channel, end in enumerate(("", "_channel-1")):
            (path,) = tmp_path.rglob(f"validation/{name}-1{end}.nii.gz")
            np.testing.assert_allclose(nib.load(path).get_fdata(), tensor[channel], atol=1e-5)
    nc.plotting.reconstruction(results).savefig(tmp_path / "reconstruction.png")
    nc.plotting.parts(results).savefig(tmp_path / "parts.png")

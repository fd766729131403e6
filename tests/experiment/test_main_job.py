"""The complete workflow, from a folder of images to correct predictions for people whom no network has seen."""

from pathlib import Path

import numpy as np
import pytest
import torch

import neurocnn as nc


def _held_out_accuracy(folder: Path, **settings: float) -> float:
    """Run the quickstart at a third of its resolution and return the balanced accuracy on held-out participants."""
    labels = nc.make_caps(
        folder / "caps", n_participants=208, preprocessing="t1-volume", shape=(40, 48, 40), **settings
    )
    caps = nc.Caps(folder / "caps", "t1-volume")
    rest, test = nc.holdout(labels, fraction=0.5, stratify=["diagnosis", "sex", "age"], seed=0)
    assert len(test) >= 100
    splits = nc.kfold(rest, n_splits=2, stratify=["diagnosis", "sex", "age"], seed=0)
    regions = nc.Roi({"right": ((21, 32), (16, 30), (9, 19)), "left": ((8, 19), (16, 30), (9, 19))})
    common = {"caps": caps, "splits": splits, "parts": regions, "architecture": "Conv3_FC1"}
    trainer = nc.Trainer(epochs=12, batch_size=8, learning_rate=1e-3)
    nc.Experiment(task=nc.reconstruction(), trainer=trainer, **common).run(folder / "autoencoder")
    results = nc.Experiment(
        task=nc.classification("diagnosis", classes=["CN", "AD"]),
        trainer=trainer,
        transfer_from=folder / "autoencoder",
        **common,
    ).run(folder / "cnn")
    results.predict(caps, test, name="test")
    return float(results.metrics(level="image", dataset="test").loc["mean", "balanced_accuracy"])


def test_held_out_patients_are_distinguished_from_controls(tmp_path: Path):
    assert _held_out_accuracy(tmp_path) >= 0.85


@pytest.mark.on_demand
def test_without_atrophy_the_accuracy_is_at_chance(tmp_path: Path):
    assert 0.35 <= _held_out_accuracy(tmp_path, atrophy=0.0) <= 0.65


def test_hippocampi_of_t1_linear_images_can_be_classified_with_conv4_fc3(tmp_path: Path):
    labels = nc.make_caps(tmp_path / "caps", n_participants=8, preprocessing="t1-linear")
    caps = nc.Caps(tmp_path / "caps", "t1-linear")
    assert caps.shape(labels["participant_id"].iloc[0], "ses-M000") == (169, 208, 179)
    rest, test = nc.holdout(labels, fraction=0.25, stratify=["diagnosis"], seed=0)
    splits = nc.kfold(rest, n_splits=3, stratify=["diagnosis"], seed=0)
    common = {
        "caps": caps,
        "splits": splits[:1],
        "parts": nc.Roi.hippocampi("t1-linear"),
        "architecture": "Conv4_FC3",
        "trainer": nc.Trainer(epochs=1, batch_size=4),
    }
    nc.Experiment(task=nc.reconstruction(), **common).run(tmp_path / "autoencoder")
    results = nc.Experiment(
        task=nc.classification("diagnosis", classes=["CN", "AD"]),
        multi=True,
        transfer_from=tmp_path / "autoencoder",
        **common,
    ).run(tmp_path / "multicnn")
    results.predict(caps, test, name="test")
    model = results.load_model(0, network=1)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_372
    assert tuple(results.settings["input_shape"]) == (1, 50, 50, 50)
    table = results.predictions("roi", dataset="test")
    assert sorted(table["part_id"].unique()) == [0, 1]
    assert set(results.predictions(dataset="test")["participant_id"]) == set(test["participant_id"])


def test_every_step_can_be_called_separately(tmp_path: Path):
    labels = nc.make_caps(tmp_path / "caps", n_participants=10, shape=(50, 100, 50))
    caps = nc.Caps(tmp_path / "caps", "t1-linear")
    splits = nc.kfold(labels, n_splits=2, stratify=["diagnosis"], seed=0)
    patches, trainer = nc.Patch(size=50, stride=50), nc.Trainer(epochs=1, batch_size=5)

    # The following lines call each step of an experiment without `Experiment`.
    split = splits[0]
    task = nc.classification("diagnosis", classes=["CN", "AD"])
    train = nc.CapsDataset(caps, split.train, parts=patches, label=task.label)
    validation = nc.CapsDataset(caps, split.validation, parts=patches, label=task.label)
    cnn = nc.create_model("Conv4_FC3", train.input_shape, n_outputs=2, dropout=0.5)
    autoencoder = nc.CNN_Transformer(cnn)
    batch = torch.utils.data.default_collate([train[i] for i in range(2)])["image"]
    code, reconstruction = autoencoder(batch)
    nc.transfer_weights(autoencoder, cnn)
    training = trainer.fit(cnn, task, train, validation)
    predictions = nc.predict(cnn, task, validation)
    image_level = nc.soft_vote(predictions, nc.part_weights(predictions))

    assert reconstruction.shape == batch.shape
    assert code.shape[0] == 2
    assert "validation_balanced_accuracy" in training.history
    assert set(training.best["best_balanced_accuracy"]) == set(cnn.state_dict())
    assert len(predictions) == 2 * len(image_level) == 2 * len(split.validation)
    np.testing.assert_allclose(image_level[["proba0", "proba1"]].sum(axis=1), 1, atol=1e-9)

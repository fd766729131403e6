from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import default_collate
from toys import Toys, network

from neurocnn.engine import Trainer, classification, encode, evaluate, predict, reconstruction, regression
from neurocnn.engine.rows import concatenate
from neurocnn.errors import ModelError, SettingError, TableError, TrainingError

TASK = classification("diagnosis", ["CN", "AD"])


class Unlabelled(Toys):
    def __getitem__(self, index):
        item = super().__getitem__(index)
        del item["label"]
        return item


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_table_of_predictions_has_one_row_per_part_in_order(n_workers):
    data, model = Toys(5, (2, 4, 9)), network(dropout=0.5)
    table = predict(model, TASK, data, batch_size=4, n_workers=n_workers, device="cpu")
    assert list(table) == [
        "participant_id",
        "session_id",
        "part_id",
        "true_label",
        "predicted_label",
        "proba0",
        "proba1",
    ]
    assert table.participant_id.tolist() == [f"sub-{i:02d}" for i in range(5) for _ in range(3)]
    assert table.part_id.tolist() == [2, 4, 9] * 5
    assert table.true_label.tolist() == [i % 2 for i in range(5) for _ in range(3)]
    model.eval()
    with torch.no_grad():
        expected = torch.cat([model(data[i]["image"][None]) for i in range(15)]).softmax(1)
    assert np.allclose(table[["proba0", "proba1"]], expected, atol=1e-6)


def test_an_evaluation_keeps_modes_and_memory_format_of_the_model():
    model = network()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    predict(model, TASK, Toys(3), device="cpu")
    assert [module.training for module in model.modules()] == modes
    assert all(p.is_contiguous() for p in model.parameters())


def test_without_labels_the_table_has_no_true_labels_and_no_loss():
    table = evaluate(network(), TASK, Unlabelled(3), device="cpu")
    assert table.true_label.isna().all()
    assert "loss" not in table
    assert "loss" in evaluate(network(), TASK, Toys(3), device="cpu")


def test_missing_labels_count_as_no_labels():
    data = Toys(3)
    data.labels = [float("nan")] * 3
    assert predict(network(), TASK, data, device="cpu").true_label.isna().all()


def test_labels_may_be_missing_only_in_all_samples_of_a_batch():
    data = Toys(9)
    data.labels[3:6] = [None] * 3
    table = evaluate(network(), TASK, data, batch_size=3, device="cpu")
    assert table.true_label.isna().tolist() == table.loss.isna().tolist() == [3 <= i < 6 for i in range(9)]
    with pytest.raises(
        TableError, match=r"3 labels cannot be used: sub-03 ses-M00 part 0 has no label, sub-04"
    ):
        predict(network(), TASK, data, batch_size=9, device="cpu")


@pytest.mark.parametrize("rows_at_once", [1, 4, 7, 4096])
@pytest.mark.parametrize("by_labels", [True, False])
def test_rows_do_not_depend_on_the_number_of_batches_computed_at_once(rows_at_once, by_labels, monkeypatch):
    monkeypatch.setattr("neurocnn.engine.inference._Pass.rows_at_once", rows_at_once)
    data, model = Toys(5, (2, 4, 9)), nn.Sequential(nn.Flatten(), nn.Linear(216, 2))
    task = (
        TASK
        if by_labels
        else replace(TASK, target=lambda batch, device: TASK.target(batch, device), target_from="image")
    )
    table = evaluate(model, task, data, batch_size=4, device="cpu")
    items = [data[i] for i in range(15)]
    batches = [default_collate(items[i : i + 4]) for i in range(0, 15, 4)]
    with torch.no_grad():
        outputs = torch.cat([model(batch["image"]) for batch in batches])
    targets = torch.tensor([["CN", "AD"].index(item["label"]) for item in items])
    assert np.array_equal(table[["proba0", "proba1"]], outputs.double().softmax(1))
    assert np.array_equal(table.true_label, targets)
    assert np.array_equal(table.loss, F.cross_entropy(outputs, targets, reduction="none").double())


def test_columns_of_several_chunks_may_be_arrays_and_tensors():
    chunks = [
        {"loss": torch.tensor([0.5, 1.5]), "label": np.array([1, 0]), "finite": torch.tensor([True, False])},
        {"loss": np.array([2.5]), "label": np.array([1]), "finite": torch.tensor([True])},
        {"loss": torch.tensor([3.5]), "finite": torch.tensor([False])},
    ]
    found = concatenate(chunks)
    assert found["loss"].dtype == np.float64
    assert found["loss"].tolist() == [0.5, 1.5, 2.5, 3.5]
    np.testing.assert_array_equal(found["label"], [1, 0, 1, np.nan])
    assert found["finite"].dtype == bool
    assert found["finite"].tolist() == [True, False, True, False]


def test_a_custom_target_receives_the_images():
    own = {"target": lambda batch, device: batch["image"].flatten(1).mean(1)}
    task = replace(regression("diagnosis"), **own, target_from="image")
    data = Toys(5)
    table = predict(nn.Sequential(nn.Flatten(), nn.Linear(216, 1)), task, data, batch_size=2, device="cpu")
    assert np.allclose(table.true_label, data.images.flatten(1).mean(1))


@pytest.mark.parametrize("rows_at_once", [1, 4096])
def test_a_target_that_reads_undeclared_images_is_refused_with_a_remedy(rows_at_once, monkeypatch):
    monkeypatch.setattr("neurocnn.engine.inference._Pass.rows_at_once", rows_at_once)
    task = replace(regression("diagnosis"), target=lambda batch, device: batch["image"].flatten(1).mean(1))
    model = nn.Sequential(nn.Flatten(), nn.Linear(216, 1))
    with pytest.raises(SettingError, match="target_from='image'"):
        predict(model, task, Toys(5), batch_size=2, device="cpu")


@pytest.mark.parametrize("rows_at_once", [4, 7, 4096])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_an_error_names_the_participant_of_an_invalid_label_late_in_a_set(
    rows_at_once, unlabelled, monkeypatch
):
    monkeypatch.setattr("neurocnn.engine.inference._Pass.rows_at_once", rows_at_once)
    data = Toys(20, (0, 7))
    data.labels[17] = "MCI"
    data.labels[18:] = [None, None] if unlabelled else data.labels[18:]
    named = r"2 labels cannot be used: sub-17 ses-M00 part 0 has 'MCI', sub-17 ses-M00 part 7 has"
    with pytest.raises(TableError, match=named):
        predict(network(), TASK, data, batch_size=2, device="cpu")


def test_a_single_output_for_a_complete_batch_is_refused():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, image):
            return self.inner(image).mean(0, keepdim=True)

    with pytest.raises(ModelError, match=r"shape \(1, 2\); expected \(4, 2\)"):
        predict(Mean(), TASK, Toys(8), batch_size=4, device="cpu")


class Labelled(Toys):
    """Dataset whose labels are ``how(class index)``, and whose samples may have the entry `extra`."""

    def __init__(self, *args, how, extra=None, **named):
        super().__init__(*args, table=False, **named)
        self.how, self.extra = how, extra

    def __getitem__(self, index):
        item = super().__getitem__(index)
        item["label"] = self.how(["CN", "AD"].index(item["label"]))
        return item | ({} if self.extra is None else {"extra": self.extra})


@pytest.mark.parametrize(
    "how", [lambda k: np.eye(2)[k], lambda k: torch.eye(2)[k], lambda k: [1.0 - k, float(k)]]
)
def test_a_custom_target_receives_labels_of_several_numbers(how):
    task = replace(TASK, target=lambda batch, device: torch.tensor(batch["label"]).argmax(1).to(device))
    data, plain = Labelled(5, (2, 4), how=how), Toys(5, (2, 4))
    expected = evaluate(network(), TASK, plain, batch_size=3, device="cpu")
    pd.testing.assert_frame_equal(evaluate(network(), task, data, batch_size=3, device="cpu"), expected)
    models = {2: network(), 4: network()}
    pd.testing.assert_frame_equal(evaluate(models, task, data, batch_size=3, device="cpu"), expected)
    with pytest.raises(TableError, match=r"sub-00 ses-M00 part 2 has '\[1.0, 0.0\]'"):
        evaluate(network(), TASK, data, batch_size=3, device="cpu")


@pytest.mark.parametrize("how", [lambda k: np.array([k]), lambda k: torch.tensor([k]), lambda k: [k]])
@pytest.mark.parametrize("rows_at_once", [1, 4096])
def test_a_label_may_be_an_array_of_one_number(how, rows_at_once, monkeypatch):
    monkeypatch.setattr("neurocnn.engine.inference._Pass.rows_at_once", rows_at_once)
    task = classification("diagnosis", [0, 1])
    table = evaluate(network(), task, Labelled(5, how=how), batch_size=2, device="cpu")
    pd.testing.assert_frame_equal(table, evaluate(network(), TASK, Toys(5), batch_size=2, device="cpu"))


@pytest.mark.parametrize("extra", [(4, 4, 4), {"a": 1.0}, ["x", "y", {"z": (1, "w")}], "text", 3])
def test_samples_may_have_additional_entries_with_one_network_per_part(extra):
    data = Labelled(4, (1, 5), how=lambda k: k, extra=extra)
    plain = Labelled(4, (1, 5), how=lambda k: k)
    task = classification("diagnosis", [0, 1])
    tables = [evaluate({1: network(), 5: network(1)}, task, each, device="cpu") for each in (data, plain)]
    pd.testing.assert_frame_equal(*tables)


class Squeezed(nn.Module):
    """Network that removes the batch axis from the output for a single sample."""

    def __init__(self, n_outputs):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(216, n_outputs))

    def forward(self, image):
        return self.inner(image).squeeze()


@pytest.mark.parametrize("kind", [Toys, Unlabelled])
def test_a_network_that_squeezes_a_batch_of_one_sample_is_refused_with_the_shape(kind):
    ages = kind(4, labels=(70.0, 80.0))
    assert len(predict(Squeezed(1), regression("age"), ages, batch_size=2, device="cpu")) == 4
    with pytest.raises(ModelError, match=r"shape \(\); .*squeeze"):
        predict(Squeezed(1), regression("age"), ages, batch_size=3, device="cpu")
    with pytest.raises(ModelError, match=r"shape \(2,\)"):
        predict(Squeezed(2), TASK, kind(4), batch_size=3, device="cpu")
    with pytest.raises(ModelError, match=r"shape \(\); "):
        Trainer(epochs=1, batch_size=3, device="cpu").fit(
            Squeezed(1), regression("age"), Toys(4, labels=(7.0,))
        )


def test_a_single_prediction_for_a_batch_without_labels_is_refused():
    class First(nn.Module):
        def forward(self, image):
            return image.flatten(1)[:1, :1]

    with pytest.raises(
        ModelError, match=r"for 4 samples: .*predicted_label has shape \(1,\); expected shape \(4,\)"
    ):
        predict(First(), regression("age"), Unlabelled(4), batch_size=4, device="cpu")


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (lambda output, target: F.mse_loss(output[:, 0], target), r"shape \(\)"),
        (lambda output, target: F.mse_loss(output, target[:, None], reduction="none"), r"shape \(\d, 1\)"),
        (lambda output, target: 1.0, "a float"),
    ],
)
def test_a_loss_without_one_value_per_sample_is_refused_with_the_shape(loss, found):
    task, data = replace(regression("age"), loss=loss), Toys(8, labels=(7.0, 8.0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(216, 1))
    with pytest.raises(ModelError, match=rf"{found} for a batch of 4; expected \(4,\)"):
        Trainer(epochs=1, batch_size=4, device="cpu").fit(model, task, data)
    with pytest.raises(ModelError, match=rf"{found} for a batch of 8; expected \(8,\)"):
        evaluate(model, task, data, batch_size=4, device="cpu")


def test_participant_ids_that_are_numbers_stay_numbers():
    data = Toys(4)
    data.people = [7, 8, 9, 10]
    table = predict(network(), TASK, data, batch_size=3, device="cpu")
    assert table.participant_id.dtype == np.int64
    assert table.participant_id.tolist() == data.people
    data.labels[2] = "MCI"
    with pytest.raises(TableError, match="1 labels cannot be used: 9 ses-M00 part 0 has 'MCI'"):
        predict(network(), TASK, data, batch_size=3, device="cpu")


def test_part_ids_may_be_an_array():
    data, listed = Toys(4, (1, 5)), Toys(4, (1, 5))
    data.part_ids = np.array([1, 5])
    models = {5: network(), 1: network(1)}
    tables = [predict(models, TASK, each, device="cpu") for each in (data, listed)]
    pd.testing.assert_frame_equal(*tables)
    Trainer(epochs=1, device="cpu").fit(models, TASK, data)
    data.part_ids = ["left", "right"]
    with pytest.raises(SettingError, match=r"part_ids=.*left.*expected integers"):
        predict(models, TASK, data, device="cpu")


@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("late", [True, False])
def test_an_error_names_a_sample_if_only_some_samples_have_a_cohort(batch_size, late):
    data = Toys(4)
    items = [data[i] | ({"cohort": "ADNI"} if (i > 1) == late else {}) for i in range(4)]
    with pytest.raises(SettingError, match=r"sub-0\d ses-M00.*has (a|no) cohort"):
        predict(network(), TASK, items, batch_size=batch_size, device="cpu")


def test_an_evaluation_uses_no_augmentation():
    data = Toys(4, noise=True)
    first, second = (evaluate(network(), TASK, data, device="cpu") for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_each_network_predicts_only_the_rows_of_its_part():
    data = Toys(4, (1, 5, 6))
    models = {6: network(6), 1: network(1)}
    table = predict(models, TASK, data, batch_size=3, device="cpu")
    assert table.part_id.tolist() == [1, 6] * 4
    for part, model in models.items():
        alone = predict(model, TASK, data.only_part(part), batch_size=3, device="cpu")
        pd.testing.assert_frame_equal(table[table.part_id == part].reset_index(drop=True), alone)


def test_a_network_for_a_part_that_the_dataset_lacks_is_refused():
    with pytest.raises(SettingError, match=r"\[7\].*\[1, 5\]"):
        predict({1: network(), 7: network()}, TASK, Toys(2, (1, 5)), device="cpu")
    items = [Toys(2)[0]]
    with pytest.raises(SettingError, match="part_ids"):
        predict({0: network()}, TASK, items, device="cpu")


class Autoencoder(nn.Module):
    def __init__(self, size=6):
        super().__init__()
        self.down, self.up = nn.Linear(size, 2), nn.Linear(2, size)

    def forward(self, image):
        code = self.down(image)
        return code, self.up(code)


class Coder(nn.Module):
    def encode(self, image):
        return image.flatten(1)[:, :3]


def test_latent_codes_come_from_encode_or_from_the_first_output():
    data = Toys(3, (0, 2))
    table = encode(Autoencoder(), data, device="cpu")
    assert table.shape == (6, 3 + 2 * 36)
    table = encode(Coder(), data, batch_size=4, device="cpu")
    expected = [data[i]["image"].flatten()[:3].tolist() for i in range(6)]
    assert np.allclose(table[["code0", "code1", "code2"]], expected)
    assert list(table)[:3] == ["participant_id", "session_id", "part_id"]
    with pytest.raises(ModelError, match="no latent code"):
        encode(network(), data, device="cpu")


def test_a_reconstruction_is_scored_without_labels():
    table = evaluate(Autoencoder(), reconstruction(), Unlabelled(3), device="cpu")
    assert list(table)[3:] == ["mse", "mae", "psnr", "ssim", "loss"]
    assert np.allclose(table.loss, table.mse)


def test_a_table_of_predictions_contains_the_cohort():
    items = [Toys(2)[i] | {"cohort": "ADNI"} for i in range(2)]
    table = predict(network(), TASK, items, device="cpu")
    assert list(table)[:4] == ["participant_id", "session_id", "cohort", "part_id"]


def test_items_that_are_not_samples_are_refused_with_the_missing_entries():
    with pytest.raises(SettingError, match="lack participant_id, session_id, part_id; found image"):
        predict(network(), TASK, [{"image": torch.zeros(1, 6, 6, 6)}], device="cpu")
    with pytest.raises(SettingError, match="found a Tensor"):
        predict(network(), TASK, torch.zeros(2, 3), device="cpu")
    with pytest.raises(SettingError, match="empty"):
        predict(network(), TASK, [], device="cpu")


def test_the_error_of_exhausted_memory_names_a_smaller_batch():
    class Greedy(nn.Module):
        def forward(self, image):
            return torch.empty(2**60)

    with pytest.raises(TrainingError, match="batch_size=4"):
        predict(Greedy(), TASK, Toys(2), batch_size=8, device="cpu")

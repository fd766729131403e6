import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import Toys, network

from neurocnn.engine import Trainer, classification, predict, reconstruction, regression
from neurocnn.errors import ModelError, SettingError, TableError

CPU = torch.device("cpu")


def batch(labels):
    return {
        "label": labels,
        "participant_id": [f"sub-{i}" for i in range(len(labels))],
        "session_id": ["ses-M00"] * len(labels),
        "part_id": torch.zeros(len(labels), dtype=torch.int64),
    }


@pytest.mark.parametrize("classes", [[0, 1], [0.0, 1.0], ["0", "1"], {0: 0, "1.0": 1}])
@pytest.mark.parametrize(
    "labels", [[1, 0], [1.0, 0.0], ["1", "0"], torch.tensor([1, 0]), torch.tensor([1.0, 0.0])]
)
def test_text_and_numbers_name_the_same_class(classes, labels):
    assert classification("label", classes).target(batch(labels), CPU).tolist() == [1, 0]


def test_several_labels_can_form_one_class():
    task = classification("diagnosis", {"CN": 0, "sMCI": 0, "AD": 1, "pMCI": 1})
    assert task.target(batch(["pMCI", "CN", "sMCI", "AD"]), CPU).tolist() == [1, 0, 0, 1]
    assert task.classes == ("CN+sMCI", "AD+pMCI")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["CN", "BV"], "sub-1 ses-M00 part 0 has 'BV'.*one of CN, AD"),
        (["CN", None], "sub-1 ses-M00 part 0 has no label"),
        (["CN", float("nan")], "has no label"),
        (["CN", ""], "has no label"),
        (["BV"] * 9, "9 labels.*and 4 more"),
    ],
)
def test_an_error_names_the_rows_of_labels_that_are_not_classes(labels, message):
    with pytest.raises(TableError, match=message):
        classification("diagnosis", ["CN", "AD"]).target(batch(labels), CPU)


@pytest.mark.parametrize(
    "classes",
    ["CN", ["CN"], ["CN", "CN"], [1, "1.0"], {"CN": 0, "AD": 2}, {"CN": 0, "AD": 0}, {"CN": "a"}, [None, 1]],
)
def test_invalid_classes_are_refused(classes):
    with pytest.raises(SettingError, match="classes"):
        classification("diagnosis", classes)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, float("nan")]])
def test_invalid_weights_are_refused(weights):
    with pytest.raises(SettingError, match=r"2 positive numbers|class_weights.1.=.* > 0"):
        classification(class_weights=weights)


def test_losses_are_cross_entropies_of_each_sample():
    output, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    log = output.double().log_softmax(1)
    expected = torch.stack([-log[i, k] for i, k in enumerate(target.tolist())])
    task = classification(classes=["a", "b", "c"])
    assert torch.allclose(task.loss(output, target).double(), expected, atol=1e-6)
    weighted = classification(classes=["a", "b", "c"], class_weights=[1, 2, 0.5])
    factors = torch.tensor([1, 2, 0.5, 2, 1])
    assert torch.allclose(weighted.loss(output, target).double(), expected * factors, atol=1e-6)


def test_rows_contain_probabilities_and_a_tie_predicts_the_lower_class():
    rows = classification(classes=["a", "b", "c"]).rows(torch.tensor([[0.0, 1.0, 1.0], [2.0, 0, 0]]), None)
    assert rows["predicted_label"].tolist() == [1, 0]
    assert np.isnan(rows["true_label"]).all()
    total = sum(rows[f"proba{k}"] for k in range(3))
    assert total == pytest.approx(np.ones(2), abs=1e-15)


def test_regression_reads_numbers_and_text():
    task = regression("age")
    assert task.target(batch(["71", 64.5]), CPU).tolist() == [71.0, 64.5]
    assert task.target(batch(torch.tensor([3, 4])), CPU).tolist() == [3.0, 4.0]
    output = torch.tensor([[1.0], [3.0]])
    assert task.loss(output, torch.tensor([2.0, 5.0])).tolist() == [1.0, 4.0]
    assert task.loss(output[:, 0], torch.tensor([2.0, 5.0])).tolist() == [1.0, 4.0]
    with pytest.raises(TableError, match=r"sub-0.*'old'.*a finite number"):
        task.target(batch(["old"]), CPU)


def test_a_regression_predicts_mean_plus_scale_times_output():
    task = regression("age", mean=np.float64(70), scale=8)
    output, target = torch.tensor([[-1.25], [0.5]], dtype=torch.float64), torch.tensor([58.0, 75.5])
    assert task.rows(task.prediction(output), target)["predicted_label"].tolist() == [60.0, 74.0]
    assert task.loss(task.prediction(output), target).tolist() == [4.0, 2.25]
    assert regression(**json.loads(json.dumps(task.arguments))).arguments == task.arguments
    for wrong in ({"scale": 0}, {"scale": -1}, {"mean": float("nan")}, {"scale": float("inf")}):
        with pytest.raises(SettingError, match=r"(mean|scale)=.*; expected"):
            regression("age", **wrong)


@pytest.mark.parametrize("wrong", [None, "abc", np.array([75.0]), torch.tensor([1.0, 2.0]), [1], 10**400])
@pytest.mark.parametrize("name", ["mean", "scale"])
def test_a_scale_that_is_not_a_number_is_refused(name, wrong):
    with pytest.raises(SettingError, match=f"{name}=.*; expected"):
        regression("age", **{name: wrong})


def test_ages_are_learnt_in_few_updates_if_mean_and_scale_are_given():
    ages = torch.tensor([62.0, 70.0, 78.0, 66.0, 74.0])
    images = ((ages - 70) / 8).view(5, 1, 1, 1).expand(5, 1, 4, 4)

    def error(task):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1))
        torch.nn.init.zeros_(model[1].weight), torch.nn.init.zeros_(model[1].bias)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            task.loss(task.prediction(model(images)), ages).mean().backward()
            optimizer.step()
        rows = task.rows(task.prediction(model(images)), ages)
        return np.abs(rows["predicted_label"] - rows["true_label"]).mean()

    assert error(regression("age", mean=70, scale=8)) < 0.5
    assert error(regression("age")) > 60


def test_an_error_about_missing_labels_names_the_column():
    with pytest.raises(TableError, match="create the dataset with label='age'"):
        regression("age").target({"image": torch.zeros(1)}, CPU)


@pytest.mark.parametrize(
    ("task", "output", "target"),
    [
        (classification(), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)),
        (regression(), torch.zeros(2, 2), torch.zeros(2)),
        (reconstruction(), torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 5)),
        (reconstruction(), {"image": 1}, torch.zeros(2, 1, 4, 5)),
        (regression(), torch.zeros(()), torch.zeros(1)),
        (regression(), torch.zeros(1, 1), torch.zeros(4)),
        (classification(), torch.zeros(2), torch.zeros(1, dtype=torch.int64)),
    ],
)
def test_an_output_of_a_wrong_shape_is_refused_with_the_expected_shape(task, output, target):
    with pytest.raises(ModelError):
        task.loss(output, target)


def test_a_task_can_be_pickled_and_changed():
    task = pickle.loads(pickle.dumps(classification("diagnosis", {"CN": 0, "AD": 1}, [1.0, 2.0])))
    assert task.arguments == {
        "label": "diagnosis",
        "classes": {"CN": 0, "AD": 1},
        "class_weights": [1.0, 2.0],
    }
    assert classification(**task.arguments).classes == task.classes
    changed = replace(task, loss=lambda output, target: F.cross_entropy(output, target, reduction="none") * 7)
    output, target = torch.randn(2, 2), torch.tensor([0, 0])
    assert torch.allclose(changed.loss(output, target), 7 * task.loss(output, target))


def test_the_loss_of_half_precision_outputs_has_single_precision():
    output = torch.randn(2, 2).bfloat16()
    assert classification().loss(output, torch.tensor([0, 1])).dtype == torch.float32
    assert classification().loss(output.double(), torch.tensor([0, 1])).dtype == torch.float64


def test_the_table_of_a_regression_contains_the_labels_as_written():
    task = regression("age")
    ages = [71.8, 64.0, 0.1, 99.95]
    target = task.target({"label": ages}, torch.device("cpu"))
    assert task.rows(torch.zeros(4, 1), target)["true_label"].tolist() == ages


def test_the_repr_of_a_task_contains_its_arguments():
    assert repr(classification("diagnosis", ["CN", "AD"])) == (
        "<task classification(label='diagnosis', classes=['CN', 'AD']), selected by loss, balanced_accuracy>"
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    ("field", "function", "message"),
    [
        ("rows", lambda output, target: {"proba0": np.zeros(len(output))}, "also the column 'true_label'"),
        ("rows", lambda output, target: None, "None; expected a dict of arrays"),
        ("metrics", lambda table: None, "None; expected a dict of numbers"),
    ],
)
def test_a_result_of_a_custom_function_that_cannot_be_used_is_refused_by_name(field, function, message):
    task = replace(classification("diagnosis", ["CN", "AD"]), **{field: function})
    trainer = Trainer(epochs=1, n_workers=0, device="cpu")
    with pytest.raises(SettingError, match=f"Task 'classification': {field} returned .*{message}"):
        trainer.fit(network(), task, Toys(), Toys(prefix="other"))


def test_true_labels_are_missing_if_custom_rows_return_none_for_samples_without_labels():
    def rows(output, target):
        columns = {} if target is None else {"true_label": target.numpy()}
        return {**columns, "predicted_label": output.argmax(1).numpy()}

    task = replace(classification("diagnosis", ["CN", "AD"]), rows=rows)
    items = [{name: value for name, value in Toys()[k].items() if name != "label"} for k in range(3)]
    table = predict(network(), task, items, device="cpu", n_workers=0)
    assert table["true_label"].isna().all()
    assert list(table)[3:] == ["true_label", "predicted_label"]

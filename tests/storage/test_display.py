"""Display of the objects of a study in a console and in a notebook."""

import dataclasses
import html

import pandas as pd
import pytest
from studies import PARTS, TASKS, Study, experiment

import neurocnn as nc
from neurocnn.results.setting_json import to_json
from neurocnn.results.settings import DEFAULTS


@pytest.fixture(scope="module")
def values(study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    run = experiment(study, options={"dropout": 0.5})
    long = nc.classification("diagnosis", {f"label {i}": i % 2 for i in range(200)})
    return {
        "Experiment": run,
        "Results": run.run(tmp_path_factory.mktemp("shown"), splits=[0]),
        "Split": study.splits[0],
        "Caps": study.caps,
        "CapsDataset": nc.CapsDataset(study.caps, study.labels, PARTS["roi"], "diagnosis"),
        "Trainer": nc.Trainer(epochs=7),
        "Task": TASKS["classification"],
        "long task": long,
        "experiment of a long task": dataclasses.replace(
            run, task=long, options={str(i): i for i in range(99)}
        ),
    }


def test_every_public_class_has_a_short_repr_and_an_html_view(values):
    for name, value in values.items():
        assert len(repr(value)) <= 400, name
        assert "<h4>" in value._repr_html_(), name


def test_only_settings_that_differ_from_the_defaults_are_shown(values, study: Study):
    assert repr(values["Trainer"]) == "Trainer(epochs=7)"
    assert repr(study.caps) == f"Caps(root={str(study.caps.root)!r}, preprocessing='t1-volume')"
    shown = repr(values["Experiment"])
    assert "splits=<2 splits>" in shown
    assert "options={'dropout': 0.5}" in shown
    assert "multi" not in shown


def test_participants_are_counted_by_class_age_and_sex(values, study: Study):
    page = values["Split"]._repr_html_()  # type: ignore[attr-defined]
    train = study.splits[0].train
    for name, own in train.groupby("diagnosis"):
        assert f"<th>{name}</th>" in page
        assert f"{own['age'].mean():.1f} ± {own['age'].std():.1f}" in page
        assert ", ".join(f"{n} {sex}" for sex, n in own["sex"].value_counts().sort_index().items()) in page
    assert (
        "<script"
        not in nc.Split(0, train.assign(diagnosis="<script>"), study.splits[0].validation)._repr_html_()
    )


def test_the_view_of_results_contains_changed_settings_and_participants(values, study: Study):
    page = values["Results"]._repr_html_()  # type: ignore[attr-defined]
    shown = html.unescape(page)
    assert "{'dropout': 0.5}" in shown
    assert "Trainer(epochs=1, batch_size=4, learning_rate=0.001)" in shown
    for name in ("transfer_from", "multi", "MinMax"):
        assert name not in shown
    people = pd.concat([study.splits[0].train, study.splits[0].validation])
    for name, own in people.groupby("diagnosis"):
        assert f"<th>{name}</th>" in page
        assert f"<td>{len(own)}</td>" in page
        assert f"{own['age'].mean():.1f} ± {own['age'].std():.1f}" in page


def test_the_defaults_of_recorded_settings_are_those_of_an_experiment():
    fields = {field.name: field for field in dataclasses.fields(nc.Experiment)}
    for name, encoded in DEFAULTS.items():
        field = fields[name]
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        assert to_json(default) == encoded, name
    assert {name for name, field in fields.items() if field.kw_only and field.init} == set(DEFAULTS)


def test_the_view_of_a_task_contains_its_arguments_and_your_own_functions():
    assert "functools" not in nc.classification()._repr_html_()
    assert "class_weights" not in repr(nc.classification()) + nc.classification()._repr_html_()
    assert "class_weights" in nc.classification(class_weights=[1.0, 2.0])._repr_html_()
    for task in (nc.regression(), nc.reconstruction()):
        for name in ("mean", "scale", "output", "bottleneck"):
            assert f"<th>{name}</th>" not in task._repr_html_()
    assert "<th>mean</th><td>70.0</td>" in nc.regression(mean=70.0)._repr_html_()
    own = dataclasses.replace(
        nc.classification(), metrics=test_every_public_class_has_a_short_repr_and_an_html_view
    )
    assert "<th>metrics</th>" in own._repr_html_()


def test_the_view_of_images_counts_their_participants(values, study: Study):
    page = values["Caps"]._repr_html_()  # type: ignore[attr-defined]
    assert f"<td>{study.labels['participant_id'].nunique()}</td>" in page
    assert "MinMax" not in repr(values["CapsDataset"])
    assert "transform=None" in repr(nc.CapsDataset(study.caps, study.labels, transform=None))


def test_participants_are_counted_by_the_classes_of_the_task(study: Study):
    labels = study.labels.assign(group=["a", "b"] * (len(study.labels) // 2))
    page = nc.CapsDataset(study.caps, labels, label="group")._repr_html_()
    assert "<th>a</th>" in page
    assert "<th>AD</th>" not in page
    whole_years = labels.assign(age=range(60, 60 + len(labels)))
    for table in (labels, whole_years):
        assert "<th>AD</th>" in nc.CapsDataset(study.caps, table, label="age")._repr_html_()

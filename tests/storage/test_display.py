"""Display of the objects of a study in a console and in a notebook."""

import dataclasses

import pytest
from studies import PARTS, TASKS, Study, experiment

import neurocnn as nc


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

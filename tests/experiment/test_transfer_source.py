"""Weights of one experiment initialise another, split by split, in all documented ways."""

import dataclasses
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from clinicadl_files import write_maps, write_old_results
from studies import PARTS, SHAPE, TASKS, TRAINER, Study, experiment

import neurocnn as nc
from neurocnn.errors import LeakError, ModelError, NeurocnnError, NotFoundError
from neurocnn.experiment import transfer_source

# A learning rate of 1e-30 changes no float32 weight, so that a network ends with its initial weights.
STILL = dataclasses.replace(TRAINER, learning_rate=1e-30, weight_decay=0.0)
CONVOLUTIONS = [f"{i}.{name}" for i in (0, 1, 4, 5, 8, 9) for name in ("weight", "bias")]


@pytest.fixture(scope="module")
def sources(study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of one finished experiment of each kind."""
    folder = tmp_path_factory.mktemp("sources")
    kinds = {
        "autoencoder": {"task": "reconstruction"},
        "cnn": {},
        "multicnn": {"multi": True},
        "multiautoencoder": {"task": "reconstruction", "multi": True},
    }
    for name, settings in kinds.items():
        experiment(study, **settings).run(folder / name)
    return {name: folder / name for name in kinds}


def _trained(folder: Path, split: int, selection: str, network: int | None, prefix: str):
    part = "" if network is None else f"cnn-{network}/"
    path = folder / f"fold-{split}/models/{part}{selection}/model_best.pth.tar"
    state = torch.load(path, weights_only=True)["model"]
    return {name: state[f"{prefix}.{name}"] for name in CONVOLUTIONS}


@pytest.mark.parametrize(
    ("source", "task", "multi", "selection", "prefixes"),
    [
        ("autoencoder", "classification", False, "best_loss", ("encoder", "convolutions")),
        ("autoencoder", "classification", True, "best_loss", ("encoder", "convolutions")),
        ("autoencoder", "reconstruction", False, "best_loss", ("encoder", "encoder")),
        ("cnn", "classification", False, "best_balanced_accuracy", ("convolutions", "convolutions")),
        ("cnn", "classification", True, "best_balanced_accuracy", ("convolutions", "convolutions")),
        ("cnn", "reconstruction", False, "best_balanced_accuracy", ("convolutions", "encoder")),
        ("multicnn", "classification", True, "best_balanced_accuracy", ("convolutions", "convolutions")),
        ("multiautoencoder", "classification", True, "best_loss", ("encoder", "convolutions")),
    ],
)
def test_a_network_starts_from_the_weights_of_the_same_split(
    study, sources, tmp_path, source, task, multi, selection, prefixes
):
    experiment(study, task=task, multi=multi, trainer=STILL, transfer_from=sources[source]).run(tmp_path)
    for split in (0, 1):
        for network in (0, 1) if multi else (None,):
            origin = network if source.startswith("multi") else None
            expected = _trained(sources[source], split, selection, origin, prefixes[0])
            found = _trained(tmp_path, split, "best_loss", network, prefixes[1])
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_selection_of_a_cnn_source_can_be_chosen(study: Study, sources, tmp_path: Path):
    experiment(study, trainer=STILL, transfer_from=sources["cnn"], transfer_selection="best_loss").run(
        tmp_path, splits=[0]
    )
    expected = _trained(sources["cnn"], 0, "best_loss", None, "convolutions")
    found = _trained(tmp_path, 0, "best_loss", None, "convolutions")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_networks_of_several_parts_cannot_initialise_a_single_network(study: Study, sources, tmp_path: Path):
    with pytest.raises(NeurocnnError, match="one network per part"):
        experiment(study, transfer_from=sources["multicnn"]).run(tmp_path)


def test_a_warning_tells_that_networks_of_a_source_belong_to_other_parts(
    study: Study, sources, tmp_path: Path
):
    boxes = {"left": ((1, 9), (6, 14), (5, 13)), "right": ((9, 17), (6, 14), (5, 13))}
    settings = {"multi": True, "trainer": STILL, "transfer_from": sources["multicnn"]}
    other = nc.Experiment(
        study.caps, study.splits, nc.Roi(boxes), TASKS["classification"], "Conv3_FC1", **settings
    )
    with pytest.warns(
        UserWarning, match="networks belong to other parts of the image.*check that both belong"
    ):
        other.run(tmp_path / "other", splits=[0])
    state = _lab_network().state_dict()
    maps = write_maps(tmp_path / "maps", state, "Conv3_FC1")
    for path in list(maps.glob("split-0/*/model.pth.tar")):
        for number in range(3):
            shutil.copy(path, path.with_name(f"network-{number}_model.pth.tar"))
        path.unlink()
    run = experiment(study, multi=True, trainer=STILL, transfer_from=maps)
    with (
        pytest.warns(UserWarning, match=r"\(3 networks\) than those of this experiment \(.*, 2 networks\)"),
        pytest.warns(UserWarning, match="the participants that the source has seen are unknown"),
    ):
        run.run(tmp_path / "from-maps", splits=[0])


def test_the_network_of_clinicadl_1_with_the_same_name_is_suggested(tmp_path: Path):
    labels = nc.make_caps(tmp_path / "caps", n_participants=4, shape=(31, 31, 31))
    network = nc.create_model("Conv4_FC3_v1", (1, 31, 31, 31))
    maps = write_maps(tmp_path / "maps", network.state_dict(), "Conv4_FC3")
    images, splits = nc.Caps(tmp_path / "caps"), nc.kfold(labels, 2, "diagnosis")
    task = nc.classification(classes=["AD", "CN"])  # the order of ClinicaDL 1.x, which causes no warning
    settings = {"task": task, "architecture": "Conv4_FC3", "transfer_from": maps}
    run = nc.Experiment(images, splits, nc.WholeImage(), **settings)
    with (
        pytest.raises(ModelError, match=r"ClinicaDL 1\.x names Conv4_FC3 is 'Conv4_FC3_v1'$"),
        pytest.warns(UserWarning, match="the participants that the source has seen are unknown"),
    ):
        run.run(tmp_path / "results", splits=[0])


def test_the_error_about_a_misspelt_selection_lists_the_available_selections(
    study: Study, sources, tmp_path: Path
):
    run = experiment(study, transfer_from=sources["cnn"], transfer_selection="best_balanced_acuracy")
    advice = "pass transfer_selection='best_balanced_accuracy' or 'best_loss'$"
    with pytest.raises(NotFoundError, match=f"contains: best_balanced_accuracy, best_loss; {advice}"):
        run.run(tmp_path / "results")
    assert not (tmp_path / "results").exists()
    maps = write_maps(tmp_path / "maps", _lab_network().state_dict(), "Conv3_FC1")
    with pytest.raises(NotFoundError, match=f"contains: best-BA, best-loss; {advice}"):
        transfer_source.checkpoint(maps, 0, None, "best_accuracy")


def test_a_source_whose_split_was_not_run_is_refused_before_anything_is_written(study: Study, tmp_path: Path):
    experiment(study).run(tmp_path / "source", splits=[0])
    with pytest.raises(NotFoundError, match="split 1 has not been run"):
        experiment(study, transfer_from=tmp_path / "source").run(tmp_path / "target")
    old = write_old_results(tmp_path / "old", _lab_network().state_dict())
    with pytest.warns(UserWarning, match="seen"), pytest.raises(NotFoundError, match="expected fold-1"):
        experiment(study, transfer_from=old).run(tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_source_with_other_splits_is_refused_with_the_advice_to_use_its_splits(
    study: Study, sources, tmp_path: Path
):
    swapped = [nc.Split(split.index, split.validation, split.train) for split in study.splits]
    settings = {"task": TASKS["classification"], "architecture": "Conv3_FC1", "transfer_from": sources["cnn"]}
    run = nc.Experiment(study.caps, swapped, PARTS["roi"], **settings)
    with pytest.raises(
        LeakError, match=r"validation set: .* were seen in training.*use the splits of the source"
    ):
        run.run(tmp_path / "results")


def test_a_maps_folder_is_no_result_folder_but_a_source(tmp_path: Path):
    maps = write_maps(tmp_path / "maps", _lab_network().state_dict(), "Conv3_FC1")
    for read in (nc.Results, nc.Experiment.load):
        with pytest.raises(
            NotFoundError, match="a MAPS folder of ClinicaDL; use transfer_from=… for its weights"
        ):
            read(maps)


def test_a_results_object_can_be_the_source(study: Study, sources, tmp_path: Path):
    results = experiment(study, transfer_from=nc.Results(sources["autoencoder"])).run(tmp_path, splits=[0])
    assert results.settings["transfer_from"] == str(sources["autoencoder"])


def test_the_error_about_another_architecture_names_the_differing_parameters(
    study: Study, sources, tmp_path: Path
):
    def build(input_shape, n_outputs):
        convolutions = torch.nn.Sequential(torch.nn.Conv3d(1, 5, 3), torch.nn.ReLU())
        return nc.CNN(
            convolutions, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5 * 6**3, n_outputs))
        )

    with pytest.raises(NeurocnnError, match=r"convolutions\.0\.weight"):
        experiment(study, architecture=build, transfer_from=sources["cnn"]).run(tmp_path)


def test_a_source_without_the_split_is_refused(study: Study, sources, tmp_path: Path):
    splits = nc.kfold(study.labels, n_splits=3, stratify=["diagnosis"], seed=0)
    run = nc.Experiment(
        study.caps,
        [splits[2]],
        PARTS["roi"],
        TASKS["classification"],
        "Conv3_FC1",
        TRAINER,
        transfer_from=sources["cnn"],
    )
    with pytest.raises(NotFoundError):
        run.run(tmp_path / "results")


def test_a_source_that_does_not_exist_is_refused_at_once(study: Study):
    with pytest.raises(NotFoundError, match="expected an existing file"):
        experiment(study, transfer_from="results/autoencoderr")


def _lab_network() -> torch.nn.Module:
    torch.manual_seed(11)
    shape = PARTS["roi"].extract(torch.zeros(1, *SHAPE), 0).shape
    return nc.create_model("Conv3_FC1", tuple(shape), n_outputs=2)


@pytest.mark.parametrize("kind", ["0.2.1 folder", "MAPS folder", "bare checkpoint", "module"])
def test_weights_of_unknown_participants_initialise_a_network_with_a_warning(
    study: Study, tmp_path: Path, kind: str
):
    network = _lab_network()
    state = network.state_dict()
    if kind == "0.2.1 folder":
        source: object = write_old_results(tmp_path / "old", state)
    elif kind == "MAPS folder":
        source = write_maps(tmp_path / "maps", state, "Conv3_FC1")
    elif kind == "bare checkpoint":
        source = write_maps(tmp_path / "maps", state, "Conv3_FC1") / "split-0/best-loss/model.pth.tar"
    else:
        source = network
    with pytest.warns(UserWarning, match="participants that the source has seen are unknown"):
        experiment(study, trainer=STILL, transfer_from=source).run(tmp_path / "results", splits=[0])
    found = _trained(tmp_path / "results", 0, "best_loss", None, "convolutions")
    for name, tensor in found.items():
        # Only a bias of exactly 0 is changed by a step of 1e-30.
        torch.testing.assert_close(tensor, state[f"convolutions.{name}"], rtol=0, atol=1e-25)
    seen = nc.read_table(tmp_path / "results/fold-0/seen.tsv", required=("participant_id", "role"))
    assert "source_unknown" in set(seen["role"])


def test_each_warning_about_a_source_is_shown_once_a_run(study: Study, tmp_path: Path):
    maps = write_maps(tmp_path / "maps", _lab_network().state_dict(), "Conv4_FC3", n_splits=2)
    for path in list(maps.glob("split-*/*/model.pth.tar")):
        for number in range(3):
            shutil.copy(path, path.with_name(f"network-{number}_model.pth.tar"))
        path.unlink()
    run = experiment(study, multi=True, trainer=STILL, transfer_from=maps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.run(tmp_path / "results")
    beginnings = ["participants that the source has seen", "output_order=None", "other parts of the image"]
    assert [sum(text in str(one.message) for one in caught) for text in beginnings] == [1, 1, 1]
    assert len(caught) == 3
    run.run(tmp_path / "results")  # nothing is trained, and a warning would be an error


def test_a_warning_mentions_the_order_of_outputs_if_it_differs_from_clinicadls(tmp_path: Path):
    state = nc.create_model("Conv4_FC3_v1", (1, 16, 16, 16)).state_dict()
    maps = write_maps(tmp_path / "maps", state, "Conv4_FC3")
    with pytest.warns(UserWarning, match=r"in an experiment, use classes=\['AD', 'CN'\]"):
        transfer_source.warn_of_output_order(maps, 0, None, "best_loss", ("CN", "AD"))
    # A warning would be an error here.
    transfer_source.warn_of_output_order(maps, 0, None, "best_loss", ("AD", "CN"))
    found = transfer_source.weights(maps, 0, None, "best_loss")
    assert torch.equal(list(found.values())[-1], list(state.values())[-1])

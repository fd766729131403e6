"""Any value for any argument of a public function is accepted, or refused with an error of neurocnn.

The calls below are valid. Each argument of each call is replaced by values of other kinds in turn.
"""

import dataclasses
import inspect
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

import neurocnn as nc
from neurocnn.errors import NeurocnnError
from neurocnn.nn import architectures

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

SHAPE = (9, 10, 9)
#: Functions that create values which few arguments accept; each call needs a new value, because generators are used up.
HOSTILE: dict[str, Callable[[], object]] = {
    "None": lambda: None,
    "text": lambda: "nonsense",
    "empty text": lambda: "",
    "a positive number": lambda: 3,
    "zero": lambda: 0,
    "a negative number": lambda: -1,
    "NaN": lambda: math.nan,
    "a list of numbers": lambda: [1, 2],
    "a list of text": lambda: ["a", "b"],
    "an empty list": list,
    "a set": lambda: {"a", "b"},
    "a dict": lambda: {"a": 1},
    "a generator": lambda: (letter for letter in "ab"),
    "a class": lambda: dict,
    "an object": object,
    "a table": lambda: pd.DataFrame({"a": [1, 2]}),
    "a series": lambda: pd.Series([1.0, 2.0]),
    "a tensor": lambda: torch.ones(2),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return values for the arguments of all calls, as small as possible."""
    folder = tmp_path_factory.mktemp("world")
    labels = nc.make_caps(folder / "caps", n_participants=8, preprocessing="t1-volume", shape=SHAPE, seed=0)
    caps = nc.Caps(folder / "caps", "t1-volume")
    rest, test = nc.holdout(labels, fraction=0.25, stratify=["diagnosis"])
    splits = nc.kfold(rest, n_splits=2, stratify=["diagnosis"])
    task = nc.classification("diagnosis", classes=["CN", "AD"])
    patches = nc.Patch(size=6, stride=3)
    dataset = nc.CapsDataset(caps, splits[0].train, patches, "diagnosis")
    validation = nc.CapsDataset(caps, splits[0].validation, patches, "diagnosis")
    model = nc.create_model("Conv3_FC1", dataset.input_shape)
    trainer = nc.Trainer(epochs=1, batch_size=4)
    experiment = nc.Experiment(caps, splits, patches, task, "Conv3_FC1", trainer)
    results = experiment.run(folder / "results")
    autoencoders = nc.Experiment(caps, splits, patches, nc.reconstruction(), "Conv5_FC3", trainer)
    codes = autoencoders.run(folder / "autoencoders", splits=[0])
    nc.write_table(labels, folder / "labels.tsv")
    nc.write_table(labels[["participant_id"]], folder / "bids/participants.tsv")
    for row in labels.itertuples():
        (folder / "bids" / row.participant_id / row.session_id).mkdir(parents=True)
    nc.write_splits(splits, folder / "splits")
    mask = folder / "mask.nii.gz"
    import nibabel

    voxels = torch.zeros(SHAPE, dtype=torch.uint8)
    voxels[2:7, 2:7, 2:7] = 1
    nibabel.save(nibabel.Nifti1Image(voxels.numpy(), caps.affine(*labels.iloc[0, :2])), mask)
    paths = labels.assign(t1=[caps.path(*ids) for ids in labels[["participant_id", "session_id"]].to_numpy()])
    (folder / "again").mkdir()
    paths["again"] = [shutil.copy(path, folder / "again") for path in paths["t1"]]
    images = nc.Images(paths, columns=["t1", "again"])
    who = dict(labels.iloc[0][["participant_id", "session_id"]])
    weights = next((folder / "results").rglob("model_best.pth.tar"))
    predictions = nc.predict(model, task, validation)
    names = locals()
    return SimpleNamespace(**names, roi=nc.Roi({"a": ((1, 7), (1, 7), (1, 7))}), image=caps.read(**who))


Call = tuple[Callable[..., Any], dict[str, Any]]


def calls_of_networks(w: SimpleNamespace) -> dict[str, Call]:
    sequence = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3))
    window = {"kernel_size": 2, "stride": 2}
    flags = {"return_indices": True, "return_pad": True}
    return {
        "CNN": (nc.CNN, {"convolutions": sequence, "fc": torch.nn.Flatten()}),
        "CNN_Transformer": (nc.CNN_Transformer, {"cnn": w.model}),
        "PadMaxPool2d": (nc.PadMaxPool2d, window | flags),
        "PadMaxPool3d": (nc.PadMaxPool3d, window | flags),
        "CropMaxUnpool2d": (nc.CropMaxUnpool2d, window),
        "CropMaxUnpool3d": (nc.CropMaxUnpool3d, window),
        "create_model": (nc.create_model, {"architecture": "Conv3_FC1", "input_shape": (1, 9, 9, 9)}),
        "describe": (nc.describe, {"architecture": "Conv3_FC1", "input_size": "1@9x9x9"}),
        "list_models": (nc.list_models, {}),
        "hookimpl": (nc.hookimpl, {"function": architectures.neurocnn_architectures}),
        "read_weights": (nc.read_weights, {"path": w.weights}),
        "transfer_weights": (nc.transfer_weights, {"source": w.model, "target": w.model}),
    }


def calls_of_images(w: SimpleNamespace) -> dict[str, Call]:
    of_roi = {"shape": SHAPE, "part_id": 0}
    return {
        "Caps": (nc.Caps, {"root": w.folder / "caps", "preprocessing": "t1-volume"}),
        "Caps.affine": (w.caps.affine, w.who),
        "Caps.fingerprints": (w.caps.fingerprints, {"sessions": w.labels}),
        "Caps.known_affine": (w.caps.known_affine, w.who),
        "Caps.check": (w.caps.check, {"sessions": w.labels}),
        "Caps.match": (w.caps.match, {"table": w.labels}),
        "thumbnails": (nc.plotting.thumbnails, {"caps": w.caps, "checked": w.labels, "n": 1}),
        "Caps.check_cohorts": (w.caps.check_cohorts, {"names": []}),
        "Caps.path": (w.caps.path, w.who),
        "Caps.prepare": (w.caps.prepare, {"sessions": w.labels.head(1), "parts": w.patches}),
        "Caps.read": (w.caps.read, w.who),
        "Caps.sessions": (w.caps.sessions, {}),
        "Caps.shape": (w.caps.shape, w.who),
        "Caps.locate": (w.caps.locate, {"sessions": w.labels}),
        "Caps.sources": (w.caps.sources, {"sessions": w.labels}),
        "Images": (nc.Images, {"table": w.paths, "columns": ["t1", "again"]}),
        **{
            f"Images.{name}": (getattr(w.images, name), given)
            for names, given in (
                (("affine", "known_affine", "read", "shape"), w.who),
                (("check", "fingerprints", "locate", "sources"), {"sessions": w.labels}),
                (("paths", "sessions"), {}),
                (("match",), {"table": w.labels}),
                (("check_cohorts",), {"names": []}),
                (("prepare",), {"sessions": w.labels.head(1), "parts": w.patches}),
            )
            for name in names
        },
        "CapsDataset": (nc.CapsDataset, {"caps": w.caps, "sessions": w.labels, "parts": w.patches}),
        "CapsDataset.fill": (w.dataset.fill, {"index": (0, 0), "out": torch.empty(w.dataset.input_shape)}),
        "CapsDataset.only_part": (w.dataset.only_part, {"part_id": 0}),
        "CapsDataset.without_augmentation": (w.dataset.without_augmentation, {}),
        "CapsDataset.with_seed": (w.dataset.with_seed, {"seed": 1}),
        "Custom": (nc.Custom, {"suffix": "_T1w.nii.gz"}),
        "FlairLinear": (nc.FlairLinear, {}),
        "PetLinear": (nc.PetLinear, {"tracer": "18FFDG", "region": "pons"}),
        "T1Extensive": (nc.T1Extensive, {}),
        "T1Linear": (nc.T1Linear, {}),
        "T1Volume": (nc.T1Volume, {}),
        "MinMax": (nc.MinMax, {}),
        "ZScore": (nc.ZScore, {}),
        "WholeImage": (nc.WholeImage, {}),
        "Patch": (nc.Patch, {"size": 6, "stride": 3}),
        "Slice": (nc.Slice, {"direction": 0}),
        "Roi": (nc.Roi, {"regions": {"a": ((1, 7), (1, 7), (1, 7))}}),
        "Roi.extract": (w.roi.extract, {"image": w.image, "part_id": 0}),
        "Roi.view": (w.roi.view, {"image": w.image, "part_id": 0}),
        "Roi.from_masks": (nc.Roi.from_masks, {"paths": [w.mask]}),
        "Roi.hippocampi": (nc.Roi.hippocampi, {}),
        "Roi.descriptor": (w.roi.descriptor, {"part_id": 0}),
        "Roi.mask": (w.roi.mask, {"part_id": 0}),
        "Roi.mask_headers": (w.roi.mask_headers, {}),
        "Roi.ids": (w.roi.ids, {"shape": SHAPE}),
        "Roi.place": (w.roi.place, of_roi),
        "make_caps": (
            nc.make_caps,
            {"folder": "made", "n_participants": 2, "preprocessing": "t1-volume", "shape": SHAPE},
        ),
    }


def calls_of_tables(w: SimpleNamespace) -> dict[str, Call]:
    return {
        "Split": (nc.Split, {"index": 0, "train": w.splits[0].train, "validation": w.splits[0].validation}),
        "balanced": (nc.balanced, {"sessions": w.labels, "tolerance": 40}),
        "holdout": (nc.holdout, {"sessions": w.labels, "fraction": 0.5}),
        "kfold": (nc.kfold, {"sessions": w.labels, "n_splits": 2}),
        "leave_one_group_out": (nc.leave_one_group_out, {"sessions": w.labels, "column": "sex"}),
        "population": (nc.population, {"sessions": w.labels}),
        "progression": (nc.progression, {"table": w.labels, "months": 12}),
        "read_bids": (nc.read_bids, {"folder": w.folder / "bids"}),
        "read_splits": (nc.read_splits, {"path": w.folder / "splits"}),
        "read_table": (nc.read_table, {"path": w.folder / "labels.tsv"}),
        "write_splits": (nc.write_splits, {"splits": w.splits, "folder": "splits"}),
        "write_table": (nc.write_table, {"frame": w.labels, "path": "table.tsv"}),
        "average": (nc.average, {"predictions": w.predictions.drop(columns=["proba0", "proba1"])}),
        "hard_vote": (nc.hard_vote, {"predictions": w.predictions}),
        "soft_vote": (nc.soft_vote, {"predictions": w.predictions}),
        "part_weights": (nc.part_weights, {"validation_predictions": w.predictions}),
    }


def calls_of_trainings(w: SimpleNamespace) -> dict[str, Call]:
    experiment = {"caps": w.caps, "splits": w.splits, "parts": w.patches, "task": w.task}
    data = {"model": w.model, "task": w.task}
    return {
        "Task": (lambda **changes: dataclasses.replace(w.task, **changes), {}),
        "classification": (nc.classification, {}),
        "regression": (nc.regression, {}),
        "reconstruction": (nc.reconstruction, {}),
        "Trainer": (nc.Trainer, {}),
        "Trainer.fit": (w.trainer.fit, data | {"train": w.dataset, "validation": w.validation}),
        "predict": (nc.predict, data | {"dataset": w.validation}),
        "encode": (nc.encode, {"model": w.codes.load_model(0), "dataset": w.validation}),
        "Experiment": (nc.Experiment, experiment | {"architecture": "Conv3_FC1"}),
        "Experiment.load": (nc.Experiment.load, {"folder": w.folder / "results"}),
        "search": (
            nc.search,
            {
                "experiment": dataclasses.replace(w.experiment, task=nc.regression("age")),
                "space": {"learning_rate": [1e-3]},
                "n_trials": 1,
                "folder": w.folder / "search",
            },
        ),
        "Experiment.run": (w.experiment.run, {"folder": w.folder / "results"}),
    }


def calls_of_results(w: SimpleNamespace) -> dict[str, Call]:
    new = {"caps": w.caps, "sessions": w.test}
    return {
        "Results": (nc.Results, {"folder": w.folder / "results"}),
        "Results.encode": (w.codes.encode, new),
        "compare": (nc.compare, {"results_a": w.results, "results_b": w.results, "dataset": "validation"}),
        "leaderboard": (nc.leaderboard, {"folders": w.folder / "results"}),
        "Results.by_group": (w.results.by_group, {"by": "sex", "dataset": "validation"}),
        "Results.calibrate": (w.results.calibrate, {}),
        "Results.calibration": (w.results.calibration, {"dataset": "validation"}),
        "Results.confounds": (w.results.confounds, {}),
        "Results.reliability": (w.results.reliability, {"dataset": "validation"}),
        "Results.vote": (w.results.vote, {}),
        "Results.explain": (w.results.explain, new | {"method": "gradient"}),
        "Results.explain_randomized": (w.results.explain_randomized, new | {"method": "gradient"}),
        "Results.explanation": (w.results.explanation, {"method": "gradient"}),
        "explanation": (nc.plotting.explanation, {"results": w.results, "method": "gradient"}),
        "Results.history": (w.results.history, {}),
        "Results.load_model": (w.results.load_model, {"split": 0}),
        "Results.metrics": (w.results.metrics, {}),
        "Results.part_map": (w.results.part_map, {}),
        "Results.predict": (w.results.predict, new | {"name": "test"}),
        "Results.operating_point": (w.results.operating_point, {}),
        "Results.predictions": (w.results.predictions, {}),
        "Results.summary": (w.results.summary, {}),
        "Results.setting": (w.results.setting, {"name": "multi"}),
    }


GROUPS = [calls_of_networks, calls_of_images, calls_of_tables, calls_of_trainings, calls_of_results]
NAMES = {make.__name__: make for make in GROUPS}
#: Classes that only the library creates.
NOT_CALLED = {"Training", "TrainingState"}


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def parameters(call: Callable[..., Any], given: dict[str, Any]) -> list[str]:
    if call.__name__ == "<lambda>":
        return [field.name for field in dataclasses.fields(nc.Task)]
    kinds = inspect.Parameter
    return [
        name
        for name, parameter in inspect.signature(call).parameters.items()
        if parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    ]


def failure(call: Callable[..., Any], arguments: dict[str, Any]) -> str | None:
    """Return an error that is not a `NeurocnnError` as text; None if there is no such error."""
    try:
        call(**arguments)
    except NeurocnnError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    return None


@pytest.mark.parametrize("group", NAMES)
def test_an_argument_of_an_unexpected_type_is_refused_or_accepted(
    group: str, world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failures = []
    for name, (call, given) in NAMES[group](world).items():
        call(**given)
        for parameter in parameters(call, given):
            for kind, make in HOSTILE.items():
                found = failure(call, given | {parameter: make()})
                if found is not None:
                    failures.append(f"{name}({parameter}={kind}): {found}")
    assert not failures, f"{len(failures)}:\n" + "\n".join(failures)


@pytest.mark.parametrize("group", NAMES)
def test_swapped_arguments_are_refused_or_accepted(
    group: str, world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failures = []
    for name, (call, given) in NAMES[group](world).items():
        for first, second in zip(list(given), list(given)[1:], strict=False):
            found = failure(call, given | {first: given[second], second: given[first]})
            if found is not None:
                failures.append(f"{name}({first} <-> {second}): {found}")
    assert not failures, f"{len(failures)}:\n" + "\n".join(failures)


def test_this_file_calls_every_public_function(world: SimpleNamespace) -> None:
    called = {name for make in GROUPS for name in make(world)}
    public = {name for name in nc.__all__ if callable(getattr(nc, name)) and not is_error(getattr(nc, name))}
    assert public - NOT_CALLED <= called
    for owner in (nc.Caps, nc.Images, nc.CapsDataset, nc.Trainer, nc.Experiment, nc.Results, nc.Roi):
        methods = {
            f"{owner.__name__}.{name}"
            for name, method in inspect.getmembers(owner, inspect.isroutine)
            if not name.startswith("_") and method.__module__.startswith("neurocnn")
        }
        assert methods - called == set()

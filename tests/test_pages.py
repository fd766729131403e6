"""The code of each page of the documentation runs in the order of the page."""

import json
import logging
import re
import runpy
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
import torch
from clinicadl_files import write_maps, write_new_split, write_old_set
from pages import PAGES, ROOT, blocks, name_of, run

import neurocnn as nc

SHAPE = (50, 50, 50)  # Shape of the images in `folder`.
SKIPPED = "python skip"

#: First lines of the blocks that are not run, by page.
NOT_RUN: dict[str, list[str]] = {}


@pytest.fixture(scope="module")
def large_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images of full size, for pages whose regions need this size."""
    caps = tmp_path_factory.mktemp("large") / "caps"
    nc.make_caps(caps, n_participants=12, preprocessing="t1-volume", seed=0)
    return caps


def tables(splits: list[nc.Split]) -> list[list[str]]:
    """Return the participants of each validation set."""
    return [sorted(split.validation["participant_id"]) for split in splits]


def add_an_architecture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "docs/how-to/add-an-architecture.md"
    names = run(page)
    results = nc.Results(folder / "results", architecture=names["two_blocks"])
    assert results.splits == [0, 1, 2]
    with pytest.raises(nc.NeurocnnError, match="architecture=…"):
        nc.Results(folder / "results").load_model(split=0)
    # `test_plugins.py` installs the package that the page shows, so only its files are compared here.
    shown = [*blocks(ROOT / page, "python"), *blocks(ROOT / page, "toml")]
    for name in ("neurocnn_tinycnn.py", "pyproject.toml"):
        file = ROOT / "plugins_example" / name
        assert f"# plugins_example/{name}\n{file.read_text(encoding='utf-8')}" in shown


def layers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("docs/concepts/layers.md")
    validation = nc.kfold(nc.read_table("labels.tsv"), 5, ["diagnosis", "sex", "age"], seed=0)[0].validation
    for table in (names["by_part"], names["by_image"]):  # Each image of this test has a single patch.
        assert table["participant_id"].tolist() == validation["participant_id"].tolist()  # type: ignore[index]


def result_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = nc.kfold(nc.read_table("labels.tsv"), 2, "diagnosis")
    patches, task = nc.Patch(size=25, stride=25), nc.classification()
    nc.Experiment(nc.Caps("caps"), splits, patches, task, "Conv3_FC1").run("results", splits=[0])
    results = run("docs/concepts/result-folder.md")["results"]
    assert len(results.predictions(level="part")) == 8 * len(results.predictions())  # type: ignore[attr-defined]
    assert results.selections[-1] == "best_balanced_accuracy"  # type: ignore[attr-defined]


def job_array(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = blocks(ROOT / "docs/how-to/job-array.md", "sh")
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", script).groups())  # type: ignore[union-attr]
    for task in (last, first):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        run("docs/how-to/job-array.md")
    # Each split has exactly one task.
    assert nc.Results(folder / "results").splits == [first, last]
    assert nc.Results(folder / "results").settings["splits"] == list(range(first, last + 1))


class FakeMlflow(ModuleType):
    """Replacement of MLflow with the functions that the page uses: one run at a time, with numbers as metrics."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.run: str | None = None
        self.begun: list[str | None] = []
        self.steps: list[int] = []

    def start_run(self, run_id: str | None = None) -> SimpleNamespace:
        assert self.run is None, "a run is active already"
        self.run = run_id or f"run-{len(self.begun)}"
        self.begun.append(run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=self.run))

    def end_run(self) -> None:
        self.run = None

    def log_params(self, params: dict[str, object]) -> None:
        assert self.run is not None

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        assert self.run is not None
        assert all(float(value) == value for value in metrics.values())
        self.steps.append(step)


class FakeWandb(ModuleType):
    """Replacement of Weights & Biases with the functions that the page uses: runs by id, with their logged steps."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.steps: dict[str, list[int]] = {}

    def init(self, *, id: str, group: str, resume: str, reinit: str) -> SimpleNamespace:
        steps = self.steps.setdefault(id, [])
        return SimpleNamespace(log=lambda metrics, step: steps.append(step))


def log_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = FakeMlflow()
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("RANK", raising=False)
    caps, splits = nc.Caps("caps"), nc.kfold(nc.read_table("labels.tsv"), 2, "diagnosis")
    train, validation = (
        nc.CapsDataset(caps, rows, label="diagnosis") for rows in (splits[0].train, splits[0].validation)
    )
    cnn, task = nc.create_model("Conv3_FC1", train.input_shape), nc.classification()
    names = {"trainer": nc.Trainer(), "cnn": cnn, "task": task, "train": train, "validation": validation}
    names = run("docs/how-to/log-elsewhere.md", names)
    # The last block continues the run of the previous training.
    assert mlflow.begun == [None, "run-0"]
    assert mlflow.steps == nc.read_table("results/fold-0/training.tsv", required=())["iteration"].tolist()
    assert len(names["callbacks"]) == 1  # type: ignore[arg-type]
    # Each split has its own run, whose steps increase.
    experiment = nc.Experiment(caps, splits, nc.WholeImage(), task, "Conv3_FC1", nc.Trainer(epochs=2))
    history = experiment.run("results/study", callbacks=[names["LogToWandb"]("study")]).history()  # type: ignore[operator]
    expected = {
        f"study-split-{split}-network-None": rows["iteration"].tolist()
        for split, rows in history.groupby("split")
    }
    assert wandb.steps == expected
    monkeypatch.setenv("RANK", "1")
    mlflow.end_run()
    assert eval(blocks(ROOT / "docs/how-to/log-elsewhere.md", "python")[-1].partition("= ")[2], names) == []


def prepare_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("docs/how-to/prepare-images.md")
    for kind in ("image_based", "patch_based"):
        found = list(folder.glob(f"caps/subjects/*/*/deeplearning_prepare_data/{kind}/t1_linear/*.pt"))
        assert len(found) == 10
    voxels = torch.load(found[0], weights_only=True)
    assert (voxels.dtype, voxels.shape) == (torch.float32, (1, *SHAPE))
    assert names["caps"].cache_bytes == 2**30  # type: ignore[attr-defined]


def read_labels_and_splits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = nc.read_table("labels.tsv")
    old, new = (nc.kfold(labels, 5, "diagnosis", seed=seed) for seed in (1, 2))
    for split in old:
        for name, rows in (("train", split.train), ("validation", split.validation)):
            write_old_set(folder / f"labels_lists/train/{name}_splits-5/split-{split.index}", rows)
    for split in new:
        write_new_split(folder / f"labels/5_fold/split-{split.index}", split.train, split.validation)
    paths = {"old": "labels_lists/train", "new": "labels/5_fold"}
    cohorts = pd.DataFrame({"cohort": list(paths), "path": list(paths.values()), "diagnoses": "AD,CN"})
    nc.write_table(cohorts, "cohorts.tsv")
    for name in ("sub-01", "sub-02"):
        rows = {
            "session_id": ["ses-M000", "ses-M036"],
            "diagnosis": ["MCI", "AD" if name == "sub-01" else "MCI"],
        }
        nc.write_table(pd.DataFrame(rows), folder / f"bids/{name}/{name}_sessions.tsv")
    nc.write_table(
        pd.DataFrame({"participant_id": ["sub-01", "sub-02"], "sex": "F"}), "bids/participants.tsv"
    )
    read: list[list[nc.Split]] = []
    reader = nc.read_splits
    other_names = {
        "participant_id": "subject", "session_id": "visit", "diagnosis": "DX", "age": "AGE", "sex": "PTGENDER",
    }  # fmt: skip
    nc.write_table(labels.rename(columns=other_names), "own.tsv")
    monkeypatch.setattr(nc, "read_splits", lambda *a, **b: read.append(reader(*a, **b)) or read[-1])
    names = run("docs/how-to/read-labels-and-splits.md")
    assert [tables(splits) for splits in read[:2]] == [tables(old), tables(new)]
    assert tables(read[2]) == [sorted(a + b) for a, b in zip(tables(old), tables(new), strict=True)]
    assert set(names["own"]["participant_id"]) == set(labels["participant_id"])  # type: ignore[index]
    assert names["mci"][["diagnosis", "sex"]].to_numpy().tolist() == [["pMCI", "F"], ["sMCI", "F"]]  # type: ignore[index]
    assert tables(reader("my_splits")) == tables(names["splits"])  # type: ignore[arg-type]


def read_the_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rest, test = nc.holdout(nc.read_table("labels.tsv"), 0.4, "diagnosis")
    rest, mci = nc.holdout(rest, 0.3, "diagnosis")
    nc.write_table(mci.assign(diagnosis="MCI"), "mci.tsv")
    splits, caps = nc.kfold(rest, 2, "diagnosis"), nc.Caps("caps")
    for name, seed in (("cnn", 0), ("transfer", 1)):
        trainer = nc.Trainer(seed=seed)
        experiment = nc.Experiment(caps, splits, nc.Patch(25, 25), nc.classification(), "Conv3_FC1", trainer)
        experiment.run(f"results/{name}").predict(caps, test, name="test")
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # With few participants, it is possible that no part exceeds the threshold.
        patch.setattr(logging.getLogger("neurocnn"), "disabled", True)
        names = run("docs/how-to/read-the-results.md")
    assert len(names["ensemble"]) == len(test)  # type: ignore[arg-type]
    assert names["pairs"]["pair"].nunique() > 0  # type: ignore[index]
    recorded = json.loads(Path("results/cnn/vote.json").read_text())["operating_points"]
    thresholds = recorded["best_balanced_accuracy"]["thresholds"].values()
    assert names["threshold"] == pytest.approx(sum(thresholds) / 2)
    assert names["people"]["participant_id"].tolist() == mci["participant_id"].tolist()  # type: ignore[index]
    assert "temperature" not in names["people"]  # type: ignore[operator]  # Its probabilities are uncalibrated.
    with pytest.raises(nc.TableError, match="or drop the column 'diagnosis' to predict without metrics"):
        nc.Results("results/cnn").predict(caps, mci.assign(diagnosis="MCI"), name="labelled")


def start_from_clinicadl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = nc.read_table("labels.tsv")
    nc.write_table(labels.tail(2), "new.tsv")
    for split in nc.kfold(labels.head(8), 2, "diagnosis"):
        write_new_split(
            folder / f"labels/2_fold/split-{split.index}", split.train, split.validation, label=False
        )
    shutil.copy("labels.tsv", "labels/labels.tsv")
    network = nc.create_model("Conv4_FC3_v1", (1, *SHAPE))
    write_maps(folder / "maps", network.state_dict(), "Conv4_FC3", n_splits=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = run("docs/how-to/start-from-clinicadl.md")
    # Only the warning that the page describes is expected: these classes are sorted, so their order is correct.
    assert {re.search("participants that the source has seen|sorts its labels", str(w.message))[0] for w in caught} == {
        "participants that the source has seen"
    }  # fmt: skip
    assert nc.Results("results/cnn").splits == [0, 1]
    assert set(nc.Results("results/patch").predictions(dataset="new")["participant_id"]) == {
        *labels["participant_id"].tail(2)
    }
    assert nc.Results("results/age").splits == [0]
    dataset = nc.CapsDataset(nc.Caps("caps"), labels.tail(2), nc.Patch(50, 50))
    with torch.no_grad():
        logits = network.eval()(torch.stack([dataset[row]["image"] for row in (0, 1)]))
    for name in ("predictions", "images"):  # Each image of this test has a single patch.
        found = names[name][["proba0", "proba1"]].to_numpy()  # type: ignore[index]
        assert found == pytest.approx(logits.softmax(1).numpy(), abs=1e-6)
    assert names["task"].classes == ("AD", "CN")  # type: ignore[attr-defined]


def run_on_a_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `test_clusters.py` runs all scripts of this page. Each of them imports the first script.
    study, *scripts = blocks(ROOT / "docs/how-to/run-on-a-cluster.md", "python")
    assert len(scripts) == 7
    assert all("\nfrom study import experiment\n" in script for script in scripts)
    names: dict[str, object] = {}
    exec(compile(study, "study.py", "exec"), names)
    assert isinstance(names["experiment"], nc.Experiment)


def train_on_a_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch, page: str = "cpu") -> None:
    run(f"docs/how-to/train-on-a-{page}.md")
    assert len(list(folder.rglob("deeplearning_prepare_data/image_based/t1_linear/*.pt"))) == 10
    history = nc.Results(f"results/{page}").history()
    assert history["train_loss"].isna().all()
    assert history["validation_loss"].notna().all()


def train_on_a_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_on_a_cpu(folder, monkeypatch, "gpu")
    assert nc.Results("results/gpu").settings["trainer"]["precision"] == "bfloat16"


def train_on_several_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("docs/how-to/train-on-several-gpus.md")
    history = nc.read_table("results/fold-0/training.tsv", required=())
    assert len(history) == 1
    assert names["trainer"].precision == "bfloat16"  # type: ignore[attr-defined]


RUNS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    f"docs/{folder}/{test.__name__.replace('_', '-')}.md": test
    for folder, tests in {
        "concepts": (layers, result_folder),
        "how-to": (
            add_an_architecture,
            job_array,
            log_elsewhere,
            prepare_images,
            read_labels_and_splits,
            read_the_results,
            run_on_a_cluster,
            start_from_clinicadl,
            train_on_a_cpu,
            train_on_a_gpu,
            train_on_several_gpus,
        ),
    }.items()
    for test in tests
}


#: The code of these pages is compared with values that are computed on the CPU.
CPU = {"docs/how-to/start-from-clinicadl.md"}


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.cpu] * (page in CPU)) for page in RUNS]
)
def test_the_code_of_a_page_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, in_short: None):
    RUNS[page](folder, monkeypatch)


def test_the_readmes_script_runs(
    large_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_short: None, capsys
):
    shutil.copytree(large_images, tmp_path / "caps")
    shutil.copy(large_images / "labels.tsv", tmp_path)
    monkeypatch.chdir(tmp_path)
    results = run("README.md")["results"]
    assert results.splits == [0, 1, 2]  # type: ignore[attr-defined]
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[-6:]] == ["0", "1", "2", "mean", "std", "ensemble"]


def test_the_quickstart_runs(
    large_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_short: None, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(large_images, "neurocnn-quickstart/caps")
    make = nc.make_caps
    monkeypatch.setattr(nc, "make_caps", lambda *where, n_participants, **how: make(*where, 12, **how))
    runpy.run_path(str(ROOT / "docs/tutorials/quickstart.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "Balanced accuracy on 4 held-out participants" in shown
    assert re.search(r"Pretraining (helps|does not help) here: balanced accuracy [01]\.\d+ without it", shown)
    assert Path("neurocnn-quickstart/reconstruction.png").is_file()
    picture = shown.split()[-1]
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


def test_only_the_listed_blocks_are_not_run():
    everything = [
        page.read_text(encoding="utf-8") for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    ]
    kinds = {kind for text in everything for kind in re.findall(r"^ *```(.*)$", text, re.MULTILINE)}
    directives = {kind for kind in kinds if kind.startswith("{")}
    assert {kind.partition(" ")[0] for kind in directives} <= {"{toctree}", "{include}"}
    assert kinds - directives <= {"", "python", SKIPPED, "sh", "bash", "toml", "r"}
    skipped = {name_of(page): [text.splitlines()[0] for text in blocks(page, SKIPPED)] for page in PAGES}
    assert {page: lines for page, lines in skipped.items() if lines} == NOT_RUN

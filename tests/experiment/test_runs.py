"""A result folder has the same content if its run was killed or used several processes, ranks or cohorts."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from studies import PARTS, TASKS, TRAINER, Study, experiment

import neurocnn as nc
from neurocnn.data import balance, reader
from neurocnn.experiment import resuming

SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
import neurocnn as nc
if __name__ == "__main__":
    caps = nc.Caps(sys.argv[1], "t1-volume")
    labels = nc.read_table(sys.argv[1] + "/labels.tsv")
    experiment = nc.Experiment(
        caps, nc.kfold(labels, n_splits=2, stratify=["diagnosis"], seed=0), nc.Patch(9, 11),
        nc.classification("diagnosis", classes=["CN", "AD"]), "Conv3_FC1",
        nc.Trainer(epochs=2, batch_size=4, learning_rate=1e-3, checkpoint_seconds=0),
        multi=True, options={"dropout": 0.5},
    )
    print("ready", flush=True)
    experiment.run(sys.argv[2])
    print("done", flush=True)
"""


def _run(script: Path, study: Study, folder: Path, seconds: float | None) -> tuple[int, float]:
    """Run the script, kill it some seconds after it is ready, and return its exit status and its duration."""
    command = [sys.executable, str(script), str(study.caps.root), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = folder.with_suffix(".log")
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", log.read_text()
            began = time.monotonic()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
    assert process.returncode in (0, -signal.SIGKILL), log.read_text()
    return process.returncode, time.monotonic() - began


def _numbers(folder: Path) -> dict[str, object]:
    """Return all tables without times, and the weights of the best models."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*.tsv")):
        table = pd.read_csv(path, sep="\t").drop(columns="time", errors="ignore")
        found[str(path.relative_to(folder))] = table.to_csv(index=False)
    for path in sorted(folder.rglob("*.pth.tar")):
        state = torch.load(path, weights_only=True)["model"]
        found[str(path.relative_to(folder))] = {name: t.tolist() for name, t in state.items()}
    return found


@pytest.mark.cpu
@pytest.mark.parametrize("n_kills", [1, pytest.param(30, marks=pytest.mark.on_demand)])
def test_a_run_that_is_killed_repeatedly_ends_like_an_uninterrupted_one(
    study: Study, tmp_path: Path, n_kills: int
):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    _, duration = _run(script, study, tmp_path / "whole", None)
    dice = random.Random(0)
    for _ in range(n_kills):
        _run(script, study, tmp_path / "broken", dice.uniform(0, duration / 2))
    assert _run(script, study, tmp_path / "broken", None)[0] == 0
    assert _numbers(tmp_path / "broken") == _numbers(tmp_path / "whole")
    assert not list((tmp_path / "broken").glob("fold-*/state"))


def test_a_second_process_gets_an_error_that_names_the_first_and_changes_nothing(
    study: Study, tmp_path: Path
):
    script, folder = tmp_path / "script.py", tmp_path / "results"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(study.caps.root), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        while not (folder / "fold-0/state/cnn-0.lock").exists():
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)  # the first process is in the middle of its training
        second = subprocess.run(command, capture_output=True, text=True, env=environment)
        first.send_signal(signal.SIGCONT)
        assert first.stdout.read() == "done\n"
    assert second.returncode != 0
    assert "InUseError" in second.stderr
    assert f'"pid": {first.pid}' in second.stderr
    assert nc.Results(folder).splits == [0, 1]


RANKS_SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
import neurocnn as nc

def build(input_shape, n_outputs):
    # The network has no batch norm, because each rank would normalise with its own samples.
    convolutions = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.ReLU(), nc.PadMaxPool3d(2, 2))
    size = convolutions(torch.zeros(1, *input_shape)).numel()
    return nc.CNN(convolutions, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, n_outputs)))

if __name__ == "__main__":
    caps = nc.Caps(sys.argv[1], "t1-volume")
    labels = nc.read_table(sys.argv[1] + "/labels.tsv")
    results = nc.Experiment(
        caps, nc.kfold(labels.iloc[:13], n_splits=2, stratify=["diagnosis"], seed=0), nc.Patch(9, 11),
        nc.classification("diagnosis", classes=["CN", "AD"]), build,
        nc.Trainer(epochs=2, batch_size=4, learning_rate=1e-3, device="cpu"), multi=sys.argv[3] == "multi",
    ).run(sys.argv[2], splits=[0])
    results.predict(caps, labels.iloc[13:], name="test")
"""


@pytest.mark.cpu
@pytest.mark.parametrize("networks", ["single", "multi"])
def test_two_ranks_write_the_same_tables_as_one_process(study: Study, tmp_path: Path, networks: str):
    script = tmp_path / "script.py"
    script.write_text(RANKS_SCRIPT)
    ways = {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"],
    }
    for name, command in ways.items():
        arguments = [str(script), str(study.caps.root), str(tmp_path / name), networks]
        ended = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    paths = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.tsv")}
    assert paths == {path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*.tsv")}
    for path in paths:
        tables = [pd.read_csv(tmp_path / name / path, sep="\t") for name in ways]
        one, two = (table.drop(columns="time", errors="ignore") for table in tables)
        pd.testing.assert_frame_equal(one, two, check_exact=False, rtol=0, atol=1e-5)


def test_image_files_are_opened_once_per_pass_for_any_number_of_networks(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []
    decode = reader.decode

    def counted(source):
        opened.append(source.stem)
        return decode(source)

    monkeypatch.setattr(reader, "decode", counted)
    split = study.splits[0]
    n_images = len(split.train) + len(split.validation)
    # The cache holds one image, so that an image is opened again when it is requested again.
    caps = nc.Caps(study.caps.root, "t1-volume", cache_bytes=4 * 18 * 20 * 18 + 1)
    run = nc.Experiment(
        caps, [split], PARTS["patch"], TASKS["classification"], "Conv3_FC1", TRAINER, multi=True
    )
    run.run(tmp_path)
    # An epoch opens images once to train and once to evaluate; the best models use the epoch's predictions.
    expected = len(split.train) * 2 + len(split.validation)
    # A data set also opens its first image when it is created.
    assert expected <= len(opened) <= expected + 2 * 2
    assert len(set(opened)) == n_images


def test_cohorts_keep_their_names_and_participants(cohort_study: Study, tmp_path: Path):
    split = cohort_study.splits[0]
    results = nc.Experiment(
        cohort_study.caps, [split], PARTS["roi"], TASKS["classification"], "Conv3_FC1", TRAINER
    ).run(tmp_path)
    seen = nc.read_table(tmp_path / "fold-0/seen.tsv", required=("participant_id", "role"))
    assert seen["cohort"].value_counts().to_dict() == {"ADNI": 8, "AIBL": 8}
    expected = set(map(tuple, split.validation[["cohort", "participant_id"]].to_numpy()))
    for level in ("part", "image"):
        table = results.predictions(level)
        assert set(map(tuple, table[["cohort", "participant_id"]].to_numpy())) == expected


def test_an_error_names_cohorts_that_only_one_table_contains(cohort_study: Study, tmp_path: Path):
    labels = cohort_study.labels
    splits = nc.kfold(labels[labels["cohort"] == "ADNI"], n_splits=2, seed=0)
    run = nc.Experiment(
        cohort_study.caps, splits, PARTS["roi"], TASKS["classification"], "Conv3_FC1", TRAINER
    )
    with pytest.raises(nc.NeurocnnError, match="AIBL only in the images"):
        run.run(tmp_path / "results")


@pytest.mark.cpu
def test_the_error_on_a_full_disk_names_the_path_and_a_second_run_resumes(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from neurocnn import storage

    write, left = storage.write_table, [12]

    def full(frame, path):
        if left[0] == 0:
            raise OSError(28, "No space left on device", str(path))
        left[0] -= 1
        write(frame, path)

    monkeypatch.setattr(storage, "write_table", full)
    with pytest.raises(OSError, match="No space left") as caught:
        experiment(study).run(tmp_path / "full")
    assert str(tmp_path) in str(caught.value.filename)
    left[0] = 10**6
    experiment(study).run(tmp_path / "full")
    experiment(study).run(tmp_path / "whole")
    assert _numbers(tmp_path / "full") == _numbers(tmp_path / "whole")


def test_repeated_folds_predict_each_person_once_per_repeat(study: Study, tmp_path: Path):
    splits = nc.kfold(study.labels, n_splits=2, repeats=2, groups="sex", visits="all")
    results = nc.Experiment(
        study.caps, splits, nc.WholeImage(), TASKS["classification"], "Conv3_FC1", TRAINER
    ).run(tmp_path / "results")
    assert results.splits == [0, 1, 2, 3]
    for split in splits:
        table = nc.read_table(tmp_path / f"results/fold-{split.index}/balance.tsv", required=["column"])
        expected = balance(split.train, split.validation)
        # Missing text is None in a file that was read, and NaN here, which pandas before 3 treats as different.
        for frame in (table, expected):
            text = frame.columns.difference(frame.select_dtypes("number").columns)
            frame[text] = frame[text].fillna("n/a")
        pd.testing.assert_frame_equal(table, expected, check_dtype=False, check_exact=True)
    answers = results.predictions().drop_duplicates(["split", "participant_id"])
    assert answers.groupby("participant_id").size().eq(2).all()
    assert results.metrics().index.tolist()[:4] == [0, 1, 2, 3]


def test_a_folder_that_another_process_starts_during_the_first_check_is_shared(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, is_file, started = tmp_path / "results", resuming.is_file, []

    def is_file_before_the_other_run(path: Path) -> bool:
        found = is_file(path)
        if not started:
            started.append(path)
            experiment(study).run(folder, splits=[0])
        return found

    monkeypatch.setattr(resuming, "is_file", is_file_before_the_other_run)
    results = experiment(study).run(folder, splits=[1])
    assert started[0].name == "commandline.json"
    assert repr(results).endswith("splits [0, 1] done")

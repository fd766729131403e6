"""The scripts of the page on clusters write the same folder as one process, even if a worker is killed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from pages import ROOT, blocks

import neurocnn as nc

pytestmark = pytest.mark.cpu
PAGE = ROOT / "docs/how-to/run-on-a-cluster.md"
SCRIPTS = {block.splitlines()[0].removeprefix("# "): block for block in blocks(PAGE, "python")}
NEEDS = {"on_processes.py": "concurrent", "on_joblib.py": "joblib", "on_dask.py": "distributed"}
NEEDS |= {"on_submitit.py": "submitit"}
#: Code that is appended to study.py to kill the process that is the first to end an epoch of split 1.
KILL = """
import functools, os, pathlib, signal

def kill_once(state):
    if state.epoch == 0 and not pathlib.Path("killed").exists():
        pathlib.Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)

class Killed:
    def __init__(self, experiment):
        self.experiment = experiment

    def run(self, folder, splits):
        callbacks = [kill_once] if splits == [1] else []
        return self.experiment.run(folder, splits=splits, callbacks=callbacks)

experiment = Killed(experiment)
"""


def run(script: str, folder: Path, *launcher: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'src'}"}
    command = [sys.executable, *launcher, script]
    return subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=500
    )


def write_study(folder: Path, images: Path, script: str, more: str = "") -> None:
    """Write the script and its study.py, to which the code `more` is appended, into a folder."""
    for name in ("caps", "labels.tsv"):
        (folder / name).symlink_to(images / name)
    study = SCRIPTS["study.py"].replace('"caps"', repr(str(images / "caps")))
    (folder / "study.py").write_text(study + more, encoding="utf-8")
    (folder / script).write_text(SCRIPTS[script], encoding="utf-8")


def content(results: Path) -> dict[str, object]:
    """Return the files of a result folder that must be equal: all except times, tensorboard logs and environments."""
    found: dict[str, object] = {}
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results).as_posix()
        if path.is_dir() or "tensorboard" in name or name.startswith("environment"):
            continue
        found[name] = path.read_bytes()
        if path.name == "training.tsv":
            table = nc.read_table(path, required=())
            found[name] = table.drop(columns="time").to_csv()
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    labels = nc.make_caps(folder / "caps", n_participants=20, shape=(16, 18, 16))
    nc.write_table(labels, folder / "labels.tsv")
    return folder


@pytest.fixture(scope="module")
def expected(images: Path) -> dict[str, object]:
    """Return the content of the folder that one process writes."""
    (images / "study.py").write_text(SCRIPTS["study.py"], encoding="utf-8")
    (images / "one.py").write_text("from study import experiment\nexperiment.run('one')\n", encoding="utf-8")
    done = run("one.py", images)
    assert done.returncode == 0, done.stderr
    return content(images / "one")


@pytest.mark.parametrize(
    ("script", "kill"),
    [
        ("on_processes.py", True),
        *(
            pytest.param(script, kill, marks=pytest.mark.on_demand)
            for script in NEEDS
            for kill in (False, True)
            if (script, kill) != ("on_processes.py", True)
        ),
    ],
)
def test_each_script_of_the_page_writes_the_same_folder_as_one_process(
    script: str, kill: bool, images: Path, expected: dict[str, object], tmp_path: Path
) -> None:
    if find_spec(NEEDS[script]) is None:
        pytest.skip(f"{NEEDS[script]} is not installed")
    write_study(tmp_path, images, script, KILL * kill)
    done = run(script, tmp_path)
    if kill:
        assert (tmp_path / "killed").exists()
        # Dask runs the split of a killed worker again; the other scripts end with an error.
        assert (done.returncode == 0) == (script == "on_dask.py"), done.stderr
        done = run(script, tmp_path)
    assert done.returncode == 0, done.stderr
    found = content(tmp_path / "results")
    assert found.keys() == expected.keys()
    assert len(expected) > 40
    differing = [name for name in expected if found[name] != expected[name]]
    assert differing == []


def test_the_tasks_of_a_job_array_write_the_same_folder_as_one_process(
    images: Path, expected: dict[str, object], tmp_path: Path
) -> None:
    write_study(tmp_path, images, "on_array.py")
    for task in (4, 0, 3, 1, 2):
        done = run("on_array.py", tmp_path, SLURM_ARRAY_TASK_ID=str(task))
        assert done.returncode == 0, done.stderr
    assert content(tmp_path / "results") == expected


def test_torchrun_writes_the_same_files_with_equal_numbers_up_to_rounding(
    images: Path, expected: dict[str, object], tmp_path: Path
) -> None:
    write_study(tmp_path, images, "on_torchrun.py")
    (command,) = [block for block in blocks(PAGE, "sh") if "torchrun" in block]
    launcher = ["-m", "torch.distributed.run", *command.split()[1:-1]]
    done = run("on_torchrun.py", tmp_path, *launcher)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "results").keys() == expected.keys()
    # Each rank normalises with its own samples, so that only the identities and labels are equal.
    one, several = (nc.Results(folder).predictions() for folder in (images / "one", tmp_path / "results"))
    columns = ["split", "participant_id", "session_id", "true_label"]
    assert several[columns].equals(one[columns])


@pytest.mark.on_demand
def test_the_script_of_a_search_writes_the_same_folder_as_one_process(images: Path, tmp_path: Path) -> None:
    write_study(tmp_path, images, "on_search.py")
    code = """
import neurocnn as nc
from study import experiment
space = {"learning_rate": [1e-4, 1e-3], "dropout": [0.0, 0.5]}
nc.search(experiment, space, 2, "one", splits=[0, 1])
"""
    (tmp_path / "one.py").write_text(code, encoding="utf-8")
    for script in ("one.py", "on_search.py"):
        done = run(script, tmp_path)
        assert done.returncode == 0, done.stderr
    found = content(tmp_path / "search")
    assert len(found) > 60
    assert found == content(tmp_path / "one")

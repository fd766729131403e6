"""Faults of a run and of its result folder: no results are lost or wrong without an error."""

import errno
import fcntl
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from faults.clauses import covers, refuse
from small_caps import rows, small_caps, voxels_of, write_t1
from studies import Study, experiment
from torch import nn
from torch.utils.data import Dataset

import neurocnn as nc

FAST = nc.Trainer(epochs=2, batch_size=4, learning_rate=1e-3, device="cpu", n_workers=0)


@pytest.fixture
def caps(tmp_path: Path) -> nc.Caps:
    """Return a CAPS of eight participants."""
    return nc.Caps(small_caps(tmp_path / "caps", 8))


def tiny(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(8, n_outputs))


def on(caps: nc.Caps, table: pd.DataFrame | None = None, **settings: object) -> nc.Experiment:
    """Return an experiment with two splits."""
    settings = {
        "architecture": tiny,
        "trainer": FAST,
        "task": nc.classification(),
        "parts": nc.WholeImage(),
    } | settings
    splits = nc.kfold(rows(8) if table is None else table, 2, stratify=["diagnosis"], seed=0)
    return nc.Experiment(caps, splits, **settings)  # type: ignore[arg-type]


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a forked process; return its exit status: 0, 1 after an error, negative after a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            action()
            status = 0
        except BaseException as error:
            print(type(error), error, flush=True)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(folder: Path) -> dict[str, object]:
    """Return the tables without times, and the weights of the best models."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*.tsv")):
        found[str(path.relative_to(folder))] = (
            pd.read_csv(path, sep="\t").drop(columns="time", errors="ignore").to_csv()
        )
    for path in sorted(folder.rglob("*.pth.tar")):
        state = torch.load(path, weights_only=True)["model"]
        found[str(path.relative_to(folder))] = {name: value.tolist() for name, value in state.items()}
    return found


def names(folder: Path) -> set[str]:
    """Return all files of a result folder except tensorboard's, whose names contain times."""
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in files if "tensorboard_logs" not in name}


@pytest.mark.cpu
@covers("SIGKILL")
def test_a_run_killed_repeatedly_equals_an_uninterrupted_one(study: Study, tmp_path: Path, repetitions):
    """Each run trains several splits and networks in a fork of this process, which must not have trained before."""
    trainer = nc.Trainer(
        epochs=2, batch_size=4, learning_rate=1e-3, checkpoint_seconds=0, device="cpu", n_workers=0
    )

    def run(folder: Path) -> None:
        experiment(study, "roi", trainer=trainer, multi=True, options={"dropout": 0.5}).run(folder)

    began = time.monotonic()
    assert in_child(lambda: run(tmp_path / "whole")) == 0
    duration = time.monotonic() - began
    expected, dice, n_kills, n_runs = content(tmp_path / "whole"), random.Random(0), 0, 0
    while n_kills < repetitions(4, 200):
        folder = tmp_path / f"broken-{n_runs}"
        n_runs += 1
        for _ in range(12):
            child = os.fork()
            if child == 0:
                torch.set_num_threads(1)
                run(folder)
                os._exit(0)
            time.sleep(dice.uniform(0.05, duration * 0.6))
            os.kill(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status in (0, -signal.SIGKILL)
            n_kills += status != 0
            if status == 0:
                break
        assert in_child(lambda folder=folder: run(folder)) == 0
        assert content(folder) == expected
        assert names(folder) == names(tmp_path / "whole")
        shutil.rmtree(folder)
    print(f"{n_kills} kills, {n_runs} runs, 0 differences, no leftovers")


@pytest.mark.cpu
@covers("two runs in one folder")
def test_processes_that_race_for_a_new_folder_end_with_one_study(
    caps: nc.Caps, tmp_path: Path, repetitions: Callable[[int, int], int]
):
    """Of eight processes at a time, one writes the folder. The others get an `InUseError` or find a complete folder."""
    assert in_child(lambda: on(caps).run(tmp_path / "whole")) == 0
    expected, n_refused = content(tmp_path / "whole"), 0

    def race(folder: Path, go: int) -> None:
        os.read(go, 1)
        try:
            on(caps).run(folder)
        except nc.InUseError:
            os._exit(3)

    rounds = repetitions(2, 50)
    for number in range(rounds):
        folder = tmp_path / f"race-{number}"
        go, start = os.pipe()
        racers = []
        for _ in range(8):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    torch.set_num_threads(1)
                    race(folder, go)
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            racers.append(child)
        os.write(start, b"x" * 8)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in racers]
        os.close(go)
        os.close(start)
        assert set(statuses) <= {0, 3}
        n_refused += statuses.count(3)
        assert in_child(lambda folder=folder: on(caps).run(folder)) == 0
        assert content(folder) == expected
        assert names(folder) == names(tmp_path / "whole")
        shutil.rmtree(folder)
    print(f"{rounds} races of 8 processes, {n_refused} were told who trains, 0 differences, no leftovers")


@pytest.mark.faults_full
@covers("SIGKILL")
def test_memory_and_file_handles_stay_constant_over_200_epochs(caps: nc.Caps, tmp_path: Path):
    sizes: list[tuple[int, int]] = []

    def measure(state: nc.TrainingState) -> None:
        handles = len(os.listdir("/proc/self/fd"))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes.append((pages * resource.getpagesize(), handles))

    results = on(caps, trainer=nc.Trainer(epochs=200, patience=0, batch_size=4, device="cpu")).run(
        tmp_path / "results", splits=[0], callbacks=[measure]
    )
    assert len(results.history()) == len(sizes) == 200
    assert sizes[-1][0] - sizes[50][0] < 32 * 2**20
    assert sizes[-1][1] == sizes[50][1]


@covers("loss that is not finite")
def test_the_error_of_a_non_finite_loss_names_the_participants(caps: nc.Caps, tmp_path: Path):
    class Exploding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(nn.functional.adaptive_avg_pool3d(x, 2).flatten(1)) * (
                torch.inf if self.training else 1
            )

    refuse(lambda: on(caps, architecture=Exploding()).run(tmp_path / "results"), nc.TrainingError, "sub-0")


class NotANumber(nn.Module):
    """Network with NaN as output in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.fc(nn.functional.adaptive_avg_pool3d(x, 2).flatten(1))
        return out if self.training else out * torch.nan


@covers("NaN outputs")
def test_epochs_with_nan_outputs_are_neither_best_nor_scored(caps: nc.Caps, tmp_path: Path):
    refuse(lambda: on(caps, architecture=NotANumber()).run(tmp_path / "results"), nc.TrainingError)
    assert not list((tmp_path / "results").rglob("*prediction.tsv"))
    data = nc.CapsDataset(caps, rows(8), label="diagnosis")
    refuse(lambda: nc.predict(NotANumber(), nc.classification(), data), nc.NeurocnnError, "sub-00")


@covers("out of memory")
def test_the_error_of_exhausted_memory_names_a_smaller_batch(caps: nc.Caps, tmp_path: Path):
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 2 and not x.is_meta:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.fc(nn.functional.adaptive_avg_pool3d(x, 2).flatten(1))

    refuse(lambda: on(caps, architecture=Large()).run(tmp_path / "results"), nc.TrainingError, "batch_size=2")


@covers("Ctrl-C and SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_next_run_resumes(caps: nc.Caps, tmp_path: Path, number: int):
    def stop(state: nc.TrainingState) -> None:
        if state.epoch == 0:
            signal.raise_signal(number)

    torch.set_num_threads(1)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        on(caps).run(tmp_path / "broken", callbacks=[stop])
    on(caps).run(tmp_path / "broken")
    on(caps).run(tmp_path / "whole")
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


@pytest.mark.cpu
@covers("full disk")
def test_the_error_of_a_full_disk_names_the_path_and_the_run_can_be_resumed(caps: nc.Caps, tmp_path: Path):
    """A limit on the size of files stops writing within a file, as a full disk does."""
    torch.set_num_threads(1)
    on(caps).run(tmp_path / "whole")
    big = caps.root.parent / "broken"  # type: ignore[union-attr]

    def limited(n_bytes: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        refuse(lambda: on(caps).run(big), nc.StorageError, "broken")

    for n_bytes in (10, 200, 1500):
        assert in_child(lambda n_bytes=n_bytes: limited(n_bytes)) == 0
    on(caps).run(big)
    assert content(big) == content(tmp_path / "whole")


@covers("read-only folder")
def test_an_error_names_a_file_in_place_of_the_result_folder(caps: nc.Caps, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    refuse(lambda: on(caps).run(tmp_path / "file" / "results"), nc.NeurocnnError, str(tmp_path / "file"))
    refuse(lambda: on(caps).run(tmp_path / "file"), nc.StorageError, "choose another folder")
    refuse(lambda: on(caps).run(tmp_path / "file"), nc.StorageError, str(tmp_path / "file"))
    refuse(lambda: on(caps).run(tmp_path / ("x" * 300)), nc.NeurocnnError, "xxx")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.cpu
@covers("read-only folder")
def test_an_error_names_a_result_folder_without_permission(caps: nc.Caps, tmp_path: Path):
    os.chmod(tmp_path, 0o755)
    (tmp_path / "closed").mkdir(mode=0o555)

    def as_another_user() -> None:
        if os.getuid() == 0:
            for parent in tmp_path.parents:
                if not os.stat(parent).st_mode & 0o001:
                    return
            os.setuid(65534)
        refuse(lambda: on(caps).run(tmp_path / "closed" / "results"), nc.StorageError, "closed")

    assert in_child(as_another_user) == 0


@covers("no file locks")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_an_error_names_a_result_folder_on_a_disk_without_file_locks(
    caps: nc.Caps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    def flock(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(fcntl, "lockf", flock)
    message = refuse(lambda: on(caps).run(tmp_path / "results"), nc.StorageError, str(tmp_path / "results"))
    assert "lock" in message


@covers("existing result folder")
def test_a_folder_with_unrelated_files_is_not_changed(caps: nc.Caps, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    before = sorted(tmp_path.iterdir())
    refuse(lambda: on(caps).run(tmp_path), nc.NeurocnnError, str(tmp_path))
    assert sorted(tmp_path.iterdir()) == before


@covers("resumed with other settings")
@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"trainer": nc.Trainer(epochs=2, batch_size=2, device="cpu")}, "batch_size"),
        ({"transform": None}, "transform"),
        ({"task": nc.classification(classes=["AD", "CN"])}, "classes"),
        ({"parts": nc.Patch(6, 6)}, "parts"),
    ],
)
def test_an_error_names_a_setting_that_differs_from_the_folder(
    caps: nc.Caps, tmp_path: Path, settings: dict[str, object], word: str
):
    on(caps).run(tmp_path / "results", splits=[0])
    before = content(tmp_path / "results")
    refuse(lambda: on(caps, **settings).run(tmp_path / "results"), nc.SettingError, word)
    assert content(tmp_path / "results") == before


@covers("two runs in one folder")
def test_the_error_of_a_second_run_names_the_process_of_the_first(caps: nc.Caps, tmp_path: Path):
    found: list[str] = []

    def second(state: nc.TrainingState) -> None:
        if not found:
            found.append(refuse(lambda: on(caps).run(tmp_path / "results"), nc.InUseError, str(os.getpid())))

    on(caps).run(tmp_path / "results", callbacks=[second])
    assert len(found) == 1


class Items(Dataset):  # type: ignore[type-arg]
    """Dataset of a user with samples that are plain dicts."""

    def __init__(
        self, n: int = 8, first: int = 0, die: int | None = None, sizes: tuple[int, ...] = (6,)
    ) -> None:
        self.n, self.first, self.die, self.sizes = n, first, die, sizes

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, object]:
        if index == self.die:
            os.kill(os.getpid(), signal.SIGKILL)
        size = self.sizes[index % len(self.sizes)]
        image = torch.full((1, size, size, size), float(index % 2)) + torch.rand(
            1, generator=torch.Generator()
        )
        who = f"sub-{self.first + index:02}"
        return {
            "image": image,
            "label": "AD" if index % 2 else "CN",
            "participant_id": who,
            "session_id": "ses-M00",
            "part_id": 0,
        }


def fit(
    train: Dataset, validation: Dataset | None = None, model: nn.Module | None = None, **settings: object
):  # type: ignore[type-arg]
    trainer = nc.Trainer(**{"epochs": 1, "batch_size": 4, "device": "cpu", "n_workers": 0} | settings)  # type: ignore[arg-type]
    return trainer.fit(model or tiny((1, 6, 6, 6), 2), nc.classification(), train, validation)


@covers("worker that dies")
def test_the_error_of_a_dead_worker_names_the_worker_and_shared_memory(tmp_path: Path):
    refuse(lambda: fit(Items(die=3), n_workers=1), nc.TrainingError, "worker", "/dev/shm")


@covers("last batch of one")
@pytest.mark.parametrize("n", [5, 9])
def test_a_last_batch_of_one_sample_is_joined_with_the_batch_before(n: int):
    model = nn.Sequential(
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    )
    assert np.isfinite(fit(Items(n), model=model).history["train_loss"]).all()


@covers("last batch of one")
def test_batches_of_one_sample_with_batch_norm_are_refused_before_the_first_epoch():
    model = nn.Sequential(
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    )
    refuse(lambda: fit(Items(), model=model, batch_size=1), nc.NeurocnnError, "batch_size")


@covers("parts of unequal size")
def test_the_error_of_parts_of_unequal_size_names_samples_and_shapes():
    refuse(lambda: fit(Items(sizes=(6, 7))), nc.NeurocnnError, "sub-0", "(1, 6, 6, 6)", "(1, 7, 7, 7)")


class Wrapper(Dataset):  # type: ignore[type-arg]
    """Cache of a dataset, which hides all members of the dataset except its samples."""

    def __init__(self, dataset: Dataset) -> None:  # type: ignore[type-arg]
        self.items = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


@covers("wrapper that hides participants")
def test_participants_of_a_wrapped_dataset_are_compared(caps: nc.Caps):
    train = Wrapper(nc.CapsDataset(caps, rows(8), label="diagnosis"))
    validation = Wrapper(nc.CapsDataset(caps, rows(8).iloc[6:], label="diagnosis"))
    refuse(lambda: fit(train, validation), nc.LeakError, "sub-06")


@covers("two runs in two threads")
def test_two_runs_in_two_threads_do_not_affect_each_other():
    torch.set_num_threads(1)
    model = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 2))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.weight, 0.1)

    import copy

    alone = copy.deepcopy(model)
    fit(Items(), model=alone, epochs=5)
    found: list[object] = []

    def run(network: nn.Module) -> None:
        try:
            fit(Items(), model=network, epochs=5)
            found.append(network)
        except nc.NeurocnnError as error:
            found.append(error)

    threads = [threading.Thread(target=run, args=(copy.deepcopy(model),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    networks = [one for one in found if isinstance(one, nn.Module)]
    assert len(found) == 2
    assert networks
    for network in networks:
        assert torch.equal(network[3].weight, alone[3].weight)  # type: ignore[index]


@pytest.mark.cpu
@covers("fork after training")
def test_a_process_that_is_forked_after_training_can_train():
    torch.set_num_threads(2)
    fit(Items())
    child = os.fork()
    if child == 0:
        try:
            fit(Items())
        finally:
            os._exit(0)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended != (0, 0), "the forked process waits for ever"


def _train_with_workers(queue: object) -> None:
    torch.set_num_threads(1)
    try:
        fit(Items(), n_workers=1)
        queue.put("")  # type: ignore[attr-defined]
    except BaseException as error:
        queue.put(f"{isinstance(error, nc.NeurocnnError)}: {error}")  # type: ignore[attr-defined]


@covers("workers in a daemonic process")
def test_workers_in_a_daemonic_process_are_refused_or_replaced():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_train_with_workers, args=(queue,), daemon=True)
    process.start()
    said = queue.get(timeout=120)
    process.join()
    assert said == "" or (said.startswith("True") and "n_workers" in said)


@covers("no compiler")
def test_compile_without_a_compiler_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("CXX", "CC"):
        monkeypatch.setenv(name, "/no/such/compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    torch._dynamo.reset()
    refuse(lambda: fit(Items(), compile=True), nc.NeurocnnError, "compile")


@covers("failed before the first score")
def test_a_run_that_failed_before_its_first_score_does_not_block_the_folder(caps: nc.Caps, tmp_path: Path):
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.fc(nn.functional.adaptive_avg_pool3d(x, 2).flatten(1))
            return out * (torch.nan if self.training else 1)

    refuse(lambda: on(caps, architecture=Failing()).run(tmp_path / "results"), nc.TrainingError)
    corrected = on(caps, trainer=nc.Trainer(epochs=1, batch_size=2, device="cpu")).run(tmp_path / "results")
    assert corrected.splits == [0, 1]


@covers("labels changed since")
def test_labels_changed_between_two_runs_are_refused(caps: nc.Caps, tmp_path: Path):
    on(caps).run(tmp_path / "results", splits=[0])

    def corrected(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(
            diagnosis=table["diagnosis"].where(table["participant_id"] != "sub-03", "CN").to_numpy()
        )

    changed = [
        nc.Split(one.index, corrected(one.train), corrected(one.validation)) for one in on(caps).splits
    ]
    study = nc.Experiment(caps, changed, nc.WholeImage(), nc.classification(), tiny, FAST)
    refuse(lambda: study.run(tmp_path / "results"), nc.NeurocnnError, "sub-03")


@covers("images replaced")
def test_images_replaced_between_two_runs_are_refused(caps: nc.Caps, tmp_path: Path):
    on(caps).run(tmp_path / "results", splits=[0])
    write_t1(Path(str(caps.root)), "sub-03", voxels_of(99))
    refuse(lambda: on(nc.Caps(caps.root)).run(tmp_path / "results"), nc.NeurocnnError, "sub-03")


@covers("moved CAPS")
def test_the_new_path_of_a_moved_caps_can_be_passed(caps: nc.Caps, tmp_path: Path):
    on(caps, architecture="Conv3_FC1").run(tmp_path / "results", splits=[0])
    Path(str(caps.root)).rename(tmp_path / "moved")
    moved = nc.Caps(tmp_path / "moved")
    results = nc.Experiment.load(tmp_path / "results", caps=moved).run(tmp_path / "results")
    assert results.splits == [0, 1]


@covers("seen.tsv that disagrees")
def test_an_edited_list_of_participants_is_refused(caps: nc.Caps, tmp_path: Path):
    results = on(caps, architecture="Conv3_FC1").run(tmp_path / "results", splits=[0])
    seen = tmp_path / "results/fold-0/seen.tsv"
    lines = seen.read_text().splitlines(keepends=True)
    seen.write_text("".join(lines[:1] + lines[2:]))
    removed = lines[1].split("\t")
    table = rows(8)
    row = table[[name in removed or f"{name}\n" in removed for name in table["participant_id"]]]
    refuse(lambda: results.predict(caps, row, name="test"), nc.NeurocnnError, "seen.tsv")


@covers("cohort renamed later")
def test_a_cohort_renamed_later_is_recognised_by_its_images(tmp_path: Path):
    for i, name in enumerate(("ADNI", "AIBL")):
        for j in range(6):
            write_t1(tmp_path / name, f"sub-{j:02}", voxels_of(10 * i + j))
    table = pd.concat([rows(6).assign(cohort=name) for name in ("ADNI", "AIBL")], ignore_index=True)
    caps = nc.Caps({"ADNI": tmp_path / "ADNI", "AIBL": tmp_path / "AIBL"})
    results = on(caps, table, architecture="Conv3_FC1").run(tmp_path / "results", splits=[0])
    renamed = nc.Caps({"adni": tmp_path / "ADNI", "AIBL": tmp_path / "AIBL"})
    seen = table[table["cohort"] == "ADNI"].assign(cohort="adni")
    refuse(lambda: results.predict(renamed, seen, name="test"), nc.NeurocnnError, "sub-0", "adni")


@covers("well-formed with other content")
@pytest.mark.parametrize(
    "change",
    [
        {"trainer": 3},
        {"task": "x"},
        {"parts": None},
        {"task": {"type": "dict"}},
        {"splits": "all"},
        {"parts": {"type": "Patch", "size": "x"}},
        {"options": {"type": "Trainer"}},
        {"architecture": 3},
        {"transform": "x"},
        {"augmentation": {"type": "Patch", "size": 9, "stride": 9}},
        {"image_affine": [[""] * 4] * 4},
    ],
)
def test_a_settings_file_with_unexpected_content_is_refused(
    caps: nc.Caps, tmp_path: Path, change: dict[str, object]
):
    on(caps, architecture="Conv3_FC1").run(tmp_path / "results", splits=[0])
    path = tmp_path / "results/commandline.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refuse(lambda: nc.Experiment.load(tmp_path / "results"), nc.NeurocnnError, "commandline.json")
    refuse(lambda: nc.Results(tmp_path / "results"), nc.NeurocnnError, "commandline.json")


@covers("well-formed with other content")
def test_an_error_names_the_file_with_options_that_do_not_fit_the_architecture(caps: nc.Caps, tmp_path: Path):
    on(caps, architecture="Conv3_FC1").run(tmp_path / "results", splits=[0])
    path = tmp_path / "results/commandline.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": {"dropout": "x"}}))
    refuse(
        lambda: nc.Results(tmp_path / "results").load_model(0), nc.ModelError, "commandline.json", "Conv3_FC1"
    )


@covers("links for locks")
def test_a_link_in_place_of_a_lock_file_does_not_change_its_target(caps: nc.Caps, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    state = tmp_path / "results/fold-0/state"
    on(caps).run(tmp_path / "results", splits=[1])
    state.mkdir(parents=True)
    for name in ("training.lock", "fold.lock"):
        (state / name).symlink_to(tmp_path / "mine.txt")
    try:
        on(caps).run(tmp_path / "results")
    except nc.NeurocnnError as error:
        assert "link" in str(error) or "lock" in str(error)  # noqa: PT017
    assert (tmp_path / "mine.txt").read_text() == "mine"


@covers("augmentation that hides its generator")
def test_an_augmentation_that_differs_with_the_same_seed_causes_a_warning(
    caps: nc.Caps, caplog: pytest.LogCaptureFixture
):
    generator = np.random.default_rng()

    def hidden(image: torch.Tensor) -> torch.Tensor:
        return image + float(generator.normal())

    nc.CapsDataset(caps, rows(8), label="diagnosis", augmentation=hidden)
    assert "augmentation=" in caplog.text
    assert "the augmentation uses a random generator that cannot be seeded" in caplog.text


@covers("other number of threads")
def test_a_changed_number_of_threads_is_logged(
    caps: nc.Caps, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    torch.set_num_threads(1)
    on(caps).run(tmp_path / "results", splits=[0])
    torch.set_num_threads(2)
    with warnings.catch_warnings(record=True) as caught, caplog.at_level("INFO", "neurocnn"):
        warnings.simplefilter("always")
        on(caps).run(tmp_path / "results")
    said = [str(one.message) for one in caught] + [one.getMessage() for one in caplog.records]
    assert any("thread" in message for message in said)


@covers("autoencoder above the mean image")
def test_an_autoencoder_with_a_larger_error_than_the_mean_image_is_logged(
    caps: nc.Caps, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    trainer = nc.Trainer(epochs=1, batch_size=4, learning_rate=1e-8, device="cpu")
    with warnings.catch_warnings(record=True) as caught, caplog.at_level("INFO", "neurocnn"):
        warnings.simplefilter("always")
        on(caps, task=nc.reconstruction(output="mirror"), architecture="Conv3_FC1", trainer=trainer).run(
            tmp_path / "results"
        )
    said = [str(one.message) for one in caught] + [one.getMessage() for one in caplog.records]
    assert any("the mean image" in message for message in said)

"""Threads load the same batches as the main thread, also after interruptions."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_caps import rows, small_caps, voxels_of, write_t1
from torch import nn
from toys import Toys, network, same_weights

from neurocnn.data import Caps, CapsDataset, MinMax, Patch, Roi, Slice, WholeImage, ZScore
from neurocnn.engine import Trainer, classification, loading, predict, transfers
from neurocnn.engine.batch import can_fill
from neurocnn.engine.loading import Loading
from neurocnn.engine.sampling import BatchSampler, epoch_order
from neurocnn.errors import ImageError, SettingError
from neurocnn.storage.cpus import cpu_quota

TASK = classification("diagnosis", ["CN", "AD"])
PARTS = {
    "image": WholeImage(),
    "patch": Patch(3, 2),
    "slice": Slice(1, 0, channels=3),
    "roi": Roi({"a": ((1, 4), (0, 3), (2, 5)), "b": ((0, 3), (2, 5), (1, 4))}),
}


@pytest.fixture(autouse=True)
def large_samples(monkeypatch):
    """Let threads read the small images of these tests, as if the images were large."""
    monkeypatch.setattr(loading, "_SMALL_SAMPLE", 1)


def dataset(root: Path, parts="image", transform=MinMax(), n=6, **more) -> CapsDataset:  # noqa: B008
    return CapsDataset(
        Caps(small_caps(root, n)), rows(n), PARTS[parts], label="diagnosis", transform=transform, **more
    )


def network_of(shape) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2))


def our_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("neurocnn-loading")]


def copies(source) -> list[dict]:
    return [batch | {"image": batch["image"].clone()} for batch in source]


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("transform", [MinMax(), ZScore(), None])
@pytest.mark.parametrize("parts", PARTS)
def test_batches_do_not_depend_on_the_number_of_threads(tmp_path, parts, transform, prepared):
    data = dataset(tmp_path, parts, transform)
    if prepared:
        data.caps.prepare()
    image = [data.caps.read(f"sub-{i:02}", "ses-M00") for i in range(6)]
    order = epoch_order(len(data), 3, 1)
    for n_workers in (0, 1, 2):
        with Loading(n_workers, torch.device("cpu")) as workers:
            source = workers.loader(data, BatchSampler(order, 4, epoch=1), seed=0)
            for _ in range(2):  # The second pass may read cached images.
                found = torch.cat([batch["image"] for batch in copies(source)])
                for one, number in zip(found, order, strict=True):
                    row, position = divmod(number, len(data.part_ids))
                    part = data.parts.extract(image[row], data.part_ids[position])
                    assert torch.equal(one, part if transform is None else transform(part))
                    assert torch.equal(one, data[number]["image"])


def test_training_with_processes_equals_training_with_threads(tmp_path):
    results = []
    for n_workers, kind in ((0, CapsDataset), (2, CapsDataset), (2, Overridden)):
        data = dataset(tmp_path, "patch")
        data.__class__ = kind
        model = network_of(data.input_shape)
        trainer = Trainer(epochs=2, batch_size=5, n_workers=n_workers, device="cpu", learning_rate=0.01)
        history = trainer.fit(model, TASK, data).history.drop(columns="time")
        results.append((history, model.state_dict()))
    for history, state in results:
        pd.testing.assert_frame_equal(history, results[0][0], check_exact=True)
        assert same_weights(state, results[0][1])


class Overridden(CapsDataset):
    """Subclass of a user that overrides `__getitem__`, so that threads must not call `fill`."""

    def __getitem__(self, index):
        return super().__getitem__(index)


class Forwarding:
    """Wrapper that forwards all attributes of its dataset."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_only_samples_without_random_numbers_are_read_by_threads(tmp_path):
    data = dataset(tmp_path)
    assert can_fill(data)
    noisy = dataset(tmp_path, augmentation=lambda part: part + torch.rand(1))
    assert not can_fill(noisy)
    assert can_fill(noisy.without_augmentation())
    assert not can_fill(dataset(tmp_path, transform=torch.sqrt))
    assert not can_fill(Forwarding(data))
    data.__class__ = Overridden
    assert not can_fill(data)
    assert not can_fill(Toys(3))


class Where(Toys):
    """Dataset that records the process and thread in which each sample is read."""

    made: ClassVar[list] = []

    def __getitem__(self, index):
        self.made.append((os.getpid(), threading.current_thread()))
        return super().__getitem__(index)


def test_by_default_custom_transforms_run_in_the_calling_thread():
    Where.made.clear()
    predict(network(), TASK, Where(3), device="cpu")
    assert set(Where.made) == {(os.getpid(), threading.main_thread())}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    passes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=6),
    foreseen=st.lists(st.integers(0, 5), max_size=6),
    n_threads=st.integers(0, 3),
    left=st.integers(0, 7),
)
def test_batches_come_in_order_for_any_expected_passes(tmp_path_factory, passes, foreseen, n_threads, left):
    data = dataset(tmp_path_factory.getbasetemp() / "order", "patch", n=2)
    plan = [
        (data, BatchSampler(epoch_order(len(data), 0, epoch), size, epoch=epoch)) for size, epoch in passes
    ]
    with Loading(n_threads, torch.device("cpu")) as workers:
        for k, (each, batches) in enumerate(plan):
            source = workers.loader(each, batches, seed=0)
            workers.expect([plan[j] for j in (foreseen or range(k + 1, len(plan))) if j < len(plan)])
            found = []
            for batch in source:
                found.append((batch["participant_id"], batch["part_id"].tolist()))
                if k == left:
                    break
            wanted = [
                (
                    [data._sources[number // len(data.part_ids)].participant_id for _, number in keys],
                    [data.part_ids[number % len(data.part_ids)] for _, number in keys],
                )
                for keys in batches
            ]
            assert found == (wanted[:1] if k == left else wanted)
    assert not our_threads()


class Counted(CapsDataset):
    """Dataset that records which samples are read."""

    def fill(self, index, out):
        self.filled.append(index)
        return super().fill(index, out)


def test_loading_of_the_next_pass_begins_before_the_current_pass_ends(tmp_path):
    data = dataset(tmp_path)
    data.__class__, data.filled = Counted, []
    with Loading(1, torch.device("cpu")) as workers:
        source = workers.loader(data, BatchSampler(range(6), 2), seed=0)
        workers.expect([(data.without_augmentation(), BatchSampler(range(6), 2, epoch=1))])
        batches = iter(source)
        for _ in range(3):
            next(batches)
        deadline = time.monotonic() + 20
        while (1, 0) not in data.filled and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (1, 0) in data.filled
        assert (
            len(
                copies(
                    workers.loader(data.without_augmentation(), BatchSampler(range(6), 2, epoch=1), seed=0)
                )
            )
            == 3
        )
    assert sorted(data.filled) == [(epoch, i) for epoch in (0, 1) for i in range(6)], (
        "each sample is read once"
    )


def test_memory_is_bounded_and_a_kept_batch_is_not_overwritten(tmp_path):
    data = dataset(tmp_path, "patch", n=6)
    with Loading(2, torch.device("cpu")) as workers:
        source = workers.loader(data, BatchSampler(range(len(data)), 3), seed=0)
        for _ in range(3):
            for batch in source:
                del batch
        (stream,) = workers._streams.values()
        assert len(stream.buffers.arrays) <= 5
        kept = list(source)
        for batch, again in zip(kept, copies(source), strict=True):
            assert torch.equal(batch["image"], again["image"])


@pytest.mark.parametrize("n_threads", [0, 2])
def test_a_pass_of_which_no_further_batch_is_requested_occupies_no_buffer(tmp_path, monkeypatch, n_threads):
    # As for large batches, one batch is loaded in advance.
    monkeypatch.setattr(loading, "_BYTES_AHEAD", 1)
    data = dataset(tmp_path)
    with Loading(n_threads, torch.device("cpu")) as workers:
        source = workers.loader(data, BatchSampler(range(6), 2), seed=0)
        following = workers.loader(data.without_augmentation(), BatchSampler(range(6), 2), seed=0)
        batches = iter(source)
        for _ in range(3):
            batch = next(batches)
            del batch
        for batch in following:
            del batch
        (stream,) = workers._streams.values()
        assert len(stream.buffers.arrays) == (2 if n_threads else 1)


@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_an_error_in_a_thread_names_the_sample_and_ends_the_threads(tmp_path, n_workers):
    voxels = voxels_of(3)
    voxels[1, 2, 3] = np.nan
    data = dataset(tmp_path)
    write_t1(tmp_path, "sub-03", voxels)
    data.caps.images.clear()
    with pytest.raises(ImageError, match="sub-03 ses-M00: 1 voxels are NaN"):
        predict(network_of(data.input_shape), TASK, data, batch_size=2, n_workers=n_workers, device="cpu")
    assert not our_threads()
    with pytest.raises(ImageError, match="sub-03 ses-M00: 1 voxels are NaN"):
        Trainer(epochs=1, batch_size=2, n_workers=n_workers, device="cpu").fit(
            network_of(data.input_shape), TASK, data
        )
    assert not our_threads()


def train(folder, data, signalled=None, **changed):
    def interrupt(state):
        if state.iteration == signalled:
            signal.raise_signal(signal.SIGINT)

    model = network_of(data.input_shape)
    trainer = Trainer(
        **{
            "epochs": 3,
            "batch_size": 2,
            "n_workers": 2,
            "device": "cpu",
            "patience": 0,
            "learning_rate": 0.01,
        }
        | changed
    )
    return model, trainer.fit(model, TASK, data, folder=folder, callbacks=[interrupt])


def test_ctrl_c_ends_the_threads_and_a_resumed_run_equals_a_run_without_workers(tmp_path):
    data = dataset(tmp_path / "caps", "patch")
    options = {"evaluation_steps": 5, "checkpoint_seconds": 0}
    unbroken, training = train(tmp_path / "one", data, n_workers=0, **options)
    for at in (5, 20):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "two", data, signalled=at, **options)
        assert not our_threads()
    resumed, again = train(tmp_path / "two", data, **options)
    assert same_weights(unbroken.state_dict(), resumed.state_dict())
    expected, found = (each.history.drop(columns="time") for each in (training, again))
    pd.testing.assert_frame_equal(expected, found, check_exact=True)


@pytest.mark.cpu
def test_a_process_that_is_forked_while_threads_read_can_read_samples(tmp_path):
    data = dataset(tmp_path, "patch")
    states = []

    def fork(state):
        child = os.fork()
        if child == 0:
            try:
                data[0]
                predict(network_of(data.input_shape), TASK, data, batch_size=2, n_workers=1, device="cpu")
            except BaseException:
                os._exit(1)
            os._exit(0)
        deadline = time.monotonic() + 60
        while (found := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.02)
        if found == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        states.append(found[1] if found != (0, 0) else "hangs")

    trainer = Trainer(epochs=2, batch_size=2, evaluation_steps=10, n_workers=2, device="cpu")
    trainer.fit(network_of(data.input_shape), TASK, data, callbacks=[fork])
    assert states
    assert set(states) == {0}


def test_threads_do_not_change_the_number_of_torchs_threads(tmp_path):
    data = dataset(tmp_path)
    before, other = torch.get_num_threads(), []
    with Loading(2, torch.device("cpu")) as workers:
        copies(workers.loader(data, BatchSampler(range(6), 2), seed=0))
        later = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert torch.get_num_threads() == before
    assert other == [before]


def test_a_replaced_file_is_scaled_by_its_new_values(tmp_path):
    data = dataset(tmp_path)
    first = data[1]["image"]
    write_t1(tmp_path, "sub-01", 2 * voxels_of(50))
    CapsDataset(data.caps, rows(6))  # A new dataset detects the replaced file.
    found = data[1]["image"]
    assert not torch.equal(first, found)
    assert (found.min(), found.max()) == (0, 1)


def write_transposed(root: Path) -> None:
    """Rewrite the prepared tensors in the memory layout of ClinicaDL, in which the first axis is contiguous."""
    for path in root.rglob("*.pt"):
        image = torch.load(path, weights_only=True)[0].numpy()
        torch.save(torch.from_numpy(np.asfortranarray(image)).unsqueeze(0), path)


@pytest.mark.parametrize("cache_bytes", [0, 3 * 6 * 8 * 7 * 4, 2**30])
@pytest.mark.parametrize("transform", [MinMax(), ZScore(), None])
@pytest.mark.parametrize("parts", PARTS)
def test_tensors_whose_first_axis_is_contiguous_give_the_same_batches(
    tmp_path, parts, transform, cache_bytes
):
    data = dataset(tmp_path, parts, transform)
    data.caps.prepare()
    expected = [data[i]["image"] for i in range(len(data))]
    write_transposed(tmp_path)
    caps = Caps(tmp_path, cache_bytes=cache_bytes)
    again = CapsDataset(caps, rows(6), PARTS[parts], label="diagnosis", transform=transform)
    with Loading(2, torch.device("cpu")) as workers:
        source = workers.loader(again, BatchSampler(range(len(again)), 4), seed=0)
        for _ in range(2):
            found = torch.cat([batch["image"] for batch in copies(source)])
            assert torch.equal(found, torch.stack(expected))
    held = caps.images._cache
    assert held.n_held_bytes == min(cache_bytes, 6 * 6 * 8 * 7 * 4), "as many contiguous copies as fit"
    assert all(image.stride(-1) == 1 for image in held._images.values())


@pytest.mark.parametrize("value", [-1, "many", 1.5, None, True])
def test_an_invalid_number_of_workers_is_refused(value):
    with pytest.raises(SettingError, match=r'n_workers=.*expected (an integer ≥ 0|"auto")'):
        Trainer(n_workers=value)


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/job", {"job/cpu.max": "250000 100000\n"}, 3),
        ("0::/job", {"job/cpu.max": "max 100000\n", "cpu.max": "400000 100000\n"}, 4),
        ("0::/job/inner", {"job/cpu.max": "100000 100000\n"}, 1),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2**31),
        ("0::/", {}, 2**31),
    ],
)
def test_the_cpu_limit_of_a_container_is_read(tmp_path, line, files, expected):
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "membership").write_text(line + "\n")
    assert cpu_quota(tmp_path / "membership", tmp_path / "cgroup") == expected


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("parts", PARTS)
def test_images_that_stay_on_the_device_give_the_same_batches_without_reading_files(
    tmp_path, parts, n_workers
):
    data = dataset(tmp_path, parts)
    orders = [epoch_order(len(data), 3, epoch) for epoch in range(3)]
    with Loading(0, torch.device("cpu")) as workers:
        expected = [copies(workers.loader(data, BatchSampler(order, 4), seed=0)) for order in orders]
    with Loading(n_workers, torch.device("cpu"), resident=True) as workers:
        for k, (order, wanted) in enumerate(zip(orders, expected, strict=True)):
            # The set in training, the set in an evaluation and a copy with another seed share their images.
            same = (data, data.without_augmentation(), data.with_seed(5))[k]
            with pytest.MonkeyPatch.context() as patch:
                if k:
                    patch.setattr(CapsDataset, "fill", lambda *arguments: pytest.fail("a file is read"))
                found = copies(workers.loader(same, BatchSampler(order, 4, epoch=k), seed=0))
            for one, other in zip(found, wanted, strict=True):
                assert torch.equal(one.pop("image"), other["image"])
                assert torch.equal(one.pop("part_id"), other["part_id"])
                assert one == {name: other[name] for name in one}
                assert set(one) == set(other) - {"image", "part_id"}


def test_data_with_augmentation_do_not_stay_on_the_device(tmp_path):
    data = dataset(tmp_path, "patch")
    data.augmentation = lambda image: image
    with Loading(0, torch.device("cpu"), resident=True) as workers:
        augmented = workers.loader(data, BatchSampler(range(4), 2), seed=0)
        assert type(augmented).__name__ != "ResidentLoader"
        plain = workers.loader(data.without_augmentation(), BatchSampler(range(4), 2), seed=0)
        assert type(plain).__name__ == "ResidentLoader"


def test_on_a_cpu_resident_keeps_no_images_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(transfers, "KeptImages", lambda *arguments: pytest.fail("images are kept"))
    data = dataset(tmp_path, "patch")
    for resident in (True, "auto"):
        trainer = Trainer(epochs=2, device="cpu", resident=resident)
        assert len(trainer.fit(network_of(data.input_shape), TASK, data).history) == 2

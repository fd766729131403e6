"""One network per part: all of them in one pass over the images, or in one run after another.

The runs one after another do what a user of one network at a time does: each has its own data set, and reads every
volume again for its own patch. Both sides train the same 36 networks to the same weights, from NIfTI files of which the
cache holds two: as in a real cohort, whose volumes do not fit into memory. A second, more favourable case for the runs
one after another is a cohort so small that each run decodes an image only once; it is reported and not judged. All runs
are on the CPU, where weights that are trained by the same steps are equal bit for bit.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import neurocnn as nc

PATCHES = nc.Patch(size=50, stride=50)
TASK = nc.classification("diagnosis", classes=["CN", "AD"])
TRAINER = nc.Trainer(epochs=1, batch_size=4, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("multi") / "caps"
    nc.make_caps(path, n_participants=6, preprocessing="t1-linear")
    return path


def _sets(folder: Path, cached: int) -> list[nc.CapsDataset]:
    labels = nc.read_table(folder / "labels.tsv")
    # a new one, so that its cache is empty
    caps = nc.Caps(folder, "t1-linear", cache_bytes=cached * 4 * 169 * 208 * 179)
    return [nc.CapsDataset(caps, rows, parts=PATCHES, label=TASK.label) for rows in (labels[:4], labels[4:])]


def _network(shape: tuple[int, ...]) -> torch.nn.Module:
    torch.manual_seed(0)
    return nc.create_model("Conv4_FC3", shape, n_outputs=2)


def _together(folder: Path, cached: int) -> dict[int, torch.nn.Module]:
    train, validation = _sets(folder, cached)
    networks = {part: _network(train.input_shape) for part in train.part_ids}
    TRAINER.fit(networks, TASK, train, validation)
    return networks


def _one_after_another(folder: Path, cached: int) -> dict[int, torch.nn.Module]:
    networks = {}
    for part in range(36):
        train, validation = (dataset.only_part(part) for dataset in _sets(folder, cached))
        networks[part] = _network(train.input_shape)
        TRAINER.fit(networks[part], TASK, train, validation)
    return networks


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@pytest.mark.parametrize(("cached", "limit"), [(2, 0.6), (6, None)], ids=["cohort", "all images cached"])
def test_36_networks_in_one_pass_against_36_runs(
    folder: Path, record_property: Callable[..., None], cached: int, limit: float | None
):
    torch.set_num_threads(2)
    networks: dict[str, dict[int, torch.nn.Module]] = {}
    together = _seconds(lambda: networks.update(together=_together(folder, cached)))
    alone = _seconds(lambda: networks.update(alone=_one_after_another(folder, cached)))
    for part, network in networks["alone"].items():
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, networks["together"][part].state_dict()[name]), (part, name)
    record_property("ratio", together / alone)
    print(f"\n36 networks in one pass / 36 runs, {cached} of 6 images cached: {together / alone:.2f}")
    assert limit is None or together / alone <= limit

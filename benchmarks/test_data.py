"""Speed of reading parts, one at a time in random order, from each kind of source.

Run with ``pytest benchmarks/test_data.py``. Images have the size of t1-linear, 169×208×179 voxels. Each
kind of part is compared with the naive way: load the complete tensor, cut all parts out of it, take one.
"""

import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from neurocnn.data import Caps, CapsDataset, MinMax, Patch, Roi, Slice, WholeImage

SHAPE = (169, 208, 179)
N_IMAGES = 4
KINDS = {"patch": Patch(50, 50), "slice": Slice(0), "roi": Roi.hippocampi("t1-linear")}
END = "_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w"


def head(seed: int) -> np.ndarray:
    """Return a smooth ball with noise on an empty background, which compresses about like a head."""
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE]
    inside = sum(x**2 for x in np.meshgrid(*axes, indexing="ij")) < 0.8
    return np.where(inside, rng.normal(100, 15, SHAPE).round(), 0).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CAPS folders with the same images: as NIfTI only, prepared, and extracted."""
    base = tmp_path_factory.mktemp("data")
    for i in range(N_IMAGES):
        image = nib.Nifti1Image(head(i), np.eye(4))
        for kind in ("nifti", "prepared", "extracted"):
            path = (
                base
                / kind
                / "subjects"
                / f"sub-{i}"
                / "ses-M00"
                / "t1_linear"
                / f"sub-{i}_ses-M00{END}.nii.gz"
            )
            path.parent.mkdir(parents=True)
            if kind == "nifti":
                nib.save(image, path)
                written = path.read_bytes()
            else:
                path.write_bytes(written)
    Caps(base / "prepared").prepare(n_workers=2)
    for parts in KINDS.values():
        Caps(base / "extracted").prepare(parts=parts, n_workers=2)
    return base


def dataset_of(folder: Path, source: str, kind: str) -> CapsDataset:
    caps = Caps(folder / source.split(" ")[0], cache_bytes=0 if source == "nifti cold" else 2**31)
    return CapsDataset(caps, caps.sessions(), KINDS[kind])


def in_random_order(dataset: CapsDataset, n: int) -> list[int]:
    return torch.randint(len(dataset), (n,), generator=torch.Generator().manual_seed(0)).tolist()


def naive(folder: Path, kind: str) -> Callable[[int], Tensor]:
    """Return a function that loads the complete tensor, cuts all of its parts and returns one."""
    paths = sorted((folder / "prepared").rglob("image_based/**/*.pt"))
    parts = KINDS[kind]
    ids = parts.ids(SHAPE)

    def item(index: int) -> Tensor:
        image = torch.load(paths[index // len(ids)], weights_only=True)
        part_id = ids[index % len(ids)]
        if kind == "patch":
            cut = image.unfold(1, 50, 50).unfold(2, 50, 50).unfold(3, 50, 50).contiguous()
            part = cut.view(-1, 50, 50, 50)[part_id].unsqueeze(0).clone()
        else:
            part = parts.extract(image, part_id)
        return MinMax()(part)

    return item


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["nifti cold", "nifti warm", "prepared", "extracted"])
def test_parts_per_second(benchmark, folder: Path, source: str, kind: str, n_workers: int):
    n = 6 if source == "nifti cold" else 200
    dataset = dataset_of(folder, source, kind)
    order = in_random_order(dataset, n)
    loader = DataLoader(dataset, 1, sampler=order, num_workers=n_workers, persistent_workers=n_workers > 0)
    if source != "nifti cold":
        list(loader)  # fill the caches and check the checksums, as the first epoch does
    benchmark.pedantic(lambda: list(loader), rounds=3)
    benchmark.extra_info["parts_per_second"] = round(n / benchmark.stats.stats.min, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_per_second_the_naive_way(benchmark, folder: Path, kind: str):
    item = naive(folder, kind)
    order = in_random_order(dataset_of(folder, "prepared", kind), 20)
    benchmark.pedantic(lambda: [item(index) for index in order], rounds=3)
    benchmark.extra_info["parts_per_second"] = round(20 / benchmark.stats.stats.min, 1)


def seconds(item: Callable[[int], object], order: list[int]) -> float:
    start = time.perf_counter()
    for index in order:
        item(index)
    return (time.perf_counter() - start) / len(order)


def test_a_patch_from_prepared_images_comes_10_times_faster_than_the_naive_way(folder: Path, record_property):
    dataset = dataset_of(folder, "prepared", "patch")
    slow = naive(folder, "patch")
    order = in_random_order(dataset, 40)
    assert torch.equal(dataset[order[0]]["image"], slow(order[0]))
    ours, theirs = [], []
    for _ in range(3):  # alternate, so that other load on the machine affects both
        ours.append(seconds(dataset.__getitem__, order))
        theirs.append(seconds(slow, order))
    ratio = min(theirs) / min(ours)
    record_property("ratio", ratio)
    print(f"\nprepared {1e3 * min(ours):.2f} ms, naive {1e3 * min(theirs):.2f} ms, ratio {ratio:.1f}")
    assert ratio >= 10


@pytest.mark.parametrize("n_workers", [1, 2])
def test_preparing_images(benchmark, folder: Path, tmp_path: Path, n_workers: int):
    """Decode the images and write the tensors to the disk."""
    import shutil

    def reset() -> tuple[tuple[()], dict[str, object]]:
        shutil.rmtree(tmp_path / "caps", ignore_errors=True)
        shutil.copytree(folder / "nifti", tmp_path / "caps")
        return (), {}

    benchmark.pedantic(
        lambda: Caps(tmp_path / "caps").prepare(parts=WholeImage(), n_workers=n_workers),
        setup=reset,
        rounds=2,
    )
    benchmark.extra_info["images_per_second"] = round(N_IMAGES / benchmark.stats.stats.min, 2)

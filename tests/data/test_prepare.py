"""Prepared tensors have the paths of ClinicaDL, and are used only while their voxels equal those of the image."""

import gzip
import io
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
import tqdm
from small_caps import AFFINE, T1, rows, small_caps, voxels_of, write_nifti, write_t1

from neurocnn.data import (
    Caps,
    CapsDataset,
    Custom,
    Parts,
    Patch,
    PetLinear,
    Roi,
    Slice,
    T1Linear,
    WholeImage,
)
from neurocnn.data import nifti as nifti_module
from neurocnn.data import prepare as prepare_module
from neurocnn.data import reader as reader_module
from neurocnn.errors import ImageError, SettingError

BOX = ((1, 4), (2, 6), (0, 3))
STEM = "sub-00_ses-M00_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w"
START = STEM.removesuffix("_T1w")
VOLUME = "_T1w_segm-graymatter_space-Ixi549Space_modulated-off_probability"
PET = "_trc-18FFDG_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_suvr-pons_pet"


def prepared_files(root: Path) -> list[str]:
    start = root / "subjects"
    return sorted(
        str(path.relative_to(start))
        for path in start.rglob("deeplearning_prepare_data/**/*")
        if path.is_file()
    )


def tensor_path(root: Path, participant: str = "sub-00") -> Path:
    folder = root / "subjects" / participant / "ses-M00/deeplearning_prepare_data/image_based/t1_linear"
    return folder / f"{STEM.replace('sub-00', participant)}.pt"


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti_module, "read_voxels", lambda path, _: pytest.fail(f"decoded {path}"))


def test_complete_images_have_the_names_and_the_content_of_clinicadl(tmp_path: Path):
    root = small_caps(tmp_path, 1)
    Caps(root).prepare()
    assert prepared_files(root) == [
        f"sub-00/ses-M00/deeplearning_prepare_data/image_based/t1_linear/{STEM}.pt"
    ]
    stored = torch.load(tensor_path(root), weights_only=True)
    assert type(stored) is torch.Tensor
    assert stored.dtype == torch.float32
    assert torch.equal(stored, torch.from_numpy(voxels_of(0))[None])


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        (
            Patch(3, 3),
            [f"patch_based/t1_linear/{START}_patchsize-3_stride-3_patch-{i}_T1w.pt" for i in range(8)],
        ),
        (
            Slice(2, 2),
            [f"slice_based/t1_linear/{START}_axis-axi_channel-single_slice-{i}_T1w.pt" for i in (2, 3, 4)],
        ),
        (
            Slice(0, 2, 3),
            [f"slice_based/t1_linear/{START}_axis-sag_channel-rgb_slice-{i}_T1w.pt" for i in (2, 3)],
        ),
        (Slice(1, (3, 4), 1), [f"slice_based/t1_linear/{START}_axis-cor_channel-single_slice-3_T1w.pt"]),
        (Roi({"hippo": BOX}), [f"roi_based/t1_linear/{START.replace('Crop', 'CropRoi')}_roi-hippo_T1w.pt"]),
    ],
    ids=repr,
)
def test_parts_have_the_names_and_the_content_of_clinicadl(tmp_path: Path, parts: Parts, names: list[str]):
    root = small_caps(tmp_path, 1)
    Caps(root).prepare(parts=parts)
    start = "sub-00/ses-M00/deeplearning_prepare_data"
    assert prepared_files(root) == sorted(f"{start}/{name}" for name in names)
    image = torch.from_numpy(voxels_of(0))[None]
    for part_id, name in zip(parts.ids((6, 8, 7)), names, strict=True):
        stored = torch.load(root / "subjects" / start / name, weights_only=True)
        assert torch.equal(stored, parts.extract(image, part_id))


@pytest.mark.parametrize(
    ("kind", "folder", "file", "expected"),
    [
        ("t1-extensive", "t1_extensive", "_space-Ixi549Space_desc-SkullStripped_T1w", "t1_extensive"),
        (
            "flair-linear",
            "flair_linear",
            "_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_flair",
            "flair_linear",
        ),
        ("t1-volume", "t1/spm/segmentation/normalized_space", VOLUME, "custom"),
        (PetLinear("18FFDG", "pons"), "pet_linear", PET, "pet_linear"),
        (Custom("_x_own.nii.gz"), "own", "_x_own", "custom"),
    ],
    ids=repr,
)
def test_prepared_tensors_are_in_the_folder_of_their_preprocessing(
    tmp_path: Path, kind: object, folder: str, file: str, expected: str
):
    session = tmp_path / "subjects/sub-1/ses-M00"
    write_nifti(session / folder / f"sub-1_ses-M00{file}.nii.gz", voxels_of(1))
    Caps(tmp_path, kind).prepare()
    path = session / "deeplearning_prepare_data/image_based" / expected / f"sub-1_ses-M00{file}.pt"
    assert torch.equal(torch.load(path, weights_only=True)[0], torch.from_numpy(voxels_of(1)))
    # Without the NIfTI file, the prepared tensor is found.
    shutil.rmtree(session / folder)
    assert Caps(tmp_path, kind).path("sub-1", "ses-M00") == path


@pytest.mark.parametrize(
    "parts",
    [Patch(3, 2), Slice(1, 2, 3), Roi({"a": BOX, "b": ((0, 3), (0, 4), (4, 7))}), WholeImage()],
    ids=repr,
)
@pytest.mark.parametrize("prepare", ["image", "parts"])
def test_items_do_not_depend_on_what_was_prepared(
    tmp_path: Path, parts: Parts, prepare: str, monkeypatch: pytest.MonkeyPatch
):
    root = small_caps(tmp_path)
    plain = CapsDataset(Caps(root), rows(), parts)
    expected = [plain[i]["image"] for i in range(len(plain))]
    Caps(root).prepare(parts=parts if prepare == "parts" else WholeImage())
    no_decoding(monkeypatch)
    dataset = CapsDataset(Caps(root), rows(), parts)
    assert all(torch.equal(dataset[i]["image"], expected[i]) for i in range(len(plain)))
    # Items are copies: writing to an item changes neither the file nor the next item.
    raw = CapsDataset(Caps(root), rows(), parts, transform=None)
    before = raw[0]["image"].clone()
    raw[0]["image"].zero_()
    assert torch.equal(raw[0]["image"], before)


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_a_prepared_tensor_is_mapped_into_memory(tmp_path: Path):
    """The tensor's storage is a map of the file, not a copy of its bytes."""
    root = small_caps(tmp_path, 1)
    caps = Caps(root)
    caps.prepare()
    mapped = caps.images.image(caps.sources(rows(1))[0])
    assert is_mapped(tensor_path(root))
    assert mapped.untyped_storage().nbytes() >= mapped.nbytes


def test_a_second_run_writes_only_missing_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = small_caps(tmp_path)
    caps = Caps(root)
    caps.prepare(rows(2))
    before = {path: (root / "subjects" / path).stat().st_mtime_ns for path in prepared_files(root)}
    decoded: list[str] = []
    decode = reader_module.decode
    monkeypatch.setattr(
        prepare_module, "decode", lambda source: decoded.append(source.name) or decode(source)
    )
    caps.prepare(n_workers=2)
    assert decoded == ["sub-02 ses-M00"]
    after = {path: (root / "subjects" / path).stat().st_mtime_ns for path in prepared_files(root)}
    assert len(after) == 3
    assert {path: after[path] for path in before} == before


@pytest.mark.faults
def test_a_preparation_that_is_killed_leaves_only_complete_files(tmp_path: Path):
    root = small_caps(tmp_path, 40, (24, 24, 24))
    script = "import sys; from neurocnn.data import Caps; print(flush=True); Caps(sys.argv[1]).prepare(n_workers=2)"
    process = subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    limit = time.monotonic() + 30
    while len(prepared_files(root)) < 5 and time.monotonic() < limit:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for path in root.rglob("*.pt"):
        if not path.name.startswith("."):
            assert torch.load(path, weights_only=True).shape == (1, 24, 24, 24)
    caps = Caps(root)
    caps.prepare(n_workers=2)
    for i in range(40):
        assert torch.equal(
            caps.read(f"sub-{i:02}", "ses-M00")[0], torch.from_numpy(voxels_of(i, (24, 24, 24)))
        )


@pytest.mark.faults
def test_the_needed_disk_space_is_logged_and_checked_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    root = small_caps(tmp_path, 2, (32, 32, 32))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * 2 * 32**3))
    with caplog.at_level(logging.INFO, "neurocnn"), pytest.raises(OSError, match="preparing takes") as caught:
        Caps(root).prepare()
    assert prepared_files(root) == []
    needed = int(str(caught.value).split("takes ")[1].split()[0])
    assert "2 images: 2 files are missing and will take 0.27 MB; 0.26 MB are free" in caplog.text
    monkeypatch.undo()
    Caps(root).prepare()
    taken = sum(path.stat().st_size for path in root.rglob("*.pt"))
    assert taken <= needed < 1.05 * taken


def test_the_disk_space_of_parts_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = small_caps(tmp_path, 2, (32, 32, 32))
    for parts in (Patch(16, 8), Slice(1, 4, 3), Roi({"a": ((0, 16), (0, 16), (0, 20))})):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="preparing takes") as caught:
            patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
            Caps(root).prepare(parts=parts)
        needed = int(str(caught.value).split("takes ")[1].split()[0])
        Caps(root).prepare(parts=parts)
        taken = sum(path.stat().st_size for path in root.rglob(f"{parts.name}_based/**/*.pt"))
        assert taken <= needed < 1.15 * taken


@pytest.mark.parametrize("parts", [WholeImage(), Patch(5, 5)], ids=repr)
@pytest.mark.parametrize("cut", [20, 10_000])
def test_other_images_are_prepared_despite_a_damaged_image(tmp_path: Path, cut: int, parts: Parts):
    root = small_caps(tmp_path)
    path = Caps(root).path("sub-00", "ses-M00")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ImageError, match=r"1 of 3 images could not be prepared(.|\n)*sub-00"):
        Caps(root).prepare(parts=parts, n_workers=2)
    assert [name[:6] for name in prepared_files(root)] == ["sub-01", "sub-02"]


def newer(path: Path, than: Path, seconds: float = 5) -> None:
    time_ns = than.stat().st_mtime_ns + int(seconds * 1e9)
    os.utime(path, ns=(time_ns, time_ns))


@pytest.mark.parametrize("age", ["newer", "older", "the same"])
@pytest.mark.faults
def test_an_outdated_tensor_is_detected_and_the_nifti_is_read(
    tmp_path: Path, age: str, caplog: pytest.LogCaptureFixture
):
    """The times of the files do not matter, because copies keep the time of their original."""
    root = small_caps(tmp_path, 1)
    Caps(root).prepare()
    path = write_t1(root, "sub-00", voxels_of(9))
    newer(path, tensor_path(root), {"newer": 5, "older": -5, "the same": 0}[age])
    assert torch.equal(Caps(root).read("sub-00", "ses-M00")[0], torch.from_numpy(voxels_of(9)))
    assert "differs from the image" in caplog.text
    Caps(root).prepare()
    assert torch.equal(torch.load(tensor_path(root), weights_only=True)[0], torch.from_numpy(voxels_of(9)))


def test_an_outdated_tensor_of_another_shape_is_detected(tmp_path: Path):
    root = small_caps(tmp_path, 1)
    Caps(root).prepare()
    write_t1(root, "sub-00", voxels_of(9, (5, 8, 7)))
    assert Caps(root).read("sub-00", "ses-M00").shape == (1, 5, 8, 7)


def test_a_nifti_that_was_only_compressed_again_is_not_decoded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    root = small_caps(tmp_path, 1)
    Caps(root).prepare()
    path = Caps(root).path("sub-00", "ses-M00")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))
    caps = Caps(root)
    caps.read("sub-00", "ses-M00")
    assert is_mapped(tensor_path(root))
    assert caplog.text == ""


def foreign(root: Path, image: torch.Tensor, participant: str = "sub-00") -> Path:
    """Write a tensor as ClinicaDL does, and return its path."""
    path = tensor_path(root, participant)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(image.clone(), path)
    return path


def test_a_tensor_that_clinicadl_wrote_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = small_caps(tmp_path, 1)
    path = foreign(root, torch.from_numpy(voxels_of(0))[None])
    newer(path, Caps(root).path("sub-00", "ses-M00"))
    before = path.read_bytes()
    no_decoding(monkeypatch)
    caps = Caps(root)
    caps.prepare()
    assert path.read_bytes() == before
    assert torch.equal(caps.read("sub-00", "ses-M00")[0], torch.from_numpy(voxels_of(0)))


def test_a_tensor_of_clinicadl_from_an_earlier_nifti_is_detected(tmp_path: Path):
    root = small_caps(tmp_path, 1)
    path = foreign(root, torch.from_numpy(voxels_of(5))[None])
    newer(Caps(root).path("sub-00", "ses-M00"), path)
    assert torch.equal(Caps(root).read("sub-00", "ses-M00")[0], torch.from_numpy(voxels_of(0)))
    # If the content is the same, the times do not matter.
    path = foreign(root, torch.from_numpy(voxels_of(0))[None])
    newer(Caps(root).path("sub-00", "ses-M00"), path)
    caps = Caps(root)
    caps.read("sub-00", "ses-M00")
    assert is_mapped(tensor_path(root))


def test_a_tensor_that_another_program_scaled_in_float64_is_not_outdated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    stored = np.random.default_rng(0).integers(0, 3000, (6, 8, 7)).astype(np.int16)
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(0.1234567, 0.7654321)
    path = tmp_path / "subjects/sub-00/ses-M00/t1_linear" / f"sub-00_ses-M00_{T1}"
    path.parent.mkdir(parents=True)
    nib.save(image, path)
    theirs = torch.from_numpy(nib.load(path).get_fdata()).float()[None]
    newer(path, foreign(tmp_path, theirs))
    assert torch.equal(Caps(tmp_path).read("sub-00", "ses-M00"), theirs)
    assert caplog.text == ""


def test_a_tensor_of_the_old_format_is_read(tmp_path: Path):
    root = small_caps(tmp_path, 1)
    path = tensor_path(root)
    path.parent.mkdir(parents=True)
    torch.save(torch.from_numpy(voxels_of(0))[None], path, _use_new_zipfile_serialization=False)
    newer(path, Caps(root).path("sub-00", "ses-M00"))
    assert torch.equal(Caps(root).read("sub-00", "ses-M00")[0], torch.from_numpy(voxels_of(0)))


class Payload:
    def __reduce__(self):
        return os.system, ("touch payload-has-run",)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_bytes(b"no tensor at all")
    elif how == "flipped bit":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif how == "malicious archive":
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, record in records.items():
                archive.writestr(name, pickle.dumps(Payload()) if name.endswith("data.pkl") else record)
        path.write_bytes(buffer.getvalue())
    elif how == "other content":
        torch.save({"image": torch.zeros(3)}, path)
    elif how == "other type":
        torch.save(torch.zeros(1, 6, 8, 7, dtype=torch.float64), path)


DAMAGES = [
    "truncated",
    "empty",
    "text",
    "flipped bit",
    "pickle",
    "malicious archive",
    "other content",
    "other type",
]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.faults
def test_a_damaged_or_malicious_tensor_is_an_error_and_is_written_again(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    root = small_caps(tmp_path / "caps", 1)
    Caps(root).prepare()
    damage(tensor_path(root), how)
    with pytest.raises(ImageError, match=r"sub-00 ses-M00(.|\n)*caps\.prepare\(\)"):
        Caps(root).read("sub-00", "ses-M00")
    Caps(root).prepare()
    assert torch.equal(Caps(root).read("sub-00", "ses-M00")[0], torch.from_numpy(voxels_of(0)))
    assert not (tmp_path / "payload-has-run").exists()


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.faults
def test_a_damaged_tensor_without_a_nifti_is_an_error(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    root = small_caps(tmp_path / "caps", 1)
    Caps(root).prepare()
    damage(tensor_path(root), how)
    Caps(root).path("sub-00", "ses-M00").unlink()
    for act in (Caps(root).prepare, lambda: Caps(root).read("sub-00", "ses-M00")):
        with pytest.raises(ImageError, match="sub-00 ses-M00"):
            act()
    assert not (tmp_path / "payload-has-run").exists()


@pytest.mark.parametrize("how", ["truncated", "flipped bit", "pickle", "other content"])
def test_a_damaged_part_is_an_error_and_is_written_again(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    root = small_caps(tmp_path / "caps", 1)
    parts = Patch(5, 3)
    Caps(root).prepare(parts=parts)
    expected = Patch(5, 3).extract(torch.from_numpy(voxels_of(0))[None], 1)
    path = next(root.rglob("*_patch-1_*.pt"))
    damage(path, how)
    with pytest.raises(ImageError, match="sub-00 ses-M00"):
        CapsDataset(Caps(root), rows(1), parts, transform=None)[1]
    Caps(root).prepare(parts=parts)
    assert torch.equal(torch.load(path, weights_only=True), expected)


def test_an_outdated_part_is_detected(tmp_path: Path):
    root = small_caps(tmp_path, 1)
    Caps(root).prepare(parts=Patch(5, 3))
    write_t1(root, "sub-00", voxels_of(9))
    item = CapsDataset(Caps(root), rows(1), Patch(5, 3), transform=None)[0]
    assert torch.equal(item["image"], Patch(5, 3).extract(torch.from_numpy(voxels_of(9))[None], 0))


def test_a_prepared_region_of_the_same_name_with_another_box_is_not_used(tmp_path: Path):
    root = small_caps(tmp_path, 1)
    first, second = Roi({"a": BOX}), Roi({"a": ((2, 5), (2, 6), (0, 3))})
    Caps(root).prepare(parts=first)
    item = CapsDataset(Caps(root), rows(1), second, transform=None)[0]
    image = torch.from_numpy(voxels_of(0))[None]
    assert torch.equal(item["image"], second.extract(image, 0))
    Caps(root).prepare(parts=second)
    assert torch.equal(
        torch.load(next(root.rglob("*roi-a*.pt")), weights_only=True), second.extract(image, 0)
    )


def test_preparing_parts_of_images_in_another_orientation_is_refused(tmp_path: Path):
    root = small_caps(tmp_path, 1)
    with pytest.raises(SettingError, match="have the file's orientation"):
        Caps(root, orientation="RAS").prepare(parts=Patch(3, 3))
    # Parts that were prepared in the file's order are not used for the reoriented image.
    plain = CapsDataset(Caps(root, orientation="RAS"), rows(1), Patch(3, 3), transform=None)[0]["image"]
    Caps(root).prepare(parts=Patch(3, 3))
    again = CapsDataset(Caps(root, orientation="RAS"), rows(1), Patch(3, 3), transform=None)[0]["image"]
    assert torch.equal(plain, again)


def test_parts_without_names_cannot_be_prepared(tmp_path: Path):
    class Corner:
        name = "corner"

        def ids(self, shape):
            return [0]

        def extract(self, image, part_id):
            return image[:, :2, :2, :2]

    with pytest.raises(SettingError, match=r"expected parts with the methods .descriptor. and .place."):
        Caps(small_caps(tmp_path, 1)).prepare(parts=Corner())


@pytest.mark.faults
def test_a_full_disk_keeps_existing_files_and_names_the_path(tmp_path: Path):
    root = small_caps(tmp_path, 2)
    Caps(root).prepare(rows(1))
    before = tensor_path(root).read_bytes()
    script = (
        "import resource, signal, sys; from neurocnn.data import Caps; caps = Caps(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "try:\n    caps.prepare()\nexcept OSError as error:\n    print(error.filename)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tensor_path(root, "sub-01"))
    assert prepared_files(root) == [str(tensor_path(root).relative_to(root / "subjects"))]
    assert tensor_path(root).read_bytes() == before


def test_uncropped_and_cropped_images_do_not_share_a_tensor(tmp_path: Path):
    root = small_caps(tmp_path, 1)
    whole = T1.replace("_desc-Crop", "")
    write_nifti(
        root / "subjects/sub-00/ses-M00/t1_linear" / f"sub-00_ses-M00_{whole}", voxels_of(3, (7, 9, 8))
    )
    Caps(root).prepare()
    Caps(root, T1Linear(cropped=False)).prepare()
    assert Caps(root).read("sub-00", "ses-M00").shape == (1, 6, 8, 7)
    assert Caps(root, T1Linear(cropped=False)).read("sub-00", "ses-M00").shape == (1, 7, 9, 8)


def test_images_are_prepared_in_parallel_with_a_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    both = threading.Barrier(2, timeout=20)  # passed only if two threads decode at once
    decode = reader_module.decode
    monkeypatch.setattr(prepare_module, "decode", lambda source: both.wait() is None or decode(source))
    bars = []

    def bar(items, **settings):
        bars.append(settings)
        return tqdm.std.tqdm(items, **settings)

    monkeypatch.setattr(tqdm, "tqdm", bar)
    Caps(small_caps(tmp_path, 4)).prepare(n_workers=2)
    assert len(prepared_files(tmp_path)) == 4
    assert bars == [{"total": 4, "desc": "prepare", "disable": None}]


def test_a_negative_n_workers_is_refused(tmp_path: Path):
    with pytest.raises(SettingError, match="n_workers"):
        Caps(small_caps(tmp_path, 1)).prepare(n_workers=-1)


def test_prepared_voxels_equal_those_of_nibabel(tmp_path: Path):
    root = small_caps(tmp_path, 1)
    Caps(root).prepare()
    expected = nib.load(Caps(root).path("sub-00", "ses-M00")).get_fdata(dtype=np.float32)
    assert np.array_equal(torch.load(tensor_path(root), weights_only=True)[0].numpy(), expected)
    assert np.array_equal(Caps(root).affine("sub-00", "ses-M00"), AFFINE)


@pytest.mark.parametrize("parts", [WholeImage(), Slice(2, discarded_slices=2)], ids=["image", "slice"])
def test_no_temporary_files_remain_after_a_killed_prepare_was_completed(tmp_path: Path, parts):
    caps = Caps(small_caps(tmp_path))
    caps.prepare(rows(), parts=parts)
    complete = sorted(tmp_path.rglob("*"))
    tensors = sorted(tmp_path.rglob("*.pt"))
    for path in tensors[:2]:
        (path.parent / f".{path.name}.17-0a1b2c3d").write_bytes(path.read_bytes()[:50])
    mine = tensors[0].parent / f".{tensors[0].name}.18-0a1b2c3d"
    mine.symlink_to(tensors[0])
    tensors[0].unlink()
    Caps(tmp_path).prepare(rows(), parts=parts)
    assert sorted(tmp_path.rglob("*")) == sorted([*complete, mine])

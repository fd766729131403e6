"""Images with other names or spaces, broken links, and files of other programs are read or refused with a reason."""

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_caps import AFFINE, rows, small_caps, voxels_of, write_nifti, write_t1

from neurocnn.data import Caps, CapsDataset, Custom, Patch, PetLinear, Roi, T1Linear
from neurocnn.data.preprocessing import Preprocessing
from neurocnn.errors import ImageError, NotFoundError, SettingError, StorageError

pytestmark = pytest.mark.faults

MNI = "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1"
FDG = PetLinear("18FFDG", "pons")
IXI_AFFINE = np.array([[-1.5, 0, 0, 90], [0, 1.5, 0, -126], [0, 0, 1.5, -72], [0, 0, 0, 1]])


def write_session(root: Path, folder: str, *names: str) -> list[Path]:
    """Write images of one session, given the ends of their file names, and return their paths."""
    session = root / "subjects" / "sub-01" / "ses-M000" / folder
    return [write_nifti(session / f"sub-01_ses-M000_{name}", voxels_of(i)) for i, name in enumerate(names)]


class TestNames:
    @pytest.mark.parametrize(
        ("preprocessing", "name"),
        [
            (T1Linear(), f"run-01_{MNI}_T1w.nii.gz"),
            (T1Linear(), f"acq-MPRAGE_run-2_T1w_{MNI}_T1w.nii.gz"),
            (T1Linear(), f"ce-gadolinium_{MNI}_T1w.nii.gz"),
            (T1Linear(), f"{MNI}_T1w.nii"),
            (T1Linear(), f"run-01_{MNI}_T1w.nii"),
            (FDG, f"trc-18FFDG_rec-uniform_{MNI}_suvr-pons_pet.nii.gz"),
            (FDG, f"trc-18FFDG_rec-coregiso_run-01_pet_{MNI}_suvr-pons_pet.nii.gz"),
            (FDG, f"task-rest_acq-fdg_{MNI}_suvr-pons_pet.nii.gz"),
            (FDG, f"task-rest_acq-FDG_pet_{MNI}_suvr-pons_pet.nii.gz"),
            (FDG, f"task-rest_acq-18FFDG_{MNI}_suvr-pons_pet.nii"),
        ],
    )
    def test_images_with_bids_entities_of_the_source_file_are_found(
        self, tmp_path: Path, preprocessing: Preprocessing, name: str
    ):
        (path,) = write_session(tmp_path, preprocessing.folder, name)
        caps = Caps(tmp_path, preprocessing)
        assert caps.path("sub-01", "ses-M000") == path
        assert len(caps.sessions()) == 1
        assert torch.equal(caps.read("sub-01", "ses-M000")[0], torch.from_numpy(voxels_of(0)))
        caps.prepare()
        path.unlink()
        assert caps.path("sub-01", "ses-M000").suffix == ".pt"

    @pytest.mark.parametrize(
        ("preprocessing", "name"),
        [
            (FDG, f"trc-18FAV45_{MNI}_suvr-pons_pet.nii.gz"),
            (FDG, f"task-rest_acq-av45_{MNI}_suvr-pons_pet.nii.gz"),
            (FDG, f"trc-18FFDG_{MNI}_suvr-cerebellumPons2_pet.nii.gz"),
            (FDG, f"run-01_{MNI}_suvr-pons_pet.nii.gz"),
            (T1Linear(cropped=False), f"run-01_{MNI}_T1w.nii.gz"),
        ],
    )
    def test_a_similar_image_is_not_used_but_suggested_with_custom(
        self, tmp_path: Path, preprocessing: Preprocessing, name: str
    ):
        write_session(tmp_path, preprocessing.folder, name)
        caps = Caps(tmp_path, preprocessing)
        assert len(caps.sessions()) == 0
        with pytest.raises(NotFoundError) as caught:
            caps.path("sub-01", "ses-M000")
        assert f"found sub-01_ses-M000_{name}; to use" in str(caught.value)
        suffix = str(caught.value).split("Custom('")[1].split("')")[0]
        assert len(Caps(tmp_path, Custom(suffix)).sessions()) == 1

    def test_the_expected_name_is_preferred_to_names_with_entities_and_gz_is_preferred_to_nii(
        self, tmp_path: Path
    ):
        names = (f"{MNI}_T1w.nii.gz", f"run-01_{MNI}_T1w.nii.gz", f"{MNI}_T1w.nii")
        computed, *_ = write_session(tmp_path, "t1_linear", *names)
        assert Caps(tmp_path).path("sub-01", "ses-M000") == computed

    def test_two_matching_runs_are_refused_with_both_names_and_a_remedy(self, tmp_path: Path):
        paths = write_session(tmp_path, "t1_linear", *(f"run-0{i}_{MNI}_T1w.nii.gz" for i in (1, 2)))
        with pytest.raises(ImageError, match="2 files match") as caught:
            Caps(tmp_path).path("sub-01", "ses-M000")
        assert all(str(path) in str(caught.value) for path in paths)
        suffix = str(caught.value).split("Custom('")[1].split("')")[0]
        assert Caps(tmp_path, Custom(suffix)).path("sub-01", "ses-M000") == paths[0]

    def test_the_reconstruction_of_pet_can_be_chosen(self, tmp_path: Path):
        names = [f"trc-18FFDG_rec-{rec}_{MNI}_suvr-pons_pet.nii.gz" for rec in ("coregiso", "uniform")]
        paths = write_session(tmp_path, "pet_linear", *names)
        with pytest.raises(ImageError, match=r"2 files match.*reconstruction="):
            Caps(tmp_path, FDG).path("sub-01", "ses-M000")
        for rec, path in zip(("coregiso", "uniform"), paths, strict=True):
            caps = Caps(tmp_path, PetLinear("18FFDG", "pons", reconstruction=rec))
            assert caps.path("sub-01", "ses-M000") == path
        with pytest.raises(SettingError, match="reconstruction="):
            PetLinear("18FFDG", "pons", reconstruction="rec-uniform")


class TestUnreadableFiles:
    def test_all_unreadable_files_are_listed_before_anything_is_read(self, tmp_path: Path):
        root = small_caps(tmp_path, 6)
        paths = [Caps(root).path(f"sub-{i:02}", "ses-M00") for i in range(6)]
        for path in paths[1:]:
            path.unlink()
        paths[1].symlink_to("../../.git/annex/objects/aa/bb/SHA256E-s3--00.nii.gz")
        paths[2].write_text("/annex/objects/SHA256E-s3--00.nii.gz\n")
        paths[3].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
        paths[4].touch()
        paths[5].mkdir()
        with pytest.raises(NotFoundError, match="5 images cannot be read") as caught:
            CapsDataset(Caps(root), rows(6))
        lines = str(caught.value).splitlines()[1:]
        assert len(lines) == 5
        assert all(f"sub-{i:02} ses-M00:" in line for i, line in enumerate(lines, 1))
        found = (
            "the link has no target",
            "a pointer to content",
            "a pointer",
            "zero bytes",
            "Is a directory",
        )
        assert all(words in line for words, line in zip(found, lines, strict=True))

    @pytest.fixture
    def public(self) -> Iterator[Path]:
        """Return a folder that other users can enter, unlike the folders of pytest."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            yield Path(folder)

    def test_an_error_names_a_file_or_folder_without_permission(self, public: Path):
        """Read in a child process without the rights of root, because root can read every file."""
        root = small_caps(public / "caps")
        path = Caps(root).path("sub-01", "ses-M00")
        path.chmod(0)
        script = (
            "import os, sys\nfrom pathlib import Path\nfrom neurocnn.data import Caps, CapsDataset\n"
            "from neurocnn.errors import NeurocnnError, StorageError\n"
            "root, path = Path(sys.argv[1]), Path(sys.argv[2])\n"
            "import pandas as pd\n"
            "frame = pd.DataFrame({'participant_id': ['sub-00', 'sub-01', 'sub-02'], 'session_id': 'ses-M00'})\n"
            "caps = Caps(root)\n"
            "if os.getuid() == 0: os.setuid(65534)\n"
            "for act in (lambda: CapsDataset(caps, frame), lambda: caps.read('sub-01', 'ses-M00'),\n"
            "            lambda: caps.fingerprints(frame)):\n"
            "    try:\n        act()\n    except StorageError as error:\n        print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(root), str(path)], capture_output=True, text=True, check=True
        )
        lines = done.stdout.splitlines()
        assert len(lines) == 3
        assert all("cannot read sub-01 ses-M00: Permission denied" in line for line in lines), lines
        assert all(str(path) in line for line in lines)
        path.chmod(0o644)
        path.parent.chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", script, str(root), str(path)], capture_output=True, text=True, check=True
        )
        path.parent.chmod(0o755)
        assert done.stdout.count("Permission denied") == 3

    def test_prepare_lists_unreadable_files_after_the_others_are_prepared(self, tmp_path: Path):
        root = small_caps(tmp_path)
        path = Caps(root).path("sub-01", "ses-M00")
        path.unlink()
        path.symlink_to("nowhere")
        with pytest.raises(ImageError, match=r"1 of 3 images could not be prepared(.|\n)*has no target"):
            Caps(root).prepare()
        assert len(list(root.rglob("*.pt"))) == 2


def moved(voxel: float = 2.0, origin: float = 0.0, angle: float = 0.0) -> np.ndarray:
    """Return AFFINE with another voxel size, another origin and a rotation."""
    affine = AFFINE.copy()
    affine[:3, :3] = nib.eulerangles.euler2mat(angle, 0, 0) @ AFFINE[:3, :3] * voxel / 2
    affine[0, 3] += origin
    return affine


OTHER_SPACES = [moved(voxel=1.0), moved(origin=100.0), moved(angle=0.3)]


class TestOtherSpace:
    @pytest.mark.parametrize("affine", OTHER_SPACES, ids=["voxel size", "origin", "rotation"])
    def test_an_image_at_another_position_causes_one_warning_that_names_both(
        self, tmp_path: Path, affine: np.ndarray, caplog: pytest.LogCaptureFixture
    ):
        root = small_caps(tmp_path)
        for i in (1, 2):
            write_t1(root, f"sub-{i:02}", voxels_of(i), affine=affine)
        caps = Caps(root)
        for _ in range(2):
            dataset = CapsDataset(caps, rows())
            _ = [dataset[i] for i in range(3)]
        warnings = [record.getMessage() for record in caplog.records]
        assert len(warnings) == 1
        assert "sub-01 ses-M00: its voxels" in warnings[0]
        assert "sub-00 ses-M00" in warnings[0]
        place = nib.affines.apply_affine
        corners = [(i, j, k) for i in (0, 5) for j in (0, 7) for k in (0, 6)]
        far = max(np.linalg.norm(place(affine, c) - place(AFFINE, c)) for c in corners)
        assert f"up to {far:.1f} mm" in warnings[0]

    def test_rounding_in_the_header_causes_no_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        root = small_caps(tmp_path, 1)
        write_t1(root, "sub-01", voxels_of(1), affine=moved(origin=0.01, angle=1e-4))
        CapsDataset(Caps(root), rows(2))
        assert caplog.text == ""

    @pytest.mark.parametrize("affine", OTHER_SPACES, ids=["voxel size", "origin", "rotation"])
    def test_a_mask_at_another_position_causes_one_warning_that_names_both(
        self, tmp_path: Path, affine: np.ndarray, caplog: pytest.LogCaptureFixture
    ):
        root = small_caps(tmp_path / "caps")
        mask = np.zeros((6, 8, 7), dtype=np.float32)
        mask[2:4, 2:4, 2:4] = 1
        path = write_nifti(tmp_path / "roi-a_mask.nii.gz", mask, affine)
        caps = Caps(root)
        for _ in range(2):
            CapsDataset(caps, rows(), Roi.from_masks([path]))
        assert len(caplog.records) == 1
        assert str(path) in caplog.text
        assert "sub-00 ses-M00" in caplog.text

    def test_a_header_without_an_orientation_code_cannot_be_reoriented(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        root = small_caps(tmp_path, 1)
        for i in (1, 2):
            path = write_t1(root, f"sub-{i:02}", voxels_of(i))
            image = nib.Nifti1Image(voxels_of(i), None)
            assert (image.header["sform_code"], image.header["qform_code"]) == (0, 0)
            nib.save(image, path)
        caps = Caps(root)
        dataset = CapsDataset(caps, rows(), transform=None)
        for i in range(3):
            assert torch.equal(dataset[i]["image"][0], torch.from_numpy(voxels_of(i)))
        assert len(caplog.records) == 1
        assert "sub-01 ses-M00" in caplog.text
        assert "sform_code=0, qform_code=0" in caplog.text
        with pytest.raises(ImageError, match=r"sub-01.*sform_code=0.*orientation='RAS'"):
            Caps(root, orientation="RAS").read("sub-01", "ses-M00")


class TestGzip:
    def test_a_gz_file_that_is_not_gzip_and_the_reverse_are_refused(self, tmp_path: Path):
        root = small_caps(tmp_path, 2)
        first, second = (Caps(root).path(f"sub-{i:02}", "ses-M00") for i in range(2))
        first.write_bytes(gzip.decompress(first.read_bytes()))
        with pytest.raises(ImageError, match=r"sub-00.*is not gzip.*rename it to .*_T1w\.nii if"):
            Caps(root).read("sub-00", "ses-M00")
        second.rename(second.with_suffix(""))
        with pytest.raises(ImageError, match=r"sub-01.*is gzip.*rename it to .*_T1w\.nii\.gz"):
            Caps(root).read("sub-01", "ses-M00")

    def test_many_empty_gzip_members_are_refused_at_once(self, tmp_path: Path):
        root = small_caps(tmp_path, 1)
        path = Caps(root).path("sub-00", "ses-M00")
        path.write_bytes(path.read_bytes() + gzip.compress(b"") * 500_000)
        begun = time.perf_counter()
        with pytest.raises(ImageError, match=r"sub-00.*more than \d+ gzip members"):
            Caps(root).read("sub-00", "ses-M00")
        assert (
            time.perf_counter() - begun < 5
        )  # copying the remainder of the file for each member would take hours

    @pytest.mark.parametrize("size", [512, 4096, 5000, 100_000])
    def test_gzip_files_of_parallel_compressors_are_read(self, tmp_path: Path, size: int):
        voxels = voxels_of(0, (40, 40, 40))
        path = write_t1(tmp_path, "sub-00", voxels)
        content = gzip.decompress(path.read_bytes())
        blocks = [gzip.compress(content[i : i + size]) for i in range(0, len(content), size)]
        path.write_bytes(b"".join(blocks) + gzip.compress(b"") + bytes(1000))
        assert torch.equal(Caps(tmp_path).read("sub-00", "ses-M00")[0], torch.from_numpy(voxels))


def tensor_alone(root: Path, stem: str, image: object, kind: str = "t1_linear") -> Path:
    """Write a prepared tensor without a NIfTI file."""
    folder = root / "subjects/sub-01/ses-M00/deeplearning_prepare_data/image_based" / kind
    folder.mkdir(parents=True)
    torch.save(image, folder / f"sub-01_ses-M00_{stem}.pt")
    return folder / f"sub-01_ses-M00_{stem}.pt"


class TestPreparedTensors:
    def test_the_tensors_of_the_lab_have_the_affine_of_their_pipeline(self, tmp_path: Path):
        """The data of the lab are tensors of t1-volume without NIfTI files."""
        stem = "T1w_segm-graymatter_space-Ixi549Space_modulated-off_probability"
        tensor_alone(tmp_path, stem, torch.zeros(1, 121, 145, 121), "custom")
        caps = Caps(tmp_path, "t1-volume")
        assert np.array_equal(caps.affine("sub-01", "ses-M00"), IXI_AFFINE)
        assert np.array_equal(caps.known_affine("sub-01", "ses-M00"), IXI_AFFINE)

    def test_a_tensor_of_another_shape_has_no_known_affine(self, tmp_path: Path):
        tensor_alone(tmp_path, f"{MNI}_T1w", torch.rand(1, 6, 8, 7))
        caps = Caps(tmp_path)
        assert caps.known_affine("sub-01", "ses-M00") is None
        with pytest.raises(ImageError, match="no affine"):
            caps.affine("sub-01", "ses-M00")

    def test_voxels_are_compared_after_an_older_file_replaced_a_nifti(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        root = small_caps(tmp_path / "caps", 1)
        old = write_nifti(tmp_path / "old.nii.gz", voxels_of(9))
        os.utime(old, (1e9, 1e9))
        Caps(root).prepare()
        tensor = next(root.rglob("*.pt"))
        torch.save(torch.from_numpy(voxels_of(0))[None].clone(), tensor)  # as ClinicaDL writes it
        time.sleep(0.05)
        shutil.copy2(old, Caps(root).path("sub-00", "ses-M00"))
        assert torch.equal(Caps(root).read("sub-00", "ses-M00")[0], torch.from_numpy(voxels_of(9)))
        assert "differs from the image" in caplog.text

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ({"image": torch.zeros(3), "label": 1}, "a dict with the keys image, label"),
            ([torch.zeros(3)], "a list"),
            ("text", "a str"),
            (torch.zeros(1, 6, 8, 7, dtype=torch.int16), "torch.int16"),
            (torch.zeros(1, 6, 8, 7).to_sparse(), "sparse"),
            (torch.zeros(1).expand(1, 20000, 20000, 2000), r"20000.*expected at most \d+ bytes"),
            (torch.zeros(6, 8, 7), r"shape=\(6, 8, 7\)"),
            (torch.zeros(1, 0, 8, 7), r"shape=\(1, 0, 8, 7\)"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_file_with_other_content_is_refused_with_its_type(
        self, tmp_path: Path, content: object, found: str
    ):
        path = tensor_alone(tmp_path, f"{MNI}_T1w", content)
        with pytest.raises(ImageError, match=found) as caught:
            Caps(tmp_path).read("sub-01", "ses-M00")
        assert "sub-01 ses-M00" in str(caught.value)
        assert str(path) in str(caught.value)

    def test_a_full_disk_is_detected_before_anything_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        root = small_caps(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 100})())
        with pytest.raises(StorageError, match=r"preparing takes \d+ bytes.*only 100 bytes.*subjects"):
            Caps(root).prepare(parts=Patch(3, 3))
        assert not list(root.rglob("*.pt"))


class TestCohorts:
    @pytest.mark.parametrize("how", ["same path", "other spelling", "link", "link to subjects"])
    def test_two_cohorts_with_the_same_folder_are_refused(self, tmp_path: Path, how: str):
        root = small_caps(tmp_path / "caps")
        other = {"same path": root, "other spelling": tmp_path / "x" / ".." / "caps"}.get(how, tmp_path / "b")
        (tmp_path / "x").mkdir()
        if how == "link":
            other.symlink_to(root)
        elif how == "link to subjects":
            other.mkdir()
            (other / "subjects").symlink_to(root / "subjects")
        with pytest.raises(SettingError, match=r"'A' and 'B' have the same folder.*caps"):
            Caps({"A": root, "B": other})

    def test_two_copies_of_a_folder_are_two_cohorts(self, tmp_path: Path):
        root = small_caps(tmp_path / "a")
        shutil.copytree(root, tmp_path / "b")
        assert Caps({"A": root, "B": tmp_path / "b"}).cohorts == ["A", "B"]


def test_an_uncropped_file_suggests_the_uncropped_pipeline_and_a_caps_without_images_warns(
    tmp_path: Path, caplog
):
    path = write_session(tmp_path, "t1_linear", "space-MNI152NLin2009cSym_res-1x1x1_T1w.nii.gz")[0]
    caps = Caps(tmp_path)
    with pytest.raises(
        NotFoundError, match=r"to use the first file: preprocessing=T1Linear\(cropped=False\)"
    ):
        caps.path("sub-01", "ses-M000")
    assert caps.sessions().empty
    assert "none of 1 sessions has the t1-linear image" in caplog.text
    assert path.name in caplog.text
    assert len(Caps(tmp_path, T1Linear(cropped=False)).sessions()) == 1

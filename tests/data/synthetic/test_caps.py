import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurocnn.data import Caps, make_caps
from neurocnn.data.synthetic import caps as synthetic
from neurocnn.errors import SettingError

TINY = (24, 28, 24)
SMALL = (34, 40, 34)  # voxels of 5.4 mm, about twenty per hippocampus

T1_LINEAR = "t1_linear/{}_ses-M000_T1w_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w.nii.gz"
T1_VOLUME = (
    "t1/spm/segmentation/normalized_space/"
    "{}_ses-M000_T1w_segm-graymatter_space-Ixi549Space_modulated-off_probability.nii.gz"
)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.nii.gz")}


def image(folder, participant_id, name=T1_VOLUME):
    return nib.load(folder / "subjects" / participant_id / "ses-M000" / name.format(participant_id))


def cut(volume, low, high):
    """Return the voxels of an image between two points in mm."""
    corners = nib.affines.apply_affine(np.linalg.inv(volume.affine), [low, high])
    first, last = np.sort(np.rint(corners).astype(int), axis=0)
    return volume.get_fdata()[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]


def hippocampal_measure(volume):
    """Return the volume of grey matter (mm³) in two boxes around the hippocampi of MNI space."""
    return sum(
        (cut(volume, (x - 9, -40, -26), (x + 9, -6, 0)) > 0.5).sum() * abs(np.linalg.det(volume.affine))
        for x in (26, -26)
    )


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """Return the labels and folder of 200 participants with the default atrophy, and of the same without atrophy."""
    made = {}
    for name, atrophy in (("atrophied", synthetic.DEFAULT_ATROPHY), ("healthy", 0.0)):
        folder = tmp_path_factory.mktemp(name) / "caps"
        made[name] = make_caps(folder, 200, "t1-volume", shape=SMALL, atrophy=atrophy, seed=4), folder
    return made


def groups(cohort, measure):
    """Return the measure of the images with AD, and of the images with CN."""
    labels, folder = cohort
    values = np.array([measure(image(folder, name)) for name in labels["participant_id"]])
    return values[labels["diagnosis"] == "AD"], values[labels["diagnosis"] == "CN"]


def test_the_same_seed_gives_the_same_bytes_with_other_numbers_of_participants_and_workers(tmp_path):
    make_caps(tmp_path / "few", 3, shape=TINY, n_workers=1)
    make_caps(tmp_path / "many", 8, shape=TINY, n_workers=4)
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    assert len(few) == 3
    assert len(many) == 8
    assert all(many[name] == content for name, content in few.items())
    rows = (tmp_path / "few" / "labels.tsv").read_text().splitlines()
    assert rows == (tmp_path / "many" / "labels.tsv").read_text().splitlines()[:4]


def test_another_seed_creates_other_participants(tmp_path):
    for seed in (0, 1):
        make_caps(tmp_path / str(seed), 3, shape=TINY, seed=seed)
    zero, one = files(tmp_path / "0"), files(tmp_path / "1")
    assert zero.keys() == one.keys()
    assert not set(zero.values()) & set(one.values())


@pytest.mark.parametrize(
    ("preprocessing", "name", "shape", "affine"),
    [
        # The template starts at (-96, -132, -78) mm; Clinica's crop drops 12, 13 and 0 voxels of it.
        ("t1-linear", T1_LINEAR, (169, 208, 179), nib.affines.from_matvec(np.eye(3), (-84, -119, -78))),
        # SPM's bounding box reaches from (-90, -126, -72) to (90, 90, 108) mm, x descending.
        (
            "t1-volume",
            T1_VOLUME,
            (121, 145, 121),
            nib.affines.from_matvec(np.diag((-1.5, 1.5, 1.5)), (90, -126, -72)),
        ),
    ],
)
def test_a_full_image_has_the_name_and_header_of_an_image_of_clinica(
    tmp_path, preprocessing, name, shape, affine
):
    make_caps(tmp_path / "caps", 1, preprocessing)
    loaded = image(tmp_path / "caps", "sub-0001", name)
    assert loaded.shape == shape
    np.testing.assert_array_equal(loaded.affine, affine)
    np.testing.assert_allclose(loaded.get_qform(), affine, atol=1e-5)
    assert loaded.get_data_dtype() == np.int16
    assert 0 < loaded.dataobj.slope < 1
    assert loaded.header.get_xyzt_units()[0] == "mm"
    voxels = loaded.get_fdata()
    assert voxels[0, 0, -1] == 0
    assert (
        0.2 < (voxels > 0).mean() < 0.8
        if preprocessing == "t1-linear"
        else 0 <= voxels.min() <= voxels.max() <= 1
    )


def test_the_gzip_header_has_no_time_and_no_name(tmp_path):
    make_caps(tmp_path / "caps", 1, shape=TINY)
    (content,) = files(tmp_path / "caps").values()
    assert content[:4] == b"\x1f\x8b\x08\x00"
    assert content[4:8] == bytes(4)


@pytest.mark.parametrize("preprocessing", ["t1-linear", "t1-volume"])
def test_fewer_voxels_cover_the_same_box_in_mm(tmp_path, preprocessing):
    full = {
        "t1-linear": ((169, 208, 179), (-84.5, -119.5, -78.5), 1.0),
        "t1-volume": ((121, 145, 121), (90.75, -126.75, -72.75), 1.5),
    }[preprocessing]
    make_caps(tmp_path / "caps", 1, preprocessing, shape=TINY)
    loaded = nib.load(next((tmp_path / "caps").rglob("*.nii.gz")))
    faces = nib.affines.apply_affine(loaded.affine, [(-0.5,) * 3, np.array(TINY) - 0.5])
    np.testing.assert_allclose(faces[0], full[1], atol=1e-4)
    np.testing.assert_allclose(np.abs(faces[1] - faces[0]), np.array(full[0]) * full[2], atol=1e-4)


@pytest.mark.parametrize("preprocessing", ["t1-linear", "flair-linear", "t1-extensive", "t1-volume"])
def test_caps_reads_the_created_images(tmp_path, preprocessing):
    labels = make_caps(tmp_path / "caps", 2, preprocessing, shape=TINY)
    caps = Caps(tmp_path / "caps", preprocessing)
    sessions = caps.sessions()
    assert sessions["participant_id"].tolist() == labels["participant_id"].tolist()
    tensor = caps.read("sub-0002", "ses-M000")
    stored = nib.load(caps.path("sub-0002", "ses-M000")).get_fdata()
    np.testing.assert_array_equal(tensor[0].numpy(), stored.astype(np.float32))
    assert tensor.std() > 0.1


def test_labels_are_those_of_a_plausible_cohort(cohorts):
    labels, _ = cohorts["atrophied"]
    assert list(labels.columns) == ["participant_id", "session_id", "diagnosis", "age", "sex", "MMS"]
    assert labels["participant_id"].is_unique
    assert labels["participant_id"].map(re.compile(r"sub-\d{4}").fullmatch).notna().all()
    assert set(labels["session_id"]) == {"ses-M000"}
    assert labels["diagnosis"].value_counts().to_dict() == {"AD": 100, "CN": 100}
    assert 0.4 < (labels["sex"] == "F").mean() < 0.7
    assert labels["age"].between(55, 95).all()
    assert labels["MMS"].dtype == np.int64
    assert labels["MMS"].between(0, 30).all()
    by = labels.groupby("diagnosis")[["age", "MMS"]].agg(["mean", "std"])
    assert 0 < by.loc["AD", ("age", "mean")] - by.loc["CN", ("age", "mean")] < 5
    assert by.loc["CN", ("MMS", "mean")] == pytest.approx(29, abs=0.5)
    assert by.loc["AD", ("MMS", "mean")] == pytest.approx(23, abs=1)
    assert by.loc["AD", ("MMS", "std")] == pytest.approx(3, abs=1)


def test_diagnoses_do_not_depend_on_the_order_of_participants(cohorts):
    labels, _ = cohorts["atrophied"]
    first, second = labels["diagnosis"][::2].to_numpy(), labels["diagnosis"][1::2].to_numpy()
    assert (first != second).all()
    assert 30 <= (first == "AD").sum() <= 70


def test_hippocampi_are_smaller_in_ad_by_the_atrophy(cohorts):
    ad, cn = groups(cohorts["atrophied"], hippocampal_measure)
    assert ttest_ind(cn, ad, alternative="greater").pvalue < 1e-10
    # Other tissue in the boxes is the same for AD and CN.
    _, all_healthy = groups(cohorts["healthy"], hippocampal_measure)
    lost = cn.mean() - ad.mean()
    assert cn.mean() == pytest.approx(all_healthy.mean())
    assert lost == pytest.approx(
        synthetic.DEFAULT_ATROPHY * 2 * 3237, rel=0.25
    )  # mm³, two template hippocampi


def test_groups_overlap_in_each_single_measure(cohorts):
    ad, cn = groups(cohorts["atrophied"], hippocampal_measure)
    assert ad.max() > cn.min()


def test_without_atrophy_no_measure_differs(cohorts):
    boxes = [((-60, -80, -40), (60, 40, 60)), ((-60, -100, 20), (60, 60, 70)), ((5, -50, -30), (50, 5, 10))]
    measures = [hippocampal_measure, *(lambda volume, box=box: cut(volume, *box).mean() for box in boxes)]
    smallest = min(ttest_ind(*groups(cohorts["healthy"], measure)).pvalue for measure in measures)
    assert smallest > 0.05 / len(measures)  # Bonferroni's correction for several tests


def test_without_atrophy_images_do_not_depend_on_the_diagnosis(tmp_path, monkeypatch):
    make_caps(tmp_path / "caps", 6, shape=TINY, atrophy=0)
    original = synthetic._diagnosis
    monkeypatch.setattr(synthetic, "_diagnosis", lambda *who: {"AD": "CN", "CN": "AD"}[original(*who)])
    exchanged = make_caps(tmp_path / "exchanged", 6, shape=TINY, atrophy=0)
    assert (exchanged["diagnosis"] == "AD").sum() == 3
    assert files(tmp_path / "caps") == files(tmp_path / "exchanged")


def test_atrophy_changes_only_participants_with_ad(cohorts):
    labels, folder = cohorts["atrophied"]
    with_atrophy, without = files(folder), files(cohorts["healthy"][1])
    changed = {name.split("/")[1] for name in without if with_atrophy[name] != without[name]}
    assert changed == set(labels.loc[labels["diagnosis"] == "AD", "participant_id"])


def test_ventricles_are_larger_in_ad(tmp_path):
    labels = make_caps(tmp_path / "caps", 60, "t1-linear", shape=SMALL)
    fluid = np.array(
        [
            # In this box, deep in the white matter, fluid is the darkest tissue.
            (cut(image(tmp_path / "caps", who, T1_LINEAR), (-26, -46, 2), (26, 34, 26)) < 0.45).sum()
            for who in labels["participant_id"]
        ]
    )
    is_ad = (labels["diagnosis"] == "AD").to_numpy()
    assert fluid[is_ad].mean() > 1.2 * fluid[~is_ad].mean()
    assert ttest_ind(fluid[is_ad], fluid[~is_ad], alternative="greater").pvalue < 1e-5


def test_a_linear_classifier_needs_the_atrophy(cohorts):
    for name, low, high in (("atrophied", 0.85, 0.999), ("healthy", 0.35, 0.65)):
        labels, folder = cohorts[name]
        voxels = np.array(
            [
                np.concatenate(
                    [cut(image(folder, who), (x - 21, -50, -31), (x + 21, 7, 11)).ravel() for x in (29, -29)]
                )
                for who in labels["participant_id"]
            ]
        )
        truth = (labels["diagnosis"] == "AD").to_numpy()
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
        said = cross_val_predict(model, voxels, truth, cv=5)
        balanced = ((said[truth]).mean() + (~said[~truth]).mean()) / 2
        assert low <= balanced <= high


def test_a_second_call_creates_only_missing_files(tmp_path):
    folder = tmp_path / "caps"
    first = make_caps(folder, 3, shape=TINY)
    before = files(folder)
    gone, *kept = sorted(folder.rglob("*.nii.gz"))
    gone.unlink()
    times = [path.stat().st_mtime_ns for path in kept]
    again = make_caps(folder, 3, shape=TINY)
    assert again.equals(first)
    assert files(folder) == before
    assert [path.stat().st_mtime_ns for path in kept] == times


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_participants", 4),
        ("preprocessing", "t1-volume"),
        ("shape", (24, 28, 25)),
        ("atrophy", 0.1),
        ("seed", 1),
    ],
)
def test_a_caps_of_other_settings_is_refused_and_not_changed(tmp_path, name, value):
    settings = {"n_participants": 2, "preprocessing": "t1-linear", "shape": TINY}
    make_caps(tmp_path / "caps", **settings)
    before = files(tmp_path / "caps")
    with pytest.raises(SettingError, match=rf"other settings.*{name}"):
        make_caps(tmp_path / "caps", **{**settings, name: value})
    assert files(tmp_path / "caps") == before


def test_a_folder_with_other_files_is_refused_and_not_changed(tmp_path):
    (tmp_path / "labels.tsv").write_text("mine")
    with pytest.raises(SettingError, match="not a synthetic CAPS"):
        make_caps(tmp_path, 2, shape=TINY)
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.tsv"]
    assert (tmp_path / "labels.tsv").read_text() == "mine"


def test_damaged_settings_are_refused(tmp_path):
    (tmp_path / "synthetic.json").write_text("{")
    with pytest.raises(SettingError, match="other settings"):
        make_caps(tmp_path, 2, shape=TINY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preprocessing": "t1-linea"}, "did you mean 't1-linear'"),
        ({"preprocessing": "pet-linear"}, "preprocessing='pet-linear'.*t1-volume"),
        ({"n_participants": 0}, "n_participants=0"),
        ({"n_participants": 2.0}, "n_participants=2.0"),
        ({"seed": -1}, "seed=-1"),
        ({"n_workers": 0}, "n_workers=0"),
        ({"atrophy": 0.9}, "atrophy=0.9"),
        ({"atrophy": float("nan")}, "atrophy=nan"),
        ({"shape": (24, 24)}, "shape"),
        ({"shape": (7, 24, 24)}, "shape"),
        ({"shape": (170, 24, 24)}, "shape"),
        ({"shape": (24.5, 24, 24)}, "shape"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(SettingError, match=message):
        make_caps(tmp_path / "caps", **{"n_participants": 2, "shape": TINY, **wrong})
    assert not (tmp_path / "caps").exists()


def test_the_settings_are_stored_next_to_the_labels(tmp_path):
    make_caps(tmp_path, 2, "t1-volume", shape=TINY, atrophy=0.25, seed=3)
    recorded = json.loads(Path(tmp_path, "synthetic.json").read_text())
    assert recorded | {"format": 1} == {
        "format": 1,
        "n_participants": 2,
        "preprocessing": "t1-volume",
        "shape": [24, 28, 24],
        "atrophy": 0.25,
        "seed": 3,
    }


@pytest.mark.faults
def test_temporary_files_of_a_killed_run_are_removed_by_the_next_run(tmp_path: Path):
    folder = tmp_path / "caps"
    settings = {"n_participants": 2, "shape": (12, 14, 12)}
    expected = make_caps(tmp_path / "other", **settings)
    folder.mkdir()
    (folder / ".synthetic.json.17-0a1b2c3d").write_text("{")
    (folder / ".make_caps.lock").touch()
    make_caps(folder, **settings)
    image = next(folder.rglob("*.nii.gz"))
    image.unlink()
    leftovers = [
        image.with_name(f".{image.name}.17-0a1b2c3d"),
        folder / ".labels.tsv.17-0a1b2c3d",
        folder / ".synthetic.json.17-0a1b2c3e",
    ]
    for path in leftovers:
        path.touch()
    found = make_caps(folder, **settings)
    pd.testing.assert_frame_equal(found, expected)
    assert image.exists()
    assert [path for path in folder.rglob(".*") if path.name != ".make_caps.lock"] == []

"""`Caps.check` lists spoilt images first; `Caps.match` finds sessions that a table or a CAPS lacks."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_caps import AFFINE, rows, small_caps, voxels_of, write_t1

import neurocnn as nc
from neurocnn.data.quality import robust_z
from neurocnn.errors import NotFoundError, TableError

SPOIL = {
    "moved": lambda voxels: ndimage.shift(voxels, [0, 2, 1], order=1),
    "turned": lambda voxels: ndimage.rotate(voxels, 20, axes=(1, 2), reshape=False, order=1),
    "blurred": lambda voxels: ndimage.gaussian_filter(voxels, 1),
    "inverted": lambda voxels: voxels.max() - voxels,
    "noisy": lambda voxels: voxels + np.random.default_rng(0).normal(0, 0.1, voxels.shape),
}


def test_ten_spoilt_images_of_200_are_among_the_first_15(tmp_path: Path) -> None:
    labels = nc.make_caps(tmp_path / "caps", n_participants=200, shape=(22, 27, 23))
    caps = nc.Caps(tmp_path / "caps", "t1-linear")
    spoilt = labels.iloc[5::20]
    for row, kind in zip(spoilt.itertuples(), [*SPOIL] * 2, strict=True):
        path = caps.path(row.participant_id, row.session_id)
        image = nib.load(path)
        voxels = SPOIL[kind](image.get_fdata(dtype=np.float32)).astype(np.float32)
        path.unlink()
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
    found = caps.check(labels)
    assert len(found) == 200
    assert set(spoilt["participant_id"]) <= set(found["participant_id"][:15])
    assert (np.diff(found["z"]) <= 0).all()


def test_the_measures_equal_their_formulas(tmp_path: Path) -> None:
    small_caps(tmp_path, n=5)
    voxels = voxels_of(2)
    voxels[0, 0, :3] = np.nan
    voxels[1, 1, :4] = 0
    write_t1(tmp_path, "sub-02", voxels)
    found = nc.Caps(tmp_path).check(rows(5)).set_index("participant_id").sort_index()
    own, image = found.loc["sub-02"], np.nan_to_num(voxels).astype(np.float64)
    assert (own["shape"], own["voxel_size"], own["orientation"]) == ("6x8x7", "2x2x2", "LAS")
    assert own["nan"] == 3 / voxels.size
    assert own["zeros"] == pytest.approx(7 / voxels.size)  # NaN counts as 0 in all other columns
    head = image[image != 0]
    assert own["contrast"] == pytest.approx(head.std() / head.mean(), rel=1e-5)
    steps = np.mean([np.abs(np.diff(image, axis=axis)).mean() for axis in range(3)])
    assert own["sharpness"] == pytest.approx(steps / image.std(), rel=1e-5)
    images = {name: np.nan_to_num(voxels_of(i)) for i, name in enumerate(found.index)} | {"sub-02": image}
    median = np.median([*images.values()], axis=0)
    for name, values in images.items():
        expected = np.corrcoef(values.ravel(), median.ravel())[0, 1]
        assert found.loc[name, "correlation"] == pytest.approx(expected, rel=1e-5)


def test_other_grids_copies_and_damaged_files_are_listed_with_the_reason(tmp_path: Path) -> None:
    small_caps(tmp_path, n=20)
    write_t1(tmp_path, "sub-01", voxels_of(1, (6, 8, 9)))
    write_t1(tmp_path, "sub-03", voxels_of(3), affine=AFFINE * [[-1], [1], [1], [1]])
    write_t1(tmp_path, "sub-05", voxels_of(4))
    damaged = write_t1(tmp_path, "sub-07", voxels_of(7))
    damaged.write_bytes(damaged.read_bytes()[:200])
    write_t1(tmp_path, "sub-09", np.full((6, 8, 7), 5, np.float32))
    found = nc.Caps(tmp_path).check(rows(20)).set_index("participant_id")
    assert found.index[0] == "sub-07"
    assert "damaged" in found.loc["sub-07", "problem"] or "truncated" in found.loc["sub-07", "problem"]
    assert set(found.index[:6]) == {"sub-07", "sub-01", "sub-03", "sub-04", "sub-05", "sub-09"}
    assert found.loc["sub-01", "column"] == "shape"
    assert found.loc["sub-03", "column"] == "orientation"
    assert found.loc["sub-05", "same_voxels_as"] == "sub-04 ses-M00"
    assert found.loc["sub-04", "same_voxels_as"] == "sub-05 ses-M00"
    nc.write_table(found.reset_index(), tmp_path / "checked.tsv")
    figure = nc.plotting.thumbnails(nc.Caps(tmp_path), found.reset_index())
    figure.savefig(tmp_path / "worst.png")
    # The message of the damaged image, with its path, does not widen a column.
    widths = {round(axes.get_subplotspec().get_position(figure).width, 3) for axes in figure.axes}
    drawn = [axes.get_position().width for axes in figure.axes if axes.texts]
    assert len(widths) == 1
    assert drawn[0] < 0.35


def test_images_are_compared_within_their_cohort(cohort_study) -> None:
    found = cohort_study.caps.check(cohort_study.labels)
    for cohort, labels in cohort_study.labels.groupby("cohort"):
        own = found[found["cohort"] == cohort]
        folder = cohort_study.caps.path(*labels.iloc[0][["participant_id", "session_id", "cohort"]])
        caps = nc.Caps(str(folder).split("/subjects/")[0], "t1-volume")
        alone = caps.check(labels.drop(columns="cohort"))
        np.testing.assert_allclose(own["z"], alone["z"])
        assert own["participant_id"].tolist() == alone["participant_id"].tolist()


def test_an_error_names_all_missing_images(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"(?s)2 of 5 images.*sub-03.*sub-04"):
        nc.Caps(small_caps(tmp_path, n=3)).check(rows(5))


def test_match_finds_rows_without_images_and_images_without_rows(tmp_path: Path) -> None:
    caps = nc.Caps(small_caps(tmp_path, n=4))
    table = pd.concat([rows(3)[1:], rows(1, session="ses-M12")])
    assert caps.match(table).to_numpy().tolist() == [
        ["sub-00", "ses-M12", "image"],
        ["sub-00", "ses-M00", "row"],
        ["sub-03", "ses-M00", "row"],
    ]
    assert caps.match(rows(4)).empty


def test_match_compares_cohorts(cohort_study) -> None:
    assert cohort_study.caps.match(cohort_study.labels).empty
    found = cohort_study.caps.match(cohort_study.labels[8:])
    assert found["missing"].tolist() == ["row"] * 8
    assert set(found["cohort"]) == {"ADNI"}
    with pytest.raises(TableError, match="the column 'cohort' is missing"):
        cohort_study.caps.match(cohort_study.labels[:8].drop(columns="cohort"))


def test_robust_z_is_the_distance_in_normal_deviations() -> None:
    values = np.random.default_rng(0).normal(50, 3, 100_001)
    np.testing.assert_allclose(robust_z(values), np.abs(values - 50) / 3, atol=0.05)
    assert robust_z(np.array([2.0, 2.0, 2.0])).tolist() == [0, 0, 0]
    assert robust_z(np.array([0.0] * 99 + [1.0]))[-1] == pytest.approx(100 / 1.2533)

"""`Images` reads the files in a table: one column equals a CAPS, several columns are channels on the same grid."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from small_caps import AFFINE, rows, small_caps, voxels_of, write_nifti
from torch import Tensor

import neurocnn as nc
from neurocnn.errors import ImageError, NotFoundError, SettingError, TableError
from neurocnn.results.setting_json import from_json, to_json

SHAPE = (6, 8, 7)
PARTS = {
    "image": nc.WholeImage(),
    "patch": nc.Patch(3, 2),
    "slice": nc.Slice(1, 2),
    "colour": nc.Slice(0, 1, channels=3),
    "roi": nc.Roi({"a": ((1, 5), (2, 6), (1, 5))}, random_shift=1),
}


def add_noise(part: Tensor) -> Tensor:
    return part + torch.rand(part.shape)


TRANSFORMS = {"raw": None, "minmax": nc.MinMax(), "zscore": nc.ZScore(), "own": lambda part: part * 2}


def two_columns(folder: Path, n: int = 3, **settings: object) -> tuple[nc.Images, pd.DataFrame]:
    """Write a T1 and a PET image per participant, and return their `Images` and the table."""
    table = rows(n)
    for seed, name in enumerate(("t1", "pet")):
        table[name] = [
            write_nifti(folder / name / f"{i}.nii.gz", voxels_of(i + 100 * seed) * (1 + 9 * seed))
            for i in range(n)
        ]
    return nc.Images(table, ("t1", "pet"), **settings), table


def stacked(table: pd.DataFrame, row: int) -> np.ndarray:
    """Return the channels of a row as nibabel reads them."""
    return np.stack([nib.load(table[name][row]).get_fdata(dtype=np.float32) for name in ("t1", "pet")])


def scaled(channel: np.ndarray) -> np.ndarray:
    return (channel - channel.min()) / (channel.max() - channel.min())


@pytest.mark.parametrize("parts", PARTS)
def test_one_column_gives_the_same_items_as_a_caps(tmp_path: Path, parts: str) -> None:
    caps, table = nc.Caps(small_caps(tmp_path / "caps")), rows()
    table["path"] = [caps.path(*ids) for ids in table[["participant_id", "session_id"]].to_numpy()]
    images = nc.Images(table, ["path"])
    for transform, augmentation in itertools.product(TRANSFORMS.values(), (None, add_noise)):
        settings = {"parts": PARTS[parts], "transform": transform, "augmentation": augmentation, "seed": 3}
        one, other = (nc.CapsDataset(source, rows(), label="age", **settings) for source in (images, caps))
        assert len(one) == len(other)
        assert one.input_shape == other.input_shape
        for epoch, index in itertools.product((0, 1), range(len(one))):
            own, expected = one[epoch, index], other[epoch, index]
            assert torch.equal(own.pop("image"), expected.pop("image"))
            assert own == expected
        if one.fills:
            outs = [torch.empty(one.input_shape) for _ in range(2)]
            assert one.fill((0, 1), outs[0]) | {"image": 0} == other.fill((0, 1), outs[1]) | {"image": 0}
            assert torch.equal(*outs)
    pd.testing.assert_frame_equal(images.fingerprints(rows()), caps.fingerprints(rows()))
    pd.testing.assert_frame_equal(images.check(rows()), caps.check(rows()))


def test_columns_are_channels_in_this_order(tmp_path: Path) -> None:
    images, table = two_columns(tmp_path)
    for row, ids in enumerate(table[["participant_id", "session_id"]].to_numpy()):
        assert np.array_equal(images.read(*ids), stacked(table, row))
        assert images.shape(*ids) == SHAPE
        np.testing.assert_allclose(images.affine(*ids), AFFINE)
    raw = nc.CapsDataset(images, table, nc.Slice(2, 3), transform=None)
    assert raw.input_shape == (2, 6, 8)
    assert np.array_equal(raw[1]["image"], stacked(table, 1)[..., 3])
    assert nc.create_model("Conv4_FC3", (2, 50, 50, 50)).convolutions[0].in_channels == 2


def test_each_channel_is_scaled_by_itself(tmp_path: Path) -> None:
    images, table = two_columns(tmp_path)
    whole, patches = (nc.CapsDataset(images, table, parts) for parts in (nc.WholeImage(), nc.Patch(5, 1)))
    for row in range(3):
        expected = np.stack([*map(scaled, stacked(table, row))])
        np.testing.assert_allclose(whole[row]["image"], expected, atol=1e-6)
    expected = np.stack([scaled(channel[:5, 2:7, 1:6]) for channel in stacked(table, 0)])
    assert patches.part_ids[7] == 7  # the grid is 2 × 4 × 3: starts (0, 2, 1)
    np.testing.assert_allclose(patches[7]["image"], expected, atol=1e-6)
    out = torch.empty(whole.input_shape)
    whole.fill((0, 2), out)
    assert torch.equal(out, whole[2]["image"])


def test_all_channels_are_shifted_and_transformed_with_the_same_random_numbers(tmp_path: Path) -> None:
    table = rows()
    for name in ("t1", "pet"):  # two files with the same voxels
        table[name] = [write_nifti(tmp_path / name / f"{i}.nii", voxels_of(i)) for i in range(3)]
    images, shapes = nc.Images(table, ("t1", "pet")), []

    def augment(part: Tensor) -> Tensor:
        shapes.append(tuple(part.shape))
        return add_noise(part)

    dataset = nc.CapsDataset(images, table, PARTS["roi"], transform=add_noise)
    items = [dataset[epoch, index]["image"] for epoch in range(4) for index in range(3)]
    assert all(torch.equal(*item) for item in items)
    assert len({item.sum().item() for item in items}) == 12
    augmented = nc.CapsDataset(images, table, PARTS["roi"], augmentation=augment)
    item = augmented[0, 0]["image"]
    assert set(shapes) == {(2, 4, 4, 4)}
    assert not torch.equal(*item)


def test_paths_in_a_tsv_may_be_relative_and_cohorts_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for seed, cohort in enumerate(("ADNI", "AIBL")):
        for i in range(2):
            write_nifti(tmp_path / "study" / cohort / f"{i}.nii.gz", voxels_of(i + 10 * seed))
        tables.append(rows(2).assign(cohort=cohort, t1=[f"{cohort}/{i}.nii.gz" for i in range(2)]))
    table = pd.concat(tables, ignore_index=True)
    nc.write_table(table, tmp_path / "study/images.tsv")
    monkeypatch.chdir(tmp_path)
    for images in (nc.Images("study/images.tsv"), from_json(to_json(nc.Images("study/images.tsv")))):
        monkeypatch.chdir("/")
        assert images.cohorts == ["ADNI", "AIBL"]
        assert np.array_equal(images.read("sub-01", "ses-M00", "AIBL")[0], voxels_of(11))
        assert nc.CapsDataset(images, table)[3]["cohort"] == "AIBL"
        assert len(images.sessions()) == 4
        monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=r"cohort=None.*ADNI, AIBL"):
        images.read("sub-01", "ses-M00")
    with pytest.raises(TableError, match="'OASIS' is not a cohort of the images"):
        images.sources(table[:2].assign(cohort="OASIS"))


def test_settings_of_a_table_contain_its_ids_and_absolute_paths(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, table = two_columns(Path("here"), orientation="RAS")
    settings = json.loads(json.dumps(to_json(images)))
    monkeypatch.chdir("/")
    again = from_json(settings)
    assert again.orientation == "RAS"
    assert again.columns == ("t1", "pet")
    assert again.paths()["pet"].tolist() == [str(tmp_path / path) for path in table["pet"]]
    assert torch.equal(again.read("sub-01", "ses-M00"), images.read("sub-01", "ses-M00"))
    assert "diagnosis" not in json.dumps(settings)


def test_prepared_tensors_give_the_same_items_without_decoding(tmp_path: Path, monkeypatch) -> None:
    images, table = two_columns(tmp_path)
    expected = [item["image"] for item in map(nc.CapsDataset(images, table).__getitem__, range(3))]
    images.prepare(parts=nc.Patch(3, 3))
    images.prepare()
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*image_based/*"))
    assert found == [
        f"{name}/deeplearning_prepare_data/image_based/{i}.nii.gz.pt"
        for name in ("pet", "t1")
        for i in range(3)
    ]
    monkeypatch.setattr("neurocnn.data.nifti.read_voxels", None)
    again = nc.CapsDataset(nc.Images(table, ("t1", "pet")), table)
    assert all(torch.equal(again[i]["image"], image) for i, image in enumerate(expected))


def test_match_and_check_treat_channels_as_images(tmp_path: Path) -> None:
    images, table = two_columns(tmp_path, n=6)
    table.loc[2, "pet"] = None
    Path(table["t1"][4]).unlink()
    spoilt = write_nifti(Path(table["pet"][1]), voxels_of(0) - 500)
    images = nc.Images(table, images.columns)
    assert images.match(table)["participant_id"].tolist() == ["sub-02", "sub-04"]
    assert images.match(table[:1]).to_numpy().tolist() == [
        [f"sub-{i:02}", "ses-M00", "row"] for i in (1, 3, 5)
    ]
    found = images.check(images.sessions())
    assert len(found) == 8
    assert found.loc[0, ["participant_id", "channel"]].tolist() == ["sub-01", "pet"]
    assert found["minimum"].min() == pytest.approx(nib.load(spoilt).get_fdata().min())
    nc.plotting.thumbnails(images, found).savefig(tmp_path / "worst.png")


def test_all_missing_files_are_listed(tmp_path: Path) -> None:
    images, table = two_columns(tmp_path, n=5)
    table.loc[0, "pet"] = None
    table["t1"] = table["t1"].astype(object)
    table.loc[1, "t1"] = np.nan
    Path(table["pet"][2]).unlink()
    images = nc.Images(table[:4], ("t1", "pet"))
    with pytest.raises(NotFoundError) as error:
        nc.CapsDataset(images, pd.concat([table, rows(1).replace("sub-00", "sub-2")]))
    message = str(error.value)
    assert message.startswith("5 of 6 images are missing:\n")
    assert "sub-00 ses-M00: 'pet' is empty" in message
    assert "sub-01 ses-M00: 't1' is empty" in message
    assert f"sub-02 ses-M00: {table['pet'][2]}: the file does not exist" in message
    assert "sub-04 ses-M00: not in the table" in message
    assert "sub-2 ses-M00: not in the table; is it sub-02?" in message
    assert message.endswith("\nkeep the sessions with an image: sessions.merge(caps.sessions())")
    assert len(nc.CapsDataset(images, table.merge(images.sessions()))) == 1
    with pytest.raises(NotFoundError, match=r"sub-02 ses-M00: .*pet/2.nii.gz: the file does not exist"):
        images.read("sub-02", "ses-M00")
    with pytest.raises(NotFoundError, match="ses-M00"):
        images.read("sub-02", "ses-M01")


def test_all_unreadable_files_are_listed(tmp_path: Path) -> None:
    images, table = two_columns(tmp_path, n=4)
    Path(table["t1"][0]).write_bytes(b"")
    Path(table["pet"][1]).unlink()
    os.symlink(tmp_path / "nowhere.nii.gz", table["pet"][1])
    Path(table["t1"][3]).write_text("/annex/objects/SHA256E-s1--a.nii.gz")
    with pytest.raises(
        ImageError, match=r"(?s)3 images.*sub-00 ses-M00 t1.*sub-01 ses-M00 pet.*sub-03 ses-M00 t1"
    ):
        nc.CapsDataset(images, table)


def test_all_images_whose_grids_disagree_are_listed(tmp_path: Path) -> None:
    images, table = two_columns(tmp_path, n=6)
    moved = AFFINE.copy()
    moved[0, 3] += 1
    write_nifti(Path(table["pet"][1]), voxels_of(1), moved)
    write_nifti(Path(table["pet"][2]), voxels_of(1, (6, 8, 9)))
    write_nifti(Path(table["t1"][3]), voxels_of(1), AFFINE * [[-1], [1], [1], [1]])
    Path(table["t1"][4]).write_bytes(b"no image, but a text that is longer than a header" * 20)
    problems = (
        r"(?s)^4 images cannot be used:",
        r"sub-01 ses-M00 pet: its voxels are up to 1.0 mm from those of sub-01 ses-M00 t1, .*",
        r"sub-02 ses-M00 pet: shape=\(6, 8, 9\), unlike the rest of the cohort.*",
        r"sub-03 ses-M00 t1: orientation=RAS, unlike the rest of the cohort.*",
        r"sub-04 ses-M00 t1: .* is not gzip.*",
    )
    with pytest.raises(ImageError, match=r"\n".join(problems)):
        nc.CapsDataset(images, table)
    with pytest.raises(ImageError, match="is not gzip"):
        nc.CapsDataset(nc.Images(table, ("t1", "pet")), table[4:])


def link(path: Path, name: str) -> str:
    os.symlink(path, path.parent / name)
    return str(path.parent / name)


def cell(
    column: str, row: int, make: Callable[[pd.DataFrame], object]
) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return a function that replaces a cell of a table."""

    def spoil(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = make(table)
        return table

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cell("t1", 0, lambda t: t["t1"][1]), "sub-01 ses-M00 t1: .* of sub-00 ses-M00 t1"),
        (cell("pet", 0, lambda t: t["t1"][0]), "sub-00 ses-M00 pet: .* of sub-00 ses-M00 t1"),
        (cell("pet", 0, lambda t: link(t["t1"][2], "a.nii")), "sub-02 ses-M00 t1: .* of sub-00 ses-M00 pet"),
        (lambda t: t.assign(pet=["a.mgz", 3.0, None]), r"(?s)2 cells.*sub-00.*pet='a.mgz'.*sub-01.*pet=3.0"),
        (lambda t: t.assign(cohort=["A", None, ""]), r"(?s)2 cells.*sub-01 ses-M00: cohort=.*sub-02"),
        (lambda t: t.assign(t1=None, pet=""), "the columns t1, pet are empty"),
        (lambda t: t.drop(columns="pet"), "the column 'pet' is missing"),
        (cell("participant_id", 0, lambda t: "sub-01"), "row 0 and row 1"),
        (cell("participant_id", 0, lambda t: "01"), "participant_id='01'"),
        (lambda t: t[:0], "no rows"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_all_cells(
    tmp_path: Path, spoil: Callable, message: str
) -> None:
    table = spoil(two_columns(tmp_path)[1].astype(object))
    with pytest.raises(TableError, match=message):
        nc.Images(table, ("t1", "pet"))


@pytest.mark.parametrize(
    "columns",
    ["t1", [], ["t1", "t1"], ["t1", "session_id"], None, [1], {"t1", "pet"}],
    ids=["text", "empty", "twice", "an id", "None", "number", "set"],
)
def test_columns_that_cannot_be_channels_are_refused(tmp_path: Path, columns: object) -> None:
    with pytest.raises(SettingError, match="Images: columns"):
        nc.Images(two_columns(tmp_path)[1], columns)

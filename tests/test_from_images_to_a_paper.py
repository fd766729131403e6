"""The tutorial "From images to a paper" finds the right answers, which are known for its synthetic data."""

import re
import runpy
from pathlib import Path
from statistics import NormalDist

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import neurocnn as nc

pytest.importorskip("matplotlib")
pytest.importorskip("captum")
PAGE = Path(__file__).parents[1] / "docs/tutorials/from_images_to_a_paper.py"
FOLDER = Path("from-images-to-a-paper")


def test_the_study_finds_the_right_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All checks are in one test, because the tutorial runs once."""
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(PAGE), run_name="__main__")
    check_cohort(names)
    check_baseline(names)
    check_search(names)
    check_scores(names)
    check_shown(names)
    check_map(names)
    check_files(names)


def check_cohort(names: dict) -> None:
    assert names["caps"].match(names["labels"]).to_numpy().tolist() == [["sub-9999", "ses-M000", "image"]]
    # The image that is upside down differs most, and by far.
    assert names["checked"]["participant_id"].iloc[0] == "sub-0007"
    assert names["checked"]["z"].iloc[0] > 10 * names["checked"]["z"].iloc[1]
    people = [set(names[each]["participant_id"]) for each in ("rest", "test")]
    assert people[0] | people[1] == {f"sub-{i:04d}" for i in range(1, 97)} - {"sub-0007"}
    assert not people[0] & people[1]
    assert names["table_1"]["N"].to_numpy().sum() == 95


def check_baseline(names: dict) -> None:
    # Ages are normal: 75.5 ± 7 years with AD, 73 ± 6.5 years without.
    expected = NormalDist().cdf(2.5 / (7**2 + 6.5**2) ** 0.5)
    assert expected == pytest.approx(0.60, abs=0.01)
    for dataset in ("validation", "test"):
        scores = names["tuned"].confounds(["age", "sex"], dataset).loc["roc_auc"]
        assert scores["confounds"] == pytest.approx(expected, abs=0.15)
        assert scores["network"] > 0.9


def check_search(names: dict) -> None:
    held_out = set(names["test"]["participant_id"])
    for seen in FOLDER.rglob("seen.tsv"):
        assert not held_out & set(nc.read_table(seen, required=())["participant_id"])
    for split in names["splits"]:
        inner = nc.read_table(FOLDER / f"search/trial-0/fold-{split.index}/seen.tsv", required=())
        assert set(inner["participant_id"]) == set(split.train["participant_id"])


def check_scores(names: dict) -> None:
    table = pd.read_csv(FOLDER / "table_2.csv", index_col=0)
    selection = names["tuned"].selections[-1]
    rows = pd.read_csv(FOLDER / f"search/best/ensemble/{selection}/test_image_level_prediction.tsv", sep="\t")
    assert len(rows) == len(names["test"])
    assert table.loc["roc_auc", "network"] == pytest.approx(roc_auc_score(rows["true_label"], rows["proba1"]))
    assert table.loc["balanced_accuracy", "network"] == pytest.approx(
        balanced_accuracy_score(rows["true_label"], rows["predicted_label"])
    )
    # The volumes of the hippocampi separate the classes with an AUC of 0.99 and a balanced accuracy of 0.95.
    for metric, truth in {"roc_auc": 0.99, "balanced_accuracy": 0.95}.items():
        low, high = map(float, re.findall(r"[\d.]+", table.loc[metric, "95 % interval"]))
        assert low <= truth <= high
        assert low > 0.6
    low, high = names["comparison"].loc["roc_auc", ["low", "high"]]
    assert -0.1 < low <= high < 0.1
    assert (names["tuned"].calibration("test")["brier"] < 0.15).all()  # predicting 0.5 has the score 0.25


def check_shown(names: dict) -> None:
    """Check the tables in the text of the page: the networks may differ by the number of threads, the rest not."""
    first, second = (
        re.sub(r"^#(?: {5})?", "", text, flags=re.MULTILINE).strip("\n").splitlines()
        for text in re.findall(r"code-block:: text\n#\n((?:#     .*\n)+)", PAGE.read_text(encoding="utf-8"))
    )
    assert [line.split() for line in first] == [line.split() for line in str(names["table_1"]).splitlines()]
    for line in second[1:]:
        metric, network, *_, confounds = line.split()
        found = names["table_2"].loc[metric]
        assert float(confounds) == pytest.approx(found["age and sex"], abs=0.006)
        assert float(network) == pytest.approx(found["network"], abs=0.25)


def check_map(names: dict) -> None:
    """Check that voxels that the atrophy changes have 5 times the values of the map that their number explains."""
    nc.make_caps("healthy", 16, preprocessing="t1-volume", shape=(61, 73, 61), atrophy=0)
    healthy, ill = nc.Caps("healthy", "t1-volume"), names["labels"].head(16).query("diagnosis == 'AD'")
    people = ill.loc[ill["participant_id"] != "sub-0007", ["participant_id", "session_id"]].to_numpy()
    images = [(names["caps"].read(*who) - healthy.read(*who))[0].abs().numpy() for who in people]
    change = np.mean(images, axis=0)
    covered = np.zeros(change.shape, dtype=bool)
    for part in (0, 1):
        covered[names["hippocampi"].place(change.shape, part)] = True
    shrunk = covered & (change > 0.1 * change.max())
    values = np.abs(names["tuned"].explanation("integrated_gradients", of="mean-AD"))
    assert not values[~covered].any()
    assert values[shrunk].sum() / values.sum() > 5 * shrunk.sum() / covered.sum()


def check_files(names: dict) -> None:
    for name in ("worst", "explanation", "figure_1"):
        assert (FOLDER / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (FOLDER / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") >= 9
    assert "integrated_gradients" in page
    maps = list(FOLDER.rglob("mean-AD.nii.gz"))
    assert len(maps) == 3
    assert np.allclose(nib.load(maps[0]).affine, names["image"].affine)

"""Every figure can be drawn from a `Results`, and the report is one HTML page that a browser shows."""

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from sklearn import metrics as sklearn
from studies import PARTS, TASKS, Study

import neurocnn as nc
from neurocnn import plotting

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")


@pytest.fixture(scope="module")
def studies(study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, nc.Results]:
    rest, test = nc.holdout(study.labels, fraction=0.4, stratify=["diagnosis"], seed=0)
    splits = nc.kfold(rest, n_splits=2, stratify=["diagnosis"], seed=0)
    found = {}
    for task in TASKS:
        folder = tmp_path_factory.mktemp(task) / "results"
        run = nc.Experiment(study.caps, splits, PARTS["roi"], TASKS[task], "Conv3_FC1", nc.Trainer(epochs=1))
        found[task] = run.run(folder)
        found[task].predict(study.caps, test, name="test")
    return found


@pytest.mark.parametrize(
    ("task", "draw"),
    [
        ("classification", plotting.learning_curves),
        ("classification", plotting.confusion_matrix),
        ("classification", plotting.roc),
        ("classification", plotting.precision_recall),
        ("classification", plotting.reliability),
        ("classification", plotting.part_map),
        ("classification", plotting.parts),
        ("classification", plotting.overview),
        ("regression", plotting.parts),
        ("regression", plotting.learning_curves),
        ("regression", plotting.predicted_against_true),
        ("regression", plotting.bland_altman),
        ("reconstruction", plotting.reconstruction),
        ("reconstruction", plotting.learning_curves),
    ],
)
def test_a_figure_can_be_drawn_from_results(studies, task: str, draw: Callable, tmp_path: Path):
    draw(studies[task]).savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_the_figure_of_an_explanation_shows_its_greatest_voxel_over_the_image(studies, study):
    results = studies["classification"]
    results.explain(study.caps, study.labels, "gradient")
    values = np.abs(results.explanation("gradient"))
    *panels, bar = plotting.explanation(results, "gradient").axes
    place = [int(text.get_title().split("= ")[1]) for text in panels]
    assert values[tuple(place)] == values.max()
    assert [len(axes.images) for axes in panels] == [2, 2, 2]
    assert bar.get_ylabel() == "gradient"
    shown = panels[0].images[1].get_array()
    assert shown.mask.sum() == (values[place[0]] < 0.1 * np.quantile(values, 0.999)).sum()


def test_a_confusion_matrix_counts_each_person_once(studies):
    results = studies["classification"]
    for dataset in ("validation", "test"):
        (axes,) = plotting.confusion_matrix(results, dataset=dataset).axes
        panel = plotting.overview(results, dataset=dataset).axes[3]
        for shown in (axes, panel):
            assert shown.get_title("left") == "Confusion matrix"
            counts = sum(int(text.get_text().split("\n")[0]) for text in shown.texts)
            assert counts == results.predictions(dataset=dataset)["participant_id"].nunique()


def test_the_accuracy_of_parts_is_drawn_over_the_first_validation_image(studies, study):
    results = studies["classification"]
    first = nc.read_table(results.folder / "fold-0/validation.tsv").iloc[0]
    image = study.caps.read(first["participant_id"], first["session_id"])[0].numpy()
    for figure in (plotting.part_map(results), plotting.overview(results)):
        panel = next(axes for axes in figure.axes if axes.get_title().startswith("sagittal"))
        at = int(panel.get_title().split("= ")[1])
        np.testing.assert_allclose(np.asarray(panel.images[0].get_array()), image[at].T, atol=1e-6)
    # Without the images, only the map is drawn.
    moved = nc.Results(results.folder, caps=nc.Caps(Path(str(study.caps.root)), "t1-linear"))
    assert len(plotting.part_map(moved).axes[0].images) == 1


def test_the_average_precision_is_averaged_over_the_splits(studies):
    rows = studies["classification"].predictions(dataset="test")
    (axes,) = plotting.precision_recall(studies["classification"], dataset="test").axes
    areas = [
        sklearn.average_precision_score(own["true_label"], own["proba1"])
        for split, own in rows.groupby("split")
        if split != "ensemble"
    ]
    text = axes.get_legend().get_texts()[0].get_text()
    assert text == f"AD: average precision {np.mean(areas):.2f} ± {np.std(areas, ddof=1):.2f}"
    assert len(axes.collections) == 1  # the band


def test_the_bland_altman_limits_are_computed_from_the_differences():
    table = pd.DataFrame({"true_label": [60.0, 70, 80, 75], "predicted_label": [62.0, 69, 83, 71]})
    (axes,) = plotting.bland_altman(table).axes
    difference = table["predicted_label"] - table["true_label"]
    heights = [line.get_ydata()[0] for line in axes.lines]
    spread = 1.96 * difference.std()
    np.testing.assert_allclose(heights, difference.mean() + np.array([0, -spread, spread]))


def test_many_networks_are_drawn_as_a_band_instead_of_lines():
    history = pd.concat(
        [
            pd.DataFrame({"network": n, "epoch": range(4), "train_loss": 1.0 + n, "validation_loss": 2.0 + n})
            for n in range(54)
        ]
    )
    (axes,) = plotting.learning_curves(history).axes
    assert len(axes.lines) == 2
    bands = [item for item in axes.collections if isinstance(item, PolyCollection)]
    low, high = np.arange(54).mean() + 1 + np.array([-1, 1]) * np.arange(54).std(ddof=1)
    heights = bands[0].get_paths()[0].vertices[:, 1]
    assert {heights.min().round(6), heights.max().round(6)} == {low.round(6), high.round(6)}


def test_a_slice_is_drawn_as_one_picture_with_its_colours():
    image = np.random.default_rng(0).random((3, 10, 12))
    (axes,) = plotting.planes(image).axes
    assert axes.images[0].get_array().shape == (12, 10, 3)
    for gray in (image[0], image[:1], np.stack([image[0]] * 3)):
        (axes,) = plotting.planes(gray).axes
        assert axes.images[0].get_array().ndim == 2
    with pytest.raises(nc.SettingError, match=r"at=.*expected no value, because the image is a slice"):
        plotting.planes(image, at=(1, 2, 3))
    with pytest.raises(nc.ImageError, match="choose one channel"):
        plotting.planes(np.ones((3, 4, 5, 6)))


@pytest.mark.faults
def test_results_of_another_task_are_refused(studies):
    with pytest.raises(
        nc.SettingError, match=r"roc: predictions=Results.*; expected the Results of a classification"
    ):
        plotting.roc(studies["regression"])
    with pytest.raises(nc.SettingError, match="the Results of a regression"):
        plotting.bland_altman(studies["classification"])
    with pytest.raises(nc.SettingError, match="the Results of a reconstruction"):
        plotting.reconstruction(studies["classification"])
    with pytest.raises(nc.SettingError, match=r"results='folder'; expected an nc.Results"):
        plotting.report("folder", "report.html")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images = 0
        self.tables = 0

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href"):
                self.links.append(value)
        self.images += tag == "img"
        self.tables += tag == "table"


@pytest.mark.parametrize("task", list(TASKS))
def test_the_report_is_one_page_with_settings_people_tables_and_pictures(studies, task: str, tmp_path: Path):
    path = plotting.report(studies[task], tmp_path / "report.html")
    page = path.read_text()
    tags = Tags()
    tags.feed(page)
    assert all(link.startswith("data:") for link in tags.links)
    assert tags.images >= {"classification": 10, "regression": 6, "reconstruction": 3}[task]
    # One table each of the settings, the population, and the scores of the two data sets.
    assert tags.tables == 4
    for text in ("Settings", "Population", "learning_rate", "validation", "test", "<table"):
        assert text in page


def test_a_browser_shows_the_report(studies, tmp_path: Path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    path = plotting.report(studies["classification"], tmp_path / "report.html")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    shown = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    if shown.returncode or "<img" not in shown.stdout:
        pytest.skip(f"{browser} cannot start here: {shown.stderr[-300:]}")
    assert len(re.findall("<img", shown.stdout)) >= 9
    picture = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={picture}", path.as_uri()], capture_output=True, timeout=120)
    assert picture.stat().st_size > 10000

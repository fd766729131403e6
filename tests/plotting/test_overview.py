"""The overview, and properties of every figure: no pyplot, no display, no memory leak."""

import gc
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pandas as pd
import pytest

from neurocnn.errors import MissingExtraError, NeurocnnError
from neurocnn.plotting import overview, planes

HISTORY = pd.DataFrame(
    {
        "split": [0, 0, 1, 1],
        "epoch": [0, 1, 0, 1],
        "train_loss": [0.7, 0.5, 0.6, 0.4],
        "validation_loss": [0.7, 0.6, 0.8, 0.9],
        "train_balanced_accuracy": [0.5, 0.8, 0.6, 0.9],
        "validation_balanced_accuracy": [0.5, 0.7, 0.5, 0.6],
    }
)
PREDICTIONS = pd.DataFrame(
    {
        "split": [0, 0, 0, 1, 1, 1],
        "true_label": [0, 1, 1, 0, 1, 0],
        "predicted_label": [0, 1, 0, 0, 1, 1],
        "proba0": [0.9, 0.2, 0.6, 0.8, 0.3, 0.4],
        "proba1": [0.1, 0.8, 0.4, 0.2, 0.7, 0.6],
    }
)
VALUES = np.full((8, 9, 7), np.nan)
VALUES[2:6, 3:7, 1:5] = 0.8


def titles(figure):
    return [axes.get_title("left") or axes.get_title() for axes in figure.axes]


def test_an_overview_contains_curves_roc_confusion_and_the_map():
    figure = overview(HISTORY, PREDICTIONS, ["CN", "AD"], VALUES, np.ones((8, 9, 7)), title="Two splits")
    assert titles(figure) == [
        "Loss",
        "Balanced accuracy",
        "ROC",
        "Confusion matrix",
        "sagittal, x = 3",
        "coronal, y = 4",
        "axial, z = 2",
        "",
    ]
    assert figure.get_suptitle() == "Two splits"
    assert [text.get_text().split("\n")[0] for text in figure.axes[3].texts] == ["2", "1", "1", "2"]
    assert figure.axes[-1].get_ylabel() == "Balanced accuracy"


def test_an_overview_without_a_map_has_four_panels(tmp_path):
    figure = overview(HISTORY, PREDICTIONS, ["CN", "AD"])
    assert titles(figure) == ["Loss", "Balanced accuracy", "ROC", "Confusion matrix"]
    figure.savefig(tmp_path / "overview.png")


def overlaps(figure) -> list[tuple[str, str]]:
    """Return the pairs of drawn texts that overlap."""
    figure.draw_without_rendering()
    texts = []
    for axes in figure.axes:
        artists = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        texts += [text for text in artists if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    return [
        (a, b)
        for index, (a, one) in enumerate(boxes)
        for b, other in boxes[index + 1 :]
        if one.overlaps(other)
    ]


def test_no_text_overlaps_another_text_or_is_cut_off():
    classes = ["Cognitively normal", "Alzheimer's disease"]
    figure = overview(HISTORY, PREDICTIONS, classes, VALUES, title="Two splits")
    assert overlaps(figure) == []
    width, height = figure.canvas.get_width_height()
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def test_importing_plotting_does_not_import_matplotlib_and_drawing_does_not_import_pyplot(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from neurocnn import plotting\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plotting.planes(np.ones((4, 5, 6))).savefig(sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "planes.png")], check=True)
    assert (tmp_path / "planes.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'neurocnn\[plot\]'") as caught:
        planes(np.ones((4, 5, 6)))
    assert isinstance(caught.value, (NeurocnnError, ImportError))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_notebook_shows_a_figure_as_png():
    assert planes(np.ones((4, 5, 6)))._repr_png_().startswith(b"\x89PNG")


def test_a_figure_is_freed_with_its_last_reference():
    figure = weakref.ref(planes(np.ones((4, 5, 6))))
    gc.collect()
    assert figure() is None

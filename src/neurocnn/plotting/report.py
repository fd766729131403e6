"""Report of an experiment in one HTML file that contains its figures."""

import base64
import html
import os
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from neurocnn.engine.attribution import METHODS
from neurocnn.errors import NeurocnnError
from neurocnn.errors.arguments import check_instance, check_path
from neurocnn.errors.logger import LOGGER
from neurocnn.plotting import curves, explanations, predictions, reconstructions, scores, volumes
from neurocnn.results import Results
from neurocnn.results.folder import IMAGE
from neurocnn.results.paths import SETS
from neurocnn.results.summary import first_split_population
from neurocnn.storage.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{display:block;overflow-x:auto;"
    "border-collapse:collapse;font-size:.85em;margin:.5em 0 1.5em}td,th{padding:.2em .7em;text-align:right}"
    "th{background:#f2f2f2}img{max-width:100%;margin:.5em}"
)


def report(results: Results, path: str | os.PathLike[str]) -> Path:
    """Write the settings, population, tables and figures of an experiment into one HTML file.

    Parameters
    ----------
    results
        Results with at least one split that is done.
    path
        Path of the HTML file. The file contains its figures and can be opened without internet access.

    Returns
    -------
    Path
        Path of the file. Figures that cannot be drawn from these results are omitted, and the reasons are logged.

    Raises
    ------
    NotFoundError
        If no split is done.
    StorageError
        If the file cannot be written.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> results.metrics().shape[0]
    4
    >>> report(results, tmp / "report.html").name
    'report.html'
    """
    check_instance("results", results, Results, "an nc.Results", where="report")
    path = check_path("path", path, where="report")
    results._folder.check_done()
    parts = [f"<h1>{html.escape(results._folder.task.name)}</h1>", f"<p>{html.escape(repr(results))}</p>"]
    parts += ["<h2>Settings</h2>", _settings_html(results), "<h2>Population</h2>"]
    parts += ["<p>Training and validation</p>", first_split_population(results._folder).to_html(border=0)]
    for name in ["validation", *_predicted_datasets(results)]:
        parts.append(f"<h2>{html.escape(name)}, {html.escape(results.selections[-1])}</h2>")
        parts.append(results.summary(name).to_html(border=0))
        parts += list(_figures_html(results, name))
    if results._folder.parts != IMAGE:
        parts += list(_figure_html("parts", lambda: volumes.parts(results)))
    if results._folder.reconstructs:
        parts += list(_figure_html("reconstruction", lambda: reconstructions.reconstruction(results)))
    else:
        parts += list(_figure_html("map of the parts", lambda: volumes.part_map(results)))
        for method in METHODS:
            parts += list(_figure_html(method, partial(explanations.explanation, results, method)))
    parts += ["<h2>Training</h2>", *_figure_html("learning curves", lambda: curves.learning_curves(results))]
    page = f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(str(results.folder.name))}"
    with write_atomically(path, "w") as file:
        file.write(f"{page}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n")
    return path


def _settings_html(results: Results) -> str:
    shown = {
        name: value for name, value in results.settings.items() if name not in ("network", "image_affine")
    }
    flat = pd.json_normalize(shown, max_level=1).T
    rows = (
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in flat[0].items()
    )
    return f"<table>{''.join(rows)}</table>"


def _predicted_datasets(results: Results) -> list[str]:
    """Return the names of the predicted data sets that have metrics."""
    folder = results._folder
    names = {
        path.name.removesuffix(f"_{folder.levels[-1]}_level_metrics.tsv")
        for fold in folder.finished_folds
        for path in fold.tables.glob(f"{folder.selections[-1]}/*_{folder.levels[-1]}_level_metrics.tsv")
    }
    return sorted(names - set(SETS))


def _figures_html(results: Results, dataset: str) -> Iterator[str]:
    task = results._folder.task
    if task.classes is not None:
        yield from _figure_html("confusion matrix", lambda: scores.confusion_matrix(results, dataset=dataset))
        yield from _figure_html("ROC", lambda: scores.roc(results, dataset=dataset))
        yield from _figure_html("precision", lambda: predictions.precision_recall(results, dataset=dataset))
        yield from _figure_html("reliability", lambda: predictions.reliability(results, dataset))
    elif not task.reconstructs:
        yield from _figure_html(
            "values", lambda: predictions.predicted_against_true(results, dataset=dataset)
        )
        yield from _figure_html("agreement", lambda: predictions.bland_altman(results, dataset=dataset))


def _figure_html(name: str, draw: Callable[[], "Figure"]) -> Iterator[str]:
    """Yield the HTML of a figure, or nothing if it cannot be drawn from these results."""
    try:
        figure = draw()
    except NeurocnnError as error:
        LOGGER.info("report: %s cannot be drawn: %s", name, error)
        return
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    picture = base64.b64encode(buffer.getvalue()).decode()
    yield f'<img alt="{html.escape(name)}" src="data:image/png;base64,{picture}">'

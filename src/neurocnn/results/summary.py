"""Summaries of a result folder: the table for a paper, and the HTML that a notebook shows."""

import html

import numpy as np
import pandas as pd

from neurocnn import storage
from neurocnn.results.encoding import CUSTOM, Settings
from neurocnn.results.folder import ResultFolder
from neurocnn.results.paths import Fold
from neurocnn.results.reading import read_history, read_metrics


def summary_table(folder: ResultFolder) -> pd.DataFrame:
    """Return the table that `Results.summary` documents."""
    done = folder.check_done()
    history = read_history(folder)
    rows: dict[int | str, dict[str, object]] = {}
    for fold in done:
        own = history[history["split"] == fold.index]
        rows[fold.index] = {
            "train participants": _participants(fold, "train"),
            "validation participants": _participants(fold, "validation"),
            "epochs": int(own["epoch"].max()) + 1,
            "minutes": round(float(np.nanmax(own["time"].to_numpy(dtype=float))) / 60, 1),
        }
    summary = pd.DataFrame.from_dict(rows, orient="index", dtype=object)
    summary.loc["mean ± std"] = ""
    for level in folder.levels:
        values = read_metrics(folder, level, None, "validation").loc[[fold.index for fold in done]]
        metric = _main_metric(folder, [str(name) for name in values])
        texts = ["no part" if np.isnan(value) else f"{value:.3f}" for value in values[metric]]
        summary[f"{level} {metric}"] = [*texts, _spread(values[metric])]
    return summary.rename_axis("split")


def describe(root: object, folder: ResultFolder | None, settings: Settings) -> str:
    """Return the line that a console shows; `folder` is None if code is needed to read it."""
    state = f"splits {[fold.index for fold in folder.done]} done" if folder else _code_needed(settings)
    return f"Results({str(root)!r}): {_kind(folder, settings)}, {state}"


def html_page(root: object, folder: ResultFolder | None, settings: Settings) -> str:
    """Return the HTML that a notebook shows; `folder` is None if code is needed to read it."""
    architecture = settings["architecture"]
    name = architecture[CUSTOM] if isinstance(architecture, dict) else architecture
    several = ", one network per part" if settings["multi"] else ""
    title = html.escape(f"{_kind(folder, settings)}, {name}{several}")
    if folder is None:
        body = f"<p>{html.escape(_code_needed(settings))}</p>"
    elif not folder.done:
        body = "<p>No split is done yet.</p>"
    else:
        table = summary_table(folder).to_html(border=0)
        body = f"<p>Validation, {folder.selections[-1]}:</p>{table}"
    return f"<h4>{title}</h4><p><code>{html.escape(str(root))}</code></p>{body}"


def _code_needed(settings: Settings) -> str:
    names = [name for name in ("task", "parts") if CUSTOM in settings[name]]
    return f"{' and '.join(names)} custom and not given; expected Results(…, {'=…, '.join(names)}=…)"


def _kind(folder: ResultFolder | None, settings: Settings) -> str:
    if folder is None:
        return str(settings["task"].get(CUSTOM, settings["task"].get("type")))
    plural = "patches" if folder.parts == "patch" else f"{folder.parts}s"
    return f"{folder.task.name} of {plural}"


def _main_metric(folder: ResultFolder, metrics: list[str]) -> str:
    """Return the name of the metric that a summary shows."""
    errors = ("mse", "mae") if folder.reconstructs else ("mae", "mse")
    own = tuple(reversed(folder.task.selection))
    return next(name for name in ("balanced_accuracy", *errors, *own, *metrics) if name in metrics)


def _spread(values: "pd.Series[float]") -> str:
    """Return mean ± sample standard deviation as text; the mean alone for a single value."""
    deviation = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def _participants(fold: Fold, dataset: str) -> int:
    return int(storage.read_table(fold.sessions(dataset))["participant_id"].nunique())

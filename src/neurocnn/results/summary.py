"""What a result folder says at a glance: the table for a paper, and the page that a notebook shows."""

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurocnn import engine, storage
from neurocnn.errors import NotFoundError
from neurocnn.results import scoring
from neurocnn.results.paths import Fold
from neurocnn.results.settings import is_custom

if TYPE_CHECKING:
    from neurocnn.results.results import Results


def table(results: "Results") -> pd.DataFrame:
    """Give the table that `Results.summary` documents."""
    splits = results.splits
    if not splits:
        raise NotFoundError(f"{results.folder}: no split is done yet; run the experiment first")
    history = results.history()
    rows: dict[Any, dict[str, Any]] = {}
    for index in splits:
        fold, own = Fold(results.folder, index, results.task.name), history[history["split"] == index]
        rows[index] = {
            "train participants": _participants(fold, "train"),
            "validation participants": _participants(fold, "validation"),
            "epochs": int(own["epoch"].max()) + 1,
            "minutes": round(_seconds(own) / 60, 1),
        }
    summary = pd.DataFrame.from_dict(rows, orient="index", dtype=object)
    summary.loc["mean ± std"] = ""
    for level in scoring.levels(results.task, results.parts):
        values = results.metrics(level).loc[splits]
        metric = _headline(results.task, [str(name) for name in values])
        summary[f"{level} {metric}"] = [
            *(f"{value:.3f}" for value in values[metric]),
            _spread(values[metric]),
        ]
    return summary.rename_axis("split")


def line(results: "Results") -> str:
    """Give what a console shows for results."""
    unknown = _not_given(results)
    state = f"{' and '.join(unknown)} custom and not given" if unknown else f"splits {results.splits} done"
    return f"Results({str(results.folder)!r}): {_kind(results)}, {state}"


def page(results: "Results") -> str:
    """Give the HTML that a notebook shows for results."""
    unknown = _not_given(results)
    architecture = results.settings["architecture"]
    name = architecture["custom"] if is_custom(architecture) else architecture
    several = ", one network for each part" if results.settings["multi"] else ""
    title = html.escape(f"{_kind(results)}, {name}{several}")
    if unknown:
        body = f"<p>Custom, to be given: <code>Results(…, {'=…, '.join(unknown)}=…)</code></p>"
    elif not results.splits:
        body = "<p>No split is done yet.</p>"
    else:
        body = f"<p>Validation, {results.selections[-1]}:</p>{table(results).to_html(border=0)}"
    return f"<h4>{title}</h4><p><code>{html.escape(str(results.folder))}</code></p>{body}"


def _not_given(results: "Results") -> list[str]:
    """Of what decides which tables there are, give the settings that are custom and were not given."""
    return [name for name in ("task", "parts") if not results.knows(name)]


def _kind(results: "Results") -> str:
    task = results.task.name if results.knows("task") else results.settings["task"]["custom"]
    plural = {"patch": "patches"}
    parts = results.parts.name if results.knows("parts") else None
    return f"{task} of {plural.get(parts, f'{parts}s')}" if parts else str(task)


def _headline(task: engine.Task, metrics: list[str]) -> str:
    """Give the metric that a summary shows."""
    errors = ("mse", "mae") if task.name == "reconstruction" else ("mae", "mse")
    own = tuple(reversed(task.selection))
    return next(name for name in ("balanced_accuracy", *errors, *own, *metrics) if name in metrics)


def _spread(values: "pd.Series[float]") -> str:
    """Give mean ± sample standard deviation; of one value there is none."""
    deviation = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def _participants(fold: Fold, dataset: str) -> int:
    return int(storage.read_table(fold.sessions(dataset))["participant_id"].nunique())


def _seconds(history: pd.DataFrame) -> float:
    return float(np.nanmax(history["time"].to_numpy(dtype=float))) if len(history) else 0.0

"""Summaries of a result folder: the table of `Results.summary`, and displays in a console and a notebook."""

import html
import math

import numpy as np
import pandas as pd

from neurocnn import storage
from neurocnn.engine.intervals import known_limits
from neurocnn.errors import NeurocnnError, SettingError
from neurocnn.results.checked_tables import drop_names
from neurocnn.results.ensembles import read_image_level
from neurocnn.results.folder import ResultFolder
from neurocnn.results.paths import SETS, Fold
from neurocnn.results.reading import read_history, read_metrics
from neurocnn.results.resampling import draw_people, limits
from neurocnn.results.setting_json import CUSTOM, Settings, from_json
from neurocnn.results.settings import DEFAULTS
from neurocnn.storage.display import describe_people, limit_length, settings_table
from neurocnn.storage.files import is_file
from neurocnn.storage.identity import PARTICIPANT, key_columns

MEAN, INTERVAL, CHANCE = "mean ± std", "95 % interval", "chance"
_COUNTS = ("n_parts", "n_splits")


def summary_table(folder: ResultFolder, dataset: str = "validation", draws: int = 1000) -> pd.DataFrame:
    """Return the table of `Results.summary`, without confidence intervals and chance levels if `draws` is 0."""
    done = folder.check_done()
    history = read_history(folder)
    rows: dict[int | str, dict[str, object]] = {}
    for fold in done:
        own = history[history["split"] == fold.index]
        rows[fold.index] = {
            "train participants": _count_participants(fold, "train"),
            f"{dataset} participants": _count_participants(fold, dataset),
            "epochs": int(own["epoch"].max()) + 1,
            "minutes": round(float(np.nanmax(own["time"].to_numpy(dtype=float))) / 60, 1),
        }
    summary = pd.DataFrame.from_dict(rows, orient="index", dtype=object)
    summary.loc[MEAN] = ""
    metrics: list[str] = []
    for level in folder.levels:
        values = read_metrics(folder, level, None, dataset)
        values = values.reindex([fold.index for fold in done])
        metrics = _metric_names(folder, [str(name) for name in values])
        n_parts = values["n_parts"].tolist() if "n_parts" in values else [1] * len(values)
        # At part level only the main metric is shown, because the parts of an image are not independent.
        for metric in metrics if level == folder.levels[-1] else metrics[:1]:
            texts = ["" if np.isnan(value) else f"{value:.3f}" for value in values[metric]]
            texts = ["no part" if n == 0 else text for n, text in zip(n_parts, texts, strict=True)]
            mean = _mean_and_std_text(values[metric]) if any(n_parts) else "no part"
            summary[f"{level} {metric}"] = [*texts, mean]
    if draws and not folder.reconstructs:
        level = folder.levels[-1]
        for name, found in _interval_rows(folder, dataset, values[metrics], draws).items():
            cells = {f"{level} {metric}": text for metric, text in found.items() if metric in metrics}
            if name == INTERVAL:
                cells[f"{dataset} participants"] = found["participants"]
            summary.loc[name] = pd.Series(cells).reindex(summary.columns, fill_value="")
    return summary.rename_axis("split")


def _interval_rows(
    folder: ResultFolder, dataset: str, values: pd.DataFrame, draws: int
) -> dict[str, dict[str, object]]:
    """Return the bootstrap interval and the chance level of each metric, as strings."""
    tables = read_image_level(folder, folder.selections[-1], dataset)
    if not tables:
        return {}
    drawn = draw_people(list(tables.values()), by_class=folder.task.classes is not None, n=draws)
    observed = [{str(name): float(values[name][index]) for name in values} for index in tables]
    scores = {
        name: limits(found)
        for name, found in drawn.scores(folder.task, list(tables.values()), observed).items()
    }
    equal = [name for name, (low, high) in scores.items() if low == high]
    if equal:
        values = values.loc[list(tables), equal]
        scores |= _combined_limits(folder, list(tables.values()), values, drawn.shares_people)
    # Equal limits would claim a certainty that so few participants cannot give.
    texts = {name: f"{low:.3f} to {high:.3f}" if low < high else "" for name, (low, high) in scores.items()}
    chance = {name: f"{value:.3f}" for name, value in chance_levels(folder, tables).items()}
    return {INTERVAL: {"participants": drawn.n_people, **texts}, CHANCE: dict(chance)}


def _combined_limits(
    folder: ResultFolder, tables: list[pd.DataFrame], values: pd.DataFrame, shares_people: bool
) -> dict[str, tuple[float, float]]:
    """Return limits of the mean of each metric over the splits, from the limits of each split.

    The distances of the limits from the metric are averaged if the splits have the same participants, and combined by
    MOVER (Zou & Donner, Statistics in Medicine 27 (2008)) if their participants differ.
    """
    rows = [{str(name): float(value) for name, value in row.items()} for _, row in values.iterrows()]
    limits_of_splits = [
        known_limits(drop_names(table), folder.task, row) for table, row in zip(tables, rows, strict=True)
    ]
    combined = {}
    for name in map(str, values):
        own = values[name].to_numpy(dtype=float)
        far = np.abs(np.array([found[name] for found in limits_of_splits]) - own[:, None])
        distance = far.mean(axis=0) if shares_people else np.sqrt(np.square(far).sum(axis=0)) / len(own)
        combined[name] = (float(own.mean() - distance[0]), float(own.mean() + distance[1]))
    return combined


def chance_levels(folder: ResultFolder, tables: dict[int, pd.DataFrame]) -> dict[str, float]:
    """Return the metrics of predictions that do not use the images, averaged over the splits.

    For k classes, the metrics are 1/k (specificity: 1 − 1/k, area under the ROC curve: 1/2). Without classes
    (regression), the prediction for each image is the mean label of the training set.
    """
    if folder.task.classes is not None:
        share = 1 / len(folder.task.classes)
        names = ("accuracy", "balanced_accuracy", "sensitivity")
        return dict.fromkeys(names, share) | {"specificity": 1 - share, "roc_auc": 0.5}
    rows = []
    for index, table in tables.items():
        train = storage.read_table(folder.fold(index).sessions("train"))
        mean = pd.to_numeric(train.get(folder.task.label, pd.Series(dtype=float)), errors="coerce").mean()
        try:
            rows.append(dict(folder.task.metrics(table.assign(predicted_label=mean))) if mean == mean else {})
        except SettingError:
            # The metrics of a custom task cannot be computed without its code.
            return {}
    return {str(name): float(value) for name, value in pd.DataFrame(rows).mean().items()}


def console_line(root: object, folder: ResultFolder | None, settings: Settings) -> str:
    """Return the line that a console displays. `folder` is None if custom code is needed to read the folder."""
    state = (
        f"splits {[fold.index for fold in folder.finished_folds]} done"
        if folder
        else _missing_code_message(settings)
    )
    return limit_length(f"Results({str(root)!r}): {_describe_kind(folder, settings)}, {state}")


def html_page(root: object, folder: ResultFolder | None, settings: Settings) -> str:
    """Return the HTML that a notebook displays. `folder` is None if custom code is needed to read the folder."""
    people = ""
    if folder is None:
        body = f"<p>{html.escape(_missing_code_message(settings))}</p>"
    elif not folder.finished_folds:
        body = "<p>No split is done yet.</p>"
    else:
        table = summary_table(folder, draws=0).to_html(border=0)
        body = f"<p>Validation, {folder.selections[-1]}:</p>{table}"
        people = f"<p>Training and validation:</p>{first_split_population(folder).to_html(border=0)}"
    title = f"<h4>{html.escape(_describe_kind(folder, settings))}</h4><p><code>{html.escape(str(root))}</code></p>"
    return f"{title}{settings_table(_chosen_settings(settings))}{people}{body}"


def first_split_population(folder: ResultFolder) -> pd.DataFrame:
    """Return the participants of the first split that is done, see `describe_people`."""
    paths = [folder.check_done()[0].sessions(name) for name in SETS]
    return describe_people(pd.concat([storage.read_table(path) for path in paths]), folder.task.label)


def _chosen_settings(settings: Settings) -> dict[str, object]:
    """Return the settings without a default, and those that differ from their defaults."""
    names = ["parts", "task", "architecture", "trainer", *DEFAULTS]
    differing = {
        name: settings[name]
        for name in names
        if name in settings and not (name in DEFAULTS and settings[name] == DEFAULTS[name])
    }
    return {name: _as_object(value) for name, value in differing.items()}


def _as_object(value: object) -> object:
    """Return a setting in JSON form as an object, or unchanged if it is custom or cannot be converted."""
    try:
        return from_json(value)
    except NeurocnnError:
        return value.get(CUSTOM, value) if isinstance(value, dict) else value


def _missing_code_message(settings: Settings) -> str:
    names = [name for name in ("task", "parts") if CUSTOM in settings[name]]
    return f"custom {' and '.join(names)} not passed; use Results(…, {'=…, '.join(names)}=…)"


def _describe_kind(folder: ResultFolder | None, settings: Settings) -> str:
    if folder is None:
        return str(settings["task"].get(CUSTOM, settings["task"].get("type")))
    plural = "patches" if folder.parts == "patch" else f"{folder.parts}s"
    return f"{folder.task.name} of {plural}"


def _metric_names(folder: ResultFolder, names: list[str]) -> list[str]:
    """Return the names of the metrics without their limits; the main metric is first."""
    metrics = [name for name in names if not name.endswith(("_low", "_high")) and name not in _COUNTS]
    errors = ("mse", "mae") if folder.reconstructs else ("mae", "mse")
    own = tuple(reversed(folder.task.selection))
    main = next(name for name in ("balanced_accuracy", *errors, *own, *metrics) if name in metrics)
    return [main, *(name for name in metrics if name != main)]


def _mean_and_std_text(values: "pd.Series[float]") -> str:
    """Return a string with the mean ± the sample standard deviation, or only the mean if there is one value."""
    deviation = f" ± {values.std():.3f}" if values.count() > 1 else ""
    return "" if math.isnan(values.mean()) else f"{values.mean():.3f}{deviation}"


def _count_participants(fold: Fold, dataset: str) -> object:
    path = fold.sessions(dataset)
    # Earlier versions did not write this file.
    if not is_file(path):
        return ""
    table = storage.read_table(path)
    return len(table[key_columns(table, PARTICIPANT)].drop_duplicates())

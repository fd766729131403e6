"""Learning curves: loss and metrics by epoch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurocnn.errors import TableError
from neurocnn.plotting import canvas
from neurocnn.results.tables import ResultTables
from neurocnn.storage.identity import check_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History: TypeAlias = pd.DataFrame | Mapping[Any, pd.DataFrame] | ResultTables
BestEpochs: TypeAlias = Mapping[Any, Any]
#: Largest number of histories that are drawn as single lines. More lines would hide each other.
_MAX_LINES = 8
_SETS = {"train": canvas.BLUE, "validation": canvas.VERMILLION}


def learning_curves(
    history: History,
    best_epochs: BestEpochs | None = None,
    stopped: int | Mapping[Any, int] | None = None,
    *,
    metrics: Sequence[str] | None = None,
) -> "Figure":
    """Draw training and validation metrics by epoch, with marks for the best models and the end of training.

    Up to 8 histories are drawn as thin lines, more than 8 as a band of ± one standard deviation. A thick line is the
    mean over several histories, for the epochs that all of them have.

    Parameters
    ----------
    history
        Results, or a table with ``epoch, iteration, train_loss, …, validation_loss, …``, one row per evaluation. For
        several networks: a mapping from the name of each network to its table, or one table with a column ``split`` or
        ``network``, such as the table of `Results.history`.
    best_epochs
        Epoch of each selection, ``{"best_loss": 7, …}``; for several networks, a mapping from the name of each network
        to such a mapping. With None, the first epoch with the best validation metric at its end.
    stopped
        Epoch at which training was stopped, or a mapping from names of networks to epochs. With None, the last epoch.
    metrics
        Metrics to draw, each in its own panel. With None, the loss and, if the history has this metric, the balanced
        accuracy.

    Raises
    ------
    TableError
        If a column is missing, or a history has no rows.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> history = pd.DataFrame({
    ...     "epoch": [0, 1, 2], "iteration": [10, 10, 10],
    ...     "train_loss": [0.7, 0.5, 0.3], "validation_loss": [0.7, 0.6, 0.8],
    ... })
    >>> learning_curves(history, stopped=2).savefig(tmp / "curves.png")
    """
    trainings = by_network(history)
    shown = panel_metrics(trainings, metrics)
    figure = canvas.new_figure(1.2 + 4.4 * len(shown), 3.8)
    panels = [figure.add_subplot(1, len(shown), index + 1) for index in range(len(shown))]
    draw_curves(panels, trainings, shown, best_epochs, stopped)
    return figure


def by_network(history: History) -> dict[Any, pd.DataFrame]:
    """Return each history by name. The column `position` contains the x value of each row, in epochs."""
    tables: dict[Any, pd.DataFrame] = {}
    if isinstance(history, ResultTables):
        history = history.history()
    if isinstance(history, pd.DataFrame):
        keys = [key for key in ("split", "network", "part_id") if key in history]
        grouped = history.groupby(keys[0] if len(keys) == 1 else keys) if keys else [("", history)]
        tables.update(iter(grouped))
    else:
        tables.update(history)
    for name, table in tables.items():
        check_columns(table, ["epoch"], f"history {name!r}")
    if not tables or any(table.empty for table in tables.values()):
        raise TableError("history: a table has no rows; expected at least one row for each network")
    return {name: table.assign(position=_positions(table)) for name, table in tables.items()}


def _positions(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return each row's x value: e at the end of epoch e, e − 2/3 after a third of its updates."""
    epoch = table["epoch"].to_numpy(float)
    if "iteration" not in table or not table["epoch"].duplicated().any():
        return epoch
    ends = table.groupby("epoch")["iteration"].max()
    # Some histories count iterations over all epochs, others restart the count at each epoch.
    continues = bool(ends.is_monotonic_increasing and ends.is_unique)
    starts = ends.shift(fill_value=0) if continues else ends * 0
    # The median is not affected by an unfinished epoch, which has fewer updates.
    updates = float((ends - starts).median())
    done = table["iteration"].to_numpy(float) - table["epoch"].map(starts).to_numpy(float)
    return np.asarray(epoch - 1 + np.minimum(done / max(updates, 1), 1), dtype=np.float64)


def panel_metrics(trainings: Mapping[Any, pd.DataFrame], metrics: Sequence[str] | None) -> list[str]:
    """Return the metrics to draw; raise an error unless every history has columns of these metrics."""
    columns = set.intersection(*(set(table.columns) for table in trainings.values()))
    found = sorted({name.partition("_")[2] for name in columns if name.partition("_")[0] in _SETS})
    usual: list[str] = [metric for metric in ("loss", "balanced_accuracy") if metric in found]
    wanted = usual if metrics is None else list(metrics)
    absent = [metric for metric in wanted if metric not in found]
    if absent or not wanted:
        raise TableError(
            f"history: columns train_… or validation_… of {', '.join(absent) or 'loss'} are missing; "
            f"available metrics: {', '.join(found) or 'none'}"
        )
    return wanted


def draw_curves(
    panels: "Sequence[Axes]",
    trainings: Mapping[Any, pd.DataFrame],
    metrics: Sequence[str],
    best_epochs: BestEpochs | None,
    stopped: int | Mapping[Any, int] | None,
) -> None:
    """Draw one metric per panel."""
    for axes, metric in zip(panels, metrics, strict=True):
        for index, (name, table) in enumerate(trainings.items()):
            if len(trainings) <= _MAX_LINES:
                _draw_history(axes, table, metric, len(trainings))
            best = _best_epoch(table, metric, _entry_of(best_epochs, name))
            ended = _entry_of(stopped, name)
            marks = {"best model": best, "training ends": table["epoch"].max() if ended is None else ended}
            _draw_marks(
                axes, table, metric, marks, 1.0 if len(trainings) <= _MAX_LINES else 0.2, labelled=index == 0
            )
        if len(trainings) > 1:
            _draw_mean(axes, list(trainings.values()), metric)
        _set_labels_and_legend(axes, metric)


def _entry_of(value: Any, name: Any) -> Any:
    """Return the entry `name` if `value` is a mapping with one entry per history, else `value` itself."""
    if isinstance(value, Mapping) and (name in value or any(isinstance(v, Mapping) for v in value.values())):
        return value.get(name)
    return value


def _draw_history(axes: "Axes", table: pd.DataFrame, metric: str, n_trainings: int) -> None:
    for which, colour in _SETS.items():
        column = f"{which}_{metric}"
        if column in table:
            line: dict[str, Any] = {"linewidth": 1.8, "label": which}
            if n_trainings > 1:
                line = {"linewidth": 0.9, "alpha": min(0.4, 4 / n_trainings)}
            axes.plot(table["position"], table[column], color=colour, **line)


def _draw_mean(axes: "Axes", tables: list[pd.DataFrame], metric: str) -> None:
    from matplotlib.patheffects import withStroke

    for which, colour in _SETS.items():
        column = f"{which}_{metric}"
        if column in tables[0]:
            ends = [_epoch_ends(table, column) for table in tables]
            joined = pd.concat(ends, axis=1, join="inner")
            mean, deviation = joined.mean(axis=1), joined.std(axis=1)
            if len(tables) > _MAX_LINES:
                low, high = mean - deviation, mean + deviation
                axes.fill_between(mean.index, low, high, color=colour, alpha=0.2, linewidth=0)
            text = f"{which}, mean of {len(tables)}"
            (line,) = axes.plot(mean.index, mean, color=colour, linewidth=2.2, label=text)
            line.set_path_effects([withStroke(linewidth=4, foreground="white")])


def _epoch_ends(table: pd.DataFrame, column: str) -> "pd.Series[Any]":
    """Return the last value of each epoch, indexed by epoch."""
    return table.drop_duplicates("epoch", keep="last").set_index("epoch")[column]


def _best_epoch(table: pd.DataFrame, metric: str, best: Any) -> int | None:
    """Return the epoch with the best value of this metric; None if no model is selected by the metric."""
    if best is not None:
        return int(best[f"best_{metric}"]) if f"best_{metric}" in best else None
    column = f"validation_{metric}"
    if metric not in {"loss", "balanced_accuracy"} or column not in table or table[column].isna().all():
        return None
    ends = _epoch_ends(table, column)
    at = np.nanargmin(ends) if metric == "loss" else np.nanargmax(ends)
    return int(ends.index[int(at)])


def _draw_marks(
    axes: "Axes",
    table: pd.DataFrame,
    metric: str,
    marks: Mapping[str, int | None],
    size: float,
    *,
    labelled: bool,
) -> None:
    column = f"validation_{metric}" if f"validation_{metric}" in table else f"train_{metric}"
    ends = _epoch_ends(table, column)
    shapes: tuple[dict[str, Any], ...] = (
        {"marker": "*", "s": 130 * size, "edgecolor": "white", "linewidth": 0.8 * size, "zorder": 5},
        {"marker": "|", "s": 170 * size, "linewidth": 2.2, "zorder": 4},
    )
    for (name, at), shape in zip(marks.items(), shapes, strict=True):
        if at is not None and at in ends.index:
            axes.scatter([at], [ends[at]], color=canvas.INK, label=name if labelled else None, **shape)


def _set_labels_and_legend(axes: "Axes", metric: str) -> None:
    canvas.set_style(axes)
    canvas.set_labels(axes, canvas.readable(metric), "Epoch", "")
    canvas.set_integer_ticks(axes.xaxis)
    if metric == "balanced_accuracy":
        axes.set_ylim(top=1.02)
    handles, names = axes.get_legend_handles_labels()
    # The legend lists lines before markers, although markers may be drawn first.
    order = sorted(range(len(names)), key=lambda index: names[index].partition(",")[0] not in _SETS)
    canvas.add_legend(axes, [handles[i] for i in order], [names[i] for i in order])

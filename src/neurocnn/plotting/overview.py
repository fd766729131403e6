"""Overview of an experiment in one figure."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from neurocnn.errors import NotFoundError
from neurocnn.errors.arguments import argument_error
from neurocnn.plotting import curves, inputs, scores, sections
from neurocnn.plotting.canvas import new_figure
from neurocnn.plotting.volumes import draw_map
from neurocnn.results.tables import ResultTables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def overview(
    history: curves.History,
    predictions: scores.Predictions | ResultTables | None = None,
    classes: Sequence[str] | None = None,
    part_values: Any = None,
    template: Any = None,
    *,
    dataset: str = "validation",
    at: Sequence[int] | None = None,
    best_epochs: curves.BestEpochs | None = None,
    stopped: int | Mapping[Any, int] | None = None,
    vmin: float | None = 0.5,
    vmax: float | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw the learning curves, ROC curves, confusion matrix and map of the parts of a classification experiment.

    Parameters
    ----------
    history, best_epochs, stopped
        See `learning_curves`. With results, no other argument is necessary.
    predictions, classes, dataset
        Image-level predictions, see `roc` and `confusion_matrix`. With None, those of the results.
    part_values, template, at, vmin, vmax
        See `part_map`. With None, those of the results; no map is drawn if there are none.
    title
        Title of the figure.

    Raises
    ------
    NeurocnnError
        See `learning_curves`, `roc`, `confusion_matrix` and `part_map`.

    Examples
    --------
    >>> import pandas as pd
    >>> history = pd.DataFrame({
    ...     "epoch": [0, 1, 2], "train_loss": [0.7, 0.5, 0.3], "validation_loss": [0.7, 0.6, 0.8],
    ... })
    >>> table = pd.DataFrame({"true_label": [0, 1, 0, 1], "predicted_label": [0, 1, 1, 1],
    ...                       "proba0": [0.9, 0.2, 0.4, 0.3], "proba1": [0.1, 0.8, 0.6, 0.7]})
    >>> overview(history, table, ["CN", "AD"]).savefig(tmp / "overview.png")
    """
    if isinstance(history, ResultTables):
        predictions = history if predictions is None else predictions
        template = inputs.template(history) if template is None else template
        if part_values is None:
            with suppress(NotFoundError):  # complete images have no accuracies of parts
                part_values = history.part_map()
    if predictions is None:
        raise argument_error("predictions", None, "a table, or the Results as history", where="overview")
    classes = inputs.class_names(predictions, classes, "overview")
    trainings = curves.by_network(history)
    metrics = curves.panel_metrics(trainings, None)
    splits = scores.by_split(inputs.splits(predictions, dataset), classes)
    counted = scores.by_split(inputs.image_predictions(predictions, dataset), classes)
    values = None if part_values is None else sections.as_volume(part_values, "map")
    figure, axes = _panels(len(metrics), values, title)
    curves.draw_curves(axes["curves"], trainings, metrics, best_epochs, stopped)
    scores.draw_roc(axes["roc"][0], splits, classes)
    scores.draw_confusion(axes["confusion"][0], counted, classes)
    axes["confusion"][0].set_anchor("N")
    if values is not None:
        draw_map(axes["map"], values, template, at, "Balanced accuracy", (vmin, vmax), 0.65, (1, 1, 1))
    sections.set_figure_title(figure, title)
    return figure


def _panels(n_curves: int, values: Any, title: str | None) -> "tuple[Figure, dict[str, list[Axes]]]":
    """Return a figure and its axes: a 2 × 2 grid or, with a map, the curves above the confusion matrix and the map."""
    heading = 0.4 * bool(title)
    if values is None:
        figure = new_figure(4.6 * 2, 8.2 + heading)
        flat = [figure.add_subplot(2, 2, index + 1) for index in range(n_curves + 2)]
        return figure, {"curves": flat[:-2], "roc": flat[-2:-1], "confusion": flat[-1:]}
    planes, height = sections.extent(values.shape, (1, 1, 1), 8.4)
    figure = new_figure(13, 4.2 + height + 0.7 + heading)
    upper, lower = cast(Any, figure.subfigures(2, 1, height_ratios=[4.2, height + 0.7]))
    left, right = lower.subfigures(1, 2, width_ratios=[13 - planes - 1, planes + 1])
    flat = [upper.add_subplot(1, n_curves + 1, index + 1) for index in range(n_curves + 1)]
    axes = {"curves": flat[:-1], "roc": flat[-1:], "confusion": [left.add_subplot()]}
    return figure, axes | {"map": sections.plane_axes(right, values.shape, (1, 1, 1))[0]}

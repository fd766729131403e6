"""How good classes are told apart: confusion matrix and ROC curves, over the splits."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurocnn.errors import TableError
from neurocnn.plotting.canvas import (
    CYCLE,
    INK,
    LABEL,
    MUTED,
    label,
    legend,
    listed,
    new_figure,
    quiet,
    title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Predictions: TypeAlias = pd.DataFrame | Mapping[Any, pd.DataFrame] | Sequence[pd.DataFrame]
_GRID = np.linspace(0, 1, 201)


def confusion_matrix(predictions: Predictions, classes: Sequence[str]) -> "Figure":
    """Draw how many images of each class were given each class, with the percentage of the true class.

    Parameters
    ----------
    predictions
        Labelled predictions (``true_label``, ``predicted_label``) of one set; of several splits, whose counts
        are summed: a list, a mapping, or a table with a column ``split`` (what `Results.predictions` gives).
    classes
        The classes' names, in the order of their indices.

    Raises
    ------
    TableError
        A label is missing or is no index of a class.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0, 0, 1, 1], "predicted_label": [0, 1, 1, 1]})
    >>> confusion_matrix(table, ["CN", "AD"]).savefig(tmp / "confusion.png")
    """
    tables = by_split(predictions, classes)
    side = 2.6 + 0.9 * len(classes)
    figure = new_figure(side, side * 0.92)
    draw_confusion(figure.add_subplot(), tables, classes)
    return figure


def roc(predictions: Predictions, classes: Sequence[str]) -> "Figure":
    """Draw the receiver operating characteristic of each split, their mean, and the area below (AUC).

    The mean curve averages the sensitivities at each false-positive rate (threshold-free "vertical"
    averaging, Fawcett 2006); the AUC is the mean of the splits' AUCs ± their standard deviation (over n − 1).
    Of two classes the second one is the positive one; of more, each is drawn against all the others.

    Parameters
    ----------
    predictions
        Labelled predictions with ``true_label, proba0, proba1, …``; of several splits see `confusion_matrix`.
    classes
        The classes' names, in the order of their indices.

    Raises
    ------
    TableError
        A label or probability is missing, or a split has no image with, or none without, a class.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> table = pd.DataFrame({"split": 0, "true_label": [0, 1, 0, 1], "predicted_label": [0, 1, 1, 1],
    ...                       "proba0": [0.9, 0.2, 0.4, 0.3], "proba1": [0.1, 0.8, 0.6, 0.7]})
    >>> roc(table, ["CN", "AD"]).savefig(tmp / "roc.png")
    """
    splits = by_split(predictions, classes)
    figure = new_figure(4.6, 4.4)
    draw_roc(figure.add_subplot(), splits, classes)
    return figure


def by_split(predictions: Predictions, classes: Sequence[str]) -> dict[Any, pd.DataFrame]:
    """The table of each split, checked."""
    if isinstance(predictions, pd.DataFrame):
        tables = dict(iter(predictions.groupby("split"))) if "split" in predictions else {0: predictions}
    elif isinstance(predictions, Mapping):
        tables = dict(predictions)
    else:
        tables = dict(enumerate(predictions))
    if not any(len(table) for table in tables.values()):
        raise TableError("there are no predictions to draw")
    for name, table in tables.items():
        for column in ("true_label", "predicted_label"):
            if column not in table:
                raise TableError(
                    f"predictions of split {name!r} lack {column}; there are: {listed(table.columns)}"
                )
            if not table[column].isin(range(len(classes))).all():
                found = table.loc[~table[column].isin(range(len(classes))), column].unique().tolist()
                raise TableError(
                    f"predictions of split {name!r}: {column} must be 0 to {len(classes) - 1} (the index in "
                    f"{list(classes)}), found {found}"
                )
    return tables


def count(tables: Mapping[Any, pd.DataFrame], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """The confusion matrix summed over splits: a row a true class, a column a predicted one."""
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for table in tables.values():
        pairs = table["true_label"].to_numpy(int), table["predicted_label"].to_numpy(int)
        np.add.at(counts, pairs, 1)
    return counts


def draw_confusion(axes: "Axes", tables: Mapping[Any, pd.DataFrame], classes: Sequence[str]) -> None:
    """Draw counts as a square of tiles, the darker the larger their share of the true class."""
    counts = count(tables, classes)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
    for (row, column), number in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.6 else INK
        text = f"{number}\n{100 * shares[row, column]:.1f} %"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=LABEL + 1)
    ticks = range(len(classes))
    turned = max(map(len, classes)) * len(classes) > 24
    axes.set_xticks(ticks, classes, rotation=30 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(
        ticks, [f"{name}\n(n = {total})" for name, total in zip(classes, totals[:, 0], strict=True)]
    )
    quiet(axes, grid=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    title(axes, "Confusion matrix")
    label(
        axes, "Predicted class" + (f"\nsum of {len(tables)} splits" if len(tables) > 1 else ""), "True class"
    )


def draw_roc(axes: "Axes", tables: Mapping[Any, pd.DataFrame], classes: Sequence[str]) -> None:
    """Draw the curves of all splits, their means and the line of chance."""
    positives = [1] if len(classes) == 2 else list(range(len(classes)))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="chance")
    for index, positive in enumerate(positives):
        _draw_class(axes, tables, positive, classes[positive], index, 0.4 if len(positives) == 1 else 0.25)
    quiet(axes)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    title(axes, "ROC")
    label(axes, "False-positive rate (1 − specificity)", "True-positive rate (sensitivity)")
    heading = f"mean ± SD of {len(tables)} splits" if len(tables) > 1 else None
    legend(axes, loc="lower right", title=heading)


def _draw_class(
    axes: "Axes", tables: Mapping[Any, pd.DataFrame], positive: int, name: str, index: int, opacity: float
) -> None:
    from sklearn.metrics import auc

    curves = [_curve(table, positive, split) for split, table in tables.items()]
    areas = [auc(fpr, tpr) for fpr, tpr in curves]
    colour = CYCLE[index % len(CYCLE)]
    text = f"{name}: AUC {np.mean(areas):.2f}"
    if len(curves) == 1:
        axes.plot(*curves[0], color=colour, linewidth=2.2, label=text)
        return
    for fpr, tpr in curves:
        axes.plot(fpr, tpr, color=colour, linewidth=0.9, alpha=opacity)
    # Where a curve rises straight up, interp takes its upper end; from the origin on all begin at 0.
    mean = np.mean([np.interp(_GRID, fpr, tpr) for fpr, tpr in curves], axis=0)
    text = f"{text} ± {np.std(areas, ddof=1):.2f}"
    axes.plot([0, *_GRID], [0, *mean], color=colour, linewidth=2.2, label=text)


def _curve(
    table: pd.DataFrame, positive: int, split: Any
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    from sklearn.metrics import roc_curve

    column = f"proba{positive}"
    if column not in table or table[column].isna().any():
        raise TableError(f"predictions of split {split!r}: {column} is absent or has missing values")
    truth = table["true_label"].to_numpy(int) == positive
    if truth.all() or not truth.any():
        raise TableError(
            f"predictions of split {split!r}: {int(truth.sum())} of {len(truth)} images have class "
            f"{positive}; a ROC curve needs images with it and without it"
        )
    fpr, tpr, _ = roc_curve(truth, table[column].to_numpy(float))
    return fpr, tpr

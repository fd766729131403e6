"""Scores of a classification over the splits: confusion matrix and ROC curves."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurocnn.errors import TableError
from neurocnn.plotting import canvas, inputs
from neurocnn.results.ensembles import ENSEMBLE
from neurocnn.results.tables import ResultTables
from neurocnn.storage.identity import check_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Predictions: TypeAlias = pd.DataFrame | Mapping[Any, pd.DataFrame] | Sequence[pd.DataFrame]
_GRID = np.linspace(0, 1, 201)


def confusion_matrix(
    predictions: "Predictions | ResultTables",
    classes: Sequence[str] | None = None,
    *,
    dataset: str = "validation",
) -> "Figure":
    """Draw the number of images of each true and predicted class, and its percentage of the true class.

    Parameters
    ----------
    predictions
        Results, or labelled predictions (``true_label``, ``predicted_label``) of one data set. For several splits,
        whose counts are added: a list or mapping of tables, or a table with a column ``split``, such as the table of
        `Results.predictions`. If one split is ``ensemble``, only the ensemble is counted, so that each image is counted
        once.
    classes
        Names of the classes, in the order of their indices. With None, the classes of the results.
    dataset
        Data set of the results, see `Results.metrics`.

    Raises
    ------
    TableError
        If a label is missing or is not the index of a class.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> table = pd.DataFrame({"true_label": [0, 0, 1, 1], "predicted_label": [0, 1, 1, 1]})
    >>> confusion_matrix(table, ["CN", "AD"]).savefig(tmp / "confusion.png")
    """
    classes = inputs.class_names(predictions, classes, "confusion_matrix")
    tables = by_split(inputs.image_predictions(predictions, dataset), classes)
    side = 2.6 + 0.9 * len(classes)
    figure = canvas.new_figure(side, side * 0.92)
    draw_confusion(figure.add_subplot(), tables, classes)
    return figure


def roc(
    predictions: "Predictions | ResultTables",
    classes: Sequence[str] | None = None,
    *,
    dataset: str = "validation",
) -> "Figure":
    """Draw the ROC curve of each split, their mean, and the area under the curve (AUC).

    The mean curve is the mean of the sensitivities at each false-positive rate ("vertical averaging", Fawcett 2006);
    the AUC is the mean of the splits' AUCs ± their standard deviation (with n − 1). With two classes, the second class
    is positive; with more classes, there is one curve for each class against all other classes.

    Parameters
    ----------
    predictions
        Results, or labelled predictions with ``true_label, proba0, proba1, …``. For several splits, see
        `confusion_matrix`.
    classes, dataset
        See `confusion_matrix`.

    Raises
    ------
    TableError
        If a label or probability is missing, or all or none of a split's images belong to a class.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> table = pd.DataFrame({"split": 0, "true_label": [0, 1, 0, 1], "predicted_label": [0, 1, 1, 1],
    ...                       "proba0": [0.9, 0.2, 0.4, 0.3], "proba1": [0.1, 0.8, 0.6, 0.7]})
    >>> roc(table, ["CN", "AD"]).savefig(tmp / "roc.png")
    """
    classes = inputs.class_names(predictions, classes, "roc")
    splits = by_split(inputs.splits(predictions, dataset), classes)
    figure = canvas.new_figure(4.6, 4.4)
    draw_roc(figure.add_subplot(), splits, classes)
    return figure


def by_split(predictions: Predictions, classes: Sequence[str]) -> dict[Any, pd.DataFrame]:
    """Check the labels, and return the table of each split."""
    if isinstance(predictions, pd.DataFrame):
        tables = (
            dict(iter(predictions.groupby("split", sort=False)))
            if "split" in predictions
            else {0: predictions}
        )
    elif isinstance(predictions, Mapping):
        tables = dict(predictions)
    else:
        tables = dict(enumerate(predictions))
    if not any(len(table) for table in tables.values()):
        raise TableError("predictions: the table has no rows; expected at least one row")
    for name, table in tables.items():
        where = f"predictions of split {name!r}"
        check_columns(table, ["true_label", "predicted_label"], where)
        for column in ("true_label", "predicted_label"):
            wrong = ~table[column].isin(range(len(classes)))
            if wrong.any():
                found = table.loc[wrong, column].unique().tolist()
                allowed = f"0 to {len(classes) - 1} (the index in {list(classes)})"
                raise TableError(f"{where}: {column}={found}; expected {allowed}")
    return tables


def sum_confusion(tables: Mapping[Any, pd.DataFrame], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the confusion matrix summed over splits: one row per true class, one column per predicted class."""
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for table in _tables_to_count(tables).values():
        pairs = table["true_label"].to_numpy(int), table["predicted_label"].to_numpy(int)
        np.add.at(counts, pairs, 1)
    return counts


def _tables_to_count(tables: Mapping[Any, pd.DataFrame]) -> Mapping[Any, pd.DataFrame]:
    """Return the tables that count each image once: the ensemble's table if it exists, else those of all splits."""
    return {ENSEMBLE: tables[ENSEMBLE]} if ENSEMBLE in tables else tables


def without_ensemble(tables: Mapping[Any, pd.DataFrame]) -> Mapping[Any, pd.DataFrame]:
    """Return the tables without the ensemble's, unless this is the only table."""
    return {name: table for name, table in tables.items() if name != ENSEMBLE} if len(tables) > 1 else tables


def draw_confusion(axes: "Axes", tables: Mapping[Any, pd.DataFrame], classes: Sequence[str]) -> None:
    """Draw counts as tiles, which are darker for a larger share of the true class."""
    counts = sum_confusion(tables, classes)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
    for (row, column), number in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.6 else canvas.INK
        text = f"{number}\n{100 * shares[row, column]:.1f} %"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=canvas.LABEL + 1)
    ticks = range(len(classes))
    is_rotated = max(map(len, classes)) * len(classes) > 24
    axes.set_xticks(ticks, classes, rotation=30 * is_rotated, ha="right" if is_rotated else "center")
    names = [f"{name}\n(n = {total})" for name, total in zip(classes, totals[:, 0], strict=True)]
    axes.set_yticks(ticks, names)
    canvas.set_style(axes, grid=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    sums = f"\nsum of {len(tables)} splits" if len(_tables_to_count(tables)) > 1 else ""
    canvas.set_labels(axes, "Confusion matrix", f"Predicted class{sums}", "True class")


def draw_roc(axes: "Axes", tables: Mapping[Any, pd.DataFrame], classes: Sequence[str]) -> None:
    """Draw the ROC curves of all splits, their means and the chance line."""
    tables = without_ensemble(tables)
    positives = [1] if len(classes) == 2 else list(range(len(classes)))
    axes.plot([0, 1], [0, 1], color=canvas.MUTED, linewidth=1, linestyle=(0, (4, 3)), label="chance")
    for index, positive in enumerate(positives):
        _draw_class(axes, tables, positive, classes[positive], index, 0.4 if len(positives) == 1 else 0.25)
    canvas.set_style(axes)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    canvas.set_labels(
        axes, "ROC", "False-positive rate (1 − specificity)", "True-positive rate (sensitivity)"
    )
    heading = f"mean ± SD of {len(tables)} splits" if len(tables) > 1 else None
    canvas.add_legend(axes, loc="lower right", title=heading)


def _draw_class(
    axes: "Axes", tables: Mapping[Any, pd.DataFrame], positive: int, name: str, index: int, opacity: float
) -> None:
    from sklearn.metrics import auc

    curves = [_roc_curve(table, positive, split) for split, table in tables.items()]
    areas = [auc(fpr, tpr) for fpr, tpr in curves]
    colour = canvas.CYCLE[index % len(canvas.CYCLE)]
    text = f"{name}: AUC {np.mean(areas):.2f}"
    if len(curves) == 1:
        axes.plot(*curves[0], color=colour, linewidth=2.2, label=text)
        return
    for fpr, tpr in curves:
        axes.plot(fpr, tpr, color=colour, linewidth=0.9, alpha=opacity)
    # At rate 0, interp returns the upper end of the vertical rise. Therefore the origin is added to the mean curve.
    heights = [np.interp(_GRID, fpr, tpr) for fpr, tpr in curves]
    mean, deviation = np.mean(heights, axis=0), np.std(heights, axis=0, ddof=1)
    axes.fill_between(_GRID, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
    text = f"{text} ± {np.std(areas, ddof=1):.2f}"
    axes.plot([0, *_GRID], [0, *mean], color=colour, linewidth=2.2, label=text)


def _roc_curve(
    table: pd.DataFrame, positive: int, split: Any
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(*class_membership(table, positive, split))
    return fpr, tpr


def class_membership(
    table: pd.DataFrame, positive: int, split: Any
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Return whether each image belongs to the class `positive`, and its probability of that class."""
    column = f"proba{positive}"
    if column not in table or table[column].isna().any():
        raise TableError(
            f"predictions of split {split!r}: {column} is missing or has missing values; expected "
            "a probability in each row"
        )
    own = table["true_label"].to_numpy(int) == positive
    if own.all() or not own.any():
        raise TableError(
            f"predictions of split {split!r}: {int(own.sum())} of {len(own)} images have class "
            f"{positive}; expected images of this class and of other classes"
        )
    return own, table[column].to_numpy(float)

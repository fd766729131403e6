"""Figures of predictions: precision and recall, reliability, predicted against true values, Bland–Altman."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neurocnn.errors.arguments import check_instance, check_integer
from neurocnn.plotting import canvas, inputs, scores
from neurocnn.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def precision_recall(
    predictions: "scores.Predictions | Results",
    classes: Sequence[str] | None = None,
    *,
    dataset: str = "validation",
) -> "Figure":
    """Draw the precision-recall curve: the mean over splits with a band of ± SD, and the prevalence.

    Parameters
    ----------
    predictions, classes, dataset
        See `roc`. The legend contains the average precision, as computed by scikit-learn.

    Raises
    ------
    TableError
        See `roc`.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> results.metrics().shape[0]
    4
    >>> precision_recall(results, dataset="test").savefig(tmp / "precision.png")
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    names = inputs.class_names(predictions, classes, "precision_recall")
    tables = scores.without_ensemble(scores.by_split(inputs.splits(predictions, dataset), names))
    figure = canvas.new_figure(4.6, 4.4)
    axes, grid = figure.add_subplot(), np.linspace(0, 1, 201)
    for index, positive in enumerate([1] if len(names) == 2 else range(len(names))):
        truths = [scores.class_membership(table, positive, split) for split, table in tables.items()]
        areas = [average_precision_score(*pair) for pair in truths]
        curves = []
        for pair in truths:
            precision, recall, _ = precision_recall_curve(*pair)
            curves.append(np.interp(grid, recall[::-1], precision[::-1]))
        colour = canvas.CYCLE[index % len(canvas.CYCLE)]
        spread = f" ± {np.std(areas, ddof=1):.2f}" if len(areas) > 1 else ""
        text = f"{names[positive]}: average precision {np.mean(areas):.2f}{spread}"
        canvas.draw_mean_and_band(axes, grid, curves, colour, text)
        prevalence = float(np.mean([truth.mean() for truth, _ in truths]))
        axes.axhline(prevalence, color=colour, linewidth=1, linestyle=(0, (4, 3)))
    canvas.set_style(axes)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    canvas.set_labels(axes, "Precision and recall", "Recall (sensitivity)", "Precision (PPV)")
    canvas.add_legend(axes, loc="lower left")
    return figure


def reliability(results: Results, dataset: str = "validation", *, n_bins: int = 10) -> "Figure":
    """Draw the observed share of a class against its predicted probability, and the number of images per bin.

    Parameters
    ----------
    results
        Results of a classification.
    dataset
        Data set, see `Results.metrics`. If the data set has an ensemble prediction, only the ensemble is drawn,
        otherwise each split.
    n_bins
        Number of bins, see `Results.reliability`.

    Raises
    ------
    SettingError, NotFoundError
        See `Results.reliability`.

    Examples
    --------
    >>> results.metrics().shape[0]
    4
    >>> reliability(results, "test").savefig(tmp / "reliability.png")
    """
    check_instance("results", results, Results, "an nc.Results", where="reliability")
    bins = results.reliability(
        dataset, n_bins=check_integer("n_bins", n_bins, minimum=1, where="reliability")
    )
    errors = results.calibration(dataset, n_bins=n_bins)
    shown = ["ensemble"] if "ensemble" in errors.index else list(errors.index)
    figure = canvas.new_figure(4.6, 5.2)
    upper, lower = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    upper.plot([0, 1], [0, 1], color=canvas.MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
    for index, split in enumerate(shown):
        own = bins[bins["split"] == split]
        colour = canvas.CYCLE[index % len(canvas.CYCLE)]
        error, brier = errors[["ece", "brier"]].to_numpy(dtype=float)[list(errors.index).index(split)]
        text = str(split) + f": ECE {error:.2f}, Brier {brier:.2f}"
        upper.plot(own["predicted"], own["observed"], marker="o", color=colour, label=text)
        lower.bar(own["predicted"], own["n"], width=0.6 / n_bins, color=colour, alpha=0.6)
    for axes in (upper, lower):
        canvas.set_style(axes)
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    canvas.set_labels(upper, "Reliability", "", "Observed share")
    canvas.set_labels(lower, "", "Predicted probability", "Images")
    canvas.add_legend(upper, loc="upper left")
    return figure


def predicted_against_true(
    predictions: Any, *, dataset: str = "validation", label: str | None = None
) -> "Figure":
    """Draw predicted against true values of a regression, one point per image.

    Parameters
    ----------
    predictions
        Results of a regression, or a table with ``true_label`` and ``predicted_label``.
    dataset
        Data set of the results, see `Results.metrics`.
    label
        Name of the value. With None, the label of the results' task.

    Raises
    ------
    SettingError, TableError
        If `predictions` are not from a regression, or labels are missing.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"true_label": [61.0, 70.0, 82.0], "predicted_label": [63.0, 69.0, 80.0]})
    >>> predicted_against_true(table, label="age").savefig(tmp / "values.png")
    """
    table = inputs.values(predictions, dataset, "predicted_against_true")
    true, predicted = table["true_label"].to_numpy(float), table["predicted_label"].to_numpy(float)
    figure = canvas.new_figure(4.6, 4.4)
    axes = figure.add_subplot()
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axes.plot(ends, ends, color=canvas.MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.scatter(true, predicted, s=18, color=canvas.BLUE, alpha=0.7, linewidth=0)
    canvas.set_style(axes)
    name = _value_name(predictions, label)
    title = f"Mean absolute error {np.abs(predicted - true).mean():.3g} (n = {len(true)})"
    canvas.set_labels(axes, title, f"True {name}", f"Predicted {name}")
    return figure


def bland_altman(predictions: Any, *, dataset: str = "validation", label: str | None = None) -> "Figure":
    """Draw predicted − true against the mean of both values, with the bias and limits of agreement (bias ± 1.96 SD).

    Parameters
    ----------
    predictions, dataset, label
        See `predicted_against_true`.

    Raises
    ------
    SettingError, TableError
        See `predicted_against_true`.

    References
    ----------
    Bland & Altman, Lancet 327 (1986) 307.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"true_label": [61.0, 70.0, 82.0], "predicted_label": [63.0, 69.0, 80.0]})
    >>> bland_altman(table, label="age").savefig(tmp / "agreement.png")
    """
    table = inputs.values(predictions, dataset, "bland_altman")
    true, predicted = table["true_label"].to_numpy(float), table["predicted_label"].to_numpy(float)
    difference = predicted - true
    bias, deviation = difference.mean(), difference.std(ddof=1) if len(difference) > 1 else 0.0
    figure = canvas.new_figure(5.2, 4.2)
    axes = figure.add_subplot()
    axes.scatter((true + predicted) / 2, difference, s=18, color=canvas.BLUE, alpha=0.7, linewidth=0)
    for height, style in ((bias, "-"), (bias - 1.96 * deviation, "--"), (bias + 1.96 * deviation, "--")):
        axes.axhline(height, color=canvas.VERMILLION, linewidth=1.2, linestyle=style, label=f"{height:.3g}")
    canvas.set_style(axes)
    name = _value_name(predictions, label)
    canvas.set_labels(axes, "Bland–Altman", f"Mean of true and predicted {name}", f"Predicted − true {name}")
    canvas.add_legend(axes, title="bias ± 1.96 SD")
    return figure


def _value_name(predictions: Any, label: str | None) -> str:
    if label is not None:
        return label
    return str(predictions._folder.task.label) if isinstance(predictions, Results) else "value"

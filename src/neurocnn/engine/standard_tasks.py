"""Built-in tasks: classification, regression and reconstruction."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from neurocnn.engine import outputs
from neurocnn.engine.batch import Batch
from neurocnn.engine.labels import check_class_weights, class_codes, class_indices, label_numbers
from neurocnn.engine.metrics import classification_metrics, reconstruction_metrics, regression_metrics
from neurocnn.engine.task import Task
from neurocnn.errors.arguments import (
    argument_error,
    check_choice,
    check_each,
    check_integer,
    check_list,
    check_number,
    check_text,
)
from neurocnn.storage.tensors import plain


def classification(
    label: str = "diagnosis",
    classes: Sequence[Any] | Mapping[Any, int] = ("CN", "AD"),
    class_weights: Sequence[float] | Mapping[Any, float] | pd.Series | None = None,
    selection: Sequence[str] = ("loss", "balanced_accuracy"),
) -> Task:
    """Return the task of distinguishing two or more classes, with cross-entropy as its loss.

    Parameters
    ----------
    label
        Column of the labels.
    classes
        Labels in the order of the network's outputs, or a mapping from label to output, which may join several labels
        in one class. Of two classes, the second is the positive class, whose recall is the sensitivity. ``1``,
        ``1.0`` and ``"1"`` are the same label.
    class_weights
        Factor of each class for the loss of its samples: a list in the order of the classes, or a dict or Series by
        label. The loss of a batch is the sum of the weighted losses, divided by the number of samples (not by the sum
        of the weights).
    selection
        Metrics, such as ``["loss", "roc_auc"]``. A best epoch is selected by each metric; by default `Results` uses the
        best epoch of the last metric.

    Raises
    ------
    SettingError
        If there are fewer than two classes, a label occurs twice, the outputs are not 0, 1, 2, …, or the weights are
        not positive or do not name the classes.

    Examples
    --------
    >>> task = classification("diagnosis", classes={"CN": 0, "sMCI": 0, "AD": 1})
    >>> task.classes, task.n_outputs
    (('CN+sMCI', 'AD'), 2)
    >>> task.target({"label": ["AD", "sMCI"]}, torch.device("cpu"))
    tensor([1, 0])
    """
    check_text("label", label, expected="a column name", where="classification")
    selection = _check_selection(selection, "classification")
    listed = dict(classes) if isinstance(classes, Mapping) else _check_classes(classes)
    codes, names = class_codes(listed)
    weights = None if class_weights is None else check_class_weights(class_weights, codes, names)
    return Task(
        name="classification",
        label=label,
        target=partial(class_indices, codes=codes, label=label),
        loss=partial(outputs.cross_entropy, n_classes=len(names), weights=weights),
        rows=outputs.class_columns,
        metrics=partial(classification_metrics, n_classes=len(names)),
        selection=selection,
        n_outputs=len(names),
        classes=names,
        arguments={
            "label": label,
            "classes": plain(listed),
            "class_weights": None if weights is None else list(weights),
            **_selection_if_changed(selection, ("loss", "balanced_accuracy")),
        },
    )


def regression(
    label: str = "age", mean: float = 0.0, scale: float = 1.0, selection: Sequence[str] = ("loss",)
) -> Task:
    """Return the task of predicting a number, with the squared error as its loss.

    Parameters
    ----------
    label
        Column of the labels.
    mean, scale
        Constants of the prediction, ``mean + scale * output``. Use about the mean and the standard deviation of the
        training labels: the outputs of a new network are near 0, and without these constants it would take many updates
        to reach an age of 75. Tables and metrics are in the unit of the label; the unit of the loss is its square.
    selection
        Metrics, such as ``["loss", "mae"]``. A best epoch is selected by each metric.

    Raises
    ------
    SettingError
        If `mean` is not a finite number, or `scale` is not a positive number.

    Examples
    --------
    >>> task = regression("age", mean=75, scale=10)
    >>> task.target({"label": ["71", "64.5"]}, torch.device("cpu"))
    tensor([71.0000, 64.5000])
    >>> task.loss(task.prediction(torch.tensor([[-0.5], [-1.0]])), torch.tensor([71, 64.5]))
    tensor([1.0000, 0.2500])
    """
    check_text("label", label, expected="a column name", where="regression")
    mean = check_number("mean", mean, where="regression")
    scale = check_number("scale", scale, above=0, where="regression")
    selection = _check_selection(selection, "regression")
    return Task(
        name="regression",
        label=label,
        target=partial(label_numbers, label=label),
        prediction=partial(outputs.rescale, mean=mean, scale=scale),
        loss=outputs.squared_error,
        rows=outputs.number_columns,
        metrics=regression_metrics,
        selection=selection,
        n_outputs=1,
        arguments={
            "label": label,
            "mean": mean,
            "scale": scale,
            **_selection_if_changed(selection, ("loss",)),
        },
    )


def reconstruction(
    output: str = "linear", bottleneck: int | None = None, selection: Sequence[str] = ("loss",)
) -> Task:
    """Return the task of reproducing the input, with the squared error over voxels as its loss.

    The output of the network is the reconstruction, or a tuple with the reconstruction as its last entry.

    Parameters
    ----------
    output, bottleneck
        End of the decoder (``"linear"``, ``"sigmoid"`` for images in [0, 1], or ``"mirror"`` for weights of ClinicaDL)
        and number of channels of the code, for the autoencoder that an experiment derives from its architecture. See
        `CNN_Transformer`.
    selection
        Metrics, such as ``["loss", "ssim"]``. A best epoch is selected by each metric.

    Raises
    ------
    SettingError
        If an argument cannot be used.

    Examples
    --------
    >>> task = reconstruction()
    >>> image = torch.ones(2, 1, 4, 4, 4)
    >>> task.loss((None, image + 2), image)
    tensor([4., 4.])
    """
    where = "reconstruction"
    check_choice("output", output, ["mirror", "linear", "sigmoid"], where=where)
    selection = _check_selection(selection, where)
    if bottleneck is not None:
        bottleneck = check_integer("bottleneck", bottleneck, minimum=1, where=where)
    return Task(
        name="reconstruction",
        label=None,
        target=_target_images,
        loss=outputs.voxel_error,
        rows=outputs.reconstruction_columns,
        metrics=reconstruction_metrics,
        selection=selection,
        arguments={
            "output": output,
            "bottleneck": bottleneck,
            **_selection_if_changed(selection, ("loss",)),
        },
        target_from="image",
        reconstructs=True,
    )


def _check_selection(selection: object, where: str) -> tuple[str, ...]:
    """Return the names of the selection metrics, at least one, else raise a SettingError."""
    expected = "a list of metrics, such as ['loss']"
    names = check_each(
        "selection", check_list("selection", selection, expected, where=where), check_text, where=where
    )
    if not names or len(set(names)) < len(names):
        raise argument_error(
            "selection", selection, f"{expected}, at least one and without duplicates", where=where
        )
    return tuple(names)


def _selection_if_changed(selection: Sequence[str], usual: tuple[str, ...]) -> dict[str, list[str]]:
    """Return `selection` as a recorded argument, or nothing if it is the default, which older records lack."""
    return {} if tuple(selection) == usual else {"selection": list(selection)}


def _target_images(batch: Batch, device: torch.device) -> Tensor:
    image: Tensor = batch["image"]
    return image.to(device)


def _check_classes(classes: object) -> list[Any]:
    return check_list("classes", classes, "a list such as ['CN', 'AD'], or a dict", where="classification")

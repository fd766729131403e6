"""Tasks: what a network is trained to do. The class `Task`, and the functions that create one.

A task is a plain value made of functions, so that a variant is ``dataclasses.replace(task, loss=…)`` and requires no
subclass. All functions are `functools.partial` objects or functions of modules: a task can be pickled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from neurocnn.engine import outputs
from neurocnn.engine.batch import Batch
from neurocnn.engine.labels import check_class_weights, class_codes, class_indices, label_numbers
from neurocnn.engine.metrics import classification_metrics, reconstruction_metrics, regression_metrics
from neurocnn.engine.outputs import Columns
from neurocnn.errors import ModelError
from neurocnn.errors.arguments import (
    argument_error,
    check_callable,
    check_choice,
    check_each,
    check_flag,
    check_integer,
    check_list,
    check_number,
    check_text,
)
from neurocnn.storage.tensors import plain

Vote = Literal["soft_vote", "average"]


def _output_itself(output: Any) -> Any:
    return output


@dataclass(frozen=True)
class Task:
    """How a batch becomes a target, a loss, rows of a table and metrics.

    Parameters
    ----------
    name
        ``"classification"``, ``"regression"``, ``"reconstruction"``, or a name of your own.
    label
        Column of the labels; None if the task needs none.
    target
        ``target(batch, device)`` returns the tensor that the output is compared with. ``batch["label"]`` is a list of
        plain values, as the table contains them.
    prediction
        ``prediction(output)`` returns the network's output in the unit of the label, which `loss` and `rows` receive:
        for a regression ``mean + scale * output``, shape (B, 1).
    loss
        ``loss(prediction, target)`` returns one value per sample, shape (B,).
    rows
        ``rows(prediction, target)`` returns the columns of these samples in a table; `target` may be None.
    metrics
        ``metrics(table)`` returns a dict of numbers. `table` is a DataFrame.
    selection
        Names of metrics: the best epoch by each one is kept. Smaller is better for names that end with ``loss`` and
        for errors such as ``mae``; greater is better for all others.
    n_outputs
        Number of outputs that the network must have; None for the shape of its input.
    classes
        Names of the classes, in the order of the outputs.
    arguments
        Arguments that the task was created from, as plain values.
    target_from
        ``"label"`` if `target` reads only the labels, which allows it to be called without images; ``"image"`` if it
        reads the images.
    reconstructs
        Whether the output is a reconstruction of the input: the network is an autoencoder, and its rows are
        similarities instead of predictions.
    vote
        How rows of parts become one row per image: ``"soft_vote"``, ``"average"``, or None if they do not. ``"auto"``
        is None for a reconstruction, ``"soft_vote"`` for classes and ``"average"`` for numbers.

    Raises
    ------
    SettingError
        If a field has another kind of value.

    Examples
    --------
    A variant is a changed copy:

    >>> from dataclasses import replace
    >>> import torch.nn.functional as F
    >>> smooth = lambda output, target: F.cross_entropy(output, target, reduction="none", label_smoothing=0.1)
    >>> task = replace(classification("diagnosis", ["CN", "AD"]), loss=smooth)
    >>> task.target_from, task.reconstructs, task.vote
    ('label', False, 'soft_vote')
    """

    name: str
    label: str | None
    target: Callable[[Batch, torch.device], Tensor]
    loss: Callable[[Any, Tensor], Tensor]
    rows: Callable[[Any, Tensor | None], Columns]
    metrics: Callable[[pd.DataFrame], Mapping[str, float]]
    selection: tuple[str, ...] = ("loss",)
    n_outputs: int | None = None
    classes: tuple[str, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    target_from: Literal["label", "image"] = "label"
    reconstructs: bool = False
    vote: Vote | Literal["auto"] | None = "auto"
    prediction: Callable[[Any], Any] = _output_itself

    def __post_init__(self) -> None:
        check_text("name", self.name, where="Task")
        if self.label is not None:
            check_text("label", self.label, expected="a column name or None", where="Task")
        if self.n_outputs is not None:
            check_integer("n_outputs", self.n_outputs, minimum=1, where="Task")
        for function in ("target", "loss", "rows", "metrics", "prediction"):
            check_callable(function, getattr(self, function), "a function", where="Task")
        check_flag("reconstructs", self.reconstructs, where="Task")
        if not isinstance(self.arguments, Mapping):
            raise argument_error("arguments", self.arguments, "a dict", where="Task")
        if self.classes is not None:
            names = check_list("classes", self.classes, "a list of names, or None", where="Task")
            object.__setattr__(self, "classes", tuple(check_each("classes", names, check_text, where="Task")))
        names = check_list("selection", self.selection, "a list of metrics, such as ['loss']", where="Task")
        if not names:
            raise argument_error("selection", names, "at least one metric, such as 'loss'", where="Task")
        check_choice("target_from", self.target_from, ["label", "image"], where="Task")
        check_choice("vote", self.vote, ["auto", "soft_vote", "average", None], where="Task")
        object.__setattr__(self, "selection", tuple(check_each("selection", names, check_text, where="Task")))
        if self.vote == "auto":
            by_kind = "average" if self.classes is None else "soft_vote"
            object.__setattr__(self, "vote", None if self.reconstructs else by_kind)

    def __repr__(self) -> str:
        arguments = (f"{name}={value!r}" for name, value in self.arguments.items())
        return f"<task {self.name}({', '.join(arguments)}), selected by {', '.join(self.selection)}>"


def classification(
    label: str = "diagnosis",
    classes: Sequence[Any] | Mapping[Any, int] = ("CN", "AD"),
    class_weights: Sequence[float] | Mapping[Any, float] | pd.Series | None = None,
) -> Task:
    """Return the task of distinguishing two or more classes, with cross-entropy as its loss.

    The best epochs are selected by loss and by balanced accuracy.

    Parameters
    ----------
    label
        Column of the labels.
    classes
        Labels in the order of the network's outputs, or a mapping from label to output, which may join several labels
        in one class. Text and numbers name the same label: ``1``, ``1.0`` and ``"1"``.
    class_weights
        Factor of each class for the loss of its samples: a list in the order of the classes, or a dict or Series by
        label. The loss of a batch is a mean over samples, not over weights.

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
    listed = dict(classes) if isinstance(classes, Mapping) else _check_classes(classes)
    codes, names = class_codes(listed)
    weights = None if class_weights is None else check_class_weights(class_weights, codes, names)
    return Task(
        name="classification",
        label=label,
        target=partial(class_indices, codes=codes, label=label),
        loss=partial(outputs.cross_entropy, n_classes=len(names), weights=weights),
        rows=outputs.class_rows,
        metrics=partial(classification_metrics, n_classes=len(names)),
        selection=("loss", "balanced_accuracy"),
        n_outputs=len(names),
        classes=names,
        arguments={
            "label": label,
            "classes": plain(listed),
            "class_weights": None if weights is None else list(weights),
        },
    )


def regression(label: str = "age", mean: float = 0.0, scale: float = 1.0) -> Task:
    """Return the task of predicting a number, with the squared error as its loss.

    The best epoch is selected by loss.

    Parameters
    ----------
    label
        Column of the labels.
    mean, scale
        The prediction is ``mean + scale * output``. The outputs of a new network are near 0: without these, an age of
        75 is reached after many updates only. Use about the mean and the standard deviation of the training set's
        labels. Tables, errors and losses are in the unit of the label in any case.

    Raises
    ------
    SettingError
        If `mean` is not a finite number, or `scale` not a positive one.

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
    return Task(
        name="regression",
        label=label,
        target=partial(label_numbers, label=label),
        prediction=partial(outputs.rescale, mean=mean, scale=scale),
        loss=outputs.squared_error,
        rows=outputs.number_rows,
        metrics=regression_metrics,
        n_outputs=1,
        arguments={"label": label, "mean": mean, "scale": scale},
    )


def reconstruction(output: str = "linear", bottleneck: int | None = None) -> Task:
    """Return the task of reproducing the input, with the squared error over voxels as its loss.

    The output of the network is the reconstruction, or a tuple with the reconstruction as its last entry. The best
    epoch is selected by loss.

    Parameters
    ----------
    output, bottleneck
        End of the decoder and channels of the code of the autoencoder that an experiment derives from its architecture,
        see `CNN_Transformer`: ``"linear"``, ``"sigmoid"`` for images in [0, 1], or ``"mirror"`` for weights of
        ClinicaDL.

    Raises
    ------
    SettingError
        If an argument has another value.

    Examples
    --------
    >>> task = reconstruction()
    >>> image = torch.ones(2, 1, 4, 4, 4)
    >>> task.loss((None, image + 2), image)
    tensor([4., 4.])
    """
    where = "reconstruction"
    check_choice("output", output, ["mirror", "linear", "sigmoid"], where=where)
    if bottleneck is not None:
        bottleneck = check_integer("bottleneck", bottleneck, minimum=1, where=where)
    return Task(
        name="reconstruction",
        label=None,
        target=_image_target,
        loss=outputs.voxel_error,
        rows=outputs.reconstruction_rows,
        metrics=reconstruction_metrics,
        arguments={"output": output, "bottleneck": bottleneck},
        target_from="image",
        reconstructs=True,
    )


def sample_losses(task: Task, output: object, target: Tensor, n: int) -> Tensor:
    """Return the losses of `n` samples from the output of the network, shape (n,).

    Raises
    ------
    ModelError
        If the task's loss has another shape: a mean over samples cannot be split into their losses.
    """
    losses: object = task.loss(task.prediction(output), target)
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise ModelError(
            f"the loss of the task {task.name!r} has {found} for a batch of {n}; expected ({n},), one value per "
            "sample; use torch's losses with reduction='none' and average the values of each sample, such as "
            ".flatten(1).mean(1)"
        )
    return losses


def _image_target(batch: Batch, device: torch.device) -> Tensor:
    image: Tensor = batch["image"]
    return image.to(device)


def _check_classes(classes: object) -> list[Any]:
    return check_list("classes", classes, "a list such as ['CN', 'AD'], or a dict", where="classification")

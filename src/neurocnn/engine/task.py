"""Tasks, which define the targets, losses, table columns and metrics for which a network is trained.

A task is a dataclass of functions, so that ``dataclasses.replace(task, loss=…)`` creates a variant without a subclass.
The functions of the built-in tasks are defined in modules (or are `functools.partial` objects), so that a task can be
pickled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neurocnn.engine.batch import Batch
from neurocnn.engine.metrics import with_loss
from neurocnn.engine.outputs import Columns
from neurocnn.errors import ModelError, SettingError
from neurocnn.errors.arguments import (
    argument_error,
    check_callable,
    check_choice,
    check_each,
    check_flag,
    check_integer,
    check_list,
    check_text,
)
from neurocnn.storage.display import html_view, limit_length

Vote = Literal["soft_vote", "average"]


#: Defaults of arguments of the built-in tasks, which are not displayed.
_DEFAULTS = {"mean": 0.0, "scale": 1.0, "output": "linear"}


def _is_built_in(function: Any) -> bool:
    """Return whether a function, or the function of a `functools.partial`, is part of this library."""
    found = getattr(function, "func", function)
    return str(getattr(found, "__module__", "")).startswith("neurocnn.")


def _identity(output: Any) -> Any:
    return output


@dataclass(frozen=True)
class Task:
    """Functions that compute the targets, losses, table columns and metrics of a kind of problem.

    Parameters
    ----------
    name
        ``"classification"``, ``"regression"``, ``"reconstruction"``, or the name of a custom task.
    label
        Column of the labels; None if the task requires no labels.
    target
        ``target(batch, device)`` returns the tensor with which the loss compares the prediction. ``batch["label"]`` is
        a list of the plain values in the table.
    prediction
        ``prediction(output)`` converts the network's output to the unit of the label, for `loss` and `rows`. For a
        regression it returns ``mean + scale * output``, shape (B, 1).
    loss
        ``loss(prediction, target)`` returns one value per sample, shape (B,).
    rows
        ``rows(prediction, target)`` returns a dict of NumPy arrays: the columns of these samples in a table. They are
        ``true_label``, unless `target` is None because the samples have no labels; ``predicted_label``; and, for
        classes, the probabilities ``proba0``, ``proba1``, … in the order of `classes`.
    metrics
        ``metrics(table)`` returns a dict of numbers. `table` is a DataFrame with the columns of `rows` and the ids. Its
        column ``loss`` is absent in tables of votes.
    selection
        Names of metrics. For each metric, the weights of the best epoch are kept. Smaller values are better for metrics
        whose name ends with ``loss`` and for errors such as ``mae``, larger values for all other metrics.
    n_outputs
        Number of outputs of the network; None if the output has the shape of the input. It may differ from the number
        of classes: an ordinal regression of K classes has K - 1 outputs.
    classes
        Names of the classes, in the order of their indices in ``true_label`` and ``predicted_label``.
    arguments
        Arguments from which the task was created, as plain values.
    target_from
        ``"label"`` if `target` reads only the labels, so that it can be called without images; ``"image"`` if it reads
        the images.
    reconstructs
        Whether the output is a reconstruction of the input. Then the network is an autoencoder, and `rows` returns
        similarities instead of predictions.
    vote
        Function that combines the rows of parts into one row per image: ``"soft_vote"``, ``"average"``, or None.
        ``"auto"`` is None for a reconstruction, ``"soft_vote"`` for classes and ``"average"`` for numbers.
        `dataclasses.replace` copies the resolved value: pass ``vote="auto"`` again if you change `classes`.

    Raises
    ------
    SettingError
        If a field cannot be used.

    Examples
    --------
    A variant is a changed copy:

    >>> from dataclasses import replace
    >>> import torch.nn.functional as F
    >>> from neurocnn import classification
    >>> smooth = lambda output, target: F.cross_entropy(output, target, reduction="none", label_smoothing=0.1)
    >>> task = replace(classification("diagnosis", ["CN", "AD"]), loss=smooth)
    >>> task.target_from, task.reconstructs, task.vote
    ('label', False, 'soft_vote')
    >>> task.shown_settings()["classes"]
    ['CN', 'AD']
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
    prediction: Callable[[Any], Any] = _identity

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

    def shown_settings(self) -> dict[str, Any]:
        """Return the label, the classes, arguments that differ from their defaults, and custom functions."""
        named = {"label": self.label, "classes": self.classes} | dict(self.arguments)
        settings = {name: value for name, value in named.items() if value is not None}
        settings = {name: value for name, value in settings.items() if _DEFAULTS.get(name) != value}
        functions = {
            name: getattr(self, name) for name in ("target", "loss", "rows", "metrics", "prediction")
        }
        own = {name: value for name, value in functions.items() if not _is_built_in(value)}
        return {"name": self.name, **settings, "selection": list(self.selection), **own}

    def __repr__(self) -> str:
        hidden = ("name", "selection", "target", "loss", "rows", "metrics", "prediction")
        shown = {name: value for name, value in self.shown_settings().items() if name not in hidden}
        arguments = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return limit_length(f"<task {self.name}({arguments}), selected by {', '.join(self.selection)}>")

    _repr_html_ = html_view


def has_built_in_loss(task: Task) -> bool:
    """Return whether the losses of a task are computed by this library."""
    return _is_built_in(task.loss) and _is_built_in(task.prediction)


def sample_losses(task: Task, output: object, target: Tensor, n: int) -> Tensor:
    """Return the loss of each of `n` samples, shape (n,), from the output of the network.

    Raises
    ------
    ModelError
        If the task's loss has another shape, such as a mean over samples.
    """
    losses: object = task.loss(task.prediction(output), target)
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise ModelError(
            f"the loss of the task {task.name!r} has {found} for a batch of {n}; expected ({n},), one value per "
            "sample; use torch's losses with reduction='none' and average the values of each sample, for example with "
            ".flatten(1).mean(1)"
        )
    return losses


def sample_columns(task: Task, output: object, target: Tensor | None) -> Columns:
    """Return the columns of a table for the samples of a batch, from the output of the network.

    Raises
    ------
    SettingError
        If the task's `rows` returns no dict of columns, or no true labels of samples with labels.
    """
    found: object = task.rows(task.prediction(output), target)
    if not isinstance(found, Mapping) or not found:
        raise _result_error(task, "rows", found, "a dict of arrays, such as {'predicted_label': …}")
    columns: Columns = dict(found)
    if task.label is None or task.reconstructs or "true_label" in columns:
        return columns
    if target is not None:
        raise _result_error(
            task, "rows", list(columns), "also the column 'true_label', because there are labels"
        )
    n = len(next(iter(columns.values())))
    return {"true_label": np.full(n, np.nan), **columns}


def table_metrics(task: Task, table: pd.DataFrame) -> dict[str, float]:
    """Return the metrics of a table, and the mean of its column ``loss`` if the metrics do not contain a loss.

    Raises
    ------
    SettingError
        If the task's `metrics` does not return a dict.
    """
    found: object = task.metrics(table)
    if not isinstance(found, Mapping):
        raise _result_error(task, "metrics", found, "a dict of numbers, such as {'accuracy': 0.8}")
    return with_loss(table, found)


def _result_error(task: Task, field: str, found: object, expected: str) -> SettingError:
    return SettingError(
        f"Task {task.name!r}: {field} returned {limit_length(repr(found))}; expected {expected}"
    )

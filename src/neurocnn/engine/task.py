"""What a network is trained to do: a `Task`, and the three functions that make one.

A task is a plain value made of functions, so that a variant is `dataclasses.replace(task, loss=…)` and
nothing needs a subclass. All functions are `functools.partial` of functions of this module: a task can be
pickled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from neurocnn.engine.labels import class_codes, class_indices, label_numbers
from neurocnn.engine.metrics import classification_metrics, reconstruction_metrics, regression_metrics
from neurocnn.engine.similarity import similarity
from neurocnn.errors import ModelError, SettingError
from neurocnn.storage.tensors import plain

Batch = Mapping[str, Any]
Columns = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Task:
    """How a batch becomes a target, a loss, rows of a table and metrics.

    Parameters
    ----------
    name
        ``"classification"``, ``"regression"``, ``"reconstruction"`` or a name of yours.
    label
        The column of the labels; None where a task needs none.
    target
        ``target(batch, device)``: the tensor that the output is compared with.
    loss
        ``loss(output, target)``: one value a sample, shape (B,).
    rows
        ``rows(output, target)``: the columns that these samples have in a table; `target` may be None.
    metrics
        ``metrics(table)``: a number for each name.
    selection
        Names of metrics: the best epoch by each is kept. Names ending on ``loss``, and errors such as
        ``mae``, are better when smaller, all others when greater.
    n_outputs
        Outputs that the network must have; None for the shape of its input.
    classes
        The classes' names, in the order of the outputs.
    arguments
        What the task was made from, as plain values.

    Examples
    --------
    A variant is a changed copy:

    >>> from dataclasses import replace
    >>> import torch.nn.functional as F
    >>> smooth = lambda output, target: F.cross_entropy(output, target, reduction="none", label_smoothing=0.1)
    >>> task = replace(classification("diagnosis", ["CN", "AD"]), loss=smooth)
    """

    name: str
    label: str | None
    target: Callable[[Batch, torch.device], Tensor]
    loss: Callable[[Any, Tensor], Tensor]
    rows: Callable[[Any, Tensor | None], Columns]
    metrics: Callable[[pd.DataFrame], dict[str, float]]
    selection: tuple[str, ...] = ("loss",)
    n_outputs: int | None = None
    classes: tuple[str, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.selection:
            raise SettingError("selection is empty; name at least one metric, such as 'loss'")

    def __repr__(self) -> str:
        arguments = (f"{name}={value!r}" for name, value in self.arguments.items())
        return f"<task {self.name}({', '.join(arguments)}), selected by {', '.join(self.selection)}>"


def classification(
    label: str = "diagnosis",
    classes: Sequence[Any] | Mapping[Any, int] = ("CN", "AD"),
    class_weights: Sequence[float] | None = None,
) -> Task:
    """Tell two or more classes apart; cross-entropy, selected by loss and by balanced accuracy.

    Parameters
    ----------
    label
        The column of the labels.
    classes
        The labels in the order of the network's outputs, or a mapping from label to output, with which
        several labels are one class. Text and numbers name the same label: ``1``, ``1.0`` and ``"1"``.
    class_weights
        A factor for the loss of each class's samples. Losses are means over samples, not over weights.

    Raises
    ------
    SettingError
        Fewer than two classes, one label twice, outputs that are not 0, 1, 2, …

    Examples
    --------
    >>> task = classification("diagnosis", classes={"CN": 0, "sMCI": 0, "AD": 1})
    >>> task.classes, task.n_outputs
    (('CN+sMCI', 'AD'), 2)
    >>> task.target({"label": ["AD", "sMCI"]}, torch.device("cpu"))
    tensor([1, 0])
    """
    codes, names = class_codes(classes)
    weights = None if class_weights is None else _checked_weights(class_weights, len(names))
    return Task(
        name="classification",
        label=label,
        target=partial(class_indices, codes=codes, label=label),
        loss=partial(_cross_entropy, n_classes=len(names), weights=weights),
        rows=_class_rows,
        metrics=partial(classification_metrics, n_classes=len(names)),
        selection=("loss", "balanced_accuracy"),
        n_outputs=len(names),
        classes=names,
        arguments={
            "label": label,
            "classes": plain(dict(classes) if isinstance(classes, Mapping) else list(classes)),
            "class_weights": None if weights is None else list(weights),
        },
    )


def regression(label: str = "age", mean: float = 0.0, scale: float = 1.0) -> Task:
    """Predict a number; mean squared error, selected by loss.

    Parameters
    ----------
    label
        The column of the labels.
    mean, scale
        The prediction is ``mean + scale * output``. Networks begin with outputs near 0, so that without these an age
        of 75 takes many updates. Take about the mean and the standard deviation of the training set's labels.
        Tables, errors and losses are in the label's units whatever they are.

    Raises
    ------
    SettingError
        `mean` is no finite number, or `scale` no positive one.

    Examples
    --------
    >>> task = regression("age", mean=75, scale=10)
    >>> task.target({"label": ["71", "64.5"]}, torch.device("cpu"))
    tensor([71.0000, 64.5000])
    >>> task.loss(torch.tensor([[-0.5], [-1.0]]), torch.tensor([71, 64.5]))
    tensor([1.0000, 0.2500])
    """
    mean, scale = _plain_float("mean", mean), _plain_float("scale", scale)
    if not (np.isfinite(mean) and np.isfinite(scale) and scale > 0):
        raise SettingError(f"mean is {mean}, scale {scale}; a finite and a positive number are expected")
    return Task(
        name="regression",
        label=label,
        target=partial(label_numbers, label=label),
        loss=partial(_squared_error, mean=mean, scale=scale),
        rows=partial(_number_rows, mean=mean, scale=scale),
        metrics=regression_metrics,
        n_outputs=1,
        arguments={"label": label, "mean": mean, "scale": scale},
    )


def reconstruction() -> Task:
    """Give the input back; mean squared error over voxels, selected by loss.

    The network's output is the reconstruction, or a tuple whose last entry it is.

    The autoencoders of Conv3_FC1 have steep decoders (slope 100 where the encoder has 0.01): their loss begins
    in the hundreds, and with few updates a learning rate of 1e-2 brings it down where 1e-4 does not.

    Examples
    --------
    >>> task = reconstruction()
    >>> image = torch.ones(2, 1, 4, 4, 4)
    >>> task.loss((None, image + 2), image)
    tensor([4., 4.])
    """
    return Task(
        name="reconstruction",
        label=None,
        target=_image_target,
        loss=_voxel_error,
        rows=_reconstruction_rows,
        metrics=reconstruction_metrics,
    )


def final_output(output: Any) -> Tensor:
    """Give the tensor that a loss sees: the last of a tuple, in single precision or better."""
    if isinstance(output, tuple | list):
        output = output[-1]
    if not isinstance(output, Tensor):
        raise ModelError(f"the network gives a {type(output).__name__}, not a tensor or a tuple of tensors")
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


def sample_losses(task: Task, output: Any, target: Any, n: int) -> Tensor:
    """Give the losses of `n` samples, shape (n,).

    Raises
    ------
    ModelError
        The task's loss gives another shape: a mean of several samples cannot be told apart.
    """
    losses = task.loss(output, target)
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise ModelError(
            f"the loss of the task {task.name!r} gives {found} for a batch of {n}; ({n},) is needed, one value a "
            "sample: with torch's losses take reduction='none', then the mean over what each sample has, such as "
            ".flatten(1).mean(1)"
        )
    return losses


def _plain_float(name: str, value: Any) -> float:
    # Numpy's and torch's numbers are no plain ones; arrays, even of one number, are none.
    try:
        if np.ndim(value) == 0:
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise SettingError(f"{name} is {value!r:.80}; a number is expected")


def _checked_weights(weights: Sequence[float], n_classes: int) -> tuple[float, ...]:
    values = tuple(float(weight) for weight in weights)
    if len(values) != n_classes or not all(np.isfinite(value) and value > 0 for value in values):
        raise SettingError(f"class_weights are {list(weights)}; {n_classes} positive numbers are needed")
    return values


def _cross_entropy(output: Any, target: Tensor, n_classes: int, weights: tuple[float, ...] | None) -> Tensor:
    logits = final_output(output)
    if logits.shape != (len(target), n_classes):
        raise ModelError(
            f"the network's output has shape {tuple(logits.shape)}; ({len(target)}, {n_classes}) is needed, "
            f"an output for each of {n_classes} classes; make it with n_outputs={n_classes}"
        )
    losses = F.cross_entropy(logits, target, reduction="none")
    return losses if weights is None else losses * losses.new_tensor(weights)[target]


def _class_rows(output: Any, target: Tensor | None) -> Columns:
    logits = final_output(output)
    if logits.dim() != 2:
        raise ModelError(
            f"the network's output has shape {tuple(logits.shape)}; (samples, classes) is needed, for a batch of one "
            "too, from which .squeeze() would take more than is meant"
        )
    # Float64 on the CPU: probabilities sum to 1 in the table, and no device lacks it there.
    probabilities = torch.softmax(logits.detach().cpu().double(), dim=1).numpy()
    columns: Columns = {
        "true_label": _missing(len(probabilities)) if target is None else target.cpu().numpy(),
        "predicted_label": probabilities.argmax(axis=1),
    }
    return columns | {f"proba{k}": probabilities[:, k] for k in range(probabilities.shape[1])}


def _missing(n: int) -> np.ndarray[Any, Any]:
    return np.full(n, np.nan)


def _predicted(output: Any, mean: float, scale: float) -> Tensor:
    values = final_output(output)
    if values.dim() == 0 or values.numel() != len(values):
        samples = len(values) if values.dim() else "samples"
        raise ModelError(
            f"the network's output has shape {tuple(values.shape)}; a regression needs ({samples}, 1), for a batch "
            "of one too; make it with n_outputs=1 and without .squeeze()"
        )
    return mean + scale * values.reshape(-1)


def _squared_error(output: Any, target: Tensor, mean: float, scale: float) -> Tensor:
    values = _predicted(output, mean, scale)
    if values.shape != target.shape:
        raise ModelError(
            f"the network's output has {len(values)} numbers, the labels have shape {tuple(target.shape)}; one "
            "number for each sample is needed"
        )
    return F.mse_loss(values, target.to(values.dtype), reduction="none")


def _number_rows(output: Any, target: Tensor | None, mean: float, scale: float) -> Columns:
    predicted = _predicted(output, mean, scale).detach().cpu().double().numpy()
    true = _missing(len(predicted)) if target is None else _as_written(target)
    return {"true_label": true, "predicted_label": predicted}


def _as_written(target: Tensor) -> np.ndarray[Any, Any]:
    """Give labels with the digits that they were written with: an age of 71.8 is 71.80000305 in float32."""
    return np.array([float(str(value)) for value in target.cpu().numpy()], dtype=np.float64)


def _image_target(batch: Batch, device: torch.device) -> Tensor:
    image: Tensor = batch["image"]
    return image.to(device)


def _same_shape(output: Any, target: Tensor) -> Tensor:
    image = final_output(output)
    if image.shape != target.shape:
        raise ModelError(
            f"the reconstruction has shape {tuple(image.shape)}, its input {tuple(target.shape)}; "
            "an autoencoder must give back the shape that it gets"
        )
    return image


def _voxel_error(output: Any, target: Tensor) -> Tensor:
    image = _same_shape(output, target)
    return F.mse_loss(image, target.to(image.dtype), reduction="none").flatten(1).mean(1)


def _reconstruction_rows(output: Any, target: Tensor | None) -> Columns:
    if target is None:
        raise SettingError("a reconstruction is compared with its input; give the input as the target")
    return similarity(_same_shape(output, target).detach(), target)

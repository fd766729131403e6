"""Tables from a model and a dataset: one row a part, each once, in the dataset's order."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pandas as pd
from torch import Tensor, nn

from neurocnn.engine.batch import Batch, Network, part_ids_of
from neurocnn.engine.faults import translate_errors
from neurocnn.engine.inference import Computation, Measure, network_tables
from neurocnn.engine.labels import needs_labels_alone, without_labels
from neurocnn.engine.ranks import find_ranks
from neurocnn.engine.runtime import PRECISIONS, autocast, find_device, memory_format, use_memory_format
from neurocnn.engine.task import Columns, Task, sample_losses
from neurocnn.errors import ModelError, SettingError
from neurocnn.storage.identity import interleave_parts


def predict(
    model: nn.Module | Mapping[int, nn.Module],
    task: Task,
    dataset: Any,
    batch_size: int = 8,
    n_workers: int = 0,
    device: str = "auto",
    precision: str = "float32",
) -> pd.DataFrame:
    """Give a table of what a model says about each part.

    Parameters
    ----------
    model
        The network; or networks by part_id, each for the rows of its part.
    task
        What its outputs mean.
    dataset
        Any dataset whose items are dicts (`image`, `participant_id`, `session_id`, `part_id`, …);
        augmentation is left out where it has ``without_augmentation()``.
    batch_size, n_workers, device, precision
        As for `Trainer`.

    Returns
    -------
    DataFrame
        ``participant_id``, ``session_id``, [``cohort``,] ``part_id`` and the task's columns; ``true_label``
        is missing where the dataset has no labels. Under ``torchrun`` every rank gets all rows.

    Examples
    --------
    >>> import torch
    >>> item = {"image": torch.ones(1, 4, 4), "participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0}
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> from neurocnn.engine import classification
    >>> list(predict(model, classification("diagnosis", ["CN", "AD"]), [item | {"label": "AD"}], device="cpu"))
    ['participant_id', 'session_id', 'part_id', 'true_label', 'predicted_label', 'proba0', 'proba1']
    """
    table = evaluate(model, task, dataset, batch_size, n_workers, device, precision)
    return table.drop(columns="loss", errors="ignore")


def evaluate(
    model: nn.Module | Mapping[int, nn.Module],
    task: Task,
    dataset: Any,
    batch_size: int = 8,
    n_workers: int = 0,
    device: str = "auto",
    precision: str = "float32",
) -> pd.DataFrame:
    """Give `predict`'s table with one more column, ``loss``, where there are labels.

    Examples
    --------
    >>> import torch
    >>> item = {"image": torch.ones(1, 4, 4), "participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0}
    >>> from neurocnn.engine import reconstruction
    >>> table = evaluate(nn.Identity(), reconstruction(), [item], device="cpu")
    >>> float(table.loss[0])
    0.0
    """
    computation = _computation(batch_size, n_workers, device, precision)
    networks: dict[Network, nn.Module] = dict(model.items()) if isinstance(model, Mapping) else {None: model}
    tables = _asked(networks, dataset, computation, task_measure(task, computation))
    if None in tables:
        return tables[None]
    return interleave_parts([tables[part] for part in part_ids_of(dataset) if part in tables])


def encode(
    model: nn.Module,
    dataset: Any,
    batch_size: int = 8,
    n_workers: int = 0,
    device: str = "auto",
    precision: str = "float32",
) -> pd.DataFrame:
    """Give a table of the codes of an autoencoder.

    Parameters
    ----------
    model
        A network with a method ``encode(images)``, or whose output is a tuple with the code first.
    dataset, batch_size, n_workers, device, precision
        As for `predict`.

    Returns
    -------
    DataFrame
        ``participant_id``, ``session_id``, [``cohort``,] ``part_id``, ``code0``, ``code1``, …

    Raises
    ------
    ModelError
        The network gives no code.

    Examples
    --------
    >>> import torch
    >>> class Halves(nn.Module):
    ...     def forward(self, image):
    ...         return image[..., ::2], image
    >>> item = {"image": torch.ones(1, 2, 4), "participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0}
    >>> encode(Halves(), [item], device="cpu").columns[-1]
    'code3'
    """
    computation = _computation(batch_size, n_workers, device, precision)
    return _asked({None: model}, dataset, computation, _code_measure())[None]


def _asked(
    networks: Mapping[Network, nn.Module], dataset: Any, computation: Computation, measure: Measure
) -> dict[Network, pd.DataFrame]:
    """Evaluate a caller's networks, in the memory format that they are trained in."""
    with ExitStack() as stack:
        stack.enter_context(translate_errors(computation.device, computation.batch_size))
        for model in networks.values():
            stack.enter_context(use_memory_format(model.to(computation.device), memory_format(model)))
        return network_tables(networks, dataset, computation, measure)


def _computation(batch_size: int, n_workers: int, device: str, precision: str) -> Computation:
    if batch_size < 1 or n_workers < 0 or precision not in PRECISIONS:
        raise SettingError(
            f"batch_size {batch_size}, n_workers {n_workers}, precision {precision!r}; at least 1, at least 0 "
            f"and one of {', '.join(PRECISIONS)} are expected"
        )
    ranks = find_ranks()
    return Computation(batch_size, n_workers, find_device(device, ranks.local), precision, 0, ranks)


def task_measure(task: Task, computation: Computation) -> Measure:
    """Measure what a task does: its rows, and each sample's loss where there are labels."""

    def output(model: nn.Module, image: Tensor) -> Any:
        with autocast(computation.device, computation.precision):
            return model(image)

    def target(batch: Batch) -> Tensor | None:
        if task.label is not None and without_labels(batch):
            return None
        return task.target(batch, computation.device)

    def columns(found: Any, target: Tensor | None) -> Columns:
        rows = task.rows(found, target)
        if target is not None:
            n = len(next(iter(rows.values()), target))
            rows["loss"] = sample_losses(task, found, target, n).cpu().double().numpy()
        return rows

    return Measure(output, target, columns, by_labels=needs_labels_alone(task.target))


def _code_measure() -> Measure:
    def columns(codes: Any, target: Tensor | None) -> Columns:
        numbers = codes.float().cpu().numpy()
        return {f"code{k}": numbers[:, k] for k in range(numbers.shape[1])}

    return Measure(_codes, lambda batch: None, columns, by_labels=True)


def _codes(model: nn.Module, image: Tensor) -> Tensor:
    encoder = getattr(model, "encode", None)
    output = model(image) if encoder is None else encoder(image)
    if encoder is None:
        if not isinstance(output, tuple | list) or len(output) < 2:
            raise ModelError(
                f"{type(model).__name__} has no method encode and its output is no (code, reconstruction); "
                "such a network has no code"
            )
        output = output[0]
    codes: Tensor = output.flatten(1)
    return codes

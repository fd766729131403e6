"""Evaluation of a model on a dataset: tables with one row per sample, in the order of the dataset."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pandas as pd
from torch import Tensor, nn

from neurocnn.engine.batch import Batch, Dataset, Network, part_ids_of
from neurocnn.engine.faults import check_initialized, translate_errors
from neurocnn.engine.inference import ColumnFunctions, Computation, network_tables
from neurocnn.engine.inputs import check_dataset, check_networks
from neurocnn.engine.labels import has_labels
from neurocnn.engine.loading import Loading, check_workers
from neurocnn.engine.non_finite import check_outputs
from neurocnn.engine.outputs import Columns
from neurocnn.engine.ranks import find_ranks
from neurocnn.engine.runtime import PRECISIONS, autocast, find_device, memory_format, use_memory_format
from neurocnn.engine.task import Task, sample_columns, sample_losses
from neurocnn.errors import ModelError
from neurocnn.errors.arguments import check_choice, check_instance, check_integer, check_text
from neurocnn.randomness import exclusive
from neurocnn.storage.identity import interleave_parts


def predict(
    model: nn.Module | Mapping[int, nn.Module],
    task: Task,
    dataset: Dataset,
    *,
    batch_size: int = 8,
    n_workers: int | str = "auto",
    device: str = "auto",
    precision: str = "float32",
) -> pd.DataFrame:
    """Return a table with the predictions of a model, one row per part.

    Parameters
    ----------
    model
        Network, or a dict of networks by part_id, each of which is applied to its part.
    task
        Task that the model was trained for.
    dataset
        Any dataset whose items are dicts (`image`, `participant_id`, `session_id`, `part_id`, …). Augmentation is
        omitted if the dataset has ``without_augmentation()``.
    batch_size, n_workers, device, precision
        See `Trainer`.

    Returns
    -------
    DataFrame
        ``participant_id``, ``session_id``, [``cohort``,] ``part_id`` and the task's columns. Values of ``true_label``
        are missing if the dataset has no labels. Under ``torchrun`` every rank receives all rows.

    Examples
    --------
    >>> import torch
    >>> item = {"image": torch.ones(1, 4, 4), "participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0}
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> from neurocnn.engine import classification
    >>> list(predict(model, classification("diagnosis", ["CN", "AD"]), [item | {"label": "AD"}], device="cpu"))
    ['participant_id', 'session_id', 'part_id', 'true_label', 'predicted_label', 'proba0', 'proba1']
    """
    how = {"batch_size": batch_size, "n_workers": n_workers, "device": device, "precision": precision}
    return evaluate(model, task, dataset, **how).drop(columns="loss", errors="ignore")  # type: ignore[arg-type]


def evaluate(
    model: nn.Module | Mapping[int, nn.Module],
    task: Task,
    dataset: Dataset,
    *,
    batch_size: int = 8,
    n_workers: int | str = "auto",
    device: str = "auto",
    precision: str = "float32",
) -> pd.DataFrame:
    """Return the table of `predict`, with the additional column ``loss`` if there are labels.

    Examples
    --------
    >>> import torch
    >>> item = {"image": torch.ones(1, 4, 4), "participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0}
    >>> from neurocnn.engine import reconstruction
    >>> table = evaluate(nn.Identity(), reconstruction(), [item], device="cpu")
    >>> float(table.loss[0])
    0.0
    """
    check_instance("task", task, Task, "a task, such as nc.classification()")
    computation = _make_computation(batch_size, n_workers, device, precision)
    networks = check_networks(model)
    tables = _evaluate_networks(networks, dataset, computation, task_functions(task, computation))
    if None in tables:
        return tables[None]
    return interleave_parts([tables[part] for part in part_ids_of(dataset) if part in tables])


def encode(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 8,
    n_workers: int | str = "auto",
    device: str = "auto",
    precision: str = "float32",
) -> pd.DataFrame:
    """Return a table with the latent codes of an autoencoder, one row per part.

    Parameters
    ----------
    model
        Network with a method ``encode(images)``, or whose output is a tuple with the code first.
    dataset, batch_size, n_workers, device, precision
        See `predict`.

    Returns
    -------
    DataFrame
        ``participant_id``, ``session_id``, [``cohort``,] ``part_id``, ``code0``, ``code1``, …

    Raises
    ------
    ModelError
        If the network returns no latent code.

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
    computation = _make_computation(batch_size, n_workers, device, precision)
    check_instance("model", model, nn.Module, "a torch.nn.Module", where="encode")
    functions = ColumnFunctions(_latent_codes, lambda batch: None, _code_columns, by_labels=True)
    return _evaluate_networks({None: model}, dataset, computation, functions)[None]


def _evaluate_networks(
    networks: Mapping[Network, nn.Module],
    dataset: Dataset,
    computation: Computation,
    functions: ColumnFunctions,
) -> dict[Network, pd.DataFrame]:
    """Return the table of each network, computed in the memory format that is used in training."""
    for model in networks.values():
        check_initialized(model)
    check_dataset("dataset", dataset)
    with ExitStack() as stack:
        stack.enter_context(exclusive("the prediction"))
        stack.enter_context(computation.loading)
        stack.enter_context(translate_errors(computation.device, computation.batch_size))
        for model in networks.values():
            stack.enter_context(use_memory_format(model.to(computation.device), memory_format(model)))
        tables = network_tables(networks, dataset, computation, functions)
    return {part: check_outputs(table, networks[part]) for part, table in tables.items()}


def _make_computation(batch_size: int, n_workers: int | str, device: str, precision: str) -> Computation:
    ranks = find_ranks()
    where = find_device(
        check_text("device", device, expected="'auto' or a name such as 'cuda:1'"), ranks.local
    )
    return Computation(
        check_integer("batch_size", batch_size, minimum=1),
        Loading(check_workers("n_workers", n_workers), where),
        where,
        check_choice("precision", precision, PRECISIONS),
        0,
        ranks,
    )


def task_functions(task: Task, computation: Computation) -> ColumnFunctions:
    """Return functions that compute the columns of a task's table, with the loss of each sample if there are labels."""

    def output(model: nn.Module, image: Tensor) -> Any:
        with autocast(computation.device, computation.precision):
            return model(image)

    def target(batch: Batch) -> Tensor | None:
        if task.label is not None and not has_labels(batch):
            return None
        return task.target(batch, computation.device)

    def columns(found: Any, target: Tensor | None) -> Mapping[str, Any]:
        rows = sample_columns(task, found, target)
        if target is None:
            return rows
        n = len(next(iter(rows.values())))
        return {**rows, "loss": sample_losses(task, found, target, n)}

    return ColumnFunctions(output, target, columns, by_labels=task.target_from == "label")


def _code_columns(codes: Tensor, target: Tensor | None) -> Columns:
    numbers = codes.float().cpu().numpy()
    return {f"code{k}": numbers[:, k] for k in range(numbers.shape[1])}


def _latent_codes(model: nn.Module, image: Tensor) -> Tensor:
    encoder = getattr(model, "encode", None)
    output = model(image) if encoder is None else encoder(image)
    if encoder is None:
        if not isinstance(output, tuple | list) or len(output) < 2:
            raise ModelError(
                f"{type(model).__name__}: no latent code; expected a method encode, or an output (code, reconstruction)"
            )
        output = output[0]
    codes: Tensor = output.flatten(1)
    return codes

"""Tables from a model and a dataset: one row a part, each once, in the dataset's order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from neurocnn.engine.faults import explained
from neurocnn.engine.labels import without_labels
from neurocnn.engine.loading import Batch, loader, watched
from neurocnn.engine.ranks import Ranks, find_ranks
from neurocnn.engine.runtime import (
    PRECISIONS,
    RandomState,
    autocast,
    evaluating,
    find_device,
    floating_type,
    memory_format,
    placed,
)
from neurocnn.engine.sampling import Batches, Turns
from neurocnn.engine.task import Columns, Task
from neurocnn.errors import ModelError, SettingError

Network = int | None
Measure = Callable[[nn.Module, Tensor, Batch], Columns]


@dataclass(frozen=True)
class Computation:
    """Where and how outputs are computed."""

    batch_size: int
    n_workers: int
    device: torch.device
    precision: str
    seed: int
    ranks: Ranks


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
    >>> item = {"image": torch.ones(1, 4, 4), "participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0}
    >>> from neurocnn.engine import reconstruction
    >>> table = evaluate(nn.Identity(), reconstruction(), [item], device="cpu")
    >>> float(table.loss[0])
    0.0
    """
    computation = _computation(batch_size, n_workers, device, precision)
    measure = task_columns(task, computation)
    with explained(computation.device, batch_size):
        if not isinstance(model, Mapping):
            return network_tables({None: model}, dataset, computation, measure)[None]
        tables = network_tables(dict(model.items()), dataset, computation, measure)
    return _interleaved([tables[part] for part in part_ids_of(dataset) if part in tables])


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
    >>> class Halves(nn.Module):
    ...     def forward(self, image):
    ...         return image[..., ::2], image
    >>> item = {"image": torch.ones(1, 2, 4), "participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0}
    >>> encode(Halves(), [item], device="cpu").columns[-1]
    'code3'
    """
    computation = _computation(batch_size, n_workers, device, precision)
    with explained(computation.device, batch_size):
        return network_tables({None: model}, dataset, computation, _code_columns)[None]


def _computation(batch_size: int, n_workers: int, device: str, precision: str) -> Computation:
    if batch_size < 1 or n_workers < 0 or precision not in PRECISIONS:
        raise SettingError(
            f"batch_size {batch_size}, n_workers {n_workers}, precision {precision!r}; at least 1, at least 0 "
            f"and one of {', '.join(PRECISIONS)} are expected"
        )
    ranks = find_ranks()
    return Computation(batch_size, n_workers, find_device(device, ranks.local), precision, 0, ranks)


def task_columns(task: Task, computation: Computation) -> Measure:
    """Give what measures a batch for a task: its rows, and each sample's loss where there are labels."""

    def columns(model: nn.Module, image: Tensor, batch: Batch) -> Columns:
        with autocast(computation.device, computation.precision):
            output = model(image)
        unlabelled = task.label is not None and without_labels(batch)
        target = None if unlabelled else task.target({**batch, "image": image}, computation.device)
        rows = task.rows(output, target)
        if target is not None:
            rows["loss"] = task.loss(output, target).cpu().double().numpy()
        return rows

    return columns


def _code_columns(model: nn.Module, image: Tensor, batch: Batch) -> Columns:
    encoder = getattr(model, "encode", None)
    output = model(image) if encoder is None else encoder(image)
    if encoder is None:
        if not isinstance(output, tuple | list) or len(output) < 2:
            raise ModelError(
                f"{type(model).__name__} has no method encode and its output is no (code, reconstruction); "
                "such a network has no code"
            )
        output = output[0]
    codes = output.flatten(1).float().cpu().numpy()
    return {f"code{k}": codes[:, k] for k in range(codes.shape[1])}


def network_tables(
    networks: Mapping[Network, nn.Module],
    dataset: Any,
    computation: Computation,
    measure: Measure,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[Network, pd.DataFrame]:
    """Evaluate networks in one pass over a dataset, each on the rows of its part (None: on all).

    Each image's parts are read together. A batch has `batch_size` samples for each network, as it would have
    alone, and is done whole by one rank: neither other networks nor ranks change a digit.
    """
    plain = dataset.without_augmentation() if hasattr(dataset, "without_augmentation") else dataset
    batches = network_batches(plain, list(networks), computation.batch_size)
    ranks = computation.ranks
    mine = Turns(batches, ranks.rank, ranks.world)
    source = loader(
        plain, mine, seed=None, n_workers=computation.n_workers, pinned=computation.device.type == "cuda"
    )
    chunks: dict[Network, list[Columns]] = {network: [] for network in networks}
    evaluated = {key: _Evaluated(model, computation) for key, model in networks.items()}
    with watched(source) as stream:
        for batch in stream:
            on_batch()
            for network, one in evaluated.items():
                rows = part_rows(batch, network)
                chunks[network].append(_identity(rows) | one.measured(rows, measure))
    everyone = ranks.gather(chunks, "to put their tables together")
    return {network: _table([chunks[network] for chunks in everyone]) for network in networks}


class _Evaluated:
    """A network on its device, in evaluation mode only while it computes."""

    def __init__(self, model: nn.Module, computation: Computation) -> None:
        self.model = model.to(computation.device)
        self.device = computation.device
        self.layout, self.dtype = memory_format(model), floating_type(model)
        # A network that draws random numbers here neither takes them from its training nor from others.
        self.random = RandomState(computation.seed, computation.device)

    def measured(self, batch: Batch, measure: Measure) -> Columns:
        image = placed(batch["image"], self.device, self.dtype, self.layout)
        with evaluating(self.model), self.random.borrowed():
            return measure(self.model, image, batch)


def network_batches(dataset: Any, networks: Sequence[Network], batch_size: int) -> Batches:
    """Give the batches of a pass in order, with the parts that these networks need."""
    if list(networks) == [None]:
        return Batches(range(len(dataset)), batch_size)
    parts = part_ids_of(dataset)
    absent = [part for part in networks if part not in parts]
    if absent:
        raise SettingError(f"there are networks for the parts {absent}, but the dataset has {parts}")
    positions = [parts.index(part) for part in networks if part is not None]
    n_images = len(dataset) // len(parts)
    return Batches(range(n_images), batch_size, stride=len(parts), positions=sorted(positions))


def part_ids_of(dataset: Any) -> list[int]:
    """Give a dataset's part_ids.

    Raises
    ------
    SettingError
        It has none: rows cannot be given to one network each.
    """
    parts = getattr(dataset, "part_ids", None)
    if not parts:
        raise SettingError(
            "one network for each part needs a dataset with part_ids, ordered image by image; "
            f"{type(dataset).__name__} has none"
        )
    return [int(part) for part in parts]


def part_rows(batch: Batch, part: Network) -> Batch:
    """Give the rows of a batch that are of one part (None: all)."""
    if part is None:
        return batch
    rows = (batch["part_id"] == part).nonzero().flatten()
    where = rows.tolist()
    return {
        name: value[rows] if isinstance(value, Tensor) else [value[row] for row in where]
        for name, value in batch.items()
    }


def _identity(batch: Batch) -> Columns:
    names = [name for name in ("participant_id", "session_id", "cohort") if name in batch]
    columns = {name: np.array(batch[name], dtype=object) for name in names}
    return columns | {"part_id": batch["part_id"].numpy()}


def _table(chunks: list[list[Columns]]) -> pd.DataFrame:
    """Put the chunks of all ranks together; rank r has the chunks r, r + world, …"""
    ordered = [rank[turn] for turn in range(len(chunks[0])) for rank in chunks if turn < len(rank)]
    if not ordered:
        raise SettingError("the dataset is empty; there is nothing to evaluate")
    names = list(dict.fromkeys(name for chunk in ordered for name in chunk))
    columns = {}
    for name in names:
        arrays = [chunk.get(name, np.full(len(chunk["part_id"]), np.nan)) for chunk in ordered]
        columns[name] = np.concatenate(arrays)
    return pd.DataFrame(columns).infer_objects()


def _interleaved(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put one table a part together, image by image."""
    stacked = pd.concat(tables, keys=range(len(tables)), names=["network", "image"])
    return stacked.sort_index(level="image", sort_remaining=True).reset_index(drop=True)

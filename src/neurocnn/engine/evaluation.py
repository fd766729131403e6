"""Tables from a model and a dataset: one row a part, each once, in the dataset's order."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
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
    arranged,
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


@dataclass(frozen=True)
class Computation:
    """Where and how outputs are computed."""

    batch_size: int
    n_workers: int
    device: torch.device
    precision: str
    seed: int
    ranks: Ranks


@dataclass(frozen=True)
class Measure:
    """What is asked of a network: its output for a batch (and the target), and the columns of outputs."""

    output: Callable[[nn.Module, Tensor, Batch], tuple[Any, Tensor | None]]
    columns: Callable[[Any, Tensor | None], Columns]


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
    networks: dict[Network, nn.Module] = dict(model.items()) if isinstance(model, Mapping) else {None: model}
    tables = _asked(networks, dataset, computation, task_measure(task, computation))
    if None in tables:
        return tables[None]
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
    return _asked({None: model}, dataset, computation, _code_measure())[None]


def _asked(
    networks: Mapping[Network, nn.Module], dataset: Any, computation: Computation, measure: Measure
) -> dict[Network, pd.DataFrame]:
    """Evaluate a caller's networks, in the memory format that they are trained in."""
    with ExitStack() as stack:
        stack.enter_context(explained(computation.device, computation.batch_size))
        for model in networks.values():
            stack.enter_context(arranged(model.to(computation.device), memory_format(model)))
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

    def output(model: nn.Module, image: Tensor, batch: Batch) -> tuple[Any, Tensor | None]:
        with autocast(computation.device, computation.precision):
            found = model(image)
        if task.label is not None and without_labels(batch):
            return found, None
        return found, task.target({**batch, "image": image}, computation.device)

    def columns(found: Any, target: Tensor | None) -> Columns:
        rows = task.rows(found, target)
        if target is not None:
            rows["loss"] = task.loss(found, target).cpu().double().numpy()
        return rows

    return Measure(output, columns)


def _code_measure() -> Measure:
    def columns(codes: Any, target: Tensor | None) -> Columns:
        numbers = codes.float().cpu().numpy()
        return {f"code{k}": numbers[:, k] for k in range(numbers.shape[1])}

    return Measure(_codes, columns)


def _codes(model: nn.Module, image: Tensor, batch: Batch) -> tuple[Tensor, None]:
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
    return codes, None


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
    with ExitStack() as stack:
        passes = {key: _Pass(model, computation, measure, stack) for key, model in networks.items()}
        if len(passes) == 1:
            # Cheaper than for each batch, which several networks need.
            stack.enter_context(next(iter(passes.values())).random.borrowed())
        stream = stack.enter_context(watched(source))
        for turn, batch in enumerate(stream):
            on_batch()
            first = (ranks.rank + turn * ranks.world) * computation.batch_size
            for network, one in passes.items():
                with one.random.borrowed() if len(passes) > 1 else nullcontext():
                    one.add(part_rows(batch, network), first)
        found = {network: one.finish() for network, one in passes.items()}
    everyone = ranks.gather(found, "to put their tables together")
    return {network: _table([columns[network] for columns in everyone]) for network in networks}


class _Pass:
    """A network while it goes through a set, in evaluation mode.

    Small outputs are kept until there are some hundreds of them: their rows cost the same as those of one.
    """

    rows_at_once = 512
    largest_output = 64

    def __init__(
        self, model: nn.Module, computation: Computation, measure: Measure, stack: ExitStack
    ) -> None:
        self.device, self.measure = computation.device, measure
        self.layout, self.dtype = memory_format(model), floating_type(model)
        self.model = model.to(self.device)
        stack.enter_context(evaluating(self.model))
        # A network that draws random numbers here neither takes them from its training nor from others.
        self.random = RandomState(computation.seed, self.device)
        self.identities: list[Columns] = []
        self.chunks: list[Columns] = []
        self.waiting: list[tuple[Any, Tensor | None]] = []
        self.n_waiting = 0

    def add(self, batch: Batch, first: int) -> None:
        """Compute a batch; `first` is the place of its first row in the table."""
        image = placed(batch["image"], self.device, self.dtype, self.layout)
        with torch.inference_mode():
            output, target = self.measure.output(self.model, image, batch)
        self.identities.append(_identity(batch, first))
        n = len(image)
        labelled = [one is not None for _, one in self.waiting[:1]]
        if labelled and labelled[0] != (target is not None):
            self.flush()
        self.waiting.append((output, target))
        self.n_waiting += n
        small = isinstance(output, Tensor) and output.numel() <= self.largest_output * n
        if not small or self.n_waiting >= self.rows_at_once:
            self.flush()

    def flush(self) -> None:
        """Make the rows of the outputs that wait."""
        if not self.waiting:
            return
        output, target = self.waiting[0]
        if len(self.waiting) > 1:
            output = torch.cat([one for one, _ in self.waiting])
            target = (
                None if target is None else torch.cat([one for _, one in self.waiting if one is not None])
            )
        self.waiting, self.n_waiting = [], 0
        with torch.inference_mode():
            self.chunks.append(self.measure.columns(output, target))

    def finish(self) -> Columns:
        """Give all columns of this rank."""
        self.flush()
        return _joined(self.identities) | _joined(self.chunks)


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


def _identity(batch: Batch, first: int) -> Columns:
    names = [name for name in ("participant_id", "session_id", "cohort") if name in batch]
    columns = {name: np.array(batch[name], dtype=object) for name in names}
    part = batch["part_id"].numpy()
    return columns | {"part_id": part, "place": np.arange(first, first + len(part))}


def _joined(chunks: list[Columns]) -> Columns:
    """Put columns below each other, once; a column that some lack is NaN there."""
    columns = {}
    for name in dict.fromkeys(name for chunk in chunks for name in chunk):
        columns[name] = np.concatenate(
            [chunk[name] if name in chunk else _unknown(chunk) for chunk in chunks]
        )
    return columns


def _unknown(chunk: Columns) -> np.ndarray[Any, Any]:
    return np.full(len(next(iter(chunk.values()))), np.nan)


def _table(ranks: list[Columns]) -> pd.DataFrame:
    columns = _joined([columns for columns in ranks if columns])
    if not columns:
        raise SettingError("the dataset is empty; there is nothing to evaluate")
    order = columns.pop("place").argsort(kind="stable")
    return pd.DataFrame({name: column[order] for name, column in columns.items()}).infer_objects()


def _interleaved(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put one table a part together, image by image."""
    stacked = pd.concat(tables, keys=range(len(tables)), names=["network", "image"])
    return stacked.sort_index(level="image", sort_remaining=True).reset_index(drop=True)

"""One pass of networks over a dataset: the rows of each, each once, in the dataset's order."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from neurocnn.engine.batch import Batch, Network, label_list, part_ids_of, part_rows, sample_name
from neurocnn.engine.labels import without_labels
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.runtime import current_device, evaluating, floating_type, memory_format, to_model_format
from neurocnn.engine.sampling import Batches, RankBatches
from neurocnn.engine.task import Columns
from neurocnn.engine.workers import catch_worker_death, loader
from neurocnn.errors import ModelError, SettingError
from neurocnn.randomness import RandomState


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
    """What is asked of a network.

    Attributes
    ----------
    output
        Its output for images.
    target
        What the output for a batch is compared with; None where there is nothing.
    columns
        The columns of an output and a target.
    by_labels
        Whether targets need no images, so that those of many batches can be made at once.
    """

    output: Callable[[nn.Module, Tensor], Any]
    target: Callable[[Batch], Tensor | None]
    columns: Callable[[Any, Tensor | None], Columns]
    by_labels: bool


def network_tables(
    networks: Mapping[Network, nn.Module],
    dataset: Any,
    computation: Computation,
    measure: Measure,
    on_batch: Callable[[], None] = lambda: None,
    seed: int | None = None,
) -> dict[Network, pd.DataFrame]:
    """Evaluate networks in one pass over a dataset, each on the rows of its part (None: on all).

    Each image's parts are read together. A batch has `batch_size` samples for each network, as it would have
    alone, and is done whole by one rank: neither other networks nor ranks change a digit. With a seed, what is
    random in a dataset that remains is the same in each pass, whoever reads it.
    """
    plain = dataset.without_augmentation() if hasattr(dataset, "without_augmentation") else dataset
    batches = network_batches(plain, list(networks), computation.batch_size)
    ranks = computation.ranks
    mine = RankBatches(batches, ranks.rank, ranks.world)
    source = loader(
        plain, mine, seed=seed, n_workers=computation.n_workers, pinned=computation.device.type == "cuda"
    )
    with ExitStack() as stack:
        stack.enter_context(current_device(computation.device))
        passes = {key: _Pass(model, computation, measure, stack) for key, model in networks.items()}
        if len(passes) == 1:
            # Cheaper than for each batch, which several networks need.
            stack.enter_context(next(iter(passes.values())).random.as_global())
        stream = stack.enter_context(catch_worker_death(source))
        first = ranks.rank * computation.batch_size
        for batch in stream:
            on_batch()
            for network, one in passes.items():
                with one.random.as_global() if len(passes) > 1 else nullcontext():
                    one.add(part_rows(batch, network), first)
            first += ranks.world * computation.batch_size
            del batch  # its memory serves the next one
        found = {network: one.finish() for network, one in passes.items()}
    everyone = ranks.gather(found, "to put their tables together")
    return {network: _table([columns[network] for columns in everyone]) for network in networks}


class _Pass:
    """A network while it goes through a set, in evaluation mode.

    Small outputs, and the labels that they are compared with, are kept until there are some thousands of
    them: their rows cost the same as those of one.
    """

    rows_at_once = 4096
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
        self.identities = _Identities()
        self.chunks: list[Columns] = []
        self.waiting: Tensor | None = None
        self.n_waiting = 0
        self.labels: list[Any] | None = None

    def add(self, batch: Batch, first: int) -> None:
        """Compute a batch; `first` is the place of its first row in the table."""
        image = to_model_format(batch["image"], self.device, self.dtype, self.layout)
        with torch.inference_mode():
            output = self.measure.output(self.model, image)
        n = image.shape[0]
        if (
            self.measure.by_labels
            and isinstance(output, Tensor)
            and output.shape[:1] == (n,)
            and output.numel() <= self.largest_output * n
        ):
            self.keep(output, None if without_labels(batch) else label_list(batch, "label"))
        else:
            self.flush()
            self.measured(output, batch | {"image": image})
        # Not sooner: what was flushed above is of the last rows before these.
        self.identities.add(batch, first)

    def keep(self, output: Tensor, labels: list[Any] | None) -> None:
        """Let a small output wait, with its labels if there are any."""
        n, block = output.shape[0], self.waiting
        if (
            block is None
            or self.n_waiting + n > block.shape[0]
            or block.shape[1:] != output.shape[1:]
            or (labels is None) != (self.labels is None)
        ):
            self.flush()
            # One block for all: small tensors that outlive their batch would lie between the batches in memory,
            # and each batch would then need memory that the system has to give anew.
            block = self.waiting = output.new_empty((max(self.rows_at_once, n), *output.shape[1:]))
            self.labels = None if labels is None else []
        block[self.n_waiting : self.n_waiting + n] = output
        if self.labels is not None and labels is not None:
            self.labels.extend(labels)
        self.n_waiting += n

    def flush(self) -> None:
        """Make the rows of the outputs that wait."""
        if self.waiting is not None:
            batch = self.identities.last(self.n_waiting)
            batch |= {} if self.labels is None else {"label": self.labels}
            self.measured(self.waiting[: self.n_waiting], batch)
        self.waiting, self.n_waiting = None, 0

    def measured(self, output: Any, batch: Batch) -> None:
        """Make the rows of outputs."""
        with torch.inference_mode():
            columns = self.measure.columns(output, self.measure.target(batch))
        n = len(batch["participant_id"])
        wrong = [
            f"{name} has shape {np.shape(found)}"
            for name, found in columns.items()
            if np.shape(found) != (n,)
        ]
        if wrong:
            raise ModelError(
                f"of the outputs for {n} samples, {', '.join(wrong)}; ({n},) is needed, a value for each sample"
            )
        self.chunks.append(columns)

    def finish(self) -> Columns:
        """Give all columns of this rank."""
        self.flush()
        return self.identities.arrays() | _joined(self.chunks)


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


class _Identities:
    """Who the rows are, in a few long lists: many small arrays would lie between the batches in memory."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}

    def add(self, batch: Batch, first: int) -> None:
        """Add a batch whose first row has this place in the table."""
        part_ids = batch["part_id"].tolist()
        if self.columns and ("cohort" in batch) != ("cohort" in self.columns):
            raise SettingError(
                f"the sample {sample_name(batch, 0)} has {'a' if 'cohort' in batch else 'no'} cohort, unlike those "
                "before it; give one to all samples of the dataset or to none"
            )
        for name in ("participant_id", "session_id", "cohort"):
            if name in batch:
                values = batch[name]
                self.columns.setdefault(name, []).extend(
                    values.tolist() if isinstance(values, Tensor) else values
                )
        self.columns.setdefault("part_id", []).extend(part_ids)
        self.columns.setdefault("place", []).extend(range(first, first + len(part_ids)))

    def last(self, n: int) -> Batch:
        """Give the last rows."""
        return {name: values[-n:] for name, values in self.columns.items()}

    def arrays(self) -> Columns:
        """Give them as arrays."""
        numbers = ("part_id", "place")
        return {
            name: np.array(values, dtype=np.int64 if name in numbers else object)
            for name, values in self.columns.items()
        }


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

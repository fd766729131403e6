"""Evaluation of networks in one pass over a dataset, with one row per sample in the order of the dataset."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from neurocnn.engine.batch import (
    Batch,
    Dataset,
    Network,
    label_list,
    part_ids_of,
    part_rows,
    plain_dataset,
)
from neurocnn.engine.faults import translate_network_errors
from neurocnn.engine.labels import has_labels
from neurocnn.engine.loading import Loading
from neurocnn.engine.non_finite import FINITE, finite_rows
from neurocnn.engine.outputs import Columns
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.rows import Identities, concatenate, join_ranks
from neurocnn.engine.runtime import evaluation_mode, floating_type, memory_format, to_model_format, use_device
from neurocnn.engine.sampling import BatchSampler, RankBatches
from neurocnn.engine.workers import catch_worker_death
from neurocnn.errors import ModelError, SettingError
from neurocnn.randomness import RandomState


@dataclass(frozen=True)
class Computation:
    """Settings and devices of an evaluation; see `Trainer` for the fields."""

    batch_size: int
    loading: Loading
    device: torch.device
    precision: str
    seed: int
    ranks: Ranks


@dataclass(frozen=True)
class ColumnFunctions:
    """Functions that compute the columns of a table from the outputs of a network.

    Attributes
    ----------
    output
        ``output(model, images)`` returns the output of a network.
    target
        ``target(batch)`` returns the target of the outputs, or None if the batch has no labels.
    columns
        ``columns(output, target)`` returns the columns of the table: arrays, or tensors, which are read from the device
        after the pass.
    by_labels
        Whether `target` reads only labels, not images. Then the targets of many batches can be computed at once.
    """

    output: Callable[[nn.Module, Tensor], Any]
    target: Callable[[Batch], Tensor | None]
    columns: Callable[[Any, Tensor | None], Mapping[str, Any]]
    by_labels: bool


def network_tables(
    networks: Mapping[Network, nn.Module],
    dataset: Dataset,
    computation: Computation,
    functions: ColumnFunctions,
    on_batch: Callable[[], None] = lambda: None,
    seed: int | None = None,
) -> dict[Network, pd.DataFrame]:
    """Pass once over a dataset, and return a table per network with the rows of its part (None: all rows).

    All parts of an image are read together. A batch has `batch_size` samples for each network, as for a single network,
    and is computed by one rank, so that the results depend neither on other networks nor on the number of ranks.

    Parameters
    ----------
    networks
        Networks by part.
    dataset, computation, functions
        Data to read, settings of the computation, and functions for the columns of the tables.
    on_batch
        Function that is called before each batch.
    seed
        Seed of the random numbers that the dataset draws even without augmentation; None to keep the random states.
    """
    ranks = computation.ranks
    source = computation.loading.loader(*evaluation_pass(dataset, list(networks), computation), seed=seed)
    with ExitStack() as stack:
        stack.enter_context(use_device(computation.device))
        passes = {key: _Pass(model, computation, functions, stack) for key, model in networks.items()}
        if len(passes) == 1:
            # For a single network, the random state is set once. For several networks, it is set before each batch.
            stack.enter_context(next(iter(passes.values())).random.as_global())
        stream = computation.loading.transfers.ahead(stack.enter_context(catch_worker_death(source)))
        first = ranks.rank * computation.batch_size
        for batch in stream:
            on_batch()
            for network, one in passes.items():
                with one.random.as_global() if len(passes) > 1 else nullcontext():
                    one.add(part_rows(batch, network), first)
            first += ranks.world * computation.batch_size
            # Deleting the batch allows the next one to reuse its memory.
            del batch
        found = {network: one.finish() for network, one in passes.items()}
    everyone = ranks.gather(found, "to put their tables together")
    return {network: join_ranks([columns[network] for columns in everyone]) for network in networks}


def evaluation_pass(
    dataset: Dataset, networks: Sequence[Network], computation: Computation
) -> tuple[Dataset, RankBatches]:
    """Return the dataset without augmentation, and the batches of one pass in the order of the dataset."""
    plain = plain_dataset(dataset)
    batches = network_batches(plain, networks, computation.batch_size)
    return plain, RankBatches(batches, computation.ranks.rank, computation.ranks.world)


class _Pass:
    """One network during a pass over a dataset, in evaluation mode.

    Small outputs and their labels are collected up to some thousands of rows, because the columns of thousands of rows
    take about as long to compute as the columns of one row.
    """

    rows_at_once = 4096
    largest_output = 64

    def __init__(
        self, model: nn.Module, computation: Computation, functions: ColumnFunctions, stack: ExitStack
    ) -> None:
        self.device, self.functions = computation.device, functions
        self.layout, self.dtype = memory_format(model), floating_type(model)
        self.model = model.to(self.device)
        stack.enter_context(evaluation_mode(self.model))
        # An evaluation has its own random state, so that random numbers drawn by a network do not change the training.
        self.random = RandomState(computation.seed, self.device)
        self.identities = Identities()
        self.chunks: list[Mapping[str, Any]] = []
        self.outputs: Tensor | None = None
        self.n_outputs = 0
        self.labels: list[Any] | None = None

    def add(self, batch: Batch, first: int) -> None:
        """Compute the outputs of a batch. `first` is the index of its first row in the table."""
        image = to_model_format(batch["image"], self.device, self.dtype, self.layout)
        with torch.inference_mode(), translate_network_errors(self.model, batch):
            output = self.functions.output(self.model, image)
        n = image.shape[0]
        if (
            self.functions.by_labels
            and isinstance(output, Tensor)
            and output.shape[:1] == (n,)
            and output.numel() <= self.largest_output * n
        ):
            self.collect(output, label_list(batch, "label") if has_labels(batch) else None)
        else:
            self.flush()
            self.compute_columns(output, batch | {"image": image})
        # Identities are added after `flush`, which uses the identities of the earlier rows only.
        self.identities.add(batch, first)

    def collect(self, output: Tensor, labels: list[Any] | None) -> None:
        """Store a small output, with its labels if there are any."""
        n, block = output.shape[0], self.outputs
        if (
            block is None
            or self.n_outputs + n > block.shape[0]
            or block.shape[1:] != output.shape[1:]
            or (labels is None) != (self.labels is None)
        ):
            self.flush()
            # The outputs are collected in one block: many small tensors that are kept longer than their batches would
            # fragment the memory.
            block = self.outputs = output.new_empty((max(self.rows_at_once, n), *output.shape[1:]))
            self.labels = None if labels is None else []
        block[self.n_outputs : self.n_outputs + n] = output
        if self.labels is not None and labels is not None:
            self.labels.extend(labels)
        self.n_outputs += n

    def flush(self) -> None:
        """Compute the columns of the collected outputs."""
        if self.outputs is not None:
            batch = _BatchWithoutImages(self.identities.last(self.n_outputs))
            if self.labels is not None:
                batch["label"] = self.labels
            self.compute_columns(self.outputs[: self.n_outputs], batch)
        self.outputs, self.n_outputs = None, 0

    def compute_columns(self, output: Any, batch: Batch) -> None:
        """Compute the columns of outputs, and check their shapes."""
        with torch.inference_mode():
            columns = self.functions.columns(output, self.functions.target(batch))
        n = len(batch["participant_id"])
        wrong = [
            f"{name} has shape {np.shape(found)}"
            for name, found in columns.items()
            if np.shape(found) != (n,)
        ]
        if wrong:
            raise ModelError(
                f"the columns for {n} samples: {', '.join(wrong)}; expected shape ({n},), one value per sample; "
                "correct the task's function rows"
            )
        self.chunks.append({**columns, FINITE: finite_rows(output, n)})

    def finish(self) -> Columns:
        """Return the columns of all rows that this rank has computed."""
        self.flush()
        return self.identities.arrays() | concatenate(self.chunks)


class _BatchWithoutImages(Batch):
    """Batch of rows without images, for targets that read only labels."""

    def __missing__(self, name: str) -> Any:
        if name == "image":
            raise SettingError(
                "the task's target reads batch['image'], but target_from='label'; use "
                "dataclasses.replace(task, target_from='image')"
            )
        raise KeyError(name)


def network_batches(dataset: Dataset, networks: Sequence[Network], batch_size: int) -> BatchSampler:
    """Return the batches of a pass in the order of the dataset, with the parts of these networks.

    Raises
    ------
    SettingError
        If the part of one of the `networks` is not among the dataset's parts.
    """
    if list(networks) == [None]:
        return BatchSampler(range(len(dataset)), batch_size)
    parts = part_ids_of(dataset)
    missing = [part for part in networks if part not in parts]
    if missing:
        raise SettingError(
            f"networks for the parts {missing}, which are not in the dataset; expected parts among {parts}"
        )
    positions = [parts.index(part) for part in networks if part is not None]
    n_images = len(dataset) // len(parts)
    return BatchSampler(range(n_images), batch_size, stride=len(parts), positions=sorted(positions))

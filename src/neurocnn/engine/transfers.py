"""Copies of batches to a GPU, which overlap the computation of the batch before, and images that stay on the GPU."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any

import torch
from torch import Tensor

from neurocnn.engine.batch import Batch, Dataset, FillingDataset, Item, plain_dataset, seeded_dataset
from neurocnn.engine.collate import collate
from neurocnn.engine.sampling import Index
from neurocnn.errors.arguments import argument_error

# "auto" keeps the images of a data set if they need at most this share of the free memory.
_SHARE = 0.4


def check_resident(value: object, *, where: str = "") -> bool | str:
    """Return whether images stay on the GPU: True, False, or "auto" by memory.

    Examples
    --------
    >>> check_resident("always", where="Trainer")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: Trainer: resident='always'; expected True, False or "auto"
    """
    if isinstance(value, bool) or (isinstance(value, str) and value == "auto"):
        return value
    raise argument_error("resident", value, 'True, False or "auto"', where=where)


class Transfers:
    """Copies of batches to a device, and the images that stay there.

    Parameters
    ----------
    device
        Device of the computation. Batches are copied only to a GPU.
    resident
        Whether images stay on the device after their first use: True, False, or "auto" to keep the images of a data set
        if they fit into the free memory of a GPU.
    n_ahead
        Number of batches that are requested, and whose copies are started, before a batch is returned.
    """

    def __init__(self, device: torch.device, resident: bool | str = False, n_ahead: int = 1) -> None:
        self.device, self.resident, self.n_ahead = device, resident, n_ahead
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._kept: list[KeptImages] = []

    def as_current(self) -> AbstractContextManager[Any]:
        """Return a context in which operations are part of the stream of the copies."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches with their images on the GPU; while one is computed, the next ones are copied."""
        if self.stream is None:
            yield from batches
            return
        started: deque[tuple[Batch, torch.cuda.Event]] = deque()
        for batch in batches:
            with self.as_current():
                image = batch["image"].to(self.device, non_blocking=True)
                copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                copied.record()
            started.append(({**batch, "image": image}, copied))
            del batch, image
            if len(started) > self.n_ahead:
                yield self._wait_for(*started.popleft())
        while started:
            yield self._wait_for(*started.popleft())

    def _wait_for(self, batch: Batch, copied: torch.cuda.Event) -> Batch:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(copied)
        # The memory of the image is reused only after the operations of this stream that read it.
        batch["image"].record_stream(stream)
        return batch

    def kept(self, dataset: FillingDataset) -> "KeptImages | None":
        """Return the images of a dataset that stay on the device; None if they are read for each use."""
        if not self.resident:
            return None
        same = _without_random(dataset)
        for kept in self._kept:
            if is_copy(kept.dataset, same):
                return kept
        needed = 4 * len(dataset) * math.prod(dataset.input_shape)
        if self.resident == "auto" and (
            self.stream is None or needed > _SHARE * torch.cuda.mem_get_info(self.device)[0]
        ):
            return None
        self._kept.append(KeptImages(same, self))
        return self._kept[-1]

    def clear(self) -> None:
        """Release the images that stay on the device."""
        self._kept.clear()


class KeptImages:
    """Images of a dataset on a device, and the other entries of its samples.

    Parameters
    ----------
    dataset
        Dataset whose samples do not depend on random numbers.
    transfers
        Device, and stream of the copies.
    """

    def __init__(self, dataset: Dataset, transfers: Transfers) -> None:
        self.dataset, self.transfers = dataset, transfers
        self.images: Tensor | None = None
        self.items: dict[int, Item] = {}

    def contains(self, batches: Iterable[Sequence[Index]]) -> bool:
        """Return whether the images of all these samples are here."""
        return all(sample in self.items for batch in batches for _, sample in batch)

    def add(self, keys: Sequence[Index], batch: Batch) -> None:
        """Keep the images of a batch. `keys` are the indices of its samples."""
        image = batch["image"]
        with self.transfers.as_current():
            if self.images is None:
                size = (len(self.dataset), *image.shape[1:])
                self.images = torch.empty(size, dtype=image.dtype, device=self.transfers.device)
            for row, (_, sample) in enumerate(keys):
                if sample not in self.items:
                    self.images[sample].copy_(image[row], non_blocking=True)
                    rest = {name: values[row] for name, values in batch.items() if name != "image"}
                    self.items[sample] = {"image": None} | rest

    def batches(self, passes: Iterable[Sequence[Index]]) -> Iterator[Batch]:
        """Yield the batches of a pass whose samples are here."""
        assert self.images is not None
        if self.transfers.stream is not None:
            torch.cuda.current_stream(self.transfers.device).wait_stream(self.transfers.stream)
        for keys in passes:
            samples = torch.tensor([sample for _, sample in keys])
            if self.transfers.stream is not None:
                samples = samples.pin_memory().to(self.transfers.device, non_blocking=True)
            yield collate([self.items[sample] for _, sample in keys], self.images.index_select(0, samples))


class ResidentLoader:
    """Iterable over the batches of a dataset whose images stay on the device after the first pass.

    Parameters
    ----------
    kept
        Images on the device.
    batches
        Indices of the samples of each batch.
    load
        Function that returns an iterable over the same batches, read from files.
    """

    def __init__(
        self, kept: KeptImages, batches: Iterable[Sequence[Index]], load: Callable[[], Iterable[Batch]]
    ) -> None:
        self._kept, self._batches, self._load = kept, batches, load

    def __iter__(self) -> Iterator[Batch]:
        keys = list(copy(self._batches))
        if self._kept.contains(keys):
            return self._kept.batches(keys)
        return self._add_all(keys)

    def _add_all(self, keys: list[Sequence[Index]]) -> Iterator[Batch]:
        for batch_keys, batch in zip(keys, self._load(), strict=True):
            self._kept.add(batch_keys, batch)
            yield batch
            # The batch is deleted, so that its buffer can be reused.
            del batch


def _without_random(dataset: Dataset) -> Dataset:
    return seeded_dataset(plain_dataset(dataset), 0)


def is_copy(one: object, other: object) -> bool:
    """Return whether two objects are the same, or shallow copies of the same object."""
    ours, theirs = vars(one), vars(other)
    return one is other or (
        type(one) is type(other)
        and ours.keys() == theirs.keys()
        and all(ours[name] is theirs[name] for name in ours)
    )

"""Threads that load batches in advance, from one pass over a dataset to the next.

The samples of a `FillingDataset` are read by threads in the order of the passes, continuing from one pass to the next,
into buffers that are reused; small samples are read by the calling thread. Other datasets may draw random numbers from
the global state, which threads share. Their samples are read by `n_workers` processes, or by this process if
`n_workers` is 0.
"""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Self

import torch

from neurocnn.engine.batch import Batch, Dataset, FillingDataset, Item, can_fill
from neurocnn.engine.buffers import Buffers, Floats
from neurocnn.engine.collate import collate
from neurocnn.engine.sampling import Index
from neurocnn.engine.transfers import ResidentLoader, Transfers, is_copy
from neurocnn.engine.workers import loader
from neurocnn.errors.arguments import argument_error, check_integer
from neurocnn.storage.cpus import usable_cpus

# Samples with fewer voxels are read by the calling thread, because handing them to another thread takes as long.
_SMALL_SAMPLE = 2**16
# Samples of at least this number of voxels are handed to threads one by one, smaller samples in equal shares.
_LARGE_SAMPLE = 2**20
# Batches are loaded in advance up to about this number of bytes: at least one batch, and at most three.
_BYTES_AHEAD, _MAX_AHEAD = 2**26, 3
_MAX_THREADS = 8


def check_workers(name: str, value: object, *, where: str = "") -> int | str:
    """Return a number of workers, or "auto".

    Examples
    --------
    >>> check_workers("n_workers", "many", where="Trainer")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: Trainer: n_workers='many'; expected "auto" or an integer ≥ 0
    """
    if not isinstance(value, str):
        return check_integer(name, value, minimum=0, where=where)
    if value != "auto":
        raise argument_error(name, value, '"auto" or an integer ≥ 0', where=where)
    return value


@dataclass(frozen=True)
class Pass:
    """One pass over a dataset in batches."""

    dataset: FillingDataset
    batches: Iterable[Sequence[Index]]

    def equals(self, other: "Pass") -> bool:
        """Return whether the other pass has the same samples in the same batches."""
        return is_copy(self.dataset, other.dataset) and self.batches == other.batches


class Loading:
    """Workers that load the batches of `fit` or `predict`. The context manager ends the threads on exit.

    Parameters
    ----------
    n_workers
        See `Trainer`.
    device, resident
        Device of the computation, and whether images stay on it; see `Transfers`.
    """

    def __init__(self, n_workers: int | str, device: torch.device, resident: bool | str = False) -> None:
        self.n_workers = None if n_workers == "auto" else int(n_workers)
        # Without workers, the next batch is loaded while the GPU computes this one, so this one is not held back.
        self.transfers = Transfers(device, resident, n_ahead=0 if self.n_workers == 0 else 1)
        self._streams: dict[int, _Stream] = {}

    @cached_property
    def n_threads(self) -> int:
        """Number of threads that read large samples."""
        if self.n_workers is not None:
            return self.n_workers
        # All ranks of a machine share the CPUs of the machine.
        n_cpus = usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, min(n_cpus, _MAX_THREADS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.transfers.clear()
        while self._streams:
            self._streams.popitem()[1].close()

    def loader(
        self,
        dataset: Dataset,
        batches: Iterable[Sequence[Index]],
        *,
        seed: int | None,
        persistent: bool = False,
    ) -> Iterable[Batch]:
        """Return an iterable over the batches of a dataset. Changes of `batches` apply from the next iteration.

        The parameters are those of `workers.loader`.
        """
        if can_fill(dataset):
            n_threads = self.n_threads if _is_large(dataset) else 0
            if n_threads not in self._streams:
                self._streams[n_threads] = _Stream(n_threads, self.transfers.stream)
            filled = _FilledLoader(self._streams[n_threads], dataset, batches)
            kept = self.transfers.kept(dataset)
            return filled if kept is None else ResidentLoader(kept, batches, lambda: filled)
        return loader(
            dataset,
            batches,
            seed=seed,
            n_workers=self.n_workers or 0,
            pinned=self.transfers.stream is not None,
            persistent=persistent,
        )

    def _stays(self, dataset: FillingDataset, batches: Iterable[Sequence[Index]]) -> bool:
        kept = self.transfers.kept(dataset)
        return kept is not None and kept.contains(batches)

    def expect(self, passes: Sequence[tuple[Dataset, Iterable[Sequence[Index]]]]) -> None:
        """Set the passes that will probably follow the next pass, so that their batches are loaded in advance."""
        filling = [Pass(dataset, batches) for dataset, batches in passes if can_fill(dataset)]
        filling = [each for each in filling if not self._stays(each.dataset, each.batches)]
        for stream in self._streams.values():
            stream.expected = deque(filling)


class _FilledLoader:
    """Iterable over the batches of a `FillingDataset`."""

    def __init__(
        self, stream: "_Stream", dataset: FillingDataset, batches: Iterable[Sequence[Index]]
    ) -> None:
        self._stream, self._dataset, self._batches = stream, dataset, batches

    def __iter__(self) -> Iterator[Batch]:
        return self._stream.batches(Pass(self._dataset, copy(self._batches)))


class _PendingBatch:
    """Batch whose pieces are being read."""

    def __init__(
        self, image: Floats, pieces: "Sequence[Future[list[Item]] | Callable[[], list[Item]]]"
    ) -> None:
        self.image, self.pieces = image, pieces

    def batch(self) -> Batch:
        """Wait for the samples, or read them, and return the batch."""
        found = [piece.result() if isinstance(piece, Future) else piece() for piece in self.pieces]
        items = [item for piece in found for item in piece]
        return collate(items, torch.from_numpy(self.image[: len(items)]))

    def cancel(self) -> None:
        """Cancel the pieces that no thread has started."""
        for piece in self.pieces:
            if isinstance(piece, Future):
                piece.cancel()


class _ActivePass:
    """Pass whose batches are being loaded."""

    def __init__(self, requested: Pass) -> None:
        self.requested = requested
        self.keys = iter(requested.batches)
        self.pending: deque[_PendingBatch] = deque()

    def cancel(self) -> None:
        """Cancel the batches."""
        while self.pending:
            self.pending.pop().cancel()


class _Stream:
    """Threads that load the batches of one pass after another.

    Parameters
    ----------
    n_threads
        Number of threads. With 0, each batch is loaded when it is requested.
    copies
        Stream in which batches are copied to a GPU, if there is one.
    """

    def __init__(self, n_threads: int, copies: torch.cuda.Stream | None) -> None:
        self.n_threads = n_threads
        self.buffers = Buffers(copies)
        self.started: deque[_ActivePass] = deque()
        self.expected: deque[Pass] = deque()
        self.pool = _start_threads(n_threads) if n_threads else None

    def close(self) -> None:
        """Cancel the pieces that no thread has started, wait for the others, and end the threads."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def batches(self, requested: Pass) -> Iterator[Batch]:
        """Yield the batches of a pass, some of which may have been loaded in advance."""
        current = self._take_or_start(requested)
        try:
            while current.pending or self._load_ahead(current):
                pending = [current.pending.popleft()]
                # A GPU copies from the buffer until `mark_copied`; else it is free when the caller drops the batch.
                copied = None if self.buffers.stream is None else pending[0].image
                if self.pool is not None:
                    self._load_ahead(current)
                yield pending.pop().batch()
                self.buffers.mark_copied(copied)
                del copied
        finally:
            current.cancel()

    def _take_or_start(self, requested: Pass) -> _ActivePass:
        """Return the pass if it was started in advance; otherwise cancel all started passes and start it."""
        if self.started and self.started[0].requested.equals(requested):
            return self.started.popleft()
        while self.started:
            self.started.pop().cancel()
        if self.expected and self.expected[0].equals(requested):
            self.expected.popleft()
        return _ActivePass(requested)

    def _load_ahead(self, current: _ActivePass) -> bool:
        """Start to load batches of this pass, then of those expected after it; return whether this pass has a batch."""
        last = self.started[-1] if self.started else current
        ready = [*current.pending, *(pending for started in self.started for pending in started.pending)]
        # `Transfers` requests two batches before it returns the first one.
        least = 1 if self.pool is None or self.buffers.stream is None else 2
        while len(ready) < least or len(ready) < min(_MAX_AHEAD, _BYTES_AHEAD // ready[-1].image.nbytes):
            keys = next(last.keys, None)
            if keys is not None:
                ready.append(self._start_batch(last.requested.dataset, keys))
                last.pending.append(ready[-1])
            elif self.expected and self.pool is not None:
                last = _ActivePass(self.expected.popleft())
                self.started.append(last)
            else:
                break
        return bool(current.pending)

    def _start_batch(self, dataset: FillingDataset, keys: Sequence[Index]) -> _PendingBatch:
        n, shape = len(keys), dataset.input_shape
        image = self.buffers.get(n, shape)
        if self.pool is None:
            return _PendingBatch(image, [partial(_fill, dataset, keys, image)])
        size = 1 if math.prod(shape) >= _LARGE_SAMPLE else -(-n // self.n_threads)
        pieces = (slice(first, min(first + size, n)) for first in range(0, n, size))
        return _PendingBatch(
            image, [self.pool.submit(_fill, dataset, keys[rows], image[rows]) for rows in pieces]
        )


def _fill(dataset: FillingDataset, keys: Sequence[Index], image: Floats) -> list[Item]:
    return [dataset.fill(key, torch.from_numpy(row)) for key, row in zip(keys, image, strict=False)]


def _start_threads(n: int) -> ThreadPoolExecutor:
    """Return a pool of `n` threads. torch starts no further threads in them, because `n` may be the number of CPUs."""
    n_torch, ready = torch.get_num_threads(), threading.Barrier(n + 1, timeout=60)

    def start() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(n, "neurocnn-loading", initializer=start)
    try:
        for _ in range(n):
            pool.submit(os.getpid)
        ready.wait()
    except BaseException:
        ready.abort()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    # set_num_threads also sets the default for threads that start later, so it is restored.
    torch.set_num_threads(n_torch)
    return pool


def _is_large(dataset: FillingDataset) -> bool:
    # The number of channels is ignored, because the channels of a slice are copies.
    return math.prod(dataset.input_shape[1:]) >= _SMALL_SAMPLE

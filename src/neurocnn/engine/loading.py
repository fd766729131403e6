"""Batches of all passes of a training: who makes them, and the threads that make them ahead.

A dataset that can fill memory (`FillingDataset`) is read by threads, small samples by this thread: work is handed out
by sample in the order of the passes, from one pass into the next, and batches are made in buffers that are used again.
Other datasets may need random numbers, whose state is that of the process: worker processes read them if their number
was given, else this process.
"""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeGuard

import torch

from neurocnn.engine.batch import Batch, Dataset, FillingDataset, Item
from neurocnn.engine.buffers import Buffers, Floats
from neurocnn.engine.collate import collate
from neurocnn.engine.sampling import Index
from neurocnn.engine.workers import loader
from neurocnn.errors.arguments import argument_error, check_integer
from neurocnn.storage.cpus import usable_cpus

# Below this number of voxels per sample, handing it to a thread takes as long as making it.
_SMALL_SAMPLE = 2**16
# Samples of this size are handed out one by one, smaller ones in a few pieces per batch.
_LARGE_SAMPLE = 2**20
# Batches are made ahead until they have this many bytes: at least one, and at most three.
_BYTES_AHEAD, _MOST_AHEAD = 2**27, 3
_MOST_THREADS = 8


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
    """One pass over a dataset: its samples, batch by batch."""

    dataset: FillingDataset
    batches: Iterable[Sequence[Index]]

    def equals(self, other: "Pass") -> bool:
        """Return whether the other pass has the same samples in the same batches."""
        return _is_copy(self.dataset, other.dataset) and self.batches == other.batches


class Loading:
    """The workers of a training or a prediction, for all of its passes; a context that ends its threads.

    Parameters
    ----------
    n_workers
        See `Trainer`.
    pinned
        Whether batches are in pinned memory, from which a GPU copies faster.
    """

    def __init__(self, n_workers: int | str, pinned: bool) -> None:
        automatic = n_workers == "auto"
        self.n_processes = 0 if automatic else int(n_workers)
        # The ranks of a job on one machine share its CPUs.
        n_cpus = usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.n_threads = max(1, min(n_cpus, _MOST_THREADS)) if automatic else int(n_workers)
        self.pinned = pinned
        self._streams: dict[int, _Stream] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._streams:
            self._streams.popitem()[1].close()

    def source(
        self,
        dataset: Dataset,
        batches: Iterable[Sequence[Index]],
        *,
        seed: int | None,
        persistent: bool = False,
    ) -> Iterable[Batch]:
        """Return an iterable of the batches of a dataset; each iteration is a pass with the batches of that moment.

        Parameters
        ----------
        dataset, batches, seed, persistent
            See `workers.loader`.
        """
        if can_fill(dataset):
            n_threads = self.n_threads if _is_large(dataset) else 0
            if n_threads not in self._streams:
                self._streams[n_threads] = _Stream(n_threads, self.pinned)
            return _FilledSource(self._streams[n_threads], dataset, batches)
        return loader(
            dataset,
            batches,
            seed=seed,
            n_workers=self.n_processes,
            pinned=self.pinned,
            persistent=persistent,
        )

    def expect(self, passes: Sequence[tuple[Dataset, Iterable[Sequence[Index]]]]) -> None:
        """Set the passes that probably follow the next one, so that their batches are made ahead."""
        filling = [Pass(dataset, batches) for dataset, batches in passes if can_fill(dataset)]
        for stream in self._streams.values():
            stream.expected = deque(filling)


class _FilledSource:
    """The batches of a dataset that fills memory."""

    def __init__(
        self, stream: "_Stream", dataset: FillingDataset, batches: Iterable[Sequence[Index]]
    ) -> None:
        self._stream, self._dataset, self._batches = stream, dataset, batches

    def __iter__(self) -> Iterator[Batch]:
        return self._stream.batches(Pass(self._dataset, copy(self._batches)))


class _Made:
    """A batch that is being made, in pieces."""

    def __init__(
        self, image: Floats, pieces: "Sequence[Future[list[Item]] | Callable[[], list[Item]]]"
    ) -> None:
        self.image, self.pieces = image, pieces

    def batch(self) -> Batch:
        """Wait for the samples, or make them, and return the batch."""
        found = [piece.result() if isinstance(piece, Future) else piece() for piece in self.pieces]
        items = [item for piece in found for item in piece]
        return collate(items, torch.from_numpy(self.image[: len(items)]))

    def cancel(self) -> None:
        """Do not begin what no thread has begun."""
        for piece in self.pieces:
            if isinstance(piece, Future):
                piece.cancel()


class _Begun:
    """A pass of which batches are being made."""

    def __init__(self, wanted: Pass) -> None:
        self.wanted = wanted
        self.keys = iter(wanted.batches)
        self.made: deque[_Made] = deque()

    def cancel(self) -> None:
        """Do not make the batches."""
        while self.made:
            self.made.pop().cancel()


class _Stream:
    """Threads that make the batches of one pass after the other.

    Parameters
    ----------
    n_threads
        Number of threads; 0: each batch is made when it is asked for.
    pinned
        Whether the buffers are in pinned memory.
    """

    def __init__(self, n_threads: int, pinned: bool) -> None:
        self.n_threads = n_threads
        self.buffers = Buffers(pinned)
        self.begun: deque[_Begun] = deque()
        self.expected: deque[Pass] = deque()
        self.pool = _start_threads(n_threads) if n_threads else None

    def close(self) -> None:
        """End the threads: samples that are being made are finished, no other is begun."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def batches(self, wanted: Pass) -> Iterator[Batch]:
        """Yield the batches of a pass, of which some may have been made already."""
        current = self._take(wanted)
        try:
            while True:
                if not current.made:
                    self._make_ahead(current)
                if not current.made:
                    return
                made = current.made.popleft()
                if self.pool is not None:
                    self._make_ahead(current)
                yield made.batch()
                self.buffers.mark_copied(made.image)
                del made  # Its buffer is free if nothing else refers to it.
        finally:
            current.cancel()

    def _take(self, wanted: Pass) -> _Begun:
        """Return the pass if it is the one that was begun ahead; others that were begun are not needed."""
        if self.begun and self.begun[0].wanted.equals(wanted):
            return self.begun.popleft()
        while self.begun:
            self.begun.pop().cancel()
        if self.expected and self.expected[0].equals(wanted):
            self.expected.popleft()
        return _Begun(wanted)

    def _make_ahead(self, current: _Begun) -> None:
        """Hand out samples until enough batches are made or under way, of this pass and then of the expected ones."""
        last = self.begun[-1] if self.begun else current
        ready = [*current.made, *(made for begun in self.begun for made in begun.made)]
        while not ready or len(ready) < min(_MOST_AHEAD, _BYTES_AHEAD // ready[-1].image.nbytes):
            keys = next(last.keys, None)
            if keys is not None:
                ready.append(self._hand_out(last.wanted.dataset, keys))
                last.made.append(ready[-1])
            elif self.expected and self.pool is not None:
                last = _Begun(self.expected.popleft())
                self.begun.append(last)
            else:
                break

    def _hand_out(self, dataset: FillingDataset, keys: Sequence[Index]) -> _Made:
        n, shape = len(keys), dataset.input_shape
        image = self.buffers.get(n, shape)
        if self.pool is None:
            return _Made(image, [partial(_fill, dataset, keys, image)])
        size = 1 if math.prod(shape) >= _LARGE_SAMPLE else -(-n // (4 * self.n_threads))
        pieces = (slice(first, min(first + size, n)) for first in range(0, n, size))
        return _Made(image, [self.pool.submit(_fill, dataset, keys[rows], image[rows]) for rows in pieces])


def _fill(dataset: FillingDataset, keys: Sequence[Index], image: Floats) -> list[Item]:
    return [dataset.fill(key, torch.from_numpy(row)) for key, row in zip(keys, image, strict=False)]


def _start_threads(n: int) -> ThreadPoolExecutor:
    """Return threads in which torch computes without further threads: they are as many as the CPUs already."""
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
    # The number is that of one thread, but also the default of threads that start later.
    torch.set_num_threads(n_torch)
    return pool


def can_fill(dataset: object) -> TypeGuard[FillingDataset]:
    """Return whether a dataset fills memory itself. A wrapper that forwards attributes does not."""
    return hasattr(type(dataset), "fill") and bool(getattr(dataset, "fills", False))


def _is_large(dataset: FillingDataset) -> bool:
    # Channels of one voxel, as in slices for colour networks, are copies.
    return math.prod(dataset.input_shape[1:]) >= _SMALL_SAMPLE


def _is_copy(one: object, other: object) -> bool:
    """Return whether two objects are one, or shallow copies of one."""
    ours, theirs = vars(one), vars(other)
    return one is other or (
        type(one) is type(other)
        and ours.keys() == theirs.keys()
        and all(ours[name] is theirs[name] for name in ours)
    )

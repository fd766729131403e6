"""Loaders that read samples in worker processes, and an error that names the sample if a worker dies."""

import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, get_worker_info

from neurocnn.engine.batch import Batch, Dataset, Item, optional_part_ids, sessions_of
from neurocnn.engine.collate import collate
from neurocnn.engine.sampling import Index
from neurocnn.engine.shortage import is_shortage, shortage_error
from neurocnn.errors import NeurocnnError, TrainingError
from neurocnn.errors.logger import LOGGER
from neurocnn.randomness import preserve_random_states, seed_all
from neurocnn.storage.identity import describe_row

#: Sets of samples that are in use by worker processes.
_open_samples: "WeakSet[Samples]" = WeakSet()


class Samples(torch.utils.data.Dataset[Item]):
    """Samples of a dataset, which are the same in any worker process.

    If `seed` is not None and the dataset does not seed itself (its attribute ``takes_epoch`` is False or missing), the
    global random states are seeded by (seed, epoch, image, part_id) before each sample, and restored after each batch.

    Parameters
    ----------
    dataset
        Any map-style dataset.
    seed
        Seed of the random states; None to keep them.
    n_workers
        Number of worker processes.
    """

    def __init__(self, dataset: Dataset, seed: int | None, n_workers: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.has_workers = n_workers > 0
        self.part_ids = optional_part_ids(dataset) or [0]
        self.takes_epoch = bool(getattr(dataset, "takes_epoch", False))
        # Process id and index of each worker's current sample, to name the sample if the worker dies.
        self.current = torch.full((n_workers, 2), -1, dtype=torch.int64)
        try:
            self.current.share_memory_()  # type: ignore[no-untyped-call]
        except (RuntimeError, OSError) as error:
            raise shortage_error(error) from error
        _open_samples.add(self)

    def __getitems__(self, keys: Sequence[Index]) -> list[Item]:
        """Return the samples of a batch."""
        if self.seed is None and not self.has_workers and not self.takes_epoch:
            dataset = self.dataset
            return [dataset[index] for _, index in keys]
        if self.takes_epoch or self.seed is None:
            return [self[key] for key in keys]
        # The random states are restored once per batch, not per sample: restoring numpy's state takes longer than
        # reading a small sample.
        with preserve_random_states():
            return [self[key] for key in keys]

    def __getitem__(self, key: Index) -> Item:
        epoch, index = key
        worker = get_worker_info() if self.has_workers else None
        if worker is not None:
            self.current[worker.id] = torch.tensor((os.getpid(), index))
        if self.takes_epoch:
            return self.dataset[(epoch, index)]
        if self.seed is None:
            return self.dataset[index]
        image, position = divmod(index, len(self.part_ids))
        seed_all(self.seed, epoch, image, self.part_ids[position])
        return self.dataset[index]


def exit_if_orphaned(worker: int) -> None:
    """Exit from a worker process whose parent was killed while it started.

    torch's workers end if their parent changes while they work. A worker whose parent was killed earlier would wait
    forever, and so would the reader of its output.
    """
    parent = multiprocessing.parent_process()
    # With a fork server, the parent of a worker is the server, not the process that started the worker.
    if (
        parent is not None
        and multiprocessing.get_start_method() != "forkserver"
        and os.getppid() != parent.pid
    ):
        os._exit(1)


class LocalBatches:
    """Loader whose batches are created in this process.

    torch's loader has more overhead, which takes longer than loading a small sample.
    """

    def __init__(self, samples: Samples, batches: Iterable[Sequence[Index]], pinned: bool) -> None:
        self.samples, self.batches, self.pinned = samples, batches, pinned

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batches:
            batch = collate(self.samples.__getitems__(keys))
            if self.pinned and isinstance(batch["image"], torch.Tensor):
                # torch's loader would also visit each name in the batch, which takes longer than copying small images.
                batch["image"] = batch["image"].pin_memory()
            yield batch


def loader(
    dataset: Dataset,
    batches: Iterable[Sequence[Index]],
    *,
    seed: int | None,
    n_workers: int,
    pinned: bool,
    persistent: bool = False,
) -> Iterable[Batch]:
    """Return a loader of the batches of a dataset.

    Parameters
    ----------
    dataset, seed, n_workers
        See `Samples`.
    batches
        Indices of the samples of each batch. They may change between two passes.
    pinned
        Whether to copy images into pinned memory, from which the transfer to a GPU is faster.
    persistent
        Whether to keep the worker processes between two passes.
    """
    _limit_threads_after_fork()
    if n_workers and multiprocessing.current_process().daemon:
        LOGGER.warning(
            "n_workers=%d: a daemonic process cannot have workers; it reads the samples itself", n_workers
        )
        n_workers = 0
    samples = Samples(dataset, seed, n_workers)
    if n_workers == 0:
        return LocalBatches(samples, batches, pinned)
    return DataLoader(
        samples,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=n_workers,
        collate_fn=collate,
        worker_init_fn=exit_if_orphaned,
        pin_memory=pinned,
        persistent_workers=persistent and n_workers > 0,
        # Without a generator the loader would draw the seeds of its workers from the caller's random state.
        generator=torch.Generator().manual_seed(0),
    )


@cache
def _limit_threads_after_fork() -> None:
    """Limit torch to one thread in processes that are forked from this one later.

    The threads of OpenMP do not survive a fork, so a child with several threads would wait for them forever.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


@contextmanager
def catch_worker_death(source: Iterable[Batch]) -> Iterator[Iterator[Batch]]:
    """Provide an iterator over a loader for the block, and raise an error that names the sample if a worker dies.

    The block must contain the iteration, because torch raises the error in a signal handler, at any point in it.

    Raises
    ------
    TrainingError
        If a worker died, or there are no more file handles or shared memory.
    """
    batches: Iterator[Batch] = iter(())
    try:
        batches = iter(source)
        yield batches
    except BaseException as error:
        ended = (
            _find_ended_workers(batches) if isinstance(error, RuntimeError | OSError | EOFError) else set()
        )
        # Without a shutdown, torch would raise the same error again whenever another process ends.
        with suppress(RuntimeError):
            getattr(batches, "_shutdown_workers", int)()
        reported = isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error)
        lost = bool(ended) and isinstance(error, ConnectionError | EOFError)
        # If the dataset raises an error in a worker, torch raises it again with this prefix.
        if (reported or lost) and not str(error).startswith("Caught "):
            raise TrainingError(_worker_death_message(str(error), ended)) from error
        if is_shortage(error):
            raise shortage_error(error) from error
        if isinstance(error, NeurocnnError) and str(error).startswith("Caught "):
            # torch adds the traceback of the worker before the message. The new error has only the message.
            raise type(error)(str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].rstrip()) from error
        raise


def _find_ended_workers(batches: Any) -> set[int]:
    workers = getattr(batches, "_workers", ())
    for worker in workers:
        # The connection of a worker closes shortly before its process ends, so the end is awaited. Meanwhile torch's
        # signal handler may raise an error.
        with suppress(RuntimeError):
            worker.join(0.2)
    return {worker.pid for worker in workers if worker.exitcode}


def _worker_death_message(message: str, ended: set[int]) -> str:
    dead = ended | {int(number) for number in re.findall(r"\d+", message.split("pid", 1)[-1])}
    current = [
        f"sample {index}{_describe_sample(samples.dataset, index)}"
        for samples in _open_samples
        for pid, index in samples.current.tolist()
        if pid in dead and index >= 0
    ]
    return (
        f"a worker of the data loader died while it loaded {' and '.join(current) or 'a sample'}: {message}; memory or "
        "shared memory (/dev/shm) may be insufficient; use fewer workers (n_workers) or a smaller batch_size; "
        "n_workers=0 shows an error of the dataset itself"
    )


def _describe_sample(dataset: Dataset, index: int) -> str:
    sessions, parts = sessions_of(dataset), optional_part_ids(dataset)
    if sessions is None or parts is None:
        return ""
    row = sessions.iloc[index // len(parts)]
    name = {str(column): value for column, value in row.items()} | {"part_id": parts[index % len(parts)]}
    return f" ({describe_row(name)})"

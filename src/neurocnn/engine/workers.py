"""Batches from datasets: what a worker does for each sample, and what is said when one dies."""

import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from neurocnn.engine.batch import Batch, collate, sample_name
from neurocnn.engine.sampling import Index
from neurocnn.errors import TrainingError
from neurocnn.randomness import preserve_random_states, seed_all

#: All samples that workers may be making.
_alive: "WeakSet[Samples]" = WeakSet()


class Samples(Dataset[Any]):
    """The samples of a dataset, each made alike by any worker.

    Where the dataset does not look after its own randomness (``takes_epoch``), the global random states are
    seeded by (seed, epoch, image, part_id) before each sample, and restored after each batch.

    Parameters
    ----------
    dataset
        Any map-style dataset.
    seed
        None leaves the random states alone, as the evaluation that a user asks for does.
    n_workers
        How many processes will note here which sample they are making.
    """

    def __init__(self, dataset: Any, seed: int | None, n_workers: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.has_workers = n_workers > 0
        parts = getattr(dataset, "part_ids", None)
        self.part_ids = [0] if parts is None or len(parts) == 0 else list(parts)
        self.takes_epoch = bool(getattr(dataset, "takes_epoch", False))
        # Read when a worker dies, to name the sample that it was making.
        self.making = torch.full((n_workers, 2), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        _alive.add(self)

    def __getitems__(self, keys: Sequence[Index]) -> list[Any]:
        """Make the samples of a batch; in an evaluation without workers nothing is to be done beside."""
        if self.seed is None and not self.has_workers and not self.takes_epoch:
            dataset = self.dataset
            return [dataset[index] for _, index in keys]
        if self.takes_epoch or self.seed is None:
            return [self[key] for key in keys]
        # Once a batch: to get and set numpy's state costs more than a small sample.
        with preserve_random_states():
            return [self[key] for key in keys]

    def __getitem__(self, key: Index) -> Any:
        epoch, index = key
        worker = get_worker_info() if self.has_workers else None
        if worker is not None:
            self.making[worker.id] = torch.tensor((os.getpid(), index))
        if self.takes_epoch:
            return self.dataset[(epoch, index)]
        if self.seed is None:
            return self.dataset[index]
        image, position = divmod(index, len(self.part_ids))
        seed_all(self.seed, epoch, image, int(self.part_ids[position]))
        return self.dataset[index]


def end_if_orphaned(worker: int) -> None:
    """End a worker whose parent was killed while it began.

    Torch lets workers end with their parent, but knows only the one that they have when they begin to work: such
    a worker would wait for ever, and with it whoever reads its output.
    """
    parent = multiprocessing.parent_process()
    # A fork server is the parent of all workers, and another process made them.
    if (
        parent is not None
        and multiprocessing.get_start_method() != "forkserver"
        and os.getppid() != parent.pid
    ):
        os._exit(1)


class OwnBatches:
    """The batches that this very process makes, without what torch's loader does for workers: with small
    samples that takes longer than they do.
    """

    def __init__(self, samples: Samples, batches: Iterable[Sequence[Index]]) -> None:
        self.samples, self.batches = samples, batches

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batches:
            yield collate(self.samples.__getitems__(keys))


def loader(
    dataset: Any, batches: Any, *, seed: int | None, n_workers: int, pinned: bool, persistent: bool = False
) -> Iterable[Batch]:
    """Make the loader of a dataset's batches; `batches` may change between two passes."""
    samples = Samples(dataset, seed, n_workers)
    if n_workers == 0 and not pinned:
        return OwnBatches(samples, batches)
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=n_workers,
        collate_fn=collate,
        worker_init_fn=end_if_orphaned,
        pin_memory=pinned,
        persistent_workers=persistent and n_workers > 0,
        # Else the loader draws its workers' seeds from the caller's random state.
        generator=torch.Generator().manual_seed(0),
    )


@contextmanager
def catch_worker_death(source: Iterable[Batch]) -> Iterator[Iterator[Batch]]:
    """Iterate over a loader inside the block; a worker that dies is an error that names what it was making.

    Torch may raise a worker's death anywhere in the block, for it comes as a signal.

    Raises
    ------
    TrainingError
        A worker died.
    """
    batches = iter(source)
    try:
        yield batches
    except BaseException as error:
        ended = _ended_workers(batches) if isinstance(error, RuntimeError | OSError | EOFError) else set()
        # Else torch raises the same death again whenever another process ends, wherever this one is then.
        with suppress(RuntimeError):
            getattr(batches, "_shutdown_workers", int)()
        told = isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error)
        lost = bool(ended) and isinstance(error, ConnectionError | EOFError)
        # So begins an error of the dataset, which torch has brought over from a living worker.
        if (told or lost) and not str(error).startswith("Caught "):
            raise TrainingError(_obituary(str(error), ended)) from error
        raise


def _ended_workers(batches: Any) -> set[int]:
    workers = getattr(batches, "_workers", ())
    for worker in workers:
        # Its closed connection is seen a moment before its end is, which torch's handler may tell right here.
        with suppress(RuntimeError):
            worker.join(0.2)
    return {worker.pid for worker in workers if worker.exitcode}


def _obituary(message: str, ended: set[int]) -> str:
    dead = ended | {int(number) for number in re.findall(r"\d+", message.split("pid", 1)[-1])}
    making = [
        f"sample {int(index)}{_described(samples.dataset, int(index))}"
        for samples in _alive
        for pid, index in samples.making.tolist()
        if pid in dead and index >= 0
    ]
    return (
        f"a worker of the data loader died while it made {' and '.join(making) or 'a sample'}: {message}; "
        "memory or shared memory (/dev/shm) may be short: use fewer workers (n_workers) or a smaller "
        "batch_size; n_workers=0 shows an error of the dataset itself"
    )


def _described(dataset: Any, index: int) -> str:
    sessions, parts = getattr(dataset, "sessions", None), getattr(dataset, "part_ids", None)
    if sessions is None or parts is None or len(parts) == 0:
        return ""
    row = sessions.iloc[index // len(parts)]
    keys = [key for key in ("cohort", "participant_id", "session_id") if key in sessions.columns]
    batch = {key: [row[key]] for key in keys} | {"part_id": [parts[index % len(parts)]]}
    return f" ({sample_name(batch, 0)})"

"""Order of samples, batches and updates in an epoch.

The order depends only on the seed and the epoch, so that neither the number of workers nor an interruption changes it.
A unit of this order is a sample or, if each part has its own network, an image with its samples of all trained parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Index = tuple[int, int]


def epoch_order(n: int, seed: int, epoch: int, weights: Sequence[float] | None = None) -> list[int]:
    """Return the order of `n` units in an epoch.

    Parameters
    ----------
    n
        Number of units, and length of the returned list.
    seed, epoch
        Numbers that determine the order.
    weights
        Relative probability of each unit. Units are drawn with replacement. With None, each unit occurs once.

    Examples
    --------
    >>> epoch_order(5, seed=0, epoch=1) == epoch_order(5, seed=0, epoch=1)
    True
    >>> sorted(epoch_order(5, seed=0, epoch=1))
    [0, 1, 2, 3, 4]
    """
    generator = np.random.default_rng((seed, epoch))
    if weights is None:
        return generator.permutation(n).tolist()  # type: ignore[no-any-return]
    shares = np.asarray(weights, dtype=float)
    return generator.choice(n, size=n, p=shares / shares.sum()).tolist()  # type: ignore[no-any-return]


def balancing_weights(classes: Sequence[int]) -> list[float]:
    """Return 1 / (size of its class) for each unit, so that all classes are drawn equally often.

    Examples
    --------
    >>> balancing_weights([0, 0, 1])
    [0.5, 0.5, 1.0]
    """
    counts = np.bincount(np.asarray(classes))
    return [1 / int(counts[k]) for k in classes]


def batch_sizes(n_units: int, batch_size: int, *, join_last: bool = False) -> list[int]:
    """Return the number of units in each batch of a pass.

    Parameters
    ----------
    n_units, batch_size
        Number of units in the pass, and in a complete batch.
    join_last
        Whether to join a last batch of one unit with the batch before it, because batch normalisation requires more
        than one value.

    Examples
    --------
    >>> batch_sizes(7, 3), batch_sizes(7, 3, join_last=True), batch_sizes(2, 1, join_last=True)
    ([3, 3, 1], [3, 4], [1, 1])
    """
    sizes = [min(batch_size, n_units - first) for first in range(0, n_units, batch_size)]
    if join_last and batch_size > 1 and len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [batch_size + 1]
    return sizes


@dataclass
class BatchSampler:
    """Batches of one pass, as the ``batch_sampler`` of a data loader.

    Attributes
    ----------
    order
        Units, in the order in which they are read.
    batch_size
        Units per batch, over all ranks.
    stride, positions
        Unit u represents the indices u · stride + p for each p in positions.
    epoch
        Epoch, which is part of each index and seeds the augmentation.
    first
        Number of batches to skip at the beginning, because they were processed before training was resumed.
    rank, world
        Rank of this process, and number of ranks. Each rank receives every world-th unit of a batch, or the first unit
        if no unit remains for the rank.
    join_last
        See `batch_sizes`.

    Examples
    --------
    >>> [batch for batch in BatchSampler([2, 0, 1], batch_size=2)]
    [[(0, 2), (0, 0)], [(0, 1)]]
    >>> [batch for batch in BatchSampler([1, 0], batch_size=1, stride=3, positions=(0, 2), epoch=7)]
    [[(7, 3), (7, 5)], [(7, 0), (7, 2)]]
    """

    order: Sequence[int]
    batch_size: int
    stride: int = 1
    positions: Sequence[int] = (0,)
    epoch: int = 0
    first: int = 0
    rank: int = 0
    world: int = 1
    join_last: bool = False

    def _batch_sizes(self) -> list[int]:
        return batch_sizes(len(self.order), self.batch_size, join_last=self.join_last)

    def __len__(self) -> int:
        return max(0, len(self._batch_sizes()) - self.first)

    def __iter__(self) -> Iterator[list[Index]]:
        start = 0
        for number, size in enumerate(self._batch_sizes()):
            units = self.order[start : start + size]
            start += size
            if number >= self.first:
                own = units[self.rank :: self.world] or units[:1]
                yield [(self.epoch, unit * self.stride + p) for unit in own for p in self.positions]


@dataclass
class RankBatches:
    """Batch sampler of the evaluation batches of one rank. Each batch is computed by a single rank.

    Examples
    --------
    >>> list(RankBatches(BatchSampler([0, 1, 2], batch_size=1), rank=1, world=2))
    [[(0, 1)]]
    """

    batches: BatchSampler
    rank: int
    world: int

    def __len__(self) -> int:
        return len(range(self.rank, len(self.batches), self.world))

    def __iter__(self) -> Iterator[list[Index]]:
        for number, batch in enumerate(self.batches):
            if number % self.world == self.rank:
                yield batch


@dataclass(frozen=True)
class Plan:
    """Plan of the batches and updates of an epoch.

    Attributes
    ----------
    n_units, batch_size
        Number of units per epoch, and per batch.
    accumulation_steps
        Number of batches per update.
    start
        Index of the first update.
    join_last
        See `batch_sizes`.

    Examples
    --------
    >>> plan = Plan(n_units=11, batch_size=2, accumulation_steps=4)
    >>> [plan.batches_of_update(update) for update in range(plan.n_updates)]
    [[2, 2, 2, 2], [2, 1]]
    """

    n_units: int
    batch_size: int
    accumulation_steps: int
    start: int = 0
    join_last: bool = False

    @property
    def _batch_sizes(self) -> list[int]:
        return batch_sizes(self.n_units, self.batch_size, join_last=self.join_last)

    @property
    def n_updates(self) -> int:
        """Number of updates per epoch. The last update may have fewer batches."""
        return -(-len(self._batch_sizes) // self.accumulation_steps)

    def batches_of_update(self, update: int) -> list[int]:
        """Return the number of units in each batch of an update."""
        return self._batch_sizes[update * self.accumulation_steps : (update + 1) * self.accumulation_steps]

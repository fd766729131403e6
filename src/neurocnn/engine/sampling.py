"""Which samples come when.

The order of an epoch depends on the seed and the epoch alone, so that neither the number of workers nor a
resume in its middle changes it. What is put in order are units: samples, or whole images where each part
has its network; a unit stands for the indices of all its parts that are asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Index = tuple[int, int]


def epoch_order(n: int, seed: int, epoch: int, weights: Sequence[float] | None = None) -> list[int]:
    """Give the order of `n` units in an epoch.

    Parameters
    ----------
    n
        How many there are, and how many are given.
    seed, epoch
        What the order depends on.
    weights
        Draw with replacement, each unit with a probability proportional to its weight; without them each
        unit comes once.

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
    """Give each unit one over the size of its class: all classes are drawn equally often.

    Examples
    --------
    >>> balancing_weights([0, 0, 1])
    [0.5, 0.5, 1.0]
    """
    counts = np.bincount(np.asarray(classes))
    return [1 / int(counts[k]) for k in classes]


@dataclass
class Batches:
    """The batches of one pass, as a data loader's ``batch_sampler``.

    Attributes
    ----------
    order
        The units in order.
    batch_size
        Units a batch, over all ranks.
    stride, positions
        Unit u stands for the indices u · stride + p for each p in positions.
    epoch
        Travels with each index, for the augmentation.
    first
        How many batches are left out at the beginning (they were done before a resume).
    rank, world
        Each rank gets every world-th unit of each batch; where none is left for it, the batch's first.

    Examples
    --------
    >>> [batch for batch in Batches([2, 0, 1], batch_size=2)]
    [[(0, 2), (0, 0)], [(0, 1)]]
    >>> [batch for batch in Batches([1, 0], batch_size=1, stride=3, positions=(0, 2), epoch=7)]
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

    def __len__(self) -> int:
        return max(0, -(-len(self.order) // self.batch_size) - self.first)

    def __iter__(self) -> Iterator[list[Index]]:
        for start in range(self.first * self.batch_size, len(self.order), self.batch_size):
            units = self.order[start : start + self.batch_size]
            mine = units[self.rank :: self.world] or units[:1]
            yield [(self.epoch, unit * self.stride + p) for unit in mine for p in self.positions]


@dataclass
class RankBatches:
    """The batches of an evaluation that are this rank's turn: each batch is done once, whole, by one rank.

    Examples
    --------
    >>> list(RankBatches(Batches([0, 1, 2], batch_size=1), rank=1, world=2))
    [[(0, 1)]]
    """

    batches: Batches
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
    """How the units of an epoch make batches, and the batches updates.

    Attributes
    ----------
    n_units, batch_size
        Units of the epoch, and of a batch.
    steps
        Batches an update.
    start
        The update to begin with.

    Examples
    --------
    >>> plan = Plan(n_units=11, batch_size=2, steps=4)
    >>> [plan.window(update) for update in range(plan.n_updates)]
    [[2, 2, 2, 2], [2, 1]]
    """

    n_units: int
    batch_size: int
    steps: int
    start: int = 0

    @property
    def n_updates(self) -> int:
        """Updates an epoch; the last window may be shorter."""
        return -(-self.n_units // (self.batch_size * self.steps))

    def window(self, update: int) -> list[int]:
        """Give the size of each batch of an update."""
        first = update * self.steps * self.batch_size
        last = min(first + self.steps * self.batch_size, self.n_units)
        return [min(self.batch_size, last - unit) for unit in range(first, last, self.batch_size)]

"""Batches of the training set, epoch by epoch."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy

from neurocnn.engine.batch import Dataset, Network, seeded_dataset
from neurocnn.engine.inference import Computation, evaluation_pass, network_batches
from neurocnn.engine.inputs import sampling_classes
from neurocnn.engine.sampling import BatchSampler, Index, Plan, balancing_weights, epoch_order
from neurocnn.engine.settings import TrainingSettings, scored_sets
from neurocnn.engine.task import Task
from neurocnn.errors import CheckpointError


def updates_per_epoch(trainer: TrainingSettings, dataset: Dataset, parts: Sequence[Network]) -> int:
    """Return the number of updates per epoch. `parts` are the networks' part_ids, or [None] for a single network."""
    n_units = len(network_batches(dataset, parts, trainer.batch_size).order)
    return Plan(n_units, trainer.batch_size, trainer.accumulation_steps, 0, True).n_updates


class TrainingBatches:
    """Batches of a training set, in a different order in each epoch.

    Attributes
    ----------
    loader
        Loader of the batches, in the order that `begin_epoch` sets.
    """

    def __init__(
        self,
        trainer: TrainingSettings,
        task: Task,
        sets: Mapping[str, Dataset],
        parts: Sequence[Network],
        computation: Computation,
    ) -> None:
        self._trainer, self._sets, self._computation = trainer, sets, computation
        dataset, ranks = sets["train"], computation.ranks
        self._seeded = seeded_dataset(dataset, trainer.seed)
        self._batches = network_batches(self._seeded, parts, trainer.batch_size)
        self._batches.rank, self._batches.world = ranks.rank, ranks.world
        self._weights: list[float] | None = None
        if trainer.sampler == "weighted":
            self._weights = balancing_weights(sampling_classes(task, dataset, len(self._batches.order)))
        self.loader = computation.loading.loader(
            self._seeded, self._batches, seed=trainer.seed, persistent=True
        )

    def begin_epoch(self, epoch: int, start: int, parts: Sequence[Network], join_last: bool) -> Plan:
        """Set the order of the samples (or images) of an epoch, and return the plan of its batches.

        Parameters
        ----------
        epoch, start
            Epoch, and index of its first update.
        parts
            Parts of the networks that are trained in this epoch.
        join_last
            See `sampling.batch_sizes`.
        """
        trainer, batches = self._trainer, self._batches
        n_units = len(batches.order)
        self._set_epoch(batches, epoch, start * trainer.accumulation_steps, parts, join_last)
        plan = Plan(n_units, trainer.batch_size, trainer.accumulation_steps, start, join_last)
        if start > plan.n_updates:
            raise CheckpointError(
                f"the training state: updates={start}; expected at most {plan.n_updates} per epoch; "
                "restore the state from a copy, or train in another folder"
            )
        if trainer.evaluation_steps == 0:
            self._expect_next(epoch, parts, join_last)
        return plan

    def _set_epoch(
        self, batches: BatchSampler, epoch: int, first: int, parts: Sequence[Network], join_last: bool
    ) -> None:
        trainer = self._trainer
        batches.order = epoch_order(len(batches.order), trainer.seed, epoch, self._weights)
        batches.epoch, batches.first, batches.join_last = epoch, first, join_last
        batches.positions = network_batches(self._seeded, parts, trainer.batch_size).positions

    def _expect_next(self, epoch: int, parts: Sequence[Network], join_last: bool) -> None:
        """Set the passes over the sets that follow this epoch, so that their batches are loaded in advance."""
        scored = scored_sets(self._trainer)
        passes: list[tuple[Dataset, Iterable[Sequence[Index]]]] = [
            evaluation_pass(dataset, parts, self._computation)
            for name, dataset in self._sets.items()
            if name in scored
        ]
        if epoch + 1 < self._trainer.epochs:
            following = copy(self._batches)
            self._set_epoch(following, epoch + 1, 0, parts, join_last)
            passes.append((self._seeded, following))
        self._computation.loading.expect(passes)

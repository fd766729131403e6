"""Batches of a training, epoch by epoch."""

from collections.abc import Sequence

import torch

from neurocnn.engine.batch import Dataset, Network, seeded_dataset
from neurocnn.engine.inference import network_batches
from neurocnn.engine.inputs import unit_classes
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.sampling import Plan, balancing_weights, epoch_order
from neurocnn.engine.settings import TrainingSettings
from neurocnn.engine.task import Task
from neurocnn.engine.workers import loader
from neurocnn.errors import CheckpointError


class TrainingBatches:
    """Loader of a training set, whose order changes with each epoch.

    Attributes
    ----------
    source
        Loader of the batches, in the order that `begin_epoch` sets.
    """

    def __init__(
        self,
        trainer: TrainingSettings,
        task: Task,
        dataset: Dataset,
        parts: Sequence[Network],
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self._trainer, self._dataset = trainer, dataset
        seeded = seeded_dataset(dataset, trainer.seed)
        self._batches = network_batches(seeded, parts, trainer.batch_size)
        self._batches.rank, self._batches.world = ranks.rank, ranks.world
        self._weights: list[float] | None = None
        if trainer.sampler == "weighted":
            self._weights = balancing_weights(unit_classes(task, dataset, len(self._batches.order)))
        self.source = loader(
            seeded,
            self._batches,
            seed=trainer.seed,
            n_workers=trainer.n_workers,
            pinned=device.type == "cuda",
            persistent=True,
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
        batches.order = epoch_order(n_units, trainer.seed, epoch, self._weights)
        batches.epoch, batches.first, batches.join_last = epoch, start * trainer.accumulation_steps, join_last
        batches.positions = network_batches(self._dataset, parts, trainer.batch_size).positions
        plan = Plan(n_units, trainer.batch_size, trainer.accumulation_steps, start, join_last)
        if start > plan.n_updates:
            raise CheckpointError(
                f"the training state: updates={start}; expected at most {plan.n_updates} per epoch; restore "
                "it from a copy, or train in another folder"
            )
        return plan

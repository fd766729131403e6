"""Losses of the samples of each update, and their check for NaN and infinity.

On a CPU, the losses of an update are checked before the weights change. On a GPU, reading a value would make the host
wait until all operations have finished. Therefore the losses of several updates are read together: after some time, and
before an evaluation or the next state. An error about them names the samples of their update.
"""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from neurocnn.engine.batch import Batch, sample_name
from neurocnn.engine.non_finite import gradients_error, loss_error
from neurocnn.storage.identity import PART

# Seconds, and number of updates, after which losses on a GPU are read.
_SECONDS, _UPDATES = 0.5, 256


class UpdateLosses:
    """Losses of updates that have not been checked yet.

    Parameters
    ----------
    parameters
        Weights of the network.
    device
        Device of the losses.

    Attributes
    ----------
    mean
        Mean loss of the last update that was checked.

    Examples
    --------
    >>> losses = UpdateLosses([], torch.device("cpu"))
    >>> losses.add(torch.tensor([1.0, 3.0]), {"participant_id": ["sub-1", "sub-2"]})
    >>> losses.end_update("epoch 0, update 0")
    >>> losses.mean
    2.0
    """

    def __init__(self, parameters: Sequence[Tensor], device: torch.device) -> None:
        self.parameters, self.device, self.late = parameters, device, device.type == "cuda"
        self.mean = math.nan
        self._batches: list[tuple[Tensor, Batch]] = []
        self._updates: list[tuple[str, list[tuple[Tensor, Batch]]]] = []
        self._norms: list[tuple[str, Tensor]] = []
        self._read = -math.inf

    def add(self, losses: Tensor, batch: Batch) -> None:
        """Add the losses (B,) of a batch of the current update."""
        # Names of samples are created only for an error, because this takes as long as an update of a small network.
        self._batches.append((losses, {name: batch[name] for name in PART if name in batch}))

    def end_update(self, where: str) -> None:
        """End the losses of an update, and check them unless this can wait.

        Parameters
        ----------
        where
            Network, epoch and update as text, for the error.

        Raises
        ------
        TrainingError
            If a loss is NaN or infinite.
        """
        self._updates.append((where, self._batches))
        self._batches = []
        waited = time.monotonic() - self._read > _SECONDS
        if not self.late or waited or len(self._updates) >= _UPDATES:
            self.check()

    def add_norm(self, where: str, norm: Tensor) -> None:
        """Add the norm of the gradients of an update, and check it unless this can wait.

        Raises
        ------
        TrainingError
            If the norm is NaN or infinite.
        """
        self._norms.append((where, norm))
        if not self.late:
            self.check()

    def check(self) -> None:
        """Check all losses and norms that have not been checked.

        Raises
        ------
        TrainingError
            If one of them is NaN or infinite.
        """
        updates, norms, self._read = self._updates, self._norms, time.monotonic()
        self._updates, self._norms = [], []
        for (where, batches), mean in zip(
            updates, _values([self._mean(batches) for _, batches in updates]), strict=True
        ):
            # If any loss is not finite, the mean is not finite either. Therefore a finite mean needs no further check.
            self.mean = mean
            if not math.isfinite(mean):
                losses = torch.cat([each for each, _ in batches]).cpu()
                names = [sample_name(who, row) for each, who in batches for row in range(len(each))]
                if not losses.isfinite().all():
                    raise loss_error(where, losses, names, self.parameters, self.late)
        for (where, _), norm in zip(norms, _values([norm for _, norm in norms]), strict=True):
            if not math.isfinite(norm):
                raise gradients_error(where, self.late)

    def _mean(self, batches: Sequence[tuple[Tensor, Batch]]) -> Tensor:
        if not batches:
            # This rank had no samples of its own.
            return torch.zeros((), device=self.device)
        return torch.cat([losses for losses, _ in batches]).mean()


def _values(scalars: list[Tensor]) -> list[float]:
    """Return the values of scalar tensors, which are read from the device at once."""
    if len(scalars) > 1:
        return torch.stack(scalars).tolist()
    return [float(scalar) for scalar in scalars]

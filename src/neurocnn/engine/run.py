"""Network in training: optimizer, random state, early stopping, best weights and history."""

import time
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from neurocnn.engine.batch import Batch, Network
from neurocnn.engine.gradients import Gradients
from neurocnn.engine.losses import UpdateLosses
from neurocnn.engine.non_finite import scale_error
from neurocnn.engine.optimizer import check_moments, make_optimizer, make_scheduler, step_scheduler
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.runtime import floating_type, memory_format, to_model_format
from neurocnn.engine.settings import TrainingSettings
from neurocnn.engine.stopping import Stopper, is_better
from neurocnn.engine.task import Task
from neurocnn.errors import CheckpointError, SettingError, suggestion
from neurocnn.randomness import RandomState

Row = dict[str, Any]
# A saved state contains these fields of a run without conversion.
_COUNTERS = ("epoch", "updates", "iteration", "started")
_PLAIN_FIELDS = (*_COUNTERS, "history", "best", "best_epochs", "stopped", "join_last")


class Run:
    """Network in training, with its optimizer, random state, early stopping, best weights and history.

    Networks that are trained in the same pass share only the batches, so that each has the same result as if it were
    trained alone.

    Parameters
    ----------
    model
        Network, trained in place.
    trainer
        Settings.
    task
        Task.
    part
        The part_id of the network's part; None for a network for all parts.
    device, ranks
        Device, and rank of this process.
    n_updates
        Number of updates per epoch, which some schedulers require.
    """

    #: Smallest scale of the loss in float16. If gradients overflow at this scale, they overflow at any scale.
    least_scale = 2.0**-24

    def __init__(
        self,
        model: nn.Module,
        trainer: TrainingSettings,
        task: Task,
        part: Network,
        device: torch.device,
        ranks: Ranks,
        n_updates: int = 1,
    ) -> None:
        self.trainer, self.task, self.part, self.device, self.ranks = trainer, task, part, device, ranks
        self.layout, self.dtype = memory_format(model), floating_type(model)
        self.model = model.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not self.parameters:
            raise SettingError(
                f"{type(model).__name__}: no parameter has requires_grad=True; expected at least one to train"
            )
        self.optimizer = make_optimizer(trainer, self.parameters)
        self.scheduler = make_scheduler(trainer, self.optimizer, n_updates)
        self.gradients = Gradients(self.model, self.parameters, trainer, task, device, ranks)
        self.scaler = self.gradients.scaler
        self.losses = UpdateLosses(self.parameters, device)
        self.random = RandomState(trainer.seed + ranks.rank, device)
        self.stopper = Stopper(trainer.patience, trainer.tolerance, trainer.stopping_metric)
        self.epoch = self.updates = self.iteration = 0
        self.started = time.time()
        self._clock = time.monotonic()
        self.history: list[Row] = []
        #: Predictions of the last evaluation, by set.
        self.tables: dict[str, pd.DataFrame] = {}
        self.best: dict[str, float] = {}
        self.best_epochs: dict[str, int] = {}
        self.best_weights: dict[str, dict[str, Tensor]] = {}
        self.stopped = False
        self.join_last = True
        self.optimizer.zero_grad(set_to_none=True)
        #: Whether the model was set to training mode after the last evaluation.
        self.is_training = False

    def accumulate(self, batch: Batch, n_samples: int, empty: bool, last: bool) -> None:
        """Add the gradients of a batch to those of the current update.

        Parameters
        ----------
        batch
            Rows of this rank.
        n_samples
            Number of samples of the update over all ranks; each has the weight 1 / n_samples.
        empty
            Whether the rows have weight 0, because this rank has no rows of its own but must exchange gradients.
        last
            Whether this is the last batch of the update, after which the ranks exchange gradients.
        """
        image = to_model_format(batch["image"], self.device, self.dtype, self.layout)
        if not self.is_training:
            self.model.train()
            self.is_training = True
        # The factor `world` cancels the division by the number of ranks in DistributedDataParallel.
        factor = 0.0 if empty else self.ranks.world / n_samples
        with self.random.as_global():
            losses = self.gradients.add(image, batch, factor, last)
        if not empty:
            self.losses.add(losses, batch)

    def update(self) -> float:
        """Step the optimizer, and return the mean loss of the update; on a GPU, of the last update whose loss was read.

        If gradients overflow because of the loss scale of float16, the weights do not change and the scale is halved.
        Such a step counts as an update.

        Raises
        ------
        TrainingError
            If the loss is NaN or infinite, or the gradients are NaN or infinite at any scale of the loss. On a CPU the
            weights do not change; on a GPU this may be found after later updates (see `losses`). In float32 and
            bfloat16, gradients are checked only if they are clipped; without clipping, the error is raised for the next
            loss.
        """
        self.losses.end_update(self.where())
        with self.random.as_global():
            self.scaler.unscale_(self.optimizer)
            if self.trainer.clip_gradient is not None:
                norm = nn.utils.clip_grad_norm_(self.parameters, self.trainer.clip_gradient)
                if not self.scaler.is_enabled():
                    self.losses.add_norm(self.where(), norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.trainer.scheduler_step == "update":
                step_scheduler(self.scheduler, self.losses.mean)
            self.optimizer.zero_grad(set_to_none=not self.gradients.keeps_memory)
        if not self.losses.late:
            self.check()
        self.updates += 1
        self.iteration += 1
        return self.losses.mean

    def check(self) -> None:
        """Check the losses and gradients of all updates so far, which on a GPU are not read in each update.

        Raises
        ------
        TrainingError
            See `update`.
        """
        self.losses.check()
        if self.scaler.is_enabled() and self.scaler.get_scale() < self.least_scale:
            raise scale_error(self.where())

    def where(self) -> str:
        """Return the network, epoch and update as text, for messages."""
        network = "" if self.part is None else f"network {self.part}, "
        return f"{network}epoch {self.epoch}, update {self.updates}"

    def end_epoch(self) -> list[str]:
        """Update selections, early stopping and scheduler; return the selections for which this epoch is the best."""
        row = self.history[-1]
        which = self._deciding_set(row)
        better = []
        for metric in self.task.selection:
            value = row[f"{which}_{metric}"]
            if is_better(metric, value, self.best.get(metric)):
                self.best[metric] = value
                self.best_epochs[f"best_{metric}"] = self.epoch
                better.append(f"best_{metric}")
        self.stopped = self.stopper.should_stop_after(row[f"{which}_{self.stopper.metric}"])
        if self.trainer.scheduler_step == "epoch":
            step_scheduler(self.scheduler, row[f"{which}_loss"])
        self.epoch, self.updates = self.epoch + 1, 0
        return better

    def check_selection(self, row: Row) -> None:
        """Check that a row contains the metrics for the selection of epochs and for early stopping.

        Raises
        ------
        SettingError
            If a metric is missing.
        """
        which = self._deciding_set(row)
        known = [name.removeprefix(f"{which}_") for name in row if name.startswith(f"{which}_")]
        names = dict.fromkeys(self.task.selection, "selection") | {self.stopper.metric: "stopping_metric"}
        for metric, setting in names.items():
            if metric not in known:
                raise SettingError(
                    f"{setting}: {metric!r} is not a metric of the task; {suggestion(metric, known)}"
                )

    @staticmethod
    def _deciding_set(row: Row) -> str:
        return "validation" if "validation_loss" in row else "train"

    def is_evaluated(self) -> bool:
        """Return whether the history contains a row for the current weights."""
        return bool(self.history) and self.history[-1]["iteration"] == self.iteration

    def is_finished(self) -> bool:
        """Return whether training of this network has ended."""
        return self.stopped or self.epoch >= self.trainer.epochs

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the state dict on the CPU, in contiguous format."""
        return {
            name: value.detach().to("cpu", copy=True).contiguous() if isinstance(value, Tensor) else value
            for name, value in self.model.state_dict().items()
        }

    def state(self, randoms: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the state for `restore`. `randoms` are the random states of all ranks."""
        plain_fields = {name: getattr(self, name) for name in _PLAIN_FIELDS}
        return plain_fields | {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": self.scaler.state_dict(),
            "random": randoms,
            "stopper": {"best": self.stopper.best, "waited": self.stopper.waited},
            "seconds": self.seconds(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the network, optimizer, random state and history from a state.

        Raises
        ------
        CheckpointError
            If the state belongs to another network or optimizer, or lacks entries.
        """
        # Earlier versions did not join the last batch, and their states lack the field.
        state = {"join_last": False} | state
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            check_moments(self.optimizer)
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            if self.ranks.rank < len(state["random"]):
                self.random.restore(state["random"][self.ranks.rank])
            self.stopper.best, self.stopper.waited = state["stopper"]["best"], state["stopper"]["waited"]
            for name in _PLAIN_FIELDS:
                setattr(self, name, state[name])
            self._clock = time.monotonic() - state["seconds"]
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the training state belongs to another network or optimizer: {error}; use the settings that wrote it, "
                "or another folder"
            ) from error

    def seconds(self) -> float:
        """Return the seconds since training started, including those before it was resumed."""
        return time.monotonic() - self._clock

    def discard_gradients(self) -> None:
        """Discard the graphs and gradients between two updates, because the network may be changed."""
        self.gradients.reset()
        self.optimizer.zero_grad(set_to_none=True)

    def release(self) -> None:
        """Clear the gradients and restore the memory format of the network, which keeps its last weights."""
        self.discard_gradients()
        self.model.to(memory_format=torch.contiguous_format)

    def broadcast_buffers(self) -> None:
        """Copy rank 0's buffers to all ranks, as DistributedDataParallel does in each forward pass."""
        if self.gradients.parallel is not None:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

"""One network in training, and all that belongs to it alone."""

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neurocnn.engine.batch import Batch, sample_name
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.runtime import autocast, floating_type, memory_format, to_model_format
from neurocnn.engine.stopping import Stopper, is_better
from neurocnn.engine.task import Task, sample_losses
from neurocnn.errors import CheckpointError, SettingError, TrainingError, suggestion
from neurocnn.randomness import RandomState
from neurocnn.storage.tensors import plain

Row = dict[str, Any]


class Run:
    """A network with its optimizer, random state, early stopping, best states and history.

    Networks that are trained in one pass share nothing but the batches that they are cut from, so that each
    ends as it would alone.

    Parameters
    ----------
    model
        The network; it is trained in place.
    trainer
        The settings.
    task
        What it is trained to do.
    part
        The part that it is for; None: all.
    device, ranks
        Where it is trained.
    """

    #: Float16's smallest number: if gradients overflow with it, the scale is not why.
    least_scale = 2.0**-24

    def __init__(
        self, model: nn.Module, trainer: Any, task: Task, part: int | None, device: torch.device, ranks: Ranks
    ) -> None:
        self.trainer, self.task, self.part, self.device, self.ranks = trainer, task, part, device, ranks
        self.layout, self.dtype = memory_format(model), floating_type(model)
        self.model = model.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not self.parameters:
            raise SettingError(
                f"{type(model).__name__} has no parameter to train; all have requires_grad False"
            )
        self.optimizer = self._make_optimizer()
        self.scheduler = trainer.scheduler(self.optimizer) if trainer.scheduler else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=trainer.precision == "float16")
        self.random = RandomState(trainer.seed + ranks.rank, device)
        self.stopper = Stopper(trainer.patience, trainer.tolerance)
        self.epoch = self.updates = self.iteration = 0
        self.started = time.time()
        self._clock = time.monotonic()
        self.history: list[Row] = []
        self.best: dict[str, float] = {}
        self.best_epochs: dict[str, int] = {}
        self.best_weights: dict[str, dict[str, Tensor]] = {}
        self.stopped = False
        self.optimizer.zero_grad(set_to_none=True)
        self.forward = self._make_forward()
        self._window: list[tuple[Tensor, list[str]]] = []

    def _make_optimizer(self) -> torch.optim.Optimizer:
        if self.trainer.optimizer is not None:
            made: torch.optim.Optimizer = self.trainer.optimizer(self.parameters)
            for group in made.param_groups:
                # As a state has them: numpy's numbers may round otherwise, and a resume would differ.
                group.update({name: plain(value) for name, value in group.items() if name != "params"})
            return made
        fused = all(p.is_floating_point() for p in self.parameters)
        return torch.optim.Adam(
            self.parameters,
            lr=self.trainer.learning_rate,
            weight_decay=self.trainer.weight_decay,
            fused=fused,
        )

    def _make_forward(self) -> Callable[[Tensor], Any]:
        forward: nn.Module = self.model
        self.parallel: nn.parallel.DistributedDataParallel | None = None
        if self.ranks.world > 1:
            gpu = [self.device.index] if self.device.type == "cuda" else None
            # Weights with one input channel have two descriptions of one layout; torch takes them for two.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            forward = self.parallel = nn.parallel.DistributedDataParallel(forward, device_ids=gpu)
        return torch.compile(forward) if self.trainer.compile else forward

    def accumulate(self, batch: Batch, n_window: int, empty: bool, last: bool) -> None:
        """Add a batch's share to the gradients of its window.

        Parameters
        ----------
        batch
            This rank's rows.
        n_window
            Samples of the whole window, over all ranks: each weighs 1 / n_window.
        empty
            The rows are another rank's and weigh nothing (this rank has none, but must take part).
        last
            Whether it is the window's last: gradients are exchanged between ranks once.
        """
        image = to_model_format(batch["image"], self.device, self.dtype, self.layout)
        self.model.train()
        with self.random.as_global():
            if self.parallel is not None:
                self.parallel.require_backward_grad_sync = last
            with autocast(self.device, self.trainer.precision):
                output = self.forward(image)
            target = self.task.target({**batch, "image": image}, self.device)
            losses = sample_losses(self.task, output, target, len(image))
            # DistributedDataParallel divides by the number of ranks.
            share = losses.sum() * (0.0 if empty else self.ranks.world / n_window)
            self.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        if not empty:
            self._window.append((losses.detach(), [sample_name(batch, row) for row in range(len(losses))]))

    def update(self) -> float:
        """Step the optimizer with the window's gradients; give the window's mean loss.

        Where a scaled loss made gradients overflow, the weights stay and the scale is halved; that counts as an
        update.

        Raises
        ------
        TrainingError
            The loss is NaN or infinite, or the gradients are at any scale; the weights are as they were before.
            In float32 and bfloat16 gradients are looked at where they are clipped; elsewhere it is the next
            update's loss that tells of theirs.
        """
        losses = torch.cat([part for part, _ in self._window]) if self._window else torch.zeros(1)
        mean = float(losses.mean())
        if not math.isfinite(mean):
            self._complain(losses)
        self._window.clear()
        with self.random.as_global():
            self.scaler.unscale_(self.optimizer)
            if self.trainer.clip_gradient is not None:
                norm = nn.utils.clip_grad_norm_(self.parameters, self.trainer.clip_gradient)
                if not self.scaler.is_enabled() and not norm.isfinite():
                    self._complain_of_gradients()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled() and self.scaler.get_scale() < self.least_scale:
            raise TrainingError(
                f"the gradients{self._of_network()} are NaN or infinite however small the loss is scaled, in "
                f"epoch {self.epoch}, update {self.updates}; the weights were not updated; take precision "
                "'bfloat16' or 'float32'"
            )
        self.updates += 1
        self.iteration += 1
        return mean

    def _complain(self, losses: Tensor) -> None:
        names = [name for _, names in self._window for name in names]
        bad = [name for name, fine in zip(names, losses.isfinite().tolist(), strict=True) if not fine]
        whole = all(bool(p.isfinite().all()) for p in self.parameters)
        advice = (
            "the weights were not updated; look at these images, or lower learning_rate, or set clip_gradient"
            if whole
            else "the weights were NaN or infinite already, from an update before: its gradients were; lower "
            "learning_rate, or set clip_gradient, which also looks at each update's gradients"
        )
        raise TrainingError(
            f"the loss{self._of_network()} is NaN or infinite in epoch {self.epoch}, update {self.updates}, for "
            f"{', '.join(bad[:5])}{f' and {len(bad) - 5} more' if len(bad) > 5 else ''}; {advice}"
        )

    def _complain_of_gradients(self) -> None:
        raise TrainingError(
            f"the gradients{self._of_network()} are NaN or infinite in epoch {self.epoch}, update {self.updates}, "
            "though the loss is not; the weights were not updated; look for a function of the network or loss "
            "without a finite slope (the root or norm of 0, the logarithm of 0), or lower learning_rate"
        )

    def _of_network(self) -> str:
        return "" if self.part is None else f" of network {self.part}"

    def end_epoch(self) -> list[str]:
        """Select and stop by the epoch's last row; give the selections whose best epoch this is."""
        row = self.history[-1]
        which = self._deciding(row)
        better = []
        for metric in self.task.selection:
            value = row[f"{which}_{metric}"]
            if is_better(metric, value, self.best.get(metric)):
                self.best[metric] = value
                self.best_epochs[f"best_{metric}"] = self.epoch
                better.append(f"best_{metric}")
        self.stopped = self.stopper.should_stop_after(row[f"{which}_loss"])
        self._step_scheduler(row[f"{which}_loss"])
        self.epoch, self.updates = self.epoch + 1, 0
        return better

    def check_selection(self, row: Row) -> None:
        """Check that a row has the metrics that the task selects by.

        Raises
        ------
        SettingError
            It lacks one.
        """
        which = self._deciding(row)
        known = [name.removeprefix(f"{which}_") for name in row if name.startswith(f"{which}_")]
        for metric in self.task.selection:
            if metric not in known:
                raise SettingError(f"the task selects by {metric!r}; {suggestion(metric, known)}")

    @staticmethod
    def _deciding(row: Row) -> str:
        return "validation" if "validation_loss" in row else "train"

    def _step_scheduler(self, loss: float) -> None:
        if self.scheduler is None:
            return
        with warnings.catch_warnings():
            # After an epoch whose gradients all overflowed, or a resume at its end, no step was seen by torch.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self.scheduler.step(loss)
            else:
                self.scheduler.step()

    def is_evaluated(self) -> bool:
        """Whether the history has a row for the weights of now."""
        return bool(self.history) and self.history[-1]["iteration"] == self.iteration

    def finished(self) -> bool:
        """Whether this network's training is over."""
        return self.stopped or self.epoch >= self.trainer.epochs

    def weights(self) -> dict[str, Tensor]:
        """Give a copy of the state dict on the CPU, in the usual memory format."""
        return {
            name: value.detach().to("cpu", copy=True).contiguous() if isinstance(value, Tensor) else value
            for name, value in self.model.state_dict().items()
        }

    def state(self, randoms: list[dict[str, Any]]) -> dict[str, Any]:
        """What `restore` needs; `randoms` are the random states of all ranks."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": self.scaler.state_dict(),
            "random": randoms,
            "stopper": {"best": self.stopper.best, "waited": self.stopper.waited},
            "epoch": self.epoch,
            "updates": self.updates,
            "iteration": self.iteration,
            "seconds": self.seconds(),
            "started": self.started,
            "history": self.history,
            "best": self.best,
            "best_epochs": self.best_epochs,
            "stopped": self.stopped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises
        ------
        CheckpointError
            The state is of another network.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"the training state is of another network or optimizer: {error}"
            ) from error
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.ranks.rank < len(state["random"]):
            self.random.restore(state["random"][self.ranks.rank])
        self.stopper.best, self.stopper.waited = state["stopper"]["best"], state["stopper"]["waited"]
        for name in ("epoch", "updates", "iteration", "started", "history", "best", "best_epochs"):
            setattr(self, name, state[name])
        self.stopped = state["stopped"]
        self._clock = time.monotonic() - state["seconds"]

    def seconds(self) -> float:
        """Seconds of training so far, of all its processes together."""
        return time.monotonic() - self._clock

    def release(self) -> None:
        """Leave the network as it came, but for its weights."""
        self.optimizer.zero_grad(set_to_none=True)
        self.model.to(memory_format=torch.contiguous_format)

    def share_buffers(self) -> None:
        """Give all ranks the buffers of rank 0, as each of its forward passes does."""
        if self.parallel is not None:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

"""Creation and steps of the optimizer and the scheduler."""

import inspect
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn

from neurocnn.engine.settings import Scheduler, TrainingSettings
from neurocnn.errors import SettingError
from neurocnn.storage.tensors import plain


def make_optimizer(trainer: TrainingSettings, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return an optimizer: Adam, or the result of ``trainer.optimizer``."""
    rate, decay, make = trainer.learning_rate, trainer.weight_decay, trainer.optimizer
    if make is None:
        fused = all(parameter.is_floating_point() for parameter in parameters)
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=fused)
    # A class is called with the learning rate and weight decay if it has these parameters. A function sets both itself.
    known = inspect.signature(make).parameters if isinstance(make, type) else ()
    rates = {"lr": rate, "weight_decay": decay}
    made = make(parameters, **{name: value for name, value in rates.items() if name in known})
    for group in made.param_groups:
        # Checkpoints contain plain numbers. If the optimizer computed with numpy scalars, it might round differently
        # before and after training is resumed.
        group.update({name: plain(value) for name, value in group.items() if name != "params"})
    return made


def check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Check that the moments of Adam have the shapes of their parameters, because torch does not check this on loading.

    Raises
    ------
    ValueError
        If a moment has another shape than its parameter.
    """
    if type(optimizer) is torch.optim.Adam:
        for parameter, state in optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                if state[name].shape != parameter.shape:
                    shapes = tuple(state[name].shape), tuple(parameter.shape)
                    raise ValueError(f"{name} has shape {shapes[0]}; expected {shapes[1]}")


def make_scheduler(
    trainer: TrainingSettings, optimizer: torch.optim.Optimizer, n_updates: int
) -> Scheduler | None:
    """Return the scheduler, or None if the settings have no scheduler.

    Parameters
    ----------
    trainer
        Settings.
    optimizer
        Optimizer whose learning rate changes.
    n_updates
        Number of updates per epoch.

    Raises
    ------
    SettingError
        If `ReduceLROnPlateau`, which requires the loss of an epoch, would be stepped after each update.
    """
    make, by_update = trainer.scheduler, trainer.scheduler_step == "update"
    if make is None:
        return None
    total = _has_free_parameter(make, "total_steps")
    n_steps = trainer.epochs * (n_updates if by_update else 1)
    scheduler: Scheduler = make(optimizer, **({"total_steps": n_steps} if total else {}))
    if by_update and isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise SettingError(
            "Trainer: scheduler_step='update'; expected 'epoch' for ReduceLROnPlateau, which needs the loss of an epoch"
        )
    return scheduler


def _has_free_parameter(function: Callable[..., object], name: str) -> bool:
    """Return whether a function has a parameter of this name whose value is missing or None."""
    try:
        found = inspect.signature(function).parameters.get(name)
    except (TypeError, ValueError):
        # Some builtins have no signature.
        return False
    return found is not None and found.default in (None, inspect.Parameter.empty)


def step_scheduler(scheduler: Scheduler | None, loss: float) -> None:
    """Step a scheduler after an epoch or an update; only ReduceLROnPlateau uses `loss`.

    Raises
    ------
    SettingError
        If the scheduler has no more steps, for example because `epochs` was increased.
    """
    if scheduler is None:
        return
    with warnings.catch_warnings():
        # torch warns if the optimizer made no step. This is expected if all gradients overflow, and when training was
        # resumed.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss)
            return
        try:
            scheduler.step()
        except ValueError as error:
            raise SettingError(
                f"scheduler: {error}; expected at least as many steps as the training has updates or epochs; a "
                "scheduler with a fixed number of steps (OneCycleLR) does not allow epochs to be increased; use the "
                "old epochs, or another folder"
            ) from error

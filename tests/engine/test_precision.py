"""Training with float16 and a scaled loss, on the CPU, for which torch also has autocast and a gradient scaler."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from toys import Toys, network, same_weights

from neurocnn.engine import Trainer, classification
from neurocnn.errors import TrainingError
from neurocnn.storage.tensors import load_tensors

TASK = classification("diagnosis", ["CN", "AD"])
SETTINGS = {"device": "cpu", "precision": "float16", "batch_size": 2, "patience": 0, "learning_rate": 0.01}
FIRST_SCALE = 2.0**16
OPTIMIZERS = {
    "adam": None,
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
}


class Exact(nn.Module):
    """Network that computes in float32 even under autocast, so that only the scale, a power of two, differs."""

    def __init__(self):
        super().__init__()
        self.inner = network(norm=False)

    def forward(self, image):
        with torch.autocast("cpu", enabled=False):
            return self.inner(image)


class Overflowing(Exact):
    """Network with infinite gradients in some backward passes, counted from 0."""

    def __init__(self, when):
        super().__init__()
        self.n_backwards, self.when = 0, when
        self.inner[0].bias.register_hook(self.spoiled)

    def spoiled(self, gradient):
        self.n_backwards += 1
        return gradient * math.inf if self.n_backwards - 1 in self.when else gradient


def fit(model, folder=None, callbacks=(), **changed):
    return Trainer(**{**SETTINGS, **changed}).fit(model, TASK, Toys(8), folder=folder, callbacks=callbacks)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_scaling_the_loss_changes_no_bit_of_an_update_with_or_without_clipping(clip, steps, optimizer):
    scaled, plain = Exact(), Exact()
    changed = {
        "epochs": 3,
        "clip_gradient": clip,
        "accumulation_steps": steps,
        "optimizer": OPTIMIZERS[optimizer],
    }
    fit(scaled, **changed)
    fit(plain, precision="float32", **changed)
    assert same_weights(scaled.state_dict(), plain.state_dict())
    assert not same_weights(scaled.state_dict(), Exact().state_dict())


def test_gradients_are_clipped_by_the_norm_of_the_unscaled_gradients():
    model, before = network(norm=False), network(norm=False)
    fit(
        model,
        epochs=1,
        batch_size=4,
        accumulation_steps=2,
        clip_gradient=1e-3,
        optimizer=partial(torch.optim.SGD, lr=1.0),
    )
    steps = [(a - b).detach() for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert float(torch.cat([step.flatten() for step in steps]).norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("steps", [1, 2])
def test_gradients_that_overflow_leave_the_weights_halve_the_scale_and_count_as_an_update(
    steps, clip, optimizer, tmp_path
):
    weights = []
    model = Overflowing({steps})  # The number of the backward pass that begins the second update.
    fit(
        model,
        tmp_path,
        [lambda state: weights.append({k: v.clone() for k, v in state.model.state_dict().items()})],
        epochs=1,
        evaluation_steps=1,
        accumulation_steps=steps,
        clip_gradient=clip,
        optimizer=OPTIMIZERS[optimizer],
    )
    n_updates = 4 // steps
    assert len(weights) == n_updates
    kept = [same_weights(one, other) for one, other in pairwise(weights)]
    assert kept == [True] + [False] * (n_updates - 2)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    state = newest(tmp_path)
    assert state["iteration"] == n_updates
    assert state["scaler"]["scale"] == FIRST_SCALE / 2
    assert state["scaler"]["_growth_tracker"] == n_updates - 2


def newest(folder):
    return max((load_tensors(path) for path in folder.rglob("*.pt")), key=lambda state: state["serial"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_scheduler_is_stepped_after_an_epoch_in_which_all_gradients_overflow(optimizer):
    rates = []
    fit(
        Overflowing(range(4)),
        callbacks=[lambda state: rates.append(state.optimizer.param_groups[0]["lr"])],
        epochs=2,
        optimizer=OPTIMIZERS[optimizer],
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1),
    )
    assert rates[1] == pytest.approx(0.1 * rates[0])


@pytest.mark.parametrize("steps", [1, 2])
def test_the_scale_of_the_loss_is_restored_on_a_resume(steps, tmp_path):
    def leave(state):
        if state.iteration == 3:
            raise ZeroDivisionError

    changed = {"epochs": 3, "accumulation_steps": steps, "evaluation_steps": 1, "checkpoint_seconds": 0}
    whole, broken = Overflowing({0, 2 * steps - 1}), Overflowing({0, 2 * steps - 1})
    fit(whole, tmp_path / "whole", **changed)
    with pytest.raises(ZeroDivisionError):
        fit(broken, tmp_path / "broken", [leave], **changed)
    again = Overflowing(())
    fit(again, tmp_path / "broken", **changed)
    assert same_weights(again.state_dict(), whole.state_dict())
    expected, found = newest(tmp_path / "whole"), newest(tmp_path / "broken")
    assert found["scaler"] == expected["scaler"]
    assert found["scaler"]["scale"] == FIRST_SCALE / 4
    assert found["scaler"]["_growth_tracker"] == 12 // steps - 2


def test_gradients_that_overflow_at_any_scale_end_training():
    model, before = Overflowing(range(10**6)), Exact()
    # 41 updates halve the scale from 2^16 to below 2^-24; an epoch has 4 updates.
    with pytest.raises(
        TrainingError, match=r"epoch 10, update 0: the gradients are NaN or infinite.*bfloat16"
    ):
        fit(model, epochs=30)
    assert same_weights(model.state_dict(), before.state_dict())

"""Errors for losses and gradients that are NaN or infinite."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from neurocnn.errors import TrainingError


def loss_error(
    where: str, losses: Tensor, names: Sequence[str], parameters: Iterable[Tensor]
) -> TrainingError:
    """Return the error for an update with a loss that is not finite; it names the samples.

    Parameters
    ----------
    where
        Network, epoch and update.
    losses
        Loss of each sample, shape (n,).
    names
        Name of each sample.
    parameters
        The network's weights, which the update has not changed.
    """
    bad = [name for name, finite in zip(names, losses.isfinite().tolist(), strict=True) if not finite]
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    if all(bool(parameter.isfinite().all()) for parameter in parameters):
        advice = "the weights were not updated; check these images, lower learning_rate, or set clip_gradient"
    else:
        advice = (
            "the weights are not finite because the gradients of an earlier update were not; lower learning_rate, or "
            "set clip_gradient, which also checks the gradients of each update"
        )
    return TrainingError(f"{where}: the loss is NaN or infinite for {', '.join(bad[:5])}{more}; {advice}")


def gradients_error(where: str) -> TrainingError:
    """Return the error for gradients that are not finite although the loss is."""
    return TrainingError(
        f"{where}: the gradients are NaN or infinite, the loss is not; the weights were not updated; look for a "
        "function of the network or loss without a finite slope (the root or norm of 0, the logarithm of 0), or lower "
        "learning_rate"
    )


def scale_error(where: str) -> TrainingError:
    """Return the error for float16 gradients that overflow at any scale of the loss."""
    return TrainingError(
        f"{where}: the gradients are NaN or infinite at any scale of the loss; the weights were not updated; use "
        "precision='bfloat16' or 'float32'"
    )

"""Detection of losses, gradients and outputs that are NaN or infinite, and errors that name their samples."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neurocnn.errors import ModelError, TrainingError
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.identity import describe_rows

#: Column of an evaluation's table: whether all outputs of the row are finite.
FINITE = "_finite"
_LATE = "neither a state nor a model was written after this update"


def finite_rows(output: Any, n: int) -> Tensor:
    """Return whether all outputs of each sample are finite, as a bool tensor (n,) on the device of the outputs.

    Parameters
    ----------
    output
        Tensor (n, …), or tensors in lists, tuples or dicts. Other values are ignored.
    n
        Number of samples.

    Examples
    --------
    >>> finite_rows((torch.ones(2, 3), torch.tensor([[0.0], [float("nan")]])), 2)
    tensor([ True, False])
    """
    finite = [
        each.isfinite().unsqueeze(1).flatten(1).all(1) for each in _tensors(output) if _has_rows(each, n)
    ]
    if not finite:
        return torch.ones(n, dtype=torch.bool)
    return torch.stack([each.to(finite[0].device) for each in finite]).all(0)


def _has_rows(values: Tensor, n: int) -> bool:
    return values.shape[:1] == (n,) and values.is_floating_point()


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield all tensors in an output, also those in lists, tuples and dicts."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for member in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(member)


def pop_non_finite(table: pd.DataFrame) -> pd.DataFrame:
    """Remove the column `FINITE` in place, and return the rows whose outputs are not finite."""
    wrong = ~table.pop(FINITE).to_numpy(bool)
    # To select no rows from a mask of thousands takes longer than all other checks of a table.
    return table[wrong] if wrong.any() else table[:0]


def check_outputs(table: pd.DataFrame, model: object) -> pd.DataFrame:
    """Return the table without the column `FINITE`, or raise an error if an output is NaN or infinite.

    Raises
    ------
    ModelError
        If an output is NaN or infinite. The message contains the samples.
    """
    wrong = pop_non_finite(table)
    if len(wrong):
        raise ModelError(
            f"{type(model).__name__}: the output is NaN or infinite for {describe_rows(wrong)}; expected finite "
            "outputs; check the weights of the network and these images"
        )
    return table


def log_non_finite_outputs(where: str, rows: pd.DataFrame, name: str) -> None:
    """Log a warning about outputs that are not finite. `where` is the network and epoch, `name` the name of the set."""
    LOGGER.warning(
        "%s: the output is NaN or infinite for %s of the %s set; the metrics of this evaluation are NaN, so that "
        "its epoch is never the best",
        where, describe_rows(rows), name,
    )  # fmt: skip


def scores_or_nan(
    metrics: Callable[[pd.DataFrame], Mapping[str, float]], table: pd.DataFrame, all_finite: bool
) -> dict[str, float]:
    """Return the metrics of a table by name, or NaN for all of them if not `all_finite`."""
    if all_finite:
        return {name: float(score) for name, score in metrics(table).items()}
    # Metrics may raise an error for NaN. Therefore they are called with zeros, and only the names of the results are
    # used.
    numbers = table.select_dtypes("number")
    filled = table.assign(**numbers.where(np.isfinite(numbers), 0.0))
    return dict.fromkeys(metrics(filled), math.nan)


def loss_error(
    where: str, losses: Tensor, names: Sequence[str], parameters: Iterable[Tensor], late: bool = False
) -> TrainingError:
    """Return an error that names the samples of an update whose loss is NaN or infinite.

    Parameters
    ----------
    where
        Network, epoch and update.
    losses
        Loss of each sample, shape (n,).
    names
        Name of each sample.
    parameters
        Weights before the update. The advice in the message depends on whether they are finite.
    late
        Whether the losses were read after later updates, as on a GPU; then `parameters` are not used.
    """
    bad = [name for name, finite in zip(names, losses.isfinite().tolist(), strict=True) if not finite]
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    if late:
        advice = f"{_LATE}; check these images, lower learning_rate, or set clip_gradient"
    elif all(bool(parameter.isfinite().all()) for parameter in parameters):
        advice = "the weights were not updated; check these images, lower learning_rate, or set clip_gradient"
    else:
        advice = (
            "the weights are not finite because the gradients of an earlier update were not; lower learning_rate, or "
            "set clip_gradient, which also checks the gradients of each update"
        )
    return TrainingError(f"{where}: the loss is NaN or infinite for {', '.join(bad[:5])}{more}; {advice}")


def gradients_error(where: str, late: bool = False) -> TrainingError:
    """Return an error for gradients that are not finite although the loss is finite. For `late` see `loss_error`."""
    kept = _LATE if late else "the weights were not updated"
    return TrainingError(
        f"{where}: the gradients are NaN or infinite, but the loss is finite; {kept}; look for a "
        "function of the network or loss without a finite derivative (root, norm or logarithm of 0), or lower "
        "learning_rate"
    )


def scale_error(where: str) -> TrainingError:
    """Return an error for float16 gradients that overflow even at the smallest loss scale."""
    return TrainingError(
        f"{where}: the gradients are NaN or infinite at any scale of the loss; the weights were not updated; use "
        "precision='bfloat16' or 'float32'"
    )

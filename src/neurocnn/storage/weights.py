"""Check of a state dict from a file before a network loads it: names of parameters, types and finite values."""

import os

from torch import Tensor

from neurocnn.errors import CheckpointError
from neurocnn.storage.tensors import check_finite_weights


def check_state_dict(state: object, where: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return a state dict that was read from a file, after a check that it can be the weights of a network.

    Parameters
    ----------
    state
        Value from the file.
    where
        Name of the file, for the message.

    Raises
    ------
    CheckpointError
        If `state` is not a dict from names to plain tensors, or a weight is not finite.

    Examples
    --------
    >>> check_state_dict({"fc.bias": 0.5}, "model.pth.tar")
    Traceback (most recent call last):
    neurocnn.errors.CheckpointError: model.pth.tar: fc.bias: found float; expected a plain tensor
    """
    if not isinstance(state, dict) or not state:
        found = "an empty dict" if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{where}: found {found}; expected a dict from names to tensors")
    for name, value in state.items():
        if not isinstance(name, str):
            raise CheckpointError(
                f"{where}: found the name {name!r}; expected a string, the name of a parameter"
            )
        # The loader has checked layout and size of each tensor.
        if not isinstance(value, Tensor) or value.is_nested:
            raise CheckpointError(f"{where}: {name}: found {type(value).__name__}; expected a plain tensor")
    check_finite_weights(state, where)
    return state

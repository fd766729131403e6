"""State dicts from files: their names, kinds of values and numbers are checked before a network gets them."""

import torch
from torch import Tensor

from neurocnn.errors import CheckpointError


def check_state_dict(state: object, where: object) -> dict[str, Tensor]:
    """Return a state dict that was read from a file, if its content can be the weights of a network.

    Parameters
    ----------
    state
        Value from the file.
    where
        Name of the file, for the message.

    Raises
    ------
    CheckpointError
        If it is not a dict from names to dense tensors, a tensor is larger than its data in the file, or weights are
        not finite.

    Examples
    --------
    >>> check_state_dict({"fc.bias": torch.tensor([1.0, float("nan")])}, "model.pth.tar")
    Traceback (most recent call last):
    neurocnn.errors.CheckpointError: model.pth.tar: fc.bias: 1 of 2 values are not finite; expected finite weights; ...
    """
    if not isinstance(state, dict) or not state:
        found = "an empty dict" if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{where}: found {found}; expected a dict from names to tensors")
    for name, value in state.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{where}: found the name {name!r}; expected text, the name of a parameter")
        _check_tensor(value, f"{where}: {name}")
    return state


def _check_tensor(value: object, where: str) -> None:
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{where}: found {type(value).__name__}; expected a tensor")
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.is_meta:
        raise CheckpointError(f"{where}: found a tensor without plain values; expected a dense one")
    stored = value.untyped_storage().nbytes()
    # An expanded tensor repeats few stored numbers, so that its copy could exceed the memory.
    if value.numel() * value.element_size() > stored:
        raise CheckpointError(
            f"{where}: shape {tuple(value.shape)}; expected at most the {stored} bytes of its data in the file"
        )
    if value.is_floating_point() or value.is_complex():
        bad = int(value.numel() - torch.isfinite(value).sum())
        if bad:
            raise CheckpointError(
                f"{where}: {bad} of {value.numel()} values are not finite; expected finite weights; use a checkpoint "
                "from before the training diverged"
            )

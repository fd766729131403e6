"""Detection of Python functions that torch calls before or after a layer, or that replace it."""

from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module


def has_hooks(model: nn.Module) -> bool:
    """Return whether a module of a network has a hook or a replaced ``forward``, so that each layer must be called.

    Examples
    --------
    >>> layer = nn.ReLU()
    >>> before = has_hooks(nn.Sequential(layer))
    >>> handle = layer.register_forward_hook(print)
    >>> before, has_hooks(nn.Sequential(layer))
    (False, True)
    """
    hooks: list[Any] = [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]
    hooks += [torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks]
    for layer in model.modules():
        hooks += [layer._forward_hooks, layer._forward_pre_hooks]
        hooks += [layer._backward_hooks, layer._backward_pre_hooks]
        # A function that replaces the layer's own one, such as that of a wrapper.
        hooks.append(vars(layer).get("forward"))
    return any(hooks)

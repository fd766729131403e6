"""Transfer of weights between networks, completely or not at all: names and shapes are compared before any copy."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from neurocnn.errors import ModelError
from neurocnn.errors.arguments import argument_error, check_instance

# torch.compile and DistributedDataParallel add these prefixes to the name of every parameter.
WRAPPERS = re.compile(r"^((_orig_mod|module)\.)+")
UNINITIALIZED = "an uninitialised lazy layer"


def transfer_weights(source: nn.Module | Mapping[str, Tensor], target: nn.Module) -> None:
    """Copy the weights of `source` into `target`, in place, including the running statistics of batch norms.

    Between an autoencoder and a CNN, only the weights of the encoder, which are those of the CNN's convolutions, are
    copied. Between networks of the same architecture, all weights are copied.

    Parameters
    ----------
    source
        A network, or its state dict (see `read_weights`).
    target
        Network to change. It is unchanged if an error is raised.

    Raises
    ------
    SettingError
        If `source` or `target` is neither a network nor a state dict.
    ModelError
        If parameters are missing in the source, unexpected, or of another shape. The message lists all of them.

    Examples
    --------
    >>> from neurocnn.nn import CNN_Transformer, create_model
    >>> cnn = create_model("Conv5_FC3", (1, 32, 32))
    >>> autoencoder = CNN_Transformer(create_model("Conv5_FC3", (1, 32, 32)))
    >>> transfer_weights(autoencoder, cnn)
    >>> bool((cnn.convolutions[0].weight == autoencoder.encoder[0].weight).all())
    True
    """
    where = "transfer_weights"
    check_instance("target", target, nn.Module, "a torch.nn.Module", where=where)
    weights = source.state_dict() if isinstance(source, nn.Module) else source
    if not isinstance(weights, Mapping):
        raise argument_error("source", source, "a torch.nn.Module or its state dict", where=where)
    given = unwrap_names(weights)
    state = target.state_dict()
    names = {WRAPPERS.sub("", name): name for name in state}
    given, wanted = _select_shared_part(given, list(names))
    _check_equal_parameters(given, {name: state[names[name]] for name in wanted})
    target.load_state_dict({**state, **{names[name]: given[name] for name in wanted}})


def unwrap_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict whose names have no prefixes of wrappers."""
    return {WRAPPERS.sub("", str(name)): value for name, value in state.items()}


def _select_shared_part(given: dict[str, Any], target: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the source's parameters under the target's names, and the names of the target's parameters to replace."""
    for old, new in (("encoder.", "convolutions."), ("convolutions.", "encoder.")):
        if _has(given, old) and _has(target, new) and not _has(given, new):
            renamed = {new + name.removeprefix(old): v for name, v in given.items() if name.startswith(old)}
            return renamed, [name for name in target if name.startswith(new)]
    return given, target


def _has(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _check_equal_parameters(given: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    kinds = {
        name: (_describe_tensor(given[name]), _describe_tensor(wanted[name]))
        for name in wanted
        if name in given
    }
    found = {
        "missing in the source": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} (source {source}, target {target})"
            for name, (source, target) in kinds.items()
            if source != target or source == UNINITIALIZED
        ],
    }
    if any(found.values()):
        lines = "".join(f"\n  {what}: {', '.join(names)}" for what, names in found.items() if names)
        raise ModelError(
            f"transfer_weights: the weights do not fit the network, which is unchanged:{lines}\n"
            "use a source with the same architecture, options, input size and number of outputs"
        )


def _describe_tensor(value: object) -> str:
    """Return the shape of a tensor as text, with its data type unless it is floating point."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if nn.parameter.is_lazy(value):
        return UNINITIALIZED
    dtype = "" if value.is_floating_point() else f" {value.dtype}"
    return f"{tuple(value.shape)}{dtype}{' without values' if value.is_meta else ''}"

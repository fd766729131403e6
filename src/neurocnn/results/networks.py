"""The networks of an experiment: built for its task, and read back with the weights that they ended with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn as torch_nn

from neurocnn import engine, nn
from neurocnn.errors import ModelError
from neurocnn.storage.tensors import load_tensors


def build(
    architecture: Any, input_shape: tuple[int, ...], task: engine.Task, options: Mapping[str, Any]
) -> torch_nn.Module:
    """Build the network of a task: the architecture itself, or the autoencoder derived from it.

    Parameters
    ----------
    architecture, options
        As for `create_model`.
    input_shape
        (C, H, W) or (C, D, H, W).
    task
        It says how many outputs there are; a reconstruction takes an autoencoder.

    Examples
    --------
    >>> type(build("Conv3_FC1", (1, 8, 8, 8), engine.reconstruction(), {})).__name__
    'CNN_Transformer'
    """
    model = nn.create_model(architecture, input_shape, n_outputs=task.n_outputs, **options)
    return nn.CNN_Transformer(model) if task.name == "reconstruction" else model


def read(
    path: Path, architecture: Any, input_shape: tuple[int, ...], task: engine.Task, options: Mapping[str, Any]
) -> torch_nn.Module:
    """Build a network and give it the weights of a file of this experiment, in evaluation mode.

    Raises
    ------
    NotFoundError, CheckpointError
        The file is missing or damaged.
    ModelError
        Its weights do not fit the architecture.
    """
    # Not `nn.read_weights`: these are the names of this very network, whatever they look like.
    state = load_tensors(path)["model"]
    if architecture == "resnet18":
        options = {**options, "weights": None}  # all weights come from the file
    model = build(architecture, input_shape, task, options)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit the architecture of these settings: {error}") from error
    return model.eval()

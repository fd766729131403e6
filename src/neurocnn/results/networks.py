"""Networks of an experiment: built for its task, or read back with their trained weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn as torch_nn

from neurocnn import engine, nn
from neurocnn.engine.checkpoint import read_best_weights
from neurocnn.errors import ModelError
from neurocnn.nn.registry import ArchitectureLike


@dataclass(frozen=True)
class NetworkRecipe:
    """What determines a network, except its weights.

    Parameters
    ----------
    architecture, options
        See `create_model`.
    input_shape
        (C, H, W) or (C, D, H, W).
    task
        Task, which sets the number of outputs; a reconstruction needs an autoencoder.

    Examples
    --------
    >>> type(NetworkRecipe("Conv3_FC1", {}, (1, 8, 8, 8), engine.reconstruction()).build()).__name__
    'CNN_Transformer'
    """

    architecture: ArchitectureLike
    options: Mapping[str, Any]
    input_shape: tuple[int, ...]
    task: engine.Task

    def build(self) -> torch_nn.Module:
        """Return a new network: the architecture itself, or the autoencoder derived from it."""
        n_outputs = self.task.n_outputs
        model = nn.create_model(self.architecture, self.input_shape, n_outputs=n_outputs, **self.options)
        return nn.CNN_Transformer(model) if self.task.reconstructs else model

    def read(self, path: Path) -> torch_nn.Module:
        """Return a network with the weights of a file of this experiment, in evaluation mode.

        Raises
        ------
        NotFoundError, CheckpointError
            If the file is missing or damaged, or has weights that are not finite.
        ModelError
            If its weights do not fit the architecture.
        """
        # Not `nn.read_weights`, which would rename weights that look like those of other programs.
        state = read_best_weights(path)
        model = self._untrained().build()
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(f"{path} does not fit the architecture of these settings: {error}") from error
        return model.eval()

    def describe(self) -> dict[str, str]:
        """Return the shape of each weight by its name, such as ``{"fc.2.bias": "2"}``."""
        with torch.random.fork_rng(devices=[]):
            state = self._untrained().build().state_dict()
        return {name: "x".join(map(str, value.shape)) for name, value in state.items()}

    def _untrained(self) -> "NetworkRecipe":
        """Return a recipe that does not read ImageNet's weights, which would be replaced."""
        if self.architecture == "resnet18":
            return replace(self, options={**self.options, "weights": None})
        return self

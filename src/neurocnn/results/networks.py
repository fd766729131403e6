"""Networks of an experiment: built for its task, or read back with their trained weights."""

import warnings
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
    """Architecture, options, input shape and task of a network: everything except its weights.

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
        if not self.task.reconstructs:
            return model
        # A task of the user's own may lack these arguments.
        ends = {
            name: self.task.arguments[name]
            for name in ("output", "bottleneck")
            if name in self.task.arguments
        }
        return nn.CNN_Transformer(model, **{"output": "linear", **ends})

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
        model = self._build_without_weights()
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(f"{path} does not fit the architecture of these settings: {error}") from error
        return model.eval()

    def describe(self) -> dict[str, str]:
        """Return the shape of each weight by its name, such as ``{"fc.2.bias": "2"}``."""
        with torch.random.fork_rng(devices=[]):
            state = self._build_without_weights().state_dict()
        return {name: "x".join(map(str, value.shape)) for name, value in state.items()}

    def _build_without_weights(self) -> torch_nn.Module:
        """Return a network whose weights do not matter, without reading ImageNet's and without a warning."""
        # All weights come from a file, so that ImageNet's are not needed.
        options = {**self.options, "weights": None} if self.architecture == "resnet18" else self.options
        with warnings.catch_warnings():
            # The warning is about training, and these weights are trained.
            warnings.filterwarnings("ignore", message="CNN_Transformer: output='mirror'")
            return replace(self, options=options).build()

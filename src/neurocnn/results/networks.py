"""Networks of an experiment, with new weights or with trained weights from a file."""

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
from neurocnn.nn.dry_run import dry_run
from neurocnn.nn.registry import ArchitectureLike
from neurocnn.plugins import output_tensor


@dataclass(frozen=True)
class NetworkRecipe:
    """Architecture, options, input shape and task of a network: everything except its weights.

    Parameters
    ----------
    architecture, options
        See `create_model`.
    input_shape
        Shape (C, H, W) or (C, D, H, W) of one part.
    task
        Task, which determines the number of outputs and whether the network is an autoencoder.

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
        """Return a new network of the architecture. For a reconstruction, return the autoencoder derived from the
        network.

        For a reconstruction, an architecture whose output has the shape of the image is used as the autoencoder.
        """
        n_outputs = self.task.n_outputs
        model = nn.create_model(self.architecture, self.input_shape, n_outputs=n_outputs, **self.options)
        if not self.task.reconstructs:
            return model
        output = output_tensor(dry_run(model, self.input_shape, batch=1))
        found = () if output is None else tuple(output.shape[1:])
        if found == self.input_shape:
            bottleneck = self.task.arguments.get("bottleneck")
            if bottleneck is not None:
                raise ModelError(
                    f"reconstruction: bottleneck={bottleneck}; expected None, because {type(model).__name__} is an "
                    "autoencoder already"
                )
            return model
        # A custom task may lack these arguments, so only existing arguments are passed.
        ends = {
            name: self.task.arguments[name]
            for name in ("output", "bottleneck")
            if name in self.task.arguments
        }
        try:
            return nn.CNN_Transformer(model, **{"output": "linear", **ends})
        except ModelError as error:
            if len(found) != len(self.input_shape):
                raise
            # The network returns images, so that it is probably an autoencoder for other sizes.
            raise ModelError(
                f"{error}; the outputs for images of shape {self.input_shape} have shape {found}: to use the network "
                "as the autoencoder, choose another size of the parts or make both shapes equal"
            ) from error

    def read(self, path: Path) -> torch_nn.Module:
        """Return a network in evaluation mode with the weights of a file of this experiment.

        Raises
        ------
        NotFoundError, CheckpointError
            If the file is missing or damaged, or has weights that are NaN or infinite.
        ModelError
            If the weights of the file do not fit the architecture.
        """
        # `nn.read_weights` is not used, because it would rename parameters whose names are used in other programs.
        state = read_best_weights(path)
        model = self._build_without_weights()
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(
                f"{path} does not fit the architecture of the settings: {error}; restore the file from a copy"
            ) from error
        return model.eval()

    def describe(self) -> dict[str, str]:
        """Return the shape of each weight by its name, such as ``{"fc.2.bias": "2"}``."""
        with torch.random.fork_rng(devices=[]):
            state = self._build_without_weights().state_dict()
        return {name: "x".join(map(str, value.shape)) for name, value in state.items()}

    def _build_without_weights(self) -> torch_nn.Module:
        """Return a network with arbitrary weights, without a warning."""
        # The ImageNet weights are not read, because the caller replaces or ignores the weights.
        options = {**self.options, "weights": None} if self.architecture == "resnet18" else self.options
        with warnings.catch_warnings():
            # The warning concerns only training, and these networks are not trained.
            warnings.filterwarnings("ignore", message="CNN_Transformer: output='mirror'")
            return replace(self, options=options).build()

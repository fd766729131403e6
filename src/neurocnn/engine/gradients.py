"""Gradients of a batch: forward pass, losses and backward pass. On a GPU, small batches repeat them as a CUDA graph.

A network of a few layers launches some hundred kernels per batch. For small images, launching takes longer than the
kernels themselves; a CUDA graph launches all of them at once. The kernels are the same, and so are the results.
"""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from neurocnn.engine.batch import Batch
from neurocnn.engine.faults import translate_compiler_errors, translate_network_errors
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.runtime import autocast
from neurocnn.engine.settings import TrainingSettings
from neurocnn.engine.task import Task, has_built_in_loss, sample_losses
from neurocnn.errors import ModelError
from neurocnn.errors.logger import LOGGER
from neurocnn.hooks import has_hooks

# Larger batches take longer to compute than to launch, and a graph would keep the memory of their feature maps.
_MAX_VOXELS = 2**24
# Batches of a shape that are computed before the graph is captured: libraries allocate memory in their first calls.
_WARM_UP = 2
# Modules whose forward passes launch the same kernels in each call.
_STATIC = ("torch.nn.modules.", "neurocnn.nn.", "torchvision.models.resnet")


class Gradients:
    """Computation of the gradients of a network in training.

    Parameters
    ----------
    model, parameters
        Network on its device, and its parameters that are trained.
    trainer, task, device, ranks
        Settings, task, device, and rank of this process.

    Attributes
    ----------
    scaler
        Scale of the losses in float16.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        trainer: TrainingSettings,
        task: Task,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.model, self.parameters, self.trainer = model, parameters, trainer
        self.task, self.device = task, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=trainer.precision == "float16")
        self.parallel: nn.parallel.DistributedDataParallel | None = None
        if ranks.world > 1:
            gpu = [device.index] if device.type == "cuda" else None
            self.parallel = nn.parallel.DistributedDataParallel(model, device_ids=gpu)
        forward = self.parallel or model
        self.forward: Callable[[Tensor], Any] = torch.compile(forward) if trainer.compile else forward
        self.reset()

    def reset(self) -> None:
        """Discard the graphs, because the network may have changed."""
        single = self.parallel is None and not self.trainer.compile and self.device.type == "cuda"
        self._captures = single and has_built_in_loss(self.task)
        self._graphs: dict[tuple[object, ...], _Graph] = {}
        self._uses: dict[tuple[object, ...], int] = {}
        self._used: list[nn.Parameter] = []

    def add(self, image: Tensor, batch: Batch, factor: float, last: bool) -> Tensor:
        """Add the gradients of the sum of a batch's losses × `factor`, and return the losses (B,).

        Parameters
        ----------
        image
            Images on the device, in the model's format.
        batch
            Batch of the images.
        factor
            Weight of each sample.
        last
            Whether this is the last batch of the update, after which ranks exchange gradients.
        """
        target = self.task.target({**batch, "image": image}, self.device)
        if self.parallel is not None:
            self.parallel.require_backward_grad_sync = last
        if not self._captures or image.numel() > _MAX_VOXELS:
            return self._compute(image, target, factor, batch)
        key = (image.shape, image.dtype, target.shape, target.dtype, factor)
        if key in self._graphs and not self._graphs[key].fits(self.parameters):
            self.reset()
        if key not in self._graphs:
            self._uses[key] = self._uses.get(key, 0) + 1
            if self._uses[key] <= _WARM_UP or not self._capture(key, image, target, factor, batch):
                return self._compute(image, target, factor, batch)
        return self._graphs[key].replay(image, target)

    def _compute(self, image: Tensor, target: Tensor, factor: float, batch: Batch) -> Tensor:
        with translate_network_errors(self.model, batch), autocast(self.device, self.trainer.precision):
            output = self.forward(image)
        losses = sample_losses(self.task, output, target, len(image))
        with translate_compiler_errors():
            self.scaler.scale(losses.sum() * factor).backward()  # type: ignore[no-untyped-call]
        # A parameter that the network does not use keeps None as its gradient, so that the optimizer omits it.
        self._used = [parameter for parameter in self.parameters if parameter.grad is not None]
        return losses.detach()

    def _capture(
        self, key: tuple[object, ...], image: Tensor, target: Tensor, factor: float, batch: Batch
    ) -> bool:
        """Capture a graph, and return whether this is possible; if not, batches are computed as before."""
        self._captures = has_static_layers(self.model)
        if not self._captures:
            return False
        try:
            self._graphs[key] = _Graph(
                lambda image, target: self._compute(image, target, factor, batch),
                image,
                target,
                self.parameters,
                self._used,
            )
        except (RuntimeError, ModelError) as error:
            self._captures = False
            _Graph.recover(image.device)
            LOGGER.debug("%s: no CUDA graph can be captured: %s", type(self.model).__name__, error)
        return self._captures

    @property
    def keeps_memory(self) -> bool:
        """Whether the gradients must be set to zero after an update, not to None, because graphs write to them."""
        return bool(self._graphs)


class _Graph:
    """Forward and backward pass for batches of one shape as a CUDA graph.

    Parameters
    ----------
    compute
        Function that adds the gradients for images and targets, and returns the losses.
    image, target
        Batch of the shape.
    parameters, used
        Parameters that are trained, and those of them to whose gradients the graph adds.
    """

    #: Number of times that torch's generator has received another state object.
    generator_states = 0

    def __init__(
        self,
        compute: Callable[[Tensor, Tensor], Tensor],
        image: Tensor,
        target: Tensor,
        parameters: Sequence[nn.Parameter],
        used: Sequence[nn.Parameter],
    ) -> None:
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.gradients = [parameter.grad for parameter in parameters]
        self.places = [parameter.data_ptr() for parameter in parameters]
        self.generator_state = _Graph.generator_states
        self.image, self.target = image.clone(), target.clone()
        self.graph = torch.cuda.CUDAGraph()
        # Threads that load batches may call CUDA meanwhile.
        with torch.cuda.graph(self.graph, _memory_pool(image.device), capture_error_mode="thread_local"):
            self.losses = compute(self.image, self.target)
        _existing.add(self)

    @classmethod
    def recover(cls, device: torch.device) -> None:
        """Restore torch's generator after a failed capture: it refuses to draw numbers outside a graph.

        The generator receives another state object. Earlier graphs would draw from the old one, so they no longer fit.
        """
        generator = torch.cuda.default_generators[device.index or 0]
        generator.graphsafe_set_state(generator.clone_state())
        cls.generator_states += 1

    def fits(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Return whether the parameters, their gradients and the random state are still at the same places."""
        return self.generator_state == _Graph.generator_states and all(
            parameter.grad is gradient and parameter.data_ptr() == place
            for parameter, gradient, place in zip(parameters, self.gradients, self.places, strict=True)
        )

    def replay(self, image: Tensor, target: Tensor) -> Tensor:
        """Add the gradients for a batch, and return the losses."""
        self.image.copy_(image)
        self.target.copy_(target)
        self.graph.replay()
        return self.losses.clone()


_existing: WeakSet[_Graph] = WeakSet()


def _memory_pool(device: torch.device) -> Any:
    """Return the memory of the graphs that exist; None for memory of its own. All graphs run one after the other."""
    return next((graph.graph.pool() for graph in _existing if graph.image.device == device), None)


def has_static_layers(model: nn.Module) -> bool:
    """Return whether a network consists of layers of torch and this package only, without hooks.

    The forward pass of another layer may depend on the values of its input, or call Python's random numbers, which a
    graph would not repeat.

    Examples
    --------
    >>> has_static_layers(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()))
    True
    >>> class Own(nn.Module):
    ...     pass
    >>> has_static_layers(nn.Sequential(Own()))
    False
    """
    if has_hooks(model):
        return False
    # Hooks of the gradients.
    if any(
        parameter._backward_hooks or parameter._post_accumulate_grad_hooks for parameter in model.parameters()
    ):
        return False
    return all(type(module).__module__.startswith(_STATIC) for module in model.modules())

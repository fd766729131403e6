"""Attribution maps of a network (with Captum), and networks with random weights for comparison."""

import copy
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neurocnn.engine.outputs import final_output
from neurocnn.engine.runtime import evaluation_mode
from neurocnn.engine.task import Task
from neurocnn.errors import MissingExtraError, ModelError
from neurocnn.errors.arguments import check_choice, check_integer

METHODS = ("gradient", "integrated_gradients", "grad_cam", "occlusion")
#: Methods that compare an image with a baseline.
BASELINE_METHODS = ("integrated_gradients", "occlusion")
#: Function ``output(model, images)`` that returns the number to explain for each sample, shape (B,).
Output = Callable[[nn.Module, Tensor], Tensor]

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MODES = {4: "bilinear", 5: "trilinear"}


@dataclass(frozen=True)
class Attribution:
    """Attribution method and its settings.

    Parameters
    ----------
    method
        ``"gradient"`` (Simonyan et al., 2014), ``"integrated_gradients"`` (Sundararajan et al., ICML 2017),
        ``"grad_cam"`` of the last convolution (Selvaraju et al., ICCV 2017) or ``"occlusion"`` (Zeiler & Fergus, ECCV
        2014).
    steps
        Number of points of the Gauss–Legendre quadrature, with which integrated gradients are computed.
    window
        Edge length of the occluded boxes in voxels. With None, a fifth of the longest edge of the part, rounded up.
    batch_size
        Number of images per pass through the network.

    Raises
    ------
    SettingError
        If an argument has an invalid value.
    MissingExtraError
        If Captum is not installed.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
    >>> image, baseline = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.zeros(1, 1, 2, 2)
    >>> first = lambda model, images: model(images)[:, 0]
    >>> found = Attribution("integrated_gradients").compute(model, first, image, baseline)
    >>> bool(torch.allclose(found, model[1].weight.view(1, 1, 2, 2) * image))  # exact for a linear network
    True
    """

    method: str
    steps: int = 50
    window: int | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS, where="explain")
        check_integer("steps", self.steps, minimum=2, where="explain")
        if self.window is not None:
            check_integer("window", self.window, minimum=1, where="explain")
        _import_captum()

    def compute(self, model: nn.Module, output: Output, images: Tensor, baselines: Tensor) -> Tensor:
        """Return the attribution of each voxel, in the shape of `images`, but with one channel for ``"grad_cam"``.

        Parameters
        ----------
        model
            Network, which is used in evaluation mode. The gradients of its weights are not changed.
        output
            Function that returns the number to explain for each sample, see `Output`.
        images, baselines
            Shape (B, C, H, W) or (B, C, D, H, W), on the device of the model. Integrated gradients start from the
            baselines, and occlusion replaces boxes of the images with those of the baselines.

        Raises
        ------
        ModelError
            If the method is ``"grad_cam"`` and the network has no convolution.
        """
        captum = _import_captum()
        images = images.detach().requires_grad_()

        def forward(batch: Tensor) -> Tensor:
            return output(model, batch)

        with evaluation_mode(model), torch.enable_grad():
            if self.method == "gradient":
                found = captum.Saliency(forward).attribute(images, abs=False)
            elif self.method == "integrated_gradients":
                # Captum evaluates at least one point of every image in each pass.
                maximum = max(self.batch_size, len(images))
                settings = {"n_steps": self.steps, "internal_batch_size": maximum}
                found = captum.IntegratedGradients(forward).attribute(images, baselines, **settings)
            elif self.method == "grad_cam":
                layer = captum.LayerGradCam(forward, last_convolution(model))
                coarse = layer.attribute(images, relu_attributions=True)
                size = images.shape[2:]
                found = captum.LayerAttribution.interpolate(coarse, size, _MODES[images.dim()])
            else:
                found = self._occlude(captum, forward, images, baselines)
        result: Tensor = found.detach()
        return result

    def _occlude(
        self, captum: Any, forward: Callable[[Tensor], Tensor], images: Tensor, baselines: Tensor
    ) -> Any:
        edge = self.window or -(-max(images.shape[2:]) // 5)
        box = [min(edge, size) for size in images.shape[2:]]
        with torch.no_grad():
            return captum.Occlusion(forward).attribute(
                images.detach(),
                sliding_window_shapes=(images.shape[1], *box),
                strides=(images.shape[1], *box),
                baselines=baselines,
                perturbations_per_eval=max(1, self.batch_size // len(images)),
            )


def _import_captum() -> Any:
    try:
        return importlib.import_module("captum.attr")
    except ImportError as error:
        raise MissingExtraError(
            f"captum, which explanations need, cannot be imported ({error}); pip install 'neurocnn[explain]'"
        ) from error


def last_convolution(model: nn.Module) -> nn.Module:
    """Return the last convolution in the order of `modules()`.

    Raises
    ------
    ModelError
        If the network has no convolution.
    """
    found = [module for module in model.modules() if isinstance(module, _CONVOLUTIONS)]
    if not found:
        raise ModelError(
            f"grad_cam: {type(model).__name__} has no convolution; use another method, such as 'gradient'"
        )
    return found[-1]


def task_output(task: Task, index: int) -> Output:
    """Return a function that computes the number to explain for a task, see `Output`.

    For a classification, the number is the log-odds, log (p / (1 − p)), of class `index`. For two classes, the log-odds
    are the difference of the outputs. For a regression the number is the predicted value, in the unit of the label.

    Examples
    --------
    >>> from neurocnn.engine import classification
    >>> log_odds = task_output(classification("diagnosis", ["CN", "AD"]), 1)
    >>> log_odds(nn.Identity(), torch.tensor([[0.5, 2.0]]))
    tensor([1.5000])
    """

    def output(model: nn.Module, images: Tensor) -> Tensor:
        found = final_output(model(images)) if task.classes else model(images)
        if task.classes is None:
            found = task.prediction(found)
            if not isinstance(found, Tensor) or found.numel() != len(images):
                shape = (
                    f"of shape {tuple(found.shape)}"
                    if isinstance(found, Tensor)
                    else f"a {type(found).__name__}"
                )
                raise ModelError(
                    f"explain: the prediction for {len(images)} samples is {shape}; expected one value per sample"
                )
            return found.reshape(len(images))
        others = [k for k in range(len(task.classes)) if k != index]
        log_odds: Tensor = found[:, index] - found[:, others].logsumexp(dim=1)
        return log_odds

    return output


def randomized_networks(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield a network with random weights in the last layer, then in the last two layers, and so on.

    The layers are the modules that have parameters themselves. Their weights are initialised again
    (``reset_parameters``), or permuted if the layer has no such method.

    Parameters
    ----------
    model
        Network, which is not changed.
    seed
        Seed of the random weights.

    Yields
    ------
    tuple
        Name of the layer that was changed last, and the network, which is the same object each time.

    References
    ----------
    Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018 (cascading randomisation).

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> [name for name, _ in randomized_networks(model)]
    ['3', '0']
    """
    network = copy.deepcopy(model)
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    for number, (name, layer) in enumerate(reversed(layers)):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed + number)
            device = next(layer.parameters(recurse=False)).device
            layer.cpu()
            if callable(getattr(layer, "reset_parameters", None)):
                layer.reset_parameters()
            else:
                for parameter in layer.parameters(recurse=False):
                    mixed = torch.randperm(parameter.numel())
                    parameter.copy_(parameter.flatten()[mixed].view_as(parameter))
            layer.to(device)
        yield name, network

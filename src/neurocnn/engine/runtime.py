"""Where and how torch computes: device, precision, memory format, determinism."""

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from neurocnn.errors import SettingError

_log = logging.getLogger("neurocnn")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@cache
def _log_once(message: str) -> None:
    _log.info(message)


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """Give the device that a name stands for; ``"auto"`` is a CUDA GPU, else MPS, else the CPU.

    Parameters
    ----------
    name
        ``"auto"`` or a name of torch's, such as ``"cuda:1"``.
    local_rank
        This process's number on its machine: the GPU that ``"auto"`` and ``"cuda"`` choose.

    Raises
    ------
    SettingError
        There is no such device here.

    Examples
    --------
    >>> find_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        found = [kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available()]
        name = found[0] if found else "cpu"
        if not found:
            _log_once("no GPU was found: computing on the CPU")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError(f"device {name!r} is unknown to torch ({error}); 'auto' finds one") from error
    if device.type == "cuda":
        n_gpus = torch.cuda.device_count()
        index = local_rank if device.index is None else device.index
        if index >= n_gpus:
            raise SettingError(
                f"device {name!r}: GPU {index} is needed and there are {n_gpus}; 'cpu' always is"
            )
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingError("device 'mps' is not available here; 'auto' finds one that is")
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Compute in half precision where that is safe; nothing for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])


def memory_format(model: nn.Module) -> torch.memory_format:
    """Give the order of a model's tensors that convolutions are fastest with."""
    kinds = [type(module) for module in model.modules()]
    if any(issubclass(kind, nn.Conv3d | nn.ConvTranspose3d) for kind in kinds):
        return torch.channels_last_3d
    if any(issubclass(kind, nn.Conv2d | nn.ConvTranspose2d) for kind in kinds):
        return torch.channels_last
    return torch.contiguous_format


def to_model_format(
    image: Tensor, device: torch.device, dtype: torch.dtype, layout: torch.memory_format
) -> Tensor:
    """Bring a batch of images to a model's device, type and memory format."""
    fits = image.dim() == {torch.channels_last_3d: 5, torch.channels_last: 4}.get(layout, -1)
    image = image.to(device, dtype, non_blocking=True)
    return image.contiguous(memory_format=layout if fits else torch.contiguous_format)


def floating_type(model: nn.Module) -> torch.dtype:
    """Give the type of a model's weights."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms only, while the block runs.

    An operation that has none raises an error of torch that names it.
    """
    if not wanted:
        yield
        return
    # cuBLAS reads this once, when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every module back into its mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def use_memory_format(model: nn.Module, layout: torch.memory_format) -> Iterator[nn.Module]:
    """Give a model's weights a memory format while the block runs."""
    plain = all(parameter.is_contiguous() for parameter in model.parameters())
    model.to(memory_format=layout)
    try:
        yield model
    finally:
        if plain:
            model.to(memory_format=torch.contiguous_format)

"""Device, precision, memory format and determinism of computations with torch."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from neurocnn.engine.host_memory import keep_freed_memory
from neurocnn.errors import SettingError
from neurocnn.errors.arguments import check_text
from neurocnn.errors.logger import LOGGER

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@cache
def _log_once(message: str) -> None:
    LOGGER.info(message)


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device with this name; for ``"auto"``, a CUDA GPU if available, else MPS, else the CPU.

    Parameters
    ----------
    name
        ``"auto"`` or a device name of torch, such as ``"cuda:1"``.
    local_rank
        Rank of this process on its machine, which is the index of the GPU for ``"auto"`` and ``"cuda"``.

    Raises
    ------
    SettingError
        If this machine has no such device.

    Examples
    --------
    >>> find_device("cpu")
    device(type='cpu')
    """
    check_text("device", name, expected="'auto' or a device name of torch, such as 'cuda:1'")
    if name == "auto":
        found = [kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available()]
        name = found[0] if found else "cpu"
        if not found:
            _log_once("no GPU was found; computing on the CPU")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError(f"device={name!r}; expected 'auto' or a device name of torch ({error})") from error
    if device.type == "cuda":
        n_gpus = torch.cuda.device_count()
        index = local_rank if device.index is None else device.index
        if index >= n_gpus:
            raise SettingError(
                f"device={name!r}; expected one of {n_gpus} GPUs, found no GPU {index}; use 'cpu' or 'auto'"
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingError("device='mps'; expected a device of this machine; use 'auto'")
    return device


def use_device(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context for computations on a device.

    In it, a GPU is torch's current device; for the CPU, freed memory is kept for the next batch.
    """
    if device.type == "cuda":
        return torch.cuda.device(device)
    return keep_freed_memory() if device.type == "cpu" else nullcontext()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return torch's autocast context for `precision`; a context without effect for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])


def memory_format(model: nn.Module) -> torch.memory_format:
    """Return the memory format in which the convolutions of a model are fastest."""
    kinds = [type(module) for module in model.modules()]
    if any(issubclass(kind, nn.Conv3d | nn.ConvTranspose3d) for kind in kinds):
        return torch.channels_last_3d
    if any(issubclass(kind, nn.Conv2d | nn.ConvTranspose2d) for kind in kinds):
        return torch.channels_last
    return torch.contiguous_format


def to_model_format(
    image: Tensor, device: torch.device, dtype: torch.dtype, layout: torch.memory_format
) -> Tensor:
    """Return a batch of images on a model's device, in its dtype and memory format."""
    fits = image.dim() == {torch.channels_last_3d: 5, torch.channels_last: 4}.get(layout, -1)
    image = image.to(device, dtype, non_blocking=True)
    return image.contiguous(memory_format=layout if fits else torch.contiguous_format)


def floating_type(model: nn.Module) -> torch.dtype:
    """Return the dtype of a model's weights."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


@contextmanager
def use_deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Use only deterministic algorithms of torch during the block, if `wanted`.

    For an operation without a deterministic algorithm, torch raises an error that names it.
    """
    if not wanted:
        yield
        return
    # cuBLAS reads this variable only once, when it is first used.
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
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode during the block, and restore the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def use_memory_format(model: nn.Module, layout: torch.memory_format) -> Iterator[nn.Module]:
    """Convert a model's weights to a memory format during the block."""
    plain = all(parameter.is_contiguous() for parameter in model.parameters())
    model.to(memory_format=layout)
    try:
        yield model
    finally:
        if plain:
            model.to(memory_format=torch.contiguous_format)

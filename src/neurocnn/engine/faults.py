"""Replacement of torch's errors by errors that contain a remedy."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from neurocnn.engine.batch import Batch, sample_name
from neurocnn.errors import ModelError, NeurocnnError, TrainingError
from neurocnn.storage.memory import peak_memory

# A forward pass may raise errors with these words, although the network is not their cause.
_NOT_OF_THE_NETWORK = re.compile(r"DataLoader worker|CUDA|cuDNN|NCCL|gloo|[Cc]onnection|deterministic")


@contextmanager
def translate_errors(
    device: torch.device, batch_size: int, accumulation_steps: int | None = None
) -> Iterator[None]:
    """Replace errors of torch in the block by errors that contain a remedy.

    Parameters
    ----------
    device
        Device of the computation.
    batch_size, accumulation_steps
        Settings of the trainer; `accumulation_steps` is None in an evaluation.

    Raises
    ------
    TrainingError
        If memory is exhausted, or an operation has no deterministic implementation.

    Examples
    --------
    >>> with translate_errors(torch.device("cpu"), batch_size=8, accumulation_steps=1):
    ...     raise MemoryError
    Traceback (most recent call last):
    neurocnn.errors.TrainingError: out of memory...batch_size=4 with accumulation_steps=2 ...
    """
    try:
        yield
    except NeurocnnError:
        raise
    except (RuntimeError, MemoryError) as error:
        if _is_out_of_memory(error):
            raise TrainingError(_memory_message(device, batch_size, accumulation_steps)) from error
        if "deterministic" in str(error) and torch.are_deterministic_algorithms_enabled():
            raise TrainingError(
                f"deterministic=True: {str(error).splitlines()[0]}; use deterministic=False, the CPU, or another layer "
                "instead of this operation"
            ) from error
        raise


@contextmanager
def translate_network_errors(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Replace an error of a network's forward pass by an error that names the samples, their shape and a remedy.

    Parameters
    ----------
    model
        The network.
    batch
        Batch whose images the network receives.

    Raises
    ------
    ModelError
        If the network does not accept images of this shape.
    TrainingError
        If `torch.compile` cannot compile the network.
    """
    try:
        yield
    except NeurocnnError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        if _is_compiler_error(error):
            raise _compiler_error(error) from error
        line = _first_line(error)
        if _is_out_of_memory(error) or _NOT_OF_THE_NETWORK.search(str(error)):
            raise
        raise ModelError(_network_message(model, batch, line)) from error


@contextmanager
def translate_compiler_errors() -> Iterator[None]:
    """Raise a TrainingError with a remedy if `torch.compile` cannot compile a forward or backward pass."""
    try:
        yield
    except RuntimeError as error:
        if _is_compiler_error(error):
            raise _compiler_error(error) from error
        raise


def _is_compiler_error(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and type(error).__module__.startswith(
        ("torch._dynamo", "torch._inductor")
    )


def _compiler_error(error: Exception) -> TrainingError:
    return TrainingError(
        f"compile=True: torch.compile failed ({_first_line(error)}); install a C++ compiler such as g++, or use "
        "compile=False"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _network_message(model: nn.Module, batch: Batch, line: str) -> str:
    shape = tuple(batch["image"].shape)
    names = [sample_name(batch, row) for row in range(min(3, shape[0]))]
    more = f" and {shape[0] - 3} more" if shape[0] > 3 else ""
    found = f"{type(model).__name__} failed on images of shape {shape} ({', '.join(names)}{more}): {line}"
    if "more than 1 value per channel" in line:
        return (
            f"{found}; expected more than one value per channel for batch normalisation; use batch_size ≥ 2 (and at "
            "least 2 training samples), larger parts, or a network without batch normalisation"
        )
    return f"{found}; expected a network that accepts this shape; create it with input_shape={shape[1:]}"


def check_initialized(model: nn.Module) -> None:
    """Check that a network has no lazy layer without weights.

    Raises
    ------
    ModelError
        If a lazy layer has not received a batch yet. The message contains its name.

    Examples
    --------
    >>> check_initialized(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)))
    Traceback (most recent call last):
    neurocnn.errors.ModelError: Sequential: the weights of 1 are not initialised (a lazy layer); ...
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, value in tensors if torch.nn.parameter.is_lazy(value)]
    if lazy:
        layers = dict.fromkeys(name.rpartition(".")[0] or name for name in lazy)
        raise ModelError(
            f"{type(model).__name__}: the weights of {', '.join(layers)} are not initialised (a lazy layer); expected "
            "a network that has received a batch; call it once with images of the input shape"
        )


def _is_out_of_memory(error: BaseException) -> bool:
    texts = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        text in str(error) for text in texts
    )


def _memory_message(device: torch.device, batch_size: int, accumulation_steps: int | None) -> str:
    found = (
        f"out of memory on {device} (peak {peak_memory(device) / 2**30:.2f} GiB) with batch_size={batch_size}"
    )
    if batch_size == 1:
        return f"{found}; use smaller parts (Patch, Roi), a smaller network or half precision"
    smaller = largest_divisor(batch_size)
    if accumulation_steps is None:
        return f"{found}; use batch_size={smaller}"
    steps = accumulation_steps * batch_size // smaller
    return (
        f"{found} and accumulation_steps={accumulation_steps}; batch_size={smaller} with "
        f"accumulation_steps={steps} gives the same effective batch size of {batch_size * accumulation_steps}"
    )


def largest_divisor(number: int) -> int:
    """Return the largest divisor of `number` that is smaller than `number`.

    >>> largest_divisor(12), largest_divisor(15), largest_divisor(7)
    (6, 5, 1)
    """
    return next(divisor for divisor in range(number // 2, 0, -1) if number % divisor == 0)

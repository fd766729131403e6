"""Translation of torch's errors into errors that say what to do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from neurocnn.errors import NeurocnnError, TrainingError


@contextmanager
def translate_errors(
    device: torch.device, batch_size: int, accumulation_steps: int | None = None
) -> Iterator[None]:
    """Translate errors of torch in the block into errors that say what to do.

    Parameters
    ----------
    device
        Device of the computation.
    batch_size, accumulation_steps
        Settings of the training; `accumulation_steps` is None in an evaluation.

    Raises
    ------
    TrainingError
        If memory is exhausted, or an operation has no deterministic form.

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
        if _is_memory(error):
            raise TrainingError(_memory_message(device, batch_size, accumulation_steps)) from error
        if "deterministic" in str(error) and torch.are_deterministic_algorithms_enabled():
            raise TrainingError(
                f"deterministic=True: {str(error).splitlines()[0]}; use deterministic=False, the CPU, or another layer "
                "instead of this operation"
            ) from error
        raise


def _is_memory(error: BaseException) -> bool:
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
        f"accumulation_steps={steps} gives the same virtual batch of {batch_size * accumulation_steps}"
    )


def largest_divisor(number: int) -> int:
    """Return the largest divisor of a number that is smaller than the number.

    >>> largest_divisor(12), largest_divisor(15), largest_divisor(7)
    (6, 5, 1)
    """
    return next(divisor for divisor in range(number // 2, 0, -1) if number % divisor == 0)


def peak_memory(device: torch.device) -> int:
    """Return the peak number of bytes in use, of the GPU or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""Files of tensors: written atomically, all checksums verified, no code unpickled."""

import copy
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurocnn.errors import CheckpointError, MissingExtraError, NotFoundError
from neurocnn.storage.files import storage_errors, write_atomically
from neurocnn.storage.tensor_checks import check_content, check_file


def save_tensors(content: Any, path: str | os.PathLike[str]) -> None:
    """Write tensors with `torch.save`, atomically.

    Parameters
    ----------
    content
        Tensors and plain values (numbers, text, lists, dicts). Scalars of numpy are stored as plain numbers.
    path
        Path of the file.

    Raises
    ------
    CheckpointError
        If `content` contains an object of another type, which `load_tensors` would refuse. Nothing is written.
    StorageError
        If the file cannot be written (full disk, read-only folder).
    """
    with write_atomically(path, "w+b") as file:
        try:
            torch.save(plain(content), file)
        except RuntimeError as error:
            # After a failed write, torch raises an error of its own whose context is the reason.
            if error.__context__ is not None and "unexpected pos" in str(error):
                raise error.__context__ from None
            raise
        file.seek(0)
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        if unsafe:
            raise CheckpointError(
                f"{path}: not saved; found {', '.join(sorted(unsafe))}; expected only tensors, numbers, text, lists "
                "and dicts in states of networks, optimizers and schedulers"
            )


def plain(content: Any) -> Any:
    """Return `content` in which numpy scalars are plain values and expanded tensors are contiguous.

    Values inside dicts, lists and tuples are converted too.

    A numpy scalar behaves like a plain number, but it is pickled as an object of numpy, which `load_tensors` refuses.

    Examples
    --------
    >>> plain({"lr": np.float64(0.1), "betas": (np.float32(0.5), 0.9)})
    {'lr': 0.1, 'betas': (0.5, 0.9)}
    """
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, torch.Tensor) and content.layout is torch.strided and 0 in content.stride():
        # `load_tensors` refuses an expanded tensor, which can be larger than its file.
        return content.contiguous()
    if isinstance(content, dict):
        changed = {plain(key): plain(value) for key, value in content.items()}
        # A copy keeps the attributes of a state dict, such as its metadata.
        new = copy.copy(content)
        new.clear()
        for key, value in changed.items():
            new[key] = value
        return new
    if type(content) in (list, tuple):
        return type(content)(map(plain, content))
    return content


def load_tensors(
    path: str | os.PathLike[str],
    *,
    mmap: bool = False,
    verify: bool = True,
    safe: Sequence[Callable[..., Any] | tuple[Callable[..., Any], str]] = (),
) -> Any:
    """Return the content of a file that `torch.save` wrote, on the CPU, without unpickling code.

    Parameters
    ----------
    path
        Path of the file.
    mmap
        Whether the file is memory-mapped: the tensors' bytes are read from it only when they are used.
    verify
        Whether each record's CRC-32 is compared, which torch writes but does not check. Files of torch before 1.6 have
        no CRC-32.
    safe
        Globals that may be loaded in addition to those that ``weights_only`` allows.

    Raises
    ------
    NotFoundError
        If the file does not exist.
    CheckpointError
        If the file is empty, truncated, damaged, not a file of tensors, would run code, or has tensors or lists that
        are larger than the file.
    StorageError
        If the file cannot be read.
    """
    path = Path(path)
    with storage_errors(path, "read"):
        if not path.is_file():
            raise NotFoundError(f"{path}: the file does not exist")
        n_bytes = path.stat().st_size
        if n_bytes == 0:
            raise CheckpointError(f"{path}: the file is empty; delete it and write it again")
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        sizes = check_file(path, zipped) if verify else set()
    try:
        # The list of safe globals is shared by all threads, so it is changed only if there are such globals.
        with torch.serialization.safe_globals(list(safe)) if safe else nullcontext():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipped)
    except Exception as error:
        raise _loading_error(path, error) from error
    check_content(content, n_bytes, sizes, path)
    return content


def _loading_error(path: Path, error: Exception) -> CheckpointError:
    """Return the error for content that torch did not load: other objects, or bytes that are no pickle."""
    found = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    # An "operand" is an instruction of the pickle. torch knows all those that torch.save writes.
    if isinstance(error, pickle.UnpicklingError) and not any("operand" in line for line in found):
        return CheckpointError(
            f"{path}: found {found[0] if found else 'a pickle of other objects'}; expected tensors and plain values; "
            "nothing else is loaded"
        )
    # On damaged bytes, an unpickler raises errors of any kind.
    reason = found[0] if found else f"{type(error).__name__}: {error}"
    return CheckpointError(
        f"{path}: the content cannot be read ({reason}); expected a file of tensors, but it is truncated, damaged or "
        "another kind of file; restore it from a copy or write it again"
    )


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a ``.safetensors`` file, on the CPU.

    Raises
    ------
    MissingExtraError
        If safetensors is not installed.
    NotFoundError
        If the file does not exist.
    CheckpointError
        If the file is damaged or has another format.
    StorageError
        If the file cannot be read.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: safetensors cannot be imported ({error}); pip install safetensors"
        ) from error
    with storage_errors(path, "read"):
        if not path.is_file():
            raise NotFoundError(f"{path}: the file does not exist")
        try:
            tensors: dict[str, torch.Tensor] = load_file(path)
        except SafetensorError as error:
            raise CheckpointError(
                f"{path}: {error}; expected a safetensors file; restore it from a copy or write it again"
            ) from error
    return tensors


def check_finite_weights(weights: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Check that the weights of a file are finite.

    Raises
    ------
    CheckpointError
        If a tensor has values that are NaN or infinite; the message names the file and the tensor.

    Examples
    --------
    >>> check_finite_weights({"fc.bias": torch.tensor([0.5, float("nan")])}, "model_best.pth.tar")
    Traceback (most recent call last):
    neurocnn.errors.CheckpointError: model_best.pth.tar: fc.bias has 1 value that is NaN or infinite; ...
    """
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            n_wrong = int((~value.isfinite()).sum())
            if n_wrong:
                values = "value that is" if n_wrong == 1 else "values that are"
                raise CheckpointError(
                    f"{path}: {name} has {n_wrong} {values} NaN or infinite; expected finite weights; use weights of "
                    "an earlier epoch, or train again with a lower learning_rate"
                )

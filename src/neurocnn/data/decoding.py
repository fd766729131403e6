"""Decoding of NIfTI files, and comparison of their voxels with those of prepared tensors."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from neurocnn.data import nifti
from neurocnn.data.sources import Source
from neurocnn.data.tensor_files import is_made_from
from neurocnn.errors import ImageError


def decode(source: Source) -> Tensor:
    """Return the voxels of an image's NIfTI file, (1, D, H, W), in the file's order of axes."""
    if source.nifti is None:
        raise ImageError(f"{source.name}: expected a NIfTI file or a prepared tensor; found neither")
    return nifti.read_voxels(source.nifti, source.name)[0]


def is_up_to_date(tensor: Tensor, path: Path, source: Source, read: Callable[[Source], Tensor]) -> bool:
    """Return whether a prepared tensor is up to date, that is, equals the voxels that ``read(source)`` returns.

    The voxels are read only if neither the record in the tensor's file nor the times of both files show that they are
    equal. A tensor without a NIfTI file is always up to date.
    """
    if source.nifti is None or is_made_from(path, source.nifti):
        return True
    # Other programs scale integers in float64, which adds a rounding; therefore small differences are allowed. NaN
    # counts as 0.
    first, second = torch.nan_to_num(read(source)), torch.nan_to_num(tensor)
    return torch.allclose(first, second, rtol=1e-5, atol=1e-6 * float(first.abs().max()))

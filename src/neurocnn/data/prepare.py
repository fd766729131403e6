"""Prepared tensors: their names, and reading and writing one.

They are those of ``clinicadl prepare-data``: a plain float32 tensor of the voxels in the file's order. Ours
also carry, as one more record that torch does not look at, which NIfTI they were made of and which voxels
they hold, so that a tensor of an image that has changed since is noticed.
"""

import contextlib
import io
import json
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from neurocnn.errors import CheckpointError, ImageError
from neurocnn.storage.files import write_whole
from neurocnn.storage.tensors import load_tensors

_RECORD = "archive/neurocnn.json"


@dataclass(frozen=True)
class Origin:
    """What a prepared tensor was made of.

    Parameters
    ----------
    source
        The NIfTI's `fingerprint`.
    part
        Which voxels: empty for all of them.
    """

    source: str
    part: str = ""


def fingerprint(nifti: Path) -> str:
    """A short text that changes when the voxels of a NIfTI file change; takes one small read.

    For gzip it is made of the checksum and length that stand at the end of the file, otherwise of the time
    of its last change.
    """
    status = nifti.stat()
    if not nifti.name.endswith(".gz"):
        return f"nii-{status.st_size}-{status.st_mtime_ns}"
    with open(nifti, "rb") as file:
        file.seek(-min(8, status.st_size), os.SEEK_END)
        end = file.read(8).rjust(8, b"\0")
    checksum, length = struct.unpack("<II", end)
    return f"gz-{status.st_size}-{checksum:08x}-{length}"


def part_stem(stem: str, descriptor: str) -> str:
    """The name of a part's tensor: the part's descriptor goes before the last ``_``.

    Examples
    --------
    >>> part_stem("sub-1_ses-M00_space-X_desc-Crop_T1w", "roi-hippocampus")
    'sub-1_ses-M00_space-X_desc-CropRoi_roi-hippocampus_T1w'
    """
    if descriptor.startswith("roi-"):
        stem = stem.replace("_desc-Crop_", "_desc-CropRoi_")
    before, _, last = stem.rpartition("_")
    return f"{before}_{descriptor}_{last}"


def write_prepared(image: Tensor, path: Path, origin: Origin | None) -> None:
    """Write a prepared tensor, whole or not at all.

    Parameters
    ----------
    image
        (1, D, H, W) or a part of it, float32.
    path
        The ``.pt`` file.
    origin
        What it was made of; None: an image without a NIfTI.
    """
    buffer = io.BytesIO()
    torch.save(image.contiguous(), buffer)
    if origin is not None:
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(_RECORD, json.dumps({"source": origin.source, "part": origin.part}))
    with write_whole(path) as file:
        file.write(buffer.getbuffer())


def read_origin(path: Path) -> Origin | None:
    """What a prepared tensor was made of; None if it does not say (another program wrote it)."""
    with contextlib.suppress(zipfile.BadZipFile, KeyError, ValueError, OSError, NotImplementedError):
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(_RECORD))
        return Origin(str(found["source"]), str(found["part"]))
    return None


def made_of(path: Path, nifti: Path) -> bool | None:
    """Whether a prepared tensor was made of a NIfTI file as it is now; None if only its voxels can tell."""
    origin = read_origin(path)
    if origin is not None:
        return True if origin.source == fingerprint(nifti) else None
    # Another program's says nothing of its origin; made after the NIfTI, it is used as it is.
    return True if path.stat().st_mtime_ns >= nifti.stat().st_mtime_ns else None


def open_prepared(path: Path, what: str, *, verify: bool, mmap: bool = True) -> Tensor:
    """The tensor of a file, its bytes left on the disk until they are used.

    Parameters
    ----------
    path
        The ``.pt`` file.
    what
        Which image it is, for messages.
    verify
        Compare the file's checksums.
    mmap
        Leave the bytes in the file until they are used.

    Raises
    ------
    ImageError
        It is damaged, unsafe, or no float32 tensor.
    """
    try:
        image = load_tensors(path, mmap=mmap, verify=verify)
    except CheckpointError as error:
        raise ImageError(
            f"{what}: the prepared tensor cannot be used: {error}; caps.prepare() makes it anew"
        ) from error
    if not isinstance(image, Tensor) or image.dtype != torch.float32:
        found = f"a tensor of {image.dtype}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise ImageError(
            f"{what}: {path} holds {found}, expected a float32 tensor; caps.prepare() makes it anew"
        )
    return image

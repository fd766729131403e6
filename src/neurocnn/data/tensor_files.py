"""File of a prepared tensor: its name, its content, and the NIfTI file from which it was created.

Names and content are those of ``clinicadl prepare-data``: a plain float32 tensor of the voxels in the file's order. A
file of neurocnn contains an additional record, which torch ignores: the NIfTI file and the voxels from which it was
created. The record shows whether the image has changed since then.
"""

import contextlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten

import torch
from torch import Tensor

from neurocnn.data.fingerprints import DAMAGED_ZIP, file_stamp, gzip_trailer
from neurocnn.errors import CheckpointError, ImageError
from neurocnn.storage.files import storage_errors, write_atomically
from neurocnn.storage.tensors import load_tensors

_RECORD = "archive/neurocnn.json"
_MAX_RECORD_BYTES = 4096


@dataclass(frozen=True)
class Origin:
    """Origin of a prepared tensor: its NIfTI file and its voxels.

    Parameters
    ----------
    source
        Stamp of the NIfTI file, see `nifti_stamp`; empty if there was no NIfTI file.
    part
        Box and mask of the part, see `part_signature`; empty for the complete image.
    """

    source: str
    part: str = ""


def nifti_stamp(nifti: Path) -> str:
    """Return a short string that changes if a NIfTI file changes. At most the last bytes of the file are read.

    For a gzip file, the string contains the checksum and the length at the end of the file; for an uncompressed file,
    the modification time. Both also contain the size of the file.
    """
    status = nifti.stat()
    if not nifti.name.endswith(".gz"):
        return f"nii-{status.st_size}-{status.st_mtime_ns}"
    checksum, length = gzip_trailer(nifti)
    return f"gz-{status.st_size}-{checksum:08x}-{length}"


def part_stem(stem: str, descriptor: str) -> str:
    """Return the name of a part's tensor: the name of the image, with the descriptor of the part before the last ``_``.

    Examples
    --------
    >>> part_stem("sub-1_ses-M00_space-X_desc-Crop_T1w", "roi-hippocampus")
    'sub-1_ses-M00_space-X_desc-CropRoi_roi-hippocampus_T1w'
    """
    if descriptor.startswith("roi-"):
        stem = stem.replace("_desc-Crop_", "_desc-CropRoi_")
    before, _, last = stem.rpartition("_")
    return f"{before}_{descriptor}_{last}"


def write_prepared(voxels: Tensor, path: Path, origin: Origin) -> None:
    """Write a prepared tensor (1, D, H, W), or a part of it, atomically."""
    buffer = io.BytesIO()
    torch.save(voxels.contiguous(), buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(_RECORD, json.dumps(asdict(origin)))
    with write_atomically(path) as file:
        file.write(buffer.getbuffer())


def read_origin(path: Path) -> Origin | None:
    """Return the origin of a prepared tensor, or None if another program wrote it."""
    with (
        contextlib.suppress(*DAMAGED_ZIP, KeyError, TypeError, RecursionError),
        zipfile.ZipFile(path) as archive,
    ):
        if archive.getinfo(_RECORD).file_size <= _MAX_RECORD_BYTES:
            record = json.loads(archive.read(_RECORD))
            return Origin(str(record["source"]), str(record["part"]))
    return None


def is_made_from(path: Path, nifti: Path) -> bool | None:
    """Return True if a prepared tensor was created from the current content of a NIfTI file, None if unknown."""
    origin = read_origin(path)
    if origin is not None:
        return True if origin.source == nifti_stamp(nifti) else None
    # Tensors of other programs have no record, so times are compared. If the NIfTI file was replaced by an older one,
    # its ctime is new, even if its modification time was kept.
    return True if path.stat().st_mtime_ns >= max(file_stamp(nifti)[2:]) else None


def open_prepared(path: Path, name: str, *, verify: bool, mmap: bool = True) -> Tensor:
    """Return the tensor in a prepared file.

    Parameters
    ----------
    path
        Path of the ``.pt`` file.
    name
        Name of the image, for messages.
    verify
        Whether to compare the file's checksums.
    mmap
        Whether to map the file into memory instead of reading it.

    Raises
    ------
    ImageError
        If the file is damaged, unsafe, or not a float32 tensor.
    """
    remedy = "delete it, or write it again with caps.prepare()"
    try:
        with storage_errors(path, f"read {name}"):
            voxels = load_tensors(path, mmap=mmap, verify=verify)
    except CheckpointError as error:
        raise ImageError(f"{name}: the prepared tensor cannot be used: {error}; {remedy}") from error
    if not isinstance(voxels, Tensor) or voxels.dtype != torch.float32 or voxels.layout != torch.strided:
        raise ImageError(f"{name}: {path}: found {_describe(voxels)}; expected a float32 tensor; {remedy}")
    return voxels


def _describe(content: object) -> str:
    """Return a description of an object: its type, with the keys of a dict or the dtype of a tensor."""
    if isinstance(content, Tensor):
        return f"a {content.layout} tensor of {content.dtype}"
    if isinstance(content, dict):
        return f"a {type(content).__name__} with the keys {shorten(', '.join(map(str, content)), 80)}"
    return f"a {type(content).__name__}"

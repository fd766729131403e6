"""Reading of a NIfTI file, with a check of every byte.

nibabel returns wrong voxels without an error if a bit of a gzip file is flipped, and allocates the memory that a wrong
header requires. Therefore the header is checked first, the decompressed size is limited to the size in the header, and
the checksum of the gzip stream is compared before a voxel is used.
"""

import io
import math
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from neurocnn.data.memory_order import copy_voxels
from neurocnn.data.orientation import Affine, Shape3
from neurocnn.errors import ImageError, NotFoundError
from neurocnn.storage.compression import zlib_module
from neurocnn.storage.files import storage_errors
from neurocnn.storage.memory import available_memory

# Highest compression ratio of DEFLATE: a header that requires a higher ratio is wrong.
_BEST_RATIO = 1032
# Size of the larger of both kinds of headers, NIfTI-2.
_HEADER_BYTES = 540
_GZIP = b"\x1f\x8b"
_ZEROS = re.compile(rb"\0*")
# Number of bytes of the first chunk that is passed to a decompressor.
_FIRST_CHUNK = 4096
# A file may have this many gzip members, and one more per 512 bytes of content: parallel compressors write members of
# 64 KiB, and a file of very many empty members would take long to read.
_FREE_MEMBERS, _MEMBER_BYTES = 64, 512
_RESTORE = "restore the file or run Clinica again"


@dataclass(frozen=True, eq=False)
class Header:
    """Content of an image's header.

    Parameters
    ----------
    shape
        Shape (D, H, W) in voxels, each at least 1.
    affine
        Affine (4, 4) from voxel to world in mm, finite and invertible.
    n_bytes
        Size of the decompressed file.
    is_oriented
        Whether the header has an orientation code. Without a code, the affine contains only the size of the voxels.
    layout
        Arguments of nibabel's array proxy: shape, type, offset, slope and intercept.
    """

    shape: Shape3
    affine: Affine
    n_bytes: int
    is_oriented: bool
    layout: tuple[tuple[int, ...], np.dtype[Any], int, float, float]


def read_header(path: Path, name: str, *, one_channel: bool = False) -> Header:
    """Return the checked header of a NIfTI file. Only the first bytes are read.

    Parameters
    ----------
    path
        Path of the file, ``.nii.gz`` or ``.nii``.
    name
        Name of the image, for messages.
    one_channel
        Whether to allow a fourth axis of length 1, which masks may have.

    Raises
    ------
    NotFoundError
        If the file is missing.
    ImageError
        If the file is empty, truncated, not NIfTI, or its header is invalid.
    """
    # Opening a pipe would wait for ever, so the path must be that of a file.
    if not path.is_file():
        raise NotFoundError(f"{name}: {path}: the file does not exist")
    with storage_errors(path, f"read {name}"), open(path, "rb") as file:
        start = file.read(_FIRST_CHUNK)
    if not start:
        raise ImageError(f"{name}: {path}: the file is empty (zero bytes); {_RESTORE}")
    if _is_gzip(path):
        start = _decompress_start(start, path, name)
    elif start.startswith(_GZIP):
        raise ImageError(
            f"{name}: {path} is gzip-compressed; expected uncompressed NIfTI, as its name says; "
            f"rename it to {path.name}.gz"
        )
    return _parse_header(start, path, name, one_channel)


def read_voxels(path: Path, name: str, *, one_channel: bool = False) -> tuple[Tensor, Header]:
    """Return the voxels and the header of a NIfTI file.

    Parameters
    ----------
    path
        Path of the file, ``.nii.gz`` or ``.nii``.
    name, one_channel
        See `read_header`.

    Returns
    -------
    image, header
        Voxels (1, D, H, W) as float32, scaled by the header's slope and intercept, in the file's order (non-finite
        voxels are not changed), and the header.

    Raises
    ------
    ImageError
        See `read_header`; also if the gzip checksum is wrong, or the size differs from the size in the header.
    """
    header = read_header(path, name, one_channel=one_channel)
    _check_size(header, path, name)
    with storage_errors(path, f"read {name}"):
        content = path.read_bytes()
    if _is_gzip(path):
        content = _decompress(content, header.n_bytes, path, name)
    if len(content) != header.n_bytes:
        raise ImageError(
            f"{name}: {path}: {len(content)} bytes; expected the {header.n_bytes} that its header requires; the file "
            f"is truncated or damaged; {_RESTORE}"
        )
    proxy: Any = nib.arrayproxy.ArrayProxy
    # A value that is too large for float32 becomes infinite, which the caller reports.
    with np.errstate(all="ignore"):
        # nibabel applies the slope and intercept of the header, so that the values equal those of other programs.
        voxels = np.asanyarray(proxy(io.BytesIO(content), header.layout), dtype=np.float32)
    return copy_voxels(torch.from_numpy(voxels)).unsqueeze(0), header


def _is_gzip(path: Path) -> bool:
    return path.name.endswith(".gz")


def _decompress_start(start: bytes, path: Path, name: str) -> bytes:
    if not start.startswith(_GZIP):
        remedy = f"rename it to {path.name.removesuffix('.gz')} if it is not compressed, or {_RESTORE}"
        raise ImageError(
            f"{name}: {path} is not gzip-compressed; found {start[:4]!r}; expected gzip, as its name says; {remedy}"
        )
    try:
        return zlib.decompressobj(wbits=31).decompress(start, _HEADER_BYTES)
    except zlib.error as error:
        raise ImageError(f"{name}: {path} is damaged ({error}); {_RESTORE}") from None


def _decompress(content: bytes, n_bytes: int, path: Path, name: str) -> bytes:
    """Check the gzip members of a file, and return their decompressed content, at most `n_bytes`."""
    damage = (
        zlib.error,
        getattr(zlib_module(), "error", zlib.error),
        getattr(zlib_module(), "IsalError", zlib.error),
    )
    view = memoryview(content)
    pieces: list[bytes] = []
    position, remaining = 0, n_bytes
    n_members, most_members = 0, _FREE_MEMBERS + n_bytes // _MEMBER_BYTES
    while position < len(content):
        stream, size = zlib_module().decompressobj(wbits=31), _FIRST_CHUNK
        n_members += 1
        if n_members > most_members:
            raise ImageError(
                f"{name}: {path} has more than {most_members} gzip members; expected larger members; {_RESTORE}"
            )
        while not stream.eof:
            if position >= len(content):
                raise ImageError(f"{name}: {path} is truncated; {_RESTORE}")
            # zlib copies the unused end of a chunk. Chunks that double in size keep the sum of all copies
            # proportional to the size of the file, even if it consists of very many empty members.
            chunk = view[position : position + size]
            try:
                # One byte more than allowed is requested, to detect content that is too large.
                pieces.append(stream.decompress(chunk, remaining + 1))
            except damage as error:
                raise ImageError(
                    f"{name}: {path} is damaged: its compressed content or checksum is wrong ({error}); {_RESTORE}"
                ) from None
            remaining -= len(pieces[-1])
            if remaining < 0:
                raise ImageError(
                    f"{name}: {path} is damaged: its content exceeds the {n_bytes} bytes that its header requires; "
                    f"{_RESTORE}"
                )
            position += len(chunk) - len(stream.unused_data)
            size *= 2
        position = _ZEROS.match(content, position).end()  # type: ignore[union-attr]  # gzip allows zeros as padding
    return b"".join(pieces)


def _parse_header(start: bytes, path: Path, name: str, one_channel: bool) -> Header:
    """Return the header in a file's first bytes, else raise an ImageError with the invalid value."""
    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    kind: Any = nib.Nifti2Header if 540 in sizes and 348 not in sizes else nib.Nifti1Header
    if not sizes & {348, 540} or len(start) < kind.sizeof_hdr:
        raise ImageError(f"{name}: {path} is not a NIfTI file, or is truncated within its header; {_RESTORE}")
    try:
        return _header_of(kind, start[: kind.sizeof_hdr], one_channel)
    except ImageError as error:
        raise ImageError(f"{name}: {path}: {error}") from None


# The images of a pipeline have few different headers.
@lru_cache(maxsize=1024)
def _header_of(kind: Any, content: bytes, one_channel: bool) -> Header:
    try:
        with np.errstate(all="ignore"):
            header = kind(content, check=False)
            dim = [int(n) for n in header["dim"]]
            dtype = header.get_data_dtype()
            slope, intercept = header.get_slope_inter()
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
            offset = int(header["vox_offset"])
            is_oriented = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    except KeyError as error:
        raise ImageError(f"datatype={error}; expected a type of voxels that NIfTI defines") from None
    except (nib.spatialimages.HeaderDataError, ValueError, OverflowError, np.linalg.LinAlgError) as error:
        raise ImageError(f"the header is invalid: {error}; {_RESTORE}") from None
    shape = tuple(dim[1 : 1 + dim[0]]) if 1 <= dim[0] <= 7 else tuple(dim)
    if one_channel and len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) != 3 or min(shape) < 1:
        raise ImageError(f"shape={shape}; expected three positive numbers of voxels")
    if dtype.names is not None or dtype.kind not in "iuf":
        raise ImageError(f"voxels of type {dtype}; expected real numbers")
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ImageError(f"affine={affine.tolist()}; expected finite and invertible")
    if offset < kind.sizeof_hdr:
        raise ImageError(f"vox_offset={offset}; expected at least {kind.sizeof_hdr}")
    scale = (1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
    n_bytes = offset + math.prod(shape) * dtype.itemsize
    # The header of several images is one object.
    affine.flags.writeable = False
    return Header(shape, affine, n_bytes, is_oriented, (shape, dtype, offset, *scale))


def _check_size(header: Header, path: Path, name: str) -> None:
    """Check that the file is large enough for the voxels in its header, and that these voxels fit into memory."""
    size = path.stat().st_size
    if header.n_bytes > (size * _BEST_RATIO if _is_gzip(path) else size):
        raise ImageError(
            f"{name}: {path}: the header requires {header.n_bytes} bytes ({header.shape} voxels), which a file of "
            f"{size} bytes cannot contain; the file is truncated or damaged; {_RESTORE}"
        )
    needed, available = header.n_bytes + 8 * math.prod(header.shape), available_memory()
    if needed > available:
        raise ImageError(
            f"{name}: {path}: reading {header.shape} voxels takes {needed} bytes of memory, but only {available} are "
            "available; use a machine with more memory"
        )

"""Reading one NIfTI file, every byte of it checked.

nibabel alone returns wrong voxels in silence when a bit of a gzip file has flipped, and allocates whatever a
header claims. Here the header is judged first, the inflation is bounded by what the header says, and the
checksum of the gzip stream is compared before a voxel is used.
"""

import io
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from neurocnn.errors import ImageError, NotFoundError
from neurocnn.storage.memory import available_memory

# DEFLATE cannot compress better than this: a header that claims more is wrong.
_BEST_RATIO = 1032
_HEADER_BYTES = 4096


@dataclass(frozen=True, eq=False)
class Header:
    """What is known of an image before its voxels are read.

    Parameters
    ----------
    shape
        Three positive numbers of voxels.
    affine
        (4, 4), from voxel to world in mm, finite and invertible.
    n_bytes
        Of the whole inflated file.
    layout
        What nibabel's array proxy needs to know: shape, type, offset, slope and intercept.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray[Any, np.dtype[np.float64]]
    n_bytes: int
    layout: tuple[Any, ...]


def read_header(path: Path, what: str, *, one_channel: bool = False) -> Header:
    """Read and judge the header of a NIfTI file; only the first bytes are read.

    Parameters
    ----------
    path
        The file, ``.nii.gz`` or ``.nii``.
    what
        Which image it is, for messages.
    one_channel
        Allow a fourth axis of length 1, as masks have it.

    Raises
    ------
    NotFoundError
        There is no such file.
    ImageError
        It is empty, truncated, no NIfTI, or its header claims what cannot be.
    """
    if not path.is_file():
        raise NotFoundError(f"{what}: there is no file {path}")
    with open(path, "rb") as file:
        start = file.read(_HEADER_BYTES)
    if not start:
        raise ImageError(f"{what}: {path} is empty (zero bytes); run Clinica again for this image")
    if _zipped(path):
        start = _inflate_start(start, path, what)
    return _judge(start, path, what, one_channel)


def read_voxels(path: Path, what: str, *, one_channel: bool = False) -> tuple[Tensor, Header]:
    """Read a whole NIfTI file.

    Parameters
    ----------
    path
        The file, ``.nii.gz`` or ``.nii``.
    what, one_channel
        As of `read_header`.

    Returns
    -------
    image, header
        (1, D, H, W) float32, scaled as the header says, in the file's order of voxels; non-finite voxels
        are left as they are.

    Raises
    ------
    ImageError
        As `read_header`; also a wrong gzip checksum, or more or fewer bytes than the header says.
    """
    header = read_header(path, what, one_channel=one_channel)
    _refuse_too_large(header, path, what)
    content = path.read_bytes()
    if _zipped(path):
        content = _inflate(content, header.n_bytes, path, what)
    if len(content) != header.n_bytes:
        raise ImageError(
            f"{what}: {path} holds {len(content)} bytes, expected {header.n_bytes} as its header says; "
            "it is truncated or damaged: restore it or run Clinica again"
        )
    proxy: Any = nib.arrayproxy.ArrayProxy
    # A value that float32 cannot hold becomes infinite, which the caller reports.
    with np.errstate(all="ignore"):
        # Scaled by nibabel, so that the numbers are those that every other program gets from it.
        voxels = np.asanyarray(proxy(io.BytesIO(content), header.layout), dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(voxels)).unsqueeze(0), header


def _zipped(path: Path) -> bool:
    return path.name.endswith(".gz")


def _inflate_start(start: bytes, path: Path, what: str) -> bytes:
    if start[:2] != b"\x1f\x8b":
        raise ImageError(f"{what}: {path} is not gzip, though its name says so; found {start[:2]!r}")
    try:
        return zlib.decompressobj(wbits=31).decompress(start, _HEADER_BYTES)
    except zlib.error as error:
        raise ImageError(f"{what}: {path} is damaged: {error}; restore it or run Clinica again") from None


@cache
def _zlib() -> Any:
    """The fast zlib of isal where it is installed, Python's otherwise."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


def _inflate(content: bytes, n_bytes: int, path: Path, what: str) -> bytes:
    """Inflate gzip members up to `n_bytes` and check each one's checksum and length."""
    damage = (zlib.error, getattr(_zlib(), "error", zlib.error), getattr(_zlib(), "IsalError", zlib.error))
    members = []
    left = n_bytes
    while content:
        stream = _zlib().decompressobj(wbits=31)
        try:
            # One byte more than allowed is enough to see that there are more.
            member = stream.decompress(content, left + 1)
        except damage as error:
            raise ImageError(
                f"{what}: {path} is damaged, its compressed content or checksum is wrong ({error}); "
                "restore it or run Clinica again"
            ) from None
        left -= len(member)
        if left < 0:
            raise ImageError(
                f"{what}: {path} is damaged, it inflates to more than the {n_bytes} bytes that its header says; "
                "restore it or run Clinica again"
            )
        if not stream.eof:
            raise ImageError(f"{what}: {path} is truncated; restore it or run Clinica again")
        members.append(member)
        content = stream.unused_data.lstrip(b"\0")  # gzip allows zeros as padding
    return members[0] if len(members) == 1 else b"".join(members)


def _judge(start: bytes, path: Path, what: str, one_channel: bool) -> Header:
    """Make a `Header` of a file's first bytes, or say what is wrong with them."""
    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    version = 1 if 348 in sizes else 2 if 540 in sizes else 0
    kind: Any = nib.Nifti2Header if version == 2 else nib.Nifti1Header
    if version == 0 or len(start) < kind.sizeof_hdr:
        raise ImageError(f"{what}: {path} is no NIfTI file, or truncated within its header")
    try:
        with np.errstate(all="ignore"):
            header = kind(start[: kind.sizeof_hdr], check=False)
            dim = [int(n) for n in header["dim"]]
            dtype = header.get_data_dtype()
            slope, inter = header.get_slope_inter()
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
            offset = int(header["vox_offset"])
    except KeyError as error:
        raise ImageError(f"{what}: the type of the voxels of {path} is unknown (code {error})") from None
    except (nib.spatialimages.HeaderDataError, ValueError, OverflowError, np.linalg.LinAlgError) as error:
        raise ImageError(f"{what}: the header of {path} makes no sense: {error}") from None
    shape = tuple(dim[1 : 1 + dim[0]]) if 1 <= dim[0] <= 7 else tuple(dim)
    if one_channel and len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) != 3 or min(shape) < 1:
        raise ImageError(f"{what}: the shape in {path} is {shape}, expected three positive numbers of voxels")
    if dtype.names is not None or dtype.kind not in "iuf":
        raise ImageError(f"{what}: the voxels of {path} are of type {dtype}, expected real numbers")
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ImageError(f"{what}: the affine of {path} is not finite or singular: {affine.tolist()}")
    if offset < kind.sizeof_hdr:
        raise ImageError(f"{what}: the header of {path} says that the voxels begin at byte {offset}")
    n_bytes = offset + int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    scale = (1.0 if slope is None else slope, 0.0 if inter is None else inter)
    return Header(shape, affine, n_bytes, (shape, dtype, offset, *scale))


def _refuse_too_large(header: Header, path: Path, what: str) -> None:
    size = path.stat().st_size
    possible = size * _BEST_RATIO if _zipped(path) else size
    needed = header.n_bytes + 8 * int(np.prod(header.shape, dtype=object))
    available = available_memory()
    if header.n_bytes > possible:
        raise ImageError(
            f"{what}: the header of {path} claims {header.n_bytes} bytes ({header.shape} voxels), but the "
            f"file of {size} bytes cannot hold them; it is truncated or damaged"
        )
    if needed > available:
        raise ImageError(
            f"{what}: reading {path} ({header.shape} voxels) takes {needed} bytes of memory, "
            f"of which {available} are available"
        )

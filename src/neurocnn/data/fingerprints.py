"""Fingerprints of images: short strings that change if the content of the image changes.

A result folder contains fingerprints, so that a replaced image is recognised. They depend only on the content of an
image, so that the images in a copied folder have the same fingerprints.
"""

import os
import stat
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from neurocnn.data.sources import Source
from neurocnn.storage.compression import zlib_module
from neurocnn.storage.files import storage_errors

#: Errors that `zipfile` raises for a damaged file.
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError)
_BLOCK = 1 << 20


def fingerprint(source: Source) -> str:
    """Return the checksum and size of an image's content.

    Both numbers refer to the decompressed NIfTI file. A ``.nii.gz`` contains both at its end, so that nothing is
    decompressed; for a ``.nii`` they are computed once per process. For a prepared tensor without a NIfTI file, they
    refer to its voxels and are read from the ``.pt`` file.

    Raises
    ------
    StorageError
        If the file cannot be read.
    """
    path = source.nifti if source.nifti is not None else source.tensor_path
    with storage_errors(path, f"read {source.name}"):
        if path.name.endswith(".gz"):
            return "nifti-{:08x}-{}".format(*gzip_trailer(path))
        if source.nifti is None:
            return _tensor_fingerprint(path)
        return f"nifti-{_file_checksum(path)}"


def gzip_trailer(path: Path) -> tuple[int, int]:
    """Return the CRC-32 and the size (modulo 2³²) of the uncompressed content, from the last 8 bytes of a gzip file."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        checksum, length = struct.unpack("<II", file.read(8).rjust(8, b"\0"))
    return checksum, length


def file_stamp(path: Path) -> tuple[int, ...]:
    """Return numbers that change if a file is replaced or written to, even if its modification time is restored."""
    link = os.lstat(path)
    status = os.stat(path) if stat.S_ISLNK(link.st_mode) else link
    return status.st_ino, status.st_size, status.st_mtime_ns, max(status.st_ctime_ns, link.st_ctime_ns)


def _tensor_fingerprint(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            records = [entry for entry in archive.infolist() if "/data/" in entry.filename]
    except DAMAGED_ZIP:
        records = []
    # torch before version 1.6 wrote files that are not zip files, without checksums.
    if not records:
        return f"tensor-{_file_checksum(path)}"
    return "tensor-" + "-".join(f"{entry.CRC:08x}-{entry.file_size}" for entry in records)


def _file_checksum(path: Path) -> str:
    return _checksum_once(path, file_stamp(path))


@lru_cache(maxsize=100_000)
def _checksum_once(path: Path, stamp: tuple[int, ...]) -> str:
    """Return the CRC-32 and the size of a file. `stamp` is part of the cache's key, because the file may change."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib_module().crc32(block, checksum)
    return f"{checksum:08x}-{stamp[1]}"

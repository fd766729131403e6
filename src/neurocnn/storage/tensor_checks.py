"""Security checks of a file of tensors from an unknown source.

Reading a file must not take more memory than its size. Therefore compressed records, tensors and lists that are larger
than the file, and objects that allocate a number of bytes given in the file are refused.
"""

import os
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

from neurocnn.errors import CheckpointError
from neurocnn.storage.compression import zlib_module

_MAX_DEPTH = 100
# `weights_only` allows these globals, although they allocate as many bytes as the pickle requests.
_ALLOCATING = re.compile(rb"c(?:__builtin__|builtins)\nbytearray\n|ctorch[\w.]*\n\w*Tensor\n")
# Offset of the length of the name in the local header of a zip record, which precedes the content.
_NAME_LENGTH = 26
_BLOCK = 2**18
_REMEDY = "restore it from a copy or write it again"


def check_file(path: Path, zipped: bool) -> set[int]:
    """Check the records and the pickle of a file before it is loaded, and return the sizes of its records.

    Raises
    ------
    CheckpointError
        If a checksum is wrong, a record is compressed, or the pickle is not one that torch.save writes.
    """
    pickled, sizes = _check_archive(path) if zipped else (path.read_bytes(), set())
    # For other pickle protocols torch only warns, and its unpickler for them is less restricted.
    if (pickled[:1] == b"\x80" and pickled[:2] != b"\x80\x02") or _ALLOCATING.search(pickled):
        raise CheckpointError(
            f"{path}: found a pickle that torch.save does not write by default; expected tensors and plain values; "
            "nothing else is loaded"
        )
    return sizes


def _check_archive(path: Path) -> tuple[bytes, set[int]]:
    """Return the pickle of a zip file and the sizes of its records, after a check of all of them."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            sizes = [record.file_size for record in records]
            unusual = [
                r.filename for r in records if r.compress_type != zipfile.ZIP_STORED or r.flag_bits & 1
            ]
            # Overlapping records could take many times the size of the file.
            if unusual or sum(sizes) > path.stat().st_size:
                raise CheckpointError(
                    f"{path}: {(unusual or ['a record'])[0]} is compressed, encrypted or overlaps another record; "
                    f"expected uncompressed records, as torch.save writes them; {_REMEDY}"
                )
            for record in records:
                # This checks the local header, which torch reads.
                archive.open(record).close()
            _check_checksums(file, records, path)
            names = [record.filename for record in records if record.filename.endswith("/data.pkl")]
            return archive.read(names[0]) if names else b"", set(sizes)
    except CheckpointError:
        raise
    except Exception as error:
        # zipfile raises errors of any kind on damaged bytes.
        raise CheckpointError(
            f"{path}: the file is truncated or damaged ({error}); expected an archive as torch.save writes it; "
            f"{_REMEDY}"
        ) from error


def _check_checksums(file: BufferedReader, records: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Compare the CRC-32 of each record. `ZipFile.testzip` does the same, but takes several times as long."""
    crc32, block = zlib_module().crc32, memoryview(bytearray(_BLOCK))
    for record in records:
        file.seek(record.header_offset + _NAME_LENGTH)
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(name + extra, os.SEEK_CUR)
        checksum, left = 0, record.file_size
        while left and (n := file.readinto(block[:left])):
            checksum, left = crc32(block[:n], checksum), left - n
        if left or checksum != record.CRC:
            raise CheckpointError(
                f"{path}: wrong checksum of {record.filename}; the file is damaged; {_REMEDY}"
            )


def check_content(content: Any, n_bytes: int, sizes: set[int], path: Path) -> None:
    """Check that loaded content is not larger than its file, which has `n_bytes`, and not deeply nested.

    `sizes` are the sizes of the file's records: the storage of every tensor must have one of these sizes. An empty
    set disables this check.

    Raises
    ------
    CheckpointError
        If a tensor is larger than the file or not a dense CPU tensor, the content has more items than the file has
        bytes, or containers are nested more than 100 deep.
    """
    # Pending values are kept in a list, because recursion into deep nesting would exceed Python's limit.
    pending: list[tuple[Any, int]] = [(content, 0)]
    n_items = 1
    while pending:
        value, depth = pending.pop()
        inner: list[Any] = []
        if isinstance(value, torch.Tensor):
            _check_tensor(value, n_bytes, sizes, path)
        elif isinstance(value, Mapping):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            inner = list(value)
        # If a list is referenced several times, it is counted each time, because code that reads the content also
        # visits it each time.
        n_items += len(inner)
        if n_items > n_bytes or (inner and depth >= _MAX_DEPTH):
            raise CheckpointError(
                f"{path}: more than {n_bytes} items or {_MAX_DEPTH} nested levels; expected at most one item per byte "
                f"of the file, and at most {_MAX_DEPTH} levels; {_REMEDY}"
            )
        pending.extend((item, depth + 1) for item in inner)


def _check_tensor(tensor: torch.Tensor, n_bytes: int, sizes: set[int], path: Path) -> None:
    found = f"{path}: tensor of shape {tuple(tensor.shape)}"
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(
            f"{found}, {tensor.layout} on {tensor.device}; expected a dense tensor on the CPU"
        )
    size = tensor.numel() * tensor.element_size()
    if size > n_bytes:
        raise CheckpointError(
            f"{found}, {size} bytes; expected at most {n_bytes} bytes, the size of the file; {_REMEDY}"
        )
    # A tensor that is longer than its record would read bytes of the next record.
    if sizes and tensor.untyped_storage().nbytes() not in sizes:
        raise CheckpointError(
            f"{found}, storage of {tensor.untyped_storage().nbytes()} bytes; expected the size of one of the file's "
            f"records; {_REMEDY}"
        )

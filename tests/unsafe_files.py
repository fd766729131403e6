"""Malicious files of tensors, which would exhaust memory, run code or return wrong values."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import torch

_PROTOCOL = b"\x80\x02"
_FOUR = [("0", struct.pack("4f", 1, 2, 3, 4))]


def archive(
    pickled: bytes, records: list[tuple[str, bytes]] | None = None, method: int = zipfile.ZIP_STORED
) -> bytes:
    """Return a zip file with the layout of torch.save."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        for name, content in _FOUR if records is None else records:
            file.writestr(f"archive/data/{name}", content)
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _integer(n: int) -> bytes:
    size = (n.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + n.to_bytes(size, "little", signed=True)


def _call(module: str, name: str, *arguments: int) -> bytes:
    return _name(module, name) + b"(" + b"".join(map(_integer, arguments)) + b"tR"


def tensor(
    numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, storage: str = "FloatStorage"
) -> bytes:
    """Return the pickle of a tensor whose storage is the record "0"."""
    kind = _name("torch", storage)
    record = (
        b"(X\x07\x00\x00\x00storage"
        + kind
        + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + _integer(numel)
        + b"tQ"
    )
    sizes, strides = (b"(" + b"".join(map(_integer, values)) + b"t" for values in (size, stride))
    hooks = _name("collections", "OrderedDict") + b")R"
    return (
        _name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + record
        + _integer(offset)
        + sizes
        + strides
        + b"\x89"
        + hooks
        + b"tR"
    )


class _Runs:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def _saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _flagged(content: bytes, field: int, value: int) -> bytes:
    """Return a zip file with two bytes of every header replaced, `field` bytes after the version needed."""
    changed = bytearray(content)
    for signature, start in ((b"PK\x03\x04", 4), (b"PK\x01\x02", 6)):
        position = changed.find(signature)
        while position >= 0:
            at = position + start + field
            changed[at : at + 2] = struct.pack("<H", value)
            position = changed.find(signature, position + 4)
    return bytes(changed)


def unsafe_files(marker: str) -> dict[str, bytes]:
    """Return the contents of malicious files by description. Code in them would create the folder `marker`."""
    laughs = b"]q\x00" + b"".join(
        b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1]) for i in range(40)
    )
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0]]), torch.tensor([1.0]), (1 << 40,), check_invariants=True
    )
    plain = archive(_PROTOCOL + tensor(4, (4,), (1,)) + b".")
    return {
        "code: os.mkdir": _saved({"model": _Runs(os.mkdir, marker)}),
        "code: legacy file": _saved({"model": _Runs(os.mkdir, marker)}, _use_new_zipfile_serialization=False),
        "code: plain pickle": pickle.dumps(_Runs(os.mkdir, marker)),
        "code: protocol 4": pickle.dumps({"model": _Runs(os.mkdir, marker)}, protocol=4),
        "code: os.system": _saved([_Runs(os.system, f"mkdir {marker}")]),
        "code: eval": _saved(_Runs(eval, f"__import__('os').mkdir({marker!r})")),
        "code: in a key": _saved(OrderedDict({("a", _Runs(os.mkdir, marker)): 1})),
        "an object": _saved(torch.nn.Linear(2, 2)),
        "inflates to 1 GB": archive(
            _PROTOCOL + tensor(1 << 28, (1 << 28,), (1,)) + b".",
            [("0", bytes(1 << 28))],
            zipfile.ZIP_DEFLATED,
        ),
        "inflates, bzip2": archive(
            _PROTOCOL + tensor(1 << 20, (1 << 20,), (1,)) + b".", [("0", bytes(1 << 22))], zipfile.ZIP_BZIP2
        ),
        "inflates, lzma": archive(
            _PROTOCOL + tensor(1 << 20, (1 << 20,), (1,)) + b".", [("0", bytes(1 << 22))], zipfile.ZIP_LZMA
        ),
        "a terabyte by stride 0": archive(_PROTOCOL + tensor(4, (1 << 40,), (0,)) + b"."),
        "a terabyte of elements": archive(_PROTOCOL + tensor(1 << 40, (1 << 40,), (1,)) + b"."),
        "a terabyte of bytearray": archive(_PROTOCOL + _call("builtins", "bytearray", 1 << 40) + b"."),
        "two gigabytes of bytearray": archive(_PROTOCOL + _call("__builtin__", "bytearray", 1 << 31) + b"."),
        "a terabyte of FloatTensor": archive(_PROTOCOL + _call("torch", "FloatTensor", 1 << 40) + b"."),
        "a gigabyte of Tensor": archive(_PROTOCOL + _call("torch", "Tensor", 1 << 28) + b"."),
        "a storage by size": archive(_PROTOCOL + _call("torch", "FloatStorage", 1 << 28) + b"."),
        "a sparse terabyte": _saved(sparse),
        "a tensor without values": _saved(torch.empty(1 << 40, device="meta")),
        "nested 100,000 deep": archive(_PROTOCOL + b"]" * 100_000 + b"a" * 99_999 + b"."),
        "nested tuples": archive(_PROTOCOL + b")" + b"\x85" * 10_000 + b"."),
        "10**40 items by reference": archive(_PROTOCOL + laughs + b"."),
        "negative size": archive(_PROTOCOL + tensor(4, (-4,), (1,)) + b"."),
        "negative stride": archive(_PROTOCOL + tensor(4, (2,), (-1,), 3) + b"."),
        "negative offset": archive(_PROTOCOL + tensor(4, (2,), (1,), -1) + b"."),
        "offset after the end": archive(_PROTOCOL + tensor(4, (4,), (1,), 4) + b"."),
        "fewer bytes than elements": archive(_PROTOCOL + tensor(8, (8,), (1,)) + b"."),
        "doubles of floats": archive(_PROTOCOL + tensor(4, (4,), (1,), storage="DoubleStorage") + b"."),
        "record missing": archive(_PROTOCOL + tensor(4, (4,), (1,)) + b".", []),
        "encrypted": _flagged(plain, 2, 1),
        "says deflated": _flagged(plain, 4, 8),
        "says lzma": _flagged(plain, 4, 14),
        "says an unknown method": _flagged(plain, 4, 77),
        "no pickle": archive(b""),
        "pickle without end": archive(_PROTOCOL + tensor(4, (4,), (1,))),
    }

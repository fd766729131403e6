"""Exceptions that neurocnn raises.

Every error is a `NeurocnnError` and also a suitable builtin exception, so that both ``except nc.NeurocnnError`` and
``except ValueError`` work. Its only argument is the complete message: the place of the error, the value found, the
expected value and a remedy. Nothing else is stored, so that an error of a worker process can be pickled.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class NeurocnnError(Exception):
    """Base class of all errors of neurocnn."""


class SettingError(NeurocnnError, ValueError):
    """An argument that cannot be used."""


class NotFoundError(NeurocnnError, FileNotFoundError):
    """A missing file or folder."""

    def __str__(self) -> str:
        # OSError shows its arguments as a tuple if it has several.
        return str(self.args[0])


class TableError(NeurocnnError, ValueError):
    """A table (TSV or DataFrame) whose content cannot be used."""


class ImageError(NeurocnnError, ValueError):
    """An image or prepared tensor whose content cannot be used."""


class LeakError(NeurocnnError, ValueError):
    """A participant in two sets that must not share participants, such as training and validation."""


class ModelError(NeurocnnError, ValueError):
    """A network, architecture, plugin or state dict that cannot be used."""


class CheckpointError(NeurocnnError, ValueError):
    """A file of tensors that is damaged, foreign or unsafe."""


class StorageError(NeurocnnError, OSError):
    """A file that cannot be read, written or locked. Its arguments are those of `OSError`."""


class TrainingError(NeurocnnError, RuntimeError):
    """A training that cannot continue."""


class InUseError(NeurocnnError, RuntimeError):
    """Another process that works on the same split and network."""


class MissingExtraError(NeurocnnError, ImportError):
    """An optional package, part of an extra of neurocnn, that is not installed."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: similar names, and all known ones.

    >>> suggestion("Conv4_FC", ["Conv4_FC3", "resnet18"])
    "did you mean 'Conv4_FC3'? There are: Conv4_FC3, resnet18"
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"{hint}There are: {', '.join(names) or 'none'}"

"""What can go wrong, by kind.

Every error of neurocnn is a `NeurocnnError` and the fitting builtin too, so that both
``except nc.NeurocnnError`` and ``except ValueError`` work. Its one argument is the whole message: what is
wrong, where, what was found and expected, and what to do. Nothing but the message is stored, so that every
error survives pickling on its way out of a worker process.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class NeurocnnError(Exception):
    """Any error that neurocnn raises on purpose."""


class SettingError(NeurocnnError, ValueError):
    """An argument that makes no sense."""


class NotFoundError(NeurocnnError, FileNotFoundError):
    """A file or folder that should be there is not."""

    def __str__(self) -> str:
        # OSError would show its arguments as a tuple once there are several.
        return str(self.args[0])


class TableError(NeurocnnError, ValueError):
    """A table (TSV or DataFrame) whose content cannot be used."""


class ImageError(NeurocnnError, ValueError):
    """An image or prepared tensor whose content cannot be used."""


class LeakError(NeurocnnError, ValueError):
    """A participant stands in two sets that must be apart."""


class ModelError(NeurocnnError, ValueError):
    """A network, architecture, plugin or state dict that cannot be used."""


class CheckpointError(NeurocnnError, ValueError):
    """A file of tensors that is damaged, foreign or unsafe."""


class StorageError(NeurocnnError, OSError):
    """A file that cannot be written: full disk, read-only folder; its arguments are those of `OSError`."""


class TrainingError(NeurocnnError, RuntimeError):
    """A training that cannot go on."""


class InUseError(NeurocnnError, RuntimeError):
    """Another process works on the same split and network."""


class MissingExtraError(NeurocnnError, ImportError):
    """An optional package that an extra of neurocnn would bring is not installed."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the near ones, and all there are.

    >>> suggestion("Conv4_FC", ["Conv4_FC3", "resnet18"])
    "did you mean 'Conv4_FC3'? There are: Conv4_FC3, resnet18"
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"{hint}There are: {', '.join(names) or 'none'}"

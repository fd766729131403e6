"""Exceptions that neurocnn raises.

Every error is a `NeurocnnError` and also a suitable builtin exception, so that both ``except nc.NeurocnnError`` and
``except ValueError`` work. An error's only argument is the complete message: the place of the error, the value found,
the expected value and a remedy. Nothing else is stored, so that an error of a worker process can be pickled.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class NeurocnnError(Exception):
    """Base class of all errors of neurocnn.

    Examples
    --------
    An error is also a suitable builtin exception:

    >>> import neurocnn as nc
    >>> try:
    ...     nc.create_model("Conv4_FC", (1, 9, 9))
    ... except nc.NeurocnnError as error:
    ...     print(isinstance(error, ValueError), str(error).split("?")[0])
    True architecture 'Conv4_FC': unknown; did you mean 'Conv4_FC3' or 'Conv5_FC3' or 'Conv3_FC1'
    """


class SettingError(NeurocnnError, ValueError):
    """An argument that cannot be used.

    Examples
    --------
    >>> import neurocnn as nc
    >>> nc.Trainer(epochs=0)
    Traceback (most recent call last):
    neurocnn.errors.SettingError: Trainer: epochs=0; ...
    """


class NotFoundError(NeurocnnError, FileNotFoundError):
    """A missing file or folder.

    Examples
    --------
    >>> import neurocnn as nc
    >>> nc.read_table(tmp / "labels.tsv")
    Traceback (most recent call last):
    neurocnn.errors.NotFoundError: ...labels.tsv...
    """

    def __str__(self) -> str:
        # The method of OSError would show several arguments as a tuple.
        return str(self.args[0])


class TableError(NeurocnnError, ValueError):
    """A table (TSV or DataFrame) whose content cannot be used.

    Examples
    --------
    >>> import neurocnn as nc
    >>> _ = (tmp / "labels.tsv").write_text("name")
    >>> nc.read_table(tmp / "labels.tsv")
    Traceback (most recent call last):
    neurocnn.errors.TableError: ...labels.tsv...
    """


class ImageError(NeurocnnError, ValueError):
    """An image or prepared tensor whose content cannot be used.

    Examples
    --------
    >>> import neurocnn as nc
    >>> labels = nc.make_caps(tmp, n_participants=2, preprocessing="t1-volume", shape=(12, 14, 12))
    >>> for path in tmp.rglob("*.nii.gz"):
    ...     _ = path.write_bytes(b"no image")
    >>> nc.CapsDataset(nc.Caps(tmp, "t1-volume"), labels)[0]
    Traceback (most recent call last):
    neurocnn.errors.ImageError: ...
    """


class LeakError(NeurocnnError, ValueError):
    """A participant in two sets that must not share participants, such as training and validation.

    Examples
    --------
    >>> import neurocnn as nc
    >>> import pandas as pd
    >>> visits = pd.DataFrame({"participant_id": ["sub-1", "sub-1"], "session_id": ["ses-M00", "ses-M12"]})
    >>> nc.Split(0, visits[:1], visits[1:])
    Traceback (most recent call last):
    neurocnn.errors.LeakError: ...sub-1...
    """


class ModelError(NeurocnnError, ValueError):
    """A network, architecture, plugin or state dict that cannot be used.

    Examples
    --------
    >>> import neurocnn as nc
    >>> nc.create_model("Conv4_FC3", (1, 20, 20, 20))
    Traceback (most recent call last):
    neurocnn.errors.ModelError: Conv4_FC3: images of (20, 20, 20) voxels; ...
    """


class CheckpointError(NeurocnnError, ValueError):
    """A file of tensors that is damaged, unsafe, or has unexpected content.

    Examples
    --------
    >>> import neurocnn as nc
    >>> _ = (tmp / "weights.pt").write_bytes(b"no weights")
    >>> nc.read_weights(tmp / "weights.pt")
    Traceback (most recent call last):
    neurocnn.errors.CheckpointError: ...weights.pt...
    """


class StorageError(NeurocnnError, OSError):
    """A file that cannot be read, written or locked. The error has the arguments of `OSError`.

    Examples
    --------
    >>> import neurocnn as nc
    >>> _ = (tmp / "results").write_text("a file")
    >>> nc.write_table(nc.make_caps(tmp / "caps", n_participants=2, shape=(8, 8, 8)), tmp / "results/labels.tsv")
    Traceback (most recent call last):
    neurocnn.errors.StorageError: [Errno ...] cannot write: ...; a file is where a folder is expected; ...
    """


class TrainingError(NeurocnnError, RuntimeError):
    """Training that cannot continue.

    Examples
    --------
    >>> import neurocnn as nc
    >>> import torch
    >>> item = {"image": torch.full((1, 4, 4), torch.nan), "label": 70}
    >>> item |= {"participant_id": "sub-1", "session_id": "ses-M00", "part_id": 0}
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1))
    >>> nc.Trainer(epochs=1, device="cpu").fit(model, nc.regression("age"), [item])
    Traceback (most recent call last):
    neurocnn.errors.TrainingError: epoch 0, update 0: the loss is NaN or infinite for sub-1 ses-M00 part 0; ...
    """


class InUseError(NeurocnnError, RuntimeError):
    """A split, network or file that another process is using.

    Examples
    --------
    A job of a job array skips a split that another job is training:

    >>> import neurocnn as nc
    >>> def run_unless_in_use(experiment, folder, index):
    ...     try:
    ...         experiment.run(folder, splits=[index])
    ...     except nc.InUseError as error:
    ...         print(error)
    """


class MissingExtraError(NeurocnnError, ImportError):
    """An optional package that is not installed.

    Examples
    --------
    It is an `ImportError`, and the message names the extra:

    >>> issubclass(MissingExtraError, ImportError)
    True
    """


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name. It lists similar names and all known names.

    >>> suggestion("Conv4_FC", ["Conv4_FC3", "resnet18"])
    "did you mean 'Conv4_FC3'? There are: Conv4_FC3, resnet18"
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"{hint}{'There' if near else 'there'} are: {', '.join(names) or 'none'}"

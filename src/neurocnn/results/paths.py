"""Paths of the files of a result folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from neurocnn.errors.arguments import argument_error

#: Name of the folder that contains the tables of a fold, by name of the task.
TABLES = {
    "classification": "cnn_classification",
    "regression": "cnn_regression",
    "reconstruction": "autoencoder_reconstruction",
}
#: Names of the data sets that a fold uses in training.
SETS = ("train", "validation")
COMMANDLINE = "commandline.json"
ENVIRONMENT = "environment.txt"
#: Lock file of a result folder for short writes, removed after each write.
WRITING_LOCK = ".open.lock"


def check_file_name(name: str, value: object) -> str:
    """Return `value` if it can safely be part of a file name (no path), else raise a SettingError.

    Examples
    --------
    >>> check_file_name("parts.name", "patch")
    'patch'
    >>> check_file_name("parts.name", "../patch")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: parts.name='../patch'; expected letters, digits, spaces and any of _ . + -
    """
    if isinstance(value, str) and re.fullmatch(r"\w[\w .+-]*", value):
        return value
    raise argument_error(name, value, "letters, digits, spaces and any of _ . + -")


@dataclass(frozen=True)
class Fold:
    """Paths of one fold: the files of one split in a result folder.

    Parameters
    ----------
    root
        Path of the result folder.
    index
        Index of the split.
    task
        Name of the task. Only the paths of tables depend on it.

    Examples
    --------
    >>> fold = Fold(Path("results"), 0, "classification")
    >>> str(fold.table("best_loss", "validation", "image", "metrics"))
    'results/fold-0/cnn_classification/best_loss/validation_image_level_metrics.tsv'
    >>> str(fold.model("best_loss", network=3))
    'results/fold-0/models/cnn-3/best_loss/model_best.pth.tar'
    """

    root: Path
    index: int
    task: str = ""

    @property
    def path(self) -> Path:
        """Path of the fold's folder, ``fold-<index>``."""
        return self.root / f"fold-{self.index}"

    @property
    def tables(self) -> Path:
        """Folder that contains one folder of tables per selection."""
        return self.path / TABLES.get(self.task, f"cnn_{self.task}")

    @property
    def state(self) -> Path:
        """Folder of the checkpoints from which a run resumes, removed when the fold is done."""
        return self.path / "state"

    @property
    def seen(self) -> Path:
        """Path of the table of the participants that the fold's models have seen, see `leakage`."""
        return self.path / "seen.tsv"

    @property
    def images(self) -> Path:
        """Path of the table of the fingerprints of all images that the fold has used."""
        return self.path / "images.tsv"

    @property
    def winner(self) -> Path:
        """Path of the file with the settings of this fold's best trial in a search."""
        return self.path / "winner.json"

    @property
    def pruned(self) -> Path:
        """Path of the file that contains the epoch after which a trial of a search was pruned."""
        return self.path / "pruned.json"

    @property
    def balance(self) -> Path:
        """Path of the table of standardised mean differences between training and validation set."""
        return self.path / "balance.tsv"

    def sessions(self, dataset: str) -> Path:
        """Return the path of the sessions of a data set, such as ``train`` or ``validation``."""
        return self.path / f"{dataset}.tsv"

    def table(self, selection: str, dataset: str, level: str, content: str) -> Path:
        """Return the path of a ``metrics`` or ``prediction`` table. `level` is ``image`` or the name of the parts."""
        return self.tables / selection / f"{dataset}_{level}_level_{content}.tsv"

    def part_accuracy(self, selection: str, suffix: str = "tsv") -> Path:
        """Return the path of the parts' validation balanced accuracies, as a table or as a map (``nii.gz``)."""
        return self.tables / selection / f"part_balanced_accuracy.{suffix}"

    def explanations(self, selection: str, set_name: str, method: str) -> Path:
        """Return the folder of the maps that one method wrote for the set `set_name`."""
        return self.tables / selection / "explanations" / set_name / method

    def model(self, selection: str, network: int | None = None) -> Path:
        """Return the path of a selection's best model. `network` is its part_id; None if the fold has one network."""
        return self._network(self.path / "models", network) / selection / "model_best.pth.tar"

    def training(self, network: int | None = None) -> Path:
        """Return the path of the training history: the metrics of each evaluation."""
        folder = self.path if network is None else self._network(self.path / "models", network)
        return folder / "training.tsv"

    def network_prediction(self, network: int, selection: str, dataset: str) -> Path:
        """Return the path of one network's predictions, kept until all networks have theirs."""
        return self._network(self.state, network) / f"{selection}_{dataset}_prediction.tsv"

    def lock(self, network: int | None = None) -> Path:
        """Return the path of the lock of a fold, or of one of its networks."""
        return self.state / ("fold.lock" if network is None else f"cnn-{network}.lock")

    @staticmethod
    def _network(folder: Path, network: int | None) -> Path:
        return folder if network is None else folder / f"cnn-{network}"

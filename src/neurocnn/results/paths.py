"""Where each file of a result folder lies."""

from dataclasses import dataclass
from pathlib import Path

#: The folder of a fold that holds the tables, by the name of the task.
TABLES = {
    "classification": "cnn_classification",
    "regression": "cnn_regression",
    "reconstruction": "autoencoder_reconstruction",
}
COMMANDLINE = "commandline.json"
ENVIRONMENT = "environment.txt"


@dataclass(frozen=True)
class Fold:
    """The paths of one fold.

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
    task: str

    @property
    def path(self) -> Path:
        """``fold-<index>``."""
        return self.root / f"fold-{self.index}"

    @property
    def tables(self) -> Path:
        """The folder with a folder of tables for each selection."""
        return self.path / TABLES.get(self.task, f"cnn_{self.task}")

    @property
    def state(self) -> Path:
        """What a resume needs; gone when the fold is done."""
        return self.path / "state"

    @property
    def seen(self) -> Path:
        """Whom this model, its selection and its source have seen."""
        return self.path / "seen.tsv"

    def sessions(self, dataset: str) -> Path:
        """Who was in ``train`` or ``validation``."""
        return self.path / f"{dataset}.tsv"

    def table(self, selection: str, dataset: str, level: str, content: str) -> Path:
        """A table of ``metrics`` or of the ``prediction``; `level` is ``image`` or the parts' name."""
        return self.tables / selection / f"{dataset}_{level}_level_{content}.tsv"

    def part_accuracy(self, selection: str, suffix: str = "tsv") -> Path:
        """Each part's validation balanced accuracy: ``tsv`` for the table, ``nii.gz`` for the map."""
        return self.tables / selection / f"part_balanced_accuracy.{suffix}"

    def model(self, selection: str, network: int | None = None) -> Path:
        """The best model of a selection; `network` is a part_id where each part has its network."""
        return self._network(self.path / "models", network) / selection / "model_best.pth.tar"

    def training(self, network: int | None = None) -> Path:
        """The metrics of each evaluation during training."""
        return (
            self.path / "training.tsv"
            if network is None
            else (self._network(self.path / "models", network) / "training.tsv")
        )

    def partial(self, network: int, selection: str, dataset: str) -> Path:
        """The predictions of one network of several, kept until all of them are there."""
        return self._network(self.state, network) / f"{selection}_{dataset}_prediction.tsv"

    def lock(self, network: int | None = None) -> Path:
        """The lock of a fold, or of one of its networks."""
        return self.state / ("fold.lock" if network is None else f"cnn-{network}.lock")

    @staticmethod
    def _network(folder: Path, network: int | None) -> Path:
        return folder if network is None else folder / f"cnn-{network}"


def folds(root: Path, task: str) -> list[Fold]:
    """Give the folds of a result folder, in order of their index."""
    found = [path.name.removeprefix("fold-") for path in root.glob("fold-*") if path.is_dir()]
    return [Fold(root, index, task) for index in sorted(int(name) for name in found if name.isdecimal())]

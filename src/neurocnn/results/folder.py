"""Result folder: its folds, levels and selections, the folds that are done, and all paths."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock

from neurocnn import engine
from neurocnn.errors import NotFoundError, SettingError
from neurocnn.errors.arguments import check_choice, check_integer, check_text
from neurocnn.results.paths import COMMANDLINE, ENVIRONMENT, WRITING_LOCK, Fold, check_file_name
from neurocnn.storage.files import find, is_file, is_folder
from neurocnn.storage.locks import hold, is_held

#: Name of the level of complete images. It equals `WholeImage.name`.
IMAGE = "image"
#: Files that another experiment must not replace. A run with corrected settings may replace all other files.
_RESULTS = (
    "training.tsv",
    "*/best_*/*.tsv",
    "models/**/training.tsv",
    "models/**/*.tar",
    "state/**/*_prediction.tsv",
)


@dataclass(frozen=True)
class ResultFolder:
    """Location and content of a result folder.

    Parameters
    ----------
    root
        Path of the folder, which need not exist.
    task
        Task of the experiment. Its functions are not called.
    parts
        Name of the parts, such as ``patch``.

    Raises
    ------
    SettingError
        If the name of the task, of a selection or of the parts cannot be part of a file name.

    Examples
    --------
    >>> folder = ResultFolder(Path("results"), engine.classification(), "patch")
    >>> folder.selections, folder.levels
    (['best_loss', 'best_balanced_accuracy'], ['patch', 'image'])
    """

    root: Path
    task: engine.Task
    parts: str

    def __post_init__(self) -> None:
        check_file_name("task.name", self.task.name)
        check_file_name("parts.name", self.parts)
        for name in self.task.selection:
            check_file_name("task.selection", name)

    @property
    def settings(self) -> Path:
        """Path of the settings of the experiment."""
        return self.root / COMMANDLINE

    @property
    def environment(self) -> Path:
        """Path of the list of installed packages."""
        return self.root / ENVIRONMENT

    @property
    def selections(self) -> list[str]:
        """Folder names of the task's selections, in the task's order."""
        return [f"best_{name}" for name in self.task.selection]

    @property
    def levels(self) -> list[str]:
        """Levels of the tables: the name of the parts and, if parts vote, ``image``."""
        return [self.parts, IMAGE] if self.votes else [self.parts]

    @property
    def reconstructs(self) -> bool:
        """Whether the networks are autoencoders, which have metrics and no predictions."""
        return self.task.reconstructs

    @property
    def votes(self) -> bool:
        """Whether the predictions of several parts are combined into one per image."""
        return self.task.vote is not None and self.parts != IMAGE

    @property
    def has_part_accuracy(self) -> bool:
        """Whether the accuracy of each part is written, which requires a classification of parts."""
        return self.task.classes is not None and self.parts != IMAGE

    def fold(self, index: int) -> Fold:
        """Return the paths of a fold, which need not exist."""
        return Fold(self.root, index, self.task.name)

    def ensemble(self, selection: str, dataset: str, content: str) -> Path:
        """Return the path of the ensemble's ``metrics`` or ``prediction`` table."""
        return self.root / "ensemble" / selection / f"{dataset}_image_level_{content}.tsv"

    def datasets(self, fold: Fold, selection: str) -> list[str]:
        """Return the names of the data sets with part-level predictions."""
        suffix = f"_{self.parts}_level_prediction.tsv"
        found = find(fold.tables / selection, f"*{suffix}")
        return sorted(path.name.removesuffix(suffix) for path in found if not path.name.startswith("."))

    @property
    def folds(self) -> list[Fold]:
        """Folds that exist, ordered by index."""
        found = [path.name.removeprefix("fold-") for path in find(self.root, "fold-*") if is_folder(path)]
        return [self.fold(index) for index in sorted(int(name) for name in found if name.isdecimal())]

    @property
    def finished_folds(self) -> list[Fold]:
        """Folds that are done, ordered by index."""
        return [fold for fold in self.folds if self.is_done(fold)]

    def is_done(self, fold: Fold) -> bool:
        """Return whether a fold is done, that is, whether the table that is written last exists."""
        selection = self.selections[-1]
        if self.has_part_accuracy:
            return is_file(fold.part_accuracy(selection))
        return is_file(fold.table(selection, "validation", self.levels[-1], "metrics"))

    @property
    def is_claimed(self) -> bool:
        """Whether the folder has results or is in use. It is False after a run that failed before its first score."""
        folds = [fold.path for fold in self.folds]
        if any(find(path, pattern) for path in folds for pattern in _RESULTS):
            return True
        return any(is_held(lock) for path in folds for lock in find(path, "state/**/*.lock"))

    @contextmanager
    def hold(self) -> Iterator[BaseFileLock]:
        """Wait for the lock for short writes into the folder, and hold this lock during the ``with`` block."""
        path = self.root / WRITING_LOCK
        with hold(path, f"writing into {self.root}", wait=True) as lock:
            try:
                yield lock
            finally:
                # The lock file is removed while it is locked. A waiting process detects the removal and creates a new
                # file.
                path.unlink()

    def check_done(self) -> list[Fold]:
        """Return the folds that are done.

        Raises
        ------
        NotFoundError
            If no fold is done.
        """
        done = self.finished_folds
        if not done:
            raise NotFoundError(f"{self.root}: no split is done yet; run the experiment first")
        return done

    def check_fold(self, index: int) -> Fold:
        """Return an existing fold, else raise a SettingError that lists the existing folds."""
        folds = {fold.index: fold for fold in self.folds}
        if check_integer("split", index, where=str(self.root)) not in folds:
            done = [fold.index for fold in self.finished_folds]
            raise SettingError(
                f"{self.root}: split={index!r}; expected one of {sorted(folds)}, of which {done} are done"
            )
        return folds[index]

    def check_selection(self, selection: str | None) -> str:
        """Return the name of a selection (for None, the last one), else raise a SettingError."""
        if selection is None:
            return self.selections[-1]
        return check_choice("selection", selection, self.selections, where=str(self.root))

    def check_level(self, level: str) -> str:
        """Return the name of a level in file names: the name of the parts for ``part``.

        Raises
        ------
        SettingError
            If these results do not have the level.

        Examples
        --------
        >>> ResultFolder(Path("results"), engine.classification(), "patch").check_level("part")
        'patch'
        """
        check_text("level", level, where=str(self.root))
        if level == "part" or (level == IMAGE and not self.votes):
            return self.parts
        return check_choice("level", level, self.levels, where=str(self.root))

    def find_tables(
        self, content: str, level: str, selection: str | None, dataset: str
    ) -> list[tuple[Fold, Path]]:
        """Return the paths of the existing tables of one kind, with their folds.

        Parameters
        ----------
        content
            ``metrics`` or ``prediction``.
        level, selection, dataset
            See `Results.metrics`.

        Raises
        ------
        NotFoundError
            If no fold has the table. The message lists the data sets that have such a table.
        SettingError
            If the level or selection does not exist.
        """
        chosen, wanted = self.check_selection(selection), self.check_level(level)
        done = self.check_done()
        found = [(fold, fold.table(chosen, dataset, wanted, content)) for fold in done]
        found = [(fold, path) for fold, path in found if is_file(path)]
        if not found:
            suffix = f"_{wanted}_level_{content}.tsv"
            existing = sorted(
                {
                    path.name.removesuffix(suffix)
                    for fold in done
                    for path in find(fold.tables, f"{chosen}/*{suffix}")
                }
            )
            reason = self._missing_reason(done, chosen, dataset, wanted, content)
            raise NotFoundError(
                f"{self.root}: the {content} table of dataset={dataset!r}, level={wanted!r} does not exist{reason}; "
                f"expected one of: {', '.join(existing) or 'none yet'}"
            )
        return found

    def _missing_reason(
        self, done: list[Fold], selection: str, dataset: str, level: str, content: str
    ) -> str:
        other = "metrics" if content == "prediction" else "prediction"
        if not any(is_file(fold.table(selection, dataset, level, other)) for fold in done):
            return ""
        if content == "metrics":
            return " (the sessions had no labels when they were predicted)"
        return " (no part exceeds the selection_threshold)"

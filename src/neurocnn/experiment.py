"""Splits × networks, into a result folder.

A fold is done when its last table exists, so that `run` makes what is missing and nothing else keeps the score.
The engine keeps what a resume in the middle of a training needs; this module only decides what to train, from
which weights, and turns the best models into tables.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import neurocnn
from neurocnn import data, engine, scoring, seen, source
from neurocnn.errors import SettingError
from neurocnn.foldrun import FoldRun
from neurocnn.layout import COMMANDLINE, ENVIRONMENT, Fold
from neurocnn.results import Results
from neurocnn.settings import (
    Settings,
    differences,
    encode,
    is_custom,
    read_settings,
    write_environment,
    write_settings,
)

_LOGGER = logging.getLogger("neurocnn")
#: What may differ when a run goes on: it changes no number, or only how long training may last.
_FREE = (
    "neurocnn",
    "trainer.epochs",
    "trainer.n_workers",
    "trainer.device",
    "trainer.checkpoint_seconds",
    "networks_at_once",
)
_SETS = ("train", "validation")


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """Train an architecture on every split, and write what came out into one folder.

    Parameters
    ----------
    caps
        Where the images are.
    splits
        Train and validation sessions of each fold.
    parts
        How an image enters: whole, as patches, slices or regions of interest.
    task
        What is learnt: `classification`, `regression` or `reconstruction`.
    architecture
        A registered name, a builder ``build(input_shape, n_outputs, **options)``, or a module (copied).
    trainer
        How it is trained.
    multi
        One network for each part instead of one for all.
    transfer_from
        Where the weights start: a result folder, one of ClinicaDL, a checkpoint, or a module.
    transfer_selection
        Which best model of a CNN to start from.
    selection_threshold
        Only parts whose validation balanced accuracy is greater vote.
    options
        Options of the architecture, such as ``{"dropout": 0.5}``.
    transform, augmentation
        As for `CapsDataset`; augmentation is for training only.
    reconstructions
        Write the reconstructed parts of the first image of both sets as NIfTI.
    networks_at_once
        How many networks are in memory at once where each part has its own; by default as many as fit in a
        quarter of the free memory. It changes no number.

    Examples
    --------
    >>> import neurocnn as nc
    >>> labels = nc.make_caps(tmp / "caps", n_participants=12, preprocessing="t1-volume", shape=(18, 20, 18))
    >>> caps = nc.Caps(tmp / "caps", "t1-volume")
    >>> splits = nc.kfold(labels, n_splits=2, stratify=["diagnosis"])
    >>> experiment = nc.Experiment(
    ...     caps, splits, nc.WholeImage(), nc.classification(), "Conv3_FC1", nc.Trainer(epochs=1)
    ... )
    >>> experiment.run(tmp / "results", splits=[0])
    Results(...): classification, splits [0] done
    """

    caps: data.Caps
    splits: Sequence[data.Split]
    parts: Any
    task: engine.Task
    architecture: Any
    trainer: engine.Trainer = dataclasses.field(default_factory=lambda: engine.Trainer())
    _: dataclasses.KW_ONLY
    multi: bool = False
    transfer_from: Any = None
    transfer_selection: str = "best_balanced_accuracy"
    selection_threshold: float | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    transform: Any = dataclasses.field(default_factory=lambda: data.MinMax())
    augmentation: Callable[[torch.Tensor], torch.Tensor] | None = None
    reconstructions: bool = False
    networks_at_once: int | None = None

    def __post_init__(self) -> None:
        splits = [self.splits] if isinstance(self.splits, data.Split) else list(self.splits)
        object.__setattr__(self, "splits", splits)
        indices = [split.index for split in splits]
        if not splits or len(set(indices)) < len(indices):
            raise SettingError(f"splits: expected one or more of different index, found indices {indices}")
        if self.multi and self.parts.name == scoring.IMAGE:
            raise SettingError("multi=True needs several parts, and a whole image is one part")
        if self.networks_at_once is not None and self.networks_at_once < 1:
            raise SettingError(f"networks_at_once={self.networks_at_once}: expected at least 1")
        if self.reconstructions and self.task.name != "reconstruction":
            raise SettingError(f"reconstructions=True: a {self.task.name} reconstructs nothing")
        source.as_source(self.transfer_from)

    @classmethod
    def load(cls, folder: str | Path, **custom: Any) -> "Experiment":
        """Rebuild the experiment of a result folder.

        Parameters
        ----------
        folder
            The folder that `run` was given.
        **custom
            The settings that are recorded as custom, by name, and others that shall replace recorded ones.
        """
        results = Results(folder, **custom)
        names = [field.name for field in dataclasses.fields(cls) if field.name not in ("splits", "caps")]
        splits = custom.get("splits") or [_read_split(results, index) for index in results.settings["splits"]]
        return cls(
            caps=results.setting("caps"), splits=splits, **{name: results.setting(name) for name in names}
        )

    def run(
        self,
        folder: str | Path,
        splits: Iterable[int] | None = None,
        networks: Iterable[int] | None = None,
        callbacks: Sequence[Callable[..., Any]] = (),
    ) -> Results:
        """Train what is not done yet, and write it into `folder`.

        Running again goes on where it stopped. Several processes may share the folder, each with its `splits`
        and `networks`: afterwards its tables are the same, byte for byte, as from one process.

        Parameters
        ----------
        folder
            The result folder; made where there is none.
        splits
            The indices of the splits to run; all by default.
        networks
            The part_ids of the networks to run, where each part has its network; all by default.
        callbacks
            Callables that the trainer calls, as in `Trainer.fit`.

        Raises
        ------
        SettingError
            The folder holds another experiment; the message names the settings that differ.
        LeakError
            The transfer's source was trained on a participant of a validation set.
        InUseError
            Another process trains the same split and network.
        """
        chosen = self._chosen(splits)
        self._check_cohorts()
        # All images are found and all labels read before the first epoch and before a file is written.
        sets = {split.index: self._datasets(split) for split in chosen}
        wanted = self._networks(next(iter(sets.values()))[0], networks)
        origins = {split.index: self._origin(split) for split in chosen}
        self._open(Path(folder), next(iter(sets.values()))[0])
        for split in chosen:
            fold = Fold(Path(folder), split.index, self.task.name)
            _LOGGER.info("split %d of %d", split.index, len(self.splits))
            FoldRun(self, fold, *sets[split.index], origins[split.index], tuple(callbacks)).run(wanted)
        return Results(folder, **self._custom())

    def _chosen(self, indices: Iterable[int] | None) -> list[data.Split]:
        by_index = {split.index: split for split in self.splits}
        wanted = list(by_index) if indices is None else list(indices)
        unknown = [index for index in wanted if index not in by_index]
        if unknown or not wanted:
            raise SettingError(f"splits={wanted}: there are {sorted(by_index)}")
        return [by_index[index] for index in wanted]

    def _check_cohorts(self) -> None:
        """Refuse labels that speak of other cohorts than the CAPS folders."""
        if self.caps.cohorts:
            tables = [table for split in self.splits for table in (split.train, split.validation)]
            self.caps.check_cohorts({name for table in tables for name in table.get("cohort", ())})

    def _datasets(self, split: data.Split) -> tuple[data.CapsDataset, data.CapsDataset]:
        made = [
            data.CapsDataset(
                self.caps,
                sessions,
                parts=self.parts,
                label=self.task.label,
                transform=self.transform,
                augmentation=augmentation,
            )
            for sessions, augmentation in ((split.train, self.augmentation), (split.validation, None))
        ]
        return made[0], made[1].without_augmentation()

    def _networks(self, dataset: data.CapsDataset, networks: Iterable[int] | None) -> list[int] | None:
        if not self.multi:
            if networks is not None:
                raise SettingError("networks=…: one network serves all parts; they exist with multi=True")
            return None
        if len(dataset.part_ids) < 2:
            raise SettingError(f"multi=True needs several parts, and {self.parts} gives {dataset.part_ids}")
        wanted = list(dataset.part_ids) if networks is None else list(networks)
        unknown = sorted(set(wanted) - set(dataset.part_ids))
        if unknown or not wanted:
            raise SettingError(f"networks={wanted}: the parts are {dataset.part_ids}")
        return wanted

    def _origin(self, split: data.Split) -> pd.DataFrame | None:
        """Whom the transfer's source has seen; refused if it was trained on those who judge this split."""
        origin = source.as_source(self.transfer_from)
        if origin is None:
            return None
        whom = source.whom(origin, split.index)
        what = f"transfer from {self.transfer_from} to split {split.index}: the validation set"
        seen.check(whom, split.validation, what, seen.TRAINED)
        return whom

    def _settings(self, dataset: data.CapsDataset) -> Settings:
        fields = {
            field.name: encode(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ("splits", "transfer_from")
        }
        origin = source.as_source(self.transfer_from)
        fields["transfer_from"] = encode(origin.resolve() if isinstance(origin, Path) else origin)
        fields["splits"] = [split.index for split in self.splits]
        fields["input_shape"] = list(dataset.input_shape)
        return {"neurocnn": neurocnn.__version__, **fields}

    def _custom(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value for name, value in fields.items() if name != "splits" and is_custom(encode(value))
        }

    def _open(self, folder: Path, dataset: data.CapsDataset) -> None:
        """Write the settings and who is in which split, or compare them with those that are there."""
        settings, path = self._settings(dataset), folder / COMMANDLINE
        folds = [Fold(folder, split.index, self.task.name) for split in self.splits]
        if path.is_file():
            _compare(path, settings)
            for fold, split in zip(folds, self.splits, strict=True):
                _compare_sessions(fold, split)
        elif folder.exists() and not folder.is_dir():
            raise SettingError(f"{folder} is a file; give a folder for the results")
        elif folder.is_dir() and any(folder.iterdir()):
            raise SettingError(f"{folder} is not empty and holds no {COMMANDLINE}; choose another folder")
        ranks = engine.find_ranks()
        ranks.meet("before the result folder is written")
        if ranks.rank == 0:
            if not path.is_file():
                # Settings first: another task of a job array may come by at any moment.
                write_settings(settings, path)
                write_environment(folder / ENVIRONMENT)
            for fold, split in zip(folds, self.splits, strict=True):
                for name, sessions in zip(_SETS, (split.train, split.validation), strict=True):
                    if not fold.sessions(name).is_file():
                        data.write_table(sessions, fold.sessions(name))
        ranks.meet("after the result folder was written")


def _compare(path: Path, settings: Settings) -> None:
    found = differences(read_settings(path), settings)
    differing = [item for item in found if not item.startswith(_FREE)]
    if differing:
        raise SettingError(
            f"{path.parent} holds another experiment; these settings differ (there → now): "
            f"{'; '.join(differing)}. Use the same settings to go on, or another folder"
        )


def _compare_sessions(fold: Fold, split: data.Split) -> None:
    for name, now in zip(_SETS, (split.train, split.validation), strict=True):
        if fold.sessions(name).is_file():
            there = data.read_table(fold.sessions(name))
            key = [column for column in ("cohort", "participant_id", "session_id") if column in there]
            if there[key].to_numpy().tolist() != now[key].to_numpy().tolist():
                raise SettingError(
                    f"{fold.sessions(name)} holds other sessions ({len(there)}) than the split that was given "
                    f"({len(now)}); use the same splits to go on, or another folder"
                )


def _read_split(results: Results, index: int) -> data.Split:
    fold = Fold(results.folder, index, results.task.name)
    return data.Split(index, *(data.read_table(fold.sessions(name)) for name in _SETS))

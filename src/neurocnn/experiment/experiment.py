"""Splits × networks, into a result folder.

A fold is done when its last table exists, so that `run` makes what is missing and nothing else keeps the score.
The engine keeps what a resume in the middle of a training needs; this module only decides what to train, from
which weights, and turns the best models into tables.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd
import torch

from neurocnn import data, engine, storage
from neurocnn.errors import SettingError, TableError
from neurocnn.experiment import resuming
from neurocnn.experiment import transfer_source as source
from neurocnn.experiment.fold import FoldRun
from neurocnn.results import leakage as seen
from neurocnn.results import scoring
from neurocnn.results.paths import COMMANDLINE, ENVIRONMENT, Fold
from neurocnn.results.results import Results
from neurocnn.results.settings import (
    Settings,
    encode,
    is_custom,
    read_settings,
    write_environment,
    write_settings,
)

_LOGGER = logging.getLogger("neurocnn")
_SETS = ("train", "validation")
_IDS = ("cohort", "participant_id", "session_id")


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
    Results(...): classification of images, splits [0] done
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
        self._check_kinds()
        indices = [split.index for split in splits]
        if not splits or len(set(indices)) < len(indices):
            raise SettingError(f"splits: expected one or more of different index, found indices {indices}")
        if self.multi and self.parts.name == scoring.IMAGE:
            raise SettingError("multi=True needs several parts, and a whole image is one part")
        if self.networks_at_once is not None and self.networks_at_once < 1:
            raise SettingError(f"networks_at_once={self.networks_at_once}: expected at least 1")
        if self.selection_threshold is not None and not 0 <= self.selection_threshold <= 1:
            raise SettingError(
                f"selection_threshold={self.selection_threshold}: expected a number from 0 to 1"
            )
        if self.selection_threshold is not None and not scoring.paints(self.task, self.parts):
            raise SettingError("selection_threshold: only parts of images that are classified are selected")
        if self.reconstructions and self.task.name != "reconstruction":
            raise SettingError(f"reconstructions=True: a {self.task.name} reconstructs nothing")
        if self.reconstructions and not hasattr(self.parts, "place"):
            raise SettingError("reconstructions=True needs parts that know their place(shape, part_id)")
        source.as_source(self.transfer_from)

    def _check_kinds(self) -> None:
        parts_like = "parts such as nc.Patch(), or an object with name, ids and extract"
        expected: dict[str, tuple[bool, str]] = {
            "caps": (isinstance(self.caps, data.Caps), "an nc.Caps"),
            "splits": (all(isinstance(split, data.Split) for split in self.splits), "nc.Split values"),
            "parts": (_is_parts(self.parts), parts_like),
            "task": (isinstance(self.task, engine.Task), "a task such as nc.classification()"),
            "trainer": (isinstance(self.trainer, engine.Trainer), "an nc.Trainer"),
            "multi": (isinstance(self.multi, bool), "True or False"),
            "reconstructions": (isinstance(self.reconstructions, bool), "True or False"),
            "options": (isinstance(self.options, Mapping), "a mapping such as {'dropout': 0.5}"),
            "transform": (self.transform is None or callable(self.transform), "a callable or None"),
            "augmentation": (self.augmentation is None or callable(self.augmentation), "a callable or None"),
            "selection_threshold": (_is_number(self.selection_threshold, int, float), "a number or None"),
            "networks_at_once": (_is_number(self.networks_at_once, int), "a whole number or None"),
            "transfer_selection": (isinstance(self.transfer_selection, str), "a name such as 'best_loss'"),
        }
        for name, (fits, what) in expected.items():
            if not fits:
                found = shorten(repr(getattr(self, name)), 80)
                raise SettingError(f"{name}={found}: expected {what}")

    @classmethod
    def load(cls, folder: str | Path, **custom: Any) -> "Experiment":
        """Rebuild the experiment of a result folder.

        Parameters
        ----------
        folder
            The folder that `run` was given.
        **custom
            The settings that are recorded as custom, by name, and others that shall replace recorded ones, such
            as `caps` where the images have moved.

        Raises
        ------
        NotFoundError
            It is no result folder, or the images are no longer where they were.
        SettingError
            A setting is custom and was not given; the message names it.

        Examples
        --------
        >>> import neurocnn as nc
        >>> labels = nc.make_caps(tmp / "caps", n_participants=12, preprocessing="t1-volume", shape=(18, 20, 18))
        >>> caps, splits = nc.Caps(tmp / "caps", "t1-volume"), nc.kfold(labels, n_splits=2)
        >>> trainer = nc.Trainer(epochs=1)
        >>> experiment = nc.Experiment(caps, splits, nc.WholeImage(), nc.regression("age"), "Conv3_FC1", trainer)
        >>> _ = experiment.run(tmp / "results", splits=[0])
        >>> again = nc.Experiment.load(tmp / "results")
        >>> again.trainer == trainer, again.architecture, len(again.splits)
        (True, 'Conv3_FC1', 2)
        >>> again.run(tmp / "results")
        Results(...): regression of images, splits [0, 1] done
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

        Returns
        -------
        Results
            The folder read back, with what other processes have done in it.

        Raises
        ------
        SettingError
            The folder holds another experiment; the message names the settings that differ. More epochs or
            another `selection_threshold` are fine as long as no network's results are there.
        NotFoundError
            Images (all are listed), or the weights of the transfer's source, are missing.
        TableError
            Labels are missing or unknown, or a training set has a single class.
        ModelError
            There is no such architecture, or the source's weights do not fit it.
        LeakError
            The transfer's source was trained on a participant of a validation set.
        InUseError
            Another process trains the same split and network.
        TrainingError
            See `Trainer.fit`.
        """
        chosen = self._chosen(splits)
        self._check_cohorts()
        self._check_sessions(chosen)
        # What can be found wrong is found before the first epoch, and before a file is written.
        sets = {split.index: self._datasets(split) for split in chosen}
        first = next(iter(sets.values()))[0]
        wanted = self._networks(first, networks)
        runs = [
            FoldRun(
                self,
                Fold(Path(folder), split.index, self.task.name),
                *sets[split.index],
                self._origin(split),
                tuple(callbacks),
            )
            for split in chosen
        ]
        resuming.check(Path(folder), self._settings(first), self.splits, self.task, self.parts)
        for run in runs:
            run.check(wanted)
        self._open(Path(folder), first)
        for run in runs:
            _LOGGER.info("split %d of %d", run.fold.index, len(self.splits))
            run.run(wanted)
        return Results(folder, **self._custom())

    def _chosen(self, indices: Iterable[int] | None) -> list[data.Split]:
        by_index = {split.index: split for split in self.splits}
        wanted = _listed("splits", indices, by_index)
        unknown = [index for index in wanted if index not in by_index]
        if unknown or not wanted:
            raise SettingError(f"splits={wanted}: there are {sorted(by_index)}")
        return [by_index[index] for index in wanted]

    def _check_cohorts(self) -> None:
        """Refuse labels that speak of other cohorts than the CAPS folders."""
        if self.caps.cohorts:
            tables = [table for split in self.splits for table in (split.train, split.validation)]
            self.caps.check_cohorts({name for table in tables for name in table.get("cohort", ())})

    def _check_sessions(self, splits: list[data.Split]) -> None:
        """Name all missing images and labels of all splits at once."""
        tables = [table for split in splits for table in (split.train, split.validation)]
        everybody = pd.concat(tables).drop_duplicates([name for name in _IDS if name in tables[0]])
        self.caps.sources(everybody.reset_index(drop=True))
        label = self.task.label
        if label in everybody and everybody[label].isna().any():
            who = everybody[everybody[label].isna()]
            names = ", ".join(f"{row.participant_id} {row.session_id}" for row in who.itertuples())
            raise TableError(
                f"{label!r} is missing for {len(who)} sessions: {names}; fill it or leave them out"
            )

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
        wanted = _listed("networks", networks, dataset.part_ids)
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
        first = dataset.sessions.iloc[0]
        who = first["participant_id"], first["session_id"], first.get("cohort")
        fields["image_shape"] = list(self.caps.shape(*who))
        return {"neurocnn": metadata.version("neurocnn"), **fields}

    def _custom(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value for name, value in fields.items() if name != "splits" and is_custom(encode(value))
        }

    def _open(self, folder: Path, dataset: data.CapsDataset) -> None:
        """Write the settings and who is in which split, where they are not there yet."""
        settings, path = self._settings(dataset), folder / COMMANDLINE
        ranks = engine.find_ranks()
        ranks.barrier("before the result folder is written")
        if ranks.rank == 0:
            # Once more: another task of a job array may have begun meanwhile.
            resuming.check(folder, settings, self.splits, self.task, self.parts)
            if not path.is_file() or resuming.is_changed(read_settings(path), settings):
                # Settings first: it says whose folder this is.
                write_settings(settings, path)
            if not (folder / ENVIRONMENT).is_file():
                write_environment(folder / ENVIRONMENT)
            for split in self.splits:
                fold = Fold(folder, split.index, self.task.name)
                for name, sessions in zip(_SETS, (split.train, split.validation), strict=True):
                    if not fold.sessions(name).is_file():
                        storage.write_table(sessions, fold.sessions(name))
        ranks.barrier("after the result folder was written")


def _is_parts(value: Any) -> bool:
    return not isinstance(value, type) and all(hasattr(value, name) for name in ("name", "ids", "extract"))


def _is_number(value: Any, *kinds: type) -> bool:
    return value is None or (isinstance(value, kinds) and not isinstance(value, bool))


def _listed(name: str, chosen: Iterable[int] | None, everything: Iterable[int]) -> list[int]:
    if isinstance(chosen, str) or not isinstance(chosen, Iterable | None):
        raise SettingError(f"{name}={chosen!r}: expected a list of numbers, such as [0]")
    return list(everything if chosen is None else chosen)


def _read_split(results: Results, index: int) -> data.Split:
    fold = Fold(results.folder, index, results.task.name)
    return data.Split(index, *(storage.read_table(fold.sessions(name)) for name in _SETS))

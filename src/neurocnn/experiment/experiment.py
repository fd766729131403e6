"""Experiment, which trains the networks of all splits and writes a result folder.

A fold is done when its last table exists. There is no other record of progress: `run` creates all missing files. The
engine writes the checkpoints from which training resumes.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from neurocnn import data, engine
from neurocnn.engine.loggers import show_progress
from neurocnn.engine.requirements import Requirements, log_requirements
from neurocnn.errors.arguments import (
    argument_error,
    check_callable,
    check_each,
    check_flag,
    check_list,
    check_path,
)
from neurocnn.errors.keywords import suggest_keywords
from neurocnn.errors.logger import LOGGER
from neurocnn.experiment import opening
from neurocnn.experiment.fold import FoldRun
from neurocnn.experiment.recipe import WHERE, Recipe, resolve_numbers
from neurocnn.experiment.resuming import check_resumable, continued_epochs, warn_on_resume
from neurocnn.experiment.transfer_source import Source, as_source
from neurocnn.nn.registry import ArchitectureLike
from neurocnn.results import Results
from neurocnn.results.folder import ResultFolder
from neurocnn.results.scoring import first_image
from neurocnn.results.setting_json import Settings, is_custom, to_json
from neurocnn.results.settings import content_errors
from neurocnn.storage.display import html_view, short_repr
from neurocnn.storage.identity import key_columns


@suggest_keywords
@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """Experiment that trains an architecture on every split and writes all results into one folder.

    Parameters
    ----------
    caps
        Location of the images.
    splits
        Training and validation sessions of each fold.
    parts
        Inputs of the network: complete images, patches, slices or regions of interest, such as ``nc.Patch(50, 50)``.
    task
        Task to learn: `classification`, `regression`, `reconstruction`, or any `Task`.
    architecture
        Name from `list_models`, builder ``build(input_shape, n_outputs, **options)``, or module (copied).
    trainer
        Settings for training.
    multi
        Whether each part has its own network.
    transfer_from
        Source of the initial weights: a result folder of neurocnn or ClinicaDL, a checkpoint, or a module.
    transfer_selection
        Selection whose best model of the source is used, if the source is a CNN.
    selection_threshold
        Lower limit (exclusive) of the validation balanced accuracy of the parts that vote; None for all parts.
    options
        Options of the architecture, such as ``{"dropout": 0.5}``.
    transform, augmentation
        See `CapsDataset`. Only the training set is augmented.
    reconstructions
        Whether to write the parts of the first image of each set, and their reconstructions, as NIfTI files.
    networks_at_once
        Number of networks in memory at once, if each part has its own network; by default as many as fit into a quarter
        of the available memory. This number does not affect the results.

    Raises
    ------
    SettingError
        If a setting is invalid, or two settings contradict each other.

    Examples
    --------
    >>> import neurocnn as nc
    >>> labels = nc.make_caps(tmp / "caps", n_participants=12, preprocessing="t1-volume", shape=(18, 20, 18))
    >>> caps = nc.Caps(tmp / "caps", "t1-volume")
    >>> splits = nc.kfold(labels, n_splits=2, stratify=["diagnosis"])
    >>> settings = nc.WholeImage(), nc.classification(), "Conv3_FC1", nc.Trainer(epochs=1)
    >>> experiment = nc.Experiment(caps, splits, *settings)
    >>> experiment.run(tmp / "results", splits=[0])
    Results(...): classification of images, splits [0] done
    >>> experiment.recipe.architecture, experiment.custom_settings
    ('Conv3_FC1', {})
    """

    caps: data.ImageSet
    splits: Sequence[data.Split]
    parts: data.Parts
    task: engine.Task
    architecture: ArchitectureLike
    trainer: engine.Trainer = dataclasses.field(default_factory=engine.Trainer)
    _: dataclasses.KW_ONLY
    multi: bool = False
    transfer_from: Source | str | Path | Results | None = None
    transfer_selection: str = "best_balanced_accuracy"
    selection_threshold: float | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    transform: data.Transform | None = dataclasses.field(default_factory=data.MinMax)
    augmentation: data.Transform | None = None
    reconstructions: bool = False
    networks_at_once: int | None = None

    __repr__ = short_repr
    _repr_html_ = html_view

    def __post_init__(self) -> None:
        data.check_image_set("caps", self.caps, where=WHERE)
        expected = "a list of nc.Split with different indices"
        single = isinstance(self.splits, data.Split)
        splits = [self.splits] if single else check_list("splits", self.splits, expected, where=WHERE)
        if not splits or not all(isinstance(split, data.Split) for split in splits):
            raise argument_error("splits", splits, expected, where=WHERE)
        if len({split.index for split in splits}) < len(splits):
            raise argument_error("splits", [split.index for split in splits], expected, where=WHERE)
        object.__setattr__(self, "splits", splits)
        object.__setattr__(self, "_recipe", self._make_recipe())
        object.__setattr__(self, "_recipes", {})

    def _make_recipe(self) -> Recipe:
        given = {name: getattr(self, name) for name in Recipe.names()}
        return Recipe(**given | {"transfer_from": as_source(self.transfer_from)})

    @property
    def recipe(self) -> Recipe:
        """Settings of the experiment, except images and splits."""
        return self._recipe  # type: ignore[attr-defined, no-any-return]

    @classmethod
    def load(cls, folder: str | Path, **custom: Any) -> "Experiment":
        """Return the experiment of a result folder.

        Parameters
        ----------
        folder
            Path of the folder that was passed to `run`.
        **custom
            Values of settings by name, for settings that are recorded as custom and for settings to change, such as
            `caps` if the images were moved.

        Raises
        ------
        NotFoundError
            If `folder` is not a result folder, or the images do not exist at the recorded location.
        SettingError
            If a setting is custom and was not passed. The message contains its name.

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
        where = ResultFolder(results.folder, results.task, results.parts.name)
        splits = custom.get("splits") or [
            opening.read_split(where, index) for index in results.settings["splits"]
        ]
        with content_errors(where.settings):
            return cls(splits=splits, **{name: results.setting(name) for name in ("caps", *Recipe.names())})

    def run(
        self,
        folder: str | Path,
        splits: Iterable[int] | None = None,
        networks: Iterable[int] | None = None,
        callbacks: Sequence[engine.Callback] = (),
        verbose: bool = True,
    ) -> Results:
        """Train all splits that are not done yet, and write the results into `folder`.

        A run that was stopped is resumed. Several processes may share the folder, each with its own `splits` and
        `networks`: the tables are identical to those of one process.

        Parameters
        ----------
        folder
            Path of the result folder, created if it does not exist.
        splits
            Indices of the splits to run; all by default.
        networks
            part_ids of the networks to train, if each part has its own network; all by default.
        callbacks
            See `Trainer.fit`.
        verbose
            Whether to show the progress on standard error: a bar in a terminal or notebook, otherwise a line per epoch.
            Warnings are logged in both cases.

        Returns
        -------
        Results
            Results in the folder, including those of other processes.

        Raises
        ------
        SettingError
            If the folder contains another experiment. The message contains the settings that differ.
        NotFoundError
            If images or the weights of the transfer's source are missing. The message lists all missing images.
        TableError
            If labels are missing or unknown, or a training set has a single class.
        ModelError
            If the architecture is unknown, or the source's weights do not fit the architecture.
        LeakError
            If the transfer's source was trained on a participant of a validation set.
        InUseError
            If another process trains the same split and network.
        TrainingError
            See `Trainer.fit`.
        """
        callbacks = check_list("callbacks", callbacks, "a list of callables", where="Experiment.run")
        check_each("callbacks", callbacks, check_callable, where="Experiment.run")
        check_flag("verbose", verbose, where="Experiment.run")
        by_index = {split.index: split for split in self.splits}
        chosen = [by_index[index] for index in resolve_numbers("splits", splits, by_index)]
        where = self.recipe.folder(check_path("folder", folder, where="Experiment.run"))
        # All checks are done before the first epoch, and before any file is written.
        images = opening.check_sessions(self.caps, self.task.label, self.splits, chosen)
        runs = [self._fold_run(where, split, images, callbacks) for split in chosen]
        settings = self._settings(self.recipe.datasets(self.caps, chosen[0])[0])
        wanted = [run.recipe.network_parts(run.train.part_ids, networks) for run in runs]
        check_resumable(where, settings, self.splits, images)
        warn_on_resume(where, settings)
        epochs = continued_epochs(where, settings, len(self.splits))
        if epochs is not None and epochs != self.trainer.epochs:
            runs = [dataclasses.replace(run, recipe=run.recipe.with_epochs(epochs)) for run in runs]
            settings["trainer"]["epochs"] = epochs
        opening.warn_of_sources(runs, wanted)
        requirements = sum(map(FoldRun.check, runs, wanted), Requirements())
        opening.open_folder(where, settings, self.splits, images)
        opening.log_unknown_affine(where, runs[0].train, self.reconstructions)
        with log_requirements("the run", requirements, where.root):
            for position, run in enumerate(runs):
                LOGGER.info("split %d of %d", run.fold.index, len(self.splits))
                with show_progress(verbose, f"split {run.fold.index}, ", len(runs) - position):
                    run.run(wanted[position])
        return Results(folder, **self.custom_settings)

    def _fold_run(
        self,
        where: ResultFolder,
        split: data.Split,
        images: pd.DataFrame,
        callbacks: Sequence[engine.Callback],
    ) -> FoldRun:
        # After a search, each split has the settings of its best trial.
        recipe: Recipe = self._recipes.get(split.index, self.recipe)  # type: ignore[attr-defined]
        train, validation = recipe.datasets(self.caps, split)
        key = key_columns(images.columns)
        seen = recipe.source_participants(split.index, images.merge(split.validation[key], on=key))
        fold = where.fold(split.index)
        return FoldRun(recipe, where, fold, train, validation, images, seen, tuple(callbacks))

    def _settings(self, dataset: data.CapsDataset) -> Settings:
        source, affine = self.recipe.transfer_from, self.caps.known_affine(*first_image(dataset))
        fields = {
            field.name: to_json(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ("splits", "transfer_from")
        }
        return {
            "neurocnn": metadata.version("neurocnn"),
            **fields,
            "transfer_from": to_json(source.resolve() if isinstance(source, Path) else source),
            "splits": [split.index for split in self.splits],
            "input_shape": list(dataset.input_shape),
            "image_shape": list(self.caps.shape(*first_image(dataset))),
            "image_affine": None if affine is None else affine.tolist(),
            "network": self.recipe.network(dataset.input_shape).describe(),
            "n_threads": torch.get_num_threads(),
        }

    @property
    def custom_settings(self) -> dict[str, Any]:
        """Settings that are recorded as custom, by name, which `Results` needs."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value for name, value in fields.items() if name != "splits" and is_custom(to_json(value))
        }

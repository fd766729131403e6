"""Experiment that is recorded in a result folder: its settings as objects, its networks, and data sets for them."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn as torch_nn

from neurocnn import data, engine
from neurocnn.data.orientation import Grid
from neurocnn.errors import SettingError, suggestion
from neurocnn.errors.arguments import (
    argument_error,
    check_each,
    check_flag,
    check_instance,
    check_list,
    check_number,
    check_shape,
)
from neurocnn.results.folder import ResultFolder
from neurocnn.results.networks import NetworkRecipe
from neurocnn.results.paths import COMMANDLINE, Fold
from neurocnn.results.prediction import Evaluation, Networks, make_dataset
from neurocnn.results.setting_json import (
    CUSTOM,
    custom_names,
    describe_task,
    from_json,
    is_custom,
    parts_name,
)
from neurocnn.results.settings import content_errors, read_settings
from neurocnn.results.votes import Vote, read_vote
from neurocnn.storage.files import is_file

_AFFINE = "4 rows of 4 numbers, or null"
#: Expected type of each setting that is not custom, and the description of this type in a message.
_KINDS: Mapping[str, tuple[Any, str]] = {
    "task": (engine.Task, "a task"),
    "parts": (data.Parts, "parts of images"),
    "architecture": (str, "the name of an architecture"),
    "options": (Mapping, "options by name"),
    "transform": (Callable | None, "a transform, or null"),
    "augmentation": (Callable | None, "a transform, or null"),
}


def _check_values(settings: Mapping[str, Any]) -> None:
    """Raise an error if a setting that is not custom is missing or has a wrong type."""
    trainer = settings["trainer"]
    if trainer["type"] != "Trainer":
        raise argument_error("trainer", trainer["type"], "the settings of an nc.Trainer")
    engine.Trainer(**{name: trainer[name] for name in Evaluation.__annotations__})
    for name, (kind, expected) in _KINDS.items():
        if not is_custom(settings[name]):
            check_instance(name, from_json(settings[name]), kind, expected)
    check_flag("multi", settings["multi"])
    check_shape("image_shape", settings["image_shape"])
    check_shape("input_shape", settings["input_shape"], lengths=(3, 4))
    affine = settings.get("image_affine")
    if affine is not None:
        rows = [
            check_list("image_affine", row, _AFFINE) for row in check_list("image_affine", affine, _AFFINE)
        ]
        if [len(row) for row in rows] != [4] * 4:
            raise argument_error("image_affine", affine, _AFFINE)
        check_each("image_affine", [value for row in rows for value in row], check_number)
    check_list("splits", settings["splits"], "a list of indices")
    if settings["selection_threshold"] is not None:
        check_number("selection_threshold", settings["selection_threshold"], minimum=0, maximum=1)


class RecordedExperiment:
    """Experiment that is recorded in a result folder.

    Parameters
    ----------
    root
        Path of the result folder.
    custom
        Objects for settings that are recorded as custom, by name of the setting.
    overrides
        Settings that replace those of the folder.

    Raises
    ------
    NotFoundError
        If `root` is not a result folder.
    SettingError
        If another program wrote the folder, or a name in `custom` is not a setting.
    """

    def __init__(
        self, root: Path, custom: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
    ) -> None:
        self.root, self.custom = root, custom
        self.settings = read_settings(root / COMMANDLINE) | dict(overrides or {})
        if "neurocnn" not in self.settings:
            raise SettingError(
                f"{root}: {COMMANDLINE} was not written by neurocnn (ClinicaDL has a file of this name); use "
                "transfer_from=… for the weights of such a folder"
            )
        with content_errors(root / COMMANDLINE):
            _check_values(self.settings)
        for name in custom:
            self._check_name(name)

    def _check_name(self, name: str) -> str:
        if name not in self.settings:
            raise SettingError(f"{name!r} is not a setting; {suggestion(name, self.settings)}")
        return name

    def setting(self, name: str) -> Any:
        """Return a setting as an object; see `Results.setting`."""
        if name in self.custom:
            return self.custom[name]
        value = self.settings[self._check_name(name)]
        if is_custom(value):
            raise SettingError(
                f"{self.root}: the setting {name!r} is custom ({', '.join(custom_names(value))}) and its code is not "
                f"stored; use Results({str(self.root)!r}, {name}=…) or Experiment.load(…, {name}=…)"
            )
        with content_errors(self.root / COMMANDLINE):
            return from_json(value)

    @cached_property
    def task(self) -> engine.Task:
        """Task of the experiment."""
        return self.setting("task")  # type: ignore[no-any-return]

    @cached_property
    def parts(self) -> data.Parts:
        """Parts of the experiment's images."""
        return self.setting("parts")  # type: ignore[no-any-return]

    @cached_property
    def readable(self) -> ResultFolder | None:
        """Result folder, or None if custom code is needed to read it."""
        with content_errors(self.root / COMMANDLINE):
            task = self.custom.get("task") or describe_task(self.settings["task"])
            given = self.custom.get("parts")
            parts = given.name if given is not None else parts_name(self.settings["parts"])
        return None if task is None or parts is None else ResultFolder(self.root, task, parts)

    @cached_property
    def folder(self) -> ResultFolder:
        """Result folder."""
        # If custom code is needed, `task` or `parts` raises an error that names the missing setting.
        return self.readable or ResultFolder(self.root, self.task, self.parts.name)

    @property
    def evaluation(self) -> Evaluation:
        """Recorded settings of the trainer that an evaluation uses, without the device."""
        # The fields are read one by one, because `setting` would raise an error for custom functions of the trainer.
        trainer = self.settings["trainer"]
        return {
            "batch_size": trainer["batch_size"],
            "n_workers": trainer["n_workers"],
            "precision": trainer["precision"],
        }

    def load_network(self, split: int, selection: str | None, network: int | None) -> torch_nn.Module:
        """Return a trained network; see `Results.load_model`."""
        own = self.of_fold(split)
        multi = bool(own.settings["multi"])
        if multi != (network is not None):
            expected = (
                f"one of {own.parts.ids(tuple(self.settings['image_shape']))}, the part_ids of the networks"
                if multi
                else "None, because all parts have the same network"
            )
            raise SettingError(f"{self.root}: network={network!r}; expected {expected}")
        path = self.folder.check_fold(split).model(self.folder.check_selection(selection), network)
        shape = tuple(own.settings["input_shape"])
        architecture, options = (own.setting(name) for name in ("architecture", "options"))
        recipe = NetworkRecipe(architecture, options, shape, self.task)
        with content_errors(self.root / COMMANDLINE):
            return recipe.read(path)

    def of_fold(self, split: int) -> "RecordedExperiment":
        """Return the experiment with the settings of a fold: after a search, those of the fold's best trial."""
        path = self.folder.fold(split).winner
        if not is_file(path):
            return self
        own = {name: value for name, value in read_settings(path).items() if name in self.settings}
        custom = {
            name: value for name, value in self.custom.items() if is_custom(own.get(name, {CUSTOM: ""}))
        }
        with content_errors(path):
            return RecordedExperiment(self.root, custom, own)

    def new_datasets(
        self, caps: data.ImageSet, sessions: pd.DataFrame, folds: Sequence[Fold]
    ) -> dict[int, data.CapsDataset]:
        """Return the data set of the new images by fold index. Folds with equal settings share one data set."""
        experiments = {fold.index: self.of_fold(fold.index) for fold in folds}
        datasets = {own: own.new_dataset(caps, sessions) for own in dict.fromkeys(experiments.values())}
        return {index: datasets[own] for index, own in experiments.items()}

    def vote(self, split: int | None = None) -> Vote:
        """Return the vote of a fold, or of the experiment."""
        own = self if split is None else self.of_fold(split)
        return read_vote(self.folder, own.settings["selection_threshold"])

    def load_networks(self, fold: Fold, selection: str, part_ids: list[int]) -> Networks:
        """Return the network of a fold, or its networks by part_id."""
        if self.of_fold(fold.index).settings["multi"]:
            return {part: self.load_network(fold.index, selection, part) for part in part_ids}
        return self.load_network(fold.index, selection, None)

    def _check_columns(self, caps: data.ImageSet) -> None:
        """Raise an error if images have other channels than in training, or another order of channels."""
        recorded = self.settings["caps"]
        # Images with one channel may be in a CAPS or in a column of any name.
        found, expected = (
            list(columns) if len(columns) > 1 else "a single channel"
            for columns in (
                getattr(data.check_image_set("caps", caps), "columns", ()),
                recorded.get("columns", ()),
            )
        )
        if found != expected and not is_custom(recorded):
            raise SettingError(
                f"caps: {found}; expected {expected} as in training; use the same columns in the same order"
            )

    def new_dataset(self, caps: data.ImageSet, sessions: pd.DataFrame) -> data.CapsDataset:
        """Return a data set of new images, with the parts and transform of training."""
        affine = self.settings.get("image_affine")
        self._check_columns(caps)
        return make_dataset(
            caps,
            sessions,
            label=self.task.label,
            parts=self.parts,
            transform=self.setting("transform"),
            grid=Grid(
                tuple(self.settings["image_shape"]), None if affine is None else np.array(affine, dtype=float)
            ),
        )

"""Recipe: the checked settings of an experiment, without its images and splits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn as torch_nn

from neurocnn import data, engine, nn
from neurocnn.data.parts import check_parts
from neurocnn.engine.fingerprint import resume_rules
from neurocnn.errors import ModelError, SettingError
from neurocnn.errors.arguments import (
    argument_error,
    check_callable,
    check_each,
    check_flag,
    check_instance,
    check_integer,
    check_list,
    check_number,
    check_text,
)
from neurocnn.experiment import reconstructions, transfer_source
from neurocnn.nn.registry import ArchitectureLike
from neurocnn.results import leakage
from neurocnn.results.folder import ResultFolder
from neurocnn.results.networks import NetworkRecipe
from neurocnn.results.paths import Fold
from neurocnn.results.same_study import check_renamed_cohorts

WHERE = "Experiment"


@dataclass(frozen=True, eq=False)
class Recipe:
    """Settings of an `Experiment`, except images and splits.

    Raises
    ------
    SettingError
        If a setting is invalid, or two settings contradict each other.
    """

    parts: data.Parts
    task: engine.Task
    architecture: ArchitectureLike
    trainer: engine.Trainer
    multi: bool
    transfer_from: transfer_source.Source | None
    transfer_selection: str
    selection_threshold: float | None = field(metadata={"resume": "until scored"})
    options: Mapping[str, Any]
    transform: data.Transform | None
    augmentation: data.Transform | None
    reconstructions: bool
    networks_at_once: int | None = field(metadata={"resume": "free"})

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.multi and self.parts.name == "image":
            raise argument_error(
                "multi", True, "False, because a complete image is a single part", where=WHERE
            )
        if self.selection_threshold is not None and not self.folder(Path()).has_part_accuracy:
            raise argument_error(
                "selection_threshold",
                self.selection_threshold,
                "None, because only the parts of a classification are selected",
                where=WHERE,
            )
        if self.reconstructions and not self.task.reconstructs:
            raise argument_error(
                "reconstructions",
                True,
                f"False, because {self.task.name} has no reconstructions",
                where=WHERE,
            )
        if self.reconstructions and not hasattr(self.parts, "place"):
            raise SettingError(f"{WHERE}: reconstructions=True; expected parts with place(shape, part_id)")

    def _check_kinds(self) -> None:
        check_parts("parts", self.parts, where=WHERE)
        check_instance("task", self.task, engine.Task, "a task such as nc.classification()", where=WHERE)
        check_instance("trainer", self.trainer, engine.Trainer, "an nc.Trainer", where=WHERE)
        if not isinstance(self.options, Mapping):
            raise argument_error("options", self.options, "a dict such as {'dropout': 0.5}", where=WHERE)
        fixed = sorted({"architecture", "input_shape", "n_outputs"} & set(self.options))
        if fixed:
            raise argument_error(
                "options",
                self.options,
                f"no {fixed[0]!r}, which follows from the other settings",
                where=WHERE,
            )
        check_text(
            "transfer_selection", self.transfer_selection, expected="a name such as 'best_loss'", where=WHERE
        )
        for name in ("multi", "reconstructions"):
            check_flag(name, getattr(self, name), where=WHERE)
        for name in ("transform", "augmentation"):
            if getattr(self, name) is not None:
                check_callable(name, getattr(self, name), "a callable or None", where=WHERE)
        if self.networks_at_once is not None:
            check_integer("networks_at_once", self.networks_at_once, minimum=1, where=WHERE)
        if self.selection_threshold is not None:
            check_number("selection_threshold", self.selection_threshold, minimum=0, maximum=1, where=WHERE)

    @staticmethod
    def rules() -> dict[str, str]:
        """Return the rule for changes of each setting in `commandline.json` when a run is resumed, by dotted name."""
        return (
            {"neurocnn": "free", "n_threads": "free", "image_affine": "free"}
            | resume_rules(Recipe)
            | resume_rules(engine.Trainer, "trainer.")
            | resume_rules(data.Caps, "caps.")
            | resume_rules(data.Images, "caps.")
        )

    @staticmethod
    def names() -> list[str]:
        """Return the names of the settings."""
        return [item.name for item in fields(Recipe)]

    def folder(self, root: Path) -> ResultFolder:
        """Return the result folder at `root` for these settings."""
        return ResultFolder(root, self.task, self.parts.name)

    def datasets(self, caps: data.ImageSet, split: data.Split) -> tuple[data.CapsDataset, data.CapsDataset]:
        """Return the training set and the validation set of a split. Only the training set is augmented."""
        train, validation = (
            data.CapsDataset(
                caps,
                sessions,
                parts=self.parts,
                label=self.task.label,
                transform=self.transform,
                augmentation=augmentation,
            )
            for sessions, augmentation in ((split.train, self.augmentation), (split.validation, None))
        )
        return train, validation.without_augmentation()

    def network_parts(self, part_ids: Sequence[int], networks: Iterable[int] | None) -> list[int] | None:
        """Return the part_ids of the networks to train; None if there is one network for all parts.

        Raises
        ------
        SettingError
            If the images have only one part, or a part_id in `networks` does not exist.
        """
        if not self.multi:
            if networks is not None:
                raise argument_error("networks", networks, "None without multi=True", where="Experiment.run")
            return None
        if len(part_ids) < 2:
            raise SettingError(
                f"{WHERE}: multi=True: {self.parts} has the part_ids {list(part_ids)}; expected at least two; use "
                "multi=False"
            )
        return resolve_numbers("networks", networks, part_ids)

    def warn_of_source(self, split: int, part_ids: Sequence[int], networks: Sequence[int] | None) -> None:
        """Show the warnings about the transfer's source. They are the same for all splits and networks.

        Parameters
        ----------
        split
            Index of a split.
        part_ids, networks
            part_ids of the images, and of the networks, see `network_parts`.
        """
        source, part = self.transfer_from, networks[0] if networks else None
        if source is not None:
            transfer_source.warn_of_participants(source)
            selection, classes = self.transfer_selection, self.task.classes
            transfer_source.warn_of_output_order(source, split, part, selection, classes)
            if self.multi:
                transfer_source.warn_of_other_parts(source, self.parts, part_ids)

    def with_epochs(self, epochs: int) -> "Recipe":
        """Return these settings with another number of epochs."""
        return replace(self, trainer=replace(self.trainer, epochs=epochs))

    def source_participants(self, index: int, images: pd.DataFrame) -> pd.DataFrame | None:
        """Return the participants that the transfer's source has seen; None without a transfer.

        Parameters
        ----------
        index
            Index of the split.
        images
            Fingerprints of the split's validation images, on whose participants the source must not have been trained.
            The fingerprints also detect participants whose cohort was renamed.

        Raises
        ------
        LeakError
            If the source was trained on participants of the validation set.
        """
        if self.transfer_from is None:
            return None
        seen = transfer_source.source_participants(self.transfer_from, index)
        where = f"transfer from {self.transfer_from} to split {index}: validation set"
        advice = "use the splits of the source, or leave these participants out"
        leakage.check_unseen(seen, images, where, leakage.TRAINED, advice)
        if isinstance(self.transfer_from, Path):
            trained = seen[seen["role"].isin(leakage.TRAINED)]
            check_renamed_cohorts(Fold(self.transfer_from, index), trained, images, where)
        return seen

    def network(self, input_shape: tuple[int, ...]) -> NetworkRecipe:
        """Return the recipe of the networks, which determines everything except their weights."""
        return NetworkRecipe(self.architecture, self.options, input_shape, self.task)

    def build_network(
        self, train: data.CapsDataset, split: int, part: int | None, initialize_decoder: bool
    ) -> torch_nn.Module:
        """Return a network with initial weights: those of the transfer, or random weights that are the same for every
        part.

        If `initialize_decoder` is True, the decoder of an autoencoder is initialised with the mean intensity of the
        training set.
        """
        with torch.random.fork_rng(devices=[]):
            # `torch.manual_seed` would also change the random states of all GPUs.
            torch.default_generator.manual_seed(self.trainer.seed)
            model = self.network(train.input_shape).build()
        if initialize_decoder and isinstance(model, nn.CNN_Transformer):
            model.start_at(reconstructions.mean_intensity(train, part))
        if self.transfer_from is not None:
            weights = transfer_source.weights(self.transfer_from, split, part, self.transfer_selection)
            try:
                nn.transfer_weights(weights, model)
            except ModelError as error:
                # The convolutions of ClinicaDL 1.x's network of the same name have these parameters.
                if self.architecture != "Conv4_FC3" or not any(".16.weight" in name for name in weights):
                    raise
                raise ModelError(
                    f"{error}; the network that ClinicaDL 1.x names Conv4_FC3 is 'Conv4_FC3_v1'"
                ) from error
        return model


def resolve_numbers(name: str, chosen: Iterable[int] | None, existing: Iterable[int]) -> list[int]:
    """Return the chosen numbers, or all existing numbers if `chosen` is None.

    Raises
    ------
    SettingError
        If a number does not exist, or the list is empty.

    Examples
    --------
    >>> resolve_numbers("splits", None, [0, 1]), resolve_numbers("splits", iter([1]), [0, 1])
    ([0, 1], [1])
    """
    known = list(existing)
    if chosen is None:
        return known
    expected = f"a list of numbers from {known}"
    wanted = check_list(name, chosen, expected, where="Experiment.run")
    check_each(name, wanted, check_integer, where="Experiment.run")
    if not wanted or any(number not in known for number in wanted):
        raise argument_error(name, wanted, expected, where="Experiment.run")
    return wanted

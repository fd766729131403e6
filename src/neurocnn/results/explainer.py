"""Computation of the attribution map of a part."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch import nn as torch_nn

from neurocnn import data, engine
from neurocnn.data.parts import LocatedParts, Place
from neurocnn.data.spatial import part_space, set_space, with_affine
from neurocnn.engine.attribution import BASELINE_METHODS, Attribution, task_output
from neurocnn.engine.collate import collate
from neurocnn.engine.faults import translate_errors, translate_network_errors
from neurocnn.engine.inputs import image_targets
from neurocnn.engine.runtime import (
    find_device,
    floating_type,
    memory_format,
    to_model_format,
    use_device,
)
from neurocnn.errors import ImageError, SettingError
from neurocnn.errors.arguments import argument_error, check_choice, check_number
from neurocnn.randomness import seeded
from neurocnn.results.paths import Fold
from neurocnn.results.placing import as_volume, check_placeable
from neurocnn.results.prediction import Networks
from neurocnn.results.recorded import RecordedExperiment
from neurocnn.storage.identity import COHORT

#: Type of the argument `baseline` of `Results.explain`.
Baseline = pd.DataFrame | float | None
#: Tuple of a part_id and the map of this part in the shape of its box.
Map = tuple[int, np.ndarray]


def check_target(task: engine.Task, target: object) -> int:
    """Return the index of the class that is explained: the last class if `target` is None, and 0 for a regression.

    Examples
    --------
    >>> check_target(engine.classification("diagnosis", ["CN", "AD"]), None)
    1
    >>> check_target(engine.regression(), "AD")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: explain: target='AD'; expected None, because the task has no classes
    """
    if task.reconstructs:
        raise argument_error("task", task.name, "a task with predictions", where="explain")
    if task.classes is None:
        if target is not None:
            raise argument_error("target", target, "None, because the task has no classes", where="explain")
        return 0
    chosen = task.classes[-1] if target is None else target
    return task.classes.index(check_choice("target", chosen, task.classes, where="explain"))


def mean_image(caps: data.ImageSet, sessions: pd.DataFrame) -> Tensor:
    """Return the mean image of the sessions, (C, D, H, W). Only one image is in memory at a time."""
    total: Tensor | None = None
    for row in sessions.to_dict("records"):
        image = caps.read(row["participant_id"], row["session_id"], row.get(COHORT)).double()
        total = image if total is None else total + image
    if total is None:
        raise argument_error("baseline", sessions, "a table with at least one session", where="explain")
    return (total / len(sessions)).float()


@dataclass(frozen=True, eq=False)
class Explainer:
    """Images and settings of an explanation; see `Results.explain`.

    Parameters
    ----------
    experiment
        Experiment of the result folder.
    dataset
        Images, with the same parts and transform as in training.
    attribution
        Attribution method and its settings.
    target
        Index of the class that is explained.
    baseline
        Value of all voxels of a transformed part, or an image (C, D, H, W) that is cut into parts and transformed as
        the explained images are.
    """

    experiment: RecordedExperiment
    dataset: data.CapsDataset
    attribution: Attribution
    target: int
    baseline: float | Tensor

    @classmethod
    def create(
        cls,
        experiment: RecordedExperiment,
        caps: data.ImageSet,
        sessions: pd.DataFrame,
        attribution: Attribution,
        target: object,
        baseline: Baseline,
    ) -> "Explainer":
        """Check the arguments of `Results.explain` and return the explainer."""
        index, dataset = check_target(experiment.task, target), experiment.new_dataset(caps, sessions)
        check_placeable(dataset, "explain")
        for row in range(len(dataset.sessions)):
            who = _image_identity(dataset.sessions, row)
            if caps.known_affine(*who) is None:
                raise ImageError(
                    f"explain: {' '.join(who[:2])}: the affine is unknown, because there is only a prepared tensor; "
                    "expected the NIfTI file; add this file to the CAPS"
                )
        if baseline is None and attribution.method not in BASELINE_METHODS:
            baseline = 0.0
        if baseline is not None and not isinstance(baseline, pd.DataFrame):
            return cls(
                experiment, dataset, attribution, index, check_number("baseline", baseline, where="explain")
            )
        reference = dataset.sessions if baseline is None else baseline
        if baseline is None and len(reference) == 1:
            raise argument_error(
                "baseline", None, "a number or a table of sessions, because there is only one image", where="explain",
                remedy="pass the sessions of controls, such as baseline=labels[labels['diagnosis'] == 'CN']",
            )  # fmt: skip
        checked = data.CapsDataset(caps, reference, dataset.parts, transform=None)
        if checked.caps.shape(*_image_identity(checked.sessions, 0)) != caps.shape(
            *_image_identity(dataset.sessions, 0)
        ):
            raise SettingError(
                "explain: baseline: the shape of its images differs from that of the images of sessions; "
                "expected equal shapes"
            )
        return cls(experiment, dataset, attribution, index, mean_image(caps, checked.sessions))

    def of_fold(self, index: int) -> "Explainer":
        """Return the explainer with the settings of a fold, which differ between folds after a search."""
        experiment = self.experiment.of_fold(index)
        if experiment is self.experiment:
            return self
        dataset = experiment.new_dataset(self.dataset.caps, self.dataset.sessions)
        return replace(self, experiment=experiment, dataset=dataset)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the images."""
        return self.dataset.caps.shape(*_image_identity(self.dataset.sessions, 0))

    @property
    def device(self) -> torch.device:
        """Device of the computation."""
        return find_device("auto", engine.find_ranks().local)

    def affine(self, row: int) -> np.ndarray:
        """Return the affine of an image."""
        return self.dataset.caps.affine(*_image_identity(self.dataset.sessions, row))

    def place(self, part: int) -> Place:
        """Return the box of a part."""
        return cast(LocatedParts, self.dataset.parts).place(self.shape, part)

    def image_classes(self) -> list[str | None]:
        """Return the class name of each image, or None without classes or labels."""
        names, n = self.experiment.task.classes, len(self.dataset.sessions)
        targets = image_targets(self.experiment.task, self.dataset) if self.dataset.label else None
        return [None] * n if names is None or targets is None else [names[int(each)] for each in targets]

    def load(self, fold: Fold, selection: str) -> Networks:
        """Return the networks of a fold, on the device that computes the maps."""
        networks = self.experiment.load_networks(fold, selection, self.dataset.part_ids)
        for model in networks.values() if isinstance(networks, Mapping) else [networks]:
            model.to(self.device).to(memory_format=memory_format(model))
        return networks

    def errors(self) -> AbstractContextManager[Any]:
        """Return a context in which the device is the current one and its errors get a remedy."""
        stack = ExitStack()
        stack.enter_context(use_device(self.device))
        stack.enter_context(translate_errors(self.device, self.attribution.batch_size))
        return stack

    def batches(self, networks: Networks, row: int) -> Iterator[tuple[torch_nn.Module, list[int], Any]]:
        """Yield the network, the part_ids and the batch of each group of parts of an image."""
        ids = self.dataset.part_ids
        size = 1 if isinstance(networks, Mapping) else self.attribution.batch_size
        for start in range(0, len(ids), size):
            chunk = ids[start : start + size]
            model = networks[chunk[0]] if isinstance(networks, Mapping) else networks
            first = row * len(ids) + start
            yield model, chunk, collate([self.dataset[first + k] for k in range(len(chunk))])

    def maps(self, model: torch_nn.Module, parts: list[int], batch: Any) -> list[Map]:
        """Return the map of each part of a batch, summed over the channels, in the shape of the part's box."""
        baselines = torch.stack([self._baseline(part, batch["image"][0]) for part in parts])
        dtype, layout = floating_type(model), memory_format(model)
        images, baselines = (
            to_model_format(each, self.device, dtype, layout) for each in (batch["image"], baselines)
        )
        output = task_output(self.experiment.task, self.target)
        with translate_network_errors(model, batch):
            found = (
                self.attribution.compute(model, output, images, baselines).sum(dim=1).float().cpu().numpy()
            )
        return [(part, as_volume(one, self.place(part))) for part, one in zip(parts, found, strict=True)]

    def _baseline(self, part_id: int, like: Tensor) -> Tensor:
        if isinstance(self.baseline, float):
            return torch.full_like(like, self.baseline)
        # Each channel is cut and transformed by itself, as in the data set.
        return torch.cat([self._baseline_channel(part_id, image) for image in torch.split(self.baseline, 1)])

    def _baseline_channel(self, part_id: int, image: Tensor) -> Tensor:
        part, transform = self.dataset.parts.extract(image, part_id), self.dataset.transform
        space = part_space(self.affine(0), self.place(part_id), tuple(part.shape))
        with seeded("baseline", part_id), set_space(space):
            found = part if transform is None else with_affine(transform)(part)
        return torch.as_tensor(found, dtype=torch.float32).as_subclass(Tensor)


def _image_identity(sessions: pd.DataFrame, row: int) -> tuple[str, str, str | None]:
    found = sessions.iloc[row]
    return found["participant_id"], found["session_id"], found.get(COHORT)

"""CapsDataset: one dataset for every kind of part."""

import copy
import logging
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from neurocnn.data.caps import Caps
from neurocnn.data.orientation import orientation_of
from neurocnn.data.part_files import read_part
from neurocnn.data.parts import Parts, WholeImage
from neurocnn.data.roi import Roi
from neurocnn.data.transforms import MinMax
from neurocnn.errors import ImageError, SettingError, TableError, suggestion
from neurocnn.randomness import reseed, seeded
from neurocnn.storage.identity import REQUIRED

logger = logging.getLogger("neurocnn")

Transform = Callable[[Tensor], Tensor]


class CapsDataset(Dataset[dict[str, Any]]):
    """The parts of some images of a `Caps`, image after image.

    An item is a dict: `image` (C, …) float32, `label` as the table has it (if a label is asked for),
    `participant_id`, `session_id`, `part_id` and, where the CAPS has cohorts, `cohort`. The image is cut into
    parts, then transformed, then augmented. An index is a number, or a pair of epoch and number: augmentation
    depends on the seed, the epoch, and whose part it is, never on the order of reading or on the worker.

    Parameters
    ----------
    caps
        Where the images are.
    sessions
        One row an image: `participant_id`, `session_id`, with cohorts `cohort`, and the label's column.
    parts
        What images are cut into.
    label
        A column of `sessions`; None: items have no label.
    transform
        From tensor to tensor, for each part: `MinMax`, `ZScore`, a composition; None: raw voxels.
    augmentation
        From tensor to tensor, at random; only in training.
    seed
        Of the augmentation and of the parts' random shift.

    Raises
    ------
    NotFoundError
        Listing all images that are missing.
    TableError
        Ids or labels are missing.
    SettingError
        The images cannot be cut into these parts.

    Examples
    --------
    >>> from neurocnn.data import Patch, make_caps
    >>> labels = make_caps(tmp / "caps", n_participants=2, shape=(12, 14, 12))
    >>> dataset = CapsDataset(Caps(tmp / "caps"), labels, Patch(6, 6), label="age")
    >>> len(dataset), dataset.input_shape
    (16, (1, 6, 6, 6))
    >>> item = dataset[9]  # the second image's second patch
    >>> item["participant_id"], item["part_id"], item["label"] == labels["age"].tolist()[1]
    ('sub-0002', 1, True)
    """

    takes_epoch = True

    def __init__(
        self,
        caps: Caps,
        sessions: pd.DataFrame,
        parts: Parts | None = None,
        label: str | None = None,
        transform: Transform | None = MinMax(),  # noqa: B008 (it is frozen)
        augmentation: Transform | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.caps = caps
        self.parts: Parts = parts if parts is not None else WholeImage()
        self.label = label
        self.transform = transform
        self.augmentation = augmentation
        self.seed = seed
        self.augmented = True
        self.sessions = sessions.reset_index(drop=True)
        if not len(sessions):
            raise TableError("sessions: there are no rows, so that the dataset would be empty")
        self._labels = _labels(self.sessions, label)
        self._sources = caps.sources(self.sessions)
        self._keys = list(zip(*(self.sessions[name].tolist() for name in REQUIRED), strict=True))
        shape = self._shape()
        self._check_masks()
        self.part_ids: list[int] = self.parts.ids(shape)
        if not self.part_ids:
            raise SettingError(f"an image of shape {shape} has no parts of {self.parts!r}")
        self._check_sizes(shape)
        self.input_shape: tuple[int, ...] = tuple(self._item_image(0, self.part_ids[0], 0, False).shape)

    def _shape(self) -> tuple[int, int, int]:
        """The shape that all images must have; the header of each cohort's first image is read."""
        shapes: dict[str | None, tuple[int, int, int]] = {}
        for source in self._sources:
            if source.cohort not in shapes:
                shapes[source.cohort] = self.caps.images.grid(source).shape
        if len(set(shapes.values())) > 1:
            raise ImageError(f"the cohorts' images are of different shapes: {shapes}")
        return next(iter(shapes.values()))

    def _check_sizes(self, shape: tuple[int, int, int]) -> None:
        """Refuse regions of different sizes, which fit into no batch."""
        if isinstance(self.parts, Roi):
            sizes = {
                name: tuple(axis.stop - axis.start for axis in self.parts.place(shape, part_id))
                for part_id, name in enumerate(self.parts.regions)
            }
            if len(set(sizes.values())) > 1:
                raise SettingError(
                    f"the regions are of different shapes, {sizes}, and cannot stand in one batch; "
                    "make a dataset for each"
                )

    def _check_masks(self) -> None:
        """Say it when a mask's axes point elsewhere than the images': it would cover something else."""
        affine = self.caps.images.grid(self._sources[0]).affine
        if affine is None or not isinstance(self.parts, Roi):
            return
        images = orientation_of(affine)
        for name, mask in self.parts.mask_orientations().items():
            if mask != images:
                logger.warning(
                    "the axes of the mask of region %r point to %s, those of the images to %s: is it the right mask?",
                    name, mask, images,
                )  # fmt: skip

    def __len__(self) -> int:
        """Images times parts."""
        return len(self._sources) * len(self.part_ids)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an index, or of a pair of epoch and index."""
        epoch, number = index if isinstance(index, tuple) else (0, index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"item {number} of a dataset of {len(self)}")
        row, position = divmod(number % len(self), len(self.part_ids))
        part_id = self.part_ids[position]
        participant, session = self._keys[row]
        item: dict[str, Any] = {"image": self._item_image(row, part_id, epoch, self.augmented)}
        if self._labels is not None:
            item["label"] = self._labels[row]
        item |= {"participant_id": participant, "session_id": session, "part_id": part_id}
        cohort = self._sources[row].cohort
        if cohort is not None:
            item["cohort"] = cohort
        return item

    def _item_image(self, row: int, part_id: int, epoch: int, augmented: bool) -> Tensor:
        source = self._sources[row]
        images = self.caps.images
        shift = getattr(self.parts, "random_shift", 0) if augmented else 0
        augmentation = self.augmentation if augmented else None
        if not shift and augmentation is None:
            part = read_part(images, source, self.parts, part_id)
            return _plain(self._transformed(part), images.cached(source))
        with seeded(
            self.seed, epoch, source.cohort, source.participant_id, source.session_id, part_id
        ) as seed:
            if shift:
                moved = torch.randint(-shift, shift + 1, (3,)).tolist()
                part = self.parts.extract(images.image(source), part_id, moved)  # type: ignore[call-arg]
            else:
                part = read_part(images, source, self.parts, part_id)
            part = self._transformed(part)
            if augmentation is not None:
                reseed(augmentation, seed)
                part = augmentation(part)
        return _plain(part, images.cached(source))

    def _transformed(self, part: Tensor) -> Tensor:
        return part if self.transform is None else self.transform(part)

    def _copy(self) -> Self:
        return copy.copy(self)

    def only_part(self, part_id: int) -> Self:
        """The same images with one of their parts.

        Raises
        ------
        SettingError
            There is no such part.
        """
        if part_id not in self.part_ids:
            raise SettingError(
                f"there is no part {part_id}; {suggestion(str(part_id), map(str, self.part_ids))}"
            )
        dataset = self._copy()
        dataset.part_ids = [part_id]
        dataset.input_shape = tuple(dataset._item_image(0, part_id, 0, False).shape)
        return dataset

    def without_augmentation(self) -> Self:
        """The same parts as evaluation sees them: no augmentation, no random shift."""
        dataset = self._copy()
        dataset.augmented = False
        return dataset

    def with_seed(self, seed: int) -> Self:
        """The same parts with another seed of the augmentation."""
        dataset = self._copy()
        dataset.seed = seed
        return dataset


def _plain(part: Tensor, image: Tensor | None) -> Tensor:
    """A plain float32 tensor that shares no memory with the image."""
    if not isinstance(part, Tensor | np.ndarray):
        raise SettingError(f"the transform or augmentation gave a {type(part).__name__}, expected a tensor")
    part = torch.as_tensor(part, dtype=torch.float32)
    if type(part) is not Tensor:
        part = part.as_subclass(Tensor)
    if image is not None and part.untyped_storage().data_ptr() == image.untyped_storage().data_ptr():
        part = part.clone()
    return part.contiguous()


def _labels(sessions: pd.DataFrame, label: str | None) -> list[Any] | None:
    if label is None:
        return None
    if label not in sessions.columns:
        raise TableError(
            f"sessions: there is no column {label!r}; {suggestion(label, map(str, sessions.columns))}"
        )
    missing = sessions[sessions[label].isna()]
    if len(missing):
        rows = ", ".join(
            f"row {i} ({p}, {s})"
            for i, p, s in zip(missing.index, *(missing[n] for n in REQUIRED), strict=True)
        )
        raise TableError(f"sessions: {label!r} is missing in {len(missing)} rows: {rows}; fill or drop them")
    return list(sessions[label].tolist())

"""CapsDataset: dataset of the parts of images, for all kinds of parts."""

import copy
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from neurocnn.data.caps import Caps
from neurocnn.data.orientation import Grid
from neurocnn.data.part_files import read_part
from neurocnn.data.parts import LocatedParts, Parts, ShiftedParts, WholeImage, check_parts
from neurocnn.data.roi import Roi, check_equal_sizes
from neurocnn.data.sources import Source
from neurocnn.data.spatial import Space, located, needs_affine, part_space, with_affine
from neurocnn.data.transforms import MinMax, Transform, ZScore, check_transform
from neurocnn.errors import ImageError, NeurocnnError, SettingError, TableError, suggestion
from neurocnn.errors.arguments import check_instance, check_integer, check_table, check_text
from neurocnn.errors.logger import LOGGER
from neurocnn.randomness import reseed, seeded
from neurocnn.storage.display import html_view, short_repr
from neurocnn.storage.identity import COHORT, check_columns, describe_rows

_WHERE = "CapsDataset"


class CapsDataset(Dataset[dict[str, Any]]):
    """Dataset of the parts of the images of a `Caps`, image by image.

    An item is a dict: `image` (C, …) float32, `label` as in the table (if a label is requested),
    `participant_id`, `session_id`, `part_id` and, if the CAPS has cohorts, `cohort`. The image is cut into
    parts, then transformed, then augmented. An index is an integer, or a pair of epoch and integer: augmentation
    depends only on the seed, the epoch and the identity of the part, not on the order of reading or the worker.

    Parameters
    ----------
    caps
        Location of the images.
    sessions
        One row per image: `participant_id`, `session_id`, `cohort` if the CAPS has cohorts, and the label's column.
    parts
        Parts of each image.
    label
        Label column of `sessions`; None for items without a label.
    transform
        Function from tensor to tensor, applied to each part: `MinMax`, `ZScore`, a composition; None for raw voxels.
        Transforms of TorchIO and MONAI, also in a composition, get the affine of the part.
    augmentation
        Random function from tensor to tensor, applied in training only. A warning is logged if two calls with the same
        seed differ.
    seed
        Seed of the augmentation and of the parts' random shift.

    Raises
    ------
    NotFoundError
        If images are missing; the message lists all of them.
    TableError
        If ids or labels are missing.
    SettingError
        If the images cannot be cut into these parts, or a transform fails or returns parts of different sizes; the
        message names the image and the part.

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
    shown_settings = ("caps", "sessions", "parts", "label", "transform", "augmentation")
    __repr__ = short_repr
    _repr_html_ = html_view

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
        self.caps = check_instance("caps", caps, Caps, "an nc.Caps", where=_WHERE)
        self.parts: Parts = WholeImage() if parts is None else check_parts("parts", parts, where=_WHERE)
        self.label = label
        if label is not None:
            check_text("label", label, expected="a column name", where=_WHERE)
        self.transform = check_transform("transform", transform, where=_WHERE)
        self.augmentation = check_transform("augmentation", augmentation, where=_WHERE)
        self.seed = check_integer("seed", seed, minimum=0, where=_WHERE)
        self.augmented = True
        self.sessions = check_table("sessions", sessions, where=_WHERE).reset_index(drop=True)
        if not len(sessions):
            raise TableError("CapsDataset: sessions has no rows; expected one row per image")
        if not caps.cohorts and label != COHORT:
            # If the CAPS has no cohorts, such a column may be a study phase, which does not distinguish people.
            self.sessions = self.sessions.drop(columns=COHORT, errors="ignore")
        self._labels = _labels(self.sessions, label)
        self._sources = caps.sources(self.sessions)
        shape = self._shape()
        self._check_masks()
        self.part_ids: list[int] = self.parts.ids(shape)
        if not self.part_ids:
            raise SettingError(
                f"CapsDataset: parts={self.parts!r}; an image of shape {shape} has none of them"
            )
        if isinstance(self.parts, Roi):
            check_equal_sizes(self.parts, shape)
        self.input_shape: tuple[int, ...] = tuple(self._item_image(0, self.part_ids[0], 0, False).shape)
        if augmentation is not None:
            self._check_augmentation()

    def _shape(self) -> tuple[int, int, int]:
        """Return the shape that all images must have, from the header of each cohort's first image."""
        first: dict[str | None, Source] = {}
        for source in self._sources:
            first.setdefault(source.cohort, source)
        images = self.caps.images
        (example, expected), *others = [(source, images.grid(source)) for source in first.values()]
        for source, grid in others:
            if grid.shape != expected.shape:
                found = {each.cohort: images.grid(each).shape for each in first.values()}
                raise ImageError(f"the shapes of the cohorts' images differ: {found}; expected one shape")
            if not grid.is_at(expected):
                message = expected.describe_difference(example.name, grid, source.name)
                images.warn_once(source.cohort, "cohort", message)
        return expected.shape

    def _check_masks(self) -> None:
        """Log a warning if a mask and the images have different affines, so that the mask covers other structures."""
        if not isinstance(self.parts, Roi):
            return
        first = self._sources[0]
        grid, images = self.caps.images.grid(first), self.caps.images
        for name, header in self.parts.mask_headers().items():
            mask = Grid(header.shape, header.affine, is_oriented=header.is_oriented)
            if mask.shape == grid.shape and not mask.is_at(grid):
                what = f"the mask of region {name!r} ({self.parts.regions[name]})"
                images.warn_once(first.cohort, what, grid.describe_difference(first.name, mask, what))

    def __len__(self) -> int:
        """Return the number of images times the number of parts."""
        return len(self._sources) * len(self.part_ids)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Return the item at an index, or at a pair of epoch and index."""
        epoch, number = index if isinstance(index, tuple) else (0, index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"item {number} of a dataset of {len(self)}")
        row, position = divmod(number % len(self), len(self.part_ids))
        part_id = self.part_ids[position]
        source = self._sources[row]
        image = self._item_image(row, part_id, epoch, self.augmented)
        # Not checked for augmented items, because an augmentation may change the size of all parts.
        if image.shape != self.input_shape and not (self.augmented and self.augmentation is not None):
            raise SettingError(
                f"{source.name}, part {part_id}: shape={tuple(image.shape)} after transform={self.transform!r}; "
                f"expected {self.input_shape}, as for the first part; use a transform that returns one size"
            )
        item: dict[str, Any] = {"image": image}
        if self._labels is not None:
            item["label"] = self._labels[row]
        item |= {"participant_id": source.participant_id, "session_id": source.session_id, "part_id": part_id}
        if source.cohort is not None:
            item["cohort"] = source.cohort
        return item

    def _item_image(self, row: int, part_id: int, epoch: int, augmented: bool) -> Tensor:
        source = self._sources[row]
        images, parts = self.caps.images, self.parts
        shifted = parts if augmented and isinstance(parts, ShiftedParts) and parts.random_shift else None
        augmentation = self.augmentation if augmented else None
        # Seeding is skipped, because these transforms draw no random numbers. Others may: TorchIO's always draw one.
        is_plain = self.transform is None or isinstance(self.transform, MinMax | ZScore)
        if shifted is None and augmentation is None and is_plain:
            part = read_part(images, source, parts, part_id)
            return _plain_tensor(self._transform("transform", part, source, part_id), images.cached(source))
        identity = source.cohort, source.participant_id, source.session_id, part_id
        with seeded(self.seed, epoch, *identity) as seed:
            shift = [0, 0, 0]
            if shifted is None:
                part = read_part(images, source, parts, part_id)
            else:
                shift = torch.randint(-shifted.random_shift, shifted.random_shift + 1, (3,)).tolist()
                part = shifted.extract(images.image(source), part_id, shift)
            with located(self._space(source, part_id, shift, part)):
                part = self._transform("transform", part, source, part_id)
                if augmentation is not None:
                    reseed(augmentation, seed)
                    part = self._transform("augmentation", part, source, part_id)
        return _plain_tensor(part, images.cached(source))

    def _space(self, source: Source, part_id: int, shift: list[int], part: Tensor) -> Space | None:
        """Return the position of a part, if a transform needs it and it is known."""
        transforms = [each for each in (self.transform, self.augmentation) if each is not None]
        if not isinstance(self.parts, LocatedParts) or not any(map(needs_affine, transforms)):
            return None
        grid = self.caps.images.grid(source)
        if grid.affine is None:
            return None
        box = self.parts.place(grid.shape, part_id)
        first, second, third = (
            slice(axis.start + by, axis.stop + by) for axis, by in zip(box, shift, strict=True)
        )
        return part_space(grid.affine, (first, second, third), tuple(part.shape))

    def _transform(self, name: str, part: Tensor, source: Source, part_id: int) -> Tensor:
        """Apply the transform or the augmentation. An error in it is raised with the name of the part."""
        transform: Transform | None = getattr(self, name)
        if transform is None:
            return part
        try:
            found = with_affine(transform)(part)
        except (NeurocnnError, MemoryError):
            raise
        except Exception as error:
            raise SettingError(
                f"{source.name}, part {part_id} of shape {tuple(part.shape)}: {name}={transform!r} failed: "
                f"{type(error).__name__}: {error}; correct the {name}"
            ) from error
        if not isinstance(found, Tensor | np.ndarray):
            raise SettingError(
                f"{source.name}, part {part_id}: {name}={transform!r} returned {type(found).__name__}; expected a "
                f"tensor; correct the {name}"
            )
        return found

    def _check_augmentation(self) -> None:
        """Log a warning if two calls with the same seed differ, due to a generator that `reseed` does not find."""
        part_id = self.part_ids[0]
        first, second = (self._item_image(0, part_id, 0, True) for _ in range(2))
        if first.shape != second.shape or not torch.allclose(first, second, rtol=0, atol=0, equal_nan=True):
            LOGGER.warning(
                "augmentation=%r: two calls with one seed differ for %s; it uses a random generator that cannot be "
                "seeded, so that runs cannot be repeated; add a method set_random_state(seed=...), as MONAI's "
                "transforms have, or use the global random numbers of torch, numpy or Python",
                self.augmentation, self._sources[0].name,
            )  # fmt: skip

    def only_part(self, part_id: int) -> Self:
        """Return a dataset of the same images with only one of their parts.

        Raises
        ------
        SettingError
            If the part does not exist.
        """
        part_id = check_integer("part_id", part_id, where="only_part")
        if part_id not in self.part_ids:
            known = suggestion(str(part_id), map(str, self.part_ids))
            raise SettingError(f"only_part: there is no part {part_id}; {known}")
        dataset = copy.copy(self)
        dataset.part_ids = [part_id]
        dataset.input_shape = tuple(dataset._item_image(0, part_id, 0, False).shape)
        return dataset

    def without_augmentation(self) -> Self:
        """Return the dataset for evaluation: no augmentation, no random shift."""
        dataset = copy.copy(self)
        dataset.augmented = False
        return dataset

    def with_seed(self, seed: int) -> Self:
        """Return the dataset with another seed of the augmentation."""
        dataset = copy.copy(self)
        dataset.seed = check_integer("seed", seed, minimum=0, where="with_seed")
        return dataset


def _plain_tensor(part: Tensor, image: Tensor | None) -> Tensor:
    """Return a plain float32 tensor that shares no memory with the image."""
    part = torch.as_tensor(part, dtype=torch.float32).as_subclass(Tensor)
    if image is not None and part.untyped_storage().data_ptr() == image.untyped_storage().data_ptr():
        part = part.clone()
    return part.contiguous()


def _labels(sessions: pd.DataFrame, label: str | None) -> list[Any] | None:
    if label is None:
        return None
    check_columns(sessions, [label], "sessions")
    missing = sessions[sessions[label].isna()]
    if len(missing):
        rows = describe_rows(missing, most=len(missing))
        raise TableError(f"sessions: {label!r} is missing in {len(missing)} rows: {rows}; fill or drop them")
    return list(sessions[label].tolist())

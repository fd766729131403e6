"""CapsDataset: dataset of the parts of images, for all kinds of parts."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from neurocnn.data.agreement import common_shape, compare_masks
from neurocnn.data.channels import ChannelParts
from neurocnn.data.image_set import ImageSet, check_image_set
from neurocnn.data.items import apply, plain_tensor, read_labels
from neurocnn.data.part_files import OWN_PARTS
from neurocnn.data.parts import Parts, WholeImage, check_parts
from neurocnn.data.roi import Roi, check_equal_sizes
from neurocnn.data.spatial import needs_affine, set_space
from neurocnn.data.transforms import MinMax, Transform, ZScore, check_transform
from neurocnn.errors import SettingError, TableError, suggestion
from neurocnn.errors.arguments import argument_error, check_instance, check_integer, check_table, check_text
from neurocnn.errors.logger import LOGGER
from neurocnn.randomness import reseed, seeded
from neurocnn.storage.display import html_view, short_repr
from neurocnn.storage.identity import COHORT

_WHERE = "CapsDataset"


class CapsDataset(Dataset[dict[str, Any]]):
    """Dataset of the parts of the images of a `Caps` or `Images`, ordered by image, then by part.

    An item is a dict: `image` (C, …) float32, `label` as in the table (if a label is requested),
    `participant_id`, `session_id`, `part_id` and, if the images have cohorts, `cohort`. The image is cut into
    parts, then transformed, then augmented. Each channel of `Images` is cut and transformed like an image of its own,
    with the same random numbers; the augmentation gets all channels. An index is an integer or a pair (epoch, integer).
    Augmentation depends only on the seed, the epoch and the identity of the part, not on the order of reading or the
    worker.

    Parameters
    ----------
    caps
        Location of the images.
    sessions
        One row per image: `participant_id`, `session_id`, `cohort` if the images have cohorts, and the label's column.
    parts
        Parts of each image.
    label
        Label column of `sessions`; None for items without a label.
    transform
        Function from tensor to tensor, applied to each part, such as `MinMax` or a composition; None for raw voxels.
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
    >>> from neurocnn.data import Caps, Patch, make_caps
    >>> labels = make_caps(tmp / "caps", n_participants=2, shape=(12, 14, 12))
    >>> dataset = CapsDataset(Caps(tmp / "caps"), labels, Patch(6, 6), label="age")
    >>> len(dataset), dataset.input_shape
    (16, (1, 6, 6, 6))
    >>> item = dataset[9]  # the second image's second patch
    >>> item["participant_id"], item["part_id"], item["label"] == labels["age"].tolist()[1]
    ('sub-0002', 1, True)
    >>> dataset.only_part(1).part_ids, dataset.with_seed(3).seed, dataset.without_augmentation().augmented
    ([1], 3, False)
    >>> dataset.fills, dataset.fill((0, 9), torch.empty(1, 6, 6, 6))["part_id"]
    (True, 1)
    """

    takes_epoch = True
    shown_settings = ("caps", "sessions", "parts", "label", "transform", "augmentation")
    __repr__ = short_repr
    _repr_html_ = html_view

    def __init__(
        self,
        caps: ImageSet,
        sessions: pd.DataFrame,
        parts: Parts | None = None,
        label: str | None = None,
        transform: Transform | None = MinMax(),  # noqa: B008 (MinMax is frozen)
        augmentation: Transform | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.caps = check_image_set("caps", caps, where=_WHERE)
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
            # For images without cohorts, a column `cohort` may be a study phase, which does not distinguish people.
            self.sessions = self.sessions.drop(columns=COHORT, errors="ignore")
        self._labels = read_labels(self.sessions, label)
        self._sources = caps.sources(self.sessions)
        shape = common_shape(caps.images, self._sources)
        self.part_ids: list[int] = self.parts.ids(shape)
        if not self.part_ids:
            raise SettingError(
                f"CapsDataset: parts={self.parts!r}; expected at least one part for an image of shape {shape}"
            )
        if isinstance(self.parts, Roi):
            compare_masks(self.parts, caps.images, self._sources[0])
            check_equal_sizes(self.parts, shape)
        self._channel_parts = self._make_channel_parts(self.part_ids)
        self.input_shape: tuple[int, ...] = tuple(self._item_image(0, 0, 0, False).shape)
        if augmentation is not None:
            self._check_augmentation()

    def __len__(self) -> int:
        """Return the number of images times the number of parts."""
        return len(self.sessions) * len(self.part_ids)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Return the item at an index, or at a pair of epoch and index."""
        epoch, row, position = self._resolve_index(index)
        image = self._item_image(row, position, epoch, self.augmented)
        # Augmented items are not checked, because an augmentation may change the size of all parts.
        if not (self.augmented and self.augmentation is not None):
            self._check_size(tuple(image.shape), row, position)
        return self._item(row, position, image)

    def _resolve_index(self, index: int | tuple[int, int]) -> tuple[int, int, int]:
        """Return the epoch, the row in `sessions` and the position in `part_ids` of an index."""
        epoch, number = index if isinstance(index, tuple) else (0, index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"CapsDataset: index={number}; the dataset has {len(self)} items")
        row, position = divmod(number % len(self), len(self.part_ids))
        return epoch, row, position

    def _make_channel_parts(self, part_ids: list[int]) -> ChannelParts:
        return ChannelParts(self.caps.images, self._sources, self.parts, part_ids, self.transform)

    def _channels(self, row: int) -> range:
        """Return the indices in `_sources` of the channels of an image."""
        return range(row * self.caps.n_channels, (row + 1) * self.caps.n_channels)

    def _item(self, row: int, position: int, image: Tensor) -> dict[str, Any]:
        source = self._sources[self._channels(row)[0]]
        item: dict[str, Any] = {"image": image}
        if self._labels is not None:
            item["label"] = self._labels[row]
        item |= {
            "participant_id": source.participant_id,
            "session_id": source.session_id,
            "part_id": self.part_ids[position],
        }
        if source.cohort is not None:
            item["cohort"] = source.cohort
        return item

    def _check_size(self, shape: tuple[int, ...], row: int, position: int) -> None:
        if shape != self.input_shape:
            raise SettingError(
                f"{self._sources[self._channels(row)[0]].name}, part {self.part_ids[position]}: shape={shape} "
                f"after transform={self.transform!r}; expected {self.input_shape}, as for the first part; use a "
                "transform that returns the same shape for all parts"
            )

    @property
    def fills(self) -> bool:
        """Whether several threads can use `fill`: parts and transform must be those of neurocnn and not random.

        Other transforms may use the global random state, which threads share. Transforms of TorchIO always use it.
        """
        own_items = type(self).__getitem__ is CapsDataset.__getitem__
        return own_items and self._is_deterministic(self.augmented) and type(self.parts) in OWN_PARTS

    def fill(self, index: tuple[int, int], out: Tensor) -> dict[str, Any]:
        """Write the image of an item into `out` (of shape `input_shape`); return the item, equal to ``self[index]``."""
        check_instance("index", index, tuple, "a pair (epoch, number)", where="CapsDataset.fill")
        if not isinstance(out, Tensor) or out.shape != self.input_shape:
            raise argument_error("out", out, f"a tensor {self.input_shape}", where="CapsDataset.fill")
        _, row, position = self._resolve_index(index)
        self._read(row, position, out)
        return self._item(row, position, out)

    def _is_deterministic(self, augmented: bool) -> bool:
        """Return whether items do not depend on random numbers: no shift, and only transforms of this package."""
        changed = self.augmentation is not None or bool(getattr(self.parts, "random_shift", 0))
        return (self.transform is None or type(self.transform) in (MinMax, ZScore)) and not (
            augmented and changed
        )

    def _read(self, row: int, position: int, out: Tensor | None = None) -> Tensor:
        """Write the channels of a part, after one of this package's transforms, into `out`; None for a new tensor."""
        channels = self._channels(row)
        found = [self._channel_parts.read(index, position) for index in channels]
        n, *size = found[0][0].shape
        shape = (n * len(channels), *size)
        if out is None:
            out = torch.empty(shape)
        else:
            self._check_size(shape, row, position)
        for index, (part, bounds), target in zip(channels, found, torch.split(out, n), strict=True):
            self._channel_parts.write(part, bounds, index, position, target)
        return out

    def _item_image(self, row: int, position: int, epoch: int, augmented: bool) -> Tensor:
        if self._is_deterministic(augmented):
            return self._read(row, position)
        first, *others = self._channels(row)
        source, part_id = self._sources[first], self.part_ids[position]
        augmentation = self.augmentation if augmented else None
        key = self.seed, epoch, source.cohort, source.participant_id, source.session_id, part_id
        with seeded(*key) as seed:
            further = []
            for index in others:
                # All channels use the same random numbers, so that their voxels remain at the same positions.
                with seeded(*key), self._cut(index, position, augmented) as part:
                    further.append(plain_tensor(self._channel_parts.transformed(part, index, position), None))
            with self._cut(first, position, augmented) as part:
                part = self._channel_parts.transformed(part, first, position)
                if further:
                    part = torch.cat([plain_tensor(part, None), *further])
                if augmentation is not None:
                    reseed(augmentation, seed)
                    part = apply("augmentation", augmentation, part, source, part_id)
        return plain_tensor(part, self.caps.images.cached(source))

    @contextmanager
    def _cut(self, index: int, position: int, augmented: bool) -> Iterator[Tensor]:
        """Yield a copy of a part of a channel. Within the context, transforms can use the affine of the part."""
        part, shift = self._channel_parts.copy(index, position, augmented)
        transforms = [each for each in (self.transform, self.augmentation) if each is not None]
        is_needed = any(map(needs_affine, transforms))
        with set_space(self._channel_parts.space(index, position, shift, part) if is_needed else None):
            yield part

    def _check_augmentation(self) -> None:
        """Log a warning if augmenting the same part twice with the same seed gives different results.

        The augmentation then has a random generator that `reseed` does not reach.
        """
        first, second = (self._item_image(0, 0, 0, True) for _ in range(2))
        if first.shape != second.shape or not torch.allclose(first, second, rtol=0, atol=0, equal_nan=True):
            LOGGER.warning(
                "augmentation=%r: two calls with the same seed differ for %s; the augmentation uses a random "
                "generator that cannot be seeded, so that runs cannot be repeated; add a method "
                "set_random_state(seed=...), as MONAI's transforms have, or use the global random numbers of torch, "
                "numpy or Python",
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
        dataset._channel_parts = self._make_channel_parts([part_id])
        dataset.input_shape = tuple(dataset._item_image(0, 0, 0, False).shape)
        return dataset

    def without_augmentation(self) -> Self:
        """Return a copy of the dataset for evaluation, without augmentation and random shift."""
        dataset = copy.copy(self)
        dataset.augmented = False
        return dataset

    def with_seed(self, seed: int) -> Self:
        """Return a copy of the dataset with a different seed of augmentation and random shift."""
        dataset = copy.copy(self)
        dataset.seed = check_integer("seed", seed, minimum=0, where="with_seed")
        return dataset

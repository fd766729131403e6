"""Images of sessions, read by the ids of a session, for all kinds of locations."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from neurocnn.data.cohorts import check_same_cohorts
from neurocnn.data.fingerprints import fingerprint
from neurocnn.data.locating import image_keys
from neurocnn.data.orientation import Affine, Grid, check_orientation
from neurocnn.data.parts import Parts, WholeImage, check_parts
from neurocnn.data.prepare import prepare_images
from neurocnn.data.quality import check_images, unmatched_sessions
from neurocnn.data.reader import ImageReader
from neurocnn.data.sources import Source
from neurocnn.errors import ImageError
from neurocnn.errors.arguments import argument_error, check_choice, check_integer, check_table
from neurocnn.storage.identity import check_ids, key_columns


@dataclass(frozen=True, eq=False)
class ImageSet(ABC):
    """Images of sessions, which are found in CAPS folders (`Caps`) or by the paths in a table (`Images`).

    An image has the shape (C, D, H, W). Each of its C channels is read from a file of its own.
    """

    images: ImageReader = field(init=False, repr=False)

    @property
    @abstractmethod
    def cohorts(self) -> list[str]:
        """Names of the cohorts; empty if the images have no cohorts."""

    @property
    @abstractmethod
    def n_channels(self) -> int:
        """Number of channels of each image."""

    @abstractmethod
    def sessions(self) -> pd.DataFrame:
        """Return the ids of all sessions with an image: `participant_id`, `session_id` and, with cohorts, `cohort`."""

    @abstractmethod
    def locate(self, sessions: pd.DataFrame) -> list[Source]:
        """Return the location of each file: all channels of the first row, then those of the second row, …

        Raises
        ------
        NotFoundError
            If images are missing. The message lists all of them.
        TableError
            If an id is invalid, or the cohort of a row is missing or unknown.
        """

    @abstractmethod
    def sources(self, sessions: pd.DataFrame) -> list[Source]:
        """Return the same locations as `locate`, after a check that all files can be read.

        Raises
        ------
        NotFoundError
            If images are missing, or are links without a target. The message lists all of them.
        StorageError, ImageError
            If files cannot be read, or are empty. The message lists all of them.
        TableError
            If an id is invalid, or the cohort of a row is missing or unknown.
        """

    @abstractmethod
    def _locate_one(self, participant_id: str, session_id: str, cohort: str | None) -> list[Source]:
        """Return the location of each channel of the image of one session."""

    def read(self, participant_id: str, session_id: str, cohort: str | None = None) -> Tensor:
        """Return a copy of the image (C, D, H, W), float32.

        Raises
        ------
        NotFoundError
            If the image is missing.
        ImageError
            If the image is damaged, has NaN or infinite voxels (see `nan_voxels`), or differs from the rest of its
            cohort in shape or orientation.
        """
        sources = self._locate_one(participant_id, session_id, cohort)
        return torch.cat([self.images.image(source) for source in sources])

    def shape(self, participant_id: str, session_id: str, cohort: str | None = None) -> tuple[int, int, int]:
        """Return the shape of the image (D, H, W). Only the header is read."""
        return self._grid(participant_id, session_id, cohort)[1].shape

    def affine(self, participant_id: str, session_id: str, cohort: str | None = None) -> Affine:
        """Return the affine (4, 4), from voxel to world in mm, of the volume that `read` returns.

        Raises
        ------
        ImageError
            If the affine is unknown, because there is only a prepared tensor with a shape that no pipeline writes.
        """
        source, grid = self._grid(participant_id, session_id, cohort)
        if grid.affine is None:
            raise ImageError(
                f"{source.name}: {source.tensor_path}: a prepared tensor has no affine; expected a NIfTI file "
                "in addition"
            )
        return grid.affine.copy()

    def known_affine(self, participant_id: str, session_id: str, cohort: str | None = None) -> Affine | None:
        """Return the affine as `affine` does, or None if it is unknown."""
        affine = self._grid(participant_id, session_id, cohort)[1].affine
        return None if affine is None else affine.copy()

    def _grid(self, participant_id: str, session_id: str, cohort: str | None) -> tuple[Source, Grid]:
        """Return the location and the grid of the first channel, which all channels have."""
        source = self._locate_one(participant_id, session_id, cohort)[0]
        return source, self.images.grid(source)

    def fingerprints(self, sessions: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the ids of each image and, as `fingerprint`, the checksum and size of its content.

        Images are not decoded. A copy of an image has the same fingerprint, a changed or replaced image has a new one.
        The fingerprints of several channels are joined by "+".

        Raises
        ------
        NotFoundError
            If images are missing. The message lists all of them.
        StorageError
            If a file cannot be read.

        Examples
        --------
        >>> from neurocnn.data import Caps, make_caps
        >>> labels = make_caps(tmp / "caps", n_participants=2, shape=(12, 14, 12))
        >>> Caps(tmp / "caps").fingerprints(labels).columns.tolist()
        ['participant_id', 'session_id', 'fingerprint']
        """
        found, n = [fingerprint(source) for source in self.sources(sessions)], self.n_channels
        joined = ["+".join(found[start : start + n]) for start in range(0, len(found), n)]
        ids = sessions[key_columns(sessions.columns)].reset_index(drop=True)
        return ids.assign(fingerprint=joined)

    def check(self, sessions: pd.DataFrame) -> pd.DataFrame:
        """Return a table of measures with one row per image. Images that differ most from their cohort are first.

        Each image is read once. One complete image at a time is in memory, together with a copy of each image that is
        downsampled to at most 32 voxels along each axis.

        Parameters
        ----------
        sessions
            Table of sessions.

        Returns
        -------
        DataFrame
            Ids; ``channel``, if images have several channels, each of which has a row and is compared with the same
            channel of the cohort; ``shape``, ``voxel_size`` (mm) and ``orientation`` as text; ``minimum`` and
            ``maximum``; ``nan`` and ``zeros``, fractions of voxels that are not finite, or 0; ``contrast``, standard
            deviation of the voxels that are not 0, divided by the mean of their absolute values; ``sharpness``, mean
            absolute difference of neighbours, divided by the standard deviation; ``correlation`` with the median of
            the downsampled images of the cohort; ``same_voxels_as``, name of an image with the same voxels;
            ``problem``, message of an image that cannot be read; ``z``, largest robust z-score of the image in these
            columns; ``column``, its column.

        Raises
        ------
        NotFoundError
            If images are missing. The message lists all of them.

        Examples
        --------
        >>> from neurocnn.data import Caps, make_caps
        >>> labels = make_caps(tmp / "caps", n_participants=2, shape=(12, 14, 12))
        >>> Caps(tmp / "caps").check(labels)["shape"].tolist()
        ['12x14x12', '12x14x12']
        """
        found = self.locate(sessions)
        ids = sessions[key_columns(sessions.columns)].reset_index(drop=True)
        if self.n_channels > 1:
            ids = ids.loc[ids.index.repeat(self.n_channels)]
            ids["channel"] = [each.channel for each in found]
        return check_images(self.images, found, ids)

    def match(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the sessions of `table` without an image, and the sessions with an image that are not in `table`.

        In the returned table, the column ``missing`` contains ``image`` or ``row``. If all sessions match, the table is
        empty.

        Examples
        --------
        >>> from neurocnn.data import Caps, make_caps
        >>> labels = make_caps(tmp / "caps", n_participants=3, shape=(12, 14, 12))
        >>> Caps(tmp / "caps").match(labels[1:].replace("sub-0002", "sub-0020"))
          participant_id session_id missing
        0       sub-0020   ses-M000   image
        1       sub-0001   ses-M000     row
        2       sub-0002   ses-M000     row
        """
        check_ids(check_table("table", table, where=f"{type(self).__name__}.match"), "table")
        image_keys(table, self.cohorts)
        return unmatched_sessions(table, self.sessions())

    def prepare(
        self, sessions: pd.DataFrame | None = None, parts: Parts | None = None, n_workers: int = 0
    ) -> None:
        """Write prepared tensors, which training maps into memory instead of decoding NIfTI files.

        Parameters
        ----------
        sessions
            Sessions whose images are prepared; None for all.
        parts
            Parts to write into separate files. None for complete images, from which all parts can be read.
        n_workers
            Number of threads, each of which prepares one image at a time. 0 is the same as 1.

        Raises
        ------
        ImageError
            If images cannot be prepared. The message lists all of them. All other images are prepared.
        StorageError
            If the disk is too small or the folder is read-only.
        """
        where = f"{type(self).__name__}.prepare"
        check_integer("n_workers", n_workers, minimum=0, where=where)
        if parts is not None:
            check_parts("parts", parts, where=where)
        frame = self.sessions() if sessions is None else sessions
        prepare_images(
            self.images, self.locate(frame), parts if parts is not None else WholeImage(), n_workers
        )

    def check_cohorts(self, names: Iterable[str]) -> None:
        """Check that the cohort names of the labels, `names`, are the cohort names of the images.

        Raises
        ------
        TableError
            If a cohort is missing in the labels or in the images.
        """
        check_same_cohorts(names, self.cohorts)


def check_image_set(name: str, value: object, *, where: str = "") -> ImageSet:
    """Return `value` if it is a `Caps` or an `Images`, else raise a SettingError.

    Examples
    --------
    >>> check_image_set("caps", "folder", where="Experiment")
    Traceback (most recent call last):
    neurocnn.errors.SettingError: Experiment: caps='folder'; expected an nc.Caps or nc.Images
    """
    if isinstance(value, ImageSet):
        return value
    raise argument_error(name, value, "an nc.Caps or nc.Images", where=where)


def new_reader(where: str, orientation: str | None, nan_voxels: str, cache_bytes: int) -> ImageReader:
    """Return a reader with these settings, else raise a SettingError."""
    if orientation is not None:
        check_orientation(orientation)
    check_choice("nan_voxels", nan_voxels, ("error", "zero"), where=where)
    check_integer("cache_bytes", cache_bytes, minimum=0, where=where)
    return ImageReader(orientation, nan_voxels, cache_bytes)

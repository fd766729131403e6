"""Caps: location and reading of the images of one or several CAPS folders."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from torch import Tensor

from neurocnn.data.cohorts import Root, check_same_cohorts, cohort_folders
from neurocnn.data.fingerprints import fingerprint
from neurocnn.data.images import Images
from neurocnn.data.locating import cohort_names, image_keys, locate_image, locate_images
from neurocnn.data.orientation import Affine, check_orientation
from neurocnn.data.parts import Parts, WholeImage, check_parts
from neurocnn.data.prepare import prepare_images
from neurocnn.data.preprocessing import Preprocessing, as_preprocessing
from neurocnn.data.quality import check_images, unmatched_sessions
from neurocnn.data.sources import Source, find_source, list_subfolders, missing_message
from neurocnn.errors import ImageError
from neurocnn.errors.arguments import check_choice, check_integer, check_table
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.display import html_view, short_repr
from neurocnn.storage.identity import COHORT, REQUIRED, check_ids, key_columns


@dataclass(frozen=True, eq=False)
class Caps:
    """Images of one preprocessing in one or several CAPS folders.

    Parameters
    ----------
    root
        Path of a CAPS folder; a mapping from cohorts to CAPS folders; or the path of a TSV with the columns `cohort`
        and `path`.
    preprocessing
        Clinica pipeline that wrote the images: a name (``"t1-linear"``, ``"t1-extensive"``, ``"t1-volume"``,
        ``"flair-linear"``) or an object such as `PetLinear("18FFDG", "pons")`.
    orientation
        None to keep the file's order of voxels, or three letters such as ``"RAS"`` to reorient volumes.
    nan_voxels
        Treatment of NaN and infinite voxels: ``"error"``, or ``"zero"`` with a warning.
    cache_bytes
        Size of the cache of images decoded from NIfTI, in bytes.

    Raises
    ------
    NotFoundError
        If a CAPS folder, or `subjects` in it, is missing.
    SettingError
        If a setting cannot be used.

    Examples
    --------
    >>> from neurocnn.data import make_caps
    >>> labels = make_caps(tmp / "caps", n_participants=2, shape=(12, 14, 12))
    >>> caps = Caps(tmp / "caps", "t1-linear")
    >>> caps.sessions()
      participant_id session_id
    0       sub-0001   ses-M000
    1       sub-0002   ses-M000
    >>> caps.read("sub-0001", "ses-M000").shape
    torch.Size([1, 12, 14, 12])
    >>> caps.prepare()  # from now on images are memory-mapped
    """

    root: Root
    preprocessing: str | Preprocessing = "t1-linear"
    orientation: str | None = None
    nan_voxels: str = "error"
    cache_bytes: int = field(default=2**30, metadata={"resume": "free"})
    _folders: dict[str | None, Path] = field(init=False, repr=False)
    _pipeline: Preprocessing = field(init=False, repr=False)
    images: Images = field(init=False, repr=False)

    __repr__ = short_repr
    _repr_html_ = html_view

    def __post_init__(self) -> None:
        if self.orientation is not None:
            check_orientation(self.orientation)
        check_choice("nan_voxels", self.nan_voxels, ("error", "zero"), where="Caps")
        check_integer("cache_bytes", self.cache_bytes, minimum=0, where="Caps")
        object.__setattr__(self, "_pipeline", as_preprocessing(self.preprocessing))
        object.__setattr__(self, "_folders", cohort_folders(self.root))
        object.__setattr__(self, "images", Images(self.orientation, self.nan_voxels, self.cache_bytes))

    @property
    def cohorts(self) -> list[str]:
        """Names of the cohorts; empty if `root` is a single folder."""
        return cohort_names(self._folders)

    def sessions(self) -> pd.DataFrame:
        """Return the ids of all sessions with an image: `participant_id`, `session_id` and, with cohorts, `cohort`."""
        rows: list[tuple[str, str, str | None]] = []
        missing: list[tuple[str, str, str | None]] = []
        for cohort, folder in self._folders.items():
            for participant in list_subfolders(folder / "subjects", "sub-"):
                for session in list_subfolders(folder / "subjects" / participant, "ses-"):
                    found = find_source(folder, participant, session, cohort, self._pipeline)
                    (rows if found else missing).append((participant, session, cohort))
        if missing and not rows:
            participant, session, cohort = missing[0]
            message = missing_message(self._folders[cohort], participant, session, self._pipeline)
            LOGGER.warning(
                "none of %d sessions has the %s image: %s", len(missing), self._pipeline.name, message
            )
        frame = pd.DataFrame(rows, columns=[*REQUIRED, COHORT])
        return frame if self.cohorts else frame.drop(columns=COHORT)

    def path(self, participant_id: str, session_id: str, cohort: str | None = None) -> Path:
        """Return the path of the image's NIfTI file, or of its prepared tensor if there is no NIfTI file.

        Raises
        ------
        NotFoundError
            If the image is missing. The message contains the expected files and similar ids.
        ImageError
            If several files match.
        """
        source = self._source(participant_id, session_id, cohort)
        return source.nifti if source.nifti is not None else source.tensor

    def read(self, participant_id: str, session_id: str, cohort: str | None = None) -> Tensor:
        """Return a copy of the image (1, D, H, W), float32.

        Raises
        ------
        NotFoundError
            If the image is missing.
        ImageError
            If the image is damaged, has NaN or infinite voxels (see `nan_voxels`), or differs from the rest of its
            cohort in shape or orientation.
        """
        return self.images.image(self._source(participant_id, session_id, cohort)).clone()

    def shape(self, participant_id: str, session_id: str, cohort: str | None = None) -> tuple[int, int, int]:
        """Return the shape of the image (D, H, W). Only the header is read."""
        return self.images.grid(self._source(participant_id, session_id, cohort)).shape

    def affine(self, participant_id: str, session_id: str, cohort: str | None = None) -> Affine:
        """Return the affine (4, 4), from voxel to world in mm, of the volume that `read` returns.

        Raises
        ------
        ImageError
            If the affine is unknown, because there is only a prepared tensor with a shape that no pipeline writes.
        """
        source = self._source(participant_id, session_id, cohort)
        affine = self.images.grid(source).affine
        if affine is None:
            raise ImageError(
                f"{source.name}: {source.tensor}: a prepared tensor has no affine; expected a NIfTI file in addition"
            )
        return affine.copy()

    def known_affine(self, participant_id: str, session_id: str, cohort: str | None = None) -> Affine | None:
        """Return the affine as `affine` does, or None if it is unknown."""
        affine = self.images.grid(self._source(participant_id, session_id, cohort)).affine
        return None if affine is None else affine.copy()

    def fingerprints(self, sessions: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the ids of each image and, as `fingerprint`, the checksum and size of its content.

        Images are not decoded. A copy of an image has the same fingerprint, a changed or replaced image has a new one.

        Raises
        ------
        NotFoundError
            If images are missing. The message lists all of them.
        StorageError
            If a file cannot be read.

        Examples
        --------
        >>> from neurocnn.data import make_caps
        >>> labels = make_caps(tmp / "caps", n_participants=2, shape=(12, 14, 12))
        >>> Caps(tmp / "caps").fingerprints(labels).columns.tolist()
        ['participant_id', 'session_id', 'fingerprint']
        """
        found = [fingerprint(source) for source in self.sources(sessions)]
        ids = sessions[key_columns(sessions.columns)].reset_index(drop=True)
        return ids.assign(fingerprint=found)

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
            Ids; ``shape``, ``voxel_size`` (mm) and ``orientation`` as text; ``minimum`` and ``maximum``; ``nan`` and
            ``zeros``, fractions of voxels that are not finite, or 0; ``contrast``, standard deviation of the voxels
            that are not 0, divided by the mean of their absolute values; ``sharpness``, mean absolute difference of
            neighbours, divided by the standard deviation; ``correlation`` with the median of the downsampled images
            of the cohort; ``same_voxels_as``, name of an image with the same voxels; ``problem``, message of an image
            that cannot be read; ``z``, largest robust z-score of the image in these columns; ``column``, its column.

        Raises
        ------
        NotFoundError
            If images are missing. The message lists all of them.

        Examples
        --------
        >>> from neurocnn.data import make_caps
        >>> labels = make_caps(tmp / "caps", n_participants=2, shape=(12, 14, 12))
        >>> Caps(tmp / "caps").check(labels)["shape"].tolist()
        ['12x14x12', '12x14x12']
        """
        return check_images(self.images, self._locate(sessions), sessions[key_columns(sessions.columns)])

    def match(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the sessions of `table` without an image, and the sessions with an image that are not in `table`.

        In the returned table, the column ``missing`` contains ``image`` or ``row``. If all sessions match, the table is
        empty.

        Examples
        --------
        >>> from neurocnn.data import make_caps
        >>> labels = make_caps(tmp / "caps", n_participants=3, shape=(12, 14, 12))
        >>> Caps(tmp / "caps").match(labels[1:].replace("sub-0002", "sub-0020"))
          participant_id session_id missing
        0       sub-0020   ses-M000   image
        1       sub-0001   ses-M000     row
        2       sub-0002   ses-M000     row
        """
        check_ids(check_table("table", table, where="Caps.match"), "table")
        image_keys(table, self._folders)
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
        check_integer("n_workers", n_workers, minimum=0, where="Caps.prepare")
        if parts is not None:
            check_parts("parts", parts, where="Caps.prepare")
        frame = self.sessions() if sessions is None else sessions
        prepare_images(
            self.images, self._locate(frame), parts if parts is not None else WholeImage(), n_workers
        )

    def check_cohorts(self, names: Iterable[str]) -> None:
        """Check that the cohort names of the labels, `names`, are the cohort names of the CAPS.

        Raises
        ------
        TableError
            If a cohort is missing in the labels or in the CAPS.
        """
        check_same_cohorts(names, self.cohorts)

    def sources(self, sessions: pd.DataFrame) -> list[Source]:
        """Return the location of the image of each row.

        Raises
        ------
        NotFoundError
            If images are missing, or are links without a target. The message lists all of them.
        StorageError, ImageError
            If files cannot be read, or are empty. The message lists all of them.
        TableError
            If an id is invalid, or the cohort of a row is missing or unknown.
        """
        found = self._locate(sessions)
        self.images.check_files(found)
        return found

    def _locate(self, sessions: pd.DataFrame) -> list[Source]:
        return locate_images(sessions, self._folders, self._pipeline)

    def _source(self, participant_id: str, session_id: str, cohort: str | None) -> Source:
        return locate_image(participant_id, session_id, cohort, self._folders, self._pipeline)

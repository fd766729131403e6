"""Caps: finds and reads the images of one or several CAPS folders."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from torch import Tensor

from neurocnn.data.cohorts import Root, cohort_folders
from neurocnn.data.fingerprints import fingerprint
from neurocnn.data.images import Images
from neurocnn.data.orientation import Affine, check_orientation
from neurocnn.data.parts import Parts, WholeImage, check_parts
from neurocnn.data.prepare import prepare_images
from neurocnn.data.preprocessing import Preprocessing, as_preprocessing
from neurocnn.data.sources import Source, find_source, list_subfolders, missing_message
from neurocnn.errors import ImageError, NotFoundError, SettingError, TableError, suggestion
from neurocnn.errors.arguments import argument_error, check_choice, check_integer, check_text
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.display import html_view, short_repr
from neurocnn.storage.identity import COHORT, REQUIRED, check_folder_name, check_ids, key_columns


@dataclass(frozen=True, eq=False)
class Caps:
    """The images of one preprocessing in one or several CAPS folders.

    Parameters
    ----------
    root
        A CAPS folder; a mapping from cohorts to CAPS folders; or a TSV with the columns `cohort` and `path`.
    preprocessing
        A name (``"t1-linear"``, ``"t1-extensive"``, ``"t1-volume"``, ``"flair-linear"``) or an object such as
        `PetLinear("18FFDG", "pons")`.
    orientation
        None to keep the file's order of voxels, or three letters such as ``"RAS"`` to reorient volumes.
    nan_voxels
        Treatment of NaN and infinite voxels: ``"error"``, or ``"zero"`` with a warning.
    cache_bytes
        Memory for images decoded from NIfTI.

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
        return [name for name in self._folders if name is not None]

    def sessions(self) -> pd.DataFrame:
        """Return all sessions that have the image: `participant_id`, `session_id` and, with cohorts, `cohort`."""
        rows: list[tuple[str, str, str | None]] = []
        missing: list[tuple[str, str, str | None]] = []
        for cohort, folder in self._folders.items():
            for participant in list_subfolders(folder / "subjects", "sub-"):
                for session in list_subfolders(folder / "subjects" / participant, "ses-"):
                    found = self._find(participant, session, cohort) is not None
                    (rows if found else missing).append((participant, session, cohort))
        if missing and not rows:
            participant, session, cohort = missing[0]
            message = missing_message(self._folders[cohort], participant, session, self._pipeline)
            LOGGER.warning(
                "no session of %d has the %s image: %s", len(missing), self._pipeline.name, message
            )
        frame = pd.DataFrame(rows, columns=[*REQUIRED, COHORT])
        return frame if self.cohorts else frame.drop(columns=COHORT)

    def path(self, participant_id: str, session_id: str, cohort: str | None = None) -> Path:
        """Return the path of the image's NIfTI file, or of its prepared tensor if there is no NIfTI file.

        Raises
        ------
        NotFoundError
            If the image is missing; the message names the expected files and similar ids.
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
            If it is damaged, not finite, or differs from the rest of its cohort.
        """
        return self.images.image(self._source(participant_id, session_id, cohort)).clone()

    def shape(self, participant_id: str, session_id: str, cohort: str | None = None) -> tuple[int, int, int]:
        """Return the image's numbers of voxels (D, H, W); only the header is read."""
        return self.images.grid(self._source(participant_id, session_id, cohort)).shape

    def affine(self, participant_id: str, session_id: str, cohort: str | None = None) -> Affine:
        """Return the affine (4, 4), from voxel to world in mm, of the volume that `read` returns.

        Raises
        ------
        ImageError
            If it is unknown: there is only a prepared tensor, of another shape than the pipeline writes.
        """
        source = self._source(participant_id, session_id, cohort)
        affine = self.images.grid(source).affine
        if affine is None:
            raise ImageError(
                f"{source.name}: {source.tensor}: a prepared tensor has no affine; expected a NIfTI file too"
            )
        return affine.copy()

    def known_affine(self, participant_id: str, session_id: str, cohort: str | None = None) -> Affine | None:
        """Return the affine as `affine` does, or None if it is unknown."""
        affine = self.images.grid(self._source(participant_id, session_id, cohort)).affine
        return None if affine is None else affine.copy()

    def fingerprints(self, sessions: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the ids of each image and, as `fingerprint`, the checksum and size of its content.

        Nothing is decoded. A copy of an image has the same fingerprint; a changed or replaced image has another one.

        Raises
        ------
        NotFoundError
            If images are missing. It lists all of them.
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

    def prepare(
        self, sessions: pd.DataFrame | None = None, parts: Parts | None = None, n_workers: int = 0
    ) -> None:
        """Write the tensors that training memory-maps.

        Parameters
        ----------
        sessions
            Sessions whose images are prepared; None for all.
        parts
            Complete images (the default, which serves all parts), or parts to be kept in files of their own.
        n_workers
            Number of images in work at the same time; 0 is the same as 1.

        Raises
        ------
        ImageError
            If images cannot be prepared. It lists all of them; the others are prepared.
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
        """Check that a table of labels has the same cohorts as the CAPS.

        Raises
        ------
        TableError
            If a cohort is in one of the two only.
        """
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise argument_error("names", names, "cohort names", where="Caps.check_cohorts")
        labels, caps = set(map(str, names)), set(self.cohorts)
        if labels != caps:
            only = {"the CAPS": caps - labels, "the labels": labels - caps}
            found = "; ".join(
                f"{', '.join(sorted(who))} only in {where}" for where, who in only.items() if who
            )
            raise TableError(f"cohorts: {found}; expected the same cohorts in the CAPS and the labels")

    def sources(self, sessions: pd.DataFrame) -> list[Source]:
        """Return the location of the image of each row.

        Raises
        ------
        NotFoundError
            If images are missing, or are links without a target. It lists all of them.
        StorageError, ImageError
            If files cannot be read, or are empty. It lists all of them.
        TableError
            If the rows are not sessions of these cohorts.
        """
        found = self._locate(sessions)
        self.images.check_files(found)
        return found

    def _locate(self, sessions: pd.DataFrame) -> list[Source]:
        check_ids(sessions, "sessions")
        found: list[Source] = []
        missing = []
        for participant, session, cohort in self._keys(sessions):
            source = self._find(participant, session, cohort)
            if source is None:
                missing.append(missing_message(self._folders[cohort], participant, session, self._pipeline))
            else:
                found.append(source)
        if missing:
            raise NotFoundError(
                f"{len(missing)} of {len(sessions)} images ({self._pipeline.name}) are missing:\n"
                + "\n".join(missing)
            )
        return found

    def _keys(self, sessions: pd.DataFrame) -> list[tuple[str, str, str | None]]:
        cohorts = [None] * len(sessions)
        if self.cohorts:
            if COHORT not in sessions.columns:
                raise TableError(
                    f"sessions: the column 'cohort' is missing; expected one of {', '.join(self.cohorts)} per row"
                )
            cohorts = sessions[COHORT].tolist()
            unknown = sorted({str(name) for name in cohorts} - set(self.cohorts))
            if unknown:
                hint = suggestion(unknown[0], self.cohorts)
                raise TableError(f"sessions: cohort {unknown[0]!r} is not in the CAPS; {hint}")
        return list(zip(*(sessions[name].tolist() for name in REQUIRED), cohorts, strict=True))

    def _find(self, participant: str, session: str, cohort: str | None) -> Source | None:
        return find_source(self._folders[cohort], participant, session, cohort, self._pipeline)

    def _source(self, participant: str, session: str, cohort: str | None) -> Source:
        check_folder_name("participant_id", participant)
        check_folder_name("session_id", session)
        if cohort is not None:
            check_text("cohort", cohort, expected="a cohort of the CAPS, or None")
        if cohort not in self._folders:
            hint = suggestion(str(cohort), self.cohorts)
            raise SettingError(f"{participant}: cohort={cohort!r}; expected a cohort of the CAPS; {hint}")
        source = self._find(participant, session, cohort)
        if source is None:
            missing = missing_message(self._folders[cohort], participant, session, self._pipeline)
            raise NotFoundError(f"the {self._pipeline.name} image is missing: {missing}")
        return source

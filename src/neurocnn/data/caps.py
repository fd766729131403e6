"""Caps: one or several CAPS folders, their images found and read."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from neurocnn.data import sources as layout
from neurocnn.data.images import Images
from neurocnn.data.orientation import check_orientation
from neurocnn.data.parts import Parts, WholeImage
from neurocnn.data.preparation import prepare
from neurocnn.data.preprocessing import Preprocessing, named
from neurocnn.data.sources import Root, Source
from neurocnn.errors import ImageError, NotFoundError, SettingError, TableError, suggestion
from neurocnn.storage.identity import REQUIRED, check_ids


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
        None: voxels keep the order of the file. Three letters such as ``"RAS"``: volumes are turned to it.
    nan_voxels
        What to do with NaN and infinite voxels: ``"error"``, or ``"zero"`` with a warning.
    cache_bytes
        How much memory images decoded from NIfTI may take.

    Raises
    ------
    NotFoundError
        A CAPS folder, or `subjects` in it, is missing.
    SettingError
        A setting that makes no sense.

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
    cache_bytes: int = 2**30
    _folders: dict[str | None, Path] = field(init=False, repr=False)
    _kind: Preprocessing = field(init=False, repr=False)
    images: Images = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.orientation is not None:
            check_orientation(self.orientation)
        if self.nan_voxels not in ("error", "zero"):
            raise SettingError(f"nan_voxels is {self.nan_voxels!r}, expected 'error' or 'zero'")
        if not isinstance(self.cache_bytes, int) or self.cache_bytes < 0:
            raise SettingError(f"cache_bytes is {self.cache_bytes!r}, expected a whole number, 0 or more")
        object.__setattr__(self, "_kind", named(self.preprocessing))
        object.__setattr__(self, "_folders", layout.cohorts(self.root))
        object.__setattr__(self, "images", Images(self.orientation, self.nan_voxels, self.cache_bytes))

    @property
    def cohorts(self) -> list[str]:
        """The names of the cohorts; none where `root` is one folder."""
        return [name for name in self._folders if name is not None]

    def sessions(self) -> pd.DataFrame:
        """All sessions that have the image: `participant_id`, `session_id` and, with cohorts, `cohort`."""
        rows = []
        for cohort, folder in self._folders.items():
            for participant in _subfolders(folder / "subjects", "sub-"):
                for session in _subfolders(folder / "subjects" / participant, "ses-"):
                    if self._find(participant, session, cohort) is not None:
                        rows.append((participant, session, cohort))
        frame = pd.DataFrame(rows, columns=[*REQUIRED, "cohort"])
        return frame if self.cohorts else frame.drop(columns="cohort")

    def path(self, participant_id: str, session_id: str, cohort: str | None = None) -> Path:
        """The image's NIfTI file, or its prepared tensor where there is only that.

        Raises
        ------
        NotFoundError
            There is no such image; the message says what was looked for and which ids are near.
        ImageError
            Several files match.
        """
        source = self._source(participant_id, session_id, cohort)
        return source.nifti if source.nifti is not None else source.tensor

    def read(self, participant_id: str, session_id: str, cohort: str | None = None) -> Tensor:
        """The image (1, D, H, W), float32.

        Raises
        ------
        NotFoundError
            There is no such image.
        ImageError
            It is damaged, not finite, or unlike the rest of its cohort.
        """
        return self.images.image(self._source(participant_id, session_id, cohort), cohort).clone()

    def shape(self, participant_id: str, session_id: str, cohort: str | None = None) -> tuple[int, int, int]:
        """The image's numbers of voxels (D, H, W); no voxel is read."""
        return self.images.header(self._source(participant_id, session_id, cohort), cohort)[0]

    def affine(
        self, participant_id: str, session_id: str, cohort: str | None = None
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The image's affine (4, 4), from voxel to world in mm, of the volume as `read` gives it.

        Raises
        ------
        ImageError
            There is only a prepared tensor, which has none.
        """
        source = self._source(participant_id, session_id, cohort)
        affine = self.images.header(source, cohort)[1]
        if affine is None:
            raise ImageError(
                f"{source.what}: there is only the prepared tensor {source.tensor}, which has no affine"
            )
        return affine.copy()

    def prepare(
        self, sessions: pd.DataFrame | None = None, parts: Parts | None = None, n_workers: int = 0
    ) -> None:
        """Write the tensors that training memory-maps.

        Parameters
        ----------
        sessions
            Of which images; None: of all.
        parts
            Whole images (the default, which serves all parts), or parts extracted beforehand.
        n_workers
            How many images are worked on at once; 0 and 1: one.
        """
        frame = self.sessions() if sessions is None else sessions
        prepare(self.images, self.sources(frame), parts if parts is not None else WholeImage(), n_workers)

    def check_cohorts(self, names: Iterable[str]) -> None:
        """Check that a table of labels speaks of exactly these cohorts.

        Raises
        ------
        TableError
            Naming the cohorts that are in one of the two only.
        """
        labels, caps = set(names), set(self.cohorts)
        if labels != caps:
            alone = {"the CAPS": caps - labels, "the labels": labels - caps}
            found = "; ".join(
                f"{', '.join(sorted(who))} only in {where}" for where, who in alone.items() if who
            )
            raise TableError(f"the cohorts of the CAPS and of the labels differ: {found}")

    def sources(self, sessions: pd.DataFrame) -> list[tuple[Source, str | None]]:
        """Where the image of each row is, and its cohort.

        Raises
        ------
        NotFoundError
            Listing all images that are missing.
        TableError
            The rows do not name images of these cohorts.
        """
        check_ids(sessions, "sessions")
        found: list[tuple[Source, str | None]] = []
        missing = []
        for participant, session, cohort in self._keys(sessions):
            source = self._find(participant, session, cohort)
            if source is None:
                missing.append(self._missing(participant, session, cohort))
            else:
                found.append((source, cohort))
        if missing:
            raise NotFoundError(
                f"{len(missing)} of {len(sessions)} images ({self._kind.name}) are missing:\n"
                + "\n".join(missing)
            )
        return found

    def _keys(self, sessions: pd.DataFrame) -> Iterable[tuple[str, str, str | None]]:
        participants, visits = (sessions[name].tolist() for name in REQUIRED)
        if not self.cohorts:
            return zip(participants, visits, [None] * len(sessions), strict=True)
        if "cohort" not in sessions.columns:
            raise TableError(
                f"sessions: the column 'cohort' is missing; the CAPS has {', '.join(self.cohorts)}"
            )
        unknown = sorted({str(name) for name in sessions["cohort"]} - set(self.cohorts))
        if unknown:
            raise TableError(
                f"sessions: cohort {unknown[0]!r} is not in the CAPS; {suggestion(unknown[0], self.cohorts)}"
            )
        return zip(participants, visits, sessions["cohort"].tolist(), strict=True)

    def _find(self, participant: str, session: str, cohort: str | None) -> Source | None:
        what = f"{participant}, {session}" + (f", cohort {cohort}" if cohort is not None else "")
        return layout.find(self._folders[cohort], participant, session, self._kind, what)

    def _source(self, participant: str, session: str, cohort: str | None) -> Source:
        if cohort is None and self.cohorts:
            raise SettingError(f"say which cohort {participant} belongs to: {', '.join(self.cohorts)}")
        if cohort not in self._folders:
            raise SettingError(f"there is no cohort {cohort!r}; {suggestion(str(cohort), self.cohorts)}")
        source = self._find(participant, session, cohort)
        if source is None:
            raise NotFoundError(
                f"there is no {self._kind.name} image: {self._missing(participant, session, cohort)}"
            )
        return source

    def _missing(self, participant: str, session: str, cohort: str | None) -> str:
        """What was looked for in vain, and which ids are near."""
        subjects = self._folders[cohort] / "subjects"
        folder = subjects / participant / session
        ends = " or ".join(f"{participant}_{session}{end}" for end in self._kind.endings)
        if folder.is_dir():
            return f"{folder / self._kind.folder}: no {ends}"
        if (subjects / participant).is_dir():
            there = _subfolders(subjects / participant, "ses-")
            return f"{folder}: there is no such session; {suggestion(session, there)}"
        near = [name for name in _subfolders(subjects, "sub-") if _number(name) == _number(participant)]
        hint = f"; is it {' or '.join(near)}?" if near else ""
        return f"{subjects / participant}: there is no such participant{hint}"


def _number(name: str) -> str:
    """An id without the zeros in front of its number: the near ones of an id that does not exist."""
    letters = name.rstrip("0123456789")
    return letters.lower() + name[len(letters) :].lstrip("0")


def _subfolders(folder: Path, start: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name.startswith(start) and entry.is_dir())

"""Caps: location and reading of the images of one or several CAPS folders."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from neurocnn.data.cohorts import Root, cohort_folders
from neurocnn.data.image_set import ImageSet, new_reader
from neurocnn.data.locating import cohort_names, locate_image, locate_images
from neurocnn.data.preprocessing import Preprocessing, as_preprocessing
from neurocnn.data.sources import Source, find_source, list_subfolders, missing_message
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.display import html_view, short_repr
from neurocnn.storage.identity import COHORT, REQUIRED


@dataclass(frozen=True, eq=False)
class Caps(ImageSet):
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
        Memory for images in bytes, decoded or (if prepared) mapped. Up to eight more prepared images stay mapped.

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
    >>> who = "sub-0001", "ses-M000"
    >>> caps.read(*who).shape, caps.shape(*who), caps.n_channels
    (torch.Size([1, 12, 14, 12]), (12, 14, 12), 1)
    >>> caps.path(*who) == caps.locate(labels)[0].nifti == caps.sources(labels)[0].nifti
    True
    >>> bool((caps.affine(*who) == caps.known_affine(*who)).all())
    True
    >>> caps.prepare()  # from now on images are memory-mapped
    >>> Caps({"ADNI": tmp / "caps"}).cohorts
    ['ADNI']
    >>> Caps({"ADNI": tmp / "caps"}).check_cohorts(["ADNI"])
    """

    root: Root
    preprocessing: str | Preprocessing = "t1-linear"
    orientation: str | None = None
    nan_voxels: str = "error"
    cache_bytes: int = field(default=2**30, metadata={"resume": "free"})
    _folders: dict[str | None, Path] = field(init=False, repr=False)
    _pipeline: Preprocessing = field(init=False, repr=False)

    __repr__ = short_repr
    _repr_html_ = html_view

    def __post_init__(self) -> None:
        reader = new_reader("Caps", self.orientation, self.nan_voxels, self.cache_bytes)
        object.__setattr__(self, "_pipeline", as_preprocessing(self.preprocessing))
        object.__setattr__(self, "_folders", cohort_folders(self.root))
        object.__setattr__(self, "images", reader)

    @property
    def cohorts(self) -> list[str]:
        """Names of the cohorts; empty if `root` is a single folder."""
        return cohort_names(self._folders)

    @property
    def n_channels(self) -> int:
        """Number of channels of each image, 1."""
        return 1

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
        source = self._locate_one(participant_id, session_id, cohort)[0]
        return source.nifti if source.nifti is not None else source.tensor_path

    def sources(self, sessions: pd.DataFrame) -> list[Source]:
        """Return the location of the image of each row, after a check of its file; see `ImageSet.sources`."""
        found = self.locate(sessions)
        self.images.check_files(found)
        return found

    def locate(self, sessions: pd.DataFrame) -> list[Source]:
        """Return the location of the image of each row; see `ImageSet.locate`."""
        return locate_images(sessions, self._folders, self._pipeline)

    def _locate_one(self, participant_id: str, session_id: str, cohort: str | None) -> list[Source]:
        return [locate_image(participant_id, session_id, cohort, self._folders, self._pipeline)]

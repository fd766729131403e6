"""Locations of images: paths in CAPS folders, computed from ids."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neurocnn.data.preprocessing import Preprocessing
from neurocnn.errors import ImageError, NotFoundError, TableError
from neurocnn.errors.arguments import argument_error
from neurocnn.storage.identity import describe_row
from neurocnn.storage.tables import read_table

PREPARED = "deeplearning_prepare_data"
PathLike = str | os.PathLike[str]
Root = PathLike | Mapping[str, PathLike]


@dataclass(frozen=True)
class Source:
    """Location of one image.

    Parameters
    ----------
    participant_id, session_id, cohort
        Identity of the image; the cohort is None if there is a single CAPS folder.
    session_folder
        Folder of the session.
    stem
        Name of the image's file without ``.nii`` or ``.nii.gz``.
    nifti
        Path of the NIfTI file; None if only a prepared tensor exists.
    prepared_folder
        See `Preprocessing`.
    """

    participant_id: str
    session_id: str
    cohort: str | None
    session_folder: Path
    stem: str
    nifti: Path | None
    prepared_folder: str

    @property
    def name(self) -> str:
        """Cohort, participant and session, for messages."""
        ids = {"cohort": self.cohort, "participant_id": self.participant_id, "session_id": self.session_id}
        return describe_row(ids)

    @property
    def tensor(self) -> Path:
        """Path of the prepared tensor of the complete image. The file may be missing."""
        return self.tensor_of("image", self.stem)

    def tensor_of(self, parts: str, stem: str) -> Path:
        """Return the path of a prepared tensor of a kind of parts. The file may be missing."""
        return self.session_folder / PREPARED / f"{parts}_based" / self.prepared_folder / f"{stem}.pt"


def cohort_folders(root: Root) -> dict[str | None, Path]:
    """Return the CAPS folders of `root` by cohort. The cohort of a single folder is None.

    Parameters
    ----------
    root
        A CAPS folder, a mapping from cohorts to CAPS folders, or a TSV with the columns `cohort` and `path`. A relative
        path in a TSV is relative to the TSV's folder or, if it does not exist there, to the working directory.

    Raises
    ------
    NotFoundError
        If a folder, or `subjects` in it, is missing.
    SettingError
        If `root` is of another kind.
    TableError
        If the TSV cannot be used.
    """
    folders: dict[str | None, Path]
    expected = "a CAPS folder, a mapping from cohorts to CAPS folders, or a multi-cohort TSV"
    if isinstance(root, Mapping):
        if not root or not all(isinstance(name, str) and name for name in root):
            raise argument_error("root", root, expected, where="Caps")
        folders = {name: Path(folder) for name, folder in root.items()}
    elif not isinstance(root, str | os.PathLike):
        raise argument_error("root", root, expected, where="Caps")
    elif Path(root).is_file():
        folders = dict(cohort_paths(root).items())
    else:
        folders = {None: Path(root)}
    for cohort, folder in folders.items():
        where = f"{folder}{'' if cohort is None else f' (cohort {cohort!r})'}"
        if not folder.is_dir():
            raise NotFoundError(f"{where}: the CAPS folder does not exist")
        if not (folder / "subjects").is_dir():
            raise NotFoundError(f"{where}: no folder 'subjects'; expected an output folder of Clinica")
    return folders


def cohort_paths(table: PathLike) -> dict[str, Path]:
    """Return the `path` of each `cohort` of a multi-cohort TSV."""
    frame = read_table(table, required=("cohort", "path"))
    paths: dict[str, Path] = {}
    for cohort, given in zip(frame["cohort"], frame["path"], strict=True):
        if not isinstance(cohort, str) or not isinstance(given, str):
            raise TableError(f"{table}: cohort={cohort!r}, path={given!r}; expected both in each row")
        if cohort in paths:
            raise TableError(f"{table}: cohort={cohort!r} occurs twice; expected one row per cohort")
        relative_to_table = Path(table).parent / given
        use_table = relative_to_table.exists() or not Path(given).exists()
        paths[cohort] = relative_to_table if use_table else Path(given)
    return paths


def find_source(
    folder: Path, participant_id: str, session_id: str, cohort: str | None, preprocessing: Preprocessing
) -> Source | None:
    """Return the location of a session's image, or None if the image is missing.

    Parameters
    ----------
    folder
        CAPS folder.
    participant_id, session_id, cohort
        Identity of the image.
    preprocessing
        Pipeline that wrote the image.

    Raises
    ------
    ImageError
        If several files match.
    """
    session = folder / "subjects" / participant_id / session_id
    start = f"{participant_id}_{session_id}"
    found = _niftis(session, start, preprocessing) or _tensors(session, start, preprocessing)
    if not found:
        return None
    stem = found[0].name.removesuffix(".gz").removesuffix(".nii").removesuffix(".pt")
    nifti = found[0] if found[0].suffix != ".pt" else None
    source = Source(participant_id, session_id, cohort, session, stem, nifti, preprocessing.prepared_folder)
    if len(found) > 1:
        raise ImageError(
            f"{source.name}: {len(found)} files match; expected one of {', '.join(map(str, found))}"
        )
    return source


def _niftis(session: Path, start: str, preprocessing: Preprocessing) -> list[Path]:
    if preprocessing.folder:
        folder = session / preprocessing.folder
        names = list_names(folder)
        return [folder / f"{start}{end}" for end in preprocessing.endings if f"{start}{end}" in names]
    found = []
    for place, folders, files in os.walk(session):
        folders[:] = sorted(name for name in folders if name != PREPARED)
        found += [Path(place, name) for name in sorted(files) if _matches(name, start, preprocessing.endings)]
    return found


def _tensors(session: Path, start: str, preprocessing: Preprocessing) -> list[Path]:
    folder = session / PREPARED / "image_based" / preprocessing.prepared_folder
    ends = tuple(f"{end.removesuffix('.gz').removesuffix('.nii')}.pt" for end in preprocessing.endings)
    names = list_names(folder)
    if preprocessing.folder:
        return [folder / f"{start}{end}" for end in ends if f"{start}{end}" in names]
    return [folder / name for name in sorted(names) if _matches(name, start, ends)]


def _matches(name: str, start: str, endings: tuple[str, ...]) -> bool:
    return name.startswith(f"{start}_") and name.endswith(endings)


def list_names(folder: Path) -> set[str]:
    """Return the names in a folder, or an empty set if it does not exist."""
    # One listing answers for all candidates, and distinguishes names that differ only in case.
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()

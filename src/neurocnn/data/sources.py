"""Where the files of a CAPS folder are: computed from ids, searched for only where a pipeline has no rule."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neurocnn.data.preprocessing import Preprocessing
from neurocnn.errors import ImageError, NotFoundError, SettingError, TableError
from neurocnn.storage.tables import read_table

PREPARED = "deeplearning_prepare_data"
Root = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]


@dataclass(frozen=True)
class Source:
    """Where one image is.

    Parameters
    ----------
    what
        Participant, session and cohort, for messages.
    session
        The session's folder.
    stem
        The name of the image's file without ``.nii.gz``.
    nifti
        None where there is only a prepared tensor.
    """

    what: str
    session: Path
    stem: str
    nifti: Path | None
    prepared_folder: str

    @property
    def tensor(self) -> Path:
        """Where the prepared tensor of the whole image is, or would be."""
        return self.tensor_of("image", self.stem)

    def tensor_of(self, parts: str, stem: str) -> Path:
        """Where a prepared tensor of a kind of parts is, or would be."""
        return self.session / PREPARED / f"{parts}_based" / self.prepared_folder / f"{stem}.pt"


def cohorts(root: Root) -> dict[str | None, Path]:
    """The CAPS folders that `root` names, by cohort; one folder alone has the cohort None.

    Parameters
    ----------
    root
        A CAPS folder, a mapping from cohorts to such, or a TSV with the columns `cohort` and `path`. A
        relative path in a TSV starts at the TSV's folder, or where that is none, at the working directory.

    Raises
    ------
    NotFoundError
        A folder, or `subjects` in it, is missing.
    TableError
        The TSV is none.
    """
    found: dict[str | None, Path]
    if isinstance(root, Mapping):
        if not root or not all(isinstance(name, str) and name for name in root):
            raise SettingError(f"root is {root!r}, expected a mapping from names of cohorts to CAPS folders")
        found = {name: Path(folder) for name, folder in root.items()}
    elif not isinstance(root, str | os.PathLike):
        raise SettingError(
            f"root is {root!r}, expected a CAPS folder, a mapping such as {{'ADNI': folder}}, or a multi-cohort TSV"
        )
    elif Path(root).is_file():
        found = dict(cohort_paths(Path(root)).items())
    else:
        found = {None: Path(root)}
    for cohort, folder in found.items():
        which = "the CAPS folder" if cohort is None else f"the CAPS folder of cohort {cohort!r}"
        if not folder.is_dir():
            raise NotFoundError(f"{which}, {folder}, does not exist")
        if not (folder / "subjects").is_dir():
            raise NotFoundError(
                f"{which}, {folder}, holds no folder 'subjects'; is it the output of Clinica?"
            )
    return found


def cohort_paths(table: Path) -> dict[str, Path]:
    """The `path` of each `cohort` of a multi-cohort TSV."""
    frame = read_table(table, required=("cohort", "path"))
    found: dict[str, Path] = {}
    for cohort, given in zip(frame["cohort"], frame["path"], strict=True):
        if not isinstance(cohort, str) or not isinstance(given, str):
            raise TableError(f"{table}: a cohort or path is missing; each row needs both")
        if cohort in found:
            raise TableError(f"{table}: the cohort {cohort!r} is there twice")
        beside = table.parent / given
        found[cohort] = beside if beside.exists() or not Path(given).exists() else Path(given)
    return found


def find(
    folder: Path, participant: str, session: str, preprocessing: Preprocessing, what: str
) -> Source | None:
    """Find the image of a session.

    Parameters
    ----------
    folder
        The CAPS folder.
    participant, session
        As in the folders' names.
    preprocessing
        Which of the session's images.
    what
        Which image it is, for messages.

    Returns
    -------
    source
        None if there is none.

    Raises
    ------
    ImageError
        There are several.
    """
    session_folder = folder / "subjects" / participant / session
    start = f"{participant}_{session}"
    images = _niftis(session_folder, start, preprocessing)
    if len(images) > 1:
        raise ImageError(f"{what}: {len(images)} files match, expected one: {', '.join(map(str, images))}")
    if images:
        name = images[0].name
        stem = name.removesuffix(".gz").removesuffix(".nii")
        return Source(what, session_folder, stem, images[0], preprocessing.prepared_folder)
    stems = _prepared(session_folder, start, preprocessing)
    if len(stems) > 1:
        raise ImageError(f"{what}: {len(stems)} prepared tensors match, expected one: {', '.join(stems)}")
    return Source(what, session_folder, stems[0], None, preprocessing.prepared_folder) if stems else None


def _niftis(session_folder: Path, start: str, preprocessing: Preprocessing) -> list[Path]:
    if preprocessing.folder:
        folder = session_folder / preprocessing.folder
        names = _names(folder)
        return [folder / f"{start}{end}" for end in preprocessing.endings if f"{start}{end}" in names]
    found = []
    for place, folders, files in os.walk(session_folder):
        folders[:] = sorted(name for name in folders if name != PREPARED)
        found += [Path(place, name) for name in sorted(files) if _matches(name, start, preprocessing.endings)]
    return found


def _prepared(session_folder: Path, start: str, preprocessing: Preprocessing) -> list[str]:
    names = _names(session_folder / PREPARED / "image_based" / preprocessing.prepared_folder)
    ends = [f"{end.removesuffix('.gz').removesuffix('.nii')}.pt" for end in preprocessing.endings]
    if preprocessing.folder:
        return [f"{start}{end}"[:-3] for end in ends if f"{start}{end}" in names]
    return [name[:-3] for name in sorted(names) if _matches(name, start, tuple(ends))]


def _matches(name: str, start: str, endings: tuple[str, ...]) -> bool:
    return name.startswith(f"{start}_") and name.endswith(endings)


def _names(folder: Path) -> set[str]:
    # One listing answers for all candidates, and tells files whose names differ only in case apart.
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()

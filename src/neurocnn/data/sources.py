"""Locations of images in CAPS folders, found by ids, even if file names contain additional BIDS entities."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, is_dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path

from neurocnn.data.preprocessing import Preprocessing
from neurocnn.errors import ImageError, NotFoundError, suggestion
from neurocnn.storage.files import storage_errors
from neurocnn.storage.identity import describe_row

_POINTERS = (b"/annex/objects/", b"version https://git-lfs")
PREPARED = "deeplearning_prepare_data"
_ENTITY = re.compile(r"_(task|acq|ce|trc|rec|dir|run|echo)-([A-Za-z0-9]+)(?=_)")


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
    root
        Folder of all images, such as the CAPS folder, in which one process at a time may prepare images.
    channel
        Name of the channel, if the session has several files; None for an image with a single channel.
    """

    participant_id: str
    session_id: str
    cohort: str | None
    session_folder: Path
    stem: str
    nifti: Path | None
    prepared_folder: str
    root: Path
    channel: str | None = None

    def __hash__(self) -> int:
        # Readers look up each image several times; hashes of paths are slow.
        return hash((self.cohort, self.participant_id, self.session_id, self.channel))

    @cached_property
    def name(self) -> str:
        """Name of the image in messages: cohort, participant, session and, if there are several, channel."""
        ids = {"cohort": self.cohort, "participant_id": self.participant_id, "session_id": self.session_id}
        return describe_row(ids) if self.channel is None else f"{describe_row(ids)} {self.channel}"

    @property
    def tensor_path(self) -> Path:
        """Path of the prepared tensor of the complete image, which need not exist."""
        return self.part_tensor_path("image", self.stem)

    def part_tensor_path(self, parts: str, stem: str) -> Path:
        """Return the path of a prepared tensor, which need not exist, for one kind of parts."""
        return self.session_folder / PREPARED / f"{parts}_based" / self.prepared_folder / f"{stem}.pt"


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
    found = _find_niftis(session, start, preprocessing) or _find_tensors(session, start, preprocessing)
    if not found:
        return None
    stem, path = _without_suffix(found[0].name), found[0]
    nifti = path if path.suffix != ".pt" else None
    source = Source(
        participant_id, session_id, cohort, session, stem, nifti, preprocessing.prepared_folder, folder
    )
    if len(found) > 1:
        remedy = f"Custom({path.name.removeprefix(start)!r})"
        if preprocessing.name == "pet-linear":
            remedy += " or PetLinear(..., reconstruction=...)"
        raise ImageError(
            f"{source.name}: {len(found)} files match: {', '.join(map(str, found))}; expected one; choose a file with "
            f"preprocessing={remedy}, or move the other files"
        )
    return source


def check_readable(source: Source) -> None:
    """Check that the file of an image can be read and has content. Only its first bytes are read.

    Raises
    ------
    NotFoundError
        If the file is a link without a target, or a pointer of git-annex or git LFS to content that is not present.
    StorageError
        If the system cannot read the file.
    ImageError
        If the file is empty.
    """
    path = source.nifti if source.nifti is not None else source.tensor_path
    get = "fetch its content, for example with `git annex get` or `datalad get`"
    if path.is_symlink() and not path.exists():
        target = os.readlink(path)
        raise NotFoundError(
            f"{source.name}: {path}: the link has no target: {target}; restore the target or {get}"
        )
    with storage_errors(path, f"read {source.name}"), open(path, "rb") as file:
        start = file.read(64)
    if not start:
        raise ImageError(
            f"{source.name}: {path}: the file is empty (zero bytes); restore the file or run Clinica again"
        )
    if start.startswith(_POINTERS):
        raise NotFoundError(f"{source.name}: {path}: found a pointer to content that is not present; {get}")


def missing_message(caps: Path, participant_id: str, session_id: str, preprocessing: Preprocessing) -> str:
    """Return the expected path of a missing image, with similar files or ids, for an error message."""
    participant = caps / "subjects" / participant_id
    session = participant / session_id
    if session.is_dir():
        start = f"{participant_id}_{session_id}"
        names = " or ".join(f"{start}{end}" for end in preprocessing.endings)
        message = f"{session / preprocessing.folder}: expected {names}"
        found = _similar_files(session, preprocessing)
        if not found:
            return message
        remedy = f"preprocessing={_preprocessing_of(found[0].removeprefix(start), preprocessing)}"
        return f"{message}; found {', '.join(found[:3])}; to use the first file: {remedy}"
    if participant.is_dir():
        known = list_subfolders(participant, "ses-")
        return f"{session}: the session does not exist; {suggestion(session_id, known)}"
    known = list_subfolders(caps / "subjects", "sub-")
    near = [name for name in known if without_zeros(name) == without_zeros(participant_id)]
    hint = f"; is it {' or '.join(near)}?" if near else ""
    return f"{participant}: the participant does not exist{hint}"


def _preprocessing_of(tail: str, preprocessing: Preprocessing) -> str:
    """Return Python code that creates the preprocessing of a file. `tail` is its name after the session."""
    if is_dataclass(preprocessing) and hasattr(preprocessing, "cropped"):
        other = replace(preprocessing, cropped=not preprocessing.cropped)
        if tail in other.endings:
            return repr(other)
    return f"Custom({tail!r})"


def list_subfolders(folder: Path, prefix: str) -> list[str]:
    """Return the sorted names of the folders in `folder` that start with `prefix`."""
    with storage_errors(folder, "read"), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name.startswith(prefix) and entry.is_dir())


def without_zeros(name: str) -> str:
    """Return an id without the leading zeros of its number, to find ids that are similar to a missing id.

    >>> without_zeros("sub-001")
    'sub-1'
    """
    letters = name.rstrip("0123456789")
    return letters.lower() + name[len(letters) :].lstrip("0")


def _similar_files(session: Path, preprocessing: Preprocessing) -> list[str]:
    """Return the names of NIfTI files in the folder of a missing image, the most similar names first."""
    names = [path.name for path in _list_niftis(session, preprocessing)]
    similarity = {
        name: max(SequenceMatcher(None, name, end).ratio() for end in preprocessing.endings) for name in names
    }
    return sorted(names, key=lambda name: (-similarity[name], name))


def _find_niftis(session: Path, start: str, preprocessing: Preprocessing) -> list[Path]:
    paths = _list_niftis(session, preprocessing)
    if not preprocessing.folder:
        return [path for path in paths if _starts_and_ends_with(path.name, start, preprocessing.endings)]
    # A compressed file takes precedence over an uncompressed one of the same name.
    by_stem = {
        _without_suffix(path.name): path for path in sorted(paths, reverse=True, key=lambda path: path.suffix)
    }
    return [by_stem[stem] for stem in _matching_stems(by_stem, start, preprocessing)]


def _find_tensors(session: Path, start: str, preprocessing: Preprocessing) -> list[Path]:
    folder = session / PREPARED / "image_based" / preprocessing.prepared_folder
    by_stem = {
        name.removesuffix(".pt"): folder / name for name in _list_names(folder) if name.endswith(".pt")
    }
    if preprocessing.folder:
        return [by_stem[stem] for stem in _matching_stems(by_stem, start, preprocessing)]
    ends = tuple(map(_without_suffix, preprocessing.endings))
    return [by_stem[stem] for stem in sorted(by_stem) if _starts_and_ends_with(stem, start, ends)]


def _matching_stems(stems: Iterable[str], start: str, preprocessing: Preprocessing) -> list[str]:
    """Return the expected names that exist. If none exists, return existing names with additional BIDS entities."""
    ends = list(map(_without_suffix, preprocessing.endings))
    known = set(stems)
    exact = [f"{start}{end}" for end in ends if f"{start}{end}" in known]
    if exact:
        return exact
    named = (stem for stem in sorted(known) if stem.startswith(f"{start}_"))
    return [stem for stem in named if any(_matches_ending(stem.removeprefix(start), end) for end in ends)]


def _matches_ending(name: str, end: str) -> bool:
    """Return whether a file name is the ending `end` of a pipeline, possibly with additional BIDS entities."""
    (found, rest), (wanted, tail) = _split_entities(name), _split_entities(end)
    # In older versions of BIDS, `acq` contains the tracer of PET, without its isotope.
    if "trc" in wanted and "trc" not in found and "acq" in found:
        tracer = wanted["trc"].lower()
        is_tracer = found["acq"].lower() in (tracer, re.sub(r"^\d+[a-z]", "", tracer))
        found["trc"] = wanted["trc"] if is_tracer else found["acq"]
    return rest == tail and all(found.get(key) == value for key, value in wanted.items())


def _split_entities(name: str) -> tuple[dict[str, str], str]:
    """Return the BIDS entities at the start of `name`, which follows the session, and the remainder."""
    entities = {}
    while match := _ENTITY.match(name):
        entities[match[1]] = match[2]
        name = name[match.end() :]
    return entities, name


def _without_suffix(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii").removesuffix(".pt")


def _starts_and_ends_with(name: str, start: str, ends: tuple[str, ...]) -> bool:
    return name.startswith(f"{start}_") and name.endswith(ends)


def _list_niftis(session: Path, preprocessing: Preprocessing) -> list[Path]:
    """Return the NIfTI files in the pipeline's folder, or below the session's folder if the pipeline has no folder."""
    if preprocessing.folder:
        folder = session / preprocessing.folder
        found = [folder / name for name in sorted(_list_names(folder))]
    else:
        found = []
        for parent, folders, files in os.walk(session):
            folders[:] = sorted(name for name in folders if name != PREPARED)
            found += [Path(parent, name) for name in sorted(files)]
    return [path for path in found if path.name.endswith((".nii.gz", ".nii"))]


def _list_names(folder: Path) -> list[str]:
    # The folder is listed once for all candidate names; unlike `exists`, this is case-sensitive on every disk.
    with storage_errors(folder, "read"), suppress(FileNotFoundError, NotADirectoryError):
        return os.listdir(folder)
    return []

"""Images: location and reading of images whose paths are in a table."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from neurocnn.data.agreement import check_channels
from neurocnn.data.cohorts import PathLike, path_in_table
from neurocnn.data.image_set import ImageSet, new_reader
from neurocnn.data.locating import check_key, cohort_names, image_keys, missing_images_message
from neurocnn.data.sources import Source, without_zeros
from neurocnn.errors import NotFoundError, TableError, suggestion
from neurocnn.errors.arguments import argument_error, check_each, check_list, check_path, check_text
from neurocnn.storage.display import html_view, short_repr
from neurocnn.storage.identity import (
    COHORT,
    IMAGE,
    REQUIRED,
    check_columns,
    check_ids,
    describe_row,
    key_columns,
)
from neurocnn.storage.tables import read_table

#: Participant, session and cohort of an image; the cohort is None if the table has no cohorts.
Key = tuple[str, str, str | None]
_WHERE = "Images"


@dataclass(frozen=True, eq=False)
class Images(ImageSet):
    """Images whose paths are in a table. Several columns of paths are the channels of an image, in this order.

    Images can be used wherever `Caps` can be used. All channels of a session must have the same shape and affine, and
    all images of a cohort the same shape and orientation. `CapsDataset` cuts, transforms and thus scales each channel
    like an image of its own; the augmentation gets all channels.

    Parameters
    ----------
    table
        Table with one row per session: `participant_id`, `session_id`, `cohort` if participants of several cohorts may
        have equal ids, and the columns of paths. A DataFrame or the path of a TSV. Files are NIfTI (``.nii.gz`` or
        ``.nii``). A relative path in a TSV may be relative to the TSV's folder or, if it does not exist there, to the
        working directory. A session without one of the paths has no image.
    columns
        Columns of paths, one per channel.
    orientation, nan_voxels, cache_bytes
        See `Caps`.

    Raises
    ------
    NotFoundError
        If the TSV does not exist.
    TableError
        If a column is missing, ids are malformed, or cells are not paths of NIfTI files, or two cells contain the same
        file. The message lists all of these cells.
    SettingError
        If a setting cannot be used.

    Examples
    --------
    >>> from neurocnn.data import Caps, CapsDataset, make_caps
    >>> labels = make_caps(tmp / "t1", n_participants=2, shape=(12, 14, 12))
    >>> pet = make_caps(tmp / "pet", n_participants=2, shape=(12, 14, 12), seed=1)
    >>> for name in ("t1", "pet"):
    ...     caps = Caps(tmp / name)
    ...     labels[name] = [caps.path(*ids) for ids in zip(labels["participant_id"], labels["session_id"])]
    >>> images = Images(labels, columns=["t1", "pet"])
    >>> who = "sub-0001", "ses-M000"
    >>> images.read(*who).shape, images.shape(*who), images.n_channels, len(images.sessions())
    (torch.Size([2, 12, 14, 12]), (12, 14, 12), 2, 2)
    >>> images.locate(labels)[1].nifti == images.sources(labels)[1].nifti == labels["pet"].iloc[0]
    True
    >>> bool((images.affine(*who) == images.known_affine(*who)).all()), images.cohorts, images.check_cohorts([])
    (True, [], None)
    >>> images.prepare()  # from now on images are memory-mapped
    >>> CapsDataset(images, labels, label="diagnosis").input_shape
    (2, 12, 14, 12)
    """

    table: pd.DataFrame | PathLike
    columns: Sequence[str] = ("t1",)
    orientation: str | None = None
    nan_voxels: str = "error"
    cache_bytes: int = field(default=2**30, metadata={"resume": "free"})
    _paths: dict[Key, list[Path | None]] = field(init=False, repr=False)
    _root: Path = field(init=False, repr=False)

    __repr__ = short_repr
    _repr_html_ = html_view

    def __post_init__(self) -> None:
        reader = new_reader(_WHERE, self.orientation, self.nan_voxels, self.cache_bytes)
        object.__setattr__(self, "images", reader)
        columns = tuple(_check_names(self.columns))
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "_paths", _read_paths(self.table, columns))
        folders = {str(path.parent) for paths in self._paths.values() for path in paths if path is not None}
        object.__setattr__(self, "_root", Path(os.path.commonpath(folders)))

    @property
    def cohorts(self) -> list[str]:
        """Names of the cohorts; empty if the table has no column `cohort`."""
        return cohort_names(dict.fromkeys(cohort for _, _, cohort in self._paths))

    @property
    def n_channels(self) -> int:
        """Number of channels of each image, the number of `columns`."""
        return len(self.columns)

    def sessions(self) -> pd.DataFrame:
        """Return the ids of all sessions with an image: `participant_id`, `session_id` and, with cohorts, `cohort`.

        Sessions without a path in one of the columns, or whose file does not exist, are left out.
        """
        found = [key for key in self._paths if not self._problems(key)]
        frame = pd.DataFrame(found, columns=[*REQUIRED, COHORT])
        return frame if self.cohorts else frame.drop(columns=COHORT)

    def paths(self) -> pd.DataFrame:
        """Return the ids of all rows, and the absolute paths in `columns` as strings; None for a missing path.

        Examples
        --------
        >>> table = pd.DataFrame({"participant_id": ["sub-1"], "session_id": "ses-1", "t1": "/data/sub-1.nii"})
        >>> Images(table).paths()["t1"].tolist()
        ['/data/sub-1.nii']
        """
        ids = pd.DataFrame(list(self._paths), columns=[*REQUIRED, COHORT])
        cells = [[None if path is None else str(path) for path in paths] for paths in self._paths.values()]
        found = pd.DataFrame(cells, columns=list(self.columns), dtype=object)
        return pd.concat([ids if self.cohorts else ids.drop(columns=COHORT), found], axis=1)

    def sources(self, sessions: pd.DataFrame) -> list[Source]:
        """Return the location of each file; see `ImageSet.sources`.

        Raises
        ------
        ImageError
            If headers are invalid, or the channels of a session differ in shape or position, or an image differs from
            its cohort. The message lists all of them.
        """
        found = self.locate(sessions)
        self.images.check_files(found)
        check_channels(self.images, found, self.n_channels)
        return found

    def locate(self, sessions: pd.DataFrame) -> list[Source]:
        """Return the location of each file; see `ImageSet.locate`."""
        check_ids(sessions, "sessions")
        keys = image_keys(sessions, self.cohorts)
        missing = {key: problems for key in keys if (problems := self._problems(key))}
        if missing:
            lines = [text for problems in missing.values() for text in problems]
            raise NotFoundError(missing_images_message("images", lines, len(missing), len(sessions)))
        return [source for key in keys for source in self._sources(key)]

    def _locate_one(self, participant_id: str, session_id: str, cohort: str | None) -> list[Source]:
        check_key(participant_id, session_id, cohort, self.cohorts or (None,))
        key = (participant_id, session_id, cohort)
        if problems := self._problems(key):
            raise NotFoundError("the image is missing: " + "; ".join(problems))
        return self._sources(key)

    def _sources(self, key: Key) -> list[Source]:
        names: Sequence[str | None] = (None,) if self.n_channels == 1 else tuple(self.columns)
        return [
            Source(*key, path.parent, path.name, path, "", self._root, name)
            for name, path in zip(names, self._paths[key], strict=True)
            if path is not None
        ]

    def _problems(self, key: Key) -> list[str]:
        """Return the reasons why an image is missing, one string per file; an empty list if all files exist."""
        name = describe_row(dict(zip((*REQUIRED, COHORT), key, strict=True)))
        if key not in self._paths:
            return [f"{name}: not in the table; {self._similar(key)}"]
        found = zip(self.columns, self._paths[key], strict=True)
        return [
            f"{name}: {column!r} is empty" if path is None else f"{name}: {path}: the file does not exist"
            for column, path in found
            if path is None or not _exists(path)
        ]

    def _similar(self, key: Key) -> str:
        """Return a hint: the sessions of the same participant, or participants with a similar id."""
        participant, session, cohort = key
        sessions = [own for who, own, name in self._paths if (who, name) == (participant, cohort)]
        if sessions:
            return suggestion(session, sessions)
        people = dict.fromkeys(who for who, _, name in self._paths if name == cohort)
        near = [who for who in people if without_zeros(who) == without_zeros(participant)]
        return f"is it {' or '.join(near)}?" if near else "add a row"


def _check_names(columns: object) -> list[str]:
    expected = 'a list of different columns of paths, such as ("t1", "pet")'
    names = check_list("columns", columns, expected, where=_WHERE)
    check_each("columns", names, check_text, expected="the name of a column", where=_WHERE)
    if not names or len(set(names)) < len(names) or set(names) & set(IMAGE):
        raise argument_error("columns", columns, expected, where=_WHERE)
    return names


def _read_paths(table: object, columns: Sequence[str]) -> dict[Key, list[Path | None]]:
    """Return the absolute paths of each session, in the order of `columns`; None for a missing path."""
    if isinstance(table, pd.DataFrame):
        frame, where, file = table, _WHERE, None
        check_ids(frame, where)
        check_columns(frame, columns, where)
    else:
        file = check_path("table", table, where=_WHERE)
        frame, where = read_table(file, required=[*REQUIRED, *columns]), str(file)
    if not len(frame):
        raise TableError(f"{where}: table has no rows; expected one row per session")
    found: dict[Key, list[Path | None]] = {}
    problems: list[str] = []
    for row in frame[[*key_columns(frame.columns), *columns]].to_dict("records"):
        name, cohort = describe_row(row), row.get(COHORT)  # type: ignore[arg-type]
        if COHORT in row and not (isinstance(cohort, str) and cohort):
            problems.append(
                f"{name}: cohort={cohort!r}; expected a string in each row, or no column 'cohort'"
            )
        key = (row["participant_id"], row["session_id"], cohort)
        found[key] = []
        for column in columns:
            path, problem = _as_path(row[column], file)
            found[key].append(path)
            problems += [f"{name}: {column}={problem}"] if problem else []
    problems += _describe_copies(found, columns)
    if problems:
        raise TableError(f"{where}: {len(problems)} cells cannot be used:\n" + "\n".join(problems))
    if not any(path for paths in found.values() for path in paths):
        raise TableError(
            f"{where}: the columns {', '.join(columns)} are empty; expected paths of NIfTI files"
        )
    return found


def _as_path(value: Any, table: Path | None) -> tuple[Path | None, str]:
    """Return a cell as an absolute path, or None if the cell is empty, and the reason why it cannot be used."""
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if isinstance(text, str) and text.endswith((".nii.gz", ".nii")) and "\0" not in text:
            return (Path(text) if table is None else path_in_table(table, text)).absolute(), ""
    if value == "" or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return None, ""
    return None, f"{value!r}; expected the path of a NIfTI file, .nii.gz or .nii"


def _describe_copies(found: dict[Key, list[Path | None]], columns: Sequence[str]) -> Iterator[str]:
    """Yield a message for each file that an earlier cell also contains, possibly through a link."""
    first: dict[str, str] = {}
    for key, paths in found.items():
        for column, path in zip(columns, paths, strict=True):
            if path is None:
                continue
            name = f"{describe_row(dict(zip((*REQUIRED, COHORT), key, strict=True)))} {column}"
            other = first.setdefault(os.path.realpath(path), name)
            if other != name:
                yield f"{name}: {path} is also the file of {other}; expected a file of its own"


def _exists(path: Path) -> bool:
    """Return whether a path exists. A path that cannot be accessed counts, because reading it shows the reason."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True

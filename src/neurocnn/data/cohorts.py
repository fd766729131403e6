"""CAPS folder of each cohort."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from neurocnn.errors import NotFoundError, SettingError, TableError
from neurocnn.errors.arguments import argument_error, check_path
from neurocnn.storage.files import storage_errors
from neurocnn.storage.tables import read_table

PathLike = str | os.PathLike[str]
Root = PathLike | Mapping[str, PathLike]


def cohort_folders(root: Root) -> dict[str | None, Path]:
    """Return the CAPS folders of `root` by cohort. The cohort of a single folder is None.

    Parameters
    ----------
    root
        A CAPS folder, a mapping from cohorts to CAPS folders, or a TSV with the columns `cohort` and `path`. A path in
        the TSV may be relative to the TSV's folder or, if it does not exist there, to the working directory.

    Raises
    ------
    NotFoundError
        If a folder, or `subjects` in it, is missing.
    SettingError
        If `root` has another type, or two cohorts have the same folder.
    TableError
        If the TSV cannot be used.
    """
    folders: dict[str | None, Path]
    expected = "a CAPS folder, a mapping from cohorts to CAPS folders, or a multi-cohort TSV"
    if isinstance(root, Mapping):
        if not root or not all(isinstance(name, str) and name for name in root):
            raise argument_error("root", root, expected, where="Caps")
        folders = {name: check_path(f"root[{name!r}]", folder, where="Caps") for name, folder in root.items()}
    elif not isinstance(root, str | os.PathLike):
        raise argument_error("root", root, expected, where="Caps")
    elif check_path("root", root, where="Caps").is_file():
        folders = dict(cohort_paths(root).items())
    else:
        folders = {None: Path(root)}
    for cohort, folder in folders.items():
        with storage_errors(folder, "read"):
            exists, has_subjects = folder.is_dir(), (folder / "subjects").is_dir()
        where = f"{folder}{'' if cohort is None else f' (cohort {cohort!r})'}"
        if not exists:
            raise NotFoundError(f"{where}: the CAPS folder does not exist")
        if not has_subjects:
            raise NotFoundError(f"{where}: no folder 'subjects'; expected an output folder of Clinica")
    _check_distinct(folders)
    return folders


def _check_distinct(folders: Mapping[str | None, Path]) -> None:
    """Raise an error if two cohorts have the same folder, because each participant would count as two people."""
    first: dict[tuple[int, int], str | None] = {}
    for cohort, folder in folders.items():
        # Device and inode number identify the folder, even if one path is a link or spelled differently.
        status = (folder / "subjects").stat()
        other = first.setdefault((status.st_dev, status.st_ino), cohort)
        if other != cohort:
            same = (folder / "subjects").resolve().parent
            raise SettingError(
                f"Caps: the cohorts {other!r} and {cohort!r} have the same folder, {same}; expected a different folder "
                "for each cohort; remove one of the cohorts"
            )


def cohort_paths(table: PathLike) -> dict[str, Path]:
    """Return the `path` of each `cohort` of a multi-cohort TSV."""
    frame = read_table(table, required=("cohort", "path"))
    paths: dict[str, Path] = {}
    for cohort, given in zip(frame["cohort"], frame["path"], strict=True):
        if not isinstance(cohort, str) or not isinstance(given, str):
            raise TableError(
                f"{table}: cohort={cohort!r}, path={given!r}; expected a non-empty string in both columns"
            )
        if cohort in paths:
            raise TableError(f"{table}: cohort={cohort!r} occurs twice; expected one row per cohort")
        paths[cohort] = path_in_table(table, given)
    return paths


def path_in_table(table: PathLike, given: str) -> Path:
    """Return a path in a TSV, relative to the TSV's folder or, if it exists only there, to the working directory."""
    relative_to_table = Path(table).parent / given
    return relative_to_table if relative_to_table.exists() or not Path(given).exists() else Path(given)


def check_same_cohorts(names: Iterable[str], cohorts: Iterable[str]) -> None:
    """Check that the cohort names of the labels, `names`, are those of the images; see `ImageSet.check_cohorts`."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise argument_error("names", names, "cohort names", where="check_cohorts")
    labels, images = set(map(str, names)), set(cohorts)
    if labels != images:
        only = {"the images": images - labels, "the labels": labels - images}
        found = "; ".join(f"{', '.join(sorted(who))} only in {where}" for where, who in only.items() if who)
        raise TableError(f"cohorts: {found}; expected the same cohorts in the images and the labels")

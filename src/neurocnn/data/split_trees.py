"""Reading and writing split trees of both generations of ClinicaDL, and multi-cohort TSV files.

ClinicaDL 0.2.1 writes a file for each diagnosis; ClinicaDL 1.x writes one for each set, and may store the diagnoses in
the ``labels.tsv`` of a parent folder. Validation sets are always read from the baseline files.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from neurocnn.data.cohorts import cohort_paths
from neurocnn.data.splits import Split
from neurocnn.data.visits import baseline as baseline_sessions
from neurocnn.errors import NotFoundError, SettingError, TableError, arguments, suggestion
from neurocnn.storage.files import find, is_file, is_folder, write_atomically
from neurocnn.storage.identity import REQUIRED, check_columns, describe_rows
from neurocnn.storage.tables import format_table, read_table

_MAX_PARENTS_OF_LABELS = 4


@dataclass(frozen=True)
class _Tree:
    """Split tree. `pairs` are the index and the two set folders of each split; a single split has no `n_splits`."""

    folder: Path
    n_splits: int | None
    pairs: tuple[tuple[int, Path, Path], ...]
    by_diagnosis: bool


def read_splits(
    path: str | os.PathLike[str],
    n_splits: int | None = None,
    diagnoses: Sequence[str] | None = None,
    baseline: bool = False,
) -> list[Split]:
    """Read splits written by ClinicaDL or by `write_splits`.

    Parameters
    ----------
    path
        Path of a folder with a split tree of ClinicaDL 0.2.1 or 1.x, or of a multi-cohort TSV with the columns
        `cohort`, `path` (of the cohort's tree) and `diagnoses` (comma-separated).
    n_splits
        Number of splits, to select one of several trees. None if there is only one tree.
    diagnoses
        Diagnoses to keep; None for all.
    baseline
        Whether training sets contain only baseline sessions, as validation sets always do.

    Returns
    -------
    list of Split
        Splits. No set is empty, and the two sets of a split have no common participants.

    Raises
    ------
    NotFoundError
        If there is no split tree. The message contains the folders that were searched for.
    TableError
        If a table is invalid, there are several trees, or cohorts have different numbers of splits.
    LeakError
        If a participant is in both sets of a split.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "session_id": "ses-M00"})
    >>> write_splits([Split(0, frame[:1], frame[1:]), Split(1, frame[1:], frame[:1])], tmp)
    >>> [split.train["participant_id"].tolist() for split in read_splits(tmp)]
    [['sub-1'], ['sub-2']]
    """
    path = arguments.check_path("path", path, where="read_splits")
    arguments.check_flag("baseline", baseline, where="read_splits")
    if n_splits is not None:
        n_splits = arguments.check_integer("n_splits", n_splits, minimum=2, where="read_splits")
    if isinstance(diagnoses, str):
        diagnoses = [diagnoses]
    elif diagnoses is not None:
        diagnoses = arguments.check_list(
            "diagnoses", diagnoses, "a diagnosis or a list of them", where="read_splits"
        )
    if is_file(path):
        return _read_cohorts(path, n_splits, diagnoses, baseline)
    sets = _read_tree(_find_tree(path, n_splits), diagnoses, baseline)
    return [Split(index, train, validation) for index, train, validation in sets]


def _read_cohorts(
    table: Path, n_splits: int | None, diagnoses: Sequence[str] | None, baseline: bool
) -> list[Split]:
    """Read the splits of several cohorts and concatenate the sets of splits with the same index."""
    cohorts = read_table(table, required=())
    if not {"cohort", "path", "diagnoses"} <= set(cohorts.columns):
        raise TableError(
            f"{table}: found the columns {', '.join(map(str, cohorts.columns))}; expected the folder of a "
            "split tree, or a multi-cohort TSV with the columns cohort, path and diagnoses"
        )
    joined: dict[int, list[list[pd.DataFrame]]] = {}
    paths = cohort_paths(table)
    for (cohort, folder), text in zip(paths.items(), cohorts["diagnoses"].tolist(), strict=True):
        if not isinstance(text, str):
            raise TableError(
                f"{table}: cohort {cohort!r} has no diagnoses; expected diagnoses separated by commas"
            )
        own = [name.strip() for name in text.split(",") if name.strip()]
        own = own if diagnoses is None else [name for name in own if name in diagnoses]
        if not own:
            continue
        for index, *sets in _read_tree(_find_tree(folder, n_splits), own, baseline):
            sets = [frame.drop(columns="cohort", errors="ignore") for frame in sets]
            for frame in sets:
                frame.insert(0, "cohort", cohort)
            joined.setdefault(index, []).append(sets)
    if not joined:
        wanted = "a diagnosis" if diagnoses is None else f"any of the diagnoses {', '.join(diagnoses)}"
        raise TableError(f"{table}: no cohort has {wanted}; correct the argument or the column 'diagnoses'")
    if len({len(parts) for parts in joined.values()}) > 1:
        raise TableError(f"{table}: the cohorts have different numbers of splits; expected the same number")
    return [
        Split(index, *(pd.concat(part, ignore_index=True) for part in zip(*joined[index], strict=True)))
        for index in sorted(joined)
    ]


def _find_tree(folder: Path, n_splits: int | None) -> _Tree:
    """Return the only split tree in a folder or in its subfolders ``split[_k]``."""
    if not is_folder(folder):
        error, found = (TableError, "a file") if is_file(folder) else (NotFoundError, "no folder")
        raise error(f"{folder}: found {found}; expected the folder of a split tree")
    below = (path for path in find(folder, "split*/") if re.match(r"split(_\d+)?$", path.name))
    trees = [tree for candidate in (folder, *below) for tree in _find_trees(candidate)]
    # A folder may contain both the single split (train, test) and a cross-validation of its training set.
    matching = [tree for tree in trees if n_splits is None or tree.n_splits == n_splits]
    if not matching:
        n, of_splits = ("<n>", "") if n_splits is None else (n_splits, f" of {n_splits} splits")
        found = f"; found {', '.join(str(tree.folder) for tree in trees)}" if trees else ""
        raise NotFoundError(
            f"{folder}: no split tree{of_splits}; searched for train_splits-{n}/split-<i>, train/, {n}_fold/split-<i>, "
            f"split/ or split-<i>/ with the sets' TSV files{found}"
        )
    if len(matching) > 1:
        raise TableError(
            f"{folder}: several split trees: {', '.join(str(tree.folder) for tree in matching)}; expected one "
            "split tree; pass n_splits, or the path of the tree to read"
        )
    return matching[0]


def _find_trees(folder: Path) -> list[_Tree]:
    """Return the split trees in a folder. The folder itself or its subfolders may be trees."""
    trees = []
    own = _split_folders(folder)
    if any(is_file(path / name) for _, path in own for name in ("train.tsv", "train_baseline.tsv")):
        trees.append(_Tree(folder, len(own), tuple((i, path, path) for i, path in own), False))
    if is_folder(folder / "train") and is_folder(folder / "validation"):
        trees.append(_Tree(folder, None, ((0, folder / "train", folder / "validation"),), True))
    if is_file(folder / "train.tsv") and is_file(folder / "validation_baseline.tsv"):
        trees.append(_Tree(folder, None, ((0, folder, folder),), False))
    for child in find(folder):
        if found := re.fullmatch(r"train_splits-(\d+)", child.name):
            validation = folder / f"validation_splits-{found.group(1)}"
            pairs = tuple((i, train, validation / train.name) for i, train in _split_folders(child))
            trees.append(_Tree(child, int(found.group(1)), pairs, True))
        elif (found := re.fullmatch(r"(\d+)_fold(_\d+)?", child.name)) and is_folder(child):
            pairs = tuple((i, path, path) for i, path in _split_folders(child))
            trees.append(_Tree(child, int(found.group(1)), pairs, False))
    return trees


def _split_folders(folder: Path) -> list[tuple[int, Path]]:
    found = [(re.fullmatch(r"split-(\d+)", child.name), child) for child in find(folder)]
    return sorted((int(match[1]), child) for match, child in found if match and is_folder(child))


def _read_tree(
    tree: _Tree, diagnoses: Sequence[str] | None, baseline: bool
) -> list[tuple[int, pd.DataFrame, pd.DataFrame]]:
    if tree.n_splits is not None and [index for index, _, _ in tree.pairs] != list(range(tree.n_splits)):
        found = ", ".join(f"split-{index}" for index, _, _ in tree.pairs) or "none"
        raise NotFoundError(f"{tree.folder}: found {found}; expected split-0 to split-{tree.n_splits - 1}")
    names = _list_diagnoses(tree.pairs[0][1]) if tree.by_diagnosis and diagnoses is None else diagnoses

    def read(folder: Path, name: str, baseline: bool) -> pd.DataFrame:
        if tree.by_diagnosis:
            return _read_diagnoses(folder, names or (), baseline)
        return _read_set(folder, name, names, baseline)

    return [
        (index, read(train, "train", baseline), read(validation, "validation", True))
        for index, train, validation in tree.pairs
    ]


def _list_diagnoses(folder: Path) -> list[str]:
    """Return the diagnoses for which a folder of ClinicaDL 0.2.1 contains files."""
    files = [path.name.removesuffix(".tsv") for path in find(folder, "*.tsv")]
    names = sorted({name.removesuffix("_baseline") for name in files})
    if not names:
        raise NotFoundError(f"{folder}: no TSV files; expected <diagnosis>.tsv")
    return names


def _read_diagnoses(folder: Path, diagnoses: Sequence[str], baseline: bool) -> pd.DataFrame:
    """Read the files <diagnosis>[_baseline].tsv of a set of ClinicaDL 0.2.1."""
    frames = []
    for diagnosis in diagnoses:
        path = folder / f"{diagnosis}{'_baseline' if baseline else ''}.tsv"
        if not is_file(path):
            known = _list_diagnoses(folder) if is_folder(folder) else []
            raise NotFoundError(f"{path}: the file does not exist; {suggestion(diagnosis, known)}")
        frame = read_table(path)
        if "diagnosis" not in frame.columns:
            frame.insert(len(REQUIRED), "diagnosis", diagnosis)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _read_set(folder: Path, what: str, diagnoses: Sequence[str] | None, baseline: bool) -> pd.DataFrame:
    """Read train[_baseline].tsv or validation_baseline.tsv of a split of ClinicaDL 1.x, and its diagnoses."""
    path = folder / f"{what}{'_baseline' if baseline else ''}.tsv"
    frame = read_table(path)
    if "diagnosis" not in frame.columns:
        frame = _add_labels(frame, path)
    if diagnoses is None:
        return frame
    check_columns(frame, ["diagnosis"], f"{path} (and labels.tsv in its parent folders)")
    known = sorted(set(frame["diagnosis"].dropna().astype(str)))
    for diagnosis in [name for name in diagnoses if name not in known]:
        raise TableError(f"{path}: no rows with diagnosis={diagnosis!r}; {suggestion(str(diagnosis), known)}")
    return frame[frame["diagnosis"].isin(diagnoses)].reset_index(drop=True)


def _add_labels(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add the columns of labels.tsv, from the nearest parent folder that contains this file, to the rows."""
    for folder in list(path.resolve().parents)[: _MAX_PARENTS_OF_LABELS + 1]:
        if is_file(folder / "labels.tsv"):
            labels = read_table(folder / "labels.tsv")
            new = [column for column in labels.columns if column not in frame.columns]
            merged = frame.merge(labels[[*REQUIRED, *new]], on=list(REQUIRED), how="left", indicator="_found")
            if len(missing := merged[merged["_found"] != "both"]):
                rows = describe_rows(missing, most=len(missing))
                found = f"{len(missing)} rows are not in {folder / 'labels.tsv'}: {rows}"
                raise TableError(f"{path}: {found}; add them to labels.tsv, or remove them from the split")
            return merged.drop(columns="_found")
    return frame


def write_splits(splits: Sequence[Split], folder: str | os.PathLike[str]) -> None:
    """Write splits as a tree that ClinicaDL 1.x and `read_splits` can read.

    Parameters
    ----------
    splits
        Splits numbered 0, 1, …. A single split is written to ``<folder>/split/``, several splits are written to
        ``<folder>/<n>_fold/split-<i>/`` (the path to pass to ClinicaDL is ``<folder>/<n>_fold``).
    folder
        Folder of the tree, created if missing.

    Raises
    ------
    SettingError
        If splits are not numbered 0, 1, …, or the folder contains a different tree, which is never overwritten.
    StorageError
        If a file cannot be written (full disk, read-only folder).

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "session_id": "ses-M00"})
    >>> write_splits([Split(0, frame[:1], frame[1:])], tmp)
    >>> sorted(path.name for path in (tmp / "split").iterdir())
    ['train.tsv', 'train_baseline.tsv', 'validation_baseline.tsv']
    """
    expected = "a list of nc.Split"
    splits = arguments.check_list("splits", splits, expected, where="write_splits")
    arguments.check_each("splits", splits, arguments.check_instance, kind=Split, expected=expected)
    folder = arguments.check_path("folder", folder, where="write_splits")
    indices = [split.index for split in splits]
    if indices != list(range(len(splits))) or not splits:
        raise SettingError(f"write_splits: indices={indices}; expected 0, 1, …; pass all splits in order")
    tree = folder / ("split" if len(splits) == 1 else f"{len(splits)}_fold")
    tables: dict[Path, pd.DataFrame] = {}
    for split in splits:
        parent = tree if len(splits) == 1 else tree / f"split-{split.index}"
        tables[parent / "train.tsv"] = split.train
        tables[parent / "train_baseline.tsv"] = baseline_sessions(split.train)
        tables[parent / "validation_baseline.tsv"] = baseline_sessions(split.validation)
    texts = {path: format_table(frame, path) for path, frame in tables.items()}
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise SettingError(
                f"{path}: found a different split of the participants; choose another folder, or delete {tree}"
            )
    for path, text in texts.items():
        with write_atomically(path, "w") as file:
            file.write(text)

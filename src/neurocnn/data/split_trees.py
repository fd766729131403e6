"""Reading and writing the split trees of either generation of ClinicaDL, and multi-cohort TSV files.

ClinicaDL 0.2.1 keeps a file for each diagnosis; 1.x keeps one file for each set, and may keep the diagnosis in
a ``labels.tsv`` of a folder above. Validation sets are the baseline files, whatever else there is.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from neurocnn.data.sources import cohort_paths
from neurocnn.data.splits import Split
from neurocnn.data.splits import baseline as baseline_sessions
from neurocnn.errors import NotFoundError, SettingError, TableError, suggestion
from neurocnn.storage.files import write_whole
from neurocnn.storage.identity import REQUIRED
from neurocnn.storage.tables import format_table, read_table

_LEVELS = 4  # how far above a split its labels.tsv may be


@dataclass(frozen=True)
class _Tree:
    """A split tree that has been found: one pair of folders (train, validation) a split.

    `n_splits` is None for a single split; `by_diagnosis` tells 0.2.1 from 1.x.
    """

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
    """Read the splits that ClinicaDL, or `write_splits`, has written.

    Parameters
    ----------
    path
        A folder with a split tree of ClinicaDL 0.2.1 or 1.x, or a multi-cohort TSV with the columns `cohort`,
        `path` (of each cohort's tree) and `diagnoses` (comma-separated).
    n_splits
        Which tree, where there are several: that of a cross-validation of so many splits. None: the only one.
    diagnoses
        Keep only these; None: all there are.
    baseline
        Train on baseline sessions only. Validation sets hold baseline sessions always.

    Returns
    -------
    splits
        Verified: no participant is in two sets of a split, and none is empty.

    Raises
    ------
    NotFoundError
        There is no such tree; the message says what was looked for.
    TableError
        A table is wrong, there are several trees, or cohorts have different numbers of splits.
    LeakError
        A participant is in two sets.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "session_id": "ses-M00"})
    >>> write_splits([Split(0, frame[:1], frame[1:]), Split(1, frame[1:], frame[:1])], tmp)
    >>> [split.train["participant_id"].tolist() for split in read_splits(tmp)]
    [['sub-1'], ['sub-2']]
    """
    path = Path(path)
    if n_splits is not None and (not isinstance(n_splits, int) or n_splits < 2):
        raise SettingError(f"n_splits is {n_splits!r}, expected None, or a whole number, 2 or more")
    wanted = [diagnoses] if isinstance(diagnoses, str) else None if diagnoses is None else list(diagnoses)
    if path.is_file():
        return _read_cohorts(path, n_splits, wanted, baseline)
    sets = _read_tree(_find_tree(path, n_splits), wanted, baseline)
    return [Split(index, train, validation) for index, train, validation in sets]


def _read_cohorts(
    table: Path, n_splits: int | None, diagnoses: list[str] | None, baseline: bool
) -> list[Split]:
    """The splits of several cohorts, joined split by split."""
    frame = read_table(table, required=())
    if not {"cohort", "path", "diagnoses"} <= set(frame.columns):
        raise TableError(
            f"{table}: this is a table with the columns {', '.join(map(str, frame.columns))}; expected the folder "
            "of a split tree, or a multi-cohort TSV with the columns cohort, path and diagnoses"
        )
    joined: dict[int, list[tuple[pd.DataFrame, pd.DataFrame]]] = {}
    paths = cohort_paths(table)
    for (cohort, folder), text in zip(paths.items(), frame["diagnoses"].tolist(), strict=True):
        if not isinstance(text, str):
            raise TableError(
                f"{table}: cohort {cohort!r} has no diagnoses; expected them separated by commas"
            )
        own = [name.strip() for name in text.split(",") if name.strip()]
        own = own if diagnoses is None else [name for name in own if name in diagnoses]
        if not own:
            continue
        for index, *sets in _read_tree(_find_tree(folder, n_splits), own, baseline):
            train, validation = (part.drop(columns="cohort", errors="ignore") for part in sets)
            train.insert(0, "cohort", cohort)
            validation.insert(0, "cohort", cohort)
            joined.setdefault(index, []).append((train, validation))
    counts = {len(parts) for parts in joined.values()}
    if not joined or len(counts) > 1:
        raise TableError(
            f"{table}: the cohorts have different numbers of splits"
            if joined
            else f"{table}: no cohort has any of the diagnoses {', '.join(diagnoses or [])}"
        )
    return [
        Split(index, *(pd.concat(part, ignore_index=True) for part in zip(*joined[index], strict=True)))
        for index in sorted(joined)
    ]


def _find_tree(folder: Path, n_splits: int | None) -> _Tree:
    """The one split tree in a folder or just below it."""
    if folder.is_file():
        raise TableError(f"{folder}: this is a file, expected the folder of a split tree")
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: there is no such folder; expected one with a split tree")
    below = sorted(
        child for child in folder.iterdir() if child.is_dir() and re.match(r"split(_\d+)?$", child.name)
    )
    trees = [tree for place in (folder, *below) for tree in _trees(place)]
    # A folder may hold the single split (train, test) and a cross-validation of its training set.
    matching = [tree for tree in trees if n_splits is None or tree.n_splits == n_splits]
    if not matching:
        looked = "train_splits-<n>/split-<i>, train/, <n>_fold/split-<i>, split/ or split-<i>/".replace(
            "<n>", "<n>" if n_splits is None else str(n_splits)
        )
        found = f"; found {', '.join(str(tree.folder) for tree in trees)}" if trees else ""
        raise NotFoundError(
            f"{folder}: there is no split tree{'' if n_splits is None else f' of {n_splits} splits'}; looked for "
            f"{looked} with the sets' TSV files{found}"
        )
    if len(matching) > 1:
        raise TableError(
            f"{folder}: there are several split trees: {', '.join(str(tree.folder) for tree in matching)}; "
            "give n_splits, or the path of one of them"
        )
    return matching[0]


def _trees(folder: Path) -> list[_Tree]:
    """The split trees that a folder is, or directly holds."""
    trees = []
    own = _split_folders(folder)
    if any((place / name).is_file() for _, place in own for name in ("train.tsv", "train_baseline.tsv")):
        trees.append(_Tree(folder, len(own), tuple((i, place, place) for i, place in own), False))
    if (folder / "train").is_dir() and (folder / "validation").is_dir():
        trees.append(_Tree(folder, None, ((0, folder / "train", folder / "validation"),), True))
    if (folder / "train.tsv").is_file() and (folder / "validation_baseline.tsv").is_file():
        trees.append(_Tree(folder, None, ((0, folder, folder),), False))
    for child in sorted(folder.iterdir()):
        if found := re.fullmatch(r"train_splits-(\d+)", child.name):
            twin = folder / f"validation_splits-{found.group(1)}"
            pairs = tuple((i, place, twin / place.name) for i, place in _split_folders(child))
            trees.append(_Tree(child, int(found.group(1)), pairs, True))
        elif (found := re.fullmatch(r"(\d+)_fold(_\d+)?", child.name)) and child.is_dir():
            pairs = tuple((i, place, place) for i, place in _split_folders(child))
            trees.append(_Tree(child, int(found.group(1)), pairs, False))
    return trees


def _split_folders(folder: Path) -> list[tuple[int, Path]]:
    found = [(re.fullmatch(r"split-(\d+)", child.name), child) for child in folder.iterdir()]
    return sorted(
        (int(match.group(1)), child) for match, child in found if match is not None and child.is_dir()
    )


def _read_tree(
    tree: _Tree, diagnoses: list[str] | None, baseline: bool
) -> list[tuple[int, pd.DataFrame, pd.DataFrame]]:
    if tree.n_splits is not None and [index for index, _, _ in tree.pairs] != list(range(tree.n_splits)):
        found = ", ".join(f"split-{index}" for index, _, _ in tree.pairs) or "none"
        raise NotFoundError(f"{tree.folder}: found {found}; expected split-0 to split-{tree.n_splits - 1}")
    if tree.by_diagnosis:
        names = diagnoses if diagnoses is not None else _diagnoses(tree.pairs[0][1])
        return [
            (index, _read_diagnoses(train, names, baseline), _read_diagnoses(validation, names, True))
            for index, train, validation in tree.pairs
        ]
    return [
        (
            index,
            _read_set(train, "train", diagnoses, baseline),
            _read_set(validation, "validation", diagnoses, True),
        )
        for index, train, validation in tree.pairs
    ]


def _diagnoses(folder: Path) -> list[str]:
    """The diagnoses that a folder of 0.2.1 has files of."""
    names = sorted(
        {path.name.removesuffix(".tsv").removesuffix("_baseline") for path in folder.glob("*.tsv")}
    )
    if not names:
        raise NotFoundError(f"{folder}: there are no files <diagnosis>.tsv")
    return names


def _read_diagnoses(folder: Path, diagnoses: list[str], baseline: bool) -> pd.DataFrame:
    """The files <diagnosis>[_baseline].tsv of a set of 0.2.1."""
    frames = []
    for diagnosis in diagnoses:
        path = folder / f"{diagnosis}{'_baseline' if baseline else ''}.tsv"
        if not path.is_file():
            there = _diagnoses(folder) if folder.is_dir() else []
            raise NotFoundError(f"{path}: there is no such file; diagnoses: {suggestion(diagnosis, there)}")
        frame = read_table(path)
        if "diagnosis" not in frame.columns:
            frame.insert(len(REQUIRED), "diagnosis", diagnosis)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _read_set(folder: Path, what: str, diagnoses: list[str] | None, baseline: bool) -> pd.DataFrame:
    """The file train[_baseline].tsv or validation_baseline.tsv of a split of 1.x, with its labels."""
    path = folder / f"{what}{'_baseline' if baseline else ''}.tsv"
    frame = read_table(path)
    if "diagnosis" not in frame.columns:
        frame = _with_labels(frame, path)
    if diagnoses is None:
        return frame
    if "diagnosis" not in frame.columns:
        raise TableError(f"{path}: there is no column 'diagnosis', and no labels.tsv in a folder above")
    there = sorted(set(frame["diagnosis"].dropna().astype(str)))
    for diagnosis in diagnoses:
        if diagnosis not in there:
            raise TableError(
                f"{path}: no row has the diagnosis {diagnosis!r}; {suggestion(diagnosis, there)}"
            )
    return frame[frame["diagnosis"].isin(diagnoses)].reset_index(drop=True)


def _with_labels(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The rows with the columns that the nearest labels.tsv above adds to them."""
    for folder in list(path.resolve().parents)[: _LEVELS + 1]:
        if (folder / "labels.tsv").is_file():
            labels = read_table(folder / "labels.tsv")
            new = [column for column in labels.columns if column not in frame.columns]
            merged = frame.merge(labels[[*REQUIRED, *new]], on=list(REQUIRED), how="left", indicator="_found")
            lost = merged[merged["_found"] != "both"]
            if len(lost):
                rows = ", ".join(
                    f"{p} {s}" for p, s in zip(lost[REQUIRED[0]], lost[REQUIRED[1]], strict=True)
                )
                raise TableError(f"{path}: {len(lost)} rows are not in {folder / 'labels.tsv'}: {rows}")
            return merged.drop(columns="_found")
    return frame


def write_splits(splits: Sequence[Split], folder: str | os.PathLike[str]) -> None:
    """Write splits as a tree that ClinicaDL 1.x, and `read_splits`, read.

    Parameters
    ----------
    splits
        Several: written to ``<folder>/<n>_fold/split-<i>/``, to be given to ClinicaDL as
        ``<folder>/<n>_fold``. One alone: written to ``<folder>/split/``.
    folder
        Made where there is none.

    Raises
    ------
    SettingError
        Splits are not numbered 0, 1, …, or another tree stands there already: it is never overwritten.
    OSError
        With the path: full disk, read-only folder.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "session_id": "ses-M00"})
    >>> write_splits([Split(0, frame[:1], frame[1:])], tmp)
    >>> sorted(path.name for path in (tmp / "split").iterdir())
    ['train.tsv', 'train_baseline.tsv', 'validation_baseline.tsv']
    """
    if [split.index for split in splits] != list(range(len(splits))) or not splits:
        found = [split.index for split in splits]
        raise SettingError(f"the splits' indices are {found}, expected 0, 1, … for all splits together")
    tree = Path(folder) / ("split" if len(splits) == 1 else f"{len(splits)}_fold")
    tables: dict[Path, pd.DataFrame] = {}
    for split in splits:
        place = tree if len(splits) == 1 else tree / f"split-{split.index}"
        tables[place / "train.tsv"] = split.train
        tables[place / "train_baseline.tsv"] = baseline_sessions(split.train)
        tables[place / "validation_baseline.tsv"] = baseline_sessions(split.validation)
    texts = {path: format_table(frame, path) for path, frame in tables.items()}
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise SettingError(
                f"{path} is there already and differs; choose another folder, or delete {tree}"
            )
    for path, text in texts.items():
        with write_whole(path, "w") as file:
            file.write(text)

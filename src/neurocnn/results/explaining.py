"""Files of attribution maps: of each part, of each image, and the mean of each class."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from neurocnn import data, engine, storage
from neurocnn.engine.attribution import randomized_networks
from neurocnn.errors import NotFoundError, SettingError
from neurocnn.results.explainer import Explainer
from neurocnn.results.folder import IMAGE, ResultFolder
from neurocnn.results.paths import Fold
from neurocnn.results.prediction import Networks, read_validation
from neurocnn.results.scoring import write_nifti
from neurocnn.results.votes import Vote
from neurocnn.storage.files import find, is_file, storage_errors
from neurocnn.storage.identity import COHORT, key_columns
from neurocnn.storage.locks import hold


def vote_weights(
    folder: ResultFolder, fold: Fold, selection: str, vote: Vote, parts: list[int]
) -> "pd.Series[float]":
    """Return the weight of each part in the vote of a fold; the weights are equal if the vote is a plain mean."""
    fold_vote = vote.of_fold(folder, fold, selection, read_validation(folder, fold, selection))
    if fold_vote.weights is None:
        return pd.Series(1 / len(parts), parts)
    return fold_vote.weights.reindex(parts).fillna(0.0)


def file_name(row: Mapping[str, Any]) -> str:
    """Return the file name of the map of an image or part, or of the mean map of a class.

    Examples
    --------
    >>> file_name({"participant_id": "sub-01", "session_id": "ses-M000", "part_id": 3})
    'sub-01_ses-M000_part-3.nii.gz'
    >>> file_name({"class": "AD", "part_id": None})
    'mean-AD.nii.gz'
    """
    names = [str(row[name]) for name in (COHORT, "participant_id", "session_id") if row.get(name) is not None]
    if not names:
        names = ["mean" if row.get("class") is None else f"mean-{row['class']}"]
    part = [] if row.get("part_id") is None else [f"part-{row['part_id']}"]
    # Names of cohorts and classes may contain path separators.
    safe = ["".join(c if c.isalnum() or c in "+-." else "-" for c in name) for name in (*names, *part)]
    return f"{'_'.join(safe)}.nii.gz"


def list_maps(explainer: Explainer, votes: bool) -> pd.DataFrame:
    """Return a table with one row per map of a fold. The mean maps of the classes are first; their ``participant_id``
    is None.

    Parameters
    ----------
    explainer
        Images and settings.
    votes
        Whether the parts vote. Only then there are maps of complete images.
    """
    sessions, classes = explainer.dataset.sessions, explainer.image_classes()
    names = list(dict.fromkeys(classes))
    who: list[dict[Any, Any]] = sessions[key_columns(sessions)].to_dict("records")
    owners = [{"class": name} for name in names]
    owners += [{"class": name, **row} for name, row in zip(classes, who, strict=True)]
    levels: list[int | None] = [None] * votes
    if explainer.experiment.folder.parts != IMAGE:
        levels += explainer.dataset.part_ids
    rows = [{**owner, "part_id": part} for owner in owners for part in levels]
    table = pd.DataFrame([{**row, "file": file_name(row)} for row in rows], dtype=object)
    table = table.where(table.notna(), None)
    if table["file"].duplicated().any():
        twice = table.loc[table["file"].duplicated(), "file"].iloc[0]
        raise SettingError(f"explain: two maps have the file name {twice}; rename the cohorts or classes")
    return table


def explain_fold(
    explainer: Explainer,
    fold: Fold,
    networks: Networks,
    weights: "pd.Series[float]",
    folder: Path,
    rows: Iterable[int],
) -> None:
    """Write the maps of some images of the data set.

    The map of an image is the weighted sum of the maps of its parts, divided in each voxel by the number of voting
    parts that contain it. If no part votes, only the maps of the parts are written.
    """
    count = np.zeros(explainer.shape, dtype=np.float32)
    for part in weights.index[weights > 0]:
        count[explainer.place(part)] += 1
    for row in rows:
        identity = explainer.dataset.sessions.iloc[row]
        owner = {name: identity[name] for name in key_columns(explainer.dataset.sessions)}
        affine, total = explainer.affine(row), np.zeros(explainer.shape, dtype=np.float64)
        for model, parts, batch in explainer.batches(networks, row):
            for part, found in explainer.maps(model, parts, batch):
                place = explainer.place(part)
                total[place] += weights[part] * found
                if explainer.experiment.folder.parts != IMAGE:
                    own = data.part_affine(affine, place)
                    write_nifti(folder / file_name({**owner, "part_id": part}), found, own)
        if weights.any():
            write_nifti(folder / file_name(owner), total / np.maximum(count, 1), affine)


def write_means(folder: Path, maps: pd.DataFrame) -> None:
    """Write the mean map of each class and part. Only one map of a participant is in memory at a time."""
    groups = maps.groupby(["class", "part_id"], dropna=False, sort=False)
    for _, group in groups:
        mean, people = group[group["participant_id"].isna()], group[group["participant_id"].notna()]
        total, affine = _mean_map(folder / name for name in people["file"])
        write_nifti(folder / mean["file"].iloc[0], total, affine)


def _mean_map(paths: Iterable[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of maps that are read one by one, and the affine of the last one."""
    count, total, affine = 0, np.zeros(1), np.eye(4)
    for path in paths:
        with storage_errors(path, "read"):
            image: Any = nib.load(path)
            total, affine = total + np.asarray(image.dataobj, dtype=np.float64), image.affine
        count += 1
    return total / count, affine


def write_fold(
    explainer: Explainer, fold: Fold, selection: str, folder: Path, weights: "pd.Series[float]"
) -> pd.DataFrame:
    """Write all maps of a fold into a folder, after removing its previous maps, and return the table of the maps."""
    maps, ranks = list_maps(explainer, votes=bool(weights.any())), engine.find_ranks()
    with ExitStack() as stack:
        stack.enter_context(explainer.errors())
        if ranks.rank == 0:
            lock = stack.enter_context(hold(folder / ".lock", f"the explanations in {folder}"))
            storage.remove_leftovers(lock, *(folder / name for name in maps["file"]))
            for path in folder.glob("*.nii.gz"):
                path.unlink()
        ranks.barrier("before the explanation")
        rows = range(ranks.rank, len(explainer.dataset.sessions), ranks.world)
        explain_fold(explainer, fold, explainer.load(fold, selection), weights, folder, rows)
        ranks.barrier("after the explanation")
        if ranks.rank == 0:
            write_means(folder, maps)
            (folder / ".lock").unlink()
    ranks.barrier("after the means of the explanation")
    return maps


def compare_with_randomized_networks(
    explainer: Explainer, fold: Fold, selection: str, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the rank correlations of each part's map with its maps for random weights, one dict per layer."""
    networks = explainer.load(fold, selection)
    with explainer.errors():
        for row in range(len(explainer.dataset.sessions)):
            for model, parts, batch in explainer.batches(networks, row):
                before = explainer.maps(model, parts, batch)
                for layer, network in randomized_networks(model, seed):
                    after = explainer.maps(network, parts, batch)
                    for (_, first), (_, second) in zip(before, after, strict=True):
                        pair = rank_correlation(first, second), rank_correlation(abs(first), abs(second))
                        yield {"layer": layer, "spearman": pair[0], "spearman_abs": pair[1]}


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's rank correlation of two maps, NaN if one of the maps is constant.

    Examples
    --------
    >>> round(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])), 9)
    1.0
    """
    from scipy.stats import rankdata

    ranks = [rankdata(array) - (array.size + 1) / 2 for array in (first, second)]
    norms = [float(np.sqrt(np.square(each).sum())) for each in ranks]
    if not all(norms):
        return float("nan")
    return float(np.clip((ranks[0] * ranks[1]).sum() / (norms[0] * norms[1]), -1, 1))


def read_mean(folder: ResultFolder, selection: str, name: str, method: str, of: str) -> np.ndarray:
    """Return the mean of a map over the splits that contain it; see `Results.explanation`."""
    places = [fold.explanations(selection, name, method) for fold in folder.check_done()]
    paths = [path for path in (place / f"{of}.nii.gz" for place in places) if is_file(path)]
    if not paths:
        found = sorted(
            {path.name.removesuffix(".nii.gz") for place in places for path in find(place, "*.gz")}
        )
        raise NotFoundError(
            f"{folder.root}: name={name!r}, method={method!r}: of={of!r} does not exist; expected one of: "
            f"{', '.join(found) or 'none yet; call results.explain first'}"
        )
    return _mean_map(paths)[0]

"""Quality measures of a cohort's images, and the comparison of a table with the images, for `ImageSet`."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d
from tqdm import tqdm

from neurocnn.data.decoding import decode
from neurocnn.data.orientation import Grid, orientation_of
from neurocnn.data.reader import ImageReader
from neurocnn.data.sources import Source, check_readable
from neurocnn.errors import NeurocnnError
from neurocnn.storage.files import storage_errors
from neurocnn.storage.identity import key_columns

Floats = NDArray[np.float64]

_TEXTS = ("shape", "voxel_size", "orientation")
_NUMBERS = ("minimum", "maximum", "nan", "zeros", "contrast", "sharpness", "correlation")
# A downsampled image has at most this many voxels along each axis, and takes at most 128 KiB.
_MAX_POOLED = 32


def check_images(images: ImageReader, sources: Sequence[Source], ids: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of each image. Images that differ most from their cohort are first; see `ImageSet.check`."""
    rows: list[dict[str, Any]] = []
    pooled: list[Tensor | None] = []
    names: dict[bytes, list[int]] = {}
    for index, source in enumerate(tqdm(sources, "images checked", disable=None, unit="image")):
        try:
            check_readable(source)
            voxels, grid = read_unchecked(images, source)
        except NeurocnnError as error:
            rows.append({"problem": " ".join(str(error).split())})
            pooled.append(None)
            continue
        rows.append(_measure(voxels, grid))
        pooled.append(_downsample(voxels, grid))
        content = hashlib.blake2b(np.ascontiguousarray(voxels.numpy()).data, digest_size=16).digest()
        names.setdefault(content, []).append(index)
    for same in names.values():
        for index in same[1:]:
            rows[index]["same_voxels_as"] = sources[same[0]].name
            rows[same[0]]["same_voxels_as"] = sources[same[1]].name
    columns = [*_TEXTS, *_NUMBERS, "same_voxels_as", "problem"]
    table = pd.concat([ids.reset_index(drop=True), pd.DataFrame(rows, columns=columns)], axis=1)
    places: dict[tuple[str | None, str | None], list[int]] = {}
    for index, source in enumerate(sources):
        places.setdefault((source.cohort, source.channel), []).append(index)
    parts = [_compare(table.iloc[own], [pooled[index] for index in own]) for own in places.values()]
    # The sort is stable, so that images of equal z keep the order of the sessions.
    return pd.concat(parts or [table]).sort_values("z", ascending=False, kind="stable", ignore_index=True)


def read_unchecked(images: ImageReader, source: Source) -> tuple[Tensor, Grid]:
    """Return the voxels (1, D, H, W) and the grid of an image, even if the image has NaN or differs from its cohort."""
    grid = images.grid_without_comparison(source)
    with storage_errors(source.session_folder, f"read {source.name}"):
        prepared = images.prepared_tensor(source)
    return grid.reorient(prepared if prepared is not None else decode(source)), grid


def unmatched_sessions(table: pd.DataFrame, sessions: pd.DataFrame) -> pd.DataFrame:
    """Return the sessions that only one of two tables contains; see `ImageSet.match`."""
    keys = key_columns(sessions)
    both = table[keys].merge(sessions[keys], on=keys, how="outer", indicator="missing")
    kinds = both.pop("missing").map({"left_only": "image", "right_only": "row"}).astype(object)
    found = both.assign(missing=kinds)[kinds.notna()]
    return found.sort_values(["missing", *keys], ignore_index=True)


def robust_z(values: NDArray[Any]) -> Floats:
    """Return the distance of each value from the median, in robust standard deviations; NaN for NaN.

    The deviation is 1.4826 times the median distance or, if more than half of the values are equal, 1.2533 times the
    mean distance (Iglewicz and Hoaglin, How to detect and handle outliers, 1993). All
    distances are 0 if all values are equal.

    Examples
    --------
    >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 100.0])).round(2).tolist()
    [1.35, 0.67, 0.0, 0.67, 65.43]
    """
    if np.isnan(values).all():
        return values
    distance: Floats = np.abs(values - np.nanmedian(values))
    spread = 1.4826 * float(np.nanmedian(distance)) or 1.2533 * float(np.nanmean(distance))
    return distance / np.float64(spread or 1.0)


def _measure(voxels: Tensor, grid: Grid) -> dict[str, Any]:
    image = _finite(voxels)
    head, spread = image[image != 0], float(image.std(correction=0))
    level = float(head.abs().mean()) if len(head) else 0.0
    # Noise increases the differences of neighbouring voxels, and smoothing reduces these differences.
    steps = [float(image.diff(dim=axis).abs_().mean()) for axis in (1, 2, 3) if image.shape[axis] > 1]
    sizes = [] if grid.affine is None else np.linalg.norm(grid.affine[:3, :3], axis=0).tolist()
    return {
        "shape": "x".join(map(str, grid.shape)),
        "voxel_size": "x".join(f"{size:.3g}" for size in sizes) or None,
        "orientation": None if grid.affine is None or not grid.is_oriented else orientation_of(grid.affine),
        "minimum": float(image.min()),
        "maximum": float(image.max()),
        "nan": int((~torch.isfinite(voxels)).sum()) / voxels.numel(),
        "zeros": 1 - len(head) / image.numel(),
        "contrast": float(head.std(correction=0)) / level if level > 0 else 0.0,
        "sharpness": sum(steps) / len(steps) / spread if steps and spread > 0 else 0.0,
    }


def _finite(voxels: Tensor) -> Tensor:
    finite = torch.isfinite(voxels)
    return voxels if finite.all() else voxels.masked_fill(~finite, 0.0)


def _downsample(voxels: Tensor, grid: Grid) -> Tensor:
    first, second, third = (min(_MAX_POOLED, size) for size in grid.shape)
    return adaptive_avg_pool3d(_finite(voxels), (first, second, third))


def _compare(table: pd.DataFrame, pooled: Sequence[Tensor | None]) -> pd.DataFrame:
    """Return the rows of a cohort with the columns ``correlation``, ``z`` and ``column`` of `ImageSet.check`."""
    readable = [image for image in pooled if image is not None]
    if readable:
        # For the comparison, images of other shapes are resampled to the most frequent shape.
        first, second, third = Counter(image.shape[1:] for image in readable).most_common(1)[0][0]
        flat = np.stack(
            [
                adaptive_avg_pool3d(image, (first, second, third)).double().numpy().ravel()
                for image in readable
            ]
        )
        correlations = iter(_correlations(flat))
        found = [math.nan if image is None else next(correlations) for image in pooled]
        table = table.assign(correlation=found)
    z = {name: robust_z(table[name].to_numpy(dtype=float)) for name in _NUMBERS}
    for name in _TEXTS:
        usual = table[name].mode()
        z[name] = robust_z(np.array(table[name] != (usual.iloc[0] if len(usual) else None), dtype=float))
    z["same_voxels_as"] = robust_z(np.array(table["same_voxels_as"].notna(), dtype=float))
    z["problem"] = np.where(table["problem"].notna(), math.inf, 0.0)
    scores = np.nan_to_num(np.stack(list(z.values())), posinf=math.inf)
    largest = scores.max(axis=0)
    columns = pd.Series(list(z), dtype=object).iloc[scores.argmax(axis=0)].set_axis(table.index)
    return table.assign(z=largest, column=columns.where(largest > 0, None))


def _correlations(flat: NDArray[np.float32]) -> Floats:
    """Return Pearson's correlation of each row with the median of all rows; 0 for a constant row."""
    median = np.median(flat, axis=0)
    rows, middle = flat - flat.mean(axis=1, keepdims=True), median - median.mean()
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(middle)
    found: Floats = np.divide(rows @ middle, lengths, out=np.zeros(len(flat)), where=lengths > 0)
    return found

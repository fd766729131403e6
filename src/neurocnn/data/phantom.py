"""Pictures of an anatomy: from surfaces to voxels, one plane after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurocnn.data.anatomy import FOLD_WIDTH, Floats, Person, head, structures

_STEP, _RANGE = 0.1, 40.0  # the table of layers: resolution, and the depth (mm) it reaches
_SURFACE = 3.0  # where the brain begins on the scale of layers: 0 is the inside of the skull


class _Sampled:
    """Smooth fields, evaluated on a coarse lattice and interpolated plane by plane."""

    def __init__(self, function: object, axes: Sequence[Floats], spacing: float, box: object = None) -> None:
        windows = [slice(0, len(axis)) for axis in axes] if box is None else _windows(axes, box)
        self.window = windows[1:]
        self.first = windows[0].start
        self.length = windows[0].stop - windows[0].start
        if min(w.stop - w.start for w in windows) < 1:
            self.length = 0
            return
        inner = [axis[window] for axis, window in zip(axes, windows, strict=True)]
        coarse = [
            np.linspace(
                a[0], a[-1], min(len(a), int(np.ceil(abs(a[-1] - a[0]) / spacing)) + 1), dtype=np.float32
            )
            for a in inner
        ]
        values = function(coarse)  # type: ignore[operator]
        values = np.broadcast_to(values, (*values.shape[:-3], *(len(a) for a in coarse)))
        self.values = _stretched(_stretched(values, len(inner[2]), -1), len(inner[1]), -2)
        self.at = np.linspace(0, len(coarse[0]) - 1, self.length)

    def plane(self, index: int) -> Floats | None:
        """Values (…, len(y), len(x)) in the plane of that index, None outside the box."""
        index -= self.first
        if not 0 <= index < self.length:
            return None
        low = min(int(self.at[index]), self.values.shape[-3] - 2) if self.values.shape[-3] > 1 else 0
        part = np.float32(self.at[index] - low)
        if part == 0:
            return self.values[..., low, :, :]  # type: ignore[no-any-return]
        plane = self.values[..., low + 1, :, :] - self.values[..., low, :, :]
        plane *= part
        plane += self.values[..., low, :, :]
        return plane  # type: ignore[no-any-return]


def _windows(axes: Sequence[Floats], box: object) -> list[slice]:
    windows = []
    for axis, low, high in zip(axes, *(corner[::-1] for corner in box), strict=True):  # type: ignore[attr-defined]
        inside = np.flatnonzero((axis >= low) & (axis <= high))
        windows.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
    return windows


def _stretched(values: Floats, length: int, axis: int) -> Floats:
    count = values.shape[axis]
    if count == length:
        return values
    at = np.linspace(0, count - 1, length)
    low = np.minimum(at.astype(int), count - 2)
    part = (at - low).astype(np.float32).reshape([-1] + [1] * (-axis - 1))
    below, above = np.take(values, low, axis), np.take(values, low + 1, axis)
    above -= below
    above *= part
    above += below
    return above


def planes(person: Person, axes: Sequence[Floats], contrast: Mapping[str, float]) -> Iterator[Floats]:
    """Draw a person, noise-free, plane by plane along z.

    Parameters
    ----------
    person
        Whom to draw.
    axes
        Positions (mm) of the voxels' centres along z, y and x.
    contrast
        The value of each of `anatomy.TISSUES`, 0 where there is none. Edges are blended over about one voxel,
        so that a single tissue of value 1 gives its partial volumes.
    """
    voxel = float(np.mean([abs(axis[-1] - axis[0]) / max(len(axis) - 1, 1) for axis in axes]))
    width = np.float32(max(voxel, 1.2))
    table = _layers(person, contrast, float(width))
    base = _Sampled(lambda coarse: head(person, coarse), axes, 3.5)
    inner = [
        (np.float32(contrast.get(s.tissue, 0.0)), _Sampled(s.distance, axes, s.spacing, s.box))
        for s in structures(person)
    ]
    for index in range(len(axes[0])):
        yield _plane(base.plane(index), table, width, [(v, s.window, s.plane(index)) for v, s in inner])


def _layers(person: Person, contrast: Mapping[str, float], width: float) -> Floats:
    """The value for each depth, blended over `width` mm."""
    ends = (
        -person.skull - person.scalp,
        -person.skull,
        0.0,
        _SURFACE + 0.7,
        _SURFACE + 0.7 + person.cortex,
        1e9,
    )
    depth = np.arange(-_RANGE, _RANGE, _STEP)
    layer = np.searchsorted(ends, depth, side="right")
    names = ("soft", "scalp", "skull", "csf", "grey", "white")
    hard = np.array([contrast.get(name, 0.0) for name in names])[layer]
    box = np.ones(max(1, round(width / _STEP)))
    padded = np.pad(hard, len(box), mode="edge")
    return np.convolve(padded, box / len(box), "same")[len(box) : -len(box)].astype(np.float32)


def _plane(
    fields: Floats | None, table: Floats, width: np.float32, inner: Sequence[tuple[object, ...]]
) -> Floats:
    assert fields is not None
    depth, ends, folds, hull, skin = fields
    layer = np.abs(folds)
    layer *= np.float32(FOLD_WIDTH)
    layer += ends
    np.minimum(layer, depth, out=layer)
    layer += np.float32(_SURFACE)
    # Between the brain and the skull there is fluid, as in the sulci.
    np.maximum(layer, np.minimum(hull, np.float32(_SURFACE / 2)), out=layer)
    layer += np.float32(_RANGE)
    layer *= np.float32(1 / _STEP)
    plane = table[np.clip(layer, 0, len(table) - 1).astype(np.int32)]
    plane *= np.clip(skin / width + np.float32(0.5), 0, 1)
    for value, window, distance in inner:
        if distance is not None:
            part = plane[window[0], window[1]]  # type: ignore[index]
            share = np.clip(np.float32(0.5) - distance / width, 0, 1)  # type: ignore[operator]
            share *= value - part
            part += share
    return plane


@dataclass(frozen=True)
class Contrast:
    """What an image shows of the tissues, and how well.

    Parameters
    ----------
    values
        The value of each tissue, between 0 and 1.
    noise
        Standard deviation of the noise, on the same scale.
    probability
        The image is a map of probabilities: no receive field, values stay in [0, 1].
    """

    values: Mapping[str, float]
    noise: float
    probability: bool = False


def scan(
    person: Person, axes: Sequence[Floats], contrast: Contrast, levels: int, random: np.random.Generator
) -> NDArray[np.int16]:
    """Draw a person with receive field and noise, (len(z), len(y), len(x)) in `levels` steps a unit.

    The air is exactly 0, as it is after a brain mask; this also keeps the files small.
    """
    image = np.empty([len(axis) for axis in axes], np.int16)
    gain = 1.0 if contrast.probability else float(np.exp(0.08 * random.standard_normal()))
    profiles = [
        np.exp(a * t + b * t * t - b / 2).astype(np.float32)
        for a, b, t in zip(person.bias[:3], person.bias[3:], (axis / 100 for axis in axes), strict=True)
    ]
    sheet = np.outer(profiles[1], profiles[2]) * np.float32(gain)
    for index, plane in enumerate(planes(person, axes, contrast.values)):
        air = plane < 0.02
        noise = random.standard_normal(plane.shape, dtype=np.float32)
        noise *= np.float32(contrast.noise)
        if not contrast.probability:
            plane *= sheet
            plane *= profiles[0][index]
        plane += noise
        if contrast.probability:
            np.clip(plane, 0, 1, out=plane)
        else:
            # The magnitude of a complex signal whose other part is noise too (Rice), with that part's mean power.
            plane *= plane
            plane += np.float32(contrast.noise**2)
            np.sqrt(plane, out=plane)
        plane[air] = 0
        plane *= np.float32(levels)
        image[index] = np.rint(plane, out=plane)
    return image

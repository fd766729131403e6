"""Images of an anatomy, computed plane by plane from its surfaces.

The smooth fields of a head are evaluated on a coarse lattice and interpolated. All other steps work plane by plane
along z, within the processor's cache and in the order of a NIfTI file's bytes: a complete 1 mm head takes a fraction
of a second and little more memory than the result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurocnn.data.synthetic.anatomy import FOLD_WIDTH, Box, head, structures
from neurocnn.data.synthetic.person import HIGHEST, LOWEST, Floats, Person

_HEAD_SPACING = 3.5
# Smallest width over which edges are blended, in mm.
_MIN_WIDTH = 1.2
# Resolution and largest depth of the table of layers, in mm.
_STEP, _REACH = 0.1, 40.0
# Assumed depth of the brain's surface below the inside of the skull, in mm.
_FLUID = 3.0


@dataclass(frozen=True)
class Contrast:
    """Intensity of each tissue in an image, and the noise.

    Parameters
    ----------
    values
        Value of each tissue of `anatomy.TISSUES`, in [0, 1]; 0 if missing.
    noise
        Standard deviation of the noise, on the same scale.
    probability
        Whether the image is a map of probabilities, which has no receive field and values clipped to [0, 1].
    """

    values: Mapping[str, float]
    noise: float
    probability: bool = False


def scan(
    person: Person,
    axes: Sequence[Floats],
    contrast: Contrast,
    steps_per_unit: int,
    random: np.random.Generator,
) -> NDArray[np.int16]:
    """Return the image of a person with receive field and noise.

    Parameters
    ----------
    person
        Person to draw.
    axes
        Positions (mm) of the voxels' centres along z, y and x.
    contrast
        Intensities and noise.
    steps_per_unit
        Integer steps per unit of intensity.
    random
        Generator of the noise.

    Returns
    -------
    ndarray
        Image (len(z), len(y), len(x)). Air is exactly 0, which also keeps the file small.
    """
    image = np.empty([len(axis) for axis in axes], np.int16)
    field = _receive_field(person, axes, random)
    for index, plane in enumerate(planes(person, axes, contrast.values)):
        air = plane < 0.02
        noise = random.standard_normal(plane.shape, dtype=np.float32) * np.float32(contrast.noise)
        if contrast.probability:
            plane += noise
            np.clip(plane, 0, 1, out=plane)
        else:
            plane *= field[1]
            plane *= field[0][index]
            plane += noise
            # The image is the magnitude of a complex signal (Rice noise), with the mean power as its imaginary noise.
            plane *= plane
            plane += np.float32(contrast.noise**2)
            np.sqrt(plane, out=plane)
        plane[air] = 0
        plane *= np.float32(steps_per_unit)
        image[index] = np.rint(plane, out=plane)
    return image


def _receive_field(
    person: Person, axes: Sequence[Floats], random: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return the receive field with a random gain, as a factor per z and a factor per (y, x), to be multiplied."""
    gain = np.float32(np.exp(0.08 * random.standard_normal()))
    z, y, x = (
        np.exp(slope * t + curvature * (t * t - 0.5)).astype(np.float32)
        for slope, curvature, t in zip(
            person.receive[:3], person.receive[3:], (axis / 100 for axis in axes), strict=True
        )
    )
    return z, np.outer(y, x) * gain


def planes(person: Person, axes: Sequence[Floats], values: Mapping[str, float]) -> Iterator[Floats]:
    """Yield the planes of a person's image along z, without noise.

    Parameters
    ----------
    person
        Person to draw.
    axes
        Positions (mm) of the voxels' centres along z, y and x.
    values
        Value of each tissue. If one tissue has the value 1 and the others 0, each voxel contains the
        fraction of this tissue, because edges are blended over about one voxel.
    """
    voxel = float(np.mean([abs(axis[-1] - axis[0]) / (len(axis) - 1) for axis in axes]))
    width = np.float32(max(voxel, _MIN_WIDTH))
    table = _intensity_table(person, values, float(width))
    base = _InterpolatedFields(lambda coarse: head(person, coarse), axes, _HEAD_SPACING, (LOWEST, HIGHEST))
    inner = [
        (np.float32(values.get(structure.tissue, 0.0)), sampled)
        for structure in structures(person)
        for sampled in [_InterpolatedFields(structure.distance, axes, structure.spacing, structure.box)]
    ]
    for index in range(len(axes[0])):
        plane = _outer_intensities(base.plane(index), table, width)
        for value, sampled in inner:
            if sampled.covers(index):
                part = plane[sampled.area]
                share = np.clip(np.float32(0.5) - sampled.plane(index) / width, 0, 1)
                part += share * (value - part)
        yield plane


def _intensity_table(person: Person, values: Mapping[str, float], width: float) -> Floats:
    """Return a table of intensities by depth, from the skin to the white matter, blended over `width` mm."""
    names = ("soft", "scalp", "skull", "csf", "grey", "white")
    surface = _FLUID + 0.7
    ends = (-person.skull - person.scalp, -person.skull, 0.0, surface, surface + person.cortex)
    layer = np.searchsorted(ends, np.arange(-_REACH, _REACH, _STEP), side="right")
    hard = np.array([values.get(name, 0.0) for name in names])[layer]
    kernel = np.ones(round(width / _STEP))
    padded = np.pad(hard, len(kernel), mode="edge")
    blended = np.convolve(padded, kernel / len(kernel), "same")[len(kernel) : -len(kernel)]
    return blended.astype(np.float32)


def _outer_intensities(fields: Floats, table: Floats, width: np.float32) -> Floats:
    """Return the intensities of a plane that contains the layers skin, skull, fluid, cortex and white matter."""
    depth, ends, folds, hull, skin = fields
    layer = np.abs(folds)
    layer *= np.float32(FOLD_WIDTH)
    layer += ends
    np.minimum(layer, depth, out=layer)
    layer += np.float32(_FLUID)
    # The space between the brain and the skull contains fluid, and so do the sulci.
    np.maximum(layer, np.minimum(hull, np.float32(_FLUID / 2)), out=layer)
    layer += np.float32(_REACH)
    layer *= np.float32(1 / _STEP)
    np.clip(layer, 0, len(table) - 1, out=layer)
    plane: Floats = table[layer.astype(np.int32)]
    plane *= np.clip(skin / width + np.float32(0.5), 0, 1)
    return plane


class _InterpolatedFields:
    """Smooth fields on the voxels inside a box, evaluated on a coarse lattice and interpolated.

    Parameters
    ----------
    function
        Function of axes (z, y, x) that returns values broadcastable to (…, len(z), len(y), len(x)).
    axes
        Positions of all voxels.
    spacing
        Largest spacing of the lattice in mm. The lattice is never finer than the voxels.
    box
        Lowest and highest corner (x, y, z) of the box.
    """

    def __init__(
        self, function: Callable[[Sequence[Floats]], Floats], axes: Sequence[Floats], spacing: float, box: Box
    ) -> None:
        inside = [
            _nodes_inside(axis, low, high)
            for axis, low, high in zip(axes, *_reverse_corners(box), strict=True)
        ]
        self.area = (inside[1], inside[2])
        self._rows = range(inside[0].start, inside[0].stop)
        if any(voxels.start == voxels.stop for voxels in inside):
            self._rows = range(0)
            return
        fine = [axis[voxels] for axis, voxels in zip(axes, inside, strict=True)]
        coarse = [_coarse_axis(axis, spacing) for axis in fine]
        values = function(coarse)
        values = np.broadcast_to(values, (*values.shape[:-3], *(len(axis) for axis in coarse)))
        self._values = _interpolate(_interpolate(values, len(fine[2]), -1), len(fine[1]), -2)
        self._at = np.linspace(0, len(coarse[0]) - 1, len(fine[0]))

    def covers(self, index: int) -> bool:
        """Return whether the plane at `index` intersects the box."""
        return index in self._rows

    def plane(self, index: int) -> Floats:
        """Return the values (…, y, x) of `area` in the plane at `index`."""
        at = self._at[index - self._rows.start]
        below = self._values[..., int(at), :, :]
        if at == int(at):
            return below
        plane: Floats = self._values[..., int(at) + 1, :, :] - below
        plane *= np.float32(at - int(at))
        plane += below
        return plane


def _reverse_corners(box: Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return box[0][::-1], box[1][::-1]


def _nodes_inside(axis: Floats, low: float, high: float) -> slice:
    inside = np.flatnonzero((axis >= low) & (axis <= high))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)


def _coarse_axis(axis: Floats, spacing: float) -> Floats:
    count = int(np.ceil(abs(axis[-1] - axis[0]) / spacing)) + 1
    return np.linspace(axis[0], axis[-1], min(len(axis), count), dtype=np.float32)


def _interpolate(values: Floats, length: int, axis: int) -> Floats:
    """Return `values` interpolated linearly to `length` values along one axis, with the same first and last value."""
    count = values.shape[axis]
    if count == length:
        return values
    at = np.linspace(0, count - 1, length)
    low = np.minimum(at.astype(int), count - 2)
    part = (at - low).astype(np.float32).reshape([-1] + [1] * (-axis - 1))
    below: Floats = np.take(values, low, axis)
    above: Floats = np.take(values, low + 1, axis)
    above -= below
    above *= part
    above += below
    return above

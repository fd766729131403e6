"""Surfaces of a person's head as signed distances, which are negative inside.

Coordinates are those of MNI space, in mm: x to the right, y to the front, z up. All functions take axes in the order
of a NIfTI file's bytes, slowest first: z, y, x. The formulas for ellipsoids and smooth unions come from ray casting
(I. Quilez, "distance functions"), and are accurate to first order near the surface.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from neurocnn.data.synthetic.person import Floats, Person, Side

TISSUES = ("soft", "scalp", "skull", "csf", "grey", "white", "nucleus", "hippocampus")
"""Tissues of a head: ``soft`` is muscle and skin of face and neck, ``grey`` the cortex."""

FOLD_WIDTH = 5.0
"""Distance (mm) over which the field of folds changes by 1, near the zeros of the field."""

Point = tuple[float, float, float]
Box = tuple[Point, Point]
Line = Sequence[tuple[float, float, float, float]]

# Each centre line of a structure of the right side consists of points (x, y, z) and the radius at each point.
_HIPPOCAMPUS: Line = (
    (22.0, -11.0, -18.5, 6.3),
    (26.5, -17.0, -18.0, 5.7),
    (29.5, -25.0, -13.5, 4.8),
    (28.0, -33.0, -7.0, 4.0),
    (24.0, -37.5, -2.0, 3.2),
)
_LATERAL_VENTRICLE: Line = (
    (7.0, 30.0, 3.0, 4.0),
    (9.0, 14.0, 14.0, 5.0),
    (10.0, -10.0, 20.0, 4.5),
    (19.0, -34.0, 16.0, 5.5),
    (27.0, -46.0, 8.0, 5.5),
    (22.0, -66.0, 8.0, 3.0),
)
_TEMPORAL_HORN: Line = (
    (28.0, -44.0, 4.0, 4.0),
    (36.0, -30.0, -6.0, 2.6),
    (35.0, -18.0, -13.0, 2.2),
    (30.0, -8.0, -17.0, 1.8),
)
_CAUDATE: Line = ((11.0, 20.0, 2.0, 6.0), (15.0, 6.0, 14.0, 4.5), (19.0, -16.0, 20.0, 3.0))
_BRAINSTEM: Line = (
    (0.0, -16.0, -6.0, 11.0),
    (0.0, -26.0, -30.0, 14.0),
    (0.0, -36.0, -62.0, 8.0),
    (0.0, -40.0, -90.0, 7.0),
)


@dataclass(frozen=True)
class Structure:
    """One closed surface inside the brain.

    Parameters
    ----------
    tissue
        Tissue inside the surface, one of `TISSUES`.
    box
        Lowest and highest corner of a box that contains the surface.
    spacing
        Largest spacing of a lattice on which the distance may be evaluated, in mm.
    distance
        Function that returns the signed distance at the nodes of axes (z, y, x).
    """

    tissue: str
    box: Box
    spacing: float
    distance: Callable[[Sequence[Floats]], Floats]


def structures(person: Person) -> list[Structure]:
    """Return the structures inside the brain, in drawing order: later structures cover earlier ones."""
    amygdala, hippocampus = ((8, -10, -34), (38, 18, -4)), ((10, -49, -32), (44, 0, 9))
    return [
        Structure("white", ((-22, -62, -90), (22, 4, 8)), 4.0, partial(_brainstem_distance, person)),
        Structure("nucleus", ((-40, -42, -14), (40, 36, 36)), 3.0, partial(_nuclei_distance, person)),
        Structure("csf", ((-48, -82, -48), (48, 44, 42)), 2.5, partial(_ventricles_distance, person)),
        Structure("grey", amygdala, 2.5, partial(_amygdala_distance, person, 1)),
        Structure("grey", _mirrored(amygdala), 2.5, partial(_amygdala_distance, person, -1)),
        Structure("hippocampus", hippocampus, 2.0, partial(_hippocampus_distance, person.right, 1)),
        Structure(
            "hippocampus", _mirrored(hippocampus), 2.0, partial(_hippocampus_distance, person.left, -1)
        ),
    ]


def _mirrored(box: Box) -> Box:
    (x0, y0, z0), (x1, y1, z1) = box
    return (-x1, y0, z0), (-x0, y1, z1)


def head(person: Person, axes: Sequence[Floats]) -> Floats:
    """Return the five smooth fields that determine each voxel's layer, (5, len(z), len(y), len(x)).

    The fields are: depth below the brain's surface; a distance to add to the distance from the nearest sulcus, which
    limits the depth of sulci; the field of folds; depth below the inner surface of the skull; depth below the skin.
    """
    x, y, z = _template_position(person, axes)
    depth = -np.minimum(_cerebrum_distance(x, y, z), _cerebellum_distance(x, y, z))
    hull = _hull_distance(x, y, z)
    # Large fissures are treated as sulci: near a fissure, the distance to the fissure replaces the field of folds.
    core = _ellipsoid_distance(np.abs(x), y, z, (0, -8, 2), (30, 46, 27))
    middle = _step(-np.abs(x), -14, -7) * _step(core, 0, 5) * _step(_below_tentorium(x, y, z), -2, 3)
    lateral = z + 2.0 - 0.35 * (y + 10.0)
    sylvian = _step(np.abs(x), 34, 42) * _step(-np.abs(lateral), -9, -4)
    sylvian = sylvian * _step(y, -46, -32) * _step(-y, -28, -16)
    folds = person.folds(axes)[0]
    folds = folds * (1 - middle) + x / FOLD_WIDTH * middle
    folds = folds * (1 - sylvian) + lateral / FOLD_WIDTH * sylvian
    ends = np.maximum(depth - 18.0 - 45.0 * np.maximum(middle, 0.5 * sylvian), 0)
    # White matter surrounds the hippocampi, so the sulci of the temporal lobe must end before the hippocampi.
    ends += 12 * _step(-_ellipsoid_distance(np.abs(x), y, z, (26, -22, -13), (9, 19, 10)), -7, 0)
    vault = hull - person.skull - person.scalp
    skin = np.minimum(vault, _union(vault, _face_distance(x, y, z), 10.0))
    return np.stack(np.broadcast_arrays(depth, ends, folds, -hull, -skin)).astype(np.float32)


def hippocampal_volumes(person: Person) -> tuple[float, float]:
    """Return the volumes of the right and the left hippocampus in mm³."""
    return _template_volume() * person.right.volume, _template_volume() * person.left.volume


@cache
def _template_volume() -> float:
    step = 0.25
    box = ((-32, 9), (-49, 0), (10, 44))
    axes = [np.arange(low, high, step, dtype=np.float32) for low, high in box]
    inside = _hippocampus_distance(Side(1.0, 1.0, (0.0, 0.0, 0.0), 0.0), 1, axes) < 0
    return float(np.count_nonzero(inside)) * step**3


def _grid(axes: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
    """Return the coordinates x, y, z of the nodes of the axes, in shapes that broadcast."""
    z, y, x = axes
    return x[None, None, :], y[None, :, None], z[:, None, None]


def _template_position(person: Person, axes: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
    """Return the position in the template that corresponds to each node of the axes."""
    (x, y, z), (a, b, c), moved = _grid(axes), person.scale, person.warp(axes)
    return x / np.float32(a) + moved[0], y / np.float32(b) + moved[1], z / np.float32(c) + moved[2]


def _ellipsoid_distance(x: Floats, y: Floats, z: Floats, centre: Point, radii: Point) -> Floats:
    a, b, c = ((v - m) / r for v, m, r in zip((x, y, z), centre, radii, strict=True))
    p = np.sqrt(a * a + b * b + c * c)
    q = np.sqrt((a / radii[0]) ** 2 + (b / radii[1]) ** 2 + (c / radii[2]) ** 2)
    distance: Floats = p * (p - 1) / np.maximum(q, 1e-6)
    return distance


def _tube_distance(x: Floats, y: Floats, z: Floats, line: Line, widen: float | Floats = 1.0) -> Floats:
    """Return the distance to a tube around a polyline, with a radius that varies along the line."""
    pieces = []
    for (ax, ay, az, ar), (bx, by, bz, br) in pairwise(line):
        dx, dy, dz = bx - ax, by - ay, bz - az
        along = ((x - ax) * dx + (y - ay) * dy + (z - az) * dz) / (dx * dx + dy * dy + dz * dz)
        along = np.clip(along, 0, 1)
        off = (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2 + (z - az - along * dz) ** 2
        pieces.append(np.sqrt(off) - widen * (ar + along * (br - ar)))
    nearest: Floats = np.minimum.reduce(pieces)
    return nearest


def _union(a: Floats, b: Floats, smooth: float) -> Floats:
    blend = np.clip(0.5 + 0.5 * (b - a) / smooth, 0, 1)
    union: Floats = b + (a - b) * blend - smooth * blend * (1 - blend)
    return union


def _step(value: Floats, low: float, high: float) -> Floats:
    """Return a smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    step: Floats = t * t * (3 - 2 * t)
    return step


def _below_tentorium(x: Floats, y: Floats, z: Floats) -> Floats:
    """Return the distance to the space of the cerebellum, below the back of the cerebrum."""
    distance: Floats = np.maximum(z + 8.0 - 0.3 * (y + 45.0), y + 31.0 + 0.4 * np.abs(x))
    return distance


def _cerebrum_distance(x: Floats, y: Floats, z: Floats) -> Floats:
    hemispheres = _ellipsoid_distance(x, y, z, (0, -17, 14), (66, 86, 62))
    # The base of the hemispheres is flat, and the temporal lobes are below it.
    hemispheres = -_union(-hemispheres, z + 22.0, 10.0)
    temporal = _ellipsoid_distance(np.abs(x), y, z, (41, -17, -20), (23, 46, 25))
    distance: Floats = np.maximum(_union(hemispheres, temporal, 9.0), 0.5 - _below_tentorium(x, y, z))
    return distance


def _cerebellum_distance(x: Floats, y: Floats, z: Floats) -> Floats:
    lobes = _ellipsoid_distance(np.abs(x), y, z, (17, -64, -34), (36, 32, 27))
    distance: Floats = np.maximum(lobes, _below_tentorium(x, y, z) + 0.5)
    return distance


def _hull_distance(x: Floats, y: Floats, z: Floats) -> Floats:
    """Return the distance to the inside of the skull."""
    brain = _ellipsoid_distance(x, y, z, (0, -17, 14), (69, 89, 65))
    brain = -_union(-brain, z + 26.0, 12.0)
    temporal = _ellipsoid_distance(np.abs(x), y, z, (41, -17, -20), (25, 48, 27))
    cerebellum = _ellipsoid_distance(x, y, z, (0, -63, -35), (55, 35, 29))
    stem = _tube_distance(x, y, z, ((0, -20, -20, 18), (0, -34, -50, 15), (0, -42, -100, 9)))
    return _union(_union(_union(brain, temporal, 10.0), cerebellum, 10.0), stem, 8.0)


def _face_distance(x: Floats, y: Floats, z: Floats) -> Floats:
    """Return the distance to face, nose and neck, without the vault."""
    face = _ellipsoid_distance(x, y, z, (0, 38, -62), (58, 50, 66))
    nose = _ellipsoid_distance(x, y, z, (0, 88, -62), (14, 18, 20))
    neck = _tube_distance(x, y, z, ((0, -38, -40, 58), (0, -30, -130, 60)))
    return _union(_union(face, nose, 12.0), neck, 15.0)


def _brainstem_distance(person: Person, axes: Sequence[Floats]) -> Floats:
    return _tube_distance(*_template_position(person, axes), _BRAINSTEM)


def _nuclei_distance(person: Person, axes: Sequence[Floats]) -> Floats:
    """Return the distance of each voxel to the nearest of the thalami, putamina and caudate nuclei."""
    x, y, z = _template_position(person, axes)
    x = np.abs(x)
    thalamus = _ellipsoid_distance(x, y, z, (11, -18, 8), (8.5, 14, 9))
    putamen = _ellipsoid_distance(x, y, z, (26, 3, 2), (5.5, 16, 10))
    return np.minimum(np.minimum(thalamus, putamen), _tube_distance(x, y, z, _CAUDATE))


def _ventricles_distance(person: Person, axes: Sequence[Floats]) -> Floats:
    x, y, z = _template_position(person, axes)
    right, left = person.right.ventricle, person.left.ventricle
    # The volume of a tube is proportional to the square of its radius.
    widen = np.where(x > 0, np.float32(right**0.5), np.float32(left**0.5))
    middle = (right * left) ** 0.25
    third = _ellipsoid_distance(x, y, z, (0, -12, 4), (2.4 * middle, 15, 11))
    fourth = _ellipsoid_distance(x, y, z, (0, -46, -34), (6 * middle, 4, 9))
    x = np.abs(x)
    lateral = np.minimum(
        _tube_distance(x, y, z, _LATERAL_VENTRICLE, widen), _tube_distance(x, y, z, _TEMPORAL_HORN, widen)
    )
    return np.minimum(np.minimum(third, fourth), lateral)


def _amygdala_distance(person: Person, sign: int, axes: Sequence[Floats]) -> Floats:
    x, y, z = _template_position(person, axes)
    radius = 6.5 * person.amygdala
    return _ellipsoid_distance(x, y, z, (sign * 23.0, 3.0, -19.0), (radius * 1.1, radius, radius))


def _hippocampus_distance(side: Side, sign: int, axes: Sequence[Floats]) -> Floats:
    """Return the distance to a hippocampus, which is not warped: its volume is `side.volume` times the template's."""
    centre: NDArray[np.float64] = np.mean([point[:3] for point in _HIPPOCAMPUS], axis=0)
    size = side.volume ** (1 / 3)
    x, y, z = _grid(axes)
    x, y, z = (
        (v - np.float32(c + s)) / np.float32(size)
        for v, c, s in zip((sign * x, y, z), centre, side.shift, strict=True)
    )
    cosine, sine = np.float32(np.cos(side.tilt)), np.float32(np.sin(side.tilt))
    y, z = y * cosine - z * sine, y * sine + z * cosine
    a, b, c = (np.float32(c) for c in centre)
    return _tube_distance(x + a, y + b, z + c, _HIPPOCAMPUS) * np.float32(size)

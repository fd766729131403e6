"""A person's head as a formula: what the synthetic CAPS is drawn from.

An anatomy is a set of surfaces in millimetres (MNI axes: x to the right, y to the front, z up), each given by a
signed distance. The smooth ones are evaluated on a coarse lattice and interpolated plane by plane, in the order
of the file's bytes, so that a whole 1 mm head takes a fraction of a second and no more memory than the result.
Everything random about a person is drawn in `draw_person`, which knows no diagnosis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Surface = Callable[[Floats, Floats, Floats], Floats]

LOWEST, HIGHEST = np.array([-100.0, -140.0, -90.0]), np.array([100.0, 110.0, 120.0])
"""The box (mm) in which random fields are defined: it contains every image."""

TISSUES = ("air", "soft", "scalp", "skull", "csf", "grey", "white", "nucleus", "hippocampus")

VENTRICLE_GROWTH = 2.0
"""Relative growth of the ventricles' volume for each unit of hippocampal volume that is lost."""

# Centre lines (x, y, z, radius), right side, in mm.
_HIPPOCAMPUS = (
    (22.0, -11.0, -18.5, 5.6),
    (26.5, -17.0, -18.0, 5.0),
    (29.5, -25.0, -13.5, 4.2),
    (28.0, -33.0, -7.0, 3.5),
    (24.0, -37.5, -2.0, 2.8),
)
_LATERAL_VENTRICLE = (
    (7.0, 30.0, 3.0, 4.0),
    (9.0, 14.0, 14.0, 5.0),
    (10.0, -10.0, 20.0, 4.5),
    (19.0, -34.0, 16.0, 5.5),
    (27.0, -46.0, 8.0, 5.5),
    (22.0, -66.0, 8.0, 3.0),
)
_TEMPORAL_HORN = (
    (28.0, -44.0, 4.0, 4.0),
    (36.0, -30.0, -6.0, 2.6),
    (35.0, -18.0, -13.0, 2.2),
    (30.0, -8.0, -17.0, 1.8),
)
_CAUDATE = ((11.0, 20.0, 2.0, 6.0), (15.0, 6.0, 14.0, 4.5), (19.0, -16.0, 20.0, 3.0))
_BRAINSTEM = (
    (0.0, -16.0, -6.0, 11.0),
    (0.0, -26.0, -30.0, 14.0),
    (0.0, -36.0, -62.0, 8.0),
    (0.0, -40.0, -90.0, 7.0),
)


@dataclass(frozen=True)
class Lattice:
    """A smooth random field: cubic B-spline coefficients on a lattice over the box, about unit variance."""

    coefficients: NDArray[np.float64]  # (n, Z, Y, X)
    spacing: float

    def __call__(self, axes: Sequence[Floats]) -> Floats:
        """Values (n, len(z), len(y), len(x)) at the nodes of the axes (z, y, x) in mm."""
        bases = [
            _spline_basis(axis, low, count, self.spacing)
            for axis, low, count in zip(axes, LOWEST[::-1], self.coefficients.shape[1:], strict=True)
        ]
        # einsum's own loops: BLAS may sum in another order with another number of threads.
        values = np.einsum("xi,nzyi->nzyx", bases[2], self.coefficients)
        values = np.einsum("yi,nzix->nzyx", bases[1], values)
        return np.einsum("zi,niyx->nzyx", bases[0], values).astype(np.float32)


def _spline_basis(axis: Floats, low: float, count: int, spacing: float) -> NDArray[np.float64]:
    at = np.clip((axis.astype(np.float64) - low) / spacing + 1.0, 1.0, count - 2.0)
    distance = np.abs(at[:, None] - np.arange(count))
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    return np.where(distance < 1, near, np.clip(2 - distance, 0, None) ** 3 / 6)


def draw_lattice(random: np.random.Generator, n: int, spacing: float) -> Lattice:
    """`n` independent fields whose bumps are about twice `spacing` (mm) apart."""
    size = tuple(np.ceil((HIGHEST - LOWEST) / spacing).astype(int)[::-1] + 3)
    return Lattice(3.0 * random.standard_normal((n, *size)), spacing)


@dataclass(frozen=True)
class Side:
    """A hippocampus and the ventricle of its side, relative to the template's."""

    volume: float
    shift: tuple[float, float, float]
    tilt: float
    ventricle: float


@dataclass(frozen=True)
class Person:
    """One individual anatomy.

    Parameters
    ----------
    right, left
        Size and place of the hippocampi, size of the ventricles.
    scale
        Size of the head along x, y, z, relative to the template's.
    skull, scalp, cortex
        Thicknesses in mm.
    amygdala
        Relative radius.
    warp, folds
        Smooth displacement (3 fields, in mm), and the field whose zeros are the sulci.
    bias
        Slopes and curvatures of the logarithm of the receive field along x, y, z.
    """

    right: Side
    left: Side
    scale: tuple[float, float, float]
    skull: float
    scalp: float
    cortex: float
    amygdala: float
    warp: Lattice
    folds: Lattice
    bias: tuple[float, ...]

    def atrophied(self, loss: float) -> "Person":
        """The same person after the hippocampi have lost the fraction `loss` of their volume.

        >>> person = draw_person(np.random.default_rng(0))
        >>> round(person.atrophied(0.25).left.volume / person.left.volume, 3)
        0.75
        """
        grown = 1.0 + VENTRICLE_GROWTH * loss
        right, left = (
            replace(side, volume=side.volume * (1.0 - loss), ventricle=side.ventricle * grown)
            for side in (self.right, self.left)
        )
        return replace(self, right=right, left=left)

    def hippocampal_volumes(self) -> tuple[float, float]:
        """Volumes of the right and the left hippocampus in mm³."""
        return _template_volume() * self.right.volume, _template_volume() * self.left.volume


def draw_person(random: np.random.Generator) -> Person:
    """A healthy person.

    Hippocampal volumes vary by about 10 % between persons and 3 % between sides, ventricles by a quarter, as
    they do among the elderly once the size of the head is accounted for (orders of magnitude, not a study).
    """
    common = _bounded(random, 0.10)
    volumes = [float(np.exp(common + _bounded(random, 0.03))) for _ in range(2)]
    wide = _bounded(random, 0.25)
    ventricles = [float(np.exp(wide + _bounded(random, 0.08))) for _ in range(2)]
    sides = []
    for volume, ventricle in zip(volumes, ventricles, strict=True):
        x, y, z = (_bounded(random, 1.0) for _ in range(3))
        sides.append(Side(volume, (x, y, z), _bounded(random, 0.05), ventricle))
    scale = tuple(1.0 + _bounded(random, 0.015) for _ in range(3))
    warp = draw_lattice(random, 3, 45.0)
    own = draw_lattice(random, 1, 6.5)
    folds = replace(own, coefficients=0.8 * _common_folds().coefficients + 0.6 * own.coefficients)
    return Person(
        sides[0],
        sides[1],
        scale,
        5.5 + _bounded(random, 0.7),
        6.0 + _bounded(random, 0.8),  # type: ignore[arg-type]
        2.8 + _bounded(random, 0.15),
        1.0 + _bounded(random, 0.08),
        warp,
        folds,
        tuple(_bounded(random, 0.08) for _ in range(6)),
    )


def _bounded(random: np.random.Generator, deviation: float) -> float:
    """A normal draw without its far tails, so that every structure stays where it belongs."""
    return deviation * float(np.clip(random.standard_normal(), -2.5, 2.5))


@cache
def _common_folds() -> Lattice:
    """The folding that all people share: the same on both sides."""
    lattice = draw_lattice(np.random.default_rng(20), 1, 6.5)
    return replace(
        lattice, coefficients=(lattice.coefficients + lattice.coefficients[..., ::-1]) / np.sqrt(2)
    )


def _ellipsoid(x: Floats, y: Floats, z: Floats, centre: Sequence[float], radii: Sequence[float]) -> Floats:
    """Distance to an ellipsoid, right to first order (as used for ray casting by I. Quilez)."""
    a, b, c = ((v - m) / r for v, m, r in zip((x, y, z), centre, radii, strict=True))
    p = np.sqrt(a * a + b * b + c * c)
    q = np.sqrt((a / radii[0]) ** 2 + (b / radii[1]) ** 2 + (c / radii[2]) ** 2)
    return p * (p - 1) / np.maximum(q, 1e-6)  # type: ignore[no-any-return]


def _tube(x: Floats, y: Floats, z: Floats, line: Sequence[tuple[float, ...]], widen: float = 1.0) -> Floats:
    """Distance to a tube around a broken line whose radius changes along it."""
    nearest: Floats | None = None
    for start, end in zip(line[:-1], line[1:], strict=True):
        ax, ay, az, ar = start
        bx, by, bz, br = (e - s for s, e in zip(start, end, strict=True))
        along = ((x - ax) * bx + (y - ay) * by + (z - az) * bz) / (bx * bx + by * by + bz * bz)
        along = np.clip(along, 0, 1)
        distance = np.sqrt(
            (x - ax - along * bx) ** 2 + (y - ay - along * by) ** 2 + (z - az - along * bz) ** 2
        )
        distance -= widen * (ar + along * br)
        nearest = distance if nearest is None else np.minimum(nearest, distance)
    assert nearest is not None
    return nearest


def _union(a: Floats, b: Floats, smooth: float) -> Floats:
    """Smooth minimum of two distances (polynomial, I. Quilez)."""
    blend = np.clip(0.5 + 0.5 * (b - a) / smooth, 0, 1)
    return b + (a - b) * blend - smooth * blend * (1 - blend)


def _below_tentorium(y: Floats, z: Floats) -> Floats:
    """Distance to the space of the cerebellum, under the back of the cerebrum."""
    return np.maximum(z + 8.0 - 0.3 * (y + 45.0), y + 38.0)


def _cerebrum(x: Floats, y: Floats, z: Floats) -> Floats:
    x = np.abs(x)
    hemisphere = _ellipsoid(x, y, z, (0, -17, 14), (68, 87, 62))
    # The base of the frontal and parietal lobes is flat; the temporal lobes hang below it.
    hemisphere = -_union(-hemisphere, z + 14.0, 8.0)
    temporal = _ellipsoid(x, y, z, (42, -18, -20), (23, 47, 25))
    return np.maximum(_union(hemisphere, temporal, 9.0), 1.0 - _below_tentorium(y, z))


def _cerebellum(x: Floats, y: Floats, z: Floats) -> Floats:
    lobe = _ellipsoid(np.abs(x), y, z, (20, -64, -36), (32, 30, 24))
    return np.maximum(lobe, _below_tentorium(y, z) + 1.0)


def _hull(x: Floats, y: Floats, z: Floats) -> Floats:
    """The inside of the skull."""
    x = np.abs(x)
    brain = _ellipsoid(x, y, z, (0, -17, 14), (71, 90, 65))
    brain = -_union(-brain, z + 18.0, 12.0)
    temporal = _ellipsoid(x, y, z, (42, -18, -20), (25, 49, 27))
    cerebellum = _ellipsoid(x, y, z, (0, -62, -36), (54, 33, 27))
    stem = _tube(x, y, z, ((0, -20, -20, 18.0), (0, -34, -50, 15.0), (0, -42, -100, 9.0)))
    return _union(_union(_union(brain, temporal, 10.0), cerebellum, 10.0), stem, 8.0)


def _face(x: Floats, y: Floats, z: Floats) -> Floats:
    """Face, neck and nose, without the vault."""
    x = np.abs(x)
    face = _ellipsoid(x, y, z, (0, 38, -62), (58, 50, 66))
    nose = _ellipsoid(x, y, z, (0, 88, -62), (14, 18, 20))
    neck = _tube(x, y, z, ((0, -38, -40, 58.0), (0, -30, -130, 60.0)))
    return _union(_union(face, nose, 12.0), neck, 15.0)


def _step(value: Floats, low: float, high: float) -> Floats:
    """A smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def grid(axes: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
    """Coordinates x, y, z of the nodes of the axes (z, y, x), ready to broadcast."""
    z, y, x = axes
    return x[None, None, :], y[None, :, None], z[:, None, None]


def _warped(person: Person, axes: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
    displacement = person.warp(axes)
    x, y, z = (
        np.float32(1 / s) * v + np.float32(2.0) * d
        for v, s, d in zip(grid(axes), person.scale, displacement, strict=True)
    )
    return x, y, z


FOLD_WIDTH = 5.0
"""Millimetres for each unit of the field of folds, near its zeros."""


def head(person: Person, axes: Sequence[Floats]) -> Floats:
    """The five smooth fields that give every voxel its layer, (5, len(z), len(y), len(x)).

    Depth below the brain's surface; distance that is added to that from the nearest sulcus, to end the sulci in
    the depth; field of folds; depth below the inside of the skull; depth below the skin (all in mm but the third).
    """
    x, y, z = _warped(person, axes)
    tentorium = _below_tentorium(y, z)
    depth = -np.minimum(_cerebrum(x, y, z), _cerebellum(x, y, z))
    hull = _hull(x, y, z)
    # The great fissures are sulci too: there the field of folds becomes the distance to a sheet.
    core = _ellipsoid(np.abs(x), y, z, (0, -8, 2), (30, 46, 27))
    middle = _step(-np.abs(x), -14, -7) * _step(core, 0, 5) * _step(tentorium, -2, 3)
    lateral = z + 2.0 - 0.35 * (y + 10.0)
    sylvian = (
        _step(np.abs(x), 34, 42) * _step(-np.abs(lateral), -9, -4) * _step(y, -46, -32) * _step(-y, -28, -16)
    )
    folds = person.folds(axes)[0]
    folds = folds * (1 - middle) + x / FOLD_WIDTH * middle
    folds = folds * (1 - sylvian) + lateral / FOLD_WIDTH * sylvian
    ends = np.maximum(depth - 14.0 - 45.0 * np.maximum(middle, 0.5 * sylvian), 0)
    skin = -np.minimum(
        hull - person.skull - person.scalp, _union(hull - person.skull - person.scalp, _face(x, y, z), 10.0)
    )
    return np.stack(np.broadcast_arrays(depth, ends, folds, -hull, skin)).astype(np.float32)


@dataclass(frozen=True)
class Structure:
    """One closed surface inside the brain.

    Parameters
    ----------
    tissue
        What it is filled with, one of `TISSUES`.
    box
        Lowest and highest corner (x, y, z in mm) of a box that contains it.
    spacing
        Coarsest lattice (mm) on which its distance may be evaluated.
    distance
        From axes (z, y, x) to the signed distance, negative inside.
    """

    tissue: str
    box: tuple[tuple[float, float, float], tuple[float, float, float]]
    spacing: float
    distance: Callable[[Sequence[Floats]], Floats]


def structures(person: Person) -> list[Structure]:
    """What lies inside the brain, in the order of painting."""
    return [
        Structure(
            "white",
            ((-22, -62, -90), (22, 4, 8)),
            4.0,
            lambda axes: _tube(*_warped(person, axes), _BRAINSTEM),
        ),
        Structure("nucleus", ((-40, -42, -14), (40, 36, 36)), 3.0, lambda axes: _nuclei(person, axes)),
        Structure("csf", ((-48, -82, -30), (48, 44, 42)), 2.5, lambda axes: _ventricles(person, axes)),
        *(
            Structure(
                "grey",
                _mirrored(((8, -10, -34), (38, 18, -4)), sign),
                2.5,
                lambda axes, sign=sign: _amygdala(person, axes, sign),
            )
            for sign in (1, -1)
        ),
        *(
            Structure(
                "hippocampus",
                _mirrored(((10, -49, -32), (44, 0, 9)), sign),
                2.0,
                lambda axes, side=side, sign=sign: _hippocampus(side, axes, sign),
            )
            for side, sign in ((person.right, 1), (person.left, -1))
        ),
    ]


def _mirrored(
    box: tuple[tuple[float, ...], tuple[float, ...]], sign: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    (x0, *low), (x1, *high) = box
    return ((x0, *low), (x1, *high)) if sign > 0 else ((-x1, *low), (-x0, *high))


def _nuclei(person: Person, axes: Sequence[Floats]) -> Floats:
    x, y, z = _warped(person, axes)
    x = np.abs(x)
    thalamus = _ellipsoid(x, y, z, (11, -18, 8), (8.5, 14, 9))
    putamen = _ellipsoid(x, y, z, (26, 3, 2), (5.5, 16, 10))
    return np.minimum(np.minimum(thalamus, putamen), _tube(x, y, z, _CAUDATE))


def _ventricles(person: Person, axes: Sequence[Floats]) -> Floats:
    x, y, z = _warped(person, axes)
    widen = np.where(x > 0, np.sqrt(person.right.ventricle), np.sqrt(person.left.ventricle)).astype(
        np.float32
    )
    middle = np.float32((person.right.ventricle * person.left.ventricle) ** 0.25)
    x = np.abs(x)
    lateral = np.minimum(_tube(x, y, z, _LATERAL_VENTRICLE, widen), _tube(x, y, z, _TEMPORAL_HORN, widen))
    third = _ellipsoid(x, y, z, (0, -12, 4), (2.4 * middle, 15, 11))
    fourth = _ellipsoid(x, y, z, (0, -46, -34), (6 * middle, 4, 9))
    return np.minimum(np.minimum(lateral, third), fourth)


def _amygdala(person: Person, axes: Sequence[Floats], sign: int) -> Floats:
    x, y, z = _warped(person, axes)
    radius = 6.5 * person.amygdala
    return _ellipsoid(x, y, z, (sign * 23.0, 3.0, -19.0), (radius * 1.1, radius, radius))


def _hippocampus(side: Side, axes: Sequence[Floats], sign: int) -> Floats:
    """Not warped, so that its volume is known: the template's times `side.volume`."""
    x, y, z = grid(axes)
    centre = np.mean([point[:3] for point in _HIPPOCAMPUS], axis=0)
    size = float(side.volume ** (1 / 3))
    x, y, z = ((v - c - s) / size for v, c, s in zip((sign * x, y, z), centre, side.shift, strict=True))
    y, z = y * np.cos(side.tilt) - z * np.sin(side.tilt), y * np.sin(side.tilt) + z * np.cos(side.tilt)
    at = (v + c for v, c in zip((x, y, z), centre, strict=True))
    return _tube(*(v.astype(np.float32) for v in at), _HIPPOCAMPUS) * np.float32(size)  # type: ignore[call-arg]


@cache
def _template_volume() -> float:
    axis = [np.arange(low, high, 0.25, dtype=np.float32) for low, high in ((-32, 9), (-49, 0), (10, 44))]
    inside = _hippocampus(Side(1.0, (0.0, 0.0, 0.0), 0.0, 1.0), axis, 1) < 0
    return float(inside.sum() * 0.25**3)

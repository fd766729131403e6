"""Random parameters of one person's head, and the effect of a disease on them.

All random parameters of a person's anatomy are drawn in `draw_person`, independently of diagnosis and age. All lengths
are in mm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LOWEST, HIGHEST = (-100.0, -140.0, -90.0), (100.0, 110.0, 120.0)
"""Corners of the box (x, y, z) in which random fields are defined. The box contains every image."""

VENTRICLE_GROWTH = 2.0
"""Relative growth of the volume of the ventricles, per lost fraction of the volume of the hippocampi."""

_FOLD_SPACING = 6.5


@dataclass(frozen=True, eq=False)
class Lattice:
    """Smooth random fields: cubic B-spline coefficients on a lattice over the box from LOWEST to HIGHEST.

    Parameters
    ----------
    coefficients
        Coefficients (n, Z, Y, X). Along each axis, the first coefficient lies one `spacing` outside the
        box.
    spacing
        Distance between coefficients.
    """

    coefficients: NDArray[np.float64]
    spacing: float

    def __call__(self, axes: Sequence[Floats]) -> Floats:
        """Return the values (n, len(z), len(y), len(x)) at the nodes of the axes (z, y, x)."""
        z, y, x = (
            _spline_basis(axis, low, count, self.spacing)
            for axis, low, count in zip(axes, LOWEST[::-1], self.coefficients.shape[1:], strict=True)
        )
        # The sums use einsum's own loops, because the order of BLAS's sums may depend on the number of threads.
        values = np.einsum("xi,nzyi->nzyx", x, self.coefficients)
        values = np.einsum("yi,nzix->nzyx", y, values)
        values = np.einsum("zi,niyx->nzyx", z, values)
        return np.asarray(values, np.float32)

    def times(self, factor: float) -> "Lattice":
        """Return a copy in which every coefficient is multiplied by `factor`."""
        return replace(self, coefficients=factor * self.coefficients)


def _spline_basis(axis: Floats, low: float, count: int, spacing: float) -> NDArray[np.float64]:
    at = np.clip((axis.astype(np.float64) - low) / spacing + 1.0, 1.0, count - 2.0)
    distance = np.abs(at[:, None] - np.arange(count))
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    basis: NDArray[np.float64] = np.where(distance < 1, near, far)
    return basis


def draw_lattice(random: np.random.Generator, n: int, spacing: float) -> Lattice:
    """Return `n` independent fields of about unit variance, with maxima about twice `spacing` apart."""
    size = [int(np.ceil((high - low) / spacing)) + 3 for low, high in zip(LOWEST, HIGHEST, strict=True)]
    return Lattice(3.0 * random.standard_normal((n, *size[::-1])), spacing)


@dataclass(frozen=True)
class Side:
    """A hippocampus and the ventricle next to it.

    Parameters
    ----------
    volume, ventricle
        Volumes of hippocampus and ventricle, relative to the template.
    shift
        Shift of the hippocampus along x, y, z.
    tilt
        Rotation of the hippocampus around the x axis, in radians.
    """

    volume: float
    ventricle: float
    shift: tuple[float, float, float]
    tilt: float


@dataclass(frozen=True, eq=False)
class Person:
    """Anatomy of one person.

    Parameters
    ----------
    right, left
        Hippocampi and ventricles.
    scale
        Size of the head along x, y, z, relative to the template.
    skull, scalp, cortex
        Thicknesses in mm.
    amygdala
        Radius of the amygdalae, relative to the template.
    warp
        Smooth displacement along x, y and z.
    folds
        Field whose zeros are the sulci.
    receive
        Slopes and curvatures of the logarithm of the scanner's receive field, per 100 mm, along z, y, x.
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
    receive: tuple[float, ...]

    def atrophied(self, loss: float) -> "Person":
        """Return the person after both hippocampi have lost the fraction `loss` of their volume.

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


def draw_person(random: np.random.Generator, individuality: float = 1.0) -> Person:
    """Return a healthy person.

    Between persons, hippocampal volumes vary by about 10 % (standard deviation) and ventricular volumes by 25 %; each
    side deviates by a further 3 % and 8 %. Head-size-corrected volumes of real older people vary to a similar degree.

    Parameters
    ----------
    random
        Generator of the individual parameters.
    individuality
        Fraction of the individual variation in position, shape and folding that remains after registration: 1 for a
        linear registration, less for a nonlinear one. Volumes and thicknesses do not depend on it.
    """
    common = _clipped_normal(random, 0.10)
    volumes = [float(np.exp(common + _clipped_normal(random, 0.03))) for _ in range(2)]
    wide = _clipped_normal(random, 0.25)
    ventricles = [float(np.exp(wide + _clipped_normal(random, 0.08))) for _ in range(2)]
    sides = []
    for volume, ventricle in zip(volumes, ventricles, strict=True):
        x, y, z, tilt = (
            individuality * _clipped_normal(random, deviation) for deviation in (1.0, 1.0, 1.0, 0.05)
        )
        sides.append(Side(volume, ventricle, (x, y, z), tilt))
    x, y, z = (1.0 + individuality * _clipped_normal(random, 0.015) for _ in range(3))
    skull, scalp = 5.0 + _clipped_normal(random, 0.5), 5.0 + _clipped_normal(random, 0.6)
    cortex, amygdala = 3.2 + _clipped_normal(random, 0.15), 1.0 + _clipped_normal(random, 0.08)
    warp = draw_lattice(random, 3, 45.0).times(1.5 * individuality)
    own, share = draw_lattice(random, 1, _FOLD_SPACING), 0.6 * individuality
    folds = share * own.coefficients + np.sqrt(1 - share**2) * _common_folds().coefficients
    receive = tuple(_clipped_normal(random, 0.08) for _ in range(6))
    return Person(
        right=sides[0],
        left=sides[1],
        scale=(x, y, z),
        skull=skull,
        scalp=scalp,
        cortex=cortex,
        amygdala=amygdala,
        warp=warp,
        folds=Lattice(folds, _FOLD_SPACING),
        receive=receive,
    )


def _clipped_normal(random: np.random.Generator, deviation: float) -> float:
    """Return a normally distributed number, clipped so that structures remain at plausible positions."""
    return deviation * float(np.clip(random.standard_normal(), -2.5, 2.5))


@cache
def _common_folds() -> Lattice:
    """Return the field of folds that all persons have in common, symmetric between both sides."""
    folds = draw_lattice(np.random.default_rng(20), 1, _FOLD_SPACING).coefficients
    return Lattice((folds + folds[..., ::-1]) / np.sqrt(2), _FOLD_SPACING)

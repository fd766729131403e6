import numpy as np
import pytest

from neurocnn.data.synthetic.anatomy import TISSUES, hippocampal_volumes
from neurocnn.data.synthetic.person import draw_lattice, draw_person
from neurocnn.data.synthetic.phantom import Contrast, planes, scan

# Built-in regions in voxels, and the affines of the images that they are meant for (diagonal, offset).
REGIONS = {
    "t1-linear": (
        ((84, 71, 43), (134, 121, 93)),
        ((36, 71, 43), (86, 121, 93)),
        (1, 1, 1),
        (-84, -119, -78),
        1.0,
    ),
    "t1-volume": (
        ((65, 50, 27), (95, 90, 57)),
        ((25, 50, 27), (55, 90, 57)),
        (-1.5, 1.5, 1.5),
        (90, -126, -72),
        0.4,
    ),
}


def draw(person, axes, **values):
    """Return an image and its axes in the order x, y, z."""
    axes = [np.asarray(axis, np.float32) for axis in axes[::-1]]
    return np.stack(list(planes(person, axes, values))).transpose(2, 1, 0)


def around_hippocampi(step):
    return np.arange(-50, 50 + step, step), np.arange(-54, 8, step), np.arange(-38, 16, step)


@pytest.mark.parametrize("loss", [0.0, 0.4])
def test_drawn_hippocampi_have_the_known_volume(loss):
    for seed in range(3):
        person = draw_person(np.random.default_rng(seed)).atrophied(loss)
        axes = around_hippocampi(1.0)
        drawn = draw(person, axes, hippocampus=1.0)
        right, left = hippocampal_volumes(person)
        assert drawn[axes[0] > 0].sum() == pytest.approx(right, rel=0.04)
        assert drawn[axes[0] < 0].sum() == pytest.approx(left, rel=0.04)


def test_a_loss_is_the_lost_fraction_of_the_volume():
    person = draw_person(np.random.default_rng(1))
    before, after = hippocampal_volumes(person), hippocampal_volumes(person.atrophied(0.3))
    np.testing.assert_allclose(np.array(after) / before, 0.7)
    assert person.atrophied(0.3).left.ventricle > person.left.ventricle
    assert hippocampal_volumes(person.atrophied(0.0)) == before


@pytest.mark.parametrize("space", REGIONS)
def test_hippocampi_are_inside_the_built_in_regions(space):
    *regions, diagonal, offset, individuality = REGIONS[space]
    axes = around_hippocampi(2.0)
    for seed in range(40):
        person = draw_person(np.random.default_rng(seed), individuality)
        where = np.argwhere(draw(person, axes, hippocampus=1.0) > 0.05)
        points = np.stack([axis[i] for axis, i in zip(axes, where.T, strict=True)], axis=1)
        voxels = (points - offset) / diagonal
        inside = [np.all((voxels >= low) & (voxels <= np.array(high) - 1), axis=1) for low, high in regions]
        assert np.all(inside[0] | inside[1])
        # Each region contains one hippocampus.
        assert min(inside[0].sum(), inside[1].sum()) > 0.35 * len(points)


def test_tissues_together_fill_the_brain():
    person = draw_person(np.random.default_rng(2))
    axes = np.arange(-80, 81, 4.0), np.arange(-110, 90, 4.0), np.arange(-70, 90, 4.0)
    shares = {tissue: draw(person, axes, **{tissue: 1.0}) for tissue in TISSUES}
    together = draw(person, axes, **dict.fromkeys(TISSUES, 1.0))
    np.testing.assert_allclose(sum(shares.values()), together, atol=1e-4)
    assert together.max() == pytest.approx(1)
    litres = {tissue: share.sum() * 4.0**3 / 1e6 for tissue, share in shares.items()}
    assert 0.35 < litres["grey"] < 1.0
    assert 0.3 < litres["white"] < 0.9
    assert 0.15 < litres["csf"] < 0.7


def test_folding_is_more_similar_after_a_nonlinear_registration():
    axes = np.arange(-72, 73, 4.0), np.arange(-104, 72, 4.0), np.arange(-40, 80, 4.0)
    alike = []
    for individuality in (1.0, 0.4):
        people = [draw_person(np.random.default_rng(seed), individuality) for seed in (0, 1)]
        one, other = (draw(person, axes, grey=1.0).ravel() for person in people)
        alike.append(np.corrcoef(one, other)[0, 1])
    assert alike[0] < alike[1] < 0.99


def test_a_lattice_is_the_sum_of_its_splines():
    lattice = draw_lattice(np.random.default_rng(3), 2, 40.0)
    point = np.array([12.0, -31.0, 47.0])
    low = np.array([-100.0, -140.0, -90.0]) - 40.0

    def bump(t):  # the cubic B-spline, by its definition as four pieces
        t = abs(t)
        return (4 - 6 * t**2 + 3 * t**3) / 6 if t < 1 else (2 - t) ** 3 / 6 if t < 2 else 0.0

    expected = np.zeros(2)
    for n, k, j, i in np.ndindex(lattice.coefficients.shape):
        weight = np.prod([bump((p - o) / 40.0 - c) for p, o, c in zip(point, low, (i, j, k), strict=True)])
        expected[n] += weight * lattice.coefficients[n, k, j, i]
    value = lattice([np.array([p], np.float32) for p in point[::-1]])
    np.testing.assert_allclose(value.ravel(), expected, rtol=1e-5)


def test_noise_has_the_requested_deviation_and_air_has_none():
    person = draw_person(np.random.default_rng(4))
    axes = [np.arange(low, high, 4.0, dtype=np.float32) for low, high in ((-70, 88), (-110, 88), (-82, 82))]
    white = Contrast({"white": 0.5}, noise=0.04)
    pure = np.stack(list(planes(person, axes, white.values)))
    one, other = (scan(person, axes, white, 1000, np.random.default_rng(seed)) / 1000 for seed in (0, 1))
    inside = pure > 0.49
    # Each image has its own gain; without it, the difference of the images is the noise of both.
    gain = (one[inside] * other[inside]).sum() / (other[inside] ** 2).sum()
    noise = (one - gain * other)[inside].std() / np.sqrt(1 + gain**2)
    assert noise == pytest.approx(0.04, rel=0.05)
    assert not one[pure == 0].any()

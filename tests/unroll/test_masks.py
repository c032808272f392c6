from __future__ import annotations

import numpy as np
import pytest

from svdinv.unroll.data.masks import (
    GOLDEN_ANGLE,
    cartesian_mask,
    equispaced_mask,
    radial_mask,
    uniform_mask,
    variable_density_mask,
    vista_like_mask,
)

SHAPES = [(64, 64), (63, 48), (5, 64, 64), (3, 50, 81)]

SEEDED = [
    lambda rng: uniform_mask((4, 40, 30), 0.4, rng),
    lambda rng: variable_density_mask((4, 40, 30), 0.2, rng),
    lambda rng: cartesian_mask((4, 40, 30), 4, rng),
    lambda rng: radial_mask((4, 40, 30), 6, rng=rng),
    lambda rng: vista_like_mask((4, 40, 30), 4, rng),
    lambda rng: equispaced_mask((4, 40, 30), 4, rng=rng),
]


@pytest.mark.parametrize("draw", SEEDED)
def test_masks_follow_the_seed_and_each_frame_has_its_own(draw):
    one, two, other = (draw(np.random.default_rng(seed)) for seed in (7, 7, 2))
    assert one.dtype == bool
    assert one.flags.writeable
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert len({frame.tobytes() for frame in one}) == len(one)


@pytest.mark.parametrize("rate", [0.08, 0.25, 0.7, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_variable_density_meets_the_rate_in_every_frame(rng, shape, rate):
    mask = variable_density_mask(shape, rate, rng, calibration=6)
    height, width = shape[-2:]
    assert mask.shape == shape
    np.testing.assert_array_equal(mask.sum((-2, -1)), round(rate * height * width))
    top, left = height // 2 - 3, width // 2 - 3
    assert mask[..., top : top + 6, left : left + 6].all()


@pytest.mark.parametrize("rate", [0.04, 0.1, 0.4])
def test_variable_density_is_the_polynomial(rng, rate):
    """Averages over draws against the density written down in the docstring."""
    n, power, draws = 32, 3, 1500
    mean = variable_density_mask((draws, n, n), rate, rng, power=power, calibration=2)
    mean = mean.mean(axis=0)
    place = (np.arange(n) - n // 2) / (n // 2)
    density = np.hypot(place[:, None], place) / np.sqrt(2)
    density = np.maximum(1 - density, 0) ** power
    centre = np.zeros((n, n), bool)
    centre[n // 2 - 1 : n // 2 + 1, n // 2 - 1 : n // 2 + 1] = True
    if rate == 0.4:
        offsets = np.linspace(0, 1, 20001)
        sums = [np.minimum(1, density[~centre] + c).sum() for c in offsets]
        offset = np.interp(round(rate * n * n) - 4, sums, offsets)
        assert offset > 0
        expected = np.minimum(1, density + offset)
    else:
        expected = density * (round(rate * n * n) - 4) / density[~centre].sum()
    # Five standard deviations of the mean of coin tosses, over a thousand points.
    slack = 5 * np.sqrt(expected * (1 - expected) / draws) + 1e-3
    assert (np.abs(mean - expected) < slack)[~centre].all()
    assert (mean[centre] == 1).all()


def test_neighbours_are_drawn_nearly_independently(rng):
    """Systematic sampling in a fixed order would tie them together."""
    mask = variable_density_mask((4000, 12, 12), 0.3, rng, power=0, calibration=1)
    a, b = mask[:, 2, 2], mask[:, 2, 3]
    correlation = np.corrcoef(a, b)[0, 1]
    assert abs(correlation) < 5 / np.sqrt(len(mask))


@pytest.mark.parametrize("axis", [-2, -1])
@pytest.mark.parametrize("shape", SHAPES)
def test_cartesian_samples_whole_lines(rng, shape, axis):
    mask = cartesian_mask(shape, 5, rng, axis=axis, calibration=4)
    assert mask.shape == shape
    other = -3 - axis
    lines = mask.any(axis=other)
    np.testing.assert_array_equal(lines, mask.all(axis=other))
    n = shape[axis]
    np.testing.assert_array_equal(lines.sum(-1), round(n / 5))
    assert lines[..., n // 2 - 2 : n // 2 + 2].all()


def test_cartesian_lines_crowd_in_the_centre(rng):
    lines = cartesian_mask((600, 96, 2), 8, rng)[..., 0].mean(axis=0)
    rings = [lines[48 + r : 48 + r + 8].mean() for r in (4, 14, 24, 36)]
    assert rings == sorted(rings, reverse=True)
    assert rings[0] > 3 * rings[2]
    # Mirror images of one another, but for the calibration and the border.
    np.testing.assert_allclose(lines[1:46], lines[:50:-1], atol=5 * 0.5 / np.sqrt(600))


@pytest.mark.parametrize("spokes", [1, 16, 30])
@pytest.mark.parametrize("shape", [(64, 64), (63, 63), (4, 51, 80)])
def test_radial_is_symmetric_about_the_centre(shape, spokes):
    mask = radial_mask(shape, spokes)
    assert mask.shape == shape
    height, width = shape[-2:]
    assert mask[..., height // 2, width // 2].all()
    # Even axes have one more frequency on the negative side.
    inner = mask[..., 1 - height % 2 :, 1 - width % 2 :]
    np.testing.assert_array_equal(inner, inner[..., ::-1, ::-1])


def test_one_spoke_is_a_line():
    mask = radial_mask((2, 33, 33), 1, angle=45)
    assert mask[0].sum() == 33
    assert mask[0, 16].all()
    np.testing.assert_array_equal(mask[1], np.eye(33, dtype=bool))
    np.testing.assert_array_equal(radial_mask((2, 33, 33), 1, angle=90)[1], mask[0].T)


@pytest.mark.parametrize("degrees", [10.0, 30.0, 63.0, 100.0, 152.0])
def test_spokes_lie_along_their_angle(degrees):
    mask = radial_mask((2, 65, 97), 1, angle=degrees)[1]
    y, x = np.nonzero(mask)
    a = np.deg2rad(degrees)
    distance = (y - 32) * np.cos(a) - (x - 48) * np.sin(a)
    assert np.abs(distance).max() <= 0.5
    # From border to border.
    assert {0, 64} <= set(y) or {0, 96} <= set(x)


def test_golden_spokes_go_on_through_the_frames():
    assert pytest.approx(111.246, abs=1e-3) == GOLDEN_ANGLE
    series = radial_mask((6, 64, 64), 5)
    np.testing.assert_array_equal(series.any(axis=0), radial_mask((64, 64), 30))


def test_uniform_spokes_are_even_within_a_frame():
    mask = radial_mask((3, 65, 65), 4, angle="uniform")
    for turned in (mask[0].T, mask[0][::-1], np.rot90(mask[0])):
        np.testing.assert_array_equal(mask[0], turned)
    assert not np.array_equal(mask[0], mask[1])


@pytest.mark.parametrize(("spokes", "rate"), [(16, 0.12), (30, 0.21)])
def test_radial_rates_at_128(spokes, rate):
    mask = radial_mask((12, 128, 128), spokes)
    np.testing.assert_allclose(mask.mean((1, 2)), rate, atol=0.02)


def test_radial_thins_out_with_the_radius():
    mean = radial_mask((20, 96, 96), 16).mean(axis=0)
    y, x = np.indices(mean.shape) - 48
    radius = np.hypot(y, x)
    rings = [mean[(radius >= r) & (radius < r + 8)].mean() for r in (4, 16, 28, 40)]
    assert rings == sorted(rings, reverse=True)


@pytest.mark.parametrize("axis", [-2, -1])
@pytest.mark.parametrize("acceleration", [2, 4, 10.5])
def test_vista_like_lines(rng, acceleration, axis):
    mask = vista_like_mask((9, 72, 60), acceleration, rng, axis=axis)
    other = -3 - axis
    lines = mask.any(axis=other)
    np.testing.assert_array_equal(lines, mask.all(axis=other))
    np.testing.assert_array_equal(lines.sum(-1), round(lines.shape[1] / acceleration))
    assert not (lines[1:] & lines[:-1]).any()


def test_vista_like_repeats_no_more_than_it_must(rng):
    lines = vista_like_mask((6, 60, 3), 1.25, rng)[..., 0]
    np.testing.assert_array_equal(lines.sum(-1), 48)
    np.testing.assert_array_equal((lines[1:] & lines[:-1]).sum(-1), 2 * 48 - 60)
    assert vista_like_mask((3, 20, 4), 1, rng).all()


def test_vista_like_is_denser_in_the_centre(rng):
    lines = vista_like_mask((60, 96, 1), 6, rng)[..., 0].mean(axis=0)
    inner, middle, outer = lines[40:56], lines[20:36], lines[:12]
    assert inner.mean() > 1.3 * middle.mean()
    assert middle.mean() > 1.3 * outer.mean()
    assert lines[48] > 0


def test_vista_like_keeps_lines_apart(rng):
    """The distance between lines in a frame and the next, beside that of a draw."""

    def gaps(lines):
        joined = (lines[1:] | lines[:-1])[:, 30:66]
        return np.mean([np.diff(np.flatnonzero(frame)).std() for frame in joined])

    settled = vista_like_mask((24, 96, 1), 6, rng)[..., 0]
    drawn = vista_like_mask((24, 96, 1), 6, rng, sweeps=0)[..., 0]
    assert gaps(settled) < 0.6 * gaps(drawn)


@pytest.mark.parametrize("axis", [-2, -1])
@pytest.mark.parametrize("acceleration", [2, 5, 8])
def test_equispaced_lines(rng, acceleration, axis):
    mask = equispaced_mask((9, 72, 60), acceleration, axis=axis, rng=rng)
    other = -3 - axis
    lines = mask.any(axis=other)
    np.testing.assert_array_equal(lines, mask.all(axis=other))
    for frame in lines:
        places = np.flatnonzero(frame)
        assert len(places) == round(len(frame) / acceleration)
        gaps = np.diff([*places, places[0] + len(frame)])
        assert gaps.max() - gaps.min() <= 1


def test_equispaced_lines_move_on_and_fill_the_gaps():
    lines = equispaced_mask((13, 64, 4), 8)[..., 0]
    assert lines[0, ::8].all()
    assert not (lines[1:] & lines[:-1]).any()
    assert lines[:13].any(axis=0).all()


def test_equispaced_lines_around_a_calibrated_centre():
    one, other = (equispaced_mask((5, 32, 4), 8, calibration=n) for n in (0, 6))
    np.testing.assert_array_equal(other[:, 13:19], True)
    np.testing.assert_array_equal(one[:, :13], other[:, :13])
    np.testing.assert_array_equal(one[:, 19:], other[:, 19:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: uniform_mask((3, 3), 0, r), "rate"),
        (lambda r: uniform_mask((3, 3), 1, r), "rate"),
        (lambda r: uniform_mask((3, 3), float("nan"), r), "rate"),
        (lambda r: variable_density_mask((8,), 0.5, r), "shape"),
        (lambda r: variable_density_mask((8, 0), 0.5, r), "shape"),
        (lambda r: variable_density_mask((8.0, 8), 0.5, r), "shape"),
        (lambda r: variable_density_mask((8, 8), 0, r), "rate"),
        (lambda r: variable_density_mask((8, 8), float("nan"), r), "rate"),
        (lambda r: variable_density_mask((8, 8), 0.5, r, power=-1), "power"),
        (lambda r: variable_density_mask((8, 8), 0.5, r, calibration=9), "calibration"),
        (lambda r: variable_density_mask((8, 8), 0.5, r, calibration=0), "calibration"),
        (lambda r: variable_density_mask((8, 8), 0.1, r, calibration=4), "fewer than"),
        (lambda r: cartesian_mask((8, 8), 0.5, r), "acceleration"),
        (lambda r: cartesian_mask((8, 8), 4, r, calibration=3), "fewer than"),
        (lambda r: cartesian_mask((8, 8), 2, r, axis=0), "axis"),
        (lambda r: radial_mask((8, 8), 0), "spokes"),
        (lambda r: radial_mask((8, 8), 2.5), "spokes"),
        (lambda r: radial_mask((8, 8), 2, angle="silver"), "angle"),
        (lambda r: radial_mask((8, 8), 2, angle=float("inf")), "angle"),
        (lambda r: vista_like_mask((8, 8), 2, r), r"\(T, H, W\)"),
        (lambda r: vista_like_mask((3, 8, 8), 100, r), "none of 8"),
        (lambda r: vista_like_mask((3, 8, 8), 2, r, sweeps=-1), "sweeps"),
        (lambda r: vista_like_mask((3, 8, 8), 2, r, axis=1), "axis"),
        (lambda r: equispaced_mask((8, 8), 2), r"\(T, H, W\)"),
        (lambda r: equispaced_mask((3, 8, 8), 0.5), "acceleration"),
        (lambda r: equispaced_mask((3, 8, 8), 100), "none of 8"),
        (lambda r: equispaced_mask((3, 8, 8), 2, axis=0), "axis"),
        (lambda r: equispaced_mask((3, 8, 8), 2, calibration=9), "calibration"),
        (lambda r: equispaced_mask((3, 8, 8), 2, calibration=-1), "calibration"),
        (lambda r: variable_density_mask((8, 8), 0.5, 3), "Generator"),
        (lambda r: cartesian_mask((8, 8), 2, np.random), "Generator"),
        (lambda r: radial_mask((8, 8), 2, rng=0), "Generator"),
        (lambda r: vista_like_mask((3, 8, 8), 2, None), "Generator"),
        (lambda r: equispaced_mask((3, 8, 8), 2, rng=3), "Generator"),
    ],
)
def test_arguments_are_checked(rng, call, message):
    error = TypeError if message == "Generator" else ValueError
    with pytest.raises(error, match=message):
        call(rng)

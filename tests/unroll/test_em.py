"""Expectation maximisation, and the phantom of dynamic emission tomography."""

from __future__ import annotations

import math

import numpy as np
import pytest
from array_frameworks import Framework
from scipy.integrate import quad

from svdinv.unroll.algorithms import EM, solve
from svdinv.unroll.fidelity import PoissonKL
from svdinv.unroll.operators import Dense, ParallelBeam, Stack, from_matrix
from svdinv.unroll.priors import HuberVariation, Tikhonov, TotalVariation
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.tomography.densities import density
from svdinv.unroll.tasks.tomography.kinetics import kinetic_phantom, plasma, two_tissues

ANGLES = np.arange(0, 180, 10.0)


def scan(counts=2e4, background=0.0, size=16):
    A = ParallelBeam((size, size), ANGLES)
    truth = density("shepp-logan", size).astype(np.float64)
    mean = A(truth)
    factor = counts / mean.sum()
    y = np.random.default_rng(0).poisson(factor * mean + background).astype(float)
    return Problem(y, A, PoissonKL(background), truth=factor * truth)


@pytest.mark.parametrize("background", [0.0, 3.0, "array"])
def test_no_step_lowers_the_likelihood(background):
    if background == "array":
        problem = scan(background=2.0)
        background = np.linspace(1, 3, 18)[:, None] * np.ones(problem.y.shape)
        problem = Problem(problem.y, problem.A, PoissonKL(background))
    else:
        problem = scan(background=background)
    found = solve(problem, None, algorithm=EM(), iterations=40, rtol=0)
    objective = np.array(found.objective)
    assert (np.diff(objective) <= 1e-9 * abs(objective[:-1])).all()
    assert objective[-1] < objective[0] / 2
    assert found.image.min() >= 0


def test_a_step_is_the_formula(rng):
    matrix, x = rng.random((5, 3)), rng.random(3)
    y, b = rng.random(5), 0.3
    problem = Problem(y, Dense(matrix, (3,)), PoissonKL(b))
    found = solve(problem, None, algorithm=EM(), iterations=1, x0=x).image
    due = x / matrix.sum(0) * (matrix.T @ (y / (matrix @ x + b)))
    np.testing.assert_allclose(found, due, rtol=1e-12)


def test_no_counts_at_all_give_no_image():
    problem = Problem(np.zeros((18, 23)), ParallelBeam((16, 16), ANGLES), PoissonKL())
    found = solve(problem, None, algorithm=EM(), iterations=2, x0=np.ones((16, 16)))
    assert not found.image.any()


def test_subsets_are_faster():
    problem = scan()
    parts = [ParallelBeam((16, 16), ANGLES[k::3]) for k in range(3)]
    y = np.concatenate([problem.y[k::3] for k in range(3)])
    ordered = Problem(y, Stack(parts, axis=-2), PoissonKL())
    quick = solve(ordered, None, algorithm=EM(), iterations=3)
    slow = solve(problem, None, algorithm=EM(), iterations=9)
    assert quick.objective[-1] < 1.1 * slow.objective[-1]
    assert quick.objective[-1] < slow.objective[2] / 2


def test_subsets_without_counts_leave_activity(rng):
    """A frame of few counts, one of none, and one of many, which is as it is alone."""
    y = np.zeros((3, 18, 23))
    y[0, [0, 8, 9], 11] = 3, 2, 4  # in two of three subsets
    y[2] = scan().y
    parts = [ParallelBeam((16, 16), ANGLES[k::3]) for k in range(3)]
    views = np.concatenate([np.arange(18)[k::3] for k in range(3)])
    stack = Stack(parts, axis=-2)

    def reconstructed(y):
        problem = Problem(y[..., views, :], stack, PoissonKL())
        return solve(problem, None, algorithm=EM(), iterations=8).image

    found = reconstructed(y)
    counts = stack(found).sum((-2, -1))
    assert counts[0] == pytest.approx(9, rel=0.3)
    assert counts[1] == 0
    whole = reconstructed(y[2])
    np.testing.assert_allclose(found[2], whole, rtol=0.05, atol=0.02 * whole.max())


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(
    ("image", "data"),
    [((10,), (8,)), ((10,), (2, 4)), ((4, 4), (8,)), ((2, 3, 4), (8,)),
     ((2, 3, 4), (2, 2, 2))],
)  # fmt: skip
def test_images_and_data_have_any_number_of_axes(image, data, batch, rng):
    """Items of a batch are as alone: the first has counts in one of two subsets."""
    parts = [
        from_matrix(rng.random((8, math.prod(image))), image, data) for _ in range(2)
    ]
    y = 1.0 + rng.random((*batch, *data[:-1], 2 * data[-1])) * 50
    first = y[0] if batch else y
    first[..., data[-1] :] = 0

    def reconstructed(y):
        problem = Problem(y, Stack(parts, axis=-1), PoissonKL(0.5))
        return solve(problem, None, algorithm=EM(), iterations=3, x0=start).image

    start = np.ones((*batch, *image))
    found = reconstructed(y)
    assert (found > 0).all()
    if batch:
        start = np.ones(image)
        for item, of_item in zip(found, y, strict=True):
            np.testing.assert_allclose(item, reconstructed(of_item), rtol=1e-9)
    whole = Problem(y[..., : data[-1]], parts[0], PoissonKL(0.5))
    assert solve(whole, None, algorithm=EM(), iterations=1).image.shape == found.shape


def test_counts_may_have_any_unit():
    y, found = scan().y, []
    parts = [ParallelBeam((16, 16), ANGLES[k::3]) for k in range(3)]
    y = np.concatenate([y[k::3] for k in range(3)])
    for unit in (1.0, 1e-4):
        problem = Problem(unit * y, Stack(parts, axis=-2), PoissonKL())
        found.append(solve(problem, None, algorithm=EM(), iterations=2).image / unit)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


def test_map_goes_down_to_the_minimiser():
    problem, prior = scan(), HuberVariation(0.5, 20.0)
    found = solve(problem, prior, algorithm=EM(), iterations=400, rtol=0)
    objective = np.array(found.objective)
    assert (np.diff(objective) <= 1e-9 * abs(objective[:-1])).all()
    # Where pixels are positive the gradient vanishes.
    slope = problem.gradient(found.image) + prior.gradient(found.image)
    inside = found.image > 0.1 * found.image.max()
    assert (
        np.abs(slope[inside]).max() < 0.02 * problem.A.adjoint(np.ones((18, 23))).max()
    )
    zero = solve(problem, Tikhonov(0.0), algorithm=EM(), iterations=7).image
    alone = solve(problem, None, algorithm=EM(), iterations=7).image
    np.testing.assert_allclose(zero, alone, rtol=1e-9)


@pytest.mark.parametrize("name", ["torch", "jax", "tensorflow"])
def test_every_framework_steps_alike(name):
    framework, problem = Framework(name), scan()
    with framework.double():
        theirs = problem.replace_arrays(framework.array)
        for prior in (None, HuberVariation(0.5, 20.0)):
            found = solve(theirs, prior, algorithm=EM(), iterations=2).image
            due = solve(problem, prior, algorithm=EM(), iterations=2).image
            np.testing.assert_allclose(framework.numpy(found), due, rtol=1e-9)


def test_em_refuses_what_it_cannot_do():
    problem = scan()
    with pytest.raises(TypeError, match="EM is for the data fidelity PoissonKL"):
        solve(Problem(problem.y, problem.A), None, algorithm=EM())
    with pytest.raises(ValueError, match="y must not contain negative counts"):
        solve(Problem(problem.y - 9, problem.A, PoissonKL()), None, algorithm=EM())
    with pytest.raises(ValueError, match="y must not contain negative counts"):
        solve(Problem(problem.y - 9, problem.A, PoissonKL()), TotalVariation(1.0))
    with pytest.raises(ValueError, match="y must not contain negative counts"):
        EM().start(Problem(problem.y - 9, problem.A, PoissonKL()))


# Kinetics


def test_curves_are_those_of_the_integral():
    """One tissue: without trapping, the convolution with one exponential."""
    frames = (1.0, 2.0, 5.0)
    found = two_tissues((0.1, 0.2, 0.0, 0.0, 0.0), frames)

    def curve(t):
        return quad(lambda u: 0.1 * plasma(u) * np.exp(-0.2 * (t - u)), 0, t)[0]

    due = [quad(curve, 1, 3)[0] / 2, quad(curve, 3, 8)[0] / 5]
    np.testing.assert_allclose(found[1:], due, rtol=1e-3)


def test_trapped_tracer_stays():
    late = two_tissues((0.1, 0.1, 0.1, 0.0, 0.0), (60.0, 60.0, 60.0))
    assert (np.diff(late) > 0).all()
    washed = two_tissues((0.1, 0.1, 0.0, 0.0, 0.0), (60.0, 60.0, 60.0))
    assert (np.diff(washed) < 0).all()


def test_the_phantom_is_of_low_rank_and_seeded():
    series = kinetic_phantom(20)
    assert series.shape == (24, 20, 20)
    assert series.max() == 1
    assert series.min() >= 0
    values = np.linalg.svd(series.reshape(24, -1), compute_uv=False)
    assert (values[8:] < 1e-5 * values[0]).all()
    np.testing.assert_array_equal(series, kinetic_phantom(20))
    assert not np.array_equal(series, kinetic_phantom(20, seed=1))


def test_impossible_kinetics_are_refused():
    with pytest.raises(ValueError, match="frames must be positive"):
        two_tissues((0.1, 0.1, 0.1, 0.0, 0.0), ())
    with pytest.raises(ValueError, match="rates must be five"):
        two_tissues((-0.1, 0.1, 0.1, 0.0, 0.0))

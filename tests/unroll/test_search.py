from __future__ import annotations

import math

import numpy as np
import pytest

from svdinv.unroll.algorithms import ADMM, FISTA, ISTA, PDHG, solve
from svdinv.unroll.algorithms.iterations import Algorithm
from svdinv.unroll.algorithms.search import DouglasRachford, best_solution, largest
from svdinv.unroll.data.masks import uniform_mask
from svdinv.unroll.metrics import snr
from svdinv.unroll.operators import MRI, Identity, Sampling
from svdinv.unroll.priors import (
    Casorati,
    LocalLowRank,
    Nuclear,
    Tikhonov,
    TotalVariation,
)
from svdinv.unroll.problem import Problem

ONE = {"first": 1.0, "low": 1.0, "high": 1.0}  # weight


def _curve(best, width=1.0):
    calls = []

    def score(x):
        calls.append(x)
        return 30 - (math.log10(x / best) / width) ** 2

    return score, calls


@pytest.mark.parametrize("best", [0.0017, 0.01, 0.03, 0.2])
def test_the_best_of_a_smooth_curve(best):
    score, calls = _curve(best)
    found = largest(score, 0.01, low=1e-4, high=2.0)
    assert score(found) > 30 - 0.02
    assert len(calls) <= 10


def test_a_flat_curve_takes_few_trials():
    score, calls = _curve(0.01, width=100)
    largest(score, 0.01, low=1e-6, high=1.0)
    assert len(calls) == len(set(calls)) == 8  # longer and longer steps on either side


def test_a_dent_does_not_end_the_search():
    def score(x):
        decades = -math.log10(x)
        return decades - (0.02 if 2.4 < decades < 2.6 else 0)

    assert largest(score, 10**-2.0, low=1e-4, high=1.0) < 2e-4


def test_a_narrow_peak_between_two_steps_is_found():
    score, calls = _curve(0.0055, width=0.1)
    found = largest(lambda x: max(score(x), 20), 0.01, low=1e-4, high=1.0)
    assert score(found) > 29.5
    assert len(calls) <= 14


def test_a_plateau_does_not_end_the_search():
    """Whether or not scores rise a little on it, away from the peak."""
    for slope in (-1e-3, 1e-3):

        def score(x, slope=slope):
            decades = math.log10(x)
            return slope * decades + 10 * math.exp(-((decades + 1) ** 2))

        assert score(largest(score, 1e-4, low=3e-6, high=1.0)) > 9.9


def test_the_range_is_kept_and_its_ends_are_tried():
    tried = []

    def score(x):
        tried.append(x)
        return -x

    assert largest(score, 0.5, low=0.04, high=0.6) == min(tried) == 0.04
    assert largest(lambda x: -score(x), 0.5, low=0.04, high=0.6) == max(tried) == 0.6
    with pytest.raises(ValueError, match="first must lie"):
        largest(score, 0.5, low=0.6, high=1)


def test_a_score_that_is_not_a_number_is_the_lowest():
    for bad in (0.1, 1.0):
        tried = {}

        def score(x, bad=bad, tried=tried):
            tried[x] = math.nan if x == bad else -((math.log10(x) + 1.5) ** 2)
            return tried[x]

        found = largest(score, 1.0, low=1e-3, high=1e3)
        assert tried[found] == max(s for x, s in tried.items() if x != bad)


@pytest.mark.parametrize("algorithm", [PDHG(), ADMM()])
@pytest.mark.parametrize("first", [1e-3, 0.03, 3.0])
def test_the_first_weight_does_not_matter(rng, algorithm, first):
    """Every smaller weight may seem better, since it continues an unfinished image."""
    truth = np.outer(np.linspace(0.2, 1, 24), np.sin(np.arange(24) / 5) + 1.2)
    A = Sampling(rng.random(truth.shape) < 0.6)
    problem = Problem(A(truth + 0.05 * rng.standard_normal(truth.shape)), A)
    how = {"algorithm": algorithm, "low": 1e-4, "high": 10.0}
    weight, solution = best_solution(
        problem, Nuclear, lambda x: snr(truth, x), first=first, **how
    )
    assert 0.05 < weight < 0.5
    exact = solve(problem, Nuclear(weight), algorithm=algorithm, iterations=20_000)
    assert exact.converged
    assert snr(truth, solution.image) > snr(truth, exact.image) - 0.05
    with pytest.raises(TypeError, match="prior must be a function of the weight"):
        best_solution(problem, Nuclear(0.1), abs, first=first, **how)


def _matrix(rng, shape=(30, 24), rank=2):
    left, right = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, 24))
    return left @ right + 0.2 * rng.standard_normal(shape)


def test_the_weight_is_that_of_a_fine_grid(rng):
    truth = _matrix(rng)
    mask = uniform_mask(truth.shape, 0.6, rng)
    problem = Problem(mask * truth, Sampling(mask))

    def score(x):
        return snr(truth, x)

    weight, solution = best_solution(
        problem,
        lambda w: (Nuclear(w),),
        score,
        algorithm=DouglasRachford(),
        first=1.0,
        low=0.01,
        high=100.0,
        parameters=lambda w: {"penalty": w / 2, "relaxation": 1.5},
    )
    grid = [
        solve(problem, Nuclear(w), iterations=2000, rtol=1e-7).image
        for w in np.geomspace(0.1, 10, 21)
    ]
    assert score(solution.image) > max(map(score, grid)) - 0.02
    again = solve(problem, Nuclear(weight), iterations=2000, rtol=1e-8).image
    assert score(solution.image) == pytest.approx(score(again), abs=0.02)


def test_slow_iterations_go_on_until_the_score_has_settled():
    """A change is 0.98 of the last one: small long before the end."""
    problem = Problem(np.zeros((5, 4)), Sampling(np.ones((5, 4)) > 0))

    class Creeping(Algorithm):
        def iterate(self, state, problem, prox, p):
            return {"x": 1 + 0.98 * (state["x"] - 1)}

        def with_defaults(self, given, problem, x, prior):
            return {}

    def score(x):
        return float(x[0, 0])

    _, solution = best_solution(
        problem, Nuclear, score, algorithm=Creeping(), iterations=1000, **ONE
    )
    assert score(solution.image) == pytest.approx(1, abs=0.011)
    assert 100 < solution.iterations < 300


def test_the_best_image_on_the_way_counts_if_asked_for():
    problem = Problem(np.ones((5, 4)), Sampling(np.ones((5, 4)) > 0))

    def score(x):
        return -float(np.abs(x - 0.6).max())

    how = {"first": 2.0, "low": 2.0, "high": 2.0, "algorithm": ISTA()}
    how |= {"parameters": lambda w: {"step": 0.02}, "rtol": 1e-3}
    *_, last = best_solution(problem, Tikhonov, score, x0=problem.y, **how)
    *_, best = best_solution(problem, Tikhonov, score, x0=problem.y, early=True, **how)
    assert score(best.image) > -0.02 > -0.2 > score(last.image)


def test_the_first_image_is_where_the_first_weight_starts():
    problem = Problem(np.zeros((5, 4)), Sampling(np.ones((5, 4)) > 0))
    found = []

    def score(x):
        found.append(x)
        return 0.0

    how = {**ONE, "algorithm": DouglasRachford()}
    start = np.full((5, 4), 3.0)
    best_solution(
        problem, lambda w: (Nuclear(0.0),), score, x0=start, iterations=4, **how
    )
    best_solution(problem, lambda w: (Nuclear(0.0),), score, iterations=4, **how)
    assert np.abs(found[0]).min() > 0
    assert not found[-1].any()


@pytest.mark.parametrize("penalty", [0.1, 2.0])
def test_douglas_rachford_finds_what_fista_finds(rng, penalty):
    truth = _matrix(rng)
    mask = uniform_mask(truth.shape, 0.6, rng)
    problem = Problem(mask * truth, Sampling(mask))
    expected = solve(problem, Nuclear(1.5), algorithm=FISTA(), iterations=1000, rtol=0)
    how = {"parameters": {"penalty": penalty, "relaxation": 1.5}, "objective": False}
    how |= {"algorithm": DouglasRachford(), "iterations": 400, "rtol": 0}
    found = solve(problem, (Nuclear(1.5),), **how)
    np.testing.assert_allclose(found.image, expected.image, atol=1e-6)


def test_priors_in_turn_share_one_image(rng):
    """At the end every copy gives the image, and its subgradients explain the slope."""
    x = rng.standard_normal((4, 2)) @ rng.standard_normal((2, 64)) + 0j
    x = x.reshape(4, 8, 8)
    mask = rng.random(x.shape) < 0.6
    problem = Problem(MRI(mask)(x), MRI(mask))
    priors = [LocalLowRank(0.3, 4, shift=shift) for shift in (0, 2)] + [Casorati(0.1)]
    how = {"parameters": {"penalty": 0.5, "relaxation": 1.5}, "objective": False}
    how |= {"algorithm": DouglasRachford(), "iterations": 600, "rtol": 0}
    found = solve(problem, priors, **how)
    image = found.image
    total = 0
    for i, prior in enumerate(priors):
        copy = found.state[f"copy {i}"]
        np.testing.assert_allclose(prior.prox(2 * image - copy, 2.0), image, atol=1e-3)
        total = total + (image - copy) * 0.5 / len(priors)
    np.testing.assert_allclose(total, -problem.gradient(image), atol=1e-3)


@pytest.mark.parametrize("prior", [TotalVariation(0.1), None, []])
def test_douglas_rachford_takes_a_list_of_priors(prior):
    problem = Problem(np.ones((1, 4, 4)), Identity())
    with pytest.raises(TypeError, match="needs a list of priors, not empty"):
        solve(problem, prior, algorithm=DouglasRachford())

"""Losses that depend on the arbitrary phase or basis of singular vectors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from oracle import FUNCTIONS, adjoint, draw, random_unitary

import svdinv
from svdinv.core import gauge_dependence
from svdinv.numpy import svd_vjp


def cotangents(rng, factors):
    """Random ones: as gauge-dependent as can be."""
    given = []
    for x in factors:
        g = rng.standard_normal(x.shape).astype(x.dtype)
        if np.iscomplexobj(x):
            g = g + 1j * rng.standard_normal(x.shape)
        given.append(g)
    return given


@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32])
@pytest.mark.parametrize("spectrum", ["distinct", "pair", "all equal", "zeros"])
def test_gauge_invariant_losses_measure_zero(spectrum, dtype):
    problem = draw(spectrum, (9, 6), draws=10, dtype=dtype, seed=1)
    factors = np.linalg.svd(problem.A, full_matrices=False)
    gU, _, gVh = problem.cotangents(factors, FUNCTIONS["tanh"], "schatten")
    assert np.all(gauge_dependence(*factors, gU, gVh) < 30 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("spectrum", "dtype"), [("pair", np.float64), ("distinct", np.complex128)]
)
def test_gauge_dependent_losses_measure_their_share(spectrum, dtype):
    problem = draw(spectrum, (9, 6), draws=10, dtype=dtype, seed=2)
    factors = np.linalg.svd(problem.A, full_matrices=False)
    gU, _, gVh = cotangents(np.random.default_rng(3), factors)
    measured = gauge_dependence(*factors, gU, gVh)
    assert measured.shape == (10,)
    assert np.all(measured > 1e-4)
    assert np.all(measured <= 1)
    # Scaling the loss does not change it, tiny cotangents included.
    tiny = gauge_dependence(*factors, 1e-200 * gU, 1e-200 * gVh)
    np.testing.assert_allclose(tiny, measured, rtol=1e-12)


def test_turning_the_gauge_is_all_that_it_measures():
    """Cotangents along the gauge direction itself have dependence 1."""
    problem = draw("distinct", (6, 6), draws=4, dtype=np.complex128, seed=4)
    U, S, Vh = np.linalg.svd(problem.A)
    phases = 1j * np.random.default_rng(5).standard_normal((4, 1, 6))
    measured = gauge_dependence(U, S, Vh, U * phases, np.swapaxes(-phases, -1, -2) * Vh)
    np.testing.assert_allclose(measured, 1, rtol=1e-12)


def test_null_spaces_of_full_matrices():
    problem = draw("distinct", (9, 6), draws=3, seed=6)
    U, S, Vh = np.linalg.svd(problem.A)
    W = np.random.default_rng(7).standard_normal((3, 9, 9))
    W = W + adjoint(W)
    gU = np.zeros_like(U)
    gU[..., 6:] = W @ U[..., 6:]  # of Re<W, U2 U2^H> / 2: gauge-invariant
    wide = adjoint(Vh), S, adjoint(U)
    assert np.all(gauge_dependence(U, S, Vh, gU) < 1e-14)
    assert np.all(gauge_dependence(*wide, None, adjoint(gU)) < 1e-14)
    gU[..., 6:] = np.random.default_rng(8).standard_normal((3, 9, 3))
    found = gauge_dependence(U, S, Vh, gU)
    assert np.all(found > 1e-2)
    seen = gauge_dependence(*wide, None, adjoint(gU))
    np.testing.assert_allclose(seen, found, rtol=1e-14)


def test_real_signs_cannot_be_seen():
    problem = draw("distinct", (6, 6), draws=3, seed=9)
    factors = np.linalg.svd(problem.A)
    gU, _, gVh = cotangents(np.random.default_rng(10), factors)
    assert np.all(gauge_dependence(*factors, gU, gVh) == 0)


def report(framework, pullback, given):
    """Pull back, and wait for what is reported."""
    pullback(*given)
    framework.wait()


def half_repeated(seed):
    """Matrix with distinct singular values beside one with all equal."""
    A = np.stack([np.diag([3.0, 2.0, 1.0]), np.eye(3)])
    return random_unitary((2, 3, 3), np.random.default_rng(seed), False) @ A


def test_warn_warns_once_for_a_batch(framework, run):
    factors, pullback = run(half_repeated(11), gauge="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report(framework, pullback, cotangents(np.random.default_rng(12), factors))
    (warning,) = [w for w in caught if w.category is svdinv.GaugeWarning]
    assert "the loss depends on the arbitrary phase or basis" in str(warning.message)


def test_error_says_how_many_matrices(framework, run):
    factors, pullback = run(half_repeated(11), gauge="error")
    with pytest.raises(
        framework.gauge_error or svdinv.GaugeError, match="in 1 of 2 matrices"
    ):
        report(framework, pullback, cotangents(np.random.default_rng(12), factors))


@pytest.mark.parametrize("gauge", ["warn", "error"])
def test_invariant_losses_are_not_reported(framework, run, gauge):
    problem = draw("pair", (9, 6), draws=5, dtype=np.complex64, seed=15)
    factors, pullback = run(problem.A, gauge=gauge)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pullback(*problem.cotangents(factors, FUNCTIONS["tanh"]))
        framework.wait()


def test_a_small_dependence_above_rounding_is_reported():
    problem = draw("pair", (9, 6), draws=2, seed=17)
    factors, pullback = svd_vjp(problem.A, gauge="error")
    invariant = problem.cotangents(factors, FUNCTIONS["tanh"])
    free = cotangents(np.random.default_rng(18), factors)
    gU, gS, gVh = (g + 1e-6 * x for g, x in zip(invariant, free, strict=True))
    with pytest.raises(svdinv.GaugeError, match=r"up to \d.*e-0[678]"):
        pullback(gU, gS, gVh)


def test_monitor_keeps_one_number_per_matrix(framework, run):
    monitor = svdinv.GaugeMonitor()
    assert monitor.last is None
    factors, pullback = run(half_repeated(13), gauge=monitor)
    pullback(*cotangents(np.random.default_rng(14), factors))
    framework.wait()
    last = monitor.last
    last = last if isinstance(last, np.ndarray) else framework.numpy(last)
    assert last.shape == (2,)
    assert last[0] == 0 < 1e-3 < last[1]


@pytest.mark.parametrize("gauge", ["Ignore", None, 3, svdinv.GaugeMonitor])
def test_bad_gauge_is_named(gauge):
    with pytest.raises(ValueError, match=r"gauge must be"):
        svd_vjp(np.eye(2), gauge=gauge)

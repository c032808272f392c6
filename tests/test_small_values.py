"""Small, tiny and zero singular values, and cotangents near underflow."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import (
    FUNCTIONS,
    POLAR,
    Problem,
    _soft,
    adjoint,
    draw,
    random_unitary,
    relative_error,
)

import svdinv.numpy as svn
from svdinv.core import svd_pullback
from svdinv.numpy import spectral_map, svd_vjp, vjp

# a value of 0 is exact in some of these, a rounding error in others
RANK_DEFICIENT = {
    "outer product": np.outer([1.0, 2, 3, 4], [1.0, 1, 2, 1]),
    "ones": np.ones((5, 5)),
    "tall ones": np.ones((5, 3)),
    "wide ones": np.ones((3, 5)),
    "diagonal": np.diag([1.0, 1e-17, 0.0]),
    "zero columns": np.arange(12.0).reshape(4, 3) @ np.diag([1.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("A", RANK_DEFICIENT.values(), ids=RANK_DEFICIENT)
def test_resolvent_of_a_rank_deficient_matrix(A):
    """Loss <G, (A A^T + I)^-1> as U f(S) U^T with f(0) = 1: smooth in A."""
    rng = np.random.default_rng(0)
    G = rng.standard_normal((len(A), len(A)))
    (U, S, _), pullback = svd_vjp(A, full_matrices=True)
    s = np.zeros(len(A))
    s[: len(S)] = S[: len(A)]
    f, slope = 1 / (1 + s**2), -2 * s / (1 + s**2) ** 2
    gU = (G + G.T) @ U * f
    gS = (slope * np.sum(U * (G @ U), axis=0))[: len(S)]
    gA = pullback(gU, gS, None)
    R = np.linalg.inv(A @ A.T + np.eye(len(A)))
    exact = -R @ (G + G.T) @ R @ A
    np.testing.assert_allclose(gA, exact, atol=1e-13 * np.abs(exact).max())


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("dtype", "values", "bound"),
    [
        (np.float32, [1, 1e-4] + [0] * 10, 5e-2),
        (np.float32, [0.4**i for i in range(11)] + [0], 5e-2),
        (np.float64, [1, 1e-9, 0], 1e-5),
        (np.float64, list(np.geomspace(1, 2e-17, 12)), 0.5),
    ],
)
def test_resolvent_with_small_values_beside_zeros(dtype, values, bound, wide):
    """A small value must not vouch for the lost ones; its own error is eps / s."""
    rng = np.random.default_rng(1)
    k, n = len(values), 3 * len(values)
    for _ in range(20):
        Q, P = random_unitary((n, k), rng, False), random_unitary((k, k), rng, False)
        A = ((Q * values) @ P.T).astype(dtype)
        G = rng.standard_normal((n, n))
        G = G + G.T
        B = A.T if wide else A
        factors, pullback = svd_vjp(B, full_matrices=True)
        W = factors.Vh.T if wide else factors.U
        s = np.zeros(n, dtype)
        s[:k] = factors.S
        f = 1 / (1 + s**2)
        gW = (2 * G @ W * f).astype(dtype)
        gS = (-2 * s * f**2 * np.sum(W * (G @ W), axis=0)).astype(dtype)[:k]
        gB = pullback(gVh=gW.T, gS=gS) if wide else pullback(gU=gW, gS=gS)
        A = A.astype(float)
        R = np.linalg.inv(A @ A.T + np.eye(n))
        exact = -2 * R @ G @ R @ A
        assert relative_error(gB.T if wide else gB, exact) < bound


def small_problem(values, shape, dtype, draws=1000):
    """Draw matrices with the singular values given."""
    problem = draw("distinct", shape, draws=draws, dtype=dtype, seed=1)
    s = np.broadcast_to(np.array(values), (draws, len(values)))
    A = ((problem.U * s[:, None, :]) @ adjoint(problem.V)).astype(dtype)
    return Problem(A, problem.U, s, problem.V, problem.G)


def errors(problem, f, **options):
    """Relative errors, with the factors that the matrix was made from.

    Those of the rounded matrix differ by eps / gap themselves.
    """
    real = problem.A.real.dtype
    factors = (
        problem.U.astype(problem.A.dtype),
        problem.s.astype(real),
        adjoint(problem.V).astype(problem.A.dtype),
    )
    gA = svd_pullback(*factors, *problem.cotangents(factors, f), **options)
    return relative_error(gA, problem.exact_gradient(f))


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("shape", [(6, 6), (9, 6)])
@pytest.mark.parametrize("f", [_soft(2.5e-5), POLAR], ids=lambda f: f.name)
def test_distinct_small_values_are_as_exact_as_by_the_plain_formula(f, shape, dtype):
    problem = small_problem([1, 0.5, 0.25, 1e-4, 5e-5, 2e-5], shape, dtype)
    ours = errors(problem, f)
    plain = errors(problem, f, repeated="none")
    assert np.median(ours) <= 1.5 * np.median(plain)
    assert np.quantile(ours, 0.99) <= 3 * np.quantile(plain, 0.99)
    assert ours.max() <= 10 * plain.max()


@pytest.mark.parametrize("shape", [(6, 6), (9, 6)])
@pytest.mark.parametrize(
    ("dtype", "small", "options", "bounds"),
    [
        (np.float32, 2e-4, {}, (2e-5, 5e-4)),
        (np.float64, 5e-9, {}, (1e-8, 1e-5)),
        (np.float64, 8e-3, {}, (1e-13, 1e-10)),
        (np.float64, 8e-3, {"rtol": 1e-2}, (1e-13, 1e-10)),
    ],
)
def test_repeated_small_values_are_not_taken_for_zero(
    shape, dtype, small, options, bounds
):
    problem = small_problem([1, 0.5, 0.25, small, small, small], shape, dtype)
    found = errors(problem, _soft(small / 2), **options)
    median, tail = bounds
    assert np.median(found) <= median
    assert np.quantile(found, 0.99) <= tail


@pytest.mark.parametrize("scale", [1, 1e-25, 1e25])
def test_vanishing_cotangents_give_no_nan(run, scale):
    for size in (1e-38, 1e-39, 1e-41, 1e-45, 0):
        A = (scale * np.eye(4)).astype(np.float32)
        factors, pullback = run(A)
        given = [np.full_like(x, np.float32(size)) for x in factors]
        assert np.isfinite(pullback(*given)).all()


def test_loss_in_singular_values_is_not_scaled():
    for scale, size in [(1e-37, 1e-7), (1e30, 1e10)]:
        A = (scale * np.eye(3)).astype(np.float32)
        _, pullback = svd_vjp(A)
        gA = pullback(None, np.full(3, size, np.float32), None)
        np.testing.assert_array_equal(gA, (size * np.eye(3)).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_without_a_diagonal_the_minimum_norm_is_taken(dtype):
    """Loss Y[0, 1] at the identity: the diagonal of U^H G V tells nothing."""
    A = np.eye(3, dtype=dtype)
    (U, S, Vh), pullback = svd_vjp(A)
    G = np.zeros_like(A)
    G[0, 1] = 1
    f = S - dtype(0.25)
    gS = np.sum(U * (G @ Vh.T), axis=0)
    gA = pullback((G @ Vh.T) * f, gS, f[:, None] * (U.T @ G))
    np.testing.assert_allclose(gA, 0.75 * G, atol=1e-6)


def test_half_precision_cotangents_at_repeated_values():
    """Cotangents with errors of 1e-3 need another idea of what is near."""
    problem = draw("all equal", (6, 6), draws=200, dtype=np.float32, seed=2)
    factors = np.linalg.svd(problem.A)
    rounded = [x.astype(np.float16).astype(np.float32) for x in factors]
    given = [
        g.astype(np.float16).astype(np.float32)
        for g in problem.cotangents(rounded, _soft(0.35))
    ]
    exact = problem.exact_gradient(_soft(0.35))
    aware = svd_pullback(*factors, *given, epsilon=2.0**-10)
    unaware = svd_pullback(*factors, *given)
    assert np.median(relative_error(aware, exact)) < 5e-3
    assert np.median(relative_error(unaware, exact)) > 1e-1


def test_second_derivatives_of_rank_deficient_matrices_are_finite():
    torch = pytest.importorskip("torch")
    import svdinv.torch

    rng = np.random.default_rng(3)
    for dtype in (torch.float32, torch.complex64):
        for full in (False, True):
            vectors = rng.integers(-1, 2, (50, 2, 5))
            batch = vectors[:, 0, :, None] * vectors[:, 1, None, :]
            for A in (batch, *batch[:8]):  # PyTorch looks at the values of a batch
                A = torch.tensor(A).to(dtype).requires_grad_()
                U, S, Vh = svdinv.torch.svd(A, full)
                Y = (U * torch.tanh(S).to(dtype)[..., None, :]) @ Vh
                loss = (Y * Y.conj()).real.sum()
                (gA,) = torch.autograd.grad(loss, A, create_graph=True)
                (hA,) = torch.autograd.grad((gA * gA.conj()).real.sum(), A)
                assert gA.isfinite().all()
                assert hA.isfinite().all()


def test_minimum_norm_ignores_the_precision():
    problem = draw("pair", (6, 6), draws=5, seed=4)
    factors = np.linalg.svd(problem.A)
    given = problem.cotangents(factors, POLAR)
    options = {"repeated": "minimum-norm"}
    np.testing.assert_array_equal(
        svd_pullback(*factors, *given, **options),
        svd_pullback(*factors, *given, epsilon=1e-3, **options),
    )


@pytest.mark.parametrize("f", ["tanh", "cube", "identity"])
@pytest.mark.parametrize("values", [(1, 0.5, 1e-9, 0), (1, 1, 1e-17, 0)])
def test_small_values_beside_one_that_is_zero_in_every_bit(values, f):
    """What M_ij / s_j tells on one side counts in full where s_i is 0."""
    s, k = np.array([values]), len(values)
    eye, G = np.eye(k)[None], np.random.default_rng(0).standard_normal((1, k, k))
    problem = Problem(eye * s, eye, s, eye, G)
    cotangents = problem.cotangents((eye, s, eye), FUNCTIONS[f], "schatten")
    gA = svd_pullback(eye, s, eye, *cotangents)
    exact = problem.exact_gradient(FUNCTIONS[f], "schatten")
    assert relative_error(gA, exact) < 1e-15


@pytest.mark.parametrize(
    "shape", [(5, 5), (8, 4), (4, 9), (40, 16), (16, 12), (24, 24)]
)
def test_rank_one_with_a_pattern_loses_nothing_but_between_null_spaces(shape):
    """There it depends on the SVD's routine whether zeros are exact."""
    A = np.ones((3, *shape)) / 6
    G = np.random.default_rng(0).standard_normal(A.shape)
    (U, S, Vh), pullback = svd_vjp(A)
    y = np.tanh(S)[..., None, :]
    K = np.sum(U * (G @ Vh.mT), axis=-2)
    gA = pullback((G @ Vh.mT) * y, K / np.cosh(S) ** 2, y.mT * (U.mT @ G))
    (exact,) = vjp(lambda A: spectral_map(A, np.tanh), A)[1](G)
    error = gA - exact
    for side in (error, error.mT):  # all rows of A are equal, and all columns
        mean = side.mean(axis=-1)
        assert np.abs(mean).max() <= 1e-14 * np.abs(exact).max()
    assert np.linalg.norm(error) <= np.linalg.norm(exact)


# With the parameters far below sqrt(eps) of the largest value, in single precision.
OF_SMALL = {
    "svt": (lambda A: svn.svt(A, 1e-4), (1, 3e-4, 2e-4)),
    "svht": (lambda A: svn.svht(A, 2.5e-4), (1, 3e-4, 2e-4)),
    "low_rank": (lambda A: svn.low_rank(A, 2), (1, 1e-3, 2e-4)),
    "firm": (lambda A: svn.firm_threshold(A, 1e-4, 2.0), (1, 1.7e-4, 1.4e-4)),
    "huber": (lambda A: svn.huber_threshold(A, 1e-4, 1e-4), (1, 3e-4, 1e-4)),
    "log_sum": (lambda A: svn.log_sum_threshold(A, 1e-8, 1e-4), (1, 3e-4, 2e-4)),
    "schatten": (lambda A: svn.schatten_prox(A, 1e-6, 0.5), (1, 3e-4, 2e-4)),
}


@pytest.mark.parametrize("name", OF_SMALL)
def test_second_derivatives_at_small_values(name):
    """What is left out is at rounding level alone."""
    f, values = OF_SMALL[name]
    rng = np.random.default_rng(0)
    U, V = (random_unitary((3, 3), rng, False) for _ in range(2))
    A, (G, X) = (U * values) @ V, rng.standard_normal((2, 3, 3))

    def second(dtype):
        def gradient(A):
            return svn.vjp(f, A)[1](G.astype(dtype))[0]

        return svn.jvp(gradient, (A.astype(dtype),), (X.astype(dtype),))[1]

    exact = second(np.float64)
    assert np.linalg.norm(second(np.float32) - exact) < 5e-3 * np.linalg.norm(exact)

from __future__ import annotations

import numpy as np
import pytest

scipy_sparse = pytest.importorskip("scipy.sparse")
from scipy.optimize import lsq_linear

from svdinv.unroll.algorithms.nonlinear import gauss_newton, truncated_svd
from svdinv.unroll.operators import Dense, Wrapped, WrappedNonlinear

N, M = 12, 20


def linear(values, seed=0):
    """An operator with known singular values, and its factors."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((M, N)))[0]
    V = np.linalg.qr(rng.standard_normal((N, N)))[0]
    B = (U * values) @ V.T
    return Wrapped(lambda x: B @ x, lambda y: B.T @ y, (N,), (M,)), B, U, V


def identity():
    return scipy_sparse.eye_array(N, format="csr")


class TestTruncatedSVD:
    @pytest.mark.parametrize("keep", [0, 1, 5, 8])
    def test_it_is_that_of_dense_factors(self, keep):
        s = 2.0 ** -np.arange(N)
        A, _, U, V = linear(s)
        y = np.random.default_rng(1).standard_normal(M)
        found = truncated_svd(A, y, np.zeros(N), rank=8, keep=keep)
        assert found.kept == keep
        np.testing.assert_allclose(found.values, s[:8], rtol=1e-6)
        expected = V[:, :keep] @ (U.T @ y / s)[:keep]
        np.testing.assert_allclose(found.image, expected, atol=1e-4)

    @pytest.mark.parametrize("keep", ["discrepancy", "sure"])
    def test_the_rules_stop_at_the_noise(self, keep):
        """Three coefficients far above it, and nothing behind."""
        s = 0.5 ** np.arange(N)
        A, B, _, V = linear(s)
        x = V[:, :3] @ np.array([1.0, 2.0, 3.0])
        y = B @ x + 0.01 * np.random.default_rng(0).standard_normal(M)
        found = truncated_svd(A, y, x, rank=10, noise=0.012, keep=keep)
        assert found.kept in (3, 4)
        assert np.linalg.norm(found.image - x) < 0.1

    def test_noise_whitens_and_leaves_out(self):
        A, B, *_ = linear(np.ones(N))
        x = np.random.default_rng(0).standard_normal(N)
        y, noise = B @ x, np.ones(M)
        y[3], y[5], noise[5] = np.nan, 1e9, np.inf
        found = truncated_svd(A, y, x, rank=N, noise=noise, keep=N)
        np.testing.assert_allclose(found.image, x, atol=1e-8)

    def test_the_scale_is_the_norm_of_the_solution(self):
        """Of fewer data than unknowns, the smallest x / scale."""
        rng = np.random.default_rng(0)
        B, scale = rng.standard_normal((4, N)), 1 + rng.random(N)
        A = Wrapped(lambda x: B @ x, lambda y: B.T @ y, (N,), (4,))
        y = rng.standard_normal(4)
        found = truncated_svd(A, y, np.zeros(N), rank=4, keep=4, scale=scale)
        expected = scale * (np.linalg.pinv(B * scale) @ y)
        np.testing.assert_allclose(found.image, expected, atol=1e-10)

    @pytest.mark.parametrize("keep", [-1, 9, "best"])
    def test_bad_rules(self, keep):
        A, *_ = linear(np.ones(N))
        with pytest.raises(ValueError, match="keep must be"):
            truncated_svd(A, np.ones(M), np.zeros(N), rank=8, keep=keep)


class TestGaussNewton:
    def test_of_a_linear_operator_it_is_tikhonovs_solution(self):
        A, B, *_ = linear(np.linspace(1, 2, N))
        y = np.random.default_rng(0).standard_normal(M)
        start = np.ones(N)
        found = gauss_newton(
            A, y, start, identity(), weight=0.3, noise=0.5, iterations=20, rtol=1e-14
        )
        left = B.T @ (B @ found - y) / 0.25 + 0.3 * (found - start)
        np.testing.assert_allclose(left, 0, atol=1e-6)

    def test_total_variation_is_stationary(self):
        A, B, *_ = linear(np.ones(N))
        D = scipy_sparse.csr_array(np.eye(N) - np.eye(N, k=1))
        y = B @ np.repeat([0.0, 1.0, 3.0], 4)
        found = gauss_newton(
            A, y, np.zeros(N), D, weight=0.1, variation=1e-3, iterations=200, rtol=1e-13
        )
        d = D @ found
        left = B.T @ (B @ found - y) + 0.1 * (D.T @ (d / np.hypot(d, 1e-3)))
        np.testing.assert_allclose(left, 0, atol=2e-3)

    def test_of_a_nonlinear_one_it_finds_the_minimum(self):
        A = WrappedNonlinear(
            np.exp, lambda x, dx: np.exp(x) * dx, lambda x, y: np.exp(x) * y, (N,), (N,)
        )
        truth = np.linspace(-1, 2, N)
        costs = []
        found = gauss_newton(
            A, np.exp(truth), np.zeros(N), identity(), weight=1e-9, iterations=50,
            rtol=1e-9, callback=lambda step, cost: costs.append(cost),
        )  # fmt: skip
        np.testing.assert_allclose(found, truth, atol=1e-3)
        assert costs == sorted(costs, reverse=True)
        bounded = gauss_newton(
            A, np.exp(truth), np.zeros(N), identity(), weight=1e-9, lower=-0.5
        )
        assert bounded.min() == -0.5

    @pytest.mark.parametrize("seed", [*range(20), 275, 365])
    def test_with_a_limit_it_is_the_bounded_minimum(self, seed):
        rng = np.random.default_rng(seed)
        m, n = rng.integers(1, 40, 2)
        M = rng.standard_normal((m, n)) * 10 ** rng.uniform(-2, 1, n)
        y, start = 3 * rng.standard_normal(m), rng.random(n)
        start = start if seed % 3 else np.full(n, -0.2)
        weight = 10 ** rng.uniform(-3, 2)
        L = np.eye(n) - 0.9 * np.eye(n, k=1)
        found = gauss_newton(
            Dense(M, (n,)), y, start, scipy_sparse.csr_array(L), weight=weight,
            lower=-0.2, iterations=200, rtol=0,
        )  # fmt: skip
        assert found.min() >= -0.2
        whole = np.vstack([M, np.sqrt(weight) * L])
        data = np.r_[y, np.sqrt(weight) * L @ start]
        best = lsq_linear(whole, data, (-0.2, np.inf), method="bvls", tol=1e-14)
        cost = np.sum((whole @ found - data) ** 2) / 2
        np.testing.assert_allclose(cost, best.cost, rtol=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"weight": 0.0}, "weight and variation must be positive"),
            ({"variation": 0.0}, "weight and variation must be positive"),
            ({"start": np.zeros(N + 1)}, "start must be"),
            ({"noise": 0.0}, "noise must be positive"),
        ],
    )
    def test_bad_options(self, options, message):
        A, *_ = linear(np.ones(N))
        options = {"weight": 1.0, "start": np.zeros(N), **options}
        with pytest.raises(ValueError, match=message):
            gauss_newton(A, np.ones(M), penalty=identity(), **options)

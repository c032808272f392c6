"""Pseudo-inverses and least squares where the rank is not full, by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import params
from operator_cases import adjoint, matrices

import svdinv.numpy as f

SHAPES = ((6, 4), (4, 6), (4, 4))


def of_rank(rank, shape, dtype=np.float64, seed=0):
    m, n = shape
    L, R = matrices((m, rank), dtype, seed), matrices((rank, n), dtype, seed + 1)
    return L @ R


def golub_pereyra(A, X):
    """Derivative of the pseudo-inverse along X at fixed rank."""
    I = np.linalg.pinv(A, rcond=1e-10)
    P, Q = A @ I, I @ A
    one, other = np.eye(len(P)) - P, np.eye(len(Q)) - Q
    X = adjoint(X)
    result = -I @ adjoint(X) @ I + I @ adjoint(I) @ X @ one
    return result + other @ X @ adjoint(I) @ I


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_derivative_at_fixed_rank(rank, shape, dtype):
    A, X = of_rank(rank, shape, dtype), matrices(shape, dtype, 5)
    value, moved = f.jvp(f.pinv, (A,), (X,))
    np.testing.assert_allclose(value, np.linalg.pinv(A, rcond=1e-10), atol=1e-12)
    expected = golub_pereyra(A, X)
    np.testing.assert_allclose(moved, expected, atol=1e-12 * (1 + abs(expected).max()))
    G = matrices(shape[::-1], dtype, 6)
    (gA,) = f.vjp(f.pinv, A)[1](G)
    assert abs(np.sum(np.conj(gA) * X).real - np.sum(np.conj(G) * moved).real) < 1e-10


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(6, 4), (12, 12), (50, 4, 6), (200, 20), (2000, 4)])
@pytest.mark.parametrize("exponent", [-0.9, -0.5, 0.5, 1])
def test_values_at_any_scale(exponent, shape, dtype):
    """With a derivative and without, up to where the largest singular value is none."""
    most = np.finfo(dtype).maxexp
    size = 2.0 ** min(int(exponent * most), most - 3)
    A = matrices(shape, dtype)
    expected = f.pinv(A)
    tolerance = 1e3 * np.finfo(dtype).eps
    found = f.pinv((A * size).astype(dtype)) * size
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    found = f.vjp(f.pinv, (A * size).astype(dtype))[0] * size
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_second_derivative_at_fixed_rank(shape):
    """Along matrices of the same rank, of the derivative along any direction."""
    m, n = shape
    A, X = of_rank(2, shape), matrices(shape, seed=5)
    left, right = matrices((m, m), seed=6), matrices((n, n), seed=7)

    def moved(t):
        return (np.eye(m) + t * left) @ A @ (np.eye(n) + t * right)

    def slope(A):
        return f.jvp(f.pinv, (A,), (X,))[1]

    found = f.jvp(slope, (A,), (left @ A + A @ right,))[1]
    h = 1e-4
    up, down, far, back = (golub_pereyra(moved(t), X) for t in (h, -h, 2 * h, -2 * h))
    expected = (8 * (up - down) - (far - back)) / (12 * h)
    assert np.abs(found - expected).max() < 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_damping_makes_every_matrix_regular(shape):
    A, b = of_rank(1, shape), matrices(shape[:1], seed=4)
    A[:, 1] = A[:, 0]
    X, G = matrices(shape, seed=5), matrices(shape[1:], seed=6)

    def solve(A, t):
        return np.linalg.solve(A.T @ A + t**2 * np.eye(shape[1]), A.T @ b)

    t = np.asarray(0.3)
    x, pullback = f.vjp(lambda A, t: f.lstsq(A, b, damping=t), A, t)
    np.testing.assert_allclose(x, solve(A, t), atol=1e-12)
    gA, gt = pullback(G)
    h = 1e-5
    slope = (solve(A + h * X, t) - solve(A - h * X, t)) @ G / (2 * h)
    np.testing.assert_allclose(np.sum(gA * X), slope, rtol=1e-7)
    slope = (solve(A, t + h) - solve(A, t - h)) @ G / (2 * h)
    np.testing.assert_allclose(gt, slope, rtol=1e-7)


@pytest.mark.parametrize("framework", params("torch", "jax"), indirect=True)
def test_one_matrix_and_many_right_hand_sides(framework):
    A, b = matrices((5, 3)), matrices((4, 5, 2), seed=1)
    G = matrices((4, 3, 2), seed=2)
    (x,), pullback = framework.vjp(framework.module.lstsq, A, b)
    gA, gb = pullback(G)
    inverse = np.linalg.pinv(A)
    np.testing.assert_allclose(x, inverse @ b, atol=1e-12)
    np.testing.assert_allclose(gb, inverse.T @ G, atol=1e-12)
    each = [
        framework.vjp(framework.module.lstsq, A, y)[1](g)[0]
        for y, g in zip(b, G, strict=True)
    ]
    np.testing.assert_allclose(gA, sum(each), atol=1e-12)


def test_zero_matrices_and_single_columns():
    for A in (np.zeros((3, 2)), np.ones((3, 1)), np.ones((1, 3)), np.zeros((3, 0))):
        value, pullback = f.vjp(f.pinv, A)
        np.testing.assert_allclose(value, np.linalg.pinv(A), atol=1e-15)
        (gA,) = pullback(np.ones_like(value))
        assert gA.shape == A.shape
        assert np.isfinite(gA).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-15, 1e-9, 1e-4, 1, 1e9])
@pytest.mark.parametrize("shape", SHAPES)
def test_damping_beyond_all_singular_values_keeps_the_digits(shape, size, dtype):
    """And below: x is A^H b / damping^2 or A^+ b then, and so is its derivative."""
    A, b = matrices(shape, seed=1), matrices(shape[:1], seed=2)
    A, X, G = A + 0.1, matrices(shape, seed=5), matrices(shape[1:], seed=6)

    def exact(A, t):
        m, n = A.shape
        if n <= m:
            return np.linalg.solve(A.T @ A + t**2 * np.eye(n), A.T @ b)
        return A.T @ np.linalg.solve(A @ A.T + t**2 * np.eye(m), b)

    given = (np.asarray(size * A, dtype), np.asarray(0.7, dtype))
    x, pullback = f.vjp(lambda A, t: f.lstsq(A, b.astype(dtype), damping=t), *given)
    limit = 1e-11 if dtype == np.float64 else 2e-4  # of the condition of A
    expected = exact(size * A, 0.7)
    assert np.linalg.norm(x - expected) <= limit * np.linalg.norm(expected)
    gA, gt = pullback(G.astype(dtype))
    h = 1e-6
    slope = (exact(size * (A + h * X), 0.7) - exact(size * (A - h * X), 0.7)) @ G
    limit = max(limit, 1e-6)
    scale = np.linalg.norm(gA) * size * np.linalg.norm(X)
    assert abs(np.sum(gA * size * X) - slope / (2 * h)) <= limit * scale
    step = h * max(size, 1)
    rise = (exact(size * A, 0.7 + step) - exact(size * A, 0.7 - step)) @ G
    assert abs(gt - rise / (2 * step)) <= limit * abs(gt) + 1e-9 * abs(G @ x)


def test_damping_of_infinity_and_of_nothing_at_all():
    A = np.stack([of_rank(1, (4, 3), seed=seed) for seed in range(3)])
    b = matrices((3, 4), seed=3)
    A[1] = 0
    t = np.array([0.0, 0.0, np.inf])
    x, pullback = f.vjp(lambda A: f.lstsq(A, b, damping=t), A)
    np.testing.assert_allclose(x[0], np.linalg.pinv(A[0]) @ b[0], atol=1e-13)
    assert not x[1:].any()
    assert np.isfinite(pullback(x + 1)[0]).all()
    expected = golub_pereyra(A[0], A[1] + 1)
    found = f.jvp(lambda A: f.lstsq(A, b, damping=t), (A,), (A * 0 + 1,))[1][0]
    np.testing.assert_allclose(found, expected @ b[0], atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-8, 1e-4, 1, 1e3])
def test_second_derivative_with_damping_of_any_size(size, shape, dtype):
    torch = pytest.importorskip("torch")
    import svdinv.torch as st

    def second(dtype, solve):
        A, D, b = (
            torch.tensor(matrices(s, seed=seed), dtype=dtype)
            for seed, s in enumerate((shape, shape, shape[:1]))
        )
        G = torch.tensor(matrices(shape[1:], seed=3), dtype=dtype)
        t = torch.zeros((), dtype=dtype, requires_grad=True)
        value = G @ solve(size * A + t * D, b)
        (slope,) = torch.autograd.grad(value, t, create_graph=True)
        return torch.autograd.grad(slope, t)[0].item()

    def exact(M, b):
        m, n = shape
        if n <= m:
            return torch.linalg.solve(M.T @ M + torch.eye(n).double(), M.T @ b)
        return M.T @ torch.linalg.solve(M @ M.T + torch.eye(m).double(), b)

    dtype = getattr(torch, dtype)
    found = second(dtype, lambda M, b: st.lstsq(M, b, damping=1.0))
    expected = second(torch.float64, exact)
    limit = 1e-9 if dtype == torch.float64 else 2e-3
    assert abs(found - expected) <= limit * abs(expected)

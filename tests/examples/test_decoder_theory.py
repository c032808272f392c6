"""The formulas for the two-layer generator, against brute force."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from decoder_theory import (
    TwoLayer,
    circulant,
    error_bound,
    expected_values,
    gaussian_kernel,
    smoothest,
    triangular_kernel,
    trigonometric_basis,
)

KERNELS = {
    "triangle": triangular_kernel(24, 3.5),
    "gaussian": gaussian_kernel(25, 1.7),
    "delta": np.eye(1, 12)[0],
    "signs": np.array([1.0, -0.4, 0, 0.2, 0, 0, 0.2, 0, -0.4]),
    "one sample": np.array([2.0]),
    "two samples": np.array([1.0, 0.5]),
}


@pytest.fixture(params=KERNELS)
def kernel(request):
    return KERNELS[request.param]


def test_kernels():
    np.testing.assert_allclose(triangular_kernel(8, 2), [0.5, 0.25, *[0] * 5, 0.25])
    wide = gaussian_kernel(64, 3.0)
    distance = np.minimum(np.arange(64), 64 - np.arange(64))
    np.testing.assert_allclose([wide.sum(), wide @ distance**2], [1, 9], rtol=1e-6)


def test_circulant_is_the_convolution():
    rng = np.random.default_rng(0)
    u, x = rng.standard_normal((2, 7))
    expected = np.fft.ifft(np.fft.fft(u) * np.fft.fft(x)).real
    np.testing.assert_allclose(circulant(u) @ x, expected, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9])
def test_the_basis_is_orthonormal_and_slow_first(n):
    basis = trigonometric_basis(n)
    np.testing.assert_allclose(basis.T @ basis, np.eye(n), atol=1e-14)
    frequency = abs(np.fft.rfft(basis, axis=0)).argmax(axis=0)
    np.testing.assert_array_equal(frequency, (np.arange(n) + 1) // 2)


def test_singular_values_and_vectors_are_those_of_the_expected_gram(kernel):
    """By the probability of two normal numbers to be positive, pair by pair."""
    U = circulant(kernel)
    products = U @ U.T
    cosine = products / np.sqrt(np.outer(np.diag(products), np.diag(products)))
    both = 0.5 * (1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi)
    basis = trigonometric_basis(len(kernel))
    found = (basis * expected_values(kernel) ** 2) @ basis.T
    np.testing.assert_allclose(found, both * products, atol=1e-7)


def test_a_delta_has_a_flat_spectrum_but_for_the_mean():
    """Rows of the identity are orthogonal: E J J^T = I / 2."""
    np.testing.assert_allclose(expected_values(KERNELS["delta"]), np.sqrt(0.5))


@pytest.mark.parametrize("name", ["triangle", "gaussian", "signs"])
def test_wide_random_networks_have_these_singular_values(name):
    """Quadratic forms of the gram within five standard errors of k terms."""
    kernel, k = KERNELS[name], 20_000
    n = len(kernel)
    C = np.random.default_rng(0).standard_normal((n, k))
    basis, values = trigonometric_basis(n), expected_values(kernel)
    # What each column adds, whose mean is the squared singular value.
    U = circulant(kernel)
    terms = np.square(U.T @ ((U @ C > 0)[:, :, None] * basis[:, None]).reshape(n, -1))
    terms = terms.sum(axis=0).reshape(k, n)
    np.testing.assert_allclose(
        terms.mean(axis=0), np.diag(basis.T @ TwoLayer(kernel, k).gram(C) @ basis)
    )
    error = terms.std(axis=0) / np.sqrt(k)
    assert np.all(abs(terms.mean(axis=0) - values**2) < 5 * error)
    assert np.all(error < 0.05 * values**2)


def test_the_gram_is_that_of_the_dense_jacobian(kernel):
    n, generator = len(kernel), TwoLayer(kernel, 4)
    rng = np.random.default_rng(1)
    C, other = rng.standard_normal((2, n, 4))

    def jacobian(C):
        step = 1e-6
        columns = []
        for i in range(C.size):
            move = step * np.eye(1, C.size, i).reshape(C.shape)
            columns.append((generator(C + move) - generator(C - move)) / (2 * step))
        return np.stack(columns, axis=1)

    J, K = jacobian(C), jacobian(other)
    np.testing.assert_allclose(generator.gram(C), J @ J.T, atol=1e-7)
    np.testing.assert_allclose(generator.gram(C, other), (J - K) @ (J - K).T, atol=1e-7)


def test_descent_goes_along_the_gradient():
    kernel, y = KERNELS["triangle"], np.sin(np.arange(24.0))
    generator = TwoLayer(kernel, 6)
    C = generator.start(0, scale=2.0)
    np.testing.assert_allclose(generator(C), 0, atol=1e-14)
    assert abs(C.std() - 2) < 0.4
    C[:, 0] += 0.3
    (x, same), (_, after) = islice(generator.descend(C, lambda x: x - y, 1e-4), 2)
    assert same is C
    np.testing.assert_allclose(x, generator(C))
    direction = np.random.default_rng(1).standard_normal(C.shape)

    def loss(t):
        return 0.5 * np.sum((generator(C + t * direction) - y) ** 2)

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert np.sum((C - after) / 1e-4 * direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("m", [1, 5, 12, 20])
def test_the_bound_of_the_linear_case_holds_and_is_attained(m):
    n, rng = 12, np.random.default_rng(m)
    J = rng.standard_normal((n, 15)) * np.linspace(1, 0.1, n)[:, None]
    A = rng.standard_normal((m, n))
    for x in rng.standard_normal((20, n)):
        found = smoothest(J, A, A @ x)
        np.testing.assert_allclose(A @ found, A @ x, atol=1e-10)
        assert np.linalg.norm(found - x) <= error_bound(J, A, x) + 1e-10
    # The worst signal is J c for the c in the null space of A J that J makes longest.
    null = np.linalg.svd(A @ J)[2][min(m, n) :]
    c = null.T @ np.linalg.svd(J @ null.T)[2][0]
    x = J @ c
    if m < n:
        error = np.linalg.norm(smoothest(J, A, A @ x) - x)
        assert error == pytest.approx(np.linalg.norm(x))
        assert error == pytest.approx(error_bound(J, A, x))
    else:
        assert error_bound(J, A, x) == 0


@pytest.mark.parametrize("width", [0, 3, -2])
def test_bad_widths(width):
    with pytest.raises(ValueError, match="width must be even and positive"):
        TwoLayer(KERNELS["delta"], width)


@pytest.mark.parametrize(("n", "width"), [(0, 1.0), (8, 0.0), (8, -1.0)])
def test_bad_kernels(n, width):
    for make in (triangular_kernel, gaussian_kernel):
        with pytest.raises(ValueError, match="must be positive"):
            make(n, width)

"""Operators of matrices whose squares or cubes under- or overflow."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import FRAMEWORKS, as_tuple, params
from operator_cases import adjoint, inner, matrices, with_values

import svdinv.numpy
from svdinv import kernels


def _definite(dtype):
    X = matrices((5, 4, 4), dtype)
    return X @ np.conj(np.swapaxes(X, -1, -2)) / 4 + 0.1 * np.eye(4)


def _indefinite(dtype):
    return _definite(dtype) - 0.8 * np.eye(4)


def _two_definite(dtype):
    return _definite(dtype), np.roll(_definite(dtype), 1, axis=0)


# f(c A) = c^degree f(A), for the first argument or for all.
HOMOGENEOUS = {
    "sqrtm": (lambda f, A: f.sqrtm(A), 0.5, _definite),
    "inv_sqrtm": (lambda f, A: f.inv_sqrtm(A), -0.5, _definite),
    "powm": (lambda f, A: f.powm(A, -0.7), -0.7, _definite),
    "psd_project": (lambda f, A: f.psd_project(A), 1, _indefinite),
    "pinv": (lambda f, A: f.pinv(A), -1, lambda dtype: matrices((2, 5, 3), dtype)),
    "polar": (lambda f, A: f.polar(A), 0, lambda dtype: matrices((2, 5, 3), dtype)),
    "bures_distance": (lambda f, A, B: f.bures_distance(A, B), 0.5, _two_definite),
    "bures_distance, squared": (
        lambda f, A, B: f.bures_distance(A, B, squared=True), 1, _two_definite),
    "eigh_generalized": (
        lambda f, A, B: f.eigh_generalized(A, B).w, 0, _two_definite),
    "robust_pca": (
        lambda f, A: f.robust_pca(A, 0.6, iterations=3).low_rank, 1,
        lambda dtype: matrices((2, 5, 3), dtype)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("name", HOMOGENEOUS)
@pytest.mark.parametrize("framework", params("numpy", "torch"), indirect=True)
def test_homogeneous_operators_at_any_scale(framework, name, dtype):
    call, degree, draw = HOMOGENEOUS[name]
    given = draw(dtype)
    given = list(given) if isinstance(given, tuple) else [given]
    X = [matrices(x.shape, x.dtype, 5 + i) for i, x in enumerate(given)]

    def function(*x):
        return call(framework.module, *x)

    expected = None
    for c in (1.0, 1e-150, 1e-60, 1e60, 1e150):
        inputs, along = [c * x for x in given], [c * x for x in X]
        values = framework.value(function, *inputs)
        G = [matrices(y.shape, y.dtype, 9).reshape(y.shape) for y in values]
        found = framework.derivatives(function, inputs, along, G)
        # What a tangent and a gradient become, with the size of A left out.
        sizes = (degree, degree - 1, degree, degree - 1)
        found = [
            [x / c**k for x in as_tuple(part)]
            for k, part in zip(sizes, found, strict=True)
        ]
        expected = found if expected is None else expected
        for part, other in zip(found, expected, strict=True):
            error = [x - y for x, y in zip(part, other, strict=True)]
            assert inner(error, error) < 1e-24 * inner(other, other)


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [("float64", (1e-305, 1e-290, 1e303)), ("float32", (1e-36, 1e-30, 1e35))],
)
@pytest.mark.parametrize("framework", params("numpy", "torch"), indirect=True)
def test_robust_pca_has_the_same_derivative_at_the_edges(framework, dtype, sizes):
    """By its default penalty, too, whose cotangent is of the size of A."""
    A, G = (matrices((5, 4), seed=k).astype(dtype) for k in range(2))

    def low_rank(A):
        return framework.module.robust_pca(A, 0.5, iterations=5).low_rank

    def gradient(c):
        _, pull = framework.vjp(low_rank, A * np.asarray(c, dtype))
        return pull(G)[0]

    expected = gradient(1.0)
    for c in sizes:
        error = np.abs(gradient(c) - expected).max()
        assert error < 2000 * np.finfo(dtype).eps * np.abs(expected).max()


@pytest.mark.parametrize("damping", [0, 1.0])
@pytest.mark.parametrize("framework", params("numpy", "torch"), indirect=True)
def test_subnormal_matrices_are_solved(framework, damping):
    """Whose pseudo-inverse is infinite."""
    A = np.array([[3.0, 1.0], [1.0, 2.0], [0.5, 0.0]])

    def solved(c):
        return framework.value(
            lambda A, b: framework.module.lstsq(A, b, damping=damping * c), A * c, A * c
        )[0]

    for c in (1e-309, 1e-312):
        digits = max(5e-324 / c, 1e-15)
        np.testing.assert_allclose(solved(c), solved(1.0), atol=10 * digits)


@pytest.mark.skipif(not kernels.is_loaded(), reason="JAX and TensorFlow flush them")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "framework", params("numpy", "torch", "jax", "tensorflow"), indirect=True
)
def test_subnormal_elements_count_beside_others(framework, dtype):
    """Though the threads of JAX and TensorFlow take them for 0."""
    size = float(np.ldexp(1.0, np.finfo(dtype).minexp + 4))
    A = np.array([[1, 1 / 64], [-1 / 64, 0.5]])
    for name in ("polar", "svdvals", "svt"):
        f = getattr(framework.module, name)
        f = (lambda A, f=f: f(A, 0.0)) if name == "svt" else f
        found = framework.value(f, (A * size).astype(dtype))[0].astype(float)
        due = framework.value(f, A)[0]
        due = due if name == "polar" else due * size
        limit = 1e-5 if dtype == np.float32 else 1e-13
        np.testing.assert_allclose(found, due, rtol=limit, atol=limit * abs(due).max())


@pytest.mark.parametrize(
    ("dtype", "a", "b"),
    [
        *[(np.float32, a, b) for a, b in ((1e10, 1e-11), (1e-12, 1e10), (1e-30, 1))],
        *[(np.float64, a, b) for a, b in ((1e80, 1e-80), (1e-80, 1e80))],
    ],
)
def test_generalized_eigenvalues_of_matrices_of_different_sizes(framework, dtype, a, b):
    A, B = (X.astype(np.float64) for X in _two_definite(np.float64))
    f = framework.module.eigh_generalized
    expected = framework.value(lambda A, B: f(A, B).w, A, B)[0]
    A, B = (a * A).astype(dtype), (b * B).astype(dtype)
    found = np.asarray(framework.value(lambda A, B: f(A, B).w, A, B)[0], float) / (
        a / b
    )
    limit = 100 * np.finfo(dtype).eps * abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [(np.float64, (1e-290, 1e-230, 1e230, 1e290)), (np.float32, (1e-33, 1e-28, 1e32))],
)
def test_generalized_eigenvalues_at_the_edges_of_the_dtype(dtype, sizes):
    """The gradient is as 1 / c, for A and B both of size c."""
    import svdinv.numpy

    A, B = (X.astype(np.float64) for X in _two_definite(np.float64))

    def gradients(c):
        (w, V), pull = svdinv.numpy.vjp(
            svdinv.numpy.eigh_generalized, (A * c).astype(dtype), (B * c).astype(dtype)
        )
        # Of a loss in the moduli of V: the signs of its columns are arbitrary.
        G = dtype(c) * V * np.cos(np.arange(V.size)).reshape(V.shape)
        found = pull((np.ones_like(w), G))
        return [w, V * np.sqrt(dtype(c)), *(g * dtype(c) for g in found)]

    expected = gradients(1)
    for c in sizes:
        for x, y in zip(gradients(c), expected, strict=True):
            x, y = abs(x), abs(y)  # the signs of vectors are arbitrary
            np.testing.assert_allclose(
                x, y, rtol=0, atol=500 * np.finfo(dtype).eps * y.max()
            )


# f(c A) = c f(A), with the parameters in units of A.
THRESHOLDS = {
    "svt": lambda f, A, c: f.svt(A, 0.3 * c),
    "huber_threshold": lambda f, A, c: f.huber_threshold(A, 0.3 * c, 0.5 * c),
    "firm_threshold": lambda f, A, c: f.firm_threshold(A, 0.3 * c, 3.0),
    "log_sum_threshold": lambda f, A, c: f.log_sum_threshold(A, 0.3 * c * c, 0.5 * c),
    "schatten_prox, 1/2": lambda f, A, c: f.schatten_prox(A, 0.3 * c**1.5, 1 / 2),
    "schatten_prox, 2/3": lambda f, A, c: f.schatten_prox(A, 0.3 * c ** (4 / 3), 2 / 3),
}


def of_decompositions(framework, A, c):
    """Functions of the values of A, in whose second derivatives c meets itself."""
    f = framework.module

    def transposed(x):
        return x.mT if hasattr(x, "mT") else framework.namespace.matrix_transpose(x)

    U, S, Vh = framework.svd(A)
    u, s, vh = framework.svd(transposed(A))
    P, t, Qh = f.svd_lowrank(A, 2, seed=0)
    w, V = f.eigh(A[:3, :] + transposed(A[:3, :]))
    V = V[:, :2]
    return (
        (U * (S - 0.3 * c)) @ Vh + transposed((u * (s + 0.2 * c)) @ vh),
        (P * t) @ Qh,
        f.spectral_map(A, lambda s: s - 0.3 * c),
        (V * w[:2]) @ transposed(V),
    )


@pytest.mark.parametrize(
    ("dtype", "sizes"), [("float32", (1e-30, 1e30)), ("float64", (1e-300, 1e290))]
)
@pytest.mark.parametrize(
    "name", ["svt", "firm_threshold", "low_rank", "svd", "all decompositions"]
)
def test_second_derivatives_of_any_size(framework, name, dtype, sizes):
    """Where the coefficients of second derivatives are no numbers."""
    f, degree = framework.module, 0.0 if name == "svd" else 1.0
    A, G, X = (matrices((4, 3), seed=i).astype(dtype) for i in range(3))

    def of(c):
        def function(A):
            if name == "svd":
                U, _, Vh = framework.svd(A)
                return U[:, :2] @ Vh[:2, :]
            if name == "all decompositions":
                return of_decompositions(framework, A, float(c))
            if name == "low_rank":
                return f.low_rank(A, 2)
            return THRESHOLDS[name](f, A, c)

        size = np.asarray(c, dtype)
        cotangents = [G, G, G, G[:3]] if name == "all decompositions" else [G]
        (found,) = framework.hvp(function, [A * size], [X * size], cotangents)
        return found * size ** (1 - degree)

    expected = of(1.0)
    for c in sizes:
        if framework.name == "tensorflow" and name == "all decompositions":
            c = max(c, 1e-290)  # its subnormal numbers are 0
        error = np.abs(of(c) - expected).max()
        assert error < 1000 * np.finfo(dtype).eps * np.abs(expected).max()


@pytest.mark.parametrize("name", THRESHOLDS)
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (np.float32, (1e-18, 1e-10, 1e10, 1e18)),
        (np.float64, (1e-150, 1e-90, 1e90, 1e150)),
    ],
)
def test_second_derivatives_of_thresholds_at_any_scale(name, dtype, sizes):
    import svdinv.numpy as svn

    A, G, X = (matrices((4, 3), dtype, seed) for seed in range(3))

    def second(c):
        def gradient(A):
            return svn.vjp(lambda A: THRESHOLDS[name](svn, A, float(c)), A)[1](G)[0]

        return svn.jvp(gradient, (A * dtype(c),), (X,))[1] * dtype(c)

    expected = second(1)
    for c in sizes:
        error = np.abs(second(c) - expected).max()
        assert error < 200 * np.finfo(dtype).eps * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "f", "degree"),
    [
        ("sqrtm", lambda f, A: f.sqrtm(A), 0.5),
        ("inv_sqrtm", lambda f, A: f.inv_sqrtm(A), -0.5),
        ("square", lambda f, A: f.powm(A, 2.0), 2),
        ("cube", lambda f, A: f.powm(A, 3.0), 3),
        ("inverse", lambda f, A: f.powm(A, -1.0), -1),
        ("psd_project", lambda f, A: f.psd_project(A), 1),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (np.float32, (2.0**-38, 2.0**-34, 2.0**34, 2.0**38)),
        (np.float64, (2.0**-300, 2.0**-280, 2.0**280, 2.0**300)),
    ],
)
def test_second_derivatives_of_hermitian_functions(name, f, degree, dtype, sizes):
    import svdinv.numpy as svn

    A, G, X = _definite(np.float64)[0], *(matrices((4, 4), seed=i) for i in (1, 2))
    A, G, X = (x.astype(dtype) for x in (A, G, X))

    def second(c):
        def gradient(A):
            return svn.vjp(lambda A: f(svn, A), A)[1](G)[0]

        return svn.jvp(gradient, (A * dtype(c),), (X,))[1].astype(float)

    expected = second(1)
    for c in sizes:
        error = np.abs(second(c) / c ** (degree - 2) - expected).max()
        assert error <= 1e3 * np.finfo(dtype).eps * np.abs(expected).max()


# f(c A) = c^degree f(A), but for a constant of the logarithm.
FAR = {
    "logm": (lambda f, A, c: f.logm(A), 0),
    "sqrtm": (lambda f, A, c: f.sqrtm(A), 0.5),
    "polar": (lambda f, A, c: f.polar(A), 0),
    "special polar": (lambda f, A, c: f.polar(A, special=True), 0),
    "svt": (lambda f, A, c: f.svt(A, 0.3 * c), 1),
    "firm_threshold": (lambda f, A, c: f.firm_threshold(A, 0.3 * c, 3.0), 1),
    "huber_threshold": (lambda f, A, c: f.huber_threshold(A, 0.3 * c, 0.5 * c), 1),
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize(("dtype", "exponent"), [(np.float32, 95), (np.float64, 900)])
def test_second_derivatives_where_no_square_is_a_number(name, dtype, exponent):
    import svdinv.numpy as svn

    (f, degree), A = FAR[name], _definite(np.float64)[0]
    if "polar" in name:
        A = A @ np.linalg.qr(matrices((4, 4), seed=3))[0]
    A, G, X = (
        x.astype(dtype) for x in (A, *(matrices((4, 4), seed=i) for i in (1, 2)))
    )

    def second(c):
        def gradient(A):
            return svn.vjp(lambda A: f(svn, A, float(c)), A)[1](G)[0]

        (found,) = svn.jvp(gradient, (A * dtype(c),), (X * dtype(c),))[1:]
        return found.astype(float) / c ** (degree - 1)

    expected = second(1.0)
    for c in (2.0**exponent, 2.0**-exponent):
        error = np.abs(second(c) - expected).max()
        assert error <= 1e3 * np.finfo(dtype).eps * np.abs(expected).max()


def test_weights_of_points_of_any_size():
    import svdinv.numpy as svn

    P, Q, X = (matrices((6, 3), seed=i) for i in range(3))
    w, v = 1 + np.arange(6.0), np.sin(np.arange(6.0))

    def second(c):
        def gradient(w):
            def loss(w):
                R, t, rmsd = svn.kabsch(P, Q, w)
                return (R * X[:3]).sum() + t.sum() + rmsd

            return svn.vjp(loss, w)[1](1.0)[0]

        return svn.jvp(gradient, (w * c,), (v * c,))[1] * c

    expected = second(1.0)
    for c in (1e-120, 1e200, 2e307):
        np.testing.assert_allclose(second(c), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "ratios"),
    [("float32", (1e14, 1e25)), ("float64", (1e145, 1e200))],
)
def test_points_of_very_different_sizes(framework, dtype, ratios):
    """The scale is homogeneous, in Q of degree 1."""
    P, Q = (matrices((6, 3), seed=i).astype(dtype) for i in range(2))
    f = framework.module

    def of_scale(P, Q):
        return f.kabsch(P, Q, scale=True).scale

    (scale,) = framework.value(of_scale, P, Q)
    one = np.ones((), dtype)
    expected = framework.vjp(of_scale, P, Q)[1](one)
    tolerance = 1e3 * np.finfo(dtype).eps
    for ratio in ratios:
        (found,) = framework.value(of_scale, P, Q * np.asarray(ratio, dtype))
        np.testing.assert_allclose(found / ratio, scale, rtol=tolerance)
        gradients = framework.vjp(of_scale, P, Q * np.asarray(ratio, dtype))[1](one)
        np.testing.assert_allclose(gradients[0] / ratio, expected[0], rtol=tolerance)
        np.testing.assert_allclose(gradients[1], expected[1], rtol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("filled", [np.nan, np.inf, "large"])
def test_points_of_weight_0_may_be_anywhere(dtype, filled):
    import svdinv.numpy as svn

    P = matrices((6, 3)).astype(dtype)
    Q, w = 2 * P[:, ::-1] + 1, np.arange(6).astype(dtype)
    expected = svn.kabsch(P[1:], Q[1:], w[1:], scale=True, reflection=True)
    P[0] = {"float32": 1e30, "float64": 1e200}[dtype] if filled == "large" else filled
    found = svn.kabsch(P, Q, w, scale=True, reflection=True)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_an_infinite_threshold_keeps_nothing():
    import svdinv.numpy as svn

    A, tau = matrices((4, 30, 10)), np.array([2.0, np.inf, 2.0, 2.0])
    for method in ("svd", "gram", "auto"):
        value, pullback = svn.vjp(lambda A, m=method: svn.svt(A, tau, method=m), A)
        gradient = pullback(np.ones_like(A))[0]
        assert not value[1].any()
        assert not gradient[1].any()
        alone = svn.vjp(lambda A: svn.svt(A, 2.0), A[2:])[1](np.ones_like(A[2:]))[0]
        np.testing.assert_allclose(gradient[2:], alone, atol=1e-12)


def test_gradients_of_norms_of_subnormal_matrices():
    import svdinv.numpy as svn

    A = matrices((3, 3))
    for p in (3.0, 2.0, 0.5):
        expected = svn.vjp(lambda A, p=p: svn.schatten_norm(A, p), A)[1](1.0)[0]
        found = svn.vjp(lambda A, p=p: svn.schatten_norm(A, p), 1e-310 * A)[1](1.0)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


# Losses of squares, whose gradients in A are numbers where the loss is one.
SQUARES = {
    "sure": (lambda f, A, c: f.sure(A, 0.8 * c, 0.4 * c), 2),
    "whiten": (lambda f, A, c: f.whiten(A).covariance, 2),
    "kabsch": (lambda f, A, c: f.kabsch(A, A * A / c, scale=True)[1], 1),
}


@pytest.mark.parametrize("name", SQUARES)
def test_gradients_of_squares_in_single_precision(framework, name):
    """Also where subnormal numbers count as 0."""
    call, degree = SQUARES[name]
    A = matrices((7, 3), np.float32)

    def gradient(c):
        def function(A):
            return call(framework.module, A, float(c))

        (y,) = framework.value(function, c * A)[:1]
        G = matrices(y.shape, y.dtype, 9).reshape(y.shape)
        found = framework.vjp(function, c * A)[1](G)[0]
        return np.asarray(found, float) / c ** (degree - 1)

    expected = gradient(np.float32(1))
    for c in (2.0**-38, 2.0**-33, 2.0**33, 2.0**38):
        error = np.abs(gradient(np.float32(c)) - expected).max()
        assert error < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("dtype", "c"), [(np.float32, 1e-20), (np.float32, 1e25), (np.float64, 1e-160)]
)
def test_residuals_of_triplets_at_any_scale(dtype, c):
    from svdinv.numpy import svd_residual

    A = matrices((6, 4), dtype)
    U, S, Vh = np.linalg.svd(A, full_matrices=False)
    S = (1.001 * S).astype(dtype)
    expected = svd_residual(A, U, S, Vh)
    found = svd_residual(A * dtype(c), U, S * dtype(c), Vh) / dtype(c)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    np.testing.assert_allclose(expected, 0.001 * S, rtol=2e-3)
    batch = svd_residual(np.stack([A, A]), U, S, Vh)
    np.testing.assert_allclose(batch, [expected, expected], rtol=1e-3)


@pytest.mark.parametrize("full", [False, True], ids=["thin", "full"])
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [(np.complex64, (1e-30, 1.0, 1e36)), (np.float64, (1e-300, 1.0, 1e307))],
    ids=["complex64", "float64"],
)
def test_factors_of_any_size(framework, dtype, sizes, full):
    """cuSOLVER's own of one matrix near 1e-300 are wrong in the eighth digit."""
    for shape in ((4, 3), (40, 33), (2, 5, 4)):
        A = matrices(shape, dtype)
        A /= np.abs(A).max()
        for c in sizes:
            U, S, Vh = framework.value(
                lambda A: framework.svd(A, full_matrices=full), A * dtype(c)
            )
            k = S.shape[-1]
            product = (U[..., :k] * (S / c)[..., None, :]) @ Vh[..., :k, :]
            eps = 20 * shape[-2] * np.finfo(dtype).eps
            np.testing.assert_allclose(product, A, rtol=0, atol=eps)
            for Q in (U, adjoint(Vh)):
                unit = adjoint(Q) @ Q - np.eye(Q.shape[-1])
                assert np.abs(unit).max() < eps


@pytest.mark.parametrize(("far", "size"), [(1e3, 1), (1e5, 1), (4e6, 50)])
@pytest.mark.parametrize("batch", [(), (40,)])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("framework", params("numpy", "torch", "jax"), indirect=True)
def test_points_far_from_the_origin(framework, far, size, batch, scale):
    """As coordinates of maps in single precision: distances are rounded to 1e-7 far."""
    rng = np.random.default_rng(0)
    P = size * rng.standard_normal((*batch, 200, 3)) + far * np.array([0.1, 1, 0.01])
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    Q = P @ turn.T + 0.05 * size * rng.standard_normal(P.shape)
    given = [x.astype(np.float32) for x in (P, Q)]

    def derivatives(P, Q):
        (R, _, rmsd, *_), pullback = framework.vjp(
            lambda P, Q: framework.module.kabsch(P, Q, scale=scale), P, Q
        )
        zeros = np.zeros((*batch, 3), P.dtype)
        rest = [np.zeros_like(rmsd)] if scale else []
        of_rmsd = pullback(np.zeros_like(R), zeros, np.ones_like(rmsd), *rest)
        G = np.broadcast_to(np.arange(9, dtype=P.dtype).reshape(3, 3), R.shape)
        of_rotation = pullback(G, zeros, np.zeros_like(rmsd), *rest)
        return R, rmsd, *of_rmsd, *of_rotation

    expected = derivatives(*(x.astype(np.float64) for x in given))
    for x, y in zip(derivatives(*given), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=3e-5 * abs(y).max())


@pytest.mark.parametrize("condition", [1e4, 1e8, 1e11])
@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (20, 20)])
def test_residual_of_least_squares_is_below_that_of_the_pseudo_inverse(
    shape, condition
):
    """Far below eps times the condition, which the pseudo-inverse alone leaves."""
    import svdinv.numpy

    values = np.geomspace(1, 1 / condition, 20)
    A = with_values(values, shape, np.float64)
    b = A @ np.cos(np.arange(shape[1]))
    x = svdinv.numpy.lstsq(A, b)
    assert np.linalg.norm(A @ x - b) < 1e-12 * np.linalg.norm(b)


@pytest.mark.parametrize("framework", params("numpy", "torch"), indirect=True)
def test_means_of_many_samples_far_from_zero(framework):
    X = np.random.default_rng(0).standard_normal((100_000, 3)) + 1e4
    X = X.astype(np.float32)
    (white,) = framework.value(lambda X: framework.module.whiten(X).white, X)
    white = np.asarray(white, np.float64)
    assert abs(white.mean(axis=0)).max() < 2e-3  # samples are rounded to 1e-3
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=2e-3)


@pytest.mark.parametrize("scale", [False, True])
def test_gradients_of_points_of_very_different_sizes(framework, scale):
    """Products of two sizes are no numbers of single precision."""
    P, Q = (matrices((6, 3), seed=i).astype(np.float32) for i in range(2))
    P, Q = (P * 2**73, Q) if not scale else (P, Q * 2**73)
    g = np.ones(3)

    def gradients(framework, P, Q):
        def translation(P, Q):
            return framework.module.kabsch(P, Q, scale=scale).translation

        return framework.vjp(translation, P, Q)[1](g.astype(P.dtype))

    found = gradients(framework, P, Q)
    expected = gradients(FRAMEWORKS["numpy"], P.astype(float), Q.astype(float))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.abs(y).max())


@pytest.mark.parametrize(
    "framework", params("numpy", "torch", "tensorflow", "jax"), indirect=True
)
@pytest.mark.parametrize(("count", "distance"), [(2**16, 1e4), (10**6, 1e4)])
def test_many_points_far_away_in_single_precision(framework, count, distance):
    """Sums of so many terms, one after the other, would lose the centroid."""
    rng = np.random.default_rng(0)
    P = rng.standard_normal((count, 3)) + distance
    R = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    Q = P @ R * np.linalg.det(R) + 0.01 * rng.standard_normal(P.shape)
    P, Q = P.astype(np.float32), Q.astype(np.float32)
    found = framework.module.kabsch(framework.array(P), framework.array(Q))
    exact = svdinv.numpy.kabsch(P.astype(np.float64), Q.astype(np.float64))
    assert abs(float(found.rmsd) / exact.rmsd - 1) < 1e-4
    np.testing.assert_allclose(np.asarray(found.rotation), exact.rotation, atol=1e-4)

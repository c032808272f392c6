"""Soft thresholding and the polar factor by products, against known factors."""

from __future__ import annotations

import functools

import array_api_compat.numpy as numpy_namespace
import numpy as np
import pytest
from oracle import (
    POLAR,
    SOFT,
    SPECTRA,
    Problem,
    adjoint,
    draw,
    random_unitary,
    relative_error,
)

import svdinv.numpy
from svdinv.core import polynomial_iteration

TAU = 0.35  # of SOFT
SHAPES = ((6, 6), (9, 6), (6, 11), (32, 32))
DTYPES = (np.float32, np.complex64, np.float64, np.complex128)
# Value, relative to the largest singular value, and derivative.
BOUNDS = {np.float32: (3e-6, 6e-6), np.float64: (1e-14, 3e-14)}


def soft_threshold(A, tau, xp=numpy_namespace):
    return polynomial_iteration.threshold(xp, A, tau)[0]


def soft_threshold_derivative(A, tau, X, xp=numpy_namespace):
    _, W = polynomial_iteration.threshold(xp, A, tau)
    return polynomial_iteration.threshold_derivative(xp, A, tau, X, W)


def polar(A, xp=numpy_namespace):
    return polynomial_iteration.threshold(xp, A, None)[1]


def polar_derivative(A, X, xp=numpy_namespace):
    return polynomial_iteration.polar_derivative(xp, A, None, X, polar(A, xp))[0]


def bounds(dtype):
    return BOUNDS[np.finfo(dtype).dtype.type]


def threshold(dtype, tau=TAU):
    return np.asarray(tau, dtype=np.finfo(dtype).dtype)


def exact(problem, f):
    return (problem.U * f(problem.s)[..., None, :]) @ adjoint(problem.V)


def value_error(Y, problem, f=SOFT.value):
    error = np.linalg.norm(Y - exact(problem, f), 2, axis=(-2, -1))
    return (error / problem.s.max(axis=-1)).max()


def everything(A, tau, X, xp):
    """All functions, for frameworks that trace them."""
    return (
        soft_threshold(A, tau, xp=xp),
        *soft_threshold_derivative(A, tau, X, xp=xp),
        polar(A, xp=xp),
        polar_derivative(A, X, xp=xp),
    )


def run_numpy(*arrays):
    return everything(*arrays, numpy_namespace)


def run_strict(*arrays):
    xp = pytest.importorskip("array_api_strict")
    return everything(*map(xp.asarray, arrays), xp)


def run_torch(*arrays):
    torch = pytest.importorskip("torch")
    from svdinv.backends import torch_namespace

    return everything(*map(torch.tensor, arrays), torch_namespace)


def run_torch_vmap(*arrays):
    torch = pytest.importorskip("torch")
    from svdinv.backends import torch_namespace

    A, tau, X = map(torch.tensor, arrays)
    return torch.vmap(
        lambda a, t, x: everything(a, t, x, torch_namespace), in_dims=(0, None, 0)
    )(A, tau, X)


def run_jax(*arrays):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        jitted = jax.jit(everything, static_argnums=3)
        return jitted(*map(jax.numpy.asarray, arrays), jax.numpy)


run_jax.compiles = True  # which takes seconds, for each shape and dtype


def run_tensorflow(*arrays):
    tf = pytest.importorskip("tensorflow")
    from svdinv.backends import tensorflow_namespace

    return everything(*map(tf.constant, arrays), tensorflow_namespace)


@functools.cache
def tensorflow_graph(dtype, real):
    """One graph for all shapes."""
    import tensorflow as tf

    from svdinv.backends import tensorflow_namespace

    unknown = tf.TensorSpec(None, dtype)
    return tf.function(
        lambda a, t, x: everything(a, t, x, tensorflow_namespace),
        input_signature=[unknown, tf.TensorSpec(None, real), unknown],
        autograph=False,
    )


def run_tensorflow_graph(*arrays):
    tf = pytest.importorskip("tensorflow")
    A, tau, _ = arrays
    return tensorflow_graph(A.dtype, tau.dtype)(*map(tf.constant, arrays))


RUNS = (
    run_numpy,
    run_strict,
    run_torch,
    run_torch_vmap,
    run_jax,
    run_tensorflow,
    run_tensorflow_graph,
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_at_every_spectrum(shape, dtype):
    value, derivative = bounds(dtype)
    for seed, spectrum in enumerate(SPECTRA):
        problem = draw(spectrum, shape, draws=10, dtype=dtype, seed=seed)
        tau, X = threshold(dtype), problem.G.astype(dtype)
        Y = soft_threshold(problem.A, tau)
        dY, T = soft_threshold_derivative(problem.A, tau, X)
        assert Y.dtype == dY.dtype == T.dtype == dtype
        assert value_error(Y, problem) < value
        assert relative_error(dY, problem.exact_gradient(SOFT)).max() < derivative
        assert value_error(-T, problem, lambda s: (s > TAU) + 0.0) < derivative


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize("run", RUNS)
def test_every_framework(run, dtype):
    if run is run_tensorflow_graph and dtype == np.float32:
        pytest.skip("takes ten seconds, and holds less than that of complex matrices")
    fewer = SHAPES[1:2] if dtype == np.float32 else SHAPES[2:3]
    for shape in fewer if hasattr(run, "compiles") else SHAPES[:3]:
        check_framework(run, shape, dtype)


def check_framework(run, shape, dtype):
    problem = draw("pair", shape, draws=3, dtype=dtype)
    results = run(problem.A, threshold(dtype), problem.G.astype(dtype))
    Y, dY, T, Q, dQ = map(np.asarray, results)
    assert {x.dtype.type for x in (Y, dY, T, Q, dQ)} == {dtype}
    value, derivative = bounds(dtype)
    assert value_error(Y, problem) < value
    assert relative_error(dY, problem.exact_gradient(SOFT)).max() < derivative
    assert value_error(-T, problem, lambda s: (s > TAU) + 0.0) < derivative
    assert relative_error(Q, exact(problem, POLAR.value)).max() < value
    assert relative_error(dQ, problem.exact_gradient(POLAR)).max() < derivative


@pytest.mark.parametrize(
    ("dtype", "conditions"),
    [(np.float32, (1.0, 1e2, 1e4)), (np.float64, (1.0, 1e3, 1e6, 1e9))],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_polar_factor_of_ill_conditioned_matrices(shape, dtype, conditions):
    rng = np.random.default_rng(0)
    k = min(shape)
    for condition in conditions:
        U, V = (random_unitary((20, size, k), rng, False) for size in shape)
        s = np.tile(np.geomspace(1, 1 / condition, k), (20, 1))
        A = ((U * s[:, None, :]) @ adjoint(V)).astype(dtype)
        G = rng.standard_normal(A.shape).astype(dtype)
        problem = Problem(A, U, s, V, G.astype(np.float64))
        # What rounding A alone changes, and a few eps.
        tolerance = (10 + condition) * np.finfo(dtype).eps
        error = relative_error(polar(A), exact(problem, POLAR.value))
        assert error.max() < tolerance
        error = relative_error(polar_derivative(A, G), problem.exact_gradient(POLAR))
        assert error.max() < tolerance


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [(np.float32, (1e-30, 1e30)), (np.complex128, (1e-150, 1e150))],
)
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_scale_free(shape, dtype, scales):
    problem = draw("pair", shape, draws=3, dtype=dtype)
    X = problem.G.astype(dtype)
    value, derivative = bounds(dtype)
    for size in scales:
        for tangent in scales:
            A, tau, G = problem.A * dtype(size), threshold(dtype, TAU * size), X
            G = G * dtype(tangent)
            Y = soft_threshold(A, tau) / dtype(size)
            dY, _ = soft_threshold_derivative(A, tau, G)
            error = relative_error(dY / dtype(tangent), problem.exact_gradient(SOFT))
            assert value_error(Y, problem) < value
            assert error.max() < derivative
        dQ = polar_derivative(A, X * dtype(size))
        assert relative_error(polar(A), exact(problem, POLAR.value)).max() < value
        assert relative_error(dQ, problem.exact_gradient(POLAR)).max() < derivative


@pytest.mark.parametrize("dtype", DTYPES)
def test_thresholds_far_from_all_singular_values(dtype):
    problem = draw("one zero", (7, 6), draws=4, dtype=dtype)
    A, X = problem.A, problem.G.astype(dtype)
    for tau in (10.0, 1e30, np.inf):
        Y = soft_threshold(A, threshold(dtype, tau))
        dY, T = soft_threshold_derivative(A, threshold(dtype, tau), X)
        for x in (Y, dY, T):
            assert np.abs(x).max() < np.finfo(dtype).eps
    np.testing.assert_array_equal(soft_threshold(A, threshold(dtype, 0)), A)
    dY, T = soft_threshold_derivative(A, threshold(dtype, 0), X)
    np.testing.assert_array_equal(dY, X)
    # The singular vectors at 0 are in the hands of rounding errors.
    seen = adjoint(problem.U) @ T @ problem.V
    np.testing.assert_allclose(
        seen[:, :5, :5], -np.tile(np.eye(5), (4, 1, 1)), atol=100 * bounds(dtype)[0]
    )


@pytest.mark.parametrize("tau", [0.5, 0.1, 1e-2, 1e-3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thresholds_small_and_large(tau, dtype):
    rng = np.random.default_rng(1)
    U, V = (random_unitary((20, 8, 8), rng, False) for _ in range(2))
    s = np.tile([1, 0.8, 1.2 * tau, 1.2 * tau, 1.01 * tau, 0.9 * tau, 1e-5, 0], (20, 1))
    A = ((U * s[:, None, :]) @ adjoint(V)).astype(dtype)
    Y = soft_threshold(A, threshold(dtype, tau))
    problem = Problem(A, U, s, V, A)
    assert value_error(Y, problem, lambda s: np.maximum(s - tau, 0)) < bounds(dtype)[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_singular_values_at_the_threshold(dtype):
    # There is no derivative, but the value is continuous.
    problem = draw("pair", (8, 8), draws=20, dtype=dtype)
    tau = problem.s[:, 1]
    Y = soft_threshold(problem.A, threshold(dtype, tau))
    f = np.maximum(problem.s - tau[:, None], 0)
    error = Y - (problem.U * f[:, None, :]) @ adjoint(problem.V)
    assert np.abs(error).max() < 2 * bounds(dtype)[0]
    X = problem.G.astype(dtype)
    dY, _ = soft_threshold_derivative(problem.A, threshold(dtype, tau), X)
    size, given = (np.linalg.norm(x, axis=(-2, -1)) for x in (dY, X))
    assert (size < given * (1 + bounds(dtype)[1])).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_zero_matrix(shape, dtype):
    A, X = np.zeros((2, *shape), dtype), np.ones((2, *shape), dtype)
    for x in (
        soft_threshold(A, threshold(dtype)),
        *soft_threshold_derivative(A, threshold(dtype), X),
        soft_threshold(A, threshold(dtype, 0)),
        polar(A),
        polar_derivative(A, X),
    ):
        np.testing.assert_array_equal(x, A)


def test_one_threshold_for_each_matrix():
    problem = draw("distinct", (6, 7), draws=6, dtype=np.complex128)
    A = problem.A.reshape(2, 3, 6, 7)
    X = problem.G.reshape(2, 3, 6, 7)
    tau = np.array([0.0, 0.35, 0.8])
    Y = soft_threshold(A, tau)
    dY, T = soft_threshold_derivative(A, tau, X)
    for i in range(2):
        for j in range(3):
            args = A[i, j], tau[j], X[i, j]
            alone = soft_threshold(*args[:2]), *soft_threshold_derivative(*args)
            for x, y in zip((Y, dY, T), alone, strict=True):
                np.testing.assert_allclose(x[i, j], y, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_derivative_is_that_of_the_value(dtype):
    problem = draw("distinct", (8, 6), draws=3, dtype=dtype)
    A, X, tau = problem.A, problem.G.astype(dtype), threshold(dtype, 0.7)
    h = 1e-6
    dY, T = soft_threshold_derivative(A, tau, X)
    difference = soft_threshold(A + h * X, tau + h) - soft_threshold(A - h * X, tau - h)
    np.testing.assert_allclose(difference / (2 * h), dY + T, atol=1e-7)
    difference = (polar(A + h * X) - polar(A - h * X)) / (2 * h)
    np.testing.assert_allclose(difference, polar_derivative(A, X), atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_derivative_is_its_own_adjoint(dtype):
    problem = draw("two clusters", (6, 9), draws=3, dtype=dtype)
    A, X, tau = problem.A, problem.G.astype(dtype), threshold(dtype)
    Z = draw("distinct", (6, 9), draws=3, dtype=dtype, seed=1).G.astype(dtype)
    for derivative in (
        lambda x: soft_threshold_derivative(A, tau, x)[0],
        lambda x: polar_derivative(A, x),
    ):
        there, back = np.vdot(Z, derivative(X)), np.vdot(derivative(Z), X)
        np.testing.assert_allclose(there.real, back.real, rtol=1e-12)


def test_no_graph_break_in_torch():
    torch = pytest.importorskip("torch")
    from svdinv.backends import torch_namespace

    problem = draw("pair", (6, 6), draws=2)
    args = (*map(torch.tensor, (problem.A, threshold(np.float64), problem.G)),)

    def function(A, tau, X):
        return soft_threshold_derivative(A, tau, X, xp=torch_namespace)

    compiled = torch.compile(function, backend="eager", fullgraph=True)
    for x, y in zip(compiled(*args), function(*args), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("accuracy", [1e-1, 1e-3, 1e-6])
def test_accuracy_is_the_distance_that_is_resolved(accuracy, monkeypatch):
    eps = np.finfo(np.float64).eps
    monkeypatch.setattr(polynomial_iteration, "_RESOLVED", accuracy / eps)
    rng = np.random.default_rng(2)
    U, V = (random_unitary((50, 6, 6), rng, False) for _ in range(2))
    s = np.tile([1, 1, 1, 0.9, 0.5 + 3 * accuracy, 0.4 - 2 * accuracy], (50, 1))
    problem = Problem((U * s[:, None, :]) @ adjoint(V), U, s, V, U)
    for tau in (0.5, 0.4):  # below and above: the bound may be twice as large
        Y = soft_threshold(problem.A, np.asarray(tau))
        error = value_error(Y, problem, lambda s, tau=tau: np.maximum(s - tau, 0))
        assert error < (1e-13 if accuracy < 0.1 else accuracy)


class Counted(np.ndarray):
    """Array that counts its products."""

    count = 0

    def __matmul__(self, other):
        Counted.count += 1
        return (np.asarray(self) @ np.asarray(other)).view(Counted)

    def __rmatmul__(self, other):
        return NotImplemented


@pytest.mark.parametrize(
    ("dtype", "products"), [(np.float32, (57, 145)), (np.float64, (124, 312))]
)
def test_number_of_products(dtype, products):
    problem = draw("pair", (6, 6), draws=1, dtype=dtype)
    A, X = problem.A.view(Counted), problem.G.astype(dtype).view(Counted)
    tau, found = threshold(dtype), []
    _, W = polynomial_iteration.threshold(numpy_namespace, problem.A, tau)
    for function, further in (("threshold", ()), ("threshold_derivative", (X, W))):
        Counted.count = 0
        further = [x.view(Counted) for x in further]
        getattr(polynomial_iteration, function)(numpy_namespace, A, tau, *further)
        found.append(Counted.count)
    assert tuple(found) == products


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_soft_threshold_by_products_is_that_by_the_svd(shape, relative):
    A, G, dA = np.random.default_rng(3).standard_normal((3, 2, *shape))
    tau, dtau = np.array([0.4, 0.5]), np.array([1.0, -2.0])

    def run(method):
        def f(A, tau):
            return svdinv.numpy.svt(A, tau, relative=relative, method=method)

        value, pullback = svdinv.numpy.vjp(f, A, tau)
        return value, *pullback(G), svdinv.numpy.jvp(f, (A, tau), (dA, dtau))[1]

    for found, expected in zip(run("matmul"), run("svd"), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("other", ["matmul", "gram"])
def test_polar_factor_is_that_by_the_svd(shape, other):
    A, G, dA = np.random.default_rng(4).standard_normal((3, 2, *shape))

    def run(method):
        def f(A):
            return svdinv.numpy.polar(A, method=method)

        value, pullback = svdinv.numpy.vjp(f, A)
        return value, *pullback(G), svdinv.numpy.jvp(f, (A,), (dA,))[1]

    for found, expected in zip(run(other), run("svd"), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-11)

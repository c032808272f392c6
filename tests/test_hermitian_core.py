"""Derivatives of Hermitian eigendecompositions and of functions of their matrices."""

from __future__ import annotations

import zlib

import array_api_strict
import hermitian_oracle as oracle
import numpy as np
import pytest
from frameworks import FRAMEWORKS
from hermitian_oracle import PENALTIES, SPECTRA, adjoint, draw, functions, normal
from oracle import relative_error

from svdinv.core.eigh import eigh_gauge_dependence, eigh_pullback, eigh_pushforward
from svdinv.core.hermitian import (
    Exponential,
    InverseSquareRoot,
    Logarithm,
    PositivePart,
    Power,
    SquareRoot,
    hermitian_derivative,
    hermitian_map,
    hermitian_second_derivative,
)

PRECISIONS = {
    "double": (np.float64, np.complex128),
    "single": (np.float32, np.complex64),
}
NAMESPACES = (np, array_api_strict)
LOOKING = FRAMEWORKS["numpy"].namespace


def power(p):
    return Power(exponent=np.asarray(p))


def bound(function, w, xp):
    """A function with its exponent as an array of the namespace."""
    if not function.has_parameter:
        return function
    return function.at(xp.asarray(np.asarray(function.exponent), dtype=w.dtype))


POWERS = (0.5, -0.5, -4.0, -1.0, -1e-3, 0.25, 2.0, 3.5)
FUNCTIONS = {
    "exp": (Exponential(), oracle.EXP),
    "sqrt": (SquareRoot(), oracle.SQRT),
    "inverse sqrt": (InverseSquareRoot(), oracle.INVERSE_SQRT),
    "log": (Logarithm(), oracle.LOG),
    **{f"power {p}": (power(p), oracle.power(p)) for p in POWERS},
}


def seed_of(*parts):
    return zlib.crc32(" ".join(map(str, parts)).encode())


def pullback_errors(spectrum, precision, draws, xp=np, scale=1.0, **options):
    """Relative gradient errors over all functions and penalties at the spectrum."""
    found = []
    for dtype in PRECISIONS[precision]:
        for f in functions(spectrum):
            for name, penalty in PENALTIES.items():
                seed = seed_of(spectrum, dtype, f.name, name)
                problem = draw(
                    spectrum, draws=draws, dtype=dtype, seed=seed, scale=scale
                )
                f_scaled = f.scaled(scale)

                def slope(w, penalty=penalty):
                    return penalty(w / scale)

                w, V = np.linalg.eigh(problem.A)
                gw, gV = problem.cotangents(w, V, f_scaled, slope)
                arrays = (xp.asarray(x) for x in (w, V, gw, gV))
                gA = np.asarray(eigh_pullback(*arrays, **options))
                assert gA.dtype == dtype
                assert (gA == adjoint(gA)).all()
                exact = problem.derivative(f_scaled, problem.G, slope)
                found.append(relative_error(gA, exact))
    return np.concatenate(found)


# Median and worst draw that may not be exceeded; see test_exactness.
EXACT = {"double": (1e-14, 1e-9), "single": (1e-6, 1e-3)}
NEAR = {"double": (2e-9, 1e-5), "single": (1e-4, 2e-2)}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "spectrum",
    ["distinct", "two clusters", "indefinite pairs", "zeros and pairs", "gap 1e-09"],
)
def test_pullback_on_the_standard_where_nothing_can_be_asked(spectrum, precision):
    median, worst = (NEAR if "gap" in spectrum else EXACT)[precision]
    found = pullback_errors(spectrum, precision, draws=3, xp=array_api_strict)
    assert np.median(found) <= median
    assert found.max() <= worst


@pytest.mark.parametrize("scale", [1e-160, 1e-20, 1e20, 1e150])
@pytest.mark.parametrize(
    "spectrum", ["distinct", "pair", "zeros", "indefinite pairs", "negative"]
)
def test_pullback_at_any_scale(spectrum, scale):
    assert pullback_errors(spectrum, "double", draws=5, scale=scale).max() < 1e-12


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(
    "f", [oracle.IDENTITY, oracle.SQRT, oracle.LOG, oracle.INVERSE_SQRT]
)
def test_small_eigenvalues_are_not_taken_for_equal(f, penalty):
    """With the factors that the matrix was made from: its own lose eps / w."""
    problem = draw("condition 1e12", draws=200)
    slope = PENALTIES[penalty]
    cotangents = problem.cotangents(problem.w, problem.V, f, slope)
    gA = eigh_pullback(problem.w, problem.V, *cotangents)
    assert relative_error(gA, problem.derivative(f, problem.G, slope)).max() < 2e-14


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_gauge_dependent_loss_gets_a_finite_gradient(spectrum):
    for options in ({"xp": LOOKING}, {}):
        for dtype in (np.float32, np.complex128):
            problem = draw(spectrum, draws=10, dtype=dtype)
            w, V = np.linalg.eigh(problem.A)
            gV = problem.G.astype(dtype)
            gA = eigh_pullback(w, V, None, gV, **options)
            # No more than the quotient of values that are still apart, 1 / (64 eps).
            assert np.abs(gA).max() < 10 / (64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("options", [{"xp": LOOKING}, {}])
@pytest.mark.parametrize(
    "A", [np.eye(3), np.zeros((3, 3)), -np.eye(1), np.ones((0, 0))]
)
def test_multiples_of_the_identity_and_no_eigenvalues(A, options):
    G = np.random.default_rng(0).standard_normal(A.shape)
    w, V = np.linalg.eigh(A) if A.size else (np.zeros(0), A)
    H = G + G.T
    gw, gV = np.exp(w) * np.diag(V.T @ H @ V), 2 * H @ V * np.exp(w)
    exact = np.exp(A[0, 0]) * H if A.size else A
    np.testing.assert_allclose(
        eigh_pullback(w, V, gw, gV, **options), exact, rtol=1e-14
    )
    dw, dV = eigh_pushforward(w, V, H)
    assert (dV == 0).all()
    np.testing.assert_allclose(dw, np.diag(V.T @ H @ V), atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("spectrum", ["distinct", "indefinite", "opposite"])
def test_pushforward_is_the_transpose(spectrum, dtype):
    problem = draw(spectrum, draws=5, dtype=dtype)
    w, V = np.linalg.eigh(problem.A)
    rng = np.random.default_rng(0)
    gw, gV = rng.standard_normal(w.shape), normal(V.shape, rng, dtype)
    X = oracle.herm(normal(V.shape, rng, dtype))
    dw, dV = eigh_pushforward(w, V, X)
    gA = eigh_pullback(w, V, gw, gV)
    forward = np.sum(gw * dw) + np.sum(np.conj(gV) * dV).real
    np.testing.assert_allclose(np.sum(np.conj(gA) * X).real, forward, rtol=1e-11)
    # and a difference of two decompositions, in what no phase changes
    h = 1e-6
    (w1, V1), (w0, V0) = (np.linalg.eigh(problem.A + t * X) for t in (h, -h))
    np.testing.assert_allclose((w1 - w0) / (2 * h), dw, atol=1e-7)
    projector = [x[..., :2] @ adjoint(x[..., :2]) for x in (V1, V0)]
    turned = 2 * oracle.herm(dV[..., :2] @ adjoint(V[..., :2]))
    found = (projector[0] - projector[1]) / (2 * h)
    np.testing.assert_allclose(found, turned, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize("spectrum", ["distinct", "pair", "zeros"])
def test_gauge_dependence(spectrum, dtype):
    problem = draw(spectrum, draws=5, dtype=dtype)
    w, V = np.linalg.eigh(problem.A)
    _, gV = problem.cotangents(w, V, oracle.EXP, np.zeros_like)
    tolerance = np.finfo(dtype).eps ** 0.5
    assert eigh_gauge_dependence(w, V, gV).max() < tolerance
    X = problem.G - adjoint(problem.G)
    free = eigh_gauge_dependence(w, V, (V @ X).astype(dtype))
    if spectrum == "distinct" and np.issubdtype(dtype, np.floating):
        assert (free < tolerance).all()
    else:
        assert (free > 0.05).all()
        X = X * np.eye(6) if spectrum == "distinct" else X
        gap = np.abs(w[..., :, None] - w[..., None, :])
        X = np.where(gap < 1e-4, X, 0)
        free = eigh_gauge_dependence(w, V, 1e-30 * (V @ X).astype(dtype))
        np.testing.assert_allclose(free, 1, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("spectrum", ["distinct", "indefinite", "pair", "zeros"])
def test_second_derivative_by_automatic_differentiation(spectrum, dtype):
    """Of the pullback of a loss in exp(A), through w and V as they move along X."""
    torch = pytest.importorskip("torch")
    problem = draw(spectrum, draws=3, dtype=dtype)
    factors = tuple(
        torch.tensor(x, requires_grad=True) for x in np.linalg.eigh(problem.A)
    )
    w, V = factors
    H = torch.asarray(oracle.herm(problem.G))
    rng = np.random.default_rng(1)
    X, Y = (normal(problem.A.shape, rng, dtype) for _ in "XY")

    y = torch.exp(w)
    gw, gV = y * (V.conj() * (H @ V)).sum(-2).real, 2 * (H @ V) * y[..., None, :]
    gA = eigh_pullback(w, V, gw, gV)
    gradients = torch.autograd.grad(gA, factors, torch.asarray(Y))
    tangents = eigh_pushforward(*(x.detach() for x in factors), torch.asarray(X))
    found = sum(
        (g.conj() * x).real.reshape(3, -1).sum(-1)
        for g, x in zip(gradients, tangents, strict=True)
    )
    assert torch.isfinite(found).all()
    if spectrum in ("distinct", "indefinite"):
        exact = np.conj(Y) * problem.second_derivative(oracle.EXP, problem.G, X)
        np.testing.assert_allclose(found, exact.real.sum((-2, -1)), rtol=1e-11)


def function_errors(name, problem, dtype, factors=None):
    """Relative errors of a function of matrices and of its first two derivatives."""
    function, f = FUNCTIONS[name]
    rng = np.random.default_rng(2)
    X, Y = (normal(problem.A.shape, rng, dtype) for _ in "XY")
    exact = (
        problem.value(f),
        problem.derivative(f, X),
        problem.second_derivative(f, X, Y),
    )
    factors = np.linalg.eigh(problem.A) if factors is None else factors
    for xp in NAMESPACES:
        w, V, x, y = (
            xp.asarray(z) for z in (*factors, X.astype(dtype), Y.astype(dtype))
        )
        function = bound(function, w, xp)
        found = (
            hermitian_map(function, (w, V), xp),
            hermitian_derivative(function, (w, V), x, xp),
            hermitian_second_derivative(function, (w, V), x, y, xp),
        )
        for result, expected in zip(map(np.asarray, found), exact, strict=True):
            assert result.dtype == dtype
            assert (result == adjoint(result)).all()
            yield relative_error(result, expected).max()


CASES = [
    (name, spectrum)
    for name, (_, f) in FUNCTIONS.items()
    for spectrum in SPECTRA
    if not f.positive or (oracle.positive(spectrum) and "condition" not in spectrum)
    if "gap" not in spectrum or spectrum[-2:] in ("01", "04", "08", "12", "16")
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "spectrum"), CASES)
def test_function_of_a_matrix_is_exact(name, spectrum, precision):
    limit = {"double": 2e-14, "single": 2e-6}[precision]
    for dtype in PRECISIONS[precision]:
        problem = draw(spectrum, draws=3, dtype=dtype, seed=seed_of(name, spectrum))
        assert max(function_errors(name, problem, dtype)) < limit


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_of_an_ill_conditioned_matrix(name):
    """With the factors that it was made from: the eigenvalues' own errors are 1e-4."""
    problem = draw("condition 1e12", draws=8)
    factors = problem.w, problem.V
    assert max(function_errors(name, problem, np.float64, factors)) < 2e-14


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(
    ("name", "power"),
    [("sqrt", 0.5), ("inverse sqrt", -0.5), ("power 0.5", 0.5), ("power -0.5", -0.5)],
)
def test_roots_at_zero_eigenvalues_keep_to_matrices_of_that_rank(name, power, dtype):
    function, f = FUNCTIONS[name]
    problem = draw("definite zeros", draws=5, dtype=dtype)
    rng = np.random.default_rng(3)
    X, S = (normal(problem.A.shape, rng, dtype) for _ in "XS")
    factors = np.linalg.eigh(problem.A)
    assert (np.abs(factors[0][..., :2]) < 1e-14).all()

    def moved(t):
        C = np.eye(6) + t * S
        A = oracle.herm(C @ problem.A @ adjoint(C))
        return np.linalg.eigh(A)

    tangent = S @ problem.A + problem.A @ adjoint(S)
    # f[a, b] of the root, and f[a, 0] and f[0, 0] of a function that is 0 around 0
    w, V = problem.w, problem.V
    a, b, kept = w[..., :, None], w[..., None, :], w > 0
    kept = kept[..., :, None] & kept[..., None, :]
    d = f.difference(np.where(kept, a, 1), np.where(kept, b, 1)).astype(float)
    one_kept = np.where(a + b > 0, a + b, 1) ** (power - 1) * (a + b > 0)
    d = np.where(kept, d, one_kept)
    exact = V @ (d * (adjoint(V) @ oracle.herm(X) @ V)) @ adjoint(V)
    found = hermitian_derivative(function, factors, X, np)
    assert relative_error(found, exact).max() < 1e-13

    h = 1e-5
    up, down = (hermitian_derivative(function, moved(t), X, np) for t in (h, -h))
    second = hermitian_second_derivative(function, factors, X, tangent, np)
    assert relative_error(second, (up - down) / (2 * h)).max() < 1e-6


@pytest.mark.parametrize(
    "function",
    [SquareRoot(), InverseSquareRoot(), power(0.3), power(-1.5), Logarithm()],
)
def test_negative_eigenvalues_give_nan_and_no_warning(function):
    factors, X = np.linalg.eigh(np.diag([-1.0, 1, 2])), np.ones((3, 3))
    assert np.isnan(hermitian_map(function, factors, np)).all()
    assert np.isnan(hermitian_derivative(function, factors, X, np)).all()
    assert np.isnan(hermitian_second_derivative(function, factors, X, X, np)).all()


def test_rounding_errors_are_not_negative():
    w, V = np.array([-1e-15, 1e-18, 4.0]), np.eye(3)
    root = hermitian_map(SquareRoot(), (w, V), np)
    np.testing.assert_allclose(root, np.diag([0, 1e-9, 2]), atol=1e-16)
    inverse = hermitian_map(InverseSquareRoot(), (w, V), np)
    np.testing.assert_allclose(inverse, np.diag([0, 0, 0.5]))


def test_exponential_of_far_apart_eigenvalues():
    w, V, X = np.array([-800.0, -1, 700]), np.eye(3), np.ones((3, 3))
    found = hermitian_derivative(Exponential(), (w, V), X, np)
    np.testing.assert_allclose(found[0, 2], np.exp(700) / 1500, rtol=1e-14)
    np.testing.assert_allclose(found[0, 1], np.exp(-1) / 799, rtol=1e-14)
    found = hermitian_second_derivative(Exponential(), (w, V), X, X, np)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [0, 1])
def test_functions_of_the_smallest_matrices(name, n):
    function, f = FUNCTIONS[name]
    w, V, X = np.full(n, 2.0), np.eye(n), np.ones((n, n))
    results = (
        hermitian_map(function, (w, V), np),
        hermitian_derivative(function, (w, V), X, np),
        hermitian_second_derivative(function, (w, V), X, X, np),
    )
    for result, exact in zip(results, (f.value, f.slope, f.bend), strict=True):
        expected = np.full((n, n), float(exact(np.longdouble(2))))
        np.testing.assert_allclose(result, expected, rtol=1e-14)


@pytest.mark.parametrize("spectrum", ["distinct", "pair", "gap 1e-04", "gap 1e-12"])
def test_power_of_one_is_the_matrix(spectrum):
    """Its second derivative is 0, to which no error is relative."""
    problem = draw(spectrum, draws=8)
    factors, X = np.linalg.eigh(problem.A), problem.G
    found = hermitian_derivative(power(1.0), factors, X, np)
    assert relative_error(found, oracle.herm(X)).max() < 2e-14
    found = hermitian_second_derivative(power(1.0), factors, X, X, np)
    assert np.abs(found).max() < 1e-12


@pytest.mark.parametrize(
    ("p", "slope", "bend"), [(1, 1, 0), (1.5, 0, 0), (2, 0, 2), (3, 0, 0), (0, 0, 0)]
)
def test_powers_of_a_zero_matrix(p, slope, bend):
    factors, X = (np.zeros(3), np.eye(3)), np.arange(9.0).reshape(3, 3)
    H, f = oracle.herm(X), power(float(p))
    np.testing.assert_array_equal(hermitian_map(f, factors, np), np.zeros((3, 3)))
    np.testing.assert_allclose(hermitian_derivative(f, factors, X, np), slope * H)
    found = hermitian_second_derivative(f, factors, X, X, np)
    np.testing.assert_allclose(found, bend * H @ H)


@pytest.mark.parametrize("p", [-1.5, -0.5, 0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize(
    "spectrum", ["distinct", "pair", "gap 1e-08", "definite zeros"]
)
def test_derivative_in_the_exponent(spectrum, p):
    """Divided differences of w^p log(w), by those of powers in extended precision."""
    problem = draw(spectrum, draws=4)
    factors, X = np.linalg.eigh(problem.A), problem.G
    w = np.where(problem.w > 0, problem.w, 0).astype(np.longdouble)
    w, one = w[..., None] + 0 * w[..., None, :], np.longdouble(1)
    pairs = np.where(w > 0, w, one), np.where(w.mT > 0, w.mT, one)

    def difference(q):
        inside = oracle.power(q).difference(*pairs)
        value = np.where(w > 0, pairs[0] ** q, 0) - np.where(w.mT > 0, pairs[1] ** q, 0)
        apart = value / np.where(w == w.mT, 1, w - w.mT)
        return np.where((w > 0) & (w.mT > 0), inside, apart)

    h = np.longdouble(1e-4)
    d = (difference(p + h) - difference(p - h)) * 8
    d = (d - (difference(p + 2 * h) - difference(p - 2 * h))) / (12 * h)
    V = problem.V
    exact = V @ (d.astype(float) * (adjoint(V) @ oracle.herm(X) @ V)) @ adjoint(V)
    moved = power(p).parameter_derivative()
    found = hermitian_derivative(moved, factors, X, np)
    assert relative_error(found, exact).max() < 1e-11


def test_projection_at_its_kink():
    """Eigenvalues of 0 up to rounding count as lying below."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    A, X = (Q * np.array([2.0, 1, 0, 0])) @ Q.T, np.ones((4, 4))
    factors = np.linalg.eigh(A)
    first = hermitian_derivative(PositivePart(), factors, X, np)
    moved = Q.T @ X @ Q
    moved[2:, 2:] = 0
    np.testing.assert_allclose(first, Q @ moved @ Q.T, atol=1e-13)
    second = hermitian_second_derivative(PositivePart(), factors, X, X, np)
    assert np.abs(second).max() < 100

"""MLX: derivatives against those of NumPy in double precision, and transformations."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")

from frameworks import as_tuple
from operator_cases import CASES, problem, weights

import svdinv
import svdinv.mlx
import svdinv.numpy
from svdinv.backends.mlx import xp
from svdinv.core import householder
from svdinv.core.namespace import adjoint
from svdinv.core.thresholds import Firm
from svdinv.operators import OPERATORS

TOLERANCE = {"float32": 2e-5, "complex64": 2e-5, "float64": 1e-11}
# MLX has no complex double precision, and no Fourier transform in double precision.
TYPED_CASES = [
    (name, precision)
    for name in CASES
    for precision in ("single", "double")
    if precision == "single" or not ("complex" in name or name.startswith("tsvt"))
]
HERMITIAN = ["sqrtm", "inv_sqrtm", "logm", "expm"]


def case(name):
    """Function of a module and arrays, inputs and directions."""
    inputs, directions, _ = problem(name)
    return CASES[name][1].call, inputs, directions


def numpy_second_derivatives(name):
    """Values, and tangents of the gradient of Re <W, values> along the directions."""
    function, inputs, directions = case(name)

    def results(*x):
        return as_tuple(function(svdinv.numpy, *x))

    values = results(*inputs)
    cotangents = tuple(of_kind(weights(values), values))

    def gradient(*x):
        return svdinv.numpy.vjp(results, *x)[1](cotangents)

    return values, svdinv.numpy.jvp(gradient, tuple(inputs), tuple(directions))[1]


def array(x, precision="single"):
    x = np.asarray(x)
    if x.dtype.kind == "c":
        return mx.array(x.astype(np.complex64))
    return mx.array(x, dtype=mx.float64 if precision == "double" else mx.float32)


def assert_close(found, expected, tolerance):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    size = max(np.abs(expected).max(initial=0), 1)
    np.testing.assert_allclose(found / size, expected / size, rtol=0, atol=tolerance)


def assert_all_close(found, expected, tolerance):
    for x, y in zip(found, expected, strict=True):
        assert_close(x, y, tolerance)


def of_kind(arrays, like):
    """The arrays, or of each the real part where `like` is real."""
    pairs = zip(arrays, like, strict=True)
    return [x if np.iscomplexobj(y) else x.real for x, y in pairs]


def of_case(name, precision="single"):
    """Function of MLX arrays with a tuple of results, its inputs, and directions."""
    function, inputs, directions = case(name)
    directions = of_kind(directions, inputs)

    def results(*arrays):
        return list(as_tuple(function(svdinv.mlx, *arrays)))

    x, dx = ([array(t, precision) for t in ts] for ts in (inputs, directions))
    return results, x, dx


def loss_of(results):
    """A real function of the results that sees all of them."""

    def loss(*arrays):
        return sum(
            mx.sum(0.5 * mx.abs(x) ** 2) + mx.sum(mx.real(x)) for x in results(*arrays)
        )

    return loss


def gradients(loss, count):
    gradient = mx.grad(loss, argnums=list(range(count)))
    return lambda *x: tuple(gradient(*x)) if count > 1 else (gradient(*x),)


def tolerance_of(precision):
    return TOLERANCE["float64" if precision == "double" else "float32"]


def test_cases_cover_the_operators():
    tested = {name.split(",")[0] for name in CASES}
    assert set(OPERATORS) - tested <= {
        "hermitian_map",
        "spectral_operator",
        "svd_lowrank",
        "svd_residual",
    }
    assert set(svdinv.mlx.__all__) == {"svd", *OPERATORS}


@pytest.mark.parametrize(("name", "precision"), TYPED_CASES)
def test_first_derivatives(name, precision):
    function, inputs, _ = case(name)
    value, pullback = svdinv.numpy.vjp(lambda *x: function(svdinv.numpy, *x), *inputs)
    cotangents = of_kind(weights(as_tuple(value)), as_tuple(value))
    is_tuple = isinstance(value, tuple)
    g = cotangents if is_tuple else cotangents[0]
    expected = pullback(type(value)(*g) if hasattr(value, "_fields") else g)

    results, x, dx = of_case(name, precision)
    cotangents = [array(g, precision) for g in cotangents]
    y, found = mx.vjp(results, x, cotangents)
    tolerance = tolerance_of(precision)
    assert_all_close(y, as_tuple(value), tolerance)
    assert_all_close(found, expected, tolerance)
    assert all(g.dtype == t.dtype for g, t in zip(found, x, strict=True))

    _, dy = mx.jvp(results, x, dx)
    forward = sum(np.vdot(g, d).real for g, d in zip(cotangents, dy, strict=True))
    reverse = sum(np.vdot(g, d).real for g, d in zip(found, dx, strict=True))
    assert_close(forward, reverse, tolerance)


def test_operators_without_a_case():
    A, G = np.random.default_rng(6).standard_normal((2, 4, 3))

    def results(f, A, tau):
        return f.huber_threshold(A, tau, 0.5) + f.spectral_operator(A, Firm(2.5), tau)

    tau = np.array(0.6)
    value, pullback = svdinv.numpy.vjp(lambda *x: results(svdinv.numpy, *x), A, tau)
    x = [array(A, "double"), array(tau, "double")]
    y, found = mx.vjp(lambda *x: [results(svdinv.mlx, *x)], x, [array(G, "double")])
    assert_close(y[0], value, 1e-12)
    assert_all_close(found, pullback(G), 1e-11)


@pytest.mark.parametrize(("name", "precision"), TYPED_CASES)
def test_second_derivatives(name, precision):
    values, expected = numpy_second_derivatives(name)
    results, x, directions = of_case(name, precision)
    cotangents = [array(g, precision) for g in of_kind(weights(values), values)]

    def loss(*x):
        pairs = zip(cotangents, results(*x), strict=True)
        return sum(mx.sum(mx.real(mx.conj(g) * y)) for g, y in pairs)

    gradient = gradients(loss, len(x))

    def along(*x):
        pairs = zip(directions, gradient(*x), strict=True)
        return sum(mx.sum(mx.real(mx.conj(d) * g)) for d, g in pairs)

    tolerance = tolerance_of(precision)
    assert_all_close(gradients(along, len(x))(*x), expected, tolerance)
    _, pushed = mx.jvp(lambda *x: list(gradient(*x)), x, directions)
    assert_all_close(pushed, expected, tolerance)


def test_compile():
    """Of one operator, because MLX runs a C++ compiler, for twenty seconds each.

    All others are traced in `test_mlx_transforms`.
    """
    results, x, _ = of_case("svt, complex128")
    gradient = gradients(loss_of(results), len(x))
    assert_all_close(mx.compile(gradient)(*x), gradient(*x), 2e-5)


@pytest.mark.parametrize("name", CASES)
def test_vmap(name):
    results, x, _ = of_case(name)
    loss = loss_of(results)
    gradient = gradients(loss, len(x))
    stacked = [mx.stack([t, 0.9 * t, 1.1 * t]) for t in x]
    one_by_one = [gradient(*(t[i] for t in stacked)) for i in range(3)]
    expected = [mx.stack(parts) for parts in zip(*one_by_one, strict=True)]
    assert_all_close(mx.vmap(gradient)(*stacked), expected, 2e-5)

    def total(*stacked):
        return mx.sum(mx.vmap(loss)(*stacked))

    assert_all_close(gradients(total, len(x))(*stacked), expected, 2e-5)


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_vmap_of_rotations(d):
    """Of matrices with determinants of both signs; MLX maps no LU decomposition."""
    rng = np.random.default_rng(0)
    X, Y = (mx.array(rng.standard_normal((9, d, d)), mx.float32) for _ in range(2))
    weights = mx.array(rng.standard_normal((d, d)), mx.float32)
    functions = [lambda X, Y: svdinv.mlx.polar(X, special=True)]
    if d > 1:
        functions.append(lambda X, Y: svdinv.mlx.kabsch(X, Y)[0])
    for f in functions:
        found = np.array(mx.vmap(f)(X, Y))
        np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-5)
        for g in (f, mx.grad(lambda X, Y, f=f: mx.sum(weights * f(X, Y)))):
            each = mx.stack([g(x, y) for x, y in zip(X, Y, strict=True)])
            size = float(mx.max(mx.abs(each)))
            np.testing.assert_allclose(
                np.array(mx.vmap(g)(X, Y)), np.array(each), atol=1e-5 * size
            )


def test_vmap_along_other_axes():
    A = array(np.random.default_rng(0).standard_normal((4, 5, 3)))
    tau = array(0.5)

    def threshold(A, tau):
        return svdinv.mlx.svt(A, tau)

    found = mx.vmap(threshold, in_axes=(1, None))(A, tau)
    assert_close(found, svdinv.mlx.svt(mx.moveaxis(A, 1, 0), tau), 1e-6)


SPECTRA = {
    "distinct": (3.0, 2.0, 1.0),
    "repeated": (2.0, 2.0, 1.0),
    "equal": (1.5, 1.5, 1.5),
    "zero": (2.0, 0.0, 0.0),
    "none": (0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (3, 5)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_gradient_through_the_factors(spectrum, shape, dtype):
    """Of U f(S) Vh and of a penalty, with f of slope 0 where values vanish."""
    rng = np.random.default_rng(7)

    def draw(*shape):
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if dtype == "complex64" else x

    (m, n), S = shape, np.array(SPECTRA[spectrum])
    U, V = np.linalg.qr(draw(m, 3))[0], np.linalg.qr(draw(n, 3))[0]
    A, G = (U * S) @ V.conj().T, draw(m, n)

    def results(f, A):
        U, S, Vh = f.svd(A)
        y = (S * S * S).astype(U.dtype)[..., None, :]
        return (U * y) @ Vh, (S * S).sum()

    value, pullback = svdinv.numpy.vjp(lambda A: results(svdinv.numpy, A), A)
    (expected,) = pullback((G, np.float64(0.3)))
    given, precision = array(A), "double" if dtype == "float64" else "single"
    given = array(A, precision)
    G, one = array(G, precision), array(0.3, precision)
    y, (found,) = mx.vjp(lambda A: list(results(svdinv.mlx, A)), [given], [G, one])
    assert_all_close(y, value, TOLERANCE[dtype])
    assert_close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
@pytest.mark.parametrize("shape", [(2, 8, 5), (5, 8), (4, 4)])
@pytest.mark.parametrize("full_matrices", [False, True])
def test_svd_values(shape, dtype, full_matrices):
    A = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    if dtype == "complex64":
        A = A + 1j * A[..., ::-1]
    given = array(A, "double" if dtype == "float64" else "single")
    found = svdinv.mlx.svd(given, full_matrices=full_matrices)
    expected = np.linalg.svd(A, full_matrices=full_matrices)
    U, S, Vh = map(np.asarray, found)
    assert [x.shape for x in found] == [x.shape for x in expected]
    assert_close(S, expected[1], TOLERANCE[dtype])
    k = S.shape[-1]
    assert_close((U[..., :k] * S[..., None, :]) @ Vh[..., :k, :], A, TOLERANCE[dtype])
    for Q in (U, Vh.swapaxes(-1, -2)):
        assert_close(
            Q.conj().swapaxes(-1, -2) @ Q,
            np.broadcast_to(np.eye(Q.shape[-1]), (*Q.shape[:-2], *2 * Q.shape[-1:])),
            TOLERANCE[dtype],
        )
    assert_close(svdinv.mlx.svd(given, False), S, TOLERANCE[dtype])
    assert_close(svdinv.mlx.svdvals(given), S, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
@pytest.mark.parametrize("name", [*HERMITIAN, "eigh", "hermitian_map"])
def test_hermitian_matrices(name, dtype):
    rng = np.random.default_rng(2)
    X, G = rng.standard_normal((2, 2, 4, 4))
    if dtype == "complex64":
        X, G = X + 1j * rng.standard_normal(X.shape), G + 1j * G[..., ::-1]
    A = X @ X.conj().swapaxes(-1, -2) / 4 + np.eye(4)

    def function(f, A):
        if name == "hermitian_map":
            return f.hermitian_map(A, svdinv.core.hermitian.Exponential())
        if name == "eigh":
            w, V = f.eigh(A)
            if f is svdinv.numpy:
                Vh = np.conj(np.matrix_transpose(V))
            else:
                Vh = mx.conj(mx.matrix_transpose(V))
            return (V * (w * w).astype(V.dtype)[..., None, :]) @ Vh
        return getattr(f, name)(A)

    value, pullback = svdinv.numpy.vjp(lambda A: function(svdinv.numpy, A), A)
    (expected,) = pullback(G)
    precision = "double" if dtype == "float64" else "single"
    given, cotangent = array(A, precision), array(G, precision)
    (y,), (found,) = mx.vjp(lambda A: [function(svdinv.mlx, A)], [given], [cotangent])
    assert_close(y, value, TOLERANCE[dtype])
    assert_close(found, expected, TOLERANCE[dtype])
    batched = mx.vmap(lambda A: function(svdinv.mlx, A))(given)
    assert_close(batched, value, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
def test_svd_lowrank(dtype):
    rng = np.random.default_rng(3)
    A = rng.standard_normal((3, 12, 8)) * 2.0 ** -np.arange(8)
    if dtype == "complex64":
        A = A * (1 + 0.5j)
    given = array(A, "double" if dtype == "float64" else "single")

    def values(A):
        return svdinv.mlx.svd_lowrank(A, 2, power=4, seed=0).S

    expected = np.linalg.svd(A, compute_uv=False)[..., :2]
    assert_close(values(given), expected, 1e-5)
    U, S, Vh = svdinv.mlx.svd(given)
    slope = (U[..., :2] * S[..., None, :2].astype(U.dtype)) @ Vh[..., :2, :]

    def loss(A):
        return 0.5 * mx.sum(values(A) ** 2)

    assert_close(mx.grad(loss)(given), slope, 1e-5)
    # Traced, but not run, for which a C++ compiler would work for a minute.
    assert mx.compile(mx.grad(loss))(given).shape == given.shape
    assert_close(mx.jvp(values, [given], [given])[1][0], values(given), 1e-5)
    assert_close(mx.vmap(mx.grad(loss))(given), slope, 1e-5)
    batched = mx.grad(lambda A: 0.5 * mx.sum(mx.vmap(values)(A) ** 2))
    assert_close(batched(given), slope, 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
@pytest.mark.parametrize(
    "shape", [(2, 6, 4), (4, 6), (3, 3), (0, 3), (3, 0), (0, 4, 2)]
)
@pytest.mark.parametrize("rank", [0, 1, 9])
def test_householder(shape, dtype, rank):
    rng = np.random.default_rng(4)
    *batch, m, n = shape
    A = rng.standard_normal((*batch, m, rank)) @ rng.standard_normal((*batch, rank, n))
    A = (1e-20 * A).astype(dtype)
    if dtype == "complex64":
        A = A + np.complex64(1j) * A[..., ::-1, :]
    given = array(A, "double" if dtype == "float64" else "single")
    Q, R = map(np.asarray, householder.qr(given, xp))
    assert_close(1e20 * (Q @ R), 1e20 * A, TOLERANCE[dtype])
    assert (np.tril(R, -1) == 0).all()
    gram = Q.conj().swapaxes(-1, -2) @ Q
    identity = np.broadcast_to(np.eye(min(m, n)), gram.shape)
    assert_close(gram, identity, TOLERANCE[dtype])


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_any_scale(seed):
    # Their squares differ by more than single precision has between its ends.
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((15, 17)) + 1j * rng.standard_normal((15, 17))
    A = (rng.permutation(10.0 ** np.linspace(-17, 19, 15))[:, None] * A).astype("c8")
    given = mx.array(A)
    Q, _ = householder.qr(mx.array(A.conj().T), xp)
    gram = np.asarray(adjoint(Q, xp) @ Q)
    assert_close(gram, np.eye(15), TOLERANCE["complex64"])
    expected = np.linalg.svd(A.astype("c16"), compute_uv=False)
    U, S, Vh = svdinv.mlx.svd(given)
    assert_close(S / expected[0], expected / expected[0], 1e-6)
    scale = np.float32(1 / expected[0])
    product = np.asarray((U * (S * scale).astype(U.dtype)) @ Vh)
    assert_close(product, A * scale, 1e-5)
    norm = float(svdinv.mlx.nuclear_norm(given))
    # Singular values at rounding level, 64 eps s_1, are none.
    assert abs(norm - expected.sum()) <= 1e-5 * expected.sum()


def test_nan_stays_in_its_matrix():
    A = mx.stack([mx.eye(3), mx.eye(3) * float("nan"), mx.eye(3) * float("inf")])
    found = mx.grad(lambda A: mx.sum(svdinv.mlx.svt(A, 0.5)))(A)
    for x in (svdinv.mlx.svdvals(A), svdinv.mlx.svt(A, 0.5), found):
        bad = np.isnan(np.asarray(x)).reshape(3, -1)
        assert not bad[0].any()
        assert bad[1:].all()


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0), (0, 0)])
def test_nothing(shape):
    A = mx.zeros(shape)
    found = mx.grad(lambda A: mx.sum(svdinv.mlx.svt(A, 1.0)))(A)
    assert found.shape == shape
    expected = np.linalg.svd(np.zeros(shape), full_matrices=False)
    assert [x.shape for x in svdinv.mlx.svd(A)] == [x.shape for x in expected]
    assert mx.grad(lambda A: mx.sum(svdinv.mlx.svdvals(A)))(A).shape == shape


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision(dtype):
    A = array(np.random.default_rng(5).standard_normal((4, 3)))
    found = mx.grad(lambda A: svdinv.mlx.nuclear_norm(A).astype(mx.float32))
    half = found(A.astype(dtype))
    assert half.dtype == dtype
    assert_close(half.astype(mx.float32), found(A), 0.05)


@pytest.mark.parametrize(
    ("A", "error"),
    [
        ("A", TypeError),
        (None, TypeError),
        (mx.array([[1, 2]]), TypeError),
        (mx.ones(3), ValueError),
    ],
)
def test_bad_matrices(A, error):
    with pytest.raises(error, match=r"^A must"):
        svdinv.mlx.svt(A, 1.0)
    with pytest.raises(error, match=r"^a must"):
        svdinv.mlx.svd(A)


@pytest.mark.parametrize(
    ("tau", "error"),
    [("1", TypeError), (1j, TypeError), (-1.0, ValueError), (mx.ones(5), ValueError)],
)
def test_bad_thresholds(tau, error):
    with pytest.raises(error, match="tau must"):
        svdinv.mlx.svt(mx.ones((3, 4, 4)), tau)


def test_what_mlx_lacks_is_refused():
    with pytest.raises(TypeError, match="double precision"):
        svdinv.mlx.tsvt(mx.ones((2, 3, 3), dtype=mx.float64), 0.1)

    def third(A):
        def loss(A):
            return mx.sum(svdinv.mlx.svt(A, 0.5) ** 2)

        for _ in range(2):
            loss = _square_of_gradient(loss)
        return mx.grad(loss)(A)

    with pytest.raises(NotImplementedError, match="two derivatives"):
        third(mx.array([[2.0, 0.5], [0.1, 1.0]]))


def _square_of_gradient(loss):
    return lambda A: mx.sum(mx.grad(loss)(A) ** 2)


def test_gauge():
    weight = array(np.arange(9.0).reshape(3, 3))

    def loss(A, gauge):
        return mx.sum(weight * svdinv.mlx.svd(A, gauge=gauge).U)

    gradient, A = mx.grad(loss), 2 * mx.eye(3)
    with pytest.raises(svdinv.GaugeError):
        gradient(A, "error")
    with pytest.warns(svdinv.GaugeWarning):
        gradient(A, "warn")
    monitor = svdinv.GaugeMonitor()
    mx.eval(gradient(A, monitor))
    assert float(monitor.last) > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient(array(np.diag([3.0, 2.0, 1.0])), "error")
    with pytest.raises(ValueError, match="not allowed"):
        mx.compile(lambda A: gradient(A, "error"))(A)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        svdinv.mlx.nothing  # noqa: B018


@pytest.mark.parametrize("values", [(1, 1, 1), (2, 2, 1), (2, 1, 0), (0, 0, 0)])
@pytest.mark.parametrize("name", ["svdvals", "sure", "spectral_map", "svd"])
def test_reverse_over_reverse_is_finite(name, values):
    f = {
        "svdvals": lambda A: svdinv.mlx.svdvals(A).sum(),
        "sure": lambda A: svdinv.mlx.sure(A, 0.5, 0.3),
        "spectral_map": lambda A: svdinv.mlx.spectral_map(A, lambda s: s * s * s).sum(),
        "svd": lambda A: (lambda U, S, Vh: ((U * S * S * S) @ Vh).sum())(
            *svdinv.mlx.svd(A)
        ),
    }[name]
    X = mx.array(np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32))
    slope = mx.grad(f)
    bent = mx.grad(lambda A: (slope(A) * X).sum())(mx.diag(mx.array(values) * 1.0))
    assert np.isfinite(np.array(bent)).all()

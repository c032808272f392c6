"""The operators with derivatives by hand: svdinv.numpy against svdinv.torch."""

from __future__ import annotations

import doctest
import inspect
import pickle

import numpy as np
import pytest
import svdinv.backends.manual_operators
from operator_cases import matrices as drawn
from svdinv.backends.manual import Toolbox
from svdinv.backends.manual_operators import ManualOperators

import svdinv.numpy
from svdinv.core.degenerate import never_look
from svdinv.core.functions import Polar
from svdinv.core.thresholds import Firm
from svdinv.operators import Operators

NAMES = (
    "firm_threshold", "kabsch", "ky_fan_norm", "local_low_rank", "log_sum_threshold",
    "low_rank", "nuclear_norm", "polar", "procrustes", "schatten_norm",
    "schatten_prox", "spectral_map", "spectral_norm", "sure", "svht", "svt",
    "svt_divergence", "tsvt",
)  # fmt: skip

DTYPES = (np.float64, np.complex128)
SHAPES = ((5, 5), (7, 4), (4, 7), (2, 3, 6, 4), (2, 3, 6), (3, 40, 5))
SPECTRA = (
    "distinct",
    "repeated",
    "zeros",
    "repeated and zeros",
    "all equal",
    "nothing",
)


def noise(rng, shape, dtype=np.float64):
    x = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.standard_normal(shape)
    return np.asarray(x, dtype)


def matrices(rng, shape, dtype, spectrum="distinct"):
    """Matrices with a spectrum between 0 and 4, none of it at a threshold below."""
    *batch, m, n = shape
    k = min(m, n)
    U, _ = np.linalg.qr(noise(rng, (*batch, m, k), dtype))
    V, _ = np.linalg.qr(noise(rng, (*batch, n, k), dtype))
    A = (U * singular_values(spectrum, k)) @ np.swapaxes(V.conj(), -1, -2)
    return A.astype(dtype)


def singular_values(spectrum, k):
    return {
        "distinct": np.linspace(3.9, 0.3, k),
        "repeated": np.array([3.4, 3.4, 2.2, 2.2, 0.4, *[0.3] * k])[:k],
        "zeros": np.array([3.9, 2.8, *[0.0] * k])[:k],
        "repeated and zeros": np.array([2.6, 2.6, *[0.0] * k])[:k],
        "all equal": np.full(k, 2.6),
        "nothing": np.zeros(k),
    }[spectrum]


def smooth(xp):
    """f(s) = s + sin(s)^3 with a slope of its own, in NumPy or PyTorch."""
    return (
        lambda s: s + xp.sin(s) ** 3,
        lambda s: 1 + 3 * xp.sin(s) ** 2 * xp.cos(s),
    )


# name: arrays after A by name, positional options, keyword options
CASES = {
    "svt": (["tau"], (), {}),
    "svt relative": (["tau"], (), {"relative": True}),
    "svt gram": (["tau"], (), {"method": "gram"}),
    "svt relative gram": (["tau"], (), {"relative": True, "method": "gram"}),
    "svt weighted": (["weights"], (), {}),
    "svt weighted relative": (["weights"], (), {"relative": True}),
    "svht": (["tau"], (), {}),
    "svht relative": (["tau"], (), {"relative": True}),
    "firm_threshold": (["tau"], (), {}),
    "firm_threshold relative": (["tau"], (), {"gamma": 1.7, "relative": True}),
    "log_sum_threshold": (["tau"], (0.5,), {}),
    "schatten_prox half": (["tau"], (1 / 2,), {}),
    "schatten_prox third": (["tau"], (2 / 3,), {}),
    "schatten_prox one": (["tau"], (1,), {}),
    "schatten_prox two": (["tau"], (2,), {}),
    "low_rank": ([], (2,), {}),
    "polar": ([], (), {}),
    "spectral_map": ([], smooth(np), {}),
    "nuclear_norm": ([], (), {}),
    "spectral_norm": ([], (), {}),
    "ky_fan_norm": ([], (2,), {}),
    "schatten_norm third": ([], (1 / 3,), {}),
    "schatten_norm one": ([], (1,), {}),
    "schatten_norm two": ([], (2,), {}),
    "schatten_norm three": ([], (3,), {}),
    "schatten_norm inf": ([], (float("inf"),), {}),
    "svt_divergence": (["tau"], (), {}),
    "sure": (["tau", "sigma"], (), {}),
}


def example(case, shape, dtype, spectrum="distinct", seed=0):
    """Arrays, positional and keyword options of a case."""
    rng = np.random.default_rng(seed)
    names, options, keywords = CASES[case]
    batch, s = shape[:-2], singular_values(spectrum, min(shape[-2:]))
    scale = 0.25 if "relative" in case else 1.0
    values = {
        "tau": np.asarray(scale * rng.uniform(0.9, 1.1, batch)),
        # Equal for equal singular values: else there is no derivative.
        "weights": np.broadcast_to(scale * (1.5 - 0.2 * s), (*batch, len(s))).copy(),
        "sigma": np.asarray(rng.uniform(0.5, 1.5, batch[-1:])),
    }
    A = matrices(rng, shape, dtype, spectrum)
    return [A, *(values[name] for name in names)], options, keywords


def call(case, kind=""):
    return getattr(svdinv.numpy, case.split()[0] + kind)


def vjp(case, arrays, options, keywords):
    return call(case, "_vjp")(*arrays, *options, **keywords)


def jvp(case, arrays, tangents, options, keywords):
    return call(case, "_jvp")(*arrays, *options, *tangents, **keywords)


def in_torch(case, arrays, options, keywords):
    """The result of svdinv.torch, and its pullback."""
    torch = pytest.importorskip("torch")
    import svdinv.torch

    if case == "spectral_map":
        options = smooth(torch)
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    function = getattr(svdinv.torch, case.split()[0])
    result = function(*tensors, *options, **keywords)
    results = result if isinstance(result, tuple) else (result,)

    def pullback(*cotangents):
        used = [(x, torch.tensor(g)) for x, g in zip(results, cotangents, strict=True)
                if g is not None]  # fmt: skip
        outputs, given = zip(*used, strict=True)
        g = torch.autograd.grad(outputs, tensors, given, allow_unused=True)
        return [np.zeros(x.shape, x.dtype) if y is None else y.resolve_conj().numpy()
                for x, y in zip(arrays, g, strict=True)]  # fmt: skip

    values = [x.detach().resolve_conj().numpy() for x in results]
    return values, pullback


def dot(a, b):
    return np.sum((np.conj(a) * b).real)


def assert_close(actual, expected, rtol=1e-12):
    assert np.shape(actual) == np.shape(expected)
    size = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * size)


def cotangents(result, rng):
    return noise(rng, np.shape(result), result.dtype)


def as_tuple(x):
    return x if isinstance(x, tuple) else (x,)


def check(case, arrays, options, keywords, rtol=1e-12, determined=True):
    """Values and cotangents are PyTorch's, and the tangents their transpose."""
    rng = np.random.default_rng(1)
    result, pullback = vjp(case, arrays, options, keywords)
    np.testing.assert_array_equal(result, call(case)(*arrays, *options, **keywords))
    g = cotangents(result, rng)
    ours = as_tuple(pullback(g))
    if determined:
        values, theirs = in_torch(case, arrays, options, keywords)
        assert_close(result, values[0], rtol)
        for i, (one, other) in enumerate(zip(ours, theirs(g), strict=True)):
            if i and "weighted" in case:  # each alone depends on the singular vectors
                one, other = one.sum(-1), other.sum(-1)
            assert_close(one, other, rtol)
    for one, x in zip(ours, arrays, strict=True):
        assert one.dtype == x.dtype
        assert one.shape == x.shape
        assert np.isfinite(one).all()
    tangents = [noise(rng, x.shape, x.dtype) for x in arrays]
    again, tangent = jvp(case, arrays, tangents, options, keywords)
    np.testing.assert_array_equal(again, result)
    assert np.shape(tangent) == np.shape(result)
    assert tangent.dtype == result.dtype
    left = dot(g, tangent)
    right = sum(dot(x, d) for x, d in zip(ours, tangents, strict=True))
    size = max(np.abs(x).max(initial=0) for x in (*ours, tangent))
    assert abs(left - right) <= 100 * rtol * max(1.0, size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", CASES)
def test_as_in_torch(case, shape, dtype):
    check(case, *example(case, shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 5), (7, 5), (2, 5, 7)])
@pytest.mark.parametrize("spectrum", SPECTRA[1:])
@pytest.mark.parametrize("case", CASES)
def test_repeated_and_zero_singular_values(case, spectrum, shape, dtype):
    undetermined = {"polar": ("zeros", "repeated and zeros", "nothing"),
                    "low_rank": ("all equal",)}  # fmt: skip
    determined = spectrum not in undetermined.get(case, ())
    check(case, *example(case, shape, dtype, spectrum), determined=determined)


@pytest.mark.parametrize("case", CASES)
def test_single_precision(case):
    arrays, options, keywords = example(case, (6, 4), np.complex64)
    arrays = [arrays[0], *(x.astype(np.float32) for x in arrays[1:])]
    check(case, arrays, options, keywords, rtol=1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if "gram" not in case])
def test_half_precision_is_computed_in_single(case):
    arrays, options, keywords = example(case, (6, 4), np.float64)
    half = [x.astype(np.float16) for x in arrays]
    single = [x.astype(np.float32) for x in half]
    result, pullback = vjp(case, half, options, keywords)
    exact, exactly = vjp(case, single, options, keywords)
    assert result.dtype == np.float16
    np.testing.assert_array_equal(result, exact.astype(np.float16))
    g = np.ones(np.shape(result), np.float16)
    for one, other in zip(as_tuple(pullback(g)), as_tuple(exactly(g)), strict=True):
        assert one.dtype == np.float16
        np.testing.assert_array_equal(one, other.astype(np.float16))
    _, tangent = jvp(case, half, half, options, keywords)
    _, exact = jvp(case, single, single, options, keywords)
    assert tangent.dtype == np.float16
    np.testing.assert_array_equal(tangent, exact.astype(np.float16))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3), (0, 4, 3)])
@pytest.mark.parametrize(
    "case", ["svt", "svt gram", "svht", "firm_threshold", "log_sum_threshold",
             "schatten_prox half", "low_rank", "polar", "spectral_map",
             "nuclear_norm", "spectral_norm", "svt_divergence", "sure"]
)  # fmt: skip
def test_empty(case, shape):
    _, options, keywords = CASES[case]
    arrays = [np.zeros(shape), *(np.float64(1.0) for _ in CASES[case][0])]
    result, pullback = vjp(case, arrays, options, keywords)
    for one, x in zip(as_tuple(pullback(np.ones_like(result))), arrays, strict=True):
        assert one.shape == x.shape
        assert np.isfinite(one).all()
    assert np.shape(jvp(case, arrays, arrays, options, keywords)[1]) == result.shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (5, 4, 5), (2, 3, 1), (3, 2, 2)])
@pytest.mark.parametrize("axis", [-1, -2, -3, 0, 1])
@pytest.mark.parametrize("relative", [False, True])
def test_tsvt(relative, axis, shape, dtype):
    if axis in (0, 1):
        axis += len(shape) - 3
    rng = np.random.default_rng(3)
    tau = np.asarray(rng.uniform(0.9, 1.1, shape[:-3]) * (0.3 if relative else 1))
    arrays, keywords = [noise(rng, shape, dtype), tau], {"relative": relative}
    check("tsvt", arrays, (), {"axis": axis, **keywords})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 6, 8), (2, 3, 7, 5)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"relative": True},
        {"shift": (1, 2)},
        {"stride": (1, 2)},
        {"stride": 2, "shift": 1, "relative": True, "method": "gram"},
    ],
)
def test_local_low_rank(options, shape, dtype):
    rng = np.random.default_rng(4)
    tau = rng.uniform(0.9, 1.1, shape[:-3]) * (0.3 if "relative" in options else 1)
    arrays = [noise(rng, shape, dtype), np.asarray(tau)]
    check("local_low_rank", arrays, ((2, 4),), options)


@pytest.mark.parametrize("tau", [np.ones((1, 3)), np.ones((2, 1)), np.float64(1.0)])
def test_tau_that_is_broadcast_has_a_cotangent_of_its_own_shape(tau):
    A = matrices(np.random.default_rng(5), (2, 3, 5, 4), np.float64)
    check("svt", [A, tau], (), {})
    check("svt_divergence", [A, tau], (), {})
    x = noise(np.random.default_rng(6), (2, 3, 4, 4, 4))
    check("tsvt", [x, tau], (), {})
    check("local_low_rank", [x, tau], (2,), {})


def test_weights_that_are_broadcast():
    A = matrices(np.random.default_rng(5), (2, 3, 5, 4), np.float64)
    check("svt", [A, np.linspace(0.2, 1, 4)[None, None]], (), {})
    check("svt", [A, np.full((2, 1, 1), 0.7)], (), {"relative": False})


@pytest.mark.parametrize("tau", [1, 1.0, np.int64(1)])
def test_tau_as_a_number(tau):
    A = matrices(np.random.default_rng(5), (5, 4), np.float32)
    X, pullback = svdinv.numpy.svt_vjp(A, tau)
    gA, gtau = pullback(X)
    assert isinstance(gtau, np.ndarray)
    assert gtau.shape == ()
    assert gtau.dtype == gA.dtype == np.float32
    np.testing.assert_allclose(gtau, -np.trace(np.linalg.svd(X)[1] * np.eye(4)), 1e-5)
    _, tangent = svdinv.numpy.svt_jvp(A, tau, None, 1)
    np.testing.assert_allclose(np.sum(tangent * X), gtau, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9, 3), (2, 3, 7, 4), (4, 4)])
@pytest.mark.parametrize("kind", ["any", "perfect", "planar", "repeated"])
def test_procrustes(kind, shape, dtype):
    rng = np.random.default_rng(7)
    A, B = noise(rng, shape, dtype), noise(rng, shape, dtype)
    n = shape[-1]
    if kind == "perfect":
        B = A @ np.linalg.qr(noise(rng, (n, n), dtype))[0]
    elif kind == "planar":
        A[..., 0] = A[..., 1] + A[..., 2]
    elif kind == "repeated":
        A = np.linalg.qr(A)[0]
        B = A @ np.linalg.qr(noise(rng, (n, n), dtype))[0]
    # A plane determines R up to a sign or a phase.
    check_tuple("procrustes", [A, B], {}, determined=kind != "planar")


def check_tuple(case, arrays, keywords, given=None, rtol=1e-11, determined=True):
    """As `check`, for several arrays in order and several results."""
    rng = np.random.default_rng(8)
    result, pullback = call(case, "_vjp")(*arrays, **keywords)
    results = as_tuple(result)
    g = [cotangents(x, rng) for x in results]
    if given is not None:
        g = [x if wanted else None for x, wanted in zip(g, given, strict=True)]
    ours = [x for x in as_tuple(pullback(*g)) if x is not None]
    for one, x in zip(ours, arrays, strict=True):
        assert one.dtype == x.dtype
        assert one.shape == x.shape
        assert np.isfinite(one).all()
    if determined:
        values, theirs = in_torch(case, arrays, (), keywords)
        for one, other in zip(results, values, strict=True):
            assert_close(one, other, rtol)
        for one, other in zip(ours, theirs(*g), strict=True):
            assert_close(one, other, rtol)
    d = [noise(rng, x.shape, x.dtype) for x in arrays]
    along = (*arrays[:2], *d[:2], *(x for pair in zip(arrays[2:], d[2:], strict=True)
                                    for x in pair))  # fmt: skip
    again, tangents = call(case, "_jvp")(*along, **keywords)
    assert type(again) is type(tangents)
    left = sum(
        dot(x, y) for x, y in zip(g, as_tuple(tangents), strict=True) if x is not None
    )
    right = sum(dot(x, y) for x, y in zip(ours, d, strict=True))
    size = max(np.abs(x).max(initial=0) for x in (*ours, *as_tuple(tangents)))
    assert abs(left - right) <= 100 * rtol * max(1.0, size)


@pytest.mark.parametrize("given", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(9, 3), (2, 3, 7, 2), (8, 4), (5, 1)])
@pytest.mark.parametrize("kind", ["any", "perfect", "planar", "reflected"])
def test_kabsch(kind, shape, weighted, given):
    rng = np.random.default_rng(9)
    P, Q = noise(rng, shape), noise(rng, shape)
    n = shape[-1]
    R, _ = np.linalg.qr(noise(rng, (n, n)))
    R[:, 0] *= np.linalg.det(R)
    weights = rng.uniform(0.5, 1.5, shape[:-1])
    if kind == "perfect":
        Q = P @ R.T + rng.standard_normal(n)
        given = (*given[:2], 0)  # the rmsd is rounding errors
        if not any(given):
            return
    elif kind == "planar":
        if n < 3:
            return
        P[..., 0], Q[..., 0] = 1, 2
        Q = Q @ R
    elif kind == "reflected":
        P[..., 0] *= 3
        Q = P * np.array([*[1.0] * (n - 1), -1.0]) + 0.1 * Q
    arrays = [P, Q, weights] if weighted else [P, Q]
    check_tuple("kabsch", arrays, {}, given)


def test_kabsch_of_equal_points_has_no_gradient_of_the_rmsd():
    P = np.random.default_rng(10).standard_normal((6, 3)).round(1)
    fit, pullback = svdinv.numpy.kabsch_vjp(P, P)
    if fit.rmsd == 0:
        assert not np.any(pullback(grmsd=np.float64(1.0))[0])
    zero = np.zeros((6, 3))
    fit, pullback = svdinv.numpy.kabsch_vjp(zero, zero)
    gP, gQ, gweights = pullback(grmsd=np.float64(1.0))
    assert not gP.any()
    assert not gQ.any()
    assert gweights is None
    assert not svdinv.numpy.kabsch_jvp(zero, zero, zero, zero)[1].rmsd.any()


def test_weights_of_kabsch_that_are_broadcast():
    rng = np.random.default_rng(11)
    P, Q = noise(rng, (2, 7, 3)), noise(rng, (2, 7, 3))
    check_tuple("kabsch", [P, Q, rng.uniform(0.5, 1.5, 7)], {})


def test_half_precision_of_several_arrays():
    rng = np.random.default_rng(12)
    P, Q = (noise(rng, (7, 3)).astype(np.float16) for _ in range(2))
    R, pullback = svdinv.numpy.procrustes_vjp(P, Q)
    assert {x.dtype for x in (R, *pullback(R))} == {np.dtype(np.float16)}
    fit, pullback = svdinv.numpy.kabsch_vjp(P, Q)
    assert {x.dtype for x in fit} == {np.dtype(np.float16)}
    gP, gQ, _ = pullback(*fit)
    assert gP.dtype == gQ.dtype == np.float16
    _, tangents = svdinv.numpy.kabsch_jvp(P, Q, P, Q)
    assert {x.dtype for x in tangents} == {np.dtype(np.float16)}


@pytest.mark.parametrize("case", [case for case in CASES if " " not in case])
def test_arguments_and_results_may_be_changed_afterwards(case):
    arrays, options, keywords = example(case, (20, 3), np.float64)
    result, pullback = vjp(case, arrays, options, keywords)
    g = np.ones_like(result)
    before = as_tuple(pullback(g))
    for x in arrays:
        x[...] = np.nan
    if np.shape(result):
        result[...] = np.nan
    for one, other in zip(before, as_tuple(pullback(g)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_points_may_be_changed_afterwards():
    rng = np.random.default_rng(13)
    P, Q, w = noise(rng, (7, 3)), noise(rng, (7, 3)), rng.uniform(1, 2, 7)
    fit, pullback = svdinv.numpy.kabsch_vjp(P, Q, w)
    g = [np.ones_like(x) for x in fit]
    before = pullback(*g)
    for x in (P, Q, w, fit.rotation, fit.translation):
        x[...] = np.nan
    for one, other in zip(before, pullback(*g), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", ["svt", "spectral_map", "nuclear_norm", "sure"])
def test_bad_cotangents_are_named(case):
    arrays, options, keywords = example(case, (5, 4), np.float64)
    result, pullback = vjp(case, arrays, options, keywords)
    with pytest.raises(ValueError, match=r"[Gg] must have shape \("):
        pullback(np.ones((4, 5)))
    with pytest.raises(TypeError, match=r"[Gg] must be real"):
        pullback(1j * result)


def test_bad_tangents_are_named():
    A = np.eye(4)
    with pytest.raises(ValueError, match=r"dA must have shape \(4, 4\)"):
        svdinv.numpy.svt_jvp(A, 1.0, np.ones(4))
    with pytest.raises(ValueError, match=r"dtau must have shape \(\)"):
        svdinv.numpy.svt_jvp(A, 1.0, A, np.ones(4))
    with pytest.raises(TypeError, match="dA must be real"):
        svdinv.numpy.polar_jvp(A, 1j * A)
    with pytest.raises(ValueError, match=r"dsigma must have shape \(1,\)"):
        svdinv.numpy.sure_jvp(A[None], 1.0, np.ones(1), None, None, 1.0)
    with pytest.raises(TypeError, match="dweights needs weights"):
        svdinv.numpy.kabsch_jvp(A, A, A, A, dweights=np.ones(4))
    with pytest.raises(ValueError, match=r"gt must have shape \(4,\)"):
        svdinv.numpy.kabsch_vjp(A, A)[1](gt=A)
    with pytest.raises(TypeError, match="gR, gt, grmsd, got 0 cotangents and gQ"):
        svdinv.numpy.kabsch_vjp(A, A)[1](gQ=A)


@pytest.mark.parametrize("kind", ["", "_vjp"])
def test_bad_arguments(kind):
    svt = call("svt", kind)
    with pytest.raises(TypeError, match="A must be floating point or complex"):
        svt(np.eye(3, dtype=int), 1.0)
    with pytest.raises(np.linalg.LinAlgError, match="A must have at least two dim"):
        svt(np.ones(3), 1.0)
    with pytest.raises(np.linalg.LinAlgError, match="X must have at least three dim"):
        call("tsvt", kind)(np.ones((3, 3)), 1.0)
    with pytest.raises(TypeError, match="tau must be real"):
        svt(np.eye(3), 1j)
    with pytest.raises(TypeError, match="tau must be"):
        svt(np.eye(3), "one")
    with pytest.raises(ValueError, match="tau must be >= 0"):
        svt(np.eye(3), -1.0)
    with pytest.raises(ValueError, match="tau must broadcast"):
        svt(np.eye(3), np.ones((2, 3)))
    with pytest.raises(ValueError, match="method must be one of"):
        svt(np.eye(3), 1.0, method="magic")


def test_spectral_map_needs_a_derivative_only_to_differentiate():
    A = matrices(np.random.default_rng(14), (5, 4), np.float64)
    f, df = smooth(np)
    X = svdinv.numpy.spectral_map(A, f)
    np.testing.assert_array_equal(X, svdinv.numpy.spectral_map_vjp(A, f, df)[0])
    with pytest.raises(TypeError, match="df, the derivative of f, is needed"):
        svdinv.numpy.spectral_map_vjp(A, f)
    with pytest.raises(TypeError, match="df, the derivative of f, is needed"):
        svdinv.numpy.spectral_map_jvp(A, f, None, A)


def test_lists_are_taken_as_numpy_takes_them():
    X, pullback = svdinv.numpy.svt_vjp([[3.0, 0.0], [0.0, 4.0]], [1.0, 1.0])
    np.testing.assert_allclose(X, [[2, 0], [0, 3]])
    assert pullback(X.tolist())[1].shape == (2,)


def test_every_operator_is_there():
    public = {name for name in vars(Operators) if not name.startswith("_")}
    names = [*NAMES, "svd_lowrank", "spectral_operator"]
    assert public == set(names)
    kinds = [name + kind for name in names for kind in ("", "_vjp", "_jvp")]
    assert set(svdinv.numpy.__all__) == {*kinds, "svd", "svd_vjp", "svd_jvp", "svdvals"}


def test_a_function_of_ones_own():
    A, G, dA = drawn((5, 4)), drawn((5, 4), seed=1), drawn((5, 4), seed=2)
    own, pullback = svdinv.numpy.spectral_operator_vjp(A, Firm(2.5), 0.6)
    result, expected = svdinv.numpy.firm_threshold_vjp(A, 0.6, 2.5)
    np.testing.assert_array_equal(own, result)
    for found, wanted in zip(pullback(G), expected(G), strict=True):
        np.testing.assert_array_equal(found, wanted)
    _, tangent = svdinv.numpy.spectral_operator_jvp(A, Firm(2.5), dA, 0.6, 0.1)
    _, wanted = svdinv.numpy.firm_threshold_jvp(A, 0.6, dA, 0.1, gamma=2.5)
    np.testing.assert_array_equal(tangent, wanted)
    _, pullback = svdinv.numpy.spectral_operator_vjp(A, Polar())
    np.testing.assert_array_equal(pullback(G), svdinv.numpy.polar_vjp(A)[1](G))


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (20, 20)])
def test_triplets_of_a_truncated_svd(shape, dtype):
    """As the whole SVD with cotangents for the leading triplets alone."""
    A = drawn(shape, dtype) @ np.diag(0.6 ** np.arange(shape[1]))
    A = A / np.linalg.norm(A, 2)
    W = drawn(shape, dtype, seed=1)
    (U, S, Vh), pullback = svdinv.numpy.svd_lowrank_vjp(A, 4, power=20, seed=0)

    def cotangents(U, S, Vh):  # of Re <W, U S^2 Vh>
        image = W @ np.conj(Vh.T)
        gS = 2 * S * np.sum(np.conj(U) * image, axis=0).real
        return image * S**2, gS, (S**2)[:, None] * (np.conj(U.T) @ W)

    gA = pullback(*cotangents(U, S, Vh))
    whole, expected = svdinv.numpy.svd_vjp(A)
    given = cotangents(whole.U[:, :4], whole.S[:4], whole.Vh[:4])
    padded = [np.zeros_like(x) for x in whole]
    padded[0][:, :4], padded[1][:4], padded[2][:4] = given
    np.testing.assert_allclose(gA, expected(*padded), atol=1e-9)
    dA = drawn(shape, dtype, seed=2)
    _, tangents = svdinv.numpy.svd_lowrank_jvp(A, 4, dA, power=20, seed=0)
    assert tangents.S.shape == (4,)
    moved = np.linalg.svd(A + 1e-6 * dA)[1][:4] - np.linalg.svd(A - 1e-6 * dA)[1][:4]
    np.testing.assert_allclose(tangents.S, moved / 2e-6, atol=1e-7)


@pytest.mark.parametrize("name", svdinv.numpy.__all__)
def test_functions_can_be_pickled_and_have_help(name):
    function = getattr(svdinv.numpy, name)
    assert pickle.loads(pickle.dumps(function)) == function
    assert function.__name__ == name
    text = inspect.getdoc(function)
    for heading in ("Parameters", "Returns", "Raises"):
        assert f"\n{heading}\n---" in text
    for parameter in inspect.signature(function).parameters:
        assert parameter in text


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name):
    """A vjp takes what its operator takes, a jvp that and the tangents."""
    plain, vjp, jvp = (
        inspect.signature(getattr(svdinv.numpy, name + kind)).parameters
        for kind in ("", "_vjp", "_jvp")
    )
    assert [(p.name, p.kind, p.default) for p in plain.values()] == [
        (p.name, p.kind, p.default) for p in vjp.values()
    ]
    tangents = set(jvp) - set(plain)
    assert tangents
    assert all(x[0] == "d" and (x[1:] in plain or x == "df") for x in tangents)
    assert set(plain) <= set(jvp)


def test_examples():
    failed, attempted = doctest.testmod(svdinv.backends.manual_operators)
    assert attempted
    assert not failed


@pytest.mark.parametrize("scale", [1e-150, 1e-60, 1e60, 1e150])
@pytest.mark.parametrize(
    "case", ["svt_divergence", "polar", "nuclear_norm", "low_rank"]
)
def test_very_small_and_very_large_values(case, scale):
    arrays, options, keywords = example(case, (5, 4), np.float64)
    result, pullback = vjp(case, arrays, options, keywords)
    scaled, back = vjp(case, [scale * x for x in arrays], options, keywords)
    growth = 0 if case in ("svt_divergence", "polar") else 1
    assert_close(scaled / scale**growth, result)
    g = np.ones_like(result)
    for one, other in zip(as_tuple(back(g)), as_tuple(pullback(g)), strict=True):
        assert_close(one / scale ** (growth - 1), other)


class Like:
    """Another namespace gives the same numbers as NumPy."""

    def face(self):
        """Its operators, and the ways there and back."""
        raise NotImplementedError

    def agree(self, case, arrays, options=(), keywords=None, rtol=1e-11):
        operators, there, back = self.face()
        rng = np.random.default_rng(15)
        keywords = keywords or {}
        plain, vjp, jvp = (
            (getattr(operators, case.split()[0] + kind), call(case, kind))
            for kind in ("", "_vjp", "_jvp")
        )
        given = [there(x) for x in arrays]

        def same(ours, theirs):
            for one, other in zip(as_tuple(ours), as_tuple(theirs), strict=True):
                assert_close(back(one), other, rtol)

        result, pullback = vjp[1](*arrays, *options, **keywords)
        ours, pull = vjp[0](*given, *options, **keywords)
        same(ours, result)
        same(plain[0](*given, *options, **keywords), result)
        g = [cotangents(x, rng) for x in as_tuple(result)]
        same(pull(*map(there, g)), pullback(*g))
        d = [noise(rng, x.shape, x.dtype) for x in arrays]
        along = [there(x) for x in d]
        first, last = (2, 2) if case == "kabsch" else (len(arrays), len(arrays))
        same(
            jvp[0](*given[:first], *options, *along[:first], *given[last:],
                   *along[last:], **keywords)[1],
            jvp[1](*arrays[:first], *options, *d[:first], *arrays[last:],
                   *d[last:], **keywords)[1],
        )  # fmt: skip

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("spectrum", ["distinct", "repeated"])
    @pytest.mark.parametrize(
        "case", [x for x in CASES if "weighted" not in x and x != "spectral_map"]
    )
    def test_matrices(self, case, spectrum, dtype):
        self.agree(case, *example(case, (2, 7, 5), dtype, spectrum))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_weights(self, dtype):
        self.agree("svt", *example("svt weighted", (2, 4, 6), dtype))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_spectral_map(self, dtype):
        options = (lambda s: s * s * s, lambda s: 3 * s * s)
        self.agree("spectral_map", example("polar", (2, 7, 5), dtype)[0], options)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_tensors(self, dtype):
        x = noise(np.random.default_rng(16), (2, 4, 6, 5), dtype)
        self.agree("tsvt", [x, np.ones(2)])
        keywords = {"stride": 2, "shift": 1}
        self.agree("local_low_rank", [x, np.ones(2)], ((2, 4),), keywords)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_points(self, dtype):
        rng = np.random.default_rng(17)
        A, B = noise(rng, (2, 7, 3), dtype), noise(rng, (2, 7, 3), dtype)
        self.agree("procrustes", [A, B])
        if dtype == np.float64:
            self.agree("kabsch", [A, B, rng.uniform(1, 2, (2, 7))])


class TestStrict(Like):
    """In the namespace that allows nothing but the standard, without looking."""

    def face(self):
        xp = pytest.importorskip("array_api_strict")
        operators = ManualOperators(
            Toolbox(xp, never_look, ValueError, np.random.default_rng), ""
        )
        return operators, lambda x: xp.asarray(x.copy()), np.asarray


@pytest.mark.gpu
class TestCuPyOnAGPU(Like):
    def face(self):
        cupy = pytest.importorskip("cupy")
        if not cupy.is_available():
            pytest.skip("no CUDA GPU")
        import svdinv.cupy

        return svdinv.cupy, cupy.asarray, cupy.asnumpy

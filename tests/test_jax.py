"""JAX's own transformations."""

from __future__ import annotations

import functools
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from frameworks import FRAMEWORKS, as_tuple
from operator_cases import ALL_CASES, bound, problem, with_values
from operator_cases import matrices as numbers
from oracle import FUNCTIONS, draw, relative_error

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax.test_util import check_grads

import svdinv.jax as face
from svdinv import kernels
from svdinv.backends import jax as backend
from svdinv.core import factors
from svdinv.core.spectral_operations import Factorise
from svdinv.core.thresholds import Soft
from svdinv.jax import svd, svdvals

SHAPES = [(4, 4), (5, 3), (3, 5), (2, 4, 3)]


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def matrices(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal(shape)
    if dtype == np.complex128:
        A = A + 1j * rng.standard_normal(shape)
    return jnp.asarray(A.astype(dtype))


def adjoint(x):
    return jnp.conj(jnp.swapaxes(x, -1, -2))


def spectral(A, f=jnp.tanh):
    U, S, Vh = svd(A)
    return (U * f(S)[..., None, :].astype(A.dtype)) @ Vh


def loss(A):
    return jnp.sum(jnp.sin(jnp.real(spectral(A, lambda S: jnp.maximum(S - 0.3, 0)))))


def invariants(A):
    U, S, _ = svd(A)
    return spectral(A), S, U[..., :2] @ adjoint(U[..., :2])


def full_invariants(A):
    U, S, Vh = svd(A, full_matrices=True)
    k = S.shape[-1]
    U2, V2h = U[..., k:], Vh[..., k:, :]
    return S, U2 @ adjoint(U2), adjoint(V2h) @ V2h


# All shapes with both dtypes are in test_exactness.
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*zip(SHAPES, [np.float64, np.complex128] * 2, strict=True)],
)
@pytest.mark.parametrize("function", [invariants, full_invariants])
def test_check_grads(function, shape, dtype):
    A = matrices(shape, dtype)
    check_grads(jax.jit(function), (A,), order=1, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "modes"), [(np.float64, ["rev"]), (np.complex128, ["fwd"])]
)
def test_check_second_derivatives(dtype, modes):
    # That the orders agree is test_transformations_agree.
    check_grads(jax.jit(invariants), (matrices((4, 3), dtype),), order=2, modes=modes,
                atol=1e-4, rtol=1e-4)  # fmt: skip


def test_transformations_agree():
    A = matrices((5, 4, 3))
    one_by_one = jnp.stack([jax.grad(loss)(a) for a in A])
    close = np.testing.assert_allclose
    close(jax.vmap(jax.grad(loss))(A), one_by_one, atol=1e-14)
    close(jax.grad(lambda A: jnp.sum(jax.vmap(loss)(A)))(A), one_by_one, atol=1e-14)
    close(jax.jit(jax.vmap(jax.grad(loss)))(A), one_by_one, atol=1e-14)
    last = jnp.moveaxis(A, 0, -1)
    close(jax.vmap(jax.grad(loss), in_axes=-1)(last), one_by_one, atol=1e-14)
    slope = jnp.sum(one_by_one[0] * A[1])
    found = jax.jit(
        lambda A: {
            "tangent": jax.jvp(loss, (A[0],), (A[1],))[1],
            "linear": jax.linearize(loss, A[0])[1](A[1]),
            "rows": jax.jacrev(spectral)(A[0]),
            "columns": jax.jacfwd(spectral)(A[0]),
            "hessian": jax.hessian(loss)(A[0]),
            "twice backward": jax.jacrev(jax.jacrev(loss))(A[0]),
            "mapped": jax.vmap(jax.hessian(loss))(A)[0],
            "checkpointed": jax.grad(jax.checkpoint(loss))(A[0]),
        }
    )(A)
    close(found["tangent"], slope, rtol=1e-12)
    close(found["linear"], slope, rtol=1e-12)
    close(found["rows"], found["columns"], atol=1e-14)
    close(found["twice backward"], found["hessian"], atol=1e-13)
    close(found["mapped"], found["hessian"], atol=1e-13)
    close(found["checkpointed"], one_by_one[0], atol=1e-14)


def test_repeated_values_under_jit_and_vmap():
    A = jnp.stack([jnp.eye(4, 3), jnp.zeros((4, 3)), matrices((4, 3))])
    gA = jax.jit(jax.vmap(jax.grad(loss)))(A)
    for a, g in zip(A, gA, strict=True):
        np.testing.assert_allclose(g, jax.grad(loss)(a), atol=1e-14)
    assert jnp.isfinite(gA).all()
    assert jnp.isfinite(jax.jit(jax.vmap(jax.hessian(loss)))(A)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("shape", [(9, 6)])
def test_distinct_spectra_agree_with_jax(shape, dtype):
    problem = draw("distinct", shape, draws=3, dtype=dtype, seed=8)
    found = []
    for decompose in (svd, lambda a: jnp.linalg.svd(a, full_matrices=False)):
        factors, transpose = jax.vjp(lambda a: tuple(decompose(a)), problem.A)  # noqa: B023
        given = problem.cotangents(tuple(map(np.asarray, factors)), FUNCTIONS["tanh"])
        found.append(transpose(tuple(map(np.conj, given)))[0])
    assert relative_error(*map(np.asarray, found)).max() < 60 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    A = matrices((5, 3)).astype(dtype)
    factors = svd(A)
    assert all(x.dtype == dtype for x in factors)
    gA = jax.grad(lambda A: jnp.sum(svdvals(A).astype(jnp.float32) ** 2))(A)
    assert gA.dtype == dtype
    np.testing.assert_allclose(
        gA.astype(float), 2 * A.astype(float), rtol=2e-2, atol=2e-2
    )


def test_gauge_monitor_under_vmap_and_jit():
    import svdinv

    Q = jnp.asarray(np.linalg.qr(matrices((3, 4, 4)))[0])
    monitor = svdinv.GaugeMonitor()

    def dependent(A):
        return jnp.sum(svd(A, gauge=monitor).U * matrices((4, 4), seed=5))

    jax.jit(jax.vmap(jax.grad(dependent)))(Q)
    jax.effects_barrier()
    assert monitor.last.shape == (3,)
    assert (monitor.last > 1e-3).all()


def test_compute_uv():
    A = matrices((4, 3))
    np.testing.assert_array_equal(svd(A, compute_uv=False), svdvals(A))


def test_single_precision_mode():
    with jax.enable_x64(False):
        gA = jax.grad(loss)(jnp.eye(3))
        assert gA.dtype == jnp.float32
        assert jnp.isfinite(gA).all()


def test_double_precision_is_refused_in_single_precision_mode():
    A = matrices((3, 4, 4))
    value, pullback = jax.vjp(face.nuclear_norm, A)
    with jax.enable_x64(False):
        for function in (svd, face.eigh, jax.jit(face.polar), jax.grad(loss)):
            with pytest.raises(TypeError, match="float64, and jax_enable_x64 is off"):
                function(A)
        assert pullback(value)[0].dtype == A.dtype


def test_without_compilation():
    A = matrices((2, 4, 3))

    def derivatives(A):
        along = jax.jvp(lambda A: face.svt(A, 0.1), (A,), (A,))[1]
        return along, jax.grad(loss)(A), jax.vmap(face.nuclear_norm)(A)

    expected = derivatives(A)
    with jax.disable_jit():
        close(derivatives(A), expected, 1e-12)


def test_whitening_of_small_features_in_a_compiled_function():
    """XLA makes x / u / u the quotient by u u, which may be 0."""
    X = 1e-20 * numbers((6, 3)).astype(np.float32)
    Y = numbers((6, 3), seed=1).astype(np.float32)
    close(jax.jit(face.whiten)(X)[:1], face.whiten(X)[:1], 1e-5)
    close(jax.jit(face.cca)(X, Y)[:1], face.cca(X, Y)[:1], 1e-5)


def test_the_derivative_in_a_weight_does_not_hide_nan():
    A = numbers((2, 3, 3))
    A[1, 0, 0] = np.nan

    def loss(weight):
        return face.robust_pca(A, weight, iterations=3).low_rank.sum()

    first, second = jax.grad(loss)(jnp.full(2, 0.5))
    assert np.isfinite(first)
    assert np.isnan(second)


def test_nan_is_reported_where_it_is_computed():
    with jax.debug_nans(True):
        with pytest.raises(FloatingPointError, match="svdinv_operation"):
            face.sqrtm(-jnp.eye(3))
        for function in (
            lambda A: face.robust_pca(A, iterations=2).low_rank.sum(),
            lambda A: face.sure(A, 0.5, 0.1),
        ):
            assert jnp.isfinite(jax.grad(function)(jnp.eye(3))).all()


def close(found, expected, tolerance):
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * (1 + abs(y).max()))


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (lambda A, t: face.svt(A, t), np.complex128),
        (lambda A, t: face.spectral_map(A, lambda s: jnp.tanh(s * t)), np.float64),
    ],
)
def test_check_grads_of_operators(function, dtype):
    A = jnp.asarray(numbers((4, 3), dtype))
    check_grads(jax.jit(function), (A, 0.4), order=2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["svt, float64", "svt, gram, complex128", "schatten_norm, 1.5, complex128"]
)
def test_orders_of_differentiation_agree(name):
    function = bound(name, FRAMEWORKS["jax"])
    inputs, directions, _ = problem(name)
    x, d = tuple(map(jnp.asarray, inputs)), tuple(map(jnp.asarray, directions))
    every = tuple(range(len(x)))

    def loss(*x):
        return jnp.sum(jnp.sin(jnp.real(function(*x))))

    def along(*x):
        return sum(jnp.sum(jnp.real(a * b)) for a, b in zip(slope(*x), d, strict=True))

    slope = jax.grad(loss, every)
    tangent = lambda *x: jax.jvp(loss, x, d)[1]  # noqa: E731
    found = jax.jit(  # one program: to compile each operation alone takes seconds
        lambda *x: {
            "forward": [tangent(*x)],
            "reverse": [along(*x)],
            "linear": [jax.linearize(loss, *x)[1](*d)],
            "slope": slope(*x),
            "checkpointed": jax.grad(jax.checkpoint(loss), every)(*x),
            "forward over reverse": jax.jvp(slope, x, d)[1],
            "reverse over reverse": jax.grad(along, every)(*x),
            "reverse over forward": jax.grad(tangent, every)(*x),
            "forward over forward": [jax.jvp(tangent, x, d)[1]],
        }
    )(*x)
    products = found["forward over reverse"]
    close(found["reverse over reverse"], products, 1e-12)
    close(found["reverse over forward"], products, 1e-12)
    product = sum(jnp.sum(jnp.real(a * b)) for a, b in zip(products, d, strict=True))
    close(found["forward over forward"], [product], 1e-12)
    close(found["forward"], found["reverse"], 1e-12)
    close(found["linear"], found["forward"], 1e-14)
    close(found["checkpointed"], found["slope"], 1e-14)


def test_hessians_agree():
    A = jnp.asarray(numbers((3, 2)))

    def loss(A):
        return jnp.sum(jnp.sin(face.svt(A, 0.3)))

    hessian, *others = jax.jit(
        lambda A: (
            jax.hessian(loss)(A),
            jax.jacfwd(jax.jacfwd(loss))(A),
            jax.jacrev(jax.jacrev(loss))(A),
            jax.jacrev(jax.jacfwd(loss))(A),
            jax.vmap(jax.hessian(loss))(A[None])[0],
        )
    )(A)
    gradient = jax.jit(jax.grad(loss))
    step = 1e-6
    for i, j in np.ndindex(*A.shape):
        E = jnp.zeros_like(A).at[i, j].set(step)
        slope = (gradient(A + E) - gradient(A - E)) / (2 * step)
        np.testing.assert_allclose(hessian[i, j], slope, atol=1e-8)
    close(others, 4 * [hessian], 1e-13)


def test_second_derivatives_of_truncated_triplets():
    A, d = jnp.asarray(numbers((6, 5))), jnp.asarray(numbers((6, 5), seed=1))

    def loss(A):
        U, S, Vh = face.svd_lowrank(A, 2, power=60)
        return jnp.sum(jnp.sin((U * S) @ Vh))

    def exact(A):
        return jnp.sum(jnp.sin(face.low_rank(A, 2)))

    slope = jax.grad(loss)
    found = jax.jit(
        lambda A: (
            jax.grad(lambda A: jnp.vdot(slope(A), d))(A),
            jax.jvp(slope, (A,), (d,))[1],
        )
    )(A)
    close(found, 2 * (jax.jvp(jax.grad(exact), (A,), (d,))[1],), 1e-10)


@pytest.mark.parametrize("method", ["svd", "gram"])
def test_vmap(method):
    A, tau = jnp.asarray(numbers((5, 4, 3))), jnp.linspace(0.2, 0.9, 5)

    def loss(A, tau):
        return jnp.sum(jnp.sin(face.svt(A, tau, method=method)))

    slope = jax.grad(loss, (0, 1))
    one_by_one = [jnp.stack(g) for g in zip(*map(slope, A, tau), strict=True)]
    close(jax.vmap(slope)(A, tau), one_by_one, 1e-13)
    close(jax.jit(jax.vmap(slope))(A, tau), one_by_one, 1e-13)
    last = jnp.moveaxis(A, 0, -1)
    close(jax.vmap(slope, (-1, 0))(last, tau), one_by_one, 1e-13)
    shared = jax.vmap(slope, (None, 0))(A[0], tau)
    close([g[2] for g in shared], slope(A[0], tau[2]), 1e-13)
    batched = jax.grad(
        lambda A, tau: jnp.sum(jnp.sin(face.svt(A, tau, method=method))), (0, 1)
    )
    close(batched(A, tau), one_by_one, 1e-13)


def test_third_derivatives_are_refused():
    A = jnp.asarray(numbers((3, 2)))

    def loss(A):
        return jnp.sum(face.polar(A) ** 2 * A)

    hessian = jax.hessian(loss)
    assert jnp.isfinite(jax.jit(hessian)(A)).all()
    for third in (jax.jacfwd(hessian), jax.jacrev(hessian)):
        with pytest.raises(NotImplementedError, match="two derivatives"):
            jax.jit(third)(A)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_of_an_operator(dtype):
    A = jnp.asarray(numbers((5, 3))).astype(dtype)
    result, transpose = jax.vjp(lambda A: face.svt(A, 0.5), A)
    (gA,) = transpose(result)
    assert result.dtype == gA.dtype == dtype
    assert face.nuclear_norm(A).dtype == dtype
    expected = face.svt(A.astype(jnp.float32), 0.5)
    np.testing.assert_allclose(
        result.astype(float), expected.astype(float), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("method", ["auto", "svd", "gram"])
def test_single_precision_mode_of_operators(method):
    with jax.enable_x64(False):
        A = jnp.asarray(numbers((6, 3), np.float32))
        loss = lambda A: jnp.sum(face.svt(A, 0.5, method=method) ** 2)  # noqa: E731
        gA = jax.grad(loss)(A)
        assert gA.dtype == jnp.float32
        np.testing.assert_allclose(gA, 2 * face.svt(A, 0.5), atol=1e-4)
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(A), gA, atol=1e-4)


def test_methods_agree_and_auto_looks():
    if jax.default_backend() != "cpu":
        pytest.skip("only on the CPU may it look")
    A = jnp.asarray(numbers((12_000, 20)))
    close([face.svt(A, 105.0)], [face.svt(A, 105.0, method="svd")], 1e-13)

    def factorise(A, function, tau):
        return face._backend.evaluate(Factorise(function), A, tau)

    tau = jnp.full(1, 105.0)
    assert len(factorise(A, Soft(), tau)) == 2
    assert len(jax.jit(lambda A: factorise(A, Soft(), tau))(A)) == 3
    looked = []
    jax.grad(lambda A: (looked.append(len(factorise(A, Soft(), tau))), A.sum())[1])(A)
    assert looked == [2]


def test_operators_pickle():
    assert pickle.loads(pickle.dumps(face.svt)) == face.svt


def thresholded(shape, dtype):
    """Matrices of which a Gram matrix is enough, and of which it is not."""
    s = np.logspace(0, -4, 6)
    kept = with_values(np.array([1, 0.9, 0.8, 1e-3, 1e-4, 0]), shape, dtype)
    return np.stack([kept, with_values(s, shape, dtype)]).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((6, 6), np.float32), ((24, 6), np.complex128), ((6, 9), np.float32)],
)
def test_a_graph_decides_for_the_gram_matrix(shape, dtype, monkeypatch):
    monkeypatch.setattr(factors, "MIN_GRAM_WORK", 1)
    monkeypatch.setattr(kernels._kernels, "indices", {})
    jax.clear_caches()
    G = jnp.asarray(numbers((2, *shape), dtype))

    @functools.partial(jax.jit, static_argnums=(2, 3))
    def both(A, tau, relative, method):
        def svt(A):
            return face.svt(A, tau, relative=relative, method=method)

        y, pull = jax.vjp(svt, A)
        return y, *pull(G)

    A = jnp.asarray(thresholded(shape, dtype))
    assert "stablehlo.case" in both.lower(A, 0.3, False, "auto").as_text()
    assert "stablehlo.case" not in both.lower(A, 0.3, False, "svd").as_text()
    for relative in (False, True):
        for tau, scale in ((0.3, 1), (1e-3, 1), (2.0, 1), (0.3, 1e-30), (0.3, 1e30)):
            level = tau if relative else tau * scale
            given = A * np.dtype(dtype).type(scale)
            found, expected = (
                both(given, level, relative, method) for method in ("auto", "svd")
            )
            for x, y, size in zip(found, expected, (scale, 1), strict=True):
                x, y = np.asarray(x) / size, np.asarray(y) / size
                assert abs(x - y).max() < 100 * np.finfo(dtype).eps
    bad = A.at[0, 2, 3].set(jnp.nan)
    y, _ = both(bad, 0.3, False, "auto")
    assert np.isnan(y[0]).any()
    expected = both(A, 0.3, False, "svd")[0][1]
    np.testing.assert_allclose(y[1], expected, atol=1e-6)
    np.testing.assert_array_equal(both(A * 0, 0.3, False, "auto")[0], A * 0)
    jax.clear_caches()


@pytest.mark.parametrize(
    "name",
    [
        "svd",
        "eigh",
        "expm",
        "kabsch",
        "nuclear_norm",
        "spectral_map",
        "svd_lowrank",
        "svt",
        "lstsq",
        "pinv",
        "procrustes",
        "svd_residual",
        "whiten",
    ],
)
def test_products_are_in_full_precision(name):
    """GPUs and TPUs round them by default; here they are lowered for one, not run."""
    name = next(case for case in ALL_CASES if case.split(",")[0] == name)
    f = bound(name, FRAMEWORKS["jax"])
    if name.startswith("svd,"):  # without the products of the case
        f = face.svd
    if name.startswith("svd_lowrank"):
        f = functools.partial(face.svd_lowrank, rank=2, seed=0)
    inputs = [np.asarray(x, np.float32) for x in problem(name)[0]]

    def loss(*x):
        return sum(jnp.sum(jnp.abs(y) ** 2) for y in as_tuple(f(*x)))

    def lines(f):
        text = jax.jit(f).trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
        return [line for line in text.splitlines() if "dot_general" in line]

    for g in (f, lambda *x: jax.jvp(loss, x, x)[1], jax.grad(loss)):
        products = lines(g)
        assert products or g is f
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_a_seed_may_be_counted_in_a_trace():
    A = jnp.asarray(numbers((20, 15)))

    def vectors(seed):
        return face.svd_lowrank(A, 2, oversampling=1, power=0, seed=seed).U

    expected = vectors(3)
    for seed in (np.int64(3), jnp.asarray(3), jax.random.key(3), jax.random.PRNGKey(3)):
        np.testing.assert_array_equal(vectors(seed), expected)
        close(jax.jit(vectors)(seed), expected, 1e-12)


def test_no_array_is_broadcast_to_more_axes_unasked():
    A = jnp.asarray(numbers((3, 3)) @ numbers((3, 3)).T + 4 * np.eye(3))
    functions = [
        lambda A: face.spectral_map(A, jnp.tanh),
        lambda A: face.svd_lowrank(A, 2, oversampling=1, seed=0).S,
        lambda A: face.powm(A, 0.3),
        lambda A: face.psd_project(A, 0.1),
        lambda A: face.bures_distance(A, A + jnp.eye(3)[(None,) * (A.ndim - 2)]),
        lambda A: face.eigh_generalized(A, A @ A).w,
        face.logm,
    ]
    with jax.numpy_rank_promotion("raise"):
        for f in functions:
            for B in (A, jnp.stack([A, A.T])):
                found = jax.grad(lambda A, f=f: jnp.sum(f(A)))(B)
                assert jnp.isfinite(found).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_exact_on_a_gpu(dtype):
    if not any(d.platform == "gpu" for d in jax.devices()):
        pytest.skip("no CUDA GPU")
    problem = draw("pair", (9, 6), draws=20, dtype=dtype, seed=9)
    with jax.default_matmul_precision("highest"):
        factors, transpose = jax.vjp(lambda a: tuple(svd(a)), jnp.asarray(problem.A))
    given = problem.cotangents(tuple(map(np.asarray, factors)), FUNCTIONS["tanh"])
    gA = np.conj(np.asarray(transpose(tuple(map(jnp.conj, given)))[0]))
    error = relative_error(gA, problem.exact_gradient(FUNCTIONS["tanh"]))
    assert np.median(error) < 50 * np.finfo(dtype).eps


def by_factors(name, multiply=jnp.matmul):
    """A function by an operator, and by the factors of `svd` or `eigh`."""
    if name == "eigh":

        def function(A):
            w, V = face.eigh(A)
            return multiply(V * jnp.exp(w), V.T)

        return face.expm, function

    def function(A):
        U, S, Vh = svd(A)
        return multiply(U * jnp.maximum(S - 0.5, 0), Vh)

    return (lambda A: face.svt(A, 0.5)), function


def errors_at_repeated_values(name, multiply=jnp.matmul):
    """Relative errors of gradients through the factors of matrices, one each."""
    operator, function = by_factors(name, multiply)
    rng = np.random.default_rng(0)
    Q, R = np.linalg.qr(rng.standard_normal((2, 100, 4, 4)))[0]
    other = Q if name == "eigh" else R
    A = 2 * Q @ np.diag([1, 1, 1, 1 - 1e-4]) @ np.swapaxes(other, -1, -2)
    A, G = (jnp.asarray(x, np.float32) for x in (A, rng.standard_normal(A.shape)))

    @functools.partial(jax.jit, static_argnums=0)
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def gradient(f, A, G):
        return jax.grad(lambda A: jnp.sum(f(A) * G))(A)

    exact, found = gradient(operator, A, G), gradient(function, A, G)
    return jnp.linalg.norm(found - exact, axis=(1, 2)) / jnp.linalg.norm(
        exact, axis=(1, 2)
    )


@jax.custom_vjp
def product19(A, B):
    """In TensorFloat-32, whose numbers have 19 bits."""
    A, B = (jax.lax.reduce_precision(x, 8, 10) for x in (A, B))
    return A @ B


product19.defvjp(
    lambda A, B: (product19(A, B), (A, B)),
    lambda given, G: (product19(G, given[1].T), product19(given[0].T, G)),
)


@pytest.mark.parametrize("name", ["svd", "eigh"])
def test_cotangents_may_come_from_rounded_products(name, monkeypatch):
    """Their errors say nothing of the function's slope at repeated values."""
    gpu = SimpleNamespace(platform="gpu", compute_capability="9.0")
    monkeypatch.setattr(backend, "_device", lambda: gpu)
    assert errors_at_repeated_values(name, product19).max() < 2e-3


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["svd", "eigh"])
def test_repeated_values_where_a_gpu_rounds_products(name):
    if not any(d.platform == "gpu" for d in jax.devices()):
        pytest.skip("no CUDA GPU")
    assert errors_at_repeated_values(name).max() < 1e-2


def test_to_how_many_digits_products_are_rounded():
    def eps(precision, platform="gpu", **device):
        device = SimpleNamespace(platform=platform, **device)
        with jax.default_matmul_precision(precision):
            now = jax.config.jax_default_matmul_precision
            return backend._eps_on(device, now)

    for new in ("8.0", "9.0", "12.0"):
        given = [None, "tensorfloat32", "BF16_BF16_F32", "highest"]
        found = [eps(p, compute_capability=new) for p in given]
        assert found == [2**-10, 2**-10, 2**-7, None]
    for old in ("7.5", "gfx90a"):
        assert eps(None, compute_capability=old) is None
    assert [eps(p, "tpu") for p in (None, "high", "highest")] == [2**-7, 2**-16, None]
    assert eps(None, "cpu") is eps("bfloat16", "cpu") is None
    for setting in set(backend._ROUNDED) - {None}:
        with jax.default_matmul_precision(setting):  # else it could be left out
            assert jax.config.jax_default_matmul_precision == setting
    with jax.default_device(jax.devices("cpu")[0]):
        assert backend._device().platform == "cpu"


@pytest.mark.parametrize("precision", [None, "highest"])
def test_an_operator_knows_the_precision_around_it(precision, monkeypatch):
    asked = []
    monkeypatch.setattr(
        backend, "_eps_on", lambda _, precision: asked.append(precision)
    )
    A = jnp.eye(3, dtype=np.float32)
    with jax.default_matmul_precision(precision):
        face.eigh(A)
        jax.jit(lambda A: face.svd(A).S)(A)
        face.eigh(A.astype(np.float64))
    assert asked == [precision] * 2


NORMS = {
    "svdvals": face.svdvals,
    "nuclear_norm": face.nuclear_norm,
    "spectral_norm": face.spectral_norm,
    "ky_fan_norm": lambda A: face.ky_fan_norm(A, 2),
    "schatten_norm": lambda A: face.schatten_norm(A, 1.5),
}


@pytest.mark.parametrize("name", NORMS)
def test_values_alone_need_no_vectors(name):
    """What is not differentiated decomposes as `jnp.linalg.svd` without vectors."""
    f, A = NORMS[name], jnp.asarray(matrices((2, 70, 65), np.float64))
    A = A.at[1].set(0)
    traced = str(jax.make_jaxpr(f)(A))
    assert "SingularValues" in traced
    assert "Factorise" not in traced
    assert "Factorise" in str(jax.make_jaxpr(jax.vjp, static_argnums=0)(f, A)) or (
        name == "svdvals"
    )
    value, pullback = jax.vjp(f, A)
    for found in (f(A), jax.jit(f)(A), jax.vmap(f)(A)):
        np.testing.assert_allclose(found, value, rtol=1e-13, atol=1e-14)
    g = jnp.cos(jnp.arange(value.size)).reshape(value.shape)
    d = jnp.asarray(matrices(A.shape, np.float64, 1))
    along = jax.jvp(jax.jit(f), (A,), (d,))[1]
    (gA,) = pullback(g)
    np.testing.assert_allclose(jnp.vdot(g, along), jnp.vdot(gA, d), rtol=1e-10)
    for nothing in (jnp.ones((0, 3, 2)), jnp.ones((3, 0))):
        if name != "ky_fan_norm":
            assert jax.jit(f)(nothing).shape == f(nothing).shape
    assert np.isnan(jax.jit(f)(A.at[0, 0, 0].set(jnp.nan))[0]).all()


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e8m0fnu", "float4_e2m1fn"])
def test_numbers_of_a_few_bits_are_refused(name):
    """They would be taken for half precision, and the second has no sign."""
    A = jnp.eye(3).astype(getattr(jnp, name))
    with pytest.raises(TypeError, match=f"of half to double precision, got {name}"):
        svd(A)

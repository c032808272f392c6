"""Shapes, dtypes, bad values and bad arguments, on every framework."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from frameworks import as_tuple, params
from operator_cases import with_values
from oracle import FUNCTIONS, adjoint, draw, relative_error

EMPTY = [(0, 3), (3, 0), (0, 0), (2, 0, 3), (0, 4, 3), (0, 3, 4), (2, 0, 4, 3)]
THIN = [(1, 5), (5, 1), (1, 1), (2, 3, 1, 4), (2, 1, 3, 2)]


@pytest.mark.parametrize("full_matrices", [False, True])
def test_empty_and_thin_shapes(run, full_matrices):
    for shape in EMPTY + THIN:
        A = np.random.default_rng(0).standard_normal(shape)
        factors, pullback = run(A, full_matrices=full_matrices)
        U, S, Vh = factors
        *batch, m, n = shape
        k = min(m, n)
        assert S.shape == (*batch, k)
        assert U.shape == (*batch, m, m if full_matrices else k)
        assert Vh.shape == (*batch, n if full_matrices else k, n)
        gA = pullback(np.zeros_like(U), 2 * S, np.zeros_like(Vh))
        np.testing.assert_allclose(gA, 2 * A, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (9, 6), (6, 9)])
def test_null_space_cotangents_of_full_matrices_are_kept(run, shape, dtype):
    """Loss Re<W, U2 U2^H> = Re tr W - Re<W, U1 U1^H>: its gradient is not 0."""
    rng = np.random.default_rng(1)

    def noise(shape):
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if dtype == np.complex128 else x

    A = noise(shape)
    *_, m, n = shape
    k = min(m, n)
    H = [noise((d, d)) for d in (m, n)]
    H = [x + adjoint(x) for x in H]
    (U, _, Vh), pullback = run(A, full_matrices=True)

    def masked(W, Q, columns):
        g = np.zeros_like(Q)
        g[..., columns] = (W @ Q)[..., columns]
        return g

    def both(columns):
        gU = masked(H[0], U, columns)
        gVh = adjoint(masked(H[1], adjoint(Vh), columns))
        return pullback(gU, None, gVh)

    null, rest = both(slice(k, None)), both(slice(0, k))
    assert np.abs(null + rest).max() < 1e-12
    if m != n:
        assert np.abs(null).max() > 1e-2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "framework", params(without=("array_api_strict", "mlx")), indirect=True
)
def test_nan_and_infinity_are_an_error_or_stay_in_their_matrix(framework, run, value):
    for shape in ((7, 6), (6, 6)):
        problem = draw("distinct", shape, draws=3, seed=2)
        A = problem.A.copy()
        A[1, 2, 3] = value
        if framework.name in ("numpy", "torch") and np.isnan(value):  # they raise
            with pytest.raises(Exception, match=r"not converge|linalg\.svd") as error:
                run(A)
            assert error.type.__name__ in ("LinAlgError", "_LinAlgError")
            continue
        factors, pullback = run(A)
        gA = pullback(*problem.cotangents(factors, FUNCTIONS["tanh"]))
        exact = problem.exact_gradient(FUNCTIONS["tanh"])
        good = [0, 2]
        assert relative_error(gA[good], exact[good]).max() < 1e-13
        assert not np.isfinite(gA[1]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize(
    "framework", params("cupy", "jax", "torch", "tensorflow"), indirect=True
)
def test_results_of_a_matrix_with_nan_are_nan_or_an_error(framework, dtype):
    """Those of cuSOLVER's Jacobi iterations are not, up to 32 x 32."""
    for shape in ((6, 6), (9, 6), (40, 40)):
        A = with_values(np.linspace(1, 0.1, min(shape)), (3, *shape)).astype(dtype)
        A[1, 3, 2] = np.nan
        module = framework.module
        functions = [module.svd, partial(module.svt, tau=0.3), module.nuclear_norm]
        if shape[0] == shape[1]:
            functions += [module.eigh, module.expm]
        for f in functions:
            try:
                results = framework.value(lambda A, f=f: as_tuple(f(A)), A)
            except RuntimeError as error:  # of PyTorch, on the CPU and of large ones
                assert "torch" in framework.name
                assert "element 1" in str(error)  # noqa: PT017
                continue
            for x in results:
                finite = np.isfinite(x.reshape(3, -1)).all(-1)
                np.testing.assert_array_equal(finite, [True, False, True])


@pytest.mark.parametrize(
    "framework", params(without=("array_api_strict", "mlx")), indirect=True
)
def test_a_floor_of_nan_stays_in_its_matrix(framework):
    for n in (2, 3, 70):
        A, floor = np.stack([np.eye(n)] * 2), np.array([np.nan, 0.1])
        (found,) = framework.value(framework.module.psd_project, A, floor)
        assert np.isnan(found[0]).all()
        np.testing.assert_allclose(found[1], np.eye(n))


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize("n", [5, 70])
@pytest.mark.parametrize("framework", params(without=("mlx",)), indirect=True)
def test_the_triangle_that_is_not_read_may_hold_anything(framework, n, dtype):
    B = with_values(np.linspace(1, 0.1, n), (2, n, n)).astype(dtype)
    H = B @ adjoint(B)
    for uplo, read in (("L", np.tri(n, dtype=bool)), ("U", np.tri(n, dtype=bool).T)):
        A = np.where(read, H, np.nan).astype(dtype)
        call = partial(framework.module.eigh, UPLO=uplo)
        (alone,) = framework.value(lambda A, f=call: (f(A)[0],), A)
        (w, V), pullback = framework.vjp(lambda A, f=call: tuple(f(A)), A)
        for found in (alone, w):
            np.testing.assert_allclose(found, np.linalg.eigvalsh(H), atol=2e-5)
        assert np.isfinite(pullback(2 * w, np.zeros_like(V))[0]).all()


# Operators of nothing, and the thresholds and radii among them.
OF_NOTHING = {
    "svt": lambda f, A: f.svt(A, 0.5),
    "svt, relative": lambda f, A: f.svt(A, 0.5, relative=True),
    "svt, gram": lambda f, A: f.svt(A, 0.5, method="gram"),
    "svht": lambda f, A: f.svht(A, 0.5),
    "firm_threshold": lambda f, A: f.firm_threshold(A, 0.5, 2.5),
    "log_sum_threshold": lambda f, A: f.log_sum_threshold(A, 0.5, 0.5),
    "schatten_prox": lambda f, A: f.schatten_prox(A, 0.5, 0.5),
    "spectral_map": lambda f, A: f.spectral_map(A, lambda s: 2 * s),
    "low_rank": lambda f, A: f.low_rank(A, 2),
    "polar": lambda f, A: f.polar(A),
    "nuclear_norm": lambda f, A: f.nuclear_norm(A),
    "spectral_norm": lambda f, A: f.spectral_norm(A),
    "schatten_norm": lambda f, A: f.schatten_norm(A, 3),
    "svt_divergence": lambda f, A: f.svt_divergence(A, 0.5),
    "sure": lambda f, A: f.sure(A, 0.5, 1.0),
    "pinv": lambda f, A: f.pinv(A),
    "lstsq": lambda f, A: f.lstsq(A, A, damping=0.1),
    "robust_pca": lambda f, A: tuple(f.robust_pca(A, iterations=2)),
    "powm": lambda f, A: f.powm(A, -0.3),
    "psd_project": lambda f, A: f.psd_project(A, 0.1),
    "bures_distance": lambda f, A: f.bures_distance(A, A),
    "expm": lambda f, A: f.expm(A),
    "sqrtm": lambda f, A: f.sqrtm(A),
    "eigh": lambda f, A: tuple(f.eigh(A)),
}


@pytest.mark.parametrize("name", OF_NOTHING)
def test_operators_of_nothing(framework, name):
    square = name in (
        "expm", "sqrtm", "eigh", "powm", "psd_project", "bures_distance"
    )  # fmt: skip
    shapes = [(0, 0), (0, 3, 3)] if square else [(0, 3), (3, 0), (2, 3, 0), (0, 3, 4)]
    function = partial(OF_NOTHING[name], framework.module)
    if framework.name == "jax":  # which compiles for every shape, and each step alone
        import jax

        function, shapes = jax.jit(function), shapes[-2:-1]
    for shape in shapes:
        results, pullback = framework.vjp(function, np.zeros(shape))
        if len(results) == 1 and name not in ("pinv", "lstsq"):
            assert results[0].shape in (shape, shape[:-2])
        (gA,) = pullback(*(np.ones_like(x) for x in results))
        assert gA.shape == shape
        assert np.isfinite(gA).all()


@pytest.mark.parametrize("rule", ["consistent", "minimum-norm"])
@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_zero_matrix(run, rule, dtype):
    A = np.zeros((2, 4, 3), dtype)
    (U, S, Vh), pullback = run(A, repeated=rule)
    gA = pullback(np.ones_like(U), np.ones_like(S), np.ones_like(Vh))
    assert np.isfinite(gA).all()
    assert np.all(S == 0)


def test_tall_matrices_need_no_square_projector():
    """36864 x 18, complex64: forward and backward in under 100 MB above the input."""
    import tracemalloc

    import svdinv.numpy

    rng = np.random.default_rng(3)
    A = rng.standard_normal((36864, 18)) + 1j * rng.standard_normal((36864, 18))
    A = A.astype(np.complex64)
    tracemalloc.start()
    (U, S, Vh), pullback = svdinv.numpy.svd_vjp(A)
    gA = pullback(U, S, Vh)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert gA.shape == A.shape
    assert peak < 60e6  # of which U is 5 MB, and so is every other tall array


TALL = {
    "torch": """
import torch, svdinv.torch
def step(m):
    A = torch.randn(m, 18, dtype=torch.complex64).requires_grad_()
    before = resident()
    U, S, Vh = svdinv.torch.svd(A)
    ((U * torch.relu(S - 1)) @ Vh).abs().square().sum().backward()
    return before
""",
    "jax": """
import jax, jax.numpy as jnp, svdinv.jax
def loss(A):
    U, S, Vh = svdinv.jax.svd(A)
    return jnp.sum(jnp.abs((U * jnp.maximum(S - 1, 0)) @ Vh) ** 2)
gradient = jax.jit(jax.grad(loss))
def step(m):
    A = jax.random.normal(jax.random.key(0), (m, 18), jnp.complex64)
    compiled = gradient.lower(A).compile()  # XLA's compiler alone takes 50 MB
    before = resident()
    compiled(A).block_until_ready()
    return before
""",
    "tensorflow": """
import tensorflow as tf, svdinv.tf
def step(m):
    A = tf.complex(tf.random.normal((m, 18)), tf.random.normal((m, 18)))
    before = resident()
    with tf.GradientTape() as tape:
        tape.watch(A)
        s, u, v = svdinv.tf.svd(A)
        shrunk = tf.complex(tf.nn.relu(s - 1), tf.zeros_like(s))
        loss = tf.reduce_sum(tf.abs(tf.matmul(u * shrunk, v, adjoint_b=True)) ** 2)
    tape.gradient(loss, A)
    return before
""",
}

RESIDENT = """
def status(key):
    with open("/proc/self/status") as lines:
        return next(int(l.split()[1]) / 1000 for l in lines if l.startswith(key))
def resident():
    return status("VmRSS")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", TALL)
def test_peak_memory_of_a_tall_matrix(name):
    """36864 x 18, complex64: forward and backward in under 100 MB above the input."""
    pytest.importorskip(name)
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT + TALL[name] + "step(50); before = step(36864)"
         "\nprint(status('VmHWM') - before)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(done.stdout) < 100


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thresholds_may_be_larger_than_a_dtype_holds(framework, dtype):
    A = framework.array(2 * np.eye(3, dtype=dtype))
    for tau in (1e39, 2**70, np.inf):
        assert not framework.numpy(framework.module.svt(A, tau)).any()

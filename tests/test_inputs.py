"""Shapes, dtypes, bad values and bad arguments, on every framework."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from frameworks import FRAMEWORKS, framework
from oracle import FUNCTIONS, adjoint, draw, relative_error

EMPTY = [(0, 3), (3, 0), (0, 0), (2, 0, 3), (0, 4, 3), (0, 3, 4), (2, 0, 4, 3)]
THIN = [(1, 5), (5, 1), (1, 1), (2, 3, 1, 4), (2, 1, 3, 2)]

FACES = [name for name in FRAMEWORKS if name != "array_api_strict"]


def face(name):
    """Import the face's svd as (A, **options) -> (U, S, Vh) in its own arrays."""
    pytest.importorskip(name)
    if name == "torch":
        import torch

        import svdinv.torch

        return svdinv.torch.svd, torch.tensor
    if name == "tensorflow":
        import tensorflow as tf

        import svdinv.tf

        def svd(A, **options):
            s, u, v = svdinv.tf.svd(A, **options)
            return u, s, tf.linalg.adjoint(v)

        return svd, tf.constant
    if name == "jax":
        import jax.numpy as jnp

        import svdinv.jax

        return svdinv.jax.svd, jnp.asarray
    import svdinv.numpy

    return svdinv.numpy.svd, np.asarray


@pytest.mark.parametrize("full_matrices", [False, True])
@pytest.mark.parametrize("shape", EMPTY + THIN)
def test_empty_and_thin_shapes(backend, shape, full_matrices):
    A = np.random.default_rng(0).standard_normal(shape)
    factors, pullback = backend.vjp(A, full_matrices=full_matrices)
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
def test_null_space_cotangents_of_full_matrices_are_kept(backend, shape, dtype):
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
    (U, _, Vh), pullback = backend.vjp(A, full_matrices=True)

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


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_an_error_or_stay_in_their_matrix(name, value):
    problem = draw("distinct", (7, 6), draws=3, seed=2)
    A = problem.A.copy()
    A[1, 2, 3] = value
    if name in ("numpy", "torch") and np.isnan(value):  # they raise themselves
        with pytest.raises(Exception, match=r"did not converge|linalg\.svd") as error:
            framework(name).vjp(A)
        assert error.type.__name__ in ("LinAlgError", "_LinAlgError")
        return
    factors, pullback = framework(name).vjp(A)
    gA = pullback(*problem.cotangents(factors, FUNCTIONS["tanh"]))
    exact = problem.exact_gradient(FUNCTIONS["tanh"])
    good = [0, 2]
    assert relative_error(gA[good], exact[good]).max() < 1e-13
    assert not np.isfinite(gA[1]).all()


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.bool_])
def test_integers_are_a_type_error(name, dtype):
    svd, array = face(name)
    A = array(np.eye(3).astype(dtype))
    with pytest.raises(TypeError, match="must be floating point or complex"):
        svd(A)


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize("shape", [(), (3,)])
def test_vectors_are_an_error(name, shape):
    svd, array = face(name)
    error = {
        "numpy": np.linalg.LinAlgError,
        "torch": RuntimeError,
        "tensorflow": ValueError,
        "jax": ValueError,
    }[name]
    with pytest.raises(error, match=r"at least (two|2) dimensions"):
        svd(array(np.ones(shape, np.float32)))


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeated": "average"}, 'repeated must be one of "consistent"'),
        ({"rtol": -1.0}, "rtol must be None or a number"),
        ({"rtol": 1.0}, "rtol must be None or a number"),
        ({"rtol": "small"}, "rtol must be None or a number"),
        ({"rtol": float("nan")}, "rtol must be None or a number"),
        ({"gauge": "loud"}, "gauge must be"),
    ],
)
def test_bad_options_are_named(name, options, message):
    svd, array = face(name)
    with pytest.raises(ValueError, match=message):
        svd(array(np.eye(2, dtype=np.float32)), **options)


@pytest.mark.parametrize("rule", ["consistent", "minimum-norm"])
@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_zero_matrix(backend, rule, dtype):
    A = np.zeros((2, 4, 3), dtype)
    (U, S, Vh), pullback = backend.vjp(A, repeated=rule)
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
    A.block_until_ready()
    before = resident()
    gradient(A).block_until_ready()
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

"""The low-rank operators in JAX's own transformations, against PyTorch's."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from operator_cases import CASES, as_tuple, case, matrices, torch_derivatives, weights

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax.test_util import check_grads

import svdinv.jax as face
from svdinv.core.thresholds import Soft

THRESHOLDS = [
    lambda A, t: face.svt(A, t),
    lambda A, t: face.svht(A, t),
    lambda A, t: face.firm_threshold(A, t, 2.5),
    lambda A, t: face.log_sum_threshold(A, t, 0.5),
    lambda A, t: face.schatten_prox(A, t, 0.5),
]


@pytest.fixture(autouse=True)
def _double():
    # Compiling takes nearly all of the time.
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def close(found, expected, tolerance):
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * (1 + abs(y).max()))


# Compiling takes a second each.
SOME_COMPLEX = ["svt", "svt, relative", "svt, gram", "polar", "schatten_norm, 1.5",
                "procrustes", "tsvt", "spectral_map", "sure"]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [name for name in CASES if "float64" in name]
    + [f"{name}, complex128" for name in SOME_COMPLEX],
)
def test_derivatives_agree_with_pytorch(name):
    pytest.importorskip("torch")
    function, inputs, directions = case(name)
    values, gradients, products = torch_derivatives(name)
    every = tuple(range(len(inputs)))

    def loss(*x):
        results = as_tuple(function(face, *x))
        parts = [
            jnp.sum(jnp.real(jnp.conj(W) * y))
            for W, y in zip(weights(results), results, strict=True)
        ]
        return sum(parts), results

    slope = jax.grad(loss, every, has_aux=True)

    @jax.jit
    def second(x, d):
        (gradient, results), (product, _) = jax.jvp(slope, x, d)
        return results, gradient, product

    x, d = tuple(map(jnp.asarray, inputs)), tuple(map(jnp.asarray, directions))
    found, gradient, product = second(x, d)
    close(map(np.asarray, found), values, 1e-12)
    # JAX's gradients are the conjugates of the others'.
    close(map(np.conj, gradient), gradients, 1e-12)
    close(map(np.conj, product), products, 1e-9)


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (lambda A, t: face.svt(A, t), np.complex128),
        (lambda A, t: face.spectral_map(A, lambda s: jnp.tanh(s * t)), np.float64),
    ],
)
def test_check_grads(function, dtype):
    A = jnp.asarray(matrices((4, 3), dtype))
    check_grads(jax.jit(function), (A, 0.4), order=2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["svt, float64", "svt, gram, complex128", "schatten_norm, 1.5, complex128"]
)
def test_orders_of_differentiation_agree(name):
    function, inputs, directions = case(name)
    x, d = tuple(map(jnp.asarray, inputs)), tuple(map(jnp.asarray, directions))
    every = tuple(range(len(x)))

    def loss(*x):
        return jnp.sum(jnp.sin(jnp.real(function(face, *x))))

    def along(*x):
        return sum(jnp.sum(jnp.real(a * b)) for a, b in zip(slope(*x), d, strict=True))

    slope = jax.grad(loss, every)
    tangent = lambda *x: jax.jvp(loss, x, d)[1]  # noqa: E731
    forward_over_reverse = jax.jit(lambda x: jax.jvp(slope, x, d)[1])(x)
    close(jax.jit(jax.grad(along, every))(*x), forward_over_reverse, 1e-12)
    close(jax.jit(jax.grad(tangent, every))(*x), forward_over_reverse, 1e-12)
    twice = jax.jit(lambda x: jax.jvp(tangent, x, d)[1])(x)
    product = sum(
        jnp.sum(jnp.real(a * b)) for a, b in zip(forward_over_reverse, d, strict=True)
    )
    close([twice], [product], 1e-12)
    close([tangent(*x)], [along(*x)], 1e-12)
    checkpointed = jax.grad(jax.checkpoint(loss), every)(*x)
    close(checkpointed, slope(*x), 1e-14)
    close([jax.linearize(loss, *x)[1](*d)], [tangent(*x)], 1e-14)


def test_hessians_agree():
    A = jnp.asarray(matrices((3, 2)))

    def loss(A):
        return jnp.sum(jnp.sin(face.svt(A, 0.3)))

    hessian = jax.jit(jax.hessian(loss))(A)
    gradient = jax.jit(jax.grad(loss))
    step = 1e-6
    for i, j in np.ndindex(*A.shape):
        E = jnp.zeros_like(A).at[i, j].set(step)
        slope = (gradient(A + E) - gradient(A - E)) / (2 * step)
        np.testing.assert_allclose(hessian[i, j], slope, atol=1e-8)
    close([jax.jit(jax.jacfwd(jax.jacfwd(loss)))(A)], [hessian], 1e-13)
    close([jax.jit(jax.jacrev(jax.jacrev(loss)))(A)], [hessian], 1e-13)
    close([jax.jit(jax.jacrev(jax.jacfwd(loss)))(A)], [hessian], 1e-13)
    close([jax.jit(jax.vmap(jax.hessian(loss)))(A[None])[0]], [hessian], 1e-13)


@pytest.mark.parametrize("method", ["svd", "gram"])
def test_vmap(method):
    A, tau = jnp.asarray(matrices((5, 4, 3))), jnp.linspace(0.2, 0.9, 5)

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
    A = jnp.asarray(matrices((3, 2)))

    def loss(A):
        return jnp.sum(face.polar(A) ** 2 * A)

    hessian = jax.hessian(loss)
    assert jnp.isfinite(hessian(A)).all()
    for third in (jax.jacfwd(hessian), jax.jacrev(hessian)):
        with pytest.raises(NotImplementedError, match="two derivatives"):
            third(A)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_repeated_spectra(shape):
    torch = pytest.importorskip("torch")
    import svdinv.torch

    Q = np.linalg.qr(matrices((5, 5)))[0][: shape[0], : shape[1]]
    Q = 2.0 * (Q if shape[0] != shape[1] else np.linalg.qr(Q)[0])
    W = matrices(shape, seed=3)
    for name, arguments in [("polar", ()), ("svt", (0.5,)), ("nuclear_norm", ())]:
        A = torch.tensor(Q, requires_grad=True)
        loss = torch.sin(torch.tensor(W) * getattr(svdinv.torch, name)(A, *arguments))
        (expected,) = torch.autograd.grad(loss.sum(), A)

        def function(A, name=name, arguments=arguments):
            return jnp.sum(jnp.sin(W * getattr(face, name)(A, *arguments)))

        gradient, hessian = jax.jit(
            lambda A: (jax.grad(function)(A), jax.hessian(function)(A))
        )(Q)
        close([gradient], [expected.numpy()], 1e-13)
        assert jnp.isfinite(hessian).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    A = jnp.asarray(matrices((5, 3))).astype(dtype)
    result, transpose = jax.vjp(lambda A: face.svt(A, 0.5), A)
    (gA,) = transpose(result)
    assert result.dtype == gA.dtype == dtype
    assert face.nuclear_norm(A).dtype == dtype
    expected = face.svt(A.astype(jnp.float32), 0.5)
    np.testing.assert_allclose(
        result.astype(float), expected.astype(float), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("method", ["auto", "svd", "gram"])
def test_single_precision_mode(method):
    with jax.enable_x64(False):
        A = jnp.asarray(matrices((6, 3), np.float32))
        loss = lambda A: jnp.sum(face.svt(A, 0.5, method=method) ** 2)  # noqa: E731
        gA = jax.grad(loss)(A)
        assert gA.dtype == jnp.float32
        np.testing.assert_allclose(gA, 2 * face.svt(A, 0.5), atol=1e-4)
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(A), gA, atol=1e-4)


def test_methods_agree_and_auto_looks():
    A = jnp.asarray(matrices((4000, 20)))
    close([face.svt(A, 58.0)], [face.svt(A, 58.0, method="svd")], 1e-13)
    factorise = face._operators._toolbox.factorise
    tau = jnp.full(1, 58.0)
    assert len(factorise(A, Soft(), tau)) == 2
    assert len(jax.jit(lambda A: factorise(A, Soft(), tau))(A)) == 3
    looked = []
    jax.grad(lambda A: (looked.append(len(factorise(A, Soft(), tau))), A.sum())[1])(A)
    assert looked == [2]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 3, 0), (0, 3, 2)])
def test_empty_arrays(shape):
    A = jnp.zeros(shape)
    for function in THRESHOLDS:
        result, transpose = jax.vjp(lambda A: function(A, 0.5), A)  # noqa: B023
        assert result.shape == transpose(result)[0].shape == shape
    for function in (face.polar, face.nuclear_norm, face.svt_divergence):
        arguments = (0.5,) if function is face.svt_divergence else ()
        gA = jax.grad(lambda A: jnp.sum(function(A, *arguments)))(A)  # noqa: B023
        assert gA.shape == shape
    hessian = jax.hessian(lambda A: jnp.sum(face.svt(A, 0.5) ** 2))(A)
    assert hessian.shape == shape * 2


def test_errors():
    A = jnp.asarray(matrices((2, 4, 3)))
    with pytest.raises(TypeError, match="floating point"):
        face.svt(jnp.ones((3, 3), int), 0.5)
    with pytest.raises(TypeError, match="must be real"):
        face.svt(A, 1j)
    with pytest.raises(TypeError, match="must be real"):
        face.svt(A, jnp.ones(2, complex))
    with pytest.raises(TypeError, match="number or an array"):
        face.svt(A, "large")
    with pytest.raises(ValueError, match="at least 2"):
        face.polar(jnp.ones(3))
    with pytest.raises(ValueError, match=">= 0"):
        face.svt(A, -1.0)
    with pytest.raises(ValueError, match="broadcast"):
        face.svt(A, jnp.ones(3))
    with pytest.raises(ValueError, match="broadcast"):
        face.svt(A, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="method"):
        face.svt(A, 0.5, method="fast")
    with pytest.raises(ValueError, match="method"):
        jax.jit(lambda A: face.svt(A, 0.5, method="fast"))(A)
    with pytest.raises(ValueError, match="at most"):
        face.ky_fan_norm(A, 4)
    with pytest.raises(ValueError, match="same shape"):
        face.procrustes(A, A[:, :2])


def test_tau_of_any_kind():
    A = jnp.asarray(matrices((2, 4, 3)))
    expected = face.svt(A, jnp.asarray([1.0, 1.0]))
    for tau in (1, 1.0, np.float32(1), np.ones(2), np.ones((), int), jnp.ones(1)):
        np.testing.assert_array_equal(face.svt(A, tau), expected)


def test_operators_pickle():
    assert pickle.loads(pickle.dumps(face.svt)) == face.svt

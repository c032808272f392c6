"""The singular values of a Jacobian that is never formed, against the dense one."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import FRAMEWORKS


@pytest.fixture
def network():
    """A small generator, its parameters, and its dense Jacobian in them."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8, track_running_stats=False),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Upsample(scale_factor=2, mode="bilinear"),
        torch.nn.Conv2d(8, 1, 3, padding=1),
        torch.nn.Sigmoid(),
    ).double()
    z, theta = torch.randn(1, 3, 4, 4).double(), dict(module.named_parameters())

    def image(theta):
        return torch.func.functional_call(module, theta, (z,))

    dense = torch.func.jacrev(image)({k: v.detach() for k, v in theta.items()})
    dense = torch.cat([J.reshape(64, -1) for J in dense.values()], dim=1)
    return image, theta, dense.numpy()


@pytest.mark.parametrize("chunk", [None, 3])
def test_values_and_vectors_of_a_network(network, chunk):
    import svdinv.torch

    image, theta, dense = network
    found = svdinv.torch.jacobian_svd(image, theta, 6, power=25, seed=0, chunk=chunk)
    assert not any(x.requires_grad for x in found)
    U, S, Vh = (x.numpy() for x in found)
    V, exact = np.linalg.svd(dense)[2], np.linalg.svd(dense)[1]
    np.testing.assert_allclose(S, exact[:6], rtol=1e-6)
    np.testing.assert_allclose(dense @ Vh.T, U * S, atol=1e-4 * S[0])
    assert abs(abs(np.sum(V[0] * Vh[0])) - 1) < 1e-8
    J = svdinv.torch.Jacobian(image, theta, chunk)
    bound = svdinv.torch.svd_residual(J, *found, like=J.at).numpy()
    assert np.all(abs(S - exact[:6]) <= bound + 1e-14)
    assert bound.max() < 1e-3 * S[0]


def test_ten_iterations_by_default_are_right_to_six_digits(network):
    import svdinv.torch

    image, theta, dense = network
    S = svdinv.torch.jacobian_svd(image, theta, 4, seed=0).S
    np.testing.assert_allclose(S, np.linalg.svd(dense)[1][:4], rtol=1e-6)


def test_a_tensor_and_a_list_are_parameters_too():
    torch = pytest.importorskip("torch")
    import svdinv.torch

    A = torch.diag(torch.tensor([3.0, 2, 1], dtype=torch.float64))
    one = svdinv.torch.jacobian_svd(lambda x: A @ x, torch.ones(3).double(), 2)
    x, y = torch.ones(1).double(), torch.ones(2).double()
    two = svdinv.torch.jacobian_svd(lambda t: A @ torch.cat([t[0], t[1]]), (x, y), 2)
    for S in (one.S, two.S):
        np.testing.assert_allclose(S, [3, 2], rtol=1e-12)
    number = svdinv.torch.jacobian_svd(lambda x: x @ x / 2, 2 * torch.ones(4), 1)
    np.testing.assert_allclose(number.S, [4], rtol=1e-6)  # one row


@pytest.mark.parametrize("chunk", [None, 3])
def test_jax_in_a_tree_of_parameters(chunk):
    jax = pytest.importorskip("jax")
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    import svdinv.jax

    with FRAMEWORKS["jax"].context():
        rng = np.random.default_rng(0)
        z = jnp.asarray(rng.standard_normal((7, 5)))
        theta = {
            "first": [jnp.asarray(rng.standard_normal((6, 7))), jnp.zeros((6, 1))],
            "last": jnp.asarray(rng.standard_normal((4, 6))),
        }

        def image(theta):
            W, b = theta["first"]
            return theta["last"] @ jnp.tanh(W @ z + b)

        flat, rebuilt = ravel_pytree(theta)
        dense = jax.jacrev(lambda x: image(rebuilt(x)).ravel())(flat)
        exact = np.linalg.svd(np.asarray(dense))[1]
        found = svdinv.jax.jacobian_svd(image, theta, 5, power=30, chunk=chunk)
        np.testing.assert_allclose(found.S, exact[:5], rtol=1e-6)
        np.testing.assert_allclose(
            dense @ found.Vh.T, found.U * found.S, atol=1e-4 * exact[0]
        )


def test_jax_is_told_that_there_is_no_derivative():
    jax = pytest.importorskip("jax")
    import svdinv.jax

    def norm(x, stop=lambda x: x):
        return svdinv.jax.jacobian_svd(jax.numpy.sin, stop(x), 1).S[0]

    x = jax.numpy.ones(3)
    for function in (norm, jax.jit(norm)):
        with pytest.raises(NotImplementedError, match=r"jax\.lax\.stop_gradient"):
            jax.grad(function)(x)
    assert not jax.grad(lambda x: norm(x, jax.lax.stop_gradient))(x).any()


def test_jax_is_told_so_of_what_functions_depend_on():
    jax = pytest.importorskip("jax")
    import svdinv.jax

    def largest(A):
        pair = (lambda x: A @ x, lambda y: A.T @ y)
        return svdinv.jax.svd_lowrank(pair, 1, like=jax.numpy.zeros(3)).S[0]

    def image_of(A):
        f = lambda x: jax.numpy.sin(A @ x)  # noqa: E731
        return svdinv.jax.jacobian_svd(f, jax.numpy.ones(3), 1).S[0]

    A = jax.numpy.arange(12.0).reshape(4, 3)
    for function in (largest, image_of, jax.vmap(largest)):
        given = A[None] if function not in (largest, image_of) else A
        with pytest.raises(NotImplementedError, match=r"jax\.lax\.stop_gradient"):
            jax.jit(jax.grad(lambda A, f=function: f(A).sum()))(given)
    stopped = jax.grad(lambda A: largest(jax.lax.stop_gradient(A)) + A[0, 0])(A)
    assert stopped.sum() == 1


def test_jax_differentiates_no_bound_of_products():
    """Of which a part would be missing; the matrix itself is not differentiated."""
    jax = pytest.importorskip("jax")
    import svdinv.jax

    B = jax.numpy.arange(12.0).reshape(4, 3)

    def bound(A, stop):
        U, S, Vh = svdinv.jax.svd_lowrank(A, 1, seed=0)
        U, Vh = stop(U), stop(Vh)
        pair = (lambda x: B @ x, lambda y: B.T @ y)
        like = jax.numpy.zeros(3)
        return svdinv.jax.svd_residual(pair, U, S, Vh, like=like).sum()

    with pytest.raises(NotImplementedError, match="U and Vh of svd_residual"):
        jax.grad(bound)(B + 1, lambda x: x)
    assert np.isfinite(jax.grad(bound)(B + 1, jax.lax.stop_gradient)).all()


def test_what_has_no_such_jacobian():
    torch = pytest.importorskip("torch")
    import svdinv.torch

    x = torch.ones(3)
    with pytest.raises(TypeError, match="theta must be tensors of one real"):
        svdinv.torch.jacobian_svd(torch.sin, x.to(torch.complex64), 1)
    with pytest.raises(TypeError, match="theta must be tensors of one real"):
        svdinv.torch.jacobian_svd(lambda t: t[0], [x, x.double()], 1)
    with pytest.raises(TypeError, match="view_as_real"):
        svdinv.torch.jacobian_svd(lambda x: x * 1j, x, 1)
    with pytest.raises(TypeError, match="f must return a tensor"):
        svdinv.torch.jacobian_svd(lambda x: (x, x), x, 1)
    with pytest.raises(ValueError, match="rank must be at most"):
        svdinv.torch.jacobian_svd(torch.sin, x, 4)
    pytest.importorskip("jax")
    import jax.numpy as jnp

    import svdinv.jax

    with pytest.raises(TypeError, match="theta must be arrays of one real"):
        svdinv.jax.jacobian_svd(jnp.sin, jnp.arange(3), 1)
    with pytest.raises(TypeError, match="f must return an array of the dtype"):
        svdinv.jax.jacobian_svd(lambda x: x * 1j, jnp.ones(3), 1)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        svdinv.jax.jacobian_svd(jnp.sin, jnp.ones(3), 1, chunk=0)

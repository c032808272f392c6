"""Generalised eigenvalues and distances of covariances at the edges."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.linalg
from frameworks import params
from operator_cases import adjoint, inner, matrices, unitary

import svdinv.numpy as f
from svdinv import kernels


def definite(n, dtype, seed):
    X = matrices((n, n), dtype, seed)
    return X @ adjoint(X) / n + np.eye(n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_eigenvectors_are_orthonormal_in_B(dtype):
    A, B = definite(5, dtype, 0) - 2 * np.eye(5, dtype=dtype), definite(5, dtype, 1)
    w, V = f.eigh_generalized(A, B)
    tolerance = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(adjoint(V) @ B @ V, np.eye(5), atol=tolerance)
    np.testing.assert_allclose(A @ V, B @ V * w, atol=10 * tolerance)
    np.testing.assert_allclose(w, scipy.linalg.eigh(A, B)[0], atol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "least"),
    [
        (np.float32, 1e-6),
        (np.float64, 1e-6),
        (np.float64, 1e-14),
        (np.complex128, 1e-8),
    ],
)
@pytest.mark.parametrize("framework", params(without=("mlx",)), indirect=True)
def test_units_of_variables_do_not_matter(framework, dtype, least):
    """Each alike, however ill-conditioned B is by them, gradients included."""
    A, B = definite(4, dtype, 0), definite(4, dtype, 1)

    def in_units(d):
        d = d.astype(dtype)[:, None]
        (w, V), pullback = framework.vjp(
            framework.module.eigh_generalized, d * A * d.T, d * B * d.T
        )
        gradients = pullback(np.cos(np.arange(4)).astype(w.dtype), np.zeros_like(V))
        return w, abs(d * V), *(d * G * d.T for G in gradients)

    expected = in_units(np.ones(4))
    for x, y in zip(in_units(np.geomspace(1, least, 4)), expected, strict=True):
        assert x.dtype == y.dtype
        limit = 1000 * np.finfo(dtype).eps * abs(y).max()
        np.testing.assert_allclose(x, y, rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("w", [(1, 1, 2, 3), (0.5, 2, 2, 2), (2, 2, 2, 2)])
@pytest.mark.parametrize("framework", params("torch", "jax"), indirect=True)
def test_gradient_at_repeated_eigenvalues(framework, w, dtype):
    """Of Re<G, V exp(w) V^H>, by the derivative of the exponential and of B^(-1/2)."""
    B = definite(4, dtype, 0)
    Y, G = unitary(4, dtype, 1), matrices((4, 4), dtype, 2)
    half = f.sqrtm(B)
    A = half @ ((Y * np.array(w)) @ adjoint(Y)) @ half

    def smooth(A, B):
        root = f.inv_sqrtm((B + adjoint(B)) / 2)
        return root @ f.expm(root @ (A + adjoint(A)) / 2 @ root) @ root

    _, pullback = f.vjp(smooth, A, B)
    expected = pullback(G)
    values, pullback = framework.vjp(framework.module.eigh_generalized, A, B)
    w, V = values
    H = (G + adjoint(G)) / 2
    gV = 2 * (H @ V) * np.exp(w)
    gw = np.exp(w) * np.sum(np.conj(V) * (H @ V), axis=-2).real
    for found, exact in zip(pullback(gw, gV), expected, strict=True):
        error = (found + adjoint(found)) / 2 - (exact + adjoint(exact)) / 2
        assert np.abs(error).max() < 1e-12 * np.abs(exact).max()


def low_rank(rank, dtype, seed=0, n=4):
    X = matrices((n, rank), dtype, seed)
    return X @ adjoint(X)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("rank", [0, 1, 2, 4])
def test_distance_of_equal_covariances(rank, dtype):
    A = low_rank(rank, dtype)
    for squared in (False, True):
        value, pullback = f.vjp(
            functools.partial(f.bures_distance, squared=squared), A, A
        )
        assert value < 1e-15
        for g in pullback(np.ones(())):
            assert np.isfinite(g).all()
            if not squared:
                assert (g == 0).all()
            if rank == 4:
                assert np.abs(g).max() < 1e-12


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9, 1e-12])
def test_distance_of_nearly_equal_covariances(distance):
    A = definite(4, np.float64, 0)
    B = (1 + distance) ** 2 * A
    expected = distance * np.sqrt(np.trace(A))
    found = f.bures_distance(A, B)
    assert abs(found - expected) < 1e-14
    square = f.bures_distance(A, B, squared=True)
    assert abs(square - expected**2) < 4e-14 * expected + 1e-28


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(("r", "s"), [(2, 2), (2, 3), (4, 2), (1, 1)])
def test_distance_of_singular_covariances(r, s, dtype):
    """Both derivatives along changes that keep the ranks."""
    A, B = low_rank(r, dtype, 0), low_rank(s, dtype, 1)
    C, D = matrices((4, 4), dtype, 2), matrices((4, 4), dtype, 3)
    eye = np.eye(4)

    def moved(t):
        one, other = eye + t * C, eye + t * D
        return one @ A @ adjoint(one), other @ B @ adjoint(other)

    def square(A, B):
        return f.bures_distance(A, B, squared=True)

    tangents = C @ A + A @ adjoint(C), D @ B + B @ adjoint(D)
    value, slope = f.jvp(square, (A, B), tangents)
    _, pullback = f.vjp(square, A, B)
    back = inner(pullback(1.0), tangents)
    h = 1e-4
    y = [square(*moved(k * h)) for k in (-2, -1, 1, 2)]
    expected = (y[0] - 8 * y[1] + 8 * y[2] - y[3]) / (12 * h)
    assert abs(slope - expected) < 1e-9 * (1 + abs(expected))
    assert abs(back - expected) < 1e-9 * (1 + abs(expected))
    exact = np.trace(A + B).real - 2 * np.sum(np.linalg.svd(f.sqrtm(A) @ f.sqrtm(B))[1])
    assert abs(value - exact) < 1e-6


def of_lost_problem(name, f):
    """Function of A and B with one problem of NaN, and arguments of three."""
    A = np.stack([definite(3, np.float64, seed) for seed in range(3)])
    B = np.stack([definite(3, np.float64, seed) for seed in range(3, 6)])
    B[1] -= 5 * np.eye(3)
    if name == "eigh_generalized":
        return f.eigh_generalized, (A, B)
    return lambda A, B: f.bures_distance(A, B, squared=name == "squared"), (A, B)


@pytest.mark.parametrize("name", ["eigh_generalized", "bures_distance", "squared"])
@pytest.mark.parametrize("framework", params(), indirect=True)
def test_indefinite_matrix_leaves_the_others_alone(framework, name):
    function, given = of_lost_problem(name, framework.module)
    values, pullback = framework.vjp(function, *given)
    g = [np.cos(np.arange(v.size)).reshape(v.shape).astype(v.dtype) for v in values]
    gradients = pullback(*g)
    regular = [x[[0, 2]] for x in given]
    expected, pullback = framework.vjp(function, *regular)
    others = pullback(*(x[[0, 2]] for x in g))
    for found, alone in zip((*values, *gradients), (*expected, *others), strict=True):
        tolerance = 1000 * np.finfo(found.dtype).eps
        assert np.isnan(found[1]).all()
        np.testing.assert_allclose(found[[0, 2]], alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("without", [(), (0,), (1,)], ids=["w and V", "V", "w"])
def test_long_batches_in_pytorch_are_as_short_ones(is_complex, without):
    """Which have kernels, and another gradient of B."""
    torch = pytest.importorskip("torch")
    import svdinv.torch as st
    from svdinv.core.product_operations import multiplies_quickly

    torch.manual_seed(0)
    dtype = torch.complex128 if is_complex else torch.float64
    X, Y, G = torch.randn(3, 3000, 3, 3, dtype=dtype)
    A, B = X + X.mH, Y @ Y.mH + torch.eye(3)
    A[0] = B[0]  # all eigenvalues are 1
    A[1] = X[1] + 2 * X[1].mH  # the mean of the triangles is read
    assert multiplies_quickly(A, B, st._backend.xp) or not kernels.variants()

    def derivatives(A, B, G):
        A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
        w, V = st.eigh_generalized(A, B)
        f = (V * torch.cos(w)[:, None, :].to(dtype)) @ V.mH
        f = V @ V.mH if 0 in without else f
        loss = w.square().sum() if 1 in without else (G.mH @ f).abs().square().sum()
        gA, gB = torch.autograd.grad(loss, (A, B), create_graph=True)
        total = (gA[2:] * G[2:].conj()).real.sum() + gB[2:].abs().square().sum()
        return w, f, gA, gB, *torch.autograd.grad(total, (A, B))

    found = derivatives(A, B, G)
    expected = derivatives(*(x[:20] for x in (A, B, G)))
    for x, y in zip(found, expected, strict=True):
        limit = 1e-10 * (1 + y.abs().amax(dim=tuple(range(1, y.ndim)), keepdim=True))
        assert ((x[:20] - y).abs() <= limit).all()


def test_singular_matrices_of_a_long_batch_have_all_terms():
    torch = pytest.importorskip("torch")
    import svdinv.torch as st

    torch.manual_seed(1)
    A, Y = torch.randn(2, 3000, 4, 4, dtype=torch.float64)
    B = Y @ Y.mT
    B[7] = Y[7, :, :3] @ Y[7, :, :3].mT

    def gradients(A, B):
        A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
        w, V = st.eigh_generalized(A, B)
        return torch.autograd.grad((w.square().sum() + (V @ V.mT).sum()), (A, B))

    for long, short in zip(gradients(A, B), gradients(A[5:9], B[5:9]), strict=True):
        torch.testing.assert_close(long[5:9], short, rtol=1e-9, atol=1e-9)

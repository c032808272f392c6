"""Inputs that once gave a wrong result or an error."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from frameworks import params

from svdinv.backends.arrays import for_namespace
from svdinv.core.functions import Reciprocal
from svdinv.core.hermitian import HermitianFunction

torch = pytest.importorskip("torch")
mp = pytest.importorskip("mpmath").mp.clone()

import svdinv.numpy as svn
import svdinv.torch as svt


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (1, 1), (2, 3, 1)])
def test_svd_of_one_singular_value_that_is_zero(shape):
    A = torch.zeros(shape, requires_grad=True)
    U, S, Vh = svt.svd(A)
    ((U * S[..., None, :]) @ Vh).sum().backward()
    assert torch.isfinite(A.grad).all()


def test_svd_of_one_singular_value_beside_a_zero_matrix():
    A = torch.tensor([[[1.0], [2.0]], [[0.0], [0.0]]], requires_grad=True)
    U, S, Vh = svt.svd(A)
    ((U * S[..., None, :]) @ Vh).sum().backward()
    torch.testing.assert_close(A.grad[0], torch.ones(2, 1))


def test_svd_lowrank_of_rank_one_with_a_zero_matrix_in_the_batch():
    A = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    A[1] = 0
    A.requires_grad_()
    U, S, Vh = svt.svd_lowrank(A, 1)
    ((U * S[..., None, :]) @ Vh).sum().backward()
    assert torch.isfinite(A.grad).all()


def test_svd_vjp_of_one_singular_value_that_is_zero():
    A = np.zeros((4, 3, 1))
    (U, S, Vh), pullback = svn.svd_vjp(A)
    gA = pullback(U, S, Vh)
    assert gA.shape == A.shape
    assert np.isfinite(gA).all()


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("decompose", ["svd", "svd_lowrank"])
@pytest.mark.parametrize("framework", params("numpy", "torch", "jax"), indirect=True)
def test_hessian_along_matrices_of_the_same_rank(framework, decompose, dtype):
    """Tangents of vectors of zero values were one rounding error over another."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        parts = rng.standard_normal((2, *shape))
        return parts[0] + 1j * parts[1] if dtype == np.complex128 else parts[0]

    factors, directions = ((draw(6, 2), draw(2, 5)) for _ in range(2))
    xp = framework.module

    def through(P, Q):
        A = P @ Q
        U, S, Vh = xp.svd(A) if decompose == "svd" else xp.svd_lowrank(A, 5, power=3)
        X = (U * S) @ Vh
        return X * X * X

    def exact(P, Q):
        A = P @ Q
        return A * A * A

    G = (draw(6, 5),)
    same_hessians(framework, through, exact, (factors, directions, G), 1e-11)


def last_matrix(factors):
    return factors[0][:, 3:4] * factors[2][3]


def slope(f, A):
    return torch.autograd.grad(f(A), A, create_graph=True)[0]


SINGLE_VECTORS = {
    "null_vector": (svt.null_vector, lambda A: torch.linalg.svd(A)[2][3]),
    "svd": (
        lambda A: last_matrix(svt.svd(A)),
        lambda A: last_matrix(torch.linalg.svd(A)),
    ),
    "eigh": (
        lambda A: svt.eigh(A @ A.T)[1][:, 0],
        lambda A: torch.linalg.eigh(A @ A.T)[1][:, 0],
    ),
    "whiten": (
        lambda A: svt.whiten(A, kind="pca").white[:, 0],
        lambda A: 2 * torch.linalg.svd(A - A.mean(0))[0][:, 0],
    ),
    "second derivative": (
        lambda A: slope(lambda A: svt.svdvals(A)[3], A),
        lambda A: slope(lambda A: torch.linalg.svdvals(A)[3], A),
    ),
}


@pytest.mark.parametrize("name", SINGLE_VECTORS)
@pytest.mark.parametrize(("dtype", "gap"), [("float32", 1e-3), ("float64", 1e-9)])
def test_single_vectors_of_close_values_that_are_not_equal(name, dtype, gap):
    """Within sqrt(eps) of each other all of their derivative was left out."""
    rng, error = np.random.default_rng(0), 64 * np.finfo(dtype).eps / gap
    values = [1, 1 - gap, 0.3, 0] if name == "whiten" else [3, 2, 1, 1 - gap]
    Q, P, w = rng.standard_normal((3, 4, 4))
    Q[:, 0] = 1
    Q, P = (np.linalg.qr(x)[0] for x in (Q, P))
    Q = np.roll(Q, -1, axis=1)  # all but the last column have no mean
    A = torch.tensor(((Q * values) @ P).astype(dtype), requires_grad=True)
    w = torch.tensor(w.astype(dtype))
    ours, theirs = SINGLE_VECTORS[name]
    (found,) = torch.autograd.grad((ours(A) @ w).square().sum(), A)
    A, w = A.detach().double().requires_grad_(), w.double()
    (expected,) = torch.autograd.grad((theirs(A) @ w).square().sum(), A)
    difference = (found - expected).norm() / expected.norm()
    assert difference < error


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("framework", params("numpy", "torch", "jax"), indirect=True)
def test_hessian_of_a_sum_of_singular_values_of_which_some_are_zero(framework, shape):
    """Its slope at these is not 0 and must not meet a rounding error over another."""
    rng = np.random.default_rng(0)
    factors, directions = (
        (rng.standard_normal((shape[0], 2)), rng.standard_normal((2, shape[1])))
        for _ in range(2)
    )
    xp = framework.module

    def through(P, Q):
        return xp.svdvals(P @ Q).sum(-1)

    def exact(P, Q):
        return xp.nuclear_norm(P @ Q)

    G = (np.ones(()),)
    same_hessians(framework, through, exact, (factors, directions, G), 1e-12)


def same_hessians(framework, through, exact, arguments, error):
    """Products of the Hessians of two functions, in every mode of the framework."""
    expected = framework.hvp(exact, *arguments)
    found = [framework.hvp(through, *arguments)]
    if framework.name == "torch":  # `hvp` is reverse over reverse
        found.append(forward_over_reverse(through, *arguments))
    for product in found:
        for a, b in zip(product, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=error * np.abs(b).max())


def forward_over_reverse(f, arrays, directions, cotangents):
    def gradients(*x):
        return torch.func.vjp(f, *x)[1](torch.from_numpy(cotangents[0]))

    x, d = (tuple(map(torch.from_numpy, given)) for given in (arrays, directions))
    return torch.func.jvp(gradients, x, d)[1]


mp.dps = 80
STEP = mp.mpf(10) ** -22  # of differences, whose error is about its square


def exact_rotation(C, proper):
    """U V^T, the last sign turned for det +1 if `proper`, in 80 digits."""
    U, _, V = mp.svd_r(C)
    if proper and mp.det(U) * mp.det(V) < 0:
        U[:, U.cols - 1] = -U[:, U.cols - 1]
    return U * V


def exact_pairings(points, direction, other, G, rotation):
    """<G, DR[direction]> and <G, D^2 R[direction, other]> by central differences."""
    points, direction, other, G = (
        mp.matrix(x.double().tolist()) for x in (points, direction, other, G)
    )

    def value(a, b):
        R = rotation(points + a * STEP * direction + b * STEP * other)
        return sum(R[i, j] * G[i, j] for i in range(R.rows) for j in range(R.cols))

    first = (value(1, 0) - value(-1, 0)) / (2 * STEP)
    corners = value(1, 1) - value(1, -1) - value(-1, 1) + value(-1, -1)
    return float(first), float(corners / (4 * STEP**2))


def pairings(f, A, direction, other, G):
    A = A.clone().requires_grad_()
    (gA,) = torch.autograd.grad((f(A) * G).sum(), A, create_graph=True)
    first = (gA * direction).sum()
    (second,) = torch.autograd.grad(first, A)
    return first.item(), (second * other).sum().item()


def normal(rng, *shape, dtype=torch.float64):
    return torch.tensor(rng.standard_normal(shape), dtype=dtype)


def square(rng, values, dtype=torch.float64):
    U, V = (np.linalg.qr(rng.standard_normal((len(values),) * 2))[0] for _ in range(2))
    return torch.tensor((U * np.array(values)) @ V.T, dtype=dtype)


SMALL = [(s, torch.float64) for s in (1e-4, 1e-9, 1e-12)] + [
    (s, torch.float32) for s in (1e-2, 1e-4, 1e-5)
]


@pytest.mark.parametrize("method", ["svd", "gram"])
@pytest.mark.parametrize(("smallest", "dtype"), SMALL)
def test_derivatives_of_polar_where_a_square_matrix_is_nearly_singular(
    smallest, dtype, method
):
    if method == "gram" and smallest < torch.finfo(dtype).eps ** 0.5:
        pytest.skip("the Gram matrix loses such a value")
    rng = np.random.default_rng(0)
    A = square(rng, [2.0, 1.0, smallest], dtype)
    X, Y, G = (normal(rng, 3, 3, dtype=dtype) for _ in range(3))
    exact = exact_pairings(A, X, Y, G, lambda C: exact_rotation(C, False))
    got = pairings(lambda A: svt.polar(A, method=method), A, X, Y, G)
    floor = 1 if method == "svd" else 1 / smallest**2
    np.testing.assert_allclose(got, exact, rtol=200 * torch.finfo(dtype).eps * floor)


@pytest.mark.parametrize(("smallest", "dtype"), SMALL)
@pytest.mark.parametrize("align", ["procrustes", "kabsch"])
@pytest.mark.parametrize("reflected", [False, True])
def test_derivatives_of_alignments_where_a_value_is_small(
    smallest, dtype, align, reflected
):
    # Q is fixed and orthonormal up to its mean of 0, so that C is any matrix.
    rng = np.random.default_rng(1)
    B = np.linalg.qr(np.c_[np.ones(8), rng.standard_normal((8, 3))])[0][:, 1:]
    B = torch.tensor(B, dtype=dtype)
    sign = -1.0 if reflected else 1.0
    C = square(rng, [2.0, 1.0, smallest], dtype)
    C = C * torch.sign(torch.linalg.det(C.double())).to(dtype) * sign
    A = B @ C
    X, Y = (normal(rng, 8, 3, dtype=dtype) for _ in range(2))
    G = normal(rng, 3, 3, dtype=dtype)
    fixed = mp.matrix(B.double().tolist())

    def rotation(P):
        if align == "procrustes":
            return exact_rotation(P.T * fixed, False)
        mean = mp.matrix([[sum(M[:, j]) / 8 for j in range(3)] for M in (P, fixed)])
        p, q = P.copy(), fixed.copy()
        for i in range(8):
            p[i, :] = p[i, :] - mean[0, :]
            q[i, :] = q[i, :] - mean[1, :]
        return exact_rotation(q.T * p, True)

    def f(P):
        return svt.procrustes(P, B) if align == "procrustes" else svt.kabsch(P, B)[0]

    exact = exact_pairings(A, X, Y, G, rotation)
    got = pairings(f, A, X, Y, G)
    np.testing.assert_allclose(got, exact, rtol=400 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("turned", [False, True])
def test_derivatives_of_kabsch_on_planar_points(turned, dtype):
    rng = np.random.default_rng(2)
    P, Q = rng.standard_normal((2, 6, 3))
    P[:, 2] = 0
    if turned:  # planar up to rounding
        P = P @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    P, Q = (torch.tensor(x, dtype=dtype) for x in (P, Q))
    X, Y = (normal(rng, 6, 3, dtype=dtype) for _ in range(2))
    G = normal(rng, 3, 3, dtype=dtype)
    centred = mp.matrix((Q.double() - Q.double().mean(0)).tolist())

    def rotation(P):
        return exact_rotation(centred.T * P, True)

    exact = exact_pairings(P, X, Y, G, rotation)
    got = pairings(lambda P: svt.kabsch(P, Q)[0], P, X, Y, G)
    np.testing.assert_allclose(got, exact, rtol=200 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("smallest", [1.0, 1e-4, 1e-9])
def test_second_derivatives_of_the_nuclear_norm_of_square_matrices(smallest):
    rng = np.random.default_rng(3)
    A = square(rng, [2.0, 1.0, smallest])
    X, G = normal(rng, 3, 3), normal(rng, 3, 3)
    exact, _ = exact_pairings(A, X, X, G, lambda C: exact_rotation(C, False))
    A.requires_grad_()
    (gA,) = torch.autograd.grad(svt.nuclear_norm(A), A, create_graph=True)
    (got,) = torch.autograd.grad((gA * G).sum(), A)
    np.testing.assert_allclose((got * X).sum().item(), exact, rtol=1e-13)


def test_second_derivatives_of_kabsch_pass_gradgradcheck_on_planar_points():
    rng = np.random.default_rng(4)
    P, Q = normal(rng, 5, 3), normal(rng, 5, 3)
    P[:, 2] = 1e-9 * P[:, 2]
    P.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda P: svt.kabsch(P, Q)[0], (P,))


def gradient_without_the_repeated_pair(A, G, difference, values):
    """Daleckii and Krein's formula, from the SVD, with `difference` for D-."""
    # Those of the operator, because the vectors of repeated values are arbitrary.
    U, S, Vh = (x.numpy() for x in svt.svd(A))
    y = values(S)
    K = U.T @ G @ Vh.T
    total = S[:, None] + S[None, :]
    plus = (y[:, None] + y[None, :]) / total
    block = difference(S) * (K + K.T) / 2 + plus * (K - K.T) / 2
    return U @ block @ Vh


@pytest.mark.parametrize("method", ["svd", "gram"])
@pytest.mark.parametrize("seed", range(8))
def test_low_rank_leaves_out_values_that_are_repeated_up_to_rounding(seed, method):
    rng = np.random.default_rng(seed)
    A, G = square(rng, [3.0, 2.0, 2.0, 1.0]), normal(rng, 4, 4)
    A.requires_grad_()
    (svt.low_rank(A, 2, method=method) * G).sum().backward()

    def difference(S):
        y = np.r_[S[:2], 0, 0]
        gap = S[:, None] - S[None, :]
        D = (y[:, None] - y[None, :]) / np.where(gap == 0, 1, gap)
        D[0, 0] = D[1, 1] = 1
        D[1, 2] = D[2, 1] = 0
        return D

    if method == "svd":
        exact = gradient_without_the_repeated_pair(
            A.detach(), G.numpy(), difference, lambda S: np.r_[S[:2], 0, 0]
        )
        np.testing.assert_allclose(A.grad, exact, atol=1e-12)
    assert A.grad.abs().max() < 10 * G.norm()


@pytest.mark.parametrize("seed", range(8))
def test_weighted_svt_leaves_out_what_is_singular_up_to_rounding(seed):
    rng = np.random.default_rng(seed)
    A, G = square(rng, [3.0, 2.0, 2.0, 1.0]), normal(rng, 4, 4)
    A.requires_grad_()
    w = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    (svt.svt(A, w) * G).sum().backward()

    def difference(S):
        gap, rise = S[:, None] - S[None, :], w.numpy()[:, None] - w.numpy()[None, :]
        D = 1 - rise / np.where(gap == 0, 1, gap)
        D[1, 2] = D[2, 1] = 1
        return D

    exact = gradient_without_the_repeated_pair(
        A.detach(), G.numpy(), difference, lambda S: S - w.numpy()
    )
    np.testing.assert_allclose(A.grad, exact, atol=1e-12)


JUMPS = {
    "low_rank": lambda A: svt.low_rank(A, 2),
    "weighted": lambda A: svt.svt(A, torch.tensor([0.1, 0.2, 0.3, 0.4]).double()),
    "hard": lambda A: svt.svht(A, 2.0),
    "schatten": lambda A: svt.schatten_prox(A, 2**1.5 * (2 / 3) ** 1.5, 0.5),
}


@pytest.mark.parametrize("values", [[3.0, 2.0, 2.0, 1.0], [2.0, 2.0, 2.0, 1.0]])
@pytest.mark.parametrize("operator", JUMPS)
def test_both_derivatives_stay_small_where_a_function_jumps(operator, values):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        A, G, X = square(rng, values), normal(rng, 4, 4), normal(rng, 4, 4)
        first, second = pairings(JUMPS[operator], A, X, X, G)
        assert abs(first) < 1e3
        assert abs(second) < 1e4


class Aligned(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, P, Q):
        result = getattr(svt, self.name)(P, Q)
        return result[0] if self.name == "kabsch" else result


@pytest.mark.parametrize("name", ["kabsch", "procrustes"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_alignments_are_traced_with_a_symbolic_batch(name):
    P, Q = torch.randn(2, 5, 6, 3, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=2, max=64)
    call = Aligned(name)
    program = torch.export.export(call, (P, Q), dynamic_shapes=({0: batch},) * 2)
    torch.testing.assert_close(program.module()(P[:3], Q[:3]), call(P[:3], Q[:3]))
    fx = pytest.importorskip("torch.fx.experimental.proxy_tensor")
    graph = fx.make_fx(lambda P, Q: call(P, Q), tracing_mode="symbolic")(P, Q)
    torch.testing.assert_close(graph(P[:3], Q[:3]), call(P[:3], Q[:3]))


def low_rank_with_zeros(dtype):
    """Matrices of low rank of which TensorFlow's SVD spoils some, on CPUs."""
    rng = np.random.default_rng(0)
    batch = []
    for _ in range(32):
        left, right = rng.standard_normal((2, 120, 20)) + 1j * rng.standard_normal(
            (2, 120, 20)
        )
        A = left @ right[:54].conj().T
        A[rng.random(120) < 0.5] = 0
        A[:, rng.random(54) < 0.5] = 0
        batch.append(A if np.issubdtype(dtype, np.complexfloating) else A.real)
    return np.stack(batch).astype(dtype)


@pytest.mark.parametrize("dtype", [np.complex64, np.float32])
@pytest.mark.parametrize("mode", ["eager", "graph", "unknown shape"])
def test_vectors_of_zero_singular_values_are_orthonormal_in_tensorflow(dtype, mode):
    tf = pytest.importorskip("tensorflow")
    import svdinv.tf as svtf

    def factors(A):
        s, u, v = svtf.svd(A)
        return u, v, svtf.svt(A, 0.1 * s[:, 0], method="svd")

    A = low_rank_with_zeros(dtype)
    if mode != "eager":
        shape = A.shape if mode == "graph" else [None, None, None]
        factors = tf.function(factors, input_signature=[tf.TensorSpec(shape, A.dtype)])
    u, v, thresholded = (x.numpy() for x in factors(tf.constant(A)))
    eye = np.eye(u.shape[-1])
    for Q in (u, v):
        assert np.abs(Q.conj().swapaxes(-1, -2) @ Q - eye).max() < 1e-4
    U, S, Vh = np.linalg.svd(A.astype(np.complex128), full_matrices=False)
    exact = (U * np.maximum(S - 0.1 * S[:, :1], 0)[:, None, :]) @ Vh
    np.testing.assert_allclose(thresholded, exact, atol=1e-5 * S.max())


def test_gradients_of_svt_of_such_a_matrix_are_right_in_tensorflow():
    tf = pytest.importorskip("tensorflow")
    import svdinv.tf as svtf

    A = low_rank_with_zeros(np.complex64)
    x = tf.constant(A)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.math.real(svtf.svt(x, 10.0, method="svd")))
    B = torch.tensor(A.astype(np.complex128), requires_grad=True)
    svt.svt(B, 10.0).real.sum().backward()
    got, exact = tape.gradient(loss, x).numpy(), B.grad.numpy()
    assert np.linalg.norm(got - exact) < 1e-5 * np.linalg.norm(exact)


def test_svd_lowrank_with_a_seed_on_meta_tensors():
    A = torch.empty(3, 8, 6, device="meta")
    U, S, Vh = svt.svd_lowrank(A, 2, seed=0)
    assert [tuple(x.shape) for x in (U, S, Vh)] == [(3, 8, 2), (3, 2), (3, 2, 6)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_svd_lowrank_with_a_seed_compiles_to_one_graph(monkeypatch):
    # A hundred are as many copies in the graph.
    monkeypatch.setattr("svdinv.core.truncated.BLIND_STEPS", 12)
    A = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(0))
    A.requires_grad_()

    def product(A):
        U, S, Vh = svt.svd_lowrank(A, 2, seed=0)
        return (U * S[..., None, :]) @ Vh

    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    Y = compiled(A)
    torch.testing.assert_close(Y, product(A), rtol=1e-4, atol=1e-4)
    (gA,) = torch.autograd.grad(Y.sum(), A)
    (exact,) = torch.autograd.grad(product(A).sum(), A)
    torch.testing.assert_close(gA, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_full_svd_in_vectorised_forward_mode():
    A = normal(np.random.default_rng(0), 4, 3)

    def jacobian(**how):
        return torch.autograd.functional.jacobian(
            lambda A: svt.svd(A, full_matrices=True)[0], A, **how
        )

    batched = jacobian(vectorize=True, strategy="forward-mode")
    torch.testing.assert_close(batched, jacobian())


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        *[(2.0**e, torch.float32) for e in (-116, -66, 80, 118)],
        *[(2.0**e, torch.float64) for e in (-990, -515, 515, 990)],
    ],
)
def test_kabsch_of_very_small_and_very_large_points(size, dtype, scale):
    rng = np.random.default_rng(5)
    P, Q = normal(rng, 6, 3, dtype=dtype), normal(rng, 6, 3, dtype=dtype)
    G, w = normal(rng, 3, 3, dtype=dtype), torch.arange(1, 7, dtype=dtype)

    def results(size):
        points, weights = (P * size).requires_grad_(), w.clone().requires_grad_()
        R, t, rmsd, *c = svt.kabsch(points, Q * size, weights, scale=scale)
        ((R * G).sum() + (t.sum() + rmsd) / size + sum(c)).backward()
        return R, t / size, rmsd / size, *c, points.grad * size, weights.grad

    # Powers of two change no digit.
    for got, exact in zip(results(size), results(1.0), strict=True):
        torch.testing.assert_close(got, exact)


class Damped(Reciprocal):
    """s / (s^2 + 1), which a kernel must not take for 1 / s."""

    def value(self, s, tau, xp):
        return s / (s * s + 1)

    def difference(self, a, b, tau, xp):
        return a.y * b.y * (1 / (a.s * b.s) - 1)

    def second_difference(self, points, d, tau, xp):
        raise NotImplementedError


def test_a_class_of_ones_own_made_of_one_that_kernels_know():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(50, 3, 3, dtype=torch.float64, generator=generator)
    A.requires_grad_()
    assert torch.autograd.gradcheck(lambda A: svt.spectral_operator(A, Damped()), A)


@dataclass(frozen=True)
class Twice(HermitianFunction):
    """2 w, by values and differences that only broadcast to the shape."""

    factor: Any = 2

    def value(self, w, xp):
        return self.factor * w

    def difference(self, a, b, xp):
        return self.factor * xp.ones_like(a.s)

    def second_difference(self, points, d, xp):
        return 0 * d[0]


@pytest.mark.parametrize("framework", ["torch", "jax", "tensorflow"])
def test_differences_that_broadcast(framework):
    """Kernels must not read them as if they had the whole shape."""
    pytest.importorskip(framework)
    A = np.random.default_rng(0).standard_normal((5, 4, 4)).astype(np.float32)
    W = np.arange(16.0, dtype=np.float32).reshape(4, 4)
    if framework == "torch":
        x = torch.tensor(A, requires_grad=True)
        y = svt.hermitian_map(x + x.mT, Twice())
        (g,) = torch.autograd.grad((y * torch.tensor(W)).sum(), x)
    elif framework == "jax":
        import jax

        import svdinv.jax

        def loss(x):
            y = svdinv.jax.hermitian_map(x + jax.numpy.matrix_transpose(x), Twice())
            return (y * W).sum()

        g = jax.grad(loss)(A)
    else:
        import tensorflow as tf

        import svdinv.tf

        x = tf.constant(A)
        with tf.GradientTape() as tape:
            tape.watch(x)
            H = x + tf.linalg.matrix_transpose(x)
            loss = tf.reduce_sum(svdinv.tf.hermitian_map(H, Twice()) * W)
        g = tape.gradient(loss, x)
    expected = 2 * np.broadcast_to(W + W.T, A.shape)
    np.testing.assert_allclose(np.asarray(g), expected, atol=1e-3)


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_a_users_function_is_not_kept(framework):
    """Neither a cache nor a closure of it holds what a function of the user holds."""
    factor = torch.ones(()) if framework == "torch" else np.ones((), np.float32)
    held = weakref.ref(factor)
    if framework == "torch":
        svt.hermitian_map(torch.eye(3).expand(5, 3, 3), Twice(factor))
    else:
        tf = pytest.importorskip("tensorflow")
        import svdinv.tf

        svdinv.tf.hermitian_map(tf.eye(3, batch_shape=[5]), Twice(factor))
    del factor
    gc.collect()
    assert held() is None


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, and warns of constants
def test_a_traced_gradient_decides_nothing_by_values():
    A = torch.randn(5, 3, 3, dtype=torch.float64)
    A = A @ A.mT + torch.eye(3)
    singular = A.clone()
    singular[..., 2, :] = 0
    singular[..., :, 2] = 0

    def gradient(A):
        A = A.detach().requires_grad_()
        return torch.autograd.grad(svt.inv_sqrtm(A).sum(), A)[0]

    traced = torch.jit.trace(gradient, A, check_trace=False)
    torch.testing.assert_close(traced(singular), gradient(singular))


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_that_coincide_have_the_scale_1(value, dtype):
    """Although their mean may be another point, by rounding."""
    torch.manual_seed(3)
    Q = torch.randn(6, 3, dtype=dtype)
    P = torch.full((6, 3), value, dtype=dtype, requires_grad=True)
    found = svt.kabsch(P, Q, scale=True)
    assert found.scale == 1
    (gradient,) = torch.autograd.grad(found.scale + found.translation.sum(), P)
    assert gradient.abs().max() < 1e3


def test_autocast_finds_tensors_that_are_given_by_name():
    B, b = torch.randn(8, 48, 16), torch.randn(8, 48, 2)
    with torch.autocast("cpu", torch.bfloat16):
        named, placed = svt.lstsq(rcond=None, A=B, b=b), svt.lstsq(B, b)
    assert torch.equal(named, placed)
    assert named.dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 3), (5, 4), (6, 3, 3), (40, 40)])
@pytest.mark.parametrize("relative", [False, True])
def test_svt_by_hand_is_that_of_the_tape(shape, relative):
    """Where kernels serve it and where they do not, with any of their shortcuts."""
    A, G = normal(np.random.default_rng(0), *shape).numpy(), np.ones(shape)
    Y, pullback = svn.svt_vjp(A, 0.3, relative=relative)
    expected, pull = svn.vjp(
        lambda A, tau: svn.svt(A, tau, relative=relative), A, np.float64(0.3)
    )
    np.testing.assert_array_equal(Y, expected)
    np.testing.assert_array_equal(Y, svn.svt(A, 0.3, relative=relative))
    for x, y in zip(pullback(G), pull(G), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


@pytest.mark.skipif(np.finfo(np.longdouble).bits == 64, reason="there is no wider type")
def test_what_lapack_cannot_decompose_is_refused_by_its_name():
    for dtype in (np.longdouble, np.clongdouble):
        with pytest.raises(
            TypeError,
            match="A must be floating point or complex, of",
        ):
            svn.svt(np.eye(3, dtype=dtype), 0.1)


@pytest.mark.parametrize("side", [3, 80])
@pytest.mark.parametrize("name", ["svt", "polar", "firm_threshold", "low_rank"])
def test_infinity_is_not_hidden(side, name):
    """PyTorch's SVD returns finite vectors of it, or raises."""
    options = {"svt": (0.1,), "firm_threshold": (0.1, 3.0), "low_rank": (2,)}
    A = torch.eye(side, dtype=torch.float64)
    A[0, 0] = torch.inf
    for X in (A, A.clone().requires_grad_()):
        try:
            y = getattr(svt, name)(X, *options.get(name, ()))
        except torch.linalg.LinAlgError:
            continue
        assert y.isnan().any()


def test_robust_pca_has_the_derivative_of_its_own_penalty():
    A = normal(np.random.default_rng(0), 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda A: svt.robust_pca(A, iterations=20), A, fast_mode=True
    )
    assert svt.robust_pca(torch.zeros(0, 0)).sparse.shape == (0, 0)


@pytest.mark.parametrize("iterations", [50, 100, 500])
def test_robust_pca_and_its_derivatives_stay_at_the_minimum(iterations):
    """In single precision, too, where a penalty that grows on ends in rounding."""
    rng = np.random.default_rng(0)
    X, Y, dX, dY = (normal(rng, 20, 2) for _ in range(4))
    S = 10 * normal(rng, 20, 20) * torch.from_numpy(rng.random((20, 20)) < 0.04)
    W = normal(rng, 20, 20)

    def path(t):
        """Matrices with one rank and one set of sparse elements."""
        return (X + t * dX) @ (Y + t * dY).mT + (1 + t) * S

    def derivatives(A, direction):
        A = A.clone().requires_grad_()
        found = svt.robust_pca(A, iterations=iterations)
        loss = (found.low_rank * W.to(A.dtype)).sin().sum()
        (g,) = torch.autograd.grad(loss, A, create_graph=True)
        (h,) = torch.autograd.grad((g * direction).sum(), A)
        return [x.detach().double() for x in (found.low_rank, sum(found), g, h)]

    A, along = path(0), dX @ Y.mT + X @ dY.mT + S
    L, total, g, h = derivatives(A, along)
    assert (L - X @ Y.mT).norm() < 1e-6 * L.norm()
    assert (total - A).norm() < 1e-6 * A.norm()
    one, other = (derivatives(path(t), along)[2] for t in (1e-5, -1e-5))
    assert ((one - other) / 2e-5 - h).norm() < 1e-6 * h.norm()
    single = derivatives(A.float(), along.float())
    for x, y in zip(single, (L, total, g, h), strict=True):
        assert (x - y).norm() < 1e-3 * y.norm()


def test_robust_pca_of_what_is_no_such_sum():
    A = normal(np.random.default_rng(0), 8, 6).float().requires_grad_()
    for options in ({"iterations": 500}, {"iterations": 100, "growth": 3.0}):
        found = svt.robust_pca(A, **options)
        assert (sum(found) - A).norm() < 1e-4 * A.norm()
        assert torch.autograd.grad(found.sparse.sum(), A)[0].isfinite().all()


def test_a_weight_or_threshold_of_nan_is_not_lost():
    A, nan = torch.eye(3).expand(2, 3, 3), torch.tensor([0.1, torch.nan])
    thresholded = svt.svt(A, nan, method="matmul")
    for found in (thresholded, *svt.robust_pca(A, nan), svt.svt_divergence(A, nan)):
        lost = found.reshape(2, -1).isnan()
        assert lost.all(-1).tolist() == lost.any(-1).tolist() == [False, True]


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e20), ("float64", 1e155)])
def test_what_has_a_square_that_overflows(dtype, size):
    A = (size * torch.eye(3, dtype=getattr(torch, dtype))).requires_grad_()
    tau = torch.tensor(0.3, dtype=A.dtype, requires_grad=True)
    y = svt.log_sum_threshold(A, tau, 0.7)
    torch.testing.assert_close(y, A)
    torch.testing.assert_close(torch.autograd.grad(y.trace(), A)[0], torch.eye(3).to(A))
    risk = svt.sure(A, tau, 0.1)
    # Of -9 sigma^2 + 2 sigma^2 9 + 3 tau^2, but for what is lost of tau / size.
    torch.testing.assert_close(risk, torch.tensor(0.36).to(A))
    gA, gtau = torch.autograd.grad(risk, (A, tau))
    torch.testing.assert_close(gtau, 6 * tau.detach())
    assert gA.abs().max() < 1e-15


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e-20), ("float64", 1e-160)])
def test_whitening_of_features_far_below_what_is_added(dtype, size):
    X = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0))
    X = X.to(getattr(torch, dtype))
    X[0] *= size
    X.requires_grad_()
    for kind in ("zca", "pca"):
        white, mean, _ = svt.whiten(X, 1e-4, kind=kind)
        expected = ((X - mean[:, None]) * 100).detach()
        found = white[0].detach()
        scale = found.new_tensor(1 / size)
        if kind == "zca":
            away = white[0] * scale - expected[0] * scale
            error = 16 * torch.finfo(X.dtype).eps
            assert away.abs().max() < error * (expected[0] * scale).abs().max()
        torch.testing.assert_close(found.norm(), expected[0].norm())
        (g,) = torch.autograd.grad(white.sum(), X)
        assert g.isfinite().all()
    found = svt.cca(X, X.detach(), ridge=1e-4).correlations
    assert (found[0] < 1e-10).all()
    assert (found[1] > 0.9).all()


def test_pinv_of_complex_matrices_lies_in_memory_as_it_is():
    A = torch.randn(2, 4, 3, dtype=torch.complex128)
    found = svt.pinv(A)
    assert not found.is_conj()
    np.testing.assert_allclose(found.numpy(), np.linalg.pinv(A.numpy()), atol=1e-12)


def test_a_graph_of_tensorflow_knows_nan_as_eager_code_does():
    """Grappler makes a > b of ~(a <= b), which is another thing for NaN."""
    tf = pytest.importorskip("tensorflow")
    import svdinv.tf

    P, Q = np.random.default_rng(0).standard_normal((2, 6, 3))
    P[1] = np.nan
    w = np.array([1.0, 0, 1, 1, 1, 1])

    def rmsd(P, Q, w, scale):
        return svdinv.tf.kabsch(P, Q, w, scale=scale).rmsd

    def distance(A):
        return svdinv.tf.bures_distance(A, tf.eye(3, dtype=tf.float64))

    for scale in (False, True):
        for weights in (w, np.ones(6)):
            given = [*map(tf.constant, (P, Q, weights))]
            eager = rmsd(*given, scale)
            np.testing.assert_allclose(tf.function(rmsd)(*given, scale), eager)
            assert np.isnan(eager) == bool(weights.all())
    assert np.isnan(tf.function(distance)(tf.constant(-np.eye(3))))
    threshold = tf.function(lambda A, t: svdinv.tf.svt(A, t, method="matmul"))
    assert np.isnan(threshold(tf.eye(3), tf.constant(np.nan, tf.float32))).any()


@pytest.mark.parametrize("value", [-1.0, 0.1, 1 / 3, 7.7])
@pytest.mark.parametrize("count", [3, 5, 6, 7])
@pytest.mark.parametrize("options", [{}, {"scale": True}])
def test_rmsd_of_points_that_coincide_is_zero(value, count, options):
    """Whose mean is rounded."""
    for batch in ((), (3,)):
        P = torch.full((*batch, count, 3), value, dtype=torch.float64)
        P.requires_grad_()
        rmsd = svt.kabsch(P, 2 * P.detach(), **options).rmsd
        rmsd.sum().backward()
        assert not rmsd.any()
        assert not P.grad.any()
        traced = svn.kabsch(P.detach().numpy(), 2 * P.detach().numpy(), **options)
        assert not traced.rmsd.any()


@pytest.mark.parametrize("units", [(1.0, 2e-3), (1e-8, 1e8), (1.0, 1e20)])
def test_correlations_of_features_in_different_units(units):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(200, 2, generator=generator)
    Y = X[:, 1:] + 0.5 * torch.randn(200, 1, generator=generator)
    expected = svt.cca(X.double(), Y.double())
    units = torch.tensor(units)
    found = svt.cca(X * units, Y)
    torch.testing.assert_close(
        found.correlations, expected.correlations.float(), rtol=1e-5, atol=0
    )
    weights = (found.x_weights.T * units).abs()
    torch.testing.assert_close(weights, expected.x_weights.T.abs().float())
    # A feature whose variance is that of rounding errors of its mean is left out.
    constant = torch.full((200, 1), 12345.678)
    found = svt.cca(torch.cat([X * units, constant], -1), torch.cat([Y, constant], -1))
    correlations = torch.tensor([expected.correlations.item(), 0.0])
    torch.testing.assert_close(found.correlations, correlations)
    assert not found.x_weights[-1].any()
    assert not found.y_weights[-1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_correlations_of_features_with_outliers_and_below_normal_numbers(dtype):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(20000, 2, generator=generator, dtype=torch.float64)
    Y = X + torch.randn(20000, 2, generator=generator, dtype=torch.float64)
    X[0, 1] = 2e3
    expected = svt.cca(X, Y).correlations.to(dtype)
    found = svt.cca(X.to(dtype), Y.to(dtype)).correlations
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    tiny = torch.finfo(dtype).tiny / 100
    X = X.to(dtype) * torch.tensor([tiny, 1], dtype=dtype)
    found = svt.cca(X, Y.to(dtype))
    assert not found.x_weights[0].any()
    torch.testing.assert_close(
        found.correlations[:1], svt.cca(X[:, 1:], Y.to(dtype)).correlations
    )


@pytest.mark.parametrize(
    ("dtype", "condition"), [("float32", 1e3), ("float64", 1e3), ("float64", 1e9)]
)
def test_whitening_and_correlations_are_as_accurate_as_an_svd(dtype, condition):
    """Their errors are of the order of the condition number, not of its square."""
    rng, error = np.random.default_rng(0), 16 * np.finfo(dtype).eps * condition
    Q = rng.standard_normal((60, 7))
    Q, _ = np.linalg.qr(Q - Q.mean(axis=0))
    V, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    cosines = np.array([0.9, 0.5, 0.1])
    other = Q[:, :3] * cosines + Q[:, 4:] * np.sqrt(1 - cosines**2)
    X = (Q[:, :4] * np.geomspace(1, 1 / condition, 4)) @ V.T
    X, Y = (torch.tensor(x.astype(dtype)) for x in (X, other))
    Q = 60**0.5 * Q[:, :4]
    white = svt.whiten(X).white.double().numpy()
    assert abs(white - Q @ V.T).max() < error
    components = svt.whiten(X, kind="pca").white.numpy()
    assert abs(abs(components) - abs(Q)).max() < error
    found = svt.cca(X, Y)
    assert abs(found.correlations.numpy() - cosines).max() < error
    variates = abs((X.double() @ found.x_weights.double()).numpy())
    assert abs(variates - abs(Q[:, :3])).max() < error


@pytest.mark.parametrize("kind", ["zca", "pca"])
@pytest.mark.parametrize(("dtype", "unit"), [("float32", 1e3), ("float64", 2e7)])
def test_whitening_with_epsilon_keeps_features_of_small_units(dtype, unit, kind):
    """Of the covariance, whose smallest variances are rounding errors, it would not."""
    rng, eps = np.random.default_rng(0), np.finfo(dtype).eps
    X = rng.standard_normal((500, 3)) @ np.diag([1, 1, unit])
    X = X.astype(dtype)
    G = rng.standard_normal((500, 3))
    y = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    U, s, Vh = torch.linalg.svd(y - y.mean(dim=0), full_matrices=False)
    expected = U * (s / (s**2 / 500 + 1e-5).sqrt())
    x = torch.tensor(X, requires_grad=True)
    white = svt.whiten(x, 1e-5, kind=kind).white
    if kind == "zca":
        expected = expected @ Vh
        (exact,) = torch.autograd.grad(expected, y, torch.tensor(G))
        (slope,) = torch.autograd.grad(white, x, torch.tensor(G.astype(dtype)))
        error = (slope - exact).norm(dim=0) / exact.norm(dim=0)
        assert error.max() < 64 * eps * unit
    else:
        expected = expected * (white * expected).sum(dim=0).sign()
    assert (white - expected).abs().max() < 16 * eps * unit
    layer = svt.nn.Whitening(3, kind=kind, momentum=1.0).to(x.dtype)
    x = x.detach() * torch.tensor([1, 1, 0.5]).to(x.dtype)  # a covariance keeps less
    layer(x)
    white = layer.eval()(x).double()
    variances = torch.linalg.eigvalsh(white.mT @ white / len(white))
    assert (abs(variances - 1) < 0.1).all()


@pytest.mark.parametrize(
    "variances", [(1, 1, 1, 1), (2, 1, 1, 1), (1, 1, 0, 0), (1, 1 + 1e-9, 1 + 1e-7, 3)]
)
def test_derivatives_of_whitening_by_a_given_covariance(variances):
    """Where variances are equal, nearly so or 0, forwards and twice, too."""
    generator = torch.Generator().manual_seed(0)
    X, direction = (
        torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (6, 4)
    )
    C = torch.diag(torch.tensor(variances, dtype=torch.float64))
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def white(t, tau):  # along one direction, as C has to stay Hermitian
        change = t * (direction + direction.mT)
        return svt.whiten(X, tau, mean=X[0], covariance=C + change).white

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(white, (t, tau), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(white, (t, tau))


def test_derivative_of_whitening_in_an_epsilon_of_zero():
    X = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)).double()
    tau = torch.tensor([0.0, 0.3], dtype=torch.float64)
    for kind in ("zca", "pca"):

        def call(tau, kind=kind):
            return svt.whiten(X, tau, kind=kind).white

        slope = torch.func.jvp(call, (tau,), (torch.ones_like(tau),))[1]
        found = (call(tau + 1e-6) - call(tau)) / 1e-6
        torch.testing.assert_close(slope, found, rtol=1e-4, atol=1e-4)
        assert svt.whiten(X, tau * torch.nan, kind=kind).white.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_covariance_of_few_samples_may_be_rounded_to_half_precision(dtype):
    X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    _, mean, covariance = svt.whiten(X, 0.1)
    for kind in ("zca", "pca"):
        found = svt.whiten(X, 0.1, mean=mean, covariance=covariance, kind=kind).white
        assert found.isfinite().all()


@pytest.mark.parametrize(("dtype", "mean"), [("float32", 1e4), ("float64", 1e8)])
def test_features_far_from_zero_have_no_mean_when_they_are_white(dtype, mean):
    rng, error = np.random.default_rng(0), 32 * np.finfo(dtype).eps
    X = (rng.standard_normal((20, 3)) + mean).astype(dtype)
    centred = X - X.astype(np.longdouble).mean(axis=0)
    centred = torch.from_numpy(centred.astype(np.float64))
    for options in ({}, {"kind": "pca"}, {"epsilon": 0.1}):
        white = svt.whiten(torch.from_numpy(X), **options).white.double()
        expected = svt.whiten(centred, **options).white
        torch.testing.assert_close(white, expected, rtol=0, atol=error)


def test_what_is_no_covariance_gives_nan():
    X = torch.randn(5, 3)
    for variance in (-1.0, torch.nan):
        covariance = torch.diag(torch.tensor([1.0, variance, 2.0]))
        for kind in ("zca", "pca"):
            white = svt.whiten(X, kind=kind, covariance=covariance).white
            assert white.isnan().any(dim=-1).all()


@pytest.mark.parametrize("kind", ["zca", "pca"])
@pytest.mark.parametrize("shape", [(4, 6), (5, 5), (6, 5), (1, 2), (3, 1)])
def test_derivatives_of_whitening_of_few_samples(shape, kind):
    """Without a mean they have a rank below N, which no change raises."""
    generator = torch.Generator().manual_seed(0)
    X, Y = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    X.requires_grad_()

    def white(X):
        return svt.whiten(X, kind=kind).white

    def weighted(X):
        found = svt.cca(X, Y)
        return (found.x_weights * found.correlations) @ found.y_weights.T

    assert torch.autograd.gradcheck(white, X)
    assert torch.autograd.gradcheck(weighted, X)
    if kind == "zca":
        assert torch.autograd.gradgradcheck(white, X)


@pytest.mark.parametrize("scale", [1e-12, 1e14, 1e15, 1e20])
def test_whitening_and_correlations_of_any_scale(scale):
    generator = torch.Generator().manual_seed(0)
    X, G, Y = (
        torch.randn(50, 4, generator=generator, dtype=torch.float64) for _ in range(3)
    )

    def gradients(scale, dtype):
        x, y = (X * scale).to(dtype).requires_grad_(), (Y * scale).to(dtype)
        white, found = svt.whiten(x), svt.cca(x, y)
        losses = (white.white * G.to(dtype)).sum(), found.correlations.sum()
        mean = white.mean / scale, found.x_weights.abs() * scale
        found = [torch.autograd.grad(loss, x)[0] * scale for loss in losses]
        return [t.detach().to(torch.float64) for t in (*found, *mean)]

    found = gradients(scale, torch.float32)
    torch.testing.assert_close(
        found, gradients(1.0, torch.float64), rtol=1e-5, atol=1e-5
    )
    A = (X * scale).to(torch.float32)
    torch.testing.assert_close(svt.procrustes(A, A), torch.eye(4))


def test_svd_residual_refuses_complex_triplets_and_has_a_gradient_at_zero():
    A = torch.eye(2, requires_grad=True)
    U, S, Vh = (t.detach() for t in svt.svd(A))
    with pytest.raises(TypeError, match="U must be real"):
        svt.svd_residual(A, U + 0j, S, Vh)
    svt.svd_residual(A, U, S, Vh).sum().backward()
    torch.testing.assert_close(A.grad, torch.zeros(2, 2))


def test_infinity_is_not_lost():
    A = torch.tensor([[torch.inf, 1.0], [1.0, 1.0]])
    assert torch.isnan(svt.null_vector(A)).all()
    assert torch.isnan(svt.svt_divergence(A, 0.3))


@pytest.mark.parametrize("tau", [np.complex64(1 + 5j), np.array(1j)])
def test_complex_thresholds_of_numpy_are_refused(tau):
    with pytest.raises(TypeError, match="tau must be real"):
        svt.svt(torch.eye(3), tau)


def test_spectral_map_of_an_inference_tensor():
    with torch.inference_mode():
        A = torch.eye(3)
    torch.testing.assert_close(svt.spectral_map(A, torch.tanh), A * np.tanh(1))


def test_whitening_layer_loads_complex_statistics():
    layer, fresh = (svt.nn.Whitening(3) for _ in range(2))
    x = torch.randn(20, 3, dtype=torch.complex64)
    layer(x)
    fresh.load_state_dict(layer.state_dict())
    torch.testing.assert_close(fresh.eval()(x), layer.eval()(x))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", ["svd", "null_vector", "pinv"])
def test_complex_matrices_compile_whole(name):
    def loss(A):
        if name == "svd":
            U, S, Vh = svt.svd(A)
            return ((U * torch.relu(S - 0.5)[..., None, :]) @ Vh).abs().sum()
        return getattr(svt, name)(A).abs().sum()

    A = torch.randn(2, 3, 3, dtype=torch.complex64, requires_grad=True)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    (found,) = torch.autograd.grad(compiled(A), A)
    torch.testing.assert_close(found, torch.autograd.grad(loss(A), A)[0])


def test_traced_arrays_are_not_added_to_numpys_in_place():
    def norm(A):
        total = np.ones((3, 3))
        total += A
        return svn.nuclear_norm(total)

    with pytest.raises(TypeError, match="would lose its derivative"):
        svn.vjp(norm, np.eye(3))


def test_full_matrices_may_be_any_truth_value():
    assert svt.svd(torch.ones(3, 2), full_matrices=1).U.shape == (3, 3)


def test_a_namespace_without_the_array_api_is_named():
    with pytest.raises(TypeError, match="must be an array-API namespace"):
        for_namespace(math)


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize(
    "values", [(1.7, 1, 1, 1, 0.6), (1.4, 1, 1, 1, 1), (1e9, 1, 1)]
)
def test_a_threshold_just_below_a_repeated_value(dtype, batch, values):
    """Of f that is small beside its slope, gaps count that are a fraction of eps."""
    rng, s = np.random.default_rng(0), np.asarray(values)
    if dtype == torch.float32:
        s = np.minimum(s, 1e3)
    for above in (0.03, 0.01, 1e-3):
        for _ in range(20):
            U, V = orthogonal(rng, len(s)), orthogonal(rng, len(s))
            G = torch.tensor(rng.standard_normal((len(s), len(s))), dtype=dtype)
            A = torch.tensor((U * s) @ V.T, dtype=dtype).expand(batch, -1, -1)
            gradients = []
            for shrink in (
                lambda A, t: svt.svt(A, t),
                lambda A, t: by_factors(A, lambda S: torch.relu(S - t)),
            ):
                B = A.clone().requires_grad_()
                (shrink(B, 1 - above) * G).sum().backward()
                gradients.append(B.grad)
            exact, found = gradients
            error = (found - exact).norm() / exact.norm()
            assert error < 600 * torch.finfo(dtype).eps * s[0] / above


def by_factors(A, f):
    U, S, Vh = svt.svd(A)
    return (U * f(S)[..., None, :]) @ Vh


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("batch", [1, 9])
def test_logarithm_of_close_eigenvalues_near_one(dtype, batch):
    """As by the framework's own `eigh`, where values are distinct."""
    rng, eps = np.random.default_rng(1), torch.finfo(dtype).eps
    for gap in (1e-2, 1e-4, 1e-6, 1e-9, 1e-12):
        if gap < 5 * eps:
            continue
        for _ in range(10):
            V = orthogonal(rng, 5)
            w = np.array([0.4, 1 - gap, 1 + gap / 3, 1 + gap, 1.9])
            G = torch.tensor(rng.standard_normal((5, 5)), dtype=dtype)
            A = torch.tensor((V * w) @ V.T, dtype=dtype).expand(batch, -1, -1)

            def gradient(eigh, A=A, G=G):
                B = A.clone().requires_grad_()
                w, V = eigh(0.5 * (B + B.mT))
                (((V * w.log()[..., None, :]) @ V.mT) * G).sum().backward()
                return B.grad

            exact, found = gradient(torch.linalg.eigh), gradient(svt.eigh)
            assert (found - exact).norm() < 100 * eps * exact.norm()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("n", [65, 160])
def test_rotations_of_large_matrices_after_set_num_threads(two_threads, n, compiled):
    """PyTorch's LU of several matrices at once is wrong there from 150 rows on."""
    A = torch.randn(2, 2, n, n, generator=torch.Generator().manual_seed(0))
    A[0, 0] = A[0, 1]
    A[0, 1, 0] *= -1  # of determinants with both signs

    def rotations(A):
        return svt.polar(A, special=True)

    if compiled:
        rotations = torch.compile(rotations, backend="aot_eager")
    found = rotations(A)
    expected = torch.stack([svt.polar(x, special=True) for x in A.reshape(-1, n, n)])
    torch.testing.assert_close(found.reshape(-1, n, n), expected, rtol=0, atol=1e-4)
    assert all(torch.linalg.det(x) > 0.9 for x in expected)

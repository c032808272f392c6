"""What the operators are for: minima, subgradients, motions and risks, by NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from oracle import adjoint, random_unitary

import svdinv.numpy as f


def with_values(s, shape, dtype=float, seed=0):
    rng = np.random.default_rng(seed)
    U, V = (
        random_unitary((n, len(s)), rng, np.issubdtype(dtype, np.complexfloating))
        for n in shape
    )
    return (U * s) @ adjoint(V), U, V


def penalty(name):
    return {
        "nuclear": lambda s: 0.4 * s.sum(),
        "rank": lambda s: 0.4**2 / 2 * np.count_nonzero(s > 1e-12),
        "log-sum": lambda s: 0.4 * np.log1p(s / 0.2).sum(),
        "1/2": lambda s: 0.4 * np.sqrt(s).sum(),
        "2/3": lambda s: 0.4 * (s ** (2 / 3)).sum(),
        "2": lambda s: 0.4 * (s**2).sum(),
    }[name]


PROXIMAL = {
    "nuclear": lambda A: f.svt(A, 0.4),
    "rank": lambda A: f.svht(A, 0.4),
    "log-sum": lambda A: f.log_sum_threshold(A, 0.4, 0.2),
    "1/2": lambda A: f.schatten_prox(A, 0.4, 1 / 2),
    "2/3": lambda A: f.schatten_prox(A, 0.4, 2 / 3),
    "2": lambda A: f.schatten_prox(A, 0.4, 2),
}


@pytest.mark.parametrize("name", PROXIMAL)
def test_proximal_operators_minimise(name):
    """No singular values on a fine grid cost less than those returned."""
    # At 1.1 the log-sum has a minimum above 0 that costs more than 0.
    s = np.array([1.7, 1.1, 0.9, 0.55, 0.3, 0.05])
    A, U, V = with_values(s, (7, 6), complex)
    found = np.diagonal(adjoint(U) @ PROXIMAL[name](A) @ V).real.round(12) + 0.0
    grid = np.linspace(0, 2, 20001)
    for value, y in zip(s, found, strict=True):
        cost = np.array([penalty(name)(np.array([x])) for x in grid])
        cost = cost + (grid - value) ** 2 / 2
        own = penalty(name)(np.array([y])) + (y - value) ** 2 / 2
        assert own <= cost.min() + 1e-9


def test_low_rank_is_the_truncated_svd():
    A = np.random.default_rng(0).standard_normal((3, 6, 4))
    U, S, Vh = np.linalg.svd(A, full_matrices=False)
    best = (U[..., :2] * S[..., None, :2]) @ Vh[..., :2, :]
    np.testing.assert_allclose(f.low_rank(A, 2), best, atol=1e-14)


@pytest.mark.parametrize("dtype", [float, complex])
def test_subgradients_of_least_norm(dtype):
    A, U, V = with_values(np.array([1.0, 1.0, 1.0, 0.4, 0.0]), (6, 5), dtype)

    def gradient(norm, A=A):
        return f.vjp(norm, A)[1](1.0)[0]

    def along(weights):
        return (U * np.array(weights)) @ adjoint(V)

    close = {"atol": 1e-12}
    third = 1 / 3
    np.testing.assert_allclose(
        gradient(f.spectral_norm), along([third, third, third, 0, 0]), **close
    )
    np.testing.assert_allclose(
        gradient(lambda A: f.ky_fan_norm(A, 2)), along([2 / 3] * 3 + [0, 0]), **close
    )
    np.testing.assert_allclose(
        gradient(f.nuclear_norm), along([1, 1, 1, 1, 0]), **close
    )
    for norm in (f.nuclear_norm, f.spectral_norm, lambda A: f.schatten_norm(A, 3)):
        assert np.all(gradient(norm, 0 * A) == 0)


@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 3, np.inf])
def test_norms_are_those_of_the_singular_values(p):
    A = np.random.default_rng(1).standard_normal((3, 6, 4))
    S = np.linalg.svd(A, compute_uv=False)
    expected = S.max(-1) if np.isinf(p) else (S**p).sum(-1) ** (1 / p)
    np.testing.assert_allclose(f.schatten_norm(A, p), expected, rtol=1e-13)


@pytest.mark.parametrize("p", [0.5, 1.5, 3])
def test_second_derivatives_of_a_norm_beside_zeros(p):
    """What moves the zero singular values alone changes no gradient to first order."""
    A, U, V = with_values(np.array([3.0, 2.0, 1.0, 0, 0, 0]), (6, 6))
    X = np.random.default_rng(4).standard_normal(A.shape)
    outside = U[:, 3:] @ U[:, 3:].T @ X @ V[:, 3:] @ V[:, 3:].T

    def gradient(A):
        return f.vjp(lambda A: f.schatten_norm(A, p), A)[1](1.0)[0]

    def along(X):
        return f.jvp(gradient, (A,), (X,))[1]

    np.testing.assert_allclose(along(outside), 0, atol=1e-12)
    np.testing.assert_allclose(along(X), along(X - outside), atol=1e-10)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_second_derivatives_of_the_polar_factor_beside_one_zero(shape):
    """What is divided by it is left out."""
    A, _, _ = with_values(np.array([3.0, 2.0, 1.0, 0]), shape)
    G, X = np.random.default_rng(5).standard_normal((2, *shape))

    def gradient(A):
        return f.vjp(f.polar, A)[1](G)[0]

    assert np.abs(f.jvp(gradient, (A,), (X,))[1]).max() < 100


@pytest.mark.parametrize("shape", [(40, 30), (20, 35)])
@pytest.mark.parametrize("is_complex", [False, True])
def test_risk_estimate_against_monte_carlo(shape, is_complex):
    rng = np.random.default_rng(2)
    X, _, _ = with_values(
        np.array([9.0, 7.0, 5.0]), shape, complex if is_complex else float
    )
    sigma, draws = 0.3, 400
    noise = rng.standard_normal((draws, *shape))
    if is_complex:
        noise = noise + 1j * rng.standard_normal((draws, *shape))
    noisy = X + sigma * noise
    for tau in (1.0, 3.0):
        error = np.abs(f.svt(noisy, tau) - X) ** 2
        error = error.sum((-2, -1))
        estimate = f.sure(noisy, tau, sigma)
        spread = np.std(error - estimate) / np.sqrt(draws)
        assert abs(error.mean() - estimate.mean()) < 4 * spread
        assert spread < 0.05 * error.mean()


def test_divergence_by_random_probes():
    rng = np.random.default_rng(3)
    A = rng.standard_normal((9, 6))
    probes = rng.standard_normal((20000, 9, 6))
    moved = f.svt_jvp(np.broadcast_to(A, probes.shape), 1.2, probes)[1]
    traces = (probes * moved).sum((-2, -1))
    expected = f.svt_divergence(A, 1.2)
    assert abs(traces.mean() - expected) < 4 * traces.std() / np.sqrt(len(traces))


def rotation(d, rng):
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    Q[:, 0] *= np.sign(np.linalg.det(Q))
    return Q


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_kabsch_finds_the_motion(d):
    rng = np.random.default_rng(4)
    P, R, t = rng.standard_normal((7, d)), rotation(d, rng), rng.standard_normal(d)
    found = f.kabsch(P, P @ R.T + t)
    np.testing.assert_allclose(found.rotation, R, atol=1e-13)
    np.testing.assert_allclose(found.translation, t, atol=1e-13)
    assert found.rmsd < 1e-13


@pytest.mark.parametrize("flatten", [False, True])
def test_kabsch_is_a_minimum_and_proper(flatten):
    rng = np.random.default_rng(5)
    P, Q = rng.standard_normal((2, 8, 3))
    Q[:, 0] *= -1  # a reflection would fit better
    if flatten:
        P[:, 2] = Q[:, 2] = 0
    found = f.kabsch(P, Q)
    assert abs(np.linalg.det(found.rotation) - 1) < 1e-13
    distance = P @ found.rotation.T + found.translation - Q
    assert abs(np.sqrt((distance**2).sum(-1).mean()) - found.rmsd) < 1e-13
    for _ in range(200):
        R = rotation(3, rng)
        t = Q.mean(0) - P.mean(0) @ R.T
        other = np.sqrt(((P @ R.T + t - Q) ** 2).sum(-1).mean())
        assert other >= found.rmsd - 1e-13


@pytest.mark.parametrize("reflection", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_kabsch_finds_the_similarity(d, reflection):
    rng = np.random.default_rng(4)
    P, R, t = rng.standard_normal((7, d)), rotation(d, rng), rng.standard_normal(d)
    if reflection:
        R = R * np.r_[np.ones(d - 1), -1]
    found = f.kabsch(P, 0.3 * P @ R.T + t, scale=True, reflection=reflection)
    np.testing.assert_allclose(found.rotation, R, atol=1e-13)
    np.testing.assert_allclose(found.translation, t, atol=1e-13)
    np.testing.assert_allclose(found.scale, 0.3, rtol=1e-13)
    assert found.rmsd < 1e-13


@pytest.mark.parametrize("reflection", [False, True])
def test_similarity_is_a_minimum(reflection):
    rng = np.random.default_rng(5)
    P, Q = rng.standard_normal((2, 6, 3))
    Q[:, 0] *= -1
    found = f.kabsch(P, Q, scale=True, reflection=reflection)
    moved = found.scale * P @ found.rotation.T + found.translation
    assert abs(np.sqrt(((moved - Q) ** 2).sum(-1).mean()) - found.rmsd) < 1e-13
    for _ in range(200):
        R = rotation(3, rng) * (1, 1, rng.choice([-1, 1]) if reflection else 1)
        c = found.scale * rng.uniform(0.5, 2)
        t = Q.mean(0) - c * P.mean(0) @ R.T
        other = np.sqrt(((c * P @ R.T + t - Q) ** 2).sum(-1).mean())
        assert other >= found.rmsd - 1e-13


@pytest.mark.parametrize("scale", [False, True])
def test_what_is_masked_does_not_leak(scale):
    rng = np.random.default_rng(6)
    P, Q = rng.standard_normal((2, 7, 3))
    keep = np.array([True, True, False, True, True, False, True])
    G = (np.ones((3, 3)), np.ones(3), np.ones(()), np.ones(()))[: 4 if scale else 3]
    given = [np.where(keep[:, None], x, np.nan) for x in (P, Q)]
    given[1][2] = np.inf, 1, np.nan

    def motion(P, Q, w):
        return f.kabsch(P, Q, w, scale=scale, reflection=True)

    found, pullback = f.vjp(motion, *given, keep + 0.0)
    expected, pull = f.vjp(motion, P[keep], Q[keep], np.ones(5))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-13)
    for g, h in zip(pullback(G), pull(G), strict=True):
        np.testing.assert_allclose(g[keep], h, atol=1e-12)
        assert np.isfinite(g).all()
    for g in pullback(G)[:2]:
        assert (g[~keep] == 0).all()


@pytest.mark.parametrize("shape", ["plane", "line", "perfect", "perfect plane"])
def test_scale_has_a_derivative_where_the_points_are_flat(shape):
    rng = np.random.default_rng(7)
    P, Q, X, Y = rng.standard_normal((4, 6, 3))
    if "plane" in shape:
        P[:, 2] = Q[:, 2] = 0
    if shape == "line":
        P[:, 1:] = Q[:, 1:] = 0
    if "perfect" in shape:
        Q = 0.7 * P @ rotation(3, rng).T

    def scale(P, Q):
        return f.kabsch(P, Q, scale=True).scale

    _, pullback = f.vjp(scale, P, Q)
    gP, gQ = pullback(np.ones(()))
    h = 1e-5
    slope = (scale(P + h * X, Q + h * Y) - scale(P - h * X, Q - h * Y)) / (2 * h)
    assert abs(np.sum(gP * X) + np.sum(gQ * Y) - slope) < 1e-8


def test_points_on_a_line_have_subgradients():
    """Where the other points are not on one, turns about the line make a kink."""
    rng = np.random.default_rng(9)
    P, Q = np.outer(rng.standard_normal(6), (1, 2, 3)), rng.standard_normal((6, 3))
    V = rng.standard_normal((6, 3))

    def scale(P):
        return f.kabsch(Q, P, scale=True).scale  # convex in P

    value, pullback = f.vjp(scale, P)
    slope = np.sum(pullback(np.ones(()))[0] * V)
    h = 1e-6
    left, right = (value - scale(P - h * V)) / h, (scale(P + h * V) - value) / h
    assert left + 1e-2 < right
    assert left - 1e-5 <= slope <= right + 1e-5


@pytest.mark.parametrize("reflection", [False, True])
def test_masks_of_one_pair_of_points(reflection):
    rng = np.random.default_rng(10)
    P, Q = rng.standard_normal((2, 7, 3))
    P[3] = np.nan
    masks = rng.integers(0, 2, (4, 7)) * (np.arange(7) != 3) + 0.0
    masks[:, :3] = 1
    G = np.ones((4, 3, 3)), np.ones((4, 3)), np.ones(4), np.ones(4)

    def motion(P, Q, w):
        return f.kabsch(P, Q, w, scale=True, reflection=reflection)

    found, pullback = f.vjp(motion, P, Q, masks)
    gradients = pullback(G)
    total = [np.zeros((7, 3)), np.zeros((7, 3)), np.zeros((4, 7))]
    for i, mask in enumerate(masks):
        one, pull = f.vjp(motion, P, Q, mask)
        for x, y in zip(found, one, strict=True):
            np.testing.assert_allclose(x[i], y, atol=1e-13)
        gP, gQ, total[2][i] = pull(tuple(g[i] for g in G))
        total[0] += gP
        total[1] += gQ
    for g, h in zip(gradients, total, strict=True):
        np.testing.assert_allclose(g, h, atol=1e-12)
    alike = f.kabsch(Q, Q[::-1], 3.0)
    np.testing.assert_allclose(alike.rotation, f.kabsch(Q, Q[::-1]).rotation)


def test_penalties_that_are_not_positive():
    A = np.random.default_rng(11).standard_normal((3, 4, 5))
    found = f.robust_pca(A, penalty=np.array([0.0, 1, -2]))
    assert all(np.isnan(x[[0, 2]]).all() for x in found)
    alone = f.robust_pca(A[1], penalty=1)
    np.testing.assert_allclose(found.sparse[1], alone.sparse, rtol=0, atol=1e-9)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("weights", [None, "given", "learned"])
@pytest.mark.parametrize("reflection", [False, True])
def test_similarities_by_kernels_in_pytorch(d, weights, reflection, monkeypatch):
    """Which have kernels and rules of their own, beside the array functions."""
    torch = pytest.importorskip("torch")
    import svdinv.torch as st
    from svdinv.backends import torch_namespace

    torch.manual_seed(d)
    P, Q, X, Y = torch.randn(4, 9, 5, d, dtype=torch.float64)
    w = torch.rand(9, 5, dtype=torch.float64)
    Q[0] = 0.7 * P[0] + 1  # a perfect fit
    P[1] = P[1, :1]  # points that coincide
    P[2, 1:, 1:], Q[2, 1:, 1:] = 0, 0  # nearly a line
    w[3, 2] = 0
    G = torch.randn(4, d, d, dtype=torch.float64)

    def derivatives(P, Q, w, X, Y):
        P, Q = P.clone().requires_grad_(), Q.clone().requires_grad_()
        w = w.clone().requires_grad_() if weights == "learned" else w
        given = (P, Q) if weights != "learned" else (P, Q, w)
        found = st.kabsch(
            P, Q, w if weights else None, scale=True, reflection=reflection
        )
        R, t, rmsd, c = found
        loss = (R @ G[0] * R).sum() + (t @ G[1] * t).sum() + (rmsd + c * c).sum()
        first = torch.autograd.grad(loss, given, create_graph=True)
        # What has a second derivative.
        along = (first[0] * X)[3:].sum() + (first[1] ** 2)[3:].sum()
        return *found, *first, *torch.autograd.grad(along, (P, Q))

    found = derivatives(P, Q, w, X, Y)
    monkeypatch.setattr(torch_namespace, "runs_kernels", lambda *x: False)
    expected = derivatives(P, Q, w, X, Y)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)


def test_points_that_do_not_determine_the_motion():
    P, Q = np.ones((4, 3)), np.random.default_rng(8).standard_normal((4, 3))
    found = f.kabsch(P, Q, scale=True)
    assert found.scale == 1
    plane = Q * (1, 1, 0)
    assert np.linalg.det(f.kabsch(plane, plane, reflection=True).rotation) > 0.99
    many, pullback = f.vjp(lambda P: f.kabsch(P, Q, scale=True, reflection=True), P)
    (gP,) = pullback(tuple(np.ones_like(x) for x in many))
    assert np.isfinite(gP).all()


def test_nearest_rotation():
    rng = np.random.default_rng(9)
    A = rng.standard_normal((20, 3, 3))
    R = f.polar(A, special=True)
    np.testing.assert_allclose(np.linalg.det(R), 1)
    for _ in range(100):
        other = np.linalg.norm(A - rotation(3, rng), axis=(-2, -1))
        assert (other >= np.linalg.norm(A - R, axis=(-2, -1)) - 1e-13).all()
    # Where it is not determined, the derivative is finite.
    G = rng.standard_normal((3, 3))
    for A in (-np.eye(3), np.zeros((3, 3)), np.diag([2.0, 1, -1]), np.eye(3)):
        (gA,) = f.vjp(lambda A: f.polar(A, special=True), A)[1](G)
        assert np.abs(gA).max() < 10
    np.testing.assert_allclose(gA, (G - G.T) / 2, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_corrupted_low_rank_matrices_are_recovered(dtype):
    rng = np.random.default_rng(10)
    truth, _, _ = with_values((9.0, 6.0, 6.0), (60, 40), dtype)
    errors = np.where(rng.random(truth.shape) < 0.05, 2 * rng.standard_normal(), 0)
    residuals = []
    L, S = f.robust_pca(
        truth + errors, iterations=60, report=lambda k, r: residuals.append((k, r))
    )
    assert np.linalg.norm(L - truth) < 1e-5 * np.linalg.norm(truth)
    assert np.linalg.norm(S - errors) < 1e-5 * np.linalg.norm(truth)
    assert [k for k, _ in residuals] == list(range(1, 61))
    assert residuals[-1][1] < 1e-8


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(60, 40), (200, 30)])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 1e2, 1e4])
def test_a_higher_limit_separates_parts_of_other_sizes(dtype, shape, size):
    """The sparse part is far below the low-rank part, or far above it.

    With the usual factor of 1.5 the penalty would outrun the tall matrix.
    """
    truth, _, _ = with_values((9.0, 6.0), shape)
    rng = np.random.default_rng(3)
    signs = rng.choice([-1.0, 1.0], shape)
    sparse = np.where(rng.random(shape) < 0.03, size * signs, 0)
    A = (truth + sparse).astype(dtype)
    L, S = f.robust_pca(A, limit=1e7, growth=1.1, iterations=200)
    rounding = 200 * np.finfo(dtype).eps * np.linalg.norm(A)
    for found, wanted in ((L, truth), (S, sparse)):
        assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted) + rounding


def test_the_usual_limit_of_a_pursuit_leaves_faint_noise():
    """Rank and support are those of the sum without the noise, in many iterations."""
    truth, _, _ = with_values((9.0, 6.0), (30, 20))
    rng = np.random.default_rng(0)
    spikes = np.zeros(600)
    spikes[rng.permutation(600)[:20]] = rng.choice([-1.0, 1.0], 20)
    noise = 1e-7 * rng.standard_normal((30, 20))
    A = truth + spikes.reshape(30, 20) + noise
    for iterations in (50, 100, 200):
        L, S = f.robust_pca(A, iterations=iterations)
        assert np.linalg.matrix_rank(L, 1e-9) == 2
        np.testing.assert_array_equal(S.ravel() != 0, spikes != 0)
    L, S = f.robust_pca(A, iterations=200, limit=1e7)
    assert np.count_nonzero(S) > 20
    assert np.linalg.norm(A - L - S) < 1e-12


def test_pursuit_of_nothing():
    for A in (np.zeros((3, 2)), np.ones((0, 2))):
        (L, S), pullback = f.vjp(f.robust_pca, A)
        np.testing.assert_array_equal(L + S, A)
        assert np.isfinite(pullback((L + 1, S + 1))[0]).all()


def test_one_reference_against_many():
    rng = np.random.default_rng(6)
    P, Q = rng.standard_normal((4, 6, 3)), rng.standard_normal((6, 3))
    many, pullback = f.vjp(f.kabsch, P, Q)
    gP, gQ = pullback((np.ones((4, 3, 3)), None, None))
    total = np.zeros_like(Q)
    for i, p in enumerate(P):
        one, pull = f.vjp(f.kabsch, p, Q)
        np.testing.assert_allclose(many.rotation[i], one.rotation, atol=1e-13)
        g, h = pull((np.ones((3, 3)), None, None))
        np.testing.assert_allclose(gP[i], g, atol=1e-12)
        total += h
    np.testing.assert_allclose(gQ, total, atol=1e-12)


def test_tensor_threshold_is_proximal():
    """No small step away from the result lowers the cost."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((5, 4, 6))

    def cost(Y):
        spectrum = np.moveaxis(np.fft.fft(Y, axis=-1), -1, 0)
        nuclear = np.linalg.svd(spectrum, compute_uv=False).sum() / Y.shape[-1]
        return 0.9 * nuclear + ((Y - X) ** 2).sum() / 2

    Y = f.tsvt(X, 0.9)
    least = cost(Y)
    for _ in range(100):
        assert cost(Y + 1e-3 * rng.standard_normal(X.shape)) >= least


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("stride", [None, 2])
def test_blocks_are_thresholded_each(shift, stride):
    rng = np.random.default_rng(8)
    x = rng.standard_normal((3, 8, 12))
    steps = [0] if stride is None else [0, 2]
    expected = np.zeros_like(x)
    for dy, dx in itertools.product(steps, steps):
        rolled = np.roll(x, (-shift - dy, -shift - dx), axis=(-2, -1))
        for i, j in itertools.product(range(0, 8, 4), range(0, 12, 4)):
            block = rolled[:, i : i + 4, j : j + 4].reshape(3, -1)
            rolled[:, i : i + 4, j : j + 4] = f.svt(block, 0.5).reshape(3, 4, 4)
        back = np.roll(rolled, (shift + dy, shift + dx), axis=(-2, -1))
        expected += back / len(steps) ** 2
    found = f.local_low_rank(x, 0.5, 4, stride=stride, shift=shift)
    np.testing.assert_allclose(found, expected, atol=1e-13)


def test_randomized_triplets_of_a_decaying_spectrum():
    A, _, _ = with_values(0.5 ** np.arange(12), (40, 30))
    U, S, Vh = f.svd_lowrank(A, 4, seed=0)
    np.testing.assert_allclose(S, 0.5 ** np.arange(4), rtol=1e-10)
    assert np.linalg.norm((U * S) @ Vh - A, 2) < 0.5**4 * (1 + 1e-6)


@pytest.mark.parametrize(("noise", "rtol"), [(1e-2, 1e-11), (1e-5, 1e-8), (1e-8, 1e-5)])
@pytest.mark.parametrize("reflection", [False, True])
def test_weights_of_a_good_fit(reflection, noise, rtol):
    """Their derivative is of the size of the residual, of which it keeps all digits."""
    rng = np.random.default_rng(11)
    P, w = rng.standard_normal((12, 3)), rng.uniform(0.1, 1, 12)
    Q = P @ rotation(3, rng).T + noise * rng.standard_normal((12, 3))
    found, pullback = f.vjp(lambda w: f.kabsch(P, Q, w, reflection=reflection), w)
    # That of the minimum is that of the sum, with the motion held fixed.
    square = ((P @ found.rotation.T + found.translation - Q) ** 2).sum(-1)
    expected = (square - found.rmsd**2) / (2 * w.sum() * found.rmsd)
    (g,) = pullback((None, None, np.ones(())))
    np.testing.assert_allclose(g, expected, rtol=rtol, atol=rtol * abs(expected).max())

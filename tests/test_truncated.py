"""The truncated SVD: its accuracy, and its derivative against that of the full SVD."""

from __future__ import annotations

import functools
import tracemalloc

import numpy as np
import pytest
from frameworks import FRAMEWORKS, Looking
from oracle import CUBE, SOFT, adjoint, draw, random_unitary, relative_error

from svdinv.core import svd_pullback, svd_pushforward
from svdinv.core.truncated import (
    BLIND_STEPS,
    svd_lowrank,
    svd_lowrank_pullback,
    svd_lowrank_pushforward,
)

SHAPES = ((30, 20), (20, 33), (25, 25))
DTYPES = (np.float64, np.complex128)
RANK = 5


LOOKING = FRAMEWORKS["numpy"].namespace


def iterating(loop):
    """A namespace with a loop of its own."""
    namespace = Looking(LOOKING)
    namespace.iterate_while = loop
    return namespace


def exactly(count):
    """A namespace that does a number of steps, whatever comes of them."""

    def loop(step, running, state, limit):
        for _ in range(count):
            state = step(state)
        return state

    return iterating(loop)


@pytest.fixture
def xf(framework):
    """Call a function of core with NumPy arrays in and out; None stays None."""

    def call(function, *arrays, **options):
        with framework.context():
            given = framework.arrays(arrays)
            result = function(*given, xp=framework.namespace, **options)
            if isinstance(result, tuple):
                return framework.shown(result)
            return framework.numpy(result)

    return call


def spectrum(k, gap, kept=None):
    """RANK kept values down to 1, and discarded ones from `gap` down."""
    kept = np.linspace(2, 1, RANK) if kept is None else np.asarray(kept)
    return np.concatenate([kept, gap * np.linspace(1, 0.3, k - len(kept))])


def matrix(shape, s, dtype, seed=0, batch=(2,)):
    """A batch of matrices with singular values `s`, and their factors."""
    rng = np.random.default_rng(seed)
    is_complex = np.issubdtype(dtype, np.complexfloating)
    k = len(s)
    U = random_unitary((*batch, shape[0], k), rng, is_complex)
    V = random_unitary((*batch, shape[1], k), rng, is_complex)
    s = np.broadcast_to(s, (*batch, k)).copy()
    return (U * s[..., None, :]) @ adjoint(V), (U, s, adjoint(V))


def cut(factors, r=RANK):
    U, S, Vh = factors
    return U[..., :r], S[..., :r], Vh[..., :r, :]


def pad(cotangents, k):
    """Cotangents of all k triplets from those of the leading ones."""
    gU, gS, gVh = cotangents

    def fill(g, axis):
        if g is None:
            return None
        shape = list(g.shape)
        shape[axis] = k - shape[axis]
        return np.concatenate([g, np.zeros(shape, g.dtype)], axis)

    return fill(gU, -1), fill(gS, -1), fill(gVh, -2)


def normal(shape, dtype, rng):
    x = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


class Loss:
    """Gauge-invariant losses of the leading triplets, and their cotangents."""

    def __init__(self, name, shape, dtype, seed=1):
        rng = np.random.default_rng(seed)
        m, n = shape
        self.name = name
        self.left = normal((m, m), dtype, rng)
        self.right = normal((n, n), dtype, rng)
        self.G = normal((m, n), dtype, rng)
        self.left, self.right = (x + adjoint(x) for x in (self.left, self.right))

    def __call__(self, factors):
        U, S, Vh = factors
        if self.name == "left projector":
            X, G = U @ adjoint(U), self.left
        elif self.name == "right projector":
            X, G = adjoint(Vh) @ Vh, self.right
        elif self.name == "reconstruction":
            X, G = (U * S[..., None, :]) @ Vh, self.G
        else:
            return np.sum(np.log(S), axis=-1)
        return np.sum((np.conj(G) * X).real, axis=(-2, -1))

    def cotangents(self, factors):
        U, S, Vh = factors
        if self.name == "left projector":
            return 2 * self.left @ U, None, None
        if self.name == "right projector":
            return None, None, 2 * Vh @ self.right
        if self.name == "reconstruction":
            GV = self.G @ adjoint(Vh)
            gS = np.sum(np.conj(U) * GV, axis=-2).real
            return GV * S[..., None, :], gS, S[..., :, None] * (adjoint(U) @ self.G)
        return None, 1 / S, None


LOSSES = ("left projector", "right projector", "reconstruction", "singular values")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_pullback_is_that_of_the_full_svd(xf, shape, dtype):
    for name in LOSSES:
        A, full = matrix(shape, spectrum(min(shape), 0.9), dtype)
        loss = Loss(name, shape, dtype)
        cotangents = loss.cotangents(cut(full))
        exact = svd_pullback(*full, *pad(cotangents, min(shape)))
        gA = xf(svd_lowrank_pullback, A, *cut(full), *cotangents)
        assert gA.dtype == dtype
        assert relative_error(gA, exact).max() < 1e-13


@pytest.mark.parametrize(
    ("gap", "bound"), [(0.0, 1e-14), (0.5, 1e-14), (0.99, 1e-12), (0.9999, 1e-10)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_grows_with_the_condition_number_alone(gap, bound, dtype):
    shape = (30, 20)
    A, full = matrix(shape, spectrum(20, gap), dtype, batch=(3,))
    # All cotangents, gauge-dependent ones too: the formulas are the same.
    rng = np.random.default_rng(2)
    cotangents = [normal(x.shape, x.dtype, rng) for x in cut(full)]
    exact = svd_pullback(*full, *pad(cotangents, 20))
    for watch in ({"xp": LOOKING}, {}):
        gA = svd_lowrank_pullback(A, *cut(full), *cotangents, **watch)
        assert relative_error(gA, exact).max() < bound


@pytest.mark.parametrize(("gap", "most"), [(0.5, 16), (0.9, 40), (0.99, 120)])
def test_steps_of_the_iteration(gap, most):
    # A dense tail right below the cut: the worst there is.
    s = np.concatenate([np.linspace(2, 1, RANK), gap * np.linspace(1, 0.01, 295)])
    A, full = matrix((400, 300), s, np.float64, batch=())
    cotangents = Loss("left projector", (400, 300), np.float64).cotangents(cut(full))
    steps = []

    def loop(step, running, state, limit):
        while running(state).any() and len(steps) < limit:
            state = step(state)
            steps.append(1)
        return state

    gA = svd_lowrank_pullback(A, *cut(full), *cotangents, xp=iterating(loop))
    exact = svd_pullback(*full, *pad(cotangents, 300))
    assert relative_error(gA, exact) < 1e-12
    assert len(steps) <= most
    few = svd_lowrank_pullback(A, *cut(full), *cotangents, xp=exactly(5))
    assert 1e-8 < relative_error(few, exact) < 1


def test_more_steps_are_done_only_where_they_can_be_watched():
    tail = 0.999 * (1 - 0.9 * np.linspace(0, 1, 295) ** 2)  # crowded at the cut
    s = np.concatenate([np.linspace(2, 1, RANK), tail])
    A, full = matrix((400, 300), s, np.float64, batch=())
    cotangents = Loss("left projector", (400, 300), np.float64).cotangents(cut(full))
    exact = svd_pullback(*full, *pad(cotangents, 300))
    watched = svd_lowrank_pullback(A, *cut(full), *cotangents, xp=LOOKING)
    blind = svd_lowrank_pullback(A, *cut(full), *cotangents)
    told = svd_lowrank_pullback(A, *cut(full), *cotangents, xp=exactly(3 * BLIND_STEPS))
    assert relative_error(watched, exact) < 1e-11
    assert 1e-9 < relative_error(blind, exact) < 1e-3
    assert relative_error(told, exact) < 1e-11


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision(dtype):
    A, full = matrix((30, 20), spectrum(20, 0.9), dtype)
    loss = Loss("reconstruction", (30, 20), dtype)
    exact = svd_pullback(*full, *pad(loss.cotangents(cut(full)), 20))
    factors = [
        x.astype(d) for x, d in zip(cut(full), (dtype, "f4", dtype), strict=True)
    ]
    gA = svd_lowrank_pullback(
        A.astype(dtype), *factors, *loss.cotangents(factors), xp=LOOKING
    )
    assert gA.dtype == dtype
    assert relative_error(gA, exact).max() < 2e-5


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_scale(scale):
    A, full = matrix((30, 20), spectrum(20, 0.9), np.float64)
    U, S, Vh = cut(full)
    gU, _, _ = Loss("left projector", (30, 20), np.float64).cotangents((U, S, Vh))
    for size in (1, 1e-150, 1e100):
        gA = svd_lowrank_pullback(A * scale, U, S * scale, Vh, gU * size, xp=LOOKING)
        exact = svd_pullback(*full, *pad((gU, None, None), 20))
        assert relative_error(gA / size * scale, exact).max() < 1e-13


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kept", [None, (2, 2, 1.5, 1, 1)])
def test_finite_differences(shape, dtype, kept):
    for name in LOSSES:
        A, _ = matrix(shape, spectrum(min(shape), 0.8, kept), dtype, batch=())
        loss = Loss(name, shape, dtype)
        dA = normal(shape, dtype, np.random.default_rng(3))

        def value(t, loss=loss, A=A, dA=dA):
            return loss(cut(np.linalg.svd(A + t * dA, full_matrices=False)))

        h = 1e-4
        slopes = [(value(i * h) - value(-i * h)) / (2 * i * h) for i in (1, 2)]
        expected = (4 * slopes[0] - slopes[1]) / 3
        factors = cut(np.linalg.svd(A, full_matrices=False))
        gA = svd_lowrank_pullback(A, *factors, *loss.cotangents(factors), xp=LOOKING)
        size = np.linalg.norm(gA) * np.linalg.norm(dA)
        assert abs(np.sum((np.conj(gA) * dA).real) - expected) < 1e-10 * size


@pytest.mark.parametrize("shape", SHAPES)
def test_repeated_kept_values(xf, shape):
    for dtype in DTYPES:
        s = spectrum(min(shape), 0.9, kept=(2, 2, 1.5, 1, 1))
        A, full = matrix(shape, s, dtype)
        for name in LOSSES:
            cotangents = Loss(name, shape, dtype).cotangents(cut(full))
            gA = xf(svd_lowrank_pullback, A, *cut(full), *cotangents)
            # The factors given fix the basis, in which f = id on the kept values.
            exact = svd_pullback(*full, *pad(cotangents, min(shape)))
            assert relative_error(gA, exact).max() < 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_pushforward_is_the_transpose(shape, dtype):
    A, full = matrix(shape, spectrum(min(shape), 0.9), dtype)
    factors = cut(full)
    rng = np.random.default_rng(5)
    cotangents = [normal(x.shape, x.dtype, rng) for x in factors]
    dA = normal(A.shape, dtype, rng)
    options = {"xp": LOOKING}
    gA = svd_lowrank_pullback(A, *factors, *cotangents, **options)
    tangents = svd_lowrank_pushforward(A, *factors, dA, **options)
    pulled = np.sum((np.conj(gA) * dA).real)
    pushed = sum(
        np.sum((np.conj(g) * t).real) for g, t in zip(cotangents, tangents, strict=True)
    )
    assert abs(pulled - pushed) < 1e-13 * np.linalg.norm(gA) * np.linalg.norm(dA)


@pytest.mark.parametrize("shape", SHAPES)
def test_pushforward_is_that_of_the_full_svd(xf, shape):
    for dtype in DTYPES:
        A, full = matrix(shape, spectrum(min(shape), 0.9), dtype)
        dA = normal(A.shape, dtype, np.random.default_rng(5))
        expected = cut(svd_pushforward(*full, dA))
        for x, exact in zip(
            xf(svd_lowrank_pushforward, A, *cut(full), dA), expected, strict=True
        ):
            assert x.dtype == exact.dtype
            assert np.linalg.norm(x - exact) < 1e-13 * np.linalg.norm(exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_discarded_is_the_svd_itself(shape, dtype):
    k = min(shape)
    A, full = matrix(shape, spectrum(k, 0.9, kept=(2, 2, 1.5, 1, 1)), dtype)
    rng = np.random.default_rng(6)
    cotangents = [normal(x.shape, x.dtype, rng) for x in full]
    np.testing.assert_array_equal(
        svd_lowrank_pullback(A, *full, *cotangents),
        svd_pullback(*full, *cotangents),
    )
    dA = normal(A.shape, dtype, rng)
    for x, exact in zip(
        svd_lowrank_pushforward(A, *full, dA),
        svd_pushforward(*full, dA),
        strict=True,
    ):
        np.testing.assert_array_equal(x, exact)


@pytest.mark.parametrize("shape", SHAPES)
def test_tie_across_the_cut_gets_the_minimum_norm(xf, shape):
    for gap in (0, 1e-15):
        for dtype in DTYPES:
            k = min(shape)
            s = spectrum(k, 0.9)
            s[RANK] = s[RANK - 1] * (1 - gap)
            A, full = matrix(shape, s, dtype)
            rng = np.random.default_rng(7)
            cotangents = [normal(x.shape, x.dtype, rng) for x in cut(full)]
            gA = xf(svd_lowrank_pullback, A, *cut(full), *cotangents)
            exact = svd_pullback(*full, *pad(cotangents, k), repeated="minimum-norm")
            assert relative_error(gA, exact).max() < 1e-5


def test_gradient_stays_finite_in_a_cluster_across_the_cut(xf):
    for tied in (2, 3, 8, 15):
        s = spectrum(20, 0.9)
        s[RANK - 2 : RANK + tied] = 1
        A, full = matrix((30, 20), s, np.float64)
        gU, _, _ = Loss("left projector", (30, 20), np.float64).cotangents(cut(full))
        gA = xf(svd_lowrank_pullback, A, *cut(full), gU, None, None)
        assert np.linalg.norm(gA) < 10 * np.linalg.norm(gU)


def test_tie_across_the_cut_does_not_matter_below_a_threshold():
    problem = draw("distinct", (9, 6), draws=4)
    s = problem.s.copy()
    s[:, 4:] = s[:, 4:5] = 0.2  # below the threshold, 0.35; cut between
    A = (problem.U * s[..., None, :]) @ adjoint(problem.V)
    problem = type(problem)(A, problem.U, s, problem.V, problem.G)
    factors = cut((problem.U, s, adjoint(problem.V)))
    gA = svd_lowrank_pullback(
        A, *factors, *problem.cotangents(factors, SOFT), xp=LOOKING
    )
    assert relative_error(gA, problem.exact_gradient(SOFT)).max() < 1e-14


@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_values_may_vanish(xf, dtype):
    for name in ("one zero", "zeros"):
        problem = draw(name, (9, 7), draws=5, dtype=dtype, seed=8)
        factors = cut(np.linalg.svd(problem.A, full_matrices=False), 6)
        # What is discarded is zero, so that this is the loss of the full SVD.
        gA = xf(
            svd_lowrank_pullback,
            problem.A,
            *factors,
            *problem.cotangents(factors, CUBE),
        )
        assert relative_error(gA, problem.exact_gradient(CUBE)).max() < 1e-12


@pytest.mark.parametrize("A", [np.zeros((6, 5)), np.outer(np.ones(6), np.arange(5.0))])
def test_zero_and_rank_one_matrices(xf, A):
    factors = cut(np.linalg.svd(A, full_matrices=False), 3)
    cotangents = [np.ones_like(x) for x in factors]
    # Neither 1 / 0 nor 1 / eps: such cotangents mean nothing.
    assert np.abs(xf(svd_lowrank_pullback, A, *factors, *cotangents)).max() < 10


def test_rounding_errors_are_not_coupled():
    # The cut goes through values that are all noise: the loss has no derivative
    # there, and a gradient that takes the noise for a spectrum would be anything.
    s = np.concatenate([[3, 2, 1], np.zeros(17)])
    A, _ = matrix((30, 20), s, np.float64, batch=(500,))
    factors = cut(np.linalg.svd(A, full_matrices=False))
    loss = Loss("reconstruction", (30, 20), np.float64)
    gA = svd_lowrank_pullback(A, *factors, *loss.cotangents(factors), xp=LOOKING)
    assert np.linalg.norm(gA, axis=(-2, -1)).max() < 0.75 * np.linalg.norm(loss.G)


def test_no_square_matrix_is_formed():
    rng = np.random.default_rng(9)
    for shape in ((20000, 40), (40, 20000)):
        A = rng.standard_normal(shape)
        A += 5 * normal((shape[0], 4), float, rng) @ normal((4, shape[1]), float, rng)
        tracemalloc.start()
        factors = svd_lowrank(A, normal((shape[1], 12), float, rng), rank=4, power=2)
        svd_lowrank_pullback(A, *factors, factors.U, None, factors.Vh, xp=LOOKING)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * A.nbytes


def test_unknowns_are_those_of_the_smaller_side():
    sizes = []

    def loop(step, running, state, limit):
        sizes.append(state[0].shape[-2])
        return state

    for shape in ((30, 20), (20, 30)):
        A, full = matrix(shape, spectrum(20, 0.5), np.float64)
        cotangents = Loss("reconstruction", shape, np.float64).cotangents(cut(full))
        svd_lowrank_pullback(A, *cut(full), *cotangents, xp=iterating(loop))
    assert sizes == [20, 20]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(80, 50), (50, 80), (60, 60)])
def test_randomized_factors_are_almost_the_best(xf, shape, dtype):
    s = 1 / (1 + np.arange(min(shape))) ** 1.0  # slow
    A, _ = matrix(shape, s, dtype)
    sketch = normal((shape[1], RANK + 10), dtype, np.random.default_rng(10))
    U, S, Vh = xf(svd_lowrank, A, sketch, rank=RANK, power=2)
    assert U.dtype == Vh.dtype == dtype
    assert S.shape == (2, RANK)
    for Q in (U, adjoint(Vh)):
        assert np.abs(adjoint(Q) @ Q - np.eye(RANK)).max() < 1e-13
    error = np.linalg.norm(A - (U * S[..., None, :]) @ Vh, 2, axis=(-2, -1))
    assert (error < 1.001 * s[RANK]).all()
    assert np.abs(S / s[:RANK] - 1).max() < 1e-4
    all_factors = xf(svd_lowrank, A, sketch, power=0)
    assert all_factors[1].shape == (2, RANK + 10)


def test_gradient_at_randomized_factors():
    s = 1 / (1 + np.arange(50)) ** 1.0
    A, full = matrix((80, 50), s, np.float64)
    sketch = np.random.default_rng(11).standard_normal((50, RANK + 10))
    loss = Loss("left projector", (80, 50), np.float64)
    exact = svd_pullback(*full, *pad(loss.cotangents(cut(full)), 50))
    errors = []
    for power in (1, 2, 4, 20):
        factors = svd_lowrank(A, sketch, rank=RANK, power=power)
        gA = svd_lowrank_pullback(A, *factors, *loss.cotangents(factors), xp=LOOKING)
        errors.append(relative_error(gA, exact).max())
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[1] < 0.05
    assert errors[3] < 1e-12


def test_gradient_at_poor_factors_is_finite():
    # Kept values below discarded ones: the system is not even definite.
    A, _ = matrix((80, 50), 0.99 ** np.arange(50), np.float64, batch=(20,))
    sketch = np.random.default_rng(14).standard_normal((50, RANK))
    factors = svd_lowrank(A, sketch, power=0)
    loss = Loss("left projector", (80, 50), np.float64)
    gU, _, _ = loss.cotangents(factors)
    gA = svd_lowrank_pullback(A, *factors, gU, None, None, xp=LOOKING)
    size = np.linalg.norm(gU, axis=(-2, -1))
    assert (np.linalg.norm(gA, axis=(-2, -1)) < 100 * size).all()


@pytest.mark.parametrize("case", ["rank below the sketch", "repeated"])
def test_pytorch_differentiates_the_iteration_not_the_result(case):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    kept = (1, 0.9, 0.8, 0.7, 0.6) if case != "repeated" else (1, 1, 0.9, 0.9, 0.9)
    gap = 0.0 if case != "repeated" else 0.6
    A, full = matrix((60, 40), spectrum(40, gap, kept), np.float64, batch=())
    loss = Loss("left projector", (60, 40), np.float64)
    exact = svd_pullback(*full, *pad(loss.cotangents(cut(full)), 40))

    theirs = torch.tensor(A, requires_grad=True)
    U = torch.svd_lowrank(theirs, q=15, niter=30)[0][:, :RANK]
    (torch.tensor(loss.left) * (U @ U.mT)).sum().backward()
    U = U.detach().numpy()
    projector = full[0][:, :RANK] @ full[0][:, :RANK].T
    assert np.abs(U @ U.T - projector).max() < 1e-9  # the value is right
    # By how much is a matter of rounding errors, 0.025 to NaN on several machines.
    assert not relative_error(theirs.grad.numpy(), exact) < 1e-3

    sketch = np.random.default_rng(12).standard_normal((40, 15))
    factors = svd_lowrank(A, sketch, rank=RANK, power=30)
    gA = svd_lowrank_pullback(A, *factors, *loss.cotangents(factors), xp=LOOKING)
    assert relative_error(gA, exact) < 1e-9


def test_few_power_iterations_are_better_differentiated_as_if_converged():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    loss = Loss("left projector", (60, 40), np.float64)
    ours, theirs = [], []
    for seed in range(8):
        A, full = matrix((60, 40), 0.9 ** np.arange(40), np.float64, seed, batch=())
        exact = svd_pullback(*full, *pad(loss.cotangents(cut(full)), 40))
        x = torch.tensor(A, requires_grad=True)
        U = torch.svd_lowrank(x, q=RANK + 10, niter=2)[0][:, :RANK]
        (torch.tensor(loss.left) * (U @ U.mT)).sum().backward()
        theirs.append(relative_error(x.grad.numpy(), exact))
        sketch = np.random.default_rng(seed).standard_normal((40, RANK + 10))
        factors = svd_lowrank(A, sketch, rank=RANK, power=2)
        gA = svd_lowrank_pullback(A, *factors, *loss.cotangents(factors), xp=LOOKING)
        ours.append(relative_error(gA, exact))
    assert np.median(ours) < 0.5 * np.median(theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_autodiff_differentiates_a_second_time(dtype):
    torch = pytest.importorskip("torch")
    import svdinv.torch

    shape = (9, 7)
    A, _ = matrix(shape, spectrum(7, 0.7), dtype, batch=())
    rng = np.random.default_rng(13)
    H, dA = (torch.tensor(normal(size, dtype, rng)) for size in ((9, 9), shape))
    H = H + H.mH
    options = {"xp": FRAMEWORKS["torch"].namespace}

    def gradient(x):
        U, S, Vh = cut(svdinv.torch.svd(x))
        return svd_lowrank_pullback(x, U, S, Vh, 2 * H @ U, None, None, **options)

    A = torch.tensor(A, requires_grad=True)
    (second,) = torch.autograd.grad(gradient(A), A, dA)
    h = 1e-3
    slopes = [
        (gradient(A + i * h * dA) - gradient(A - i * h * dA)).detach() / (2 * i * h)
        for i in (1, 2)
    ]
    expected = (4 * slopes[0] - slopes[1]) / 3  # the Hessian is symmetric
    assert torch.linalg.norm(second - expected) < 1e-7 * torch.linalg.norm(expected)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("residual", [0.0, 1e-9])
def test_second_derivatives_where_the_cotangent_vanishes(dtype, residual):
    """As those of `low_rank`: no step was made of a system with the right side 0."""
    svn, torch = pytest.importorskip("svdinv.numpy"), pytest.importorskip("torch")
    import svdinv.torch as st

    A = matrix((9, 7), spectrum(7, 0.7), dtype, batch=())[0]
    rng = np.random.default_rng(14)
    noise, v = (normal(A.shape, dtype, rng) for _ in range(2))
    B = np.linalg.svd(A, full_matrices=False)
    B = (B[0][:, :RANK] * B[1][:RANK]) @ B[2][:RANK] + residual * noise

    def truncated(module, x):
        U, S, Vh = module.svd_lowrank(x, RANK, power=6, seed=0)
        return (U * S) @ Vh

    def second(f):
        def gradient(x):
            y, pullback = svn.vjp(f, x)
            return pullback(y - B)[0]

        return svn.jvp(gradient, (A,), (v,))[1]

    expected = second(lambda x: svn.low_rank(x, RANK))
    found = [second(lambda x: truncated(svn, x))]
    targets, x, d = map(torch.tensor, (B, A, v))

    def loss(x):
        rest = truncated(st, x) - targets  # without `abs`, which has a kink at 0
        return 0.5 * (rest * rest.conj()).real.sum()

    def gradient(x):
        return torch.autograd.grad(loss(x), x, create_graph=True)[0]

    x.requires_grad_()
    if dtype == np.float64:
        found.append(torch.autograd.functional.hvp(loss, x, d)[1])
    inner = (gradient(x).conj() * d).sum().real
    found.append(torch.autograd.grad(inner, x)[0])
    for hessian in found:
        np.testing.assert_allclose(hessian, expected, rtol=0, atol=1e-10)


def test_loop_in_a_function_of_jax_that_is_compiled():
    jax = pytest.importorskip("jax")
    framework = FRAMEWORKS["jax"]
    A, full = matrix((30, 20), spectrum(20, 0.9), np.complex128)
    cotangents = Loss("reconstruction", (30, 20), np.complex128).cotangents(cut(full))
    with framework.context():
        pullback = jax.jit(lambda *x: svd_lowrank_pullback(*x, xp=framework.namespace))
        gA = np.asarray(pullback(A, *cut(full), *cotangents))
    exact = svd_pullback(*full, *pad(cotangents, 20))
    assert relative_error(gA, exact).max() < 1e-13


def test_loop_in_a_graph_of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    xp = FRAMEWORKS["tensorflow"].namespace
    A, full = matrix((30, 20), spectrum(20, 0.9), np.float64)
    cotangents = Loss("reconstruction", (30, 20), np.float64).cotangents(cut(full))

    @functools.partial(tf.function, autograph=False)
    def pullback(*x):
        return svd_lowrank_pullback(*x, xp=xp)

    gA = pullback(*map(tf.constant, (A, *cut(full), *cotangents))).numpy()
    exact = svd_pullback(*full, *pad(cotangents, 20))
    assert relative_error(gA, exact).max() < 1e-13


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_tangents_of_inexact_triplets_stay_orthonormal(shape, dtype):
    rng = np.random.default_rng(2)
    A, factors = matrix(shape, spectrum(min(shape), 0.5), dtype)
    U, S, Vh = cut(factors)
    V = adjoint(Vh)
    U, V = (np.linalg.qr(x + 1e-3 * normal(x.shape, dtype, rng))[0] for x in (U, V))
    dA = normal(A.shape, dtype, rng)
    dU, _, dVh = svd_lowrank_pushforward(A, U, S, adjoint(V), dA, xp=LOOKING)
    for x, dx in ((U, dU), (V, adjoint(dVh))):
        turn = adjoint(x) @ dx
        np.testing.assert_allclose(turn + adjoint(turn), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [
        (np.complex64, (1e-28, 1e-32, 1e-38)),
        (np.complex128, (1e-290, 1e-300, 1e-308)),
        (np.float32, (1e-32,)),
    ],
)
def test_small_matrices_of_low_rank(dtype, scales):
    """LAPACK's QR decomposition of complex columns of subnormal numbers is NaN."""
    torch = pytest.importorskip("torch")
    import svdinv.torch as st

    rng = np.random.default_rng(0)
    L, R = (rng.standard_normal((2, *shape)) for shape in ((30, 2), (2, 20)))
    imaginary = 1j if np.dtype(dtype).kind == "c" else 0
    A = ((L[0] + imaginary * L[1]) @ (R[0] + imaginary * R[1])).astype(dtype)
    graded = np.diag([1, 1, scales[-1] * 1e-2]).astype(dtype)
    exact = np.linalg.svd(A, compute_uv=False)[:2]
    for scale in scales:
        found = st.svd_lowrank(
            torch.tensor(A * np.asarray(scale, A.real.dtype)), 5, seed=0, power=6
        ).S[:2]
        np.testing.assert_allclose(found.double() / scale, exact, rtol=1e-4)
    found = st.svd_lowrank(torch.tensor(graded), 2, seed=1).S
    np.testing.assert_allclose(found, 1, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Sparse")  # PyTorch's, that CSR is new
@pytest.mark.parametrize("kind", ["coo", "csr"])
def test_sparse_tensors_have_the_gradient_of_dense_ones(kind):
    torch, rng = pytest.importorskip("torch"), np.random.default_rng(0)
    import svdinv.torch

    def gradient(given, A):
        found = svdinv.torch.svd_lowrank(A, 3, power=60, seed=0)
        (found.S.sum() + (found.U @ found.Vh).square().sum()).backward()
        return found.S.detach(), given.grad

    A = torch.tensor(rng.standard_normal((12, 9)) * (rng.random((12, 9)) < 0.4))
    dense = A.clone().requires_grad_()
    S, expected = gradient(dense, dense)
    sparse = A.to_sparse()
    values = sparse.values().clone().requires_grad_()
    made = torch.sparse_coo_tensor(sparse.indices(), values, A.shape)
    found, of_values = gradient(values, made if kind == "coo" else made.to_sparse_csr())
    torch.testing.assert_close(found, S)
    torch.testing.assert_close(of_values, expected[tuple(sparse.indices())])

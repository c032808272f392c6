"""The rules for repeated singular values, and how they differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from array_api_compat import numpy as compat
from frameworks import FRAMEWORKS
from oracle import FUNCTIONS, adjoint, draw, relative_error

from svdinv.backends.arrays import _Extended
from svdinv.core import svd_pullback, svd_pushforward
from svdinv.core.degenerate import REPEATED_RULES, vector_block
from svdinv.numpy import svd_jvp, svd_vjp

SHAPES = ((6, 6), (9, 6), (6, 11))
FINITE_RULES = [rule for rule in REPEATED_RULES if rule != "none"]


def inner(x, y):
    """Real inner product, per matrix of the batch."""
    return np.sum((np.conj(x) * y).real, axis=(-2, -1))


def published_backward(U, S, Vh, gU, gS, gVh):
    """The backward of Zhang and Hu (arXiv:2411.14141), restated.

    Quotients of squared singular values, the pseudoinverse's 1 / s where two
    squares are bit-equal, explicit projectors, no complex diagonal.
    """
    V = adjoint(Vh)
    square = S.astype(S.dtype) ** 2
    gap = square[..., None, :] - square[..., :, None]
    k = S.shape[-1]
    equal = (gap == 0) & ~np.eye(k, dtype=bool)
    F = np.where(gap == 0, 0, 1 / np.where(gap == 0, 1, gap))
    T = np.where(equal, 1 / S[..., None, :], 0)
    M, N = adjoint(U) @ gU, Vh @ adjoint(gVh)
    Sigma = S[..., None, :] * np.eye(k)
    middle = (F * (M - adjoint(M))) @ Sigma + T * M
    middle = middle + Sigma @ (F * (N - adjoint(N))) + np.eye(k) * gS[..., None]
    outside_U = np.eye(U.shape[-2]) - U @ adjoint(U)
    outside_V = np.eye(V.shape[-2]) - V @ Vh
    gA = U @ middle @ Vh + outside_U @ gU @ np.linalg.inv(Sigma) @ Vh
    return gA + U @ np.linalg.inv(Sigma) @ gVh @ outside_V


def bit_equal(problem):
    """Factors of a problem with singular values that are equal bit by bit."""
    return problem.U, problem.s, adjoint(problem.V)


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("spectrum", ["distinct", "pair", "two clusters", "all equal"])
def test_minimum_norm_is_the_published_rule(spectrum, f):
    for shape in SHAPES:
        problem = draw(spectrum, shape, draws=20, seed=1)
        factors = bit_equal(problem)
        cotangents = problem.cotangents(factors, f, "nuclear")
        ours = svd_pullback(*factors, *cotangents, repeated="minimum-norm")
        assert (
            relative_error(ours, published_backward(*factors, *cotangents)).max()
            < 1e-12
        )


def test_minimum_norm_is_right_where_the_published_code_is_wrong():
    torch = pytest.importorskip("torch")
    problem = draw("distinct", (7, 5 + 1), draws=20, dtype=np.complex128, seed=2)
    f = FUNCTIONS["tanh"]
    A = torch.tensor(problem.A, requires_grad=True)
    factors = torch.linalg.svd(A, full_matrices=False)
    arrays = tuple(x.detach().numpy() for x in factors)
    cotangents = problem.cotangents(arrays, f)
    (theirs,) = torch.autograd.grad(factors, A, tuple(map(torch.tensor, cotangents)))
    ours = svd_pullback(*arrays, *cotangents, repeated="minimum-norm")
    assert relative_error(ours, theirs.numpy()).max() < 1e-12
    published = published_backward(*arrays, *cotangents)
    assert np.median(relative_error(published, theirs.numpy())) > 0.01


def test_minimum_norm_is_exact_only_for_functions_proportional_to_s():
    problem = draw("pair", (8, 6), draws=20, seed=3)
    factors = bit_equal(problem)
    for f in FUNCTIONS.values():
        gA = svd_pullback(
            *factors, *problem.cotangents(factors, f), repeated="minimum-norm"
        )
        error = np.median(relative_error(gA, problem.exact_gradient(f)))
        assert error < 1e-14 if f.name == "identity" else error > 0.01


@pytest.mark.parametrize("spectrum", ["distinct", "triple", "zeros", "gap 1e-06"])
@pytest.mark.parametrize("rule", FINITE_RULES)
def test_every_rule_is_finite(rule, spectrum):
    for shape in SHAPES:
        for dtype in (np.float64, np.complex128, np.float32):
            problem = draw(spectrum, shape, draws=5, dtype=dtype, seed=4)
            rng = np.random.default_rng(5)
            (U, S, Vh), pullback = svd_vjp(problem.A, repeated=rule)
            # Gauge-dependent cotangents: nothing about them is consistent.
            cotangents = [
                rng.standard_normal(x.shape).astype(x.dtype) for x in (U, S, Vh)
            ]
            assert np.isfinite(pullback(*cotangents)).all()
            _, tangents = svd_jvp(problem.A, problem.G.astype(dtype), repeated=rule)
            assert all(np.isfinite(x).all() for x in tangents)


@pytest.mark.parametrize("rule", REPEATED_RULES)
def test_rules_differ_only_at_clusters(rule):
    problem = draw("distinct", (9, 6), draws=5, dtype=np.complex128, seed=6)
    factors = np.linalg.svd(problem.A, full_matrices=False)
    cotangents = problem.cotangents(factors, FUNCTIONS["tanh"])
    gA = svd_pullback(*factors, *cotangents, repeated=rule)
    plain = svd_pullback(*factors, *cotangents, repeated="none")
    # A truncated series, or a broadened pole, is off even there.
    tolerance = {"taylor": 0.5, "lorentz": 1e-9}.get(rule, 1e-14)
    error = relative_error(gA, plain)
    assert error.max() < tolerance
    if rule == "taylor":
        assert error.max() > 1e-6


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("rule", "spectrum"),
    [("consistent", "distinct"), ("minimum-norm", "triple"), ("drop", "triple")]
    + [(rule, "distinct") for rule in FINITE_RULES]
    + [("minimum-norm", "one zero"), ("clip", "pair"), ("lorentz", "pair")],
)
def test_pullback_is_the_transpose_of_the_pushforward(rule, spectrum, full):
    for shape in SHAPES:
        for dtype in (np.float64, np.complex128):
            problem = draw(spectrum, shape, draws=4, dtype=dtype, seed=7)
            rng = np.random.default_rng(8)
            factors = np.linalg.svd(problem.A, full_matrices=full)
            g = [rng.standard_normal(x.shape).astype(x.dtype) for x in factors]
            if dtype == np.complex128:
                g = [x + 1j * rng.standard_normal(x.shape) if np.iscomplexobj(x) else x
                     for x in g]  # fmt: skip
            dA = problem.G.astype(dtype)
            d = svd_pushforward(*factors, dA, repeated=rule)
            gA = svd_pullback(*factors, *g, repeated=rule)
            backward = inner(gA, dA)
            forward = (
                inner(g[0], d[0]) + inner(g[2], d[2]) + np.sum(g[1] * d[1], axis=-1)
            )
            size = np.linalg.norm(gA, axis=(-2, -1)) * np.linalg.norm(dA, axis=(-2, -1))
            assert np.all(np.abs(backward - forward) < 1e-13 * size)


def test_consistent_rule_is_homogeneous_but_not_linear_in_a_cluster():
    problem = draw("triple", (8, 6), draws=5, seed=9)
    factors = np.linalg.svd(problem.A, full_matrices=False)
    first = problem.cotangents(factors, FUNCTIONS["cube"])
    other = replace(problem, G=problem.G[:, ::-1])
    second = other.cotangents(factors, FUNCTIONS["polar"])

    def pull(cotangents):
        return svd_pullback(*factors, *cotangents)

    doubled = pull([-3 * g for g in first])
    assert relative_error(doubled, -3 * pull(first)).max() < 1e-13
    both = pull([a + b for a, b in zip(first, second, strict=True)])
    assert relative_error(both, pull(first) + pull(second)).max() > 1e-3


def test_pushforward_of_a_function_proportional_to_s_is_exact_at_repeats():
    problem = draw("two clusters", (8, 6), draws=5, dtype=np.complex128, seed=10)
    (U, S, Vh), (dU, dS, dVh) = svd_jvp(problem.A, problem.G)
    dA = (dU * S[..., None, :]) @ Vh + (U * dS[..., None, :]) @ Vh
    dA = dA + (U * S[..., None, :]) @ dVh
    assert relative_error(dA, problem.G).max() < 1e-13


@pytest.mark.parametrize("apart", [range(6), range(5), [0, 5], [3], [5]])
def test_clusters_by_themselves_as_in_whole_matrices(apart):
    """Clusters of several sizes, one filling its matrix, single zeros, none."""
    for shape in ((7, 7), (9, 7), (7, 11)):
        for dtype in (np.float64, np.complex128):
            values = np.array(
                [
                    [9.0, 9, 6, 6, 6, 3, 3],
                    [9.0, 8, 8, 8, 8, 2, 0],
                    [9.0, 8, 7, 6, 5, 5, 0],
                    [9.0, 8, 7, 6, 0, 0, 0],
                    [9.0, 8, 7, 6, 5, 4, 3],
                    [9.0, 9, 9, 9, 9, 9, 9],
                ]
            )[apart]
            problem = draw("distinct", shape, draws=len(values), dtype=dtype, seed=12)
            A = (problem.U * values[:, None, :]) @ adjoint(problem.V)
            factors = np.linalg.svd(A, full_matrices=False)
            cotangents = problem.cotangents(factors, FUNCTIONS["tanh"], "schatten")
            looked = svd_pullback(
                *factors, *cotangents, xp=FRAMEWORKS["numpy"].namespace
            )
            assert (
                relative_error(looked, svd_pullback(*factors, *cotangents)).max()
                < 1e-13
            )


@pytest.mark.parametrize("rtol", [0.0, 1e-9, 1e-3])
def test_rtol_bounds_where_the_rule_acts(rtol):
    problem = draw("gap 1e-06", (6, 6), draws=20, seed=11)
    factors = np.linalg.svd(problem.A, full_matrices=False)
    cotangents = problem.cotangents(factors, FUNCTIONS["polar"])
    gA = svd_pullback(*factors, *cotangents, repeated="minimum-norm", rtol=rtol)
    error = np.median(relative_error(gA, problem.exact_gradient(FUNCTIONS["polar"])))
    assert error > 1e-2 if rtol > 1e-6 else error < 1e-9


@pytest.mark.parametrize("scale", [1e-160, 1e-30, 1.0, 1e30, 1e150])
def test_gradient_scales_with_the_matrix(run, scale):
    for spectrum in ("distinct", "pair", "zeros", "gap 1e-09"):
        for shape in ((6, 6), (9, 6)):
            check_scaling(run, shape, spectrum, scale, np.float64)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_gradient_scales_with_the_matrix_in_single_precision(run, scale, dtype):
    for spectrum in ("distinct", "pair", "zeros", "gap 1e-05"):
        check_scaling(run, (9, 6), spectrum, scale, dtype)


def check_scaling(run, shape, spectrum, scale, dtype):
    """Loss Re<G, U f(S / c) V^H> of c A: its gradient is 1 / c times that of A."""
    problem = draw(spectrum, shape, draws=4, dtype=dtype, seed=12)
    f = FUNCTIONS["tanh"]
    (U, S, Vh), pullback = run((problem.A * scale).astype(dtype))
    gU, gS, gVh = problem.cotangents((U, S / S.dtype.type(scale), Vh), f)
    gA = pullback(gU, (gS / scale).astype(S.dtype), gVh) * dtype(scale)
    bound = {"gap 1e-09": 1e-6, "gap 1e-05": 1e-2}.get(spectrum, 0)
    bound = max(bound, 100 * np.finfo(dtype).eps)
    assert relative_error(gA, problem.exact_gradient(f)).max() < bound


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
@pytest.mark.parametrize("spectrum", ["pair", "triple", "gap 1e-15"])
def test_gauge_dependent_losses_stay_bounded_in_a_cluster(spectrum, dtype):
    """What a slope through contradictory cotangents would not."""
    problem = draw(spectrum, (9, 6), draws=3000, dtype=dtype, seed=13)
    rng = np.random.default_rng(14)
    U, S, Vh = np.linalg.svd(problem.A, full_matrices=False)
    cotangents = [rng.standard_normal(x.shape).astype(x.dtype) for x in (U, S, Vh)]
    gA = svd_pullback(U, S, Vh, *cotangents)
    size = sum(np.linalg.norm(g.reshape(3000, -1), axis=-1) for g in cotangents)
    assert np.all(np.linalg.norm(gA, axis=(-2, -1)) < 4 * size / S[..., -1])


@pytest.mark.parametrize("name", ["even", "uneven", "to zero"])
def test_the_rule_along_a_long_cluster(name):
    """Of some matrices as of all, up to the rounding error of the plain quotient."""
    rng, k = np.random.default_rng(0), 120
    reach = np.finfo(float).eps ** 0.5
    s = {
        "even": 1 - 0.3 * reach * np.arange(k),
        "uneven": 1 - reach * np.cumsum(1.2 * rng.random(k)),
        "to zero": np.r_[1, 0.5, 0.4 * reach * np.arange(k - 2)[::-1]],
    }[name]
    s = np.stack([s, np.linspace(1, 0.1, k), s - 0.2 * reach * s**2])
    K, f = rng.standard_normal((3, k, k)), np.tanh(s)
    gS = np.diagonal(K, axis1=1, axis2=2) / np.cosh(s) ** 2
    arrays = s, K * f[:, None, :], f[:, :, None] * K, gS
    known, unknown = (
        vector_block(*arrays, "consistent", None, None, xp)
        for xp in (_Extended(compat, True), compat)
    )
    assert np.abs(known - unknown).max() <= reach * np.abs(unknown).max()


@pytest.mark.parametrize("rule", sorted({*REPEATED_RULES} - {"none"}))
@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (1, 1)])
def test_zero_matrices_have_finite_derivatives_by_every_rule(rule, shape):
    A, G = np.zeros((2, *shape)), np.ones((2, *shape))
    A[1] = np.eye(*shape)
    U, S, Vh = np.linalg.svd(A, full_matrices=False)
    factors = (U, np.ones_like(S), Vh)
    for options in ({}, {"rtol": 1e-3}):
        found = svd_pullback(U, S, Vh, *factors, repeated=rule, **options)
        assert np.isfinite(found).all()
        for moved in svd_pushforward(U, S, Vh, G, repeated=rule, **options):
            assert np.isfinite(moved).all()

"""How exact the decompositions are, against matrices with known factors.

SVD and eigendecomposition, on every framework: cotangents as autodiff would compute
them from the factors that the framework returned.
"""

from __future__ import annotations

import itertools
import zlib

import hermitian_oracle
import numpy as np
import pytest
from frameworks import DTYPES, FRAMEWORKS, params
from operator_cases import matrices
from oracle import (
    EXACTLY_REPEATED,
    FUNCTIONS,
    GAPS,
    SPECTRA,
    adjoint,
    differentiable,
    draw,
    relative_error,
)

import svdinv.numpy

SHAPES = ((6, 6), (9, 6), (6, 11))
PRECISIONS = {
    "double": (np.float64, np.complex128),
    "single": (np.float32, np.complex64),
}
# Median, 99th percentile and worst draw that may not be exceeded.
BOUNDS = {
    "distinct": {"double": (1e-14, 1e-13, 1e-9), "single": (1e-6, 5e-6, 1e-3)},
    "repeated": {"double": (1e-14, 1e-13, 1e-9), "single": (1e-6, 5e-6, 1e-3)},
    "gap": {"double": (1e-9, 2e-8, 1e-5), "single": (2e-5, 1e-3, 2e-2)},
    "singular": {"double": (1e-14, 1e-12, 1e-9), "single": (1e-6, 1e-5, 1e-3)},
}
HERMITIAN_BOUNDS = {
    "exact": {"double": (1e-14, 1e-13, 1e-9), "single": (1e-6, 5e-6, 1e-3)},
    "near": {"double": (2e-9, 5e-8, 1e-5), "single": (1e-4, 1e-3, 2e-2)},
}


def bounds(spectrum, precision):
    if spectrum.startswith("gap"):
        return BOUNDS["gap"][precision]
    if spectrum in EXACTLY_REPEATED:
        return BOUNDS["repeated"][precision]
    kind = "distinct" if spectrum == "distinct" else "singular"
    return BOUNDS[kind][precision]


def hermitian_bounds(spectrum, precision):
    near = "gap" in spectrum or spectrum == "condition 1e12"
    return HERMITIAN_BOUNDS["near" if near else "exact"][precision]


def joined(problems):
    """One batch of several problems, and the part of each."""
    sizes = np.cumsum([0, *(len(p.A) for p in problems)])
    parts = [slice(*pair) for pair in itertools.pairwise(sizes)]
    return np.concatenate([p.A for p in problems]), parts


def errors(vjp, cases, dtype):
    """Relative gradient errors of several losses, by one call of `vjp`.

    `cases` are problems with functions from factors to cotangents and to the exact
    gradient.
    """
    A, parts = joined([problem for problem, _, _ in cases])
    factors, pullback = vjp(A)
    given = [
        cotangents(tuple(x[part] for x in factors))
        for (_, cotangents, _), part in zip(cases, parts, strict=True)
    ]
    gA = pullback(*map(np.concatenate, zip(*given, strict=True)))
    assert gA.dtype == dtype
    assert np.isfinite(gA).all()
    found = [
        relative_error(gA[part], exact())
        for (_, _, exact), part in zip(cases, parts, strict=True)
    ]
    if len(factors) == 3 and np.issubdtype(dtype, np.complexfloating):
        # Where a value is 0 in every bit, so are the cotangents of its vectors, and
        # nothing tells the imaginary part of u^H G v.
        told = factors[1].all(axis=-1)
        found = [x[told[part]] for x, part in zip(found, parts, strict=True)]
    return found


def svd_cases(spectrum, shape, dtype, draws):
    cases = []
    for f, penalty in differentiable(spectrum):
        name = f"{spectrum} {shape} {np.dtype(dtype)} {f.name} {penalty}"
        p = draw(spectrum, shape, draws=draws, dtype=dtype,
                 seed=zlib.crc32(name.encode()))  # fmt: skip
        cases.append(
            (
                p,
                lambda factors, p=p, f=f, penalty=penalty: p.cotangents(
                    factors, f, penalty
                ),
                lambda p=p, f=f, penalty=penalty: p.exact_gradient(f, penalty),
            )
        )
    return cases


def eigh_cases(spectrum, dtype, draws):
    cases = []
    for f in hermitian_oracle.functions(spectrum):
        for name, penalty in hermitian_oracle.PENALTIES.items():
            seed = zlib.crc32(f"{spectrum} {dtype} {f.name} {name}".encode())
            p = hermitian_oracle.draw(spectrum, draws=draws, dtype=dtype, seed=seed)
            cases.append(
                (
                    p,
                    lambda factors, p=p, f=f, penalty=penalty: p.cotangents(
                        *factors, f, penalty
                    ),
                    lambda p=p, f=f, penalty=penalty: p.derivative(f, p.G, penalty),
                )
            )
    return cases


def eigh_run(framework):
    """(w, V), and the Hermitian gradient, of a framework."""

    def vjp(A):
        factors, pullback = framework.vjp(lambda A: tuple(framework.module.eigh(A)), A)

        def pull(*cotangents):
            (gA,) = pullback(*cotangents)
            if framework.name == "tensorflow":  # in the triangle that is read
                assert (gA == np.tril(gA)).all()
            else:
                assert (gA == adjoint(gA)).all()
            return hermitian_oracle.herm(gA)

        return factors, pull

    return vjp


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_consistent_rule_is_exact(spectrum, precision):
    found = []
    for shape in SHAPES:
        for dtype in PRECISIONS[precision]:
            cases = svd_cases(spectrum, shape, dtype, 36)
            found += errors(svdinv.numpy.svd_vjp, cases, dtype)
    found = np.concatenate(found)
    assert found.size >= 1000
    median, tail, worst = bounds(spectrum, precision)
    assert np.median(found) <= median
    assert np.quantile(found, 0.99) <= tail
    assert found.max() <= worst


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spectrum", hermitian_oracle.SPECTRA)
def test_consistent_rule_is_exact_for_eigenvalues(spectrum, precision):
    found = []
    for dtype in PRECISIONS[precision]:
        cases = eigh_cases(spectrum, dtype, 36)
        found += errors(eigh_run(FRAMEWORKS["numpy"]), cases, dtype)
    found = np.concatenate(found)
    assert found.size >= 1000
    median, tail, worst = hermitian_bounds(spectrum, precision)
    assert np.median(found) <= median
    assert np.quantile(found, 0.99) <= tail
    assert found.max() <= worst


# PyTorch looks at its values, and so takes one spectrum at a time.
@pytest.mark.parametrize(
    ("framework", "spectrum"),
    [
        pytest.param(f.values[0], spectrum, id=f"{f.id}-{spectrum}", marks=f.marks)
        for f in params()
        for spectrum in (SPECTRA if f.id == "torch" else ("together",))
    ],
    indirect=["framework"],
)
def test_every_framework_is_exact(framework, run, spectrum):
    for dtype in framework.dtypes:
        check_spectra(run, spectrum, dtype, framework.loose)


def check_spectra(run, spectrum, dtype, loose):
    precision = "double" if dtype in PRECISIONS["double"] else "single"
    names = SPECTRA if spectrum == "together" else (spectrum,)
    cases = {name: svd_cases(name, (9, 6), dtype, 4) for name in names}
    found = errors(run, [case for name in names for case in cases[name]], dtype)
    for name in names:
        own = np.concatenate([found.pop(0) for _ in cases[name]])
        median, _, worst = bounds(name, precision)
        if precision == "single":
            median *= loose
        assert np.median(own) <= median, name
        assert own.max() <= worst, name


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("framework", params(without=("numpy",)), indirect=True)
def test_every_framework_is_exact_for_eigenvalues(framework, dtype):
    if dtype not in framework.dtypes:
        pytest.skip("has no such dtype")
    precision = "double" if dtype in PRECISIONS["double"] else "single"
    names = hermitian_oracle.SPECTRA
    cases = {name: eigh_cases(name, dtype, 3) for name in names}
    every = [case for name in names for case in cases[name]]
    found = errors(eigh_run(framework), every, dtype)
    for name in names:
        own = np.concatenate([found.pop(0) for _ in cases[name]])
        median, _, worst = hermitian_bounds(name, precision)
        if precision == "single":
            median *= framework.loose
        assert np.median(own) <= median, name
        assert own.max() <= worst, name


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("spectrum", ["distinct", "pair", "two clusters", "all equal"])
def test_projector_on_a_leading_subspace(framework, run, spectrum, dtype):
    if dtype not in framework.dtypes:
        pytest.skip("has no such dtype")
    rank = {"distinct": 2, "pair": 3, "two clusters": 2, "all equal": 6}[spectrum]
    problem = draw(spectrum, (9, 6), draws=5, dtype=dtype, seed=3)
    W = np.random.default_rng(4).standard_normal((9, 9)).astype(dtype)
    (U, _, _), pullback = run(problem.A)
    gU = np.zeros_like(U)
    gU[..., :rank] = (W + adjoint(W)) @ U[..., :rank]  # L = Re<W, U_r U_r^H>

    def project(x):
        """Derivative of U_r U_r^H is symmetric, off the range and its complement."""
        s, U = problem.s, problem.U
        H = W + adjoint(W)
        Ur, Uq, sr, sq = U[..., :rank], U[..., rank:], s[..., :rank], s[..., rank:]
        Vr, Vq = problem.V[..., :rank], problem.V[..., rank:]
        C = adjoint(Uq) @ H @ Ur
        gap = sr[..., None, :] ** 2 - sq[..., :, None] ** 2
        inside = (Uq * 1) @ (C / gap * sr[..., None, :]) @ adjoint(Vr)
        inside = inside + Ur @ adjoint(C / gap * sq[..., :, None]) @ adjoint(Vq)
        outside = H @ Ur - U @ (adjoint(U) @ H @ Ur)
        return inside + (outside / sr[..., None, :]) @ adjoint(Vr)

    exact = project(problem)
    assert relative_error(pullback(gU, None, None), exact).max() < 2e-13


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
@pytest.mark.parametrize("spectrum", ["distinct", "triple", "zeros"])
def test_loss_in_the_singular_values_alone(framework, run, spectrum, dtype):
    if dtype not in framework.dtypes:
        pytest.skip("has no such dtype")
    problem = draw(spectrum, (6, 11), draws=5, dtype=dtype, seed=5)
    (_, S, _), pullback = run(problem.A)
    exact = (problem.U * (2 * problem.s)[..., None, :]) @ adjoint(problem.V)
    gA = pullback(None, 2 * S, None)
    assert relative_error(gA, exact).max() < 200 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("spectrum", ["distinct", "pair", "gap 1e-09", "zeros"])
@pytest.mark.parametrize("framework", params(without=("numpy",)), indirect=True)
def test_same_numbers_as_numpy(framework, run, spectrum, dtype):
    if dtype not in framework.dtypes:
        pytest.skip("has no such dtype")
    f, penalty = FUNCTIONS["tanh"], "schatten"
    problem = draw(spectrum, (8, 7), draws=4, dtype=dtype, seed=6)
    found, reference = (
        pullback(*problem.cotangents(factors, f, penalty))
        for factors, pullback in (run(problem.A), svdinv.numpy.svd_vjp(problem.A))
    )
    tolerance = 1e-7 if spectrum.startswith("gap") and dtype == np.float64 else 0
    tolerance = max(tolerance, 100 * np.finfo(dtype).eps)
    assert relative_error(found, reference).max() < tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_distinct_spectra_agree_with_pytorch(shape, dtype):
    """Of the frameworks' own gradients, the most exact."""
    torch = pytest.importorskip("torch")
    problem = draw("distinct", shape, draws=3, dtype=dtype, seed=7)
    f = FUNCTIONS["cube"]
    factors, pullback = svdinv.numpy.svd_vjp(problem.A)
    gA = pullback(*problem.cotangents(factors, f))
    A = torch.tensor(problem.A, requires_grad=True)
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    given = problem.cotangents([x.detach().numpy() for x in (U, S, Vh)], f)
    (theirs,) = torch.autograd.grad((U, S, Vh), A, tuple(map(torch.tensor, given)))
    assert relative_error(gA, theirs.numpy()).max() < 60 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbours_on_both_sides_of_a_kink(dtype):
    """Close values with the threshold between or just below them, where f'/f varies."""
    rng = np.random.default_rng(0)
    near = np.sqrt(np.finfo(dtype).eps)
    U, V = (np.linalg.qr(rng.standard_normal((200, 6, 6)))[0] for _ in range(2))
    s = np.ones((200, 6)) * np.array([1.0, 0.7, 0.5, 0.0101, 0.0101, 0.005])
    s[:, 4] -= near * rng.uniform(0.1, 0.9, 200)
    A = ((U * s[:, None, :]) @ adjoint(V)).astype(dtype)
    G = rng.standard_normal((200, 6, 6)).astype(dtype)
    tau = 0.0101 - near * rng.uniform(0.0, 1.5, (200, 1))
    _, pullback = svdinv.numpy.svt_vjp(A.astype(float), tau[:, 0], method="svd")
    expected, _ = pullback(G.astype(float))
    (U, S, Vh), pullback = svdinv.numpy.svd_vjp(A)
    value = np.maximum(S - tau, 0).astype(dtype)
    kept = (tau < S).astype(dtype)
    gU = (G @ adjoint(Vh)) * value[:, None, :]
    gVh = value[:, :, None] * (adjoint(U) @ G)
    gS = kept * np.sum(U * (G @ adjoint(Vh)), axis=-2)
    found = relative_error(pullback(gU, gS, gVh), expected)
    assert np.median(found) < 100 * np.finfo(dtype).eps
    assert np.quantile(found, 0.9) < near


@pytest.mark.parametrize("gap", [f"gap {gap:.0e}" for gap in GAPS])
def test_error_of_the_quotient_and_of_the_slope(gap):
    """The smaller of eps / gap and of about gap, on either side of sqrt(eps)."""
    size = float(gap[4:])
    limit = 500 * min(2e-16 / size, size) + 2e-14
    found = [
        errors(eigh_run(FRAMEWORKS["numpy"]), eigh_cases(gap, dtype, 10), dtype)
        for dtype in PRECISIONS["double"]
    ]
    assert (
        np.quantile(np.concatenate([x for part in found for x in part]), 0.9) <= limit
    )


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize(
    "framework", params(without=("mlx", "tensorflow")), indirect=True
)
def test_tangents_where_the_rank_rises(framework, lost, dtype):
    """The vectors of singular values of 1e-16 turn by 1e16, their phases too."""

    def product(A):
        U, S, Vh = framework.module.svd(A)
        return (U * S[..., None, :]) @ Vh

    for m, n in ((5, 4), (4, 5)):
        B, C, D = (
            matrices(shape, dtype, seed=seed)
            for seed, shape in enumerate(((m, 4 - lost), (4 - lost, n), (2, m, n)))
        )
        A = np.stack([B @ C, D[0]])  # one of full rank
        (found,) = framework.jvp(product, [A], [D])
        np.testing.assert_allclose(found, D, atol=1e-11)

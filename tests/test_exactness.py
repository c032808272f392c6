"""How exact the gradients are, against matrices with known factors."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from oracle import (
    EXACTLY_REPEATED,
    FUNCTIONS,
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


def errors(backend, spectrum, dtypes, draws, shapes=SHAPES, **options):
    """Relative gradient errors over all cases at the spectrum."""
    found = []
    for shape in shapes:
        for dtype in dtypes:
            for f, penalty in differentiable(spectrum):
                name = f"{spectrum} {shape} {np.dtype(dtype)} {f.name} {penalty}"
                problem = draw(
                    spectrum,
                    shape,
                    draws=draws,
                    dtype=dtype,
                    seed=zlib.crc32(name.encode()),
                )
                factors, pullback = backend.vjp(problem.A, **options)
                gA = pullback(*problem.cotangents(factors, f, penalty))
                assert gA.dtype == dtype
                assert np.isfinite(gA).all()
                exact = problem.exact_gradient(f, penalty)
                found.append(relative_error(gA, exact))
    return np.concatenate(found)


# Median, 99th percentile and worst draw that may not be exceeded.
BOUNDS = {
    "distinct": {"double": (1e-14, 1e-13, 1e-9), "single": (1e-6, 5e-6, 1e-3)},
    "repeated": {"double": (1e-14, 1e-13, 1e-9), "single": (1e-6, 5e-6, 1e-3)},
    "gap": {"double": (1e-9, 2e-8, 1e-5), "single": (2e-5, 1e-3, 2e-2)},
    "singular": {"double": (1e-14, 1e-12, 1e-9), "single": (1e-6, 1e-5, 1e-3)},
}


def kind(spectrum):
    if spectrum.startswith("gap"):
        return "gap"
    if spectrum in EXACTLY_REPEATED:
        return "repeated"
    return "distinct" if spectrum == "distinct" else "singular"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_consistent_rule_is_exact(spectrum, precision):
    class Backend:
        vjp = staticmethod(svdinv.numpy.svd_vjp)

    found = errors(Backend, spectrum, PRECISIONS[precision], draws=36)
    assert found.size >= 1000
    median, tail, worst = BOUNDS[kind(spectrum)][precision]
    assert np.median(found) <= median
    assert np.quantile(found, 0.99) <= tail
    assert found.max() <= worst


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_every_framework_is_exact(backend, spectrum, precision):
    found = errors(backend, spectrum, PRECISIONS[precision], draws=4, shapes=((9, 6),))
    _, _, worst = BOUNDS[kind(spectrum)][precision]
    assert np.median(found) <= BOUNDS[kind(spectrum)][precision][0]
    assert found.max() <= worst


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("spectrum", ["distinct", "pair", "two clusters", "all equal"])
def test_projector_on_a_leading_subspace(backend, spectrum, dtype):
    rank = {"distinct": 2, "pair": 3, "two clusters": 2, "all equal": 6}[spectrum]
    problem = draw(spectrum, (9, 6), draws=5, dtype=dtype, seed=3)
    W = np.random.default_rng(4).standard_normal((9, 9)).astype(dtype)
    (U, _, _), pullback = backend.vjp(problem.A)
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
def test_loss_in_the_singular_values_alone(backend, spectrum, dtype):
    problem = draw(spectrum, (6, 11), draws=5, dtype=dtype, seed=5)
    (_, S, _), pullback = backend.vjp(problem.A)
    exact = (problem.U * (2 * problem.s)[..., None, :]) @ adjoint(problem.V)
    gA = pullback(None, 2 * S, None)
    assert relative_error(gA, exact).max() < 200 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("spectrum", ["distinct", "pair", "gap 1e-09", "zeros"])
def test_same_numbers_on_every_framework(spectrum, dtype):
    f, penalty = FUNCTIONS["tanh"], "schatten"
    found = {}
    from frameworks import FRAMEWORKS, framework

    problem = draw(spectrum, (8, 7), draws=4, dtype=dtype, seed=6)
    for name in FRAMEWORKS:
        factors, pullback = framework(name).vjp(problem.A)
        found[name] = pullback(*problem.cotangents(factors, f, penalty))
    reference = found.pop("numpy")
    tolerance = 1e-7 if spectrum.startswith("gap") and dtype == np.float64 else 0
    tolerance = max(tolerance, 100 * np.finfo(dtype).eps)
    for gA in found.values():
        assert relative_error(gA, reference).max() < tolerance


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("shape", SHAPES)
def test_distinct_spectra_agree_with_every_library(backend, shape, dtype):
    torch = pytest.importorskip("torch")
    problem = draw("distinct", shape, draws=3, dtype=dtype, seed=7)
    f = FUNCTIONS["cube"]
    factors, pullback = backend.vjp(problem.A)
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

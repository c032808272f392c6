"""Options, spectra and shapes beside the common cases, by the tape of NumPy."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from operator_cases import matrices, unitary, with_values

import svdinv.numpy as svn

EQUAL = np.array([0.4, 0.4, 0.2, 0.1])  # weights, equal where values are


def points(d, kind, seed=0):
    """Two sets of points: planar, mirrored, or in perfect agreement."""
    rng = np.random.default_rng(seed)
    P = rng.standard_normal((7, d))
    if kind == "planar":
        P[:, -1] = 0
    R = unitary(d, np.float64, seed)
    R[:, -1] *= np.sign(np.linalg.det(R))
    Q = P @ R.T + rng.standard_normal(d)
    if kind == "mirrored":
        Q[:, 0] *= -1
    noise = 0 if kind == "perfect" else 0.1
    return P, Q + noise * rng.standard_normal(Q.shape)


def motion(P, Q, field):
    return getattr(svn.kabsch(P, Q), field)


def series(seed=0):
    return matrices((2, 3, 5, 6), seed=seed)


CASES = {
    **{
        f"tsvt, axis {axis}, {shape}, {relative}": (
            lambda X, axis=axis, relative=relative: svn.tsvt(
                X, 0.3, axis, relative=relative
            ),
            matrices(shape, dtype),
        )
        for axis in (-3, -2, 1)
        for shape, dtype in (((4, 3, 5), np.float64), ((3, 4, 2), np.complex128))
        for relative in (False, True)
    },
    **{
        f"local_low_rank, {block}, {stride}, {shift}, {relative}": (
            lambda x, block=block, stride=stride, shift=shift, relative=relative: (
                svn.local_low_rank(
                    x, 0.3, block, stride=stride, shift=shift, relative=relative
                )
            ),
            series(),
        )
        for block, stride, shift in ((2, None, 0), (4, 2, 1), ((3, 2), (1, 2), (2, 1)))
        for relative in (False, True)
    },
    "weighted svt at equal values": (
        lambda A: svn.svt(A, EQUAL),
        with_values((2.0, 2.0, 1.0, 0.5), (6, 4)),
    ),
    "svt of tall matrices": (lambda A: svn.svt(A, 0.7), matrices((3, 40, 5))),
    "svt by the Gram matrix": (
        lambda A: svn.svt(A, 0.7, method="gram"),
        matrices((3, 5, 40)),
    ),
    **{
        f"{name} with zeros": (call, with_values((2.0, 2.0, 1.0, 0.0), (6, 4)))
        for name, call in {
            "spectral_norm of a pair's sum": lambda A: svn.ky_fan_norm(A, 2),
            "schatten_norm": lambda A: svn.schatten_norm(A, 3),
            "svt_divergence": lambda A: svn.svt_divergence(A, 0.4),
            "sure": lambda A: svn.sure(A, 0.4, 0.3),
        }.items()
    },
    **{
        f"procrustes, {kind}": (
            functools.partial(svn.procrustes, B=points(4, kind)[1]),
            points(4, kind)[0],
        )
        for kind in ("planar", "perfect", "general")
    },
    **{
        f"kabsch, {kind}, {d}, {field}": (
            functools.partial(motion, Q=points(d, kind)[1], field=field),
            points(d, kind)[0],
        )
        for kind in ("planar", "perfect", "mirrored", "general")
        for d in (2, 3)
        for field in ("rotation", "translation", "rmsd")
        if (kind, field) != ("perfect", "rmsd")  # a kink
    },
}


@pytest.mark.parametrize("name", CASES)
def test_against_differences(name):
    function, A = CASES[name]
    dA = matrices(A.shape, A.dtype, seed=5)
    if "planar" in name:  # stays so: others have no two-sided derivative of the sign
        dA[:, -1] = 0
    if "with zeros" in name:  # moves within the ranges, where values stay 0
        U, S, Vh = np.linalg.svd(A, full_matrices=False)
        kept = S > 1e-9
        dA = U[:, kept] @ (U[:, kept].T @ dA @ Vh[kept].T) @ Vh[kept]
    h = 1e-5
    expected = (function(A + h * dA) - function(A - h * dA)) / (2 * h)
    value, tangent = svn.jvp(function, (A,), (dA,))
    np.testing.assert_allclose(value, function(A), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(tangent, expected, rtol=1e-6, atol=2e-8)
    G = matrices(np.shape(value), np.asarray(value).dtype, seed=6)
    (gA,) = svn.vjp(function, A)[1](G)
    forward = np.sum((np.conj(G) * tangent).real)
    reverse = np.sum((np.conj(gA) * dA).real)
    assert abs(forward - reverse) <= 1e-12 * np.linalg.norm(gA) * np.linalg.norm(dA)


@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (1, 5)], ids=str)
def test_zero_matrices_have_finite_derivatives(shape):
    A = np.zeros(shape)
    for function in (
        svn.nuclear_norm,
        svn.spectral_norm,
        lambda A: svn.schatten_norm(A, 1.5),
        lambda A: svn.svt_divergence(A, 0.4),
        lambda A: svn.sure(A, 0.4, 0.3),
        lambda A: svn.svt(A, 0.4, relative=True),
        svn.polar,
    ):
        value, pullback = svn.vjp(function, A)
        assert np.isfinite(value).all()
        assert np.isfinite(pullback(np.ones_like(value))[0]).all()

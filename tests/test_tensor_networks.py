"""The gradient of a step of CTMRG, with what couples it to the values cut off."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import svdinv.torch
from svdinv.core import svd_pullback

BOND, SITE, KEPT = 4, 2, 3


class Uncorrected(torch.autograd.Function):
    """Leading left vectors, with the gradient of a matrix that has no other values."""

    @staticmethod
    def forward(ctx, A):
        U, S, Vh = torch.linalg.svd(A)
        factors = U[:, :KEPT], S[:KEPT], Vh[:KEPT]
        ctx.save_for_backward(*factors)
        return factors[0]

    @staticmethod
    def backward(ctx, gU):
        return svd_pullback(*ctx.saved_tensors, gU, None, None)


def uncorrected(A):
    return Uncorrected.apply(A)


def full(A):
    return svdinv.torch.svd(A).U[:, :KEPT]


def leading(A):
    return svdinv.torch.svd_lowrank(A, KEPT, seed=0, power=20).U


def tensors(dtype):
    rng = np.random.default_rng(0)
    sizes = (BOND, BOND), (BOND, SITE, BOND), (SITE,) * 4
    drawn = [rng.standard_normal((2, *size)) for size in sizes]
    return [torch.tensor(x[0] + (1j * x[1] if dtype.is_complex else 0)) for x in drawn]


def step(C, T, site, isometry):
    """Grow a corner and its edge, cut them, and contract what is left."""
    n = BOND * SITE
    M = torch.einsum("ab,aic,bjd,ijkl->ckdl", C, T, T, site).reshape(n, n)
    N = torch.einsum("aib,ijkl->ajkbl", T, site).reshape(n, SITE, n)
    U = isometry(M)
    C = U.mH @ M @ U
    T = torch.einsum("ax,akb,by->xky", U.conj(), N, U)
    ring = torch.einsum("ab,bkc,cd,dke,ef,fa->", C, T, C, T, C, C)
    return torch.log(ring.abs())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("isometry", [full, leading, uncorrected])
def test_against_differences(dtype, isometry):
    x, h = tensors(dtype), 1e-4
    along = [torch.randn(t.shape, dtype=dtype, generator=generator(1)) for t in x]
    y = []
    for k in (-2, -1, 1, 2):
        moved = (t + k * h * d for t, d in zip(x, along, strict=True))
        y.append(float(step(*moved, full)))
    expected = (y[0] - 8 * y[1] + 8 * y[2] - y[3]) / (12 * h)
    x = [t.requires_grad_() for t in x]
    found = torch.autograd.grad(step(*x, isometry), x)
    pairs = zip(found, along, strict=True)
    slope = float(sum((g.conj() * d).real.sum() for g, d in pairs))
    error = abs(slope / expected - 1)
    assert error > 1e-2 if isometry == uncorrected else error < 1e-8


def generator(seed):
    return torch.Generator().manual_seed(seed)

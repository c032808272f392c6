"""An SVD for regular matrices alone, and what is done about the others."""

from __future__ import annotations

import numpy as np
import pytest
from array_api_compat import numpy as xp
from operator_cases import adjoint, with_values

from svdinv.core import approximate
from svdinv.core.approximate import svd_by_approximation, svd_in_double
from svdinv.core.guarded import independent

SPECTRA = {
    "linear": np.linspace(1, 0.1, 6),
    "condition 1e4": np.logspace(0, -4, 6),
    "condition 1e7": np.logspace(0, -7, 6),
    "pair": np.array([1, 1, 0.5, 0.3, 0.2, 0.1]),
    "all equal": np.ones(6),
    "one zero": np.array([1, 0.9, 0.5, 0.3, 0.2, 0]),
    "zeros": np.array([1, 0.5, 0.1, 0, 0, 0]),
    "zero": np.zeros(6),
}


class Routine:
    """As cuSOLVER's: by A^H A in double precision; it fails, or leaves a wrong U."""

    def __init__(self, fails):
        self.fails, self.others = fails, 0

    def approximate(self, A):
        wide = A.astype(np.complex128 if A.dtype.kind == "c" else np.float64)
        w, V = np.linalg.eigh(-adjoint(wide) @ wide)
        S = np.sqrt(np.maximum(-w, 0))
        if self.fails and (S[:, -1] <= 1e-8 * S[:, 0]).any():
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            U = wide @ V / S[:, None, :]
        return U.astype(A.dtype), S.astype(A.real.dtype), adjoint(V).astype(A.dtype)

    def own(self, A):
        self.others += A.shape[0]
        return tuple(np.linalg.svd(A, full_matrices=False))


@pytest.mark.filterwarnings("ignore:invalid value")  # of the routine's NaN
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("shape", [(6, 6), (9, 6), (6, 11)])
def test_factors_of_all_matrices_are_exact(shape, dtype, fails):
    batch = np.stack([with_values(s, shape, dtype) for s in SPECTRA.values()])
    A = np.stack([batch, batch * dtype(1e-30), batch * dtype(1e30)]).astype(dtype)
    routine = Routine(fails)
    U, S, Vh = svd_by_approximation(A, routine.approximate, routine.own, xp)
    assert (U.dtype, S.dtype, Vh.dtype) == (dtype, A.real.dtype, dtype)
    assert U.shape == (*A.shape[:2], shape[0], 6)
    assert Vh.shape == (*A.shape[:2], 6, shape[1])
    eps = np.finfo(dtype).eps
    for Q in (U, adjoint(Vh)):
        assert np.abs(adjoint(Q) @ Q - np.eye(6)).max() < 9 * eps
    size = A.real.dtype.type(1) * np.array([1, 1e-30, 1e30])[:, None, None, None]
    product = (U.astype(np.complex128) * S[..., None, :]) @ Vh
    assert np.abs(product / size - A / size).max() < 8 * eps
    assert (np.diff(S) <= 0).all()
    exact = np.array(list(SPECTRA.values())) * size[..., 0]
    assert np.abs(S / size[..., 0] - exact / size[..., 0]).max() < 8 * eps
    assert not routine.others


def test_what_the_routine_never_computes():
    A = np.ones((3, 4, 2), np.float32)
    routine = Routine(True)
    found = svd_by_approximation(A, lambda A: None, routine.own, xp)
    assert routine.others == 3
    for x, y in zip(found, np.linalg.svd(A, full_matrices=False), strict=True):
        np.testing.assert_array_equal(x, y)


def test_large_matrices_come_one_by_one(monkeypatch):
    monkeypatch.setattr(approximate, "_LARGEST_OF_BATCH", 4)
    A = np.stack([with_values(s, (9, 6)) for s in SPECTRA.values()]).astype(np.float32)
    routine, sizes = Routine(True), []

    def one(A):
        sizes.append(A.shape[0])
        return routine.approximate(A)

    U, S, Vh = svd_by_approximation(A, one, routine.own, xp)
    assert set(sizes) == {1}
    np.testing.assert_allclose((U * S[..., None, :]) @ Vh, A, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_zero_values_of_single_precision_by_double(dtype):
    A = with_values(SPECTRA["zeros"], (9, 6), dtype).astype(dtype)
    taken = []

    def own(A):
        taken.append(A.dtype)
        return np.linalg.svd(A, full_matrices=False)

    U, S, Vh = svd_in_double(A, own, xp)
    assert taken == [np.result_type(dtype, np.float64)]
    assert (U.dtype, S.dtype, Vh.dtype) == (dtype, A.real.dtype, dtype)
    assert S[3:].max() < np.finfo(dtype).eps
    least = np.finfo(dtype).smallest_normal  # CuPy's casts make 0 of less
    *_, S, _ = svd_in_double((A * 1e-30).astype(dtype), own, xp)
    assert S[3:].min() >= least
    *_, S, _ = svd_in_double(A * 0, own, xp)
    assert not S.any()


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize("shape", [(40, 40), (60, 12), (12, 60), (1, 3), (3, 1)])
def test_rounding_errors_that_make_columns_independent(shape, dtype):
    m, n = shape
    eps = np.finfo(dtype).eps
    x = with_values([1.0], (m, 1), dtype)
    for X in (np.repeat(x, n, 1), np.ones((m, n), dtype), with_values([1], (2, m, n))):
        X = (X * 1e-3).astype(dtype)
        found = independent(X, xp)
        assert found.dtype == X.dtype
        size = np.abs(X).max()
        assert 0 < np.abs(found - X).max() < 6 * eps * size
        R = np.linalg.qr(found.astype(np.complex128))[1]
        assert np.abs(np.linalg.diagonal(R)).min() > 0.1 * eps * size
    assert not independent(X * 0, xp).any()


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_parallel_columns_of_what_is_lost(dtype, monkeypatch):
    """Of those that are exactly so, cuBLAS's QR decomposition of batches is NaN."""

    def decompose(U, original=xp.linalg.qr):
        Q, R = original(U)
        assert np.abs(np.linalg.diagonal(R)).min() > 1e-4 * np.finfo(float).eps
        return Q, R

    monkeypatch.setattr(xp.linalg, "qr", decompose)
    rows = with_values(np.array([1, 0.5]), (2, 128), np.result_type(dtype, np.float64))
    A = np.stack([np.tile(rows, (64, 1)), np.ones((128, 128))]).astype(dtype)
    routine = Routine(True)
    U, S, Vh = svd_by_approximation(A, routine.approximate, routine.own, xp)
    assert not routine.others
    for Q in (U, adjoint(Vh)):
        assert np.abs(adjoint(Q) @ Q - np.eye(128)).max() < 1e-5
    assert np.abs((U * S[..., None, :]) @ Vh - A).max() < 1e-5 * S.max()


def test_torch_takes_the_routine(monkeypatch):
    torch = pytest.importorskip("torch")
    import svdinv.torch
    from svdinv.backends import torch_kernels

    def single(A):
        return A.dtype in (torch.float32, torch.complex64) and not A.requires_grad

    def approximate(A):
        found = Routine(True).approximate(A.numpy())
        return None if found is None else tuple(map(torch.from_numpy, found))

    monkeypatch.setattr(torch_kernels.by_memory, "decomposition", lambda *_: None)
    monkeypatch.setattr(torch_kernels, "_is_single_on_gpu", single)
    monkeypatch.setattr(torch_kernels, "_approximate_svd", approximate)
    for shape, count in (((40, 36), 8), ((36, 40), 8), ((5, 4), 3)):
        spectra = np.stack([np.linspace(1, 0.1, min(shape)), np.zeros(min(shape))])
        A = [with_values(s, shape) for s in spectra for _ in range(count)]
        A = torch.tensor(np.array(A), dtype=torch.float32)
        assert torch_kernels.suits_approximation(A) == (min(shape) == 36)
        U, S, Vh = torch_kernels.svd(A, full_matrices=False)
        assert ((U * S[..., None, :]) @ Vh - A).abs().max() < 1e-6
        assert (torch_kernels.svdvals(A) - S).abs().max() < 1e-6
        A.requires_grad_()
        result = svdinv.torch.svt(A, 0.3)
        (found,) = torch.autograd.grad(result.square().sum(), A)
        precise = A.detach().double().requires_grad_()
        expected = svdinv.torch.svt(precise, 0.3, method="svd")
        (gradient,) = torch.autograd.grad(expected.square().sum(), precise)
        assert (result - expected).abs().max() < 1e-5
        assert (found - gradient).abs().max() < 1e-5

"""Inputs that once gave a wrong result or an error."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

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
    assert gA.shape == A.shape and np.isfinite(gA).all()

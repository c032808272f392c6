"""The SVD with the derivative of Zhang and Hu, arXiv:2411.14141, for PyTorch.

Restated from the paper's formulas, to be measured beside svdinv: `svd` with as few
operations as they need, `released_svd` with the operations of the released code, which
keeps the singular values as diagonal matrices, multiplies by them as matrices, and
checks the gradient.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["released_svd", "svd", "svd_pullback"]


def _identity(like: torch.Tensor) -> torch.Tensor:
    return torch.eye(like.shape[-2], dtype=like.dtype, device=like.device)


def svd_pullback(
    U: torch.Tensor,
    S: torch.Tensor,
    Vh: torch.Tensor,
    gU: torch.Tensor,
    gS: torch.Tensor,
    gVh: torch.Tensor,
) -> torch.Tensor:
    """Cotangent of A = U diag(S) Vh from those of its factors.

    1 / (s_j^2 - s_i^2) where the squares differ, the pseudoinverse's 1 / s where
    they are equal bit for bit, projectors I - U U^H (m x m) and I - V V^H (n x n), no
    term on the diagonal for complex matrices. 1 / 0 is taken as 0.
    """
    V, gV = Vh.mH, gVh.mH
    M, N = U.mH @ gU, V.mH @ gV
    squares = S * S
    inverse = torch.where(S == 0, 0, 1 / S)
    difference = squares[..., None, :] - squares[..., :, None]
    equal = difference == 0
    F = torch.where(equal, 0, 1 / difference)
    diagonal = torch.eye(S.shape[-1], dtype=torch.bool, device=S.device)
    T = torch.where(equal & ~diagonal, inverse[..., None, :], 0)
    block = F * (M - M.mH) * S[..., None, :] + S[..., :, None] * (F * (N - N.mH))
    block = block + 0.5 * T * (M + N.mH) + torch.diag_embed(gS).to(U.dtype)
    gA = U @ block @ Vh
    left = _identity(U) - U @ U.mH
    gA = gA + left @ (gU * inverse[..., None, :]) @ Vh
    right = _identity(V) - V @ V.mH
    return gA + U @ (gV * inverse[..., None, :]).mH @ right


class _SVD(torch.autograd.Function):
    """The SVD with the pullback above."""

    @staticmethod
    def forward(ctx: Any, A: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return U, S, Vh."""
        outputs = torch.linalg.svd(A, full_matrices=False)
        ctx.save_for_backward(*outputs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> torch.Tensor:
        """Return the cotangent of A."""
        return svd_pullback(*ctx.saved_tensors, *cotangents)


def svd(A: torch.Tensor, full_matrices: bool = False) -> tuple[torch.Tensor, ...]:
    """Thin U, S and Vh, called as `torch.linalg.svd` is."""
    if full_matrices:
        raise ValueError("the published derivative is that of the thin SVD")
    return _SVD.apply(A)


class _ReleasedSVD(torch.autograd.Function):
    """U, diag(S) and V, and the operations of the released backward."""

    @staticmethod
    def forward(ctx: Any, A: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return U, diag(S), V."""
        U, S, Vh = torch.linalg.svd(A, full_matrices=False)
        outputs = U, torch.diag_embed(S), Vh.mH
        ctx.save_for_backward(*outputs)
        return outputs

    @staticmethod
    def backward(
        ctx: Any, gU: torch.Tensor, gD: torch.Tensor, gV: torch.Tensor
    ) -> torch.Tensor:
        """Return the cotangent of A."""
        U, D, V = ctx.saved_tensors
        S = D.diagonal(dim1=-2, dim2=-1)
        inverse = torch.where(D > 0, torch.diag_embed(1 / S), 0)
        M, N = U.mH @ gU, V.mH @ gV
        F, T = _coefficients(S)
        left = U @ (F * (M - M.mH) @ D + T * M)
        left = (left + (_identity(U) - U @ U.mH) @ gU @ inverse) @ V.mH
        middle = U @ (torch.eye(S.shape[-1], dtype=D.dtype) * gD) @ V.mH
        right = D @ (F * (N - N.mH)) @ V.mH
        right = right + inverse @ gV.mH @ (_identity(V) - V @ V.mH)
        gA = left + middle + U @ right
        assert gA.isfinite().all()
        assert (gA.abs() < 1e16).all()
        return gA


def _coefficients(S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """1 / (s_j^2 - s_i^2) where finite, and 1 / s_j where the squares are equal."""
    squares = S.square()
    squares = torch.where(squares < 1e-30, 0, squares)
    columns = squares.unsqueeze(-2).expand(*S.shape, S.shape[-1])
    rows = columns.mT
    left_out = torch.eye(S.shape[-1], dtype=torch.bool) | ((columns == 0) & (rows == 0))
    F = torch.where(left_out, 0, 1 / (columns - rows))
    T = torch.where(F.abs().isinf(), 1 / columns.sqrt(), 0)
    F = torch.where(F.isfinite(), F, 0)
    large = F.abs() > 1e30
    return torch.where(large, 0, F), torch.where(large, 1 / columns.sqrt(), T)


def released_svd(A: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """U, diag(S) and V of real matrices on the CPU, not Vh."""
    return _ReleasedSVD.apply(A)

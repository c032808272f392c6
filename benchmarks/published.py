"""The SVD with the derivative of Zhang and Hu, arXiv:2411.14141, for PyTorch.

Restated from the paper's formulas, to be measured beside svdinv.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["svd", "svd_pullback"]


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

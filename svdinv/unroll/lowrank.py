"""The low-rank step of the networks: singular value thresholding of feature maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import svdinv.torch

__all__ = ["SVD", "LowRank", "shrink_singular_values"]

SVD = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""Called as ``svd(A, full_matrices=False)``, returns U, S and Vh."""


def shrink_singular_values(
    maps: Tensor,
    fraction: Tensor | float,
    *,
    svd: SVD = svdinv.torch.svd,
    block: int | None = None,
) -> Tensor:
    """Soft-threshold the singular values of every feature map.

    Each map is taken as a matrix X = U diag(s) V^T and becomes
    ``U max(s - tau, 0) V^T`` (Cai, Candès & Shen 2010), with ``tau = fraction * s_1``
    relative to its own largest singular value (Zhang & Hu, arXiv 2411.14141).

    Parameters
    ----------
    maps : Tensor, shape (B, C, H, W)
        Feature maps; every batch entry and channel is a matrix of its own.
    fraction : Tensor or float
        One number, the threshold relative to the largest singular value, in (0, 1).
    svd : callable
        The decomposition to differentiate through, called as
        ``svd(A, full_matrices=False)``, such as `torch.linalg.svd`. The default,
        `svdinv.torch.svd`, stands for the operator `svdinv.torch.svt`.
    block : int, optional
        Threshold blocks of this many pixels a side, each a matrix of its own (locally
        low rank), instead of whole maps: what was learned on small patches then holds
        on a photograph of any size. Blocks at the border are filled up with zeros,
        which adds nothing but zero singular values.

    Returns
    -------
    Tensor, shape (B, C, H, W)
        Maps of lower rank.
    """
    height, width = maps.shape[-2:]
    matrices = maps if block is None else _to_blocks(maps, block)
    if svd is svdinv.torch.svd:
        low_rank = svdinv.torch.svt(matrices, fraction, relative=True)
    else:
        u, s, vh = svd(matrices, full_matrices=False)
        shrunk = F.relu(s - fraction * s[..., :1])
        low_rank = (u * shrunk.unsqueeze(-2)) @ vh
    if block is None:
        return low_rank
    return _from_blocks(low_rank)[..., :height, :width]


def _to_blocks(maps: Tensor, block: int) -> Tensor:
    """Cut (..., H, W) into (..., rows, columns, block, block)."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (0, -width % block, 0, -height % block))
    return (
        padded.unflatten(-1, (-1, block)).unflatten(-3, (-1, block)).transpose(-3, -2)
    )


def _from_blocks(blocks: Tensor) -> Tensor:
    return blocks.transpose(-3, -2).flatten(-4, -3).flatten(-2, -1)


class LowRank(nn.Module):
    """Singular value thresholding with a learned threshold.

    Parameters
    ----------
    logit : float
        First value of c; the threshold is ``sigmoid(c)`` times the largest singular
        value of each matrix.
    svd, block
        As for `shrink_singular_values`.
    """

    def __init__(
        self, logit: float, *, svd: SVD = svdinv.torch.svd, block: int | None = None
    ) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(float(logit)))
        self.svd = svd
        self.block = block

    def forward(self, maps: Tensor) -> Tensor:
        """Threshold maps of shape (B, C, H, W); see `shrink_singular_values`."""
        return shrink_singular_values(
            maps, self.c.sigmoid(), svd=self.svd, block=self.block
        )

    def extra_repr(self) -> str:
        """Describe the step in the printed network."""
        return f"block={self.block}"

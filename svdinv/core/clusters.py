"""Clusters of singular values, gathered from a batch of matrices into a small one.

The values are sorted downwards, so that a cluster is a run of them and its pairs are
a square on the diagonal of a k x k array.
"""

from __future__ import annotations

from typing import NamedTuple

from svdinv.core.namespace import Array, Namespace

__all__ = ["Windows", "find_windows"]


class Windows(NamedTuple):
    """Windows of one width along the singular values, one around each cluster.

    Attributes
    ----------
    matrix : array
        Which matrix of the batch each window lies in, shape (w, 1).
    index : array
        The singular values in each window, shape (w, c).
    inside : array
        Which pairs of a window lie in its cluster, boolean, shape (w, c, c).
    mask : array
        Which pairs of the batch these are, boolean, shape (b, k, k).
    """

    matrix: Array
    index: Array
    inside: Array
    mask: Array

    def values(self, x: Array) -> Array:
        """Elements of `x`, shape (b, k), in the windows: (w, c)."""
        return x[self.matrix, self.index]

    def pairs(self, X: Array) -> Array:
        """Elements of `X`, shape (b, k, k), in the windows: (w, c, c)."""
        return X[_pairs(self.matrix, self.index)]

    def fill(self, X: Array, part: Array | float) -> None:
        """Put `part`, shape (w, c, c) or a number, into the clusters' pairs of `X`."""
        X[self.mask] = part if isinstance(part, float) else part[self.inside]


def find_windows(adjacent: Array, singleton: Array, xp: Namespace) -> Windows:
    """Find the windows around all clusters of a batch.

    Parameters
    ----------
    adjacent : array
        Whether a singular value and the next are in one cluster, shape (b, k - 1).
    singleton : array
        Which singular values are a cluster even by themselves, shape (b, k).
    xp : namespace
        Array namespace, whose arrays can be looked at.

    Returns
    -------
    Windows
        As wide as the largest cluster; whole matrices if these are smaller in all.
    """
    k = singleton.shape[-1]
    edge = xp.zeros_like(singleton[:, :1])
    before, after = (
        xp.concat([edge, adjacent], axis=1),
        xp.concat([adjacent, edge], axis=1),
    )
    matrix, first = xp.nonzero(~before & (after | singleton))
    _, last = xp.nonzero(~after & (before | singleton))
    width = int(xp.max(last - first)) + 1
    if width < k:
        (whole,) = xp.nonzero(xp.any(before | singleton, axis=1))
        if whole.shape[0] * k * k <= matrix.shape[0] * width * width:
            matrix, first, last, width = whole, 0 * whole, 0 * whole + k - 1, k
    start = xp.minimum(first, xp.full_like(first, k - width))
    index = start[:, None] + xp.arange(width, device=adjacent.device)
    matrix = matrix[:, None]
    within = (index >= first[:, None]) & (index <= last[:, None])
    which = xp.cumulative_sum(xp.astype(~before, xp.int64), axis=1)
    clustered = before | after | singleton
    mask = (which[:, :, None] == which[:, None, :]) & clustered[:, :, None]
    inside = mask[_pairs(matrix, index)] & within[:, :, None] & within[:, None, :]
    # In the same order as the mask's elements, because the windows are.
    return Windows(matrix, index, inside, mask)


def _pairs(matrix: Array, index: Array) -> tuple[Array, Array, Array]:
    return matrix[:, :, None], index[:, :, None], index[:, None, :]

"""Clusters of singular values, gathered from a batch of matrices into a small one.

The values are sorted downwards, so that a cluster is a run of them and its pairs are
a square on the diagonal of a k x k array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from svdinv.core.namespace import (
    Array,
    Namespace,
    any_on_host,
    first,
    is_writable,
)
from svdinv.core.tolerances import rounding_rtol


class Windows(NamedTuple):
    """Windows of one width along the singular values, one around each cluster."""

    matrix: Array
    """Which matrix of the batch each window lies in, shape (w, 1)."""
    index: Array
    """The singular values in each window, shape (w, c)."""
    inside: Array
    """Which pairs of a window lie in its cluster, boolean, shape (w, c, c)."""
    mask: Array
    """Which pairs of the batch these are, boolean, shape (b, k, k)."""

    def values(self, x: Array) -> Array:
        """Elements of `x`, shape (b, k), in the windows: (w, c)."""
        return x[self.matrix, self.index]

    def pairs(self, X: Array) -> Array:
        """Elements of `X`, shape (b, k, k), in the windows: (w, c, c)."""
        return X[_pairs(self.matrix, self.index)]

    def fill(self, X: Array, part: Array | float) -> None:
        """Put `part`, shape (w, c, c) or a number, into the clusters' pairs of `X`."""
        X[self.mask] = part if isinstance(part, float) else part[self.inside]


def in_clusters(
    adjacent: Array,
    singleton: Array,
    distinct: Callable[..., Array],
    rule: Callable[..., Array],
    arrays: tuple[Array, ...],
    xp: Namespace,
) -> Array:
    """Compute `rule(*arrays, windows)` within clusters, and `distinct` elsewhere.

    Only pairs within a cluster need the rule, and few pairs lie in one. `adjacent` and
    `singleton` are those of `find_windows`, with any batch; `windows` are None where
    the arrays are whole, as they are for the rule where nobody can look at them.
    """
    found = any_on_host(xp.concat([adjacent, singleton], axis=-1), xp)
    if found is None or (found and not is_writable(xp)):
        return rule(*arrays, None)
    if not found:
        return distinct(*arrays, None)
    # Counted, not -1: of one singular value, `adjacent` is empty.
    shape, ndim = singleton.shape, len(singleton.shape) - 1
    batch = math.prod(shape[:ndim])
    adjacent, singleton, *flat = (
        xp.reshape(x, (batch, *x.shape[ndim:])) for x in (adjacent, singleton, *arrays)
    )
    windows = find_windows(adjacent, singleton, xp)
    block = distinct(*flat, windows)
    windows.fill(block, rule(*flat, windows))
    return xp.reshape(block, (*shape, shape[-1]))


def whole_multiplets(s: Array, rank: int, rtol: float, xp: Namespace) -> Array:
    """Which of the `rank` largest singular values belong to no multiplet cut in two.

    In one multiplet are neighbours whose gap is at most `rtol` of the larger, or a
    rounding error of the largest of all.
    """
    index = xp.cumulative_sum(xp.ones_like(s), axis=-1)
    top = first(s)
    following = xp.concat([s[..., 1:], -top], axis=-1)
    gap = s - following
    ends = (gap > rtol * s + rounding_rtol(s, xp) * top) & (index <= rank)
    last = xp.max(xp.where(ends, index, xp.zeros_like(s)), axis=-1, keepdims=True)
    return index <= last


def find_windows(adjacent: Array, singleton: Array, xp: Namespace) -> Windows:
    """Find the windows around all clusters of a batch, whose values can be looked at.

    `adjacent` tells whether a singular value and the next are in one cluster, shape
    (b, k - 1), `singleton` which are one even by themselves, (b, k). Windows are as
    wide as the largest cluster; whole matrices if these are smaller in all.
    """
    k = singleton.shape[-1]
    edge = xp.zeros_like(singleton[:, :1])
    before = xp.concat([edge, adjacent], axis=1)
    after = xp.concat([adjacent, edge], axis=1)
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

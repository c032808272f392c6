"""Clusters of singular values, gathered from a batch of matrices into a small one.

The values are sorted, so that a cluster is a run of them, and the pairs within reach
of each other are a band along the diagonal of a k x k array.
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
    known_equal,
)
from svdinv.core.tolerances import rounding_rtol


class Windows(NamedTuple):
    """Windows of one width along the singular values, which cover the clusters."""

    matrix: Array
    """Which matrix of the batch each window lies in, shape (w, 1)."""
    index: Array
    """The singular values in each window, shape (w, c)."""
    mask: Array
    """Pairs of the batch that the rule handles, boolean, shape (b, k, k)."""
    place: tuple[Array, Array, Array]
    """Position of each of them, in the order of `mask`, in the windows (w, c, c)."""

    def values(self, x: Array) -> Array:
        """Elements of `x`, shape (b, k), in the windows: (w, c)."""
        return x[self.matrix, self.index]

    def pairs(self, X: Array) -> Array:
        """Elements of `X`, shape (b, k, k), in the windows: (w, c, c)."""
        matrix, index = self.matrix, self.index
        return X[matrix[:, :, None], index[:, :, None], index[:, None, :]]

    def fill(self, X: Array, part: Array) -> None:
        """Write `part`, shape (w, c, c), into the pairs of `X` that `mask` marks."""
        X[self.mask] = part[self.place]


def in_clusters(
    reach: float,
    singleton: Array,
    distinct: Callable[..., Array],
    rule: Callable[..., Array],
    kernel: Callable[..., Array | None],
    arrays: tuple[Array, ...],
    xp: Namespace,
) -> Array:
    """Compute `rule(*arrays, windows)` within clusters, and `distinct` elsewhere.

    The first array holds the values, (..., k), sorted. A cluster is a run of values of
    which each is within `reach` of the next, or a value by itself where `singleton`
    holds. Only pairs within reach of each other need the rule, and it reads only
    values within reach of both; `distinct(*arrays, reach)` is finite for such pairs,
    and is overwritten there. `kernel(*arrays, block)` writes the rule into the result
    of `distinct`, or returns None. `windows` is None if the rule gets whole arrays,
    which is so where values cannot be read, as in a traced graph; `reach` is None if
    there are no clusters.
    """
    s = arrays[0]
    adjacent = abs(s[..., 1:] - s[..., :-1]) <= reach
    found = any_on_host(xp.concat([adjacent, singleton], axis=-1), xp)
    if found is None or (found and not is_writable(xp)):
        return rule(*arrays, None)
    if not found:
        return distinct(*arrays, None)
    block = distinct(*arrays, reach)
    completed = kernel(*arrays, block)
    if completed is not None:
        return completed
    # Counted, not -1: of one singular value, `adjacent` is empty.
    shape, ndim = singleton.shape, len(singleton.shape) - 1
    batch = math.prod(shape[:ndim])
    adjacent, singleton, block, *flat = (
        xp.reshape(x, (batch, *x.shape[ndim:]))
        for x in (adjacent, singleton, block, *arrays)
    )
    windows = find_windows(flat[0], reach, adjacent, singleton, xp)
    windows.fill(block, rule(*flat, windows))
    return xp.reshape(block, (*shape, shape[-1]))


def close_pairs(gap: Array, reach: float | None, xp: Namespace) -> Array:
    """1 for pairs within `reach`, or, if it is None, on the diagonal; 0 elsewhere."""
    if reach is None:
        return xp.eye(
            gap.shape[-1], dtype=gap.dtype, device=getattr(gap, "device", None)
        )
    return xp.astype(abs(gap) <= reach, gap.dtype)


def whole_multiplets(
    s: Array, rank: int, most: int, rtol: float, xp: Namespace
) -> Array:
    """Mask of the `rank` largest singular values, without a multiplet that is cut.

    Neighbours are in one multiplet if their gap is at most `rtol` of the larger, or a
    rounding error of the largest of all. A multiplet that the rank cuts is included as
    a whole if that makes at most `most` values, and left out otherwise.
    """
    index = xp.cumulative_sum(xp.ones_like(s), axis=-1)
    if known_equal(s.shape[-1], 0):
        return index <= rank
    top = first(s)
    following = xp.concat([s[..., 1:], -top], axis=-1)
    gap = s - following
    ends = gap > rtol * s + rounding_rtol(s, xp) * top
    below, none = ends & (index <= rank), xp.zeros_like(s)
    last = xp.max(xp.where(below, index, none), axis=-1, keepdims=True)
    above, after = ends & (index >= rank) & (index <= most), most + 1 - index
    room = xp.max(xp.where(above, after, none), axis=-1, keepdims=True)
    return index <= xp.where(room > 0, most + 1 - room, last)


def find_windows(
    s: Array, reach: float, adjacent: Array, singleton: Array, xp: Namespace
) -> Windows:
    """Find windows that cover all clusters of a batch, whose values can be looked at.

    `adjacent`, shape (b, k - 1): whether a value and the next are in one cluster.
    Of the three ways to cover them, each with windows of one width, the one with the
    fewest pairs is taken: whole matrices, one window for each cluster, or, where
    values far from each other are in one, several that overlap.
    """
    k = s.shape[-1]
    edge = xp.zeros_like(singleton[:, :1])
    before = xp.concat([edge, adjacent], axis=1)
    clustered = before | xp.concat([adjacent, edge], axis=1) | singleton
    counter = xp.arange(k, device=adjacent.device)
    _, first = xp.nonzero(~before)
    run = _count(~before, xp)
    position = counter - first[run]
    most = int(xp.max(xp.where(clustered, position, 0 * position))) + 1
    near = _farthest(s, reach, most, xp)

    whole = (counter == 0) & xp.any(clustered, axis=1)[:, None]
    each = clustered & (position == 0)
    # With all values within reach of those in the middle, from `near` on to 3 `near`.
    several = clustered & (position % near == 0)
    ways = ((whole, k, 0), (each, most, 0), (several, min(4 * near, k), near))
    anchor, width, margin = min(ways, key=lambda way: _size(way[0], xp) * way[1] ** 2)

    matrix, at = xp.nonzero(anchor)
    start = xp.minimum(xp.maximum(at - margin, 0 * at), 0 * at + k - width)
    index = start[:, None] + xp.arange(width, device=adjacent.device)
    same = (run[:, :, None] == run[:, None, :]) & clustered[:, :, None]
    mask = same & (xp.abs(counter[:, None] - counter) <= near)
    rows, i, j = xp.nonzero(mask)
    window = _count(anchor, xp)[rows, xp.minimum(i, j)]
    place = window, i - start[window], j - start[window]
    return Windows(matrix[:, None], index, mask, place)


def _size(mask: Array, xp: Namespace) -> int:
    return int(xp.sum(xp.astype(mask, xp.int64)))


def _count(mask: Array, xp: Namespace) -> Array:
    """Count, from 0, the last place where a mask (b, k) holds at or before each."""
    flat = xp.reshape(xp.astype(mask, xp.int64), (-1,))
    return xp.reshape(xp.cumulative_sum(flat) - 1, mask.shape)


def _farthest(s: Array, reach: float, most: int, xp: Namespace) -> int:
    """Largest distance in place, at least 1, of values within reach, below `most`."""
    low, high = 1, max(most - 1, 1)
    while low < high:
        middle = (low + high + 1) // 2
        if xp.any(abs(s[:, middle:] - s[:, :-middle]) <= reach):
            low = middle
        else:
            high = middle - 1
    return low

"""Clusters of singular values: runs of values close to their neighbours."""

from __future__ import annotations

from collections.abc import Callable

from svdinv.core.namespace import (
    Array,
    Namespace,
    any_on_host,
    first,
    is_writable,
    known_equal,
)
from svdinv.core.tolerances import rounding_rtol

_ELEMENTS_AT_ONCE = 2**16


def in_clusters(
    reach: float,
    singleton: Array,
    distinct: Callable[..., Array],
    rule: Callable[..., Array],
    kernel: Callable[..., Array | None],
    arrays: tuple[Array, ...],
    xp: Namespace,
) -> Array:
    """Compute `rule(*arrays)` for matrices with clusters, `distinct` for the others.

    The first array holds the sorted values, (..., k). A cluster is a run of values with
    gaps up to `reach`, or a single value where `singleton` holds.
    `distinct(*arrays, reach)` is finite, but wrong, for pairs within `reach`, which is
    None if no matrix has a cluster. `kernel(*arrays, block)` overwrites these pairs of
    `block` by the rule, or returns None. Where values cannot be read, as in a traced
    graph, the rule is applied to all matrices.
    """
    s = arrays[0]
    adjacent = abs(s[..., 1:] - s[..., :-1]) <= reach
    clustered = xp.concat([adjacent, singleton], axis=-1)
    found = any_on_host(clustered, xp)
    if found is None or (found and not is_writable(xp)):
        return rule(*arrays)
    if not found:
        return distinct(*arrays, None)
    block = distinct(*arrays, reach)
    completed = kernel(*arrays, block)
    if completed is not None:
        return completed
    shape, ndim = block.shape, len(block.shape) - 2
    block, clustered, *flat = (
        xp.reshape(x, (-1, *x.shape[ndim:])) for x in (block, clustered, *arrays)
    )
    some = xp.any(clustered, axis=-1)
    (at,) = xp.nonzero(some)
    # In chunks whose intermediate arrays stay in the cache.
    step = max(1, _ELEMENTS_AT_ONCE // shape[-1] ** 2)
    count = at.shape[0]
    parts = (at[i : min(i + step, count)] for i in range(0, count, step))
    blocks = [rule(*(xp.take(x, part, axis=0) for x in flat)) for part in parts]
    block[some] = xp.concat(blocks, axis=0)
    return xp.reshape(block, shape)


def close_pairs(gap: Array, reach: float | None, xp: Namespace) -> Array:
    """1 for pairs within `reach`, or on the diagonal if it is None; 0 elsewhere."""
    if reach is None:
        return xp.eye(
            gap.shape[-1], dtype=gap.dtype, device=getattr(gap, "device", None)
        )
    return xp.astype(abs(gap) <= reach, gap.dtype)


def whole_multiplets(
    s: Array, rank: int, most: int, rtol: float, xp: Namespace
) -> Array:
    """Mask of the `rank` largest singular values that splits no multiplet.

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

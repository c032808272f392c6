"""The derivatives of the Hermitian eigendecomposition A = V diag(w) V^H.

A cotangent g of x means dL = Re tr(g^H dx). With P = V^H dA V and Omega = V^H dV,

    P_ij = Omega_ij (w_j - w_i),    dw_i = P_ii

so that V is ill-posed where eigenvalues repeat; its phases are free, and Omega_ii = 0
is the choice of minimum norm. In a cluster of repeated eigenvalues, the consistent rule
of `svdinv.core.degenerate` is used. Zero eigenvalues are not special.
"""

from __future__ import annotations

from functools import partial

from svdinv.core.clusters import close_pairs, in_clusters
from svdinv.core.degenerate import (
    Values,
    check_repeated,
    cluster_part,
    cotangent_values,
    linear_rule,
    log_derivative,
    reach_of_rule,
)
from svdinv.core.gauge import root_ratio, squared
from svdinv.core.namespace import (
    Array,
    Namespace,
    adjoint,
    array_namespace,
    cast,
    clusters,
    herm,
    identity_like,
    known_equal,
    last_size,
    off_diagonal,
    safe_divide,
    scaled,
    skew,
)
from svdinv.core.results import EighResult
from svdinv.core.spectral import diagonal_matrices, real_diagonal
from svdinv.core.tolerances import cluster_rtol, eps, neighbour_rtol, tiny


def eigh_pullback(
    w: Array,
    V: Array,
    gw: Array | None = None,
    gV: Array | None = None,
    *,
    rtol: float | None = None,
    epsilon: float | None = None,
    xp: Namespace | None = None,
) -> Array:
    """Cotangent of A from the cotangents of its eigendecomposition [1]_.

    gA = V (diag(gw) + E * skew(V^H gV)) V^H with E_ij = 1 / (w_j - w_i), and the
    consistent rule where w_i and w_j are equal or nearly so.

    Parameters
    ----------
    w, V : array
        Eigenvalues, sorted, shape (..., n), and eigenvectors, shape (..., n, n).
    gw, gV : array or None
        Cotangents, each of the shape of its factor; None for zero. gw is real.
    rtol, epsilon, xp : optional
        As for `svdinv.core.svd_pullback`, relative to the largest modulus.

    Returns
    -------
    array
        gA, Hermitian, shape (..., n, n).

    Raises
    ------
    ValueError
        If `rtol` lies outside [0, 1).

    Notes
    -----
    Exact for Re<G, V f(w) V^H> + sum g(w) with smooth f and g, except where f is 0 at a
    repeated eigenvalue: there, gV is 0 for its
    vectors, whatever G is.

    References
    ----------
    .. [1] M. B. Giles, "Collected matrix derivative results for forward and reverse
       mode algorithmic differentiation", Advances in Automatic Differentiation, 2008.
    """
    check_repeated("consistent", rtol)
    xp = array_namespace(w, V) if xp is None else xp
    gw = xp.zeros_like(w) if gw is None else gw
    if gV is None or known_equal(last_size(w, xp), 0):
        return herm((V * cast(gw, V, xp)[..., None, :]) @ adjoint(V, xp), xp)
    s, top = scaled(w, xp)
    epsilon = eps(s, xp) if epsilon is None else epsilon
    reach = reach_of_rule(rtol, epsilon)
    near = neighbour_rtol(rtol, epsilon)

    def kernel(s: Array, M: Array, gs: Array, block: Array) -> Array | None:
        return clusters(s, M, None, gs, block, near, epsilon, xp)

    rule, distinct = partial(_consistent, xp, rtol, epsilon), partial(_distinct, xp)
    arrays = s, adjoint(V, xp) @ gV, gw * top
    none = s != s  # no value is a cluster by itself
    block = in_clusters(reach, none, distinct, rule, kernel, arrays, xp)
    # Over `top` first: the product with V would have a derivative that underflows.
    block = block * cast(1 / top, V, xp)[..., None]
    return herm(V @ block @ adjoint(V, xp), xp)


def eigh_pushforward(
    w: Array,
    V: Array,
    dA: Array,
    *,
    rtol: float | None = None,
    xp: Namespace | None = None,
) -> EighResult:
    """Tangents of the eigendecomposition along the Hermitian part of a tangent of A.

    Arguments are as for `eigh_pullback`. Two eigenvalues with a gap up to `rtol`, by
    default 64 eps, count as equal: their vectors are not rotated into each other.
    """
    check_repeated("consistent", rtol)
    xp = array_namespace(w, V) if xp is None else xp
    if known_equal(last_size(w, xp), 0):
        return EighResult(xp.zeros_like(w), xp.zeros_like(V))
    s, top = scaled(w, xp)
    P = herm(adjoint(V, xp) @ dA @ V, xp)
    E, _ = linear_rule(s, "drop", rtol, xp)
    dV = V @ (cast(E, V, xp) * (P * cast(1 / top, V, xp)[..., None]))
    return EighResult(real_diagonal(P, xp), dV)


def eigh_gauge_dependence(
    w: Array,
    V: Array,
    gV: Array,
    *,
    rtol: float | None = None,
    xp: Namespace | None = None,
) -> Array:
    """Share of gV along the arbitrary phases and bases, of shape (...).

    As in `svdinv.core.gauge_dependence`. Eigenvectors are determined up to a unitary
    matrix among eigenvalues within `rtol` of each other, by default 64 eps.
    """
    xp = array_namespace(w, V) if xp is None else xp
    if known_equal(last_size(w, xp), 0):
        return xp.sum(w, axis=-1)
    top = xp.max(xp.abs(w), axis=-1, keepdims=True)[..., None]
    # Normalised first, because the squares may underflow.
    size = xp.max(xp.abs(gV), axis=(-2, -1), keepdims=True)
    M = adjoint(V, xp) @ (gV / cast(xp.where(size > 0, size, 1 + 0 * size), V, xp))
    gap = xp.abs(w[..., :, None] - w[..., None, :])
    equal = gap <= cluster_rtol(w, rtol, xp) * top
    return root_ratio(squared(skew(M, xp), xp, equal), squared(M, xp), xp)


def _distinct(
    xp: Namespace, s: Array, M: Array, gs: Array, reach: float | None
) -> Array:
    """Middle factor diag(gs) + E * skew(M) of the pullback, for distinct values."""
    gap = s[..., None, :] - s[..., :, None]
    eye = close_pairs(gap, None, xp)
    block = skew(M, xp) / cast(gap + close_pairs(gap, reach, xp), M, xp)
    return xp.where(eye > 0, diagonal_matrices(gs, M, xp), block)


def _consistent(
    xp: Namespace,
    rtol: float | None,
    epsilon: float,
    s: Array,
    M: Array,
    gs: Array,
) -> Array:
    """Middle factor by the consistent rule of the SVD, with M / 2 and M^H / 2 as N^H.

    There is no 1 / s here: functions of a Hermitian matrix need not vanish at 0.
    """
    M = 0.5 * M
    v = cotangent_values(xp.abs(s), M, adjoint(M, xp), gs, xp)._replace(s=s)
    scale = cast(v.scale, M, xp)[..., None]
    M = M / scale
    B = herm(M, xp)
    distance = xp.abs(v.s[..., :, None] - v.s[..., None, :])
    near = distance <= neighbour_rtol(rtol, epsilon)
    v = v._replace(inverse=_steepness(v, B, near, xp))
    slope = log_derivative(v, B, near, epsilon, xp)
    # The minimum-norm solution is 0; its error is f' herm(G) = B f' / f.
    norm = xp.zeros_like(B), xp.abs(B) * v.inverse[..., None]
    eye = identity_like(distance, xp)
    near = off_diagonal(near, eye, xp)
    part = cluster_part(v, 2 * skew(M, xp), B, slope, norm, near, epsilon, xp)
    return (part + cast(eye * v.gS[..., None], M, xp)) * scale


def _steepness(v: Values, B: Array, near: Array, xp: Namespace) -> Array:
    """Estimate |f'/f| from the cotangents, in the role of 1 / s for the SVD."""
    weight = xp.astype(near, v.s.dtype, copy=False)
    g = xp.sum(weight * xp.abs(v.gS)[..., None, :], axis=-1)
    b = xp.sum(weight * xp.abs(real_diagonal(B, xp))[..., None, :], axis=-1)
    # At least 1, as for a function that changes on the scale of the largest modulus.
    return 1 + safe_divide(g, b, b > tiny(b, xp), xp)

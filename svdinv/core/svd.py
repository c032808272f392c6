"""The singular value decomposition and its derivatives.

A = U diag(S) V^H is m x n with k = min(m, n); S is sorted downwards. A cotangent
g of x means dL = Re tr(g^H dx).

The formulas follow from P = U^H dA V, with Omega = U^H dU and Psi = V^H dV skew:

    P_ij + conj(P_ji) = (Omega + Psi)_ij (s_j - s_i)
    P_ij - conj(P_ji) = (Omega - Psi)_ij (s_j + s_i)

of which the first is underdetermined where s_i = s_j. Zhang and Hu
(arXiv:2411.14141) take the Moore-Penrose solution there; `svdinv.core.degenerate`
holds that rule and the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from svdinv.core.degenerate import (
    check_repeated,
    inverse_sum,
    linear_rule,
    outside_weight,
    reciprocal,
    vector_block,
)
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    any_on_host,
    array_namespace,
    cast,
    first,
    herm,
    identity_like,
    is_complex,
    known_equal,
    last_size,
    scaled,
    skew,
)
from svdinv.core.results import SVDResult
from svdinv.core.spectral import real_diagonal
from svdinv.core.tolerances import rounding_rtol


def svd(
    A: Array, *, full_matrices: bool = False, xp: Namespace | None = None
) -> SVDResult:
    """Singular value decomposition by the namespace's own routine.

    Parameters
    ----------
    A : array
        Real or complex floating point, shape (..., m, n).
    full_matrices : bool, optional
        Return square U and Vh instead of thin ones.
    xp : namespace, optional
        Array namespace; inferred from `A` if not given.

    Returns
    -------
    SVDResult
        U (..., m, k), S (..., k) sorted downwards, Vh (..., k, n); with
        `full_matrices`, U (..., m, m) and Vh (..., n, n).
    """
    xp = array_namespace(A) if xp is None else xp
    return SVDResult(*xp.linalg.svd(A, full_matrices=full_matrices))


def svd_pullback(
    U: Array,
    S: Array,
    Vh: Array,
    gU: Array | None = None,
    gS: Array | None = None,
    gVh: Array | None = None,
    *,
    repeated: str = "consistent",
    rtol: float | None = None,
    epsilon: float | None = None,
    xp: Namespace | None = None,
) -> Array:
    """Cotangent of A from the cotangents of its singular value decomposition.

    Parameters
    ----------
    U, S, Vh : array
        Singular value decomposition of A, thin or full: shapes (..., m, k) or
        (..., m, m), (..., k), and (..., k, n) or (..., n, n).
    gU, gS, gVh : array or None
        Cotangents, each of the shape of its factor and with dL = Re tr(g^H dx);
        None for zero. gS is real.
    repeated : str, optional
        Rule inside a cluster of repeated singular values: ``"consistent"``,
        ``"minimum-norm"`` [1]_, or for comparison ``"drop"``, ``"clip"``,
        ``"taylor"`` [2]_, ``"lorentz"`` [3]_, ``"none"``.
    rtol : float, optional
        Gap, relative to the largest singular value, up to which the rule acts; for
        ``"consistent"`` relative to a power of two near it. Default: sqrt(eps) for
        ``"consistent"``, which then still takes the plain quotient where that is
        better, and 64 eps for ``"minimum-norm"``, ``"drop"`` and ``"clip"``. The
        other rules do not use it.
    epsilon : float, optional
        Relative precision of the cotangents, for ``"consistent"``. Default: that of
        their dtype.
    xp : namespace, optional
        Array namespace; inferred from the arrays if not given.

    Returns
    -------
    array
        gA, shape (..., m, n).

    Raises
    ------
    ValueError
        If `repeated` names no rule or `rtol` lies outside [0, 1).

    Notes
    -----
    No array larger than A or k x k is formed for thin factors. With full factors
    the gauge-invariant part of the null-space cotangents is kept: U2 turns
    against U1 only, dU2 = -U1 (U2^H dU1)^H.

    References
    ----------
    .. [1] Y. Zhang and Y. Hu, "Differentiable SVD based on Moore-Penrose
       pseudoinverse for inverse imaging problems", arXiv:2411.14141, 2024.
    .. [2] W. Wang, Z. Dang, Y. Hu, P. Fua and M. Salzmann, "Robust differentiable
       SVD", IEEE TPAMI 44(9), 2022.
    .. [3] H.-J. Liao, J.-G. Liu, L. Wang and T. Xiang, "Differentiable programming
       tensor networks", Physical Review X 9, 031041, 2019.
    """
    check_repeated(repeated, rtol)
    xp = array_namespace(U, S, Vh) if xp is None else xp
    k = last_size(S, xp)
    U1, V1h = leading(U, k), leading(Vh, k, -2)
    if known_equal(k, 0):
        return U1 @ V1h
    if gU is None and gVh is None:
        gS = xp.zeros_like(S) if gS is None else gS
        return (U1 * cast(gS, U, xp)[..., None, :]) @ V1h
    s, top = scaled(S, xp)
    scale = cast(1 / top, U, xp)[..., None]
    gs = xp.zeros_like(S) if gS is None else gS * top

    M = None if gU is None else adjoint(U1, xp) @ leading(gU, k)
    NH = None if gVh is None else leading(gVh, k, -2) @ adjoint(V1h, xp)
    M = xp.zeros_like(NH) if M is None else M
    NH = xp.zeros_like(M) if NH is None else NH
    block = vector_block(s, M, NH, gs, repeated, rtol, epsilon, xp)

    def weighted(*cotangents: Array) -> Array:
        if repeated == "consistent":
            weight = outside_weight(s, gs, cotangents, xp)
        else:
            weight = reciprocal(s, xp)
        return cast(weight, U, xp)[..., None, :]

    # Add (1 - U1 U1^H) gU1 / s, the part outside the range of U1, and that of gV1.
    # Where the factor is square, it would consist of rounding errors.
    outside_U = outside_V = None
    if gU is not None and not known_equal(U.shape[-2], k):
        folded = _fold_null_space(U, gU, k, xp)
        weight = weighted(folded, leading(gU, k))
        outside_U, block = folded * weight, block - M * weight
    if gVh is not None and not known_equal(Vh.shape[-1], k):
        gV = adjoint(gVh, xp)
        folded = _fold_null_space(adjoint(Vh, xp), gV, k, xp)
        weight = weighted(folded, leading(gV, k))
        outside_V, block = folded * weight, block - xp.matrix_transpose(weight) * NH
    left = U1 @ block if outside_U is None else U1 @ block + outside_U
    left *= scale
    gA = left @ V1h
    return gA if outside_V is None else gA + U1 @ adjoint(outside_V * scale, xp)


def svd_pushforward(
    U: Array,
    S: Array,
    Vh: Array,
    dA: Array,
    *,
    repeated: str = "consistent",
    rtol: float | None = None,
    xp: Namespace | None = None,
) -> SVDResult:
    """Tangents of the singular value decomposition along a tangent of A.

    Parameters
    ----------
    U, S, Vh : array
        Singular value decomposition of A, thin or full: shapes (..., m, k) or
        (..., m, m), (..., k), and (..., k, n) or (..., n, n).
    dA : array
        Tangent of A, shape (..., m, n).
    repeated : str, optional
        Rule inside a cluster, as for `svd_pullback`. A pushforward is linear, and
        the consistent rule is not: ``"consistent"`` is ``"minimum-norm"`` here.
    rtol : float, optional
        Gap, relative to the largest singular value, up to which the rule acts.
        Default, and always for ``"consistent"``: 64 eps.
    xp : namespace, optional
        Array namespace; inferred from the arrays if not given.

    Returns
    -------
    SVDResult
        dU, dS and dVh, of the shapes of U, S and Vh. For every rule but
        ``"consistent"`` this is the transpose of `svd_pullback`.

    Raises
    ------
    ValueError
        If `repeated` names no rule or `rtol` lies outside [0, 1).
    """
    check_repeated(repeated, rtol)
    xp = array_namespace(U, S, Vh) if xp is None else xp
    k = last_size(S, xp)
    if known_equal(k, 0):
        return SVDResult(xp.zeros_like(U), xp.zeros_like(S), xp.zeros_like(Vh))
    U1, V1h = leading(U, k), leading(Vh, k, -2)
    V1 = adjoint(V1h, xp)
    s, top = scaled(S, xp)
    scale = cast(1 / top, U, xp)[..., None]

    AV, AU = dA @ V1, adjoint(dA, xp) @ U1
    P = adjoint(U1, xp) @ AV
    lost = s <= rounding_rtol(s, xp) * first(s)  # may be rounding errors
    some_lost = repeated == "consistent" and any_on_host(lost, xp) is not False

    def without_noise(x: Array, where: Array) -> Array:
        # A rounding error divided by another one could be of any size, for example in a
        # Hessian by forward over reverse mode. Reads AV and AU as they are when called.
        if not some_lost:
            return x
        noise = rounding_rtol(s, xp) * xp.maximum(abs_max(AV, xp), abs_max(AU, xp))
        return xp.where(where & (xp.abs(x) < noise), xp.zeros_like(x), x)

    P = without_noise(P, lost[..., None, :] & lost[..., None])
    dS = real_diagonal(P, xp)
    AV, AU, P = AV * scale, AU * scale, P * scale

    rule = "minimum-norm" if repeated == "consistent" else repeated
    E, W = linear_rule(s, rule, None if repeated == "consistent" else rtol, xp)
    odd = cast(inverse_sum(s, xp), P, xp) * skew(P, xp)
    even = cast(E + W, P, xp) * herm(P, xp)
    omega, psi = even + odd, even - odd
    if some_lost and is_complex(P, xp):
        # The relative phase of such u and v may change by 1 / eps. It is given to u
        # alone: v, whose null vectors are needed more often, stays accurate.
        alone = lost[..., None] & (identity_like(P, xp) == 1)
        phase = xp.where(alone, psi, xp.zeros_like(psi))
        omega, psi = omega - phase, psi - phase

    inverse = cast(reciprocal(s, xp), U, xp)[..., None, :]

    def outside(image: Array, Q1: Array, P: Array) -> Array:
        return without_noise(image - Q1 @ P, lost[..., None, :]) * inverse

    dU = _turn(U, omega, AV, P, outside, k, xp)
    dV = _turn(adjoint(Vh, xp), psi, AU, adjoint(P, xp), outside, k, xp)
    return SVDResult(dU, dS, adjoint(dV, xp))


def _fold_null_space(Q: Array, gQ: Array, k: Any, xp: Namespace) -> Array:
    """Cotangent of Q1 with that of the null space Q2 folded in."""
    if known_equal(Q.shape[-1], k):
        return gQ
    Q2, gQ2 = Q[..., k:], gQ[..., k:]
    return leading(gQ, k) - Q2 @ (adjoint(gQ2, xp) @ leading(Q, k))


def _turn(
    Q: Array,
    rotation: Array,
    image: Array,
    P: Array,
    outside: Callable[[Array, Array, Array], Array],
    k: Any,
    xp: Namespace,
) -> Array:
    """Tangent Q1 rotation + (image - Q1 P) S^+ of Q1, and that of Q2 against it.

    `outside` computes the second term.
    """
    Q1 = leading(Q, k)
    if known_equal(Q.shape[-2], k):
        return Q1 @ rotation
    dQ1 = outside(image, Q1, P) + Q1 @ rotation
    if known_equal(Q.shape[-1], k):
        return dQ1
    Q2 = Q[..., k:]
    dQ2 = -(Q1 @ adjoint(adjoint(Q2, xp) @ dQ1, xp))
    return xp.concat([dQ1, dQ2], axis=-1)


def leading(Q: Array, k: Any, axis: int = -1) -> Array:
    """First k columns or, with axis -2, rows; Q itself if it has no more."""
    if known_equal(Q.shape[axis], k):
        return Q
    return Q[..., :k] if axis == -1 else Q[..., :k, :]

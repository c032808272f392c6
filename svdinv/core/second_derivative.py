"""Second derivatives of spectral maps, made of second divided differences."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from svdinv.core.functions import Sample, SpectralFunction, distinct_quotient
from svdinv.core.namespace import (
    Array,
    Namespace,
    adjoint,
    cast,
    conj,
    herm,
    identity_like,
    is_complex,
    real,
    safe_divide,
    skew,
)
from svdinv.core.spectral import (
    Coefficients,
    Direction,
    SVDFactors,
    coefficients,
    diagonal_matrices,
    outside_ranges,
    pair,
    real_diagonal,
    to_tau,
    wider,
)

__all__ = ["spectral_second_derivative"]


def spectral_second_derivative(
    A: Array,
    factors: SVDFactors,
    d: Direction,
    X: Array,
    dtau: Array | None = None,
    *,
    xp: Namespace,
) -> tuple[Array, Array | None]:
    """Apply the second derivative of the spectral map, which is symmetric.

    Parameters
    ----------
    A : array
        Matrices, shape (..., m, n).
    factors : SVDFactors
        From an SVD: all vectors have to be orthonormal.
    d : Direction
        Cotangent G of the result, or one tangent of A and of tau.
    X : array
        Tangent of A, shape (..., m, n).
    dtau : array, optional
        Tangent of tau that goes with X, of its shape.
    xp : namespace
        Array namespace.

    Returns
    -------
    array
        Shape (..., m, n). With `d` and (X, dtau) as tangents, the second
        derivative of the map along both. With G as a cotangent, the tangent of
        the cotangent of A along (X, dtau), and so also the cotangent of A that
        belongs to (X, dtau) as a cotangent of the pullback's results.
    array or None
        The same for the cotangent of tau, of its shape, if f has one.

    Notes
    -----
    Sums over k (x k x k) arrays of second divided differences, a slice at a time.
    """
    function, tau, G, dtau_G = d.function, d.tau, d.X, d.dtau
    U, S, Vh = factors
    tall, wide = outside_ranges(U, Vh, unitary=True)
    closed, has_phase = not (tall or wide), is_complex(A, xp)
    c = coefficients(function, S, tau, closed, has_phase, xp, second=True)
    V, Uh = adjoint(Vh, xp), adjoint(U, xp)
    GV, XV = G @ V, X @ V
    KG, KX = Uh @ GV, Uh @ XV
    block = _triple_sum(function, c, tau, KG, KX, xp)

    # The directions outside the ranges have s = 0.
    near, far = (cast(x, KG, xp) for x in _zero_differences(c, xp))

    def bent(outside: Array, K: Array) -> Array:
        return outside @ (near * herm(K, xp) + far * skew(K, xp))

    KGh, KXh = adjoint(KG, xp), adjoint(KX, xp)
    left = right = None
    if tall:
        GV, XV = GV - U @ KG, XV - U @ KX
        block = block + (near + far) * herm(adjoint(GV, xp) @ XV, xp)
        left = bent(GV, KX) + bent(XV, KG)
    if wide:
        GU, XU = adjoint(G, xp) @ U - V @ KGh, adjoint(X, xp) @ U - V @ KXh
        block = block + (near - far) * herm(adjoint(GU, xp) @ XU, xp)
        right = bent(GU, KXh) + bent(XU, KGh)

    outside = xp.zeros_like(c.s)
    if tall:
        outside = outside + real_diagonal(adjoint(XV, xp) @ GV, xp)
    if wide:
        outside = outside + real_diagonal(adjoint(XU, xp) @ GU, xp)

    gtau = None
    if tau is not None:
        m = _mixed(function, c, tau, KG, KX, outside, dtau, xp)
        block = block + m.block
        phi, gtau = cast(m.phi, KG, xp)[..., None, :], m.gtau
        if left is not None:
            left = left + GV * phi
        if right is not None:
            right = right + GU * phi
        if dtau_G is not None:
            m = _mixed(function, c, tau, KX, KG, outside, dtau_G, xp)
            block = block + m.block
            if dtau is not None:
                bend = function.tau_second_derivative(c.s, c.y, tau, xp)
                block = block + diagonal_matrices(bend * dtau * dtau_G, KG, xp)
            phi = cast(m.phi, KG, xp)[..., None, :]
            if left is not None:
                left = left + XV * phi
            if right is not None:
                right = right + XU * phi
    result = U @ block
    if left is not None:
        result = result + left
    result = result @ Vh
    if right is not None:
        result = result + U @ adjoint(right, xp)
    return result, gtau


class _Mixed(NamedTuple):
    """Derivative in tau of the derivative in A along a cotangent, and its transpose."""

    block: Array
    phi: Array
    gtau: Array


def _mixed(
    function: SpectralFunction,
    c: Coefficients,
    tau: Array,
    KG: Array,
    KX: Array,
    outside: Array,
    dtau: Array | None,
    xp: Namespace,
) -> _Mixed:
    dtau = xp.zeros_like(tau) if dtau is None else dtau
    t = function.tau_derivative(c.s, c.y, tau, xp)
    H, W = herm(KG, xp), skew(KG, xp)
    KXc = conj(KX, xp)
    even, odd = real(KXc * H, xp), real(KXc * W, xp)
    diagonal = (
        function.tau_second_derivative(c.s, c.y, tau, xp) * dtau * real_diagonal(KG, xp)
    )

    def coefficients(t: Array) -> tuple[Array, Array, Array]:
        a, b = pair(c.s, c.y, t)
        minus = function.tau_difference(a, b, wider(tau), xp)
        a, b = Sample(a.s, t[..., :, None]), Sample(b.s, t[..., None, :])
        plus = function.sum_quotient(a, b, minus, xp)
        slope = xp.linalg.diagonal(minus)
        phi = xp.where(c.s > 0, safe_divide(t, c.s, c.s > 0, xp), slope)
        return minus, plus, phi

    if function.weighted:
        minus, plus, phi = coefficients(t * dtau)
        block = cast(minus, KG, xp) * H + cast(plus, KG, xp) * W
        # Of each coefficient, the part that the weight of its row moves.
        a, b = pair(c.s, c.y)
        total = a.s + b.s
        one, zero = xp.ones_like(a.s), xp.zeros_like(a.s)
        moved = distinct_quotient(one, zero, a.s, b.s, xp) * 2 * herm(even, xp)
        moved = moved + safe_divide(2 * herm(odd, xp), total, total > 0, xp)
        moved = xp.sum(moved, axis=-1) + safe_divide(outside, c.s, c.s > 0, xp)
        return _Mixed(block, phi, t * moved + diagonal)
    minus, plus, phi = coefficients(t)
    moved = xp.sum(minus * even + plus * odd, axis=-1) + phi * outside + diagonal
    block = cast(minus, KG, xp) * H + cast(plus, KG, xp) * W
    block = block * cast(dtau, KG, xp)[..., None]
    return _Mixed(block, phi * dtau, to_tau(function, moved, xp))


def _zero_differences(c: Coefficients, xp: Namespace) -> tuple[Array, Array]:
    """f[0, s_i, s_j] and f[0, s_i, -s_j]."""
    si, sj = c.s[..., :, None], c.s[..., None, :]
    phi_i, phi_j = c.phi[..., :, None], c.phi[..., None, :]
    high, total = xp.maximum(si, sj), si + sj
    phi_low = xp.where(si >= sj, phi_j, phi_i)
    near = safe_divide(c.difference - phi_low, high, high > 0, xp)
    return near, safe_divide(phi_i - phi_j, total, total > 0, xp)


# Elements of the largest temporary array in a sum of second differences.
_SLICE = 2**21


def _triple_sum(
    function: SpectralFunction,
    c: Coefficients,
    tau: Any,
    KG: Array,
    KX: Array,
    xp: Namespace,
) -> Array:
    """Second derivative within the ranges of U and V."""
    HG, WG, HX, WX = herm(KG, xp), skew(KG, xp), herm(KX, xp), skew(KX, xp)
    k = c.s.shape[-1]
    size = math.prod(c.difference.shape) if None not in c.difference.shape else None
    step = k if not size else max(1, min(k, _SLICE // size))
    if k == 0:
        return KG
    total = None
    for start in range(0, k, step) if k is not None else (0,):
        part = slice(start, None if step is None else start + step)
        term = _triple_slice(function, c, tau, (HG, WG), (HX, WX), part, xp)
        total = term if total is None else total + term
    return total


def _triple_slice(
    function: SpectralFunction,
    c: Coefficients,
    tau: Any,
    G: tuple[Array, Array],
    X: tuple[Array, Array],
    part: slice,
    xp: Namespace,
) -> Array:
    """Sum over the middle indices in `part`."""
    s, y = c.s, c.y
    i = Sample(s[..., :, None, None], y[..., :, None, None])
    j = Sample(s[..., None, None, :], y[..., None, None, :])
    k = Sample(s[..., None, part, None], y[..., None, part, None])
    minus_ij, minus_ik = c.difference[..., :, None, :], c.difference[..., :, part, None]
    plus_ij, plus_ik = (
        c.sum_quotient[..., :, None, :],
        c.sum_quotient[..., :, part, None],
    )
    minus_kj, plus_kj = (
        c.difference[..., None, part, :],
        c.sum_quotient[..., None, part, :],
    )

    def one_negative(
        a: Array, b: Array, r: Array, ab: Array, ar: Array, br: Array
    ) -> Array:
        """f[a, b, -r], over its widest gap, that from -r to the larger of a and b."""
        gap = xp.maximum(a, b) + r
        return safe_divide(ab - xp.where(a >= b, br, ar), gap, gap > 0, xp)

    coefficients = (
        function.second_difference(
            (i, k, j), (minus_ik, minus_kj, minus_ij), wider(wider(tau)), xp
        ),
        -one_negative(i.s, j.s, k.s, minus_ij, plus_ik, plus_kj),
        one_negative(i.s, k.s, j.s, minus_ik, plus_ij, plus_kj),
        one_negative(k.s, j.s, i.s, minus_kj, plus_ik, plus_ij),
    )
    (HG, WG), (HX, WX) = G, X

    def products(left: Array, right: Array) -> tuple[Array, Array]:
        return left[..., :, part, None], right[..., None, part, :]

    factors = (
        ((HG, HX), (WG, WX), (HG, WX), (WG, HX)),
        ((HX, HG), (WX, WG), (HX, WG), (WX, HG)),
    )
    terms = []
    for coefficient, one, two in zip(coefficients, *factors, strict=True):
        a, b = products(*one)
        d, e = products(*two)
        terms.append(cast(coefficient, HG, xp) * (a * b + d * e))
    hermitian = xp.sum(terms[0] + terms[1], axis=-2)
    skewed = xp.sum(terms[2] + terms[3], axis=-2)
    if not is_complex(HG, xp):
        # Of real matrices the two terms are each other's negative on the diagonal.
        skewed = skewed - identity_like(skewed, xp) * skewed
    return hermitian + skewed

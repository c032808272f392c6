"""Spectral maps A = U diag(s) V^H -> U diag(f(s)) V^H and their derivatives.

They are differentiable wherever f is, repeated and zero singular values included
(Daleckii and Krein; V. Noferini, "A formula for the Frechet derivative of a
generalized matrix function", SIAM J. Matrix Anal. Appl. 38(2), 2017): with
K = U^H X V and the divided differences of the odd extension of f,

    D-_ij = f[s_i, s_j]    D+_ij = f[s_i, -s_j]    phi_i = f[s_i, 0]

    DF(A)[X] = U [D- o herm(K) + D+ o skew(K)] V^H
               + (X V - U K) diag(phi) V^H + U diag(phi) (U^H X - K V^H)

This map is its own transpose, so it is the pushforward and the pullback. The second
derivative is made of second divided differences in the same way.

The factors of A come from the SVD, as (U, S, Vh), or from the eigenvectors of a
Gram matrix, as (S, V). Then, for m >= n (a wide matrix is turned),

    F(A) = A h(N),  N = A^H A,  h(s^2) = f(s) / s
    DF(A)[X] = X h(N) + A V [h[s_i^2, s_j^2] o (Z + Z^H)] V^H,  Z = V^H A^H X V

which needs no U, and no singular values that f sets to 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from svdinv.core import polynomial_iteration
from svdinv.core.factors import Factors, largest_value
from svdinv.core.functions import (
    Polar,
    Sample,
    Soft,
    SpectralFunction,
    TopSubgradient,
    distinct_quotient,
)
from svdinv.core.namespace import (
    Array,
    Namespace,
    add_product,
    adjoint,
    cast,
    conj,
    herm,
    identity_like,
    inner,
    is_complex,
    is_wide,
    known_equal,
    real,
    safe_divide,
    skew,
)
from svdinv.core.tolerances import eps, neighbour_rtol, rounding_rtol

__all__ = ["spectral_derivative", "spectral_map", "spectral_second_derivative"]


class _Coefficients(NamedTuple):
    """y = f(s), phi = y / s, D-, D+, and the s they belong to."""

    s: Array
    y: Array
    phi: Array
    difference: Array
    sum_quotient: Array


def spectral_map(
    function: SpectralFunction,
    A: Array,
    tau: Array | None,
    factors: Factors,
    *,
    xp: Namespace,
) -> Array:
    """U f(S) V^H.

    Parameters
    ----------
    function : SpectralFunction
        f and its divided differences.
    A : array
        Matrices, shape (..., m, n).
    tau : array or None
        Parameter of f, shape (..., 1), or (..., k) if f is `weighted`.
    factors : tuple of array
        Of A, as from `svdinv.core.factors.factorise`.
    xp : namespace
        Array namespace.

    Returns
    -------
    array
        Shape (..., m, n).
    """
    if len(factors) == 1:
        return factors[0][..., 2 if isinstance(function, TopSubgradient) else 0, :, :]
    if len(factors) == 3:
        U, S, Vh = factors
        y = cast(function.value(S, tau, xp), A, xp)
        return (U * y[..., None, :]) @ Vh
    S, V = factors
    y = function.value(S, tau, xp)
    phi = cast(safe_divide(y, S, S > 0, xp), V, xp)
    W = (V * phi[..., None, :]) @ adjoint(V, xp)
    return W @ A if is_wide(A) else A @ W


def spectral_derivative(
    function: SpectralFunction,
    A: Array,
    tau: Array | None,
    factors: Factors,
    X: Array,
    dtau: Array | None = None,
    *,
    transposed: bool = False,
    ratio: Array | None = None,
    xp: Namespace,
) -> tuple[Array, Array | None]:
    """Apply the derivative of the spectral map, which is its own transpose.

    Parameters
    ----------
    function, A, tau, factors, xp
        As for `spectral_map`.
    X : array
        Tangent of A, or cotangent of the result, shape (..., m, n).
    dtau : array, optional
        Tangent of tau, of its shape.
    transposed : bool, optional
        Whether to compute the cotangent of tau.
    ratio : array, optional
        tau / s_1, of the shape of tau, if that is the parameter, with `transposed`.

    Returns
    -------
    array
        DF(A)[X], plus df/dtau dtau, or what reaches A through s_1 if `ratio` is
        given; shape (..., m, n).
    array or None
        Cotangent of tau, or of `ratio`, of its shape, if `transposed` and f has one.
    """
    along = (_along_products, _along_gram, _along_svd)[len(factors) - 1]
    return along(function, A, tau, factors, X, dtau, transposed, ratio, xp)


def _through_top(
    ratio: Array, gtau: Array, S: Array, xp: Namespace
) -> tuple[Array, Array]:
    """Give what tau = ratio s_1 adds to the cotangent of S, and that of ratio."""
    gtop = xp.sum(ratio * gtau, axis=-1, keepdims=True)
    return gtop * TopSubgradient(1).value(S, None, xp), gtau * S[..., :1]


def _along_products(
    function: SpectralFunction,
    A: Array,
    tau: Any,
    factors: Factors,
    X: Array,
    dtau: Any,
    transposed: bool,
    ratio: Any,
    xp: Namespace,
) -> tuple[Array, Array | None]:
    stack = factors[0]
    if isinstance(function, Polar):
        return polynomial_iteration.polar_derivative(
            A, X, factor=stack[..., 0, :, :], xp=xp
        ), None
    if not isinstance(function, Soft):
        svd = tuple(xp.linalg.svd(A, full_matrices=False))
        return _along_svd(function, A, tau, svd, X, dtau, transposed, ratio, xp)
    result, T = polynomial_iteration.soft_threshold_derivative(
        A, tau[..., 0], X, step=stack[..., 1, :, :], xp=xp
    )
    if dtau is not None:
        result = result + T * cast(dtau[..., None], A, xp)
    if not transposed:
        return result, None
    gtau = inner(T, X, xp)[..., None]
    if ratio is not None:
        L = stack[..., 2, :, :]
        result = result + L * cast((ratio * gtau)[..., None], A, xp)
        gtau = gtau * largest_value(A, factors, xp)
    return result, gtau


def _along_svd(
    function: SpectralFunction,
    A: Array,
    tau: Any,
    factors: Factors,
    X: Array,
    dtau: Any,
    transposed: bool,
    ratio: Any,
    xp: Namespace,
) -> tuple[Array, Array | None]:
    U, S, Vh = factors
    tall, wide = _outside(U, Vh, function.needs_unitary)
    closed, has_phase = not (tall or wide), is_complex(A, xp)
    c = _coefficients(function, S, tau, closed, has_phase, xp)
    XV = X @ adjoint(Vh, xp)
    K = adjoint(U, xp) @ XV
    slope = None if tau is None else function.tau_derivative(c.s, c.y, tau, xp)
    shift = None if dtau is None else slope * dtau
    gtau = None
    if transposed and slope is not None:
        gtau = _to_tau(function, slope * _real_diagonal(K, xp), xp)
    if ratio is not None:
        shift, gtau = _through_top(ratio, gtau, S, xp)
    # D- o herm(K) + D+ o skew(K) - K diag(phi) - diag(phi) K, in few passes
    half, phi = 0.5 * K, cast(c.phi, K, xp)
    even, odd = c.difference + c.sum_quotient, c.difference - c.sum_quotient
    if tall:
        even = even - 2 * c.phi[..., None, :]
    if wide:
        even = even - 2 * c.phi[..., :, None]
    right = cast(even, K, xp) * half + cast(odd, K, xp) * adjoint(half, xp)
    left = U @ right
    if tall:
        left = left + XV * phi[..., None, :]
    if shift is not None:
        left = left + U * cast(shift, K, xp)[..., None, :]
    result = left @ Vh
    if wide:
        result = result + (U * phi[..., None, :]) @ (adjoint(U, xp) @ X)
    return result, gtau


def _along_gram(
    function: SpectralFunction,
    A: Array,
    tau: Any,
    factors: Factors,
    X: Array,
    dtau: Any,
    transposed: bool,
    ratio: Any,
    xp: Namespace,
) -> tuple[Array, Array | None]:
    if is_wide(A):
        Ah, Xh = adjoint(A, xp), adjoint(X, xp)
        result, gtau = _along_gram(
            function, Ah, tau, factors, Xh, dtau, transposed, ratio, xp
        )
        return adjoint(result, xp), gtau
    S, V = factors
    y = function.value(S, tau, xp)
    positive = S > 0
    phi = safe_divide(y, S, positive, xp)
    Vh = adjoint(V, xp)
    Z = Vh @ (adjoint(A, xp) @ X) @ V
    block = cast(_gram_difference(function, S, y, phi, tau, xp), Z, xp) * (
        Z + adjoint(Z, xp)
    )
    slope = None
    if tau is not None:
        slope = safe_divide(function.tau_derivative(S, y, tau, xp), S, positive, xp)
    if dtau is not None:
        block = block + _diagonal(slope * dtau, Z, xp)
    gtau = None
    if transposed and slope is not None:
        gtau = _to_tau(function, slope * _real_diagonal(Z, xp), xp)
    if ratio is not None:
        more, gtau = _through_top(ratio, gtau, S, xp)
        block = block + _diagonal(safe_divide(more, S, positive, xp), Z, xp)
    outer = (V * cast(phi, V, xp)[..., None, :]) @ Vh
    return add_product(X @ outer, A, V @ block @ Vh, xp), gtau


def _gram_difference(
    function: SpectralFunction, s: Array, y: Array, phi: Array, tau: Any, xp: Namespace
) -> Array:
    """h[s_i^2, s_j^2], with (D- - D+) / (2 s_i s_j) where both are kept."""
    closed = function.gram_difference(s, y, phi, tau, xp)
    if closed is not None:
        return closed
    a, b = _pair(s, y)
    phi_i, phi_j = phi[..., :, None], phi[..., None, :]
    total = a.s + b.s
    minus = function.difference(a, b, _wider(tau), xp)
    plus = safe_divide(a.y + b.y, total, total > 0, xp)
    both = (a.y > 0) & (b.y > 0)
    inside = safe_divide(0.5 * (minus - plus), a.s * b.s, both, xp)
    across = distinct_quotient(phi_i, phi_j, a.s, b.s, xp)
    across = safe_divide(across, total, total > 0, xp)
    return xp.where(both, inside, across)


def _coefficients(
    function: SpectralFunction,
    s: Array,
    tau: Any,
    closed: bool,
    has_phase: bool,
    xp: Namespace,
    second: bool = False,
) -> _Coefficients:
    if second and function.smooth_at_zero:
        # Second differences of values that small lose all digits, and are as small.
        floor = neighbour_rtol(None, eps(s, xp)) * s[..., :1]
        s = xp.where(s > floor, s, xp.zeros_like(s))
    y = function.value(s, tau, xp)
    lone: Any = None
    if not function.smooth_at_zero:
        # A value at rounding level is none to divide by. Without anything outside the
        # ranges, one alone is always added to a larger one: it keeps what f makes of
        # it.
        small = s <= rounding_rtol(s, xp) * s[..., :1]
        single = ~_several(small, s, xp) & (y != 0)
        zero = small & ~single if closed else small
        s = xp.where(zero, xp.zeros_like(s), s)
        lone = small & ~zero
    a, b = _pair(s, y)
    minus = function.difference(a, b, _wider(tau), xp)
    plus = function.sum_quotient(a, b, minus, xp)
    slope = xp.linalg.diagonal(minus)
    phi = xp.where(s > 0, safe_divide(y, s, s > 0, xp), slope)
    if not has_phase or lone is not None:
        # f(s) / s on the diagonal of D+ belongs to the phases of the vectors. Of real
        # ones all that it multiplies is 0, but for rounding errors.
        left_out = identity_like(plus, xp) == 1
        left_out = left_out & lone[..., None] if has_phase else left_out
        plus = xp.where(left_out, minus, plus)
    return _Coefficients(s, y, phi, minus, plus)


def _several(mask: Array, s: Array, xp: Namespace) -> Array:
    """Whether more than one singular value of a matrix is in the mask, (..., 1)."""
    return xp.sum(xp.astype(mask, s.dtype), axis=-1, keepdims=True) > 1


def spectral_second_derivative(
    function: SpectralFunction,
    A: Array,
    tau: Array | None,
    factors: Factors,
    G: Array,
    X: Array,
    dtau: Array | None = None,
    dtau_G: Array | None = None,
    *,
    xp: Namespace,
) -> tuple[Array, Array | None]:
    """Apply the second derivative of the spectral map, which is symmetric.

    Parameters
    ----------
    function, A, tau, xp
        As for `spectral_map`.
    factors : tuple of array
        ``(U, S, Vh)``, thin, from an SVD: all vectors have to be orthonormal.
    G : array
        Cotangent of the result, or one tangent of A, shape (..., m, n).
    X : array
        Tangent of A, shape (..., m, n).
    dtau : array, optional
        Tangent of tau that goes with X, of its shape.
    dtau_G : array, optional
        Tangent of tau that goes with G, if G is a tangent.

    Returns
    -------
    array
        Shape (..., m, n). With (G, dtau_G) and (X, dtau) as tangents, the second
        derivative of the map along both. With G as a cotangent, the tangent of
        the cotangent of A along (X, dtau), and so also the cotangent of A that
        belongs to (X, dtau) as a cotangent of the pullback's results.
    array or None
        The same for the cotangent of tau, of its shape, if f has one.

    Notes
    -----
    Sums over k (x k x k) arrays of second divided differences, a slice at a time.
    """
    U, S, Vh = factors
    tall, wide = _outside(U, Vh, unitary=True)
    closed, has_phase = not (tall or wide), is_complex(A, xp)
    c = _coefficients(function, S, tau, closed, has_phase, xp, second=True)
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
        outside = outside + _real_diagonal(adjoint(XV, xp) @ GV, xp)
    if wide:
        outside = outside + _real_diagonal(adjoint(XU, xp) @ GU, xp)

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
                block = block + _diagonal(bend * dtau * dtau_G, KG, xp)
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
    c: _Coefficients,
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
        function.tau_second_derivative(c.s, c.y, tau, xp)
        * dtau
        * _real_diagonal(KG, xp)
    )

    def coefficients(t: Array) -> tuple[Array, Array, Array]:
        a, b = _pair(c.s, c.y, t)
        minus = function.tau_difference(a, b, _wider(tau), xp)
        a, b = Sample(a.s, t[..., :, None]), Sample(b.s, t[..., None, :])
        plus = function.sum_quotient(a, b, minus, xp)
        slope = xp.linalg.diagonal(minus)
        phi = xp.where(c.s > 0, safe_divide(t, c.s, c.s > 0, xp), slope)
        return minus, plus, phi

    if function.weighted:
        minus, plus, phi = coefficients(t * dtau)
        block = cast(minus, KG, xp) * H + cast(plus, KG, xp) * W
        # Of each coefficient, the part that the weight of its row moves.
        a, b = _pair(c.s, c.y)
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
    return _Mixed(block, phi * dtau, _to_tau(function, moved, xp))


def _zero_differences(c: _Coefficients, xp: Namespace) -> tuple[Array, Array]:
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
    c: _Coefficients,
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
    c: _Coefficients,
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
            (i, k, j), (minus_ik, minus_kj, minus_ij), _wider(_wider(tau)), xp
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


def _pair(s: Array, y: Array, t: Array | None = None) -> tuple[Sample, Sample]:
    """Points of the rows and of the columns of a k x k array."""
    rows = (None if x is None else x[..., :, None] for x in (s, y, t))
    columns = (None if x is None else x[..., None, :] for x in (s, y, t))
    return Sample(*rows), Sample(*columns)


def _wider(tau: Any) -> Any:
    return None if tau is None else tau[..., None]


def _to_tau(function: SpectralFunction, gtau: Array, xp: Namespace) -> Array:
    return gtau if function.weighted else xp.sum(gtau, axis=-1, keepdims=True)


def _diagonal(d: Array, like: Array, xp: Namespace) -> Array:
    return cast(d, like, xp)[..., None, :] * identity_like(like, xp)


def _real_diagonal(K: Array, xp: Namespace) -> Array:
    return real(xp.linalg.diagonal(K), xp)


def _outside(U: Array, Vh: Array, unitary: bool) -> tuple[bool, bool]:
    """Whether something may lie outside the ranges of U and of V.

    Of a square matrix, too, outside that of U, if it comes from the Gram matrix and
    is not known to be unitary.
    """
    m, n = U.shape[-2], Vh.shape[-1]
    if known_equal(m, n):
        return not unitary, False
    known = isinstance(m, int) and isinstance(n, int)
    return not known or m >= n, not known or m < n

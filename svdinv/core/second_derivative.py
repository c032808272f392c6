"""Second derivatives of spectral maps, made of second divided differences."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from svdinv.core.functions import (
    Sample,
    SpectralFunction,
    distinct_quotient,
    middle_parts,
)
from svdinv.core.namespace import (
    Array,
    Namespace,
    adjoint,
    cast,
    conj,
    first,
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
    over_s,
    pair,
    real_diagonal,
    to_tau,
    wider,
)
from svdinv.core.tolerances import eps, neighbour_rtol, rounding_rtol

__all__ = ["spectral_second_derivative"]


class _Side(NamedTuple):
    """Parts of directions G and X outside the range of U or, transposed, of V."""

    G: Array
    X: Array
    KG: Array
    KX: Array


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

    The factors must be those of an SVD, with orthonormal vectors. `d` holds tangents of
    A and tau, or the cotangent G of the result; X and `dtau`, which may be None, are
    tangents of A and tau. For two tangents, the first output is the second derivative
    of the map along both. For a cotangent, the outputs are the tangents along (X, dtau)
    of the cotangents of A and, if f has it, tau (else None). By symmetry, they are also
    the cotangents of A and tau for cotangents (X, dtau) of the pullback's results.
    """
    function, tau, G = d.function, d.tau, d.X
    U, S, Vh = factors
    tall, wide = outside_ranges(U, Vh, unitary=True)
    closed, has_phase = not (tall or wide), is_complex(A, xp)
    c = coefficients(function, S, tau, closed, has_phase, xp, second=True)
    V, Uh = adjoint(Vh, xp), adjoint(U, xp)
    GV, XV = G @ V, X @ V
    KG, KX = Uh @ GV, Uh @ XV
    pieces = function.pieces(c.s, c.y, tau, xp)
    if pieces is None:
        block = _triple_sum(function, c, tau, KG, KX, xp)
    else:
        block = _of_pieces(c, pieces, KG, KX, xp)

    # The directions outside the ranges have s = 0.
    near, far = (cast(x, KG, xp) for x in _zero_differences(function, c, tau, xp))
    left = right = None
    if tall:
        left = _Side(GV - U @ KG, XV - U @ KX, KG, KX)
    if wide:
        KGh, KXh = adjoint(KG, xp), adjoint(KX, xp)
        GU, XU = adjoint(G, xp) @ U - V @ KGh, adjoint(X, xp) @ U - V @ KXh
        right = _Side(GU, XU, KGh, KXh)
    outside = xp.zeros_like(c.s)
    for side, both in ((left, near + far), (right, near - far)):
        if side is not None:
            product = adjoint(side.G, xp) @ side.X
            block = block + both * herm(product, xp)
            outside = outside + real_diagonal(product, xp)

    gtau = phi_G = phi_X = None
    if tau is not None:
        m = _mixed(function, c, tau, KG, KX, outside, dtau, xp)
        block, phi_X, gtau = block + m.block, m.phi, m.gtau
    if d.dtau is not None:
        m = _mixed(function, c, tau, KX, KG, outside, d.dtau, xp)
        block, phi_G = block + m.block, m.phi
        if dtau is not None:
            bend = function.tau_second_derivative(c.s, c.y, tau, xp)
            block = block + diagonal_matrices(bend * dtau * d.dtau, KG, xp)

    def bent(side: _Side) -> Array:
        terms = []
        for outside, K, phi in ((side.G, side.KX, phi_X), (side.X, side.KG, phi_G)):
            turn = near * herm(K, xp) + far * skew(K, xp)
            if phi is not None:
                turn = turn + diagonal_matrices(phi, K, xp)
            terms.append(outside @ turn)
        return terms[0] + terms[1]

    result = U @ block
    if left is not None:
        result = result + bent(left)
    result = result @ Vh
    if right is not None:
        result = result + U @ adjoint(bent(right), xp)
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
    t = t * dtau if function.weighted else t
    a, b = pair(c.s, c.y, t)
    minus = function.tau_difference(a, b, wider(tau), xp)
    rows, columns = pair(c.s, t)
    plus = function.sum_quotient(rows, columns, minus, xp)
    phi = over_s(t, c.s, minus, xp)

    H, W = herm(KG, xp), skew(KG, xp)
    KXc = conj(KX, xp)
    even, odd = real(KXc * H, xp), real(KXc * W, xp)
    if function.weighted:
        # The part of each coefficient that depends on the weight of its row.
        total = a.s + b.s
        one, zero = xp.ones_like(a.s), xp.zeros_like(a.s)
        moved = distinct_quotient(one, zero, a.s, b.s, xp) * 2 * herm(even, xp)
        moved = moved + safe_divide(2 * herm(odd, xp), total, total > 0, xp)
        moved = xp.sum(moved, axis=-1) + safe_divide(outside, c.s, c.s > 0, xp)
        moved = function.tau_derivative(c.s, c.y, tau, xp) * moved
    else:
        moved = xp.sum(minus * even + plus * odd, axis=-1) + phi * outside
        minus, plus, phi = minus * wider(dtau), plus * wider(dtau), phi * dtau
    bend = function.tau_second_derivative(c.s, c.y, tau, xp)
    moved = moved + bend * dtau * real_diagonal(KG, xp)
    block = cast(minus, KG, xp) * H + cast(plus, KG, xp) * W
    return _Mixed(block, phi, to_tau(function, moved, xp))


def _zero_differences(
    function: SpectralFunction, c: Coefficients, tau: Any, xp: Namespace
) -> tuple[Array, Array]:
    """f[0, s_i, s_j] and f[0, s_i, -s_j]."""
    i, j = pair(c.s, c.phi)
    if function.signed:
        a, b = _outermost(c.s, c.y)
        zero, slopes = Sample(0 * a.s, 0 * a.y), (j.y[..., None, :], i.y[..., None, :])
        return tuple(
            function.second_difference(
                (a, point, zero), (d[..., None, :], *slopes), wider(wider(tau)), xp
            )[..., 0, :]
            for point, d in ((b, c.difference), (_negative(b), c.sum_quotient))
        )
    phi_low, top = xp.where(i.s >= j.s, j.y, i.y), first(i.s, -2)
    near = _rise(c.difference, phi_low, xp.maximum(i.s, j.s), top, xp)
    return near, _rise(i.y, j.y, i.s + j.s, top, xp)


def _outermost(*x: Array) -> tuple[Sample, Sample]:
    """Points of the first and of the last axis of a k x k x k array."""
    rows = Sample(*(t[..., :, None, None] for t in x))
    return rows, Sample(*(t[..., None, None, :] for t in x))


def _negative(point: Sample) -> Sample:
    """Return the point at -s of an odd function."""
    return Sample(-point.s, -point.y)


def _rise(x: Array, y: Array, gap: Array, top: Array, xp: Namespace) -> Array:
    """(x - y) / gap, but 0 for a rounding error over a gap below sqrt(eps) `top`.

    Over such a gap, a rounding error would exceed the rise of most functions, whose
    curvature is 0 at 0.
    """
    rise, rtol = x - y, neighbour_rtol(None, eps(gap, xp))
    size = rounding_rtol(gap, xp) * xp.maximum(xp.abs(x), xp.abs(y))
    known = (gap > 0) & ~((gap <= rtol * top) & (xp.abs(rise) <= size))
    return safe_divide(rise, gap, known, xp)


def _of_pieces(
    c: Coefficients, pieces: Array, KG: Array, KX: Array, xp: Namespace
) -> Array:
    """`_triple_sum` of a piecewise linear function, by matrix products.

    A second difference is the quotient of two first ones over the widest gap of the
    three points. The order of the points, two at a time, determines the widest gap, so
    that each sum is a few products of masked matrices. A second difference is 0 if both
    end points are in one piece; subtracting a multiple of s from f does not change it.
    """
    one = xp.ones_like(c.s)
    index = xp.cumulative_sum(one, axis=-1)
    (i, j), (p, q), (row, column) = (
        (x[..., :, None], x[..., None, :]) for x in (c.s, pieces, index)
    )

    def as_number(mask: Array) -> Array:
        return xp.astype(mask, c.s.dtype)

    upper, eye = as_number(row < column), as_number(row == column)
    # 1 / (s_i - s_j) above the diagonal, and 1 / (s_i + s_j).
    gap, least = i - j, rounding_rtol(i, xp) * first(i, -2)
    minus = safe_divide(upper * as_number(p != q), gap, gap > least, xp)
    plus = safe_divide(as_number(p + q > 0), i + j, i + j > 0, xp)
    slope = first(first(c.difference, -2))
    D, P = c.difference - slope, c.sum_quotient - slope
    D, P, minus, plus, upper, eye = (
        cast(x, KG, xp) for x in (D, P, minus, plus, upper, eye)
    )
    lower, up = 1 - upper - eye, upper + eye
    H, W = ((f(KG, xp), f(KX, xp)) for f in (herm, skew))

    def sums(*terms: tuple[Any, tuple[Array, Array], Any, tuple[Array, Array]]) -> Any:
        """Add all (a o X_1) (b o Y_2) + (a o X_2) (b o Y_1), in one product."""
        left = [a * x for a, X, _, _ in terms for x in X]
        right = [b * y for _, _, b, Y in terms for y in Y[::-1]]
        return xp.concat(left, axis=-1) @ xp.concat(right, axis=-2)

    low_D, up_D = lower * D, up * D
    hermitian = sums((low_D, H, minus, H), (-minus, H, low_D, H), (plus, W, P, W))
    hermitian = hermitian + D * sums(
        (minus, H, lower, H), (-lower, H, minus, H), (-plus, W, 1, W)
    )
    hermitian = hermitian + minus * sums((up_D, H, up, H), (-up, H, up_D, H))
    half = (upper + 0.5 * eye) * hermitian
    skewed = plus * sums((up_D, H, 1, W), (-up, H, P, W))
    skewed = skewed + sums((low_D, H, plus, W)) - P * sums((lower, H, plus, W))
    return half + adjoint(half, xp) + skewed - adjoint(skewed, xp)


def _triple_sum(
    function: SpectralFunction,
    c: Coefficients,
    tau: Any,
    KG: Array,
    KX: Array,
    xp: Namespace,
) -> Array:
    """Second derivative within the ranges of U and V: sums over (k x k x k) arrays."""
    HG, WG, HX, WX = herm(KG, xp), skew(KG, xp), herm(KX, xp), skew(KX, xp)
    i, j = _outermost(c.s, c.y)
    minus_ij, plus_ij = c.difference[..., :, None, :], c.sum_quotient[..., :, None, :]

    top = first(i.s, -3)

    def one_negative(a: Any, b: Any, r: Any, ab: Any, ar: Any, br: Any) -> Array:
        """f[a, b, -r], over its widest gap, that from -r to the larger of a and b."""
        low = xp.where(a >= b, br, ar)
        return _rise(ab, low, xp.maximum(a, b) + r, top, xp)

    def over(part: slice) -> Array:
        """Sum over a slice of the middle index k."""

        def rows(x: Array) -> Array:
            return x[..., :, part, None]

        def columns(x: Array) -> Array:
            return x[..., None, part, :]

        def term(coefficient: Array, *pairs: tuple[Array, Array]) -> Array:
            one, two = (rows(a) * columns(b) for a, b in pairs)
            return cast(coefficient, HG, xp) * (one + two)

        k = Sample(*(x[..., None, part, None] for x in (c.s, c.y)))
        minus_ik, plus_ik = rows(c.difference), rows(c.sum_quotient)
        minus_kj, plus_kj = columns(c.difference), columns(c.sum_quotient)
        differences = minus_ik, minus_kj, minus_ij
        second = partial(function.second_difference, tau=wider(wider(tau)), xp=xp)
        even = second((i, k, j), differences)
        if function.signed:
            odd = second((i, j, _negative(k)), (minus_ij, plus_kj, plus_ik))
            left = second((_negative(i), j, k), (plus_ij, minus_kj, plus_ik))
            right = second((i, k, _negative(j)), (minus_ik, plus_kj, plus_ij))
        else:
            odd = one_negative(i.s, j.s, k.s, minus_ij, plus_ik, plus_kj)
            left = one_negative(k.s, j.s, i.s, minus_kj, plus_ik, plus_ij)
            right = one_negative(i.s, k.s, j.s, minus_ik, plus_ij, plus_kj)
        hermitian = term(even, (HG, HX), (HX, HG)) - term(odd, (WG, WX), (WX, WG))
        skewed = term(right, (HG, WX), (HX, WG)) + term(left, (WG, HX), (WX, HG))
        hermitian, skewed = xp.sum(hermitian, axis=-2), xp.sum(skewed, axis=-2)
        if not is_complex(HG, xp):
            # Of real matrices the two terms are each other's negative on the diagonal.
            skewed = skewed - identity_like(skewed, xp) * skewed
        return hermitian + skewed

    return sum(over(part) for part in middle_parts(c.difference))

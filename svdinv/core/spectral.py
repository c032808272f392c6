"""Spectral maps A = U diag(s) V^H -> U diag(f(s)) V^H and their derivatives.

They are differentiable wherever f is, repeated and zero singular values included
(Daleckii and Krein; V. Noferini, "A formula for the Frechet derivative of a
generalized matrix function", SIAM J. Matrix Anal. Appl. 38(2), 2017): with
K = U^H X V and the divided differences of the odd extension of f,

    D-_ij = f[s_i, s_j]    D+_ij = f[s_i, -s_j]    phi_i = f[s_i, 0]

    DF(A)[X] = U [D- o herm(K) + D+ o skew(K)] V^H
               + (X V - U K) diag(phi) V^H + U diag(phi) (U^H X - K V^H)

This map is its own transpose, so it is the pushforward and the pullback. The second
derivative, in `svdinv.core.second_derivative`, is made of second divided differences
in the same way. `svdinv.core.gram` and `svdinv.core.polynomial_iteration` have the
same maps without an SVD.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from svdinv.core.functions import Sample, SpectralFunction, TopSubgradient
from svdinv.core.namespace import (
    Array,
    Namespace,
    add_product,
    adjoint,
    all_reduce,
    cast,
    first,
    identity_like,
    is_complex,
    known_equal,
    real,
    safe_divide,
)
from svdinv.core.tolerances import ASPECT_LIMIT, rounding_rtol


class Direction(NamedTuple):
    """Which derivative of a spectral map to compute."""

    function: SpectralFunction
    tau: Any  # None, or (..., 1), or (..., k) if the function is `weighted`
    X: Array  # tangent of A, or cotangent of the result, (..., m, n)
    dtau: Any = None  # tangent of tau, of its shape
    transposed: bool = False  # whether to compute the cotangent of tau
    ratio: Any = None  # tau / s_1, if that is the parameter, with `transposed`


class SVDFactors(NamedTuple):
    """Thin factors of A = U diag(S) Vh."""

    U: Array
    S: Array
    Vh: Array

    def largest(self, A: Array, xp: Namespace) -> Array:
        """Return s_1, shape (..., 1)."""
        return first(self.S)

    def map(
        self, function: SpectralFunction, A: Array, tau: Any, xp: Namespace
    ) -> Array:
        """Compute U f(S) V^H, shape (..., m, n)."""
        return self.composed(function.value(self.S, tau, xp), xp)

    def composed(self, y: Array, xp: Namespace) -> Array:
        """Compute U diag(y) V^H, shape (..., m, n)."""
        U, _, Vh = self
        y = cast(y, U, xp)
        if _is_slender(U, Vh):
            return U @ (y[..., :, None] * Vh)
        return (U * y[..., None, :]) @ Vh

    def derivative(self, A: Array, d: Direction, xp: Namespace) -> tuple[Array, Any]:
        """Apply the derivative of the map, which is its own transpose.

        Returns DF(A)[X], shape (..., m, n), plus df/dtau dtau or, if `d.ratio` is
        given, the part of the cotangent of A that comes through s_1; and the cotangent
        of tau, or of `d.ratio`, of its shape, if `d.transposed` and f has one, else
        None.
        """
        U, S, Vh = self
        function, tau, X = d.function, d.tau, d.X
        tall, wide = outside_ranges(U, Vh, function.needs_unitary)
        closed, has_phase = not (tall or wide), is_complex(A, xp)
        c = coefficients(function, S, tau, closed, has_phase, xp)
        XV, K = self.projected(X, xp)
        slope = None if tau is None else function.tau_derivative(c.s, c.y, tau, xp)
        shift = None if d.dtau is None else slope * d.dtau
        gtau = None
        if d.transposed and slope is not None:
            gtau = to_tau(function, slope * real_diagonal(K, xp), xp)
        if d.ratio is not None:
            shift, gtau = through_largest(d.ratio, gtau, S, xp)
        return self.recomposed(c, X, XV, K, shift, (tall, wide), xp), gtau

    def projected(self, X: Array, xp: Namespace) -> tuple[Array | None, Array]:
        """X V, or None where it is not needed, and U^H X V."""
        U, _, Vh = self
        if _is_slender(U, Vh):
            return None, all_reduce((adjoint(U, xp) @ X) @ adjoint(Vh, xp), xp)
        XV = all_reduce(X @ adjoint(Vh, xp), xp)
        return XV, all_reduce(adjoint(U, xp) @ XV, xp)

    def recomposed(
        self,
        c: Coefficients,
        X: Array,
        XV: Array | None,
        K: Array,
        shift: Array | None,
        sides: tuple[bool, bool],
        xp: Namespace,
    ) -> Array:
        """DF(A)[X] + U diag(shift) V^H, from `projected` and `outside_ranges`."""
        U, _, Vh = self
        tall, wide = sides
        # D- o herm(K) + D+ o skew(K) - K diag(phi) - diag(phi) K, in few passes
        half, phi = 0.5 * K, cast(c.phi, K, xp)
        even, odd = c.difference + c.sum_quotient, c.difference - c.sum_quotient
        if tall:
            even = even - 2 * c.phi[..., None, :]
        if wide:
            even = even - 2 * c.phi[..., :, None]
        middle = cast(even, K, xp) * half + cast(odd, K, xp) * adjoint(half, xp)
        if shift is not None:
            middle = middle + diagonal_matrices(shift, K, xp)
        if XV is None:  # two passes over large matrices
            outer = (adjoint(Vh, xp) * phi[..., None, :]) @ Vh
            return add_product(X @ outer, U, middle @ Vh, xp)
        left = U @ middle
        if tall:
            left = left + XV * phi[..., None, :]
        if not wide:
            return left @ Vh
        outer = (U * phi[..., None, :]) @ adjoint(U, xp)
        return add_product(outer @ X, left, Vh, xp)


class Coefficients(NamedTuple):
    """y = f(s), phi = y / s, D-, D+, and the s they belong to."""

    s: Array
    y: Array
    phi: Array
    difference: Array
    sum_quotient: Array


def through_largest(
    ratio: Array, gtau: Array, S: Array, xp: Namespace
) -> tuple[Array, Array]:
    """Cotangent of S through tau = ratio s_1, and cotangent of ratio."""
    gtop = xp.sum(ratio * gtau, axis=-1, keepdims=True)
    return gtop * TopSubgradient(1).value(S, None, xp), gtau * first(S)


def coefficients(
    function: SpectralFunction,
    s: Array,
    tau: Any,
    closed: bool,
    has_phase: bool,
    xp: Namespace,
    second: bool = False,
) -> Coefficients:
    """Coefficients of the first derivative, or those that the second is made of.

    `closed` says that nothing lies outside the ranges, `has_phase` that A is complex.
    """
    if second and function.smooth_at_zero:
        # Values that may be rounding errors count as 0.
        s = xp.where(s > rounding_rtol(s, xp) * first(s), s, xp.zeros_like(s))
    y = function.value(s, tau, xp)
    lone: Any = None
    if not function.smooth_at_zero:
        # No division by values at rounding level. If nothing lies outside the ranges, a
        # single one is always added to a larger one, and keeps its f(s).
        small = s <= rounding_rtol(s, xp) * first(s)
        number = xp.sum(xp.astype(small, s.dtype), axis=-1, keepdims=True)
        single = (number == 1) & (y != 0)
        zero = small & ~single if closed else small
        s = xp.where(zero, xp.zeros_like(s), s)
        lone = small & ~zero
    a, b = pair(s, y)
    minus = function.difference(a, b, wider(tau), xp)
    plus = function.sum_quotient(a, b, minus, xp)
    phi = over_s(y, s, minus, xp)
    if not has_phase or lone is not None:
        # f(s) / s on the diagonal of D+ belongs to the phases of the vectors. If these
        # are real, it multiplies nothing but rounding errors.
        left_out = identity_like(plus, xp) == 1
        left_out = left_out & lone[..., None] if has_phase else left_out
        plus = xp.where(left_out, minus, plus)
    return Coefficients(s, y, phi, minus, plus)


def over_s(y: Array, s: Array, minus: Array, xp: Namespace) -> Array:
    """Divide y by s; at s = 0, return the slope from the diagonal of `minus`."""
    return safe_divide(y, s, s > 0, xp, xp.linalg.diagonal(minus))


def pair(s: Array, y: Array, t: Array | None = None) -> tuple[Sample, Sample]:
    """Points of the rows and of the columns of a k x k array."""
    rows = (None if x is None else x[..., :, None] for x in (s, y, t))
    columns = (None if x is None else x[..., None, :] for x in (s, y, t))
    return Sample(*rows), Sample(*columns)


def wider(tau: Any) -> Any:
    """Add a last axis to tau, if there is one."""
    return None if tau is None else tau[..., None]


def to_tau(function: SpectralFunction, gtau: Array, xp: Namespace) -> Array:
    """Sum the cotangents at all singular values if they share one tau."""
    return gtau if function.weighted else xp.sum(gtau, axis=-1, keepdims=True)


def diagonal_matrices(d: Array, like: Array, xp: Namespace) -> Array:
    """Diagonal matrices in the dtype of the square `like`."""
    return cast(d, like, xp)[..., None, :] * identity_like(like, xp)


def real_diagonal(K: Array, xp: Namespace) -> Array:
    """Real part of the diagonal."""
    return real(xp.linalg.diagonal(K), xp)


def _is_slender(U: Array, Vh: Array) -> bool:
    """Whether A is so tall that products with U cost more than extra small ones."""
    m, n = U.shape[-2], Vh.shape[-1]
    return isinstance(m, int) and isinstance(n, int) and m >= ASPECT_LIMIT * n


def outside_ranges(U: Array, Vh: Array, unitary: bool) -> tuple[bool, bool]:
    """Whether matrices may have parts outside the ranges of U and of V.

    For a square matrix, a U from the Gram matrix is not known to be `unitary`.
    """
    m, n = U.shape[-2], Vh.shape[-1]
    if known_equal(m, n):
        return not unitary, False
    known = isinstance(m, int) and isinstance(n, int)
    return not known or m >= n, not known or m < n

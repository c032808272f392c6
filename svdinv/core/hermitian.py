"""Functions f(A) = V diag(f(w)) V^H of a Hermitian matrix and their derivatives.

They are differentiable wherever f is, repeated eigenvalues included (Daleckii and
Krein; N. J. Higham, "Functions of Matrices", SIAM, 2008, theorem 3.11):

    Df(A)[X] = V [f[w_i, w_j] o (V^H X V)] V^H

and the second derivative is made of second divided differences in the same way. Each
function supplies its own in closed form or as a series, so that nothing cancels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

from svdinv.core.functions import Sample, Triple, extreme_difference, middle_parts
from svdinv.core.namespace import (
    Array,
    Namespace,
    adjoint,
    any_on_host,
    binary_scale,
    cast,
    herm,
    is_usual,
    known_equal,
    nan_unless,
    safe_divide,
)
from svdinv.core.operation import refuse_third
from svdinv.core.spectral import pair
from svdinv.core.tolerances import rounding_rtol

Factors: TypeAlias = tuple[Array, Array]


class HermitianFunction(ABC):
    """A real function f of one eigenvalue.

    Differences are element by element: arguments broadcast against each other.
    Instances are frozen and hashable.
    """

    has_parameter: ClassVar[bool] = False
    degree: ClassVar[Any] = None
    """p where f(c w) = c^p f(w) for c > 0, a number or an array of shape (...)."""

    def at(self, parameter: Array) -> HermitianFunction:
        """Set the parameter, an array in the batch shape of the matrices."""
        raise NotImplementedError

    def parameter_derivative(self) -> HermitianFunction:
        """Differentiate f in its parameter: a function of the same parameter."""
        raise NotImplementedError

    def domain(self, w: Array, xp: Namespace) -> Array:
        """Eigenvalues at which derivatives are evaluated; NaN where f has no value."""
        return w

    @abstractmethod
    def value(self, w: Array, xp: Namespace) -> Array:
        """Values of f at all eigenvalues of each matrix, shape (..., n)."""

    @abstractmethod
    def difference(self, a: Sample, b: Sample, xp: Namespace) -> Array:
        """First divided difference f[a, b], which is f' where a = b."""

    @abstractmethod
    def second_difference(
        self, points: Triple, d: tuple[Array, ...], xp: Namespace
    ) -> Array:
        """Second divided difference f[a, b, c]; `d` is f[a, b], f[b, c], f[c, a]."""

    def second_sum(
        self, s: Array, y: Array, d: Array, X: Array, Y: Array, xp: Namespace
    ) -> Array | None:
        """Sum of f[s_i, s_k, s_j] X_ik Y_kj over k by matrix products, or None.

        `y` is f(s), and `d` is f[s_i, s_j]. If None, the caller sums over k.
        """
        return None


@dataclass(frozen=True)
class Exponential(HermitianFunction):
    """exp(w)."""

    def value(self, w, xp):
        return xp.exp(w)

    def difference(self, a, b, xp):
        gap = xp.abs(a.s - b.s)
        # From the larger value down, so that nothing overflows needlessly.
        one = xp.ones_like(gap)
        decay = safe_divide(-xp.expm1(-gap), gap, gap != 0, xp, one)
        return xp.maximum(a.y, b.y) * decay

    def second_difference(self, points, d, xp):
        mean, offsets, near = _around_mean(points, xp.ones_like(d[0]), xp)
        series = xp.exp(mean) * _series(offsets, _EXP)
        return xp.where(near, series, _quotient(points, d, xp))


@dataclass(frozen=True)
class Logarithm(HermitianFunction):
    """log(w) of positive definite matrices; NaN for all others, also singular ones.

    Up to a constant, which cancels in differences, it is homogeneous of degree 0.
    """

    degree: ClassVar[float] = 0.0

    def domain(self, w, xp):
        return nan_unless(w > 0, w, xp)

    def value(self, w, xp):
        return xp.log(self.domain(w, xp))

    def difference(self, a, b, xp):
        low, gap = xp.minimum(a.s, b.s), xp.abs(a.s - b.s)
        return safe_divide(xp.log1p(gap / low), gap, gap != 0, xp, 1 / low)

    def second_difference(self, points, d, xp):
        reach = xp.minimum(points[0].s, points[1].s) / 4
        mean, offsets, near = _around_mean(points, reach, xp)
        series = _series(tuple(x / mean for x in offsets), _LOG) / mean**2
        return xp.where(near, series, _quotient(points, d, xp))


def _level(w: Array, xp: Namespace) -> Array:
    """Compute the rounding level of eigenvalues, (..., 1); 0 if there are none."""
    most = xp.sum if known_equal(w.shape[-1], 0) else xp.max
    return rounding_rtol(w, xp) * most(xp.abs(w), axis=-1, keepdims=True)


class _Root(HermitianFunction):
    """A function of positive semidefinite matrices.

    Eigenvalues up to rounding level of the largest modulus count as 0 in the
    derivatives, and clearly negative ones are NaN. With `ridged`, for matrices to which
    a ridge was added, positive ones above a sixteenth of that level are kept.
    """

    ridged: bool = False

    def domain(self, w, xp):
        level = _level(w, xp)
        least = level / 16 if self.ridged else level
        kept = xp.where(w > least, w, xp.zeros_like(w))
        return nan_unless(w >= -level, kept, xp)


@dataclass(frozen=True)
class SquareRoot(_Root):
    """sqrt(w); a rounding error below 0 counts as 0, other negative values as NaN.

    Between two zero eigenvalues the derivative is infinite, and 0 is used. With `cut`,
    positive values at rounding level count as 0 in the value, too.
    """

    cut: bool = False
    degree: ClassVar[float] = 0.5

    def value(self, w, xp):
        kept = self.domain(w, xp)
        if self.cut:
            return xp.sqrt(kept)
        # Positive values at rounding level have roots far above it.
        return xp.sqrt(xp.where(kept == 0, xp.maximum(w, xp.zeros_like(w)), kept))

    def difference(self, a, b, xp):
        total = a.y + b.y
        return safe_divide(xp.ones_like(total), total, total != 0, xp)

    def second_difference(self, points, d, xp):
        inside = -d[0] * d[1] * d[2]
        # Where two values are 0, one of d is infinite and was replaced by 0.
        apart = _quotient(points, d, xp)
        return xp.where(inside == 0, apart, inside)

    def second_sum(self, s, y, d, X, Y, xp):
        d, lost = cast(d, X, xp), y == 0
        result = -d * ((d * X) @ (d * Y))
        if any_on_host(lost, xp) is False:
            return result
        # For two zeros and s, the second difference is s^(-3/2).
        one = xp.ones_like(y)
        w = safe_divide(one, s * xp.sqrt(s), ~lost, xp)
        zero = cast(xp.where(lost, one, 0 * one), X, xp)
        w, both = cast(w, X, xp), zero[..., :, None] * zero[..., None, :]
        result = result + both * (X @ (w[..., :, None] * Y))
        result = result + ((both * X) @ Y) * w[..., None, :]
        return result + w[..., :, None] * (X @ (both * Y))


@dataclass(frozen=True)
class InverseSquareRoot(_Root):
    """1 / sqrt(w), and 0 for eigenvalues up to rounding level, as a pseudo-inverse.

    Clearly negative eigenvalues give NaN.
    """

    ridged: bool = False
    degree: ClassVar[float] = -0.5

    def value(self, w, xp):
        root = xp.sqrt(self.domain(w, xp))
        return safe_divide(xp.ones_like(root), root, root != 0, xp)

    def difference(self, a, b, xp):
        total = xp.sqrt(a.s) + xp.sqrt(b.s)
        if any_on_host(a.y == 0, xp) is False:
            return -a.y * (b.y / total)
        inside = -a.y * safe_divide(b.y, total, total != 0, xp)
        high = xp.maximum(a.s, b.s)
        across = safe_divide(a.y + b.y, high, high != 0, xp)  # one of the two is 0
        return xp.where(inside == 0, across, inside)

    def second_difference(self, points, d, xp):
        apart = _quotient(points, d, xp)
        ya, yb, yc = (point.y for point in points)
        ra, rb, rc = (xp.sqrt(point.s) for point in points)
        # y_a y_b y_c / ((r_a + r_b) ...), in an order that does not underflow.
        inside = (ra + rb + rc) * ya * yb * yc
        for total in (ra + rb, rb + rc, rc + ra):
            inside = safe_divide(inside, total, total != 0, xp)
        return xp.where(inside == 0, apart, inside)

    def second_sum(self, s, y, d, X, Y, xp):
        if any_on_host(y == 0, xp) is not False:
            return None
        root, y = xp.sqrt(s), cast(y, X, xp)
        e = cast(1 / (root[..., :, None] + root[..., None, :]), X, xp)
        # y_i y_j e_ij (r_i + r_j + r_k) y_k e_ik e_kj, with r_k y_k = 1
        result = (e * X) @ (y[..., :, None] * e * Y) + e * ((e * X) @ (e * Y))
        return y[..., :, None] * y[..., None, :] * result


@dataclass(frozen=True)
class Power(_Root):
    """w^p, with the exponent p as the parameter; 0 stays 0, for p <= 0 too.

    Between two zero eigenvalues the derivative is infinite for p < 1, and 0 is used.
    `logs` is the order of the derivative in p, w^p log(w)^logs, and `exponent` an array
    in the batch shape of the matrices.
    """

    logs: int = 0
    exponent: Any = None
    has_parameter: ClassVar[bool] = True

    @property
    def degree(self) -> Any:
        return self.exponent

    def at(self, parameter: Array) -> Power:
        return replace(self, exponent=parameter)

    def parameter_derivative(self) -> Power:
        return replace(self, logs=self.logs + 1)

    def _exponent(self, like: Array) -> Array:
        p = self.exponent
        return p[(..., *[None] * (len(like.shape) - len(p.shape)))]

    def value(self, w, xp):
        p, s = self._exponent(w), self.domain(w, xp)
        # Roots of positive values at rounding level are far above it.
        kept = (s > 0) | ((s == 0) & (w > 0) & (p > 0))
        base = xp.where(kept, w, xp.ones_like(w))
        return xp.where(kept, base**p * xp.log(base) ** self.logs, 0 * s)

    def difference(self, a, b, xp):
        p, inside = self._exponent(a.s), xp.minimum(a.s, b.s) > 0
        high = xp.maximum(a.s, b.s)
        one = xp.ones_like(high)
        # One of the two is 0, or both: then only f(w) = w has a slope other than 0.
        slope = xp.where((p == 1) & (self.logs == 0), one, 0 * one)
        across = safe_divide(a.y + b.y, high, high != 0, xp, slope)
        bases = [xp.where(x.s > 0, x.s, xp.ones_like(x.s)) for x in (a, b)]
        (la, lb), (pa, pb) = ([f(x) for x in bases] for f in (xp.log, lambda x: x**p))
        # 1 - exp(-gap) is the gap of a and b over the larger of them.
        gap, q = xp.abs(la - lb), xp.abs(p)
        rise, fall, near = xp.expm1(-gap), xp.expm1(-q * gap), gap == 0
        steep = safe_divide(fall, rise, ~near, xp, q * one)
        high = xp.where(inside, high, one)
        found = xp.where(p < 0, -one, one) * xp.maximum(pa, pb) / high * steep
        if self.logs == 1:
            top = xp.where(p > 0, xp.maximum(la, lb), xp.minimum(la, lb))
            growth = safe_divide(-gap, rise, ~near, xp, one) / high
            found = top * found + xp.minimum(pa, pb) * growth
        elif self.logs:
            refuse_third()
        return xp.where(inside, found, across)

    def second_difference(self, points, d, xp):
        if self.logs:
            refuse_third()
        a, b, c = (point.s for point in points)
        low = xp.minimum(a, xp.minimum(b, c))
        p = self._exponent(low)
        # No point is near where one of them is 0.
        reach = xp.where(low > 0, low / (2 + xp.abs(p)), -xp.ones_like(low))
        mean, offsets, near = _around_mean(points, reach, xp)
        terms = [p * (p - 1) / 2]
        for k in range(2, 26):
            terms.append(terms[-1] * (p - k) / (k + 1))
        series = _series(tuple(x / mean for x in offsets), terms) * mean ** (p - 2)
        # w^2 has a second derivative between three eigenvalues of 0, too.
        square = (a == 0) & (b == 0) & (c == 0) & (p == 2)
        apart = xp.where(square, xp.ones_like(mean), _quotient(points, d, xp))
        return xp.where(near, series, apart)


@dataclass(frozen=True)
class PositivePart(HermitianFunction):
    """max(w, 0). At the kink, for w up to rounding level, the slope 0 is used."""

    degree: ClassVar[float] = 1.0

    def domain(self, w, xp):
        return xp.where(xp.abs(w) <= _level(w, xp), xp.zeros_like(w), w)

    def value(self, w, xp):
        return xp.where(w > 0, w, 0 * w)

    def difference(self, a, b, xp):
        gap = a.s - b.s
        apart = safe_divide(a.y - b.y, gap, gap != 0, xp)
        return xp.where(xp.minimum(a.s, b.s) > 0, xp.ones_like(gap), apart)

    def second_difference(self, points, d, xp):
        return _quotient(points, d, xp)


def _quotient(points: Triple, d: tuple[Array, ...], xp: Namespace) -> Array:
    """Second divided difference over the widest gap."""
    return extreme_difference(tuple(point.s for point in points), d, xp)


def _around_mean(
    points: Triple, reach: Array, xp: Namespace
) -> tuple[Array, tuple[Array, ...], Array]:
    """Mean of three values, offsets from it, and whether all lie within `reach`.

    Where they do not the mean is 1 and the offsets are 0.
    """
    a, b, c = (point.s for point in points)
    mean = (a + b + c) / 3
    near = xp.maximum(a, xp.maximum(b, c)) - xp.minimum(a, xp.minimum(b, c)) <= reach
    offsets = tuple(xp.where(near, x - mean, xp.zeros_like(mean)) for x in (a, b, c))
    return xp.where(near, mean, xp.ones_like(mean)), offsets, near


# Taylor coefficients from x^2 on, which reach double precision: of exp for three values
# within 1 of each other, of log(1 + x) for three within a quarter.
_EXP = tuple(1 / math.factorial(k) for k in range(2, 19))
_LOG = tuple((-1) ** (k + 1) / k for k in range(2, 26))


def _series(u: tuple[Array, ...], coefficients: Sequence[Any]) -> Array:
    """Sum of c_k h_k(u), h_k the complete homogeneous symmetric polynomials.

    The second divided difference of sum c_k x^(k + 2), for three values of sum 0.
    """
    a, b, c = u
    e2, e3 = a * b + b * c + c * a, a * b * c
    h = [1 + 0 * e2, 0 * e2, -e2]
    total = coefficients[0] * h[0]
    for coefficient in coefficients[2:]:
        total = total + coefficient * h[2]
        h = [h[1], h[2], e3 * h[0] - e2 * h[1]]
    return total


def hermitian_map(
    function: HermitianFunction, factors: Factors, xp: Namespace
) -> Array:
    """V diag(f(w)) V^H, of `factors` w, shape (..., n), and V, (..., n, n)."""
    w, V = factors
    y = cast(function.value(w, xp), V, xp)
    return herm((V * y[..., None, :]) @ adjoint(V, xp), xp)


def hermitian_derivative(
    function: HermitianFunction, factors: Factors, X: Array, xp: Namespace
) -> Array:
    """Apply the derivative, which is its own transpose, to the Hermitian part of X.

    X is a tangent of A, or a cotangent of f(A), shape (..., n, n).
    """
    w, V = factors
    w, size = _of_usual_size(function, w, 1, xp)
    if size is not None:
        X = X * cast(size, V, xp)
    d = differences(function, w, xp)
    found = _recompose(V, cast(d, V, xp) * _in_basis(V, X, xp), xp)
    return found if size is None else found * cast(size, V, xp)


def hermitian_second_derivative(
    function: HermitianFunction, factors: Factors, X: Array, Y: Array, xp: Namespace
) -> Array:
    """Apply the second derivative, which is symmetric in X and Y.

    X and Y are two tangents of A; or X is a cotangent of f(A), and the result is the
    tangent along Y of the cotangent of A. Shapes are (..., n, n).
    """
    w, V = factors
    X, Y = _in_basis(V, X, xp), _in_basis(V, Y, xp)
    w, size = _of_usual_size(function, w, 2, xp)
    if size is not None:
        X, Y = X * cast(size, V, xp), Y * cast(size, V, xp)
    p, d = _differences(function, w, xp)
    block = function.second_sum(*p, d, X, Y, xp)
    if block is None:
        block = _sum_over_triples(function, p, d, X, Y, xp)
    # Exchanging X and Y gives the conjugate transpose, which `_recompose` adds.
    return _recompose(V, 2 * block, xp)


def _sum_over_triples(
    function: HermitianFunction,
    p: tuple[Array, Array],
    d: Array,
    X: Array,
    Y: Array,
    xp: Namespace,
) -> Array:
    i = Sample(*(x[..., :, None, None] for x in p))
    j = Sample(*(x[..., None, None, :] for x in p))

    def term(part: slice) -> Array:
        k = Sample(*(x[..., None, part, None] for x in p))
        known = d[..., :, part, None], d[..., None, part, :], d[..., :, None, :]
        second = function.second_difference((i, k, j), known, xp)
        bent = cast(second, X, xp) * X[..., :, part, None]
        return xp.sum(bent * Y[..., None, part, :], axis=-2)

    return sum(term(part) for part in middle_parts(d))


def _of_usual_size(
    function: HermitianFunction, w: Array, order: int, xp: Namespace
) -> tuple[Array, Array | None]:
    """Divide eigenvalues by a power of two u, so that differences do not overflow.

    Returns w / u and r = u^((degree - order) / 2), of shape (..., 1, 1), or None where
    u is 1. The derivative of that order at w is r^2 times that at w / u; one factor is
    applied before it and one after, so that neither overflows.
    """
    if function.degree is None or known_equal(w.shape[-1], 0):
        return w, None
    top = xp.max(xp.abs(w), axis=-1, keepdims=True)
    if is_usual(top, xp):
        return w, None
    unit = binary_scale(top, xp)
    return w / unit, (unit[..., 0] ** ((function.degree - order) / 2))[..., None, None]


def differences(function: HermitianFunction, w: Array, xp: Namespace) -> Array:
    """First divided differences f[w_i, w_j], shape (..., n, n)."""
    return _differences(function, w, xp)[1]


def _differences(
    function: HermitianFunction, w: Array, xp: Namespace
) -> tuple[tuple[Array, Array], Array]:
    """Eigenvalues and values of f, and f[w_i, w_j]."""
    s = function.domain(w, xp)
    y = function.value(s, xp)
    return (s, y), function.difference(*pair(s, y), xp)


def _in_basis(V: Array, X: Array, xp: Namespace) -> Array:
    return adjoint(V, xp) @ herm(X, xp) @ V


def _recompose(V: Array, block: Array, xp: Namespace) -> Array:
    return herm(V @ block @ adjoint(V, xp), xp)

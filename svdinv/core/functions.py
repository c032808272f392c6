"""Functions of a singular value: what each low-rank operator does to s.

A function f, extended to an odd one, makes the map A = U diag(s) V^H ->
U diag(f(s)) V^H. Its derivatives of any order are made of divided differences of
f, and each function supplies its own in closed form, so that nothing cancels and
nothing needs a tolerance.

Most of them solve y + r(y) = s for the kept singular values and are 0 for the
others: proximal operators, with r the derivative of the penalty. Then the divided
differences of f are those of an inverse function,

    f[a, b]    = 1 / (1 + r[y_a, y_b])
    f[a, b, c] = - r[y_a, y_b, y_c] f[a, b] f[b, c] f[c, a]

and such an operator is added by writing down its equation: see `Threshold`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from svdinv.core.namespace import (
    Array,
    Namespace,
    any_on_host,
    first,
    known_equal,
    known_shape,
    safe_divide,
)
from svdinv.core.tolerances import eps, rounding_rtol

__all__ = [
    "Polar",
    "Power",
    "ProperRotation",
    "Reciprocal",
    "Sample",
    "SpectralFunction",
    "Threshold",
    "Tikhonov",
    "TopSubgradient",
    "Whitening",
    "distinct_quotient",
    "proper_signs",
    "quotient",
]


def quotient(y1: Array, y2: Array, s1: Array, s2: Array, xp: Namespace) -> Array:
    """(y1 - y2) / (s1 - s2), and 0 where the arguments are equal."""
    gap = s1 - s2
    return safe_divide(y1 - y2, gap, gap != 0, xp)


def distinct_quotient(
    y1: Array, y2: Array, s1: Array, s2: Array, xp: Namespace
) -> Array:
    """(y1 - y2) / (s1 - s2), and 0 where s1 and s2 are equal up to rounding.

    For functions with jumps: LAPACK returns repeated values that differ by rounding
    errors of the largest. `s1` holds all values along its axis -2, sorted downwards.
    """
    gap = s1 - s2
    equal = xp.abs(gap) <= rounding_rtol(gap, xp) * first(s1, -2)
    return safe_divide(y1 - y2, gap, ~equal, xp)


class Sample(NamedTuple):
    """A point of a function: s, y = f(s), and t, the derivative of f in tau."""

    s: Array
    y: Array
    t: Any = None


Triple: TypeAlias = tuple[Sample, Sample, Sample]


class SpectralFunction(ABC):
    """A function f of one singular value and, if it `has_tau`, of a parameter.

    Methods act element by element: arguments broadcast against each other, and the
    first point holds all singular values of each matrix, sorted downwards. `tau`
    is None for a function without a parameter. Instances are frozen and hashable.
    """

    has_tau: bool = False
    smooth_at_zero: bool = True
    weighted: bool = False
    """Whether tau has one value for each singular value, not one for all."""
    degree: float | None = None
    """p where f(c s, c tau) = c^p f(s, tau) for c > 0, or f(c s, tau) if `is_sign`."""
    is_sign: bool = False
    """Whether tau is the sign of each singular value, which has no derivative."""
    signed: bool = False
    """Whether `second_difference` holds for points of negative s and y, too."""

    @property
    def needs_unitary(self) -> bool:
        """Whether f(s) / s may be so large that it would amplify errors of U and V.

        The factors of a square matrix have to be unitary then, and the parts outside
        their ranges, which are rounding errors, are not computed.
        """
        return not self.smooth_at_zero

    @abstractmethod
    def value(self, s: Array, tau: Array | None, xp: Namespace) -> Array:
        """Values of f at s, shape (..., k), sorted downwards."""

    @abstractmethod
    def difference(self, a: Sample, b: Sample, tau: Any, xp: Namespace) -> Array:
        """First divided difference f[a, b], which is f' where a = b."""

    def pieces(self, s: Array, y: Array, tau: Any, xp: Namespace) -> Array | None:
        """Return the number of the linear piece of f at each s; None if it has none.

        Number 0 is a piece around s = 0, on which f is linear through 0. With pieces,
        second differences are those of `distinct_extreme`, and second derivatives take
        only matrix products.
        """
        return None

    @abstractmethod
    def second_difference(
        self, points: Triple, d: tuple[Array, ...], tau: Any, xp: Namespace
    ) -> Array:
        """Second divided difference f[a, b, c]; `d` is f[a, b], f[b, c], f[c, a]."""

    def sum_quotient(self, a: Sample, b: Sample, minus: Array, xp: Namespace) -> Array:
        """Divided difference f[a, -b] of the odd f; f'(0) = `minus` if both are 0."""
        total = a.s + b.s
        return safe_divide(a.y + b.y, total, total > 0, xp, minus)

    def cutoff(self, tau: Any, xp: Namespace) -> Array | None:
        """Return the largest s that f sets to 0; None if tau alone does not fix it."""
        return None

    def gram_difference(
        self, s: Array, y: Array, phi: Array, tau: Any, xp: Namespace
    ) -> Array | None:
        """Compute h[s_i^2, s_j^2], h(s^2) = f(s) / s, if there is a closed form."""
        return None

    def tau_derivative(self, s: Array, y: Array, tau: Array, xp: Namespace) -> Array:
        """Compute the derivative of f in its parameter."""
        raise NotImplementedError(f"{self!r} has no tau_derivative, the one in tau")

    def tau_difference(self, a: Sample, b: Sample, tau: Any, xp: Namespace) -> Array:
        """First divided difference of `tau_derivative`, whose values are a.t, b.t."""
        raise NotImplementedError(f"{self!r} has no tau_difference")

    def tau_second_derivative(
        self, s: Array, y: Array, tau: Array, xp: Namespace
    ) -> Array:
        """Second derivative of f in its parameter."""
        raise NotImplementedError(f"{self!r} has no tau_second_derivative")


def extreme_difference(
    s: tuple[Array, ...],
    d: tuple[Array, ...],
    xp: Namespace,
    least: Array | float = 0.0,
) -> Array:
    """Second divided difference at `s` from the first ones `d`, over the widest gap.

    0 where that gap is at most `least`.
    """
    (a, b, c), (ab, bc, ca) = s, d
    one, two, three = a - c, b - a, c - b
    wide = xp.maximum(xp.abs(one), xp.maximum(xp.abs(two), xp.abs(three)))
    first, second = xp.abs(one) == wide, xp.abs(two) == wide
    gap = xp.where(first, one, xp.where(second, two, three))
    rise = xp.where(first, ab - bc, xp.where(second, bc - ca, ca - ab))
    return safe_divide(rise, gap, ~(wide <= least), xp)


# Elements of the largest temporary array in a sum of second differences.
_SLICE = 2**21


def middle_parts(d: Array) -> list[slice]:
    """Slices of the middle index of a sum of second differences; `d` are the first."""
    if None in known_shape(d) or 0 in d.shape:
        return [slice(None)]
    k = d.shape[-1]
    step = max(1, min(k, _SLICE // math.prod(d.shape)))
    return [slice(start, start + step) for start in range(0, k, step)]


def distinct_extreme(points: Triple, d: tuple[Array, ...], xp: Namespace) -> Array:
    """`extreme_difference` of a function with jumps; 0 for gaps at rounding level.

    The first point holds all values along axis -3.
    """
    s = tuple(point.s for point in points)
    least = rounding_rtol(s[0], xp) * first(s[0], -3)
    return extreme_difference(s, d, xp, least)


class Threshold(SpectralFunction):
    """f(s) = y with y + tau q(y) = s for the kept singular values, else 0.

    A new operator needs `kept`, `solve` (y itself) and q with its divided
    differences; the defaults are those of q = 0. A penalty that is not
    proportional to tau overrides `r1` and `r2`, those of r = s - y.
    """

    cuts: bool = True
    """Whether small singular values are set to 0; if not, the equation holds at 0."""

    def check(self) -> None:
        """Raise TypeError if a part of the penalty is missing from the derivatives."""
        own = [
            name
            for name in ("solve", "q0", "q1", "q2", "r1", "r2")
            if getattr(type(self), name) is not getattr(Threshold, name)
        ]
        if "r1" in own and "r2" not in own:
            raise TypeError(f"{self!r} defines r1 and must define r2")
        if own == ["solve"]:
            raise TypeError(f"{self!r} defines solve and must define q0, q1 and q2")
        if own and not self.has_tau and "r1" not in own:
            raise TypeError(
                f"{self!r} defines {', '.join(own)} and must set has_tau = True, or "
                "define r1 and r2 for a penalty without tau"
            )

    def _moving(self, y: Array) -> Array:
        return y > 0 if self.cuts else y >= 0

    @abstractmethod
    def kept(self, s: Array, tau: Any, xp: Namespace) -> Array:
        """Mask of the singular values that are not set to 0."""

    def solve(self, s: Array, tau: Any, xp: Namespace) -> Array:
        """Solution y of y + tau q(y) = s; also finite where s is not `kept`."""
        return s

    def q0(self, y: Array, tau: Any, xp: Namespace) -> Array:
        """q(y), for y > 0."""
        return xp.zeros_like(y)

    def q1(self, y1: Array, y2: Array, tau: Any, xp: Namespace) -> Array | float:
        """Divided difference q[y1, y2]."""
        return 0.0

    def q2(
        self, y1: Array, y2: Array, y3: Array, tau: Any, xp: Namespace
    ) -> Array | float:
        """Divided difference q[y1, y2, y3]."""
        return 0.0

    def r1(self, y1: Array, y2: Array, tau: Any, xp: Namespace) -> Array | float:
        """Divided difference r[y1, y2]."""
        return tau * self.q1(y1, y2, tau, xp) if self.has_tau else 0.0

    def r2(
        self, y1: Array, y2: Array, y3: Array, tau: Any, xp: Namespace
    ) -> Array | float:
        """Divided difference r[y1, y2, y3]."""
        return tau * self.q2(y1, y2, y3, tau, xp) if self.has_tau else 0.0

    def value(self, s, tau, xp):
        kept = self.kept(s, tau, xp)
        y = xp.where(kept, self.solve(s, tau, xp), xp.zeros_like(s))
        # NaN compares as not kept, and would become 0.
        return xp.where(tau == tau, y, tau + y) if self.has_tau else y

    def difference(self, a, b, tau, xp):
        apart = distinct_quotient(a.y, b.y, a.s, b.s, xp)
        one, first, second = xp.ones_like(apart), self._moving(a.y), self._moving(b.y)
        y1, y2 = xp.where(first, a.y, one), xp.where(second, b.y, one)
        smooth = first & second
        if self.has_tau:
            smooth = smooth | (tau == 0)  # which keeps zeros, too
        return xp.where(smooth, one / (1 + self.r1(y1, y2, tau, xp)), apart)

    def second_difference(self, points, d, tau, xp):
        first, second, third = points
        apart = distinct_extreme(points, d, xp)
        every = self._moving(first.y) & self._moving(second.y) & self._moving(third.y)
        one = xp.ones_like(apart)
        y1, y2, y3 = (xp.where(every, point.y, one) for point in points)
        smooth = -self.r2(y1, y2, y3, tau, xp) * d[0] * d[1] * d[2]
        return xp.where(every, smooth, apart)

    def tau_derivative(self, s, y, tau, xp):
        kept = self._moving(y)
        y = xp.where(kept, y, xp.ones_like(y))
        slope = self.q0(y, tau, xp) / (1 + self.r1(y, y, tau, xp))
        return xp.where(kept, -slope, xp.zeros_like(y))

    def tau_difference(self, a, b, tau, xp):
        both = self._moving(a.y) & self._moving(b.y)
        apart = distinct_quotient(a.t, b.t, a.s, b.s, xp)
        one = xp.ones_like(apart)
        y1, y2 = xp.where(both, a.y, one), xp.where(both, b.y, one)
        moved = self.q1(y1, y2, tau, xp)
        moved = moved + self.r2(y1, y1, y2, tau, xp) * a.t
        moved = moved + self.r2(y1, y2, y2, tau, xp) * b.t
        inverse = 1 + self.r1(y1, y2, tau, xp)
        return xp.where(both, -moved * one / inverse**2, apart)

    def tau_second_derivative(self, s, y, tau, xp):
        t = self.tau_derivative(s, y, tau, xp)
        kept = self._moving(y)
        y = xp.where(kept, y, xp.ones_like(y))
        bend = 2 * (self.q1(y, y, tau, xp) + self.r2(y, y, y, tau, xp) * t) * t
        result = -bend / (1 + self.r1(y, y, tau, xp)) + xp.zeros_like(y)
        return xp.where(kept, result, xp.zeros_like(y))


class _Steps(SpectralFunction):
    """A piecewise constant function; its odd extension jumps at 0."""

    degree = 0.0
    smooth_at_zero = False

    def difference(self, a, b, tau, xp):
        gap = a.s - b.s
        apart = xp.abs(gap) > rounding_rtol(gap, xp) * xp.maximum(a.s, b.s)
        return safe_divide(a.y - b.y, gap, apart, xp)

    def second_difference(self, points, d, tau, xp):
        return extreme_difference(tuple(point.s for point in points), d, xp)


@dataclass(frozen=True)
class Polar(_Steps):
    """f(s) = 1: the unitary polar factor U V^H.

    Its derivative contains 1 / (s_i + s_j), and 1 / s_i outside the range. Where the
    denominator is a rounding error, the derivative does not exist and 0 is used.
    """

    def value(self, s, tau, xp):
        return xp.ones_like(s)

    def pieces(self, s, y, tau, xp):
        return y


@dataclass(frozen=True)
class TopSubgradient(_Steps):
    """Gradient of the sum of the `count` largest singular values, or of all.

    It is 1 for these and 0 for the others. For a value at the cut that is repeated
    beyond it, and for singular values of 0, there is no gradient; the subgradient of
    least norm is used: equal shares, and 0.
    """

    count: int | None = 1

    def __post_init__(self) -> None:
        """Raise ValueError if `count` is less than 1."""
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    @property
    def needs_unitary(self) -> bool:
        """Whether f(s) / s may be large; for `count` = 1 it is 1 / s_1."""
        return self.count != 1

    def value(self, s, tau, xp):
        if known_equal(s.shape[-1], 0):
            return s
        top = first(s)
        rounding = rounding_rtol(s, xp) * top
        one, none = xp.ones_like(s), xp.zeros_like(s)
        if self.count is None:
            return xp.where(s > rounding, one, none)
        last = s[..., self.count - 1 : self.count]
        above, below = s > last + rounding, s < last - rounding
        equal = xp.where(above | below, none, one)
        left = self.count - xp.sum(xp.where(above, one, none), axis=-1, keepdims=True)
        # With no singular values, the number is 0.
        number = xp.sum(equal, axis=-1, keepdims=True)
        share = left / xp.maximum(number, xp.ones_like(number))
        share = xp.where(last > rounding, share, xp.zeros_like(share))
        return xp.where(above, one, equal * share)


@dataclass(frozen=True)
class Power(SpectralFunction):
    """s^exponent; 0 at s = 0, where a negative exponent has no value."""

    exponent: float

    @property
    def smooth_at_zero(self) -> bool:  # type: ignore[override]
        return self.exponent >= 1

    def value(self, s, tau, xp):
        if self.exponent == 1:
            return s
        positive = s > rounding_rtol(s, xp) * first(s)
        power = xp.where(positive, s, xp.ones_like(s)) ** self.exponent
        return xp.where(positive, power, xp.zeros_like(s))

    def difference(self, a, b, tau, xp):
        if self.exponent == 1:
            return xp.ones_like(a.s - b.s)
        low, high = xp.minimum(a.s, b.s), xp.maximum(a.s, b.s)
        near = (low > 0.5 * high) & (high > 0)
        base = xp.where(near, low, xp.ones_like(low))
        ratio = xp.where(near, (high - low) / base, xp.zeros_like(low))
        growth = xp.expm1(self.exponent * xp.log1p(ratio))
        level = self.exponent * xp.ones_like(base)
        steep = safe_divide(growth, ratio, ratio > 0, xp, level)
        smooth = steep * base ** (self.exponent - 1)
        return xp.where(near, smooth, quotient(a.y, b.y, a.s, b.s, xp))

    def second_difference(self, points, d, tau, xp):
        apart = extreme_difference(tuple(point.s for point in points), d, xp)
        a, b, c = (point.s for point in points)
        high, low = xp.maximum(a, xp.maximum(b, c)), xp.minimum(a, xp.minimum(b, c))
        # Where all three agree to a third of the digits, half the second derivative.
        near = (high - low <= eps(high, xp) ** (1 / 3) * high) & (low > 0)
        q, middle = self.exponent, xp.where(near, (a + b + c) / 3, xp.ones_like(high))
        return xp.where(near, 0.5 * q * (q - 1) * middle ** (q - 2), apart)


@dataclass(frozen=True)
class Reciprocal(SpectralFunction):
    """1 / s, and 0 for s up to a cut-off relative to the largest: the pseudo-inverse.

    A singular value at rounding level is always cut. Across the cut-off the divided
    differences are those of the jump: the derivative at fixed rank.
    """

    rcond: float = 0.0
    degree = -1.0
    smooth_at_zero = False

    def value(self, s, tau, xp):
        cutoff = max(self.rcond, rounding_rtol(s, xp))
        kept = ~(s <= cutoff * first(s))  # not NaN
        return safe_divide(xp.ones_like(s), s, kept, xp)

    def difference(self, a, b, tau, xp):
        inside = -a.y * b.y
        return xp.where(inside == 0, quotient(a.y, b.y, a.s, b.s, xp), inside)

    def second_difference(self, points, d, tau, xp):
        a, b, c = points
        inside = a.y * b.y * c.y
        apart = extreme_difference((a.s, b.s, c.s), d, xp)
        return xp.where(inside == 0, apart, inside)


@dataclass(frozen=True)
class Tikhonov(SpectralFunction):
    """s / (s^2 + tau^2), and 0 up to a cut-off: the pseudo-inverse, regularised.

    That is u of 1 / z = u - i v for z = s + i tau, and the divided differences are the
    real parts of those of 1 / z: -1 / (z_a z_b) and 1 / (z_a z_b z_c). The cut-off
    applies to the modulus of z and is relative to the largest modulus.
    """

    rcond: float = 0.0
    has_tau = True
    signed = True

    def _parts(self, s: Array, top: Array, tau: Array, xp: Namespace) -> Any:
        """Parts u and v, set to 0 where z is cut, and the mask of what is kept."""
        size, largest = s * s + tau * tau, top * top + tau * tau
        kept = ~(size <= max(self.rcond, rounding_rtol(s, xp)) ** 2 * largest)
        u, v = (safe_divide(x + xp.zeros_like(size), size, kept, xp) for x in (s, tau))
        return u, v, kept

    def value(self, s, tau, xp):
        return self._parts(s, first(s), tau, xp)[0]

    def difference(self, a, b, tau, xp):
        top = first(a.s, -2)
        (ua, va, kept), (ub, vb, also) = (
            self._parts(x.s, top, tau, xp) for x in (a, b)
        )
        apart = partial(quotient, a.y, b.y, a.s, b.s, xp)
        return _unless(kept & also, va * vb - ua * ub, apart, xp)

    def second_difference(self, points, d, tau, xp):
        top = first(points[0].s, -3)
        (ua, va, a), (ub, vb, b), (uc, vc, c) = (
            self._parts(x.s, top, tau, xp) for x in points
        )
        apart = partial(extreme_difference, tuple(x.s for x in points), d, xp)
        inside = ua * (ub * uc - vb * vc) - va * (ub * vc + vb * uc)
        return _unless(a & b & c, inside, apart, xp)

    def tau_derivative(self, s, y, tau, xp):
        u, v, _ = self._parts(s, first(s), tau, xp)
        return -2 * u * v

    def tau_difference(self, a, b, tau, xp):
        top = first(a.s, -2)
        (ua, va, kept), (ub, vb, also) = (
            self._parts(x.s, top, tau, xp) for x in (a, b)
        )
        apart = partial(quotient, a.t, b.t, a.s, b.s, xp)
        inside = (ua * ub - va * vb) * (va + vb) + (ua * vb + va * ub) * (ua + ub)
        return _unless(kept & also, inside, apart, xp)

    def tau_second_derivative(self, s, y, tau, xp):
        u, v, _ = self._parts(s, first(s), tau, xp)
        return 2 * u * (3 * v**2 - u**2)


@dataclass(frozen=True)
class Whitening(SpectralFunction):
    """s / sqrt(s^2 + tau), tau >= 0: the polar factor, regularised.

    With r = sqrt(s^2 + tau), divided differences in which nothing cancels are those of
    r, (a + b) / (r_a + r_b), and of 1 / r; f[a, b] is tau (1 / r_a + 1 / r_b) / P_ab
    with P_ab = a b + r_a r_b + tau. An r at rounding level of the largest is cut.
    """

    has_tau = True

    def _roots(
        self, points: tuple[Array, ...], top: Array, tau: Array, xp: Namespace
    ) -> tuple[list[Array], Array]:
        """Values r, 1 where r is cut, and the mask where all of them are kept."""
        roots, every = [], True
        least = rounding_rtol(top, xp) ** 2 * (top * top + tau)
        for s in points:
            square = s * s + tau
            kept = ~(square <= least)  # not NaN
            roots.append(xp.sqrt(xp.where(kept, square, xp.ones_like(square))))
            every = kept & every
        return roots, every

    def value(self, s, tau, xp):
        (r,), kept = self._roots((s,), first(s), tau, xp)
        return xp.where(kept, s / r, xp.zeros_like(r))

    def difference(self, a, b, tau, xp):
        (ra, rb), kept = self._roots((a.s, b.s), first(a.s, -2), tau, xp)
        P = xp.where(kept, a.s * b.s + ra * rb + tau, xp.ones_like(ra * rb))
        apart = partial(quotient, a.y, b.y, a.s, b.s, xp)
        return _unless(kept, tau * (1 / ra + 1 / rb) / P, apart, xp)

    def second_difference(self, points, d, tau, xp):
        a, b, c = (point.s for point in points)
        (ra, rb, rc), kept = self._roots((a, b, c), first(a, -3), tau, xp)
        one = xp.ones_like(ra * rb * rc)
        Pab, Pac = (
            xp.where(kept, a * s + ra * r + tau, one) for s, r in ((b, rb), (c, rc))
        )
        slope = (b + c) / (rb + rc)
        inside = slope / (rb * rc) * Pac + (1 / ra + 1 / rc) * (a + ra * slope)
        apart = partial(extreme_difference, (a, b, c), d, xp)
        return _unless(kept, -tau * inside / (Pab * Pac), apart, xp)

    def tau_derivative(self, s, y, tau, xp):
        (r,), _ = self._roots((s,), first(s), tau, xp)
        return -y / (2 * r * r)

    def tau_difference(self, a, b, tau, xp):
        (ra, rb), kept = self._roots((a.s, b.s), first(a.s, -2), tau, xp)
        inside = self.difference(a, b, tau, xp) - b.y * (a.s + b.s) / (rb * rb)
        apart = partial(quotient, a.t, b.t, a.s, b.s, xp)
        return _unless(kept, -inside / (2 * ra * ra), apart, xp)

    def tau_second_derivative(self, s, y, tau, xp):
        (r,), _ = self._roots((s,), first(s), tau, xp)
        return 3 * y / (4 * r**4)


def _unless(
    kept: Array, x: Array, otherwise: Callable[[], Array], xp: Namespace
) -> Any:
    """`x` where `kept` holds, else `otherwise()`, which is called only if needed."""
    if any_on_host(~kept, xp) is False:
        return x
    return xp.where(kept, x, otherwise())


@dataclass(frozen=True)
class ProperRotation(_Steps):
    """tau = (1, ..., 1, d), d = -1 if U V^H is a reflection: the nearest rotation.

    As `Polar` with the sign of the last singular value flipped: the derivative then
    contains 1 / (s_i - s_k). Where the denominator is a rounding error, the derivative
    does not exist and 0 is used.
    """

    has_tau = True
    weighted = True
    is_sign = True

    def value(self, s, tau, xp):
        return tau

    def pieces(self, s, y, tau, xp):
        return xp.where(y > 0, y, 1 - y)

    # The sign is no parameter to differentiate in.

    def tau_derivative(self, s, y, tau, xp):
        return xp.zeros_like(s)

    def tau_difference(self, a, b, tau, xp):
        return xp.zeros_like(a.s - b.s)

    def tau_second_derivative(self, s, y, tau, xp):
        return xp.zeros_like(s)


def proper_signs(U: Array, S: Array, Vh: Array, xp: Namespace) -> Array:
    """Signs (1, ..., 1, d) with det(U diag(signs) V^H) = 1, shape (..., k)."""
    d = xp.linalg.det(U) * xp.linalg.det(Vh)
    one = xp.ones_like(S)
    index = xp.cumulative_sum(one, axis=-1)
    last = index == index[..., -1:]
    return xp.where(last, xp.where((d < 0)[..., None], -one, one), one)

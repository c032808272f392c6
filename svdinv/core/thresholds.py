"""Thresholds of a singular value: what each low-rank operator does to s.

The sources of those without references are in the docstrings of their operators, in
`svdinv.operators.thresholds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from svdinv.core.clusters import whole_multiplets
from svdinv.core.functions import (
    Threshold,
    distinct_extreme,
    distinct_quotient,
    extreme_difference,
    quotient,
)
from svdinv.core.namespace import Array, Namespace, safe_divide
from svdinv.core.tolerances import smallest

__all__ = ["Firm", "Hard", "Huber", "LogSum", "Rank", "Schatten", "Soft"]


class _Above(Threshold):
    """A threshold that sets singular values up to `cutoff`, by default tau, to 0."""

    has_tau = True

    def cutoff(self, tau, xp):
        return tau

    def kept(self, s, tau, xp):
        return s > self.cutoff(tau, xp)


def _kept(y: Array, tau: Any, xp: Namespace) -> Array:
    """1 for what is not set to 0; tau = 0 keeps zeros, too."""
    return xp.astype((y > 0) | (tau == 0), y.dtype)


@dataclass(frozen=True)
class Soft(_Above):
    """max(s - tau, 0), the proximal operator of tau times the nuclear norm.

    With `weighted`, tau has one value for each singular value. At equal singular
    values the derivative exists if their weights are equal; if not, its singular part
    is left out.
    """

    weighted: bool = False
    degree = 1.0

    def solve(self, s, tau, xp):
        return s - tau

    def q0(self, y, tau, xp):
        return xp.ones_like(y)

    def difference(self, a, b, tau, xp):
        if not self.weighted:
            # 1 where both are kept, 0 where neither is; tau = 0 keeps zeros, too.
            every = tau == 0
            kept = (a.y > 0) | every
            alike = kept == ((b.y > 0) | every)
            level = xp.astype(kept, a.s.dtype)
            rise = xp.where(alike, level, a.y - b.y)
            return rise / xp.where(alike, xp.ones_like(level), a.s - b.s)
        # For f = s - tau_i, only the quotient of tau is singular at equal s. A quotient
        # of the rounded y is 0, 1 or 2 for neighbouring floats and equal weights.
        turned = xp.matrix_transpose(tau)
        both = ((a.y > 0) | (tau == 0)) & ((b.y > 0) | (turned == 0))
        slope = 1 - distinct_quotient(tau, turned, a.s, b.s, xp)
        return xp.where(both, slope, distinct_quotient(a.y, b.y, a.s, b.s, xp))

    def pieces(self, s, y, tau, xp):
        return None if self.weighted else _kept(y, tau, xp)

    def second_difference(self, points, d, tau, xp):
        return distinct_extreme(points, d, xp)

    def gram_difference(self, s, y, phi, tau, xp):
        if self.weighted:
            return None
        # h(s^2) = 1 - tau / s: where both are kept tau / (s_i s_j (s_i + s_j)).
        kept = y > 0
        inverse = safe_divide(xp.ones_like(s), s, kept, xp)
        si, sj = s[..., :, None], s[..., None, :]
        alike = kept[..., :, None] == kept[..., None, :]
        # Not tau times the inverse: it may be infinite where nothing is kept.
        ratio = safe_divide(tau * xp.ones_like(s), s, kept, xp)
        product = ratio[..., :, None] * inverse[..., None, :]
        rise = xp.where(alike, product, phi[..., :, None] - phi[..., None, :])
        gap = xp.where(alike, xp.ones_like(rise), si - sj)
        return rise / (gap * (si + (sj + smallest(s, xp))))

    def tau_difference(self, a, b, tau, xp):
        return distinct_quotient(a.t, b.t, a.s, b.s, xp)


@dataclass(frozen=True)
class Hard(_Above):
    """s above tau and 0 below, the proximal operator of tau^2 / 2 times the rank."""

    degree = 1.0

    def pieces(self, s, y, tau, xp):
        return _kept(y, tau, xp)


@dataclass(frozen=True)
class Rank(Threshold):
    """The `rank` largest singular values: the best approximation of that rank.

    With `multiplet_rtol`, a multiplet that the rank cuts in two is kept as a whole if
    that makes at most `most` values, and otherwise left out.
    """

    rank: int
    multiplet_rtol: float | None = None
    most: int = 0
    degree = 1.0

    def kept(self, s, tau, xp):
        if self.multiplet_rtol is not None:
            rtol, most = self.multiplet_rtol, self.most
            return whole_multiplets(s, self.rank, most, rtol, xp) & (s > 0)
        index = xp.cumulative_sum(xp.ones_like(s), axis=-1)
        return (index <= self.rank) & (s > 0)

    def pieces(self, s, y, tau, xp):
        return xp.astype(y > 0, s.dtype)

    def difference(self, a, b, tau, xp):
        slope = super().difference(a, b, tau, xp)
        # If all values are kept, the result is A, and zeros have the slope 1, too.
        number = xp.sum(xp.ones_like(a.s), axis=-2, keepdims=True)
        return xp.where(number <= self.rank, xp.ones_like(slope), slope)


def _share_below(knee: Any, y1: Array, y2: Array, xp: Namespace) -> Array:
    """Fraction of the interval between y1 and y2 that lies below `knee`."""
    high, low = xp.maximum(y1, y2), xp.minimum(y1, y2)
    across = safe_divide(knee - low, high - low, high > low, xp)
    share = xp.where(high >= knee, across, xp.ones_like(across))
    return xp.where(low >= knee, xp.zeros_like(share), share)


def _r2_by_r1(self, y1, y2, y3, tau, xp):
    pairs = (y1, y2), (y2, y3), (y3, y1)
    d = tuple(self.r1(a, b, tau, xp) for a, b in pairs)
    return extreme_difference((y1, y2, y3), d, xp)


@dataclass(frozen=True)
class Firm(_Above):
    """Firm threshold: the proximal operator of the minimax concave penalty.

    0 up to tau, s from gamma tau on, and a line between them; gamma > 1.
    """

    gamma: float
    degree = 1.0

    def solve(self, s, tau, xp):
        return xp.minimum(s, (s - tau) * (self.gamma / (self.gamma - 1)))

    def pieces(self, s, y, tau, xp):
        return _kept(y, tau, xp) + xp.astype(y >= self.gamma * tau, s.dtype)

    # r(y) = max(tau - y / gamma, 0), and q its derivative in tau

    def r1(self, y1, y2, tau, xp):
        return -_share_below(self.gamma * tau, y1, y2, xp) / self.gamma

    r2 = _r2_by_r1

    def q0(self, y, tau, xp):
        return xp.astype(y < self.gamma * tau, y.dtype)

    def q1(self, y1, y2, tau, xp):
        q = self.q0(y1, tau, xp), self.q0(y2, tau, xp)
        return quotient(*q, y1, y2, xp)


@dataclass(frozen=True)
class LogSum(Threshold):
    """Proximal operator of tau log(1 + s / epsilon)."""

    epsilon: float
    has_tau = True

    def kept(self, s, tau, xp):
        y, real = self._larger_root(s, tau, xp)
        positive = real & (y > 0)
        y = xp.where(positive, y, xp.ones_like(y))
        # y is a local minimum of the objective, the global one if it is below that at
        # 0. Both are divided by y, because its square may over- or underflow.
        return positive & (tau / y * xp.log1p(y / self.epsilon) + 0.5 * y < s)

    def solve(self, s, tau, xp):
        return self._larger_root(s, tau, xp)[0]

    def _larger_root(self, s: Array, tau: Any, xp: Namespace) -> tuple[Array, Array]:
        # y^2 - (s - epsilon) y + tau - epsilon s = 0; the root of the discriminant
        # by factors, because a square may underflow.
        total, double = s + self.epsilon, 2 * xp.sqrt(tau)
        less = total - double
        real = less > 0
        root = xp.sqrt(xp.where(real, less, xp.ones_like(less)))
        root = root * xp.sqrt(total + double)
        # For s below epsilon the sum cancels: divide the product of both roots by the
        # other root.
        below, epsilon = s < self.epsilon, max(self.epsilon, smallest(s, xp))
        shift = s - self.epsilon
        half = 0.5 * (xp.abs(shift) + root)
        unit = xp.where(below, half / epsilon, xp.ones_like(s))
        return xp.where(below, (s - tau / epsilon) / unit, half), real

    def q0(self, y, tau, xp):
        return 1 / (y + self.epsilon)

    def q1(self, y1, y2, tau, xp):
        return -1 / ((y1 + self.epsilon) * (y2 + self.epsilon))

    def r2(self, y1, y2, y3, tau, xp):
        # One by one: the product of all three may over- or underflow.
        e = self.epsilon
        return tau / (y1 + e) / (y2 + e) / (y3 + e)


@dataclass(frozen=True)
class Schatten(_Above):
    """Proximal operator of tau times the sum of s^p, p = 1/2 [1]_ or 2/3 [2]_.

    References
    ----------
    .. [1] Z. Xu, X. Chang, F. Xu and H. Zhang, "L1/2 regularization: a thresholding
       representation theory and a fast solver", IEEE TNNLS 23(7), 2012.
    .. [2] W. Cao, J. Sun and Z. Xu, "Fast image deconvolution using closed-form
       thresholding formulas of Lq (q = 1/2, 2/3) regularization", J. Vis. Commun.
       Image Represent. 24(1), 2013.
    """

    p: float

    def cutoff(self, tau, xp):
        # The stationary y whose objective equals that of 0, and the s it belongs to.
        y = (2 * (1 - self.p) * tau) ** (1 / (2 - self.p))
        return y * (1 + self.p / (2 * (1 - self.p)))

    def solve(self, s, tau, xp):
        kept = self.kept(s, tau, xp)
        s = xp.where(kept, s, xp.ones_like(s))
        pull = xp.where(kept, self.p * tau + xp.zeros_like(s), xp.zeros_like(s))
        y = s
        # The equation is convex in y: Newton's method falls monotonically to the
        # larger root, from at most twice its value.
        for _ in range(7):
            q = pull * y ** (self.p - 1)
            y = y - (y + q - s) / (1 + (self.p - 1) * q / y)
        return y

    def _root(self, y: Array) -> Array:
        return y ** (1 - self.p)

    def q0(self, y, tau, xp):
        return self.p / self._root(y)

    # With x = y^(1 - p), q is p / x and y is x^2 or x^3.

    def q1(self, y1, y2, tau, xp):
        a, b = self._root(y1), self._root(y2)
        return -self.p / (a * b * self._power_difference(a, b))

    def r1(self, y1, y2, tau, xp):
        a, b = self._root(y1), self._root(y2)
        # In parts: the full product may over- or underflow.
        return -self.p * tau / (a * b) / self._power_difference(a, b)

    def r2(self, y1, y2, y3, tau, xp):
        a, b, c = (self._root(y) for y in (y1, y2, y3))
        top = a + b + c
        if self.p != 0.5:
            top = a * (a + b) + b * (b + c) + c * (c + a)
        below = self._power_difference(a, b) * self._power_difference(b, c)
        # In parts: the full product may over- or underflow.
        part = self.p * tau / (a * b * c)
        return part * (top / below) / self._power_difference(c, a)

    def _power_difference(self, a: Array, b: Array) -> Array:
        return a + b if self.p == 0.5 else a * a + a * b + b * b


@dataclass(frozen=True)
class Huber(Threshold):
    """Proximal operator of tau times the sum of Huber's function of s [1]_.

    That function is s^2 / (2 delta) up to delta and s - delta / 2 from there on: small
    singular values are divided by 1 + tau / delta and large ones lessened by tau.

    References
    ----------
    .. [1] P. J. Huber, "Robust estimation of a location parameter", Annals of
       Mathematical Statistics 35(1), 1964.
    """

    delta: float
    has_tau = True
    cuts = False

    def kept(self, s, tau, xp):
        return s >= 0

    def solve(self, s, tau, xp):
        return xp.maximum(s / (1 + tau / self.delta), s - tau)  # delta may be infinite

    def pieces(self, s, y, tau, xp):
        return xp.astype(y >= self.delta, s.dtype)

    # q(y) = min(y / delta, 1)

    def q0(self, y, tau, xp):
        return xp.minimum(y / self.delta, xp.ones_like(y))

    def q1(self, y1, y2, tau, xp):
        return _share_below(self.delta, y1, y2, xp) / self.delta

    # Not by q2, whose square of 1 / delta may overflow.

    def r1(self, y1, y2, tau, xp):
        return _share_below(self.delta, y1, y2, xp) * (tau / self.delta)

    r2 = _r2_by_r1

"""The functions of the low-rank operators, differentiated without svdinv's formulas.

Values and slopes are those of the literature; divided differences come from them in
extended precision, as quotients or, for close pairs on the same side of every kink,
as Gauss-Legendre means of the slope.
"""

from __future__ import annotations

import numpy as np
from oracle import SpectralFunction

# Kinks and jumps lie where the oracle's spectra have no singular value.
TAU = 0.35
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def _wide(x):
    return np.asarray(x, np.longdouble)


def numeric(name, value, slope, kinks=(), smooth_at_zero=True):
    """Make a function of the oracle from its value and its slope alone."""

    def difference(a, b):
        a, b = np.broadcast_arrays(_wide(a), _wide(b))
        gap = a - b
        near = np.abs(gap) < 0.05 * np.maximum(a, b)
        for kink in kinks:
            near &= (a > kink) == (b > kink)
        result = (value(a) - value(b)) / np.where(gap == 0, 1, gap)
        near &= gap != 0
        middle, half = (a[near] + b[near]) / 2, gap[near] / 2
        result[near] = sum(
            w / 2 * slope(middle + x * half)
            for x, w in zip(_NODES, _WEIGHTS, strict=True)
        )
        result[gap == 0] = slope(a[gap == 0])
        return result.astype(float)

    def total(a, b):
        a, b = np.broadcast_arrays(_wide(a), _wide(b))
        both = a + b
        ratio = (value(a) + value(b)) / np.where(both == 0, 1, both)
        return np.where(both == 0, slope(both), ratio).astype(float)

    def over_s(s):
        s = _wide(s)
        ratio = value(s) / np.where(s == 0, 1, s)
        return np.where(s == 0, slope(s), ratio).astype(float)

    return SpectralFunction(
        name,
        lambda s: value(_wide(s)).astype(float),
        lambda s: slope(_wide(s)).astype(float),
        difference,
        total,
        over_s,
        smooth_at_zero,
    )


def _kept(function, level=TAU):
    def masked(s):
        kept = s > level
        return np.where(kept, function(np.where(kept, s, 1)), 0)

    return masked


def soft(tau):
    return numeric(
        f"soft {tau}",
        lambda s: np.maximum(s - tau, 0),
        lambda s: (s > tau).astype(s.dtype),
        kinks=(tau,),
    )


def hard():
    return numeric("hard", _kept(lambda s: s), _kept(np.ones_like), kinks=(TAU,))


def firm(gamma):
    end = gamma * TAU

    def value(s):
        line = (s - TAU) * gamma / (gamma - 1)
        return np.where(s > end, s, np.where(s > TAU, line, 0))

    def slope(s):
        return np.where(s > end, 1.0, np.where(s > TAU, gamma / (gamma - 1), 0.0))

    return numeric("firm", value, slope, kinks=(TAU, end))


def _proximal(name, penalty_slope, penalty_curvature, level):
    """Proximal operator: the larger stationary point, by Newton's method from above.

    What is solved is convex. The last steps are in extended precision.
    """

    def solve(s):
        y, wanted = s.astype(float), s.astype(float)
        for last in (False,) * 8 + (True,) * 2:
            if last:
                y, wanted = y.astype(s.dtype), s
            y = y - (y + penalty_slope(y) - wanted) / (1 + penalty_curvature(y))
        return y

    def slope(s):
        return 1 / (1 + penalty_curvature(solve(s)))

    return numeric(name, _kept(solve, level), _kept(slope, level), kinks=(level,))


def schatten(p, tau):
    # The level at which y = 0 is as good: where y^(2 - p) = 2 tau (1 - p).
    y = (2 * tau * (1 - p)) ** (1 / (2 - p))
    level = y + tau * p * y ** (p - 1)
    return _proximal(
        f"schatten {p:.2f}",
        lambda y: tau * p * y ** y.dtype.type(p - 1),
        lambda y: tau * p * (p - 1) * y ** y.dtype.type(p - 2),
        level,
    )


def log_sum(tau, epsilon):
    y = np.linspace(0, 2, 2_000_001)
    # The least s with a stationary y of no larger cost than 0's.
    cost_slope = tau * np.log1p(y / epsilon) / np.where(y > 0, y, 1) + y / 2
    level = cost_slope[1:].min()
    return _proximal(
        "log-sum",
        lambda y: tau / (y + epsilon),
        lambda y: -tau / (y + epsilon) ** 2,
        level,
    )


def shrink(tau):
    factor = 1 / (1 + 2 * np.longdouble(tau))
    return numeric("shrink", lambda s: s * factor, lambda s: s * 0 + factor)

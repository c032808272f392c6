"""Every tolerance, relative to the largest singular value, with its reason."""

from __future__ import annotations

from svdinv.core.namespace import Array, Namespace

__all__ = ["cluster_rtol", "eps", "gauge_tolerance", "neighbour_rtol", "vanishing"]


def eps(x: Array, xp: Namespace) -> float:
    """Spacing of the floats of `x` around 1 (of the real part, if complex)."""
    return float(xp.finfo(x.dtype).eps)


def neighbour_rtol(s: Array, rtol: float | None, xp: Namespace) -> float:
    """Gap below which other estimates compete with the plain quotient.

    The quotient's relative error is eps / gap, that of a cluster estimate is of
    the order of the gap: they meet at sqrt(eps).
    """
    return eps(s, xp) ** 0.5 if rtol is None else rtol


def cluster_rtol(s: Array, rtol: float | None, xp: Namespace) -> float:
    """Gap up to which a fixed rule takes two singular values for equal.

    A fixed rule is wrong by a fraction of the gradient, so it may act only where
    the quotient has lost every digit: LAPACK returns repeated singular values
    within a few tens of eps.
    """
    return 64 * eps(s, xp) if rtol is None else rtol


def gauge_tolerance(epsilon: float) -> float:
    """Gauge dependence, relative to the cotangents, that counts as rounding."""
    return epsilon**0.5


def vanishing(x: Array, xp: Namespace) -> float:
    """Scaled number that counts as 0, because its reciprocal might overflow."""
    return float(xp.finfo(x.dtype).smallest_normal) ** 0.5

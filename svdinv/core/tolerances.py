"""Every tolerance, relative to the largest singular value, with its reason."""

from __future__ import annotations

from svdinv.core.namespace import Array, Namespace

DOUBLE_EPS = 2.0**-52
"""The eps of double precision, where no array has it."""

SINGLE_EPS = 2.0**-23
"""The eps of single precision, likewise."""

SINGLE = 1e-10
"""An eps above this is that of single precision."""

MOST_REPAIRED = 48
"""Largest Hermitian matrices whose eigenvectors are repaired in single precision.

The three products halve the error of a function of the matrix, or better. Of larger
matrices they would cost a quarter of its gradient, and its error is larger anyway.
"""

MOST_REPAIRED_ELEMENTS = 2**12
"""Elements of the largest matrices whose singular vectors are, likewise.

The same holds for the eigenvectors of a Gram matrix. At 300 x 50 the products would
cost a third of a map and its gradient, and take a quarter off the error.
"""

GRAM_FLOOR = 0.1
"""Smallest kept singular value, relative to the largest, for the Gram matrix.

Squaring makes its relative error eps (s_1 / s)^2 / 2, that is 50 eps here.
"""

WIDE_GRAM_FLOOR = 1e-4
"""The same for the Gram matrix of single precision data in double precision."""

TRIANGLE_FLOOR = 0.02
"""The same where the right singular vectors are as accurate as those of an SVD.

What takes A V / s for the left ones has an error of eps s_1 / s.
"""

ASPECT_LIMIT = 3
"""Ratio of the sides from which products with U cost more than they save."""

MIN_GRAM_WORK = 2**22
"""Size of a decomposition, batch m n min(m, n), from which the Gram matrix is tried.

Below, to find out whether tau is high enough for it costs more than 5 % of an SVD.
"""

MIN_TALL_ELEMENTS, MIN_TALL_WORK = 2**15, 2**19
"""Elements, or their number times n, from which the kernels' Gram matrix of tall
matrices pays where a graph has the SVD, too; a triangle from so many elements alone.
"""

MOST_TALL_ELEMENTS, MOST_TALL_WORK = 2**15, 2**20
"""Elements, and their number times n, up to which kernels compute what follows from U,
S and V, which costs less than products without U by array functions.
"""


def eps(x: Array, xp: Namespace) -> float:
    """Spacing of the floats of `x` around 1 (of the real part, if complex)."""
    return float(xp.finfo(x.dtype).eps)


def neighbour_rtol(rtol: float | None, epsilon: float) -> float:
    """Gap below which other estimates compete with the plain quotient.

    The quotient's relative error is eps / gap, that of a cluster estimate is of
    the order of the gap: they meet at sqrt(eps).
    """
    return epsilon**0.5 if rtol is None else rtol


def cluster_rtol(s: Array, rtol: float | None, xp: Namespace) -> float:
    """Gap up to which a fixed rule treats two singular values as equal.

    A fixed rule is wrong by a fraction of the gradient, so it may act only where
    the quotient has lost every digit: LAPACK returns repeated singular values
    within a few tens of eps.
    """
    return rounding_rtol(s, xp) if rtol is None else rtol


def rounding_rtol(s: Array, xp: Namespace) -> float:
    """Size up to which a singular value may be a rounding error."""
    return 64 * eps(s, xp)


def vanishing(s: Array, xp: Namespace) -> float:
    """Scaled singular value that counts as exactly 0.

    Far below rounding level, so that little is lost, and just so large that the
    cube of its reciprocal, which second derivatives contain, does not overflow.
    """
    return smallest(s, xp) ** (1 / 3)


def tiny(x: Array, xp: Namespace) -> float:
    """Square that may have underflowed, so that its square would be 0."""
    return smallest(x, xp) ** 0.5


def smallest(x: Array, xp: Namespace) -> float:
    """Least positive number of full precision."""
    return float(xp.finfo(x.dtype).smallest_normal)


def gauge_tolerance(epsilon: float) -> float:
    """Gauge dependence, relative to the cotangents, that counts as rounding."""
    return epsilon**0.5

"""Every tolerance, relative to the largest singular value, with its reason."""

from __future__ import annotations

from svdinv.core.namespace import Array, Namespace

DOUBLE_EPS = 2.0**-52
"""The eps of double precision, where no array has it."""

SINGLE_EPS = 2.0**-23
"""The eps of single precision, where no array has it."""

SINGLE = 1e-10
"""Dtypes with a larger eps are single precision."""

MOST_REPAIRED = 48
"""Largest Hermitian matrices whose eigenvectors are repaired in single precision.

The three products at least halve the error of a function of the matrix. For larger
matrices they would cost a quarter of its gradient, and its error is larger anyway.
"""

MOST_REPAIRED_ELEMENTS = 2**12
"""Elements of the largest matrices whose singular vectors are repaired.

It holds for eigenvectors of a Gram matrix, too. At 300 x 50, the products would cost a
third of a map and its gradient, and reduce the error by a quarter.
"""

GRAM_FLOOR = 0.1
"""Smallest kept singular value, relative to the largest, for the Gram matrix.

Squaring makes its relative error eps (s_1 / s)^2 / 2, that is 50 eps here.
"""

WIDE_GRAM_FLOOR = 1e-4
"""`GRAM_FLOOR` for single precision data with the Gram matrix in double precision."""

TRIANGLE_FLOOR = 0.02
"""`GRAM_FLOOR` where V is as accurate as that of an SVD.

Maps that take A V / s as left singular vectors have an error of eps s_1 / s.
"""

ASPECT_LIMIT = 3
"""Ratio of the sides from which products with U cost more than they save."""

MIN_GRAM_WORK = 2**22
"""Size of a decomposition, batch m n min(m, n), from which the Gram matrix is tried.

Below, testing whether tau is high enough for it costs more than 5 % of an SVD.
"""

MIN_TALL_ELEMENTS, MIN_TALL_WORK = 2**15, 2**19
"""Elements, or elements times n, from which the kernels' Gram matrix of tall matrices
pays even in a graph that holds the SVD, too; for the QR triangle, elements alone count.
"""

MOST_TALL_ELEMENTS, MOST_TALL_WORK = 2**15, 2**20
"""Elements, and elements times n, up to which kernels compute from U, S and V, at less
cost than array functions from S and V.
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
    """Bound below which the square of a number underflows."""
    return smallest(x, xp) ** 0.5


def smallest(x: Array, xp: Namespace) -> float:
    """Smallest positive normal number."""
    return float(xp.finfo(x.dtype).smallest_normal)


def gauge_tolerance(epsilon: float) -> float:
    """Gauge dependence, relative to the cotangents, that counts as rounding."""
    return epsilon**0.5

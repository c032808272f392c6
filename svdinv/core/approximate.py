"""SVDs by a fast routine that is accurate for well-conditioned matrices only.

cuSOLVER's `gesvdaStridedBatched` computes the eigenvectors V of A^H A in double
precision, and U = A V / S. For matrices in single precision with condition numbers up
to 1e4, the factors are exact up to rounding. For others, U is not orthonormal, or the
routine fails: V is then computed from [A; delta I], and a QR decomposition completes U.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from svdinv.core.gram import completed, in_double, unit_image
from svdinv.core.guarded import independent
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    cast,
    identity_like,
    is_wide,
    norm,
    real,
)
from svdinv.core.tolerances import SINGLE_EPS, smallest

Factors: TypeAlias = tuple[Array, Array, Array]

# How far U^H U and V^H V may be from the identity, in eps of single precision.
_NOT_ORTHONORMAL = 8
# The added singular value over the norm of A: above what the routine takes for zero,
# and small enough to leave the gaps of the others in double precision.
_DELTA = 2.0**-20
# Largest n for which the routine is faster for a batch than matrix by matrix.
_LARGEST_OF_BATCH = 256


def svd_by_approximation(
    A: Array,
    approximate: Callable[[Array], Factors | None],
    own: Callable[[Array], Factors],
    xp: Namespace,
) -> Factors:
    """Thin SVD of any matrices in single precision (..., m, n), by an approximate one.

    `approximate` computes thin U, S and Vh of matrices (b, m, n), m >= n, in single or
    double precision, or None where it fails; U of a singular matrix may be any. `own`
    is used if it fails for [A; delta I], too, as for NaN.
    """
    if is_wide(A):
        U, S, Vh = svd_by_approximation(adjoint(A, xp), approximate, own, xp)
        return adjoint(Vh, xp), S, adjoint(U, xp)
    batch, (m, n) = A.shape[:-2], A.shape[-2:]
    A = xp.reshape(A, (-1, m, n))
    if A.shape[0] > 1 and n > _LARGEST_OF_BATCH:
        each = (
            svd_by_approximation(A[i : i + 1, ...], approximate, own, xp)
            for i in range(A.shape[0])
        )
        found: Factors | None = tuple(
            xp.concat(parts, axis=0) for parts in zip(*each, strict=True)
        )
    else:
        found = approximate(A)
        if found is None:
            found = _of_augmented(A, approximate, xp)
        else:
            found = _mended(A, found, approximate, xp)
    U, S, Vh = own(A) if found is None else found
    U, S, Vh = (xp.reshape(x, (*batch, *x.shape[1:])) for x in (U, S, Vh))
    return U, S, Vh


def svd_in_double(A: Array, own: Callable[[Array], Factors], xp: Namespace) -> Factors:
    """Thin SVD computed in double precision and rounded to single.

    In single precision, Jacobi iterations return up to 20 eps for singular values of 0,
    which then pass for nonzero ones.
    """
    return _in_single(own(in_double(A, xp)), A, xp)


def _in_single(factors: Factors, A: Array, xp: Namespace) -> Factors:
    """Factors in the precision of A, without rounding a singular value to 0.

    CuPy's casts flush subnormal numbers to 0, and vectors of a singular value 0 do not
    contribute to U f(S) V^H.
    """
    U, S, Vh = factors
    least = xp.minimum(SINGLE_EPS * S[..., :1], smallest(real(A, xp), xp))
    S = cast(xp.where(S > 0, xp.maximum(S, least), S), real(A, xp), xp)
    return cast(U, A, xp), S, cast(Vh, A, xp)


def _mended(
    A: Array,
    found: Factors,
    approximate: Callable[[Array], Factors | None],
    xp: Namespace,
) -> Factors | None:
    """Recompute the factors of matrices whose U or V is not orthonormal."""
    fine = _is_orthonormal(found[0], xp)
    fine = fine & _is_orthonormal(adjoint(found[2], xp), xp)
    wrong = _indices(~fine, xp)
    if wrong is None:
        return found
    better = _of_augmented(A[wrong], approximate, xp)
    if better is None:
        return None
    for x, y in zip(found, better, strict=True):
        x[wrong] = y
    return found


def _indices(mask: Array, xp: Namespace) -> Array | None:
    """Find the indices at which a mask holds; None if there are none."""
    (found,) = xp.nonzero(mask)
    return found if found.shape[0] else None


def _is_orthonormal(Q: Array, xp: Namespace) -> Array:
    """Whether the columns of each matrix are orthonormal, shape (b,); false for NaN."""
    Q = in_double(Q, xp)
    product = adjoint(Q, xp) @ Q
    error = abs_max(product - identity_like(product, xp), xp)
    return error[..., 0, 0] <= _NOT_ORTHONORMAL * SINGLE_EPS


def _of_augmented(
    A: Array, approximate: Callable[[Array], Factors | None], xp: Namespace
) -> Factors | None:
    """Factors by the right singular vectors of [A; delta I], which is never singular.

    They are those of A, too. Computed in double precision, they make the columns of A V
    orthogonal, except those shorter than 1e-5 times the first. The QR decomposition
    changes only these, by less than single precision resolves.
    """
    double = in_double(A, xp)
    delta = _DELTA * norm(double, xp)
    delta = cast(xp.where(delta > 0, delta, xp.ones_like(delta)), double, xp)
    below = delta * identity_like(double[..., : A.shape[-1], :], xp)
    found = approximate(xp.concat([double, below], axis=-2))
    if found is None:
        return None
    U, S = unit_image(double, adjoint(found[2], xp), xp)
    lost = _indices(~_is_orthonormal(U, xp), xp)
    if lost is not None:
        U[lost] = completed(independent(U[lost], xp), xp)
    S = xp.sort(S, axis=-1, descending=True)  # equal ones may differ by rounding
    return _in_single((U, S, found[2]), A, xp)

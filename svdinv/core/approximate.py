"""SVDs by a routine that is fast and accurate, but for regular matrices alone.

cuSOLVER has such a one, `gesvdaStridedBatched`: eigenvectors V of A^H A, computed in
double precision, and U = A V / S. Of matrices in single precision with a condition
below 1e5 its factors are exact up to rounding, while those of the Jacobi iteration that
PyTorch and CuPy call are off by some 100 eps. Of others it fails, or returns a U that
is not orthonormal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    cast,
    identity_like,
    is_complex,
    is_wide,
    norm,
    real,
    safe_divide,
)
from svdinv.core.tolerances import eps

__all__ = ["svd_by_approximation"]

Factors: TypeAlias = tuple[Array, Array, Array]

# How far U^H U may be from the identity, in eps: the decomposition that would take its
# place leaves up to 400.
_NOT_ORTHONORMAL = 64
# Times the norm of A, what is added to its singular values: more than the condition
# that the routine takes, and less than is lost of double precision.
_LIFT = 2.0**-20


def svd_by_approximation(
    A: Array,
    approximate: Callable[[Array], Factors | None],
    own: Callable[[Array], Factors],
    xp: Namespace,
) -> Factors:
    """Thin SVD by a routine for regular matrices, and of the others by another one.

    Parameters
    ----------
    A : array
        Matrices with values, in single precision, shape (..., m, n).
    approximate : callable
        Thin U, S and Vh of matrices of shape (b, m, n), m >= n, in single or double
        precision; None where it fails. It may return any U of a singular matrix.
    own : callable
        The same of any matrices; called for those alone of which the first one's
        factors are wrong.

    Returns
    -------
    tuple of array
        U, S and Vh.
    """
    if is_wide(A):
        U, S, Vh = svd_by_approximation(adjoint(A, xp), approximate, own, xp)
        return adjoint(Vh, xp), S, adjoint(U, xp)
    batch = A.shape[:-2]
    A = xp.reshape(A, (-1, *A.shape[-2:]))
    found = approximate(A)
    if found is None:
        found = _of_lifted(A, approximate, xp)
    if found is None:
        found = own(A)
    else:
        fine = _is_orthonormal(found[0], xp)
        fine = fine & _is_orthonormal(adjoint(found[2], xp), xp)
        (wrong,) = xp.nonzero(~fine)
        if wrong.shape[0]:
            for x, y in zip(found, own(A[wrong]), strict=True):
                x[wrong] = y
    U, S, Vh = (xp.reshape(x, (*batch, *x.shape[1:])) for x in found)
    return U, S, Vh


def _is_orthonormal(Q: Array, xp: Namespace) -> Array:
    """Whether the columns are; never of NaN. Shape (b,)."""
    product = adjoint(Q, xp) @ Q
    error = abs_max(product - identity_like(product, xp), xp)
    return error[..., 0, 0] <= _NOT_ORTHONORMAL * eps(Q, xp)


def _of_lifted(
    A: Array, approximate: Callable[[Array], Factors | None], xp: Namespace
) -> Factors | None:
    """Factors by the right singular vectors of [A; delta I], which is never singular.

    They are those of A. Computed in double precision, they leave A V with orthogonal
    columns, but for singular values that are too small against the largest.
    """
    wide = xp.astype(A, xp.complex128 if is_complex(A, xp) else xp.float64)
    square = wide[..., : A.shape[-1], :]
    lift = _LIFT * norm(wide, xp)
    below = cast(xp.where(lift > 0, lift, xp.ones_like(lift)), wide, xp)
    lifted = xp.concat([wide, below * identity_like(square, xp)], axis=-2)
    found = approximate(lifted)
    if found is None:
        return None
    image = wide @ adjoint(found[2], xp)
    S = xp.sqrt(xp.sum(xp.abs(image) ** 2, axis=-2))
    inverse = safe_divide(xp.ones_like(S), S, S > 0, xp)
    U = image * cast(inverse, image, xp)[..., None, :]
    S = xp.sort(S, axis=-1, descending=True)  # equal ones may differ by rounding
    return cast(U, A, xp), cast(S, real(A, xp), xp), cast(found[2], A, xp)

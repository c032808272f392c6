"""Corrections of wrong results that CUDA's libraries return without an error."""

from __future__ import annotations

from svdinv.core.namespace import Array, Namespace, abs_max, cast, real
from svdinv.core.tolerances import eps


def marked(A: Array, factors: tuple[Array, ...], xp: Namespace) -> tuple[Array, ...]:
    """Replace the factors of matrices A that have NaN or infinity by NaN.

    For square ones up to 32 x 32, cuSOLVER's Jacobi iterations return finite numbers.
    """
    finite = xp.all(xp.isfinite(A), axis=(-2, -1), keepdims=True)
    return tuple(
        xp.where(finite if x.ndim == A.ndim else finite[..., 0], x, xp.nan)
        for x in factors
    )


def independent(X: Array, xp: Namespace) -> Array:
    """Perturb X by rounding errors, so that no columns are exactly dependent.

    For dependent columns, Q of cuBLAS's batched QR decomposition is not orthonormal or
    is NaN.
    """
    m, n = X.shape[-2:]
    dtype, device = real(X, xp).dtype, getattr(X, "device", None)
    rows, columns = (xp.arange(1, k + 1, dtype=dtype, device=device) for k in (m, n))
    # The noise has no pattern that singular vectors could have.
    noise = xp.sin(1e4 * xp.sin(rows[:, None] * n + columns[None, :]))
    noise = xp.broadcast_to(noise, X.shape)
    return X + cast(4 * eps(X, xp) * abs_max(X, xp) * noise, X, xp)

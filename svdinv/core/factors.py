"""Which factorisation a low-rank operator uses, and how well it must be computed.

The eigenvectors of the Gram matrix cost a fraction of an SVD, but squaring loses
singular values below sqrt(eps) s_1. Of those that f keeps, the smallest, relative to
s_1, decides: the relative error of f and of its derivatives is about
eps (s_1 / s)^2 / 2.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from svdinv.core.functions import SpectralFunction
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    cast,
    is_complex,
    real,
)
from svdinv.core.repeated import Look, never_look
from svdinv.core.tolerances import GRAM_FLOOR, SINGLE, WIDE_GRAM_FLOOR, eps, smallest

__all__ = ["METHODS", "check_method", "factorise"]

Factors: TypeAlias = tuple[Array, ...]

METHODS = ("auto", "svd", "gram", "matmul")


def check_method(method: str) -> None:
    """Raise ValueError unless `method` is one of the accepted values."""
    if method not in METHODS:
        accepted = ", ".join(f'"{name}"' for name in METHODS)
        raise ValueError(f"method must be one of {accepted}, got {method!r}")


def factorise(
    A: Array,
    function: SpectralFunction,
    tau: Array | None,
    *,
    relative: bool = False,
    method: str = "auto",
    wide: bool = True,
    look: Look = never_look,
    xp: Namespace,
) -> Factors:
    """Factors of A for the spectral map of a function.

    Parameters
    ----------
    A : array
        Matrices, shape (..., m, n).
    function : SpectralFunction
        Decides which singular values matter.
    tau : array or None
        Its parameter, shape (..., 1) or (..., k).
    relative : bool, optional
        Whether tau is meant as a multiple of the largest singular value.
    method : {"auto", "svd", "gram"}, optional
        ``"gram"`` takes the eigenvectors of the Gram matrix, in double precision if
        `wide`, and relies on the caller for what it loses. ``"auto"`` takes them
        where that is expected to be faster, in the precision of A if that is enough,
        and falls back to the SVD if a kept singular value turns out too small.
    wide : bool, optional
        Whether double precision is at hand.
    look : callable, optional
        As for `svd_pullback`. Where nothing can be looked at, ``"auto"`` is the SVD.
    xp : namespace
        Array namespace.

    Returns
    -------
    tuple of array
        ``(U, S, Vh)``, thin, or ``(S, V)``: singular values, sorted downwards, and
        eigenvectors of A^H A, or of A A^H if m < n.
    """
    single = eps(A, xp) > SINGLE
    if method == "gram" and 0 not in A.shape:
        return _eigenvectors(*_gram(A, wide and single, never_look, xp), xp)
    if method == "auto" and None not in A.shape and 0 not in A.shape:
        found = _cheaper(A, function, tau, relative, wide and single, look, xp)
        if found is not None:
            return found
    U, S, Vh = xp.linalg.svd(A, full_matrices=False)
    if not single or 0 in A.shape:
        return U, S, Vh
    return _orthonormal(U, xp), S, adjoint(_orthonormal(adjoint(Vh, xp), xp), xp)


def _cheaper(
    A: Array,
    function: SpectralFunction,
    tau: Any,
    relative: bool,
    wide: bool,
    look: Look,
    xp: Namespace,
) -> Factors | None:
    """Factors by way of the Gram matrix, if that is faster and accurate enough."""
    if look(A != A) is not False:  # NaN, which is the SVD's to report, or not known
        return None
    short, long = sorted((A.shape[-2], A.shape[-1]))
    tall = long >= 2 * short

    def lost(S: Array, floor: float) -> Array:
        t = None if tau is None else cast(tau, S, xp)
        y = function.value(S, t * S[..., :1] if relative else t, xp)
        safe = floor * S[..., :1] <= S
        return ~((y <= 0) | safe)

    level = function.level(tau, xp)
    if level is not None:
        N, scale = _gram(A, False, look, xp)
        # The root of the Frobenius norm of N is at least s_1, and seldom twice it.
        size = xp.sqrt(xp.sum(xp.abs(N) ** 2, axis=(-2, -1)))
        top = 1 if relative else xp.sqrt(size)[..., None] * scale
        if look(~(level >= 0.5 * GRAM_FLOOR * top)) is False:
            factors = _eigenvectors(N, scale, xp)
            if look(lost(factors[0], GRAM_FLOOR)) is False:
                return factors
    if not tall:  # an SVD costs hardly more than this
        return None
    factors = _eigenvectors(*_gram(A, wide, look, xp), xp)
    floor = WIDE_GRAM_FLOOR if wide else GRAM_FLOOR
    return factors if look(lost(factors[0], floor)) is False else None


def _gram(
    A: Array, wide: bool, look: Look, xp: Namespace
) -> tuple[Array, Array | float]:
    """Gram matrix of the smaller side of A / scale, and the scale as (..., 1)."""
    if wide:
        A = xp.astype(A, xp.complex128 if is_complex(A, xp) else xp.float64)

    def product(A: Array) -> Array:
        Ah = adjoint(A, xp)
        return A @ Ah if A.shape[-2] < A.shape[-1] else Ah @ A

    # The squares of very small and very large elements are no numbers.
    N = product(A)
    trace = xp.sum(real(xp.linalg.diagonal(N), xp), axis=-1)
    safe = (trace > smallest(trace, xp) / eps(trace, xp) ** 2) & (
        trace < eps(trace, xp) / smallest(trace, xp)
    )
    if look(~safe) is False:
        return N, 1.0
    size = abs_max(A, xp)
    size = xp.where(size >= smallest(size, xp), size, xp.ones_like(size))
    return product(A / cast(size, A, xp)), size[..., 0]


def _eigenvectors(N: Array, scale: Array | float, xp: Namespace) -> Factors:
    # Of -N, because eigenvalues come sorted upwards.
    eigenvalues, V = xp.linalg.eigh(-N)
    S = xp.sqrt(xp.maximum(-eigenvalues, xp.zeros_like(eigenvalues)))
    return S * scale, _orthonormal(V, xp)


def _orthonormal(Q: Array, xp: Namespace) -> Array:
    """One Newton-Schulz step: LAPACK's vectors are orthonormal to some 10 eps only."""
    return 1.5 * Q - 0.5 * (Q @ (adjoint(Q, xp) @ Q))

"""Which factorisation a low-rank operator uses, and how well it must be computed.

The eigenvectors of the Gram matrix cost a fraction of an SVD, but squaring loses
singular values below sqrt(eps) s_1. Of those that f keeps, the smallest, relative to
s_1, decides: the relative error of f and of its derivatives is about
eps (s_1 / s)^2 / 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from svdinv.core import polynomial_iteration
from svdinv.core.functions import Polar, Soft, SpectralFunction
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    any_on_host,
    cast,
    conj,
    has_double_precision,
    identity_like,
    inner,
    is_complex,
    is_wide,
    known_equal,
    may_ask,
    real,
    safe_divide,
)
from svdinv.core.tolerances import (
    ASPECT_LIMIT,
    GRAM_FLOOR,
    MIN_GRAM_WORK,
    SINGLE,
    WIDE_GRAM_FLOOR,
    eps,
    smallest,
    vanishing,
)

__all__ = ["METHODS", "check_method", "factorise", "largest_value", "singular_values"]

Factors: TypeAlias = Sequence[Array]

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
    method : {"auto", "svd", "gram", "matmul"}, optional
        ``"gram"`` takes the eigenvectors of the Gram matrix, in double precision where
        that is at hand; the caller must make sure that kept values exceed
        sqrt(eps) s_1. ``"auto"`` takes them where that is expected to be faster, in
        the precision of A if that is enough, and falls back to the SVD if a kept
        singular value turns out too small, or where nothing can be asked for.
    xp : namespace
        Array namespace.

    Returns
    -------
    tuple of array
        ``(U, S, Vh)``, thin, or for very tall and very wide matrices ``(S, V)``:
        singular values, sorted downwards, and eigenvectors of A^H A, or of A A^H if
        m < n. For ``"matmul"``, an array of its own for `svdinv.core.spectral`: the
        result, the step W and, if `relative`, the gradient of s_1, as (..., 3, m, n).
        By way of the Gram matrix, the vectors of the larger side that belong
        to very small singular values are not orthogonal.
    """
    if method == "matmul" and 0 not in A.shape:
        return (_steps(A, function, tau, relative, xp),)
    single = eps(A, xp) > SINGLE
    wide = single and has_double_precision(xp)
    if method == "gram" and 0 not in A.shape:
        gram = _gram(A, wide, xp)
        if gram is not None:
            factors = _from_gram(gram, A, xp)
            square = known_equal(A.shape[-2], A.shape[-1])
            if square and len(factors) == 3 and function.needs_unitary:
                return _completed(factors[0], xp), *factors[1:]
            return factors
    if method == "auto" and may_ask(xp) and None not in A.shape and 0 not in A.shape:
        found = _cheaper(A, function, tau, relative, wide, xp)
        if found is not None:
            return found
    U, S, Vh = xp.linalg.svd(A, full_matrices=False)
    if not single or 0 in A.shape:
        return U, S, Vh
    # LAPACK's and Eigen's single precision leaves several eps in each factor.
    U, V = _orthonormal(U, xp), _orthonormal(adjoint(Vh, xp), xp)
    S = xp.sum(real(conj(U, xp) * (A @ V), xp), axis=-2)
    return U, xp.maximum(S, xp.zeros_like(S)), adjoint(V, xp)


def _cheaper(
    A: Array,
    function: SpectralFunction,
    tau: Any,
    relative: bool,
    wide: bool,
    xp: Namespace,
) -> Factors | None:
    """Factors by way of the Gram matrix, if that is faster and accurate enough."""
    short, long = min(A.shape[-2:]), max(A.shape[-2:])
    if (
        math.prod(A.shape) * short < MIN_GRAM_WORK
        or any_on_host(A[..., :1, :1] != A[..., :1, :1], xp) is None
    ):
        return None  # little to gain, or nothing may be looked at
    tall = long >= 2 * short

    def trusted(factors: Factors, floor: float, epsilon: float) -> bool:
        S = singular_values(factors)
        top = S[..., :1]
        # A value that is lost may be anything up to this: it proves nothing.
        most = xp.maximum(S, 8 * (short * epsilon) ** 0.5 * top)
        y = function.value(most, tau * top if relative else tau, xp)
        safe = (y <= 0) | (floor * top <= S)
        return any_on_host(~safe, xp) is False

    gram: _Gram | None = None
    cutoff = function.cutoff(tau, xp)
    if cutoff is not None:
        gram = _gram(A, False, xp)
        if gram is None:
            return None
        top: Any = 1.0
        if not relative:  # bound s_1^2 by a norm that is at most k^(1/4) times it
            trace = xp.sum(real(xp.linalg.diagonal(gram.N), xp), axis=-1)[..., None]
            one = xp.ones_like(trace)
            unit = xp.where(trace > 0, trace, one)
            N = gram.N / cast(unit[..., None], gram.N, xp)
            norm = xp.sum(xp.abs(N @ N) ** 2, axis=(-2, -1))[..., None] ** 0.125
            top = xp.sqrt(trace) * norm * gram.scale
        if any_on_host(~(cutoff >= 0.5 * GRAM_FLOOR * top), xp) is False:
            factors = _from_gram(gram, A, xp)
            if trusted(factors, GRAM_FLOOR, eps(A, xp)):
                return factors
    if not tall:  # an SVD costs hardly more than what is left
        return None
    if gram is None or wide:
        gram = _gram(A, wide, xp)
        if gram is None:
            return None
    factors = _from_gram(gram, A, xp)
    floor = WIDE_GRAM_FLOOR if wide else GRAM_FLOOR
    return factors if trusted(factors, floor, eps(gram.N, xp)) else None


class _Gram(NamedTuple):
    """Gram matrix N of the smaller side of A / scale, and that matrix."""

    N: Array
    A: Array
    scale: Array | float


def _gram(A: Array, wide: bool, xp: Namespace) -> _Gram | None:
    """Gram matrix; None for NaN and infinity, which are the SVD's to report."""
    if wide:
        A = xp.astype(A, xp.complex128 if is_complex(A, xp) else xp.float64)

    def product(A: Array) -> Array:
        Ah = adjoint(A, xp)
        return A @ Ah if is_wide(A) else Ah @ A

    # The squares of very small and very large elements are no numbers; their sum
    # tells that with one pass less than the largest.
    N = product(A)
    trace = xp.sum(real(xp.linalg.diagonal(N), xp), axis=-1)
    least = vanishing(trace, xp) ** 2
    if any_on_host(~((trace > least) & (trace < 1 / least)), xp) is False:
        return _Gram(N, A, 1.0)
    size = abs_max(A, xp)
    if any_on_host(~(size < float("inf")), xp) is True:
        return None
    size = xp.where(size >= smallest(size, xp), size, xp.ones_like(size))
    A = A / cast(size, A, xp)
    return _Gram(product(A), A, size[..., 0])


def _from_gram(gram: _Gram, given: Array, xp: Namespace) -> Factors:
    # The lift changes no vector. Without it the diagonal of a sparse matrix of low rank
    # ends in numbers too small for LAPACK's QR iteration, which then gives up.
    trace = xp.sum(real(xp.linalg.diagonal(gram.N), xp), axis=-1)[..., None]
    lift = eps(gram.N, xp) * trace
    first = gram.N[(*[slice(1)] * (len(gram.N.shape) - 2), ...)]  # one matrix, or none
    lifted = gram.N + identity_like(first, xp) * cast(lift, gram.N, xp)[..., None]
    # Of -N, because eigenvalues come sorted upwards.
    eigenvalues, V = xp.linalg.eigh(-lifted)
    V = _orthonormal(V, xp)
    short, long = min(given.shape[-2:]), max(given.shape[-2:])
    usual = isinstance(gram.scale, float)
    if usual and V.dtype == given.dtype and long >= ASPECT_LIMIT * short:
        S = xp.sqrt(xp.maximum(-eigenvalues - lift, xp.zeros_like(lift)))
        return S * gram.scale, V
    # U S = A V: more accurate than the eigenvalues, and with it go fewer products.
    wide = is_wide(given)
    image = (adjoint(gram.A, xp) if wide else gram.A) @ V
    S = xp.sqrt(xp.sum(xp.abs(image) ** 2, axis=-2))
    inverse = safe_divide(xp.ones_like(S), S, S > 0, xp)
    image = cast(image * cast(inverse, image, xp)[..., None, :], given, xp)
    V, S = cast(V, given, xp), S * gram.scale
    S = cast(S, real(given[..., :1, :1], xp), xp)
    if wide:
        return V, S, adjoint(image, xp)
    return image, S, adjoint(V, xp)


def _completed(U: Array, xp: Namespace) -> Array:
    """Unitary U, whose columns from lost singular values are not orthogonal.

    The first columns are the most accurate ones, and QR changes them the least.
    """
    Q, R = xp.linalg.qr(U)
    d = xp.linalg.diagonal(R)
    size = xp.abs(d)
    phase = safe_divide(d, cast(size, d, xp), size > 0, xp)
    phase = xp.where(size > 0, phase, xp.ones_like(phase))
    return Q * phase[..., None, :]


def _steps(
    A: Array, function: SpectralFunction, tau: Any, relative: bool, xp: Namespace
) -> Array:
    if isinstance(function, Polar):
        return polynomial_iteration.polar(A, xp=xp)[..., None, :, :]
    if function != Soft():
        raise ValueError(
            'method="matmul" is for svt with one tau for each matrix, and for polar'
        )
    if not relative:
        return xp.stack(
            polynomial_iteration.threshold_and_step(A, tau[..., 0], xp=xp), axis=-3
        )
    L = polynomial_iteration.leading_vectors(A, xp=xp)
    tau = tau * inner(L, A, xp)[..., None]
    return xp.stack(
        [*polynomial_iteration.threshold_and_step(A, tau[..., 0], xp=xp), L], axis=-3
    )


def largest_value(A: Array, factors: Factors, xp: Namespace) -> Array:
    """Give s_1, from factors of any kind, as (..., 1)."""
    if len(factors) == 1:
        return inner(factors[0][..., 2, :, :], A, xp)[..., None]
    return singular_values(factors)[..., :1]


def singular_values(factors: Factors) -> Array:
    """S, of factors from an SVD or a Gram matrix."""
    return factors[1] if len(factors) == 3 else factors[0]


def _orthonormal(Q: Array, xp: Namespace) -> Array:
    """One Newton-Schulz step: LAPACK's vectors are orthonormal to some 10 eps only."""
    return 1.5 * Q - 0.5 * (Q @ (adjoint(Q, xp) @ Q))

"""Spectral maps by the eigenvectors of a Gram matrix, without an SVD.

For m >= n (a wide matrix is turned),

    F(A) = A h(N),  N = A^H A,  h(s^2) = f(s) / s
    DF(A)[X] = X h(N) + A V [h[s_i^2, s_j^2] o (Z + Z^H)] V^H,  Z = V^H A^H X V

which needs no U, and no singular values that f sets to 0. Squaring loses singular
values below sqrt(eps) s_1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from svdinv.core.functions import SpectralFunction, distinct_quotient
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    add_product,
    adjoint,
    any_on_host,
    cast,
    first,
    identity_like,
    is_complex,
    is_wide,
    real,
    safe_divide,
)
from svdinv.core.spectral import (
    Direction,
    SVDFactors,
    diagonal_matrices,
    pair,
    real_diagonal,
    through_largest,
    to_tau,
    wider,
)
from svdinv.core.tolerances import ASPECT_LIMIT, eps, smallest, vanishing

__all__ = [
    "Gram",
    "GramFactors",
    "completed",
    "from_gram",
    "gram_matrix",
    "orthonormal",
]


class GramFactors(NamedTuple):
    """Singular values, and eigenvectors of A^H A, or of A A^H if m < n."""

    S: Array
    V: Array

    def largest(self, A: Array, xp: Namespace) -> Array:
        """Give s_1, shape (..., 1)."""
        return first(self.S)

    def map(
        self, function: SpectralFunction, A: Array, tau: Any, xp: Namespace
    ) -> Array:
        """Compute A h(A^H A), shape (..., m, n)."""
        S, V = self
        y = function.value(S, tau, xp)
        phi = cast(safe_divide(y, S, S > 0, xp), V, xp)
        W = (V * phi[..., None, :]) @ adjoint(V, xp)
        return W @ A if is_wide(A) else A @ W

    def derivative(self, A: Array, d: Direction, xp: Namespace) -> tuple[Array, Any]:
        """Apply the derivative of the map, as `SVDFactors.derivative`."""
        if is_wide(A):
            turned = d._replace(X=adjoint(d.X, xp))
            result, gtau = self.derivative(adjoint(A, xp), turned, xp)
            return adjoint(result, xp), gtau
        S, V = self
        function, tau, X = d.function, d.tau, d.X
        y = function.value(S, tau, xp)
        positive = S > 0
        phi = safe_divide(y, S, positive, xp)
        Vh = adjoint(V, xp)
        Z = Vh @ (adjoint(A, xp) @ X) @ V
        block = cast(_difference(function, S, y, phi, tau, xp), Z, xp) * (
            Z + adjoint(Z, xp)
        )
        slope = None
        if tau is not None:
            slope = safe_divide(function.tau_derivative(S, y, tau, xp), S, positive, xp)
        if d.dtau is not None:
            block = block + diagonal_matrices(slope * d.dtau, Z, xp)
        gtau = None
        if d.transposed and slope is not None:
            gtau = to_tau(function, slope * real_diagonal(Z, xp), xp)
        if d.ratio is not None:
            more, gtau = through_largest(d.ratio, gtau, S, xp)
            block = block + diagonal_matrices(safe_divide(more, S, positive, xp), Z, xp)
        outer = (V * cast(phi, V, xp)[..., None, :]) @ Vh
        return add_product(X @ outer, A, V @ block @ Vh, xp), gtau


def _difference(
    function: SpectralFunction, s: Array, y: Array, phi: Array, tau: Any, xp: Namespace
) -> Array:
    """h[s_i^2, s_j^2], with (D- - D+) / (2 s_i s_j) where both are kept."""
    closed = function.gram_difference(s, y, phi, tau, xp)
    if closed is not None:
        return closed
    a, b = pair(s, y)
    phi_i, phi_j = phi[..., :, None], phi[..., None, :]
    total = a.s + b.s
    minus = function.difference(a, b, wider(tau), xp)
    plus = safe_divide(a.y + b.y, total, total > 0, xp)
    both = (a.y > 0) & (b.y > 0)
    inside = safe_divide(0.5 * (minus - plus), a.s * b.s, both, xp)
    across = distinct_quotient(phi_i, phi_j, a.s, b.s, xp)
    across = safe_divide(across, total, total > 0, xp)
    return xp.where(both, inside, across)


class Gram(NamedTuple):
    """Gram matrix N of the smaller side of A / scale, and that matrix."""

    N: Array
    A: Array
    scale: Array | float


def gram_matrix(A: Array, wide: bool, xp: Namespace) -> Gram | None:
    """Gram matrix; None if A is not finite: the SVD then reports it."""
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
        return Gram(N, A, 1.0)
    size = abs_max(A, xp)
    if any_on_host(~(size < float("inf")), xp) is True:
        return None
    size = xp.where(size >= smallest(size, xp), size, xp.ones_like(size))
    A = A / cast(size, A, xp)
    return Gram(product(A), A, size[..., 0])


def from_gram(gram: Gram, given: Array, xp: Namespace) -> SVDFactors | GramFactors:
    """Factors of the matrix `given` by the eigenvectors of its Gram matrix."""
    # The lift changes no vector. Without it the diagonal of a sparse matrix of low rank
    # ends in numbers too small for LAPACK's QR iteration, which then gives up.
    trace = xp.sum(real(xp.linalg.diagonal(gram.N), xp), axis=-1)[..., None]
    lift = eps(gram.N, xp) * trace
    first = gram.N[(*[slice(1)] * (len(gram.N.shape) - 2), ...)]  # one matrix, or none
    lifted = gram.N + identity_like(first, xp) * cast(lift, gram.N, xp)[..., None]
    # Negated, so that eigenvalues come in descending order.
    eigenvalues, V = xp.linalg.eigh(-lifted)
    V = orthonormal(V, xp)
    short, long = min(given.shape[-2:]), max(given.shape[-2:])
    usual = isinstance(gram.scale, float)
    if usual and V.dtype == given.dtype and long >= ASPECT_LIMIT * short:
        S = xp.sqrt(xp.maximum(-eigenvalues - lift, xp.zeros_like(lift)))
        return GramFactors(S * gram.scale, V)
    # U S = A V: more accurate than the eigenvalues, and with it go fewer products.
    wide = is_wide(given)
    image = (adjoint(gram.A, xp) if wide else gram.A) @ V
    S = xp.sqrt(xp.sum(xp.abs(image) ** 2, axis=-2))
    inverse = safe_divide(xp.ones_like(S), S, S > 0, xp)
    image = cast(image * cast(inverse, image, xp)[..., None, :], given, xp)
    V, S = cast(V, given, xp), S * gram.scale
    S = cast(S, real(given[..., :1, :1], xp), xp)
    if wide:
        return SVDFactors(V, S, adjoint(image, xp))
    return SVDFactors(image, S, adjoint(V, xp))


def completed(U: Array, xp: Namespace) -> Array:
    """Unitary U, whose columns from lost singular values are not orthogonal.

    The first columns are the most accurate ones, and QR changes them the least.
    """
    Q, R = xp.linalg.qr(U)
    d = xp.linalg.diagonal(R)
    size = xp.abs(d)
    phase = safe_divide(d, cast(size, d, xp), size > 0, xp)
    phase = xp.where(size > 0, phase, xp.ones_like(phase))
    return Q * phase[..., None, :]


def orthonormal(Q: Array, xp: Namespace) -> Array:
    """One Newton-Schulz step: LAPACK's vectors are orthonormal to some 10 eps only."""
    return 1.5 * Q - 0.5 * (Q @ (adjoint(Q, xp) @ Q))

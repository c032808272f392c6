"""Spectral maps by the eigenvectors of a Gram matrix, without an SVD.

For m >= n (a wide matrix is transposed),

    F(A) = A h(N),  N = A^H A,  h(s^2) = f(s) / s
    DF(A)[X] = X h(N) + A V [h[s_i^2, s_j^2] o (Z + Z^H)] V^H,  Z = V^H A^H X V

which needs no U, and no singular values that f sets to 0. Squaring loses singular
values below sqrt(eps) s_1, and `svd_by_gram` finds them again by a second Gram matrix.

All sums over the longer side are products such as Gram matrices: where that side is
spread over devices, each is an all-reduce of n x n numbers, and nothing else is sent.
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
    all_reduce,
    any_on_host,
    cast,
    first,
    is_complex,
    is_finite,
    is_spread,
    is_wide,
    real,
    safe_divide,
)
from svdinv.core.spectral import (
    Direction,
    SVDFactors,
    diagonal_matrices,
    over_s,
    pair,
    real_diagonal,
    through_largest,
    to_tau,
    wider,
)
from svdinv.core.tolerances import (
    ASPECT_LIMIT,
    MOST_REPAIRED_ELEMENTS,
    eps,
    rounding_rtol,
    smallest,
    vanishing,
)


class GramFactors(NamedTuple):
    """Singular values, and eigenvectors of A^H A, or of A A^H if m < n."""

    S: Array
    V: Array

    def largest(self, A: Array, xp: Namespace) -> Array:
        """Return s_1, shape (..., 1)."""
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
        zero = xp.zeros_like(S)
        slopes = function.difference(*pair(zero, zero), wider(tau), xp)
        phi = over_s(y, S, slopes, xp)
        Vh = adjoint(V, xp)
        Z = Vh @ all_reduce(adjoint(A, xp) @ X, xp) @ V
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
    """Gram matrix N of the smaller side of A, which is the given matrix over scale."""

    N: Array
    A: Array
    scale: Array | float


def gram_matrix(A: Array, wide: bool, xp: Namespace) -> Gram | None:
    """Gram matrix of A, in double precision if `wide`; scaled if squares need it.

    None if A is not finite, which the SVD then reports; for spread A, `eigh` does.
    """
    if wide:
        A = in_double(A, xp)

    def product(A: Array) -> Array:
        Ah = adjoint(A, xp)
        return all_reduce(A @ Ah if is_wide(A) else Ah @ A, xp)

    # The squares of very small and very large elements under- and overflow. The trace
    # shows this with one pass less over A than the largest element.
    N = product(A)
    trace = xp.sum(real(xp.linalg.diagonal(N), xp), axis=-1)
    least = vanishing(trace, xp) ** 2
    if any_on_host(~((trace > least) & (trace < 1 / least)), xp) is False:
        return Gram(N, A, 1.0)
    size = abs_max(A, xp)
    infinite = any_on_host(~is_finite(size, xp), xp) is True
    if infinite and not is_spread(A, xp):
        return None
    size = xp.where(size >= smallest(size, xp), size, xp.ones_like(size))
    A = A / cast(size, A, xp)
    return Gram(product(A), A, size[..., 0])


def in_double(A: Array, xp: Namespace) -> Array:
    """Convert to double precision."""
    return xp.astype(A, xp.complex128 if is_complex(A, xp) else xp.float64)


def from_gram(
    gram: Gram, given: Array, xp: Namespace, *, with_image: bool = False
) -> SVDFactors | GramFactors:
    """Factors of the matrix `given` by the eigenvectors of its Gram matrix.

    The vectors of the longer side are left out where they cost more than they save,
    unless `with_image`.
    """
    eigenvalues, V = _descending(gram.N, xp)
    short, long = min(given.shape[-2:]), max(given.shape[-2:])
    if V.dtype == given.dtype and short**2 <= MOST_REPAIRED_ELEMENTS:
        V = orthonormal(V, xp)
    usual = isinstance(gram.scale, float)
    slender = long >= ASPECT_LIMIT * short and not with_image
    if usual and V.dtype == given.dtype and slender:
        S = xp.sqrt(xp.maximum(eigenvalues, xp.zeros_like(eigenvalues)))
        return GramFactors(S * gram.scale, V)
    image, S = unit_image(gram.A, V, xp)
    image, V, S = cast(image, given, xp), cast(V, given, xp), S * gram.scale
    S = cast(S, real(V, xp), xp)
    if is_wide(given):
        return SVDFactors(V, S, adjoint(image, xp))
    return SVDFactors(image, S, adjoint(V, xp))


def svd_by_gram(gram: Gram, given: Array, xp: Namespace) -> SVDFactors:
    """SVD of the matrix `given` by two Gram matrices, as accurate as a direct one.

    That of A V, with unit columns, resolves what the first lost, as in CholeskyQR2
    (Y. Yamamoto, Y. Nakatsukasa, Y. Yanagisawa and T. Fukaya, "Roundoff error analysis
    of the CholeskyQR2 algorithm", ETNA 44, 2015). The vectors of the larger side that
    belong to singular values at rounding level are 0 or nearly 0, not orthonormal.
    """
    V = orthonormal(_descending(gram.N, xp)[1], xp)
    image, size = unit_image(gram.A, V, xp)
    # A V = image diag(size), and image = Q root W^H with orthonormal Q.
    w, W = _descending(all_reduce(adjoint(image, xp) @ image, xp), xp)
    W = orthonormal(W, xp)
    root = xp.sqrt(xp.maximum(w, xp.zeros_like(w)))
    kept = w > rounding_rtol(w, xp)
    inverse = safe_divide(xp.ones_like(root), root, kept, xp)
    R = (W * cast(root, W, xp)[..., None, :]) * cast(size, W, xp)[..., :, None]
    # Its conjugate transpose is the right factor.
    right, S, lefth = xp.linalg.svd(R, full_matrices=False)
    left = (W * cast(inverse, W, xp)[..., None, :]) @ adjoint(lefth, xp)
    U, V = cast(image @ left, given, xp), cast(V @ right, given, xp)
    S = cast(S * gram.scale, real(V, xp), xp)
    if is_wide(given):
        return SVDFactors(V, S, adjoint(U, xp))
    return SVDFactors(U, S, adjoint(V, xp))


def _descending(N: Array, xp: Namespace) -> tuple[Array, Array]:
    """Eigenvalues, in descending order, and eigenvectors of a Gram matrix."""
    # The lift leaves the eigenvectors unchanged. Without it, LAPACK's QR iteration may
    # fail for the tiny last diagonal elements of a sparse matrix of low rank.
    diagonal = real(xp.linalg.diagonal(N), xp)
    lift = eps(N, xp) * xp.sum(diagonal, axis=-1)[..., None]
    lifted = N + diagonal_matrices(lift * xp.ones_like(diagonal), N, xp)
    # Negated, so that eigenvalues come in descending order.
    eigenvalues, V = xp.linalg.eigh(-lifted)
    return -eigenvalues - lift, V


def unit_image(A: Array, V: Array, xp: Namespace) -> tuple[Array, Array]:
    """Normalised columns of A V, or of A^H V for wide A, and their lengths S.

    S is more accurate than roots of eigenvalues, and maps with U take fewer products.
    """
    image = (adjoint(A, xp) if is_wide(A) else A) @ V
    S = xp.sqrt(all_reduce(xp.sum(xp.abs(image) ** 2, axis=-2), xp))
    inverse = safe_divide(xp.ones_like(S), S, S > 0, xp)
    return image * cast(inverse, image, xp)[..., None, :], S


def completed(U: Array, xp: Namespace) -> Array:
    """Orthonormalise U, whose columns of lost singular values are not orthogonal.

    The first columns are the most accurate ones, and QR changes them the least.
    """
    Q, R = xp.linalg.qr(U)
    d = xp.linalg.diagonal(R)
    size = xp.abs(d)
    known = size > smallest(size, xp)  # a complex quotient by less is infinite
    phase = safe_divide(d, cast(size, d, xp), known, xp)
    phase = xp.where(known, phase, xp.ones_like(phase))
    return Q * phase[..., None, :]


def orthonormal(Q: Array, xp: Namespace) -> Array:
    """One Newton-Schulz step: LAPACK's vectors are orthonormal to some 10 eps only."""
    return 1.5 * Q - 0.5 * (Q @ (adjoint(Q, xp) @ Q))

"""QR decomposition in array functions, where a framework has no suitable one."""

from __future__ import annotations

from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    cast,
    norm,
    safe_divide,
)


def det(A: Array, xp: Namespace) -> Array:
    """Compute the determinant of A, whose shape (..., n, n) must be known."""
    _, R = qr(A, xp)  # by a reflection, of determinant -1, for each column
    return (-1.0) ** A.shape[-1] * xp.prod(xp.linalg.diagonal(R), axis=-1)


def qr(A: Array, xp: Namespace) -> tuple[Array, Array]:
    """Reduced QR decomposition by one Householder reflection per column.

    A, of known shape (..., m, n), may have any rank. Q, (..., m, k), has k = min(m, n)
    orthonormal columns, and R, (..., k, n), is upper triangular.
    """
    k = min(A.shape[-2:])
    if 0 in A.shape:
        return xp.zeros_like(A[..., :k]), xp.zeros_like(A[..., :k, :])
    R, size = _over_size(A, xp)
    normals = []
    identity = xp.triu(xp.tril(xp.ones_like(A[..., :k])))
    for j in range(k):
        x = xp.concat([xp.zeros_like(R[..., :j, j : j + 1]), R[..., j:, j : j + 1]], -2)
        x, _ = _over_size(x, xp)  # each column: rows may differ by any factor
        head, _ = _over_size(x[..., j : j + 1, :], xp)
        modulus = xp.abs(head)
        phase = safe_divide(head, modulus, modulus > 0, xp)
        phase = xp.where(modulus > 0, phase, xp.ones_like(phase))
        v = x + identity[..., j : j + 1] * phase * cast(norm(x, xp), x, xp)
        length = norm(v, xp)
        normals.append(safe_divide(v, length, length > 0, xp))
        R = _reflected(R, normals[-1], xp)
    Q = identity
    for v in reversed(normals):
        Q = _reflected(Q, v, xp)
    return Q, xp.triu(R[..., :k, :]) * size


def _over_size(X: Array, xp: Namespace) -> tuple[Array, Array]:
    """X over its largest real or imaginary part, and that as (..., 1, 1); 1 for 0.

    Otherwise squares could over- or underflow; with a norm that is wrong, a reflection
    is not unitary.
    """
    size = abs_max(X, xp)
    least = float(xp.finfo(size.dtype).smallest_normal)
    size = cast(xp.where(size >= least, size, xp.ones_like(size)), X, xp)
    return X / size, size


def _reflected(X: Array, v: Array, xp: Namespace) -> Array:
    return X - 2 * v @ (adjoint(v, xp) @ X)

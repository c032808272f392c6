"""Spectral maps of a function that is known only by its values and slopes."""

from __future__ import annotations

from svdinv.core.functions import quotient
from svdinv.core.namespace import (
    Array,
    Namespace,
    adjoint,
    cast,
    herm,
    identity_like,
    known_equal,
    safe_divide,
    skew,
)
from svdinv.core.tolerances import eps

__all__ = ["difference_nodes", "sampled_derivative", "sampled_difference"]

# Gauss-Legendre nodes and weights on (0, 1).
_RULE = (
    (0.019855071751231884, 0.05061426814518813),
    (0.10166676129318664, 0.11119051722668724),
    (0.2372337950418355, 0.15685332293894363),
    (0.4082826787521751, 0.18134189168918100),
    (0.5917173212478249, 0.18134189168918100),
    (0.7627662049581645, 0.15685332293894363),
    (0.8983332387068134, 0.11119051722668724),
    (0.9801449282487681, 0.05061426814518813),
)


def difference_nodes(S: Array, xp: Namespace) -> Array:
    """Where `sampled_difference` needs the slope of f.

    Parameters
    ----------
    S : array
        Singular values, shape (..., k).
    xp : namespace
        Array namespace.

    Returns
    -------
    array
        Shape (8, ..., k, k).
    """
    si, sj = S[..., :, None], S[..., None, :]
    return xp.stack([si + node * (sj - si) for node, _ in _RULE])


def sampled_difference(S: Array, y: Array, slopes: Array, xp: Namespace) -> Array:
    """First divided differences of f from its values, and its slopes for close pairs.

    The quotient loses eps / gap, and the mean of the slope over the gap loses
    nothing for a smooth f: it is taken for values within a third of each other,
    where it agrees with the quotient to within the rounding errors of that. It does
    not where f has a kink in between.

    Parameters
    ----------
    S, y : array
        Singular values and the values of f there, shape (..., k).
    slopes : array
        f' at `difference_nodes`, shape (8, ..., k, k).
    xp : namespace
        Array namespace.

    Returns
    -------
    array
        f[s_i, s_j], shape (..., k, k), with f' on the diagonal.
    """
    si, sj = S[..., :, None], S[..., None, :]
    yi, yj = y[..., :, None], y[..., None, :]
    apart, gap = quotient(yi, yj, si, sj, xp), xp.abs(si - sj)
    mean = sum(weight * slopes[i, ...] for i, (_, weight) in enumerate(_RULE))
    size = xp.maximum(xp.maximum(xp.abs(yi), xp.abs(yj)), xp.abs(mean) * (si + sj))
    agree = xp.abs(mean - apart) * gap <= 16 * eps(S, xp) * size
    near = gap <= 0.25 * xp.maximum(si, sj)
    return xp.where((near & agree) | (gap == 0), mean, apart)


def sampled_derivative(
    U: Array, S: Array, Vh: Array, y: Array, minus: Array, X: Array, *, xp: Namespace
) -> tuple[Array, Array]:
    """Differentiate U diag(y) V^H along X, but for y itself.

    Its own transpose, as `svdinv.core.spectral.spectral_derivative`. With y = f(S)
    differentiated through S, the whole derivative of a spectral map, whatever f
    depends on.

    Parameters
    ----------
    U, S, Vh : array
        Thin factors of A.
    y : array
        Shape (..., k).
    minus : array
        Divided differences of f, shape (..., k, k), with f' on the diagonal.
    X : array
        Tangent of A, or cotangent of the result, shape (..., m, n).
    xp : namespace
        Array namespace.

    Returns
    -------
    array
        Shape (..., m, n).
    array
        K = U^H X V, whose real diagonal is the cotangent of y; shape (..., k, k).
    """
    Uh, V = adjoint(U, xp), adjoint(Vh, xp)
    total = S[..., :, None] + S[..., None, :]
    plus = safe_divide(y[..., :, None] + y[..., None, :], total, total > 0, xp)
    plus = xp.where(total > 0, plus, minus)
    phi = safe_divide(y, S, S > 0, xp)
    phi = xp.where(S > 0, phi, xp.linalg.diagonal(minus))
    XV = X @ V
    K = Uh @ XV
    rotation = cast(minus, K, xp) * (herm(K, xp) - _real_part(K, xp))
    block = rotation + cast(plus, K, xp) * skew(K, xp)
    weight = cast(phi, K, xp)
    left = U @ block
    if not known_equal(U.shape[-2], S.shape[-1]):
        left = left + (XV - U @ K) * weight[..., None, :]
    result = left @ Vh
    if not known_equal(Vh.shape[-1], S.shape[-1]):
        result = result + (U * weight[..., None, :]) @ (Uh @ X - K @ Vh)
    return result, K


def _real_part(K: Array, xp: Namespace) -> Array:
    """Diagonal of herm(K) as a diagonal matrix."""
    return identity_like(K, xp) * herm(K, xp)

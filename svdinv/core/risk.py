"""Divergence of singular value soft thresholding, for unbiased risk estimates."""

from __future__ import annotations

from svdinv.core.functions import Soft
from svdinv.core.namespace import Array, Namespace, safe_divide

__all__ = ["soft_divergence", "soft_divergence_gradient", "sure_gradient"]


def soft_divergence(
    S: Array, tau: Array, shape: tuple[int, int], is_complex: bool, xp: Namespace
) -> Array:
    """Trace of the Jacobian of singular value soft thresholding.

    The sum of the eigenvalues D-_ij, D+_ij and phi_i of the derivative in
    `svdinv.core.spectral` [1]_.

    Parameters
    ----------
    S : array
        Singular values, shape (..., k).
    tau : array
        Threshold, shape (..., 1).
    shape : (int, int)
        m and n.
    is_complex : bool
        Whether the matrices are complex: the trace is that over real and imaginary
        parts then.
    xp : namespace
        Array namespace.

    Returns
    -------
    array
        Real, shape (...).

    References
    ----------
    .. [1] E. J. Candes, C. A. Sing-Long and J. D. Trzasko, "Unbiased risk estimates
       for singular value thresholding and spectral estimators", IEEE Trans. Signal
       Process. 61(19), 2013.
    """
    y = Soft().value(S, tau, xp)
    si, sj = S[..., :, None], S[..., None, :]
    yi, yj = y[..., :, None], y[..., None, :]
    both, total, gap = (yi > 0) & (yj > 0), si + sj, si - sj
    one = xp.ones_like(gap)
    minus = xp.where(both, one, safe_divide(yi - yj, gap, gap != 0, xp))
    plus = safe_divide(yi + yj, total, total > 0, xp)
    twice = xp.sum(minus + plus, axis=(-2, -1))
    ratio = safe_divide(y, S, S > 0, xp)
    outside = abs(shape[0] - shape[1]) * xp.sum(ratio, axis=-1)
    if is_complex:
        return twice + 2 * outside
    # A real matrix has no skew diagonal.
    kept = xp.where(y > 0, xp.ones_like(S), xp.zeros_like(S))
    return 0.5 * (twice + xp.sum(kept - ratio, axis=-1)) + outside


def soft_divergence_gradient(
    S: Array, tau: Array, shape: tuple[int, int], is_complex: bool, xp: Namespace
) -> tuple[Array, Array]:
    """Gradient of `soft_divergence` in S and in tau, for use without autodiff.

    Parameters
    ----------
    S, tau, shape, is_complex, xp
        As for `soft_divergence`.

    Returns
    -------
    array
        Shape (..., k).
    array
        Shape (..., 1).
    """
    kept = tau < S
    si, sj = S[..., :, None], S[..., None, :]
    ki, kj = kept[..., :, None], kept[..., None, :]
    t, total, gap = tau[..., None], si + sj, si - sj
    none = xp.zeros_like(gap)
    # Of D-_ij + D+_ij, in s_i: where both are kept, only i and only j.
    near = xp.where(ki & ~kj, t - sj, xp.where(kj & ~ki, sj - t, none))
    far = xp.where(ki & kj, 2 * t + none, xp.where(ki, sj + t, none))
    far = xp.where(kj & ~ki, t - sj, far)
    # Twice by each: the squares of very small and very large values are no numbers.
    in_s = safe_divide(safe_divide(near, gap, gap != 0, xp), gap, gap != 0, xp)
    far = safe_divide(far, total, total > 0, xp)
    in_s = in_s + safe_divide(far, total, total > 0, xp)
    diagonal = xp.linalg.diagonal(in_s)
    in_s = xp.sum(in_s, axis=-1)
    apart = safe_divide(xp.where(ki != kj, none - 1, none), xp.abs(gap), gap != 0, xp)
    number = xp.where(ki, none + 1, none) + xp.where(kj, none + 1, none)
    in_tau = apart - safe_divide(number, total, total > 0, xp)
    in_tau = xp.sum(in_tau, axis=(-2, -1))
    inverse = safe_divide(xp.ones_like(S), S, kept, xp)
    extra = abs(shape[0] - shape[1])
    if is_complex:
        in_s, extra = 2 * in_s, 2 * extra
    else:
        in_s = in_s - diagonal
        in_tau = 0.5 * (in_tau + xp.sum(inverse, axis=-1))
    in_s = in_s + extra * (tau * inverse) * inverse
    return in_s, (in_tau - extra * xp.sum(inverse, axis=-1))[..., None]


def sure_gradient(
    S: Array,
    tau: Array,
    sigma: Array,
    shape: tuple[int, int],
    is_complex: bool,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """Gradient of the unbiased risk estimate in S, tau and sigma.

    Of sigma^2 (2 divergence - size) + sum min(S, tau)^2, where size counts the real
    numbers in a matrix. Where S = tau, the slope of the minimum is shared.

    Parameters
    ----------
    S, tau, shape, is_complex, xp
        As for `soft_divergence`.
    sigma : array
        Standard deviation of the noise, shape (...).

    Returns
    -------
    array
        Shape (..., k).
    array
        Shape (..., 1).
    array
        Shape (...).
    """
    in_s, in_tau = soft_divergence_gradient(S, tau, shape, is_complex, xp)
    one, none = xp.ones_like(S), xp.zeros_like(S)
    below = xp.where(tau > S, one, xp.where(tau < S, none, 0.5 * one))
    twice_lost = 2 * xp.minimum(S, tau)
    weight = 2 * (sigma * sigma)[..., None]
    in_s = weight * in_s + twice_lost * below
    lost_in_tau = xp.sum(twice_lost * (1 - below), axis=-1, keepdims=True)
    divergence = soft_divergence(S, tau, shape, is_complex, xp)
    size = shape[0] * shape[1] * (2 if is_complex else 1)
    return in_s, weight * in_tau + lost_in_tau, 2 * sigma * (2 * divergence - size)

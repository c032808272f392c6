"""Divergence of singular value soft thresholding, for unbiased risk estimates."""

from __future__ import annotations

from svdinv.core.namespace import Array, Namespace, safe_divide
from svdinv.core.thresholds import Soft

__all__ = ["soft_divergence"]


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

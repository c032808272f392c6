"""The error of a soft threshold, estimated without the true matrix."""

from __future__ import annotations

from svdinv.core.backend import Backend
from svdinv.core.namespace import (
    Array,
    abs_max,
    binary_scale,
    cast,
    identity_like,
    is_complex,
    nan_unless,
    safe_divide,
)
from svdinv.core.spectral import pair, wider
from svdinv.core.svd_operations import SVD
from svdinv.core.thresholds import Soft
from svdinv.operators._arguments import lengths, per_batch
from svdinv.operators._registry import operator


@operator
def svt_divergence(backend: Backend, A: Array, tau: float | Array) -> Array:
    """Divergence of `svt`, the trace of its Jacobian [1]_.

    Parameters
    ----------
    A : array
        Matrices, shape (..., m, n); for complex ones the sum over real and
        imaginary parts.
    tau : float or array
        Threshold >= 0, broadcasting to the batch shape (...).

    {numbers}
    {raises}.

    See Also
    --------
    sure : The risk estimate that it serves.

    References
    ----------
    .. [1] E. J. Candes, C. A. Sing-Long and J. D. Trzasko, "Unbiased risk
       estimates for singular value thresholding and spectral estimators", IEEE
       Trans. Signal Process. 61(19), 2013.
    """
    A, restore = backend.matrices(A, "A")
    tau = per_batch(backend, tau, A, 2)
    unit = _unit(backend, A, tau)
    A, tau = A / cast(unit[..., None, None], A, backend.xp), tau / unit
    _, S, _ = backend.call(SVD(), A)
    return restore(_divergence(backend, S, tau, A))


@operator
def sure(backend: Backend, A: Array, tau: float | Array, sigma: float | Array) -> Array:
    """Unbiased estimate of the squared error of `svt` on a noisy matrix.

    Stein's estimate of ||svt(A, tau) - X||^2 for A = X + noise, without X [1]_:
    its minimum over tau chooses the threshold.

    Parameters
    ----------
    A : array
        Noisy matrices, shape (..., m, n).
    tau : float or array
        Threshold >= 0, broadcasting to the batch shape (...).
    sigma : float or array
        Standard deviation of the Gaussian noise in every element, broadcasting
        to the batch shape; for complex noise, that of each of both parts.

    Returns
    -------
    array
        Real, shape (...), in units of A squared. In single precision it overflows if
        m n sigma^2 or the sum of min(s, tau)^2 exceeds 3e38. Being unbiased, it may be
        negative.

    {raises}.

    References
    ----------
    .. [1] E. J. Candes, C. A. Sing-Long and J. D. Trzasko, "Unbiased risk
       estimates for singular value thresholding and spectral estimators", IEEE
       Trans. Signal Process. 61(19), 2013.
    """
    xp = backend.xp
    A, restore = backend.matrices(A, "A")
    tau = per_batch(backend, tau, A, 2)
    sigma = per_batch(backend, sigma, A, 2, "sigma")
    unit = _unit(backend, A, tau, sigma)
    A = A / cast(unit[..., None, None], A, xp)
    _, S, _ = backend.call(SVD(), A)
    m, n = lengths(backend, A)
    size = m * n * (2 if is_complex(A, xp) else 1)
    # tau and sigma, which are squared, may be far smaller than A.
    least = backend.stop_gradient(xp.maximum(tau, sigma))
    scale = binary_scale(least, xp)
    lost = xp.minimum(S * unit[..., None], tau[..., None]) / scale[..., None]
    risk = (sigma / scale) ** 2 * (2 * _divergence(backend, S, tau / unit, A) - size)
    return restore((risk + xp.sum(lost * lost, axis=-1)) * scale * scale)


def _unit(backend: Backend, A: Array, *sizes: Array) -> Array:
    """Power of two to divide A and `sizes` by, so that squares are numbers."""
    xp = backend.xp
    size = abs_max(A, xp)[..., 0, 0]
    for other in sizes:
        size = xp.maximum(size, other)
    return binary_scale(backend.stop_gradient(size), xp)


def _divergence(backend: Backend, S: Array, tau: Array, A: Array) -> Array:
    """Sum of the eigenvalues D-_ij, D+_ij and phi_i of the derivative [1]_."""
    xp, (m, n) = backend.xp, lengths(backend, A)
    has_phase, soft, tau = is_complex(A, xp), Soft(), tau[..., None]
    a, b = pair(S, soft.value(S, tau, xp))
    difference = soft.difference(a, b, wider(tau), xp)
    # Derivatives of (y_i + y_j) / (s_i + s_j) cancel, or are 0 times infinity.
    kept = (tau < S) | (tau == 0)
    row, column = kept[..., :, None], kept[..., None, :]
    both, total = row & column, a.s + b.s
    less = safe_divide(2 * wider(tau), total, both & (total > 0), xp)
    mean = safe_divide(a.y + b.y, total, row != column, xp)
    mean = mean - less + xp.astype(both, S.dtype)
    if not has_phase:
        mean = xp.where(identity_like(total, xp) == 1, difference, mean)
    inside = 0.5 * xp.sum(difference + mean, axis=(-2, -1))
    lost = safe_divide(tau, S, kept & (S > 0), xp)
    phi = -lost + xp.astype(kept, S.dtype)
    trace = inside + abs(m - n) * xp.sum(phi, axis=-1)
    # Restores NaN, which comparisons lose, by a constant: TensorFlow would add the
    # derivatives 1 and -1 to a small one in any order, which may round the latter off.
    held = backend.stop_gradient(S)
    trace = trace + xp.sum(held - held, axis=-1)
    trace = nan_unless(tau[..., 0] == tau[..., 0], trace, xp)
    return 2 * trace if has_phase else trace

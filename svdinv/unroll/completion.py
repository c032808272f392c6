"""Classical low-rank matrix completion: the yardstick for the networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_on_path", "soft_impute", "soft_impute_path", "svt"]


def svt(matrix: NDArray[np.floating], tau: float) -> NDArray[np.floating]:
    """Singular value thresholding: soft-threshold the singular values of a matrix.

    ``U max(S - tau, 0) V^T``, the proximal operator of `tau` times the nuclear norm
    (Cai, Candès & Shen, SIAM J. Optim. 2010).

    Parameters
    ----------
    matrix : ndarray, shape (..., m, n)
        Real matrices; leading axes are a batch.
    tau : float
        Threshold, in the units of `matrix`.

    Returns
    -------
    ndarray, shape (..., m, n)
        The thresholded matrices, of the dtype of `matrix`.
    """
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u * np.maximum(s - tau, 0)[..., None, :]) @ vt


def soft_impute(
    samples: NDArray[np.floating],
    mask: NDArray[np.bool_],
    tau: float,
    *,
    start: NDArray[np.floating] | None = None,
    iterations: int = 100,
    rtol: float = 1e-4,
) -> NDArray[np.floating]:
    """Complete matrices by soft-impute at one threshold.

    Repeats ``x <- svt(mask * samples + (1 - mask) * x, tau)`` (Mazumder, Hastie &
    Tibshirani, JMLR 2010), with Nesterov's momentum, restarted where it points
    uphill; the fixed point is the same, the minimiser of
    ``|mask * (x - samples)|_F^2 / 2 + tau * |x|_*``.

    Parameters
    ----------
    samples : ndarray, shape (..., m, n)
        Measured values; entries outside the mask are not looked at.
    mask : ndarray of bool, the same shape
        True where measured.
    tau : float
        Threshold of the singular values.
    start : ndarray, the same shape, optional
        First estimate; zero by default.
    iterations : int
        Most iterations.
    rtol : float
        Stop once an iteration changes the estimate by less than this, relatively.

    Returns
    -------
    ndarray, shape (..., m, n)
        The low-rank estimate (shrunk, and not equal to the samples).
    """
    x = np.zeros_like(samples) if start is None else start
    ahead, momentum = x, 1.0
    for _ in range(iterations):
        new = svt(np.where(mask, samples, ahead), tau)
        step = new - x
        if np.vdot(ahead - new, step) > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + np.asarray((momentum - 1) / following, new.dtype) * step
        x, momentum = new, float(following)
        if np.linalg.norm(step) <= rtol * np.linalg.norm(x):
            break
    return x


def soft_impute_path(
    samples: NDArray[np.floating],
    mask: NDArray[np.bool_],
    thresholds: Sequence[float],
    *,
    iterations: int = 100,
    rtol: float = 1e-4,
) -> Iterator[tuple[float, NDArray[np.floating]]]:
    """Soft-impute with continuation: each threshold starts from the one before.

    Parameters
    ----------
    samples, mask : ndarray, shape (..., m, n)
        As for `soft_impute`.
    thresholds : sequence of float
        Thresholds relative to the largest singular value of the zero-filled samples,
        largest first.
    iterations, rtol
        As for `soft_impute`, for each threshold.

    Yields
    ------
    threshold : float
        The relative threshold.
    completed : ndarray, shape (..., m, n)
        The estimate with the samples put back in (they are free of noise).
    """
    measured = np.where(mask, samples, np.zeros((), samples.dtype))
    top = float(np.linalg.norm(measured, ord=2, axis=(-2, -1)).max())
    x = np.zeros_like(measured)
    for threshold in thresholds:
        x = soft_impute(
            measured,
            mask,
            threshold * top,
            start=x,
            iterations=iterations,
            rtol=rtol,
        )
        yield threshold, np.where(mask, measured, x)


def best_on_path(
    samples: NDArray[np.floating],
    mask: NDArray[np.bool_],
    score: Callable[[NDArray[np.floating]], float],
    thresholds: Sequence[float],
    *,
    iterations: int = 100,
    rtol: float = 1e-4,
) -> tuple[float, NDArray[np.floating]]:
    """Soft-impute at the threshold of a grid that scores best.

    Scored against the truth this is the best that the method can do: an advantage
    over every method that has to do without the truth.

    Parameters
    ----------
    samples, mask : ndarray, shape (..., m, n)
        As for `soft_impute`.
    score : callable
        Takes a completed array, returns a number: the larger, the better.
    thresholds, iterations, rtol
        As for `soft_impute_path`.

    Returns
    -------
    threshold : float
        The best relative threshold.
    completed : ndarray, shape (..., m, n)
        Its estimate.

    Raises
    ------
    ValueError
        If `thresholds` is empty.
    """
    path = soft_impute_path(samples, mask, thresholds, iterations=iterations, rtol=rtol)
    candidates = [(score(x), threshold, x) for threshold, x in path]
    if not candidates:
        raise ValueError("thresholds must not be empty")
    _, threshold, completed = max(candidates, key=lambda c: c[0])
    return threshold, completed

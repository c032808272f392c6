"""Classical low-rank matrix completion: the yardstick for the networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from svdinv.numpy import svt
from svdinv.unroll.algorithms import solve
from svdinv.unroll.algorithms.iterations import FISTA
from svdinv.unroll.operators import Sampling
from svdinv.unroll.priors import Nuclear
from svdinv.unroll.problem import Problem

__all__ = ["best_on_path", "soft_impute", "soft_impute_path", "svt"]


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
    measured = np.where(mask, samples, np.zeros((), samples.dtype))
    return solve(
        Problem(measured, Sampling(mask)),
        Nuclear(tau),
        algorithm=FISTA(restart=True),
        iterations=iterations,
        rtol=rtol,
        x0=np.zeros_like(measured) if start is None else start,
        parameters={"step": 1.0},
        objective=False,
    ).image


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

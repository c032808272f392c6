"""Truncated SVD, and Gauss-Newton with sparse penalties, for few data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdinv._missing import needing
from svdinv.numpy import svd_lowrank
from svdinv.unroll.algorithms.iterations import conjugate_gradients
from svdinv.unroll.operators import Operator

with needing("scipy", "mri"):
    from scipy.sparse import csc_array, diags_array
    from scipy.sparse.linalg import splu

Floats = NDArray[np.floating]

_STEPS, _RTOL = 100, 1e-2  # limits of conjugate gradients in a Gauss-Newton step


@dataclass(frozen=True)
class TruncatedSVD:
    """Result of `truncated_svd`: image, number of values kept, all singular values."""

    image: Floats
    kept: int
    values: Floats


def truncated_svd(
    A: Operator,
    y: ArrayLike,
    like: Floats,
    *,
    rank: int,
    noise: ArrayLike = 1.0,
    keep: int | Literal["discrepancy", "sure"] = "discrepancy",
    scale: ArrayLike = 1.0,
    seed: int = 0,
) -> TruncatedSVD:
    """Solve a linear problem with the leading singular triplets of its operator.

    The operator is real and only applied to vectors, by `svdinv.numpy.svd_lowrank`;
    images have the shape and dtype of `like`. `rank` triplets are computed, of which
    `keep` are used. Data are divided by their standard deviation `noise`, which
    broadcasts to them; data that are not finite, or have infinite noise, are ignored.
    The solution has minimum norm relative to the typical size of each element, `scale`,
    such as the square root of the area of a cell.

    `keep` is the number of triplets, or a rule: "discrepancy" for the fewest whose
    residual does not exceed the noise (Morozov, Soviet Math. Dokl. 1966), "sure" for
    the least estimated risk of the data, ``|residual|^2 + 2 count`` (Stein, Ann.
    Statist. 1981). Raises ValueError if `keep` is neither a rule nor in 0, ..., `rank`.
    """
    if not (keep in ("discrepancy", "sure") or keep in range(rank + 1)):
        raise ValueError(
            f"keep must be 'discrepancy', 'sure' or from 0 to {rank}, got {keep!r}"
        )
    data, weight = _whitened(y, noise)
    scale = np.asarray(scale, like.dtype)

    def forward(v: Floats) -> Floats:
        return weight * A.forward(scale * v)

    def adjoint(u: Floats) -> Floats:
        return scale * A.adjoint(weight * u)

    U, S, Vh = svd_lowrank((forward, adjoint), rank, seed=seed, like=like)
    U, Vh = U.reshape(-1, rank), Vh.reshape(rank, -1)
    coefficients = U.T @ data.ravel()
    residuals = np.sum(data**2) - np.cumsum(np.r_[0, coefficients**2])
    if keep == "sure":
        count = int(np.argmin(residuals + 2 * np.arange(rank + 1)))
    elif keep == "discrepancy":
        sufficient = np.flatnonzero(residuals <= np.count_nonzero(weight))
        count = int(sufficient[0]) if len(sufficient) else rank
    else:
        count = int(keep)
    count = min(count, int(np.count_nonzero(S > 0)))
    solution = (coefficients[:count] / S[:count]) @ Vh[:count]
    return TruncatedSVD(scale * solution.reshape(like.shape), count, S)


def gauss_newton(
    A: Operator,
    y: ArrayLike,
    start: Floats,
    penalty: Any,
    *,
    weight: float,
    noise: ArrayLike = 1.0,
    variation: float | None = None,
    lower: float = -math.inf,
    iterations: int = 10,
    rtol: float = 1e-3,
    callback: Callable[[int, float], Any] | None = None,
) -> Floats:
    """Minimise a misfit plus a sparse penalty by Gauss-Newton steps.

    The objective is ``|(A(x) - y) / noise|^2 / 2 + weight R(x - start)``, where R is
    ``|L x|^2 / 2`` or the total variation ``sum sqrt((L x)^2 + variation^2)``, with
    lagged diffusivity (Vogel & Oman, SIAM J. Sci. Comput. 1996). Each step is computed
    by conjugate gradients with products of the derivative, preconditioned by the
    penalty, and is halved until the objective decreases. Elements are at least `lower`,
    by projected Newton steps (Bertsekas, SIAM J. Control Optim. 1982).

    A is real, linear or with a `derivative`; images have the shape (n,), and L,
    `penalty`, is sparse, (p, n), of full column rank. Data that are not finite are
    ignored. The method stops when a step decreases the objective by less than the
    fraction `rtol`, or after `iterations`; a linear operator needs several, too, as
    each step is computed to 1 %. `callback` is called with the number of each step and
    the objective. Raises ValueError if `weight` or `variation` is not positive, or
    shapes do not match.
    """
    if not weight > 0 or not (variation is None or variation > 0):
        raise ValueError(
            f"weight and variation must be positive, got {weight} and {variation}"
        )
    if start.ndim != 1 or penalty.shape[1:] != start.shape:
        raise ValueError(
            f"start must be (n,) and penalty (p, n), got {start.shape} and "
            f"{penalty.shape}"
        )
    data, whiten = _whitened(y, noise)
    L, x = csc_array(penalty), np.maximum(start.astype(np.float64), lower)

    def residual(x: Floats) -> Floats:
        return whiten * A.forward(x) - data

    def cost(x: Floats, r: Floats) -> float:
        d = L @ (x - start)
        size = d**2 / 2 if variation is None else np.hypot(d, variation)
        return float(np.sum(r**2) / 2 + weight * np.sum(size))

    def newton(D: Operator, P: Any, solve: Any, slope: Floats, free: Any) -> Floats:
        """Minimise the quadratic model over the elements that are free."""

        def normal(v: Floats) -> Floats:
            return free * (D.adjoint(whiten**2 * D.forward(v)) + P @ v)

        def precondition(r: Floats) -> Floats:
            return free * solve(r)

        zero = np.zeros_like(slope)
        return conjugate_gradients(
            normal, free * -slope, zero, _STEPS, precondition=precondition, rtol=_RTOL
        )

    def descended(move: Floats) -> tuple[Floats, Floats, float] | None:
        """Halve a move until the objective decreases; None if it does not."""
        length = 1.0
        while length > 1e-3:
            trial = np.maximum(x + length * move, lower)
            trial_r = residual(trial)
            if (trial_value := cost(trial, trial_r)) < value:
                return trial, trial_r, trial_value
            length /= 2
        return None

    r = residual(x)
    value = cost(x, r)
    for step in range(iterations):
        D = A.derivative(x)
        d = L @ (x - start)
        lag = np.ones_like(d) if variation is None else 1 / np.hypot(d, variation)
        P = csc_array(weight * (L.T @ diags_array(lag) @ L))
        slope = D.adjoint(whiten * r) + P @ (x - start)
        # A clipped Newton step can raise the objective. Elements at the limit whose
        # slope points below it are held; if the rest gains too little, those that the
        # step clips are held, too.
        solve, held = splu(P).solve, (x <= lower) & (slope >= 0)
        while True:
            move = newton(D, P, solve, slope, ~held)
            found = descended(move)
            cut = ~held & (x + move < lower)
            gain = 0.0 if found is None else value - found[2]
            if (found is not None and gain >= rtol * found[2]) or not cut.any():
                break
            held |= cut
        if found is None:
            break
        x, r, value = found
        if callback is not None:
            callback(step + 1, value)
        if gain < rtol * value:
            break
    return x


def _whitened(y: ArrayLike, noise: ArrayLike) -> tuple[Floats, Floats]:
    """Return data divided by their noise, and 1 / noise, both 0 if not measured."""
    y = np.asarray(y, np.float64)
    noise = np.broadcast_to(np.asarray(noise, np.float64), y.shape)
    if not (noise > 0).all():
        raise ValueError("noise must be positive")
    finite = np.isfinite(y)
    weight = np.where(finite, 1 / noise, 0)
    return np.where(finite, y, 0) * weight, weight

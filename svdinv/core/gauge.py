"""How much a loss depends on the arbitrary phase or basis of singular vectors.

Singular vectors are free: a complex pair (u_i, v_i) up to a common phase, the
vectors of a repeated singular value up to a common unitary matrix, those of the
zero singular values and of the null spaces up to one on each side. A loss that
depends on this freedom has no derivative there. The part of the cotangents along
the free directions, relative to their size, measures how much it depends on them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    array_namespace,
    cast,
    first,
    known_equal,
    last_size,
    safe_divide,
    skew,
)
from svdinv.core.tolerances import cluster_rtol, gauge_tolerance

Gauge: TypeAlias = Literal["ignore", "warn", "error"] | Callable[[Any], None]


class GaugeWarning(UserWarning):
    """The loss depends on the arbitrary phase or basis of the singular vectors."""


class GaugeError(RuntimeError):
    """The loss depends on the arbitrary phase or basis of the singular vectors."""


class GaugeMonitor:
    """Record the gauge dependence of the cotangents of each backward pass.

    Pass one as ``gauge=monitor``: it never warns, raises or synchronises, and
    after a backward pass `last` holds one number for each matrix of the batch.

    Attributes
    ----------
    last : array or None
        Gauge dependence of the last cotangents, of the shape of the batch:
        0 for a gauge-invariant loss, about 1 for one that sees nothing but the
        arbitrary part. ``None`` before the first backward pass.

    Examples
    --------
    >>> import numpy as np, svdinv, svdinv.numpy
    >>> monitor = svdinv.GaugeMonitor()
    >>> (U, S, Vh), pullback = svdinv.numpy.svd_vjp(np.eye(3), gauge=monitor)
    >>> gA = pullback(np.arange(9.0).reshape(3, 3), None, None)
    >>> bool(monitor.last > 0.1)
    True
    """

    last: Any = None

    def __repr__(self) -> str:
        return f"GaugeMonitor(last={self.last!r})"

    def __call__(self, dependence: Any) -> None:
        """Record the gauge dependence of one backward pass."""
        self.last = dependence


def check_gauge(gauge: object) -> None:
    """Raise ValueError unless `gauge` is one of the accepted values."""
    known = gauge in ("ignore", "warn", "error")
    if not known and (not callable(gauge) or isinstance(gauge, type)):
        raise ValueError(
            'gauge must be "ignore", "warn", "error" or a callable such as an '
            f"instance of GaugeMonitor, got {gauge!r}"
        )


def gauge_dependence(
    U: Array,
    S: Array,
    Vh: Array,
    gU: Array | None = None,
    gVh: Array | None = None,
    *,
    rtol: float | None = None,
    xp: Namespace | None = None,
) -> Array:
    """Share of the cotangents that lies along the arbitrary directions.

    Parameters
    ----------
    U, S, Vh : array
        Singular value decomposition, thin or full; shapes (..., m, k) or
        (..., m, m), (..., k), and (..., k, n) or (..., n, n).
    gU, gVh : array or None
        Cotangents of `U` and `Vh`, with dL = Re tr(g^H dx).
    rtol : float, optional
        Gap, relative to the largest singular value, up to which two singular
        values count as equal. Default: 64 eps.
    xp : namespace, optional
        Array namespace; inferred from `U` if not given.

    Returns
    -------
    array
        Real, of shape (...,): the Frobenius norm of the arbitrary part of
        (gU, gVh) over that of (gU, gVh); 0 where both are 0.
    """
    xp = array_namespace(U, S, Vh) if xp is None else xp
    gU = xp.zeros_like(U) if gU is None else gU
    gVh = xp.zeros_like(Vh) if gVh is None else gVh
    k = last_size(S, xp)

    # Normalised first: the squares of cotangents of size 1e-160 underflow.
    size = xp.maximum(abs_max(gU, xp), abs_max(gVh, xp))
    size = cast(xp.where(size > 0, size, xp.ones_like(size)), U, xp)
    gU, gVh = gU / size, gVh / size

    M = adjoint(U[..., :k], xp) @ gU[..., :k]
    NH = gVh[..., :k, :] @ adjoint(Vh[..., :k, :], xp)
    si, sj = S[..., :, None], S[..., None, :]
    tol = cluster_rtol(S, rtol, xp) * first(S)[..., None]
    equal = xp.abs(si - sj) <= tol
    both_zero = (si <= tol) & (sj <= tol)
    free = [
        0.5 * squared(skew(M - NH, xp), xp, equal),
        0.5 * squared(skew(M + NH, xp), xp, both_zero),
    ]
    if not known_equal(U.shape[-1], k):
        free.append(squared(skew(adjoint(U[..., k:], xp) @ gU[..., k:], xp), xp))
    if not known_equal(Vh.shape[-2], k):
        turn = gVh[..., k:, :] @ adjoint(Vh[..., k:, :], xp)
        free.append(squared(skew(turn, xp), xp))
    return root_ratio(sum(free), squared(gU, xp) + squared(gVh, xp), xp)


def squared(X: Array, xp: Namespace, where: Array | None = None) -> Array:
    """Sum of the squared moduli of each matrix, only where `where` holds."""
    square = xp.abs(X) ** 2
    if where is not None:
        square = xp.where(where, square, xp.zeros_like(square))
    return xp.sum(square, axis=(-2, -1))


def root_ratio(free: Array, total: Array, xp: Namespace) -> Array:
    """Root of `free / total`, two sums of squares; 0 where `total` is 0."""
    return xp.sqrt(safe_divide(free, total, total > 0, xp))


def report_gauge(dependence: Any, gauge: Gauge, epsilon: float) -> None:
    """Warn, raise or call `gauge` with the gauge dependence of a backward pass.

    ``"warn"`` and ``"error"`` read it on the host; a callable receives the array.
    `epsilon` is the precision of the cotangents.
    """
    if callable(gauge):
        gauge(dependence)
        return
    tolerance = gauge_tolerance(epsilon)
    # Arrays that follow the array API strictly have no methods.
    xp = None if hasattr(dependence, "sum") else array_namespace(dependence)
    bad = ~(dependence <= tolerance)  # NaN included
    count = int(bad.sum() if xp is None else xp.sum(xp.astype(bad, xp.int64)))
    if not count:
        return
    message = (
        "the loss depends on the arbitrary phase or basis of the singular vectors, "
        "and its gradient is not defined there. Use a loss in U f(S) Vh or in "
        "projectors, or gauge='ignore'"
    )
    if gauge == "error":
        largest = float(dependence.max() if xp is None else xp.max(dependence))
        raise GaugeError(
            f"in {count} of {math.prod(dependence.shape)} matrices {message}; gauge "
            f"dependence up to {largest:.2g}, tolerance {tolerance:.1g}"
        )
    # Without numbers, so that Python shows it once.
    warnings.warn(
        f"{message}; a GaugeMonitor tells where and how much",
        GaugeWarning,
        stacklevel=2,
    )

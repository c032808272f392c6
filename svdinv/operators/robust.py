"""Low rank plus sparse."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

from svdinv.core.backend import Backend
from svdinv.core.factors import Method, check_method
from svdinv.core.functions import TopSubgradient
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    binary_scale,
    cast,
    conj,
    nan_unless,
    norm,
    real,
    safe_divide,
)
from svdinv.core.results import LowRankAndSparse
from svdinv.core.spectral_operations import Factorise, leading_sum
from svdinv.operators._arguments import as_integer, as_number, lengths, per_batch
from svdinv.operators._maps import soft_threshold
from svdinv.operators._registry import operator


@operator
def robust_pca(
    backend: Backend,
    A: Array,
    weight: float | Array | None = None,
    *,
    iterations: int = 50,
    penalty: float | Array | None = None,
    growth: float = 1.5,
    limit: float = 100.0,
    report: Callable[[int, Array], None] | None = None,
    method: Method = "auto",
) -> LowRankAndSparse:
    """Principal component pursuit: A as the sum of low rank and sparse matrices.

    Minimises the nuclear norm of L plus `weight` times the sum of the magnitudes of S
    with L + S = A [1]_, by augmented Lagrangians [2]_: a fixed number of iterations,
    each a soft threshold of singular values and one of elements. It can be unrolled:
    the gradient is that of the iterations, in A, `weight` and `penalty`.

    Parameters
    ----------
    {A}
    weight : float or array, optional
        At least 0, broadcasting to the batch shape (...). Default: 1 / sqrt(max(m, n)).
    iterations : int, optional
        Number of iterations, all of which are carried out.
    penalty : float or array, optional
        Initial weight mu of the squared residual, positive, in units of 1 / A,
        broadcasting to the batch shape. Default: 1.25 / s_1.
    growth : float, optional
        Factor of mu after each iteration, at least 1. Larger factors need fewer
        iterations and end farther from the minimum.
    limit : float, optional
        Number at least 1 that mu may be times the first, see Notes.
    report : callable, optional
        Called after each iteration with its number, from 1, and the size of A - L - S
        relative to that of A, shape (...).
    {method_or_products}

    Returns
    -------
    LowRankAndSparse
        Named tuple ``(low_rank, sparse)`` of the shape and dtype of A.

    {raises}, and if `iterations`, `growth` or `limit` is below 1, or the number
        `penalty` is not positive. Penalties in an array that are not positive, and
        weights of NaN, give NaN.

    See Also
    --------
    svdinv.unroll.algorithms.LowRankPlusSparse : The same for noisy and indirect data.

    Notes
    -----
    Elements and singular values at a threshold have no derivative; the iterates are
    continuous there. The default penalty has none where s_1 is repeated. Values are
    right for A of any scale. Derivatives are right where s_1, 1 / s_1 and `limit` times
    either are normal floating-point numbers.

    Thresholds are divided by mu. If it kept growing, as in [2]_, L and S would stop
    beside the minimum, with L + S = A to rounding, and with derivatives of elements of
    S that are rounding errors. With the default limit, A - L - S is up to some 1e-4 of
    A after 50 iterations. Where A separates well it is far less: of random 50 x 50
    matrices of rank 2 with 5 % of outliers of the same norm, the median is 4e-14,
    the largest of a hundred 2e-5. It contains what is far smaller than A, such as
    noise. Elements of S below a thousandth of s_1 are 0 or too small, and so are
    singular values of L as far below outliers: they need as many times more iterations,
    or a limit of 1e7 with growth 1.1 and 200 iterations, which divide the noise between
    L and S, too. `report` shows what is left.

    References
    ----------
    .. [1] E. J. Candes, X. Li, Y. Ma and J. Wright, "Robust principal component
       analysis?", J. ACM 58(3), 2011.
    .. [2] Z. Lin, M. Chen and Y. Ma, "The augmented Lagrange multiplier method for
       exact recovery of corrupted low-rank matrices", arXiv:1009.5055, 2010.
    """
    check_method(method)
    iterations = as_integer(iterations, "iterations", 1)
    growth = as_number(growth, "growth")
    if not 1 <= growth < math.inf:
        raise ValueError(f"growth must be finite and at least 1, got {growth}")
    limit = as_number(limit, "limit")
    if not 1 <= limit < math.inf:
        raise ValueError(f"limit must be finite and at least 1, got {limit}")
    if isinstance(penalty, numbers.Real) and not 0 < float(penalty) < math.inf:
        raise ValueError(f"penalty must be positive and finite, got {penalty}")
    if report is not None and not callable(report):
        raise TypeError(f"report must be callable, got {report!r}")
    xp = backend.xp
    A, restore = backend.matrices(A, "A")
    given = weight is not None
    if not given:
        m, n = lengths(backend, A)
        known = isinstance(m, int) and isinstance(n, int)
        weight = (max(m, n, 1) if known else xp.maximum(m, n)) ** -0.5
    weight = per_batch(backend, weight, A, 2, "weight")
    # Elements are squared; and cotangents of the size of A times the derivative of the
    # penalty must not overflow, for which `binary_scale` is not enough.
    unit = binary_scale(abs_max(backend.stop_gradient(A), xp), xp)
    A = A * cast(1 / unit, A, xp)
    largest = xp.where(unit == 1, unit, abs_max(backend.stop_gradient(A), xp))
    A, unit = A / cast(largest, A, xp), unit * largest
    if penalty is None:
        mu = _default_penalty(backend, A)
    else:
        mu = per_batch(backend, penalty, A, 2, "penalty") * unit[..., 0, 0]
    usual, one = (mu > 0) & (weight == weight), xp.ones_like(mu)
    mu, weight = (xp.where(usual, x, one) for x in (mu, weight))
    first, factor = mu, 1.0
    sparse = dual = xp.zeros_like(A)
    size = norm(backend.stop_gradient(A), xp)[..., 0, 0]
    for k in range(1, iterations + 1):
        scaled = dual * _wide(1 / mu, A, xp)
        low_rank = soft_threshold(backend, A - sparse + scaled, 1 / mu, False, method)
        sparse = _shrunk(A - low_rank + scaled, weight / mu, xp)
        rest = A - low_rank - sparse
        dual = dual + rest * _wide(mu, A, xp)
        factor = min(factor * growth, limit)
        mu = first * factor
        if report is not None:
            left = norm(backend.stop_gradient(rest), xp)[..., 0, 0]
            report(k, safe_divide(left, size, size > 0, xp))
    if given or hasattr(penalty, "shape"):
        unit = unit * nan_unless(usual, one, xp)[..., None, None]
    low_rank, sparse = (x * cast(unit, A, xp) for x in (low_rank, sparse))
    return LowRankAndSparse(restore(low_rank), restore(sparse))


def _default_penalty(backend: Backend, A: Array) -> Array:
    """1.25 / s_1; 1.25 for zero matrices."""
    xp = backend.xp
    factors = backend.evaluate(Factorise(TopSubgradient(1), method="svd"), A, None)
    top = leading_sum(A, 1, factors, backend.call, xp)
    return 1.25 / xp.where(top > 0, top, xp.ones_like(top))


def _wide(x: Array, A: Array, xp: Namespace) -> Array:
    return cast(x, A, xp)[..., None, None]


def _shrunk(x: Array, tau: Array, xp: Namespace) -> Array:
    """Soft threshold of the magnitudes of the elements."""
    tau, square = tau[..., None, None], real(conj(x, xp) * x, xp)
    kept = ~(square <= tau * tau)  # NaN, too, whose derivatives would be 0
    one = xp.ones_like(square)
    part = one - tau / xp.sqrt(xp.where(kept, square, one))
    return x * cast(xp.where(kept, part, xp.zeros_like(one)), x, xp)

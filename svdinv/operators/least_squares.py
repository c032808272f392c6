"""Pseudo-inverses and what is solved by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from svdinv.core.backend import Backend
from svdinv.core.functions import Reciprocal, Tikhonov
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    binary_scale,
    cast,
    is_small_and_usual,
    is_usual,
    runs_kernels,
)
from svdinv.core.product_operations import product
from svdinv.operators._arguments import (
    as_number,
    batches_broadcast,
    per_batch,
    two_matrices,
)
from svdinv.operators._maps import with_tau
from svdinv.operators._registry import operator

# Elements of right-hand sides whose residual is computed at once, if there are more
# than eight times as many: fresh memory takes longer than the products.
_BLOCK = 2**18


@operator
def pinv(backend: Backend, A: Array, rcond: float | None = None) -> Array:
    """Moore-Penrose pseudo-inverse, V S^+ U^H.

    Parameters
    ----------
    {A}
    rcond : float, optional
        Singular values up to this multiple of the largest count as 0. The default is 64
        eps (7.6e-6 in single precision); smaller numbers are raised to it.

    Returns
    -------
    array
        Shape (..., n, m), dtype of A.

    {raises}, and if `rcond` is not a number in [0, 1).

    Notes
    -----
    The derivative is that at fixed rank [1]_, with P = A A^+ and Q = A^+ A ::

        dA^+ = -A^+ dA A^+ + A^+ A^+H dA^H (1 - P) + (1 - Q) dA^H A^+H A^+

    Where a change of A raises the rank, the pseudo-inverse jumps and has none. If
    `rcond` leaves out singular values that are not 0, the derivative contains
    1 / (s_i - s_j) across the cut-off, as that of `low_rank`.

    References
    ----------
    .. [1] G. H. Golub and V. Pereyra, "The differentiation of pseudo-inverses and
       nonlinear least squares problems whose variables separate", SIAM J. Numer.
       Anal. 10(2), 1973.
    """
    A, restore = backend.matrices(A, "A")
    inverse, unit = _pinv(backend, A, rcond)
    inverse = inverse if unit is None else inverse * unit
    return restore(backend.materialised(inverse))


@operator
def lstsq(
    backend: Backend,
    A: Array,
    b: Array,
    rcond: float | None = None,
    damping: float | Array = 0,
) -> Array:
    """Solution x of least norm of the least squares problem ``min |A x - b|``.

    With damping, the minimiser of ``|A x - b|^2 + damping^2 |x|^2`` (Tikhonov).

    Parameters
    ----------
    {A}
    b : array
        Right-hand sides: shape (..., m, k), whose batch broadcasts with that of A, or,
        with one dimension less than A, vectors (..., m).
    rcond : float, optional
        As for `pinv`, of the singular values s; with damping, of sqrt(s^2 + damping^2).
    damping : float or array, optional
        At least 0, in units of A, broadcasting to the batch shape of A.

    Returns
    -------
    array
        x, shape (..., n, k) or (..., n).

    {raises}, and if `rcond` is out of range, or the shapes or dtypes of A and b differ.

    Notes
    -----
    The derivative is that of `pinv`, at fixed rank. With damping above 64 eps s_1 and
    the default `rcond`, it exists everywhere, also in `damping`; with smaller damping,
    the values cut off count as 0. Without damping, x is refined by its residual, once
    (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, ch. 20): the
    product with the pseudo-inverse would leave one of eps times the condition number.
    """
    xp = backend.xp
    A, b, restore = two_matrices(
        *(backend, A, b, "A", "b"),
        lambda x, name: backend.matrices(x, name, 1 if name == "b" else 2),
    )
    vectors = len(b.shape) == len(A.shape) - 1
    B = b[..., None] if vectors else b
    m = (A.shape[-2], *B.shape[-2:-1])
    fits = len(m) == 2 and (None in m or m[0] == m[1])
    if not fits or not batches_broadcast(A.shape[:-2], B.shape[:-2]):
        rows = ", ".join(map(str, A.shape[:-1]))
        raise backend.shape_error(
            f"b must have shape ({rows}, k) or ({rows}{',' * (len(A.shape) == 2)}), up "
            f"to batches that broadcast, for A of shape {tuple(A.shape)}, got "
            f"{tuple(b.shape)}"
        )
    damped = not (isinstance(damping, (int, float)) and damping == 0)
    tau = per_batch(backend, damping, A, 2, "damping")[..., None] if damped else None
    inverse, unit = _pinv(backend, A, rcond, tau)
    times = partial(product, call=backend.call, xp=xp)

    def solution(P: Array, B: Array) -> Array:
        # The pseudo-inverse of a subnormal matrix is itself infinite.
        return times(P, B if unit is None else B * unit)

    x = solution(inverse, B)
    if not damped:
        # An explicit inverse leaves a residual of eps cond(A), of which this is the
        # least squares solution; its derivative is 0.
        P, M, b, y = map(backend.stop_gradient, (inverse, A, B, x))

        def correction(P: Array, M: Array, b: Array, y: Array) -> Array:
            return solution(P, b - times(M, y))

        x = x + _in_blocks(correction, P, M, b, y, xp)
    return restore(x[..., 0] if vectors else x)


def _in_blocks(
    f: Callable[..., Array], P: Array, M: Array, b: Array, y: Array, xp: Namespace
) -> Array:
    """Compute f = P (b - M y) for large b, in blocks of its columns or rows."""
    *_, m, k = b.shape
    if not runs_kernels(b, xp) or math.prod(b.shape) <= 8 * _BLOCK:
        return f(P, M, b, y)
    step = max(1, max(m, k) * _BLOCK // math.prod(b.shape))
    parts = [slice(i, i + step) for i in range(0, max(m, k), step)]
    if k > m:
        return xp.concat([f(P, M, b[..., j], y[..., j]) for j in parts], axis=-1)
    return sum(f(P[..., j], M[..., j, :], b[..., j, :], y) for j in parts)


def _pinv(
    backend: Backend, A: Array, rcond: float | None, tau: Array | None = None
) -> tuple[Array, Array | None]:
    """Pseudo-inverse or, with tau of shape (..., 1), V diag(s / (s^2 + tau^2)) U^H.

    It is the product of both results; the second is None where it is 1.
    """
    xp, rcond = backend.xp, 0.0 if rcond is None else as_number(rcond, "rcond")
    if not 0 <= rcond < 1:
        raise ValueError(f"rcond must be None or lie in [0, 1), got {rcond}")
    f = Reciprocal(rcond) if tau is None else Tikhonov(rcond)
    # The second derivative contains the cube of the result.
    given = backend.stop_gradient(A)
    if tau is None and is_small_and_usual(given, xp):
        return adjoint(with_tau(backend, A, f, None, False, "auto"), xp), None
    size = abs_max(given, xp)
    if tau is not None:
        size = xp.maximum(size, backend.stop_gradient(tau)[..., None])
    if is_usual(size, xp):
        return adjoint(with_tau(backend, A, f, tau, False, "auto"), xp), None
    unit = binary_scale(size, xp)
    inverse = cast(1 / unit, A, xp)
    scaled = None if tau is None else tau / unit[..., 0]
    found = with_tau(backend, A * inverse, f, scaled, False, "auto")
    return adjoint(found, xp), inverse

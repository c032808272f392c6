"""Decompositions that are the same function on every framework."""

from __future__ import annotations

from typing import Any

from svdinv.core.backend import Backend
from svdinv.core.gauge import Gauge
from svdinv.core.namespace import Array, sizes
from svdinv.core.svd import SVDResult
from svdinv.core.svd_operations import SVD, LowRankSVD
from svdinv.operators._arguments import as_integer, in_precision, shorter
from svdinv.operators._registry import operator


def svd(
    backend: Backend,
    A: Any,
    name: str,
    full_matrices: bool = False,
    repeated: str = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SVDResult:
    """Decompose `A`, which the caller knows as `name`.

    The modules of the frameworks have a function around it, each with the arguments
    and the order of results of the framework's own.
    """
    operation = SVD(full_matrices, repeated, rtol, gauge)  # checks the options
    given = backend.asarray(A, name)
    A, restore = backend.matrices(given, name, any_rank=True)
    operation = in_precision(backend, operation, given, A)
    return SVDResult(*map(restore, backend.call(operation, A)))


@operator
def svdvals(backend: Backend, A: Any) -> Array:
    """Singular values, sorted downwards, with a finite gradient everywhere.

    Parameters
    ----------
    {A}

    Returns
    -------
    array
        Real, shape (..., min(m, n)).

    {raises}.
    """
    return svd(backend, A, "A").S


@operator
def svd_lowrank(
    backend: Backend,
    A: Array,
    rank: int,
    *,
    oversampling: int = 10,
    power: int = 2,
    seed: Any = None,
) -> SVDResult:
    """Leading singular triplets, randomized, with the derivative of the exact ones.

    Halko, Martinsson and Tropp's range finder [1]_: no more than products with A
    and decompositions of slim matrices. The derivative includes the coupling to
    the discarded singular vectors [2]_, by an iterative solution of the linear
    system in them, which again takes only products with A.

    Parameters
    ----------
    {A}
    rank : int
        Number r of triplets, from 1 to min(m, n).
    oversampling : int, optional
        Further columns of the random matrix.
    power : int, optional
        Number of power iterations; more, if the singular values decay slowly.
    seed : optional
        An integer or the framework's own source of random numbers: a generator
        in PyTorch, NumPy and CuPy, a key in JAX. By default the framework's
        global one, and in JAX, which has none, always the same.

    Returns
    -------
    SVDResult
        Named tuple ``(U, S, Vh)`` with shapes (..., m, r), (..., r), (..., r, n);
        in this order on every framework, TensorFlow included.

    {raises}, and if `rank`, `oversampling` or `power` is out of range.

    See Also
    --------
    svdinv.core.truncated.svd_lowrank_pullback : The formulas and their limits.

    Notes
    -----
    A loss should not depend on the phases of the vectors. Where s_r = s_{r+1}
    there is no derivative, and a finite substitute is taken. If the triplets are
    inexact, so is the derivative, by their error over s_r - s_{r+1}. Second derivatives
    are those of the iterative solution: in JAX by forward over reverse mode alone,
    because its loops have no reverse mode twice.

    References
    ----------
    .. [1] N. Halko, P.-G. Martinsson and J. A. Tropp, "Finding structure with
       randomness", SIAM Review 53(2), 2011.
    .. [2] A. Francuz, N. Schuch and B. Vanhecke, "Stable and efficient
       differentiation of tensor network algorithms", Phys. Rev. Research 7,
       013237, 2025.
    """
    xp = backend.xp
    A, restore = backend.matrices(A, "A")
    short = shorter(A.shape)
    rank = as_integer(rank, "rank", 1)
    oversampling = as_integer(oversampling, "oversampling", 0)
    power = as_integer(power, "power", 0)
    if short is None:
        raise backend.shape_error("A must have known numbers of rows and columns")
    if rank > short:
        raise ValueError(f"rank must be at most min(m, n) = {short}, got {rank}")
    *batch, _, n = sizes(A, xp)
    columns = min(rank + oversampling, short)
    sketch = backend.normal((*batch, n, columns), backend.stop_gradient(A), seed)
    U, S, Vh = backend.call(LowRankSVD(rank, power), A, sketch)
    return SVDResult(restore(U), restore(S), restore(Vh))

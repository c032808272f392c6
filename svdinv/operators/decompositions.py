"""Decompositions that are the same function on every framework."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from svdinv.core.backend import Backend
from svdinv.core.clusters import whole_multiplets
from svdinv.core.degenerate import Repeated
from svdinv.core.gauge import Gauge
from svdinv.core.namespace import Array, adjoint, cast, conj, is_complex, real, sizes
from svdinv.core.results import SVDResult
from svdinv.core.svd_operations import SVD, LowRankSVD
from svdinv.core.truncated import (
    adjoint_product,
    leading,
    subspace_iteration,
    triplet_residual,
)
from svdinv.operators._arguments import (
    as_integer,
    as_multiplets,
    in_precision,
    shorter,
)
from svdinv.operators._maps import of_values
from svdinv.operators._products import Products, is_product
from svdinv.operators._registry import operator

_USUAL = SVD()


def svd(
    backend: Backend,
    A: Any,
    name: str,
    full_matrices: bool = False,
    repeated: Repeated = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SVDResult:
    """Decompose `A`, which error messages call `name`.

    The modules of the frameworks wrap this function, with the arguments and the order
    of results of the framework's own SVD.
    """
    full_matrices = bool(full_matrices)
    # Checking the options in SVD takes as long as to decompose a very small matrix.
    usual = repeated == "consistent" and rtol is None and gauge == "ignore"
    simple = usual and full_matrices is False
    operation = _USUAL if simple else SVD(full_matrices, repeated, rtol, gauge)
    given = backend.asarray(A, name)
    A, restore = backend.matrices(given, name, any_rank=True)
    operation = in_precision(backend, operation, given, A, inside=False)
    return SVDResult(*map(restore, backend.call(operation, A)))


@operator
def svdvals(backend: Backend, A: Array) -> Array:
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
    given = backend.asarray(A, "A")
    A, restore = backend.matrices(given, "A", any_rank=True)

    def differentiable(A: Array) -> Array:
        operation = in_precision(backend, _USUAL, given, A, inside=False)
        return backend.call(operation, A)[1]

    return restore(of_values(backend, A, lambda S: S, differentiable))


@operator
def svd_lowrank(
    backend: Backend,
    A: Any,
    rank: int,
    *,
    oversampling: int = 10,
    power: int = 2,
    seed: Any = None,
    multiplets: bool | float | Literal["keep"] = False,
    max_rank: int | None = None,
    like: Any = None,
) -> SVDResult:
    """Leading singular triplets, randomized, with the derivative of the exact ones.

    Halko, Martinsson and Tropp's range finder [1]_: no more than products with A
    and decompositions of slim matrices. The derivative includes the coupling to
    the discarded singular vectors [2]_, by an iterative solution of the linear
    system in them, which again takes only products with A.

    Parameters
    ----------
    {A}
        {products}
    rank : int
        Number r of triplets, from 1 to min(m, n).
    oversampling : int, optional
        Further columns of the random matrix.
    power : int, optional
        Number of power iterations; more, if the singular values decay slowly: a
        relative error of s_j falls by (s_{l+1} / s_j)^4 with each, for l columns.
    seed : optional
        An integer or the framework's own source of random numbers: a generator
        in PyTorch, NumPy and CuPy, a key in JAX. By default the framework's
        global one, and in JAX, which has none, always the same.
    {multiplets}
        The triplets left out are 0. Gaps are known up to the error of the values.
    {max_rank}
        It takes the place of r in the shapes of the results.
    {like}

    Returns
    -------
    SVDResult
        Named tuple ``(U, S, Vh)`` with shapes (..., m, r), (..., r), (..., r, n);
        in this order on every framework, TensorFlow included. For products, m and n are
        the numbers of elements of their results and arguments.

    {raises}, and if `rank`, `oversampling`, `power` or `multiplets` is out of range;
        for products, if they return another dtype, or are found not to be adjoint to
        each other.

    See Also
    --------
    svd_residual : How far off the triplets are.
    svdinv.core.truncated.svd_lowrank_pullback : The formulas and their limits.

    Notes
    -----
    A loss should not depend on the phases of the vectors. Where s_r = s_{r+1}
    there is no derivative, and a finite substitute is used. If the triplets are
    inexact, so is the derivative, by their error over s_r - s_{r+1}. Nothing is
    differentiated through products: their triplets have no derivative, and JAX's grad
    or jvp in what the products depend on raises NotImplementedError.

    S is never larger than the singular values of A, up to rounding.

    References
    ----------
    .. [1] N. Halko, P.-G. Martinsson and J. A. Tropp, "Finding structure with
       randomness", SIAM Review 53(2), 2011.
    .. [2] A. Francuz, N. Schuch and B. Vanhecke, "Stable and efficient
       differentiation of tensor network algorithms", Phys. Rev. Research 7,
       013237, 2025.
    """
    rank = as_integer(rank, "rank", 1)
    oversampling = as_integer(oversampling, "oversampling", 0)
    power = as_integer(power, "power", 0)
    rtol, most = as_multiplets(multiplets, rank, max_rank)
    if is_product(A):
        return _lowrank_by_products(
            Products(backend, A, like), rank, oversampling, power, seed, rtol, most
        )
    xp, given = backend.xp, backend.asarray(A, "A")
    A, restore = backend.matrices(given, "A")
    short = shorter(A.shape)
    if short is None:
        raise backend.shape_error("A must have known numbers of rows and columns")
    _check_rank(rank, short)
    most = min(most, short)
    *batch, _, n = sizes(A, xp)
    found = min(_beyond(most, rtol), short)
    columns = min(max(most + oversampling, found), short)
    sketch = backend.normal((*batch, n, columns), backend.stop_gradient(A), seed)
    operation = in_precision(backend, LowRankSVD(found, power), given, A)
    factors = SVDResult(*backend.call(operation, A, sketch))
    return SVDResult(*map(restore, _whole(backend, factors, rank, rtol, most)))


@operator
def null_vector(backend: Backend, A: Array, *, gauge: Gauge = "ignore") -> Array:
    r"""Right singular vector of the smallest singular value, which A nearly maps to 0.

    The minimiser v of \|A v\| over unit vectors, as the eight-point and five-point
    algorithms and the direct linear transform need it [1]_, with the derivative ::

        dv = (s_n^2 - A^H A)^+ (dA^H A + A^H dA) v

    for m >= n and, for m = n - 1, where A v = 0, dv = -A^+ dA v.

    Parameters
    ----------
    A : array
        Matrices, shape (..., m, n) with m >= n - 1, real or complex.
    {gauge}

    Returns
    -------
    array
        Shape (..., n). Its first element above half the largest in magnitude is real
        and positive.

    {raises}, and if m < n - 1, where the null space is no line.

    Notes
    -----
    Repeated values among the others and rank n - 1 do no harm, except to second
    derivatives, which need distinct values above 0. Where the smallest value is
    repeated, v is some vector of its space, and has no derivative: a finite one is
    used, and `gauge` reports it.

    For complex A with a smallest value s above rounding, the derivative loses digits,
    up to a relative error of eps s_1 / s.

    References
    ----------
    .. [1] R. Hartley and A. Zisserman, "Multiple View Geometry in Computer Vision",
       2nd edition, 2004, algorithm A5.4.
    """
    checked = backend.stop_gradient(backend.matrices(A, "A")[0])
    shape = tuple(checked.shape)
    m, n = shape[-2:]
    if m is None or n is None or not 1 <= n <= m + 1:
        raise backend.shape_error(
            f"A must have at least one column, and at most one more than rows, got "
            f"shape {shape}"
        )
    xp = backend.xp
    v = conj(svd(backend, A, "A", full_matrices=m < n, gauge=gauge).Vh[..., -1, :], xp)
    # LAPACK's vectors for a matrix with infinity may be finite.
    lost = xp.sum(xp.abs(checked - checked), axis=(-2, -1))[..., None]
    return v * (phase_of_pivot(backend, v) + cast(lost, v, xp))


def phase_of_pivot(backend: Backend, v: Array) -> Array:
    """Conjugate phase of the first entry of v above half of the largest, (..., 1)."""
    xp = backend.xp
    size = backend.stop_gradient(xp.abs(v))
    one, zero = xp.ones_like(size), xp.zeros_like(size)
    large = xp.where(size > xp.max(size, axis=-1, keepdims=True) / 2, one, zero)
    first = (large > 0) & (xp.cumulative_sum(large, axis=-1) == 1)
    pivot = xp.sum(xp.where(first, v, xp.zeros_like(v)), axis=-1, keepdims=True)
    # Not abs, which has a wrong second derivative for complex numbers in MLX.
    length = xp.sqrt(real(conj(pivot, xp) * pivot, xp))
    return conj(pivot, xp) / cast(length, v, xp)


@operator
def svd_residual(
    backend: Backend, A: Any, U: Array, S: Array, Vh: Array, *, like: Any = None
) -> Array:
    """Bounds on the errors of singular values, from the residuals of their triplets.

    For unit vectors, A has a singular value within ::

        sqrt((norm(A v_j - s_j u_j)^2 + norm(A^H u_j - s_j v_j)^2) / 2)

    of s_j, however the triplet was computed [1]_; if A is not square, 0 counts as a
    singular value. For orthonormal U and V, all r of them are matched at once, within
    the root of the sum of squares of the bounds.

    Parameters
    ----------
    {A}
        {products}
    U, S, Vh : array
        Triplets, shapes (..., m, r), (..., r), (..., r, n), as from `svd_lowrank`.
    {like}

    Returns
    -------
    array
        Real, shape (..., r).

    {raises}.

    Notes
    -----
    It takes two products with r vectors. The bound is a theorem, up to rounding; for
    singular values away from others the error is far smaller, of the order of its
    square over the gap. A few products cannot prove that s_j is close to the j-th
    singular value and none was missed, but a random start misses one with probability
    0. Nothing is differentiated through products, as in `svd_lowrank`.

    References
    ----------
    .. [1] B. N. Parlett, "The Symmetric Eigenvalue Problem", 1980, theorem 4.5.1, for
       the Hermitian matrix [[0, A], [A^H, 0]].
    """
    xp = backend.xp
    if is_product(A):
        products = Products(backend, A, like)
        times, adjoint_times = products.times, products.adjoint_times
        example, restore = products.like, products.restore
    else:
        example, restore = backend.matrices(A, "A")
        times = example.__matmul__
        adjoint_times = partial(adjoint_product, example, xp=xp)
    kinds = {"U": example, "S": real(example, xp), "Vh": example}
    factors = []
    for x, (name, kind) in zip((U, S, Vh), kinds.items(), strict=True):
        x = backend.asarray(x, name)
        if is_complex(x, xp) and not is_complex(kind, xp):
            raise TypeError(f"{name} must be real, got {x.dtype}")
        factors.append(cast(x, kind, xp))
    found = triplet_residual(
        times,
        adjoint_times,
        SVDResult(*factors),
        constant=backend.stop_gradient,
        xp=xp,
    )
    return restore(found)


def _check_rank(rank: int, short: int) -> None:
    if rank > short:
        raise ValueError(f"rank must be at most min(m, n) = {short}, got {rank}")


def _beyond(rank: int, rtol: float | None) -> int:
    """Count the triplets needed to find where the last multiplet ends."""
    return rank if rtol is None else rank + 1


def _whole(
    backend: Backend, factors: SVDResult, rank: int, rtol: float | None, most: int
) -> SVDResult:
    """First triplets, with zeros for a multiplet that the rank cuts in two."""
    if rtol is None:
        return factors
    xp, (U, S, Vh) = backend.xp, leading(factors, most)
    values = backend.stop_gradient(factors.S)
    kept = whole_multiplets(values, rank, most, rtol, xp)[..., :most]
    return SVDResult(
        xp.where(kept[..., None, :], U, xp.zeros_like(U)),
        xp.where(kept, S, xp.zeros_like(S)),
        xp.where(kept[..., None], Vh, xp.zeros_like(Vh)),
    )


def _lowrank_by_products(
    A: Products,
    rank: int,
    oversampling: int,
    power: int,
    seed: Any,
    rtol: float | None,
    most: int,
) -> SVDResult:
    backend, xp, n = A.backend, A.backend.xp, A.columns
    _check_rank(rank, n)
    columns = min(max(most + oversampling, _beyond(most, rtol)), n)
    sketch = backend.normal((n, columns), A.like, seed)
    image = A.times(sketch)
    m, columns = image.shape
    _check_rank(rank, min(m, n))
    most = min(most, m, n)
    start = image[:, : min(m, columns)]
    found = subspace_iteration(A.times, A.adjoint_times, start, power=power, xp=xp)
    U, S, Vh = leading(found, rank)
    A.check_adjoint(adjoint(U, xp) @ image, cast(S, U, xp)[:, None] * (Vh @ sketch))
    found = leading(found, _beyond(most, rtol))
    U, S, Vh = _whole(backend, found, rank, rtol, most)
    return SVDResult(A.restore(U), A.restore(S), A.restore(Vh))

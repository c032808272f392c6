"""Which factorisation a low-rank operator uses, and how well it must be computed.

The eigenvectors of the Gram matrix cost a fraction of an SVD, but squaring loses
singular values below sqrt(eps) s_1. The smallest value s that f keeps is decisive: the
relative error of f and of its derivatives is about eps (s_1 / s)^2 / 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from svdinv.core.functions import SpectralFunction
from svdinv.core.gram import (
    Gram,
    GramFactors,
    completed,
    from_gram,
    gram_matrix,
    orthonormal,
    svd_by_gram,
)
from svdinv.core.namespace import (
    Array,
    Namespace,
    adjoint,
    any_on_host,
    cast,
    conj,
    decomposes_quickly,
    has_double_precision,
    has_values,
    is_spread,
    is_wide,
    known_equal,
    known_shape,
    may_ask,
    norm,
    numbers,
    real,
    tall_values,
    triangle,
)
from svdinv.core.polynomial_iteration import IterationFactors, iteration_factors
from svdinv.core.spectral import SVDFactors
from svdinv.core.tolerances import (
    ASPECT_LIMIT,
    DOUBLE_EPS,
    GRAM_FLOOR,
    MIN_GRAM_WORK,
    MIN_TALL_ELEMENTS,
    MIN_TALL_WORK,
    MOST_REPAIRED_ELEMENTS,
    MOST_TALL_ELEMENTS,
    MOST_TALL_WORK,
    SINGLE,
    TRIANGLE_FLOOR,
    WIDE_GRAM_FLOOR,
    eps,
    vanishing,
)

Factors: TypeAlias = Any
"""`SVDFactors`, `GramFactors` or `IterationFactors`."""

Method: TypeAlias = Literal["auto", "svd", "gram", "matmul"]
"""The names of the factorisations: see `factorise`."""

METHODS: tuple[str, ...] = get_args(Method)

Decomposition: TypeAlias = Callable[[Array], tuple[Array, Array, Array]]


class Selection(NamedTuple):
    """Which singular values matter: those that a function keeps.

    `tau`, of shape (..., 1) or (..., k), is a multiple of the largest if `relative`.
    """

    function: SpectralFunction
    tau: Any
    relative: bool

    def absolute(self, top: Array) -> Any:
        """Tau for matrices whose largest singular values are `top`, (..., 1)."""
        return self.tau * top if self.relative else self.tau

    def cutoff(self, xp: Namespace) -> Array | None:
        """Cutoff, relative to the largest if tau is; None if there is none."""
        return self.function.cutoff(self.tau, xp)


def check_method(method: str) -> None:
    """Raise ValueError unless `method` is one of the accepted values."""
    if method not in METHODS:
        accepted = ", ".join(f'"{name}"' for name in METHODS)
        raise ValueError(f"method must be one of {accepted}, got {method!r}")


def factorise(
    A: Array,
    function: SpectralFunction,
    tau: Array | None,
    *,
    relative: bool = False,
    method: str = "auto",
    xp: Namespace,
) -> SVDFactors | GramFactors | IterationFactors:
    """Factors of A for the spectral map of a function.

    The function and tau, of shape (..., 1) or (..., k), decide which singular values
    matter; with `relative`, tau is a multiple of the largest. ``"gram"`` computes
    eigenvectors of the Gram matrix, in double precision where that is available; the
    caller must make sure that kept values exceed sqrt(eps) s_1. ``"auto"`` does so
    where that is expected to be faster, in the precision of A if that is enough, and
    falls back to the SVD if a kept singular value turns out too small, or where values
    cannot be read; for A that is spread over devices, to a second Gram matrix. Computed
    from the Gram matrix, the vectors of the larger side that belong to very small
    singular values are not orthogonal.
    """
    selection = Selection(function, tau, relative)
    shape = known_shape(A)
    if None in shape[-2:]:
        method = "svd"  # which side of the Gram matrix is smaller is not known
    if method == "matmul" and 0 not in shape:
        return iteration_factors(function, A, tau, relative, xp)
    single = eps(A, xp) > SINGLE
    double = single and has_double_precision(xp)
    unitary = function.needs_unitary and known_equal(A.shape[-2], A.shape[-1])
    if method == "gram" and 0 not in shape:
        gram = gram_matrix(A, double, xp)
        if gram is not None:
            factors = from_gram(gram, A, xp)
            if unitary and isinstance(factors, SVDFactors):
                return factors._replace(U=completed(factors.U, xp))
            return factors
    if method == "auto" and 0 not in shape and is_spread(A, xp) and not unitary:
        return _of_spread(A, selection, double, xp)
    quick = decomposes_quickly(A, xp)
    sized = None not in shape and 0 not in shape
    if method == "auto" and not quick and sized and may_ask(xp):
        return cheapest(A, selection, xp)
    return _decomposed(A, quick, xp)


def cheapest(
    A: Array,
    selection: Selection,
    xp: Namespace,
    svd: Decomposition | None = None,
    tried: bool = False,
) -> SVDFactors | GramFactors:
    """Factors of A by the cheapest accurate method, where no kernel computes its SVD.

    `svd` computes the framework's thin SVD, by default `xp.linalg.svd`. `tried` says
    that kernels have found the Gram matrix too inaccurate.
    """
    found = _cheaper(A, selection, xp, tried)
    return _decomposed(A, False, xp, svd) if found is None else found


def _decomposed(
    A: Array, quick: bool, xp: Namespace, svd: Decomposition | None = None
) -> SVDFactors:
    """Factors by an SVD, by kernels if `quick`."""
    U, S, Vh = xp.linalg.svd(A, full_matrices=False) if svd is None else svd(A)
    m, n = known_shape(A)[-2:]
    large = (m or 0) * (n or 0) > MOST_REPAIRED_ELEMENTS  # if both are known
    if quick or large or eps(A, xp) <= SINGLE or 0 in known_shape(A):
        return SVDFactors(U, S, Vh)
    return repaired(A, U, S, Vh, xp)


def repaired(A: Array, U: Array, S: Array, Vh: Array, xp: Namespace) -> SVDFactors:
    """Refine factors: LAPACK and Eigen leave several eps of single precision."""
    U, V = orthonormal(U, xp), orthonormal(adjoint(Vh, xp), xp)
    S = xp.sum(real(conj(U, xp) * (A @ V), xp), axis=-2)
    return SVDFactors(U, xp.maximum(S, xp.zeros_like(S)), adjoint(V, xp))


def _of_spread(
    A: Array, selection: Selection, double: bool, xp: Namespace
) -> SVDFactors | GramFactors:
    """Factors of matrices spread over devices: by one Gram matrix, if needed by two."""
    gram: Any = gram_matrix(A, double, xp)
    if has_values(gram.N, xp):
        factors = from_gram(gram, A, xp)
        floor = WIDE_GRAM_FLOOR if double else GRAM_FLOOR
        epsilon = eps(gram.N, xp)
        if _trusted(factors.S, selection, floor, epsilon, xp):
            return factors
    return svd_by_gram(gram, A, xp)


def _safe(
    S: Array, selection: Selection, floor: float, epsilon: float, xp: Namespace
) -> Array:
    """Mask of the singular values above `floor` s_1 or set to 0 by f; false for NaN.

    Values of a zero matrix that f keeps are not safe: its Gram matrix has no vectors.
    """
    top = S[..., :1]
    # Lost values have no reliable size; assume the upper bound.
    most = xp.maximum(S, _lost(S.shape[-1], epsilon) * top)
    y = selection.function.value(most, selection.absolute(top), xp)
    return ((y <= 0) & (S == S)) | ((floor * top <= S) & (S > 0))


def _trusted(
    S: Array, selection: Selection, floor: float, epsilon: float, xp: Namespace
) -> bool:
    """Whether all values that f keeps are above `floor` s_1."""
    cutoff, values = None, _values_of_one(S, xp)
    if values is not None:
        cutoff = selection.function.cutoff(selection.absolute(S[..., :1]), xp)
    limits = None if cutoff is None else numbers(cutoff, xp)
    if values is None or limits is None:
        safe = _safe(S, selection, floor, epsilon, xp)
        return any_on_host(~safe, xp) is False
    lost, least = _lost(len(values), epsilon) * values[0], floor * values[0]
    limits = limits * len(values) if len(limits) == 1 else limits
    return all(
        (s >= least and s > 0) or max(s, lost) <= limit
        for s, limit in zip(values, limits, strict=True)
    )


def _values_of_one(S: Array, xp: Namespace) -> list[float] | None:
    """Singular values of a single matrix as numbers of Python.

    Some comparisons of these cost less than a call of an array function.
    """
    return numbers(S, xp) if math.prod(S.shape[:-1]) == 1 else None


def _lost(count: int, epsilon: float) -> float:
    """Size, relative to s_1, below which a Gram matrix has lost a value."""
    return 8 * (count * epsilon) ** 0.5


def _cheaper_unseen(
    A: Array,
    values: Any,
    small: bool,
    selection: Selection,
    xp: Namespace,
) -> SVDFactors | None:
    """Factors in a traced graph, which chooses the method when it runs."""
    if not hasattr(xp, "choose"):
        return None
    if values is None:
        return None if small else _gram_unseen(A, selection, xp)
    S, V, W = values
    floor, epsilon = WIDE_GRAM_FLOOR, DOUBLE_EPS
    safe = xp.all(_safe(S, selection, floor, epsilon, xp))
    factors = xp.choose(
        safe,
        lambda: tuple(_with_image(A, S, V, xp.tall_vectors(A, W), xp)),
        lambda: tuple(_decomposed(A, False, xp)),
    )
    return SVDFactors(*factors)


def _gram_unseen(A: Array, selection: Selection, xp: Namespace) -> SVDFactors | None:
    """Factors by the Gram matrix if a graph finds the cutoff high enough for it.

    A lower bound of s_1, for which A is read twice, rules out most other matrices; the
    upper bound takes two products.
    """
    cutoff = selection.cutoff(xp)
    if cutoff is None:
        return None

    def by_svd() -> tuple[Array, ...]:
        return tuple(_decomposed(A, False, xp))

    def by_gram() -> tuple[Array, ...]:
        gram: Any = gram_matrix(A, False, xp)

        def factors() -> tuple[Array, ...]:
            return tuple(from_gram(gram, A, xp, with_image=True))

        if selection.relative:
            return factors()
        bound = GRAM_FLOOR * _bound_of_largest(gram, xp)
        return xp.choose(xp.all(cutoff >= bound), factors, by_svd)

    least = 1.0 if selection.relative else _about_largest(A, cutoff, xp)
    enough = xp.all(cutoff >= GRAM_FLOOR * least)
    return SVDFactors(*xp.choose(enough, by_gram, by_svd))


def _bound_of_largest(gram: Gram, xp: Namespace) -> Array:
    """Upper bound of s_1, (..., 1), above it by a factor up to min(m, n)^(1/8).

    The eighth root of the sum of the eighth powers of all singular values.
    """
    trace = xp.sum(real(xp.linalg.diagonal(gram.N), xp), axis=-1, keepdims=True)
    N = gram.N / cast(xp.where(trace > 0, trace, 1 + trace), gram.N, xp)[..., None]
    eighth = norm(N @ N, xp)[..., 0] ** 0.25
    return gram.scale * xp.sqrt(trace) * eighth


def _exceeds(cutoff: Array, largest: Any, xp: Namespace) -> bool:
    """Whether the cutoff is known to be high enough for the Gram matrices of all."""
    return any_on_host(~(cutoff >= GRAM_FLOOR * largest), xp) is False


def _about_largest(A: Array, cutoff: Array, xp: Namespace) -> Array:
    """Lower bound of s_1, (..., 1): |A v| / |v| after a step of the power method.

    NaN where v is 0, as for a zero matrix: no cutoff is known to be high enough then.
    """
    # Start from the sum of half of the columns: rows whose sum is 0 are common.
    half = xp.sum(A[..., : A.shape[-1] // 2 + 1], axis=-1, keepdims=True)
    unit = cutoff[..., :1, None] ** 2  # so that v is of the order of 1
    unit = cast(xp.where(unit > 0, unit, xp.ones_like(unit)), A, xp)
    v = adjoint(A, xp) @ (half / unit)
    w = A @ v
    squares = (adjoint(w, xp) @ w) / (adjoint(v, xp) @ v)
    return xp.sqrt(real(squares, xp)[..., 0])


def _by_triangle(
    A: Array, selection: Selection, xp: Namespace
) -> SVDFactors | GramFactors | None:
    """Factors of tall or wide A by the SVD of the triangle of its QR decomposition.

    LAPACK's SVD of such matrices begins in this way. Two of its three products over the
    longer side compute the vectors of that side, needed only if small values are kept.
    """
    wide = is_wide(A)
    found = triangle(adjoint(A, xp) if wide else A, xp)
    if found is None:
        return None
    R, multiplied = found
    if any_on_host(~xp.isfinite(R), xp) is not False:
        return None
    left, S, righth = xp.linalg.svd(R, full_matrices=False)
    epsilon = eps(A, xp)
    if _is_usual(S, xp) and _trusted(S, selection, TRIANGLE_FLOOR, epsilon, xp):
        return GramFactors(S, adjoint(righth, xp))
    U = multiplied(left)
    if wide:
        return SVDFactors(adjoint(righth, xp), S, adjoint(U, xp))
    return SVDFactors(U, S, righth)


def _is_usual(S: Array, xp: Namespace) -> bool:
    """Whether squares of the largest values neither over- nor underflow."""
    least, one = vanishing(S, xp), _values_of_one(S, xp)
    if one is not None:
        return least < one[0] < 1 / least or one[0] == 0
    top = S[..., :1]
    usual = ((top > least) & (top < 1 / least)) | (top == 0)
    return any_on_host(~usual, xp) is False


def of_tall(
    A: Array,
    S: Array,
    V: Array,
    vectors: Callable[[], Array],
    selection: Selection,
    xp: Namespace,
) -> SVDFactors | GramFactors | None:
    """Factors of tall or wide A from S and V of `tall_values`; None if too inaccurate.

    `vectors` computes the vectors of the longer side, as `tall_vectors` does.
    """
    short, long = min(A.shape[-2:]), max(A.shape[-2:])
    elements = math.prod(A.shape)
    large = elements > MOST_TALL_ELEMENTS or elements * short > MOST_TALL_WORK
    if large and long >= ASPECT_LIMIT * short and selection.cutoff(xp) is not None:
        usual = _is_usual(S, xp)
        if usual and _trusted(S, selection, GRAM_FLOOR, DOUBLE_EPS, xp):
            return GramFactors(S, V)
    if not _trusted(S, selection, WIDE_GRAM_FLOOR, DOUBLE_EPS, xp):
        return None
    return _with_image(A, S, V, vectors(), xp)


def _with_image(A: Array, S: Array, V: Array, image: Array, xp: Namespace) -> Any:
    Vh = adjoint(V, xp)
    return SVDFactors(V, S, image) if is_wide(A) else SVDFactors(image, S, Vh)


def _cheaper(
    A: Array, selection: Selection, xp: Namespace, tried: bool
) -> SVDFactors | GramFactors | None:
    """Factors without an SVD of A, if that is faster and accurate enough."""
    short, long = min(A.shape[-2:]), max(A.shape[-2:])
    elements = math.prod(A.shape)
    many, work = elements >= MIN_TALL_ELEMENTS, elements * short
    tall = long >= 2 * short and (many or work >= MIN_TALL_WORK)
    small = work < MIN_GRAM_WORK
    if small and not tall:
        return None  # little to gain
    if tried:
        return _by_triangle(A, selection, xp) if many else None
    values = tall_values(A, xp) if tall else None
    if values is None and small and not many:
        return None
    if not has_values(A, xp):
        return _cheaper_unseen(A, values, small, selection, xp)
    if values is not None:
        S, V, W = values
        found = of_tall(A, S, V, lambda: xp.tall_vectors(A, W), selection, xp)
        if found is not None:
            return found
    cutoff = selection.cutoff(xp)
    if values is None and cutoff is not None and not small:
        largest = 1.0 if selection.relative else _about_largest(A, cutoff, xp)
        gram = gram_matrix(A, False, xp) if _exceeds(cutoff, largest, xp) else None
        if gram is not None:
            factors = from_gram(gram, A, xp)
            largest = 1.0 if selection.relative else factors.S[..., :1]
            if _exceeds(cutoff, largest, xp):  # and so does all that f keeps
                return factors
    return _by_triangle(A, selection, xp) if tall and many else None

"""Rules for the derivative inside a cluster of repeated singular values.

With M = U^H gU and N = V^H gV, the part of the pullback that is ill-posed where
s_i = s_j is ``E * skew(M + N)`` with E_ij = 1 / (s_j - s_i). A *linear* rule
replaces E by something finite and may add ``herm(W * M + W^T * N^H)``; its
transpose serves the pushforward. The *consistent* rule estimates the missing
derivative from the cotangents themselves.

All functions take singular values scaled by a power of two near the largest one,
so that every tolerance is relative and the gaps are exact.
"""

from __future__ import annotations

from functools import partial
from numbers import Real
from typing import Literal, NamedTuple, TypeAlias, get_args

from svdinv.core.clusters import close_pairs, in_clusters
from svdinv.core.comparison_rules import COMPARISON_RULES, comparison_rule
from svdinv.core.namespace import (
    Array,
    Namespace,
    adjoint,
    any_on_host,
    cast,
    clusters,
    conj,
    held,
    herm,
    identity_like,
    is_complex,
    off_diagonal,
    real,
    safe_divide,
    skew,
)
from svdinv.core.spectral import diagonal_matrices, real_diagonal
from svdinv.core.tolerances import (
    cluster_rtol,
    eps,
    neighbour_rtol,
    rounding_rtol,
    smallest,
    tiny,
    vanishing,
)

Repeated: TypeAlias = Literal[
    "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
]
"""Names of the rules, the last four of which are `COMPARISON_RULES`."""

REPEATED_RULES: tuple[str, ...] = get_args(Repeated)

ERROR_FACTOR = 10  # an estimate off by more predicted errors than this is rejected
RATIO_ERROR = 0.3  # assumed for a ratio, relative to 1 / s: g may not be 0
# Quotient over the largest slope above which the loss counts as gauge-dependent.
SLOPE_RATIO_OF_GAUGE = 100
# Slope at 0 over the largest elsewhere up to which a function counts as smooth.
SLOPE_RATIO_AT_ZERO = 1e4


def check_repeated(repeated: object, rtol: object) -> None:
    """Raise ValueError unless `repeated` names a rule and `rtol` is valid."""
    if repeated not in REPEATED_RULES:
        names = ", ".join(f'"{name}"' for name in REPEATED_RULES)
        raise ValueError(f"repeated must be one of {names}, got {repeated!r}")
    if rtol is None:
        return
    valid = isinstance(rtol, Real) and not isinstance(rtol, bool)
    if not (valid and 0 <= rtol < 1):  # type: ignore[operator]
        raise ValueError(f"rtol must be None or a number in [0, 1), got {rtol!r}")


def _pairs(s: Array) -> tuple[Array, Array]:
    return s[..., :, None], s[..., None, :]


def reciprocal(s: Array, xp: Namespace) -> Array:
    """1 / s, and 0 for singular values that are 0."""
    positive = s > vanishing(s, xp)
    return xp.where(positive, 1 / xp.where(positive, s, 1.0), 0.0)


def inverse_sum(s: Array, xp: Namespace) -> Array:
    """D_ij = 1 / (s_i + s_j), and 0 where both are 0."""
    si, sj = _pairs(s)
    return reciprocal(si + sj, xp)


def vector_block(
    s: Array,
    M: Array,
    NH: Array,
    gS: Array,
    repeated: str,
    rtol: float | None,
    epsilon: float | None,
    xp: Namespace,
) -> Array:
    """Middle factor of the pullback by any rule, shape (..., k, k).

    `s` holds the scaled singular values, sorted downwards, shape (..., k), and `gS`
    their real cotangent; M = U^H gU and NH = (V^H gV)^H have shape (..., k, k). The
    rest is as for `svdinv.core.svd_pullback`.
    """
    if repeated != "consistent":
        E, W = (cast(x, M, xp) for x in linear_rule(s, repeated, rtol, xp))
        D = cast(inverse_sum(s, xp), M, xp)
        block = E * skew(M - NH, xp) + D * skew(M + NH, xp)
        block = block + herm(W * M + xp.matrix_transpose(W) * NH, xp)
        return block + diagonal_matrices(gS, M, xp)
    epsilon = eps(s, xp) if epsilon is None else epsilon
    near, negligible = neighbour_rtol(rtol, epsilon), s <= rounding_rtol(s, xp)
    ways = (
        partial(_distinct_block, xp),
        partial(consistent_block, xp, rtol, epsilon),
        partial(clusters, near=near, epsilon=epsilon, xp=xp),
    )
    reach = reach_of_rule(rtol, epsilon)
    return in_clusters(reach, negligible, *ways, (s, M, NH, gS), xp)


def reach_of_rule(rtol: float | None, epsilon: float) -> float:
    """Gap up to which the consistent rule treats two values together."""
    return max(neighbour_rtol(rtol, epsilon), neighbour_rtol(None, epsilon))


def _distinct_block(
    xp: Namespace, s: Array, M: Array, NH: Array, gS: Array, reach: float | None
) -> Array:
    """Middle factor of the pullback for distinct values, in few passes over arrays.

    It is finite, but wrong, for pairs of values within `reach`.
    """
    si, sj = _pairs(s)
    block, right = M - adjoint(M, xp), NH - adjoint(NH, xp)
    block = block * cast(sj, M, xp) - right * cast(si, M, xp)
    del right
    gap = sj - si
    one = close_pairs(gap, reach, xp)
    gap = gap * (sj + si) + one
    block = block / cast(gap, M, xp)
    eye = one if reach is None else close_pairs(gap, None, xp)
    del gap, one
    diagonal = cast(gS, M, xp)
    if is_complex(M, xp):
        phase = xp.linalg.diagonal(M) + xp.linalg.diagonal(NH)
        phase = 0.5 * (phase - conj(phase, xp)) * cast(reciprocal(s, xp), M, xp)
        diagonal = diagonal + 0.5 * phase - xp.linalg.diagonal(block)
    return block + diagonal[..., None] * cast(eye, M, xp)


def linear_rule(
    s: Array, repeated: str, rtol: float | None, xp: Namespace
) -> tuple[Array, Array]:
    """E and W of one of the rules that are linear in the cotangents.

    `s` is scaled and sorted, `repeated` any rule but ``"consistent"``. E is
    antisymmetric, and W is 0 where the rule adds nothing; both are (..., k, k).
    """
    top = xp.max(xp.abs(s), axis=-1, keepdims=True)[..., None]
    top = xp.where(top > 0, top, xp.ones_like(top))
    tol = cluster_rtol(s, rtol, xp) * top
    if repeated in COMPARISON_RULES:
        E = comparison_rule(repeated, s, tol, top, xp)
        return E, xp.zeros_like(E)
    si, sj = _pairs(s)
    gap = sj - si
    apart = (xp.abs(gap) > tol) & (xp.abs(gap) > vanishing(s, xp))
    E = safe_divide(xp.ones_like(gap), gap, apart, xp)
    if repeated == "drop":
        return E, xp.zeros_like(E)
    # Minimum norm, each side divided by its own singular value (exact where f/s
    # is constant), on one side alone where the other singular value is 0.
    positive = xp.astype(s > vanishing(s, xp), s.dtype, copy=False)
    pi, pj = _pairs(positive)
    cluster = off_diagonal(xp.abs(gap) <= tol, identity_like(gap, xp), xp)
    share = safe_divide(xp.ones_like(gap), pi + pj, cluster & (pi + pj > 0), xp)
    return E, share * reciprocal(sj, xp)


def consistent_block(
    xp: Namespace,
    rtol: float | None,
    epsilon: float,
    s: Array,
    M: Array,
    NH: Array,
    gS: Array,
) -> Array:
    """Middle factor of the pullback by the consistent rule.

    Inside a cluster a loss Re<G, U f(S) V^H> + sum g(s) has, with
    B = herm((M + N^H) / 2) and K = U^H G V,

        B = f(s) herm(K),   gS_i = f'(s) Re K_ii + g'(s),

    and the exact gradient needs f'(s) herm(K) there: rho B with rho = f'/f, which
    is the slope of gS over Re diag(B). For each pair the estimate with the
    smallest predicted error is taken among the plain quotient, the slope, the
    ratio without g', and the minimum norm. Among zero singular values f/s tends
    to f'(0) and M_ij / s_j = K_ij f(s_j) / s_j carries it to full accuracy.

    The result, of shape (..., k, k), is homogeneous of degree one in (M, NH, gS), but
    linear in them only outside the clusters.
    """
    v = cotangent_values(s, M, NH, gS, xp)
    scale = cast(v.scale, M, xp)[..., None]
    M, NH = M / scale, NH / scale

    si, sj = _pairs(v.s)
    inverse_i, inverse_j = _pairs(cast(v.inverse, M, xp))
    left = M * inverse_j  # M_ij / s_j
    right = NH * inverse_i  # conj(N_ji) / s_i
    positive = xp.astype(v.s > vanishing(s, xp), s.dtype, copy=False)
    pi, pj = _pairs(positive)
    both = pi * pj
    quotient = (left + right) / cast(1 + both, M, xp)

    near = xp.abs(sj - si) <= neighbour_rtol(rtol, epsilon)
    eye = identity_like(both, xp)
    total = M + NH
    B = 0.5 * herm(total, xp)
    rho, rho_error = slope = log_derivative(v, B, near, epsilon, xp)

    mean = herm(quotient, xp)
    norm, apart = (mean, xp.abs(mean)), off_diagonal(near, eye, xp)
    block = cluster_part(v, skew(M - NH, xp), B, slope, norm, apart, epsilon, xp)
    block = block + cast(inverse_sum(v.s, xp), M, xp) * skew(total, xp)

    # If the slope clearly differs from 1 / s, f is not linear.
    unlike = xp.abs(rho - v.inverse) > ERROR_FACTOR * rho_error
    lost = v.s <= rounding_rtol(s, xp)
    linear = (~unlike | lost) & v.smooth & (v.s <= neighbour_rtol(None, eps(s, xp)))
    zero = _zero_part(v, left, right, both, linear, epsilon, xp)
    kept_i, kept_j = _pairs(~lost)  # NaN included
    diagonal = cast(eye * real_diagonal(quotient, xp)[..., None], M, xp)
    block = xp.where(kept_i | kept_j, block, 0.0)
    block = xp.where(zero, quotient - diagonal, block)
    return (block + cast(eye * v.gS[..., None], M, xp)) * scale


class Values(NamedTuple):
    """Inputs of the rule for each singular value, (..., k), or matrix, (..., 1).

    Cotangents are normalised by their scale, because their squares in the rule would
    under- or overflow.
    """

    s: Array
    inverse: Array
    """1 / s."""
    gS: Array
    size: Array
    """Largest cotangents of each pair of singular vectors."""
    smooth: Array
    """Result of `smooth_at_zero`."""
    most: Array
    """Largest element of `gS`."""
    scale: Array


def cotangent_values(s: Array, M: Array, NH: Array, gS: Array, xp: Namespace) -> Values:
    """Compute the `Values` of each matrix from the cotangents."""
    size = xp.maximum(xp.max(xp.abs(M), axis=-2), xp.max(xp.abs(NH), axis=-1))
    most = xp.max(xp.abs(gS), axis=-1, keepdims=True)
    scale = held(xp.maximum(xp.max(size, axis=-1, keepdims=True), most), xp)
    scale = xp.where(scale > 0, scale, 1.0)
    gS, size, most = gS / scale, size / scale, most / scale
    smooth = smooth_at_zero(s, size, gS, xp)
    return Values(s, reciprocal(s, xp), gS, size, smooth, most, scale)


def smooth_at_zero(s: Array, size: Array, gS: Array, xp: Namespace) -> Array:
    """Where cotangents vanish with their singular value, as for smooth f.

    `size` holds the largest cotangent of each pair of singular vectors. At rounding
    level, an odd smooth f(s) is f'(0) s, and these cotangents are proportional to s.
    Larger ones would be blown up by 1 / s; they belong to a loss without a derivative
    there, or through these vectors. True for all values above rounding level.
    """
    significant = s > rounding_rtol(s, xp)
    # For a constant f, the slope at small values is |f(0)| / s. It is bounded so that
    # with such a slope no value at rounding level passes the test.
    least = SLOPE_RATIO_AT_ZERO * rounding_rtol(s, xp)
    slopes = xp.where(significant, size, 0.0) / xp.where(s > least, s, least)
    slope = xp.max(xp.maximum(slopes, xp.abs(gS)), axis=-1, keepdims=True)
    return significant | (size <= SLOPE_RATIO_AT_ZERO * s * slope)


def outside_weight(
    s: Array, gS: Array, cotangents: tuple[Array, ...], xp: Namespace
) -> Array:
    """1 / s, but 0 where the cotangents, (..., n, k), do not vanish with s."""
    weight = reciprocal(s, xp)
    if any_on_host(s <= rounding_rtol(s, xp), xp) is False:
        return weight
    size = xp.maximum(*(xp.max(xp.abs(g), axis=-2) for g in cotangents))
    smooth = smooth_at_zero(s, size, gS, xp)
    return xp.where(smooth, weight, 0.0)


def cluster_part(
    v: Values,
    odd: Array,
    B: Array,
    slope: tuple[Array, Array],
    norm: tuple[Array, Array],
    near: Array,
    epsilon: float,
    xp: Namespace,
) -> Array:
    """Estimate E * odd, pair by pair by the smallest predicted error.

    `odd` is skew(M + N), `slope` is from `log_derivative`, and `norm` is the minimum
    norm estimate; both come with their predicted errors. `near` is the mask of the
    pairs i != j within the reach of the rule.
    """
    si, sj = _pairs(v.s)
    gap = sj - si
    distance = xp.abs(gap)
    # Rounding errors of M are relative to its columns, those of N^H to its rows.
    size_i, size_j = _pairs(v.size)
    noise = 2 * epsilon * (size_i + size_j)

    plain = safe_divide(odd, gap, distance > vanishing(gap, xp), xp)

    (rho_i, rho_j), (error_i, error_j) = (_pairs(x) for x in slope)
    consistent = cast(0.5 * (rho_i + rho_j), B, xp) * B
    consistent_error = 0.5 * (error_i + error_j) * xp.abs(B)

    minimum_norm, minimum_norm_error = norm

    # The error of the plain quotient is noise / distance; multiplied out, because
    # the distance may be 0.
    use_slope = consistent_error * distance < noise
    error = xp.where(use_slope, consistent_error * distance, noise)
    use_norm = minimum_norm_error * distance < error
    use_norm = use_norm | (use_slope & (minimum_norm_error < consistent_error))
    # For a gauge-invariant loss, odd is gap * f[s_i, s_j] * herm(K). If that is far
    # from gap * rho * B, f is not linear between the two, as at a kink, and the plain
    # quotient is right. Or odd does not vanish with the gap, because the loss depends
    # on single vectors. Their derivative is the plain quotient, unless the gap is a
    # rounding error: then rho could be anything, and the minimum norm stays small.
    allowed = ERROR_FACTOR * (noise + consistent_error * distance)
    unlike = xp.abs(odd - cast(gap, B, xp) * consistent) > allowed
    free = xp.abs(odd) > SLOPE_RATIO_OF_GAUGE * distance * v.most[..., None]
    free = free & (distance <= rounding_rtol(v.s, xp))
    use_norm = xp.where(unlike, free, use_norm)

    part = xp.where(near & use_slope & ~unlike, consistent, plain)
    return xp.where(near & use_norm, minimum_norm, part)


def _zero_part(
    v: Values,
    left: Array,
    right: Array,
    both: Array,
    linear: Array,
    epsilon: float,
    xp: Namespace,
) -> Array:
    """Mask of pairs between which f is linear, so that the block is M_ij / s_j.

    These are pairs of small values at both of which f may be linear, as `linear` says,
    and for which M_ij / s_j and conj(N_ji) / s_i agree, for (i, j) and for (j, i).
    """
    linear_i, linear_j = _pairs(linear)
    size_i, size_j = _pairs(v.size * v.inverse)
    size = size_i + size_j + 1
    agree = (both == 0) | (xp.abs(left - right) <= epsilon**0.5 * size)
    return agree & xp.matrix_transpose(agree) & linear_i & linear_j


def log_derivative(
    v: Values,
    B: Array,
    near: Array,
    epsilon: float,
    xp: Namespace,
) -> tuple[Array, Array]:
    """Estimate rho_i = f'(s_i) / f(s_i) over the neighbours of i, and its error."""
    s, gS, inverse, size = v.s, v.gS, v.inverse, v.size
    weight = xp.astype(near, s.dtype, copy=False)
    count = xp.sum(weight, axis=-1)
    b = real(xp.linalg.diagonal(B), xp)

    # Means by one product, because on a GPU each small operation costs the same.
    x = xp.stack([b, gS, s, b * b, gS * gS, b * gS], axis=-2)
    means = (x @ weight) / count[..., None, :]
    mean_b, mean_g, mean_s, square_b, square_g, product = (
        means[..., i, :] for i in range(6)
    )
    db, dg, ds = (
        y[..., None, :] - mean[..., :, None]
        for y, mean in ((b, mean_b), (gS, mean_g), (s, mean_s))
    )
    weighted = weight * db
    variance = xp.sum(weighted * db, axis=-1) / count
    covariance = xp.sum(weighted * dg, axis=-1) / count

    # Bounded below so that second derivatives, in 1 / variance^2, stay finite.
    least = tiny(s, xp)
    slope_known = variance > least
    slope = safe_divide(covariance, variance, slope_known, xp)
    ratio = safe_divide(product, square_b, square_b > least, xp)

    def root(square: Array) -> Array:
        return xp.sqrt(square + smallest(s, xp))  # which has a derivative at 0

    rounding = 2 * epsilon * (v.most + size * inverse)
    curvature = root(square_g) * inverse + root(square_b) * inverse**2
    spread = root(xp.sum(weight * ds * ds, axis=-1) / count)
    slope_error = safe_divide(
        rounding + curvature * spread, root(variance), slope_known, xp
    )

    # Without a penalty on the singular values the line goes through the origin,
    # and the ratio is known even where b hardly varies.
    through_origin = ~slope_known | (xp.abs(ratio - slope) <= slope_error)
    # With nothing but rounding on the diagonal, the minimum norm is the better guess.
    silent = square_b <= (8 * epsilon * size) ** 2
    ratio_error = xp.where(silent, 2 * inverse, RATIO_ERROR * inverse)
    known = xp.where(slope_known, xp.minimum(slope_error, ratio_error), ratio_error)
    rho = xp.where(through_origin, ratio, slope)
    return rho, xp.where(through_origin, known, slope_error)

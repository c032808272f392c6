"""Spectral maps of a function that is known only by its values and slopes."""

from __future__ import annotations

from svdinv.core.functions import quotient
from svdinv.core.namespace import (
    Array,
    Namespace,
    binary_scale,
    first,
    identity_like,
    safe_divide,
    scaled,
)
from svdinv.core.spectral import (
    Coefficients,
    SVDFactors,
    outside_ranges,
    over_s,
    pair,
)
from svdinv.core.tolerances import eps

# Gauss-Legendre quadrature on (0, 1).
NODES = (
    *(0.019855071751231884, 0.10166676129318664, 0.2372337950418355),
    *(0.4082826787521751, 0.5917173212478249, 0.7627662049581645),
    *(0.8983332387068134, 0.9801449282487681),
)
WEIGHTS = (
    *(0.05061426814518813, 0.11119051722668724, 0.15685332293894363),
    *(0.18134189168918100, 0.18134189168918100, 0.15685332293894363),
    *(0.11119051722668724, 0.05061426814518813),
)


def _in_front(numbers: Array, x: Array, xp: Namespace) -> Array:
    """Reshape a vector to broadcast along a new axis in front of those of x."""
    return xp.reshape(numbers, (-1, *(1,) * len(x.shape)))


def difference_nodes(S: Array, nodes: Array, xp: Namespace) -> Array:
    """Points at which `sampled_difference` needs the slope of f, (8, ..., k, k)."""
    si, sj = S[None, ..., :, None], S[None, ..., None, :]
    return si + _in_front(nodes, S[..., None], xp) * (sj - si)


def sampled_difference(
    S: Array, y: Array, slopes: Array, weights: Array, xp: Namespace
) -> Array:
    """First divided differences of f from its values, and its slopes for close pairs.

    `slopes` are f' at `difference_nodes`; the result has f' on the diagonal. The
    quotient has the relative error eps / gap; the mean of the slope over the gap,
    by quadrature, is exact up to rounding for f smooth on the scale of s. The mean is
    used for values within a third of each other, if it agrees with the quotient up to
    the rounding errors of the latter. Where f has a kink in between, it does not.
    """
    s, top = scaled(S, xp)  # JAX's derivative of a quotient squares the denominator
    a, b = pair(s, y / top)
    apart, gap = quotient(a.y, b.y, a.s, b.s, xp), xp.abs(a.s - b.s)
    mean = xp.sum(_in_front(weights, gap, xp) * slopes, axis=0)
    size = xp.maximum(xp.maximum(xp.abs(a.y), xp.abs(b.y)), xp.abs(mean) * (a.s + b.s))
    agree = xp.abs(mean - apart) * gap <= 16 * eps(S, xp) * size
    near = gap <= 0.25 * xp.maximum(a.s, b.s)
    return xp.where((near & agree) | (gap == 0), mean, apart)


def sampled_derivative(
    factors: SVDFactors, y: Array, minus: Array, X: Array, xp: Namespace
) -> tuple[Array, Array]:
    """Differentiate U diag(y) V^H along X at constant y; also return K = U^H X V.

    With the derivative of y = f(S) through S, this is the whole derivative of a
    spectral map, whatever f depends on. It is its own transpose, and the real diagonal
    of K, (..., k, k), is the cotangent of y. `minus` are the divided differences of f.
    """
    U, S, Vh = factors
    XV, K = factors.projected(X, xp)
    # Not by `scaled`: MLX cannot compile a program in which it occurs twice for S.
    unit = binary_scale(first(S), xp)
    s, y = S / unit, y / unit
    a, b = pair(s, y)
    total = a.s + b.s
    plus = safe_divide(a.y + b.y, total, total > 0, xp, minus)
    phi = over_s(y, s, minus, xp)
    rotation = minus - identity_like(minus, xp) * minus
    sides = outside_ranges(U, Vh, unitary=True)
    c = Coefficients(s, y, phi, rotation, plus)
    return factors.recomposed(c, X, XV, K, None, sides, xp), K

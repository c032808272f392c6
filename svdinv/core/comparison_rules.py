"""Rules for repeated singular values from the literature, for comparison.

Each replaces 1 / gap by another function, and is wrong by a fraction of the gradient
where values repeat.
"""

from __future__ import annotations

from svdinv.core.namespace import Array, Namespace, identity_like, safe_divide
from svdinv.core.tolerances import vanishing

COMPARISON_RULES = ("clip", "taylor", "lorentz", "none")

TAYLOR_DEGREE = 9  # of the series in (s_j / s_i)^2, as in Wang et al. (2021)
LORENTZ_BROADENING = 1e-12  # epsilon of x / (x^2 + epsilon), Liao et al. (2019)


def comparison_rule(
    name: str, s: Array, tol: Array, top: Array, xp: Namespace
) -> Array:
    """Antisymmetric E, in place of 1 / (s_j - s_i), shape (..., k, k).

    Two values of `s`, sorted downwards, count as equal up to `tol`, and `top` is the
    largest; both are of shape (..., 1, 1).
    """
    si, sj = s[..., :, None], s[..., None, :]
    gap = sj - si
    if name == "none":
        # Not guarded: this is the rule of the frameworks' own SVDs.
        off = identity_like(gap, xp) == 0
        return xp.where(off, 1 / xp.where(off, gap, xp.ones_like(gap)), 0 * gap)
    if name == "lorentz":
        return gap / (gap * gap + LORENTZ_BROADENING * top**2)
    # The sign of the gaps of sorted values, where they are 0 too.
    lower = xp.tril(xp.ones_like(gap), k=-1)
    order = lower - xp.matrix_transpose(lower)
    if name == "clip":
        return order / xp.maximum(xp.abs(gap), tol * xp.ones_like(gap))
    large, small = xp.maximum(si, sj), xp.minimum(si, sj)
    positive = large > vanishing(s, xp)
    ratio = safe_divide(small, large, positive, xp) ** 2
    series = xp.ones_like(ratio)
    for _ in range(TAYLOR_DEGREE):
        series = 1 + ratio * series
    # (s_i + s_j) / (s_j^2 - s_i^2), with 1 / (1 - ratio) as the series
    inverse = safe_divide(xp.ones_like(large), large, positive, xp)
    return order * (si + sj) * series * inverse**2

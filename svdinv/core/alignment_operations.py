"""Rigid motions between points: the operations that `kabsch` is made of.

With shares w_i of all weight, W = diag(w), the centroids p and q, X = P - p and
Y = Q - q: C = Y^T W X, R is the rotation nearest to C, t = q - R p, and rmsd^2 =
sum_i w_i |R x_i - y_i|^2 is least for this R and these centroids, so that none of them
is differentiated in it. As w^T X = w^T Y = 0,

    dC = dQ^T W X + Y^T W dP,

and with gC, which `svdinv.core.spectral` pulls back from the cotangent gR - gt p^T of
R, with h = g_rmsd / rmsd and B = gC - h R,

    gP = W (Y B + h X - 1 gt^T R)        gQ = W (X B^T + h Y + 1 gt^T).

Of a similarity, R is the same, c = tr(R^T C) / v with the variance v = tr(X^T W X), and
t = q - c R p. As <dR, C> = 0, dc = (<R, dC> - c dv) / v; the rmsd is least for this c,
too. With the cotangent k = (gc - gt^T R p) / v of <R, C>, that of R is gR - c gt p^T,
and with B = gC + k R - h c R,

    gP = W (Y B + (h c^2 - 2 k c) X - c 1 gt^T R)     gQ = W (X B^T + h Y + 1 gt^T).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from svdinv.core.functions import ProperRotation, proper_signs
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    binary_scale,
    known_shape,
    runs_kernels,
    safe_divide,
)
from svdinv.core.operation import Call, Operation, add, direct, padded
from svdinv.core.product_operations import product
from svdinv.core.spectral_operations import Factorise, Pull, Push
from svdinv.core.tolerances import rounding_rtol

_ROTATION = ProperRotation()


class Motion(NamedTuple):
    """Rigid motion x -> R x + t between points, and what its derivatives need."""

    R: Array
    t: Array
    rmsd: Array
    C: Array
    """Covariance of the centred points, divided by `Points.unit`, (..., d, d)."""
    U: Array
    S: Array
    """Singular values of C; 0 for those at rounding level."""
    Vh: Array
    signs: Array
    """R = U diag(signs) Vh."""


# Weight, in `_root`, of squared centroids beside squared distances from them: distances
# may be wrong by 64 eps, centroids by 64 sqrt(CENTROID) = 2 eps.
CENTROID = 1 / 1024


_MANY = 2**16  # points whose sum, term by term, is off by a percent in single precision


class Points(NamedTuple):
    """Two centred matrices of points, divided by `unit`, shape (..., 1, 1)."""

    unit: Array
    mass: Array
    share: Array
    """Weights of sum 1, shape (..., N, 1)."""
    p: Array
    q: Array
    X: Array
    Y: Array


def centred(P: Array, Q: Array, w: Array, xp: Namespace) -> Points:
    """Scale two matrices of points and subtract their weighted centroids."""
    unit = binary_scale(xp.maximum(abs_max(P, xp), abs_max(Q, xp)), xp)
    P, Q = P / unit, Q / unit
    mass = xp.sum(w, axis=-1, keepdims=True)
    mass = xp.where(mass == 0, xp.ones_like(mass), mass)
    share = (w / mass)[..., None]
    p, X = _centroid(P, share, xp)
    q, Y = _centroid(Q, share, xp)
    return Points(unit, mass, share, p, q, X, Y)


def _centroid(P: Array, share: Array, xp: Namespace) -> tuple[Array, Array]:
    """Weighted centroid p, corrected for its rounding error, and P - p."""
    # No products, which add the terms of large sums one after the other. NumPy does so
    # in sums along this axis, and needs a further step.
    count = known_shape(P)[-2]
    many = count is None or count > _MANY
    p = xp.sum(share * P, axis=-2, keepdims=True)
    X = P - p
    for _ in range(2 if many and not runs_kernels(P, xp) else 1):
        step = xp.sum(share * X, axis=-2, keepdims=True)
        p, X = p + step, X - step
    return p, X


def _residual(points: Points, R: Array, xp: Namespace, c: Any = 1.0) -> Array:
    return c * (points.X @ xp.matrix_transpose(R)) - points.Y


def _mean_square(share: Array, x: Array, xp: Namespace) -> Array:
    """Weighted mean of the squared lengths of rows, shape (...)."""
    return xp.sum(share[..., 0] * xp.sum(x * x, axis=-1), axis=-1)


def _root(square: Array, spread: Array, far: Array, xp: Namespace) -> Array:
    """Root of a mean square distance; 0 where that is within the points' rounding.

    `spread` is the mean square distance of the points from their centroids, `far` the
    sum of the squared norms of the centroids.
    """
    level = rounding_rtol(square, xp) ** 2 * (spread + CENTROID * far)
    rounding = square <= level  # not of NaN
    root = xp.sqrt(xp.where(rounding, xp.ones_like(square), square))
    return xp.where(rounding, xp.zeros_like(root), root)


@dataclass(frozen=True)
class FindMotion(Operation):
    """(P, Q, w) -> `Motion` from P to Q; it has no derivative."""

    def value(self, x, xp):
        P, Q, w = x
        points = centred(P, Q, w, xp)
        unit, _, share, p, q, X, Y = points
        C = xp.matrix_transpose(share * Y) @ X
        U, S, Vh = Factorise(_ROTATION, method="svd").value((C, None), xp)
        # Zero singular values come out as noise, by which nothing may be divided: from
        # rounding the products, or P and Q, as for the components across a line.
        far = abs_max(P, xp) / unit * (abs_max(Q, xp) / unit)
        noise = abs_max(X, xp) * abs_max(Y, xp) + rounding_rtol(far, xp) * far
        noise = rounding_rtol(noise, xp) * noise[..., 0]
        # A single such value is harmless: a larger one is always added to it.
        clear = noise < S[..., -2:][..., :1]
        kept = xp.where((noise < S) | clear, S, xp.zeros_like(S))
        signs = proper_signs(U, S, Vh, xp)
        R = (U * signs[..., None, :]) @ Vh
        t = (q - p @ xp.matrix_transpose(R)) * unit
        square = _mean_square(share, _residual(points, R, xp), xp)
        size = _mean_square(share, X, xp) + _mean_square(share, Y, xp)
        far = xp.sum(p**2 + q**2, axis=(-2, -1))
        rmsd = _root(square, size, far, xp) * unit[..., 0, 0]
        return Motion(R, t[..., 0, :], rmsd, C, U, kept, Vh, signs)


def similarity(
    points: Points, R: Array, call: Call, xp: Namespace
) -> tuple[Array, Array, Array, Array]:
    """Compute t, rmsd and c of the similarity whose rotation is R, and 1 / v.

    Where all points of P coincide, c is 1. There, and where a negative c is replaced by
    0, the last result is 0 instead of 1 / v.
    """
    share, turned = points.share, product(points.X, xp.matrix_transpose(R), call, xp)
    axes = (-2, -1)
    variance = _mean_square(share, points.X, xp)
    c = xp.sum(share * turned * points.Y, axis=axes)
    # Negative only for d = 1, where R is always 1.
    held, c = c < 0, xp.where(c < 0, xp.zeros_like(c), c)
    # Coincident points differ from their centroid by rounding errors.
    size = variance + xp.sum(points.p**2, axis=axes)
    extended = variance > rounding_rtol(size, xp) ** 2 * size
    extended = extended | ~(size == size)  # NaN stays
    one = xp.ones_like(c)
    c = safe_divide(c, variance, extended, xp, one)
    inverse = safe_divide(one, variance, extended & ~held, xp)
    wide = c[..., None, None]
    square = _mean_square(share, wide * turned - points.Y, xp)
    spread = c**2 * variance + _mean_square(share, points.Y, xp)
    far = c**2 * xp.sum(points.p**2, axis=axes) + xp.sum(points.q**2, axis=axes)
    rmsd = _root(square, spread, far, xp)
    t = points.q - wide * product(points.p, xp.matrix_transpose(R), call, xp)
    return (t * points.unit)[..., 0, :], rmsd * points.unit[..., 0, 0], c, inverse


class FindSimilarity(FindMotion):
    """(P, Q, w) -> `Motion` of the similarity from P to Q, and its scale."""

    def value(self, x, xp):
        motion = super().value(x, xp)
        P, Q, w = x
        t, rmsd, c, _ = similarity(centred(P, Q, w, xp), motion.R, direct(xp), xp)
        return (*motion._replace(t=t, rmsd=rmsd), c)


@dataclass(frozen=True)
class AlignSimilarity(Operation):
    """(P, Q, w, what `FindSimilarity` finds) -> R, t, rmsd and c.

    It has no tangent: it is not called where forward mode may differentiate it.
    """

    def value(self, x, xp):
        return tuple(x[i] + 0 for i in (3, 4, 5, 11))

    def cotangent(self, x, y, g, wanted, call, xp):
        return call(SimilarityPull(wanted[2]), *x, *g)


@dataclass(frozen=True)
class SimilarityPull(Operation):
    """(P, Q, w, similarity, gR, gt, g_rmsd, gc) -> cotangents of P and Q, and of w."""

    weighted: bool
    transparent = True

    def composed(self, x, call, xp):
        P, Q, w, *motion, _, gR, gt, grmsd, gc = x
        *_, U, S, Vh, signs = motion
        R, _, _, C = call(Align(covariance=True), P, Q, w, *motion)
        points = centred(P, Q, w, xp)
        root, p = xp.sqrt(points.unit), points.p
        _, rmsd, c, inverse = similarity(points, R, call, xp)
        c, inverse = (z[..., None, None] for z in (c, inverse))
        k = xp.zeros_like(c)
        if gc is not None:
            k = k + gc[..., None, None] / root
        if gt is not None:
            gt = gt[..., None, :]
            moved = p @ xp.matrix_transpose(R)
            k = k - root * xp.sum(gt * moved, axis=-1, keepdims=True)
        gR = _over_root(gR, gt, c * p, root, xp)
        k = k * inverse
        B = k * R
        if gR is not None:
            B = B + call(Pull(_ROTATION), C, signs, gR, U, S, Vh)[0]
        return _to_points(points, R, B, rmsd, gt, grmsd, self.weighted, xp, c, k)


@dataclass(frozen=True)
class Align(Operation):
    """(P, Q, w, motion from P to Q) -> R, t and rmsd of that motion, and C if asked."""

    covariance: bool = False

    def value(self, x, xp):
        return tuple(t + 0 for t in Motion(*x[3:])[: 3 + self.covariance])

    def tangent(self, x, y, dx, call, xp):
        return call(_AlignPush(), *x, *dx[:3])[: 3 + self.covariance]

    def cotangent(self, x, y, g, wanted, call, xp):
        return call(AlignPull(wanted[2]), *x, *padded(g, 4))


@dataclass(frozen=True)
class _AlignPush(Operation):
    """(P, Q, w, motion, dP, dQ, dw) -> tangents of R, t, rmsd and C."""

    transparent = True

    def composed(self, x, call, xp):
        P, Q, w, *motion, dP, dQ, dw = x
        *_, U, S, Vh, signs = motion
        R, _, rmsd, C = call(Align(covariance=True), P, Q, w, *motion)
        points = centred(P, Q, w, xp)
        unit, mass, share, p, _, X, Y = points
        dP = xp.zeros_like(P) if dP is None else dP
        dQ = xp.zeros_like(Q) if dQ is None else dQ
        turned = xp.matrix_transpose(R)
        inverse = _inverse(rmsd, unit, xp)
        residual = _residual(points, R, xp)
        dC = xp.matrix_transpose(share * dQ) @ X + xp.matrix_transpose(share * Y) @ dP
        dC = dC / unit
        dp, dq = (xp.sum(share * d, axis=-2, keepdims=True) for d in (dP, dQ))
        square = share * residual * (dP @ turned - dQ)
        if dw is not None:
            dw = (dw[..., None] - share * xp.sum(dw, axis=-1)[..., None, None]) / (
                mass[..., None]
            )
            dC = dC + xp.matrix_transpose(dw * Y) @ X
            dp = dp + unit * xp.sum(dw * X, axis=-2, keepdims=True)
            dq = dq + unit * xp.sum(dw * Y, axis=-2, keepdims=True)
            square = square + 0.5 * unit * dw * residual**2
        (dR,) = call(Push(_ROTATION), C, signs, dC, None, U, S, Vh)
        dt = dq - unit * p @ xp.matrix_transpose(dR) - dp @ turned
        drmsd = inverse[..., 0, 0] * xp.sum(square, axis=(-2, -1))
        return dR, dt[..., 0, :], drmsd, dC

    def cotangent(self, x, y, g, wanted, call, xp):
        *at, _, _, _ = x
        return *(None for _ in at), *call(AlignPull(wanted[-1]), *at, *g)


@dataclass(frozen=True)
class AlignPull(Operation):
    """(P, Q, w, motion, gR, gt, g_rmsd, gC) -> cotangents of P and Q, and of w."""

    weighted: bool
    transparent = True

    def composed(self, x, call, xp):
        P, Q, w, *motion, gR, gt, grmsd, gC = x
        *_, U, S, Vh, signs = motion
        R, _, rmsd, C = call(Align(covariance=True), P, Q, w, *motion)
        points = centred(P, Q, w, xp)
        root = xp.sqrt(points.unit)
        gt = None if gt is None else gt[..., None, :]
        gR = _over_root(gR, gt, points.p, root, xp)
        B = xp.zeros_like(C) if gC is None else gC / root
        if gR is not None:
            B = B + call(Pull(_ROTATION), C, signs, gR, U, S, Vh)[0]
        return _to_points(points, R, B, rmsd, gt, grmsd, self.weighted, xp)


def _over_root(
    gR: Array | None, gt: Array | None, p: Array, root: Array, xp: Namespace
) -> Array | None:
    """Cotangent gR - unit gt^T p of R, including that through t, over sqrt(unit).

    The other 1 / sqrt(unit) is applied after the products, so that neither overflows.
    """
    gR = None if gR is None else gR / root
    return gR if gt is None else add(gR, -xp.matrix_transpose(gt) * (root * p))


def _to_points(
    points: Points,
    R: Array,
    B: Array,
    rmsd: Array,
    gt: Array | None,
    grmsd: Array | None,
    weighted: bool,
    xp: Namespace,
    c: Any = 1.0,
    k: Any = 0.0,
) -> tuple[Any, ...]:
    """Cotangents of P, Q and w by the formulas above.

    B comes without the term of h. B and k are still to be divided by sqrt(`unit`), as
    is done here. A rigid motion has c = 1 and k = 0.
    """
    unit, mass, share, _, _, X, Y = points
    root, h = xp.sqrt(unit), 0.0
    if weighted:
        gw = xp.sum((Y @ B) * X - k * c * X**2, axis=-1)
    if grmsd is not None:
        h = root * grmsd[..., None, None] * _inverse(rmsd, unit, xp)
        B = B - h * c * R
    gP = Y @ B + (h * c**2 - 2 * k * c) * X
    gQ = X @ xp.matrix_transpose(B) + h * Y
    if gt is not None:
        gt = root * gt
        gP, gQ = gP - c * (gt @ R), gQ + gt
    if not weighted:
        return share * gP / root, share * gQ / root, None
    residual = _residual(points, R, xp, c)
    gw = gw + 0.5 * xp.sum(h * residual**2, axis=-1)
    if gt is not None:
        gw = gw - xp.sum(gt * residual, axis=-1)
    gw = gw - xp.sum(share[..., 0] * gw, axis=-1, keepdims=True)
    return share * gP / root, share * gQ / root, root[..., 0] * gw / mass


def _inverse(rmsd: Array, unit: Array, xp: Namespace) -> Array:
    """Reciprocal of rmsd / unit, and 0 where that is 0, shape (..., 1, 1)."""
    rmsd = rmsd[..., None, None] / unit
    return safe_divide(xp.ones_like(rmsd), rmsd, ~(rmsd == 0), xp)

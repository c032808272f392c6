"""Rotations: polar factors and nearest rigid motions."""

from __future__ import annotations

from functools import partial
from typing import Any

from svdinv.core.alignment_operations import (
    Align,
    AlignSimilarity,
    FindMotion,
    FindSimilarity,
    Motion,
    centred,
    similarity,
)
from svdinv.core.backend import Backend
from svdinv.core.factors import Method
from svdinv.core.functions import Polar, ProperRotation, proper_signs
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    binary_scale,
    cast,
    is_complex,
    is_usual,
    runs_kernels,
    sizes,
)
from svdinv.core.product_operations import product
from svdinv.core.results import Alignment, Similarity
from svdinv.core.spectral_operations import Factorise, Map
from svdinv.core.tolerances import rounding_rtol
from svdinv.operators._arguments import (
    as_flag,
    batches_broadcast,
    broadcasts,
    check_compatible,
    two_matrices,
)
from svdinv.operators._maps import with_tau, without_tau
from svdinv.operators._registry import operator


@operator
def polar(
    backend: Backend, A: Array, *, special: bool = False, method: Method = "auto"
) -> Array:
    """Unitary polar factor U V^H: the nearest matrix with orthonormal columns.

    Orthonormal rows, if m < n. With `special`, the nearest rotation.

    Parameters
    ----------
    {A}
    special : bool, optional
        Whether the factor is to have the determinant 1, for real square A: where
        U V^T is a reflection, the last column of U changes its sign [1]_.
    {method_or_products}
        With `special`, ``"auto"`` or ``"svd"``.

    {like_A}
    {raises}, and with `special` if A is complex or not square.

    Notes
    -----
    The derivative contains 1 / (s_i + s_j), and 1 / s_i if m != n or A is complex:
    repeated singular values do no harm. At a single zero of a real square matrix the
    factor jumps between two branches, and the derivative is that of the one returned.
    In other cases where A does not determine the factor, such terms are left out. By
    ``"matmul"`` singular values that are 0 stay 0: the factor is a partial isometry.

    With `special` and det A < 0, the last of the singular values counts as negative.
    Then two equal values do no harm either, except the last two: with s_(n-1) = s_n
    the nearest rotation is not determined.

    References
    ----------
    .. [1] S. Umeyama, "Least-squares estimation of transformation parameters
       between two point patterns", IEEE TPAMI 13(4), 1991.
    """
    if not as_flag(special, "special"):
        return without_tau(backend, A, Polar(), method)
    if method not in ("auto", "svd"):
        raise ValueError(f'method must be "auto" or "svd", got {method!r}')
    xp, rotation = backend.xp, ProperRotation()
    A, restore = _real_matrices(backend, A, "A")
    m, n = A.shape[-2:]
    if n == 0 or (m is not None and n is not None and m != n):
        raise backend.shape_error(
            f"A must be square, with at least one row, got shape {tuple(A.shape)}"
        )
    U, S, Vh = backend.evaluate(Factorise(rotation, method="svd"), A, None)
    signs = proper_signs(U, S, Vh, xp)
    return restore(backend.call(Map(rotation), A, signs, U, S, Vh)[0])


@operator
def procrustes(backend: Backend, A: Array, B: Array) -> Array:
    """Unitary matrix R that brings A nearest to B, min ||A R - B||.

    As `scipy.linalg.orthogonal_procrustes`, over batches and complex numbers:
    the polar factor of A^H B [1]_.

    Parameters
    ----------
    A, B : array
        Matrices, shape (..., m, n), real or complex; batches broadcast.

    Returns
    -------
    array
        R, shape (..., n, n).

    {raises}, and if the shapes of A and B differ.

    Notes
    -----
    The only singular terms of the gradient are 1 / (s_i + s_j), with s the singular
    values of A^H B. Perfect and repeated configurations have a gradient; at rank n - 1,
    and where A and B do not determine R, it is as for `polar`.

    References
    ----------
    .. [1] P. H. Schonemann, "A generalized solution of the orthogonal Procrustes
       problem", Psychometrika 31, 1966.
    """
    xp = backend.xp
    A, B, restore = two_matrices(backend, A, B, "A", "B")
    check_compatible(backend, A, B, "A", "B")

    def scaled(X: Array) -> Array:
        size = abs_max(backend.stop_gradient(X), xp)
        return X if is_usual(size, xp) else X / cast(binary_scale(size, xp), X, xp)

    C = product(adjoint(scaled(A), xp), scaled(B), backend.call, xp)
    return restore(with_tau(backend, C, Polar(), None, False, "svd"))


@operator
def kabsch(
    backend: Backend,
    P: Array,
    Q: Array,
    weights: Array | None = None,
    *,
    scale: bool = False,
    reflection: bool = False,
) -> Alignment | Similarity:
    """Rigid motion, or similarity, that brings the points P nearest to the points Q.

    Minimises ``sum_i w_i |c R p_i + t - q_i|^2`` over rotations R with determinant 1,
    translations t and, with `scale`, numbers c >= 0; without, c = 1 [1]_ [2]_.

    Parameters
    ----------
    P, Q : array
        Points, shape (..., N, d), real; d = 3 in space, but any d >= 1. Batches
        broadcast, as for one reference and many samples.
    weights : array, optional
        Weights >= 0, shape (..., N), whose batch broadcasts with that of the points, as
        for a mask of each sample; 1 each by default. Points of weight 0 are left out,
        and their coordinates may be NaN, which count as 0 in the derivative in that
        weight. Weights that are the same for all points, a number or (..., 1), change
        nothing unless they are 0.
    scale : bool, optional
        Whether to find c, too.
    reflection : bool, optional
        Whether R may be a reflection, determinant -1, where that fits better.

    Returns
    -------
    Alignment or Similarity
        Named tuple ``(rotation, translation, rmsd)`` of shapes (..., d, d),
        (..., d) and (...): ``P @ rotation.T + translation`` is nearest to Q (of
        a batch, with the last two axes of the rotations swapped and the
        translations as (..., 1, d)), and rmsd the root of the weighted mean
        squared distance left; 0 where that may be a rounding error, see Notes. With
        `scale`, ``(rotation, translation, rmsd, scale)``, the last of shape (...),
        and ``scale * P @ rotation.T + translation`` is nearest.

    Raises
    ------
    TypeError
        If P, Q or the weights are complex or no floating point numbers.
    ValueError
        If the shapes do not fit; the framework's own error of that kind.

    Notes
    -----
    The gradient contains 1 / (s_i + s_j), with s the singular values of the
    covariance and the last of them negative where a reflection would fit better.
    Perfect fits, planar points and repeated singular values are regular. With
    `reflection`, all of the values count as positive, and planar points, which a
    reflection fits no better, are rotated. The rmsd of a perfect fit has a kink: its
    gradient is 0 there. Its square has the right gradient, too, but second derivatives
    of 0: for these, compute the mean squared distance from the motion. A rmsd counts as
    0 up to 64 eps (7.6e-6 in single precision) of the root of the sum of the variances
    of both sets of points, or 2 eps of the distance of their centroids from the origin.

    Points P or Q on a line in space, any other points whose covariance has rank 1, or a
    reflection with s_{d-1} = s_d, leave a rotation free: for points on a line, any
    rotation about it fits as well. R is then an arbitrary one of the nearest rotations,
    differentiated as if the free one were fixed. The rmsd and the scale do not depend
    on the choice, and their derivative is that with R held fixed. It is exact if P and
    Q are both on lines; if only one of them is, both numbers have a kink there, and it
    is one of the subgradients. The scale of points P that coincide is 1.

    References
    ----------
    .. [1] W. Kabsch, "A discussion of the solution for the best rotation to
       relate two sets of vectors", Acta Cryst. A34, 1978.
    .. [2] S. Umeyama, "Least-squares estimation of transformation parameters
       between two point patterns", IEEE TPAMI 13(4), 1991.
    """
    xp = backend.xp
    scale, reflection = as_flag(scale, "scale"), as_flag(reflection, "reflection")
    points = partial(_real_matrices, backend)
    P, Q, restore = two_matrices(backend, P, Q, "P", "Q", points)
    check_compatible(backend, P, Q, "P", "Q")
    if P.shape[-1] == 0:
        raise backend.shape_error(
            f"P and Q must have at least one coordinate, got shape {tuple(P.shape)}"
        )
    shape = tuple(P.shape)
    if None in shape or shape != tuple(Q.shape):
        # Both in the batch shape of both, by adding zeros.
        P, Q = P + xp.zeros_like(Q[..., :1, :1]), Q + xp.zeros_like(P[..., :1, :1])
    one = xp.ones_like(P[..., :1, 0])
    w = xp.broadcast_to(one, sizes(P, xp)[:-1])
    if weights is not None:
        w = w * _weights(backend, weights, P)
        # Otherwise their sum and its square might overflow.
        w = w / binary_scale(abs_max(backend.stop_gradient(w), xp, (-1,)), xp)
        P, Q = (_without_nan(x, w, xp) for x in (P, Q))
    units = None
    if scale:
        # c is the quotient of two sizes, whose squares must not over- or underflow.
        each = [abs_max(backend.stop_gradient(x), xp) for x in (P, Q)]
        size = xp.concat(each, axis=-1)
        if not is_usual(size, xp):
            units = binary_scale(size, xp)
            P, Q = P / units[..., :1], Q / units[..., 1:]
    mirror = _mirror(backend, P, Q, w) if reflection else None
    if mirror is not None:
        P = P * mirror
    c = None
    if scale and runs_kernels(P, xp):
        motion = backend.evaluate(FindSimilarity(), P, Q, w)
        R, t, rmsd, c = backend.call(AlignSimilarity(), P, Q, w, *motion)
    else:
        motion = backend.evaluate(FindMotion(), P, Q, w)
        R, t, rmsd = backend.call(Align(), P, Q, w, *motion)
        if scale:
            t, rmsd, c, _ = similarity(centred(P, Q, w, xp), R, backend.call, xp)
    if mirror is not None:
        R = R * mirror
    if c is not None and units is not None:
        for_p, for_q = units[..., 0, 0], units[..., 0, 1]
        t, rmsd, c = t * for_q[..., None], rmsd * for_q, c * for_q / for_p
    found = restore(R), restore(t), restore(rmsd)
    return Alignment(*found) if c is None else Similarity(*found, restore(c))


def _real_matrices(backend: Backend, A: Any, name: str) -> tuple[Array, Any]:
    A = backend.asarray(A, name)
    if is_complex(A, backend.xp) or not backend.is_floating(A.dtype):
        dtype = getattr(A.dtype, "name", A.dtype)
        raise TypeError(f"{name} must be real floating point, got {dtype}")
    return backend.matrices(A, name)


def _weights(backend: Backend, weights: Any, P: Array) -> Array:
    w, (*batch, count, _) = backend.parameter(weights, P, "weights"), P.shape
    one_each = broadcasts(w.shape[-1:], (count,))
    if not (one_each and batches_broadcast(w.shape[:-1], batch)):
        raise backend.shape_error(
            f"weights must have shape (..., {count}), one for each point, with a batch "
            f"that broadcasts with that of P and Q, {tuple(batch)}, got shape "
            f"{tuple(w.shape)}"
        )
    return w


def _without_nan(P: Array, w: Array, xp: Namespace) -> Array:
    """Points in the batch shape of w; where that is 0, NaN and huge values become 0."""
    # Not by ~, which TensorFlow's graphs merge with the comparison, wrongly for NaN.
    # Squares of larger ones overflow, or those of the other points underflow.
    most = float(xp.finfo(P.dtype).max) ** 0.4
    known = xp.where(xp.abs(P) <= most, P, xp.zeros_like(P))
    return xp.where(w[..., None] == 0, known, P)


def _mirror(backend: Backend, P: Array, Q: Array, w: Array) -> Array:
    """Signs, (..., 1, d), the last -1 where a reflection brings P nearer to Q."""
    xp = backend.xp
    motion = Motion(*backend.evaluate(FindMotion(), P, Q, w))
    S, signs = motion.S[..., None, :], motion.signs[..., None, :]
    # For points in a plane, a reflection cannot be told from a rotation.
    planar = S[..., -1:] <= rounding_rtol(S, xp) * S[..., :1]
    return xp.where(planar, xp.ones_like(signs), signs)

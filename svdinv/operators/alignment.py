"""Rotations: polar factors and nearest rigid motions."""

from __future__ import annotations

from typing import Any, NamedTuple

from svdinv.core.alignment_operations import Align, FindMotion
from svdinv.core.backend import Backend
from svdinv.core.functions import Polar
from svdinv.core.namespace import Array, adjoint, is_complex
from svdinv.core.spectral_operations import Factorise, Map
from svdinv.operators._arguments import broadcasts, check_compatible
from svdinv.operators._maps import without_tau
from svdinv.operators._registry import operator


class Alignment(NamedTuple):
    """Rigid motion x -> R x + t, and what distance it leaves."""

    rotation: Array
    translation: Array
    rmsd: Array


@operator
def polar(backend: Backend, A: Array, *, method: str = "auto") -> Array:
    """Unitary polar factor U V^H: the nearest matrix with orthonormal columns.

    Orthonormal rows, if m < n.

    Parameters
    ----------
    {A}
    {method}

    {like_A}
    {raises}.

    Notes
    -----
    The derivative contains 1 / (s_i + s_j), and 1 / s_i if m != n: repeated
    singular values do no harm, and neither does a single zero in a square
    matrix. Where A does not determine the factor, such terms are left out.
    """
    return without_tau(backend, A, Polar(), method)


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
    Only what is truly singular is left in the gradient: 1 / (s_i + s_j), with s
    the singular values of A^H B. Perfect, repeated and rank n - 1 configurations
    have one; where A and B do not determine R, such terms are left out.

    References
    ----------
    .. [1] P. H. Schonemann, "A generalized solution of the orthogonal Procrustes
       problem", Psychometrika 31, 1966.
    """
    xp = backend.xp
    A, restore = backend.matrices(A, "A")
    B, _ = backend.matrices(B, "B")
    check_compatible(backend, A, B, "A", "B")
    C = adjoint(A, xp) @ B
    factors = backend.evaluate(Factorise(Polar(), method="svd"), C, None)
    return restore(backend.call(Map(Polar()), C, None, *factors)[0])


@operator
def kabsch(backend: Backend, P: Array, Q: Array, weights: Any = None) -> Alignment:
    """Rigid motion that brings the points P nearest to the points Q.

    Minimises ``sum_i w_i |R p_i + t - q_i|^2`` over proper rotations R, det +1,
    and translations t [1]_ [2]_.

    Parameters
    ----------
    P, Q : array
        Points, shape (..., N, d), real; d = 3 in space, but any d >= 1. Batches
        broadcast, as of one reference against many.
    weights : array, optional
        Weights >= 0, shape (..., N); 1 each by default.

    Returns
    -------
    Alignment
        Named tuple ``(rotation, translation, rmsd)`` of shapes (..., d, d),
        (..., d) and (...): ``P @ rotation.T + translation`` is nearest to Q (of
        a batch, with the last two axes of the rotations swapped and the
        translations as (..., 1, d)), and rmsd the root of the weighted mean
        squared distance left; 0 where that is a rounding error.

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
    Perfect fits, planar points and repeated singular values are regular. What
    is singular is a reflection with s_{d-1} = s_d, or collinear points in space:
    R is not determined, and such terms are left out. The rmsd of a perfect fit
    has a kink: its gradient is 0 there.

    References
    ----------
    .. [1] W. Kabsch, "A discussion of the solution for the best rotation to
       relate two sets of vectors", Acta Cryst. A34, 1978.
    .. [2] S. Umeyama, "Least-squares estimation of transformation parameters
       between two point patterns", IEEE TPAMI 13(4), 1991.
    """
    xp = backend.xp
    P, restore = backend.matrices(P, "P")
    Q, _ = backend.matrices(Q, "Q")
    if is_complex(P, xp) or is_complex(Q, xp):
        raise TypeError("P and Q must be real")
    check_compatible(backend, P, Q, "P", "Q")
    if P.shape[-1] == 0:
        raise backend.shape_error(
            f"P and Q must have at least one coordinate, got shape {tuple(P.shape)}"
        )
    shape = tuple(P.shape)
    if None in shape or shape != tuple(Q.shape):
        # Both in the batch shape of both, by adding zeros.
        P, Q = P + xp.zeros_like(Q[..., :1, :1]), Q + xp.zeros_like(P[..., :1, :1])
    w = xp.ones_like(P[..., 0])
    if weights is not None:
        given = backend.parameter(weights, P, "weights")
        if not broadcasts(given.shape, P.shape[:-1]):
            raise backend.shape_error(
                f"weights must have shape {tuple(P.shape[:-1])}, got "
                f"{tuple(given.shape)}"
            )
        w = w * given
    motion = backend.evaluate(FindMotion(), P, Q, w)
    R, t, rmsd, _ = backend.call(Align(), P, Q, w, *motion)
    return Alignment(restore(R), restore(t), restore(rmsd))

"""The low-rank operators, written once for every framework that differentiates.

Each face makes its operators from its backend's toolbox: the functions here are
that framework's own, with its arrays, its errors and its derivatives.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, Protocol, TypeAlias

from svdinv.core.factors import check_method, largest_value, singular_values
from svdinv.core.functions import (
    Firm,
    Hard,
    Leading,
    LogSum,
    Polar,
    Power,
    Proper,
    Rank,
    Schatten,
    Shrink,
    Soft,
    SpectralFunction,
    proper_signs,
)
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    binary_scale,
    cast,
    is_complex,
    sizes,
)
from svdinv.core.risk import soft_divergence
from svdinv.core.sampled import difference_nodes, sampled_difference
from svdinv.core.svd import SVDResult
from svdinv.core.tensors import fourier_slices, tilings
from svdinv.core.tolerances import rounding_rtol
from svdinv.core.truncated import svd_lowrank

__all__ = ["Alignment", "Operators", "Toolbox"]

Factors: TypeAlias = tuple[Array, ...]


class Toolbox(Protocol):
    """What a framework's backend does for the operators.

    Attributes
    ----------
    xp : namespace
        Array functions that the framework differentiates.
    shape_error : type
        What the framework raises for an array of the wrong shape.
    """

    xp: Namespace
    shape_error: type[Exception]

    def matrices(
        self, A: Any, name: str, ndim: int = 2
    ) -> tuple[Array, Callable[[Array], Array]]:
        """Give A in the precision to compute in, and the cast of a result back."""

    def parameter(self, value: Any, like: Array, name: str = "value") -> Array:
        """`value` as an array in the real dtype and on the device of `like`."""

    def svd(self, A: Array) -> tuple[Array, Array, Array]:
        """Thin U, S and Vh, differentiable."""

    def derivative(self, f: Callable[[Array], Array]) -> Callable[[Array], Array]:
        """Differentiate a function that acts element by element."""

    def sketch(self, A: Array, columns: int, seed: Any) -> Array:
        """Draw a normal random matrix (..., n, columns) in the dtype of A."""

    def leading_triplets(
        self, A: Array, U: Array, S: Array, Vh: Array
    ) -> tuple[Array, Array, Array]:
        """U, S and Vh with their derivative in A, as `svd_lowrank_pullback`."""

    def rotate(
        self, A: Array, y: Array, minus: Array, U: Array, S: Array, Vh: Array
    ) -> Array:
        """U diag(y) V^H; first derivatives in A (`sampled_derivative`) and y only."""

    def stop_gradient(self, x: Array) -> Array:
        """`x` without its derivative."""

    def factorise(
        self, A: Array, function: SpectralFunction, tau: Array | None = None, *,
        relative: bool = False, method: str = "auto",
    ) -> Factors:  # fmt: skip
        """Factors of A, without a derivative, as `svdinv.core.factors.factorise`."""

    def spectral(
        self, A: Array, function: SpectralFunction, tau: Array | None, factors: Factors
    ) -> Array:
        """U f(S) V^H, with its derivatives in A and tau."""

    def relative_spectral(
        self, A: Array, function: SpectralFunction, ratio: Array, factors: Factors
    ) -> Array:
        """`spectral` with tau = ratio s_1; see the function `relative_spectral`."""

    def spectral_sum(
        self, A: Array, value: Array, function: SpectralFunction, factors: Factors
    ) -> Array:
        """`value`, one number per matrix, with the gradient U f(S) V^H."""


def leading_sum(tools: Toolbox, A: Array, count: int | None, factors: Factors) -> Array:
    """Sum of the largest singular values, differentiable."""
    function, xp = Leading(count), tools.xp
    if count == 1:
        value = xp.sum(largest_value(A, factors, xp), axis=-1)
    else:
        S = singular_values(factors)
        value = xp.sum(function.value(S, None, xp) * S, axis=-1)
    return tools.spectral_sum(A, value, function, factors)


def relative_spectral(
    tools: Toolbox, A: Array, function: SpectralFunction, ratio: Array, factors: Factors
) -> Array:
    """`Toolbox.spectral` with tau = ratio s_1, composed of differentiable parts."""
    top = leading_sum(tools, A, 1, factors)
    return tools.spectral(A, function, ratio * top[..., None], factors)


class Alignment(NamedTuple):
    """Rigid motion x -> R x + t, and what distance it leaves."""

    rotation: Array
    translation: Array
    rmsd: Array


_SCHATTEN: dict[float, SpectralFunction] = {
    1 / 2: Schatten(1 / 2),
    2 / 3: Schatten(2 / 3),
    1: Soft(),
    2: Shrink(),
}


class Operators:
    """Low-rank operators on the matrices of one framework.

    Parameters
    ----------
    toolbox : Toolbox
        The framework's part.
    face : str
        Module whose functions these are, for pickling.
    """

    def __init__(self, toolbox: Toolbox, face: str) -> None:
        self._toolbox = toolbox
        self._face = face

    def __reduce__(self) -> tuple[Callable[[str], Operators], tuple[str]]:
        return _of_face, (self._face,)

    def svt(
        self, A: Array, tau: Any, *, relative: bool = False, method: str = "auto"
    ) -> Array:
        r"""Soft-threshold the singular values, U max(S - tau, 0) V^H.

        The proximal operator of tau times the nuclear norm [1]_, with the gradient
        in A and tau exact at every spectrum.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex. Half precision is computed
            in single precision and cast back.
        tau : float or array
            Threshold >= 0 in units of A (in an array, negative ones count as 0): one
            for all, or an array that broadcasts
            to the batch shape (...), or with A.ndim - 1 dimensions one for each
            singular value, shape (..., min(m, n)) or broadcasting to it (weighted
            nuclear norm [2]_, of which this is the proximal operator for weights that
            do not fall). Equal singular values need equal weights: where they
            have not, there is no derivative, and what is singular is left out.
        relative : bool, optional
            Whether tau is a multiple of the largest singular value of each matrix.
            The gradient goes through that value as well; where it is repeated, as
            the subgradient of least norm.
        method : {"auto", "svd", "gram", "matmul"}, optional
            How. ``"gram"`` takes the eigenvectors of the Gram matrix, in double
            precision where that is at hand, and leaves to the caller that kept
            singular values are not too small for it; ``"matmul"`` takes matrix
            products alone, meant for GPUs. ``"auto"`` takes the Gram matrix where it
            is faster and, judged by its singular values, accurate, and the SVD
            elsewhere: for small inputs, on GPUs, and in traced or compiled functions,
            where nothing can be judged.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError
            If A is not floating point or complex, or tau is complex.
        ValueError
            If tau is a negative number, or `method` is not one of the accepted
            values. The shapes of A and tau have the framework's own error.

        See Also
        --------
        svdinv.core.functions.Soft : The function and its divided differences.

        References
        ----------
        .. [1] J.-F. Cai, E. J. Candes and Z. Shen, "A singular value thresholding
           algorithm for matrix completion", SIAM J. Optim. 20(4), 2010.
        .. [2] S. Gu, Q. Xie, D. Meng, W. Zuo, X. Feng and L. Zhang, "Weighted
           nuclear norm minimization and its applications to low level vision",
           IJCV 121, 2017.
        """
        return self._threshold(A, Soft(), tau, relative, method, weights=True)

    def svht(
        self, A: Array, tau: Any, *, relative: bool = False, method: str = "auto"
    ) -> Array:
        """Hard-threshold the singular values: those up to tau become 0.

        The proximal operator of tau^2 / 2 times the rank. Its derivative in tau is 0,
        and that in A contains 1 / (s_i - s_j) across the threshold.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        tau : float or array
            Threshold >= 0 in units of A, broadcasting to the batch shape (...).
        relative, method : optional
            As for `svt`.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`.
        """
        return self._threshold(A, Hard(), tau, relative, method)

    def firm_threshold(
        self,
        A: Array,
        tau: Any,
        gamma: float = 3.0,
        *,
        relative: bool = False,
        method: str = "auto",
    ) -> Array:
        """Firm-threshold the singular values: 0 up to tau, s from gamma tau on.

        The proximal operator of the minimax concave penalty (MCP) [1]_; between the
        two it is a line. Large singular values are not shrunk, as they are by `svt`.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        tau : float or array
            Threshold >= 0 in units of A, broadcasting to the batch shape (...).
        gamma : float, optional
            Where shrinking ends, in multiples of tau; above 1.
        relative, method : optional
            As for `svt`.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `gamma` is not above 1.

        References
        ----------
        .. [1] C.-H. Zhang, "Nearly unbiased variable selection under minimax concave
           penalty", Annals of Statistics 38(2), 2010.
        """
        gamma = _number(gamma, "gamma")
        if not gamma > 1:
            raise ValueError(f"gamma must be above 1, got {gamma}")
        return self._threshold(A, Firm(gamma), tau, relative, method)

    def log_sum_threshold(
        self, A: Array, tau: Any, epsilon: float, *, method: str = "auto"
    ) -> Array:
        """Proximal operator of tau times the sum of log(1 + s / epsilon).

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        tau : float or array
            Weight >= 0 of the penalty [1]_, in units of A squared, broadcasting to
            the batch shape (...).
        epsilon : float
            Singular value, in units of A, at which the penalty turns from linear to
            logarithmic; above 0.
        method : optional
            As for `svt`.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `epsilon` is not positive.

        References
        ----------
        .. [1] E. J. Candes, M. B. Wakin and S. P. Boyd, "Enhancing sparsity by
           reweighted l1 minimization", J. Fourier Anal. Appl. 14, 2008.
        """
        epsilon = _number(epsilon, "epsilon")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        return self._threshold(A, LogSum(epsilon), tau, False, method)

    def schatten_prox(
        self, A: Array, tau: Any, p: float, *, method: str = "auto"
    ) -> Array:
        """Proximal operator of tau times the sum of s^p, for p = 1/2, 2/3, 1 or 2.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        tau : float or array
            Weight >= 0 of the penalty, in units of A^(2 - p), broadcasting to the
            batch shape (...). p = 1 is `svt`; p = 2 divides A by 1 + 2 tau.
        p : float
            1/2, 2/3, 1 or 2, where the solution has a closed form or nearly one.
        method : optional
            As for `svt`.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if p is none of the four.

        See Also
        --------
        svdinv.core.functions.Schatten : The formulas, with references.
        """
        p = _number(p, "p")
        function = next((f for q, f in _SCHATTEN.items() if abs(p - q) < 1e-6), None)
        if function is None:
            raise ValueError(f"p must be 1/2, 2/3, 1 or 2, got {p}")
        return self._threshold(A, function, tau, False, method)

    def low_rank(self, A: Array, rank: int, *, method: str = "auto") -> Array:
        """Best approximation of a given rank (Eckart and Young).

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        rank : int
            Number of singular values to keep, >= 0; all from min(m, n) on.
        method : optional
            As for `svt`.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `rank` is not an integer >= 0.

        Notes
        -----
        The derivative contains 1 / (s_r - s_{r+1}): where these are equal, there is
        none, and that term is left out.
        """
        rank = _integer(rank, "rank", 0)
        return self._map(A, Rank(rank), method)

    def polar(self, A: Array, *, method: str = "auto") -> Array:
        """Unitary polar factor U V^H: the nearest matrix with orthonormal columns.

        Orthonormal rows, if m < n.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        method : optional
            As for `svt`.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`.

        Notes
        -----
        The derivative contains 1 / (s_i + s_j), and 1 / s_i if m != n: repeated
        singular values do no harm, and neither does a single zero in a square
        matrix. Where A does not determine the factor, such terms are left out.
        """
        return self._map(A, Polar(), method)

    def nuclear_norm(self, A: Array, *, method: str = "auto") -> Array:
        """Sum of the singular values.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        method : optional
            As for `svt`.

        Returns
        -------
        array
            Real, shape (...).

        Raises
        ------
        TypeError, ValueError
            As `svt`.

        Notes
        -----
        The gradient is U V^H, over the singular values that are not 0: where some
        are, the subgradient of least norm.
        """
        return self._leading(A, None, method)

    def spectral_norm(self, A: Array, *, method: str = "auto") -> Array:
        """Largest singular value.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        method : optional
            As for `svt`.

        Returns
        -------
        array
            Real, shape (...).

        Raises
        ------
        TypeError, ValueError
            As `svt`.

        Notes
        -----
        The gradient is u_1 v_1^H; where s_1 is repeated, the mean over its vectors,
        the subgradient of least norm.
        """
        return self._leading(A, 1, method)

    def ky_fan_norm(self, A: Array, k: int, *, method: str = "auto") -> Array:
        """Sum of the k largest singular values.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        k : int
            From 1 to min(m, n).
        method : optional
            As for `svt`.

        Returns
        -------
        array
            Real, shape (...).

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if k is out of range.

        Notes
        -----
        Where s_k = s_{k+1}, the gradient is the subgradient of least norm.
        """
        k = _integer(k, "k", 1)
        short = _shorter(self._toolbox.matrices(A, "A")[0].shape)
        if short is not None and k > short:
            raise ValueError(f"k must be at most min(m, n) = {short}, got {k}")
        return self._leading(A, k, method)

    def schatten_norm(self, A: Array, p: float, *, method: str = "auto") -> Array:
        """p-norm of the singular values, (sum s^p)^(1/p).

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        p : float
            Positive, or infinity for the spectral norm; 1 is the nuclear norm and 2
            the Frobenius norm. Below 1 it is no norm, but a common penalty.
        method : optional
            As for `svt`.

        Returns
        -------
        array
            Real, shape (...).

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if p is not positive.

        Notes
        -----
        Zero singular values contribute nothing to the gradient, where there is none
        (p <= 1, or A = 0).
        """
        p = _number(p, "p")
        if not p > 0:
            raise ValueError(f"p must be positive, got {p}")
        if p == 1 or math.isinf(p):
            return self._leading(A, 1 if math.isinf(p) else None, method)
        check_method(method)
        tools, xp = self._toolbox, self._toolbox.xp
        A, restore = tools.matrices(A, "A")
        power = Power(p - 1)
        factors = tools.factorise(A, power, method=method)
        # Over s_1, whose derivative cancels: powers of s over- and underflow.
        S, *vectors = _values_first(factors)
        top = xp.sum(S[..., :1], axis=-1, keepdims=True)  # a number, if S is empty
        top = xp.where(top > 0, top, xp.ones_like(top))
        factors = _values_back(S / top, vectors)
        powers = power.value(S / top, None, xp) * (S / top)
        total = xp.sum(powers, axis=-1) / p
        scaled = A / cast(top[..., None], A, xp)
        total = p * tools.spectral_sum(scaled, total, power, factors)
        positive = total != 0  # NaN included
        root = xp.where(positive, total, xp.ones_like(total)) ** (1 / p)
        norm = xp.sum(top, axis=-1) * root  # sums, because there may be nothing
        return restore(xp.where(positive, norm, xp.zeros_like(root)))

    def procrustes(self, A: Array, B: Array) -> Array:
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

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if the shapes of A and B differ.

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
        xp = self._toolbox.xp
        A, restore = self._toolbox.matrices(A, "A")
        B, _ = self._toolbox.matrices(B, "B")
        self._compatible(A, B, "A", "B")
        C = adjoint(A, xp) @ B
        factors = self._toolbox.factorise(C, Polar(), method="svd")
        return restore(self._toolbox.spectral(C, Polar(), None, factors))

    def kabsch(self, P: Array, Q: Array, weights: Any = None) -> Alignment:
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
        tools, xp = self._toolbox, self._toolbox.xp
        P, restore = tools.matrices(P, "P")
        Q, _ = tools.matrices(Q, "Q")
        if is_complex(P, xp) or is_complex(Q, xp):
            raise TypeError("P and Q must be real")
        self._compatible(P, Q, "P", "Q")
        # Both in the batch shape of both, by adding zeros.
        P, Q = P + xp.zeros_like(Q[..., :1, :1]), Q + xp.zeros_like(P[..., :1, :1])
        w = xp.ones_like(P[..., 0])
        if weights is not None:
            given = tools.parameter(weights, P, "weights")
            if not _broadcasts(given.shape, P.shape[:-1]):
                raise tools.shape_error(
                    f"weights must have shape {tuple(P.shape[:-1])}, got "
                    f"{tuple(given.shape)}"
                )
            w = w * given
        size = tools.stop_gradient(xp.maximum(abs_max(P, xp), abs_max(Q, xp)))
        unit = binary_scale(size, xp)
        P, Q = P / unit, Q / unit
        mass = xp.sum(w, axis=-1)
        mass = xp.where(mass == 0, xp.ones_like(mass), mass)
        share = (w / mass[..., None])[..., None]
        p = xp.sum(share * P, axis=-2, keepdims=True)
        q = xp.sum(share * Q, axis=-2, keepdims=True)
        C = xp.matrix_transpose(share * (Q - q)) @ (P - p)
        U, S, Vh = tools.factorise(C, Proper(), method="svd")
        # The differences are as inexact as the points: what that leaves of singular
        # values that are 0 is no value to divide by.
        noise = abs_max(P, xp) * abs_max(Q - q, xp) + abs_max(Q, xp) * abs_max(
            P - p, xp
        )
        noise = tools.stop_gradient(rounding_rtol(noise, xp) * noise[..., 0])
        # One such value alone is always added to a larger one, and does no harm.
        lost = ~(noise < S[..., -2:][..., :1])
        factors = U, xp.where((noise < S) | ~lost, S, xp.zeros_like(S)), Vh
        signs = tools.stop_gradient(proper_signs(U, S, Vh, xp))
        R = tools.spectral(C, Proper(), signs, factors)
        turned = xp.matrix_transpose(R)
        t = q - p @ turned
        residual = (P - p) @ turned - (Q - q)
        square = xp.sum(share * residual * residual, axis=(-2, -1))
        size = xp.sum(share * ((P - p) ** 2 + (Q - q) ** 2), axis=(-2, -1))
        positive = ~(square <= rounding_rtol(square, xp) ** 2 * size)  # NaN included
        rmsd = xp.sqrt(xp.where(positive, square, xp.ones_like(square)))
        rmsd = xp.where(positive, rmsd, xp.zeros_like(rmsd))
        unit = unit[..., 0]
        t, rmsd = t[..., 0, :] * unit, rmsd * unit[..., 0]
        return Alignment(restore(R), restore(t), restore(rmsd))

    def tsvt(
        self,
        X: Array,
        tau: Any,
        axis: int = -1,
        *,
        relative: bool = False,
        method: str = "auto",
    ) -> Array:
        """Soft-threshold a tensor's singular values after a Fourier transform.

        The proximal operator of tau times the tensor nuclear norm of the t-SVD [1]_:
        the transform along `axis` makes a matrix of every frequency, of which each
        is soft-thresholded.

        Parameters
        ----------
        X : array
            Tensors, shape (..., a, b, c) in any order of the last three axes: `axis`
            is the Fourier axis and the other two, in their order, the matrices' axes.
            Real or complex.
        tau : float or array
            Threshold >= 0 in units of X: the transform is not normalised, as in [1]_.
            Broadcasting to the batch shape (...).
        axis : int, optional
            One of the last three axes.
        relative, method : optional
            As for `svt`; relative to the largest singular value of each frequency.

        Returns
        -------
        array
            Shape and dtype of X.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `axis` is none of the last three.

        References
        ----------
        .. [1] C. Lu, J. Feng, Y. Chen, W. Liu, Z. Lin and S. Yan, "Tensor robust
           principal component analysis with a new tensor nuclear norm", IEEE TPAMI
           42(4), 2020.
        """
        tools, xp = self._toolbox, self._toolbox.xp
        X, restore = tools.matrices(X, "X", 3)
        axis = self._axis(axis, X)
        check_method(method)
        tau = self._per_batch(tau, X, 3)
        slices, back = fourier_slices(X, axis, xp)
        result = self._svt(slices, tau[..., None], relative, method)
        return restore(back(result))

    def local_low_rank(
        self,
        x: Array,
        tau: Any,
        block: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] | None = None,
        shift: int | tuple[int, int] = 0,
        relative: bool = False,
        method: str = "auto",
    ) -> Array:
        """Soft-threshold the blocks of a series of images, each as a Casorati matrix.

        Each block of pixels through all frames is a matrix, pixels by frames [1]_.

        Parameters
        ----------
        x : array
            Series, shape (..., T, H, W): T frames of H x W pixels, real or complex.
        tau : float or array
            Threshold >= 0 in units of x, broadcasting to the batch shape (...).
        block : int or (int, int)
            Height and width of a block. Images that are no multiple of it are filled
            up with zeros at the end, which adds only zero singular values.
        stride : int or (int, int), optional
            Distance of neighbouring blocks, a divisor of `block`: blocks overlap if
            it is smaller, and the results are averaged. Default: `block`.
        shift : int or (int, int), optional
            First row and column of the first block; the tiling wraps around. A
            random shift in every iteration of a solver averages the seams out.
        relative, method : optional
            As for `svt`; relative to the largest singular value of each block.

        Returns
        -------
        array
            Shape and dtype of x.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `block` or `stride` does not fit.

        References
        ----------
        .. [1] J. D. Trzasko and A. Manduca, "Local versus global low-rank promotion
           in dynamic MRI series reconstruction", Proc. ISMRM 19, 2011.
        """
        tools, xp = self._toolbox, self._toolbox.xp
        x, restore = tools.matrices(x, "x", 3)
        check_method(method)
        tau = self._per_batch(tau, x, 3)[..., None, None]
        size = tuple(x.shape[-2:])
        if None in size:
            raise tools.shape_error("the height and width of x must be known")
        parts = [
            tiling.join(self._svt(tiling.cut(x, xp), tau, relative, method), xp)
            for tiling in tilings(size, block, stride, shift)
        ]
        return restore(sum(parts[1:], parts[0]) / len(parts))

    def spectral_operator(
        self,
        A: Array,
        function: SpectralFunction,
        tau: Any = None,
        *,
        relative: bool = False,
        method: str = "auto",
    ) -> Array:
        """Apply a spectral function of one's own, with all that the others have.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        function : svdinv.core.functions.SpectralFunction
            The function and its divided differences; most easily a
            `svdinv.core.functions.Threshold`.
        tau : float or array, optional
            Its parameter >= 0, broadcasting to the batch shape (...), if it has one.
        relative, method : optional
            As for `svt`.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `function` is no spectral function, or tau is given to one
            without a parameter or missing for one with it.
        """
        if not isinstance(function, SpectralFunction):
            raise TypeError(f"function must be a SpectralFunction, got {function!r}")
        if function.has_tau == (tau is None):
            raise ValueError(
                f"{function!r} has {'a' if function.has_tau else 'no'} parameter tau"
            )
        if tau is None:
            return self._map(A, function, method)
        return self._threshold(A, function, tau, relative, method)

    def svd_lowrank(
        self,
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
        A : array
            Matrices, shape (..., m, n), real or complex.
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

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `rank`, `oversampling` or `power` is out of range.

        See Also
        --------
        svdinv.core.truncated.svd_lowrank_pullback : The formulas and their limits.

        Notes
        -----
        A loss should not depend on the phases of the vectors. Where s_r = s_{r+1}
        there is no derivative, and a finite substitute is taken. If the triplets are
        inexact, so is the derivative, by their error over s_r - s_{r+1}.

        References
        ----------
        .. [1] N. Halko, P.-G. Martinsson and J. A. Tropp, "Finding structure with
           randomness", SIAM Review 53(2), 2011.
        .. [2] A. Francuz, N. Schuch and B. Vanhecke, "Stable and efficient
           differentiation of tensor network algorithms", Phys. Rev. Research 7,
           013237, 2025.
        """
        tools, xp = self._toolbox, self._toolbox.xp
        A, restore = tools.matrices(A, "A")
        short = _shorter(A.shape)
        rank = _integer(rank, "rank", 1)
        oversampling = _integer(oversampling, "oversampling", 0)
        power = _integer(power, "power", 0)
        if short is None:
            raise tools.shape_error("A must have known numbers of rows and columns")
        if rank > short:
            raise ValueError(f"rank must be at most min(m, n) = {short}, got {rank}")
        fixed = tools.stop_gradient(A)
        sketch = tools.sketch(fixed, min(rank + oversampling, short), seed)
        triplets = svd_lowrank(fixed, sketch, rank=rank, power=power, xp=xp)
        U, S, Vh = tools.leading_triplets(A, *triplets)
        return SVDResult(restore(U), restore(S), restore(Vh))

    def spectral_map(
        self, A: Array, f: Callable[[Array], Array], df: Any = None
    ) -> Array:
        """Apply any scalar function to the singular values, U f(S) V^H.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        f : callable
            Function of one singular value, called with an array of any shape and
            returning one of the same, element by element, in the functions of A's
            framework. What else it depends on, such as learned parameters, gets its
            gradient; a network comes in as ``lambda s: s * net(s[..., None])[..., 0]``.
            f(0) = 0, with a finite slope, unless there are no zero singular values.
        df : callable, optional
            Derivative of f, called in the same way. By default f is differentiated
            automatically, where the framework can.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `f` or `df` is not callable or changes the shape.

        Notes
        -----
        Divided differences of f come from its values, and for close pairs from
        eight-point Gauss-Legendre means of its slope, unless f has a kink between
        them. They are accurate to rounding for functions that are smooth on the scale
        of s. Second derivatives go through the singular vectors and need distinct
        singular values.
        """
        tools, xp = self._toolbox, self._toolbox.xp
        if not callable(f) or not (df is None or callable(df)):
            raise TypeError("f must be callable, and df callable or None")
        A, restore = tools.matrices(A, "A")
        U, S, Vh = tools.svd(A)
        y = f(S)
        if not hasattr(y, "shape"):
            raise ValueError(f"f must return an array, returned {y!r}")
        if not _broadcasts(y.shape, S.shape) or not _broadcasts(S.shape, y.shape):
            raise ValueError(
                f"f must keep the shape {tuple(S.shape)}, returned {tuple(y.shape)}"
            )
        slope = tools.derivative(f) if df is None else df
        slopes = slope(difference_nodes(S, xp))
        minus = sampled_difference(S, y, slopes, xp)
        return restore(tools.rotate(A, y, minus, U, S, Vh))

    def svt_divergence(self, A: Array, tau: Any) -> Array:
        """Divergence of `svt`, the trace of its Jacobian [1]_.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n); for complex ones the sum over real and
            imaginary parts.
        tau : float or array
            Threshold >= 0, broadcasting to the batch shape (...).

        Returns
        -------
        array
            Real, shape (...).

        Raises
        ------
        TypeError, ValueError
            As `svt`.

        See Also
        --------
        sure : The risk estimate that it serves.

        References
        ----------
        .. [1] E. J. Candes, C. A. Sing-Long and J. D. Trzasko, "Unbiased risk
           estimates for singular value thresholding and spectral estimators", IEEE
           Trans. Signal Process. 61(19), 2013.
        """
        A, restore = self._toolbox.matrices(A, "A")
        tau = self._per_batch(tau, A, 2)
        _, S, _ = self._toolbox.svd(A)
        return restore(self._divergence(S, tau, A))

    def sure(self, A: Array, tau: Any, sigma: Any) -> Array:
        """Unbiased estimate of the squared error of `svt` on a noisy matrix.

        Stein's estimate of ||svt(A, tau) - X||^2 for A = X + noise, without X [1]_:
        its minimum over tau chooses the threshold.

        Parameters
        ----------
        A : array
            Noisy matrices, shape (..., m, n).
        tau : float or array
            Threshold >= 0, broadcasting to the batch shape (...).
        sigma : float or array
            Standard deviation of the Gaussian noise in every element, broadcasting
            to the batch shape; of complex noise, that of each of both parts.

        Returns
        -------
        array
            Real, shape (...). Being unbiased, it may be negative.

        Raises
        ------
        TypeError, ValueError
            As `svt`.

        References
        ----------
        .. [1] E. J. Candes, C. A. Sing-Long and J. D. Trzasko, "Unbiased risk
           estimates for singular value thresholding and spectral estimators", IEEE
           Trans. Signal Process. 61(19), 2013.
        """
        tools, xp = self._toolbox, self._toolbox.xp
        A, restore = tools.matrices(A, "A")
        tau = self._per_batch(tau, A, 2)
        variance = self._per_batch(sigma, A, 2, "sigma") ** 2
        _, S, _ = tools.svd(A)
        lost = xp.minimum(S, tau[..., None])
        m, n = self._lengths(A)
        size = m * n * (2 if is_complex(A, xp) else 1)
        risk = variance * (2 * self._divergence(S, tau, A) - size)
        return restore(risk + xp.sum(lost * lost, axis=-1))

    def _threshold(
        self,
        A: Array,
        function: Any,
        tau: Any,
        relative: bool,
        method: str,
        weights: bool = False,
    ) -> Array:
        check_method(method)
        A, restore = self._toolbox.matrices(A, "A")
        tau, weighted = self._tau(tau, A)
        if weighted and not function.weighted:
            if function != Soft() or not weights:
                raise self._toolbox.shape_error(
                    "tau must broadcast to the batch shape, one for each matrix; only "
                    "svt takes one for each singular value"
                )
            function = Soft(weighted=True)
        return restore(self._spectral(A, function, tau, relative, method))

    def _spectral(
        self, A: Array, function: Any, tau: Array, relative: bool, method: str
    ) -> Array:
        """Threshold with tau of shape (..., 1) or (..., k)."""
        tools = self._toolbox
        factors = tools.factorise(A, function, tau, relative=relative, method=method)
        if not relative:
            return tools.spectral(A, function, tau, factors)
        return tools.relative_spectral(A, function, tau, factors)

    def _map(self, A: Array, function: SpectralFunction, method: str) -> Array:
        check_method(method)
        A, restore = self._toolbox.matrices(A, "A")
        factors = self._toolbox.factorise(A, function, method=method)
        return restore(self._toolbox.spectral(A, function, None, factors))

    def _leading(self, A: Array, count: int | None, method: str) -> Array:
        check_method(method)
        A, restore = self._toolbox.matrices(A, "A")
        factors = self._toolbox.factorise(A, Leading(count), method=method)
        return restore(leading_sum(self._toolbox, A, count, factors))

    def _tau(self, tau: Any, A: Array) -> tuple[Array, bool]:
        """Tau as (..., 1) or, one for each singular value, as (..., k)."""
        xp, ndim = self._toolbox.xp, len(A.shape)
        values = self._checked(tau, A)
        batch = tuple(A.shape[:-2])
        if len(values.shape) == ndim - 1:
            shape = (*batch, _shorter(A.shape))
            if not _broadcasts(values.shape, shape):
                raise self._toolbox.shape_error(
                    f"tau must broadcast to the batch shape {batch} or to one value "
                    f"for each singular value, {shape}, got {tuple(values.shape)}"
                )
            *traced, m, n = sizes(A, xp)
            short = xp.minimum(m, n) if shape[-1] is None else shape[-1]
            return xp.broadcast_to(values, (*traced, short)), True
        if not _broadcasts(values.shape, batch):
            raise self._toolbox.shape_error(
                f"tau must broadcast to the batch shape {batch}, or with one for each "
                f"singular value to {(*batch, _shorter(A.shape))}, got shape "
                f"{tuple(values.shape)}"
            )
        return self._per_batch(values, A, 2)[..., None], False

    def _per_batch(self, tau: Any, A: Array, core: int, name: str = "tau") -> Array:
        """Tau in the batch shape of A, which has `core` further axes."""
        values = self._checked(tau, A, name)
        batch = tuple(A.shape[: len(A.shape) - core])
        if not _broadcasts(values.shape, batch):
            raise self._toolbox.shape_error(
                f"{name} must broadcast to the batch shape {batch}, got shape "
                f"{tuple(values.shape)}"
            )
        xp = self._toolbox.xp
        return xp.broadcast_to(values, sizes(A, xp)[: len(batch)])

    def _checked(self, tau: Any, A: Array, name: str = "tau") -> Array:
        if isinstance(tau, numbers.Real) and not float(tau) >= 0:
            raise ValueError(f"{name} must be >= 0, got {tau}")
        xp, values = self._toolbox.xp, self._toolbox.parameter(tau, A, name)
        # Of an array nothing can be asked; below 0 there is no threshold.
        return xp.where(values < 0, xp.zeros_like(values), values)

    def _divergence(self, S: Array, tau: Array, A: Array) -> Array:
        xp, shape = self._toolbox.xp, self._lengths(A)
        return soft_divergence(S, tau[..., None], shape, is_complex(A, xp), xp)

    def _lengths(self, A: Array) -> tuple[Any, Any]:
        """Give m and n, as traced numbers in A's real dtype if one is unknown."""
        m, n = sizes(A, self._toolbox.xp)[-2:]
        if None in tuple(A.shape[-2:]):
            m, n = (self._toolbox.parameter(size, A) for size in (m, n))
        return m, n

    def _svt(self, A: Array, tau: Array, relative: bool, method: str) -> Array:
        """Soft threshold with tau broadcasting to the batch shape."""
        xp = self._toolbox.xp
        tau = xp.broadcast_to(tau, sizes(A, xp)[:-2])
        return self._spectral(A, Soft(), tau[..., None], relative, method)

    def _compatible(self, A: Array, B: Array, a: str, b: str) -> None:
        """Refuse matrices of different shape, and batches that do not broadcast."""
        first, second = tuple(A.shape), tuple(B.shape)
        pairs = zip(first[:-2][::-1], second[:-2][::-1], strict=False)
        if not (
            _broadcasts(first[-2:], second[-2:])
            and _broadcasts(second[-2:], first[-2:])
            # Compared, because a symbolic length cannot be hashed.
            and all(None in (x, y) or 1 in (x, y) or x == y for x, y in pairs)
        ):
            raise self._toolbox.shape_error(
                f"{a} and {b} must have the same shape, up to batches that broadcast, "
                f"got {first} and {second}"
            )
        if A.dtype != B.dtype:
            raise TypeError(
                f"{a} and {b} must have the same dtype, got {A.dtype} and {B.dtype}"
            )

    def _axis(self, axis: int, X: Array) -> int:
        ndim = len(X.shape)
        negative = _integer(axis, "axis", -ndim)
        negative = negative - ndim if negative >= 0 else negative
        if not -3 <= negative < 0:
            raise ValueError(f"axis must be one of the last three, got {axis}")
        return negative


def _of_face(face: str) -> Operators:
    return import_module(face)._operators


def _values_first(factors: Factors) -> tuple[Array, ...]:
    return (factors[1], factors[0], factors[2]) if len(factors) == 3 else factors


def _values_back(S: Array, vectors: list[Array]) -> Factors:
    return (vectors[0], S, vectors[1]) if len(vectors) == 2 else (S, *vectors)


def _shorter(shape: Any) -> int | None:
    """Give min(m, n), or None where one of them is unknown."""
    m, n = shape[-2], shape[-1]
    return None if m is None or n is None else min(m, n)


def _broadcasts(shape: Any, to: Any) -> bool:
    """Whether a shape may broadcast to another; what is unknown may."""
    given, wanted = tuple(shape)[::-1], tuple(to)[::-1]
    pairs = zip(given, wanted, strict=False)
    return len(given) <= len(wanted) and all(
        None in (a, b) or a in (1, b) for a, b in pairs
    )


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def _integer(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)

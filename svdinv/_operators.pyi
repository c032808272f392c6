# Written by `make stubs` (tools/stubs.py): change what that reads.
"""Functions of arrays, by their types: for the stubs of the modules."""

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, overload

from svdinv.core.functions import SpectralFunction
from svdinv.core.gauge import Gauge
from svdinv.core.hermitian import HermitianFunction
from svdinv.core.results import (
    Alignment,
    Correlations,
    EighResult,
    LowRankAndSparse,
    Similarity,
    SVDResult,
    Whitened,
)

Array = TypeVar("Array")
ArrayLike = TypeVar("ArrayLike")

class Operators(Generic[Array, ArrayLike]):
    def bures_distance(
        self, A: ArrayLike, B: ArrayLike, *, squared: bool = False
    ) -> Array:
        """Bures distance of covariances: the Wasserstein distance of centred Gaussians.

        The root of tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2) [1]_. The Frechet distance
        of Gaussians, as in the FID, is its square plus that of the means.

        Parameters
        ----------
        A, B : array
            Positive semidefinite Hermitian matrices, shape (..., n, n), real or complex;
            batches broadcast. The mean of both triangles is read.
        squared : bool, optional
            Whether to return the square, which is smooth where A = B.

        Returns
        -------
        array
            Real, shape (...); NaN where A or B has eigenvalues that are clearly negative.

        Raises
        ------
        TypeError, ValueError
            As `hermitian_map`, and if the shapes or dtypes of A and B differ.

        Notes
        -----
        The value is computed as the least distance of A^(1/2) to B^(1/2) Q over unitary Q,
        in which nothing cancels where A is close to B. The distance itself has a kink at
        A = B, where the gradient 0 is used.

        Eigenvalues up to 64 eps of the largest count as 0, in single precision up to
        7.6e-6 of it. Where A or B is singular, the derivative is exact for changes that
        keep its range; for others the distance has an infinite slope, or a kink, and such
        terms are left out.

        References
        ----------
        .. [1] R. Bhatia, T. Jain and Y. Lim, "On the Bures-Wasserstein distance between
           positive definite matrices", Expositiones Mathematicae 37(2), 2019.
        """

    def cca(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        rank: int | None = None,
        *,
        ridge: float | ArrayLike = 0.0,
        gauge: Gauge = "ignore",
    ) -> Correlations[Array]:
        """Canonical correlation analysis of two sets of features of the same samples.

        The singular values of Cxx^(-1/2) Cxy Cyy^(-1/2) [1]_. Their sum is the loss of deep
        CCA [2]_.

        Parameters
        ----------
        X, Y : array
            Samples by features, shapes (..., N, p) and (..., N, q), real or complex;
            batches broadcast.
        rank : int, optional
            Number of correlations, from 1 to min(p, q); all by default.
        ridge : float or array, optional
            Added to the variances, at least 0, in units of X squared, broadcasting to the
            batch shape of X.
        gauge : optional
            As for `eigh`.

        Returns
        -------
        Correlations
            Named tuple ``(correlations, x_weights, y_weights)`` of shapes (..., r), sorted
            downwards, (..., p, r) and (..., q, r). The canonical variates, ``X @
            x_weights`` without their mean, have the variance 1 without a ridge.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if there is no sample, `rank` is out of range, or the shapes or dtypes
            of X and Y do not fit.

        Notes
        -----
        The gradient of the correlations is exact where variances are equal, and where
        correlations are, for losses that treat these alike, such as their sum. That of the
        weights is exact for losses that depend neither on signs nor on the basis of equal
        correlations. Without a ridge the units of the features do not matter: they are
        divided by their standard deviations, except those that are constant up to 64 eps,
        which are left out. The correlations are then the singular values of Qx^H Qy, with
        the polar factors Q of the features [3]_. With fewer samples than features, or
        features that depend on each other, singular values of these up to 64 eps of the
        largest count as 0. Errors are of the order of eps times the condition numbers. With
        a ridge, the covariances are used, with errors of the order of eps times the
        condition numbers of the matrices of correlations within X and within Y.

        References
        ----------
        .. [1] H. Hotelling, "Relations between two sets of variates", Biometrika 28, 1936.
        .. [2] G. Andrew, R. Arora, J. Bilmes and K. Livescu, "Deep canonical correlation
           analysis", ICML 2013.
        .. [3] A. Bjorck and G. H. Golub, "Numerical methods for computing angles between
           linear subspaces", Math. Comp. 27, 1973.
        """

    def eigh(
        self,
        A: ArrayLike,
        UPLO: Literal["L", "U"] | None = None,
        *,
        rtol: float | None = None,
        gauge: Gauge = "ignore",
    ) -> EighResult[Array]:
        """Eigendecomposition of Hermitian matrices that can be differentiated everywhere.

        Where eigenvalues are equal or nearly so, the gradient is exact for losses in
        V f(w) V^H with one smooth f that is not 0 there, and any penalty on w; other
        libraries return NaN or leave terms out.

        Parameters
        ----------
        A : array
            Hermitian matrices, shape (..., n, n), real or complex. Half precision is
            computed in single precision and cast back.
        UPLO : {"L", "U"}, optional
            Which triangle is read. Default: as the framework's own `eigh`, the lower one,
            but in JAX the mean of both.
        rtol : float, optional
            Gap, relative to the largest modulus, up to which the rule for repeated
            eigenvalues acts. Default: sqrt(eps).
        gauge : {"ignore", "warn", "error"} or callable, optional
            What to do in the backward pass if the loss depends on the arbitrary phase
            or basis of the eigenvectors, as for `svd`.

        Returns
        -------
        EighResult
            Named tuple ``(w, V)`` with shapes (..., n), real and in ascending order, and
            (..., n, n).

        Raises
        ------
        TypeError
            If A is not floating point or complex.
        ValueError
            If `UPLO`, `rtol` or `gauge` is not one of the accepted values. Matrices that
            are not square have the framework's own error.
        svdinv.GaugeError
            In the backward pass, with ``gauge="error"``.

        See Also
        --------
        svdinv.core.eigh.eigh_pullback : The formulas, with references.

        Notes
        -----
        The gradient is Hermitian, as that of the framework's own `eigh`; in TensorFlow it
        is, as there, in the triangle that is read. Forward mode uses the minimum norm at
        repeated eigenvalues, where the rule is not linear.
        """

    def eigh_generalized(
        self,
        A: ArrayLike,
        B: ArrayLike,
        *,
        rtol: float | None = None,
        gauge: Gauge = "ignore",
    ) -> EighResult[Array]:
        """Generalised eigendecomposition A v = w B v of Hermitian A, positive definite B.

        The eigendecomposition of B^(-1/2) A B^(-1/2), once rows and columns of both are
        divided by powers of two near the roots of B_ii, so that the units of the variables
        do not matter. Its gradient is that of `eigh`, in A and in B.

        Parameters
        ----------
        A, B : array
            Hermitian matrices, shape (..., n, n), real or complex; batches broadcast. The
            mean of both triangles is read.
        rtol, gauge : optional
            As for `eigh`.

        Returns
        -------
        EighResult
            Named tuple ``(w, V)`` with shapes (..., n), real and in ascending order, and
            (..., n, n), with ``V^H B V = 1`` and ``V^H A V = diag(w)``. NaN for B with
            eigenvalues that are clearly negative.

        Raises
        ------
        TypeError, ValueError
            As `eigh`, and if the shapes or dtypes of A and B differ.
        svdinv.GaugeError
            In the backward pass, with ``gauge="error"``.

        Notes
        -----
        At repeated eigenvalues the gradient is exact for losses in V f(w) V^H with one
        smooth f that is not 0 there, as density matrices are, and any penalty on w. Where B
        is singular, the null space of the divided B, of eigenvalues up to 64 eps of the
        largest (7.6e-6 of it in single precision), counts as eigenvectors of eigenvalue 0
        with V = 0. So do variables whose root of B_ii is below eps of the largest.
        Second derivatives are those of `eigh`, exact for distinct eigenvalues.
        """

    def expm(self, A: ArrayLike) -> Array:
        """Exponential of Hermitian matrices.

        Parameters
        ----------
        A : array
            Shape (..., n, n), real or complex; the lower triangle is read.

        Returns
        -------
        array
            Positive definite, of the shape and dtype of A. Infinite or NaN if an
            eigenvalue is above about 88 (in double precision 709), where it overflows.

        Raises
        ------
        TypeError, ValueError
            As `hermitian_map`.
        """

    def firm_threshold(
        self,
        A: ArrayLike,
        tau: float | ArrayLike,
        gamma: float = 3.0,
        *,
        relative: bool = False,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
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
            Where shrinking ends, in multiples of tau; above 1. Infinity makes it `svt`.
        relative : bool, optional
            Whether tau is a multiple of the largest singular value of each matrix, as for
            `svt`.
        method : {"auto", "svd", "gram"}, optional
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

    def hermitian_map(self, A: ArrayLike, function: HermitianFunction) -> Array:
        """Apply a function to Hermitian matrices, V f(w) V^H.

        Parameters
        ----------
        A : array
            Hermitian matrices, shape (..., n, n), real or complex. The lower triangle is
            read, and the gradient is Hermitian.
        function : svdinv.core.hermitian.HermitianFunction
            The function and its first and second divided differences.

        Returns
        -------
        array
            Hermitian, of the shape and dtype of A, with exact first and second
            derivatives at every spectrum at which the function has them.

        Raises
        ------
        TypeError
            If A is not floating point or complex, or `function` is no HermitianFunction.
        ValueError
            Matrices that are not square have the framework's own error.

        See Also
        --------
        svdinv.core.hermitian : The formulas, with references.
        """

    def huber_threshold(
        self,
        A: ArrayLike,
        tau: float | ArrayLike,
        delta: float,
        *,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> Array:
        """Proximal operator of tau times the sum of Huber's function of s.

        Singular values up to delta + tau are divided by 1 + tau / delta, larger ones are
        reduced by tau. The penalty is smooth at 0, so that no value becomes 0 and the rank
        stays; the kink is at delta + tau.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        tau : float or array
            Weight >= 0 of the penalty, in units of A, broadcasting to the batch shape.
        delta : float
            Where Huber's function turns from a parabola into a line, in units of A;
            above 0. With infinity the penalty is 0, and A is returned.
        method : {"auto", "svd", "gram"}, optional
            As for `svt`.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `delta` is not positive.

        See Also
        --------
        svdinv.core.thresholds.Huber : The function, with its source.
        """

    def inv_sqrtm(self, A: ArrayLike) -> Array:
        """Inverse square root of positive definite Hermitian matrices.

        The factor of whitening, as in ZCA and decorrelated batch normalisation.

        Parameters
        ----------
        A : array
            Shape (..., n, n), real or complex; the lower triangle is read.

        Returns
        -------
        array
            Shape and dtype of A. Eigenvalues up to 64 eps of the largest count as
            0 and give 0, as in a pseudo-inverse; clearly negative ones give NaN.

        Raises
        ------
        TypeError, ValueError
            As `hermitian_map`.

        Examples
        --------
        Whitening of 100 samples with 3 features, whose gradient is exact where variances
        are equal:

        >>> import numpy as np, svdinv.numpy
        >>> X = np.random.default_rng(0).standard_normal((100, 3)) @ np.diag([3, 2, 1])
        >>> X = X - X.mean(0)
        >>> white = X @ svdinv.numpy.inv_sqrtm(X.T @ X / 100)
        >>> (white.T @ white / 100).round(6) + 0
        array([[1., 0., 0.],
               [0., 1., 0.],
               [0., 0., 1.]])
        """

    @overload
    def kabsch(
        self,
        P: ArrayLike,
        Q: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        scale: Literal[False] = False,
        reflection: bool = False,
    ) -> Alignment[Array]:
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
    @overload
    def kabsch(
        self,
        P: ArrayLike,
        Q: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        scale: Literal[True],
        reflection: bool = False,
    ) -> Similarity[Array]: ...
    @overload
    def kabsch(
        self,
        P: ArrayLike,
        Q: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        scale: bool = False,
        reflection: bool = False,
    ) -> Alignment[Array] | Similarity[Array]: ...
    def ky_fan_norm(
        self,
        A: ArrayLike,
        k: int,
        *,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> Array:
        """Sum of the k largest singular values.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        k : int
            From 1 to min(m, n).
        method : {"auto", "svd", "gram"}, optional
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

    def local_low_rank(
        self,
        x: ArrayLike,
        tau: float | ArrayLike,
        block: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] | None = None,
        shift: int | tuple[int, int] = 0,
        relative: bool = False,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
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
            Height and width of a block. Images that are no multiple of it are padded
            with zeros at the end, which adds only zero singular values.
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

    def log_sum_threshold(
        self,
        A: ArrayLike,
        tau: float | ArrayLike,
        epsilon: float,
        *,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
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
        method : {"auto", "svd", "gram"}, optional
            As for `svt`.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `epsilon` is not positive and finite.

        References
        ----------
        .. [1] E. J. Candes, M. B. Wakin and S. P. Boyd, "Enhancing sparsity by
           reweighted l1 minimization", J. Fourier Anal. Appl. 14, 2008.
        """

    def logm(self, A: ArrayLike) -> Array:
        """Logarithm of positive definite Hermitian matrices.

        Parameters
        ----------
        A : array
            Shape (..., n, n), real or complex; the lower triangle is read.

        Returns
        -------
        array
            Hermitian, of the shape and dtype of A; NaN for matrices with eigenvalues that
            are not positive.

        Raises
        ------
        TypeError, ValueError
            As `hermitian_map`.
        """

    def low_rank(
        self,
        A: ArrayLike,
        rank: int,
        *,
        multiplets: bool | float | Literal["keep"] = False,
        max_rank: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> Array:
        """Best approximation of a given rank (Eckart and Young).

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        rank : int
            Number of singular values to keep, >= 0; all from min(m, n) on.
        multiplets : bool, float or "keep", optional
            Whether to keep multiplets whole, that is repeated singular values: one that
            the rank would cut in two is left out, so that the rank may be lower, and the
            result and its derivative do not depend on the basis of the multiplet. True:
            multiplets are values equal up to rounding. A number: the largest gap within a
            multiplet, relative to the larger value. ``"keep"``: as True, but a cut multiplet
            is kept whole, so that the rank may be higher.
        max_rank : int, optional
            With `multiplets`, highest rank: a multiplet that the rank would cut is kept if
            it ends there or before, and left out otherwise. Default: the rank, and with
            ``"keep"`` min(m, n).
        method : {"auto", "svd", "gram"}, optional
            As for `svt`.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `rank` is not an integer >= 0, `multiplets` is a number outside
            [0, 1), or `max_rank` is below the rank or given without `multiplets`.

        Notes
        -----
        The derivative contains 1 / (s_r - s_{r+1}): where these are equal, there is
        none, and that term is left out; with `multiplets` they are never equal.
        """

    def lstsq(
        self,
        A: ArrayLike,
        b: ArrayLike,
        rcond: float | None = None,
        damping: float | ArrayLike = 0,
    ) -> Array:
        """Solution x of least norm of the least squares problem ``min |A x - b|``.

        With damping, the minimiser of ``|A x - b|^2 + damping^2 |x|^2`` (Tikhonov).

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        b : array
            Right-hand sides: shape (..., m, k), whose batch broadcasts with that of A, or,
            with one dimension less than A, vectors (..., m).
        rcond : float, optional
            As for `pinv`, of the singular values s; with damping, of sqrt(s^2 + damping^2).
        damping : float or array, optional
            At least 0, in units of A, broadcasting to the batch shape of A.

        Returns
        -------
        array
            x, shape (..., n, k) or (..., n).

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `rcond` is out of range, or the shapes or dtypes of A and b differ.

        Notes
        -----
        The derivative is that of `pinv`, at fixed rank. With damping above 64 eps s_1 and
        the default `rcond`, it exists everywhere, also in `damping`; with smaller damping,
        the values cut off count as 0. Without damping, x is refined by its residual, once
        (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, ch. 20): the
        product with the pseudo-inverse would leave one of eps times the condition number.
        """

    def nuclear_norm(
        self, A: ArrayLike, *, method: Literal["auto", "svd", "gram", "matmul"] = "auto"
    ) -> Array:
        """Sum of the singular values.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        method : {"auto", "svd", "gram"}, optional
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
        The gradient is U V^H over the singular values that are not 0; where some are 0,
        that is the subgradient of least norm.
        """

    def null_vector(self, A: ArrayLike, *, gauge: Gauge = "ignore") -> Array:
        r"""Right singular vector of the smallest singular value, which A nearly maps to 0.

        The minimiser v of \|A v\| over unit vectors, as the eight-point and five-point
        algorithms and the direct linear transform need it [1]_, with the derivative ::

            dv = (s_n^2 - A^H A)^+ (dA^H A + A^H dA) v

        for m >= n and, for m = n - 1, where A v = 0, dv = -A^+ dA v.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n) with m >= n - 1, real or complex.
        gauge : {"ignore", "warn", "error"} or callable, optional
            What to do in the backward pass if the loss depends on the arbitrary phase
            or basis of the singular vectors. A callable, such as a
            `svdinv.GaugeMonitor`, gets an array of one number per matrix.

        Returns
        -------
        array
            Shape (..., n). Its first element above half the largest in magnitude is real
            and positive.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if m < n - 1, where the null space is no line.

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

    def pinv(self, A: ArrayLike, rcond: float | None = None) -> Array:
        """Moore-Penrose pseudo-inverse, V S^+ U^H.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        rcond : float, optional
            Singular values up to this multiple of the largest count as 0. The default is 64
            eps (7.6e-6 in single precision); smaller numbers are raised to it.

        Returns
        -------
        array
            Shape (..., n, m), dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `rcond` is not a number in [0, 1).

        Notes
        -----
        The derivative is that at fixed rank [1]_, with P = A A^+ and Q = A^+ A ::

            dA^+ = -A^+ dA A^+ + A^+ A^+H dA^H (1 - P) + (1 - Q) dA^H A^+H A^+

        Where a change of A raises the rank, the pseudo-inverse jumps and has none. If
        `rcond` leaves out singular values that are not 0, the derivative contains
        1 / (s_i - s_j) across the cut-off, as that of `low_rank`.

        References
        ----------
        .. [1] G. H. Golub and V. Pereyra, "The differentiation of pseudo-inverses and
           nonlinear least squares problems whose variables separate", SIAM J. Numer.
           Anal. 10(2), 1973.
        """

    def polar(
        self,
        A: ArrayLike,
        *,
        special: bool = False,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> Array:
        """Unitary polar factor U V^H: the nearest matrix with orthonormal columns.

        Orthonormal rows, if m < n. With `special`, the nearest rotation.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        special : bool, optional
            Whether the factor is to have the determinant 1, for real square A: where
            U V^T is a reflection, the last column of U changes its sign [1]_.
        method : {"auto", "svd", "gram", "matmul"}, optional
            As for `svt`.
            With `special`, ``"auto"`` or ``"svd"``.

        Returns
        -------
        array
            Shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and with `special` if A is complex or not square.

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

    def powm(self, A: ArrayLike, p: float | ArrayLike) -> Array:
        """Real power of positive semidefinite Hermitian matrices, V w^p V^H.

        Parameters
        ----------
        A : array
            Shape (..., n, n), real or complex; the lower triangle is read.
        p : float or array
            Exponent, of any sign, broadcasting to the batch shape (...).

        Returns
        -------
        array
            Positive semidefinite, of the shape and dtype of A. An eigenvalue of 0 stays 0,
            also for p <= 0, as in a pseudo-inverse, where all up to 64 eps of the largest
            count as 0. Clearly negative eigenvalues give NaN, in half precision those below
            -eps sqrt(n) of the largest.

        Raises
        ------
        TypeError, ValueError
            As `hermitian_map`, and if p is complex, does not broadcast, or is a number that is
            not finite.

        See Also
        --------
        svdinv.core.hermitian.Power : The divided differences of the power.

        Notes
        -----
        There is a gradient in p as well, V w^p log(w) V^H. Where A is singular, the
        gradient in A is exact for changes that keep the rank. For others there is none if
        p < 1, and the infinite term is left out. In all derivatives, eigenvalues up to 64
        eps of the largest count as 0, 7.6e-6 of it in single precision.
        """

    def procrustes(self, A: ArrayLike, B: ArrayLike) -> Array:
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
        The only singular terms of the gradient are 1 / (s_i + s_j), with s the singular
        values of A^H B. Perfect and repeated configurations have a gradient; at rank n - 1,
        and where A and B do not determine R, it is as for `polar`.

        References
        ----------
        .. [1] P. H. Schonemann, "A generalized solution of the orthogonal Procrustes
           problem", Psychometrika 31, 1966.
        """

    def psd_project(self, A: ArrayLike, floor: float | ArrayLike = 0.0) -> Array:
        """Nearest Hermitian matrix with no eigenvalue below a floor, V max(w, floor) V^H.

        For a floor of 0, the projection onto positive semidefinite matrices [1]_; for a
        small one, the layer ReEig of SPDNet [2]_.

        Parameters
        ----------
        A : array
            Shape (..., n, n), real or complex; the lower triangle is read.
        floor : float or array, optional
            Least eigenvalue, in units of A, broadcasting to the batch shape (...).

        Returns
        -------
        array
            Hermitian, of the shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `hermitian_map`, and if `floor` is complex, does not broadcast, or is a
            number that is not finite.

        Notes
        -----
        There is a gradient in `floor` as well. Where an eigenvalue is equal to it, there is
        none, and that of an eigenvalue below is used.

        References
        ----------
        .. [1] N. J. Higham, "Computing a nearest symmetric positive semidefinite matrix",
           Linear Algebra Appl. 103, 1988.
        .. [2] Z. Huang and L. Van Gool, "A Riemannian network for SPD matrix learning",
           AAAI 2017.
        """

    def robust_pca(
        self,
        A: ArrayLike,
        weight: float | ArrayLike | None = None,
        *,
        iterations: int = 50,
        penalty: float | ArrayLike | None = None,
        growth: float = 1.5,
        limit: float = 100.0,
        report: Callable[[int, ArrayLike], None] | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> LowRankAndSparse[Array]:
        """Principal component pursuit: A as the sum of low rank and sparse matrices.

        Minimises the nuclear norm of L plus `weight` times the sum of the magnitudes of S
        with L + S = A [1]_, by augmented Lagrangians [2]_: a fixed number of iterations,
        each a soft threshold of singular values and one of elements. It can be unrolled:
        the gradient is that of the iterations, in A, `weight` and `penalty`.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        weight : float or array, optional
            At least 0, broadcasting to the batch shape (...). Default: 1 / sqrt(max(m, n)).
        iterations : int, optional
            Number of iterations, all of which are carried out.
        penalty : float or array, optional
            Initial weight mu of the squared residual, positive, in units of 1 / A,
            broadcasting to the batch shape. Default: 1.25 / s_1.
        growth : float, optional
            Factor of mu after each iteration, at least 1. Larger factors need fewer
            iterations and end farther from the minimum.
        limit : float, optional
            Number at least 1 that mu may be times the first, see Notes.
        report : callable, optional
            Called after each iteration with its number, from 1, and the size of A - L - S
            relative to that of A, shape (...).
        method : {"auto", "svd", "gram", "matmul"}, optional
            As for `svt`.

        Returns
        -------
        LowRankAndSparse
            Named tuple ``(low_rank, sparse)`` of the shape and dtype of A.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `iterations`, `growth` or `limit` is below 1, or the number
            `penalty` is not positive. Penalties in an array that are not positive, and
            weights of NaN, give NaN.

        See Also
        --------
        svdinv.unroll.algorithms.LowRankPlusSparse : The same for noisy and indirect data.

        Notes
        -----
        Elements and singular values at a threshold have no derivative; the iterates are
        continuous there. The default penalty has none where s_1 is repeated. Values are
        right for A of any scale. Derivatives are right where s_1, 1 / s_1 and `limit` times
        either are normal floating-point numbers.

        Thresholds are divided by mu. If it kept growing, as in [2]_, L and S would stop
        beside the minimum, with L + S = A to rounding, and with derivatives of elements of
        S that are rounding errors. With the default limit, A - L - S is up to some 1e-4 of
        A after 50 iterations. Where A separates well it is far less: of random 50 x 50
        matrices of rank 2 with 5 % of outliers of the same norm, the median is 4e-14,
        the largest of a hundred 2e-5. It contains what is far smaller than A, such as
        noise. Elements of S below a thousandth of s_1 are 0 or too small, and so are
        singular values of L as far below outliers: they need as many times more iterations,
        or a limit of 1e7 with growth 1.1 and 200 iterations, which divide the noise between
        L and S, too. `report` shows what is left.

        References
        ----------
        .. [1] E. J. Candes, X. Li, Y. Ma and J. Wright, "Robust principal component
           analysis?", J. ACM 58(3), 2011.
        .. [2] Z. Lin, M. Chen and Y. Ma, "The augmented Lagrange multiplier method for
           exact recovery of corrupted low-rank matrices", arXiv:1009.5055, 2010.
        """

    def schatten_norm(
        self,
        A: ArrayLike,
        p: float,
        *,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> Array:
        """p-norm of the singular values, (sum s^p)^(1/p).

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        p : float
            Positive, or infinity for the spectral norm; 1 is the nuclear norm and 2
            the Frobenius norm. Below 1 it is no norm, but a common penalty, which grows as
            r^(1/p) with the rank r. At least 1/128 in single precision and 1/1024 in
            double; at these limits a norm of rank 2 overflows.
        method : {"auto", "svd", "gram"}, optional
            As for `svt`.

        Returns
        -------
        array
            Real, shape (...).

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if p is not positive, or so small that 2^(1/p) overflows.

        Notes
        -----
        Singular values up to 64 eps s_1 may be rounding errors of 0 and count as 0, in the
        norm and in its gradient. Such zeros contribute nothing to the gradient, where there
        is none (p <= 1, or A = 0).
        """

    def schatten_prox(
        self,
        A: ArrayLike,
        tau: float | ArrayLike,
        p: float,
        *,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
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
        method : {"auto", "svd", "gram"}, optional
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
        svdinv.core.thresholds.Schatten : The formulas, with references.
        """

    def spectral_map(
        self,
        A: ArrayLike,
        f: Callable[[ArrayLike], ArrayLike],
        df: Callable[[ArrayLike], ArrayLike] | None = None,
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
            automatically, where the framework can; a graph of `torch.export` or
            `torch.jit.trace` has no gradient without it, and says so.

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

    def spectral_norm(
        self, A: ArrayLike, *, method: Literal["auto", "svd", "gram", "matmul"] = "auto"
    ) -> Array:
        """Largest singular value.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        method : {"auto", "svd", "gram"}, optional
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

    def spectral_operator(
        self,
        A: ArrayLike,
        function: SpectralFunction,
        tau: float | ArrayLike | None = None,
        *,
        relative: bool = False,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> Array:
        """Apply a spectral function of your own, with all features of the other operators.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
        function : svdinv.core.functions.SpectralFunction
            The function and its divided differences; most easily a
            `svdinv.core.functions.Threshold`.
        tau : float or array, optional
            Its parameter >= 0, broadcasting to the batch shape (...), if it has one.
        relative : bool, optional
            Whether tau is a multiple of the largest singular value of each matrix, as for
            `svt`.
        method : {"auto", "svd", "gram", "matmul"}, optional
            As for `svt`.
            ``"matmul"`` is for `svdinv.core.thresholds.Soft` and
            `svdinv.core.functions.Polar` alone.

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

    def sqrtm(self, A: ArrayLike) -> Array:
        """Square root of positive semidefinite Hermitian matrices.

        Parameters
        ----------
        A : array
            Shape (..., n, n), real or complex; the lower triangle is read.

        Returns
        -------
        array
            Positive semidefinite, of the shape and dtype of A; NaN for matrices with
            eigenvalues that are clearly negative. Those at rounding level count as 0.

        Raises
        ------
        TypeError, ValueError
            As `hermitian_map`.

        Notes
        -----
        The derivative contains 1 / (sqrt(w_i) + sqrt(w_j)). Where A is singular, it is
        exact for changes that keep the rank; for others the infinite term is left out. In
        the derivative, but not in the root, eigenvalues up to 64 eps of the largest count
        as 0, 7.6e-6 of it in single precision.
        """

    def sure(
        self, A: ArrayLike, tau: float | ArrayLike, sigma: float | ArrayLike
    ) -> Array:
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
            to the batch shape; for complex noise, that of each of both parts.

        Returns
        -------
        array
            Real, shape (...), in units of A squared. In single precision it overflows if
            m n sigma^2 or the sum of min(s, tau)^2 exceeds 3e38. Being unbiased, it may be
            negative.

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

    def svd_lowrank(
        self,
        A: Any,
        rank: int,
        *,
        oversampling: int = 10,
        power: int = 2,
        seed: Any = None,
        multiplets: bool | float | Literal["keep"] = False,
        max_rank: int | None = None,
        like: Any = None,
    ) -> SVDResult[Array]:
        """Leading singular triplets, randomized, with the derivative of the exact ones.

        Halko, Martinsson and Tropp's range finder [1]_: no more than products with A
        and decompositions of slim matrices. The derivative includes the coupling to
        the discarded singular vectors [2]_, by an iterative solution of the linear
        system in them, which again takes only products with A.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
            Or what multiplies a vector: a pair of functions, of v to A v and of u to A^H u;
            an object with such methods ``forward`` and ``adjoint`` of a whole batch of
            vectors, the new axis in front, as a `svdinv.unroll.operators.Operator` has; or
            a `LinearOperator` or a sparse matrix of SciPy or CuPy. Vectors may have any
            shape.
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
        multiplets : bool, float or "keep", optional
            Whether to keep multiplets whole, that is repeated singular values: one that
            the rank would cut in two is left out, so that the rank may be lower, and the
            result and its derivative do not depend on the basis of the multiplet. True:
            multiplets are values equal up to rounding. A number: the largest gap within a
            multiplet, relative to the larger value. ``"keep"``: as True, but a cut multiplet
            is kept whole, so that the rank may be higher.
            The triplets left out are 0. Gaps are known up to the error of the values.
        max_rank : int, optional
            With `multiplets`, highest rank: a multiplet that the rank would cut is kept if
            it ends there or before, and left out otherwise. Default: the rank, and with
            ``"keep"`` min(m, n).
            It takes the place of r in the shapes of the results.
        like : array, optional
            For products, an array of the shape, dtype and device of v; its values do not
            matter. Not needed for what SciPy or CuPy makes.

        Returns
        -------
        SVDResult
            Named tuple ``(U, S, Vh)`` with shapes (..., m, r), (..., r), (..., r, n);
            in this order on every framework, TensorFlow included. For products, m and n are
            the numbers of elements of their results and arguments.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if `rank`, `oversampling`, `power` or `multiplets` is out of range;
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

    def svd_residual(
        self, A: Any, U: ArrayLike, S: ArrayLike, Vh: ArrayLike, *, like: Any = None
    ) -> Array:
        """Bounds on the errors of singular values, from the residuals of their triplets.

        For unit vectors, A has a singular value within ::

            sqrt((norm(A v_j - s_j u_j)^2 + norm(A^H u_j - s_j v_j)^2) / 2)

        of s_j, however the triplet was computed [1]_; if A is not square, 0 counts as a
        singular value. For orthonormal U and V, all r of them are matched at once, within
        the root of the sum of squares of the bounds.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.
            Or what multiplies a vector: a pair of functions, of v to A v and of u to A^H u;
            an object with such methods ``forward`` and ``adjoint`` of a whole batch of
            vectors, the new axis in front, as a `svdinv.unroll.operators.Operator` has; or
            a `LinearOperator` or a sparse matrix of SciPy or CuPy. Vectors may have any
            shape.
        U, S, Vh : array
            Triplets, shapes (..., m, r), (..., r), (..., r, n), as from `svd_lowrank`.
        like : array, optional
            For products, an array of the shape, dtype and device of v; its values do not
            matter. Not needed for what SciPy or CuPy makes.

        Returns
        -------
        array
            Real, shape (..., r).

        Raises
        ------
        TypeError, ValueError
            As `svt`.

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

    def svdvals(self, A: ArrayLike) -> Array:
        """Singular values, sorted downwards, with a finite gradient everywhere.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex.

        Returns
        -------
        array
            Real, shape (..., min(m, n)).

        Raises
        ------
        TypeError, ValueError
            As `svt`.
        """

    def svht(
        self,
        A: ArrayLike,
        tau: float | ArrayLike,
        *,
        relative: bool = False,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
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
        relative : bool, optional
            Whether tau is a multiple of the largest singular value of each matrix, as for
            `svt`.
        method : {"auto", "svd", "gram"}, optional
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

    def svt(
        self,
        A: ArrayLike,
        tau: float | ArrayLike,
        *,
        relative: bool = False,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> Array:
        """Soft-threshold the singular values, U max(S - tau, 0) V^H.

        The proximal operator of tau times the nuclear norm [1]_, with the gradient
        in A and tau exact at every spectrum.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), real or complex. Half precision is computed
            in single precision and cast back.
        tau : float or array
            Threshold >= 0 in units of A (in an array, negative ones count as 0): one
            for all, an array that broadcasts to the batch shape (...), or, with
            A.ndim - 1 dimensions, one for each singular value, broadcasting to shape
            (..., min(m, n)): the weighted nuclear norm [2]_, of which this is the
            proximal operator if the weights do not decrease. Where equal singular values
            have different weights, there is no derivative, and the infinite term is 0.
        relative : bool, optional
            Whether tau is a multiple of the largest singular value of each matrix.
            The gradient goes through that value as well; where it is repeated, as
            the subgradient of least norm.
        method : {"auto", "svd", "gram", "matmul"}, optional
            ``"gram"`` uses the eigenvectors of the Gram matrix, in double precision where
            that is available, and is accurate only if kept values are above about
            sqrt(eps) s_1, which is not checked; ``"matmul"`` uses matrix products alone,
            meant for GPUs, with one tau for each matrix. ``"auto"`` uses the Gram matrix
            where it is faster and, judged by its singular values, accurate; in PyTorch, for
            other tall or wide matrices, the triangle of the QR decomposition; and the SVD
            elsewhere: for small inputs, on GPUs, and in traced or compiled functions, where
            nothing can be judged (except for tall matrices in JAX's on the CPU). For
            matrices known to be spread over devices, it uses a second Gram matrix where one
            is not enough.

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
        svdinv.core.thresholds.Soft : The function and its divided differences.

        References
        ----------
        .. [1] J.-F. Cai, E. J. Candes and Z. Shen, "A singular value thresholding
           algorithm for matrix completion", SIAM J. Optim. 20(4), 2010.
        .. [2] S. Gu, Q. Xie, D. Meng, W. Zuo, X. Feng and L. Zhang, "Weighted
           nuclear norm minimization and its applications to low level vision",
           IJCV 121, 2017.
        """

    def svt_divergence(self, A: ArrayLike, tau: float | ArrayLike) -> Array:
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

    def tsvt(
        self,
        X: ArrayLike,
        tau: float | ArrayLike,
        axis: int = -1,
        *,
        relative: bool = False,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> Array:
        """Soft-threshold a tensor's singular values after a Fourier transform.

        The proximal operator of tau times the tensor nuclear norm of the t-SVD [1]_:
        the transform along `axis` yields one matrix for each frequency, each of which
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

    def whiten(
        self,
        X: ArrayLike,
        epsilon: float | ArrayLike = 0.0,
        *,
        kind: Literal["zca", "pca"] = "zca",
        mean: ArrayLike | None = None,
        covariance: ArrayLike | None = None,
    ) -> Whitened[Array]:
        """Whitening of features: a linear map after which their covariance is 1.

        Parameters
        ----------
        X : array
            Samples by features, shape (..., N, p), real or complex.
        epsilon : float or array, optional
            Added to the variances, at least 0, in units of X squared, broadcasting to the
            batch shape (...).
        kind : {"zca", "pca"}, optional
            ``"zca"`` multiplies by the inverse square root of the covariance, so that
            features change as little as possible [1]_; ``"pca"`` returns principal
            components, the largest first, each with a positive first weight among those
            above half of the largest.
        mean, covariance : array, optional
            Statistics to be used in place of those of X, shapes (..., p) and (..., p, p).

        Returns
        -------
        Whitened
            Named tuple ``(white, mean, covariance)`` of shapes (..., N, p), (..., p) and
            (..., p, p). The covariance is X^H X / N for X without its mean.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if there is no sample, `kind` is not one of the accepted values, or
            the statistics do not fit.

        Notes
        -----
        The gradient of ZCA is exact where variances are equal; that of PCA is exact there
        for losses that do not depend on the basis, as for `eigh`.

        ZCA is U f(S) V^H with f(s) = s / sqrt(s^2 / N + epsilon), of the singular values s
        of X without its mean: sqrt(N) times the polar factor without epsilon [1]_. Errors
        are of the order of eps times the ratio of the largest deviation to the smallest,
        each with epsilon in its variance. Deviations up to 64 eps of the largest count as
        0, and the derivative is that of changes which leave them 0.

        With a given covariance, samples are multiplied by a function of it. For many
        samples that is faster; errors are of the order of eps times the ratio of the
        variances. With epsilon, variances up to 4 eps of the largest count as 0; without
        it, those up to 64 eps.

        References
        ----------
        .. [1] A. Kessy, A. Lewin and K. Strimmer, "Optimal whitening and decorrelation",
           The American Statistician 72(4), 2018.
        """

class ArrayFunctions(Operators[Array, ArrayLike]):
    def jvp(
        self, f: Callable[..., Any], primals: Any, tangents: Any
    ) -> tuple[Any, Any]:
        """Evaluate a function of arrays and its derivative along a direction.

        Name and arguments are those of `jax.jvp`.

        Parameters
        ----------
        f : callable
            As for `vjp`.
        primals : tuple
            Its arguments, as for `vjp`.
        tangents : tuple
            Direction: for each argument one of its shape, or None for zero.

        Returns
        -------
        object
            The value of ``f(*primals)``.
        object
            Its tangent, in the same structure.

        Raises
        ------
        TypeError, RuntimeError
            As `vjp`.
        ValueError
            If a tangent has the wrong shape.

        Examples
        --------
        >>> import numpy as np, svdinv.numpy
        >>> A, dA = np.diag([3.0, 2.0]), np.eye(2)
        >>> norm, slope = svdinv.numpy.jvp(svdinv.numpy.nuclear_norm, (A,), (dA,))
        >>> float(norm), float(slope)
        (5.0, 2.0)
        """

    def linear(
        self,
        forward: Callable[[ArrayLike], ArrayLike],
        adjoint: Callable[[ArrayLike], ArrayLike],
    ) -> Callable[[Array], Array]:
        """Make a linear function known to `vjp` and `jvp`, by its adjoint.

        An example is the forward operator of an imaging problem, by whatever library.

        Parameters
        ----------
        forward : callable
            Function of an array; it is called with arrays that are not traced, and again
            for derivatives. What else it reads must not change in between: bind the
            variable of a loop by ``lambda x, c=c: c * x``, and copy an array that changes.
        adjoint : callable
            Its adjoint: Re <forward(x), y> = Re <x, adjoint(y)> for all x and y.

        Returns
        -------
        callable
            `forward`, with derivatives of any order.

        Raises
        ------
        TypeError
            If one of them is not callable, or, when it is called, returns an array that is
            not floating point or complex.
        ValueError
            From the pullback, if `adjoint` returns another shape than that of x.

        Examples
        --------
        >>> import numpy as np, svdinv.numpy
        >>> rows = np.array([0, 2])
        >>> def placed(y):
        ...     x = np.zeros(3)
        ...     x[rows] = y
        ...     return x
        >>> sampled = svdinv.numpy.linear(lambda x: x[rows], placed)
        >>> loss = lambda x: (sampled(x) ** 2).sum()
        >>> value, pullback = svdinv.numpy.vjp(loss, np.ones(3))
        >>> pullback(1.0)[0]
        array([2., 0., 2.])
        """

    @overload
    def svd(
        self,
        A: ArrayLike,
        full_matrices: bool = False,
        compute_uv: Literal[True] = True,
        *,
        repeated: Literal[
            "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
        ] = "consistent",
        rtol: float | None = None,
        gauge: Gauge = "ignore",
    ) -> SVDResult[Array]:
        """Singular value decomposition, thin by default, which `vjp` differentiates.

        As the `linalg.svd` of NumPy or CuPy.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), floating point or complex. Half precision is
            computed in single precision and cast back.
        full_matrices : bool, optional
            Return square U and Vh. Their null-space columns get the gradient that is
            independent of their arbitrary basis.
        compute_uv : bool, optional
            If false, return S alone.
        repeated : str, optional
            Rule where singular values (nearly) coincide: ``"consistent"`` (exact for
            losses in U f(S) Vh with one smooth f that is not 0 there, and any penalty on
            S), ``"minimum-norm"`` (Zhang and Hu, arXiv:2411.14141), or for comparison
            ``"drop"``, ``"clip"``, ``"taylor"``, ``"lorentz"`` and ``"none"``.
            `jvp` takes ``"minimum-norm"`` for ``"consistent"``, which is not linear.
        rtol : float, optional
            Gap, relative to the largest singular value, up to which the rule acts; for
            ``"consistent"`` relative to a power of two near it. Default: sqrt(eps) for
            ``"consistent"``; 64 eps for ``"minimum-norm"``, ``"drop"`` and ``"clip"``. The
            other rules do not use it.
        gauge : {"ignore", "warn", "error"} or callable, optional
            What to do in the backward pass if the loss depends on the arbitrary phase
            or basis of the singular vectors. A callable, such as a
            `svdinv.GaugeMonitor`, gets an array of one number per matrix.

        Returns
        -------
        SVDResult or array
            Named tuple ``(U, S, Vh)`` with shapes (..., m, k), (..., k) and
            (..., k, n), k = min(m, n), S real and sorted downwards; with
            `full_matrices`, U (..., m, m) and Vh (..., n, n).

        Raises
        ------
        TypeError
            If `A` is not floating point or complex.
        numpy.linalg.LinAlgError
            In NumPy and CuPy, if `A` has fewer than two dimensions, or the iteration does
            not converge, as for NaN; elsewhere ValueError.
        ValueError
            If `repeated`, `rtol` or `gauge` is not one of the accepted values.
        svdinv.GaugeError
            From the pullback, with ``gauge="error"``.

        See Also
        --------
        svdinv.core.svd_pullback : The formulas, with references.
        """
    @overload
    def svd(
        self,
        A: ArrayLike,
        full_matrices: bool = False,
        *,
        compute_uv: Literal[False],
        repeated: Literal[
            "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
        ] = "consistent",
        rtol: float | None = None,
        gauge: Gauge = "ignore",
    ) -> Array: ...
    @overload
    def svd(
        self,
        A: ArrayLike,
        full_matrices: bool,
        compute_uv: Literal[False],
        *,
        repeated: Literal[
            "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
        ] = "consistent",
        rtol: float | None = None,
        gauge: Gauge = "ignore",
    ) -> Array: ...
    @overload
    def svd(
        self,
        A: ArrayLike,
        full_matrices: bool = False,
        compute_uv: bool = True,
        *,
        repeated: Literal[
            "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
        ] = "consistent",
        rtol: float | None = None,
        gauge: Gauge = "ignore",
    ) -> SVDResult[Array] | Array: ...
    def svd_jvp(
        self, A: ArrayLike, dA: ArrayLike, full_matrices: bool = False, **options: Any
    ) -> tuple[SVDResult[Array], SVDResult[Array]]:
        """Singular value decomposition, and its derivative along a direction.

        Parameters
        ----------
        A, full_matrices, **options
            As for `svd`.
        dA : array
            Direction, of the shape of `A`.

        Returns
        -------
        SVDResult
            Named tuple ``(U, S, Vh)``.
        SVDResult
            Their derivatives ``(dU, dS, dVh)``.

        Raises
        ------
        TypeError, ValueError, numpy.linalg.LinAlgError
            As `svd`, and if `dA` has not the shape of `A`.
        """

    def svd_vjp(
        self, A: ArrayLike, full_matrices: bool = False, **options: Any
    ) -> tuple[SVDResult[Array], Callable[..., Array]]:
        """Singular value decomposition, and the function that pulls gradients back.

        Parameters
        ----------
        A, full_matrices, **options
            As for `svd`.

        Returns
        -------
        SVDResult
            Named tuple ``(U, S, Vh)``.
        pullback : callable
            ``pullback(gU=None, gS=None, gVh=None)`` returns gA, of the shape and dtype
            of `A`. Each cotangent has the shape of its factor, or is None for zero; a
            cotangent g of x means dL = Re tr(g^H dx).

        Raises
        ------
        TypeError, ValueError, numpy.linalg.LinAlgError
            As `svd`; ValueError from the pullback if a cotangent has the wrong shape.

        Examples
        --------
        Gradient of the sum of all elements of U S^2 Vh, where all singular values are
        equal and other libraries return NaN:

        >>> import numpy as np, svdinv.numpy
        >>> A = np.eye(3)
        >>> (U, S, Vh), pullback = svdinv.numpy.svd_vjp(A)
        >>> G = np.ones((3, 3))
        >>> gU = G @ Vh.T * S**2
        >>> gS = 2 * S * np.sum(U * (G @ Vh.T), axis=0)
        >>> gVh = S[:, None] ** 2 * (U.T @ G)
        >>> pullback(gU, gS, gVh).round(6)
        array([[2., 2., 2.],
               [2., 2., 2.],
               [2., 2., 2.]])
        """

    def svt_jvp(
        self, A: ArrayLike, tau: Any, dA: ArrayLike, dtau: Any = None, **options: Any
    ) -> tuple[Array, Array]:
        """`svt`, and its derivative along a direction.

        Parameters
        ----------
        A, tau, **options
            As for `svt`.
        dA : array or None
            Tangent of A, of its shape; None for zero.
        dtau : float or array, optional
            Tangent of tau, of its shape; zero by default.

        Returns
        -------
        array
            The result of `svt`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `svt`, and if a tangent does not fit.
        """

    def svt_vjp(
        self, A: ArrayLike, tau: Any, **options: Any
    ) -> tuple[Array, Callable[[Any], tuple[Array, Array]]]:
        """`svt`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, tau, **options
            As for `svt`.

        Returns
        -------
        array
            The result of `svt`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns ``(gA, gtau)``
            of the shapes of A and tau.

        Raises
        ------
        TypeError, ValueError
            As `svt`; from the pullback, if G does not fit the result.

        Examples
        --------
        The gradient of half the squared norm of the result, where all singular values
        are equal and a derivative by way of the vectors would be NaN:

        >>> import numpy as np, svdinv.numpy
        >>> X, pullback = svdinv.numpy.svt_vjp(2 * np.eye(3), 0.5)
        >>> gA, gtau = pullback(X)
        >>> gA.round(6)
        array([[1.5, 0. , 0. ],
               [0. , 1.5, 0. ],
               [0. , 0. , 1.5]])
        >>> float(gtau.round(6))
        -4.5
        """

    def vjp(
        self, f: Callable[..., Any], *args: Any
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        """Evaluate a function of arrays, and make the one that pulls cotangents back.

        Name and arguments are those of `jax.vjp`. The function may be composed of the
        operators of this module, of Python's operators, of slices (for arrays of NumPy
        and CuPy also integer arrays and masks as indices, sort and take_along_axis), and
        of array functions of the namespace of its arguments or of NumPy (for arrays of
        CuPy, too, whose own functions accept no traced arrays):
        elementwise ones (sqrt, square, reciprocal, exp, expm1, log, log1p, log2, log10,
        sin, cos, tan, asin, acos, atan, atan2, sinh, cosh, tanh, pow, abs, hypot, sign,
        maximum, minimum, where, real, imag, conj, angle), sum, cumsum, diff, mean, average,
        var, std, max, min, matmul, products of vectors, einsum of a string, tensordot,
        inner, vecdot, kron, solve, inv, the Euclidean norm, the norms 1 and inf of vectors,
        reshape, permute_dims, broadcast_to, concat, stack, hstack, vstack, column_stack,
        split, pad, repeat, tile, take, roll, flip, tril, triu, diagonal, diag, astype, the
        Fourier transforms and their shifts; and of functions made by `linear`.

        Parameters
        ----------
        f : callable
            Function of arrays that returns an array, or (named) tuples, lists or dicts
            of them.
        *args : array
            Its arguments, real or complex floating point; also (named) tuples, lists and
            dicts of arrays.

        Returns
        -------
        object
            The value of ``f(*args)``.
        pullback : callable
            ``pullback(g)``, with the cotangent of the value, in its structure and with
            None for zero, returns the tuple of the cotangents of the arguments. A
            cotangent g of x means dL = Re tr(g^H dx): for complex arrays, it is the
            conjugate of JAX's.

        Raises
        ------
        TypeError
            If an argument is not floating point, no derivative of a function is known,
            a traced array is put into an array of NumPy, which would lose its derivative,
            or is combined with a masked or sparse array or a `numpy.matrix`.
        RuntimeError
            If a traced array is used after the function has ended.
        ValueError
            From the pullback, if a cotangent has the wrong shape or key.

        Notes
        -----
        For second derivatives, `vjp` and `jvp` may be applied to functions that contain
        them. Arguments and results may be changed after the call, and arrays that the
        function takes from elsewhere also during it: the pullback reads copies. The
        function may update its own arrays, by ``x += y`` and the like. For its arguments,
        and for arrays that share memory with another one in use, this raises TypeError.

        Examples
        --------
        Gradient of the nuclear norm of a thresholded matrix, in the matrix and in the
        threshold, where all singular values are equal:

        >>> import numpy as np, svdinv.numpy
        >>> def loss(A, tau):
        ...     return svdinv.numpy.nuclear_norm(svdinv.numpy.svt(A, tau))
        >>> value, pullback = svdinv.numpy.vjp(loss, 2 * np.eye(3), 0.5)
        >>> gA, gtau = pullback(1.0)
        >>> float(value), gA.diagonal().round(6), float(gtau)
        (4.5, array([1., 1., 1.]), -3.0)
        """

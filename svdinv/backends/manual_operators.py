"""NumPy and CuPy: the public functions, with derivatives that are called by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from svdinv.backends.manual import Manual, Record, Toolbox, by_name
from svdinv.core.alignment import Motion, nearest_motion
from svdinv.core.chains import (
    fourier_pull,
    fourier_push,
    procrustes_pull,
    procrustes_push,
    product,
    sampled_map_derivative,
    schatten_gradient,
    tiled_pull,
    tiled_push,
    values_pull,
    values_push,
)
from svdinv.core.functions import SpectralFunction
from svdinv.core.gauge import Gauge
from svdinv.core.namespace import Array, inner, is_complex, real
from svdinv.core.operation import SVD, Options, leading_triplets
from svdinv.core.risk import soft_divergence_gradient, sure_gradient
from svdinv.core.spectral import spectral_map
from svdinv.core.svd import SVDResult
from svdinv.core.tensors import tilings
from svdinv.operators import Alignment, Operators

_LEADING = leading_triplets()

__all__ = ["ManualOperators"]

Pullback: TypeAlias = Callable[[Any], Array]
PullbackBoth: TypeAlias = Callable[[Any], tuple[Array, Array]]
PullbackMany: TypeAlias = Callable[..., tuple[Any, ...]]


class ManualOperators(Operators):
    """The singular value decomposition and the operators, with their derivatives.

    ``name_vjp`` takes what ``name`` takes, and returns its result and a function
    from the cotangent of that to those of the arrays. ``name_jvp`` takes what
    ``name`` must have, then the tangents of its arrays, then the options by keyword,
    and returns the result and its tangent.

    Parameters
    ----------
    toolbox : Toolbox
        The framework's part.
    face : str
        Module whose functions these are, for pickling.
    """

    def __init__(self, toolbox: Toolbox, face: str) -> None:
        super().__init__(toolbox, face)
        self._tools = toolbox
        self._svd = Manual(SVD, toolbox)

    def svd(
        self,
        A: Array,
        full_matrices: bool = False,
        compute_uv: bool = True,
        *,
        repeated: str = "consistent",
        rtol: float | None = None,
        gauge: Gauge = "ignore",
    ) -> SVDResult | Array:
        """Singular value decomposition, thin by default.

        As the `linalg.svd` of NumPy or CuPy, and the function that `svd_vjp` and
        `svd_jvp` differentiate.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), floating point or complex. Half precision is
            computed in single precision and cast back.
        full_matrices : bool, optional
            Return square U and Vh.
        compute_uv : bool, optional
            If false, return S alone.
        repeated, rtol, gauge : optional
            Checked, so that one call serves every framework; they act in `svd_vjp`.

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
            If `A` has fewer than two dimensions, or the iteration does not converge,
            as for NaN.
        ValueError
            If `repeated`, `rtol` or `gauge` is not one of the accepted values.
        """
        options = Options(full_matrices, repeated, rtol, gauge)
        if not compute_uv:
            return self.svdvals(A)
        return SVDResult(*self._svd.apply(A, options))

    def svdvals(self, A: Array) -> Array:
        """Singular values, sorted downwards.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), floating point or complex.

        Returns
        -------
        array
            Real, shape (..., min(m, n)).

        Raises
        ------
        TypeError, numpy.linalg.LinAlgError
            As `svd`.
        """
        return self._svd.apply(A, Options())[1]

    def svd_vjp(
        self,
        A: Array,
        full_matrices: bool = False,
        *,
        repeated: str = "consistent",
        rtol: float | None = None,
        gauge: Gauge = "ignore",
    ) -> tuple[SVDResult, Callable[..., Array]]:
        """Singular value decomposition, and the function that pulls gradients back.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), floating point or complex.
        full_matrices : bool, optional
            Return square U and Vh. Their null-space columns get the gradient that is
            independent of their arbitrary basis.
        repeated : str, optional
            Rule where singular values (nearly) coincide: ``"consistent"`` (exact for
            losses in U f(S) Vh with any penalty on S), ``"minimum-norm"`` (Zhang and
            Hu, arXiv:2411.14141), or for comparison ``"drop"``, ``"clip"``,
            ``"taylor"``, ``"lorentz"`` and ``"none"``.
        rtol : float, optional
            Gap, relative to the largest singular value, up to which the rule acts.
            Default: sqrt(eps) for ``"consistent"``, 64 eps for the others.
        gauge : {"ignore", "warn", "error"} or callable, optional
            What the pullback does if the loss depends on the arbitrary phase or basis
            of the singular vectors. A callable, such as a `svdinv.GaugeMonitor`, gets
            an array of one number per matrix.

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
        TypeError, numpy.linalg.LinAlgError
            As `svd`.
        ValueError
            If `repeated`, `rtol` or `gauge` is not one of the accepted values, or, from
            the pullback, if a cotangent has the wrong shape.
        svdinv.GaugeError
            From the pullback, with ``gauge="error"``.

        See Also
        --------
        svdinv.core.svd_pullback : The formulas, with references.

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
        options = Options(full_matrices, repeated, rtol, gauge)
        outputs, pullback = self._svd.vjp(A, options, ("gU", "gS", "gVh"))
        return SVDResult(*outputs), pullback

    def svd_jvp(
        self,
        A: Array,
        dA: Array,
        full_matrices: bool = False,
        *,
        repeated: str = "consistent",
        rtol: float | None = None,
    ) -> tuple[SVDResult, SVDResult]:
        """Singular value decomposition, and its derivative along a direction.

        Parameters
        ----------
        A : array
            Matrices, shape (..., m, n), floating point or complex.
        dA : array
            Direction, of the shape of `A`.
        full_matrices : bool, optional
            Return square U and Vh.
        repeated : str, optional
            Rule where singular values (nearly) coincide, as in `svd_vjp`. The
            consistent rule is not linear and has no forward form: ``"consistent"`` is
            ``"minimum-norm"`` here.
        rtol : float, optional
            Gap, relative to the largest singular value, up to which the rule acts.
            Default, and always for ``"consistent"``: 64 eps.

        Returns
        -------
        SVDResult
            Named tuple ``(U, S, Vh)``.
        SVDResult
            Their derivatives ``(dU, dS, dVh)``.

        Raises
        ------
        TypeError, numpy.linalg.LinAlgError
            As `svd`.
        ValueError
            If `dA` has not the shape of `A`, or `repeated` or `rtol` is not one of the
            accepted values.

        See Also
        --------
        svdinv.core.svd_pushforward : The formulas, with references.
        """
        outputs, tangents = self._svd.jvp(A, dA, Options(full_matrices, repeated, rtol))
        return SVDResult(*outputs), SVDResult(*tangents)

    # Thresholds: A and tau, and one spectral map.

    def svt_vjp(
        self, A: Array, tau: Any, *, relative: bool = False, method: str = "auto"
    ) -> tuple[Array, PullbackBoth]:
        """`svt`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, tau, relative, method
            As for `svt`.

        Returns
        -------
        array
            The result of `svt`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns ``(gA,
            gtau)`` of the shapes of A and tau.

        Raises
        ------
        TypeError, ValueError
            As `svt`; from the pullback, if G does not fit the result.

        Examples
        --------
        The gradient of half the squared norm of the result, where all singular
        values are equal and a derivative by way of the vectors would be NaN:

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
        record, operators = self._record()
        result = operators.svt(A, tau, relative=relative, method=method)
        return self._threshold_vjp(record, result)

    def svt_jvp(
        self,
        A: Array,
        tau: Any,
        dA: Array,
        dtau: Any = None,
        *,
        relative: bool = False,
        method: str = "auto",
    ) -> tuple[Array, Array]:
        """`svt`, and its derivative along a direction.

        Parameters
        ----------
        A, tau, relative, method
            As for `svt`.
        dA : array
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
            As `svt`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.svt(A, tau, relative=relative, method=method)
        return self._threshold_jvp(record, result, dA, dtau)

    def svht_vjp(
        self, A: Array, tau: Any, *, relative: bool = False, method: str = "auto"
    ) -> tuple[Array, PullbackBoth]:
        """`svht`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, tau, relative, method
            As for `svht`.

        Returns
        -------
        array
            The result of `svht`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns ``(gA,
            gtau)`` of the shapes of A and tau.

        Raises
        ------
        TypeError, ValueError
            As `svht`; from the pullback, if G does not fit the result.
        """
        record, operators = self._record()
        result = operators.svht(A, tau, relative=relative, method=method)
        return self._threshold_vjp(record, result)

    def svht_jvp(
        self,
        A: Array,
        tau: Any,
        dA: Array,
        dtau: Any = None,
        *,
        relative: bool = False,
        method: str = "auto",
    ) -> tuple[Array, Array]:
        """`svht`, and its derivative along a direction.

        Parameters
        ----------
        A, tau, relative, method
            As for `svht`.
        dA : array
            Tangent of A, of its shape; None for zero.
        dtau : float or array, optional
            Tangent of tau, of its shape; zero by default.

        Returns
        -------
        array
            The result of `svht`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `svht`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.svht(A, tau, relative=relative, method=method)
        return self._threshold_jvp(record, result, dA, dtau)

    def firm_threshold_vjp(
        self,
        A: Array,
        tau: Any,
        gamma: float = 3.0,
        *,
        relative: bool = False,
        method: str = "auto",
    ) -> tuple[Array, PullbackBoth]:
        """`firm_threshold`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, tau, gamma, relative, method
            As for `firm_threshold`.

        Returns
        -------
        array
            The result of `firm_threshold`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns ``(gA,
            gtau)`` of the shapes of A and tau.

        Raises
        ------
        TypeError, ValueError
            As `firm_threshold`; from the pullback, if G does not fit the result.
        """
        record, operators = self._record()
        result = operators.firm_threshold(
            A, tau, gamma, relative=relative, method=method
        )
        return self._threshold_vjp(record, result)

    def firm_threshold_jvp(
        self,
        A: Array,
        tau: Any,
        dA: Array,
        dtau: Any = None,
        *,
        gamma: float = 3.0,
        relative: bool = False,
        method: str = "auto",
    ) -> tuple[Array, Array]:
        """`firm_threshold`, and its derivative along a direction.

        Parameters
        ----------
        A, tau, gamma, relative, method
            As for `firm_threshold`.
        dA : array
            Tangent of A, of its shape; None for zero.
        dtau : float or array, optional
            Tangent of tau, of its shape; zero by default.

        Returns
        -------
        array
            The result of `firm_threshold`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `firm_threshold`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.firm_threshold(
            A, tau, gamma, relative=relative, method=method
        )
        return self._threshold_jvp(record, result, dA, dtau)

    def log_sum_threshold_vjp(
        self, A: Array, tau: Any, epsilon: float, *, method: str = "auto"
    ) -> tuple[Array, PullbackBoth]:
        """`log_sum_threshold`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, tau, epsilon, method
            As for `log_sum_threshold`.

        Returns
        -------
        array
            The result of `log_sum_threshold`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns ``(gA,
            gtau)`` of the shapes of A and tau.

        Raises
        ------
        TypeError, ValueError
            As `log_sum_threshold`; from the pullback, if G does not fit the result.
        """
        record, operators = self._record()
        result = operators.log_sum_threshold(A, tau, epsilon, method=method)
        return self._threshold_vjp(record, result)

    def log_sum_threshold_jvp(
        self,
        A: Array,
        tau: Any,
        epsilon: float,
        dA: Array,
        dtau: Any = None,
        *,
        method: str = "auto",
    ) -> tuple[Array, Array]:
        """`log_sum_threshold`, and its derivative along a direction.

        Parameters
        ----------
        A, tau, epsilon, method
            As for `log_sum_threshold`.
        dA : array
            Tangent of A, of its shape; None for zero.
        dtau : float or array, optional
            Tangent of tau, of its shape; zero by default.

        Returns
        -------
        array
            The result of `log_sum_threshold`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `log_sum_threshold`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.log_sum_threshold(A, tau, epsilon, method=method)
        return self._threshold_jvp(record, result, dA, dtau)

    def schatten_prox_vjp(
        self, A: Array, tau: Any, p: float, *, method: str = "auto"
    ) -> tuple[Array, PullbackBoth]:
        """`schatten_prox`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, tau, p, method
            As for `schatten_prox`.

        Returns
        -------
        array
            The result of `schatten_prox`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns ``(gA,
            gtau)`` of the shapes of A and tau.

        Raises
        ------
        TypeError, ValueError
            As `schatten_prox`; from the pullback, if G does not fit the result.
        """
        record, operators = self._record()
        result = operators.schatten_prox(A, tau, p, method=method)
        return self._threshold_vjp(record, result)

    def schatten_prox_jvp(
        self,
        A: Array,
        tau: Any,
        p: float,
        dA: Array,
        dtau: Any = None,
        *,
        method: str = "auto",
    ) -> tuple[Array, Array]:
        """`schatten_prox`, and its derivative along a direction.

        Parameters
        ----------
        A, tau, p, method
            As for `schatten_prox`.
        dA : array
            Tangent of A, of its shape; None for zero.
        dtau : float or array, optional
            Tangent of tau, of its shape; zero by default.

        Returns
        -------
        array
            The result of `schatten_prox`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `schatten_prox`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.schatten_prox(A, tau, p, method=method)
        return self._threshold_jvp(record, result, dA, dtau)

    # Maps of A alone.

    def low_rank_vjp(
        self, A: Array, rank: int, *, method: str = "auto"
    ) -> tuple[Array, Pullback]:
        """`low_rank`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, rank, method
            As for `low_rank`.

        Returns
        -------
        array
            The result of `low_rank`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns gA.

        Raises
        ------
        TypeError, ValueError
            As `low_rank`; from the pullback, if G does not fit the result.
        """
        record, operators = self._record()
        result = operators.low_rank(A, rank, method=method)
        return self._map_vjp(record, result)

    def low_rank_jvp(
        self, A: Array, rank: int, dA: Array, *, method: str = "auto"
    ) -> tuple[Array, Array]:
        """`low_rank`, and its derivative along a direction.

        Parameters
        ----------
        A, rank, method
            As for `low_rank`.
        dA : array
            Tangent of A, of its shape.

        Returns
        -------
        array
            The result of `low_rank`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `low_rank`, and if dA does not fit A.
        """
        record, operators = self._record()
        result = operators.low_rank(A, rank, method=method)
        return self._map_jvp(record, result, dA)

    def polar_vjp(self, A: Array, *, method: str = "auto") -> tuple[Array, Pullback]:
        """`polar`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, method
            As for `polar`.

        Returns
        -------
        array
            The result of `polar`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns gA.

        Raises
        ------
        TypeError, ValueError
            As `polar`; from the pullback, if G does not fit the result.
        """
        record, operators = self._record()
        result = operators.polar(A, method=method)
        return self._map_vjp(record, result)

    def polar_jvp(
        self, A: Array, dA: Array, *, method: str = "auto"
    ) -> tuple[Array, Array]:
        """`polar`, and its derivative along a direction.

        Parameters
        ----------
        A, method
            As for `polar`.
        dA : array
            Tangent of A, of its shape.

        Returns
        -------
        array
            The result of `polar`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `polar`, and if dA does not fit A.
        """
        record, operators = self._record()
        result = operators.polar(A, method=method)
        return self._map_jvp(record, result, dA)

    def spectral_map_vjp(
        self, A: Array, f: Callable[[Array], Array], df: Any = None
    ) -> tuple[Array, Pullback]:
        """`spectral_map`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, f, df
            As for `spectral_map`; df is needed here.

        Returns
        -------
        array
            The result of `spectral_map`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns gA.

        Raises
        ------
        TypeError, ValueError
            As `spectral_map`, and if df is None; from the pullback, if G does not fit
            the result.
        """
        _needs_df(df)
        record, operators = self._record()
        result = operators.spectral_map(A, f, df)
        U, S, Vh, y, minus = record.sampled

        def pullback(G: Any) -> Array:
            kept = record.given["A"].array
            G = self._tools.tangent(G, "G", kept.shape, kept.dtype)
            gA = sampled_map_derivative(U, S, Vh, y, minus, G, xp=self._tools.xp)
            return record.argument_cotangent("A", gA)

        return result, pullback

    def spectral_map_jvp(
        self,
        A: Array,
        f: Callable[[Array], Array],
        df: Callable[[Array], Array],
        dA: Array,
    ) -> tuple[Array, Array]:
        """`spectral_map`, and its derivative along a direction.

        Parameters
        ----------
        A, f, df
            As for `spectral_map`; df is needed here.
        dA : array
            Tangent of A, of its shape.

        Returns
        -------
        array
            The result of `spectral_map`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `spectral_map`, and if df is None, and if dA does not fit A.
        """
        _needs_df(df)
        record, operators = self._record()
        result = operators.spectral_map(A, f, df)
        dA = record.argument_tangent("A", dA)
        U, S, Vh, y, minus = record.sampled
        tangent = sampled_map_derivative(U, S, Vh, y, minus, dA, xp=self._tools.xp)
        return result, self._like(tangent, result)

    # Norms: a value whose gradient is a matrix.

    def nuclear_norm_vjp(
        self, A: Array, *, method: str = "auto"
    ) -> tuple[Array, Pullback]:
        """`nuclear_norm`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, method
            As for `nuclear_norm`.

        Returns
        -------
        array
            The result of `nuclear_norm`.
        pullback : callable
            ``pullback(g)``, with the cotangent g of the result, returns gA.

        Raises
        ------
        TypeError, ValueError
            As `nuclear_norm`; from the pullback, if g does not fit the result.
        """
        record, operators = self._record()
        result = operators.nuclear_norm(A, method=method)
        return self._norm_vjp(record, result)

    def nuclear_norm_jvp(
        self, A: Array, dA: Array, *, method: str = "auto"
    ) -> tuple[Array, Array]:
        """`nuclear_norm`, and its derivative along a direction.

        Parameters
        ----------
        A, method
            As for `nuclear_norm`.
        dA : array
            Tangent of A, of its shape.

        Returns
        -------
        array
            The result of `nuclear_norm`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `nuclear_norm`, and if dA does not fit A.
        """
        record, operators = self._record()
        result = operators.nuclear_norm(A, method=method)
        return self._norm_jvp(record, result, dA)

    def spectral_norm_vjp(
        self, A: Array, *, method: str = "auto"
    ) -> tuple[Array, Pullback]:
        """`spectral_norm`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, method
            As for `spectral_norm`.

        Returns
        -------
        array
            The result of `spectral_norm`.
        pullback : callable
            ``pullback(g)``, with the cotangent g of the result, returns gA.

        Raises
        ------
        TypeError, ValueError
            As `spectral_norm`; from the pullback, if g does not fit the result.
        """
        record, operators = self._record()
        result = operators.spectral_norm(A, method=method)
        return self._norm_vjp(record, result)

    def spectral_norm_jvp(
        self, A: Array, dA: Array, *, method: str = "auto"
    ) -> tuple[Array, Array]:
        """`spectral_norm`, and its derivative along a direction.

        Parameters
        ----------
        A, method
            As for `spectral_norm`.
        dA : array
            Tangent of A, of its shape.

        Returns
        -------
        array
            The result of `spectral_norm`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `spectral_norm`, and if dA does not fit A.
        """
        record, operators = self._record()
        result = operators.spectral_norm(A, method=method)
        return self._norm_jvp(record, result, dA)

    def ky_fan_norm_vjp(
        self, A: Array, k: int, *, method: str = "auto"
    ) -> tuple[Array, Pullback]:
        """`ky_fan_norm`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, k, method
            As for `ky_fan_norm`.

        Returns
        -------
        array
            The result of `ky_fan_norm`.
        pullback : callable
            ``pullback(g)``, with the cotangent g of the result, returns gA.

        Raises
        ------
        TypeError, ValueError
            As `ky_fan_norm`; from the pullback, if g does not fit the result.
        """
        record, operators = self._record()
        result = operators.ky_fan_norm(A, k, method=method)
        return self._norm_vjp(record, result)

    def ky_fan_norm_jvp(
        self, A: Array, k: int, dA: Array, *, method: str = "auto"
    ) -> tuple[Array, Array]:
        """`ky_fan_norm`, and its derivative along a direction.

        Parameters
        ----------
        A, k, method
            As for `ky_fan_norm`.
        dA : array
            Tangent of A, of its shape.

        Returns
        -------
        array
            The result of `ky_fan_norm`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `ky_fan_norm`, and if dA does not fit A.
        """
        record, operators = self._record()
        result = operators.ky_fan_norm(A, k, method=method)
        return self._norm_jvp(record, result, dA)

    def schatten_norm_vjp(
        self, A: Array, p: float, *, method: str = "auto"
    ) -> tuple[Array, Pullback]:
        """`schatten_norm`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, p, method
            As for `schatten_norm`.

        Returns
        -------
        array
            The result of `schatten_norm`.
        pullback : callable
            ``pullback(g)``, with the cotangent g of the result, returns gA.

        Raises
        ------
        TypeError, ValueError
            As `schatten_norm`; from the pullback, if g does not fit the result.
        """
        record, operators = self._record()
        result = operators.schatten_norm(A, p, method=method)
        return self._norm_vjp(record, result, _p_of_power(p))

    def schatten_norm_jvp(
        self, A: Array, p: float, dA: Array, *, method: str = "auto"
    ) -> tuple[Array, Array]:
        """`schatten_norm`, and its derivative along a direction.

        Parameters
        ----------
        A, p, method
            As for `schatten_norm`.
        dA : array
            Tangent of A, of its shape.

        Returns
        -------
        array
            The result of `schatten_norm`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `schatten_norm`, and if dA does not fit A.
        """
        record, operators = self._record()
        result = operators.schatten_norm(A, p, method=method)
        return self._norm_jvp(record, result, dA, _p_of_power(p))

    # Two arrays or three.

    def procrustes_vjp(self, A: Array, B: Array) -> tuple[Array, PullbackBoth]:
        """`procrustes`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, B
            As for `procrustes`.

        Returns
        -------
        array
            The result of `procrustes`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns ``(gA, gB)``.

        Raises
        ------
        TypeError, ValueError
            As `procrustes`; from the pullback, if G does not fit the result.
        """
        record, operators = self._record()
        result = operators.procrustes(A, B)
        polar = record.maps[0]

        def pullback(G: Any) -> tuple[Array, Array]:
            G = self._tools.tangent(G, "G", polar.A.shape, polar.A.dtype)
            A, B = (record.given[name].array for name in ("A", "B"))
            gA, gB = procrustes_pull(A, B, G, polar, self._tools.xp)
            return (
                record.argument_cotangent("A", gA),
                record.argument_cotangent("B", gB),
            )

        return result, pullback

    def procrustes_jvp(
        self, A: Array, B: Array, dA: Array, dB: Array
    ) -> tuple[Array, Array]:
        """`procrustes`, and its derivative along a direction.

        Parameters
        ----------
        A, B
            As for `procrustes`.
        dA, dB : array
            Tangents of A and B, of their shape; None for zero.

        Returns
        -------
        array
            The result of `procrustes`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `procrustes`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.procrustes(A, B)
        A, B = (record.given[name].array for name in ("A", "B"))
        dA, dB = record.argument_tangent("A", dA), record.argument_tangent("B", dB)
        tangent = procrustes_push(A, B, dA, dB, record.maps[0], self._tools.xp)
        return result, self._like(tangent, result)

    def kabsch_vjp(
        self, P: Array, Q: Array, weights: Any = None
    ) -> tuple[Alignment, PullbackMany]:
        """`kabsch`, and the function that pulls cotangents back.

        Parameters
        ----------
        P, Q, weights
            As for `kabsch`.

        Returns
        -------
        Alignment
            The result of `kabsch`.
        pullback : callable
            ``pullback(gR=None, gt=None, grmsd=None)``, with the cotangents of the
            rotation, the translation and the rmsd, None for zero, returns ``(gP, gQ,
            gweights)``; gweights is None if no weights were given.

        Raises
        ------
        TypeError, ValueError
            As `kabsch`; from the pullback, if a cotangent does not fit its result.
        """
        record, operators = self._record()
        result = operators.kabsch(P, Q, weights)
        motion = self._motion(record)
        names = ("gR", "gt", "grmsd")

        def pullback(*cotangents: Any, **named: Any) -> tuple[Any, ...]:
            given = by_name(names, cotangents, named)
            gR, gt, grmsd = (
                None if g is None else self._tools.tangent(g, name, x.shape, dtype)
                for g, name, x in zip(given, names, result, strict=True)
            )
            gP, gQ, gweights = motion.pull(gR, gt, grmsd, self._tools.xp)
            return (
                record.argument_cotangent("P", gP),
                record.argument_cotangent("Q", gQ),
                None
                if weights is None
                else record.argument_cotangent("weights", gweights),
            )

        dtype = motion.R.dtype
        return result, pullback

    def kabsch_jvp(
        self,
        P: Array,
        Q: Array,
        dP: Array,
        dQ: Array,
        weights: Any = None,
        dweights: Any = None,
    ) -> tuple[Alignment, Alignment]:
        """`kabsch`, and its derivative along a direction.

        Parameters
        ----------
        P, Q, weights
            As for `kabsch`.
        dP, dQ : array
            Tangents of P and Q, of their shape; None for zero.
        dweights : array, optional
            Tangent of the weights, of their shape; zero by default.

        Returns
        -------
        Alignment
            The result of `kabsch`.
        Alignment
            Its tangents.

        Raises
        ------
        TypeError, ValueError
            As `kabsch`, and if a tangent does not fit its array.
        """
        if weights is None and dweights is not None:
            raise TypeError("dweights needs weights")
        record, operators = self._record()
        result = operators.kabsch(P, Q, weights)
        motion, xp = self._motion(record), self._tools.xp
        dP, dQ = record.argument_tangent("P", dP), record.argument_tangent("Q", dQ)
        dw = xp.zeros_like(dP[..., 0] + dQ[..., 0])
        if weights is not None:
            dw = dw + record.argument_tangent("weights", dweights)
        tangents = motion.push(dP, dQ, dw, xp)
        return result, Alignment(*map(self._like, tangents, result))

    def _motion(self, record: Record) -> Motion:
        P, Q = (record.given[name].array for name in ("P", "Q"))
        xp = self._tools.xp
        P, Q = P + xp.zeros_like(Q[..., :1, :1]), Q + xp.zeros_like(P[..., :1, :1])
        w = xp.ones_like(P[..., 0])
        if "weights" in record.given:
            w = w * record.given["weights"].array
        return nearest_motion(P, Q, w, record.maps[0], self._tools.xp)

    # Series and tensors.

    def tsvt_vjp(
        self,
        X: Array,
        tau: Any,
        axis: int = -1,
        *,
        relative: bool = False,
        method: str = "auto",
    ) -> tuple[Array, PullbackBoth]:
        """`tsvt`, and the function that pulls cotangents back.

        Parameters
        ----------
        X, tau, axis, relative, method
            As for `tsvt`.

        Returns
        -------
        array
            The result of `tsvt`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns ``(gX,
            gtau)`` of the shapes of X and tau.

        Raises
        ------
        TypeError, ValueError
            As `tsvt`; from the pullback, if G does not fit the result.
        """
        record, operators = self._record()
        result = operators.tsvt(X, tau, axis, relative=relative, method=method)

        def pullback(G: Any) -> tuple[Array, Array]:
            kept = record.given["X"].array
            G = self._tools.tangent(G, "G", kept.shape, kept.dtype)
            gX, gtau = fourier_pull(G, axis, record.maps[0], self._tools.xp)
            return (
                record.argument_cotangent("X", gX),
                record.argument_cotangent("tau", gtau[..., 0]),
            )

        return result, pullback

    def tsvt_jvp(
        self,
        X: Array,
        tau: Any,
        dX: Array,
        dtau: Any = None,
        *,
        axis: int = -1,
        relative: bool = False,
        method: str = "auto",
    ) -> tuple[Array, Array]:
        """`tsvt`, and its derivative along a direction.

        Parameters
        ----------
        X, tau, axis, relative, method
            As for `tsvt`.
        dX : array
            Tangent of X, of its shape; None for zero.
        dtau : float or array, optional
            Tangent of tau, of its shape; zero by default.

        Returns
        -------
        array
            The result of `tsvt`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `tsvt`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.tsvt(X, tau, axis, relative=relative, method=method)
        dX = record.argument_tangent("X", dX)
        moved = None
        if dtau is not None:
            moved = record.argument_tangent("tau", dtau)
            moved = self._tools.xp.broadcast_to(moved, dX.shape[:-3])[..., None]
        tangent = fourier_push(dX, moved, axis, record.maps[0], self._tools.xp)
        return result, self._like(tangent, result)

    def local_low_rank_vjp(
        self,
        x: Array,
        tau: Any,
        block: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] | None = None,
        shift: int | tuple[int, int] = 0,
        relative: bool = False,
        method: str = "auto",
    ) -> tuple[Array, PullbackBoth]:
        """`local_low_rank`, and the function that pulls cotangents back.

        Parameters
        ----------
        x, tau, block, stride, shift, relative, method
            As for `local_low_rank`.

        Returns
        -------
        array
            The result of `local_low_rank`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns ``(gx,
            gtau)`` of the shapes of x and tau.

        Raises
        ------
        TypeError, ValueError
            As `local_low_rank`; from the pullback, if G does not fit the result.
        """
        record, operators = self._record()
        result = operators.local_low_rank(
            x, tau, block, stride=stride, shift=shift, relative=relative, method=method
        )

        def pullback(G: Any) -> tuple[Array, Array]:
            kept = record.given["x"].array
            G = self._tools.tangent(G, "G", kept.shape, kept.dtype)
            cuts = tilings(kept.shape[-2:], block, stride, shift)
            gx, gtau = tiled_pull(G, cuts, record.maps, self._tools.xp)
            return (
                record.argument_cotangent("x", gx),
                record.argument_cotangent("tau", gtau[..., 0]),
            )

        return result, pullback

    def local_low_rank_jvp(
        self,
        x: Array,
        tau: Any,
        block: int | tuple[int, int],
        dx: Array,
        dtau: Any = None,
        *,
        stride: int | tuple[int, int] | None = None,
        shift: int | tuple[int, int] = 0,
        relative: bool = False,
        method: str = "auto",
    ) -> tuple[Array, Array]:
        """`local_low_rank`, and its derivative along a direction.

        Parameters
        ----------
        x, tau, block, stride, shift, relative, method
            As for `local_low_rank`.
        dx : array
            Tangent of x, of its shape; None for zero.
        dtau : float or array, optional
            Tangent of tau, of its shape; zero by default.

        Returns
        -------
        array
            The result of `local_low_rank`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `local_low_rank`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.local_low_rank(
            x, tau, block, stride=stride, shift=shift, relative=relative, method=method
        )
        dx = record.argument_tangent("x", dx)
        moved = None
        if dtau is not None:
            moved = record.argument_tangent("tau", dtau)
            moved = self._tools.xp.broadcast_to(moved, dx.shape[:-3])[..., None]
        cuts = tilings(dx.shape[-2:], block, stride, shift)
        tangent = tiled_push(dx, moved, cuts, record.maps, self._tools.xp)
        return result, self._like(tangent, result)

    # Risk.

    def svt_divergence_vjp(self, A: Array, tau: Any) -> tuple[Array, PullbackBoth]:
        """`svt_divergence`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, tau
            As for `svt_divergence`.

        Returns
        -------
        array
            The result of `svt_divergence`.
        pullback : callable
            ``pullback(g)``, with the cotangent g of the result, returns ``(gA,
            gtau)`` of the shapes of A and tau.

        Raises
        ------
        TypeError, ValueError
            As `svt_divergence`; from the pullback, if g does not fit the result.
        """
        record, operators = self._record()
        result = operators.svt_divergence(A, tau)
        return result, self._risk_pullback(
            record, result, ("tau",), self._risk_gradient(record)
        )

    def svt_divergence_jvp(
        self, A: Array, tau: Any, dA: Array, dtau: Any = None
    ) -> tuple[Array, Array]:
        """`svt_divergence`, and its derivative along a direction.

        Parameters
        ----------
        A, tau
            As for `svt_divergence`.
        dA : array
            Tangent of A, of its shape; None for zero.
        dtau : float or array, optional
            Tangent of tau, of its shape; zero by default.

        Returns
        -------
        array
            The result of `svt_divergence`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `svt_divergence`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.svt_divergence(A, tau)
        gradient = self._risk_gradient(record)
        return result, self._risk_tangent(record, result, dA, {"tau": dtau}, gradient)

    def sure_vjp(
        self, A: Array, tau: Any, sigma: Any
    ) -> tuple[Array, Callable[[Any], tuple[Array, Array, Array]]]:
        """`sure`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, tau, sigma
            As for `sure`.

        Returns
        -------
        array
            The result of `sure`.
        pullback : callable
            ``pullback(g)``, with the cotangent g of the result, returns ``(gA, gtau,
            gsigma)`` of the shapes of A, tau and sigma.

        Raises
        ------
        TypeError, ValueError
            As `sure`; from the pullback, if g does not fit the result.
        """
        record, operators = self._record()
        result = operators.sure(A, tau, sigma)
        return result, self._risk_pullback(
            record, result, ("tau", "sigma"), self._risk_gradient(record)
        )

    def sure_jvp(
        self,
        A: Array,
        tau: Any,
        sigma: Any,
        dA: Array,
        dtau: Any = None,
        dsigma: Any = None,
    ) -> tuple[Array, Array]:
        """`sure`, and its derivative along a direction.

        Parameters
        ----------
        A, tau, sigma
            As for `sure`.
        dA : array
            Tangent of A, of its shape; None for zero.
        dtau, dsigma : float or array, optional
            Tangents of tau and sigma, of their shapes; zero by default.

        Returns
        -------
        array
            The result of `sure`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `sure`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.sure(A, tau, sigma)
        along = {"tau": dtau, "sigma": dsigma}
        gradient = self._risk_gradient(record)
        return result, self._risk_tangent(record, result, dA, along, gradient)

    def _risk_gradient(self, record: Record) -> tuple[Array, ...]:
        """Gradient in the singular values and in the parameters, which are (...)."""
        xp, A = self._tools.xp, record.given["A"].array
        shape, batch = (A.shape[-2], A.shape[-1]), A.shape[:-2]
        tau = xp.broadcast_to(record.given["tau"].array, batch)[..., None]
        S, whole = record.factors[1], is_complex(A, xp)
        if "sigma" not in record.given:
            in_s, in_tau = soft_divergence_gradient(S, tau, shape, whole, xp)
            return in_s, in_tau[..., 0]
        sigma = xp.broadcast_to(record.given["sigma"].array, batch)
        in_s, in_tau, in_sigma = sure_gradient(S, tau, sigma, shape, whole, xp)
        return in_s, in_tau[..., 0], in_sigma

    def _risk_pullback(
        self,
        record: Record,
        result: Array,
        names: tuple[str, ...],
        gradient: tuple[Array, ...],
    ) -> Any:
        in_s, *others = gradient
        U, _, Vh = record.factors

        def pullback(g: Any) -> tuple[Array, ...]:
            g = self._tools.tangent(g, "g", result.shape, in_s.dtype)
            gA = values_pull(U, Vh, g[..., None] * in_s, self._tools.xp)
            return (
                record.argument_cotangent("A", gA),
                *(
                    record.argument_cotangent(name, g * other)
                    for name, other in zip(names, others, strict=True)
                ),
            )

        return pullback

    def _risk_tangent(
        self,
        record: Record,
        result: Array,
        dA: Any,
        along: dict[str, Any],
        gradient: tuple[Array, ...],
    ) -> Array:
        xp, (in_s, *others) = self._tools.xp, gradient
        U, _, Vh = record.factors
        dS = values_push(U, Vh, record.argument_tangent("A", dA), xp)
        tangent = xp.sum(in_s * dS, axis=-1)
        for (name, d), other in zip(along.items(), others, strict=True):
            tangent = tangent + other * record.argument_tangent(name, d)
        return self._like(tangent, result)

    # How each kind is chained.

    def spectral_operator_vjp(
        self,
        A: Array,
        function: SpectralFunction,
        tau: Any = None,
        *,
        relative: bool = False,
        method: str = "auto",
    ) -> tuple[Array, Pullback | PullbackBoth]:
        """`spectral_operator`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, function, tau, relative, method
            As for `spectral_operator`.

        Returns
        -------
        array
            The result of `spectral_operator`.
        pullback : callable
            ``pullback(G)``, with the cotangent G of the result, returns gA, and with a
            parameter the pair of gA and gtau.

        Raises
        ------
        TypeError, ValueError
            As `spectral_operator`; from the pullback, if G does not fit the result.
        """
        record, operators = self._record()
        result = operators.spectral_operator(
            A, function, tau, relative=relative, method=method
        )
        if tau is None:
            return self._map_vjp(record, result)
        return self._threshold_vjp(record, result)

    def spectral_operator_jvp(
        self,
        A: Array,
        function: SpectralFunction,
        dA: Array,
        tau: Any = None,
        dtau: Any = None,
        *,
        relative: bool = False,
        method: str = "auto",
    ) -> tuple[Array, Array]:
        """`spectral_operator`, and its derivative along a direction.

        Parameters
        ----------
        A, function, tau, relative, method
            As for `spectral_operator`.
        dA : array
            Tangent of A, of its shape; None for zero.
        dtau : float or array, optional
            Tangent of tau, of its shape; zero by default.

        Returns
        -------
        array
            The result of `spectral_operator`.
        array
            Its tangent.

        Raises
        ------
        TypeError, ValueError
            As `spectral_operator`, and if a tangent does not fit its array.
        """
        record, operators = self._record()
        result = operators.spectral_operator(
            A, function, tau, relative=relative, method=method
        )
        if tau is None:
            return self._map_jvp(record, result, dA)
        return self._threshold_jvp(record, result, dA, dtau)

    def svd_lowrank_vjp(
        self,
        A: Array,
        rank: int,
        *,
        oversampling: int = 10,
        power: int = 2,
        seed: Any = None,
    ) -> tuple[SVDResult, Callable[..., Array]]:
        """`svd_lowrank`, and the function that pulls cotangents back.

        Parameters
        ----------
        A, rank, oversampling, power, seed
            As for `svd_lowrank`.

        Returns
        -------
        SVDResult
            The result of `svd_lowrank`.
        pullback : callable
            ``pullback(gU=None, gS=None, gVh=None)``, with the cotangents of the
            results or None for zero, returns gA.

        Raises
        ------
        TypeError, ValueError
            As `svd_lowrank`; from the pullback, if a cotangent does not fit.
        """
        record, operators = self._record()
        result = operators.svd_lowrank(
            A, rank, oversampling=oversampling, power=power, seed=seed
        )
        tools, triplets, names = self._tools, record.triplets, ("gU", "gS", "gVh")

        def pullback(*cotangents: Any, **named: Any) -> Array:
            given = tuple(
                None if g is None else tools.tangent(g, name, x.shape, x.dtype)
                for g, name, x in zip(
                    by_name(names, cotangents, named), names, triplets, strict=False
                )
            )
            gA = _LEADING.pullback(
                triplets, (*given, None), Options(), tools.xp, tools.look
            )
            return record.argument_cotangent("A", gA)

        return result, pullback

    def svd_lowrank_jvp(
        self,
        A: Array,
        rank: int,
        dA: Array,
        *,
        oversampling: int = 10,
        power: int = 2,
        seed: Any = None,
    ) -> tuple[SVDResult, SVDResult]:
        """`svd_lowrank`, and its derivative along a direction.

        Parameters
        ----------
        A, rank, oversampling, power, seed
            As for `svd_lowrank`.
        dA : array
            Tangent of A, of its shape.

        Returns
        -------
        SVDResult
            The result of `svd_lowrank`.
        SVDResult
            Its tangent ``(dU, dS, dVh)``.

        Raises
        ------
        TypeError, ValueError
            As `svd_lowrank`, and if `dA` does not fit.
        """
        record, operators = self._record()
        result = operators.svd_lowrank(
            A, rank, oversampling=oversampling, power=power, seed=seed
        )
        dA = record.argument_tangent("A", dA)
        *tangents, _ = _LEADING.pushforward(
            record.triplets, dA, Options(), self._tools.xp
        )
        dU, dS, dVh = (
            x if x.dtype == y.dtype else self._tools.xp.astype(x, y.dtype)
            for x, y in zip(tangents, result, strict=True)
        )
        return result, SVDResult(dU, dS, dVh)

    def _record(self) -> tuple[Record, Operators]:
        """Operators for one call, and what they will have kept."""
        record = Record(self._tools)
        return record, Operators(record, self._face)

    def _threshold_vjp(
        self, record: Record, result: Array
    ) -> tuple[Array, PullbackBoth]:
        xp, step = self._tools.xp, record.maps[0]

        def pullback(G: Any) -> tuple[Array, Array]:
            G = self._tools.tangent(G, "G", step.A.shape, step.A.dtype)
            gA, gtau = step.pull(G, xp)
            gtau = gtau if step.function.weighted else gtau[..., 0]
            return (
                record.argument_cotangent("A", gA),
                record.argument_cotangent("tau", gtau),
            )

        return result, pullback

    def _threshold_jvp(
        self, record: Record, result: Array, dA: Any, dtau: Any
    ) -> tuple[Array, Array]:
        xp, step = self._tools.xp, record.maps[0]
        given, dA = dtau, record.argument_tangent("A", dA)
        dtau = record.argument_tangent("tau", dtau)
        if step.function.weighted:
            dtau = xp.broadcast_to(dtau, step.tau.shape)
        else:
            dtau = xp.broadcast_to(dtau, step.A.shape[:-2])[..., None]
        tangent = step.push(dA, None if given is None else dtau, xp)
        return result, self._like(tangent, result)

    def _map_vjp(self, record: Record, result: Array) -> tuple[Array, Pullback]:
        step = record.maps[0]

        def pullback(G: Any) -> Array:
            G = self._tools.tangent(G, "G", step.A.shape, step.A.dtype)
            return record.argument_cotangent("A", step.pull(G, self._tools.xp)[0])

        return result, pullback

    def _map_jvp(self, record: Record, result: Array, dA: Any) -> tuple[Array, Array]:
        dA = record.argument_tangent("A", dA)
        tangent = record.maps[0].push(dA, None, self._tools.xp)
        return result, self._like(tangent, result)

    def _norm_gradient(self, record: Record, p: float | None = None) -> Array:
        A, value, function, factors = record.sums[0]
        if p is None:
            return spectral_map(function, A, None, factors, xp=self._tools.xp)
        return schatten_gradient(A, p * value, p, factors, self._tools.xp)

    def _norm_vjp(
        self, record: Record, result: Array, p: float | None = None
    ) -> tuple[Array, Pullback]:
        gradient = self._norm_gradient(record, p)
        return result, self._number_pullback(record, result, gradient)

    def _norm_jvp(
        self, record: Record, result: Array, dA: Any, p: float | None = None
    ) -> tuple[Array, Array]:
        dA = record.argument_tangent("A", dA)
        tangent = inner(self._norm_gradient(record, p), dA, self._tools.xp)
        return result, self._like(tangent, result)

    def _number_pullback(
        self, record: Record, result: Array, gradient: Array
    ) -> Pullback:
        xp = self._tools.xp
        dtype = real(gradient, xp).dtype

        def pullback(g: Any) -> Array:
            g = self._tools.tangent(g, "g", result.shape, dtype)
            return record.argument_cotangent("A", product(g, gradient, xp))

        return pullback

    def _like(self, tangent: Array, result: Array) -> Array:
        return self._tools.xp.astype(tangent, result.dtype, copy=False)


def _p_of_power(p: float) -> float | None:
    """p, but None where the norm is a sum of singular values."""
    return None if p == 1 or p == float("inf") else p


def _needs_df(df: Any) -> None:
    if df is None:
        raise TypeError("df, the derivative of f, is needed: it is not found by itself")

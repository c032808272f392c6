"""The singular value decomposition for NumPy, with gradients by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from svdinv._missing import explain_missing

try:
    import numpy as np
except ImportError as error:
    raise explain_missing("numpy", "numpy") from error

from array_api_compat import numpy as xp

from svdinv.backends.manual import Manual
from svdinv.core.gauge import Gauge
from svdinv.core.operation import SVD, Options
from svdinv.core.svd import SVDResult

__all__ = ["svd", "svd_jvp", "svd_vjp", "svdvals"]

Array: TypeAlias = np.ndarray

_svd = Manual(SVD, xp, lambda mask: bool(mask.any()), np.linalg.LinAlgError)


def svd(
    A: Array,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    repeated: str = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SVDResult | Array:
    """Singular value decomposition, thin by default.

    As `numpy.linalg.svd`, and the function that `svd_vjp` and `svd_jvp`
    differentiate.

    Parameters
    ----------
    A : ndarray
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
    SVDResult or ndarray
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
        return svdvals(A)
    return SVDResult(*_svd.apply(A, options))


def svdvals(A: Array) -> Array:
    """Singular values, sorted downwards.

    Parameters
    ----------
    A : ndarray
        Matrices, shape (..., m, n), floating point or complex.

    Returns
    -------
    ndarray
        Real, shape (..., min(m, n)).

    Raises
    ------
    TypeError, numpy.linalg.LinAlgError
        As `svd`.
    """
    return _svd.apply(A, Options())[1]


def svd_vjp(
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
    A : ndarray
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
    outputs, pullback = _svd.vjp(A, options, ("gU", "gS", "gVh"))
    return SVDResult(*outputs), pullback


def svd_jvp(
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
    A : ndarray
        Matrices, shape (..., m, n), floating point or complex.
    dA : ndarray
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
    outputs, tangents = _svd.jvp(A, dA, Options(full_matrices, repeated, rtol))
    return SVDResult(*outputs), SVDResult(*tangents)

"""Hermitian matrices: eigendecomposition, square roots, logarithm, exponential."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from svdinv.core.backend import Backend
from svdinv.core.eigh import EighResult
from svdinv.core.gauge import Gauge
from svdinv.core.hermitian import (
    Exponential,
    HermitianFunction,
    InverseSquareRoot,
    Logarithm,
    SquareRoot,
)
from svdinv.core.hermitian_operations import (
    Eigh,
    FactoriseHermitian,
    HermitianMap,
    from_triangle,
)
from svdinv.core.namespace import Array, herm
from svdinv.operators._arguments import in_precision
from svdinv.operators._registry import operator


@operator
def eigh(
    backend: Backend,
    A: Any,
    UPLO: str | None = None,
    *,
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> EighResult:
    """Eigendecomposition of Hermitian matrices that can be differentiated everywhere.

    Where eigenvalues are equal or nearly so, the gradient is exact for losses in
    V f(w) V^H with any function f and any penalty on w; other libraries return NaN.

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
    The gradient is Hermitian, as that of the framework's own; in TensorFlow it is, as
    there, in the lower triangle that is read. Forward mode takes the minimum norm at
    repeated eigenvalues, where the rule is not linear.
    """
    if UPLO not in ("L", "U", None):
        raise ValueError(f'UPLO must be "L" or "U", got {UPLO!r}')
    operation = Eigh(UPLO or "L", rtol, gauge)  # checks the options
    xp, given = backend.xp, backend.asarray(A, "A")
    A, restore = _square(backend, given)
    operation = in_precision(backend, operation, given, A)
    if backend.triangle is None and UPLO is None:
        A = herm(A, xp)
    elif backend.gradient_in_triangle:
        A = from_triangle(A, UPLO or "L", xp)
        operation = replace(operation, triangle="L")
    w, V = backend.call(operation, A)
    return EighResult(restore(w), restore(V))


@operator
def hermitian_map(backend: Backend, A: Any, function: HermitianFunction) -> Array:
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
    if not isinstance(function, HermitianFunction):
        raise TypeError(f"function must be a HermitianFunction, got {function!r}")
    A, restore = _square(backend, A)
    # V of the matrix that is differentiated: A itself, up to rounding.
    factors = backend.evaluate(FactoriseHermitian(), A)
    return restore(backend.call(HermitianMap(function), A, *factors)[0])


@operator
def sqrtm(backend: Backend, A: Any) -> Array:
    """Square root of positive semidefinite Hermitian matrices.

    Parameters
    ----------
    {hermitian}

    Returns
    -------
    array
        Positive semidefinite, of the shape and dtype of A; NaN for matrices with
        eigenvalues that are clearly negative. Up to rounding level they count as 0.

    {raises_hermitian}.

    Notes
    -----
    The derivative contains 1 / (sqrt(w_i) + sqrt(w_j)): between two eigenvalues of 0
    there is none, and that term is left out.
    """
    return hermitian_map(backend, A, SquareRoot())


@operator
def inv_sqrtm(backend: Backend, A: Any) -> Array:
    """Inverse square root of positive definite Hermitian matrices.

    What whitening multiplies by: ZCA, decorrelated batch normalisation.

    Parameters
    ----------
    {hermitian}

    Returns
    -------
    array
        Of the shape and dtype of A. Eigenvalues up to 64 eps of the largest count as
        0 and give 0, as in a pseudo-inverse; clearly negative ones give NaN.

    {raises_hermitian}.

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
    return hermitian_map(backend, A, InverseSquareRoot())


@operator
def logm(backend: Backend, A: Any) -> Array:
    """Logarithm of positive definite Hermitian matrices.

    Parameters
    ----------
    {hermitian}

    Returns
    -------
    array
        Hermitian, of the shape and dtype of A; NaN for matrices with eigenvalues that
        are not positive.

    {raises_hermitian}.
    """
    return hermitian_map(backend, A, Logarithm())


@operator
def expm(backend: Backend, A: Any) -> Array:
    """Exponential of Hermitian matrices.

    Parameters
    ----------
    {hermitian}

    Returns
    -------
    array
        Positive definite, of the shape and dtype of A.

    {raises_hermitian}.
    """
    return hermitian_map(backend, A, Exponential())


def _square(backend: Backend, A: Any) -> tuple[Array, Any]:
    A, restore = backend.matrices(A, "A")
    m, n = A.shape[-2:]
    if m is not None and n is not None and m != n:
        raise backend.shape_error(f"A must be square, got shape {tuple(A.shape)}")
    return A, restore

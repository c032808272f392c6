"""Hermitian matrices: eigendecomposition, powers, logarithm, exponential."""

from __future__ import annotations

import numbers
from dataclasses import replace
from functools import partial
from typing import Any

from svdinv.core.backend import Backend
from svdinv.core.functions import TopSubgradient
from svdinv.core.gauge import Gauge
from svdinv.core.hermitian import (
    Exponential,
    HermitianFunction,
    InverseSquareRoot,
    Logarithm,
    PositivePart,
    Power,
    SquareRoot,
)
from svdinv.core.hermitian_operations import (
    Eigh,
    FactoriseHermitian,
    GeneralizedEigh,
    HermitianMap,
    Triangle,
    from_triangle,
)
from svdinv.core.namespace import (
    Array,
    abs_max,
    adjoint,
    any_on_host,
    cast,
    conj,
    herm,
    identity_like,
    inner,
    known_equal,
    real,
)
from svdinv.core.product_operations import (
    Product,
    multiplies_quickly,
    product,
)
from svdinv.core.results import EighResult
from svdinv.core.spectral import SVDFactors, real_diagonal
from svdinv.core.spectral_operations import Factorise, leading_sum
from svdinv.core.tolerances import eps, rounding_rtol
from svdinv.operators._arguments import (
    as_flag,
    check_compatible,
    half_eps,
    in_precision,
    per_batch,
    two_matrices,
)
from svdinv.operators._registry import operator

# Cases of the power with divided differences that take less time.
_ROOTS: dict[float, HermitianFunction] = {0.5: SquareRoot(), -0.5: InverseSquareRoot()}


_USUAL = Eigh()


@operator
def eigh(
    backend: Backend,
    A: Array,
    UPLO: Triangle | None = None,
    *,
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> EighResult:
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
    if UPLO not in ("L", "U", None):
        raise ValueError(f'UPLO must be "L" or "U", got {UPLO!r}')
    # Checking the options in Eigh takes as long as to decompose a very small matrix.
    usual = UPLO != "U" and rtol is None and gauge == "ignore"
    operation = _USUAL if usual else Eigh(UPLO or "L", rtol, gauge)
    xp, given = backend.xp, backend.asarray(A, "A")
    A, restore = _square(backend, given)
    operation = in_precision(backend, operation, given, A)
    if backend.triangle is None and UPLO is None:
        A = herm(A, xp)
    elif backend.gradient_in_triangle and not backend.is_constant(A):
        A = from_triangle(A, UPLO or "L", xp)
        operation = replace(operation, triangle="L")
    w, V = backend.call(operation, A)
    return EighResult(restore(w), restore(V))


@operator
def eigh_generalized(
    backend: Backend,
    A: Array,
    B: Array,
    *,
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> EighResult:
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
    xp = backend.xp
    A, B, restore = two_matrices(backend, A, B, "A", "B", partial(_square, backend))
    operation = in_precision(backend, Eigh("L", rtol, gauge), restore(A), A)
    check_compatible(backend, A, B, "A", "B")
    D = _units(backend, B)
    found = _positive_definite(backend, operation, A, B, D)
    if found is not None:
        return EighResult(*map(restore, found))
    A, B = (D * herm(x, xp) * xp.matrix_transpose(D) for x in (A, B))
    (root,), unit = _separated(backend, powm(backend, B, -0.5))
    times = partial(product, call=backend.call, xp=xp)
    w, Y = backend.call(operation, times(times(root, A), root))
    V = D * times(root, Y)
    if unit is not None:
        w, V = w * unit[..., 0], V * cast(unit, V, xp)
    return EighResult(restore(w), restore(V))


def _positive_definite(
    backend: Backend, rule: Eigh, A: Array, B: Array, D: Array
) -> tuple[Array, ...] | None:
    """Find w and V in few calls, if products are quick and all B known to be definite.

    For singular B there are further terms, for which the root of B is differentiated.
    """
    xp, run = backend.xp, backend.evaluate
    if rule.gauge != "ignore" or not multiplies_quickly(A, B, xp):
        return None
    P, Q = (
        D * herm(backend.stop_gradient(x), xp) * xp.matrix_transpose(D) for x in (A, B)
    )
    b, U = run(FactoriseHermitian(), Q)
    definite = b[..., :1] > rounding_rtol(b, xp) * b[..., -1:]
    if any_on_host(~definite, xp) is not False:
        return None
    (root,) = run(HermitianMap(InverseSquareRoot()), Q, None, b, U)
    (half,) = run(Product(), root, P)
    w, Y = run(rule, *run(Product(), half, root))
    return backend.call(GeneralizedEigh(rule), A, B, w, D * run(Product(), root, Y)[0])


def _units(backend: Backend, B: Array) -> Array:
    """Powers of two near 1 / sqrt(B_ii), (..., n, 1), for the largest if B_ii is 0.

    They scale B almost as well as any diagonal can (A. van der Sluis, "Condition
    numbers and equilibration of matrices", Numer. Math. 14, 1969), and change in steps,
    so that they have no derivative even where B is singular.
    """
    xp = backend.xp
    B = backend.stop_gradient(B)
    b, top = real_diagonal(B, xp), abs_max(B, xp)[..., 0]
    b = xp.where(b > eps(b, xp) ** 2 * top, b, top)
    b = xp.where(b > 0, b, xp.ones_like(b))
    return cast(2.0 ** -xp.round(xp.log2(b) / 2), B, xp)[..., None]


@operator
def bures_distance(
    backend: Backend, A: Array, B: Array, *, squared: bool = False
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
    squared = as_flag(squared, "squared")
    xp = backend.xp
    given = backend.asarray(A, "A"), backend.asarray(B, "B")
    A, B, restore = two_matrices(backend, *given, "A", "B", partial(_square, backend))
    check_compatible(backend, A, B, "A", "B")
    A, B = herm(A, xp), herm(B, xp)
    # Roots of rounding errors would pass for a range that does not exist.
    root = partial(_map, backend, function=SquareRoot(cut=True))
    roots = [root(A, given=given[0]), root(B, given=given[1])]
    roots, unit = _separated(backend, *roots)
    times = partial(product, call=backend.call, xp=xp)
    K, norm = times(*roots), TopSubgradient(None)
    U, S, Vh = backend.evaluate(Factorise(norm, method="svd"), K, None)
    fidelity = leading_sum(K, None, SVDFactors(U, S, Vh), backend.call, xp)
    # Not by `diagonal`, whose gradient has no derivative in MLX.
    traces = inner(identity_like(A, xp), A + B, xp)
    smooth = traces - 2 * fidelity
    # The value from a difference of roots, and the derivative from that of the traces.
    one, other = map(backend.stop_gradient, roots)
    rest = one - times(other, adjoint(times(U, Vh), xp))
    square = xp.sum(real(conj(rest, xp) * rest, xp), axis=(-2, -1))
    square = square + (smooth - backend.stop_gradient(smooth))
    square = square if unit is None else square * unit[..., 0, 0]
    if squared:
        return restore(square)
    level = rounding_rtol(square, xp) ** 2 * backend.stop_gradient(traces)
    together, zero = square <= level, xp.zeros_like(square)  # not of NaN
    root = xp.sqrt(xp.where(together, zero + 1, square))
    return restore(xp.where(together, zero, root))


@operator
def hermitian_map(backend: Backend, A: Array, function: HermitianFunction) -> Array:
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
    if function.has_parameter:
        raise TypeError(f"function must have no parameter, got {function!r}")
    A, restore = _square(backend, A)
    return restore(_map(backend, A, function))


@operator
def powm(backend: Backend, A: Array, p: float | Array) -> Array:
    """Real power of positive semidefinite Hermitian matrices, V w^p V^H.

    Parameters
    ----------
    {hermitian}
    p : float or array
        Exponent, of any sign, broadcasting to the batch shape (...).

    Returns
    -------
    array
        Positive semidefinite, of the shape and dtype of A. An eigenvalue of 0 stays 0,
        also for p <= 0, as in a pseudo-inverse, where all up to 64 eps of the largest
        count as 0. Clearly negative eigenvalues give NaN, in half precision those below
        -eps sqrt(n) of the largest.

    {raises_hermitian}, and if p is complex, does not broadcast, or is a number that is
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
    given = backend.asarray(A, "A")
    A, restore = _square(backend, given)
    root = _ROOTS.get(float(p)) if isinstance(p, numbers.Real) else None
    p = per_batch(backend, p, A, 2, "p", any_sign=True)
    if root is not None:
        return restore(_map(backend, A, root, given=given))
    return restore(_map(backend, A, Power(), p, given))


@operator
def sqrtm(backend: Backend, A: Array) -> Array:
    """Square root of positive semidefinite Hermitian matrices.

    Parameters
    ----------
    {hermitian}

    Returns
    -------
    array
        Positive semidefinite, of the shape and dtype of A; NaN for matrices with
        eigenvalues that are clearly negative. Those at rounding level count as 0.

    {raises_hermitian}.

    Notes
    -----
    The derivative contains 1 / (sqrt(w_i) + sqrt(w_j)). Where A is singular, it is
    exact for changes that keep the rank; for others the infinite term is left out. In
    the derivative, but not in the root, eigenvalues up to 64 eps of the largest count
    as 0, 7.6e-6 of it in single precision.
    """
    return powm(backend, A, 0.5)


@operator
def inv_sqrtm(backend: Backend, A: Array) -> Array:
    """Inverse square root of positive definite Hermitian matrices.

    The factor of whitening, as in ZCA and decorrelated batch normalisation.

    Parameters
    ----------
    {hermitian}

    Returns
    -------
    array
        Shape and dtype of A. Eigenvalues up to 64 eps of the largest count as
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
    return powm(backend, A, -0.5)


@operator
def psd_project(backend: Backend, A: Array, floor: float | Array = 0.0) -> Array:
    """Nearest Hermitian matrix with no eigenvalue below a floor, V max(w, floor) V^H.

    For a floor of 0, the projection onto positive semidefinite matrices [1]_; for a
    small one, the layer ReEig of SPDNet [2]_.

    Parameters
    ----------
    {hermitian}
    floor : float or array, optional
        Least eigenvalue, in units of A, broadcasting to the batch shape (...).

    Returns
    -------
    array
        Hermitian, of the shape and dtype of A.

    {raises_hermitian}, and if `floor` is complex, does not broadcast, or is a
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
    xp = backend.xp
    A, restore = _square(backend, A)
    least = per_batch(backend, floor, A, 2, "floor", any_sign=True)[..., None, None]
    least = cast(least, A, xp) * identity_like(A, xp)
    # A floor of NaN would make LAPACK fail for the whole batch.
    shift = xp.where(least == least, least, xp.zeros_like(least))
    return restore(_map(backend, A - shift, PositivePart()) + least)


@operator
def logm(backend: Backend, A: Array) -> Array:
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
def expm(backend: Backend, A: Array) -> Array:
    """Exponential of Hermitian matrices.

    Parameters
    ----------
    {hermitian}

    Returns
    -------
    array
        Positive definite, of the shape and dtype of A. Infinite or NaN if an
        eigenvalue is above about 88 (in double precision 709), where it overflows.

    {raises_hermitian}.
    """
    return hermitian_map(backend, A, Exponential())


def _map(
    backend: Backend,
    A: Array,
    function: HermitianFunction,
    p: Array | None = None,
    given: Array | None = None,
) -> Array:
    """Apply a function; `given` are the semidefinite matrices that A was cast from.

    In half precision, their rounding moves eigenvalues by up to eps sqrt(n) / 2 of the
    largest. Such negative eigenvalues count as 0.
    """
    # V of the matrix that is differentiated: A itself, up to rounding.
    w, V = backend.evaluate(FactoriseHermitian(), A)
    epsilon = None if given is None else half_eps(backend, given, A)
    if epsilon is not None and not known_equal(w.shape[-1], 0):
        xp = backend.xp
        size = xp.max(xp.abs(w), axis=-1, keepdims=True)
        count = xp.sum(xp.ones_like(w), axis=-1, keepdims=True)
        rounding = (w < 0) & (w >= -epsilon * xp.sqrt(count) * size)
        w = xp.where(rounding, xp.zeros_like(w), w)
    return backend.call(HermitianMap(function), A, p, w, V)[0]


def _separated(backend: Backend, *roots: Array) -> tuple[list[Array], Array | None]:
    """Replace roots that are NaN by 0; also return NaN for their problems, else 1.

    LAPACK refuses a batch in which one matrix is NaN. The second result is None if no
    root is NaN.
    """
    xp, unit, separated = backend.xp, None, []
    for root in roots:
        fixed = real(backend.stop_gradient(root), xp)
        none = xp.sum(fixed - fixed, axis=(-2, -1), keepdims=True)  # 0 or NaN
        lost = none != 0
        if any_on_host(lost, xp) is not False:
            root = xp.where(lost, xp.zeros_like(root), root)
            one = 1 + none
            unit = one if unit is None else unit * one
        separated.append(root)
    return separated, unit


def _square(backend: Backend, A: Array, name: str = "A") -> tuple[Array, Any]:
    A, restore = backend.matrices(A, name)
    m, n = A.shape[-2:]
    if m is not None and n is not None and m != n:
        raise backend.shape_error(f"{name} must be square, got shape {tuple(A.shape)}")
    return A, restore

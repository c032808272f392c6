"""Whitening and canonical correlations of samples."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, TypeAlias, get_args

from svdinv.core.backend import Backend
from svdinv.core.functions import TopSubgradient, Whitening
from svdinv.core.gauge import Gauge
from svdinv.core.hermitian import InverseSquareRoot
from svdinv.core.hermitian_operations import Eigh
from svdinv.core.namespace import (
    Array,
    abs_max,
    adjoint,
    binary_scale,
    cast,
    conj,
    first,
    identity_like,
    is_complex,
    known_equal,
    real,
)
from svdinv.core.product_operations import product
from svdinv.core.results import Correlations, Whitened
from svdinv.core.spectral import diagonal_matrices
from svdinv.core.svd_operations import SVD
from svdinv.core.tolerances import rounding_rtol, smallest
from svdinv.operators._arguments import (
    as_integer,
    batches_broadcast,
    broadcasts,
    in_precision,
    lengths,
    per_batch,
    shorter,
    two_matrices,
)
from svdinv.operators._maps import with_tau
from svdinv.operators._registry import operator
from svdinv.operators.decompositions import phase_of_pivot
from svdinv.operators.hermitian import hermitian_map, powm
from svdinv.operators.least_squares import pinv

Kind: TypeAlias = Literal["zca", "pca"]
"""The kinds of whitening."""


@operator
def whiten(
    backend: Backend,
    X: Array,
    epsilon: float | Array = 0.0,
    *,
    kind: Kind = "zca",
    mean: Array | None = None,
    covariance: Array | None = None,
) -> Whitened:
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

    {raises}, and if there is no sample, `kind` is not one of the accepted values, or
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
    check_kind(kind)
    xp, given = backend.xp, backend.asarray(X, "X")
    X, restore = backend.matrices(given, "X")
    if mean is None or covariance is None:
        _check_samples(backend, X, "X")
    m, C = (
        x if x is None else _statistic(backend, x, X, name, axes)
        for name, x, axes in (("mean", mean, 1), ("covariance", covariance, 2))
    )
    tau = per_batch(backend, epsilon, X, 2, "epsilon")
    centred, m = _centred(backend, X) if m is None else (X - m[..., None, :], m)
    if C is None:
        size = abs_max(backend.stop_gradient(centred), xp)
    else:
        size = xp.sqrt(abs_max(backend.stop_gradient(C), xp))
    centred, unit, tau = _scaled(backend, centred, size, tau)
    ridged, sampled = not _is_zero(epsilon), C is None
    if C is None:
        C = _covariance(backend, centred, centred)
        covariance = C * cast(unit, C, xp) * cast(unit, C, xp)
    else:
        covariance, C = C, C * cast(1 / unit, C, xp) * cast(1 / unit, C, xp)
    if kind == "zca" and sampled:
        white = _whitened(backend, centred, tau if ridged else None)
    else:
        root = InverseSquareRoot(ridged)
        if kind == "zca":
            W = hermitian_map(backend, _with_ridge(backend, C, tau), root)
        elif sampled:
            W = _to_components(backend, *_variances(backend, centred, C, tau, given))
        else:
            w, V = backend.call(in_precision(backend, Eigh(), given, X), -C)
            W = _to_components(backend, root.domain(tau - w, xp), V)
        white = product(centred, W, backend.call, xp)
    return Whitened(restore(white), restore(m), restore(covariance))


@operator
def cca(
    backend: Backend,
    X: Array,
    Y: Array,
    rank: int | None = None,
    *,
    ridge: float | Array = 0.0,
    gauge: Gauge = "ignore",
) -> Correlations:
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

    {raises}, and if there is no sample, `rank` is out of range, or the shapes or dtypes
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
    xp = backend.xp
    X, Y, restore = two_matrices(backend, X, Y, "X", "Y")
    fits = broadcasts(X.shape[-2:-1], Y.shape[-2:-1])
    fits = fits and broadcasts(Y.shape[-2:-1], X.shape[-2:-1])
    if not (fits and batches_broadcast(X.shape[:-2], Y.shape[:-2])):
        raise backend.shape_error(
            f"X and Y must have the same number of samples, and batches that "
            f"broadcast, got shapes {tuple(X.shape)} and {tuple(Y.shape)}"
        )
    _check_samples(backend, X, "X")
    short = shorter((X.shape[-1], Y.shape[-1]))
    rank = short if rank is None else as_integer(rank, "rank", 1)
    if short is not None and rank is not None and rank > short:
        raise ValueError(f"rank must be at most min(p, q) = {short}, got {rank}")
    tau = per_batch(backend, ridge, X, 2, "ridge")
    times = partial(product, call=backend.call, xp=xp)
    exact, features, units, roots = _is_zero(ridge), [], [], []
    for x in (X, Y):
        x, unit, added = _standardised(backend, x, tau)
        units.append(unit)
        if exact:
            features.append(_polar(backend, x))
            root = pinv(backend, times(adjoint(features[-1], xp), x))
            roots.append(root * _count(backend, x) ** 0.5)
        else:
            features.append(x)
            C = _covariance(backend, x, x)
            roots.append(powm(backend, C + diagonal_matrices(added, C, xp), -0.5))
    if exact:
        K = times(adjoint(features[0], xp), features[1])
    else:
        K = times(adjoint(roots[0], xp), _covariance(backend, *features))
        K = times(K, roots[1])
    operation = in_precision(backend, SVD(gauge=gauge), restore(X), X)
    U, S, Vh = backend.call(operation, K)
    one = units[0] * times(roots[0], U[..., :rank])
    other = units[1] * times(roots[1], adjoint(Vh, xp)[..., :rank])
    return Correlations(restore(S[..., :rank]), restore(one), restore(other))


def check_kind(kind: object) -> None:
    """Raise ValueError unless `kind` is one of the accepted values."""
    if kind not in get_args(Kind):
        raise ValueError(f'kind must be "zca" or "pca", got {kind!r}')


def _check_samples(backend: Backend, X: Array, name: str) -> None:
    if X.shape[-2] == 0:
        raise backend.shape_error(
            f"{name} must have at least one sample, shape (..., N, p) with N >= 1, got "
            f"shape {tuple(X.shape)}"
        )


def _statistic(backend: Backend, x: Array, X: Array, name: str, axes: int) -> Array:
    """Mean or covariance that was given, in the dtype of X."""
    x = backend.asarray(x, name)
    batch, core = tuple(X.shape[:-2]), (X.shape[-1],) * axes
    lead = len(x.shape) - axes
    fits = lead >= 0 and broadcasts(x.shape[lead:], core)
    if not fits or not batches_broadcast(x.shape[:lead], batch):
        raise backend.shape_error(
            f"{name} must have the last axes {core}, and a batch that broadcasts with "
            f"that of X, {batch}, got shape {tuple(x.shape)}"
        )
    if is_complex(x, backend.xp) and not is_complex(X, backend.xp):
        raise TypeError(f"{name} must be real, as X is, got {x.dtype}")
    return cast(x, X, backend.xp)


def _centred(backend: Backend, X: Array) -> tuple[Array, Array]:
    """Subtract the mean from the samples, in two steps; return both.

    Far from 0 the mean is rounded, and the difference has a mean of its own.
    """
    xp, count = backend.xp, _count(backend, X)
    mean = xp.sum(X, axis=-2) / count
    X = X - mean[..., None, :]
    rest = xp.sum(backend.stop_gradient(X), axis=-2) / count
    return X - rest[..., None, :], mean + rest


def _scaled(
    backend: Backend, X: Array, size: Array, tau: Array
) -> tuple[Array, Array, Array]:
    """Features over powers of two near their size, (..., 1, 1 or p), against overflow.

    Also return these, and tau, which is added to C, over their squares, (..., 1 or p).
    """
    xp = backend.xp
    root = xp.sqrt(backend.stop_gradient(tau))[..., None, None]
    unit = binary_scale(xp.maximum(size, root), xp)
    # Not tau / unit / unit, which XLA makes tau / (unit * unit).
    inverse = 1 / unit[..., 0, :]
    return X / cast(unit, X, xp), unit, tau[..., None] * inverse * inverse


def _standardised(backend: Backend, X: Array, tau: Array) -> tuple[Array, Array, Array]:
    """Features over their standard deviations, their factors, and tau over variances.

    The shapes are those of X, (..., p, 1) and (..., p). Variances are the diagonal of
    X^H X / N + tau; features that are constant are multiplied by 0.
    """
    xp, (X, mean) = backend.xp, _centred(backend, X)
    size = xp.max(xp.abs(backend.stop_gradient(X)), axis=-2, keepdims=True)
    X, unit, tau = _scaled(backend, X, size, tau)
    mean = xp.abs(backend.stop_gradient(mean)) / unit[..., 0, :]
    square = real(conj(X, xp) * X, xp)
    variance = xp.sum(square, axis=-2) / _count(backend, square) + tau
    # What is left of a constant feature are rounding errors.
    kept = xp.sqrt(variance) > rounding_rtol(variance, xp) * mean
    kept = kept & (size[..., 0, :] > smallest(size, xp))
    one = xp.ones_like(variance)
    D = xp.where(kept, one / xp.sqrt(xp.where(kept, variance, one)), xp.zeros_like(one))
    scaled = X * cast(D[..., None, :], X, xp)
    weight = xp.matrix_transpose(D[..., None, :] / unit)
    return scaled, cast(weight, X, xp), tau * D * D


def _polar(backend: Backend, X: Array) -> Array:
    """U V^H over the singular values that are not rounding errors."""
    return with_tau(backend, X, TopSubgradient(None), None, False, "auto")


def _whitened(backend: Backend, X: Array, tau: Array | None) -> Array:
    """Whiten centred samples by ZCA, with tau, if given, added to variances."""
    if tau is None:
        return _polar(backend, X) * _count(backend, X) ** 0.5
    count = _count(backend, X, tau)
    white = with_tau(backend, X, Whitening(), count * tau, False, "auto")
    return white * _count(backend, X) ** 0.5


def _variances(
    backend: Backend, X: Array, C: Array, tau: Array, given: Array
) -> tuple[Array, Array]:
    """Variances of X with tau, the largest first, and components in columns.

    Those that are rounding errors are 0.
    """
    xp = backend.xp
    # With at least as many rows as columns, V has all its columns.
    rows = xp.concat([X, xp.zeros_like(C)], axis=-2)
    _, S, Vh = backend.call(in_precision(backend, SVD(), given, X), rows)
    w = S * S / _count(backend, X, S) + tau
    lost = w <= rounding_rtol(w, xp) ** 2 * first(w)
    return xp.where(lost, xp.zeros_like(w), w), adjoint(Vh, xp)


def _to_components(backend: Backend, w: Array, V: Array) -> Array:
    """Components over their deviations, in columns; 0 where the variance w is 0."""
    xp = backend.xp
    if known_equal(V.shape[-1], 0):
        return V
    rows = xp.matrix_transpose(V)
    V = xp.matrix_transpose(rows * phase_of_pivot(backend, rows))
    root = xp.sqrt(xp.where(w != 0, w, xp.ones_like(w)))
    scale = xp.where(w != 0, 1 / root, xp.zeros_like(w))
    return V * cast(scale, V, xp)[..., None, :]


def _is_zero(number: Any) -> bool:
    """Whether a parameter is the number 0; false for arrays, whatever their values."""
    return isinstance(number, (int, float)) and number == 0


def _covariance(backend: Backend, X: Array, Y: Array) -> Array:
    """X^H Y / N."""
    xp = backend.xp
    return product(adjoint(X, xp), Y, backend.call, xp) / _count(backend, X)


def _count(backend: Backend, X: Array, like: Array | None = None) -> Any:
    """Count the samples; a traced count is cast to the dtype of X, or of `like`."""
    n = lengths(backend, X)[0]
    return n if isinstance(n, int) else cast(n, X if like is None else like, backend.xp)


def _with_ridge(backend: Backend, C: Array, tau: Array) -> Array:
    ridge = cast(tau, C, backend.xp)[..., None]
    return C + ridge * identity_like(C, backend.xp)

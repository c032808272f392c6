"""Soft thresholding of singular values and the polar factor by products alone.

A fixed number of batched products suits GPUs better than batched decompositions do,
and needs no value on the host. With A = U diag(s) V^H and

    W = U diag(s > tau) V^H,   P = W^H W,

soft thresholding is F = A P - tau W, with dF/dtau = -W, and the polar factor is W at
tau = 0. W is the limit of a sequence of odd polynomials X p(X^H X) of the scaled A.
Each is nearly the best of its degree, 9, for 4 products, as in Amsel, Persson, Musco
and Gower (arXiv:2505.16932). They solve linear programs on a grid, with bounds on the
sums of |coefficients|, to which rounding errors are proportional:

- `_AMPLIFY` multiplies small singular values by 5.6, and the threshold with them, along
  known levels up to 0.55;
- `_SHARPEN` has a fixed point there, with slope 4.1: it moves values within 0.15 of the
  point away from it, and keeps [-0.4, 0.4] and [0.7, 1] apart;
- `_CLOSE` maps these two intervals close to 0 and to 1;
- `_EVEN` and `_ODD` compute P and W from the result. They agree on [0, 1], so that
  A P - tau W has the factor s - tau even for a singular value at the threshold, which
  may have arrived anywhere in [0, 1].

The first two have the largest factors with which -0.4 < f < 0.999, and f > 0.7 above.

Products for the value and its derivative, and their largest errors, relative to s_1 and
to the norm of the derivative, over the spectra in the tests and sizes 6 to 32, with
products in the arrays' own precision:

    single:  57 and 145 products, errors of 2e-6 and 4e-6
    double: 124 and 312 products, errors of 6e-15 and 1.1e-14

Singular values closer to tau than 8 eps times a bound of s_1, itself up to
min(m, n)^(1/4) s_1, are not resolved: the value is wrong by up to that distance, and
the derivative is between those on either side of tau; the polar factor has values
between 0 and 1 for singular values below that. Otherwise the error of the derivative is
of the order of eps s_1 / gap for a pair on either side of tau, and for the polar factor
0.3 eps s_1 / s_min, measured up to s_1 / s_min = 1e4 in single and 1e10 in double
precision, and not below 3 and 6 eps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from svdinv.core.functions import Polar, SpectralFunction, TopSubgradient
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    adjoint,
    cast,
    herm,
    identity_like,
    inner,
    is_wide,
    norm,
    real,
)
from svdinv.core.spectral import Direction, SVDFactors
from svdinv.core.thresholds import Soft
from svdinv.core.tolerances import eps, smallest

Coefficients = tuple[float, ...]

# Distance from tau, in eps of the bound of s_1, at which singular values are resolved.
_RESOLVED = 8


def _binary(bits: int, *numerators: int) -> Coefficients:
    return tuple(numerator / 2**bits for numerator in numerators)


# Coefficients of x, x z, ..., x z^4 with z = 2 x^2 - 1, which runs from -1 to 1: those
# of powers of x are ten times as large, and so are the rounding errors.
_AMPLIFY = _binary(12, 4589, 0, -806, -9416, 9725)
_SHARPEN = _binary(12, 5710, -1053, -9668, 8474, 36)
_CLOSE = (
    _binary(12, 5529, 2115, -8643, 1075, 4306),
    _binary(12, 4949, 337, -2569, 1761, -383),
)
# (35 x^3 - 42 x^5 + 15 x^7) / 8, of cubic convergence to 0 and to 1.
_CLOSE_AGAIN = _binary(12, 4544, 1088, -2496, 960, 0)
# Coefficients of 1, z, ..., z^7, and of x, x z, ..., x z^7: an even polynomial and an
# odd one that differ by 1e-7 at most in [0, 1], map 0 to 0, 1 to 1 and have no first
# derivative there, nor a second at 1.
_EVEN = _binary(
    30, 395678132, 981096432, 427218172, -598137916, -430819948, 131996672, 144794556,
    21915724,
)  # fmt: skip
_ODD = _binary(
    30, 559573236, 1107692592, 120284180, -802540156, -240383244, 226976368, 97396740,
    4742108,
)  # fmt: skip


def _value(c: Coefficients, x: float) -> float:
    return x * sum(ci * (2 * x * x - 1) ** i for i, ci in enumerate(c))


def _preimage(c: Coefficients, y: float, low: float, high: float) -> float:
    """Solution of f(x) = y in an interval on which f increases, by bisection."""
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _value(c, middle) < y else (low, middle)
    return low


# Where _SHARPEN keeps the threshold.
_CENTRE = _preimage((_SHARPEN[0] - 1, *_SHARPEN[1:]), 0.0, 0.5, 0.6)


def _steps(accuracy: float) -> int:
    """Count the steps of _AMPLIFY that take `accuracy` from the threshold to 0.15."""
    # The slope is 4; the scaling to the next level loses a factor of 5.6 at most.
    return max(math.ceil(math.log(0.15 * 5.6 / accuracy) / math.log(4.0)), 1)


def _thresholds(steps: int) -> list[float]:
    """Thresholds that _AMPLIFY moves to _CENTRE in 0, 1, ... steps."""
    levels = [_CENTRE]
    for _ in range(steps):
        levels.append(_preimage(_AMPLIFY, levels[-1], 0.0, 0.25 * levels[-1]))
    return levels


# Computed once: traced by torch.compile, bisections took longer than all the rest.
_LEVELS = _thresholds(_steps(_RESOLVED * 2.0**-52))


def _on_tall(function: Callable[..., tuple[Array, ...]]) -> Callable[..., Any]:
    """Extend a function of tall matrices to wide ones, by their transposes."""

    @wraps(function)
    def call(xp: Namespace, A: Array, tau: Any, *further: Array) -> tuple[Array, ...]:
        tau = xp.zeros_like(real(A, xp)[..., 0, 0]) if tau is None else tau
        if not is_wide(A):
            return function(xp, A, tau, *further)
        A, *further = map(xp.matrix_transpose, (A, *further))  # type: ignore[assignment]
        return tuple(map(xp.matrix_transpose, function(xp, A, tau, *further)))

    return call


@_on_tall
def threshold(xp: Namespace, A: Array, tau: Any) -> tuple[Array, Array]:
    """F and W, for tau of shape (...) or broadcasting to it.

    If tau is None, W is the polar factor, a partial isometry for A without full rank,
    and F is A.
    """
    scaled = _scaled(A, tau, xp)
    step = _step(scaled, xp)
    F = scaled.A @ step.P - cast(scaled.tau, A, xp) * step.W
    # Without a threshold, not even rounding errors are to be thresholded.
    F = xp.where(tau[..., None, None] <= 0, A, F * cast(scaled.scale, A, xp))
    return F, step.W


@_on_tall
def threshold_derivative(
    xp: Namespace, A: Array, tau: Array, X: Array, W: Array
) -> tuple[Array, Array]:
    """Return DF(A)[X] and T = dF/dtau.

    DF(A) is its own adjoint under the real inner product, so X may be a tangent or a
    cotangent; that of tau is sum Re(conj(X) T).
    """
    scaled = _scaled(A, tau, xp)
    size = _positive(abs_max(X, xp), xp)
    dA = X / cast(size, A, xp)
    tangent, outer = _step_derivative(scaled, dA, W, xp)
    dF = outer + scaled.A @ tangent.P - cast(scaled.tau, A, xp) * tangent.W
    # F is nonexpansive. Only for a singular value at the threshold, where it has no
    # derivative, rounding errors over nearly nothing can make this larger.
    size_dA = norm(dA, xp)
    limit = size_dA / _positive(xp.maximum(norm(dF, xp), size_dA), xp)
    dF = dF * cast(limit * size, A, xp)
    return xp.where(tau[..., None, None] <= 0, X, dF), -W


@_on_tall
def polar_derivative(
    xp: Namespace, A: Array, tau: Any, X: Array, Q: Array
) -> tuple[Array]:
    """Differentiate the polar factor Q along X; tau is None."""
    scaled = _scaled(A, tau, xp)
    size = _positive(abs_max(X, xp), xp)
    tangent, _ = _step_derivative(scaled, X / cast(size, A, xp), Q, xp)
    return (tangent.W * cast(size / scaled.scale, A, xp),)


@_on_tall
def _leading_vectors(xp: Namespace, A: Array, _: Any) -> tuple[Array]:
    """Gradient L of the largest singular value, the mean of its vectors u v^H.

    Repeated squaring turns the Gram matrix into the projector onto the vectors v.
    Values s with (s_1 - s) / s_1 up to about 1e-11, or 1e-4 in single precision, count
    as equal to s_1, which is Re sum conj(L) A.
    """
    A = A / cast(_positive(abs_max(A, xp), xp), A, xp)
    M = adjoint(A, xp) @ A
    for _ in range(40 if _is_double(A, xp) else 16):
        M = M / cast(_positive(abs_max(M, xp), xp), M, xp)
        M = herm(M @ M, xp)
    image = A @ M
    # A M = s_1 L and <A M, A M> = s_1^2 <M, M>, up to the size of M.
    square = inner(image, image, xp)[..., None, None]
    trace = xp.sum(real(xp.linalg.diagonal(M), xp), axis=-1)[..., None, None]
    count = inner(M, M, xp)[..., None, None]
    top = xp.sqrt(square / _positive(count, xp))
    return (image / cast(_positive(top * trace, xp), image, xp),)


class _Scaled(NamedTuple):
    """A and tau over the largest element `scale` of A, a bound of |A|, and identity."""

    A: Array
    tau: Array
    bound: Array
    scale: Array
    one: Array


def _scaled(A: Array, tau: Array, xp: Namespace) -> _Scaled:
    # The sums in the bound, and derivatives, could overflow otherwise.
    scale = _positive(abs_max(A, xp), xp)
    A = A / cast(scale, A, xp)
    G, size = adjoint(A, xp) @ A, xp.abs(A)
    rows = xp.max(xp.sum(size, axis=-1, keepdims=True), axis=-2, keepdims=True)
    columns = xp.max(xp.sum(size, axis=-2, keepdims=True), axis=-1, keepdims=True)
    # At most n^(1/4) times s_1: the norm of A is the root of that of the n x n G.
    bound = _positive(xp.sqrt(xp.minimum(rows * columns, norm(G, xp))), xp)
    # Nothing is left from the bound on: the threshold may as well be finite.
    t = xp.minimum(tau[..., None, None] / scale, 2 * bound)
    return _Scaled(A, t, bound, scale, identity_like(G, xp))


class _Step(NamedTuple):
    """P and W, or their tangents."""

    P: Array
    W: Array


def _step(scaled: _Scaled, xp: Namespace) -> _Step:
    """P and W of the scaled A."""
    factor, schedule = _plan(scaled, xp)
    X = scaled.A * factor
    for c in schedule:
        X = _polynomial(X, None, c, scaled.one, xp)[0]
    return _finish(X, None, scaled.one, xp)[0]


def _plan(scaled: _Scaled, xp: Namespace) -> tuple[Array, list[tuple[Array, ...]]]:
    """Factor that moves the threshold of A to a level, and the polynomials to apply."""
    A = scaled.A
    levels = _LEVELS[: _steps(_RESOLVED * eps(A, xp)) + 1]
    t = scaled.tau / scaled.bound
    one = xp.ones_like(t)
    t = xp.maximum(t, levels[-1] * one)

    # The threshold goes to the next level below it: from there it is known how many
    # steps amplify, and all others sharpen.
    level = levels[0] * one
    each = cast(one, A, xp)
    schedule: list[tuple[Array, ...]] = []
    for before, after in itertools.pairwise(levels):
        amplify = t < before
        level = xp.where(amplify, after * one, level)
        pairs = zip(_AMPLIFY, _SHARPEN, strict=True)
        schedule.append(tuple(xp.where(amplify, a * each, s * each) for a, s in pairs))
    schedule += _CLOSE
    if _is_double(A, xp):
        schedule.append(_CLOSE_AGAIN)
    return cast(level / t / scaled.bound, A, xp), schedule


def _polynomial(
    X: Array, dX: Array | None, c: tuple[Array, ...], one: Array, xp: Namespace
) -> tuple[Array, Array | None]:
    """X (c0 + c1 Z + ... + c4 Z^4) with Z = 2 X^H X - 1, and its tangent along dX."""
    Z = 2 * (adjoint(X, xp) @ X) - one
    Z2 = Z @ Z
    tail = c[3] * Z + c[4] * Z2
    p = c[1] * Z + c[2] * Z2 + Z2 @ tail
    Y = c[0] * X + X @ p
    if dX is None:
        return Y, None
    dZ = 2 * _symmetric(adjoint(X, xp) @ dX, xp)
    dZ2 = _symmetric(Z @ dZ, xp)
    dtail = c[3] * dZ + c[4] * dZ2
    dp = c[1] * dZ + c[2] * dZ2 + dZ2 @ tail + Z2 @ dtail
    return Y, c[0] * dX + dX @ p + X @ dp


def _symmetric(x: Array, xp: Namespace) -> Array:
    """X + X^H, the tangent of M^2 for M Hermitian and X = M dM."""
    return x + adjoint(x, xp)


def _finish(
    X: Array, dX: Array | None, one: Array, xp: Namespace
) -> tuple[_Step, _Step]:
    """P and W from the result X of `_CLOSE`, and their tangents along dX, if given.

    A singular value equal to tau may have been mapped to any x in [0, 1]. There,
    A P - tau W is small only if P, even in x, and W, odd in x, have the same value.
    """
    Z = 2 * (adjoint(X, xp) @ X) - one
    Z2 = Z @ Z

    def low(c: Coefficients, z: tuple[Array, ...]) -> Array:
        return c[1] * z[0] + c[2] * z[1] + c[3] * z[2]

    powers, Z4 = (Z, Z2, Z @ Z2), Z2 @ Z2
    both = [(c, low(c[4:], powers) + c[4] * one) for c in (_EVEN, _ODD)]
    P, R = (c[0] * one + low(c, powers) + Z4 @ high for c, high in both)
    W = X @ R
    step = tangent = _Step(P, W)
    if dX is not None:
        dZ = 2 * _symmetric(adjoint(X, xp) @ dX, xp)
        dZ2 = _symmetric(Z @ dZ, xp)
        moved, dZ4 = (dZ, dZ2, dZ @ Z2 + Z @ dZ2), _symmetric(Z2 @ dZ2, xp)
        dP, dR = (
            low(c, moved) + dZ4 @ high + Z4 @ low(c[4:], moved) for c, high in both
        )
        tangent = _Step(dP, dX @ R + X @ dR)
    if not _is_double(X, xp):
        return step, tangent
    # Half the sum of their squares and their product, which is odd, differ by half
    # the square of their difference.
    doubled = _Step(0.5 * (P @ P + adjoint(W, xp) @ W), W @ P)
    if dX is not None:
        dP, dW = tangent
        dP2 = herm(P @ dP + adjoint(W, xp) @ dW, xp)
        tangent = _Step(dP2, dW @ P + W @ dP)
    return doubled, tangent


def _step_derivative(
    scaled: _Scaled, dA: Array, W: Array, xp: Namespace
) -> tuple[_Step, Array]:
    """Tangents of P and W along a tangent dA of the scaled A, and dA P.

    W does not change along the Hermitian part of dA between singular vectors above
    tau, nor along dA between those below. Such tangents are left out, because within
    either group the polynomials are not monotone: until the last ones remove them, they
    or their rounding errors would grow as 4^steps.
    """
    P = adjoint(W, xp) @ W
    outer, inner = dA @ P, adjoint(W, xp) @ dA
    above = inner @ P
    factor, schedule = _plan(scaled, xp)
    X = scaled.A * factor
    dX = (outer + W @ (inner - above - herm(above, xp))) * factor
    for c in schedule:
        X, dX = _polynomial(X, dX, c, scaled.one, xp)
    return _finish(X, dX, scaled.one, xp)[1], outer


def _is_double(x: Array, xp: Namespace) -> bool:
    return eps(x, xp) < 1e-10


def _positive(x: Array, xp: Namespace) -> Array:
    return xp.where(x >= smallest(x, xp), x, xp.ones_like(x))


class IterationFactors(NamedTuple):
    """Results of the iteration, in the place of factors of A.

    `stack`, (..., 1 to 3, m, n), holds the result, for soft thresholding also W, and
    for tau relative to s_1 the gradient of s_1.
    """

    stack: Array

    def largest(self, A: Array, xp: Namespace) -> Array:
        """Return s_1, shape (..., 1), for a relative tau."""
        return inner(self.stack[..., 2, :, :], A, xp)[..., None]

    def map(
        self, function: SpectralFunction, A: Array, tau: Any, xp: Namespace
    ) -> Array:
        """Return a copy of the result, or of the gradient of s_1."""
        index = 2 if isinstance(function, TopSubgradient) else 0
        return self.stack[..., index, :, :] + 0

    def derivative(self, A: Array, d: Direction, xp: Namespace) -> tuple[Array, Any]:
        """Apply the derivative of the map, as `SVDFactors.derivative`."""
        if isinstance(d.function, Polar):
            return *polar_derivative(xp, A, None, d.X, self.stack[..., 0, :, :]), None
        if not isinstance(d.function, Soft):
            svd = SVDFactors(*xp.linalg.svd(A, full_matrices=False))
            return svd.derivative(A, d, xp)
        W = self.stack[..., 1, :, :]
        result, T = threshold_derivative(xp, A, d.tau[..., 0], d.X, W)
        if d.dtau is not None:
            result = result + T * cast(d.dtau[..., None], A, xp)
        if not d.transposed:
            return result, None
        gtau = inner(T, d.X, xp)[..., None]
        if d.ratio is not None:
            L = self.stack[..., 2, :, :]
            result = result + L * cast((d.ratio * gtau)[..., None], A, xp)
            gtau = gtau * self.largest(A, xp)
        return result, gtau


def iteration_factors(
    function: SpectralFunction, A: Array, tau: Any, relative: bool, xp: Namespace
) -> IterationFactors:
    """Iterate for one of the two functions that products can compute."""
    if isinstance(function, Polar):
        return IterationFactors(threshold(xp, A, None)[1][..., None, :, :])
    if function != Soft():
        raise ValueError(
            'method="matmul" is for svt with one tau for each matrix, and for polar'
        )
    top = []
    if relative:
        top = [*_leading_vectors(xp, A, None)]
        tau = tau * inner(top[0], A, xp)[..., None]
    parts = *threshold(xp, A, tau[..., 0]), *top
    return IterationFactors(xp.stack(parts, axis=-3))

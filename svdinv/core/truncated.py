"""The truncated singular value decomposition and its derivatives.

The leading triplets come from a randomized range finder (N. Halko, P.-G. Martinsson and
J. A. Tropp, "Finding structure with randomness: probabilistic algorithms for
constructing approximate matrix decompositions", SIAM Review 53(2), 2011).

A = U diag(S) V^H + A2 with r triplets kept and A2 = (I - U U^H) A (I - V V^H)
discarded. Dropping A2 from the derivative is wrong: with dU = U Omega + X and
dV = V Psi + Y the parts outside the kept ranges are coupled through it (Francuz,
Schuch and Vanhecke, "Stable and efficient differentiation of tensor network
algorithms", arXiv:2311.11894, 2023),

    s_j x_j - A2 y_j   = (I - U U^H) dA v_j,
    s_j y_j - A2^H x_j = (I - V V^H) dA^H u_j,

while Omega, Psi and dS are those of the r x r matrix U^H A V. The pullback solves
the same Hermitian system for the cotangents' parts outside. Its eigenvalues are
s_j and s_j +- s_i over the discarded s_i, so that it is positive definite with the
condition number (s_j + s_{r+1}) / (s_j - s_{r+1}).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from svdinv.core.degenerate import outside_weight, reciprocal
from svdinv.core.namespace import (
    Array,
    Namespace,
    State,
    abs_max,
    adjoint,
    any_on_host,
    array_namespace,
    binary_scale,
    cast,
    conj,
    identity_like,
    is_complex,
    is_wide,
    known_equal,
    real,
    safe_divide,
    scaled,
    while_loop,
)
from svdinv.core.operation import Arrays, Call, Operation, RefuseThird, zeros_where
from svdinv.core.results import SVDResult
from svdinv.core.svd import svd, svd_pullback, svd_pushforward
from svdinv.core.tolerances import eps, rounding_rtol, smallest

Product: TypeAlias = Callable[[Array], Array]

# Conjugate residuals gain a digit per 0.8 sqrt(s_j / gap) steps at most, for a gap
# s_j - s_{r+1} small against s_j. 100 steps reach rounding level for s_{r+1} up to
# 0.98 s_r, and 1000 up to 0.9998 s_r.
BLIND_STEPS = 100  # where the residual cannot be read, as in a traced graph
WATCHED_STEPS = 1000  # at most, where the residual ends the iteration
RESIDUAL = 10  # eps, at which to end


def svd_lowrank(
    A: Array,
    sketch: Array,
    *,
    rank: int | None = None,
    power: int = 2,
    xp: Namespace | None = None,
) -> SVDResult:
    """Leading `rank` singular triplets of A by a randomized range finder.

    `sketch` is a random matrix, shape (..., n, l) with l <= min(m, n), the rank and an
    oversampling of, say, 10 columns. Each of the `power` iterations takes two products
    with A and multiplies the error of a singular vector by about (s_{l+1} / s_j)^2,
    that of a singular value by the square of it.

    The factorizations are QRs of matrices with l columns and one l x l SVD: tall and
    wide matrices cost the same.
    """
    xp = array_namespace(A, sketch) if xp is None else xp
    factors = subspace_iteration(
        lambda X: A @ X,
        lambda X: adjoint_product(A, X, xp),
        A @ sketch,
        power=power,
        xp=xp,
    )
    return leading(factors, rank)


def subspace_iteration(
    times: Product, adjoint_times: Product, image: Array, *, power: int, xp: Namespace
) -> SVDResult:
    """All l triplets that block subspace iteration finds from the products with A.

    `image` is A times a random matrix, shape (..., m, l). Each iterate is
    orthonormalised, on either side (Algorithm 4.4 of Halko, Martinsson and Tropp), so
    that nothing is lost by squaring singular values. All l columns take part in the
    small SVD; oversampling makes only its leading triplets accurate. Its singular
    values are those of Q Q^H A and hence no larger than those of A.
    """
    Q, _ = _qr(image, xp)
    for _ in range(power):
        W, _ = _qr(adjoint_times(Q), xp)
        Q, _ = _qr(times(W), xp)
    W, R = _qr(adjoint_times(Q), xp)
    # A is close to Q Q^H A = Q R^H W^H.
    U, S, Vh = svd(adjoint(R, xp), xp=xp)
    return SVDResult(Q @ U, S, Vh @ adjoint(W, xp))


def _qr(X: Array, xp: Namespace) -> tuple[Array, Array]:
    """QR decomposition; in complex X, elements negligible beside the largest become 0.

    LAPACK returns NaN for complex columns of subnormal numbers.
    """
    if not is_complex(X, xp):
        return xp.linalg.qr(X)
    unit = cast(binary_scale(abs_max(X, xp), xp), X, xp)
    X = X / unit
    negligible = xp.abs(X) < smallest(X, xp) / eps(X, xp)
    Q, R = xp.linalg.qr(xp.where(negligible, xp.zeros_like(X), X))
    return Q, R * unit


def leading(factors: SVDResult, rank: int | None) -> SVDResult:
    """Return the first `rank` triplets."""
    U, S, Vh = factors
    return SVDResult(U[..., :rank], S[..., :rank], Vh[..., :rank, :])


def triplet_residual(
    times: Product,
    adjoint_times: Product,
    factors: SVDResult,
    *,
    constant: Callable[[Array], Array],
    xp: Namespace,
) -> Array:
    """Residuals of the triplets as eigenvectors of [[0, A], [A^H, 0]], (..., r).

    The vectors are (u_j, v_j) / sqrt(2). As that matrix is Hermitian, with the
    eigenvalues +-s_i, and 0 if A is not square, one of these lies within the residual
    of s_j (B. N. Parlett, The Symmetric Eigenvalue Problem, 1980, theorem 4.5.1).
    `constant` stops the gradient of an array.
    """
    U, S, Vh = factors
    V, s = adjoint(Vh, xp), cast(S, U, xp)[..., None, :]
    left, right = times(V) - U * s, adjoint_times(U) - V * s
    sizes = (abs_max(constant(side), xp, axis=(-2,)) for side in (left, right))
    unit = binary_scale(xp.maximum(*sizes), xp)
    sides = (side / cast(unit, side, xp) for side in (left, right))
    # Not by abs, whose derivative at 0 is 0.
    squares = (real(conj(side, xp) * side, xp) for side in sides)
    square = 0.5 * sum(xp.sum(x, axis=-2) for x in squares)
    # At 0 the root has a kink, of slope 0, where its derivative would be NaN.
    zero = square == 0
    root = unit[..., 0, :] * xp.sqrt(xp.where(zero, xp.ones_like(square), square))
    return xp.where(zero, xp.zeros_like(root), root)


def svd_lowrank_pullback(
    A: Array,
    U: Array,
    S: Array,
    Vh: Array,
    gU: Array | None = None,
    gS: Array | None = None,
    gVh: Array | None = None,
    *,
    rtol: float | None = None,
    epsilon: float | None = None,
    xp: Namespace | None = None,
    call: Call | None = None,
) -> Array:
    """Cotangent of A from the cotangents of its leading singular triplets.

    Arguments are as for `svd_pullback`, with U, S, Vh of shapes (..., m, r), (..., r),
    (..., r, n) and A of shape (..., m, n). `rtol` is for kept singular values alone.

    Notes
    -----
    The derivative is that of the exact truncated SVD, taken at the factors given:
    if they are inexact, so is it, by their error over the gap s_r - s_{r+1}. With
    r = min(m, n) it is `svd_pullback`. No m x m or n x n matrix is formed.

    The truncated SVD has no derivative where s_r = s_{r+1}, unless the loss makes the
    cotangents of that triplet vanish, as a threshold does. What belongs to discarded
    singular values within 64 eps of a kept one is then divided by 2 s_j instead of
    the gap: close to what the minimum-norm rule does, and finite in any case. For
    larger gaps the relative error is of the order of eps s_1 / gap, if the steps
    suffice.

    With `call`, the solution of the system is an operation, `Outside`, whose derivative
    is one more solution: second derivatives are as accurate as the first, but wrong
    where s_r = s_{r+1}, whatever the loss. Without it, autodiff would go through the
    steps of the solver, which takes none for a cotangent of 0.
    """
    xp = array_namespace(A, U, S, Vh) if xp is None else xp
    r = S.shape[-1]
    whole = known_equal(A.shape[-2], r) or known_equal(A.shape[-1], r)
    if whole or known_equal(r, 0) or (gU is None and gVh is None):
        factors = U, S, Vh, gU, gS, gVh
        return svd_pullback(*factors, rtol=rtol, epsilon=epsilon, xp=xp)
    V = adjoint(Vh, xp)
    gU = xp.zeros_like(U) if gU is None else gU
    gV = xp.zeros_like(V) if gVh is None else adjoint(gVh, xp)

    # Inside the kept ranges this is the SVD of U^H A V = diag(S), factors I, S, I.
    M, N = adjoint(U, xp) @ gU, Vh @ gV
    eye = identity_like(M, xp)
    inside = M, gS, adjoint(N, xp)
    block = svd_pullback(eye, S, eye, *inside, rtol=rtol, epsilon=epsilon, xp=xp)

    s, top = scaled(S, xp)
    gs = xp.zeros_like(S) if gS is None else gS * top
    weight = outside_weight(s, gs, (gU, gV), xp)
    # Two factors: the derivative in their product would overflow.
    unit, weight = (cast(x, U, xp)[..., None, :] for x in (1 / top, weight))
    sides = (gU - U @ M) * unit * weight, (gV - V @ N) * unit * weight
    X, Y = _outside(A, SVDResult(U, S, V), sides, call, xp)
    return (U @ block + X) @ Vh + U @ adjoint(Y, xp)


def svd_lowrank_pushforward(
    A: Array,
    U: Array,
    S: Array,
    Vh: Array,
    dA: Array,
    *,
    xp: Namespace | None = None,
    call: Call | None = None,
) -> SVDResult:
    """Tangents of the leading singular triplets along a tangent of A.

    Inside a cluster of repeated kept singular values, the minimum norm is used, as in
    `svd_pushforward`. Shapes are as for `svd_lowrank_pullback`.
    """
    xp = array_namespace(A, U, S, Vh) if xp is None else xp
    r = S.shape[-1]
    whole = known_equal(A.shape[-2], r) or known_equal(A.shape[-1], r)
    if whole or known_equal(r, 0):
        return svd_pushforward(U, S, Vh, dA, xp=xp)
    V = adjoint(Vh, xp)
    AV, AU = dA @ V, adjoint_product(dA, U, xp)
    P = adjoint(U, xp) @ AV
    eye = identity_like(P, xp)
    omega, dS, psi = svd_pushforward(eye, S, eye, P, xp=xp)
    s, top = scaled(S, xp)
    unit, weight = (cast(x, U, xp)[..., None, :] for x in (1 / top, reciprocal(s, xp)))
    sides = (AV - U @ P) * unit * weight, (AU - V @ adjoint(P, xp)) * unit * weight
    X, Y = _outside(A, SVDResult(U, S, V), sides, call, xp)
    return SVDResult(U @ omega + X, dS, adjoint(V @ adjoint(psi, xp) + Y, xp))


def adjoint_product(A: Array, X: Array, xp: Namespace) -> Array:
    """Return A^H X without a conjugated copy of A."""
    return adjoint(adjoint(X, xp) @ A, xp)


def _outside(
    A: Array,
    triplets: SVDResult,
    sides: tuple[Array, Array],
    call: Call | None,
    xp: Namespace,
) -> tuple[Array, Array]:
    """Solve the coupled system outside the kept ranges, divided by s_j.

    `triplets` holds U, S and V, not V^H.

    With T_j = A2 / s_j it reads x - T y = left_j, y - T^H x = right_j. Eliminating x
    leaves (I - T^H T) y = right + T^H left, half as large. Its eigenvalues are
    1 - (s_i / s_j)^2, so that the condition number even falls, to s_j^2 / (s_j^2 -
    s_{r+1}^2): unlike that of A^H A, this square costs no digits, because no small
    singular value is needed. The eigenvalues of the whole system lie in pairs
    1 +- s_i / s_j, for which a Krylov method needs twice the steps (J. K. Reid,
    SIAM J. Numer. Anal. 9(2), 1972).
    """
    (U, S, V), (left, right) = triplets, sides
    swapped = is_wide(A)  # the smaller of the two unknowns is kept
    if swapped:
        U, V, left, right = V, U, right, left

    s, top = scaled(S, xp)
    # Among values at rounding level A2 / s_j is noise over noise.
    sound = s > rounding_rtol(s, xp)
    inverse = safe_divide(xp.ones_like(s), s, sound, xp)
    # 1 / s_j in two factors: the derivative in their product would overflow.
    coupling = cast(xp.stack([xp.ones_like(s) / top, inverse], axis=-2), U, xp)
    # Gaps up to 64 eps count as none, as for kept singular values.
    floor = xp.minimum(2 * rounding_rtol(s, xp) * inverse, 0.5 * xp.ones_like(s))

    coupled = A, U, V, coupling
    right_side = right + _adjoint_times(*coupled, left, xp)
    system = *coupled, floor[..., None, :], right_side
    if call is None:
        y, direction, null = Outside().value(system, xp)
    else:
        y, direction, null = call(Outside(constant=True), *system)
        # The correction is 0, but has the derivative of the solution.
        left_over = right_side - _squared(*coupled, y, xp)
        y = y + call(_Correction(), *system[:-1], left_over)[0]
    null = null > 0
    x = left + _times(*coupled, y, xp)
    if any_on_host(null, xp) is not False:
        # Along singular vectors with s_i = s_j, what is known is the two right-hand
        # sides; half of each is the completion of Zhang and Hu (arXiv:2411.14141).
        y = y + _along(direction, 0.5 * right - y, null, xp)
        x = x + _along(_times(*coupled, direction, xp), 0.5 * left - x, null, xp)
    return (y, x) if swapped else (x, y)


def _times(
    A: Array, U: Array, V: Array, coupling: Array, x: Array, xp: Namespace
) -> Array:
    """T x, for x in the smaller of the two spaces; U lies in the other one."""
    x = adjoint_product(A, x, xp) if is_wide(A) else A @ x
    x = x - U @ (adjoint(U, xp) @ x)
    return x * coupling[..., :1, :] * coupling[..., 1:, :]


def _adjoint_times(
    A: Array, U: Array, V: Array, coupling: Array, x: Array, xp: Namespace
) -> Array:
    x = A @ x if is_wide(A) else adjoint_product(A, x, xp)
    x = x - V @ (adjoint(V, xp) @ x)
    return x * coupling[..., :1, :] * coupling[..., 1:, :]


def _squared(
    A: Array, U: Array, V: Array, coupling: Array, x: Array, xp: Namespace
) -> Array:
    """(I - T^H T) x."""
    coupled = A, U, V, coupling
    return x - _adjoint_times(*coupled, _times(*coupled, x, xp), xp)


@dataclass(frozen=True)
class Outside(Operation):
    """(A, U, V, coupling, floor, b) -> y of (I - T^H T) y = b, residual and mask.

    The residual is a null vector of I - T^H T where the mask is 1, not 0. Only y has a
    derivative, in b alone; with `constant`, it has none.
    """

    constant: bool = False

    def value(self, x, xp):
        A, U, V, coupling, floor, b = x
        y, direction, null = _conjugate_residuals(
            lambda p: _squared(A, U, V, coupling, p, xp),
            *(b, floor, RESIDUAL * eps(floor, xp), xp),
        )
        return y, direction, xp.where(null, xp.ones_like(floor), xp.zeros_like(floor))

    def moved(self, x: Arrays, b: Any, call: Call, xp: Namespace) -> Any:
        """Solve for another b; a third derivative raises."""
        *coupled, floor, like = x
        if self.constant or b is None:
            return xp.zeros_like(like)
        return call(Outside(), *call(RefuseThird(), *coupled), floor, b)[0]

    def tangent(self, x, y, dx, call, xp):
        moved = self.moved(x, dx[-1], call, xp)
        return moved, xp.zeros_like(x[-1]), xp.zeros_like(x[-2])

    def cotangent(self, x, y, g, wanted, call, xp):
        moved = self.moved(x, g[0], call, xp) if wanted[-1] else None
        return *zeros_where(wanted[:-1], x, xp), moved


class _Correction(Outside):
    """`Outside` for a b that is 0 up to rounding: y is 0, but has a derivative."""

    def value(self, x, xp):
        return (xp.zeros_like(x[-1]),)

    def tangent(self, x, y, dx, call, xp):
        return super().tangent(x, y, dx, call, xp)[:1]


def _conjugate_residuals(
    operator: Product,
    b: Array,
    floor: Array,
    tolerance: float,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """Solve a positive semidefinite system for each column of `b`.

    The conjugate residual method (E. Stiefel, 1955) needs the products of conjugate
    gradients, but its iterates minimise the residual and stay small where a system is
    singular and has no solution: what is left of `b` is then a null vector.

    `operator` applies Hermitian matrices with norms up to 1, one to each column;
    eigenvalues up to `floor`, shape (..., 1, r), count as 0, and a column is finished
    at a residual of `tolerance`. Returns the solution and the residual up to a factor,
    both (..., n, r), and whether the latter is a null vector, (..., 1, r).
    """
    # Normalised, because the squares below would under- or overflow.
    size = abs_max(b, xp, (-2,))
    scale = cast(xp.where(size > 0, size, xp.ones_like(size)), b, xp)
    b = b / scale
    target = tolerance**2 * _dot(b, b, xp)

    def examine(residual: Array, image: Array) -> tuple[Array, Array, Array]:
        square, curvature = _dot(residual, residual, xp), _dot(residual, image, xp)
        large = square > target
        # Not the norm of the image: rounding errors of A2 outweigh the curvature of
        # a null vector with a small admixture long before it is pure.
        definite = curvature > floor * square
        return curvature, large & definite, large & ~definite

    def step(state: State) -> State:
        y, residual, p, q, curvature, running, _ = state
        # Zero for the columns that are done: they no longer move.
        length = safe_divide(curvature, _dot(q, q, xp), running, xp)
        length = cast(length, b, xp)
        y, residual = y + length * p, residual - length * q
        image = operator(residual)
        reduced, more, null = examine(residual, image)
        more = running & more
        turn = cast(safe_divide(reduced, curvature, more, xp), b, xp)
        return y, residual, residual + turn * p, image + turn * q, reduced, more, null

    image = operator(b)
    state = (xp.zeros_like(b), b, b, image, *examine(b, image))
    y, residual, _, _, _, _, null = while_loop(
        step, lambda state: state[5], state, WATCHED_STEPS, BLIND_STEPS, xp
    )
    return y * scale, residual, null


def _dot(x: Array, y: Array, xp: Namespace) -> Array:
    """Re x^H y of each column, kept as (..., 1, r)."""
    return xp.sum(real(conj(x, xp) * y, xp), axis=-2, keepdims=True)


def _along(direction: Array, x: Array, where: Array, xp: Namespace) -> Array:
    """Part of each column of `x` along that of `direction` where `where` holds."""
    product = xp.sum(conj(direction, xp) * x, axis=-2, keepdims=True)
    square = _dot(direction, direction, xp)
    where = where & (square > 0)
    return direction * safe_divide(product, cast(square, x, xp), where, xp)

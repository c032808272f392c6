"""Spectral maps as operations, which are each other's derivatives.

`Map` is a map F(A, tau), `Push` its derivative and `Pull` the transpose of `Push`. The
second derivatives `SecondDerivative` and `SecondPull` are symmetric. The factors of A
come last, as arrays without a derivative: the rules differentiate in A instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from svdinv.core.factors import Factors, factorise
from svdinv.core.functions import (
    Polar,
    ProperRotation,
    SpectralFunction,
    TopSubgradient,
    proper_signs,
)
from svdinv.core.namespace import (
    Array,
    Namespace,
    abs_max,
    binary_scale,
    cast,
    inner,
    is_complex,
    known_equal,
)
from svdinv.core.operation import (
    Call,
    Operation,
    add,
    some,
    when,
    when_second,
    zeros_where,
)
from svdinv.core.second_derivative import spectral_second_derivative
from svdinv.core.spectral import Direction, SVDFactors

Kind: TypeAlias = Callable[..., Any]
"""The class of the factors of A, which are handed over as separate arrays."""


@dataclass(frozen=True)
class Factorise(Operation):
    """(A, tau) -> factors of A, for the maps; it has no derivative."""

    function: SpectralFunction
    relative: bool = False
    method: str = "auto"

    @property
    def host(self) -> bool:  # type: ignore[override]
        return self.method == "auto"

    def value(self, x, xp):
        A, tau = x
        return factorise(
            A, self.function, tau, relative=self.relative, method=self.method, xp=xp
        )


class Apply(Factorise):
    """(A, tau) -> F(A, tau), without the factors that a derivative would need."""

    def value(self, x, xp):
        A, tau = x
        factors = super().value(x, xp)
        tau = tau * factors.largest(A, xp) if self.relative else tau
        return (factors.map(self.function, A, tau, xp),)


@dataclass(frozen=True)
class _OfFunction(Operation):
    """An operation with a function of singular values as its field."""

    function: SpectralFunction


@dataclass(frozen=True)
class _OfFactors(_OfFunction):
    """An operation whose last arguments are factors of A, of the class `kind`."""

    kind: Kind = SVDFactors


class Map(_OfFactors):
    """(A, tau, factors) -> F(A, tau)."""

    def value(self, x, xp):
        A, tau, *factors = x
        return (self.kind(*factors).map(self.function, A, tau, xp),)

    def tangent(self, x, y, dx, call, xp):
        A, tau, *factors = x
        return call(Push(self.function, self.kind), A, tau, dx[0], dx[1], *factors)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, tau, *factors = x
        return call(Pull(self.function, self.kind), A, tau, g[0], *factors)


class Push(_OfFactors):
    """(A, tau, dA, dtau, factors) -> tangent of F(A, tau)."""

    def value(self, x, xp):
        A, tau, dA, dtau, *factors = x
        dA = xp.zeros_like(A) if dA is None else dA
        direction = Direction(self.function, tau, dA, dtau)
        return self.kind(*factors).derivative(A, direction, xp)[:1]

    def tangent(self, x, y, dx, call, xp):
        A, tau, dA, dtau, *factors = x
        second = SecondDerivative(self.function, self.kind)
        along = when(some(*dx[2:4]), call, self, A, tau, *dx[2:4], *factors)
        both = dA, dtau, *dx[:2], *factors
        bent = when_second(some(*dx[:2]), call, second, (A, tau), *both)
        return (add(along[0], bent[0]),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, tau, dA, dtau, *factors = x
        second, pull = (kind(self.function, self.kind) for kind in (SecondPull, Pull))
        both = g[0], dA, dtau, *factors
        point = when_second(any(wanted[:2]), call, second, (A, tau), *both)
        return *point, *when(any(wanted[2:4]), call, pull, A, tau, g[0], *factors)


class Pull(_OfFactors):
    """(A, tau, G, factors) -> cotangents of A and tau from that of F(A, tau)."""

    def value(self, x, xp):
        A, tau, G, *factors = x
        direction = Direction(self.function, tau, G, transposed=True)
        return self.kind(*factors).derivative(A, direction, xp)

    def tangent(self, x, y, dx, call, xp):
        A, tau, G, *factors = x
        along = when(some(dx[2]), call, self, A, tau, dx[2], *factors)
        second, both = SecondPull(self.function, self.kind), (G, *dx[:2], *factors)
        bent = when_second(some(*dx[:2]), call, second, (A, tau), *both)
        return tuple(map(add, along, bent))

    def cotangent(self, x, y, g, wanted, call, xp):
        A, tau, G, *factors = x
        second, push = (kind(self.function, self.kind) for kind in (SecondPull, Push))
        both = G, *g, *factors
        point = when_second(any(wanted[:2]), call, second, (A, tau), *both)
        return *point, when(wanted[2], call, push, A, tau, *g, *factors)[0]


class SecondPull(_OfFactors):
    """(A, tau, G, dA, dtau, factors) -> derivative of `Pull` along (dA, dtau)."""

    def value(self, x, xp):
        A, tau, G, dA, dtau, *factors = x
        known = self.kind(*factors)
        return _second(self.function, A, tau, (G, None), (dA, dtau), known, xp)

    def tangent(self, x, y, dx, call, xp):
        A, tau, G, dA, dtau, *factors = x
        first = when(some(dx[2]), call, self, A, tau, dx[2], dA, dtau, *factors)
        second = when(some(*dx[3:5]), call, self, A, tau, G, *dx[3:5], *factors)
        return tuple(map(add, first, second))

    def cotangent(self, x, y, g, wanted, call, xp):
        A, tau, G, dA, dtau, *factors = x
        second = SecondDerivative(self.function, self.kind)
        moved = when(wanted[2], call, second, A, tau, *g, dA, dtau, *factors)[0]
        direction = when(any(wanted[3:5]), call, self, A, tau, G, *g, *factors)
        return *zeros_where(wanted, (A, tau), xp), moved, *direction


class SecondDerivative(_OfFactors):
    """(A, tau, dA, dtau, vA, vtau, factors) -> second derivative of F along both."""

    def value(self, x, xp):
        A, tau, dA, dtau, vA, vtau, *factors = x
        known = self.kind(*factors)
        return _second(self.function, A, tau, (dA, dtau), (vA, vtau), known, xp)[:1]

    def tangent(self, x, y, dx, call, xp):
        A, tau, dA, dtau, vA, vtau, *factors = x
        first = when(some(*dx[2:4]), call, self, A, tau, *dx[2:4], vA, vtau, *factors)
        second = when(some(*dx[4:6]), call, self, A, tau, dA, dtau, *dx[4:6], *factors)
        return (add(first[0], second[0]),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, tau, dA, dtau, vA, vtau, *factors = x
        pull = SecondPull(self.function, self.kind)
        first = when(any(wanted[2:4]), call, pull, A, tau, g[0], vA, vtau, *factors)
        second = when(any(wanted[4:6]), call, pull, A, tau, g[0], dA, dtau, *factors)
        return *zeros_where(wanted, (A, tau), xp), *first, *second


class Sum(_OfFactors):
    """(A, value, factors) -> value, one number per matrix, with the gradient F(A)."""

    def value(self, x, xp):
        return (x[1] + 0,)

    def tangent(self, x, y, dx, call, xp):
        A, _, *factors = x
        (gradient,) = call(Map(self.function, self.kind), A, None, *factors)
        return (None if dx[0] is None else inner(gradient, dx[0], xp),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, _, *factors = x
        (gradient,) = call(Map(self.function, self.kind), A, None, *factors)
        return (cast(g[0], gradient, xp)[..., None, None] * gradient,)


def _times(ratio: Array, top: Array, xp: Namespace) -> Array:
    """Threshold ratio s_1; for a zero matrix, the ratio itself, which keeps nothing."""
    return xp.where(top == 0, ratio, ratio * top)


class RelativeMap(_OfFactors):
    """(A, ratio, factors) -> F(A, ratio s_1), in as many products as `Map`."""

    def value(self, x, xp):
        A, ratio, *factors = x
        known = self.kind(*factors)
        tau = _times(ratio, known.largest(A, xp), xp)
        return (known.map(self.function, A, tau, xp),)

    def tangent(self, x, y, dx, call, xp):
        A, ratio, *factors = x
        dA, dratio = dx[:2]
        top = leading_sum(A, 1, self.kind(*factors), call, xp)[..., None]
        dtau = None if dratio is None else dratio * top
        if dA is not None:
            (slope,) = call(Map(TopSubgradient(1), self.kind), A, None, *factors)
            dtau = add(dtau, ratio * inner(slope, dA, xp)[..., None])
        tau, push = _times(ratio, top, xp), Push(self.function, self.kind)
        return call(push, A, tau, dA, dtau, *factors)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, ratio, *factors = x
        return call(RelativePull(self.function, self.kind), A, ratio, g[0], *factors)


class RelativePull(_OfFactors):
    """(A, ratio, G, factors) -> cotangents of A and ratio."""

    transparent = True

    def value(self, x, xp):
        A, ratio, G, *factors = x
        known = self.kind(*factors)
        tau = _times(ratio, known.largest(A, xp), xp)
        direction = Direction(self.function, tau, G, transposed=True, ratio=ratio)
        return known.derivative(A, direction, xp)

    def composed(self, x, call, xp):
        A, ratio, G, *factors = x
        top = leading_sum(A, 1, self.kind(*factors), call, xp)[..., None]
        tau, pull = _times(ratio, top, xp), Pull(self.function, self.kind)
        gA, gtau = call(pull, A, tau, G, *factors)
        (slope,) = call(Map(TopSubgradient(1), self.kind), A, None, *factors)
        gtop = xp.sum(ratio * gtau, axis=-1, keepdims=True)
        return gA + cast(gtop[..., None], slope, xp) * slope, gtau * top


def leading_sum(
    A: Array, count: int | None, factors: Factors, call: Call, xp: Namespace
) -> Array:
    """Sum of the `count` largest singular values, or of all; differentiable."""
    if count == 1:
        S = factors.largest(A, xp)
    else:
        S = factors.S if count is None else factors.S[..., :count]
    value = xp.sum(S, axis=-1)
    sum_ = Sum(TopSubgradient(count), type(factors))
    return call(sum_, A, value, *factors)[0]


def _second(
    function: SpectralFunction,
    A: Array,
    tau: Any,
    d: Any,
    v: Any,
    known: Factors,
    xp: Namespace,
) -> tuple[Any, ...]:
    """Second derivative along two directions of A and tau.

    A is decomposed again: factors from a Gram matrix are not all orthogonal.
    """
    (dA, dtau), (vA, vtau) = d, v
    dA, vA = (xp.zeros_like(A) if X is None else X for X in (dA, vA))
    if function.degree is not None:
        # The coefficients may overflow although the result does not.
        unit = binary_scale(abs_max(A, xp), xp)
        root = unit ** (function.degree / 2 - 1)
        dA, vA = dA * cast(root, A, xp), vA * cast(root, A, xp)
        dtau, vtau = (None if t is None else t * root[..., 0] for t in (dtau, vtau))
        A = A / cast(unit, A, xp)
        if tau is not None and not function.is_sign:
            tau = tau / unit[..., 0]
    factors = SVDFactors(*xp.linalg.svd(A, full_matrices=False))
    has_branch = isinstance(function, ProperRotation) or (
        isinstance(function, Polar) and known_equal(*A.shape[-2:])
    )
    if has_branch and not is_complex(A, xp):
        factors = _on_branch_of(known, factors, xp)
    direction = Direction(function, tau, dA, dtau)
    return spectral_second_derivative(A, factors, direction, vA, vtau, xp=xp)


def _on_branch_of(known: Factors, factors: SVDFactors, xp: Namespace) -> SVDFactors:
    """Change signs in U so that det(U V^H) is that of the `known` factors.

    The sign of either vector of a zero singular value is arbitrary.
    """
    if not isinstance(known, SVDFactors):
        return factors
    turn = proper_signs(*known, xp) * proper_signs(*factors, xp)
    return factors._replace(U=factors.U * turn[..., None, :])

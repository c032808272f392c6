"""Spectral maps as operations: each knows the others as its derivatives.

A map F(A, tau), its derivative `Push`, the transpose of that `Pull`, and the second
derivatives `SecondDerivative` and `SecondPull`, which are symmetric. The factors of A
come last, as arrays without a derivative: each operation knows its own in A.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from svdinv.core.factors import Factors, factorise
from svdinv.core.functions import SpectralFunction, TopSubgradient
from svdinv.core.namespace import Array, Namespace, cast, inner
from svdinv.core.operation import (
    Call,
    Operation,
    RefuseThird,
    add,
    masked,
    some,
    zeros_where,
)
from svdinv.core.second_derivative import spectral_second_derivative
from svdinv.core.spectral import Direction, SVDFactors

Kind: TypeAlias = Callable[..., Any]
"""The class of the factors of A, which are handed over as separate arrays."""

__all__ = ["Factorise", "Map", "RelativeMap", "Sum", "leading_sum"]


@dataclass(frozen=True)
class Factorise(Operation):
    """(A, tau) -> factors of A, for the maps; it has no derivative."""

    function: SpectralFunction
    relative: bool = False
    method: str = "auto"
    chunkable = True
    decomposes = True

    @property
    def host(self) -> bool:  # type: ignore[override]
        return self.method == "auto"

    def value(self, x, xp):
        A, tau = x
        return factorise(
            A, self.function, tau, relative=self.relative, method=self.method, xp=xp
        )


@dataclass(frozen=True)
class Map(Operation):
    """(A, tau, factors) -> F(A, tau)."""

    function: SpectralFunction
    kind: Kind = SVDFactors
    chunkable = True

    def value(self, x, xp):
        A, tau, *factors = x
        return (self.kind(*factors).map(self.function, A, tau, xp),)

    def tangent(self, x, y, dx, call, xp):
        A, tau, *factors = x
        return call(Push(self.function, self.kind), A, tau, dx[0], dx[1], *factors)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, tau, *factors = x
        return call(Pull(self.function, self.kind), A, tau, g[0], *factors)


@dataclass(frozen=True)
class Push(Operation):
    """(A, tau, dA, dtau, factors) -> tangent of F(A, tau)."""

    function: SpectralFunction
    kind: Kind = SVDFactors
    chunkable = True

    def value(self, x, xp):
        A, tau, dA, dtau, *factors = x
        dA = xp.zeros_like(A) if dA is None else dA
        direction = Direction(self.function, tau, dA, dtau)
        return self.kind(*factors).derivative(A, direction, xp)[:1]

    def tangent(self, x, y, dx, call, xp):
        A, tau, dA, dtau, *factors = x
        along = bent = None
        if some(*dx[2:4]):
            (along,) = call(self, A, tau, dx[2], dx[3], *factors)
        if some(*dx[:2]):
            at = call(RefuseThird(), A, tau)
            (bent,) = call(SecondDerivative(self.function), *at, dA, dtau, *dx[:2])
        return (add(along, bent),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, tau, dA, dtau, *factors = x
        point = None, None
        linear = None, None
        if any(wanted[2:4]):
            linear = call(Pull(self.function, self.kind), A, tau, g[0], *factors)
        if any(wanted[:2]):
            at = call(RefuseThird(), A, tau)
            point = call(SecondPull(self.function), *at, g[0], dA, dtau)
        return masked((*point, *linear), wanted)


@dataclass(frozen=True)
class Pull(Operation):
    """(A, tau, G, factors) -> cotangents of A and tau from that of F(A, tau)."""

    function: SpectralFunction
    kind: Kind = SVDFactors
    chunkable = True

    def value(self, x, xp):
        A, tau, G, *factors = x
        direction = Direction(self.function, tau, G, transposed=True)
        return self.kind(*factors).derivative(A, direction, xp)

    def tangent(self, x, y, dx, call, xp):
        A, tau, G, *factors = x
        along = None, None
        bent = None, None
        if some(dx[2]):
            along = call(self, A, tau, dx[2], *factors)
        if some(*dx[:2]):
            at = call(RefuseThird(), A, tau)
            bent = call(SecondPull(self.function), *at, G, *dx[:2])
        return tuple(map(add, along, bent))

    def cotangent(self, x, y, g, wanted, call, xp):
        A, tau, G, *factors = x
        point = None, None
        moved = None
        if wanted[2]:
            (moved,) = call(
                Push(self.function, self.kind), A, tau, g[0], g[1], *factors
            )
        if any(wanted[:2]):
            at = call(RefuseThird(), A, tau)
            point = call(SecondPull(self.function), *at, G, *g)
        return masked((*point, moved), wanted)


@dataclass(frozen=True)
class SecondDerivative(Operation):
    """(A, tau, dA, dtau, vA, vtau) -> second derivative of F along both tangents.

    A and tau come through `RefuseThird`, as those of `SecondPull`.
    For a second derivative the factors are taken anew: those of a Gram matrix are
    not all orthogonal.
    """

    function: SpectralFunction

    def value(self, x, xp):
        A, tau, dA, dtau, vA, vtau = x
        dA, vA = (xp.zeros_like(A) if d is None else d for d in (dA, vA))
        direction = Direction(self.function, tau, dA, dtau)
        return spectral_second_derivative(A, _thin(A, xp), direction, vA, vtau, xp=xp)[
            :1
        ]

    def tangent(self, x, y, dx, call, xp):
        A, tau, *v = x
        first = second = None
        if some(*dx[2:4]):
            (first,) = call(self, A, tau, dx[2], dx[3], v[2], v[3])
        if some(*dx[4:]):
            (second,) = call(self, A, tau, v[0], v[1], dx[4], dx[5])
        return (add(first, second),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, tau, dA, dtau, vA, vtau = x
        first = None, None
        second = None, None
        if any(wanted[2:4]):
            first = call(SecondPull(self.function), A, tau, g[0], vA, vtau)
        if any(wanted[4:6]):
            second = call(SecondPull(self.function), A, tau, g[0], dA, dtau)
        at = zeros_where(wanted, (A, tau), xp)
        return *at, *masked((*first, *second), wanted[2:])


@dataclass(frozen=True)
class SecondPull(Operation):
    """(A, tau, G, dA, dtau) -> derivative of `Pull` along (dA, dtau)."""

    function: SpectralFunction

    def value(self, x, xp):
        A, tau, G, dA, dtau = x
        dA, G = (xp.zeros_like(A) if d is None else d for d in (dA, G))
        direction = Direction(self.function, tau, G)
        return spectral_second_derivative(A, _thin(A, xp), direction, dA, dtau, xp=xp)

    def tangent(self, x, y, dx, call, xp):
        A, tau, G, dA, dtau = x
        first = None, None
        second = None, None
        if some(dx[2]):
            first = call(self, A, tau, dx[2], dA, dtau)
        if some(*dx[3:5]):
            second = call(self, A, tau, G, dx[3], dx[4])
        return tuple(map(add, first, second))

    def cotangent(self, x, y, g, wanted, call, xp):
        A, tau, G, dA, dtau = x
        moved = None
        direction = None, None
        if wanted[2]:
            (moved,) = call(
                SecondDerivative(self.function), A, tau, g[0], g[1], dA, dtau
            )
        if any(wanted[3:5]):
            direction = call(self, A, tau, G, g[0], g[1])
        at = zeros_where(wanted, (A, tau), xp)
        return *at, *masked((moved, *direction), wanted[2:])


@dataclass(frozen=True)
class Sum(Operation):
    """(A, value, factors) -> value, one number per matrix, with the gradient F(A)."""

    function: SpectralFunction
    kind: Kind = SVDFactors

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


@dataclass(frozen=True)
class RelativeMap(Operation):
    """(A, ratio, factors) -> F(A, ratio s_1), in as many products as `Map`."""

    function: SpectralFunction
    kind: Kind = SVDFactors
    chunkable = True

    def value(self, x, xp):
        A, ratio, *factors = x
        known = self.kind(*factors)
        return (known.map(self.function, A, ratio * known.largest(A, xp), xp),)

    def tangent(self, x, y, dx, call, xp):
        A, ratio, *factors = x
        dA, dratio = dx[:2]
        top = leading_sum(A, 1, self.kind(*factors), call, xp)[..., None]
        dtau = None if dratio is None else dratio * top
        if dA is not None:
            (slope,) = call(Map(TopSubgradient(1), self.kind), A, None, *factors)
            dtau = add(dtau, ratio * inner(slope, dA, xp)[..., None])
        return call(Push(self.function, self.kind), A, ratio * top, dA, dtau, *factors)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, ratio, *factors = x
        return call(_RelativePull(self.function, self.kind), A, ratio, g[0], *factors)


@dataclass(frozen=True)
class _RelativePull(Operation):
    """(A, ratio, G, factors) -> cotangents of A and ratio."""

    function: SpectralFunction
    kind: Kind = SVDFactors
    chunkable = True
    transparent = True

    def value(self, x, xp):
        A, ratio, G, *factors = x
        known = self.kind(*factors)
        tau = ratio * known.largest(A, xp)
        direction = Direction(self.function, tau, G, transposed=True, ratio=ratio)
        return known.derivative(A, direction, xp)

    def composed(self, x, call, xp):
        A, ratio, G, *factors = x
        top = leading_sum(A, 1, self.kind(*factors), call, xp)[..., None]
        gA, gtau = call(Pull(self.function, self.kind), A, ratio * top, G, *factors)
        (slope,) = call(Map(TopSubgradient(1), self.kind), A, None, *factors)
        gtop = xp.sum(ratio * gtau, axis=-1, keepdims=True)
        return gA + cast(gtop[..., None], slope, xp) * slope, gtau * top


def leading_sum(
    A: Array, count: int | None, factors: Factors, call: Call, xp: Namespace
) -> Array:
    """Sum of the `count` largest singular values, or of all; differentiable."""
    function = TopSubgradient(count)
    if count == 1:
        value = xp.sum(factors.largest(A, xp), axis=-1)
    else:
        S = factors.S
        value = xp.sum(function.value(S, None, xp) * S, axis=-1)
    return call(Sum(function, type(factors)), A, value, *factors)[0]


def _thin(A: Array, xp: Namespace) -> SVDFactors:
    return SVDFactors(*xp.linalg.svd(A, full_matrices=False))

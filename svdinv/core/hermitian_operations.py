"""Hermitian matrices: their eigendecomposition and functions of them as operations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from svdinv.core.degenerate import check_repeated
from svdinv.core.eigh import eigh_gauge_dependence, eigh_pullback, eigh_pushforward
from svdinv.core.gauge import Gauge, check_gauge
from svdinv.core.gram import orthonormal
from svdinv.core.hermitian import (
    HermitianFunction,
    hermitian_derivative,
    hermitian_map,
    hermitian_second_derivative,
)
from svdinv.core.namespace import (
    Array,
    Namespace,
    adjoint,
    cast,
    conj,
    decomposes_in_double,
    decomposes_quickly,
    herm,
    inner,
    real,
)
from svdinv.core.operation import (
    Operation,
    add,
    some,
    when,
    when_second,
    zeros_where,
)
from svdinv.core.svd_operations import Decomposition, Pullback
from svdinv.core.tolerances import MOST_REPAIRED, SINGLE, eps

Triangle: TypeAlias = Literal["L", "U"]
"""Lower or upper."""


def from_triangle(A: Array, triangle: str, xp: Namespace) -> Array:
    """Hermitian matrix of which A holds the lower ("L") or upper ("U") triangle."""
    if triangle == "U":
        A = adjoint(A, xp)
    below = xp.tril(A, k=-1)
    diagonal = xp.tril(xp.triu(A))
    return below + adjoint(below, xp) + 0.5 * (diagonal + adjoint(diagonal, xp))


@dataclass(frozen=True)
class Eigh(Decomposition):
    """A -> w, V; the cotangent of A is Hermitian.

    The fields are the triangle of A that is read, "L" or "U", the options of
    `eigh_pullback`, and what to do with a gauge-dependent loss.
    """

    triangle: str = "L"
    rtol: float | None = None
    gauge: Gauge = "ignore"
    epsilon: float | None = None

    def __post_init__(self) -> None:
        """Check the fields before any work is done."""
        check_repeated("consistent", self.rtol)
        check_gauge(self.gauge)

    def value(self, x, xp):
        A = x[0] if self.triangle == "L" else from_triangle(x[0], self.triangle, xp)
        return tuple(xp.linalg.eigh(A))

    def push(self, x, xp, call=None):
        return eigh_pushforward(*x, xp=xp)

    def pull(self, x, xp, call=None):
        return eigh_pullback(*x, rtol=self.rtol, epsilon=self.epsilon, xp=xp)

    def dependence(self, factors, g, xp):
        w, V = factors
        return None if g[1] is None else eigh_gauge_dependence(w, V, g[1], xp=xp)


@dataclass(frozen=True)
class GeneralizedEigh(Operation):
    """(A, B, w, V) -> w and V, with A V = B V diag(w) and V^H B V = 1.

    A is Hermitian, B positive definite. There is no tangent: it is not called where
    forward mode may differentiate it. With the cotangent gA = V X V^H of A by `rule`,

        gB = -herm(V (X diag(w) + V^H gV / 2) V^H).
    """

    rule: Eigh

    def value(self, x, xp):
        return x[2] + 0, x[3] + 0

    def cotangent(self, x, y, g, wanted, call, xp):
        return call(GeneralizedPullback(self.rule), *x, *g)


@dataclass(frozen=True)
class GeneralizedPullback(Operation):
    """(A, B, w, V, gw, gV) -> cotangents of A and B."""

    rule: Eigh
    transparent = True

    def composed(self, x, call, xp):
        A, B, w, V, gw, gV = x
        w, V = call(GeneralizedEigh(self.rule), A, B, w, V)
        (gA,) = call(Pullback(self.rule), w, V, gw, gV)
        inverse = V @ adjoint(V, xp)
        # V X diag(w) V^H, because diag(w) V^H = V^H A V V^H.
        gB = gA @ herm(A, xp) @ inverse
        if gV is not None:
            gB = gB + 0.5 * (inverse @ gV @ adjoint(V, xp))
        return gA, -herm(gB, xp)


@dataclass(frozen=True)
class FactoriseHermitian(Operation):
    """A -> w, V for the maps, from the lower triangle; it has no derivative."""

    def value(self, x, xp):
        A = x[0]
        w, V = xp.linalg.eigh(A)
        small = isinstance(A.shape[-1], int) and A.shape[-1] <= MOST_REPAIRED
        single = eps(w, xp) > SINGLE and not decomposes_in_double(xp)
        if not single or not small or decomposes_quickly(A, xp):
            return w, V
        # LAPACK's single precision leaves several eps in both.
        A, V = from_triangle(A, "L", xp), orthonormal(V, xp)
        return xp.sum(real(conj(V, xp) * (A @ V), xp), axis=-2), V


@dataclass(frozen=True)
class _OfFunction(Operation):
    """An operation with a function as its field, whose parameter `at` sets."""

    function: HermitianFunction

    def at(self, p: Any) -> HermitianFunction:
        return self.function if p is None else self.function.at(p)

    def slope(self, x, call):
        """Compute the derivative of the output in the parameter p."""
        own = replace(self, function=self.function.parameter_derivative())
        return call(own, *x)[0]

    def along_parameter(self, x, dp, call, xp):
        """Compute the tangent of the output along one of p; None if that is None."""
        if dp is None:
            return None
        slope = self.slope(x, call)
        return slope * cast(dp, slope, xp)[..., None, None]

    def to_parameter(self, x, g, wanted, call, xp):
        """Compute the cotangent of p, if there is one and it is wanted, else None."""
        there = wanted and x[1] is not None
        return inner(self.slope(x, call), g, xp) if there else None


class HermitianMap(_OfFunction):
    """(A, p, w, V) -> f(A), with the factors as arrays without a derivative.

    p is the parameter of f, of shape (...), or None.
    """

    def value(self, x, xp):
        _, p, *factors = x
        return (hermitian_map(self.at(p), tuple(factors), xp),)

    def tangent(self, x, y, dx, call, xp):
        A, p, *factors = x
        derivative = HermitianDerivative(self.function)
        along = when(some(dx[0]), call, derivative, A, p, dx[0], *factors)
        return (add(along[0], self.along_parameter(x, dx[1], call, xp)),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, p, *factors = x
        derivative = HermitianDerivative(self.function)
        gA = when(wanted[0], call, derivative, A, p, g[0], *factors)[0]
        return gA, self.to_parameter(x, g[0], wanted[1], call, xp)


class HermitianDerivative(_OfFunction):
    """(A, p, X, w, V) -> derivative of f along X, its own transpose."""

    def value(self, x, xp):
        _, p, X, *factors = x
        return (hermitian_derivative(self.at(p), tuple(factors), X, xp),)

    def tangent(self, x, y, dx, call, xp):
        A, p, X, *factors = x
        along = when(some(dx[2]), call, self, A, p, dx[2], *factors)
        second = _SecondDerivative(self.function)
        bent = when_second(some(dx[0]), call, second, (A, p), X, dx[0], *factors)
        return (add(along[0], bent[0], self.along_parameter(x, dx[1], call, xp)),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, p, X, *factors = x
        second = _SecondDerivative(self.function)
        point = when_second(wanted[0], call, second, (A, p), X, g[0], *factors)
        gp = self.to_parameter(x, g[0], wanted[1], call, xp)
        return point[0], gp, when(wanted[2], call, self, A, p, g[0], *factors)[0]


class _SecondDerivative(_OfFunction):
    """(A, p, X, Y, w, V) -> second derivative of f along X and Y, symmetric in all.

    A and p come through `RefuseThird`.
    """

    def value(self, x, xp):
        _, p, X, Y, *factors = x
        f = self.at(p)
        return (hermitian_second_derivative(f, tuple(factors), X, Y, xp),)

    def tangent(self, x, y, dx, call, xp):
        A, p, X, Y, *factors = x
        first = when(some(dx[2]), call, self, A, p, dx[2], Y, *factors)
        second = when(some(dx[3]), call, self, A, p, X, dx[3], *factors)
        return (add(first[0], second[0]),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, p, X, Y, *factors = x
        first = when(wanted[2], call, self, A, p, g[0], Y, *factors)
        at = zeros_where(wanted[:2], (A, p), xp)
        return *at, first[0], when(wanted[3], call, self, A, p, X, g[0], *factors)[0]

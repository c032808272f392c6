"""Hermitian matrices: their eigendecomposition and functions of them as operations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from svdinv.core.degenerate import check_repeated
from svdinv.core.eigh import eigh_gauge_dependence, eigh_pullback, eigh_pushforward
from svdinv.core.gauge import Gauge, check_gauge, report_gauge
from svdinv.core.hermitian import (
    HermitianFunction,
    hermitian_derivative,
    hermitian_map,
    hermitian_second_derivative,
)
from svdinv.core.namespace import Array, Namespace, adjoint, on_host
from svdinv.core.operation import Operation, RefuseThird, add, masked, zeros_where
from svdinv.core.tolerances import eps

__all__ = ["Eigh", "HermitianMap", "from_triangle"]


def from_triangle(A: Array, triangle: str, xp: Namespace) -> Array:
    """Hermitian matrix of which A holds the lower ("L") or upper ("U") triangle."""
    if triangle == "U":
        A = adjoint(A, xp)
    below = xp.tril(A, k=-1)
    diagonal = xp.tril(xp.triu(A))
    return below + adjoint(below, xp) + 0.5 * (diagonal + adjoint(diagonal, xp))


@dataclass(frozen=True)
class Eigh(Operation):
    """A -> w, V; the cotangent of A is Hermitian.

    Attributes
    ----------
    triangle : {"L", "U"}
        Which triangle of A is read.
    rtol : float or None
        Gap, relative to the largest modulus, up to which the consistent rule acts.
    gauge : {"ignore", "warn", "error"} or callable
        What to do with a gauge-dependent loss.
    epsilon : float or None
        Relative precision of the cotangents, where it is not that of their dtype.
    """

    triangle: str = "L"
    rtol: float | None = None
    gauge: Gauge = "ignore"
    epsilon: float | None = None
    saves_inputs = False
    saves_outputs = True

    def __post_init__(self) -> None:
        """Refuse bad values before any work is done."""
        check_repeated("consistent", self.rtol)
        check_gauge(self.gauge)

    def anonymous(self) -> Eigh:
        return self if self.gauge == "ignore" else replace(self, gauge="ignore")

    def value(self, x, xp):
        A = x[0] if self.triangle == "L" else from_triangle(x[0], self.triangle, xp)
        w, V = xp.linalg.eigh(A)
        return w, V

    def tangent(self, x, y, dx, call, xp):
        return call(_EighPush(self), *y, dx[0])

    def cotangent(self, x, y, g, wanted, call, xp):
        if self.gauge != "ignore" and g[1] is not None:
            dependence = eigh_gauge_dependence(y[0], y[1], g[1], xp=xp)
            report = partial(report_gauge, gauge=self.gauge, epsilon=eps(y[1], xp))
            on_host(report, dependence, xp)
        return call(_EighPull(self.anonymous()), *y, *g)


@dataclass(frozen=True)
class _EighPush(Operation):
    """(w, V, dA) -> tangents of w and V."""

    eigh: Eigh
    transparent = True

    def anonymous(self) -> _EighPush:
        return _EighPush(self.eigh.anonymous())

    def value(self, x, xp):
        return tuple(eigh_pushforward(*x, xp=xp))

    def cotangent(self, x, y, g, wanted, call, xp):
        gA = self.eigh.cotangent((None,), x[:2], g, (True,), call, xp)
        return None, None, *gA


@dataclass(frozen=True)
class _EighPull(Operation):
    """(w, V, gw, gV) -> cotangent of A."""

    eigh: Eigh
    transparent = True

    def value(self, x, xp):
        rule = self.eigh
        return (eigh_pullback(*x, rtol=rule.rtol, epsilon=rule.epsilon, xp=xp),)


@dataclass(frozen=True)
class HermitianMap(Operation):
    """(A, w, V) -> f(A), with the factors as arrays without a derivative."""

    function: HermitianFunction

    def value(self, x, xp):
        return (hermitian_map(self.function, tuple(x[1:]), xp),)

    def tangent(self, x, y, dx, call, xp):
        return call(_Derivative(self.function), x[0], dx[0], *x[1:])

    def cotangent(self, x, y, g, wanted, call, xp):
        return call(_Derivative(self.function), x[0], g[0], *x[1:])


@dataclass(frozen=True)
class _Derivative(Operation):
    """(A, X, w, V) -> derivative of f along X, its own transpose."""

    function: HermitianFunction

    def value(self, x, xp):
        return (hermitian_derivative(self.function, tuple(x[2:]), x[1], xp),)

    def tangent(self, x, y, dx, call, xp):
        A, X, *factors = x
        along = bent = None
        if dx[1] is not None:
            (along,) = call(self, A, dx[1], *factors)
        if dx[0] is not None:
            (at,) = call(RefuseThird(), A)
            (bent,) = call(_SecondDerivative(self.function), at, X, dx[0], *factors)
        return (add(along, bent),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, X, *factors = x
        point = linear = None
        if wanted[0]:
            (at,) = call(RefuseThird(), A)
            (point,) = call(_SecondDerivative(self.function), at, X, g[0], *factors)
        if wanted[1]:
            (linear,) = call(self, A, g[0], *factors)
        return point, linear


@dataclass(frozen=True)
class _SecondDerivative(Operation):
    """(A, X, Y, w, V) -> second derivative of f along X and Y, symmetric in all.

    A comes through `RefuseThird`.
    """

    function: HermitianFunction

    def value(self, x, xp):
        _, X, Y, *factors = x
        return (hermitian_second_derivative(self.function, tuple(factors), X, Y, xp),)

    def tangent(self, x, y, dx, call, xp):
        A, X, Y, *factors = x
        terms: list[Any] = []
        if dx[1] is not None:
            terms += call(self, A, dx[1], Y, *factors)
        if dx[2] is not None:
            terms += call(self, A, X, dx[2], *factors)
        return (add(*terms),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, X, Y, *factors = x
        first = second = None
        if wanted[1]:
            (first,) = call(self, A, g[0], Y, *factors)
        if wanted[2]:
            (second,) = call(self, A, X, g[0], *factors)
        at = zeros_where(wanted[:1], (A,), xp)
        return *at, *masked((first, second), wanted[1:])

"""Hermitian matrices: their eigendecomposition and functions of them as operations."""

from __future__ import annotations

from dataclasses import dataclass

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
    conj,
    decomposes_in_double,
    decomposes_quickly,
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
from svdinv.core.svd_operations import Decomposition
from svdinv.core.tolerances import MOST_REPAIRED, SINGLE, eps


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
        """Refuse bad values before any work is done."""
        check_repeated("consistent", self.rtol)
        check_gauge(self.gauge)

    def value(self, x, xp):
        A = x[0] if self.triangle == "L" else from_triangle(x[0], self.triangle, xp)
        return tuple(xp.linalg.eigh(A))

    def push(self, x, xp):
        return eigh_pushforward(*x, xp=xp)

    def pull(self, x, xp):
        return eigh_pullback(*x, rtol=self.rtol, epsilon=self.epsilon, xp=xp)

    def dependence(self, factors, g, xp):
        w, V = factors
        return None if g[1] is None else eigh_gauge_dependence(w, V, g[1], xp=xp)


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
    """What is told apart by a function."""

    function: HermitianFunction


class HermitianMap(_OfFunction):
    """(A, w, V) -> f(A), with the factors as arrays without a derivative."""

    def value(self, x, xp):
        return (hermitian_map(self.function, tuple(x[1:]), xp),)

    def tangent(self, x, y, dx, call, xp):
        return call(_Derivative(self.function), x[0], dx[0], *x[1:])

    def cotangent(self, x, y, g, wanted, call, xp):
        return call(_Derivative(self.function), x[0], g[0], *x[1:])


class _Derivative(_OfFunction):
    """(A, X, w, V) -> derivative of f along X, its own transpose."""

    def value(self, x, xp):
        return (hermitian_derivative(self.function, tuple(x[2:]), x[1], xp),)

    def tangent(self, x, y, dx, call, xp):
        A, X, *factors = x
        along = when(some(dx[1]), call, self, A, dx[1], *factors)
        second = _SecondDerivative(self.function)
        bent = when_second(some(dx[0]), call, second, (A,), X, dx[0], *factors)
        return (add(along[0], bent[0]),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, X, *factors = x
        second = _SecondDerivative(self.function)
        point = when_second(wanted[0], call, second, (A,), X, g[0], *factors)
        return point[0], when(wanted[1], call, self, A, g[0], *factors)[0]


class _SecondDerivative(_OfFunction):
    """(A, X, Y, w, V) -> second derivative of f along X and Y, symmetric in all.

    A comes through `RefuseThird`.
    """

    def value(self, x, xp):
        _, X, Y, *factors = x
        return (hermitian_second_derivative(self.function, tuple(factors), X, Y, xp),)

    def tangent(self, x, y, dx, call, xp):
        A, X, Y, *factors = x
        first = when(some(dx[1]), call, self, A, dx[1], Y, *factors)
        second = when(some(dx[2]), call, self, A, X, dx[2], *factors)
        return (add(first[0], second[0]),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, X, Y, *factors = x
        first = when(wanted[1], call, self, A, g[0], Y, *factors)
        (at,) = zeros_where(wanted[:1], (A,), xp)
        return at, first[0], when(wanted[2], call, self, A, X, g[0], *factors)[0]

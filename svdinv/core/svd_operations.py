"""The singular value decompositions as operations, and what is derived from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from svdinv.core.degenerate import check_repeated
from svdinv.core.divided_differences import sampled_derivative
from svdinv.core.gauge import Gauge, check_gauge, gauge_dependence, report_gauge
from svdinv.core.namespace import Array, Namespace, cast, on_host, real
from svdinv.core.operation import Operation, add
from svdinv.core.svd import svd, svd_pullback, svd_pushforward
from svdinv.core.tolerances import eps
from svdinv.core.truncated import (
    svd_lowrank,
    svd_lowrank_pullback,
    svd_lowrank_pushforward,
)

__all__ = ["SVD", "LowRankSVD", "Recompose"]


@dataclass(frozen=True)
class SVD(Operation):
    """A -> U, S, Vh, of which the derivatives are made.

    The pullback is not the transpose of the pushforward where singular values
    repeat: see `svdinv.core.degenerate`.

    Attributes
    ----------
    full_matrices : bool
        Square singular vector matrices instead of thin ones.
    repeated : str
        Rule inside a cluster of repeated singular values.
    rtol : float or None
        Gap, relative to the largest singular value, up to which the rule acts.
    gauge : {"ignore", "warn", "error"} or callable
        What to do with a gauge-dependent loss.
    epsilon : float or None
        Relative precision of the cotangents, where it is not that of their dtype.
    """

    full_matrices: bool = False
    repeated: str = "consistent"
    rtol: float | None = None
    gauge: Gauge = "ignore"
    epsilon: float | None = None
    saves_inputs = False
    saves_outputs = True

    def __post_init__(self) -> None:
        """Refuse bad values before any work is done."""
        check_repeated(self.repeated, self.rtol)
        check_gauge(self.gauge)

    def anonymous(self) -> SVD:
        """See `Operation`; one compiled value serves every gauge."""
        return self if self.gauge == "ignore" else replace(self, gauge="ignore")

    def value(self, x, xp):
        return tuple(svd(x[0], full_matrices=self.full_matrices, xp=xp))

    def tangent(self, x, y, dx, call, xp):
        return call(_SVDPush(self), *y, dx[0])

    def cotangent(self, x, y, g, wanted, call, xp):
        if self.gauge != "ignore":
            U, S, Vh = y
            dependence = gauge_dependence(U, S, Vh, g[0], g[2], xp=xp)
            report = partial(report_gauge, gauge=self.gauge, epsilon=eps(U, xp))
            on_host(report, dependence, xp)
        return call(_SVDPull(self.anonymous()), *y, *g)


@dataclass(frozen=True)
class _SVDPush(Operation):
    """(U, S, Vh, dA) -> tangents of U, S and Vh."""

    svd: SVD
    transparent = True

    def anonymous(self) -> _SVDPush:
        return _SVDPush(self.svd.anonymous())

    def value(self, x, xp):
        rule = self.svd
        return svd_pushforward(*x, repeated=rule.repeated, rtol=rule.rtol, xp=xp)

    def cotangent(self, x, y, g, wanted, call, xp):
        gA = self.svd.cotangent((None,), x[:3], g, (True,), call, xp)
        return None, None, None, *gA


@dataclass(frozen=True)
class _SVDPull(Operation):
    """(U, S, Vh, gU, gS, gVh) -> cotangent of A."""

    svd: SVD
    transparent = True

    def value(self, x, xp):
        rule = self.svd
        gA = svd_pullback(
            *x, repeated=rule.repeated, rtol=rule.rtol, epsilon=rule.epsilon, xp=xp
        )
        return (gA,)


@dataclass(frozen=True)
class LowRankSVD(Operation):
    """(A, sketch) -> U, S, Vh of a truncated SVD, with the derivative in A.

    Attributes
    ----------
    rank : int
        Number of triplets.
    power : int
        Number of power iterations.
    """

    rank: int
    power: int
    saves_outputs = True

    def value(self, x, xp):
        return tuple(svd_lowrank(*x, rank=self.rank, power=self.power, xp=xp))

    def tangent(self, x, y, dx, call, xp):
        return call(_LowRankPush(), x[0], *y, dx[0])

    def cotangent(self, x, y, g, wanted, call, xp):
        return call(_LowRankPull(), x[0], *y, *g)


@dataclass(frozen=True)
class _LowRankPush(Operation):
    """(A, U, S, Vh, dA) -> tangents of U, S and Vh."""

    transparent = True

    def value(self, x, xp):
        return tuple(svd_lowrank_pushforward(*x, xp=xp))

    def cotangent(self, x, y, g, wanted, call, xp):
        return None, None, None, None, *call(_LowRankPull(), *x[:4], *g)


@dataclass(frozen=True)
class _LowRankPull(Operation):
    """(A, U, S, Vh, gU, gS, gVh) -> cotangent of A."""

    transparent = True

    def value(self, x, xp):
        return (svd_lowrank_pullback(*x, xp=xp),)


@dataclass(frozen=True)
class Recompose(Operation):
    """(A, y, divided differences, U, S, Vh) -> U diag(y) V^H.

    With y = f(S), differentiated through S: the derivative in A is that of the
    vectors alone. Second derivatives go through U, S and Vh.
    """

    def value(self, x, xp):
        _, y, _, U, _, Vh = x
        return (_composed(U, y, Vh, xp),)

    def tangent(self, x, y, dx, call, xp):
        return call(_RecomposePush(), *dx[:2], *x[1:])

    def cotangent(self, x, y, g, wanted, call, xp):
        return call(_RecomposePull(), g[0], *x[1:])


@dataclass(frozen=True)
class _RecomposePush(Operation):
    """(dA, dy, y, divided differences, U, S, Vh) -> tangent of U diag(y) V^H."""

    transparent = True

    def value(self, x, xp):
        dA, dy, y, differences, U, S, Vh = x
        moved = turned = None
        if dA is not None:
            moved, _ = sampled_derivative(U, S, Vh, y, differences, dA, xp=xp)
        if dy is not None:
            turned = _composed(U, dy, Vh, xp)
        return (add(moved, turned),)


@dataclass(frozen=True)
class _RecomposePull(Operation):
    """(G, y, divided differences, U, S, Vh) -> cotangents of A and y."""

    transparent = True

    def value(self, x, xp):
        G, y, differences, U, S, Vh = x
        gA, K = sampled_derivative(U, S, Vh, y, differences, G, xp=xp)
        return gA, real(xp.linalg.diagonal(K), xp)


def _composed(U: Array, y: Array, Vh: Array, xp: Namespace) -> Array:
    return (U * cast(y, U, xp)[..., None, :]) @ Vh

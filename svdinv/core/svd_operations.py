"""The decompositions as operations, with their pushforwards and pullbacks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from svdinv.core.degenerate import check_repeated
from svdinv.core.divided_differences import sampled_derivative
from svdinv.core.gauge import Gauge, check_gauge, gauge_dependence, report_gauge
from svdinv.core.namespace import Array, Namespace, on_host
from svdinv.core.operation import Arrays, Call, Operation, add
from svdinv.core.spectral import SVDFactors, real_diagonal
from svdinv.core.svd import svd, svd_pullback, svd_pushforward
from svdinv.core.tolerances import eps
from svdinv.core.truncated import (
    svd_lowrank,
    svd_lowrank_pullback,
    svd_lowrank_pushforward,
)


class Decomposition(Operation):
    """A, ... -> its factors.

    The pullback is not the transpose of the pushforward where values repeat: see
    `svdinv.core.degenerate`. Both take what is `saved` of the arguments and results.
    """

    gauge: Any = "ignore"
    saves_inputs = False
    saves_outputs = True

    def push(self, x: Arrays, xp: Namespace, call: Call | None = None) -> Any:
        """Tangents of the factors; differentiable, if `call` is given."""
        raise NotImplementedError

    def pull(self, x: Arrays, xp: Namespace, call: Call | None = None) -> Array:
        """Cotangent of A; differentiable, if `call` is given."""
        raise NotImplementedError

    def dependence(self, factors: Arrays, g: Arrays, xp: Namespace) -> Array | None:
        """Gauge dependence of cotangents."""
        return None

    def saved(self, x: Arrays, y: Arrays) -> Arrays:
        """Return what `push` and `pull` read."""
        return y

    def anonymous(self):
        """Return the rule without `gauge`, so that one compiled value serves all."""
        if self.gauge == "ignore":
            return self
        return replace(self, gauge="ignore")  # type: ignore[type-var]

    def tangent(self, x, y, dx, call, xp):
        return call(Pushforward(self), *self.saved(x, y), dx[0])

    def cotangent(self, x, y, g, wanted, call, xp):
        return self.pulled(self.saved(x, y), g, call, xp)

    def pulled(self, saved, g, call, xp):
        """Cotangent of A, with a report of what depends on the gauge."""
        if self.gauge != "ignore":
            dependence = self.dependence(saved, g, xp)
            if dependence is not None:
                epsilon = eps(dependence, xp)
                report = partial(report_gauge, gauge=self.gauge, epsilon=epsilon)
                on_host(report, dependence, xp)
        return call(Pullback(self.anonymous()), *saved, *g)


@dataclass(frozen=True)
class Pushforward(Operation):
    """(what a decomposition saved, dA) -> tangents of its factors."""

    rule: Decomposition
    transparent = True

    def anonymous(self) -> Pushforward:
        return Pushforward(self.rule.anonymous())

    def value(self, x, xp):
        return tuple(self.rule.push(x, xp))

    def composed(self, x, call, xp):
        return tuple(self.rule.push(x, xp, call))

    def cotangent(self, x, y, g, wanted, call, xp):
        *saved, _ = x
        return *(None for _ in saved), *self.rule.pulled(saved, g, call, xp)


@dataclass(frozen=True)
class Pullback(Operation):
    """(what a decomposition saved, cotangents of its factors) -> cotangent of A."""

    rule: Decomposition
    transparent = True

    def value(self, x, xp):
        return (self.rule.pull(x, xp),)

    def composed(self, x, call, xp):
        return (self.rule.pull(x, xp, call),)


@dataclass(frozen=True)
class SVD(Decomposition):
    """A -> U, S, Vh.

    The fields are the options of `svd_pullback`, and what to do with a
    gauge-dependent loss.
    """

    full_matrices: bool = False
    repeated: str = "consistent"
    rtol: float | None = None
    gauge: Gauge = "ignore"
    epsilon: float | None = None

    def __post_init__(self) -> None:
        """Check the fields before any work is done."""
        check_repeated(self.repeated, self.rtol)
        check_gauge(self.gauge)

    def value(self, x, xp):
        return tuple(svd(x[0], full_matrices=self.full_matrices, xp=xp))

    def push(self, x, xp, call=None):
        return svd_pushforward(*x, repeated=self.repeated, rtol=self.rtol, xp=xp)

    def pull(self, x, xp, call=None):
        rule, epsilon = self.repeated, self.epsilon
        return svd_pullback(*x, repeated=rule, rtol=self.rtol, epsilon=epsilon, xp=xp)

    def dependence(self, factors, g, xp):
        U, S, Vh = factors
        return gauge_dependence(U, S, Vh, g[0], g[2], xp=xp)


@dataclass(frozen=True)
class SingularValues(Operation):
    """A -> S, without a derivative, for at most half the work of an SVD.

    `method` is the operator's; with "auto", a Gram matrix may be used.
    """

    method: str = "svd"

    def value(self, x, xp):
        return (xp.linalg.svdvals(x[0]),)


@dataclass(frozen=True)
class LowRankSVD(Decomposition):
    """(A, sketch) -> U, S, Vh of a truncated SVD, with the derivative in A.

    `rank` is the number of triplets, `power` that of iterations; `rtol` and `epsilon`
    are those of `svd_pullback`.
    """

    rank: int
    power: int
    rtol: float | None = None
    epsilon: float | None = None
    saves_inputs = True

    def value(self, x, xp):
        return tuple(svd_lowrank(*x, rank=self.rank, power=self.power, xp=xp))

    def saved(self, x, y):
        return x[0], *y

    def push(self, x, xp, call=None):
        return svd_lowrank_pushforward(*x, xp=xp, call=call)

    def pull(self, x, xp, call=None):
        precision = {"rtol": self.rtol, "epsilon": self.epsilon}
        return svd_lowrank_pullback(*x, **precision, xp=xp, call=call)


@dataclass(frozen=True)
class Recompose(Operation):
    """(A, y, divided differences, U, S, Vh) -> U diag(y) V^H.

    The caller differentiates y = f(S) through S; the derivative in A is that of the
    vectors alone. Second derivatives go through U, S and Vh. If the divided
    differences are None, there is no derivative.
    """

    def value(self, x, xp):
        _, y, _, *factors = x
        return (SVDFactors(*factors).composed(y, xp),)

    def tangent(self, x, y, dx, call, xp):
        return call(_RecomposePush(), *dx[:2], *x[1:])

    def cotangent(self, x, y, g, wanted, call, xp):
        return call(RecomposePull(), g[0], *x[1:])


@dataclass(frozen=True)
class _RecomposePush(Operation):
    """(dA, dy, y, divided differences, U, S, Vh) -> tangent of U diag(y) V^H."""

    transparent = True

    def value(self, x, xp):
        dA, dy, y, differences, *factors = x
        factors, differences = SVDFactors(*factors), _given(differences)
        moved = turned = None
        if dA is not None:
            moved, _ = sampled_derivative(factors, y, differences, dA, xp)
        if dy is not None:
            turned = factors.composed(dy, xp)
        return (add(moved, turned),)


@dataclass(frozen=True)
class RecomposePull(Operation):
    """(G, y, divided differences, U, S, Vh) -> cotangents of A and y."""

    transparent = True

    def value(self, x, xp):
        G, y, differences, *factors = x
        factors, differences = SVDFactors(*factors), _given(differences)
        gA, K = sampled_derivative(factors, y, differences, G, xp)
        return gA, real_diagonal(K, xp)


def _given(differences: Array | None) -> Array:
    if differences is None:
        raise NotImplementedError(
            "spectral_map needs df, the derivative of f, where a graph was traced that "
            "cannot differentiate f"
        )
    return differences

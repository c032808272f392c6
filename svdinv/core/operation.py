"""A differentiable operation as a value that every backend can register."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from svdinv.core.gauge import Gauge, check_gauge, gauge_dependence
from svdinv.core.namespace import Array, Namespace
from svdinv.core.repeated import Look, check_repeated
from svdinv.core.svd import svd, svd_pullback, svd_pushforward
from svdinv.core.truncated import (
    Loop,
    svd_lowrank_pullback,
    svd_lowrank_pushforward,
)

__all__ = ["SVD", "Operation", "Options", "leading_triplets"]


@dataclass(frozen=True)
class Options:
    """What a user chooses about an operation; hashable, checked when made.

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

    def __post_init__(self) -> None:
        """Refuse bad values before any work is done."""
        check_repeated(self.repeated, self.rtol)
        check_gauge(self.gauge)


@dataclass(frozen=True)
class Operation:
    """Pure functions of arrays; what is saved for the derivatives is the outputs.

    Attributes
    ----------
    name : str
        Name in error messages and traces.
    forward : callable
        ``forward(A, options, xp)`` returns the tuple of outputs.
    pullback : callable
        ``pullback(outputs, cotangents, options, xp, look)`` returns the cotangent of
        A; a cotangent may be None. `look` as in `svd_pullback`.
    pushforward : callable
        ``pushforward(outputs, dA, options, xp)`` returns the outputs' tangents.
    dependence : callable
        ``dependence(outputs, cotangents, options, xp)`` returns how
        gauge-dependent the cotangents are, one number per matrix.
    """

    name: str
    forward: Callable[[Array, Options, Namespace], tuple[Array, ...]]
    pullback: Callable[..., Array]
    pushforward: Callable[..., tuple[Array, ...]]
    dependence: Callable[..., Array]


def _forward(A: Array, options: Options, xp: Namespace) -> tuple[Array, ...]:
    return svd(A, full_matrices=options.full_matrices, xp=xp)


def _pullback(
    outputs: tuple[Array, ...],
    cotangents: tuple[Array | None, ...],
    options: Options,
    xp: Namespace,
    look: Look,
) -> Array:
    return svd_pullback(
        *outputs,
        *cotangents,
        repeated=options.repeated,
        rtol=options.rtol,
        epsilon=options.epsilon,
        look=look,
        xp=xp,
    )


def _pushforward(
    outputs: tuple[Array, ...], dA: Array, options: Options, xp: Namespace
) -> tuple[Array, ...]:
    U, S, Vh = outputs
    return svd_pushforward(
        U, S, Vh, dA, repeated=options.repeated, rtol=options.rtol, xp=xp
    )


def _dependence(
    outputs: tuple[Array, ...],
    cotangents: tuple[Array | None, ...],
    options: Options,
    xp: Namespace,
) -> Array:
    U, S, Vh = outputs
    gU, _, gVh = cotangents
    return gauge_dependence(U, S, Vh, gU, gVh, xp=xp)


def leading_triplets(loop: Loop | None = None) -> Operation:
    """Make the operation whose outputs are U, S and Vh of `svd_lowrank`, and A.

    A is among them because the derivative needs it. There is no forward: the triplets
    come from a random sketch, which is the framework's to draw.

    Parameters
    ----------
    loop : callable, optional
        As for `svd_lowrank_pullback`.
    """

    def pullback(
        outputs: tuple[Array, ...],
        cotangents: tuple[Array | None, ...],
        options: Options,
        xp: Namespace,
        look: Look,
    ) -> Array:
        *factors, A = outputs
        *given, direct = cotangents
        epsilon = options.epsilon
        gA = svd_lowrank_pullback(
            A, *factors, *given, epsilon=epsilon, look=look, loop=loop, xp=xp
        )
        return gA if direct is None else gA + direct

    def pushforward(
        outputs: tuple[Array, ...], dA: Array, options: Options, xp: Namespace
    ) -> tuple[Array, ...]:
        *factors, A = outputs
        U, S, Vh = factors
        return *svd_lowrank_pushforward(A, U, S, Vh, dA, loop=loop, xp=xp), dA

    def forward(A: Array, options: Options, xp: Namespace) -> tuple[Array, ...]:
        raise NotImplementedError

    def dependence(
        outputs: tuple[Array, ...],
        cotangents: tuple[Array | None, ...],
        options: Options,
        xp: Namespace,
    ) -> Array:
        return _dependence(outputs[:3], cotangents[:3], options, xp)

    return Operation("svd_lowrank", forward, pullback, pushforward, dependence)


SVD = Operation("svd", _forward, _pullback, _pushforward, _dependence)

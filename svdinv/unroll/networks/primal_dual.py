"""Learned primal-dual reconstruction for any linear operator.

The primal-dual hybrid gradient method with both proximal operators learned (Adler &
Öktem, IEEE TMI 2018). Image and data are each represented by several maps; the first
map of the image is the estimate. With [ ] for concatenation of channels, one cell is::

    h = h + D([h, A x_1, y])       dual: in the space of the data
    x = x + P([x, A^H h_1])        primal: in the space of images

D and P are chains of convolutions without bias, so the reconstruction is positively
homogeneous in the data. Their last convolutions are small at first: the network starts
near `svdinv.unroll.operators.Operator.approximate_inverse`, which for line integrals is
filtered back-projection, or with `start` near nonnegative least squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from svdinv.unroll.algorithms.iterations import FISTA
from svdinv.unroll.arrays import Array, namespace
from svdinv.unroll.networks.functional import at_least, check_image
from svdinv.unroll.networks.recipe import (
    Layer,
    Layers,
    Recipe,
    State,
    register,
    residual_chain,
)
from svdinv.unroll.problem import Problem


@register
@dataclass(frozen=True, kw_only=True)
class PrimalDual(Recipe):
    """Structure of a learned primal-dual network.

    Images are real, (B, C, H, W), and so are the data, with two axes after the
    channels. The operator is linear: a mask, or that of a problem. If operators are
    scaled to a norm near 1, as in the tasks, one network works for several geometries.

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    convs : int
        Convolutions of each chain.
    memory : int
        Maps for each channel of the image and of the data.
    channels : int
        Channels of the image.
    slope : float
        Slope of the ReLUs below zero.
    start : int
        Iterations of nonnegative least squares, by FISTA, from the approximate inverse
        to the image of the first cell; for an operator with a norm of at most 1.
    """

    cells: int = 8
    features: int = 32
    convs: int = 3
    memory: int = 5
    channels: int = 1
    slope: float = 0.1
    start: int = 0

    axes: ClassVar[str] = "B C H W"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "features", "convs", "memory", "channels")
        at_least(0, self, "start")

    def layers(self, last: bool) -> Mapping[str, Layer]:
        maps = self.memory * self.channels
        return {
            "dual": residual_chain(self, maps + 2 * self.channels, maps, axes=2),
            "primal": residual_chain(self, maps + self.channels, maps, axes=2),
        }

    def begin(self, problem: Problem) -> State:
        """Start from an approximate inverse, or `start` iterations behind it.

        Raises TypeError if the operator is not linear, ValueError if the image or the
        data do not have two axes after the channels.
        """
        if not problem.A.linear:
            raise TypeError("PrimalDual needs a linear operator")
        x = problem.A.approximate_inverse(problem.y)
        xp = namespace(x)
        check_image(x, self.axes, channels=self.channels)
        if len(problem.y.shape) != 4:
            raise ValueError(
                "the data must have two axes after the channels, got shape "
                f"{tuple(problem.y.shape)}"
            )
        if self.start:
            x = _nonnegative(x, problem, self.start)
        memory = [xp.zeros_like(x)] * (self.memory - 1)
        dual = xp.concat([xp.zeros_like(problem.y)] * self.memory, axis=1)
        return {"x": x, "primal": xp.concat([x, *memory], axis=1), "dual": dual}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        primal, dual, y = state["primal"], state["dual"], problem.y
        xp, C = namespace(y), self.channels
        dual = dual + layers.dual(xp.concat([dual, problem.A(state["x"]), y], axis=1))
        back = problem.A.adjoint(dual[:, :C])
        primal = primal + layers.primal(xp.concat([primal, back], axis=1))
        return {"x": primal[:, :C], "primal": primal, "dual": dual}


def _nonnegative(x: Array, problem: Problem, iterations: int) -> Array:
    """Iterate FISTA for min |A x - y|^2 over x >= 0."""
    xp, algorithm = namespace(x), FISTA()

    def prox(v: Array, step: float) -> Array:
        return xp.maximum(v, xp.zeros_like(v))

    state = algorithm.start(problem, prox(x, 1.0))
    for _ in range(iterations):
        state = algorithm.iterate(state, problem, prox, {"step": 1.0})
    return state["x"]

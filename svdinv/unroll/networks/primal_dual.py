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

`JointPrimalDual` does so for channels of low rank, such as bins of energy, measured by
the same A. W is the root of the mean weight of each channel, its inverse variance; V
holds the leading left singular vectors of W y, a matrix channels x measurements::

    y = V^T W y,   the cells above,   x = W^-1 V x

A few components have the signal of all channels, and less of their noise. With
`data_steps` iterations of conjugate gradients follow each cell, from its image z::

    x = argmin |A x - y|^2 + mu |x - z|^2

mu is learned, and depends on the noise and on the residual of the image at the start,
which shows how far the operator is from that of the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from svdinv.core.namespace import safe_divide
from svdinv.unroll.algorithms.iterations import FISTA, least_squares_near
from svdinv.unroll.arrays import (
    Array,
    Namespace,
    cast_like,
    count_up,
    is_tensorflow,
    namespace,
    operators,
    root,
    sizes,
    times,
)
from svdinv.unroll.fidelity import L2
from svdinv.unroll.networks.functional import at_least, check_image
from svdinv.unroll.networks.recipe import (
    Layer,
    Layers,
    Number,
    Recipe,
    State,
    register,
    residual_chain,
)
from svdinv.unroll.operators import Operator
from svdinv.unroll.problem import Problem

# Of mu; found on phantoms, without training.
_TRUST = {"log_mu": -4.0, "residual_power": 3.0, "noise_power": -1.3}
_USUAL, _LEAST = -4.4, 1e-8  # log of a usual misfit, and the least square of one


@dataclass(frozen=True, kw_only=True)
class _Alternating(Recipe):
    """Base of the networks that alternate between images and data."""

    cells: int = 8
    features: int = 32
    convs: int = 3
    memory: int = 5
    slope: float = 0.1
    start: int = 0

    axes: ClassVar[str] = "B C H W"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "features", "convs", "memory")
        at_least(0, self, "start")

    def _chains(self, channels: int, others: int = 0) -> Mapping[str, Layer]:
        """Return the layers for images of some channels, and more maps of data."""
        maps = self.memory * channels
        inputs = maps + 2 * channels + others
        return {
            "dual": residual_chain(self, inputs, maps, axes=2),
            "primal": residual_chain(self, maps + channels, maps, axes=2),
        }

    def _check_linear(self, problem: Problem) -> None:
        if not problem.A.linear:
            raise TypeError(f"{type(self).__name__} needs a linear operator")

    def _remember(self, images: list[Array], y: Array, xp: Namespace) -> State:
        """Return all maps before the first cell: some images, and zeros."""
        zeros = [xp.zeros_like(images[0])] * self.memory
        maps = [*images, *zeros][: self.memory]
        dual = xp.concat([xp.zeros_like(y)] * self.memory, axis=1)
        return {"primal": xp.concat(maps, axis=1), "dual": dual}

    def _next(
        self, state: State, y: Array, channels: int, problem: Problem, layers: Layers
    ) -> State:
        """Return the maps after a cell; `y` holds the data and any other maps."""
        xp, A = namespace(y), problem.A
        primal, dual = state["primal"], state["dual"]
        predicted = A(primal[:, :channels])
        dual = dual + layers.dual(xp.concat([dual, predicted, y], axis=1))
        back = A.adjoint(dual[:, :channels])
        primal = primal + layers.primal(xp.concat([primal, back], axis=1))
        return {"primal": primal, "dual": dual}


@register
@dataclass(frozen=True, kw_only=True)
class PrimalDual(_Alternating):
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

    channels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "channels")

    def layers(self, last: bool) -> Mapping[str, Layer]:
        return self._chains(self.channels)

    def begin(self, problem: Problem) -> State:
        """Start from an approximate inverse, or `start` iterations behind it.

        Raises TypeError if the operator is not linear, ValueError if the image or the
        data do not have two axes after the channels.
        """
        self._check_linear(problem)
        x = problem.A.approximate_inverse(problem.y)
        check_image(x, self.axes, channels=self.channels)
        _check_data(problem.y)
        if self.start:
            (x,) = _nonnegative(x, problem, [self.start])
        return {"x": x} | self._remember([x], problem.y, namespace(x))

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        C = self.channels
        maps = self._next(state, problem.y, C, problem, layers)
        return {"x": maps["primal"][:, :C]} | maps


@register
@dataclass(frozen=True, kw_only=True)
class JointPrimalDual(_Alternating):
    """Structure of a learned primal-dual network for channels of low rank.

    Images and data are as for `PrimalDual`, with any number of channels from
    `components` on, and an operator that acts on each channel alike. The data fidelity
    `svdinv.unroll.fidelity.L2` has the inverse variances of the data as its weight. A
    channel of weight 0 is not used, and its image is 0; data of weight 0 in another one
    are used, and must be plausible.

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    convs : int
        Convolutions of each chain.
    memory : int
        Maps for each component of the image and of the data.
    slope : float
        Slope of the ReLUs below zero.
    start : int
        Iterations of FISTA from the approximate inverse to the image of the first cell,
        for least squares that penalise negative channels, with W alone as weights; for
        an operator with a norm of at most 1. What changes until twice as many, and what
        changed since half of them, are the first of the other maps.
    components : int
        Number of leading singular vectors, one more than there may be materials, so
        that the last one shows the noise.
    data_steps : int
        Iterations of conjugate gradients after each cell.
    """

    components: int = 4
    data_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "components")
        at_least(0, self, "data_steps")

    def layers(self, last: bool) -> Mapping[str, Layer]:
        numbers = _TRUST.items() if self.data_steps else ()
        trust = {name: Number(first) for name, first in numbers}
        return {**self._chains(self.components, 1), **trust}

    def begin(self, problem: Problem) -> State:
        """Start from the components of an approximate inverse, or `start` iterations.

        Raises TypeError if the operator is not linear, ValueError if there are fewer
        channels or measurements in each than `components`, or the image or the data do
        not have two axes after the channels.
        """
        self._check_linear(problem)
        _check_data(problem.y)
        y, xp, K = problem.y, namespace(problem.y), self.components
        _, C, *rest = y.shape
        if (C is not None and C < K) or (None not in rest and math.prod(rest) < K):
            raise ValueError(
                f"the data must have at least {K} channels and measurements in each, "
                f"as many as components, got shape {tuple(y.shape)}"
            )
        weight = _weights(problem, xp)
        W = root(xp.mean(weight, axis=(-2, -1), keepdims=True), xp)
        V = _leading(W * y, K, xp)
        state = {"V": V, "W": W}
        y = _multiplied(xp.matrix_transpose(V), W * y, xp)
        x = problem.A.approximate_inverse(y)
        check_image(x, self.axes, channels=K)
        images = [x]
        if self.start:
            counts = [self.start // 2, self.start, 2 * self.start]
            before, x, after = _nonnegative(x, Problem(y, problem.A), counts, V)
            images = [x, after - x, before - x]
        # The weight of each measurement in all channels, in units of the data.
        unit = root(xp.mean(y[:, :1] ** 2, axis=(-2, -1), keepdims=True), xp)
        total = root(xp.sum(weight, axis=1, keepdims=True), xp)
        most = xp.max(total, axis=(-2, -1), keepdims=True)
        total = unit * safe_divide(total, most, most > 0, xp)
        state |= {"y": xp.concat([y, total], axis=1)}
        if self.data_steps:
            nearest = sum(images[:2])  # after the most iterations
            state |= _misfits(problem.A(nearest) - y, y, xp)
        return self._in_channels(state | self._remember(images, y, xp), xp)

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        y = state["y"]
        maps = self._next(state, y, self.components, problem, layers)
        state = state | maps
        if self.data_steps:
            state |= {"primal": self._explained(state, problem.A, layers)}
        return self._in_channels(state, namespace(y))

    def _explained(self, state: State, A: Operator, layers: Layers) -> Array:
        """Move the image z to the argmin of |A x - y|^2 + mu |x - z|^2, approximately.

        log mu is a learned function of the noise of the data and of their misfit.
        """
        xp, K = namespace(state["primal"]), self.components
        z, y = state["primal"][:, :K], state["y"][:, :K]
        log_mu = layers.log_mu + times(layers.residual_power, state["residual"], xp)
        log_mu = log_mu + times(layers.noise_power, state["noise"], xp)
        mu = xp.exp(log_mu)[:, None, None, None]
        x = least_squares_near(z, A, y, mu, self.data_steps)
        return xp.concat([x, state["primal"][:, K:]], axis=1)

    def _in_channels(self, state: State, xp: Namespace) -> State:
        """Return the state with the image of all channels, from that of components."""
        x = _multiplied(state["V"], state["primal"][:, : self.components], xp)
        W = state["W"]  # 0 for channels without data
        return state | {"x": safe_divide(x, W, W > 0, xp)}


def _check_data(y: Array) -> None:
    if len(y.shape) != 4:
        raise ValueError(
            "the data must have two axes after the channels, got shape "
            f"{tuple(y.shape)}"
        )


def _misfits(residual: Array, y: Array, xp: Namespace) -> State:
    """Return the residual of components y and their noise, (B,), on a log scale.

    Both are relative to y, less what is usual. The noise is that of the last component.
    """
    size = xp.sum(y**2, axis=(1, 2, 3))
    noise = y.shape[1] * xp.sum(y[:, -1] ** 2, axis=(1, 2))
    found = {}
    squares = {"residual": xp.sum(residual**2, axis=(1, 2, 3)), "noise": noise}
    for name, square in squares.items():
        share = safe_divide(square, size, size > 0, xp)
        found[name] = xp.log(share + _LEAST) / 2 - _USUAL
    return found


def _weights(problem: Problem, xp: Namespace) -> Array:
    """Return the weights of the data, of their shape; 1 without any."""
    ones = xp.ones_like(problem.y)
    if not isinstance(problem.fidelity, L2) or problem.fidelity.weight is None:
        return ones
    return ones * cast_like(problem.fidelity.weight, ones, xp)


def _leading(y: Array, count: int, xp: Namespace) -> Array:
    """Return the leading left singular vectors (B, C, count) of data (B, C, ...).

    The sign of the first makes its sum positive, that of the others the mean of the
    channel's index, weighted by them, negative.
    """
    B, C, *rest = sizes(y, xp)
    found = operators(y).svd(xp.reshape(y, (B, C, math.prod(rest))))
    U = found.u if is_tensorflow(y) else found.U
    V = xp.reshape(U[..., :count], (B, C, count))  # of a known size in graphs
    along = count_up(C, V, xp)[:, None]
    slope = (xp.mean(along) - along) * xp.ones_like(V)
    first = count_up(count, V, xp) == 0
    size = xp.sum(xp.where(first, V, slope * V), axis=1, keepdims=True)
    return xp.where(size < 0, -V, V)


def _multiplied(V: Array, x: Array, xp: Namespace) -> Array:
    """Multiply the channels of images or data (B, C, H, W) by matrices (B, K, C).

    No product of matrices: it would be rounded in mixed precision.
    """
    return xp.sum(V[:, :, :, None, None] * x[:, None], axis=2)


def _nonnegative(
    x: Array, problem: Problem, counts: Sequence[int], V: Array | None = None
) -> list[Array]:
    """Return images after numbers of iterations of nonnegative least squares.

    They are those of FISTA for min |A x - y|^2 over x >= 0. With V, V^T V = 1, negative
    values of V x are not excluded but penalised: the proximal operator is
    V^T max(V x, 0).
    """
    xp, algorithm = namespace(x), FISTA()

    def prox(v: Array, step: float) -> Array:
        if V is None:
            return xp.maximum(v, xp.zeros_like(v))
        channels = _multiplied(V, v, xp)
        channels = xp.maximum(channels, xp.zeros_like(channels))
        return _multiplied(xp.matrix_transpose(V), channels, xp)

    state = algorithm.start(problem, prox(x, 1.0))
    images = {0: state["x"]}
    for count in range(1, max(counts) + 1):
        state = algorithm.iterate(state, problem, prox, {"step": 1.0})
        if count in counts:
            images[count] = state["x"]
    return [images[count] for count in counts]

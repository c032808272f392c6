"""Learned primal-dual reconstruction for any linear operator.

The primal-dual hybrid gradient method with both proximal operators learned (Adler &
Öktem, IEEE TMI 2018). Image and data are each represented by several maps; the first
map of the image is the estimate. With [ ] for concatenation of channels, one cell is::

    h = h + D([h, A x_1, y])       dual: in the space of the data
    x = x + P([x, A^H h_1])        primal: in the space of images

D and P are chains of convolutions without bias, so the reconstruction is positively
homogeneous in the data. Their last convolutions are small at first: the network starts
near `svdinv.unroll.operators.Operator.approximate_inverse`, which for line integrals is
filtered back-projection, or with `start` near nonnegative least squares. With
`data_steps` iterations of conjugate gradients follow each cell, from its image z::

    x = argmin |A x - y|^2 + mu |x - z|^2

mu is learned, and depends on the noise and on the residual of the image at the start,
which measures how far A is from the operator that produced the data.

`JointPrimalDual` does the same for channels of low rank, such as energy bins, measured
by one A. W is the root of the mean weight (inverse variance) of each channel; V holds
the leading left singular vectors of W y, a matrix channels x measurements::

    y = V^T W y,   the cells above,   x = W^-1 V x

A few components contain the signal of all channels, but less of their noise.
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

# Initial values of the parameters of mu, chosen on phantoms without training.
_TRUST = {"log_mu": 2.6, "residual_power": 2.8, "noise_power": -3.1}
_JOINT_TRUST = {"log_mu": -4.0, "residual_power": 3.0, "noise_power": -1.3}
_MOST = 9.0  # largest log mu: images no longer change; half precision ends at 11
_USUAL, _LEAST = -4.4, 1e-8  # log of a typical misfit; added to squared misfits


@dataclass(frozen=True, kw_only=True)
class _Alternating(Recipe):
    """Base of the networks that alternate between images and data."""

    cells: int = 8
    features: int = 32
    convs: int = 3
    memory: int = 5
    slope: float = 0.1
    start: int = 0
    data_steps: int = 0

    axes: ClassVar[str] = "B C H W"
    _trust: ClassVar[Mapping[str, float]] = _TRUST

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "features", "convs", "memory")
        at_least(0, self, "start", "data_steps")

    def _layers(self, channels: int, others: int = 0) -> Mapping[str, Layer]:
        """Return the layers for `channels`, and `others` additional maps of data."""
        maps = self.memory * channels
        inputs = maps + 2 * channels + others
        numbers = self._trust.items() if self.data_steps else ()
        return {
            "dual": residual_chain(self, inputs, maps, axes=2),
            "primal": residual_chain(self, maps + channels, maps, axes=2),
            **{name: Number(first) for name, first in numbers},
        }

    def _check_linear(self, problem: Problem) -> None:
        if not problem.A.linear:
            raise TypeError(f"{type(self).__name__} needs a linear operator")

    def _started(
        self, x: Array, problem: Problem, changes: bool, V: Array | None = None
    ) -> list[Array]:
        """Return the image after `start` iterations from x.

        With `changes`, also return the differences from this image of the images after
        twice and after half as many iterations.
        """
        if not self.start:
            return [x]
        if not changes:
            return _nonnegative(x, problem, [self.start], V)
        counts = [self.start // 2, self.start, 2 * self.start]
        before, x, after = _nonnegative(x, problem, counts, V)
        return [x, after - x, before - x]

    def _remember(self, images: list[Array], y: Array, xp: Namespace) -> State:
        """Return the maps before the first cell: `images`, and zeros for the rest."""
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
        if self.data_steps:
            z, others = primal[:, :channels], primal[:, channels:]
            x = self._explained(z, y[:, :channels], state, A, layers)
            primal = xp.concat([x, others], axis=1)
        return {"primal": primal, "dual": dual}

    def _explained(
        self, z: Array, y: Array, state: State, A: Operator, layers: Layers
    ) -> Array:
        """Approximate the argmin of |A x - y|^2 + mu |x - z|^2.

        log mu is a learned function of the noise of the data and of their misfit.
        """
        xp = namespace(z)
        log_mu = layers.log_mu + times(layers.residual_power, state["residual"], xp)
        log_mu = log_mu + times(layers.noise_power, state["noise"], xp)
        mu = xp.exp(xp.minimum(log_mu, xp.zeros_like(log_mu) + _MOST))
        mu = mu[:, None, None, None]
        return least_squares_near(z, A, y, mu, self.data_steps)


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
        to the image of the first cell; for an operator with a norm of at most 1. With
        `data_steps`, the first of the other maps are the differences from it of the
        images after twice and after half as many iterations.
    data_steps : int
        Iterations of conjugate gradients after each cell, with a learned mu; 0 for
        none. The noise is estimated from neighbours along the last axis of the data,
        the detectors of a view.
    """

    channels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "channels")

    def layers(self, last: bool) -> Mapping[str, Layer]:
        return self._layers(self.channels)

    def begin(self, problem: Problem) -> State:
        """Start from an approximate inverse, improved by `start` iterations.

        Raises TypeError if the operator is not linear, ValueError if the image or the
        data do not have two axes after the channels.
        """
        self._check_linear(problem)
        x = problem.A.approximate_inverse(problem.y)
        check_image(x, self.axes, channels=self.channels)
        _check_data(problem.y)
        y, xp = problem.y, namespace(x)
        images = self._started(x, problem, changes=self.data_steps > 0)
        state = {"x": images[0]} | self._remember(images, y, xp)
        if self.data_steps:
            # Second differences along a view consist of noise and sharp edges.
            before = xp.concat([y[..., :1], y[..., :-1]], axis=-1)
            after = xp.concat([y[..., 1:], y[..., -1:]], axis=-1)
            noise = xp.mean(xp.abs(before - 2 * y + after), axis=(1, 2, 3)) ** 2
            state |= _misfits(images, problem, noise)
        return state

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        C = self.channels
        maps = self._next(state, problem.y, C, problem, layers)
        return state | maps | {"x": maps["primal"][:, :C]}


@register
@dataclass(frozen=True, kw_only=True)
class JointPrimalDual(_Alternating):
    """Structure of a learned primal-dual network for channels of low rank.

    Images and data are as for `PrimalDual`, with at least `components` channels, and an
    operator that acts in the same way on each channel. The data fidelity
    `svdinv.unroll.fidelity.L2` has the inverse variances of the data as its weight. A
    channel of weight 0 is not used, and its image is 0; data of weight 0 in any other
    channel are used, and must be plausible.

    Attributes
    ----------
    features, convs, memory, slope
        As for `PrimalDual`, with `memory` maps for each component.
    start : int
        Iterations of FISTA from the approximate inverse to the image of the first cell,
        for least squares that penalise negative channels, with only W as weights; for
        an operator with a norm of at most 1. The first of the other maps are the
        differences from it of the images after twice and half as many iterations.
    components : int
        Number of leading singular vectors: one more than the possible number of
        materials, so that the last one measures the noise.
    data_steps : int
        Iterations of conjugate gradients after each cell.
    """

    components: int = 4
    data_steps: int = 5

    _trust: ClassVar[Mapping[str, float]] = _JOINT_TRUST

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "components")

    @property
    def least_channels(self) -> int:
        """Minimum number of channels of the data."""
        return self.components

    def layers(self, last: bool) -> Mapping[str, Layer]:
        return self._layers(self.components, 1)

    def begin(self, problem: Problem) -> State:
        """Start from components of an approximate inverse, improved by `start` steps.

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
        leading = Problem(y, problem.A)
        images = self._started(x, leading, changes=True, V=V)
        # The weight of each measurement in all channels, in units of the data.
        unit = root(xp.mean(y[:, :1] ** 2, axis=(-2, -1), keepdims=True), xp)
        total = root(xp.sum(weight, axis=1, keepdims=True), xp)
        most = xp.max(total, axis=(-2, -1), keepdims=True)
        total = unit * safe_divide(total, most, most > 0, xp)
        state |= {"y": xp.concat([y, total], axis=1)}
        if self.data_steps:
            noise = xp.mean(y[:, -1] ** 2, axis=(1, 2))
            state |= _misfits(images, leading, noise)
        return self._in_channels(state | self._remember(images, y, xp), xp)

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        y = state["y"]
        maps = self._next(state, y, self.components, problem, layers)
        return self._in_channels(state | maps, namespace(y))

    def _in_channels(self, state: State, xp: Namespace) -> State:
        """Return the state with the image of all channels, made of the components."""
        x = _multiplied(state["V"], state["primal"][:, : self.components], xp)
        W = state["W"]  # 0 for channels without data
        return state | {"x": safe_divide(x, W, W > 0, xp)}


def _check_data(y: Array) -> None:
    if len(y.shape) != 4:
        raise ValueError(
            "the data must have two axes after the channels, got shape "
            f"{tuple(y.shape)}"
        )


def _misfits(images: list[Array], problem: Problem, noise: Array) -> State:
    """Return logarithms of the residual and the noise, (B,), minus a typical value.

    Both are relative to the root mean square of the data. `noise` is a mean square, in
    the units of the data. The residual is that after the most iterations of the start.
    """
    y, xp = problem.y, namespace(problem.y)
    residual = problem.A(sum(images[:2])) - y
    squares = {"residual": xp.mean(residual**2, axis=(1, 2, 3)), "noise": noise}
    size = xp.mean(y**2, axis=(1, 2, 3))
    found = {}
    for name, square in squares.items():
        share = safe_divide(square, size, size > 0, xp)
        found[name] = xp.log(share + _LEAST) / 2 - _USUAL
    return found


def _weights(problem: Problem, xp: Namespace) -> Array:
    """Return the weights of the data, broadcast to their shape; 1 if there are none."""
    ones = xp.ones_like(problem.y)
    if not isinstance(problem.fidelity, L2) or problem.fidelity.weight is None:
        return ones
    return ones * cast_like(problem.fidelity.weight, ones, xp)


def _leading(y: Array, count: int, xp: Namespace) -> Array:
    """Return the leading left singular vectors (B, C, count) of data (B, C, ...).

    Signs are fixed: the first vector has a positive sum, the others have a negative
    correlation with the channel's index.
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

    Not by a matrix product, which would be rounded in mixed precision.
    """
    return xp.sum(V[:, :, :, None, None] * x[:, None], axis=2)


def _nonnegative(
    x: Array, problem: Problem, counts: Sequence[int], V: Array | None = None
) -> list[Array]:
    """Return the images of nonnegative least squares after `counts` iterations.

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

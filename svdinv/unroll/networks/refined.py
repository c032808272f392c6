"""Refinement of a network by a multi-scale encoder and decoder.

A U-Net (Ronneberger, Fischer & Brox, MICCAI 2015) follows the last cell of any network
whose operator samples pixels. With a local mean G::

    d = x - G x,   s^2 = G mean over channels of d^2 + 1e-5
    x = x + s U(d / s, mask d / s, mask)         refinement
    x = x - A^H (A x - y)                        data consistency, exact

For denoising, with white noise in all pixels, the refinement is as follows, where the
standard deviation s of the noise is estimated from the data by `noise_deviation`::

    x = x + s U((x - G x) / s, (y - x) / s, 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdinv.unroll.arrays import Array, cast_like, namespace, sizes
from svdinv.unroll.networks.functional import (
    at_least,
    check_features,
    halved,
    pixel_shuffle,
    pixel_unshuffle,
    require,
    sampled_where,
)
from svdinv.unroll.networks.noise import noise_of_images
from svdinv.unroll.networks.recipe import (
    Convolutions,
    Layer,
    Layers,
    Part,
    Recipe,
    State,
    register,
)
from svdinv.unroll.networks.tlr import TLR
from svdinv.unroll.operators import Operator
from svdinv.unroll.priors.local_phase import blur
from svdinv.unroll.problem import Problem

_WIDTH = 4.0  # standard deviation of the local mean, in pixels
_VARIANCE = 1e-5  # added to the variance of images in [0, 1]
_LABEL = "refinement_"


@register
@dataclass(frozen=True, kw_only=True)
class Refined(Recipe):
    """A network with a refinement after its last cell.

    Images are real, (B, C, H, W), of any size, and A samples their pixels. The layers
    of the inner network keep their names, so its weights can be loaded into this one.

    Attributes
    ----------
    cells : int
        The cells of `network`; 0, the default, is replaced by their number.
    network : Recipe
        The network to refine, for real images, with an attribute `channels`.
    features : tuple of int
        Channels of the refinement at each scale, finest first.
    fold : int
        Side of squares of pixels that become channels at the finest scale, as in `TLR`.
    slope : float
        Slope of its ReLUs below zero.
    exact : bool
        Whether data are noiseless and restored; otherwise all pixels have white noise.
    """

    cells: int = 0
    network: Recipe = field(default_factory=TLR)
    features: tuple[int, ...] = (48, 96, 128)
    fold: int = 2
    slope: float = 0.1
    exact: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.network, Recipe):
            raise TypeError(f"network must be a Recipe, got {self.network!r}")
        if self.cells == 0:
            object.__setattr__(self, "cells", self.network.cells)
        super().__post_init__()
        requirement = f"0 or {self.network.cells}, as of network"
        require(self.cells == self.network.cells, self, "cells", requirement)
        is_supported = self.network.axes == "B C H W" and hasattr(
            self.network, "channels"
        )
        require(is_supported, self, "network", "of images B C H W with channels")
        at_least(1, self, "fold")
        check_features(self, "features", 1)

    @property
    def axes(self) -> str:  # type: ignore[override]
        """Axes of the images."""
        return self.network.axes

    @property
    def measurement(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.network.measurement

    @property
    def has_penalty(self) -> bool:  # type: ignore[override]
        return self.network.has_penalty

    @property
    def channels(self) -> int:
        """Channels of the image."""
        network: Any = self.network
        channels: int = network.channels
        return channels

    def layers(self, last: bool) -> Mapping[str, Layer]:
        layers = dict(self.network.layers(last))
        if last:
            layers |= {_LABEL + name: chain for name, chain in self._chains().items()}
        return layers

    def operator(self, *measurement: Array) -> Operator:
        return self.network.operator(*measurement)

    def begin(self, problem: Problem) -> State:
        return self.network.begin(problem)

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        state = self.network.cell(state, problem, layers)
        if layers.index < self.cells - 1:
            return state
        refined = self.refine(state["x"], problem, Part(layers, _LABEL))
        return state | {"x": refined}

    def refine(self, x: Array, problem: Problem, layers: Layers) -> Array:
        """Refine the output of the network, (B, C, H, W), see the top of this module.

        `layers` are those of the refinement.
        """
        xp = namespace(x)
        mask = sampled_where(problem.A, x, "Refined")
        if not self.exact:
            return self.denoise(x, problem.y, noise_of_images(problem.y), layers)
        detail = x - _mean(x, xp)
        variance = _mean(xp.mean(detail * detail, axis=1, keepdims=True), xp)
        contrast = xp.sqrt(variance + _VARIANCE)
        scaled = detail / contrast
        change = self._maps(xp.concat([scaled, mask * scaled, mask], axis=1), layers)
        return problem.A.consistent(x + contrast * change, problem.y)

    def denoise(self, x: Array, y: Array, noise: Array, layers: Layers) -> Array:
        """Refine images (B, C, H, W) whose pixels are all measured, with white noise.

        `x` is the output of the inner network, `y` the data, and `noise` (B,) holds
        the standard deviations of the noise in the data.
        """
        xp = namespace(x)
        unit = cast_like(noise, x, xp)[:, None, None, None]
        detail, residual = (x - _mean(x, xp)) / unit, (y - x) / unit
        inputs = xp.concat([detail, residual, xp.ones_like(x)], axis=1)
        return x + unit * self._maps(inputs, layers)

    def _chains(self) -> dict[str, Convolutions]:
        features, coarsest = self.features, len(self.features) - 1
        pixels = self.fold**2
        chains = {}
        channels = 3 * self.channels * pixels
        for scale, width in enumerate(features):
            # The coarsest scale outputs only as many maps as the skip beside it.
            outputs = features[scale - 1] if scale == coarsest and scale else width
            chains[f"encoder_{scale}"] = self._chain(channels, width, outputs)
            channels = width
        for scale in reversed(range(coarsest)):
            width, outputs = features[scale], features[max(scale - 1, 0)]
            chains[f"decoder_{scale}"] = self._chain(2 * width, width, outputs)
        chains["image"] = Convolutions(
            (features[0], self.channels * pixels), axes=2, gains=(0.0,)
        )
        return chains

    def _chain(self, *widths: int) -> Convolutions:
        gains = (1.0,) * (len(widths) - 1)
        return Convolutions(widths, axes=2, slope=self.slope, last=True, gains=gains)

    def _maps(self, inputs: Array, layers: Layers) -> Array:
        xp = namespace(inputs)
        maps = layers.encoder_0(pixel_unshuffle(inputs, self.fold, xp))
        skips = []
        for scale in range(1, len(self.features)):
            skips.append(maps)
            maps = getattr(layers, f"encoder_{scale}")(halved(maps, xp))
        for scale in reversed(range(len(self.features) - 1)):
            skip = skips[scale]
            rows, columns = sizes(skip, xp)[-2:]
            maps = layers.doubled(maps)[..., :rows, :columns]
            maps = xp.concat([maps, skip], axis=1)
            maps = getattr(layers, f"decoder_{scale}")(maps)
        return pixel_shuffle(layers.image(maps), inputs, self.fold, xp)


def _mean(x: Array, xp: Any) -> Array:
    """Return the local mean within the image."""
    weight = blur(xp.ones_like(x[:1, :1]), _WIDTH)
    return blur(x, _WIDTH) / weight

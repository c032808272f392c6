"""TLR-Net: an unrolled low-rank network for colour compressed sensing.

The task is to reconstruct an image x from measurements y = A x, such as samples of its
pixels. The alternating direction method of multipliers splits x from an auxiliary image
z that has low rank after a transform. Each iteration becomes a cell with learned
transforms (Zhang & Hu, arXiv 2411.14141):

    z = v + D(SVT(E(v))),  v = x + l            low rank after a learned transform
    x = (z - l) - A^H (A (z - l) - y)           data consistency, exact
    l = l + eta * (x - z)                       multiplier

E and D are small convolutional networks without bias; SVT thresholds the singular
values of each feature map. If A samples pixels, the second line restores the samples:
``x = (1 - mask) * (z - l) + mask * y``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from svdinv.unroll.arrays import namespace
from svdinv.unroll.networks.functional import (
    at_least,
    check_image,
    fraction,
    from_blocks,
    normalised_fill,
    one_of,
    pixel_shuffle,
    pixel_unshuffle,
    positive,
    residual_gains,
    sampled_where,
    to_blocks,
)
from svdinv.unroll.networks.recipe import (
    Convolutions,
    Layer,
    Layers,
    Number,
    Recipe,
    State,
    register,
)
from svdinv.unroll.problem import Problem


@register
@dataclass(frozen=True, kw_only=True)
class TLR(Recipe):
    """Structure of a TLR-Net; the defaults are those of Zhang & Hu.

    Images are real, (B, C, H, W). With `start` = "fill", `side` = "samples" and
    `block` = 32, which are not in the paper, a network trained on small patches works
    on photographs of any size.

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    channels : int
        Channels of the image.
    low_rank_maps : int
        Feature maps whose singular values each cell thresholds.
    bypass_maps : int
        Feature maps that pass through a ReLU instead of the threshold.
    convs_before, convs_after : int
        Convolutions before and after the low-rank step. With `convs_before` = 0 the
        step acts on the channels of the image.
    fold : int
        Side of the squares of pixels that become channels for the convolutions, as in
        FFDNet (Zhang, Zuo & Zhang, IEEE TIP 2018): faster, with the same receptive
        field and number of weights.
    block : int or None
        Side of the blocks of a map to threshold separately; None for whole maps.
    start : {"adjoint", "fill"}
        First estimate: A^H y (zeros between samples), or `normalised_fill` of samples.
    side : {"none", "samples", "mask"}
        Input of the convolutions besides v: none; A^H y, which shows measured pixels
        and keeps the network homogeneous; or the mask, if A samples pixels.
    threshold : float
        Initial value of c, for thresholds ``sigmoid(c) * s_1``.
    step : float
        Initial value of eta.
    slope : float
        Slope of the ReLUs below zero.
    first_weights : {"released", "residual"}
        "released": initialised as the released network. "residual": a cell changes its
        image little at first and its convolutions preserve the variance; training is
        several times as fast.
    """

    features: int = 16
    channels: int = 3
    low_rank_maps: int = 3
    bypass_maps: int = 0
    convs_before: int = 3
    convs_after: int = 3
    fold: int = 1
    block: int | None = None
    start: Literal["adjoint", "fill"] = "adjoint"
    side: Literal["none", "samples", "mask"] = "none"
    threshold: float = -2.0
    step: float = 1.0
    slope: float = 0.0
    first_weights: Literal["released", "residual"] = "released"

    axes: ClassVar[str] = "B C H W"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "features", "channels", "low_rank_maps", "fold")
        at_least(0, self, "bypass_maps", "convs_before", "convs_after")
        if self.block is not None:
            at_least(1, self, "block")
        one_of(("adjoint", "fill"), self, "start")
        one_of(("none", "samples", "mask"), self, "side")
        one_of(("released", "residual"), self, "first_weights")
        image_maps = self.channels * self.fold**2
        maps_match = (self.low_rank_maps, self.bypass_maps) == (image_maps, 0)
        if 0 in (self.convs_before, self.convs_after) and not maps_match:
            raise ValueError(
                "with convs_before or convs_after 0 the maps are the image: "
                f"low_rank_maps must be {image_maps}, and bypass_maps 0"
            )

    def layers(self, last: bool) -> Mapping[str, Layer]:
        maps = self.low_rank_maps + self.bypass_maps
        extra = 0 if self.side == "none" else self.channels
        pixels = self.fold**2
        inputs, outputs = (self.channels + extra) * pixels, self.channels * pixels
        return {
            "analysis": self._chain(inputs, maps, self.convs_before),
            "threshold": Number(self.threshold),
            "synthesis": self._chain(maps, outputs, self.convs_after, residual=True),
            "eta": None if last else Number(self.step),
        }

    def begin(self, problem: Problem) -> State:
        x = problem.adjoint()
        xp = namespace(x)
        check_image(x, self.axes, channels=self.channels)
        state = {"l": xp.zeros_like(x)}
        if self.side == "samples":
            state["side"] = x
        if self.side == "mask" or self.start == "fill":
            option = "side='mask'" if self.side == "mask" else "start='fill'"
            weight = sampled_where(problem.A, x, option)
            if self.side == "mask":
                state["side"] = weight
            if self.start == "fill":
                x = normalised_fill(x, weight)
        return {"x": x, **state}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        x, l = state["x"], state["l"]
        v = x + l
        xp = namespace(v)
        inputs = v
        if "side" in state and self.convs_before:
            inputs = xp.concat([v, state["side"]], axis=1)
        maps = layers.analysis(pixel_unshuffle(inputs, self.fold, xp))
        share = fraction(layers.threshold, xp)
        kept = maps[:, : self.low_rank_maps]
        if self.block is None:
            kept = layers.svt(kept, share)
        else:
            blocks = layers.svt(to_blocks(kept, self.block, xp), share)
            kept = from_blocks(blocks, kept, xp)
        if self.bypass_maps:
            bypass = positive(maps[:, self.low_rank_maps :], xp)
            kept = xp.concat([kept, bypass], axis=1)
        z = v + pixel_shuffle(layers.synthesis(kept), v, self.fold, xp)
        x = problem.A.consistent(z - l, problem.y)
        if layers.eta is not None:
            l = l + layers.eta * (x - z)
        return state | {"x": x, "l": l}

    def _chain(
        self, first: int, last: int, count: int, *, residual: bool = False
    ) -> Convolutions:
        """Return convolutions; the last one of a residual chain is small at first."""
        widths = (first, *[self.features] * (count - 1), last) if count else ()
        gains: tuple[float, ...] = ()
        if self.first_weights == "residual" and count:
            gains = residual_gains(count) if residual else (1.0,) * count
        return Convolutions(widths, axes=2, slope=self.slope, gains=gains)

"""TLR-Net: an unrolled low-rank network for colour compressed sensing.

An image x is to be found from measurements y = A x, such as samples of its pixels. The
alternating direction method of multipliers splits x from an auxiliary image z that has
low rank after a transform, and each of its iterations becomes a cell with learned
transforms (Zhang & Hu, arXiv 2411.14141):

    z = v + D(SVT(E(v))),  v = x + l            low rank after a learned transform
    x = (z - l) - A^H (A (z - l) - y)           data consistency, exact
    l = l + eta * (x - z)                       multiplier

E and D are small convolutional networks without bias, SVT thresholds the singular
values of each feature map. Where A samples pixels the second line puts the samples
back in: ``x = (1 - mask) * (z - l) + mask * y``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from svdinv.unroll.arrays import namespace
from svdinv.unroll.networks.functional import (
    at_least,
    check_image,
    folded,
    fraction,
    from_blocks,
    normalised_fill,
    one_of,
    positive,
    residual_gains,
    sampled_where,
    to_blocks,
    unfolded,
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
    """Structure of a TLR-Net; as it stands, that of Zhang & Hu.

    Images are real, (B, C, H, W). With `start` = "fill", `side` = "samples" and
    `block` = 32, which are not in the paper, what was learned on small patches holds on
    photographs of any size.

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    channels : int
        Channels of the image.
    low_rank_maps : int
        Feature maps whose singular values each cell thresholds.
    bypass_maps : int
        Feature maps that go past the threshold, through a ReLU.
    convs_before, convs_after : int
        Convolutions in front of and behind the low-rank step. With `convs_before` = 0
        it acts on the channels of the image itself.
    fold : int
        Side of the squares of pixels that the convolutions see as channels of one
        pixel, as in FFDNet (Zhang, Zuo & Zhang, IEEE TIP 2018): the same reach and as
        many weights for a part of the time.
    block : int or None
        Side of the blocks of a map that are matrices of their own; None for whole maps.
    start : {"adjoint", "fill"}
        First estimate: A^H y, which is the samples with zeros between them, or
        `normalised_fill`, where A samples pixels.
    side : {"none", "samples", "mask"}
        What the convolutions see beside v: nothing, A^H y (hence which pixels are
        measured; the network stays homogeneous, black in, black out), or the mask
        itself, where A samples pixels.
    threshold : float
        First value of c, for thresholds ``sigmoid(c) * s_1``.
    step : float
        First value of eta.
    slope : float
        Slope of the ReLUs below zero.
    first_weights : {"released", "residual"}
        "released": as the released network had them. "residual": a cell changes its
        image little at first, and what passes through its convolutions neither grows
        nor fades; it learns several times as fast.
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
        folded = self.channels * self.fold**2
        plain = (self.low_rank_maps, self.bypass_maps) == (folded, 0)
        if 0 in (self.convs_before, self.convs_after) and not plain:
            raise ValueError(
                "where convs_before or convs_after is 0 the maps are the image: "
                f"low_rank_maps must be {folded}, and bypass_maps be 0"
            )

    def layers(self, last: bool) -> Mapping[str, Layer]:
        maps = self.low_rank_maps + self.bypass_maps
        beside = 0 if self.side == "none" else self.channels
        pixels = self.fold**2
        seen, given = (self.channels + beside) * pixels, self.channels * pixels
        return {
            "analysis": self._chain(seen, maps, self.convs_before),
            "threshold": Number(self.threshold),
            "synthesis": self._chain(maps, given, self.convs_after, residual=True),
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
            what = "side='mask'" if self.side == "mask" else "start='fill'"
            weight = sampled_where(problem.A, x, what)
            if self.side == "mask":
                state["side"] = weight
            if self.start == "fill":
                x = normalised_fill(x, weight)
        return {"x": x, **state}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        x, l = state["x"], state["l"]
        v = x + l
        xp = namespace(v)
        seen = v
        if "side" in state and self.convs_before:
            seen = xp.concat([v, state["side"]], axis=1)
        if self.fold > 1:
            seen = folded(seen, self.fold, xp)
        maps = layers.analysis(seen)
        share = fraction(layers.threshold, xp)
        kept = maps[:, : self.low_rank_maps]
        if self.block is None:
            kept = layers.svt(kept, share)
        else:
            blocks = layers.svt(to_blocks(kept, self.block, xp), share)
            kept = from_blocks(blocks, kept, xp)
        if self.bypass_maps:
            past = positive(maps[:, self.low_rank_maps :], xp)
            kept = xp.concat([kept, past], axis=1)
        change = layers.synthesis(kept)
        if self.fold > 1:
            change = unfolded(change, v, self.fold, xp)
        z = v + change
        x = problem.A.consistent(z - l, problem.y)
        if layers.eta is not None:
            l = l + layers.eta * (x - z)
        return state | {"x": x, "l": l}

    def _chain(
        self, first: int, last: int, count: int, *, residual: bool = False
    ) -> Convolutions:
        """Convolutions, the last of a residual chain small at first."""
        widths = (first, *[self.features] * (count - 1), last) if count else ()
        gains: tuple[float, ...] = ()
        if self.first_weights == "residual" and count:
            gains = residual_gains(count) if residual else (1.0,) * count
        return Convolutions(widths, axes=2, slope=self.slope, gains=gains)

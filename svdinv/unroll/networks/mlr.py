"""MLR-Net: an unrolled network whose prior sees an image at several scales.

The iteration is that of TLR-Net (`svdinv.unroll.networks.tlr`),

    z = v + D(v),  v = x + l
    x = (z - l) - A^H (A (z - l) - y)           data consistency, exact
    l = l + eta * (x - z)                       multiplier

but D is an encoder-decoder (Ronneberger, Fischer & Brox, MICCAI 2015): convolutions at
each scale, means of squares of two by two pixels down to the next, and squares of
pixels from four channels up again (Shi et al., CVPR 2016). Between encoder and decoder
of a scale the singular values of some maps are thresholded, block by block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from svdinv.unroll.arrays import Array, namespace
from svdinv.unroll.networks.fill import normalised_fill
from svdinv.unroll.networks.functional import (
    check_channels,
    folded,
    fraction,
    halved,
    low_rank,
    residual_gains,
    sampled_where,
    unfolded,
)
from svdinv.unroll.networks.recipe import (
    Convolutions,
    Layer,
    Layers,
    Number,
    Recipe,
    State,
    at_least,
    check_measurement,
    register,
)
from svdinv.unroll.operators import Operator, Sampling
from svdinv.unroll.problem import Problem

__all__ = ["MLR"]


@register
@dataclass(frozen=True, kw_only=True)
class MLR(Recipe):
    """Structure of an MLR-Net.

    Images are real, (B, C, H, W), of any size.

    Attributes
    ----------
    cells : int
        Number of unrolled iterations.
    features : tuple of int
        Channels at each scale, finest first; those behind the first are multiples of 4.
    channels : int
        Channels of the image.
    low_rank_maps : tuple of int
        How many maps of each scale have their singular values thresholded; 0 for none.
    block : int
        Side of the blocks of a map that are matrices of their own.
    convs : int
        Convolutions in front of and behind the low-rank step of each scale.
    fold : int
        Side of the squares of pixels that are channels of one pixel at the finest
        scale, as in FFDNet (Zhang, Zuo & Zhang, IEEE TIP 2018).
    start : {"fill", "adjoint"}
        First estimate: `normalised_fill`, where A samples pixels, or A^H y.
    threshold : float
        First value of c, for thresholds ``sigmoid(c) * s_1``.
    step : float
        First value of eta.
    slope : float
        Slope of the ReLUs below zero.
    """

    cells: int = 2
    features: tuple[int, ...] = (48, 96, 128)
    channels: int = 3
    low_rank_maps: tuple[int, ...] = (8, 8, 8)
    block: int = 16
    convs: int = 2
    fold: int = 2
    start: Literal["fill", "adjoint"] = "fill"
    threshold: float = -5.0
    step: float = 1.0
    slope: float = 0.1

    axes: ClassVar[str] = "B C H W"

    def __post_init__(self) -> None:
        """Refuse what makes no network.

        Raises
        ------
        ValueError
            Naming the attribute.
        """
        super().__post_init__()
        at_least(1, self, "channels", "block", "convs", "fold")
        for name in ("features", "low_rank_maps"):
            for value in getattr(self, name):
                if not isinstance(value, int) or not 0 <= value <= 2**14:
                    raise ValueError(
                        f"{name} must be integers from 0 to {2**14}, got "
                        f"{getattr(self, name)!r}"
                    )
        if not self.features or 0 in self.features:
            raise ValueError(f"features must be positive, got {self.features!r}")
        if any(width % 4 for width in self.features[1:]):
            raise ValueError(
                "features must be multiples of 4 behind the first, got "
                f"{self.features!r}"
            )
        within = zip(self.low_rank_maps, self.features, strict=False)
        if len(self.low_rank_maps) != len(self.features) or any(
            maps > width for maps, width in within
        ):
            raise ValueError(
                "low_rank_maps must be one for each scale, and not above its features "
                f"{self.features!r}, got {self.low_rank_maps!r}"
            )
        if self.start not in ("adjoint", "fill"):
            raise ValueError(f"start must be 'fill' or 'adjoint', got {self.start!r}")

    def layers(self, last: bool) -> Mapping[str, Layer]:
        """Name the layers of a cell; the last needs no multiplier."""
        pixels, scales = self.fold**2, len(self.features)
        layers: dict[str, Layer] = {}
        before = 2 * self.channels * pixels
        for scale, width in enumerate(self.features):
            layers[f"encoder_{scale}"] = self._chain(before, width)
            maps = self.low_rank_maps[scale]
            layers[f"threshold_{scale}"] = Number(self.threshold) if maps else None
            before = width
        for scale in reversed(range(scales)):
            width = self.features[scale]
            below = self.features[scale + 1] // 4 if scale + 1 < scales else 0
            image = None if scale else self.channels * pixels
            layers[f"decoder_{scale}"] = self._chain(below + width, width, image)
        layers["eta"] = None if last else Number(self.step)
        return layers

    def operator(self, *measurement: Array) -> Operator:
        """Sample the pixels of a mask, (B, C, H, W)."""
        check_measurement(self, measurement)
        return Sampling(*measurement)

    def begin(self, problem: Problem) -> State:
        """Start from the samples with their gaps filled, or from A^H y."""
        side = problem.adjoint()
        xp = namespace(side)
        check_channels(side, self.axes, self.channels, xp)
        x = side
        if self.start == "fill":
            x = normalised_fill(x, sampled_where(problem.A, x, "start='fill'"))
        return {"x": x, "l": xp.zeros_like(x), "side": side}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        """Iterate once, as at the top of this module."""
        x, l = state["x"], state["l"]
        v = x + l
        z = v + self._change(v, state["side"], layers)
        x = problem.A.consistent(z - l, problem.y)
        if layers.eta is not None:
            l = l + layers.eta * (x - z)
        return state | {"x": x, "l": l}

    def _change(self, v: Array, side: Array, layers: Layers) -> Array:
        """D(v)."""
        xp = namespace(v)
        maps = xp.concat([v, side], axis=1)
        if self.fold > 1:
            maps = folded(maps, self.fold, xp)
        scales = range(len(self.features))
        passed = []
        for scale in scales:
            maps = halved(maps, xp) if scale else maps
            maps = getattr(layers, f"encoder_{scale}")(maps)
            if self.low_rank_maps[scale]:
                share = fraction(getattr(layers, f"threshold_{scale}"), xp)
                count = self.low_rank_maps[scale]
                thresholded = low_rank(maps[:, :count], share, self.block, layers)
                maps = xp.concat([thresholded, maps[:, count:]], axis=1)
            passed.append(maps)
        for scale in reversed(scales):
            seen = passed[scale]
            if scale + 1 < len(passed):
                seen = xp.concat([unfolded(maps, seen, 2, xp), seen], axis=1)
            maps = getattr(layers, f"decoder_{scale}")(seen)
        return unfolded(maps, v, self.fold, xp) if self.fold > 1 else maps

    def _chain(self, first: int, width: int, image: int | None = None) -> Convolutions:
        """Convolutions of one scale; the last of all gives the change of the image."""
        last = width if image is None else image
        widths = (first, *[width] * (self.convs - 1), last)
        gains = (1.0,) * self.convs if image is None else residual_gains(self.convs)
        return Convolutions(
            widths, axes=2, slope=self.slope, last=image is None, gains=gains
        )

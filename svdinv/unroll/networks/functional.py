"""Pieces that several networks share."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

from svdinv.unroll.arrays import (
    Array,
    Namespace,
    cast_like,
    check_count,
    count_up,
    namespace,
    operators,
    sizes,
    zero_padded,
)
from svdinv.unroll.operators import Operator
from svdinv.unroll.priors.local_phase import blur, each_row, join_complex

SCALES = (6.0, 2.0, 0.8)
"""Widths of the Gaussians in pixels, coarsest first: holes, then detail."""

# A scale is trusted where its window holds about this weight of samples.
_ENOUGH = 0.05


def positive(x: Array, xp: Namespace) -> Array:
    """max(x, 0), with slope 0 at 0."""
    return xp.where(x > 0, x, xp.zeros_like(x))


def fraction(c: Array, xp: Namespace) -> Array:
    """Sigmoid of c: a fraction of something, whatever is learned."""
    # Of the two ways to write it that which does not overflow: the derivative of the
    # other would be NaN.
    e = xp.exp(xp.where(c > 0, -c, c))
    return xp.where(c > 0, xp.ones_like(e), e) / (1 + e)


def svt(matrices: Array, fraction: Array, scale: Array | None = None) -> Array:
    """Soft-threshold singular values, as `Layers.svt` describes."""
    tau = fraction if scale is None else fraction * scale
    return operators(matrices).svt(matrices, tau, relative=scale is None)


def soft(x: Array, tau: Array, xp: Namespace) -> Array:
    """Soft threshold of real numbers, ``max(x - tau, 0) - max(-x - tau, 0)``."""
    return positive(x - tau, xp) - positive(-x - tau, xp)


def to_channels(x: Array, xp: Namespace) -> Array:
    """Real and imaginary part of (B, T, H, W) as two channels, (B, 2, T, H, W)."""
    return xp.stack([xp.real(x), xp.imag(x)], axis=1)


def to_complex(channels: Array, x: Array, xp: Namespace) -> Array:
    """Two channels (B, 2, T, H, W) as complex numbers of the dtype of `x`."""
    return join_complex(channels[:, 0], channels[:, 1], x, xp)


def to_blocks(maps: Array, block: int, xp: Namespace) -> Array:
    """Cut (..., H, W) into (..., rows, columns, block, block), filled up with zeros."""
    *batch, H, W = sizes(maps, xp)
    maps = zero_padded(maps, -H % block, -2, xp)
    maps = zero_padded(maps, -W % block, -1, xp)
    rows, columns, n = -(-H // block), -(-W // block), len(batch)
    x = xp.reshape(maps, (*batch, rows, block, columns, block))
    return xp.permute_dims(x, (*range(n), n, n + 2, n + 1, n + 3))


def from_blocks(blocks: Array, maps: Array, xp: Namespace) -> Array:
    """Undo `to_blocks`, to the size of `maps`."""
    *batch, rows, columns, block, _ = sizes(blocks, xp)
    H, W = sizes(maps, xp)[-2:]
    n = len(batch)
    x = xp.permute_dims(blocks, (*range(n), n, n + 2, n + 1, n + 3))
    x = xp.reshape(x, (*batch, rows * block, columns * block))
    return x[..., :H, :W]


def folded(maps: Array, fold: int, xp: Namespace) -> Array:
    """Turn squares of pixels into channels, filled up with zeros.

    From (B, C, ..., H, W) to (B, C fold^2, ..., H / fold, W / fold), rounded up.
    """
    x = to_blocks(maps, fold, xp)
    n = len(x.shape)
    x = xp.permute_dims(x, (0, 1, n - 2, n - 1, *range(2, n - 2)))
    B, C, _, _, *rest = sizes(x, xp)
    return xp.reshape(x, (B, C * fold**2, *rest))


def unfolded(maps: Array, image: Array, fold: int, xp: Namespace) -> Array:
    """Undo `folded`, to the height and width of `image`."""
    B, C, *rest = sizes(maps, xp)
    x = xp.reshape(maps, (B, C // fold**2, fold, fold, *rest))
    x = xp.permute_dims(x, (0, 1, *range(4, len(rest) + 4), 2, 3))
    return from_blocks(x, image, xp)


def halved(maps: Array, xp: Namespace) -> Array:
    """Means of squares of two by two pixels, with zeros beyond an odd edge."""
    *batch, H, W = sizes(maps, xp)
    maps = zero_padded(zero_padded(maps, -H % 2, -2, xp), -W % 2, -1, xp)
    squares = xp.reshape(maps, (*batch, -(-H // 2), 2, -(-W // 2), 2))
    return xp.mean(squares, axis=(-3, -1))


def doubled(maps: Array) -> Array:
    """Twice as many rows and columns, between them by linear interpolation."""
    xp = namespace(maps)
    H, W = sizes(maps, xp)[-2:]
    down, right = (_between(n, maps, xp) for n in (H, W))
    return each_row(down @ maps, xp.matrix_transpose(right), xp)


def _between(size: int, like: Array, xp: Namespace) -> Array:
    """Matrix (2 size, size) of the linear interpolation along an axis."""
    place = (count_up(2 * size, like, xp) - 0.5) / 2
    known = count_up(size, like, xp)
    # Nothing is known beyond the edge.
    place = xp.where(place > 0, place, xp.zeros_like(place))
    place = xp.where(place < known[-1], place, known[-1])
    distance = xp.abs(place[:, None] - known[None, :])
    return xp.where(distance < 1, 1 - distance, xp.zeros_like(distance))


def low_rank_parts(v: Array, layers: Any) -> Array:
    """``v + D(SVT(E(v)))`` of complex series, E and D on real and imaginary part."""
    xp = namespace(v)
    channels = to_channels(v, xp)
    maps = to_complex(layers.analysis(channels), v, xp)
    maps = layers.svt(maps, fraction(layers.threshold, xp))
    return to_complex(channels + layers.synthesis(to_channels(maps, xp)), v, xp)


def sampled_where(A: Operator, x: Array, what: str) -> Array:
    """Return 1 where a pixel is measured and 0 elsewhere, as `what` needs it.

    Raises TypeError if A does not sample pixels.
    """
    if A.pixel_mask is None:
        raise TypeError(
            f"{what} needs an operator that samples pixels, got {type(A).__name__}"
        )
    xp = namespace(x)
    return xp.where(cast_like(A.pixel_mask, x, xp), xp.ones_like(x), xp.zeros_like(x))


def residual_gains(count: int) -> tuple[float, ...]:
    """Gains of a chain of convolutions whose result is added to something.

    The last is small: a cell begins near the iteration that it is learned beside.
    """
    return (*[1.0] * (count - 1), 0.04)


def check_image(
    x: Array, axes: str, *, complex_: bool = False, channels: int | None = None
) -> None:
    """Check the first estimate, and with it the measured values and the operator.

    Raises ValueError if it does not have the axes that the network works on, or so many
    `channels`, TypeError if it is real and should be complex, the other way round, or
    of integers.
    """
    shape = f"got shape {tuple(x.shape)} from the measured values"
    missing = len(axes.split()) - len(x.shape)
    if missing:
        hint = (
            "give an image of (H, W) as (1, H, W)" if missing > 0 else "coils need maps"
        )
        raise ValueError(f"the image must have the axes {axes}, {shape} ({hint})")
    kind = "complex" if complex_ else "real"
    if not namespace(x).isdtype(x.dtype, f"{kind} floating"):
        raise TypeError(
            f"the image must be {kind} and floating point in this network, of {axes}, "
            f"got {x.dtype} from the measured values"
        )
    if channels is not None and x.shape[1] not in (channels, None):
        raise ValueError(f"the image must have {channels} channels, {shape}")


# Of cells, features, convolutions or pixels of a side: far above what makes sense.
_MOST = 2**20


def at_least(least: int, recipe: Any, *names: str) -> None:
    """Check attributes that count something; ValueError names the first wrong one."""
    for name in names:
        value = getattr(recipe, name)
        check_count(name, value, least)
        if value > _MOST:
            raise ValueError(f"{name} must be at most {_MOST}, got {value}")


def require(holds: bool, recipe: Any, name: str, due: str) -> None:
    """Unless it `holds`, raise ValueError: what an attribute must be, and is."""
    if not holds:
        raise ValueError(f"{name} must be {due}, got {getattr(recipe, name)!r}")


def one_of(choices: tuple[str, ...], recipe: Any, name: str) -> None:
    """Check an attribute that is one of several names; ValueError lists them."""
    due = " or ".join((", ".join(map(repr, choices[:-1])), repr(choices[-1])))
    require(getattr(recipe, name) in choices, recipe, name, due)


def check_features(recipe: Any, name: str, least: int) -> None:
    """Check the channels at each scale of an encoder or decoder."""
    features = getattr(recipe, name)
    whole = all(isinstance(n, int) and least <= n <= 2**14 for n in features)
    due = f"integers from {least} to {2**14}"
    require(bool(features) and whole, recipe, name, due)


def check_floats(recipe: Any) -> None:
    """Check the attributes declared as float, and make them Python's."""
    for entry in dataclasses.fields(recipe):
        if entry.type not in ("float", float):
            continue
        value = getattr(recipe, entry.name)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{entry.name} must be a real number, got {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"{entry.name} must be finite, got {value!r}")
        object.__setattr__(recipe, entry.name, float(value))


def normalised_fill(
    samples: Array, mask: Array, scales: Sequence[float] = SCALES
) -> Array:
    """Fill the gaps between samples with Gaussian means of the samples around them.

    Normalised convolution, ``blur(mask * y) / blur(mask)`` (Knutsson & Westin, CVPR
    1993), at several widths in pixels, coarsest first: each finer mean replaces the
    coarser one as far as there are samples near enough to carry it. Linear in the
    samples, which stay as they are, so black stays black. Of (..., H, W), each channel
    on its own; the mask is 1 where measured.
    """
    xp = namespace(samples)
    measured = mask * samples
    filled = xp.zeros_like(samples)
    for rank, scale in enumerate(scales):
        weight = blur(mask, scale)
        tiny = xp.finfo(weight.dtype).smallest_normal
        local = blur(measured, scale) / xp.where(weight > tiny, weight, tiny)
        trust = weight / (weight + _ENOUGH) if rank else 1.0
        filled = filled + trust * (local - filled)
    return measured + (1 - mask) * filled

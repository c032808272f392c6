"""Functions that several networks share."""

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
    each_row,
    join_complex,
    like,
    namespace,
    operators,
    sizes,
    times,
    zero_padded,
)
from svdinv.unroll.operators import Operator
from svdinv.unroll.priors.local_phase import blur

SCALES = (6.0, 2.0, 0.8)
"""Standard deviations in pixels of the means in `normalised_fill`, coarsest first."""

# Sum of sample weights in a window at which the finer scale counts half.
_ENOUGH = 0.05


def positive(x: Array, xp: Namespace) -> Array:
    """Return max(x, 0), with derivative 0 at 0."""
    return xp.where(x > 0, x, xp.zeros_like(x))


def fraction(c: Array, xp: Namespace) -> Array:
    """Return the sigmoid of c, a fraction in (0, 1)."""
    # Choose the form that does not overflow: the derivative of the other is NaN.
    e = xp.exp(xp.where(c > 0, -c, c))
    return xp.where(c > 0, xp.ones_like(e), e) / (1 + e)


def svt(matrices: Array, fraction: Array, scale: Array | None = None) -> Array:
    """Soft-threshold singular values, see `Layers.svt`."""
    if scale is None:
        return operators(matrices).svt(matrices, fraction, relative=True)
    return operators(matrices).svt(matrices, times(fraction, scale, namespace(scale)))


def soft(x: Array, tau: Array, xp: Namespace) -> Array:
    """Soft-threshold real numbers: ``max(x - tau, 0) - max(-x - tau, 0)``."""
    tau = like(tau, x, xp) if hasattr(tau, "dtype") else tau
    return positive(x - tau, xp) - positive(-x - tau, xp)


def to_channels(x: Array, xp: Namespace) -> Array:
    """Return real and imaginary part of (B, T, H, W) as channels, (B, 2, T, H, W)."""
    return xp.stack([xp.real(x), xp.imag(x)], axis=1)


def to_complex(channels: Array, x: Array, xp: Namespace) -> Array:
    """Return two channels (B, 2, T, H, W) as complex numbers of the dtype of `x`."""
    return join_complex(channels[:, 0], channels[:, 1], x, xp)


def to_blocks(maps: Array, block: int, xp: Namespace) -> Array:
    """Cut (..., H, W), zero-padded, into blocks (..., rows, columns, block, block)."""
    *batch, H, W = sizes(maps, xp)
    maps = zero_padded(maps, -H % block, -2, xp)
    maps = zero_padded(maps, -W % block, -1, xp)
    rows, columns, n = -(-H // block), -(-W // block), len(batch)
    x = xp.reshape(maps, (*batch, rows, block, columns, block))
    return xp.permute_dims(x, (*range(n), n, n + 2, n + 1, n + 3))


def from_blocks(blocks: Array, maps: Array, xp: Namespace) -> Array:
    """Invert `to_blocks`, cropping to the height and width of `maps`."""
    *batch, rows, columns, block, _ = sizes(blocks, xp)
    H, W = sizes(maps, xp)[-2:]
    n = len(batch)
    x = xp.permute_dims(blocks, (*range(n), n, n + 2, n + 1, n + 3))
    x = xp.reshape(x, (*batch, rows * block, columns * block))
    return x[..., :H, :W]


def pixel_unshuffle(maps: Array, fold: int, xp: Namespace) -> Array:
    """Turn squares of fold x fold pixels into channels (space-to-depth), zero-padded.

    The shape changes from (B, C, ..., H, W) to
    (B, C fold^2, ..., ceil(H / fold), ceil(W / fold)).
    """
    if fold == 1:
        return maps
    x = to_blocks(maps, fold, xp)
    n = len(x.shape)
    x = xp.permute_dims(x, (0, 1, n - 2, n - 1, *range(2, n - 2)))
    B, C, _, _, *rest = sizes(x, xp)
    return xp.reshape(x, (B, C * fold**2, *rest))


def pixel_shuffle(maps: Array, image: Array, fold: int, xp: Namespace) -> Array:
    """Invert `pixel_unshuffle`, cropping to the height and width of `image`."""
    if fold == 1:
        return maps
    B, C, *rest = sizes(maps, xp)
    x = xp.reshape(maps, (B, C // fold**2, fold, fold, *rest))
    x = xp.permute_dims(x, (0, 1, *range(4, len(rest) + 4), 2, 3))
    return from_blocks(x, image, xp)


def halved(maps: Array, xp: Namespace) -> Array:
    """Average 2 x 2 pixels, with zero padding beyond an odd edge."""
    *batch, H, W = sizes(maps, xp)
    maps = zero_padded(zero_padded(maps, -H % 2, -2, xp), -W % 2, -1, xp)
    squares = xp.reshape(maps, (*batch, -(-H // 2), 2, -(-W // 2), 2))
    return xp.mean(squares, axis=(-3, -1))


def doubled(maps: Array) -> Array:
    """Double the numbers of rows and columns by linear interpolation."""
    xp = namespace(maps)
    H, W = sizes(maps, xp)[-2:]
    down, right = (_between(n, maps, xp) for n in (H, W))
    return each_row(down @ maps, xp.matrix_transpose(right), xp)


def _between(size: int, like: Array, xp: Namespace) -> Array:
    """Return the matrix (2 size, size) of linear interpolation along an axis."""
    position = (count_up(2 * size, like, xp) - 0.5) / 2
    grid = count_up(size, like, xp)
    # Positions beyond the edge get the value at the edge.
    position = xp.where(position > 0, position, xp.zeros_like(position))
    position = xp.where(position < grid[-1], position, grid[-1])
    distance = xp.abs(position[:, None] - grid[None, :])
    return xp.where(distance < 1, 1 - distance, xp.zeros_like(distance))


def low_rank_parts(v: Array, layers: Any) -> Array:
    """Return ``v + D(SVT(E(v)))`` of complex series; E, D act on two real channels."""
    xp = namespace(v)
    channels = to_channels(v, xp)
    maps = to_complex(layers.analysis(channels), v, xp)
    maps = layers.svt(maps, fraction(layers.threshold, xp))
    return to_complex(channels + layers.synthesis(to_channels(maps, xp)), v, xp)


def sampled_where(A: Operator, x: Array, what: str) -> Array:
    """Return 1 at measured pixels and 0 elsewhere, with the shape and dtype of x.

    Raises TypeError, saying that `what` needs this, if A does not sample pixels.
    """
    if A.pixel_mask is None:
        raise TypeError(
            f"{what} needs an operator that samples pixels, got {type(A).__name__}"
        )
    xp = namespace(x)
    return xp.where(cast_like(A.pixel_mask, x, xp), xp.ones_like(x), xp.zeros_like(x))


def residual_gains(count: int) -> tuple[float, ...]:
    """Return the gains of a residual branch, the last small to start near 0."""
    return (*[1.0] * (count - 1), 0.04)


def check_axes(x: Array, axes: str) -> None:
    """Raise ValueError if an image has not the axes of the network, such as B C H W."""
    names, shape = axes.split(), tuple(x.shape)
    if len(names) == len(shape):
        return
    hint = f"axes of length 1 to add in front: {len(names) - len(shape)}"
    hint = hint if len(names) > len(shape) else "coils need maps"
    raise ValueError(
        f"the image must have the axes {axes}, got shape {shape} from the measured "
        f"values ({hint})"
    )


def check_image(
    x: Array, axes: str, *, complex_: bool = False, channels: int | None = None
) -> None:
    """Check the shape and dtype of the first estimate.

    Raises ValueError if it lacks the axes of the network, or has another number of
    `channels`; TypeError if it is not floating point, or not real or complex as needed.
    """
    check_axes(x, axes)
    kind = "complex" if complex_ else "real"
    if not namespace(x).isdtype(x.dtype, f"{kind} floating"):
        raise TypeError(
            f"the image must be {kind} and floating point in this network, of {axes}, "
            f"got {x.dtype} from the measured values"
        )
    if channels is not None and x.shape[1] not in (channels, None):
        shape = f"got shape {tuple(x.shape)} from the measured values"
        raise ValueError(f"the image must have {channels} channels, {shape}")


# Upper limit of counts (cells, features, pixels of a side), far above useful values.
_MAX_COUNT = 2**20


def at_least(least: int, recipe: Any, *names: str) -> None:
    """Check that counts are at least `least`; ValueError names the first wrong one."""
    for name in names:
        value = getattr(recipe, name)
        check_count(name, value, least)
        if value > _MAX_COUNT:
            raise ValueError(f"{name} must be at most {_MAX_COUNT}, got {value}")


def require(holds: bool, recipe: Any, name: str, requirement: str) -> None:
    """Raise ValueError with the `requirement` of an attribute unless it `holds`."""
    if not holds:
        raise ValueError(f"{name} must be {requirement}, got {getattr(recipe, name)!r}")


def one_of(choices: tuple[str, ...], recipe: Any, name: str) -> None:
    """Check that an attribute is one of `choices`; ValueError lists them."""
    requirement = " or ".join((", ".join(map(repr, choices[:-1])), repr(choices[-1])))
    require(getattr(recipe, name) in choices, recipe, name, requirement)


def check_features(recipe: Any, name: str, least: int) -> None:
    """Check the channels at each scale of an encoder or decoder."""
    features = getattr(recipe, name)
    valid = all(isinstance(n, int) and least <= n <= 2**14 for n in features)
    requirement = f"integers from {least} to {2**14}"
    require(bool(features) and valid, recipe, name, requirement)


def check_floats(recipe: Any) -> None:
    """Check the attributes declared as float and convert them to Python floats."""
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
    coarser one where enough samples are near. The result is linear in the samples and
    equal to them where the mask is 1. Images are (..., H, W), each channel on its own.
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

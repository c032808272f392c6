"""A first estimate of an image from its samples: normalised convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

from svdinv.unroll.arrays import Array, Namespace, count_up, namespace, sizes

SCALES = (6.0, 2.0, 0.8)
"""Widths of the Gaussians in pixels, coarsest first: holes, then detail."""

# A scale is trusted where its window holds about this weight of samples.
_ENOUGH = 0.05


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


def blur(images: Array, width: float) -> Array:
    """Blur real images (..., H, W) by a Gaussian, with zeros around them.

    An impulse becomes a bell of sum 1, cut off at three of the standard deviations in
    pixels, `width`.
    """
    xp = namespace(images)
    rows, columns = (_bells(n, width, images, xp) for n in sizes(images, xp)[-2:])
    return rows @ images @ columns


def _bells(size: int, width: float, like: Array, xp: Namespace) -> Array:
    """Matrix of a blur along one axis: a bell around every pixel."""
    pixels = count_up(size, like, xp)
    distance = pixels[:, None] - pixels[None, :]
    radius = max(1, round(3 * width))
    offsets = range(-radius, radius + 1)
    total = sum(math.exp(-((i / width) ** 2) / 2) for i in offsets)
    bell = xp.exp(-((distance / width) ** 2) / 2) / total
    return xp.where(xp.abs(distance) <= radius, bell, xp.zeros_like(bell))

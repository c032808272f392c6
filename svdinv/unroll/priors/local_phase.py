"""Removal of the phase of the local mean from complex images.

If the phase of an image varies slowly, its imaginary part is small once that phase is
removed, as in partial Fourier imaging (Noll, Nishimura & Macovski, IEEE Trans. Med.
Imaging, 1991).
"""

from __future__ import annotations

import math

from svdinv.unroll.arrays import (
    Array,
    Namespace,
    cast_like,
    count_up,
    each_row,
    join_complex,
    namespace,
    sizes,
    times,
)


def conjugate_phase(x: Array, width: float) -> Array:
    """Compute the factors that cancel the phase of the local mean of complex images.

    They have magnitude 1, and the shape (..., H, W) of `x`; the mean is Gaussian, with
    a standard deviation of `width` pixels. Where it is 0 the factor is 1.
    """
    xp = namespace(x)
    parts = blur(xp.real(x), width), blur(xp.imag(x), width)
    mean = join_complex(*parts, x, xp)
    size = xp.abs(mean)
    one = xp.ones_like(size)
    unit = times(1 / xp.where(size > 0, size, one), xp.conj(mean), xp)
    return xp.where(size > 0, unit, cast_like(one, unit, xp))


def blur(images: Array, width: float) -> Array:
    """Blur real images (..., H, W) with a Gaussian, zero-padded.

    The kernel has sum 1 and a standard deviation of `width` pixels, cut off at three.
    """
    xp = namespace(images)
    rows, columns = (_bells(n, width, images, xp) for n in sizes(images, xp)[-2:])
    return each_row(rows @ images, columns, xp)


def _bells(size: int, width: float, like: Array, xp: Namespace) -> Array:
    """Return the matrix of a Gaussian blur along one axis."""
    pixels = count_up(size, like, xp)
    distance = pixels[:, None] - pixels[None, :]
    radius = max(1, round(3 * width))
    offsets = range(-radius, radius + 1)
    total = sum(math.exp(-((i / width) ** 2) / 2) for i in offsets)
    bell = xp.exp(-((distance / width) ** 2) / 2) / total
    return xp.where(xp.abs(distance) <= radius, bell, xp.zeros_like(bell))

"""Estimates of the noise of k-space and of images, as inputs of networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from svdinv.backends.tape import untraced
from svdinv.core.namespace import real, safe_divide
from svdinv.unroll.arrays import (
    Array,
    Namespace,
    backend,
    cast_like,
    count_up,
    like,
    namespace,
    operators,
    root,
    sizes,
)
from svdinv.unroll.operators import MRI, Operator
from svdinv.unroll.operators.wrapped import OnHost

QUIET = 1e-4
"""Least standard deviation of noise distinguished from none, for images in [0, 1]."""

_EULER = 0.5772156649  # Euler's constant
_LEAST = 1e-3  # energy relative to the largest, below which weights saturate
_ROUNDED = 10  # limit of rounding errors in eps, relative to the root of the energy
_SHRUNK = 0.1  # multiple of the squared mean that is added to the variance


def noise_of_kspace(y: Array, A: Operator, scale: Array) -> Array:
    """Estimate the standard deviation of the noise of each series, (B,).

    All combinations of the coils have the same noise but different sensitivities, so a
    line fitted to their energies is extrapolated to zero sensitivity.
    """
    xp = namespace(y)
    if not isinstance(A, MRI):
        return xp.zeros_like(scale)
    y = A.project_to_samples(y)
    if A.maps is None:
        return root(_outer_energy(y[:, :, None], xp)[:, 0], xp)
    sensitivity, vectors = operators(y).eigh(_gram(cast_like(A.maps, y, xp)))
    *first, C, H, W = sizes(y, xp)
    weights = like(xp.matrix_transpose(vectors), y, xp)
    combined = weights @ xp.reshape(y, (*first, C, H * W))
    energy = _outer_energy(xp.reshape(combined, (*first, C, H, W)), xp)
    sensitivity = like(xp.reshape(sensitivity, (-1, C)), energy, xp)
    return root(_at_zero(sensitivity, energy, xp), xp)


def _outer_energy(y: Array, xp: Namespace) -> Array:
    """Return the mean energy of the outer samples of each coil, (B, C).

    A geometric mean, weighted towards the corners of k-space: the few large samples
    there, which are due to edges, have little influence.
    """
    energy = real(xp.conj(y) * y, xp)
    axes = (1, 3, 4)
    sampled = energy > 0
    is_sampled = xp.where(sampled, xp.ones_like(energy), xp.zeros_like(energy))
    H, W = sizes(energy, xp)[-2:]
    weight = is_sampled * _outer(H, energy, xp)[:, None] * _outer(W, energy, xp)
    logarithm = xp.log(xp.where(sampled, energy, xp.ones_like(energy)))
    total = xp.sum(weight, axis=axes)
    any_sampled = total > 0
    mean = safe_divide(xp.sum(weight * logarithm, axis=axes), total, any_sampled, xp)
    # The mean logarithm of noise is the logarithm of its mean energy less _EULER.
    return xp.where(any_sampled, xp.exp(mean + _EULER), xp.zeros_like(mean))


def _gram(maps: Array) -> Array:
    """Return inner products of the coil maps, over pixels and frames if any."""
    xp = namespace(maps)
    *batch, m, n = sizes(maps, xp)  # m n, because -1 is ambiguous for an empty batch
    rows = xp.reshape(maps, (*batch, m * n))
    gram = xp.conj(rows) @ xp.matrix_transpose(rows)
    return xp.sum(gram, axis=-3, keepdims=True) if len(gram.shape) > 2 else gram


def _at_zero(x: Array, y: Array, xp: Namespace) -> Array:
    """Extrapolate a line along the last axis to x = 0, for y >= 0.

    Assumes equal relative errors of y, and ignores values that may be rounding errors,
    such as those of a coil that is switched off. The slope is biased towards zero,
    since for similar x the errors would determine it.
    """
    largest = xp.max(y, axis=-1, keepdims=True)
    significant = y > (_ROUNDED * float(xp.finfo(y.dtype).eps)) ** 2 * largest
    weight = safe_divide(largest, y + _LEAST * largest, significant, xp) ** 2

    def mean(values: Array) -> Array:
        total = xp.sum(weight, axis=-1)
        return safe_divide(xp.sum(weight * values, axis=-1), total, total > 0, xp)

    x_mean, y_mean = mean(x), mean(y)
    x_off = x - x_mean[..., None]
    spread = mean(x_off * x_off) + _SHRUNK * x_mean * x_mean
    slope = safe_divide(mean(x_off * y), spread, spread > 0, xp)
    return xp.where(slope > 0, y_mean - slope * x_mean, y_mean)


def _outer(size: Any, like: Array, xp: Namespace) -> Array:
    """Return weights along an axis of k-space: 0 in the middle, 1 at the border."""
    index = count_up(size, like, xp)
    # Summed, because the size may be unknown in a TensorFlow graph.
    middle = xp.sum(xp.ones_like(index)) / 2
    square = ((index - middle) / (middle + 1)) ** 2
    return square * square


def noise_of_images(x: Array) -> Array:
    """Estimate the standard deviation (B,) of white noise in images (B, C, H, W).

    It is that of `noise_deviation`, but at least 1e-4; no gradient passes through it.
    """
    from svdinv.unroll.algorithms.non_local import noise_deviation

    guide = untraced(backend(x).stop_gradient(x))
    found = OnHost(
        lambda x: np.reshape(noise_deviation(x), (1,)), (tuple(x.shape[1:]),), (1,)
    )(guide)
    xp = namespace(found)
    found = real(found, xp)
    return xp.where(found > QUIET, found, xp.zeros_like(found) + QUIET)[:, 0]

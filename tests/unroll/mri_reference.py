"""The measurement of MRI in NumPy, to compare with: it uses nothing of svdinv."""

from __future__ import annotations

import numpy as np

AXES = (-2, -1)


def fourier(x):
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, AXES), norm="ortho"), AXES)


def inverse(k):
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k, AXES), norm="ortho"), AXES)


def operators(mask, maps=None):
    """A and A^H of series (..., T, H, W), with maps (..., C, H, W) if any."""
    if maps is None:
        return lambda x: mask * fourier(x), lambda y: inverse(mask * y)
    maps, mask = maps[..., None, :, :, :], mask[..., None, :, :]
    return (
        lambda x: mask * fourier(maps * x[..., None, :, :]),
        lambda y: (maps.conj() * inverse(mask * y)).sum(-3),
    )

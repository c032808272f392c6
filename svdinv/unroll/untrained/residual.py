"""What a fit left of the data: a part of it brought back, and cleaned of noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing

__all__ = ["cleaned", "denoiser"]

Image = NDArray[Any]

_PARTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_STRENGTH = 0.8  # of the filter, in units of the noise


def cleaned(average: Image, y: Image, measured: Image, held: Image) -> Image:
    """Bring back a part of the residual, and take its noise out by non-local means.

    As the iterations of Gu et al. (weighted nuclear norm, CVPR 2014) feed noise back,
    for the details that come with it: patches that look alike tell them from noise.

    Parameters
    ----------
    average : ndarray, shape (C, H, W)
        The fit.
    y : ndarray, shape (C, H, W)
        Data, each the value of a pixel with noise.
    measured, held : ndarray of bool, shape (C, H, W)
        Where there are data, and which of them were not fitted. They say how large the
        noise is, and which part is best.

    Returns
    -------
    ndarray, shape (C, H, W)
        The image; the average itself where no part brings it nearer to what was held
        out.
    """
    residual = np.where(measured, y - average, 0)
    variance = float(np.mean(residual[held] ** 2))
    known, filtered = np.where(held, 0, residual), denoiser()

    def image(part: float, residual: Image) -> Image:
        sigma = part * math.sqrt(variance)
        return filtered(average + part * residual, sigma).astype(average.dtype)

    best, least = 0.0, variance
    for part in _PARTS if variance else ():
        error = float(np.mean((y - image(part, known))[held] ** 2))
        if error < least:
            best, least = part, error
    return image(best, residual) if best else average


def denoiser() -> Callable[[Image, float], Image]:
    """Give the non-local means of scikit-image (Buades, Coll & Morel, CVPR 2005).

    From an image (C, H, W) and the deviation of its noise to the image without.
    Raises ImportError without scikit-image.
    """
    with needing("skimage", "train"):
        from skimage.restoration import denoise_nl_means

    def filtered(image: Image, sigma: float) -> Image:
        last = np.moveaxis(image, 0, -1)
        size = {"patch_size": 5, "patch_distance": 6, "channel_axis": -1}
        found = denoise_nl_means(last, sigma=sigma, h=_STRENGTH * sigma, **size)
        # It drops the axis of a single channel.
        return np.moveaxis(found.reshape(last.shape), -1, 0)

    return filtered

"""What a fit left of the data: a part of it brought back, and cleaned of noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.algorithms.non_local import denoise_non_local

__all__ = ["cleaned"]

Image = NDArray[Any]

_PARTS = (0.25, 0.5, 0.75, 1.0)


def cleaned(
    average: Image, y: Image, measured: Image, held: Image
) -> tuple[Image, float]:
    """Bring back a part of the residual, and take its noise out by low rank of patches.

    Details come with the noise, and patches that look alike tell them apart: as the
    iterations of Gu et al. (weighted nuclear norm, CVPR 2014) feed noise back.

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
    float
        The part, in [0, 1].
    """
    if not np.isfinite(average).all():
        return average, 0.0
    residual = np.where(measured, y - average, 0)
    variance = float(np.mean(residual[held] ** 2))
    known = np.where(held, 0, residual)

    def image(part: float, residual: Image) -> Image:
        sigma = part * math.sqrt(variance)
        given = (average + part * residual).astype(average.dtype)
        return denoise_non_local(given, sigma)

    best, least = 0.0, variance
    for part in _PARTS if variance else ():
        error = float(np.mean((y - image(part, known))[held] ** 2))
        if error < least:
            best, least = part, error
    return (image(best, residual) if best else average), best

"""Image quality: SNR, normalised error, PSNR and SSIM.

`snr` and `nmse` compare complex images, `psnr` and `ssim` magnitudes of complex images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdinv.unroll.arrays import to_numpy

__all__ = ["COLOUR", "SERIES", "nmse", "psnr", "snr", "ssim"]

Metric = Callable[[ArrayLike, ArrayLike], float]

# Wang et al. 2004: radius and width of the Gaussian window, and two constants.
_RADIUS, _SIGMA, _K1, _K2 = 5, 1.5, 0.01, 0.03
# Images with more elements are processed in rows; windows need 80 bytes per element.
_AT_ONCE = 2**22


def snr(truth: ArrayLike, image: ArrayLike) -> float:
    """Signal-to-noise ratio in dB, ``10 log10(|truth|**2 / |truth - image|**2)``.

    Frobenius norms of complex values in double precision, over all elements. Infinite
    for equal images, NaN with NaN. ValueError if shapes differ, or `truth` is zero.
    """
    ratio = nmse(truth, image)
    return float("inf") if ratio == 0 else -10 * float(np.log10(ratio))


def nmse(truth: ArrayLike, image: ArrayLike) -> float:
    """Normalised mean squared error, ``|truth - image|**2 / |truth|**2``.

    Real or complex. Raises ValueError if the shapes differ, or `truth` is zero.
    """
    a, b = _alike(truth, image)
    a, b = a.astype(np.complex128), b.astype(np.complex128)
    energy = float(np.sum(np.abs(a) ** 2))
    if energy == 0:
        raise ValueError("truth is zero, so its normalised error is undefined")
    return float(np.sum(np.abs(a - b) ** 2)) / energy


def psnr(
    truth: ArrayLike, image: ArrayLike, *, peak: float | str | None = None
) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels together.

    ``10 log10(peak**2 / mean((truth - image)**2))``, in double precision; equal to
    ``skimage.metrics.peak_signal_noise_ratio(truth, image, data_range=peak)``. For
    complex images the magnitudes are compared. `peak` is the largest possible value, 1
    by default, or "max" for the largest value or magnitude in all of `truth`. The PSNR
    is infinite for equal images, NaN if one contains NaN.

    Raises ValueError if the shapes differ, `peak` is neither positive nor "max", or the
    images are of integers and `peak` is not specified.
    """
    a, b, top = _pair(truth, image, peak)
    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(top**2 / error))


def ssim(
    truth: ArrayLike,
    image: ArrayLike,
    *,
    peak: float | str | None = None,
    frames: bool = False,
) -> float:
    """Mean structural similarity, averaged over channels or frames; at most 1.

    The index of Wang, Bovik, Sheikh & Simoncelli (IEEE TIP 2004): Gaussian window of
    11x11 pixels and width 1.5, K1 = 0.01, K2 = 0.03, population covariances, only
    windows inside the image. Equal to ``skimage.metrics.structural_similarity(truth,
    image, data_range=peak, channel_axis=-1, gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)``. Images are (H, W) or (H, W, channels), with `frames`
    (..., H, W), with H and W at least 11. Magnitudes and `peak` are as for `psnr`.

    Raises ValueError as `psnr`, and if an image is smaller than the window.
    """
    a, b, top = _pair(truth, image, peak)
    if frames and a.ndim >= 2:  # frames become the last axis, like channels
        a, b = (np.moveaxis(x.reshape(-1, *x.shape[-2:]), 0, -1) for x in (a, b))
    if a.ndim not in (2, 3) or min(a.shape[:2]) <= 2 * _RADIUS:
        raise ValueError(
            "ssim needs (H, W) or (H, W, channels), or else frames=True and "
            f"(..., H, W), of 11 pixels or more, got {np.shape(truth)}"
        )
    windows, step = len(a) - 2 * _RADIUS, max(1, _AT_ONCE // a[0].size)
    total, count = 0.0, 0
    for first in range(0, windows, step):
        rows = slice(first, min(first + step, windows) + 2 * _RADIUS)
        index = similarity(a[rows], b[rows], top, _window_mean)
        total, count = total + float(index.sum()), count + index.size
    return total / count


def similarity(
    a: NDArray[Any],
    b: NDArray[Any],
    top: float,
    mean: Callable[[NDArray[Any]], NDArray[Any]],
) -> NDArray[Any]:
    """Return the index of `ssim` at each pixel, with `mean` as the local mean."""
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * top) ** 2, (_K2 * top) ** 2
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )


COLOUR: Mapping[str, Metric] = {"PSNR / dB": psnr, "SSIM": ssim}
"""Metrics of colour images (H, W, 3) in [0, 1]."""

SERIES: Mapping[str, Metric] = {
    "SNR / dB": snr,
    "PSNR / dB": functools.partial(psnr, peak="max"),
    "SSIM": functools.partial(ssim, peak="max", frames=True),
}
"""Metrics of complex series (T, H, W); the peak is the maximum of the true series."""


def _alike(truth: ArrayLike, image: ArrayLike) -> tuple[NDArray, NDArray]:
    a, b = to_numpy(truth), to_numpy(image)
    if a.shape != b.shape:
        raise ValueError(f"images differ in shape: {a.shape} and {b.shape}")
    return a, b


def _pair(
    truth: ArrayLike, image: ArrayLike, peak: float | str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return images in double precision, magnitudes if one is complex, and the peak.

    Raises ValueError if shapes differ, or the peak is invalid or missing.
    """
    a, b = _alike(truth, image)
    if peak is None and any(x.dtype.kind in "iu" for x in (a, b)):
        raise ValueError("peak must be passed for images of integers, such as 255")
    if np.iscomplexobj(a) or np.iscomplexobj(b):
        a, b = np.abs(a.astype(np.complex128)), np.abs(b.astype(np.complex128))
    a, b = a.astype(np.float64), b.astype(np.float64)
    peak = 1.0 if peak is None else peak
    if isinstance(peak, str) and peak == "max":
        top = float(a.max(initial=0))
        if top == 0:
            raise ValueError('peak="max" is undefined: no value of truth is above 0')
        return a, b, top
    if isinstance(peak, str) or not peak > 0:
        raise ValueError(f'peak must be positive or "max", got {peak!r}')
    return a, b, peak


def _window_mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gaussian mean over every window inside the image."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(
            image, weights.size, axis=axis
        )
        image = windows @ weights
    return image

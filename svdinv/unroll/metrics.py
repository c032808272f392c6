"""Image quality: PSNR and SSIM of images in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["psnr", "ssim"]

# Wang et al. 2004: an 11x11 Gaussian window of width 1.5, and these two constants.
_RADIUS, _SIGMA, _K1, _K2 = 5, 1.5, 0.01, 0.03


def psnr(truth: ArrayLike, image: ArrayLike, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels together.

    ``10 log10(peak**2 / mean((truth - image)**2))``, in double precision; equal to
    ``skimage.metrics.peak_signal_noise_ratio(truth, image, data_range=peak)``.

    Parameters
    ----------
    truth, image : array_like, the same shape
        Images, in [0, `peak`].
    peak : float
        The largest value an image can take: 1 for images in [0, 1].

    Returns
    -------
    float
        Decibels; ``inf`` where the images agree exactly.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    a, b = _pair(truth, image)
    error = float(np.mean((a - b) ** 2))
    return 10 * float(np.log10(peak**2 / error)) if error > 0 else float("inf")


def ssim(truth: ArrayLike, image: ArrayLike, *, peak: float = 1.0) -> float:
    """Mean structural similarity, averaged over the channels.

    The index of Wang, Bovik, Sheikh & Simoncelli (IEEE TIP 2004): Gaussian window of
    11x11 pixels and width 1.5, K1 = 0.01, K2 = 0.03, population covariances, windows
    wholly inside the image. Equal to ``skimage.metrics.structural_similarity(truth,
    image, data_range=peak, channel_axis=-1, gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)``.

    Parameters
    ----------
    truth, image : array_like, shape (H, W) or (H, W, channels)
        Images, in [0, `peak`]; H and W at least 11.
    peak : float
        The largest value an image can take: 1 for images in [0, 1].

    Returns
    -------
    float
        At most 1, which is reached where the images agree.

    Raises
    ------
    ValueError
        If the shapes differ, or an image is smaller than the window.
    """
    a, b = _pair(truth, image)
    if a.ndim not in (2, 3) or min(a.shape[:2]) <= 2 * _RADIUS:
        raise ValueError(
            f"ssim needs (H, W) or (H, W, channels) of 11 pixels or more, got {a.shape}"
        )
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    var_a = _window_mean(a * a) - mean_a**2
    var_b = _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    index = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return float(index.mean())


def _pair(
    truth: ArrayLike, image: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(truth, dtype=np.float64), np.asarray(image, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"images differ in shape: {a.shape} and {b.shape}")
    return a, b


def _window_mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian mean over every window that lies wholly inside the image."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(
            image, weights.size, axis=axis
        )
        image = windows @ weights
    return image

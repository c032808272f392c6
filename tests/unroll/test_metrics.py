from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from svdinv.unroll.metrics import psnr, ssim

SHAPES = [(40, 37), (32, 50, 3), (11, 11)]


def _pair(rng, shape, dtype):
    truth = rng.random(shape)
    noisy = np.clip(truth + 0.1 * rng.standard_normal(shape), 0, 1)
    return truth.astype(dtype), noisy.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_is_that_of_skimage(rng, shape, dtype):
    truth, noisy = _pair(rng, shape, dtype)
    expected = peak_signal_noise_ratio(
        truth.astype(np.float64), noisy.astype(np.float64), data_range=1
    )
    assert psnr(truth, noisy) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("peak", [1.0, 255.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_is_that_of_skimage(rng, shape, peak):
    truth, noisy = (peak * image for image in _pair(rng, shape, np.float64))
    expected = structural_similarity(
        truth,
        noisy,
        data_range=peak,
        channel_axis=-1 if truth.ndim == 3 else None,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(truth, noisy, peak=peak) == pytest.approx(expected, rel=1e-10)


def test_equal_images(rng):
    image = rng.random((20, 20, 3))
    assert psnr(image, image) == math.inf
    assert ssim(image, image) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match="differ in shape"):
        metric(np.zeros((12, 12, 3)), np.zeros((12, 12)))


def test_ssim_needs_a_window():
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(np.zeros((10, 30)), np.zeros((10, 30)))

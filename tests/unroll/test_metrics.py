from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from svdinv.unroll import metrics
from svdinv.unroll.metrics import nmse, psnr, snr, ssim

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


@pytest.fixture
def series(rng):
    """A complex series of 4 frames, and one with an error; magnitudes up to about 3."""
    parts = rng.standard_normal((2, 2, 4, 20, 17))
    truth, error = parts[0] + 1j * parts[1]
    return truth.astype(np.complex64), (truth + 0.2 * error).astype(np.complex64)


def test_snr_and_nmse_by_their_definition(series):
    truth, image = series
    ratio = np.linalg.norm(truth - image) ** 2 / np.linalg.norm(truth) ** 2
    assert nmse(truth, image) == pytest.approx(ratio, rel=1e-5)
    assert snr(truth, image) == pytest.approx(-10 * np.log10(ratio), abs=1e-4)
    assert snr(truth, truth) == math.inf
    assert nmse(truth, truth) == 0
    assert snr(truth, 0 * truth) == pytest.approx(0, abs=1e-12)
    # Known in closed form: an error of a tenth is 20 dB.
    assert snr(truth, 1.1 * truth.astype(complex)) == pytest.approx(20, abs=1e-5)


def test_snr_counts_the_phase_and_psnr_does_not(series):
    truth, _ = series
    assert snr(truth, -truth) == pytest.approx(10 * np.log10(1 / 4))
    assert psnr(truth, -truth) == math.inf
    assert ssim(truth, -truth, frames=True) == pytest.approx(1)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_the_peak_of_integers_must_be_given(metric):
    truth = np.full((12, 12), 200, np.uint8)
    image = truth.astype(float) + 1
    with pytest.raises(ValueError, match="peak must be passed"):
        metric(truth, image)
    assert metric(truth, image, peak=255) > 0.9
    assert metric(truth, image, peak=1) == metric(truth * 1.0, image)


@pytest.mark.parametrize("peak", ["max", 2.5])
def test_magnitudes_of_complex_images_are_compared(series, peak):
    truth, image = (np.abs(x.astype(np.complex128)) for x in series)
    top = truth.max() if peak == "max" else peak
    expected = peak_signal_noise_ratio(truth, image, data_range=top)
    assert psnr(*series, peak=peak) == pytest.approx(expected, rel=1e-12)
    # One of the two may be real: a magnitude that has been saved.
    assert psnr(truth, series[1], peak=peak) == pytest.approx(expected, rel=1e-12)
    frames = [
        structural_similarity(
            a,
            b,
            data_range=top,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(truth, image, strict=True)
    ]
    index = ssim(*series, peak=peak, frames=True)
    assert index == pytest.approx(np.mean(frames), rel=1e-10)


def test_frames_may_have_several_axes_or_none(series):
    truth, image = series
    index = ssim(truth, image, frames=True)
    shape = (2, 2, 20, 17)
    assert ssim(
        truth.reshape(shape), image.reshape(shape), frames=True
    ) == pytest.approx(index)
    assert ssim(truth[0], image[0], frames=True) == ssim(truth[0], image[0])
    behind = (np.moveaxis(x, 0, -1) for x in series)
    assert ssim(*behind) == pytest.approx(index)


@pytest.mark.parametrize("peak", [0, -1, "min", float("nan")])
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_peak_must_make_sense(metric, peak):
    with pytest.raises(ValueError, match="peak must be positive"):
        metric(np.ones((12, 12)), np.zeros((12, 12)), peak=peak)
    for truth in (np.zeros((12, 12)), -np.ones((12, 12))):
        with pytest.raises(ValueError, match="no value of truth is above 0"):
            metric(truth, np.ones((12, 12)), peak="max")
        assert np.isnan(metric(np.nan * truth, truth, peak="max"))


def test_tensors_are_taken_as_they_are():
    """With a derivative, conjugate, and of the device."""
    torch = pytest.importorskip("torch")
    x = torch.tensor([[1 + 1j, 2.0]])
    assert snr(x.conj(), x) == snr(x.conj().resolve_conj().numpy(), x.numpy())
    assert psnr(x.real.clone().requires_grad_(), x.real) == np.inf


@pytest.mark.parametrize("metric", [snr, nmse])
def test_errors_are_relative_to_something(metric):
    with pytest.raises(ValueError, match="truth is zero"):
        metric(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="differ in shape"):
        metric(np.ones(3), np.ones((1, 3)))


@pytest.mark.parametrize("metric", [psnr, ssim, snr, nmse])
def test_a_nan_is_not_perfect(metric, rng):
    truth = rng.random((20, 20))
    image = truth.copy()
    image[10, 10] = np.nan
    assert math.isnan(metric(truth, image))


@pytest.mark.parametrize("frames", [False, True])
def test_ssim_of_large_images_goes_by_rows(rng, monkeypatch, frames):
    truth = rng.random((3, 40, 30) if frames else (40, 30, 3))
    image = truth + 0.1 * rng.standard_normal(truth.shape)
    whole = ssim(truth, image, frames=frames)
    monkeypatch.setattr(metrics, "_AT_ONCE", 700)  # seven rows
    assert ssim(truth, image, frames=frames) == pytest.approx(whole, rel=1e-12)

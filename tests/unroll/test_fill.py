"""The first estimate of an image from its samples."""

from __future__ import annotations

import numpy as np
import pytest

from svdinv.unroll.networks.fill import SCALES, normalised_fill


def bell(size, width):
    """Blur along an axis: a Gaussian cut at three widths, whose full sum is 1."""
    distance = np.arange(size)[:, None] - np.arange(size)
    radius = max(1, round(3 * width))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-((distance / width) ** 2) / 2) * (np.abs(distance) <= radius)
    return weights / np.exp(-((offsets / width) ** 2) / 2).sum()


def test_one_scale_is_a_mean_weighted_by_a_gaussian(arrays, rng):
    image, mask = rng.random((2, 9, 12)), (rng.random((2, 9, 12)) < 0.4) * 1.0
    rows, columns = bell(9, 1.5), bell(12, 1.5)
    mean = (rows @ (mask * image) @ columns) / (rows @ mask @ columns)
    filled = normalised_fill(arrays.array(mask * image), arrays.array(mask), (1.5,))
    expected = np.where(mask, image, mean)
    np.testing.assert_allclose(arrays.numpy(filled), expected, atol=1e-12)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_samples_remain_and_a_constant_image_is_found(rng, rate):
    mask = (rng.random((32, 40)) < rate) * 1.0
    image = rng.random((32, 40))
    filled = normalised_fill(mask * image, mask)
    np.testing.assert_array_equal(filled[mask > 0], image[mask > 0])
    assert filled.min() >= 0
    assert filled.max() <= 1
    np.testing.assert_allclose(normalised_fill(0.7 * mask, mask), 0.7, atol=1e-12)


def test_linear_in_the_samples(rng):
    mask = (rng.random((16, 16)) < 0.3) * 1.0
    one, two = mask * rng.random((2, 16, 16))
    found = normalised_fill(2 * one - two, mask)
    parts = 2 * normalised_fill(one, mask) - normalised_fill(two, mask)
    np.testing.assert_allclose(found, parts, atol=1e-12)


def test_without_any_sample_nearby_it_is_black():
    nothing = np.zeros((80, 5), np.float32)
    np.testing.assert_array_equal(normalised_fill(nothing, nothing), 0)
    one = nothing.copy()
    one[0, 0] = 1
    filled = normalised_fill(one, one)
    assert filled[0, 0] == 1
    assert np.isfinite(filled).all()
    assert not filled[3 * int(SCALES[0]) + 1 :].any()


def test_a_finer_scale_counts_where_there_are_samples():
    """Every other pixel is known: the fill follows a slope better than one scale."""
    mask = np.indices((24, 24)).sum(axis=0) % 2 * 1.0
    image = np.add.outer(np.arange(24.0), np.arange(24.0)) / 46
    coarse = normalised_fill(mask * image, mask, SCALES[:1])
    fine = normalised_fill(mask * image, mask)
    assert np.abs(fine - image).max() < np.abs(coarse - image).max() / 4

from __future__ import annotations

import sys

import numpy as np
import pytest
from mri_reference import fourier, inverse

from svdinv.unroll.data.masks import cartesian_mask, vista_like_mask
from svdinv.unroll.metrics import snr
from svdinv.unroll.tasks.cine.coils import estimate_maps
from svdinv.unroll.tasks.cine.phantom import heart

pytest.importorskip("sigpy")


def measure(phantom):
    """Multi-coil k-space (T, C, H, W) of a phantom."""
    return fourier(phantom.series[:, None] * phantom.maps).astype(np.complex64)


def likeness(maps, truth):
    """|<a, b>| pixel by pixel, which is 1 where they agree up to a phase."""
    return np.abs(np.sum(maps * truth.conj(), axis=0))


@pytest.fixture(scope="module")
def phantom():
    return heart(6, 80, 72, seed=1, coils=6)


@pytest.mark.parametrize("shape", [(80, 72), (65, 81)])
def test_the_maps_are_those_of_the_phantom(shape):
    phantom = heart(1, *shape, seed=1, coils=6)
    maps = estimate_maps(measure(phantom)[0])
    assert maps.shape == (6, *shape)
    assert maps.dtype == np.complex64
    body = np.abs(phantom.series[0]) > 0.1
    alike = likeness(maps, phantom.maps)[body]
    assert alike.min() > 0.97
    assert alike.mean() > 0.999


def test_conventions(phantom):
    maps = estimate_maps(measure(phantom)[0])
    np.testing.assert_allclose(np.sum(np.abs(maps) ** 2, axis=0), 1, atol=1e-5)
    assert (maps[0].imag == 0).all()
    assert (maps[0].real >= 0).all()


def test_the_combined_image_is_the_true_one(phantom):
    """Up to the phase of the first coil, which no calibration can know."""
    kspace = measure(phantom)[0]
    maps = estimate_maps(kspace)
    image = np.sum(maps.conj() * inverse(kspace), axis=0)
    first = phantom.maps[0] / np.abs(phantom.maps[0])
    truth = phantom.series[0]
    assert snr(np.abs(truth), np.abs(image)) > 60
    # The phase is as good as the first coil is sensitive.
    near = np.abs(phantom.maps[0]) > 0.1
    assert snr((truth * first)[near], image[near]) > 40
    # In any case the maps and the image explain what each coil has seen.
    seen = phantom.maps * truth
    assert snr(seen, maps * image) > 40
    # Without maps, the root of the sum of squares has no phase at all.
    assert snr(phantom.series[0], np.abs(image)) < 10


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_series_is_calibrated_by_its_average(phantom, rng, noise):
    parts = rng.standard_normal((2, *measure(phantom).shape))
    kspace = measure(phantom) + noise * (parts[0] + 1j * parts[1])
    mask = vista_like_mask((6, 80, 72), 4, rng) | cartesian_mask(
        (6, 80, 72), 6, rng, calibration=6
    )
    mask[0, 28:52] = True
    maps = estimate_maps(kspace * mask[:, None], mask=mask, calibration=20)
    body = np.abs(phantom.series).min(axis=0) > 0.15
    alike = likeness(maps, phantom.maps)[body]
    assert np.quantile(alike, 0.01) > 0.97
    # The average is that of what is sampled: zeros of all coils are not.
    alone = estimate_maps(kspace * mask[:, None], calibration=20)
    np.testing.assert_allclose(alone, maps, atol=1e-6)
    everything = np.ones_like(mask)
    dull = estimate_maps(kspace * mask[:, None], mask=everything, calibration=20)
    assert alike.mean() > likeness(dull, phantom.maps)[body].mean()


def test_maps_are_cropped_where_there_is_no_signal(phantom):
    maps = estimate_maps(measure(phantom)[0], crop=0.95)
    energy = np.sum(np.abs(maps) ** 2, axis=0)
    assert set(np.round(np.unique(energy), 4)) == {0, 1}
    body = np.abs(phantom.series[0]) > 0.2
    assert energy[body].mean() > 0.98
    assert energy[:4, :4].mean() < 0.5


def test_scale_does_not_matter(phantom):
    kspace = measure(phantom)[0]
    np.testing.assert_allclose(
        estimate_maps(kspace), estimate_maps(1e-9 * kspace), atol=1e-3
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kspace": np.ones((8, 8))}, r"\(C, H, W\)"),
        ({"kspace": np.full((2, 8, 8), np.nan)}, "finite"),
        ({"kspace": np.zeros((2, 8, 8))}, "zero"),
        ({"calibration": 9}, "calibration must be 1 to 8"),
        ({"kernel": 7}, "kernel must be 1 to 6"),
        ({"threshold": 0}, "threshold"),
        ({"crop": 1}, "crop"),
        ({"mask": np.ones((3, 8, 8))}, "mask must have the shape"),
        ({"mask": np.eye(8)}, "30 of the 6x6 points"),
    ],
)
def test_arguments_are_checked(change, message):
    arguments = {"kspace": np.ones((2, 8, 8)), "calibration": 6, "kernel": 3, **change}
    with pytest.raises(ValueError, match=message):
        estimate_maps(arguments.pop("kspace"), **arguments)


def test_a_missing_sigpy_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("sigpy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sigpy", None)
    with pytest.raises(ImportError, match=r"needs sigpy.*\[mri\]"):
        estimate_maps(np.ones((2, 8, 8)), calibration=6)

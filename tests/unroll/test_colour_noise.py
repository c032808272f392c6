"""Noise in the training of colour."""

import numpy as np
import pytest

from svdinv.unroll.tasks.colour.task import Colour, Photographs


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.random((40, 40, 3)).astype(np.float32)]


def test_patches_have_noise_and_some_are_complete(images):
    def source(**options):
        return Photographs(Colour(patch=16, **options), images, {})

    plain = source().batch(0, 1, range(40))
    assert np.array_equal(plain.y, np.where(plain.A.mask, plain.truth, 0))
    made = source(noisy=0.5, complete=0.5, noises=(0.1, 0.2)).batch(0, 1, range(40))
    assert not made.y[~made.A.mask].any()
    rest = np.where(made.A.mask, made.y - made.truth, np.nan)
    found = np.sqrt(np.nanmean(rest**2, axis=(1, 2, 3)))
    noisy = found > 0
    assert 10 <= noisy.sum() <= 30
    assert (found[noisy] > 0.08).all()
    assert (found[noisy] < 0.22).all()
    complete = made.A.mask.all(axis=(1, 2, 3))
    assert 4 <= complete.sum() <= 20
    assert (noisy | ~complete).all()


def test_a_denoiser_is_validated_with_noise(images):
    task = Colour(noisy=1.0, complete=1.0, noises=(0.05, 0.1))
    cases = Photographs(task, images, {"one": images[0]}).validation()
    levels = [float(np.std(case.y - case.truth)) for case in cases]
    assert levels == pytest.approx([0.05, 0.1], rel=0.1)
    assert all(case.A.mask.all() for case in cases)


def test_wrong_noises_are_refused():
    with pytest.raises(ValueError, match="noises must be two ascending"):
        Colour(noises=(0.2, 0.1))

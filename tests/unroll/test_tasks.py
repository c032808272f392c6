from __future__ import annotations

import weakref
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image
from small_trainings import batch_of, cine, measurement_of, pictures

from svdinv.unroll.data import TEST, photograph, read_picture
from svdinv.unroll.data.pictures import fingerprint, shrunk, training_photographs
from svdinv.unroll.metrics import psnr
from svdinv.unroll.operators import MRI, Identity
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.kspace import MASKS, PATTERNS, sampling
from svdinv.unroll.tasks.cine.task import Cine
from svdinv.unroll.tasks.cine.training import moving_photograph, phantom_series, warped
from svdinv.unroll.tasks.colour.task import (
    Colour,
    Photographs,
    channels_first,
    channels_last,
    parted,
)
from svdinv.unroll.tasks.tomography.ct import Ct
from svdinv.unroll.tasks.tomography.pet import Pet

FEW = (*TEST, "retina", "hubble_deep_field", "motorcycle_right")


def flat(folder, levels, size=40):
    """Pictures of one grey each, to tell them by."""
    folder.mkdir()
    for level in levels:
        pixels = np.full((size, size, 3), level, np.uint8)
        Image.fromarray(pixels).save(folder / f"{level:03}.png")
    return folder


def greys(source, steps=40):
    """Levels that are seen in training."""
    seen = [source.batch(0, step, range(4)).truth for step in range(steps)]
    return {round(255 * float(x)) for x in np.unique(np.stack(seen))}


def same(one, other):
    given = measurement_of(one), measurement_of(other)
    return (
        np.array_equal(one.y, other.y)
        and np.array_equal(one.truth, other.truth)
        and len(given[0]) == len(given[1])
        and all(map(np.array_equal, *given))
    )


def item(batch, i):
    given = tuple(x[i : i + 1] for x in measurement_of(batch))
    return batch_of(batch.y[i : i + 1], given, batch.truth[i : i + 1])


@pytest.mark.parametrize("task", [Cine, Colour, Ct, Pet])
def test_one_value_is_refused_where_a_task_takes_several(task):
    names = [f.name for f in fields(task) if isinstance(f.default, tuple)]
    assert names
    for name in names:
        with pytest.raises(TypeError, match=f"{name} must be a tuple, got 90.0"):
            task(**{name: 90.0})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = pictures(tmp_path_factory.mktemp("data") / "pictures")
    return Colour(photographs=(str(folder),), patch=16, validation=2, held_out=FEW)


def test_every_item_depends_on_seed_step_and_place_alone(photographs):
    """So whoever draws it, and whatever was drawn before, it is the same."""
    for source in (photographs.load(), cine(coils=(0, 2)).task.load()):
        whole = source.batch(3, 5, range(4))
        for i in (2, 0):
            assert same(source.batch(3, 5, range(i, i + 1)), item(whole, i))
        assert same(source.batch(3, 5, range(4)), whole)
        assert not same(source.batch(3, 6, range(4)), whole)
        assert not same(source.batch(4, 5, range(4)), whole)
        assert not np.array_equal(whole.truth[0], whole.truth[1])


# Photographs


def test_patches_and_their_samples(photographs):
    batch = photographs.load().batch(0, 1, range(64))
    mask = batch.A.mask
    assert batch.truth.shape == batch.y.shape == mask.shape == (64, 3, 16, 16)
    assert (batch.truth.dtype, batch.y.dtype) == (np.float32, np.float32)
    assert mask.dtype == bool
    np.testing.assert_array_equal(batch.y, np.where(mask, batch.truth, 0))
    rates = mask.mean((1, 2, 3))
    low, high = photographs.rates
    assert low - 0.01 < rates.min() < 2 * low
    assert high / 1.5 < rates.max() < high + 0.01
    # As many in the lower half of the decibels as in the upper.
    assert abs((rates < np.sqrt(low * high)).mean() - 0.5) < 0.2


def test_validation_is_the_same_every_time_and_spans_the_rates(photographs):
    source = photographs.load()
    cases = source.validation()
    assert [c.setting for c in cases] == ["rate 0.04", "rate 0.141421", "rate 0.5"] * 2
    for one, other in zip(cases, source.validation(), strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.y, other.y)
        np.testing.assert_array_equal(one.A.mask, other.A.mask)
    samples, mask = cases[0].single().y, cases[0].A.mask[None]
    assert samples.shape == mask.shape == (1, *cases[0].truth.shape)
    one_rate = replace(photographs, rates=(0.3, 0.3)).load().validation()
    assert [c.setting for c in one_rate] == ["rate 0.3"] * 2


def test_what_validates_is_not_trained_on(tmp_path):
    folder = flat(tmp_path / "a", range(10, 250, 40))
    task = Colour(photographs=(str(folder),), patch=16, validation=2, held_out=FEW)
    source = task.load()
    aside = {round(255 * float(image[0, 0, 0])) for image in source.aside.values()}
    assert len(aside) == 2
    assert greys(source) == set(range(10, 250, 40)) - aside
    # Spread over the names, not neighbours.
    assert set(source.aside) == {"050", "170"}


@pytest.mark.parametrize("count", [1, 2])
def test_few_photographs_give_a_quarter_of_each(tmp_path, count):
    """The left three quarters are dark, the right one is bright."""
    folder = tmp_path / "a"
    folder.mkdir()
    for i in range(count):
        pixels = np.full((40, 80, 3), 50 + i, np.uint8)
        pixels[:, 60:] = 200 + i
        Image.fromarray(pixels).save(folder / f"{i}.png")
    task = Colour(photographs=(str(folder),), patch=16, validation=2, held_out=FEW)
    source = task.load()
    assert greys(source) == {50 + i for i in range(count)}
    assert list(source.aside) == [f"part of {i}" for i in range(count)]
    for i, image in enumerate(source.aside.values()):
        assert image.shape == (40, 20, 3)
        np.testing.assert_allclose(image, (200 + i) / 255, rtol=1e-6)
    assert {c.name for c in source.validation()} == set(source.aside)


@pytest.mark.parametrize(
    ("shape", "rest", "part"),
    [
        ((40, 100), (40, 75), (40, 25)),
        ((100, 40), (75, 40), (25, 40)),
        ((40, 40), (40, 24), (40, 16)),
        ((32, 20), (16, 20), (16, 20)),
    ],
)
def test_parts_are_at_least_a_patch_and_share_nothing(shape, rest, part):
    image = np.arange(shape[0] * shape[1] * 3, dtype=np.float32).reshape(*shape, 3)
    one, other = parted(image, 16, "a")
    assert (one.shape[:2], other.shape[:2]) == (rest, part)
    axis = int(rest[0] == shape[0])
    np.testing.assert_array_equal(np.concatenate([one, other], axis), image)
    with pytest.raises(ValueError, match="too small to be cut in two"):
        parted(image[:31, :31], 16, "a")


def test_built_in_photographs_are_enough():
    """Those held out, and another view of one of them, are not trained on."""
    source = Colour().load()
    names = ["hubble_deep_field", "retina"]
    assert list(source.aside) == [f"part of {name}" for name in names]
    assert len(source.training) == 2
    for name, rest in zip(names, source.training, strict=True):
        image = shrunk(photograph(name), 1024)
        other = source.aside[f"part of {name}"]
        axis = 0 if rest.shape[1] == image.shape[1] else 1
        np.testing.assert_array_equal(np.concatenate([rest, other], axis), image)


def test_pictures_of_one_name_are_all_taken_and_none_twice(tmp_path):
    one, two = flat(tmp_path / "a", [10, 20]), flat(tmp_path / "b", [10, 20, 30])
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(two / "010.png")
    places = (one, two, one, two / "030.png")
    task = Colour(
        photographs=tuple(map(str, places)), patch=16, validation=1, held_out=FEW
    )
    source = task.load()
    (aside,) = source.aside.values()
    levels = sorted(
        round(255 * float(image[0, 0, 0])) for image in [*source.training, aside]
    )
    assert levels == [10, 20, 20, 30, 99]


def test_of_large_pictures_one_is_held_at_a_time(tmp_path, monkeypatch):
    folder = flat(tmp_path / "a", [10, 20, 30], size=80)
    held = []

    def watched(file, largest):
        assert not [image for image in held if image() is not None]
        image = read_picture(file, largest=largest)
        held.append(weakref.ref(image))
        return image

    monkeypatch.setattr("svdinv.unroll.data.pictures.read_picture", watched)
    images = training_photographs([str(folder)], FEW, 40)
    assert [image.shape for image in images.values()] == [(40, 40, 3)] * 3
    assert len(held) == 3


def test_pictures_are_told_apart_by_name_and_content(tmp_path):
    folder = flat(tmp_path / "a", [10, 20])
    first = fingerprint([str(folder)])
    assert fingerprint([str(folder), str(folder / "010.png")]) == first
    assert fingerprint([str(flat(tmp_path / "b", [10, 20]))]) == first
    (folder / "020.png").rename(folder / "021.png")
    second = fingerprint([str(folder)])
    (folder / "021.png").write_bytes((folder / "010.png").read_bytes())
    assert len({first, second, fingerprint([str(folder)])}) == 3


def test_photographs_that_cannot_be_had_are_named(tmp_path):
    def loaded(*places, **options):
        return Colour(photographs=tuple(map(str, places)), **options).load()

    with pytest.raises(ValueError, match=r"task\.photographs: there is no .*/nowhere"):
        loaded("nowhere")
    with pytest.raises(ValueError, match="no picture in"):
        loaded(tmp_path)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"x\.png as a picture"):
        loaded(tmp_path)
    small = flat(tmp_path / "small", [7], size=32)
    with pytest.raises(
        ValueError, match="007 is smaller than a patch of 64: it has 32x32"
    ):
        loaded(small)
    with pytest.raises(ValueError, match="too small to be cut in two"):
        loaded(small, held_out=FEW, patch=32)
    with pytest.raises(ValueError, match="all are held out"):
        loaded(held_out=FEW)


def test_large_pictures_are_means_of_squares():
    image = np.random.default_rng(0).random((50, 101, 3), dtype=np.float32)
    assert shrunk(image, 101) is image
    small = shrunk(image, 40)
    assert small.shape == (16, 33, 3)
    np.testing.assert_allclose(small[2, 5], image[6:9, 15:18].mean((0, 1)), rtol=1e-6)


def test_channels():
    image = np.random.default_rng(0).random((5, 6, 3), dtype=np.float32)
    first = channels_first(image)
    assert first.shape == (3, 5, 6)
    np.testing.assert_array_equal(channels_last(first), image)


def test_decibels_are_those_of_images_that_can_be_shown():
    truth = np.full((3, 4, 4), 0.5, np.float32)
    image = truth.copy()
    image[0] = 7
    assert Colour().decibels(Problem(truth, Identity(), truth=truth), image) == psnr(
        truth, np.minimum(image, 1)
    )
    series = np.full((2, 4, 4), 2j)
    assert Cine().decibels(
        Problem(series, Identity(), truth=series), 0.9 * series
    ) == pytest.approx(20)


# Series


@pytest.mark.parametrize("coils", [0, 3])
def test_series_and_their_kspace(coils):
    task = cine(coils=(coils,), frames=5).task
    batch = task.load().batch(0, 1, range(2))
    mask, *maps = measurement_of(batch)
    frames = batch.truth.shape[1]
    assert 4 <= frames <= 5  # a third may be left out
    assert batch.truth.shape == mask.shape == (2, frames, 32, 32)
    assert (batch.truth.dtype, mask.dtype) == (np.complex64, bool)
    assert np.abs(batch.truth).max() == pytest.approx(1, rel=1e-5)
    assert [x.shape for x in maps] == ([(2, coils, 32, 32)] if coils else [])
    shape = (2, frames, coils, 32, 32) if coils else (2, frames, 32, 32)
    assert (batch.y.shape, batch.y.dtype) == (shape, np.complex64)
    for i in range(2):
        A = MRI(mask[i], *(x[i] for x in maps))
        np.testing.assert_allclose(A(batch.truth[i]), batch.y[i], atol=1e-5)


def test_series_of_photographs_change_in_every_way():
    """Tissue and motion: what low rank explains well, and what it explains badly."""
    photo = photograph("chelsea")
    tails = []
    for i in range(40):
        series = moving_photograph(photo, 8, 32, np.random.default_rng((0, i)))
        assert (series.shape, series.dtype) == ((8, 32, 32), np.complex64)
        assert np.abs(series).max() == pytest.approx(1, rel=1e-5)
        again = moving_photograph(photo, 8, 32, np.random.default_rng((0, i)))
        np.testing.assert_array_equal(series, again)
        energy = np.linalg.svd(series.reshape(8, -1), compute_uv=False) ** 2
        tails.append(energy[2:].sum() / energy.sum())
    assert min(tails) < 1e-3
    assert max(tails) > 2e-2


def test_warping_moves_each_frame_by_its_share():
    series = np.random.default_rng(0).random((3, 9, 8))
    down = np.stack([np.full((9, 8), 2.0), np.zeros((9, 8))])
    moved = warped(series, np.array([0, 1, 0.5]), down)
    np.testing.assert_allclose(moved[0], series[0], atol=1e-12)
    np.testing.assert_allclose(moved[1, 2:], series[1, :-2], atol=1e-12)
    np.testing.assert_allclose(moved[2, 1:], series[2, :-1], atol=1e-12)
    ramp = np.tile(np.arange(8.0), (1, 9, 1))
    left = np.stack([np.zeros((9, 8)), np.full((9, 8), -0.25)])
    inside = warped(ramp, np.ones(1), left)[0, :, 3:5]
    np.testing.assert_allclose(inside, ramp[0, :, 3:5] + 0.25, atol=0.02)


def test_noise_is_at_most_what_was_said():
    quiet, loud = (cine(noise=noise, coils=(0,)).task.load() for noise in (0.0, 0.2))
    for step in range(1, 6):
        one, other = (source.batch(0, step, range(2)) for source in (quiet, loud))
        np.testing.assert_array_equal(one.truth, other.truth)
        np.testing.assert_array_equal(one.A.mask, other.A.mask)
        sampled = one.A.mask
        deviation = np.std((other.y - one.y)[sampled])
        assert 0 < deviation < 0.22


def test_all_masks_and_numbers_of_coils_come_up():
    source = cine(coils=(0, 2)).task.load()
    batches = [source.batch(0, step, range(1)) for step in range(30)]
    assert {len(measurement_of(batch)) for batch in batches} == {1, 2}
    lines = [batch.A.mask for batch in batches]
    whole = [(mask.all(-1) | ~mask.any(-1)).all() for mask in lines]
    assert 0 < sum(whole) < len(whole)  # lines of phase encoding, and others


@pytest.mark.parametrize("name", list(MASKS))
@pytest.mark.parametrize("size", [32, 48])
def test_masks_by_name(name, size):
    mask = sampling(name, (4, size, size), np.random.default_rng(0))
    assert (mask.shape, mask.dtype) == ((4, size, size), bool)
    if name != "vista":  # whose frames share no line
        assert mask[:, size // 2, size // 2].all()
    assert not np.array_equal(mask[0], mask[1])
    rate = mask.mean()
    assert rate < 0.5 if name == "radial" else abs(rate - 1 / 8) < 0.04


@pytest.mark.parametrize("mask", PATTERNS)
def test_masks_of_series_are_marked_for_one_frame(mask):
    task = Cine()
    options = task.options(mask=mask, frames=1, size=32)
    problem = task.measure(task.read("cine", options), options)
    marked = problem.setting == f"{mask} (made for several frames)"
    assert marked == (mask in ("vista", "equispaced"))


def test_validation_goes_through_the_masks_with_series_of_its_own():
    task = Cine(series=2, frames=4, size=32, validation=4)
    cases = task.load().validation()
    assert [c.setting for c in cases] == [*MASKS, "radial"]
    trained = [phantom_series(i, 4, 32) for i in range(2)]
    for one in cases:
        assert one.truth.shape == (4, 32, 32)
        assert not any(np.allclose(one.truth, series) for series in trained)
        A = MRI(one.A.mask)
        np.testing.assert_allclose(A(one.truth), one.y, atol=1e-5)


# Noise in the training of colour


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
